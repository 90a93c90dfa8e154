//! The demo and the benchmarks: set-up, build, and then this process becomes the program, as root.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::privilege::Privilege;
use crate::project::Project;
use crate::{build, compare, exec, setup};

/// What sysexits-like programs, link-watcher among them, say where a privilege is missing.
const MISSING_PRIVILEGE: u8 = 77;

/// `cargo xtask demo ARGS`: its exit code is the demo's.
///
/// # Errors
///
/// As the set-up and the build.
pub(crate) fn demo(project: &Project, args: &[OsString]) -> Result<ExitCode> {
    setup::lab_tools(project)?;
    let daemon = build::build(project)?;
    let mut line = vec![daemon.into_os_string(), "demo".into()];
    line.extend_from_slice(args);
    become_root(&line, "for network namespaces and BPF")
}

/// `cargo xtask bench ARGS`: its exit code is the benchmarks'.
///
/// # Errors
///
/// As the set-up and the build.
pub(crate) fn bench(project: &Project, args: &[OsString]) -> Result<ExitCode> {
    setup::lab_tools(project)?;
    if compare::wanted(args) {
        compare::install();
    }
    let daemon = build::build(project)?;
    build::release(project, &["--package", "link-watcher-bench"])?;
    let mut variable = OsString::from("LINK_WATCHER_BIN=");
    variable.push(&daemon);
    let mut line = vec!["env".into(), variable, project.release("link-watcher-bench").into_os_string()];
    line.extend_from_slice(args);
    become_root(&line, "for network namespaces and BPF")
}

/// Replaces this process, so that signals, the terminal and the exit code are the program's own.
fn become_root(line: &[OsString], purpose: &str) -> Result<ExitCode> {
    let Some(privilege) = Privilege::acquire(purpose) else {
        let typed = line.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        eprintln!("error: root is needed {purpose}, and sudo does not work here; as root, run: {typed}");
        return Ok(ExitCode::from(MISSING_PRIVILEGE));
    };
    let [program, arguments @ ..] = line else { bail!("there is nothing to run") };
    let mut command: Command = privilege.command(program);
    command.args(arguments);
    eprintln!("$ {}", exec::render(&command));
    let error: Result<Infallible, _> = Err(command.exec());
    match error.with_context(|| {
        format!("cannot run `{}`; build again with `cargo xtask build-ebpf`", exec::render(&command))
    })? {}
}
