//! The socket's file: whose it is, and that one which a dead daemon left behind is in nobody's way.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error(
        "another daemon answers on {}: stop it, or give this one a `control-socket` and an `instance` of its own",
        .0.display()
    )]
    Live(PathBuf),
    /// Something else is in its place.
    #[error("{} exists and is not a socket: remove it, or choose another `control-socket`", .0.display())]
    NotSocket(PathBuf),
    /// The file system's error.
    #[error("cannot open the control socket {}: {error}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    pub(super) inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only while it is ours: a successor may have put its own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |error: io::Error| BindError::Io { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotSocket(path.to_owned())),
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    match socket.connect(&SockAddr::unix(path).map_err(failed)?) {
        // A full backlog is somebody's backlog.
        Ok(()) => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}
