//! Builds the eBPF object, and the daemon that embeds it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::exec;
use crate::privilege::Privilege;
use crate::project::{Project, nameless};
use crate::setup::{self, EbpfTools};

/// Where root's search path finds the daemon, also through sudo.
const COMMAND: &str = "/usr/local/sbin/link-watcher";

/// `cargo xtask build-ebpf`.
///
/// # Errors
///
/// As the set-up and the compilers.
pub(crate) fn build_ebpf(project: &Project) -> Result<()> {
    let daemon = build(project)?;
    println!("eBPF object: {}", project.bpf_object().display());
    println!("daemon: {}", daemon.display());
    match offer_command(&daemon) {
        Ok(told) => println!("{told}"),
        Err(error) => println!("{COMMAND} could not be made ({error:#}); to run the daemon: sudo {}", daemon.display()),
    }
    Ok(())
}

/// Set-up, the eBPF object and the daemon in release; returns the daemon's path.
///
/// # Errors
///
/// As [`build_ebpf`].
pub(crate) fn build(project: &Project) -> Result<PathBuf> {
    object(project, &setup::ebpf_tools(project)?)?;
    release(project, &["--package", "link-watcher", "--bin", "link-watcher"])?;
    Ok(project.release("link-watcher"))
}

/// Builds something of the workspace in release.
///
/// # Errors
///
/// Where it does not compile.
pub(crate) fn release(project: &Project, what: &[&str]) -> Result<()> {
    compile(project, &[&["--release"], what].concat())
}

/// Builds something of the workspace.
///
/// # Errors
///
/// Where it does not compile.
pub(crate) fn compile(project: &Project, what: &[&str]) -> Result<()> {
    let mut command = project.cargo();
    command.arg("build").args(what);
    if what.contains(&"--release") {
        command.args(["--config", &format!("build.rustflags={}", flags(project.nameless_paths()))]);
    }
    exec::run(&mut command, "the compiler's message above says why")
}

/// As cargo's `--config` takes them.
fn flags(flags: impl IntoIterator<Item = String>) -> String {
    // What JSON writes of texts is TOML too.
    serde_json::Value::from_iter(flags).to_string()
}

fn object(project: &Project, tools: &EbpfTools) -> Result<()> {
    let directory = project.root.join("target/ebpf-build");
    let mut command = tools.toolchain.cargo(project);
    command.args(["build", "--package", "link-watcher-ebpf", "--profile", "ebpf", "--target", "bpfel-unknown-none"]);
    command.args(["-Z", "build-std=core", "--target-dir"]).arg(&directory);
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker);
    // Instruction set v3 has the 32-bit operations that SHA-256 lives on; BTF names the maps' fields.
    let wanted = ["-Ctarget-cpu=v3", "-Clink-arg=--btf"].map(str::to_owned);
    let paths = project.nameless_paths().chain([nameless(&tools.toolchain.sysroot, "/rust")]);
    let wanted = flags(wanted.into_iter().chain(paths));
    command.args(["--config", &format!("target.bpfel-unknown-none.rustflags={wanted}")]);
    exec::run(&mut command, "the compiler's or bpf-linker's message above says why")?;

    let built = directory.join("bpfel-unknown-none/ebpf/link-watcher-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("cargo succeeded, but {} cannot be read", built.display()))?;
    ensure!(
        bytes.starts_with(b"\x7fELF"),
        "{} is no ELF file; remove target/ebpf-build and build again",
        built.display()
    );
    // The daemon is compiled again whenever this file is touched, so only a different one is put there.
    let object = project.bpf_object();
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let parent = object.parent().context("the object's path has a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}; is the disk full?", parent.display()))?;
    let new = object.with_extension("new");
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, &object))
        .with_context(|| format!("cannot write {}; is the disk full, or the file another user's?", object.display()))
}

/// Makes `sudo link-watcher` work, where that takes nothing from anybody; says in one line what to type next.
fn offer_command(daemon: &Path) -> Result<String> {
    let next = "next: `cargo xtask demo`, or `sudo link-watcher --help`";
    match fs::read_link(COMMAND) {
        Ok(old) if old == daemon => return Ok(format!("{COMMAND} points to it; {next}")),
        // A link to a build that is gone; `exists` follows it.
        Ok(old) if old.ends_with("release/link-watcher") && !old.exists() => {}
        _ if fs::symlink_metadata(COMMAND).is_ok() => {
            return Ok(format!("{COMMAND} is another one and stays; to run this one: sudo {}", daemon.display()));
        }
        _ => {}
    }
    match Privilege::acquire_silently() {
        None => return Ok(format!("to run it: sudo {} (or `cargo xtask install`)", daemon.display())),
        Some(Privilege::Root) => {
            let _ = fs::remove_file(COMMAND); // the dangling link, if any; else the next line complains
            symlink(daemon, COMMAND)?;
        }
        Some(privilege) => {
            exec::run(privilege.command("ln").arg("-sfn").arg(daemon).arg(COMMAND), "it is only a convenience")?;
        }
    }
    Ok(format!("{COMMAND} now points to it; {next}"))
}
