//! What `link-watcher status` shows: [`Snapshot`]. It speaks to people and scripts, and so has none of the engine's numbers
//! and times.

use serde::{Deserialize, Serialize};

use crate::{event::Role, statistics::Figures};

/// What `link-watcher status --json` prints; see docs for each field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the daemon.
    pub version: String,
    /// Seconds since its start.
    pub uptime_s: f64,
    /// Engine of most links: `xdp`, `tc` or `socket`.
    pub engine: String,
    /// The configuration that runs, and what became of reading it again.
    #[serde(default)]
    pub config: ConfigSnapshot,
    /// Groups, in the order of the file.
    pub groups: Vec<GroupSnapshot>,
    /// Orders that stand for what the configuration does not name now, each in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders_asleep: Vec<String>,
    /// Why what was ordered does not outlive a restart, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_problem: Option<String>,
    /// Why statistics do not outlive a restart, where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics_problem: Option<String>,
}

/// What an operator has ordered of a group, and not taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderSnapshot {
    /// The command: `switch`, `failover` (it is off then), `drain` or `weight`.
    pub what: String,
    /// Link, where it is about one.
    pub link: Option<String>,
    /// Weight, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Who ordered it.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Until when it holds, RFC 3339; nothing: until it is taken back.
    pub until: Option<String>,
    /// Why, in the words of whoever ordered it.
    pub reason: Option<String>,
}

/// The configuration in a [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigSnapshot {
    /// The file.
    pub path: String,
    /// Since when what runs was taken from it, RFC 3339 in UTC with milliseconds.
    pub since: String,
    /// The same in seconds since 1970.
    pub since_unix_s: f64,
    /// Whether what was last read is what runs.
    pub last_reload_successful: bool,
    /// When it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<String>,
    /// Why the file is not what runs, as `check` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When the former configuration returns unless somebody confirms this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed_until: Option<String>,
    /// Why what this run owns in the kernel is not written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_problem: Option<String>,
}

/// A group in a [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSnapshot {
    /// Name.
    pub name: String,
    /// `peer` or `uplinks`.
    pub kind: String,
    /// `client` or `server`; nothing for uplinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether it fails over by itself.
    pub failover: bool,
    /// Link it is pinned to.
    pub pinned: Option<String>,
    /// What was ordered and not taken back, the oldest first.
    #[serde(default)]
    pub orders: Vec<OrderSnapshot>,
    /// Links that carry its traffic.
    pub active: Vec<String>,
    /// Since when, RFC 3339 in UTC with milliseconds.
    pub since: String,
    /// Why these.
    pub reason: String,
    /// For how long the peer's daemon has given no sign of life while its kernel answers, s, at most 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_silence_s: Option<u8>,
    /// Routes.
    pub routes: RoutesSnapshot,
    /// Prefixes that the peer wants sent to it, as far as they are accepted.
    pub announced_to_us: Vec<String>,
    /// How the exchange of prefixes stands; only of a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcements: Option<AnnouncementsSnapshot>,
    /// How often its traffic was moved away from a failure since midnight, UTC.
    #[serde(default)]
    pub failovers_today: u32,
    /// The worst of these: from the last good packet until the kernel had the new routes, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_failover_today_ms: Option<f64>,
    /// Links, in the order of the file.
    pub links: Vec<LinkSnapshot>,
}

/// How the exchange of prefixes with a peer stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnnouncementsSnapshot {
    /// Prefixes that we announce.
    pub sent: usize,
    /// The peer has that list in use, but for what it refuses.
    pub acknowledged: bool,
    /// Since when it has, or has not: RFC 3339.
    pub since: String,
    /// The first prefixes that the peer refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_by_peer: Vec<RefusedPrefix>,
    /// How many it refuses.
    #[serde(default)]
    pub refused_by_peer_count: usize,
    /// Prefixes that the peer announces.
    pub received: usize,
    /// The first of these that are refused.
    pub refused: Vec<RefusedPrefix>,
    /// How many are refused.
    #[serde(default)]
    pub refused_count: usize,
    /// What keeps a list from being used, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An announced prefix that is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPrefix {
    /// Prefix.
    pub prefix: String,
    /// Why.
    pub why: String,
}

/// A group's routes in a [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoutesSnapshot {
    /// Prefixes that stand in the kernel as desired.
    pub installed: usize,
    /// Prefixes that do not: refused announcements, or a route of somebody else's in their place.
    pub refused: usize,
    /// Each refused prefix with the reason; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<String>,
    /// The first of the prefixes that go through the group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Routing table that they stand in: of a peer as configured, of uplinks the one that spreads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Priority of the first of our rules; only of uplinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_priority: Option<u32>,
}

/// A link in a [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkSnapshot {
    /// Name.
    pub name: String,
    /// Interface.
    pub interface: String,
    /// Tier.
    pub tier: u32,
    /// Weight.
    pub weight: u32,
    /// Share of the group's traffic, 0 to 1.
    pub share: f64,
    /// State: `up`, `down`, `starting`, `degraded`, `dampened` or `absent`.
    pub state: String,
    /// Whether traffic may use it.
    pub usable: bool,
    /// Why traffic may not use it, or, of a better tier, does not use it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usable_reason: Option<String>,
    /// Whether it is out of service.
    pub drained: bool,
    /// At which ends it was taken out of service: `here`, `peer`.
    #[serde(default)]
    pub drained_by: Vec<String>,
    /// Which ends send traffic over it, as far as we have heard: `here`, `peer`.
    #[serde(default)]
    pub carried_by: Vec<String>,
    /// Connections that use it, of an uplink that is drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// What verifies its packets: `xdp-native`, `xdp-generic`, `tc`, `socket`.
    pub engine: String,
    /// Why that engine, where it is not the best one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_reason: Option<String>,
    /// Its place in the kernel program's maps, for bpftool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Since when in this state, RFC 3339.
    pub since: String,
    /// The peer's address.
    pub remote: String,
    /// Round-trip time, smoothed, ms; nothing before the first echo.
    pub rtt_ms: Option<f64>,
    /// Its variation, ms.
    pub jitter_ms: Option<f64>,
    /// Probes without an echo among the last ones, 0 to 1.
    pub loss: f64,
    /// Lost on the way to the peer among the last probes, 0 to 1; only of a peer's links, once enough were answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_there: Option<f64>,
    /// Lost on the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_back: Option<f64>,
    /// Probes sent.
    pub sent: u64,
    /// Echoes received.
    pub received: u64,
    /// Packets dropped, by cause.
    pub dropped: DroppedSnapshot,
    /// How often it went down after having been up.
    pub flaps: u64,
    /// Penalty for its flaps, which decays: left out from 3,000 until below 750 (RFC 2439).
    #[serde(default)]
    pub penalty: u32,
    /// Why it went down the last time.
    pub last_down_reason: Option<String>,
    /// Why nothing good arrives, where what arrives is refused for one cause: of the last 10 s, and only while it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<String>,
    /// Our address on it, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Silence for so long means down, ms; of an uplink: so long last as many rounds without enough answers as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection_ms: Option<f64>,
    /// When the last echo came, or the last good round of probes ended: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<String>,
    /// How the other end sees it; only of a peer's links, once its packets have proved to be fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerViewSnapshot>,
    /// Who is asked; only of uplinks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetSnapshot>,
    /// Targets that must answer in one round; only of uplinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_targets: Option<usize>,
    /// Why the last probe without answer had none; only of an uplink that is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Mark of its connections, in hexadecimal, and behind a slash the mask of the bits that are ours; only of uplinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Its own routing table; only of uplinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// How late the probing thread was for this link at worst in the last 5 to 10 s, ms; only of a peer's links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_lateness_ms: Option<f64>,
    /// How it was today and in the last 24 hours; nothing of the links beyond the first 1,024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<StatisticsSnapshot>,
}

/// How a link was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatisticsSnapshot {
    /// Since midnight, UTC.
    pub today: Figures,
    /// In the last 24 hours, to ten minutes.
    pub last_24h: Figures,
}

/// How the peer sees a link, by the last of its packets that were believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerViewSnapshot {
    /// It hears us: its verdict on the link is "up".
    pub hears: bool,
    /// It sends its traffic over it.
    pub active: bool,
    /// Its operator has taken it out of service.
    pub drained: bool,
    /// It is about to stop for a moment.
    pub restarting: bool,
    /// Its order of preference, 0 first.
    pub rank: u16,
    /// How many probes of ours it has received.
    pub received: u64,
    /// How many of its probes we have received.
    pub probes: u64,
    /// When the last of them came: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<String>,
}

/// A target of an uplink's probes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetSnapshot {
    /// Address, with its port where it has one, or URL.
    pub target: String,
    /// Whether it answered the last time that it was asked; nothing: it has not been asked yet.
    pub answers: Option<bool>,
    /// Median round trip, ms.
    pub rtt_ms: Option<f64>,
    /// Mean difference of successive round trips, ms.
    pub jitter_ms: Option<f64>,
    /// Share of its last probes without answer, 0 to 1; nothing while there are none, as after an outage.
    pub loss: Option<f64>,
    /// It loses several times what the others do, by every uplink: it takes no threshold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
}

/// Packets dropped, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedSnapshot {
    /// No packet of ours, though to our port.
    pub malformed: u64,
    /// From an address that is no link's.
    pub unknown: u64,
    /// Seen before, or of a session that is over.
    pub replayed: u64,
    /// Wrong signature or unknown key.
    pub forged: u64,
    /// Our own, mirrored; or both ends have the same role.
    #[serde(default)]
    pub reflected: u64,
    /// Valid echoes that came too late to prove anything.
    #[serde(default)]
    pub late: u64,
    /// From further away than `max-hops` allows.
    #[serde(default)]
    pub distant: u64,
    /// Of another version of the protocol.
    #[serde(default)]
    pub version: u64,
    /// Dropped at the daemon's socket unread: no control packet where a kernel program verifies, or beyond what is looked at.
    #[serde(default)]
    pub junk: u64,
}
