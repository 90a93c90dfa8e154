//! Installs the daemon on this machine.

use std::path::Path;
use std::process::Command;
use std::{fs, str};

use anyhow::{Context as _, Result, bail, ensure};

use crate::privilege::Privilege;
use crate::project::Project;
use crate::{build, exec};

const CONFIGURATION: &str = "/etc/link-watcher/link-watcher.toml";
const UNIT: &str = "/etc/systemd/system/link-watcher.service";
const PROTOCOL: &str = "/etc/iproute2/rt_protos.d/link-watcher.conf";

/// The program's path in the unit as it is in the repository.
const DEFAULT_PROGRAM: &str = "/usr/local/sbin/link-watcher";

/// `cargo xtask install`: builds as this user, installs as root.
///
/// # Errors
///
/// As the build; where nobody here may be root; where a file cannot be written.
pub(crate) fn install(project: &Project, prefix: &Path) -> Result<()> {
    ensure!(prefix.is_absolute(), "--prefix {} must be an absolute path, such as /usr/local", prefix.display());
    let daemon = build::build(project)?;
    let Some(privilege) = Privilege::acquire("to install below /usr/local and /etc") else {
        bail!("installing needs root, and sudo does not work here; run `cargo xtask install` as root");
    };
    let program = prefix.join("sbin/link-watcher");
    put(privilege, "0755", &daemon, &program)?;

    let unit = fs::read_to_string(project.root.join("packaging/link-watcher.service"))
        .context("packaging/link-watcher.service cannot be read; is the checkout complete?")?;
    let program_name = program.to_str().context("--prefix must be valid UTF-8, systemd wants it so")?;
    put_text(project, privilege, &unit.replace(DEFAULT_PROGRAM, program_name), Path::new(UNIT))?;
    let protocol = project.root.join("packaging/rt_protos.conf");
    put(privilege, "0644", &protocol, Path::new(PROTOCOL))?;

    if fs::symlink_metadata(CONFIGURATION).is_ok() {
        println!("{CONFIGURATION} is there and stays as it is");
    } else {
        let example = Command::new(&daemon).args(["generate", "config"]).output();
        let example = example.with_context(|| format!("cannot run {}; build again", daemon.display()))?;
        let printed = example.status.success() && !example.stdout.is_empty();
        ensure!(printed, "`{} generate config` printed no example ({})", daemon.display(), example.status);
        let text = str::from_utf8(&example.stdout).context("`link-watcher generate config` printed no text")?;
        put_text(project, privilege, text, Path::new(CONFIGURATION))?;
    }
    if Path::new("/run/systemd/system").exists() {
        exec::run(
            privilege.command("systemctl").arg("daemon-reload"),
            "the unit is installed; reload systemd by hand",
        )?;
    }
    println!("next: edit {CONFIGURATION}, then `link-watcher check` and `systemctl enable --now link-watcher`");
    Ok(())
}

fn put_text(project: &Project, privilege: Privilege, text: &str, to: &Path) -> Result<()> {
    let draft = project.target.join("install-draft");
    fs::write(&draft, text).with_context(|| format!("cannot write {}; is the disk full?", draft.display()))?;
    put(privilege, "0644", &draft, to)
}

/// install(1) makes the directories and replaces a running program by a new file.
fn put(privilege: Privilege, mode: &str, from: &Path, to: &Path) -> Result<()> {
    let mut command = privilege.command("install");
    command.args(["-D", "-T", "-m", mode]).arg(from).arg(to);
    exec::run(&mut command, "is that file system read-only or full?")
}
