//! What the package is tried in: a root directory with a fresh Debian.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use link_watcher_programs::MMDEBSTRAP;

use crate::privilege::Privilege;
use crate::project::Project;
use crate::{dist, exec};

/// Beyond what is essential: what reads manual pages, and what gives a namespace its interfaces.
const PACKAGES: &str = "--include=man-db,iproute2";

/// A root directory with this machine's release of Debian; made once, half a minute, 300 MB.
///
/// # Errors
///
/// Where this is no Debian, or its packages cannot be fetched.
pub(crate) fn root(project: &Project, privilege: Privilege) -> Result<PathBuf> {
    let release = release().context("/etc/os-release names no VERSION_CODENAME of Debian")?;
    let directory = project.tools().join(format!("root-{release}"));
    if directory.exists() {
        return Ok(directory);
    }
    dist::available(MMDEBSTRAP, "trying the package in a clean root")?;
    let path = MMDEBSTRAP.path().context("mmdebstrap was just installed, and is not there")?;
    let draft = directory.with_extension("new");
    exec::run(privilege.command("rm").arg("-rf").arg(&draft), "is that file system read-only?")?;
    let mut command = privilege.command(path);
    command.args(["--variant=essential", PACKAGES, &release]).arg(&draft);
    exec::run(&mut command, "mmdebstrap's message above says why; it needs a mirror of Debian")?;
    exec::run(privilege.command("mv").arg(&draft).arg(&directory), "is the disk full?")?;
    Ok(directory)
}

fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    (field("ID=")? == "debian").then(|| field("VERSION_CODENAME=").map(str::to_owned))?
}
