//! Format, lints and docs: all of them, and then what failed.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::project::Project;
use crate::{exec, setup};

/// What finds dependencies that nothing uses.
const MACHETE: &str = "cargo-machete";
const MACHETE_VERSION: &str = "0.9.1";

const LINT: &str = "the lints above say why; where cargo has no such command, `rustup component add clippy`";

/// `cargo xtask check`. What fails makes the exit code.
pub(crate) fn check(project: &Project) -> ExitCode {
    let mut failed = Vec::new();
    let mut note = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{error:#}");
            failed.push(name);
        }
    };
    for (name, mut command, remedy) in host_checks(project) {
        eprintln!("== {name}");
        note(name, exec::run(&mut command, remedy));
    }
    const DEPENDENCIES: &str = "dependencies that nothing uses";
    eprintln!("== {DEPENDENCIES}");
    note(DEPENDENCIES, unused_dependencies(project));
    const EBPF: &str = "lints, eBPF";
    eprintln!("== {EBPF}");
    note(EBPF, ebpf_lints(project));

    if failed.is_empty() {
        println!("check: all passed");
        return ExitCode::SUCCESS;
    }
    println!("check: failed: {}", failed.join("; "));
    ExitCode::FAILURE
}

fn host_checks(project: &Project) -> [(&'static str, Command, &'static str); 3] {
    const WITHOUT_EBPF: [&str; 3] = ["--workspace", "--exclude", "link-watcher-ebpf"];

    let mut format = project.cargo();
    format.args(["fmt", "--all", "--check"]);
    let mut lints = project.cargo();
    lints.arg("clippy").args(WITHOUT_EBPF).args(["--all-targets", "--", "-D", "warnings"]);
    let mut docs = project.cargo();
    docs.args(["doc", "--no-deps"]).args(WITHOUT_EBPF).env("RUSTDOCFLAGS", "-D warnings");
    [
        ("format", format, "run `cargo fmt --all`; where cargo has no such command, `rustup component add rustfmt`"),
        ("lints, host", lints, LINT),
        ("docs", docs, "rustdoc's warnings above say why"),
    ]
}

/// Builds cargo-machete where it is missing, below `target` and of a version that is known to work.
fn unused_dependencies(project: &Project) -> Result<()> {
    let root = project.tools().join(format!("{MACHETE}-{MACHETE_VERSION}"));
    let program = root.join("bin").join(MACHETE);
    if !program.exists() {
        eprintln!("building {MACHETE} {MACHETE_VERSION}, once; this takes about a minute");
        let mut install = project.cargo();
        install.args(["install", MACHETE, "--version", MACHETE_VERSION, "--locked", "--root"]).arg(&root);
        exec::run(&mut install, "if crates.io could not be reached, try again later")?;
    }
    let mut search = Command::new(program);
    exec::run(search.current_dir(&project.root), "take what it names out of that Cargo.toml")
}

/// For its own target, because the program has instructions that no host knows; so with the compiler that builds it.
fn ebpf_lints(project: &Project) -> Result<()> {
    let tools = setup::ebpf_tools(project)?;
    tools.toolchain.ensure_clippy()?;
    let mut command = tools.toolchain.clippy(project);
    command.args(["--package", "link-watcher-ebpf", "--profile", "ebpf", "--target", "bpfel-unknown-none"]);
    command.args(["-Z", "build-std=core", "--target-dir"]).arg(project.root.join("target/ebpf-lints"));
    command.args(["--", "-D", "warnings"]);
    exec::run(&mut command, LINT)
}
