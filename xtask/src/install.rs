//! Installs the daemon on this machine, and removes it again.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::files::{Layout, printed};
use crate::privilege::Privilege;
use crate::project::Project;
use crate::{build, exec};

const CONFIGURATION: &str = "/etc/link-watcher/link-watcher.toml";
const SERVICE: &str = "link-watcher.service";

/// `cargo xtask install`: builds as this user, installs as root.
///
/// # Errors
///
/// As the build; where nobody here may be root; where a file cannot be written.
pub(crate) fn install(project: &Project, prefix: &Path) -> Result<()> {
    let layout = layout(prefix)?;
    let daemon = build::build(project)?;
    let privilege = root("install")?;
    for file in layout.files() {
        let bytes = file.bytes(project, &daemon, &layout)?;
        put(project, privilege, file.mode, &bytes, &file.path)?;
    }
    if fs::symlink_metadata(CONFIGURATION).is_ok() {
        println!("{CONFIGURATION} is there and stays as it is");
    } else {
        put(project, privilege, 0o640, &printed(&daemon, &["generate", "config"])?, Path::new(CONFIGURATION))?;
    }
    if systemd() {
        exec::run(
            privilege.command("systemctl").arg("daemon-reload"),
            "the unit is installed; reload systemd by hand",
        )?;
    }
    println!("next: edit {CONFIGURATION}, then `link-watcher check` and `systemctl enable --now link-watcher`");
    Ok(())
}

/// `cargo xtask uninstall`: the reverse. Configuration, keys and state stay.
///
/// # Errors
///
/// Where nobody here may be root; where a file cannot be removed.
pub(crate) fn uninstall(prefix: &Path) -> Result<()> {
    let layout = layout(prefix)?;
    let privilege = root("uninstall")?;
    let installed: Vec<_> =
        layout.files().into_iter().map(|file| file.path).filter(|path| fs::symlink_metadata(path).is_ok()).collect();
    if systemd() && installed.iter().any(|path| path.ends_with(SERVICE)) {
        exec::run(privilege.command("systemctl").args(["disable", "--now", SERVICE]), "stop it by hand, then again")?;
    }
    let program = layout.program();
    if installed.contains(&program) {
        // Routes and kernel programs outlive a stop; not their program.
        if let Err(error) =
            exec::run(privilege.command(&program).arg("cleanup"), "what is left ends with the next boot")
        {
            eprintln!("{error:#}");
        }
    }
    if installed.is_empty() {
        println!("nothing of link-watcher is installed below {}", prefix.display());
        return Ok(());
    }
    exec::run(privilege.command("rm").arg("-f").args(&installed), "is that file system read-only?")?;
    let own = layout.documentation();
    if own.exists() {
        exec::run(
            privilege.command("rmdir").arg("--ignore-fail-on-non-empty").arg(own.join("examples")).arg(&own),
            "what is in it is not ours",
        )?;
    }
    if systemd() {
        exec::run(privilege.command("systemctl").arg("daemon-reload"), "reload systemd by hand")?;
    }
    println!("/etc/link-watcher (configuration, keys) and /var/lib/link-watcher stay; remove them by hand");
    Ok(())
}

fn layout(prefix: &Path) -> Result<Layout> {
    ensure!(prefix.is_absolute(), "--prefix {} must be an absolute path, such as /usr/local", prefix.display());
    Ok(Layout::local(prefix))
}

fn root(task: &str) -> Result<Privilege> {
    match Privilege::acquire(&format!("to {task} below /usr/local and /etc")) {
        Some(privilege) => Ok(privilege),
        None => bail!("it needs root, and sudo does not work here; run `cargo xtask {task}` as root"),
    }
}

fn systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// install(1) makes the directories and replaces a running program by a new file.
fn put(project: &Project, privilege: Privilege, mode: u32, bytes: &[u8], to: &Path) -> Result<()> {
    let draft = project.target.join("install-draft");
    fs::write(&draft, bytes).with_context(|| format!("cannot write {}; is the disk full?", draft.display()))?;
    let mut command = privilege.command("install");
    command.args(["-D", "-T", "-m", &format!("{mode:04o}")]).arg(&draft).arg(to);
    exec::run(&mut command, "is that file system read-only or full?")
}
