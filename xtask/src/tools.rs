//! Subcommands of cargo that tasks need: each built once, below `target/tools`, of a version that is known to work.

use std::process::Command;

use anyhow::Result;

use crate::exec;
use crate::project::Project;

/// One of crates.io.
pub(crate) struct Tool {
    /// Of the crate and of its program.
    name: &'static str,
    version: &'static str,
}

/// Finds dependencies that nothing uses.
pub(crate) const MACHETE: Tool = Tool { name: "cargo-machete", version: "0.9.1" };
/// Holds licences, versions, sources and advisories of dependencies against deny.toml.
pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
/// Writes down what a program is made of (CycloneDX).
pub(crate) const CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9" };

impl Tool {
    /// Its command, in the workspace.
    ///
    /// # Errors
    ///
    /// Where it is not there yet, and cannot be fetched or built.
    pub(crate) fn command(&self, project: &Project) -> Result<Command> {
        let Self { name, version } = self;
        let root = project.tools().join(format!("{name}-{version}"));
        let program = root.join("bin").join(name);
        if !program.exists() {
            eprintln!("building {name} {version}, once; this takes some minutes");
            let mut install = project.cargo();
            install.args(["install", name, "--version", version, "--locked", "--root"]).arg(&root);
            // It runs for seconds: what an optimiser would gain is less than what it takes.
            install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
            install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
            exec::run(&mut install, "if crates.io could not be reached, try again later")?;
        }
        let mut command = Command::new(program);
        command.current_dir(&project.root);
        Ok(command)
    }
}
