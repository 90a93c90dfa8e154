//! What a configuration says once it is validated: nothing in here is unchecked.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{ControlGroup, MetricsConfig, NotifyConfig, UplinksConfig};
use crate::{
    event::{Failback, Role},
    health::Limits,
    keys::Key,
    ledger::DEFAULT_INSTANCE,
    route::{RouteBackend, TableRange},
};

/// A configuration that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: DaemonConfig,
    /// `[[peer]]`.
    pub peers: Vec<PeerConfig>,
    /// `[[uplinks]]`.
    pub uplinks: Vec<UplinksConfig>,
    /// `[metrics]`.
    pub metrics: Option<MetricsConfig>,
    /// `[[notify]]`.
    pub notifiers: Vec<NotifyConfig>,
}

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Where commands reach the daemon.
    pub control_socket: PathBuf,
    /// Where keepalives are verified.
    pub engine: DatapathChoice,
    /// What happens to our routes when the daemon stops.
    pub on_exit: OnExit,
    /// Name of this daemon among several on one machine.
    pub instance: Option<String>,
    /// Whether the probing thread runs under `SCHED_FIFO` with its memory locked.
    pub realtime: bool,
    /// Where daemons keep what outlives them; see [`DaemonConfig::own_state_directory`].
    pub state_directory: PathBuf,
    /// Whose members may ask what is so.
    pub control_group: Option<ControlGroup>,
    /// Where the log goes.
    pub log: LogTarget,
    /// What the kernel program tells of packets; nothing: none of them. Chosen when it is loaded.
    pub kernel_log: Option<KernelLog>,
}

impl DaemonConfig {
    /// Where this daemon keeps what outlives it: the directory of its instance.
    pub fn own_state_directory(&self) -> PathBuf {
        self.state_directory.join(self.instance.as_deref().unwrap_or(DEFAULT_INSTANCE))
    }
}

/// Where keepalives are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathChoice {
    /// The best that works, link by link.
    Auto,
    /// XDP; where that is not to be had, a socket and a warning: an unwatched link would be worse.
    Xdp,
    /// tc; likewise.
    Tc,
    /// A UDP socket.
    Socket,
}

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The journal with fields, where standard error is the journal; else standard error.
    Auto,
    /// Datagrams to `/dev/log`.
    Syslog,
    /// Lines on standard error.
    Stderr,
}

/// What the kernel program tells of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelLog {
    /// Nothing is an error.
    Error,
    /// Nothing is worth a warning.
    Warn,
    /// What is dropped, and why.
    Info,
    /// And what is good.
    Debug,
}

/// What becomes of a peer's routes while none of its links is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllDown {
    /// They stay: a link that comes back finds its traffic.
    Keep,
    /// They go, so that somebody else's with a worse metric carry the traffic meanwhile.
    Withdraw,
}

/// What happens to our routes when the daemon stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// They stay.
    Keep,
    /// They go.
    Remove,
}

/// `[[peer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Name, unique among all groups.
    pub name: String,
    /// Which end this is.
    pub role: Role,
    /// UDP port at both ends.
    pub port: u16,
    /// Keys, at least one; the first signs, all verify.
    pub keys: Vec<Key>,
    /// Time between two probes of a link, 1 ms to 60 s.
    pub interval: Duration,
    /// Silence for so many intervals means down, 1 to 255.
    pub multiplier: u32,
    /// What this router sends through the peer.
    pub routes: Vec<IpNet>,
    /// What the peer shall send through us.
    pub announce: Vec<IpNet>,
    /// Interfaces whose connected prefixes the peer shall send through us too.
    pub announce_interfaces: Vec<String>,
    /// Protocol numbers: routes of these that leave by those interfaces, too.
    pub announce_routes: Vec<u8>,
    /// Announced prefixes outside of these are refused.
    pub accept: Vec<IpNet>,
    /// Most prefixes of the peer's announcements, 1 to 65,536; a longer list is refused whole.
    pub max_prefixes: usize,
    /// When a better tier takes the traffic back.
    pub failback: Failback,
    /// How long a link must be good before it is usable again.
    pub hold_up: Duration,
    /// What becomes of our routes while no link is usable.
    pub when_all_down: WhenAllDown,
    /// Beyond these a link is degraded: used only where nothing else is up.
    pub limits: Limits,
    /// Links that flap are left out until they are quiet (RFC 2439).
    pub dampening: bool,
    /// Routing table, 1 to 2^32 − 1.
    pub table: u32,
    /// Metric of the active route; 0: before all others, which is 1 for IPv6, in front of router advertisements (1024).
    pub metric: u32,
    /// Which back-end serves its prefixes.
    pub actuation: RouteBackend,
    /// Tables and rules of the back-end of tables.
    pub range: TableRange,
    /// Its links, at least one, in the order of the file.
    pub links: Vec<PeerLinkConfig>,
}

/// `[[peer.link]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLinkConfig {
    /// Name, unique in the peer.
    pub name: String,
    /// Interface name, 1 to 15 bytes.
    pub interface: String,
    /// Our address; where not given, the interface's own in the remote's prefix.
    pub local: Option<IpAddr>,
    /// The peer's address.
    pub remote: IpAddr,
    /// Preference, the lowest first.
    pub tier: u32,
    /// Share among the active links of one tier, 1 to 256.
    pub weight: u32,
    /// How far away the peer may be: 1: no router between; nothing: 1 where `remote` is on the link, else any.
    pub max_hops: Option<u8>,
}
