//! Routes as rtnetlink messages (linux/rtnetlink.h, `struct rtmsg`).

mod read;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use rtnetlink::{
    RouteMessageBuilder, RouteNextHopBuilder,
    packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily,
        route::{
            RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType, RouteVia,
        },
    },
};

pub(crate) use self::read::{parse_route, parse_table_route, parse_whole_route};
use super::{
    PROTOCOL,
    message::{Batch, attribute, word},
};

/// Length of `struct rtmsg`.
const RTMSG_LEN: usize = 12;

/// The route refers to a nexthop object.
const RTA_NH_ID: u16 = 30;
/// Likewise: libc has these for glibc alone, and a program that needs no library is built for musl.
pub(super) const RTA_VIA: u16 = 18;
pub(super) const RTA_ENCAP: u16 = 22;

/// A way out: an interface and the router behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexthop {
    /// Interface; 0: there is none now, and the next hop is left out.
    pub ifindex: u32,
    /// The router's address. An IPv6 one serves IPv4 prefixes too, but not the reverse.
    pub gateway: IpAddr,
    /// Share among the next hops of one route, 1 to 256.
    pub weight: u32,
}

/// A place in the kernel's tables, which holds one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub prefix: IpNet,
    /// Metric as the kernel counts: never 0 for IPv6.
    pub metric: u32,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {} table {}", self.prefix, self.metric, self.table)
    }
}

/// A route of ours, as it shall be or as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it stands.
    pub key: RouteKey,
    /// Where it leads.
    pub egress: Egress,
}

/// Where a route of ours leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Through these next hops: at least one, in canonical order, because in another the kernel would move every flow.
    Nexthops(Vec<Nexthop>),
    /// Wherever the nexthop object of this id leads.
    Object(u32),
}

impl Egress {
    /// Whether a next hop is through this interface, as far as the route itself tells.
    pub(crate) fn uses(&self, ifindex: u32) -> bool {
        matches!(self, Self::Nexthops(nexthops) if nexthops.iter().any(|nexthop| nexthop.ifindex == ifindex))
    }
}

/// A route that the kernel has, anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// Where it stands.
    pub key: RouteKey,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// Where it leads; nothing where it is neither a unicast route with gateways nor one through a nexthop object, so
    /// none that we would make.
    pub egress: Option<Egress>,
}

/// A next hop of a route in a table of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub ifindex: u32,
    /// The router there; nothing where the destination is on the link, or the link has only one other end.
    pub gateway: Option<IpAddr>,
    /// Share among the hops of one route, 1 to 256; 1 of a single one.
    pub weight: u32,
    /// The gateway is on the link, whatever the tables say.
    pub onlink: bool,
}

impl From<&Nexthop> for Hop {
    fn from(nexthop: &Nexthop) -> Self {
        Self { ifindex: nexthop.ifindex, gateway: Some(nexthop.gateway), weight: nexthop.weight, onlink: false }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out.
    Through {
        /// At least one, in the order that the kernel has; another order would move every flow. None in a removal:
        /// whatever they are.
        hops: Vec<Hop>,
        /// Address that the machine's own packets get, where they have none yet.
        source: Option<IpAddr>,
    },
    /// Nowhere: the sender gets ICMP destination unreachable.
    Unreachable,
    /// Out of this table: the rules behind the one that led here are asked.
    Throw,
    /// Wherever the nexthop object of this id leads.
    Object(u32),
}

/// A route in a table of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRoute {
    /// Where it stands.
    pub key: RouteKey,
    /// Where it leads.
    pub way: Way,
}

/// A route that the kernel has, anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTableRoute {
    /// Where it stands.
    pub key: RouteKey,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// Where it leads; nothing for what we would never make, such as a local route or one with an encapsulation.
    pub way: Option<Way>,
}

impl FoundTableRoute {
    /// How a route of ours is found.
    pub fn ours(route: &TableRoute) -> Self {
        Self { key: route.key, protocol: PROTOCOL, way: Some(route.way.clone()) }
    }
}

/// How a route is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Only where nothing stands.
    Create,
    /// Whatever stands there.
    Replace,
    /// Behind whatever stands there: for IPv4 alone, where routes of one place stay apart.
    Append,
}

impl Mode {
    const fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Append => NLM_F_CREATE | NLM_F_APPEND,
        }
    }
}

/// A message with what names the place.
fn place(key: &RouteKey, scope: RouteScope, kind: RouteType) -> RouteMessage {
    match key.prefix {
        IpNet::V4(prefix) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new();
            placed(builder.destination_prefix(prefix.addr(), prefix.prefix_len()), key, scope, kind)
        }
        IpNet::V6(prefix) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new();
            placed(builder.destination_prefix(prefix.addr(), prefix.prefix_len()), key, scope, kind)
        }
    }
}

fn placed<T>(builder: RouteMessageBuilder<T>, key: &RouteKey, scope: RouteScope, kind: RouteType) -> RouteMessage {
    // The builder's own protocol is `Static`.
    let builder = builder.table_id(key.table).protocol(RouteProtocol::Other(PROTOCOL)).scope(scope).kind(kind);
    (if key.metric == 0 { builder } else { builder.priority(key.metric) }).build()
}

/// Adds a request that writes the route.
pub(crate) fn write(batch: &mut Batch, route: &Route, mode: Mode) {
    let mut message = place(&route.key, RouteScope::Universe, RouteType::Unicast);
    match &route.egress {
        Egress::Nexthops(nexthops) => hops(&mut message, nexthops.iter().map(Hop::from)),
        Egress::Object(id) => message.attributes.push(RouteAttribute::NhId(*id)),
    }
    batch.request(libc::RTM_NEWROUTE, mode.flags(), &message);
}

/// Adds a request that removes the route. The kernel compares the protocol, and for IPv4, where a metric of 0 means
/// any, the next hops too. For IPv6 next hops would remove only themselves from a multipath route, and the metric is exact.
/// Of a nexthop object it compares the id for both.
pub(crate) fn delete(batch: &mut Batch, route: &Route) {
    let mut message = place(&route.key, RouteScope::Universe, RouteType::Unicast);
    match &route.egress {
        Egress::Nexthops(nexthops) if route.key.prefix.addr().is_ipv4() => {
            hops(&mut message, nexthops.iter().map(Hop::from));
        }
        Egress::Nexthops(_) => {}
        Egress::Object(id) => message.attributes.push(RouteAttribute::NhId(*id)),
    }
    batch.request(libc::RTM_DELROUTE, 0, &message);
}

/// Adds a request that writes the route.
pub(crate) fn write_table_route(batch: &mut Batch, route: &TableRoute, mode: Mode) {
    let scope = match &route.way {
        // As ip-route(8) does: what leads straight to the destination ends on the link.
        Way::Through { hops, .. } if hops.iter().all(|hop| hop.gateway.is_none()) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    let mut message = place(&route.key, scope, route.way.kind());
    way(&mut message, &route.way);
    batch.request(libc::RTM_NEWROUTE, mode.flags(), &message);
}

/// Adds a request that removes the route; the kernel compares as with [`delete`], and for IPv4 the preferred source too.
pub(crate) fn delete_table_route(batch: &mut Batch, route: &TableRoute) {
    // Any other scope would have to be the route's own.
    let mut message = place(&route.key, RouteScope::NoWhere, route.way.kind());
    if route.key.prefix.addr().is_ipv4() || matches!(route.way, Way::Object(_)) {
        way(&mut message, &route.way);
    }
    batch.request(libc::RTM_DELROUTE, 0, &message);
}

impl Way {
    const fn kind(&self) -> RouteType {
        match self {
            Self::Unreachable => RouteType::Unreachable,
            Self::Throw => RouteType::Throw,
            Self::Through { .. } | Self::Object(_) => RouteType::Unicast,
        }
    }
}

fn way(message: &mut RouteMessage, way: &Way) {
    match way {
        Way::Through { hops: through, source } => {
            hops(message, through.iter().copied());
            message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
        }
        Way::Object(id) => message.attributes.push(RouteAttribute::NhId(*id)),
        Way::Unreachable | Way::Throw => {}
    }
}

/// One next hop stands in the message itself, several in an attribute of their own. None, in a removal, means whatever
/// there are.
fn hops(message: &mut RouteMessage, mut hops: impl ExactSizeIterator<Item = Hop>) {
    let family = message.header.address_family;
    if hops.len() == 1
        && let Some(only) = hops.next()
    {
        message.attributes.push(RouteAttribute::Oif(only.ifindex));
        message.attributes.extend(only.gateway.map(|address| gateway(family, address)));
        message.header.flags.set(RouteFlags::Onlink, only.onlink);
    } else if hops.len() > 0 {
        message.attributes.push(RouteAttribute::MultiPath(hops.map(|hop| one_of_several(family, hop)).collect()));
    }
}

fn one_of_several(family: AddressFamily, hop: Hop) -> RouteNextHop {
    let builder = RouteNextHopBuilder::new(family).interface(hop.ifindex);
    // The kernel's number is one less.
    let builder = builder.weight((hop.weight.clamp(1, 256) - 1) as u8);
    let mut built = (if hop.onlink { builder.onlink() } else { builder }).build();
    built.attributes.extend(hop.gateway.map(|address| gateway(family, address)));
    built
}

/// An IPv4 route names an IPv6 gateway by another attribute, with its family. The builders would take an IPv4 gateway of an
/// IPv6 route for an error that we had to handle: the kernel refuses it well enough.
fn gateway(family: AddressFamily, gateway: IpAddr) -> RouteAttribute {
    match gateway {
        IpAddr::V6(gateway) if family == AddressFamily::Inet => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        gateway => RouteAttribute::Gateway(gateway.into()),
    }
}

/// Which routes a dump is to have; with strict checking the kernel leaves out the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filter {
    /// Those with this protocol number.
    pub(crate) protocol: Option<u8>,
    /// Those of this table.
    pub(crate) table: Option<u32>,
    /// Those through this interface.
    pub(crate) ifindex: Option<u32>,
}

/// Adds a dump request. The builder's message would ask for unicast routes with protocol `Static` alone.
pub(crate) fn dump(batch: &mut Batch, family: u8, filter: Filter) {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::from(family);
    message.header.protocol = RouteProtocol::from(filter.protocol.unwrap_or(libc::RTPROT_UNSPEC));
    message.attributes.extend(filter.table.map(RouteAttribute::Table));
    message.attributes.extend(filter.ifindex.map(RouteAttribute::Oif));
    batch.request(libc::RTM_GETROUTE, NLM_F_DUMP, &message);
}

/// Adds a question for the way of a UDP packet.
pub(crate) fn look_up(batch: &mut Batch, destination: Ipv4Addr, source_port: u16, port: u16) {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.attributes = vec![
        RouteAttribute::Destination(destination.into()),
        RouteAttribute::IpProto(libc::IPPROTO_UDP as u8),
        RouteAttribute::Sport(source_port),
        RouteAttribute::Dport(port),
    ];
    batch.request(libc::RTM_GETROUTE, 0, &message);
}

/// The interface in the answer to [`look_up`].
pub(crate) fn parse_way_out(payload: &[u8]) -> Option<u32> {
    attribute(payload.get(RTMSG_LEN..)?, libc::RTA_OIF).and_then(word)
}

/// Sorted by gateway, then interface, with a weight in the kernel's range; a next hop that comes twice counts once.
pub(crate) fn canonical(nexthops: impl IntoIterator<Item = Nexthop>) -> Vec<Nexthop> {
    let mut nexthops: Vec<Nexthop> =
        nexthops.into_iter().map(|nexthop| Nexthop { weight: nexthop.weight.clamp(1, 256), ..nexthop }).collect();
    nexthops.sort_by_key(|nexthop| (nexthop.gateway, nexthop.ifindex));
    nexthops.dedup_by_key(|nexthop| (nexthop.gateway, nexthop.ifindex));
    // The kernel keeps no weight of a single next hop.
    if let [only] = &mut nexthops[..] {
        only.weight = 1;
    }
    nexthops
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::message::messages;

    fn hop(ifindex: u32, gateway: &str, weight: u32) -> Nexthop {
        Nexthop { ifindex, gateway: gateway.parse().unwrap(), weight }
    }

    #[test]
    fn routes_read_back_as_written() {
        for (prefix, metric, table, nexthops) in [
            ("0.0.0.0/0", 0, 254, vec![hop(3, "198.51.100.1", 1)]),
            ("10.20.20.0/22", 7, 7000, vec![hop(3, "198.51.100.1", 2), hop(4, "203.0.113.1", 256)]),
            ("10.20.20.0/22", 7, 7000, vec![hop(3, "198.51.100.1", 2), hop(4, "2001:db8::1", 1)]),
            ("10.20.20.0/22", 0, 1, vec![hop(3, "fe80::1", 1)]),
            ("2001:db8:1::/48", 1024, 254, vec![hop(3, "fe80::1", 1)]),
            ("::/0", 1025, 254, vec![hop(3, "fe80::1", 5), hop(4, "fe80::1", 1)]),
        ] {
            let key = RouteKey { table, prefix: prefix.parse().unwrap(), metric };
            let route = Route { key, egress: Egress::Nexthops(nexthops) };
            let mut batch = Batch::default();
            write(&mut batch, &route, Mode::Create);
            let message = messages(batch.bytes()).next().unwrap();
            let found = parse_route(message.payload()).unwrap();
            let expected = FoundRoute { key: route.key, protocol: PROTOCOL, egress: Some(route.egress) };
            assert_eq!(found, expected, "{prefix}");
        }
    }

    #[test]
    fn routes_of_tables_read_back_as_written() {
        let hop = |ifindex, gateway: &str, weight, onlink| Hop {
            ifindex,
            gateway: (!gateway.is_empty()).then(|| gateway.parse().unwrap()),
            weight,
            onlink,
        };
        let through = |hops: &[Hop], source: &str| Way::Through {
            hops: hops.to_vec(),
            source: (!source.is_empty()).then(|| source.parse().unwrap()),
        };
        for (prefix, metric, way) in [
            ("0.0.0.0/0", 0, through(&[hop(3, "198.51.100.1", 1, true)], "198.51.100.2")),
            ("0.0.0.0/0", 0, through(&[hop(3, "", 1, false)], "")),
            ("0.0.0.0/0", u32::MAX, Way::Unreachable),
            ("::/0", u32::MAX, Way::Unreachable),
            ("10.20.20.0/22", 1, Way::Throw),
            ("2001:db8::/32", 1, Way::Throw),
            ("10.20.20.0/22", 0, Way::Object(1_000_000)),
            ("2001:db8::/32", 1024, Way::Object(1_000_001)),
            ("0.0.0.0/0", 0, through(&[hop(3, "", 5, false), hop(2, "198.51.100.1", 256, true)], "")),
            ("::/0", 1024, through(&[hop(3, "fe80::1", 1, true), hop(2, "2001:db8::1", 3, true)], "")),
            ("::/0", 1024, through(&[hop(3, "fe80::1", 1, true)], "2001:db8::2")),
        ] {
            let route = TableRoute { key: RouteKey { table: 7001, prefix: prefix.parse().unwrap(), metric }, way };
            let mut batch = Batch::default();
            write_table_route(&mut batch, &route, Mode::Replace);
            let found = parse_table_route(messages(batch.bytes()).next().unwrap().payload()).unwrap();
            let expected = FoundTableRoute { key: route.key, protocol: PROTOCOL, way: Some(route.way) };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_route_without_a_gateway_is_none_of_ours() {
        let key = RouteKey { table: 254, prefix: "10.0.0.0/8".parse().unwrap(), metric: 0 };
        let mut message = place(&key, RouteScope::Link, RouteType::Unicast);
        message.attributes.push(RouteAttribute::Oif(3));
        let mut batch = Batch::default();
        batch.request(libc::RTM_NEWROUTE, 0, &message);
        let found = parse_route(messages(batch.bytes()).next().unwrap().payload()).unwrap();
        assert_eq!((found.key, found.egress), (key, None));
    }
}
