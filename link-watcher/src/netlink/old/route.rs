//! Routes as rtnetlink messages (linux/rtnetlink.h, `struct rtmsg`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::wire::{Batch, address, append_attribute, attributes, read_u16, read_u32};
use crate::netlink::{
    Egress, FoundRoute, FoundTableRoute, Hop, Nexthop, PROTOCOL, Route, RouteKey, TableRoute, Way, canonical,
    route::{Filter, Mode},
};

/// `struct rtmsg`: family, destination length, source length, tos, table, protocol, scope, type: a byte each; flags u32.
const RTMSG_LEN: usize = 12;
/// `struct rtnexthop`: length u16, flags u8, weight − 1 u8, interface i32.
const RTNEXTHOP_LEN: usize = 8;
/// The route refers to a nexthop object.
const RTA_NH_ID: u16 = 30;
/// The gateway is on the link, whatever the tables say (linux/rtnetlink.h).
const RTNH_F_ONLINK: u8 = 4;

pub(crate) fn family(prefix: &IpNet) -> u8 {
    (if prefix.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// The fixed part and the attributes that name the place.
fn place(batch: &mut Batch, message: u16, flags: i32, key: &RouteKey, scope: u8, kind: u8) {
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = family(&key.prefix);
    fixed[1] = key.prefix.prefix_len();
    // Tables beyond 255 are named by the attribute alone.
    fixed[4] = u8::try_from(key.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    fixed[5] = PROTOCOL;
    fixed[6] = scope;
    fixed[7] = kind;
    batch.request(message, flags as u16, &fixed);
    batch.attribute_with(libc::RTA_DST, |bytes| append_address(bytes, key.prefix.addr()));
    batch.attribute(libc::RTA_TABLE, &key.table.to_ne_bytes());
    if key.metric != 0 {
        batch.attribute(libc::RTA_PRIORITY, &key.metric.to_ne_bytes());
    }
}

fn mode_flags(mode: Mode) -> i32 {
    match mode {
        Mode::Create => libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        Mode::Replace => libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
    }
}

/// Adds a request that writes the route.
pub(crate) fn write(batch: &mut Batch, route: &Route, mode: Mode) {
    place(batch, libc::RTM_NEWROUTE, mode_flags(mode), &route.key, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
    match &route.egress {
        Egress::Nexthops(nexthops) => hops(batch, &route.key, nexthops.iter().map(Hop::from)),
        Egress::Object(id) => batch.attribute(RTA_NH_ID, &id.to_ne_bytes()),
    }
}

/// Adds a request that removes the route. The kernel compares the protocol, and for IPv4, where a metric of 0 means
/// any, the next hops too. For IPv6 next hops would remove only themselves from a multipath route, and the metric is exact.
/// Of a nexthop object it compares the id for both.
pub(crate) fn delete(batch: &mut Batch, route: &Route) {
    place(batch, libc::RTM_DELROUTE, 0, &route.key, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
    match &route.egress {
        Egress::Nexthops(nexthops) if route.key.prefix.addr().is_ipv4() => {
            hops(batch, &route.key, nexthops.iter().map(Hop::from));
        }
        Egress::Nexthops(_) => {}
        Egress::Object(id) => batch.attribute(RTA_NH_ID, &id.to_ne_bytes()),
    }
}

/// Adds a request that writes the route.
pub(crate) fn write_table_route(batch: &mut Batch, route: &TableRoute, mode: Mode) {
    let (scope, kind) = match &route.way {
        Way::Unreachable => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNREACHABLE),
        Way::Throw => (libc::RT_SCOPE_UNIVERSE, libc::RTN_THROW),
        // As ip-route(8) does: what leads straight to the destination ends on the link.
        Way::Through { hops, .. } if hops.iter().all(|hop| hop.gateway.is_none()) => {
            (libc::RT_SCOPE_LINK, libc::RTN_UNICAST)
        }
        Way::Through { .. } | Way::Object(_) => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST),
    };
    place(batch, libc::RTM_NEWROUTE, mode_flags(mode), &route.key, scope, kind);
    way(batch, route);
}

/// Adds a request that removes the route; the kernel compares as with [`delete`], and for IPv4 the preferred source too.
pub(crate) fn delete_table_route(batch: &mut Batch, route: &TableRoute) {
    let kind = match route.way {
        Way::Unreachable => libc::RTN_UNREACHABLE,
        Way::Throw => libc::RTN_THROW,
        Way::Through { .. } | Way::Object(_) => libc::RTN_UNICAST,
    };
    place(batch, libc::RTM_DELROUTE, 0, &route.key, libc::RT_SCOPE_NOWHERE, kind);
    if route.key.prefix.addr().is_ipv4() || matches!(route.way, Way::Object(_)) {
        way(batch, route);
    }
}

fn way(batch: &mut Batch, route: &TableRoute) {
    if let Way::Object(id) = route.way {
        batch.attribute(RTA_NH_ID, &id.to_ne_bytes());
    }
    let Way::Through { hops: through, source } = &route.way else { return };
    hops(batch, &route.key, through.iter().copied());
    if let Some(source) = *source {
        batch.attribute_with(libc::RTA_PREFSRC, |bytes| append_address(bytes, source));
    }
}

fn hops(batch: &mut Batch, key: &RouteKey, mut hops: impl ExactSizeIterator<Item = Hop>) {
    let v4 = key.prefix.addr().is_ipv4();
    if hops.len() == 1
        && let Some(only) = hops.next()
    {
        batch.attribute(libc::RTA_OIF, &only.ifindex.to_ne_bytes());
        if let Some(gateway) = only.gateway {
            batch.attribute_with(gateway_kind(v4, gateway), |bytes| append_gateway(bytes, v4, gateway));
        }
        batch.route_flags(hop_flags(&only));
        return;
    }
    // A removal that names none means whatever there are.
    if hops.len() == 0 {
        return;
    }
    batch.attribute_with(libc::RTA_MULTIPATH, |bytes| {
        for hop in hops {
            let start = bytes.len();
            bytes.extend_from_slice(&[0, 0, hop_flags(&hop), (hop.weight.clamp(1, 256) - 1) as u8]);
            bytes.extend_from_slice(&hop.ifindex.to_ne_bytes());
            if let Some(gateway) = hop.gateway {
                append_attribute(bytes, gateway_kind(v4, gateway), |bytes| append_gateway(bytes, v4, gateway));
            }
            let length = (bytes.len() - start) as u16;
            bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        }
    });
}

fn hop_flags(hop: &Hop) -> u8 {
    if hop.onlink { RTNH_F_ONLINK } else { 0 }
}

/// An IPv4 route names an IPv6 gateway by another attribute, with its family.
fn gateway_kind(v4: bool, gateway: IpAddr) -> u16 {
    if v4 && gateway.is_ipv6() { libc::RTA_VIA } else { libc::RTA_GATEWAY }
}

fn append_gateway(bytes: &mut Vec<u8>, v4: bool, gateway: IpAddr) {
    if v4 && gateway.is_ipv6() {
        bytes.extend_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    }
    append_address(bytes, gateway);
}

pub(crate) fn append_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
}

/// Adds a dump request.
pub(crate) fn dump(batch: &mut Batch, family: u8, filter: Filter) {
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = family;
    fixed[5] = filter.protocol.unwrap_or(libc::RTPROT_UNSPEC);
    batch.request(libc::RTM_GETROUTE, libc::NLM_F_DUMP as u16, &fixed);
    if let Some(table) = filter.table {
        batch.attribute(libc::RTA_TABLE, &table.to_ne_bytes());
    }
    if let Some(ifindex) = filter.ifindex {
        batch.attribute(libc::RTA_OIF, &ifindex.to_ne_bytes());
    }
}

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
pub(crate) fn parse_table_route(payload: &[u8]) -> Option<FoundTableRoute> {
    let fixed = payload.get(..RTMSG_LEN)?;
    let v4 = match i32::from(fixed[0]) {
        libc::AF_INET => true,
        libc::AF_INET6 => false,
        _ => return None,
    };
    let (source_len, tos, flags) = (fixed[2], fixed[3], read_u32(fixed, 8)?);
    if source_len != 0 || tos != 0 || flags & libc::RTM_F_CLONED != 0 {
        return None;
    }
    let mut destination = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let (mut table, mut metric, mut source) = (u32::from(fixed[4]), 0, None);
    let mut only = Hop { ifindex: 0, gateway: None, weight: 1, onlink: flags as u8 & RTNH_F_ONLINK != 0 };
    let (mut several, mut plain, mut object) = (None, true, None);
    for (kind, value) in attributes(&payload[RTMSG_LEN..]) {
        match kind {
            libc::RTA_DST => destination = address(value)?,
            libc::RTA_TABLE => table = read_u32(value, 0)?,
            libc::RTA_PRIORITY => metric = read_u32(value, 0)?,
            libc::RTA_OIF => only.ifindex = read_u32(value, 0)?,
            libc::RTA_GATEWAY => only.gateway = Some(address(value)?),
            libc::RTA_VIA => only.gateway = via(value),
            libc::RTA_PREFSRC => source = address(value),
            libc::RTA_MULTIPATH => several = multipath(value),
            // In compatibility mode the kernel adds the next hops that it leads to.
            RTA_NH_ID => object = read_u32(value, 0),
            libc::RTA_ENCAP => plain = false,
            _ => {}
        }
    }
    let way = match fixed[7] {
        libc::RTN_UNREACHABLE => Some(Way::Unreachable),
        libc::RTN_THROW => Some(Way::Throw),
        libc::RTN_UNICAST if object.is_some() => object.map(Way::Object),
        libc::RTN_UNICAST if plain => {
            let hops = several.unwrap_or_else(|| vec![only]);
            hops.iter().all(|hop| hop.ifindex != 0).then_some(Way::Through { hops, source })
        }
        _ => None,
    };
    Some(FoundTableRoute {
        key: RouteKey { table, prefix: IpNet::new(destination, fixed[1]).ok()?, metric },
        protocol: fixed[5],
        way,
    })
}

fn multipath(mut bytes: &[u8]) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    while !bytes.is_empty() {
        let length = read_u16(bytes, 0)? as usize;
        let mut hop = Hop {
            ifindex: read_u32(bytes, 4)?,
            gateway: None,
            weight: u32::from(*bytes.get(3)?) + 1,
            onlink: bytes.get(2)? & RTNH_F_ONLINK != 0,
        };
        for (kind, value) in attributes(bytes.get(RTNEXTHOP_LEN..length)?) {
            match kind {
                libc::RTA_GATEWAY => hop.gateway = address(value),
                libc::RTA_VIA => hop.gateway = via(value),
                _ => {}
            }
        }
        hops.push(hop);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    // The kernel keeps no weight of a single next hop.
    if let [only] = &mut hops[..] {
        only.weight = 1;
    }
    (!hops.is_empty()).then_some(hops)
}

/// `struct rtvia`: family u16, address.
fn via(value: &[u8]) -> Option<IpAddr> {
    address(value.get(2..)?)
}
