//! `explain`: where a packet goes now and why, as the kernel's own tables say, beside what is meant. It changes nothing, and
//! asks the kernel what the kernel tells everybody; what only root may see is named where it cannot be seen.

mod follow;
mod judge;
pub(super) mod kernel;
pub(super) mod nft;
mod render;
#[cfg(test)]
mod tests;

use std::{io, net::IpAddr, path::Path};

use ipnet::IpNet;
use serde::Serialize;

use self::{
    follow::{Follower, Way},
    kernel::Kernel,
    nft::Packet,
};
use super::{
    Exit, Failure, PacketProtocol,
    output::{document, print},
    what_if::{in_words, why_not},
};
use crate::{
    address::longest_match,
    config::{self, Config},
    control::{Client, Intent, Knowledge},
    netlink::{Family, netfilter::Flow},
    status::{GroupSnapshot, LinkSnapshot, Snapshot},
    uplink::nft::table_name,
};

/// Existing connections that are followed.
const FLOWS: usize = 5;

/// Where a packet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    /// This machine makes it.
    Router,
    /// It comes in by this interface.
    Interface(String),
    /// It has this source: one of this machine's own addresses, or somebody else's.
    Address(IpAddr),
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    from: From,
    to: IpAddr,
    protocol: PacketProtocol,
    port: Option<u16>,
}

impl Question {
    pub(super) fn new(
        from: &str,
        to: IpAddr,
        port: Option<u16>,
        protocol: Option<PacketProtocol>,
    ) -> Result<Self, Failure> {
        let usage = |why: String| Failure::new(Exit::Usage, format!("link-watcher: {why}"));
        let from = match from.parse::<IpAddr>() {
            Ok(address) => From::Address(address),
            Err(_) if from == "router" => From::Router,
            Err(_) => From::Interface(from.to_owned()),
        };
        if matches!(&from, From::Address(address) if address.is_ipv4() != to.is_ipv4()) {
            return Err(usage("source and destination are of different families: no packet goes there".to_owned()));
        }
        let protocol = protocol.unwrap_or(if port.is_some() { PacketProtocol::Tcp } else { PacketProtocol::Icmp });
        if port.is_some() && protocol == PacketProtocol::Icmp {
            return Err(usage("icmp has no ports: leave --port out, or say --protocol tcp or udp".to_owned()));
        }
        Ok(Self { from, to, protocol, port })
    }

    /// As nft names it, and as the kernel numbers it.
    fn protocol(&self) -> (&'static str, u8) {
        let (name, number) = match (self.protocol, self.to.is_ipv4()) {
            (PacketProtocol::Tcp, _) => ("tcp", libc::IPPROTO_TCP),
            (PacketProtocol::Udp, _) => ("udp", libc::IPPROTO_UDP),
            (PacketProtocol::Icmp, true) => ("icmp", libc::IPPROTO_ICMP),
            (PacketProtocol::Icmp, false) => ("ipv6-icmp", libc::IPPROTO_ICMPV6),
        };
        // All of them are octets.
        (name, number as u8)
    }
}

/// The answer.
#[derive(Debug, Default, Serialize)]
struct Explanation {
    /// The packet, in words.
    packet: String,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: String,
    port: Option<u16>,
    /// The interface that it comes in by; nothing: this machine makes it.
    incoming: Option<String>,
    /// Why the daemon's mind is not known; then what is meant is what the configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_daemon: Option<String>,
    /// Our table of nftables, where it was seen.
    nftables: Option<String>,
    /// The ways that a new connection may take, with their shares.
    ways: Vec<Way>,
    /// How many connections like it exist; nothing where that could not be seen.
    connections: Option<usize>,
    /// The ways of the first of them.
    existing: Vec<Way>,
    /// Who means to carry it, and where to.
    intent: Option<Intent>,
    /// What is not as meant.
    differences: Vec<Difference>,
    /// What else is worth knowing.
    notes: Vec<String>,
    /// What could not be seen, and why.
    unseen: Vec<String>,
}

/// Something that is not as meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Difference {
    what: String,
    remedy: String,
}

/// A link, as the daemon sees it.
#[derive(Clone, Debug, Default, Serialize)]
struct LinkSaid {
    group: String,
    link: String,
    /// Nothing without a daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usable: Option<bool>,
    /// It carries its group's traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    /// How that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<String>,
}

/// What the daemon says, or the configuration alone.
struct Meant {
    snapshot: Option<Snapshot>,
    config: Option<Config>,
    intents: Vec<Intent>,
    no_daemon: Option<String>,
}

pub(super) fn run(question: &Question, socket: &Path, path: &Path, json: bool) -> Result<Exit, Failure> {
    let explanation = explain(question, socket, path)?;
    if json {
        print(&document(&explanation)?)?;
    } else {
        print(&render::render(&explanation))?;
    }
    Ok(Exit::Done)
}

fn explain(question: &Question, socket: &Path, path: &Path) -> Result<Explanation, Failure> {
    let failed = |error: io::Error| {
        Failure::new(Exit::Failed, format!("link-watcher: the kernel does not tell where packets go: {error}"))
    };
    let meant = meant(question, socket, path);
    let family = if question.to.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut kernel = Kernel::read(family).map_err(failed)?;
    let (packet, incoming, how) = packet(question, &mut kernel)?;
    let mut explanation = Explanation {
        packet: how,
        source: packet.source,
        destination: Some(packet.destination),
        protocol: packet.protocol.to_owned(),
        port: packet.port,
        incoming: packet.incoming.clone(),
        no_daemon: meant.no_daemon.clone(),
        ..Explanation::default()
    };
    let uplinks = meant.intents.iter().any(|intent| intent.kind == "uplinks")
        || meant.config.as_ref().is_none_or(|config| !config.uplinks.is_empty());
    let hooks: &[&str] =
        if incoming.is_some() { &["prerouting", "forward", "postrouting"] } else { &["output", "postrouting"] };
    let name = meant.config.as_ref().map(|config| table_name(config.daemon.instance.as_deref()));
    let nftables = match kernel::nftables(name.as_deref(), hooks) {
        Ok(nftables) => Some(nftables),
        Err(why) => {
            let what = if uplinks { "marks and address translation" } else { "what nftables does to it" };
            explanation.unseen.push(format!("{what}: {why}"));
            None
        }
    };
    let loaded = nftables.as_ref().and_then(|nftables| nftables.ours.as_ref());
    explanation.nftables = loaded.map(|(name, _)| name.clone());
    let mut follower = Follower {
        kernel: &mut kernel,
        table: loaded.map(|(_, loaded)| loaded),
        incoming,
        protocol: question.protocol().1,
        unseen: Vec::new(),
    };
    explanation.ways = follower.follow(packet.clone()).map_err(failed)?;
    let source = explanation.ways.iter().find_map(|way| way.source).or(packet.source);
    match kernel::connections(|flow| alike(flow, question, source), FLOWS) {
        Ok((count, flows)) => {
            explanation.connections = Some(count);
            for flow in flows {
                explanation.existing.extend(existing(&mut follower, &packet, &flow).map_err(failed)?);
            }
        }
        Err(error) => explanation.unseen.push(format!("connections that exist: {}", why_not(&error))),
    }
    let unseen = std::mem::take(&mut follower.unseen);
    explanation.unseen.extend(unseen);
    if let Some(others) = nftables.as_ref().map(|nftables| nftables.others.join(", ")).filter(|o| !o.is_empty()) {
        explanation.unseen.push(format!("what nftables chains of others do to it (drop, mark, translate): {others}"));
    }
    for way in explanation.ways.iter_mut().chain(&mut explanation.existing) {
        for hop in &mut way.hops {
            hop.link = meant.link(&hop.interface, hop.gateway);
        }
    }
    let nft_seen = nftables.is_some();
    judge::judge(&mut explanation, &meant, nft_seen);
    Ok(explanation)
}

/// The packet that is followed, the index of the interface that it comes in by, and how it is called.
fn packet(question: &Question, kernel: &mut Kernel) -> Result<(Packet, Option<u32>, String), Failure> {
    let usage = |why: String| Failure::new(Exit::Usage, format!("link-watcher: {why}"));
    let (name, _) = question.protocol();
    let mut packet = Packet {
        source: None,
        destination: question.to,
        protocol: name,
        port: question.port,
        source_port: None,
        incoming: None,
        outgoing: None,
        mark: 0,
        connection_mark: 0,
        state: "new",
    };
    let to = match question.port {
        Some(port) => format!("to {}, {name} port {port}", question.to),
        None => format!("to {}, {name}", question.to),
    };
    match &question.from {
        From::Router => return Ok((packet, None, format!("made by this machine, {to}"))),
        From::Address(address) if kernel.interfaces.have(*address) => {
            packet.source = Some(*address);
            return Ok((packet, None, format!("made by this machine as {address}, {to}")));
        }
        From::Address(address) => {
            packet.source = Some(*address);
            let interface = nft::Fib::way_out(kernel, *address);
            packet.incoming = Some(interface.ok_or_else(|| {
                usage(format!("there is no way to {address}: by which interface does it come in? Name that instead"))
            })?);
        }
        From::Interface(interface) => {
            packet.incoming = Some(interface.clone());
            packet.source = Some(neighbour(kernel, interface, question.to.is_ipv4()).map_err(usage)?);
        }
    }
    let incoming = packet.incoming.clone().unwrap_or_default();
    let index = kernel.interfaces.index(&incoming);
    let source = packet.source.map(|source| source.to_string()).unwrap_or_default();
    Ok((packet, index, format!("from {source}, which comes in by {incoming}, {to}")))
}

/// An address that somebody behind an interface may have.
fn neighbour(kernel: &Kernel, interface: &str, ipv4: bool) -> Result<IpAddr, String> {
    if kernel.interfaces.get(interface).is_none() {
        let known: Vec<&str> = kernel.interfaces.iter().map(|interface| interface.link.name.as_str()).collect();
        return Err(format!(
            "{interface} is neither an address nor an interface here, nor `router`; there are {}",
            known.join(", ")
        ));
    }
    let connected = kernel.interfaces.connected(interface);
    let mut prefixes = connected.iter().filter(|prefix| prefix.addr().is_ipv4() == ipv4);
    let free = |prefix: &IpNet| prefix.hosts().take(256).find(|host| !kernel.interfaces.have(*host));
    prefixes
        .find_map(free)
        .ok_or_else(|| format!("{interface} has no prefix of that family: name the address that the packet comes from"))
}

/// Whether a connection is one that the question is about.
fn alike(flow: &Flow, question: &Question, source: Option<IpAddr>) -> bool {
    let original = &flow.original;
    original.destination == question.to
        && source.is_none_or(|source| original.source == source)
        && original.protocol == question.protocol().1
        && question.port.is_none_or(|port| original.destination_port == port)
}

/// The way of a connection that exists: its mark decides, and its translation stands.
fn existing(follower: &mut Follower<'_>, packet: &Packet, flow: &Flow) -> io::Result<Vec<Way>> {
    let packet = Packet {
        source: Some(flow.original.source),
        connection_mark: flow.mark,
        state: "established",
        ..packet.clone()
    };
    let answered_to = flow.reply.destination;
    let translated = Some(answered_to.to_string()).filter(|_| answered_to != flow.original.source);
    let ways = follower.follow(packet)?.into_iter();
    Ok(ways.map(|way| Way { connection: Some(in_words(flow)), translated: translated.clone(), ..way }).collect())
}

/// What the daemon means, or the configuration where no daemon answers.
fn meant(question: &Question, socket: &Path, path: &Path) -> Meant {
    let to = question.to;
    let asked = Client::connect(socket).and_then(|mut client| {
        let snapshot = client.status()?;
        Ok((snapshot, client.ask(crate::control::Question::Intent { to })?))
    });
    let config = |path: &Path| config::load(path).ok().map(|loaded| loaded.config);
    match asked {
        Ok((snapshot, known)) => {
            let intents = if let Knowledge::Intent(intents) = known { intents } else { Vec::new() };
            let config = config(Path::new(&snapshot.config.path));
            Meant { snapshot: Some(snapshot), config, intents, no_daemon: None }
        }
        Err(error) => {
            let config = config(path);
            let why = error.to_string().lines().next().unwrap_or_default().to_owned();
            let intents = config.as_ref().map_or_else(Vec::new, |config| of_config(config, to));
            Meant { snapshot: None, config, intents, no_daemon: Some(why) }
        }
    }
}

/// What a configuration alone says of an address: nobody decides about links, and nothing is announced.
fn of_config(config: &Config, to: IpAddr) -> Vec<Intent> {
    let peers = config.peers.iter().filter_map(|peer| {
        let prefix = longest_match(&peer.routes, to)?;
        Some(Intent { group: peer.name.clone(), kind: "peer".to_owned(), prefix, ..Intent::default() })
    });
    let peers: Vec<Intent> = peers.collect();
    let left_to_peers = peers.iter().any(|intent| intent.prefix.prefix_len() > 0);
    let uplinks = config.uplinks.iter().filter_map(|group| {
        Some(Intent {
            group: group.name.clone(),
            kind: "uplinks".to_owned(),
            prefix: longest_match(&group.routes, to)?,
            left_to_peers,
            lan: group.lan.clone(),
            rule_priority: Some(group.rule_priority),
            ..Intent::default()
        })
    });
    let uplinks: Vec<Intent> = uplinks.collect();
    peers.into_iter().chain(uplinks).collect()
}

impl Meant {
    /// The link that a next hop is.
    fn link(&self, interface: &str, gateway: Option<IpAddr>) -> Option<LinkSaid> {
        if let Some(snapshot) = &self.snapshot {
            let links = snapshot.groups.iter().flat_map(|group| group.links.iter().map(move |link| (group, link)));
            let there: Vec<(&GroupSnapshot, &LinkSnapshot)> =
                links.filter(|(_, link)| link.interface == interface).collect();
            let gateway = gateway.map(|gateway| gateway.to_string());
            let exact = there.iter().find(|(_, link)| {
                gateway.as_ref().is_some_and(|gateway| link.remote.split(' ').any(|remote| remote == gateway))
            });
            let (group, link) = exact.or(if there.len() == 1 { there.first() } else { None })?;
            return Some(said(group, link));
        }
        let config = self.config.as_ref()?;
        let peers = config
            .peers
            .iter()
            .flat_map(|peer| peer.links.iter().map(move |link| (&peer.name, &link.name, &link.interface)));
        let uplinks = config
            .uplinks
            .iter()
            .flat_map(|group| group.links.iter().map(move |link| (&group.name, &link.name, &link.interface)));
        let (group, link, _) = peers.chain(uplinks).find(|(.., of)| of.as_str() == interface)?;
        Some(LinkSaid { group: group.clone(), link: link.clone(), ..LinkSaid::default() })
    }
}

/// A link with the evidence for its state.
fn said(group: &GroupSnapshot, link: &LinkSnapshot) -> LinkSaid {
    let mut evidence = vec![format!("{} since {}", link.state, link.since)];
    if link.received > 0 {
        evidence.push(format!("{} of {} probes answered ({})", link.received, link.sent, link.engine));
    }
    evidence.extend(link.rtt_ms.map(|ms| format!("round trip {ms:.3} ms, loss {:.1} %", link.loss * 100.0)));
    evidence.extend(link.usable_reason.clone());
    evidence.extend(link.last_down_reason.iter().filter(|_| link.state != "up").cloned());
    evidence.extend(link.suspicion.clone());
    evidence.dedup();
    LinkSaid {
        group: group.name.clone(),
        link: link.name.clone(),
        state: Some(link.state.clone()),
        usable: Some(link.usable),
        active: Some(group.active.contains(&link.name)),
        evidence,
    }
}
