//! What lies in the BPF file system: the maps under their names and, for each interface, the link that keeps our
//! program there, so that it goes on answering while the daemon restarts.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use super::{Error, Hook, sys};
use crate::trust;

/// Where the BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// The map of keys, while a second program is loaded that shares it: nobody but root comes into the directory.
pub(super) const PINNED_FOR_A_MOMENT: &str = "KEYS-for-a-moment";
/// Beginnings of the names of pinned links; the interface index follows.
const LINK_PREFIXES: [(Hook, &str); 2] = [(Hook::Xdp, "xdp-"), (Hook::Tc, "tc-")];

/// One daemon's directory in the BPF file system.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    /// Names of the maps pinned there.
    maps: Vec<&'static str>,
}

/// A link in the BPF file system.
#[derive(Debug)]
pub(super) struct PinnedLink {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for PinnedLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PinnedLink {
    /// Detaches the program and takes the name away.
    pub(super) fn detach(self) -> Result<(), Error> {
        // Fails where the interface is gone: then it is detached already.
        let _ = sys::detach(self.fd.as_fd());
        self.forget()
    }

    /// Takes the name away, and detaches nothing as long as somebody else holds the link.
    pub(super) fn forget(self) -> Result<(), Error> {
        remove(&self.path)
    }
}

impl Pins {
    /// Makes the directory, and mounts the file system below it where it is missing.
    ///
    /// # Errors
    ///
    /// If either is not possible.
    pub(super) fn create(directory: &Path) -> Result<Self, Error> {
        if directory.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) {
            let none = None::<&str>;
            nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), none)
                .map_err(|errno| Error::Mount(errno.into()))?;
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::Pin { path: directory.into(), source })?;
        if !is_bpffs(directory) {
            return Err(Error::NotBpffs(directory.into()));
        }
        // Where everybody may write, somebody may have been here first: he could take our pins away.
        trust::check(directory)?;
        remove(&directory.join(PINNED_FOR_A_MOMENT))?;
        Ok(Self { directory: directory.into(), maps: Vec::new() })
    }

    /// Where they are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Pins a map in place of an older one of that name, at one instant.
    pub(super) fn map(&mut self, name: &'static str, map: &aya::maps::Map) -> Result<(), Error> {
        let path = self.directory.join(name);
        // Names with dots are not allowed there.
        let new = self.directory.join(format!("{name}-new"));
        let pin = || {
            remove_if_there(&new)?;
            map.pin(&new).map_err(io::Error::other)?;
            fs::rename(&new, &path)
        };
        pin().map_err(|source| Error::Pin { path: path.clone(), source })?;
        self.maps.push(name);
        Ok(())
    }

    /// Pins a link, in place of an older one.
    pub(super) fn link(&self, hook: Hook, ifindex: u32, fd: OwnedFd) -> Result<PinnedLink, Error> {
        let path = self.link_path(hook, ifindex);
        remove_if_there(&path)
            .and_then(|()| sys::pin(fd.as_fd(), &path))
            .map_err(|source| Error::Pin { path: path.clone(), source })?;
        Ok(PinnedLink { fd, path })
    }

    /// The links that are pinned, by hook and interface index. One that cannot be opened is left out.
    pub(super) fn links(&self) -> BTreeMap<(Hook, u32), PinnedLink> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return BTreeMap::new() };
        let parse = |name: &str| {
            LINK_PREFIXES.iter().find_map(|(hook, prefix)| Some((*hook, name.strip_prefix(prefix)?.parse().ok()?)))
        };
        entries
            .flatten()
            .filter_map(|entry| {
                let place = parse(entry.file_name().to_str()?)?;
                Some((place, PinnedLink { fd: sys::open(&entry.path()).ok()?, path: entry.path() }))
            })
            .collect()
    }

    /// Takes away the names of the maps, and the directory if nothing else is in it.
    pub(super) fn remove(&self) -> Result<(), Error> {
        for name in &self.maps {
            remove(&self.directory.join(name))?;
        }
        // Others may have put something there; then it stays.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }

    fn link_path(&self, hook: Hook, ifindex: u32) -> PathBuf {
        let prefix = LINK_PREFIXES.iter().find(|(other, _)| *other == hook).map_or("", |(_, prefix)| prefix);
        self.directory.join(format!("{prefix}{ifindex}"))
    }
}

/// Detaches the programs whose links are pinned in a directory, and takes every name in it away. Gives how many names there
/// were; with `look_only` nothing is changed.
///
/// # Errors
///
/// If a name cannot be taken away.
pub(super) fn clear(directory: &Path, look_only: bool) -> Result<usize, Error> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(0) };
    let files: Vec<PathBuf> = entries
        .flatten()
        // Directories are other instances'.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .collect();
    if !look_only {
        for (_, link) in (Pins { directory: directory.into(), maps: Vec::new() }).links() {
            link.detach()?;
        }
        files.iter().try_for_each(|path| remove(path))?;
        // Others may have put something there; then it stays.
        let _ = fs::remove_dir(directory);
    }
    Ok(files.len())
}

/// Takes a name away, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    remove_if_there(path).map_err(|source| Error::Pin { path: path.into(), source })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|statfs| statfs.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}
