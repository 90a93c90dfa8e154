//! Routes as rtnetlink messages (linux/rtnetlink.h, `struct rtmsg`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{FoundRoute, Nexthop, PROTOCOL, Route, RouteKey, canonical};
use crate::system::netlink::{Batch, address, append_attribute, attributes, read_u16, read_u32};

/// `struct rtmsg`: family, destination length, source length, tos, table, protocol, scope, type: a byte each; flags u32.
const RTMSG_LEN: usize = 12;
/// `struct rtnexthop`: length u16, flags u8, weight − 1 u8, interface i32.
const RTNEXTHOP_LEN: usize = 8;
/// The route refers to a nexthop object.
const RTA_NH_ID: u16 = 30;

/// How a route is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Only where nothing stands.
    Create,
    /// Whatever stands there.
    Replace,
}

pub(super) fn family(prefix: &IpNet) -> u8 {
    (if prefix.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// The fixed part and the attributes that name the place.
fn place(batch: &mut Batch, message: u16, flags: i32, route: &Route) {
    let key = &route.key;
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = family(&key.prefix);
    fixed[1] = key.prefix.prefix_len();
    // Tables beyond 255 are named by the attribute alone.
    fixed[4] = u8::try_from(key.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    fixed[5] = PROTOCOL;
    fixed[6] = libc::RT_SCOPE_UNIVERSE;
    fixed[7] = libc::RTN_UNICAST;
    batch.request(message, flags as u16, &fixed);
    batch.attribute_with(libc::RTA_DST, |bytes| append_address(bytes, key.prefix.addr()));
    batch.attribute(libc::RTA_TABLE, &key.table.to_ne_bytes());
    if key.metric != 0 {
        batch.attribute(libc::RTA_PRIORITY, &key.metric.to_ne_bytes());
    }
}

/// Adds a request that writes the route.
pub(super) fn write(batch: &mut Batch, route: &Route, mode: Mode) {
    let flags = match mode {
        Mode::Create => libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        Mode::Replace => libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
    };
    place(batch, libc::RTM_NEWROUTE, flags, route);
    nexthops(batch, route);
}

/// Adds a request that removes the route. The kernel compares the protocol, and for IPv4, where a metric of 0 means
/// any, the next hops too. For IPv6 next hops would remove only themselves from a multipath route, and the metric is exact.
pub(super) fn delete(batch: &mut Batch, route: &Route) {
    place(batch, libc::RTM_DELROUTE, 0, route);
    if route.key.prefix.addr().is_ipv4() {
        nexthops(batch, route);
    }
}

fn nexthops(batch: &mut Batch, route: &Route) {
    let v4 = route.key.prefix.addr().is_ipv4();
    match &route.nexthops[..] {
        [only] => {
            batch.attribute(libc::RTA_OIF, &only.ifindex.to_ne_bytes());
            batch.attribute_with(gateway_kind(v4, only.gateway), |bytes| append_gateway(bytes, v4, only.gateway));
        }
        several => batch.attribute_with(libc::RTA_MULTIPATH, |bytes| {
            for nexthop in several {
                let start = bytes.len();
                bytes.extend_from_slice(&[0, 0, 0, (nexthop.weight.clamp(1, 256) - 1) as u8]);
                bytes.extend_from_slice(&nexthop.ifindex.to_ne_bytes());
                let kind = gateway_kind(v4, nexthop.gateway);
                append_attribute(bytes, kind, |bytes| append_gateway(bytes, v4, nexthop.gateway));
                let length = (bytes.len() - start) as u16;
                bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
            }
        }),
    }
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

fn append_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
}

/// Adds a dump request. With strict checking the kernel leaves out what differs from `protocol` and `table`.
pub(super) fn dump(batch: &mut Batch, family: u8, protocol: Option<u8>, table: Option<u32>) {
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = family;
    fixed[5] = protocol.unwrap_or(libc::RTPROT_UNSPEC);
    batch.request(libc::RTM_GETROUTE, libc::NLM_F_DUMP as u16, &fixed);
    if let Some(table) = table {
        batch.attribute(libc::RTA_TABLE, &table.to_ne_bytes());
    }
}

/// A route message. Nothing for what can never be in a place of ours: routes by source or type of service, cached
/// ones, and what is malformed.
pub(crate) fn parse_route(payload: &[u8]) -> Option<FoundRoute> {
    let fixed = payload.get(..RTMSG_LEN)?;
    let v4 = match i32::from(fixed[0]) {
        libc::AF_INET => true,
        libc::AF_INET6 => false,
        _ => return None,
    };
    let (source_len, tos) = (fixed[2], fixed[3]);
    if source_len != 0 || tos != 0 || read_u32(fixed, 8)? & libc::RTM_F_CLONED != 0 {
        return None;
    }
    let mut destination = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let (mut table, mut metric) = (u32::from(fixed[4]), 0);
    let (mut ifindex, mut gateway, mut several) = (0, None, None);
    let mut ours = fixed[7] == libc::RTN_UNICAST;
    for (kind, value) in attributes(&payload[RTMSG_LEN..]) {
        match kind {
            libc::RTA_DST => destination = address(value)?,
            libc::RTA_TABLE => table = read_u32(value, 0)?,
            libc::RTA_PRIORITY => metric = read_u32(value, 0)?,
            libc::RTA_OIF => ifindex = read_u32(value, 0)?,
            libc::RTA_GATEWAY => gateway = Some(address(value)?),
            libc::RTA_VIA => gateway = via(value),
            libc::RTA_MULTIPATH => several = multipath(value),
            RTA_NH_ID | libc::RTA_ENCAP => ours = false,
            _ => {}
        }
    }
    let nexthops = several.or_else(|| Some(vec![Nexthop { ifindex, gateway: gateway?, weight: 1 }]));
    Some(FoundRoute {
        key: RouteKey { table, prefix: IpNet::new(destination, fixed[1]).ok()?, metric },
        protocol: fixed[5],
        nexthops: nexthops.filter(|nexthops| ours && !nexthops.is_empty()).map(canonical),
    })
}

/// Nothing if a member has no gateway.
fn multipath(mut bytes: &[u8]) -> Option<Vec<Nexthop>> {
    let mut nexthops = Vec::new();
    while !bytes.is_empty() {
        let length = read_u16(bytes, 0)? as usize;
        let weight = u32::from(*bytes.get(3)?) + 1;
        let ifindex = read_u32(bytes, 4)?;
        let gateway = attributes(bytes.get(RTNEXTHOP_LEN..length)?).find_map(|(kind, value)| match kind {
            libc::RTA_GATEWAY => address(value),
            libc::RTA_VIA => via(value),
            _ => None,
        })?;
        nexthops.push(Nexthop { ifindex, gateway, weight });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(nexthops)
}

/// `struct rtvia`: family u16, address.
fn via(value: &[u8]) -> Option<IpAddr> {
    address(value.get(2..)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::system::netlink::messages;

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
            let route = Route { key: RouteKey { table, prefix: prefix.parse().unwrap(), metric }, nexthops };
            let mut batch = Batch::default();
            write(&mut batch, &route, Mode::Create);
            let message = messages(batch.bytes()).next().unwrap();
            let found = parse_route(message.payload).unwrap();
            let expected = FoundRoute { key: route.key, protocol: PROTOCOL, nexthops: Some(route.nexthops) };
            assert_eq!(found, expected, "{prefix}");
        }
    }

    #[test]
    fn a_route_without_a_gateway_is_none_of_ours() {
        let key = RouteKey { table: 254, prefix: "10.0.0.0/8".parse().unwrap(), metric: 0 };
        let mut batch = Batch::default();
        place(&mut batch, libc::RTM_NEWROUTE, 0, &Route { key, nexthops: vec![] });
        batch.attribute(libc::RTA_OIF, &3u32.to_ne_bytes());
        let found = parse_route(messages(batch.bytes()).next().unwrap().payload).unwrap();
        assert_eq!((found.key, found.nexthops), (key, None));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 1u64;
        for length in 0..400 {
            let mut bytes = vec![0u8; length % 100];
            for byte in &mut bytes {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = (state >> 33) as u8 % if length > 200 { 32 } else { 255 };
            }
            if let Some(first) = bytes.first_mut() {
                *first = libc::AF_INET as u8;
            }
            let _ = parse_route(&bytes);
        }
    }
}
