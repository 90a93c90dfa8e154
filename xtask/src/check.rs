//! Format, lints and docs: all of them, and then what failed.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::exec;
use crate::project::Project;
use crate::toolchain::{self, Route};

/// `cargo xtask check`.
///
/// # Errors
///
/// Where cargo cannot be run; a check that fails makes the exit code.
pub(crate) fn check(project: &Project) -> Result<ExitCode> {
    let mut failed = Vec::new();
    for (name, mut command, remedy) in checks(project) {
        eprintln!("== {name}");
        if let Err(error) = exec::run(&mut command, remedy) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("check: all passed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("check: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn checks(project: &Project) -> Vec<(&'static str, Command, &'static str)> {
    const WITHOUT_EBPF: [&str; 3] = ["--workspace", "--exclude", "link-watcher-ebpf"];
    const FORMAT: &str = "run `cargo fmt --all`; where cargo has no such command, `rustup component add rustfmt`";
    const LINT: &str = "the lints above say why; where cargo has no such command, `rustup component add clippy`";

    let mut format = project.cargo();
    format.args(["fmt", "--all", "--check"]);

    let mut host = project.cargo();
    host.arg("clippy").args(WITHOUT_EBPF).args(["--all-targets", "--", "-D", "warnings"]);

    // Its profile aborts on a panic; with any other, the host would miss the unwinding that a kernel program has not.
    let mut ebpf = project.cargo();
    ebpf.args(["clippy", "--package", "link-watcher-ebpf", "--profile", "ebpf", "--", "-D", "warnings"]);

    let mut docs = project.cargo();
    docs.args(["doc", "--no-deps"]).args(WITHOUT_EBPF).env("RUSTDOCFLAGS", "-D warnings");

    let mut checks = vec![
        ("format", format, FORMAT),
        ("lints, host", host, LINT),
        ("lints, eBPF crate as the host sees it", ebpf, LINT),
        ("docs", docs, "rustdoc's warnings above say why"),
    ];
    if let Some(target) = ebpf_target_lints(project) {
        checks.push(("lints, eBPF crate for its own target", target, LINT));
    }
    checks
}

/// Lints for the real target too, where a compiler that can build it comes with clippy. Its warnings do not fail the
/// check: which lints it knows depends on which nightly happens to be installed.
fn ebpf_target_lints(project: &Project) -> Option<Command> {
    let (routes, _) = toolchain::survey(project);
    let Some(Route::Present(toolchain)) = routes.first() else { return None };
    let driver = toolchain.bin.join("cargo-clippy");
    if !driver.exists() {
        return None;
    }
    let mut command = toolchain.cargo(project);
    command.args(["clippy", "--package", "link-watcher-ebpf", "--profile", "ebpf", "--target", "bpfel-unknown-none"]);
    command.args(["-Z", "build-std=core", "--target-dir"]).arg(project.root.join("target/ebpf-lints"));
    // cargo looks for its subcommands on the search path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let with_driver = std::iter::once(toolchain.bin.clone()).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(with_driver).ok()?);
    Some(command)
}
