//! `link-watcher demo`: the door to it, and what its end means to a shell.

use std::process::ExitCode;

use link_watcher_demo::{Error, Options, Verdict, run_peer, run_uplinks};

use super::{EXIT_FAILED, EXIT_PRIVILEGE, Failure, arguments::Scenario};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(if error.needs_root() { EXIT_PRIVILEGE } else { EXIT_FAILED }, format!("link-watcher: {error}"))
    }
}

pub(super) fn run(scenario: Scenario, options: &Options) -> Result<ExitCode, Failure> {
    let verdict = match scenario {
        Scenario::Peer => run_peer(options),
        Scenario::Uplinks => run_uplinks(options),
    };
    Ok(match verdict? {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::from(EXIT_FAILED),
    })
}
