//! Whether others than root and us can change what a path leads to.
//!
//! A file that only its owner can write is worth nothing in a directory where others can put another in its place. So
//! every directory and every symbolic link on the way is looked at, as `sshd` does with its `StrictModes`.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Most symbolic links on one way, as the kernel has it (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;
/// Who may write besides the owner.
const OTHERS_WRITE: u32 = 0o022;
/// In such a directory only its owner removes an entry.
const STICKY: u32 = 0o1000;

/// What others can change on the way to a file, or the file itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Its mode lets others write.
    #[error("others can change it: {what} {} has mode {mode:04o}", path.display())]
    Mode {
        /// "directory" or "file".
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("user {owner} can change it: {what} {} belongs to that user", path.display())]
    Owner {
        /// "directory", "symbolic link" or "file".
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// User id.
        owner: u32,
    },
}

impl Untrusted {
    /// What to type.
    pub fn remedy(&self) -> String {
        match self {
            Self::Mode { path, .. } => format!("chmod go-w {}", path.display()),
            Self::Owner { path, .. } => format!("chown -h root {}", path.display()),
        }
    }
}

/// Looks at every directory and symbolic link on the way to a file, and at the file. What does not exist is no fault
/// here: whoever opens it says so better.
///
/// # Errors
///
/// The first thing on the way that others than root and us can change.
pub fn check(path: &Path) -> Result<(), Untrusted> {
    let Ok(absolute) = std::path::absolute(path) else { return Ok(()) };
    let us = rustix::process::geteuid().as_raw();
    walk(&absolute, &|owner| owner == 0 || owner == us)
}

fn walk(path: &Path, trusted: &dyn Fn(u32) -> bool) -> Result<(), Untrusted> {
    let mut pending = components(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    if let Ok(root) = fs::symlink_metadata(&at) {
        judge(&at, &root, trusted)?;
    }
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            // Its directories were looked at on the way down.
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let Ok(metadata) = fs::symlink_metadata(&next) else { return Ok(()) };
        judge(&next, &metadata, trusted)?;
        if !metadata.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        let Ok(target) = fs::read_link(&next) else { return Ok(()) };
        if links > MAX_SYMLINKS {
            return Ok(());
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for name in components(&target).into_iter().rev() {
            pending.push_front(name);
        }
    }
    Ok(())
}

/// What a path names one after the other; `..` stays, because after a symbolic link it means another directory.
fn components(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().filter_map(name).collect()
}

fn judge(path: &Path, metadata: &fs::Metadata, trusted: &dyn Fn(u32) -> bool) -> Result<(), Untrusted> {
    let what = match metadata {
        found if found.is_dir() => "directory",
        found if found.is_symlink() => "symbolic link",
        _ => "file",
    };
    if !trusted(metadata.uid()) {
        return Err(Untrusted::Owner { what, path: path.to_owned(), owner: metadata.uid() });
    }
    let mode = metadata.mode() & 0o7777;
    let sticky = metadata.is_dir() && mode & STICKY != 0;
    // A symbolic link's mode means nothing (symlink(7)).
    if mode & OTHERS_WRITE != 0 && !sticky && !metadata.is_symlink() {
        return Err(Untrusted::Mode { what, path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_is_named_wherever_it_stands() {
        let desk = tempfile::tempdir().unwrap();
        let open = desk.path().join("open");
        fs::create_dir_all(open.join("inner")).unwrap();
        let file = open.join("inner/file");
        fs::write(&file, "").unwrap();
        mode(&file, 0o600);
        mode(&open.join("inner"), 0o755);
        mode(&open, 0o755);
        assert_eq!(check(&file), Ok(()));
        mode(&open, 0o777);
        let refused = check(&file).unwrap_err();
        assert_eq!(refused, Untrusted::Mode { what: "directory", path: open.clone(), mode: 0o777 });
        assert_eq!(refused.remedy(), format!("chmod go-w {}", open.display()));
        // Nobody else can remove what is ours there.
        mode(&open, 0o1777);
        assert_eq!(check(&file), Ok(()));
    }

    #[test]
    fn a_symbolic_link_is_followed_through_all_it_leads_through() {
        let desk = tempfile::tempdir().unwrap();
        let (good, open) = (desk.path().join("good"), desk.path().join("open"));
        for directory in [&good, &open] {
            fs::create_dir(directory).unwrap();
            mode(directory, 0o755);
        }
        let file = good.join("file");
        fs::write(&file, "").unwrap();
        mode(&file, 0o600);
        symlink("../good/file", open.join("there")).unwrap();
        symlink("../open/there", good.join("link")).unwrap();
        assert_eq!(check(&good.join("link")), Ok(()));
        mode(&open, 0o775);
        assert!(matches!(check(&good.join("link")), Err(Untrusted::Mode { path, .. }) if path == open));
    }

    #[test]
    fn somebody_elses_is_refused() {
        let desk = tempfile::tempdir().unwrap();
        let refused = walk(desk.path(), &|_| false).unwrap_err();
        assert_eq!(refused.to_string(), "user 0 can change it: directory / belongs to that user");
    }
}
