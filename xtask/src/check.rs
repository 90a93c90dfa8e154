//! Format, lints and docs: all of them, and then what failed.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::project::Project;
use crate::tools::{DENY, MACHETE};
use crate::{exec, setup};

const LINT: &str = "the lints above say why; where cargo has no such command, `rustup component add clippy`";

/// How long fetching the database of advisories may take, s.
const FETCH_SECONDS: &str = "120";

/// `cargo xtask check`. What fails makes the exit code.
pub(crate) fn check(project: &Project) -> ExitCode {
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
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
    const SUPPLY: &str = "licences, versions and sources of dependencies";
    eprintln!("== {SUPPLY}");
    note(SUPPLY, supply(project));
    const ADVISORIES: &str = "advisories on dependencies";
    eprintln!("== {ADVISORIES}");
    match fetch_advisories(project) {
        Ok(()) => note(ADVISORIES, advisories(project)),
        Err(error) => skipped.push(format!("{ADVISORIES}: {error:#}")),
    }
    const EBPF: &str = "lints, eBPF";
    eprintln!("== {EBPF}");
    note(EBPF, ebpf_lints(project));

    for what in &skipped {
        println!("SKIPPED: {what}");
    }
    if failed.is_empty() {
        println!("check: all passed{}", if skipped.is_empty() { "" } else { ", but for what was skipped" });
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

fn unused_dependencies(project: &Project) -> Result<()> {
    exec::run(&mut MACHETE.command(project)?, "take what it names out of that Cargo.toml")
}

fn supply(project: &Project) -> Result<()> {
    let mut check = DENY.command(project)?;
    check.args(["--offline", "check", "--hide-inclusion-graph", "-D", "unmatched-skip", "licenses", "bans", "sources"]);
    exec::run(&mut check, "deny.toml says what is allowed, and why: another crate, or a line there with its reason")
}

/// Brings the database of advisories (RustSec) up to date.
fn fetch_advisories(project: &Project) -> Result<()> {
    let deny = DENY.command(project)?;
    let mut fetch = Command::new("timeout");
    fetch.arg(FETCH_SECONDS).arg(deny.get_program()).args(["fetch", "db"]).current_dir(&project.root);
    exec::run(
        &mut fetch,
        "nobody has looked whether a dependency is known to be unsafe: run this where github.com is reachable",
    )
}

fn advisories(project: &Project) -> Result<()> {
    let mut check = DENY.command(project)?;
    check.args(["check", "--disable-fetch", "--hide-inclusion-graph", "advisories"]);
    exec::run(&mut check, "`cargo update --package NAME`, or another crate")
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
