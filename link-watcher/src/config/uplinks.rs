//! `[[uplinks]]`: several ways to the internet.

mod cross;
mod force;
mod host;
mod kind;
mod probe;
mod read;
mod target;

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;

use self::{cross::KERNELS_TABLES, read::MAX_UPLINKS};
pub(super) use self::{
    cross::{check as check_cross, tables},
    force::SCHEMA as FORCE,
    host::check as check_host,
    probe::{LINK_PROBE, SCHEMA as PROBE},
    read::{LINK, UPLINKS, Uplinks},
};
use super::Config;
use crate::{
    event::Failback,
    health::{self, Limits, Share},
};

/// `[[uplinks]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinksConfig {
    /// Name, unique among all groups.
    pub name: String,
    /// What goes through the uplinks; each prefix only in the families that it names.
    pub routes: Vec<IpNet>,
    /// Interfaces whose new connections are spread.
    pub lan: Vec<String>,
    /// Whether a connection stays on its uplink, and replies leave where requests came in.
    pub sticky: bool,
    /// Whether established connections that are forwarded take the kernel's fast path, where it has one.
    pub flowtable: bool,
    /// Bits of the packet and connection mark that are ours: at least one, without a gap.
    pub fwmark_mask: u32,
    /// Priority of our first rule; ours are this one and the next [`RULE_PRIORITIES`] − 1.
    pub rule_priority: u32,
    /// The table that spreads; the uplinks' own are among the ones behind it.
    pub table_base: u32,
    /// When a better tier takes new connections back.
    pub failback: Failback,
    /// What happens then to connections on the uplinks that are left.
    pub failback_connections: FailbackConnections,
    /// How long an uplink must be good, beyond its probe's `rise`, before it is usable again.
    pub hold_up: Duration,
    /// Links that flap are left out until they are quiet (RFC 2439).
    pub dampening: bool,
    /// Connections that shall use one uplink, the first that matches.
    pub force: Vec<ForceConfig>,
    /// The uplinks, at least one, in the order of the file.
    pub links: Vec<UplinkConfig>,
}

impl UplinksConfig {
    /// Whether connections follow new ones to another uplink; else they end where they are.
    pub fn moves_connections(&self) -> bool {
        self.failback_connections == FailbackConnections::Move || !self.sticky
    }

    /// The interfaces that take part in the fast path; none where it is not asked for.
    pub fn fast_path(&self) -> impl Iterator<Item = &str> {
        let all = self.lan.iter().chain(self.links.iter().map(|link| &link.interface));
        all.map(String::as_str).filter(|_| self.flowtable)
    }

    /// The greatest number that an uplink of this group can have, beside the other groups of the configuration: its mark
    /// must fit the bits, and its table must be nobody else's. At least the number of uplinks.
    pub fn room(&self, config: &Config) -> u32 {
        let marks = self.fwmark_mask >> self.fwmark_mask.trailing_zeros();
        let groups = config.uplinks.iter().map(|group| group.table_base);
        let peers = config.peers.iter().flat_map(|peer| [peer.table, peer.range.table_base]);
        let behind = groups.chain(peers).chain([KERNELS_TABLES.0]).filter(|table| *table > self.table_base).min();
        let tables = behind.map_or(u32::MAX, |table| table - self.table_base - 1);
        marks.min(tables).min(MAX_UPLINKS as u32).max(self.links.len() as u32)
    }
}

/// How many rule priorities a group of uplinks owns.
pub const RULE_PRIORITIES: u32 = 1000;

/// What becomes of connections when a better tier takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailbackConnections {
    /// They stay where they are.
    Stay,
    /// They are released, and find their way anew.
    Move,
}

/// `[[uplinks.link]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Name, unique in the group.
    pub name: String,
    /// Interface name, 1 to 15 bytes.
    pub interface: String,
    /// The provider's routers, at most one of each family; where there is none it is learned from the kernel.
    pub gateways: Vec<IpAddr>,
    /// Our addresses, at most one of each family; where there is none, the interface's own.
    pub locals: Vec<IpAddr>,
    /// Prefixes that the provider routes to us: what has a source address in them uses this uplink, untranslated.
    pub prefixes: Vec<IpNet>,
    /// How sources are translated.
    pub nat: Nat,
    /// Preference, the lowest first; 0: never chosen for new connections, still answered.
    pub tier: u32,
    /// Share among the active uplinks of one tier, 1 to 256.
    pub weight: u32,
    /// How it is probed.
    pub probe: ProbeConfig,
}

/// How sources are translated on their way out. IPv6 is never translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Not at all.
    None,
    /// To the address that the interface has (`masquerade`).
    Masquerade,
    /// To this one.
    Source(IpAddr),
}

/// `[[uplinks.force]]`: connections that shall use one uplink. What is not given matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceConfig {
    /// Name of the uplink.
    pub link: String,
    /// Source.
    pub source: Option<IpNet>,
    /// Destination.
    pub destination: Option<IpNet>,
    /// Protocol; ports are only given with TCP or UDP.
    pub protocol: Option<Protocol>,
    /// Destination ports.
    pub ports: Option<RangeInclusive<u16>>,
    /// Whether such connections may use the others while this uplink is not usable; else they fail.
    pub or_others: bool,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, or ICMPv6 for IPv6.
    Icmp,
}

/// `[uplinks.probe]` or an uplink's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// What is sent, and to whom; at least one target, except for [`ProbeKind::Arp`], where none means the gateway.
    pub kind: ProbeKind,
    /// Targets that must answer in one round, at least 1.
    pub required: usize,
    /// Time from the beginning of one round to that of the next.
    pub interval: Duration,
    /// How long an answer may take; at most `interval`.
    pub timeout: Duration,
    /// Failed rounds in a row until it is down.
    pub fall: u32,
    /// Good rounds in a row until it is up again.
    pub rise: u32,
    /// Thresholds: usable only below these; nothing: none.
    pub max_loss: Option<Share>,
    /// Median round trip over the window.
    pub max_rtt: Option<Duration>,
    /// Mean difference of successive round trips over the window.
    pub max_jitter: Option<Duration>,
    /// Probes over which the thresholds are measured, 1 to 1000.
    pub window: usize,
}

impl ProbeConfig {
    /// What is measured, with so many targets.
    pub fn spec(&self, targets: usize) -> health::Spec {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        health::Spec {
            targets,
            required: self.required,
            interval_ns: ns(self.interval),
            timeout_ns: ns(self.timeout),
            fall: self.fall,
            rise: self.rise,
            limits: Limits { loss: self.max_loss, rtt_ns: self.max_rtt.map(ns), jitter_ns: self.max_jitter.map(ns) },
            window: self.window,
        }
    }
}

/// What a probe sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// ICMP or ICMPv6 echo request.
    Icmp {
        /// Whom.
        targets: Vec<IpAddr>,
    },
    /// A TCP connection, closed at once.
    Tcp {
        /// Whom.
        targets: Vec<SocketAddr>,
        /// Whether the server's refusal of the connection (RST) counts as an answer.
        refused: TcpRefusal,
    },
    /// An HTTP or HTTPS request.
    Http {
        /// Whom.
        targets: Vec<HttpTarget>,
        /// Status codes that count as an answer.
        status: RangeInclusive<u16>,
        /// Text that the first 64 KiB of the body must contain.
        body: Option<String>,
    },
    /// A DNS query over UDP.
    Dns {
        /// Servers.
        targets: Vec<SocketAddr>,
        /// Name that is asked for (type A, or AAAA from an IPv6 server).
        query: String,
    },
    /// ARP request or neighbour solicitation of the gateway, or of these.
    Arp {
        /// Whom.
        targets: Vec<IpAddr>,
    },
}

/// What a server's refusal of a TCP connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpRefusal {
    /// That packets get there and back: the uplink works.
    Up,
    /// Nothing: only a connection counts.
    Down,
}

impl ProbeKind {
    /// As the configuration calls it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Icmp { .. } => "icmp",
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
            Self::Dns { .. } => "dns",
            Self::Arp { .. } => "arp",
        }
    }
}

/// Where an HTTP probe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// The URL's scheme is `https`.
    pub tls: bool,
    /// Host as in the URL: sent as `Host`, and the name in the certificate.
    pub host: String,
    /// Address and port: the URL's own, or those of `address` where its host is a name.
    pub address: SocketAddr,
    /// Path and query.
    pub path: String,
}
