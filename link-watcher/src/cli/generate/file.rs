//! Writes a file that is generated: whole or not at all, and never over another that nobody gave up.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::cli::{Exit, Failure};

/// Mode of a file that everybody may read.
pub(super) const PUBLIC: u32 = 0o644;
/// Mode of a file with a secret.
pub(super) const SECRET: u32 = 0o600;
/// Mode of directories that are missing: what is in them is refused where others can change it.
const DIRECTORY: u32 = 0o755;

/// Writes a file of this mode, less the umask, and the directories that are missing on its way. With `force` it replaces
/// what is there.
pub(super) fn put(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), Failure> {
    directories(path).and_then(|()| if force { replace(path, text, mode) } else { create(path, text, mode) }).map_err(
        |error| {
            let path = path.display();
            let message = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("{path} exists already and is left as it is; name another file, or replace it with --force")
                }
                io::ErrorKind::PermissionDenied => {
                    format!("cannot write {path}: permission denied; run this with sudo")
                }
                io::ErrorKind::NotADirectory => format!("cannot write {path}: a part of its path is a file"),
                _ => format!("cannot write {path}: {error}"),
            };
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            Failure::new(if denied { Exit::Privilege } else { Exit::Failed }, format!("link-watcher: {message}"))
        },
    )
}

fn directories(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => {
            DirBuilder::new().recursive(true).mode(DIRECTORY).create(parent)
        }
        _ => Ok(()),
    }
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a file is worth nothing; what went wrong first is what matters.
        let _ = fs::remove_file(path);
    }
    written
}

/// Whoever reads it meanwhile has the old one or the new one.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::IsADirectory.into()) };
    let mut draft = name.to_owned();
    draft.push(".new");
    let draft = path.with_file_name(draft);
    // Of a run that did not end.
    let _ = fs::remove_file(&draft);
    create(&draft, text, mode)?;
    fs::rename(&draft, path).inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}
