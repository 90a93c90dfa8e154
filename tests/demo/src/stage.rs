//! The picture with daemons and traffic running, and what the daemons say of themselves.

use std::path::Path;

use anyhow::{Context, Result};
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP, TwoRouters};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::Trial;
use link_watcher_lab::{End, Lab};

use link_watcher_core::status::{GroupSnapshot, LinkSnapshot, Snapshot};

/// Packets a second of the stream, each way: an outage is known to a millisecond.
const RATE_PER_S: u32 = 1000;

/// Two routers at work.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) trial: Trial,
}

impl Stage {
    /// Builds the routers, starts daemons and traffic, and waits until the first link carries it.
    pub(super) fn set(lab: Lab, setup: Setup, binary: &Path) -> Result<Self> {
        Ok(Self { trial: Trial::start(lab, setup, binary, RATE_PER_S)? })
    }

    /// The routers.
    pub(super) fn routers(&self) -> &TwoRouters {
        &self.trial.routers
    }

    /// The name of the peer group in one end's configuration.
    pub(super) fn group_name(end: End) -> &'static str {
        match end {
            End::Client => CLIENT_GROUP,
            End::Server => SERVER_GROUP,
        }
    }

    /// The status of one end.
    pub(super) fn snapshot(&self, end: End) -> Result<Snapshot> {
        let status = self.routers().daemon(end).status()?;
        serde_json::from_value(status).context("status --json has another shape than this program's")
    }

    /// The peer group of one end.
    pub(super) fn group(&self, end: End) -> Result<GroupSnapshot> {
        let name = Self::group_name(end);
        self.snapshot(end)?
            .groups
            .into_iter()
            .find(|group| group.name == name)
            .with_context(|| format!("status --json has no group {name}"))
    }

    /// A link of one end.
    pub(super) fn link(&self, end: End, name: &str) -> Result<LinkSnapshot> {
        let group = self.group(end)?;
        link_of(&group, name).cloned().with_context(|| format!("status --json has no link {name}"))
    }

    /// Runs a command for the client's peer group, such as `drain GROUP LINK`.
    pub(super) fn order(&self, command: &str, argument: &str) -> Result<()> {
        self.routers().client_daemon.command(&[command, CLIENT_GROUP, argument]).map(|_| ())
    }

    /// What was decided since traffic ran over `from`, and why.
    pub(super) fn decision(&self, from: &str) -> Result<String> {
        Ok(decision(&self.group(End::Client)?, &self.group(End::Server)?, from))
    }
}

/// A link of a group.
pub(super) fn link_of<'a>(group: &'a GroupSnapshot, name: &str) -> Option<&'a LinkSnapshot> {
    group.links.iter().find(|link| link.name == name)
}

/// What was decided since traffic ran over `from`, and why: the reason of the end that found the link wanting, if one did.
fn decision(client: &GroupSnapshot, server: &GroupSnapshot, from: &str) -> String {
    let to = client.active.join(" + ");
    if to == from {
        return format!("stays on {to}");
    }
    let why = down_reason(client, from)
        .or_else(|| down_reason(server, from).map(|why| format!("{why} (the server's finding)")))
        .unwrap_or_else(|| client.reason.clone());
    format!("{from} -> {to}: {why}")
}

/// Why a link is down or absent, if it is.
pub(super) fn down_reason(group: &GroupSnapshot, link: &str) -> Option<String> {
    let link = link_of(group, link)?;
    if link.state == "up" { None } else { link.last_down_reason.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(active: &str, state: &str) -> GroupSnapshot {
        GroupSnapshot {
            active: vec![active.to_owned()],
            reason: "pinned".to_owned(),
            links: vec![LinkSnapshot {
                name: "optic".to_owned(),
                state: state.to_owned(),
                last_down_reason: Some("no echo for 300 ms".to_owned()),
                ..LinkSnapshot::default()
            }],
            ..GroupSnapshot::default()
        }
    }

    #[test]
    fn a_decision_gives_the_reason_that_applies() {
        let up = group("wifi", "up");
        let down = group("wifi", "down");
        assert_eq!(decision(&group("optic", "up"), &up, "optic"), "stays on optic");
        assert_eq!(decision(&down, &down, "optic"), "optic -> wifi: no echo for 300 ms");
        assert_eq!(decision(&up, &down, "optic"), "optic -> wifi: no echo for 300 ms (the server's finding)");
        // It was down some time ago, but now it was a person's order.
        assert_eq!(decision(&up, &up, "optic"), "optic -> wifi: pinned");
    }
}
