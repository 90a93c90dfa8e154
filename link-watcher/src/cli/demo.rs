//! `link-watcher demo`: the door to it, and what its end means to a shell.

use link_watcher_demo::{Error, Options, Verdict, run_peer, run_uplinks};

use super::{Exit, Failure, arguments::Scenario};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(if error.needs_root() { Exit::Privilege } else { Exit::Failed }, format!("link-watcher: {error}"))
    }
}

pub(super) fn run(scenario: Scenario, options: &Options) -> Result<Exit, Failure> {
    let verdict = match scenario {
        Scenario::Peer => run_peer(options),
        Scenario::Uplinks => run_uplinks(options),
    };
    Ok(match verdict? {
        Verdict::Passed => Exit::Done,
        Verdict::Failed => Exit::Failed,
    })
}
