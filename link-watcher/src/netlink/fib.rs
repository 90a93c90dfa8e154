//! The kernel's answer to where a packet goes (`RTM_GETROUTE` without a dump): its own rules and tables decide it, not ours.

use std::net::IpAddr;

use rtnetlink::{
    packet_core::parse_ip,
    packet_route::{
        AddressFamily,
        route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
    },
};

use super::{
    Requests,
    message::{Batch, attribute, family, word},
    route::{FoundTableRoute, RTA_VIA, parse_whole_route},
    socket::KernelError,
};

/// Length of `struct rtmsg`.
const RTMSG_LEN: usize = 12;
/// `struct rtvia` begins with the family, two bytes.
const RTVIA_FAMILY_LEN: usize = 2;

/// A packet whose way is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: IpAddr,
    /// Index of the interface that it comes in by; nothing: this machine sends it.
    pub(crate) incoming: Option<u32>,
    pub(crate) mark: u32,
    /// `IPPROTO_*`.
    pub(crate) protocol: u8,
    /// Destination port.
    pub(crate) port: Option<u16>,
}

/// Where the kernel sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// `RTN_*`: to another machine, to this one, to all.
    pub(crate) kind: RouteType,
    /// The table that has the route.
    pub(crate) table: u32,
    /// The interface that it leaves by; 0: none.
    pub(crate) ifindex: u32,
    /// The router there; nothing where the destination is on the link.
    pub(crate) gateway: Option<IpAddr>,
    /// The source that this machine's own packets get.
    pub(crate) source: Option<IpAddr>,
}

/// The route that decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    pub(crate) kind: RouteType,
    pub(crate) route: FoundTableRoute,
    /// The interfaces that it leaves by.
    pub(crate) interfaces: Vec<u32>,
}

/// What became of a question: the answer, or what the kernel does instead of sending the packet.
pub(crate) type Answer<T> = Result<T, KernelError>;

/// Where the kernel sends the packet; of several next hops that which it takes for these addresses.
pub(crate) fn choose(requests: &mut Requests, packet: &Packet) -> std::io::Result<Answer<Chosen>> {
    ask(requests, packet, RouteFlags::empty(), |payload| {
        let header = RouteHeader::parse(payload).ok()?;
        let attributes = payload.get(RTMSG_LEN..)?;
        let of = |kind| attribute(attributes, kind);
        let via = || of(RTA_VIA).and_then(|via| parse_ip(via.get(RTVIA_FAMILY_LEN..)?).ok());
        Some(Chosen {
            kind: header.kind,
            table: of(libc::RTA_TABLE).and_then(word).unwrap_or(u32::from(header.table)),
            ifindex: of(libc::RTA_OIF).and_then(word).unwrap_or_default(),
            gateway: of(libc::RTA_GATEWAY).and_then(|gateway| parse_ip(gateway).ok()).or_else(via),
            source: of(libc::RTA_PREFSRC).and_then(|source| parse_ip(source).ok()),
        })
    })
}

/// The route that the kernel takes for the packet, with all of its next hops.
pub(crate) fn find(requests: &mut Requests, packet: &Packet) -> std::io::Result<Answer<Matched>> {
    ask(requests, packet, RouteFlags::FibMatch, |payload| {
        let kind = RouteHeader::parse(payload).ok()?.kind;
        let (route, interfaces) = parse_whole_route(payload)?;
        Some(Matched { kind, route, interfaces })
    })
}

fn ask<T>(
    requests: &mut Requests,
    packet: &Packet,
    flags: RouteFlags,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> std::io::Result<Answer<T>> {
    let mut batch = Batch::default();
    batch.request(libc::RTM_GETROUTE, 0, &question(packet, flags));
    let mut found = None;
    let results = requests.ask(&mut batch, |message| found = parse(message.payload()))?;
    match (results.into_iter().find_map(Result::err), found) {
        (Some(error), _) => Ok(Err(error)),
        (None, Some(found)) => Ok(Ok(found)),
        (None, None) => Err(std::io::Error::other("the kernel's answer is not understood")),
    }
}

fn question(packet: &Packet, flags: RouteFlags) -> RouteMessage {
    let length = if packet.destination.is_ipv4() { 32 } else { 128 };
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::from(family(packet.destination));
    message.header.destination_prefix_length = length;
    message.header.flags = flags;
    // IPv4 would say that every table is the main one. IPv6 names the table unasked, and refuses the flag
    // (`inet6_rtm_valid_getroute_req` of net/ipv6/route.c).
    if packet.destination.is_ipv4() {
        message.header.flags |= RouteFlags::LookupTable;
    }
    message.attributes = vec![
        RouteAttribute::Destination(packet.destination.into()),
        RouteAttribute::Mark(packet.mark),
        RouteAttribute::IpProto(packet.protocol),
    ];
    if let Some(source) = packet.source {
        message.header.source_prefix_length = length;
        message.attributes.push(RouteAttribute::Source(source.into()));
    }
    message.attributes.extend(packet.incoming.map(RouteAttribute::Iif));
    // The kernel takes ports of protocols that have some.
    let has_ports = matches!(libc::c_int::from(packet.protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP);
    message.attributes.extend(packet.port.filter(|_| has_ports).map(RouteAttribute::Dport));
    message
}
