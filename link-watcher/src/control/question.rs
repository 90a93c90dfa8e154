//! Questions whose answers change nothing: what would be, and what is meant.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// What would follow if a link changed.
    WhatIf {
        /// Group.
        group: String,
        /// Link.
        link: String,
        /// What becomes of it.
        becomes: Becomes,
    },
    /// Where packets to an address are meant to go.
    Intent {
        /// Their destination.
        to: IpAddr,
    },
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Knowledge {
    /// To [`Question::WhatIf`].
    WhatIf(Box<Forecast>),
    /// To [`Question::Intent`]: each group that routes the address.
    Intent(Vec<Intent>),
}

/// What a link is supposed to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Becomes {
    /// It does not answer any more.
    Down,
    /// An operator takes it out of service.
    Drained,
    /// It answers at both ends, and is in service.
    Up,
}

/// What would follow from a change of a link, if nothing else happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Group.
    pub group: String,
    /// `peer` or `uplinks`.
    pub kind: String,
    /// Link.
    pub link: String,
    /// Why the order would be refused; then nothing follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How it is now.
    pub now: Course,
    /// How it would be at once, and then each time that traffic would move.
    pub then: Vec<Course>,
    /// Prefixes that the group routes: how many, and the first ones.
    pub prefixes: usize,
    /// The first of them.
    pub first_prefixes: Vec<IpNet>,
    /// Connections by uplink, whose count conntrack knows.
    #[serde(default)]
    pub connections: Vec<Marked>,
    /// What `[[uplinks.force]]` sends to the link, and what would become of it.
    #[serde(default)]
    pub forced: Vec<Forced>,
}

/// How a group stands, or would.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// After so long, s; 0: at once.
    pub after_s: f64,
    /// Links that carry its traffic.
    pub active: Vec<Share>,
    /// Why these.
    pub reason: String,
    /// No link answers: `active` are those that did last, and nothing gets through.
    pub without_a_way: bool,
    /// Its routes are taken out of the kernel meanwhile (`when-all-down = "withdraw"`).
    #[serde(default)]
    pub withdrawn: bool,
    /// Usable links that would carry nothing: the spares that are left.
    pub spares: Vec<String>,
}

/// A link's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Link.
    pub link: String,
    /// Share of the group's new traffic, 0 to 1.
    pub share: f64,
}

/// Connections with an uplink's mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// Uplink.
    pub link: String,
    /// The mark of its connections, within `mask`.
    pub mark: u32,
    /// The bits of the mark that are ours.
    pub mask: u32,
    /// They would be released, so that they find another uplink; else they stay until they end.
    pub released: bool,
}

/// What a rule of `[[uplinks.force]]` would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// Which connections.
    pub what: String,
    /// The others take them; else they are refused.
    pub others_take_it: bool,
}

/// Where a group means to send packets to an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Group.
    pub group: String,
    /// `peer` or `uplinks`.
    pub kind: String,
    /// The longest of its prefixes that has the address.
    pub prefix: IpNet,
    /// Of a peer: its routes are out of the kernel, since no link answers.
    pub withdrawn: bool,
    /// Of uplinks: a peer serves the address.
    pub left_to_peers: bool,
    /// Of uplinks: interfaces whose connections are spread.
    pub lan: Vec<String>,
    /// Of uplinks: the first priority of our rules.
    pub rule_priority: Option<u32>,
    /// Links that carry its traffic, by decision.
    pub active: Vec<Share>,
    /// Of uplinks: what names each.
    pub marks: Vec<LinkMark>,
}

/// What names an uplink in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkMark {
    /// Uplink.
    pub link: String,
    /// Its mark, within `mask`.
    pub mark: u32,
    /// The bits of the mark that are ours.
    pub mask: u32,
    /// Its own routing table.
    pub table: u32,
    /// What has such a source leaves by it, whichever link is active: its prefixes and the address that this machine has there.
    #[serde(default)]
    pub sources: Vec<IpNet>,
}
