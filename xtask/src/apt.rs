//! What Debian and Ubuntu offer, asked from apt and never assumed.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use crate::exec;
use crate::privilege::Privilege;

/// Whether this machine has apt.
pub(crate) fn present() -> bool {
    link_watcher_programs::find("apt-get").is_some() && link_watcher_programs::find("apt-cache").is_some()
}

/// Whether apt has ever read what its sources offer; minimal images come without.
pub(crate) fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists")
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages")))
}

/// The version that apt would install, for each of the packages that it knows.
pub(crate) fn candidates(packages: &[impl AsRef<str>]) -> BTreeMap<String, String> {
    let mut command = Command::new("apt-cache");
    command.arg("policy").args(packages.iter().map(AsRef::as_ref)).env("LC_ALL", "C");
    exec::output(&mut command).map(|policy| parse_policy(&policy)).unwrap_or_default()
}

fn parse_policy(policy: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut package = "";
    for line in policy.lines() {
        if !line.starts_with(' ') {
            package = line.trim_end_matches(':');
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            found.insert(package.to_owned(), version.to_owned());
        }
    }
    found
}

/// The major version of the LLVM library that a package pulls in, from the names of what it depends on.
pub(crate) fn llvm_major_of(package: &str) -> Option<u32> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]);
    command.args(["--no-replaces", "--no-enhances", package]).env("LC_ALL", "C");
    parse_llvm_major(&exec::output(&mut command)?)
}

fn parse_llvm_major(depends: &str) -> Option<u32> {
    depends.lines().find_map(|line| {
        let digits = line.trim().strip_prefix("libllvm")?;
        // Ubuntu names the library's package libllvm20, Debian has used libllvm16t64 too.
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}

/// Reads the sources again.
///
/// # Errors
///
/// Where nobody here may be root, with the command to type; and as `apt-get update`.
pub(crate) fn update() -> Result<()> {
    let Some(privilege) = Privilege::acquire("to read apt's sources") else {
        bail!("apt's lists of packages are missing, and this user may not fetch them; as root, run: apt-get update");
    };
    exec::run(
        apt_get(env(privilege)).arg("update"),
        "check /etc/apt/sources.list and /etc/apt/sources.list.d, and the network",
    )
}

/// Installs packages, without removing any and without asking.
///
/// # Errors
///
/// Where a package is unknown, nobody here may be root (with the command to type), or apt fails.
pub(crate) fn install(packages: &[String], purpose: &str) -> Result<()> {
    install_by(packages, purpose, env)
}

/// As [`install`], by a command that ends with env(1), to which apt's is appended.
///
/// # Errors
///
/// As [`install`].
pub(crate) fn install_by(packages: &[String], purpose: &str, runner: impl Fn(Privilege) -> Command) -> Result<()> {
    let line = format!("apt-get update && apt-get install {}", packages.join(" "));
    if !present() {
        bail!("{purpose} needs what Debian calls {}; there is no apt here, so install its like", packages.join(" "));
    }
    let Some(privilege) = Privilege::acquire(&format!("to install {} with apt", packages.join(" "))) else {
        bail!("{purpose} needs {}, and this user may not install; as root, run: {line}", packages.join(" "));
    };
    let unknown = |packages: &[String]| {
        let known = candidates(packages);
        packages.iter().filter(|package| !known.contains_key(*package)).cloned().collect::<Vec<_>>().join(" ")
    };
    let mut updated = false;
    if !unknown(packages).is_empty() {
        update()?;
        updated = true;
        let unknown = unknown(packages);
        if !unknown.is_empty() {
            bail!(
                "apt knows no package {unknown}, which {purpose} needs; enable the distribution's main (Ubuntu: \
                 universe) and security sections in /etc/apt/sources.list.d, then run: {line}"
            );
        }
    }
    let remedy = format!("see apt's message above; to try by hand, as root: {line}");
    let mut install = apt_get(runner(privilege));
    install.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages);
    match exec::run(&mut install, &remedy) {
        // Lists that are some days old name versions that the mirror has replaced.
        Err(_) if !updated => {
            update()?;
            exec::run(&mut install, &remedy)
        }
        result => result,
    }
}

/// Through env(1), because sudo does not pass variables on.
fn env(privilege: Privilege) -> Command {
    privilege.command("env")
}

fn apt_get(mut command: Command) -> Command {
    // Another apt, such as the daily upgrade, holds the lock for a while on many machines.
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    command.args(["-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_with_a_candidate_count() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n     \
                      1.96.0 500\nllvm-23-dev:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        let found = parse_policy(policy);
        assert_eq!(found.len(), 1);
        assert_eq!(found["rustc-web"], "1.96.0+dfsg1-1~deb12u2");
    }

    #[test]
    fn the_llvm_of_a_package_is_read_from_its_dependencies() {
        let depends =
            "rustc-web\n  Depends: libstd-rust-web-dev\nlibstd-rust-web-1.96\n  Depends: libllvm22\nlibllvm22\n";
        assert_eq!(parse_llvm_major(depends), Some(22));
        assert_eq!(parse_llvm_major("  x\nlibllvm16t64\n"), Some(16));
        assert_eq!(parse_llvm_major("rustc\n  Depends: libc6\n"), None);
    }
}
