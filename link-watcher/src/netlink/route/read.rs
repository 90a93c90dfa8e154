//! Routes out of the kernel's messages, whoever wrote them: what is not understood of one never hides its place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::{
    packet_core::{NlaBuffer, ParseableParametrized as _, parse_ip},
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteLwEnCapType, RouteNextHop, RouteNextHopFlags,
            RouteType, RouteVia,
        },
    },
};

use super::{
    Egress, FoundRoute, FoundTableRoute, Hop, Nexthop, RTA_ENCAP, RTA_NH_ID, RTA_VIA, RTMSG_LEN, RouteKey, Way,
    canonical,
};
use crate::netlink::message::{nlas, word};

/// A route message, as the peers' back-end sees it: next hops are routers.
pub(crate) fn parse_route(payload: &[u8]) -> Option<FoundRoute> {
    let found = parse_table_route(payload)?;
    let egress = match found.way {
        Some(Way::Through { hops, .. }) => hops
            .into_iter()
            .map(|Hop { ifindex, gateway, weight, .. }| Some(Nexthop { ifindex, gateway: gateway?, weight }))
            .collect::<Option<Vec<_>>>()
            .map(|nexthops| Egress::Nexthops(canonical(nexthops))),
        Some(Way::Object(id)) => Some(Egress::Object(id)),
        _ => None,
    };
    Some(FoundRoute { key: found.key, protocol: found.protocol, egress })
}

/// A route message. Nothing for what can never be in a place of ours: routes by source or type of service, cached
/// ones, and what is malformed.
///
/// Attributes are decoded one by one, and only those that are wanted: whatever else somebody's route may say, and be it
/// news to us, its place is seen. An attribute of its way that is not understood leaves the way unknown, and no more:
/// a route that is not seen would be a prefix that we lead elsewhere.
pub(crate) fn parse_table_route(payload: &[u8]) -> Option<FoundTableRoute> {
    parse_whole_route(payload).map(|(route, _)| route)
}

/// As [`parse_table_route`], with the interfaces that a unicast route leaves by, in order and each once. The kernel names them also
/// where the route refers to a nexthop object, unless `nexthop_compat_mode` is 0.
pub(crate) fn parse_whole_route(payload: &[u8]) -> Option<(FoundTableRoute, Vec<u32>)> {
    let header = RouteHeader::parse(payload).ok()?;
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if header.source_prefix_length != 0 || header.tos != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let (mut table, mut metric) = (u32::from(header.table), 0);
    let mut found = FoundWay::new(&header);
    for nla in nlas(payload.get(RTMSG_LEN..)?) {
        match nla.kind() {
            libc::RTA_DST => destination = parse_ip(nla.value()).ok()?,
            libc::RTA_TABLE => table = word(nla.value())?,
            libc::RTA_PRIORITY => metric = word(nla.value())?,
            _ => found.take(&nla),
        }
    }
    let interfaces = found.interfaces();
    let route = FoundTableRoute {
        key: RouteKey { table, prefix: IpNet::new(destination, header.destination_prefix_length).ok()?, metric },
        protocol: header.protocol.into(),
        way: found.way(),
    };
    Some((route, interfaces))
}

/// What a message says of a route's way.
struct FoundWay {
    family: AddressFamily,
    kind: RouteType,
    /// The next hop that stands in the message itself.
    only: Hop,
    several: Option<Vec<Hop>>,
    source: Option<IpAddr>,
    object: Option<u32>,
    /// It says nothing that ours never say, nor what is not understood.
    plain: bool,
}

impl FoundWay {
    fn new(header: &RouteHeader) -> Self {
        Self {
            family: header.address_family,
            kind: header.kind,
            only: Hop { ifindex: 0, gateway: None, weight: 1, onlink: header.flags.contains(RouteFlags::Onlink) },
            several: None,
            source: None,
            object: None,
            plain: true,
        }
    }

    /// Takes an attribute in, if it is one that decides the way.
    fn take(&mut self, nla: &NlaBuffer<&[u8]>) {
        match nla.kind() {
            libc::RTA_OIF | libc::RTA_GATEWAY | RTA_VIA | libc::RTA_PREFSRC | libc::RTA_MULTIPATH | RTA_NH_ID => {}
            RTA_ENCAP => {
                self.plain = false;
                return;
            }
            _ => return,
        }
        let context = (self.family, self.kind, RouteLwEnCapType::None);
        match RouteAttribute::parse_with_param(nla, context) {
            Ok(RouteAttribute::Oif(ifindex)) => self.only.ifindex = ifindex,
            Ok(RouteAttribute::PrefSource(address)) => self.source = ip(&address),
            Ok(RouteAttribute::MultiPath(hops)) => {
                self.several = several(&hops);
                self.plain &= self.several.is_some();
            }
            // In compatibility mode the kernel adds the next hops that it leads to.
            Ok(RouteAttribute::NhId(id)) => self.object = Some(id),
            Ok(attribute) => match gateway_of(&attribute) {
                Some(gateway) => self.only.gateway = Some(gateway),
                None => self.plain = false,
            },
            Err(_) => (self.plain, self.object) = (false, None),
        }
    }

    fn interfaces(&self) -> Vec<u32> {
        if self.kind != RouteType::Unicast {
            return Vec::new();
        }
        let hops = self.several.as_deref().unwrap_or(std::slice::from_ref(&self.only));
        let mut interfaces: Vec<u32> = hops.iter().map(|hop| hop.ifindex).filter(|ifindex| *ifindex != 0).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        interfaces
    }

    fn way(self) -> Option<Way> {
        match self.kind {
            RouteType::Unreachable => Some(Way::Unreachable),
            RouteType::Throw => Some(Way::Throw),
            RouteType::Unicast if self.object.is_some() => self.object.map(Way::Object),
            RouteType::Unicast if self.plain => {
                let hops = self.several.unwrap_or_else(|| vec![self.only]);
                hops.iter().all(|hop| hop.ifindex != 0).then_some(Way::Through { hops, source: self.source })
            }
            _ => None,
        }
    }
}

/// Nothing where a gateway is not understood.
fn several(found: &[RouteNextHop]) -> Option<Vec<Hop>> {
    let hop = |found: &RouteNextHop| {
        let mut hop = Hop {
            ifindex: found.interface_index,
            gateway: None,
            weight: u32::from(found.hops) + 1,
            onlink: found.flags.contains(RouteNextHopFlags::Onlink),
        };
        for attribute in &found.attributes {
            if matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)) {
                hop.gateway = Some(gateway_of(attribute)?);
            }
        }
        Some(hop)
    };
    let mut hops = found.iter().map(hop).collect::<Option<Vec<Hop>>>()?;
    // The kernel keeps no weight of a single next hop.
    if let [only] = &mut hops[..] {
        only.weight = 1;
    }
    (!hops.is_empty()).then_some(hops)
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
