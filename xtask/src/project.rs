//! Where things are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The checkout, and the directory that cargo builds into.
pub(crate) struct Project {
    /// The workspace's directory.
    pub(crate) root: PathBuf,
    /// cargo's target directory of the host build.
    pub(crate) target: PathBuf,
}

impl Project {
    /// The checkout that this executable was compiled from.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in no workspace; run it as `cargo xtask` inside the checkout")?
            .to_path_buf();
        // This executable is TARGET/PROFILE/xtask, whatever names TARGET: the default, the environment or a cargo config.
        let executable = env::current_exe().context("cannot tell where xtask's own executable is")?;
        let target = executable
            .ancestors()
            .nth(2)
            .with_context(|| format!("{} is not in a target directory; run `cargo xtask`", executable.display()))?
            .to_path_buf();
        Ok(Self { root, target })
    }

    /// What the set-up builds for this checkout alone.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// The eBPF object that `link-watcher/build.rs` embeds.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.root.join("target/bpf/link-watcher.bpf.o")
    }

    /// An executable of the release build.
    pub(crate) fn release(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// Flags of the compiler, after which nothing that it writes tells whose machine it ran on: the same sources are the same
    /// program in every checkout.
    pub(crate) fn nameless_paths(&self) -> impl Iterator<Item = String> {
        let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
        let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
        let cargo = cargo.map(|cargo| nameless(&cargo, "/cargo"));
        cargo.into_iter().chain([nameless(&self.root, "/link-watcher")])
    }

    /// The cargo that runs this task, in the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }
}

/// The flag by which a directory gets another name in what the compiler writes.
pub(crate) fn nameless(directory: &Path, name: &str) -> String {
    format!("--remap-path-prefix={}={name}", directory.display())
}
