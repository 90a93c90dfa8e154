//! Who may change the system: root, or a user for whom sudo works.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use crate::exec;

/// A way to run a command as root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Privilege {
    /// This process is root.
    Root,
    /// sudo runs commands without a password, or has just been given it.
    Sudo,
}

impl Privilege {
    /// Finds a way to be root. Asks for sudo's password only at a terminal, after saying what for.
    pub(crate) fn acquire(purpose: &str) -> Option<Self> {
        if is_root() {
            return Some(Self::Root);
        }
        link_watcher_programs::find("sudo")?;
        let quietly = Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
        if quietly.is_ok_and(|status| status.success()) {
            return Some(Self::Sudo);
        }
        if !io::stdin().is_terminal() {
            return None;
        }
        eprintln!("root is needed {purpose}; sudo asks for your password:");
        Command::new("sudo").arg("-v").status().is_ok_and(|status| status.success()).then_some(Self::Sudo)
    }

    /// As [`Self::acquire`], but never asks.
    pub(crate) fn acquire_silently() -> Option<Self> {
        if is_root() {
            return Some(Self::Root);
        }
        exec::output(Command::new("sudo").args(["-n", "true"])).map(|_| Self::Sudo)
    }

    /// A command that runs as root.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg(program);
                command
            }
        }
    }
}

fn is_root() -> bool {
    // The owner of a process's directory in /proc is its effective user.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
