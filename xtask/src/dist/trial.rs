//! What the package is tried in: root directories with a fresh Debian.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use link_watcher_programs::MMDEBSTRAP;

use crate::privilege::Privilege;
use crate::project::Project;
use crate::{dist, exec};

/// A root directory, beyond what is essential.
pub(crate) struct Root {
    name: &'static str,
    packages: &'static str,
}

/// A machine that has just been installed: it boots, installs packages, reads manual pages, routes, and asks web servers.
pub(crate) const CLEAN: Root =
    Root { name: "root", packages: "apt,curl,dbus,iproute2,man-db,nftables,procps,systemd-sysv" };

/// Servers that others wrote, to which the daemon talks.
pub(crate) const SERVERS: Root =
    Root { name: "servers", packages: "curl,exim4-daemon-light,openssl,prometheus,prometheus-alertmanager" };

/// Where the unified hierarchy of control groups is, alone or beside older ones.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The directory of a root with this machine's release of Debian; made once, a minute or two, 250 to 550 MB.
///
/// # Errors
///
/// Where this is no Debian, or its packages cannot be fetched.
pub(crate) fn root(project: &Project, privilege: Privilege, root: &Root) -> Result<PathBuf> {
    let release = release().context("/etc/os-release names no VERSION_CODENAME of Debian")?;
    let directory = project.tools().join(format!("{}-{release}", root.name));
    // Written last: what is in the root.
    let made = directory.with_extension("packages");
    if directory.exists() && fs::read_to_string(&made).is_ok_and(|packages| packages == root.packages) {
        return Ok(directory);
    }
    dist::available(MMDEBSTRAP, "trying the package in a clean root")?;
    let path = MMDEBSTRAP.path().context("mmdebstrap was just installed, and is not there")?;
    let draft = directory.with_extension("new");
    exec::run(privilege.command("rm").arg("-rf").args([&draft, &directory]), "is that file system read-only?")?;
    let mut command = privilege.command(path);
    command.args(["--variant=essential", &format!("--include={}", root.packages), &release]).arg(&draft);
    exec::run(&mut command, "mmdebstrap's message above says why; it needs a mirror of Debian")?;
    exec::run(privilege.command("mv").arg(&draft).arg(&directory), "is the disk full?")?;
    fs::write(&made, root.packages).with_context(|| format!("cannot write {}; is the disk full?", made.display()))?;
    Ok(directory)
}

/// That systemd can be booted here in a container.
///
/// # Errors
///
/// With what this machine lacks.
pub(crate) fn bootable() -> Result<()> {
    let has = |path: &&&str| Path::new(path).join("cgroup.procs").exists();
    let root = UNIFIED.iter().find(has);
    let root = root.context("the unified hierarchy of control groups (cgroup2) is not mounted below /sys/fs/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc cannot be read")?;
    let writable = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(4);
        words.next() == Some(root) && words.next().is_some_and(|options| options.split(',').any(|word| word == "rw"))
    });
    ensure!(writable, "{root} cannot be written: this is a container without control groups of its own");
    Ok(())
}

fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    (field("ID=")? == "debian").then(|| field("VERSION_CODENAME=").map(str::to_owned))?
}
