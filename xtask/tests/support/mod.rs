//! What the trials of the package have in common.
#![allow(dead_code, unreachable_pub, reason = "each trial uses its part")]

pub mod machine;
pub mod mail;
pub mod site;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

/// What `cargo xtask test` says of where things are.
pub fn given(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run this by `cargo xtask test`")).into()
}

/// Mounts a root directory whose content is that of `base`, which is only read: what is written goes to memory. In the
/// calling thread's mount namespace, below `memory`, an empty directory.
pub fn overlay(base: &Path, memory: &Path) -> io::Result<PathBuf> {
    mount(Some("tmpfs"), memory, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| memory.join(name));
    for directory in [&upper, &work, &root] {
        fs::create_dir(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", base.display(), upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(root)
}
