//! Routing programs of others, each with its files in the lab's directory and nothing of the machine's: started with a text of
//! configuration, in a namespace.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use link_watcher_programs::{BIRD, FRR_BFDD, FRR_ZEBRA, KEEPALIVED, Program, UNSHARE};

use super::{Lab, netns::Namespace, service::Service};

/// The user that FRR's programs become.
const FRR_USER: &str = "frr";
/// Through which they talk to zebra, in a directory of their own.
const ZEBRA_SOCKET: &str = "zserv";
/// How long zebra may take to make it.
const ZEBRA_LIMIT: Duration = Duration::from_secs(10);

/// Starts BIRD.
///
/// # Errors
/// Where its files cannot be written or it cannot be started.
pub fn bird(lab: &Lab, namespace: &Namespace, name: &str, config: &str) -> Result<Service> {
    let directory = directory(lab, name)?;
    let config = write(&directory, "bird.conf", config)?;
    let mut command = BIRD.command();
    command.arg("-f").arg("-c").arg(config);
    command.arg("-s").arg(directory.join("control")).arg("-P").arg(directory.join("pid"));
    Service::start(lab, namespace, name, &mut command)
}

/// Starts keepalived.
///
/// # Errors
/// As [`bird`].
pub fn keepalived(lab: &Lab, namespace: &Namespace, name: &str, config: &str) -> Result<Service> {
    let directory = directory(lab, name)?;
    let config = write(&directory, "keepalived.conf", config)?;
    let mut command = KEEPALIVED.command();
    command.args(["--dont-fork", "--log-console", "--no-syslog"]).arg("--use-file").arg(config);
    for (option, file) in
        [("--pid", "pid"), ("--vrrp_pid", "vrrp.pid"), ("--bfd_pid", "bfd.pid"), ("--checkers_pid", "checkers.pid")]
    {
        command.arg(format!("{option}={}", directory.join(file).display()));
    }
    Service::start(lab, namespace, name, &mut command)
}

/// Starts FRR: zebra, and when that is there the others, in the order given.
///
/// # Errors
/// As [`bird`]; where zebra does not come up.
pub fn frr(lab: &Lab, namespace: &Namespace, name: &str, others: &[(Program, &str)]) -> Result<Vec<Service>> {
    // The programs are no longer root when they read what is theirs in it; everything else there has its own mode.
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o711))
        .with_context(|| format!("cannot open {} to FRR", lab.directory().display()))?;
    let directory = directory(lab, name)?;
    let all = [(FRR_ZEBRA, "log stdout\n")].into_iter().chain(others.iter().copied());
    for (program, config) in all.clone() {
        write(&directory, &format!("{}.conf", file_name(program)), config)?;
    }
    let path = directory.to_str().context("a temporary directory whose name is no text")?;
    namespace.command(&["chown", "--recursive", &format!("{FRR_USER}:{FRR_USER}"), path], "")?;
    let socket = directory.join(ZEBRA_SOCKET);
    let mut services: Vec<Service> = Vec::new();
    for (program, _) in all {
        // Those that do not find it there ask again only ten seconds later.
        if let Some(zebra) = services.first() {
            lab.wait_until("zebra's socket", ZEBRA_LIMIT, || {
                zebra.check()?;
                Ok(socket.exists().then_some(()))
            })?;
        }
        let log = format!("{name}-{}", file_name(program));
        services.push(Service::start(lab, namespace, &log, &mut frr_command(program, &directory))?);
    }
    Ok(services)
}

fn frr_command(program: Program, directory: &Path) -> Command {
    // Whatever they are told, they make directories in /run, and in /var/tmp for notes in case they crash: what they see there
    // is the lab's.
    let script = "mount -t tmpfs tmpfs /run && mount --bind \"$1\" /var/tmp && shift && exec \"$@\"";
    let name = file_name(program);
    let mut command = UNSHARE.command();
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(directory);
    command.arg(program.name()).args(["-u", FRR_USER, "-g", FRR_USER, "-A", "127.0.0.1", "-P", "0"]);
    command.arg("-f").arg(directory.join(format!("{name}.conf")));
    command.arg("-i").arg(directory.join(format!("{name}.pid")));
    command.arg("-z").arg(directory.join(ZEBRA_SOCKET)).arg("--vty_socket").arg(directory);
    if program == FRR_BFDD {
        command.arg("--bfdctl").arg(directory.join("bfdd.sock"));
    }
    command
}

/// Without its directory.
fn file_name(program: Program) -> &'static str {
    program.name().rsplit('/').next().unwrap_or_default()
}

/// Makes a directory in the lab's, for the files of a program.
///
/// # Errors
/// The file system's.
pub fn directory(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab.directory().join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// Writes a file of a program's; gives its path.
///
/// # Errors
/// As [`directory`].
pub fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
