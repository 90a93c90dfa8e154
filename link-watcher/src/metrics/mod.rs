//! Metrics for Prometheus: what is so ([`Snapshot`]) and what has happened ([`Counters`]), as text; the status page; and the
//! listener that serves both.
//!
//! Nothing here is ever waited for. The core owns the counters and answers a [`Request`] with a copy of them, as it
//! answers for its status; writing the text, and everything about connections, happens elsewhere.

mod connections;
mod histogram;
mod page;
mod render;
mod server;
mod statistics;
mod stream;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;

use self::histogram::Histogram;
pub use self::{
    render::render,
    server::{BindError, Faces, Listener},
};
use crate::{statistics::Period, status::Snapshot};

/// A link's verdicts that are counted, as the label `to` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// It answers.
    Up,
    /// It does not.
    Down,
    /// It answers, but outside of its thresholds.
    Degraded,
    /// It flaps, and is left out.
    Dampened,
}

impl To {
    const ALL: [(Self, &str); 4] =
        [(Self::Up, "up"), (Self::Down, "down"), (Self::Degraded, "degraded"), (Self::Dampened, "dampened")];
}

/// What has happened since the start, by the names of groups and links.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    failovers: BTreeMap<String, Histogram>,
    transitions: BTreeMap<(String, String), [u64; To::ALL.len()]>,
}

impl Counters {
    /// Traffic of a group was moved away from a failure: so long after the last good packet the new routes stood.
    pub fn failover(&mut self, group: String, outage_ns: u64) {
        self.failovers.entry(group).or_default().observe(outage_ns);
    }

    /// A link of a group has come to another verdict.
    pub fn transition(&mut self, group: String, link: String, to: To) {
        self.transitions.entry((group, link)).or_default()[to as usize] += 1;
    }

    /// Forgets what no longer exists: these are all groups with their links.
    pub fn retain(&mut self, links: &BTreeSet<(String, String)>) {
        self.transitions.retain(|link, _| links.contains(link));
        self.failovers.retain(|group, _| links.iter().any(|(known, _)| known == group));
    }
}

/// Everything that the text is made of.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// What is so.
    pub snapshot: Snapshot,
    /// What has happened.
    pub counters: Counters,
    /// Sums of each link since the start, by the names of group and link.
    pub runs: BTreeMap<(String, String), Period>,
}

/// What the listener asks of the daemon's core.
#[derive(Debug)]
pub struct Request(pub oneshot::Sender<Scrape>);
