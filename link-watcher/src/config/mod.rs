//! The configuration: TOML to a validated [`Config`]. Past [`Config`] nothing is optional that the daemon needs, and
//! nothing unchecked.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::{
    event::{Failback, Role},
    keys::Key,
};

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: DaemonConfig,
    /// `[[peer]]`.
    pub peers: Vec<PeerConfig>,
}

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Where commands reach the daemon.
    pub control_socket: PathBuf,
    /// Where keepalives are verified.
    pub engine: EngineChoice,
    /// What happens to our routes when the daemon stops.
    pub on_exit: OnExit,
    /// Name of this daemon among several on one machine.
    pub instance: Option<String>,
    /// Whether the probing thread runs under `SCHED_FIFO` with its memory locked.
    pub realtime: bool,
}

/// Where keepalives are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that works, link by link.
    Auto,
    /// XDP, or the link is not started.
    Xdp,
    /// tc, or the link is not started.
    Tc,
    /// A UDP socket.
    Socket,
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
#[derive(Clone, Debug)]
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
    /// Announced prefixes outside of these are refused.
    pub accept: Vec<IpNet>,
    /// When a better tier takes the traffic back.
    pub failback: Failback,
    /// How long a link must be good before it is usable again.
    pub hold_up: Duration,
    /// Routing table, 1 to 2^32 − 1.
    pub table: u32,
    /// Metric of the active route.
    pub metric: u32,
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
}
