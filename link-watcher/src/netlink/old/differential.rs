//! Old against new: the same values, the same bytes, in both directions; and bytes that nobody would write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use ipnet::IpNet;

use super::{events, nexthop as old_nexthop, other, route as old_route, rule as old_rule, wire};
use crate::netlink::{
    Batch, Egress, Family, Hop, InterfaceName, KernelEvent, Member, Nexthop, Object, Route, RouteKey, Rule, TableRoute,
    Way, canonical, link, message, netfilter, nexthop, parse,
    route::{self, Filter, Mode},
    rule,
};

const ROUNDS: u32 = 5_000;

fn v4(rng: &mut Rng) -> IpAddr {
    Ipv4Addr::from(rng.u32(..)).into()
}

fn v6(rng: &mut Rng) -> IpAddr {
    Ipv6Addr::from(rng.u128(..)).into()
}

fn key(rng: &mut Rng) -> RouteKey {
    let prefix = if rng.bool() { IpNet::new(v4(rng), rng.u8(..=32)) } else { IpNet::new(v6(rng), rng.u8(..=128)) };
    let table = [1, 52, 254, 255, 256, 7001, u32::MAX, rng.u32(1..)][rng.usize(..8)];
    let metric = [0, 1, 1024, u32::MAX, rng.u32(..)][rng.usize(..5)];
    RouteKey { table, prefix: prefix.unwrap(), metric }
}

fn gateway(rng: &mut Rng, key: &RouteKey) -> IpAddr {
    if key.prefix.addr().is_ipv4() && rng.u8(..4) > 0 { v4(rng) } else { v6(rng) }
}

fn hop(rng: &mut Rng, key: &RouteKey) -> Hop {
    Hop {
        ifindex: rng.u32(1..),
        gateway: (rng.u8(..4) > 0).then(|| gateway(rng, key)),
        weight: rng.u32(1..=256),
        onlink: rng.bool(),
    }
}

fn way(rng: &mut Rng, key: &RouteKey) -> Way {
    match rng.u8(..6) {
        0 => Way::Unreachable,
        1 => Way::Throw,
        2 => Way::Object(rng.u32(..)),
        _ => Way::Through {
            hops: (0..[1, 1, 2, 3, 32, 0][rng.usize(..6)]).map(|_| hop(rng, key)).collect(),
            source: rng.bool().then(|| if key.prefix.addr().is_ipv4() { v4(rng) } else { v6(rng) }),
        },
    }
}

fn egress(rng: &mut Rng, key: &RouteKey) -> Egress {
    if rng.u8(..4) == 0 {
        return Egress::Object(rng.u32(..));
    }
    let count = rng.usize(1..4);
    Egress::Nexthops(canonical((0..count).map(|_| Nexthop {
        ifindex: rng.u32(1..),
        gateway: gateway(rng, key),
        weight: rng.u32(1..=256),
    })))
}

fn random_rule(rng: &mut Rng) -> Rule {
    let family = if rng.bool() { Family::V4 } else { Family::V6 };
    let from = match family {
        Family::V4 => IpNet::new(v4(rng), rng.u8(..=32)),
        Family::V6 => IpNet::new(v6(rng), rng.u8(..=128)),
    };
    Rule {
        family,
        priority: rng.u32(..),
        mark: rng.bool().then(|| (rng.u32(..), rng.u32(1..))),
        from: rng.bool().then_some(from.unwrap()),
        bound_to: rng.bool().then(|| InterfaceName::new(&"abcdefghijklmno"[..rng.usize(1..=15)]).unwrap()),
        table: [254, 255, 256, rng.u32(..)][rng.usize(..4)],
        suppress_prefix_len: rng.bool().then(|| rng.u32(..128)),
    }
}

fn object(rng: &mut Rng) -> Object {
    if rng.bool() {
        let gateway = if rng.bool() { v4(rng) } else { v6(rng) };
        return Object::Hop { ifindex: rng.u32(..), gateway };
    }
    let members = (0..rng.usize(..5)).map(|_| Member { id: rng.u32(..), weight: rng.u32(1..=65536) }).collect();
    Object::Group { members, fit: true }
}

/// What both wrote: the old one's bytes and the new one's, numbered alike.
fn both(old: impl FnOnce(&mut wire::Batch), new: impl FnOnce(&mut Batch)) -> (Vec<u8>, Vec<u8>) {
    let (mut a, mut b) = (wire::Batch::default(), Batch::default());
    old(&mut a);
    new(&mut b);
    a.number(77);
    b.number(77);
    (a.bytes().to_vec(), b.bytes().to_vec())
}

/// A route's message with its table once, wherever it stands: the builder names one below 256 in the fixed part alone,
/// and leaves that at 254 for others.
fn one_table(bytes: &[u8]) -> (Vec<u8>, u32, Vec<(u16, Vec<u8>)>) {
    let mut fixed = bytes[4..28].to_vec();
    let mut table = u32::from(std::mem::take(&mut fixed[16]));
    let mut rest = Vec::new();
    for (kind, value) in wire::attributes(&bytes[28..]) {
        match kind {
            libc::RTA_TABLE => table = wire::read_u32(value, 0).unwrap(),
            _ => rest.push((kind, value.to_vec())),
        }
    }
    (fixed, table, rest)
}

fn payload(bytes: &[u8]) -> &[u8] {
    message::messages(bytes).next().unwrap().payload()
}

#[test]
fn routes_are_written_alike_and_read_alike() {
    let mut rng = Rng::with_seed(1);
    for _ in 0..ROUNDS {
        let key = key(&mut rng);
        let mode = if rng.bool() { Mode::Create } else { Mode::Replace };
        let table_route = TableRoute { key, way: way(&mut rng, &key) };
        let route = Route { key, egress: egress(&mut rng, &key) };
        for (old, new) in [
            both(|b| old_route::write(b, &route, mode), |b| route::write(b, &route, mode)),
            both(|b| old_route::delete(b, &route), |b| route::delete(b, &route)),
            both(
                |b| old_route::write_table_route(b, &table_route, mode),
                |b| route::write_table_route(b, &table_route, mode),
            ),
            both(|b| old_route::delete_table_route(b, &table_route), |b| route::delete_table_route(b, &table_route)),
        ] {
            assert_eq!(one_table(&old), one_table(&new), "{route:?} {table_route:?}");
            for bytes in [&old, &new] {
                let found = route::parse_table_route(payload(bytes));
                assert!(found.is_some());
                assert_eq!(old_route::parse_table_route(payload(bytes)), found);
                assert_eq!(old_route::parse_route(payload(bytes)), route::parse_route(payload(bytes)));
            }
        }
        let filter = Filter {
            protocol: rng.bool().then(|| rng.u8(..)),
            table: rng.bool().then_some(key.table),
            ifindex: rng.bool().then(|| rng.u32(..)),
        };
        let (old, new) = both(|b| old_route::dump(b, 10, filter), |b| route::dump(b, 10, filter));
        assert_eq!(old, new);
    }
}

#[test]
fn an_ipv4_gateway_of_an_ipv6_route_is_left_to_the_kernel() {
    let mut rng = Rng::with_seed(2);
    for count in [1, 2] {
        let key = RouteKey { table: 254, prefix: "2001:db8::/32".parse().unwrap(), metric: 0 };
        let hops =
            (0..count).map(|_| Hop { ifindex: 3, gateway: Some(v4(&mut rng)), weight: 1, onlink: false }).collect();
        let route = TableRoute { key, way: Way::Through { hops, source: None } };
        let mode = Mode::Create;
        let (old, new) =
            both(|b| old_route::write_table_route(b, &route, mode), |b| route::write_table_route(b, &route, mode));
        assert_eq!(one_table(&old), one_table(&new));
    }
}

#[test]
fn rules_are_written_alike_and_read_alike() {
    let mut rng = Rng::with_seed(3);
    // The name without the rest of its array.
    let trimmed = |bytes: &[u8]| {
        let attributes = wire::attributes(&bytes[28..]).map(|(kind, value)| match kind {
            17 => (kind, wire::string(value).into_bytes()),
            _ => (kind, value.to_vec()),
        });
        (bytes[4..28].to_vec(), attributes.collect::<Vec<_>>())
    };
    for _ in 0..ROUNDS {
        let value = random_rule(&mut rng);
        for (old, new) in [
            both(|b| old_rule::create(b, &value), |b| rule::create(b, &value)),
            both(|b| old_rule::delete(b, &value), |b| rule::delete(b, &value)),
        ] {
            assert_eq!(trimmed(&old), trimmed(&new), "{value:?}");
            for bytes in [&old, &new] {
                let found = rule::parse(payload(bytes)).unwrap();
                assert_eq!(found.rule, Some(value));
                assert_eq!(old_rule::parse(payload(bytes)), Some(found));
            }
        }
        let (old, new) = both(|b| old_rule::dump(b, value.family), |b| rule::dump(b, value.family));
        assert_eq!(old, new);
    }
}

#[test]
fn what_the_crates_do_not_have_is_the_same_bytes() {
    let mut rng = Rng::with_seed(4);
    for _ in 0..ROUNDS {
        let (id, value) = (rng.u32(..), object(&mut rng));
        for (old, new) in [
            both(|b| old_nexthop::create(b, id, &value), |b| nexthop::create(b, id, &value)),
            both(|b| old_nexthop::replace(b, id, &value), |b| nexthop::replace(b, id, &value)),
            both(|b| old_nexthop::delete(b, id), |b| nexthop::delete(b, id)),
            both(|b| old_nexthop::get(b, id), |b| nexthop::get(b, id)),
        ] {
            assert_eq!(old, new, "{value:?}");
            assert_eq!(old_nexthop::parse(payload(&old)), nexthop::parse(payload(&new)));
        }
        let (mark, mask, source) =
            (rng.u32(..), rng.u32(..), rng.bool().then(|| v6(&mut rng)).or_else(|| Some(v4(&mut rng))));
        let source = source.filter(|_| rng.bool());
        let (old, new) = both(
            |b| {
                other::forget(b, 2, mark, mask);
                source.into_iter().for_each(|source| other::answered_to(b, source));
            },
            |b| netfilter::forget(b, 2, mark, mask, source),
        );
        assert_eq!(old, new);
        let neighbour = if rng.bool() { v4(&mut rng) } else { v6(&mut rng) };
        let (old, new) = both(
            |b| {
                other::about(b, libc::RTM_GETNEIGH, 0, 0, id, neighbour);
                other::about(b, libc::RTM_NEWNEIGH, libc::NLM_F_CREATE, 1, id, neighbour);
            },
            |b| {
                link::get_neighbour(b, id, neighbour);
                link::use_neighbour(b, id, neighbour);
            },
        );
        assert_eq!(old, new);
    }
    let (old, new) = both(
        |b| {
            b.request(libc::RTM_GETLINK, libc::NLM_F_DUMP as u16, &[0; 16]);
            b.request(libc::RTM_GETADDR, libc::NLM_F_DUMP as u16, &[0; 8]);
        },
        |b| {
            link::dump_links(b);
            link::dump_addresses(b);
        },
    );
    assert_eq!(old, new);
}

/// An attribute value: well-formed for `length`, or now and then of another length.
fn value(rng: &mut Rng, lengths: &[usize], sound: bool) -> Vec<u8> {
    let length = if sound { lengths[rng.usize(..lengths.len())] } else { rng.usize(..40) };
    (0..length).map(|_| if rng.bool() { rng.u8(..4) } else { rng.u8(..) }).collect()
}

/// A message of somebody else's, with attributes of these types and lengths, in any order.
fn foreign(rng: &mut Rng, kind: u16, fixed: &[u8], kinds: &[(u16, &[usize])], sound: bool) -> Vec<u8> {
    let mut batch = wire::Batch::default();
    batch.request(kind, rng.u16(..), fixed);
    for _ in 0..rng.usize(..8) {
        let (kind, lengths) = kinds[rng.usize(..kinds.len())];
        let good = sound || rng.u8(..4) > 0;
        batch.attribute(kind, &value(rng, lengths, good));
    }
    batch.bytes().to_vec()
}

fn foreign_route(rng: &mut Rng, sound: bool) -> Vec<u8> {
    let v4 = rng.bool();
    let a = if v4 { 4 } else { 16 };
    let mut fixed = [0; 12];
    rng.fill(&mut fixed);
    fixed[0] = if v4 { 2 } else { 10 };
    fixed[1] = rng.u8(..=8 * a as u8);
    (fixed[2], fixed[3]) = if rng.u8(..8) == 0 { (rng.u8(..2), rng.u8(..2)) } else { (0, 0) };
    fixed[7] = [1, 1, 1, 1, 2, 6, 7, 8, 9, rng.u8(..)][rng.usize(..10)];
    fixed[8..].copy_from_slice(&[rng.u8(..) & 0xfd, if rng.u8(..8) == 0 { 2 } else { 0 }, 0, 0]);
    let address: &[usize] = &[a];
    foreign(
        rng,
        libc::RTM_NEWROUTE,
        &fixed,
        &[
            (libc::RTA_DST, address),
            (libc::RTA_OIF, &[4]),
            (libc::RTA_OIF, &[4]),
            (libc::RTA_GATEWAY, address),
            (libc::RTA_PRIORITY, &[4]),
            (libc::RTA_PREFSRC, address),
            (libc::RTA_METRICS, &[0, 8]),
            (libc::RTA_FLOW, &[4]),
            (libc::RTA_CACHEINFO, &[32]),
            (libc::RTA_TABLE, &[4]),
            (20, &[1]),
            (libc::RTA_ENCAP, &[8]),
            (libc::RTA_EXPIRES, &[4, 8]),
            (30, &[4]),
            (99, &[0, 5, 100]),
        ],
        sound,
    )
}

fn foreign_rule(rng: &mut Rng, sound: bool) -> Vec<u8> {
    let v4 = rng.bool();
    let a = if v4 { 4 } else { 16 };
    let fixed = [
        if v4 { 2 } else { 10 },
        0,
        rng.u8(..=4 * a as u8),
        0,
        rng.u8(..),
        0,
        0,
        rng.u8(..3),
        rng.u8(..2) << 4,
        0,
        0,
        0,
    ];
    let address: &[usize] = &[a];
    let kinds: &[(u16, &[usize])] = &[
        (2, address),
        (6, &[4]),
        (10, &[4]),
        (14, &[4]),
        (15, &[4]),
        (16, &[4]),
        (18, &[0]),
        (21, &[1]),
        (3, &[5]),
        (20, &[8]),
        (99, &[3]),
    ];
    let kinds = if rng.bool() { &kinds[..8] } else { kinds };
    foreign(rng, libc::RTM_NEWRULE, &fixed, kinds, sound)
}

fn foreign_link(rng: &mut Rng, sound: bool) -> Vec<u8> {
    let family = if rng.u8(..8) == 0 { 7 } else { 0 };
    let mut fixed = [0; 16];
    rng.fill(&mut fixed);
    (fixed[0], fixed[1]) = (family, 0);
    let mut batch = wire::Batch::default();
    batch.request(if rng.bool() { libc::RTM_NEWLINK } else { libc::RTM_DELLINK }, 0, &fixed);
    if rng.u8(..8) > 0 {
        let name: Vec<u8> = (0..rng.usize(1..16)).map(|_| rng.u8(1..)).chain([0]).collect();
        batch.attribute(libc::IFLA_IFNAME, &name);
    }
    for _ in 0..rng.usize(..8) {
        let (kind, lengths): (u16, &[usize]) = [
            (libc::IFLA_ADDRESS, &[0usize, 4, 6, 16, 20][..]),
            (libc::IFLA_MTU, &[4]),
            (libc::IFLA_OPERSTATE, &[1]),
            (libc::IFLA_CARRIER, &[1]),
            (libc::IFLA_TXQLEN, &[4]),
            (26, &[50]),
            (300, &[7]),
        ][rng.usize(..7)];
        let good = sound || rng.u8(..4) > 0;
        batch.attribute(kind, &value(rng, lengths, good));
    }
    if rng.bool() {
        batch.attribute_with(libc::IFLA_LINKINFO, |bytes| {
            wire::append_attribute(bytes, 1, |bytes| bytes.extend(b"vlan\0"));
            wire::append_attribute(bytes, 2, |bytes| bytes.extend([9, 9, 9]));
        });
    }
    if rng.bool() {
        let (attached, id) = (rng.u8(1..4), rng.u32(..));
        batch.attribute_with(43 | libc::NLA_F_NESTED as u16, |bytes| {
            wire::append_attribute(bytes, 2, |bytes| bytes.push(attached));
            wire::append_attribute(bytes, 4, |bytes| bytes.extend(id.to_ne_bytes()));
        });
    }
    batch.bytes().to_vec()
}

fn foreign_address(rng: &mut Rng, sound: bool) -> Vec<u8> {
    let a: &[usize] = if rng.bool() { &[4] } else { &[16] };
    let fixed = [if a[0] == 4 { 2 } else { 10 }, rng.u8(..), rng.u8(..), rng.u8(..), 7, 0, 0, 0];
    let kind = if rng.bool() { libc::RTM_NEWADDR } else { libc::RTM_DELADDR };
    let kinds =
        [(libc::IFA_LOCAL, a), (libc::IFA_ADDRESS, a), (libc::IFA_FLAGS, &[4]), (3, &[5]), (6, &[16]), (99, &[3])];
    foreign(rng, kind, &fixed, &kinds, sound)
}

fn foreign_neighbour(rng: &mut Rng) -> Vec<u8> {
    let fixed = [2, 0, 0, 0, 7, 0, 0, 0, rng.u8(..), rng.u8(..2), rng.u8(..), 1];
    foreign(rng, libc::RTM_NEWNEIGH, &fixed, &[(1, &[4]), (2, &[6, 6, 6, 20]), (3, &[16]), (99, &[3])], true)
}

fn old_event(bytes: &[u8]) -> Option<KernelEvent> {
    wire::messages(bytes).next().and_then(|message| events::parse(&message))
}

fn new_event(bytes: &[u8]) -> Option<KernelEvent> {
    message::messages(bytes).next().and_then(|message| parse(&message))
}

#[test]
fn what_others_write_soundly_is_read_alike() {
    let mut rng = Rng::with_seed(5);
    let mut seen = [0; 6];
    for _ in 0..ROUNDS {
        let route = foreign_route(&mut rng, true);
        let found = route::parse_table_route(payload(&route));
        assert_eq!(old_route::parse_table_route(payload(&route)), found);
        assert_eq!(old_event(&route), new_event(&route));
        seen[0] += u32::from(found.as_ref().is_some_and(|found| found.way.is_some()));
        seen[1] += u32::from(found.is_some_and(|found| found.way.is_none()));
        let rule = foreign_rule(&mut rng, true);
        assert_eq!(old_event(&rule), new_event(&rule));
        let ours = rule::parse(payload(&rule)).is_some_and(|found| found.rule.is_some());
        seen[2] += u32::from(ours);
        let link = foreign_link(&mut rng, true);
        assert_eq!(old_event(&link), new_event(&link));
        let hook = link::parse_xdp(payload(&link));
        assert_eq!(other::hook(payload(&link)), hook);
        seen[3] += u32::from(hook.is_some() && new_event(&link).is_some());
        let address = foreign_address(&mut rng, true);
        assert_eq!(old_event(&address), new_event(&address));
        seen[4] += u32::from(new_event(&address).is_some());
        let neighbour = foreign_neighbour(&mut rng);
        let found = link::parse_neighbour(payload(&neighbour));
        assert_eq!(other::parse_neighbour(payload(&neighbour)), found);
        seen[5] += u32::from(found.is_some());
    }
    assert!(seen.iter().all(|count| *count > ROUNDS / 50), "too few of a class: {seen:?}");
}

/// Nothing that the old parser saw is lost; what is malformed may leave the way unknown.
fn nothing_lost(bytes: &[u8]) -> bool {
    let (old, new) = (old_route::parse_table_route(bytes), route::parse_table_route(bytes));
    if let Some(old) = &old {
        let new = new.as_ref().expect("a route that the old parser saw");
        assert_eq!((old.key, old.protocol), (new.key, new.protocol));
        assert!(new.way.is_none() || new.way == old.way, "{old:?} {new:?}");
    }
    let (old_peers, new_peers) = (old_route::parse_route(bytes), route::parse_route(bytes));
    if let Some(old) = &old_peers {
        let new = new_peers.expect("a route that the old parser saw");
        assert!(new.egress.is_none() || new.egress == old.egress);
    }
    let (old_rule, new_rule) = (old_rule::parse(bytes), rule::parse(bytes));
    if let Some(old) = old_rule {
        let new = new_rule.expect("a rule that the old parser saw");
        assert_eq!(
            (old.family, old.priority, old.protocol, old.table),
            (new.family, new.priority, new.protocol, new.table)
        );
        assert!(new.rule.is_none() || new.rule == old.rule);
    }
    assert_eq!(old_nexthop::parse(bytes), nexthop::parse(bytes));
    assert_eq!(other::parse_neighbour(bytes), link::parse_neighbour(bytes));
    let _ = link::parse_xdp(bytes);
    old.is_some()
}

fn link_not_lost(bytes: &[u8]) {
    match (old_event(bytes), new_event(bytes)) {
        (Some(KernelEvent::Link(old)), new) => {
            let Some(KernelEvent::Link(new)) = new else { panic!("a link that the old parser saw") };
            assert_eq!((old.ifindex, &old.name, old.admin_up), (new.ifindex, &new.name, new.admin_up));
            assert_eq!(old.kind, new.kind);
        }
        (Some(KernelEvent::AddressAdded { .. } | KernelEvent::AddressRemoved { .. }), new) => assert!(new.is_some()),
        _ => {}
    }
}

#[test]
fn malformed_and_torn_bytes_lose_nothing_that_was_seen() {
    let mut rng = Rng::with_seed(6);
    let mut seen = 0;
    for round in 0..ROUNDS / 4 {
        let key = key(&mut rng);
        let route = TableRoute { key, way: way(&mut rng, &key) };
        let (old, new) = both(
            |b| old_route::write_table_route(b, &route, Mode::Create),
            |b| route::write_table_route(b, &route, Mode::Create),
        );
        let value = random_rule(&mut rng);
        let (_, rule) = both(|_| (), |b| rule::create(b, &value));
        let value = object(&mut rng);
        let (_, object) = both(|_| (), |b| nexthop::create(b, 9, &value));
        let foreign = [foreign_route(&mut rng, false), foreign_rule(&mut rng, false)];
        for bytes in [&old, &new, &rule, &object, &foreign[0], &foreign[1], &foreign_neighbour(&mut rng)] {
            let mut bytes = payload(bytes).to_vec();
            seen += u32::from(nothing_lost(&bytes));
            if round % 8 == 0 {
                for length in 0..bytes.len() {
                    nothing_lost(&bytes[..length]);
                }
            }
            for _ in 0..8 {
                let at = rng.usize(..bytes.len());
                bytes[at] = if rng.bool() { rng.u8(..36) } else { rng.u8(..) };
                seen += u32::from(nothing_lost(&bytes));
            }
        }
        for bytes in [foreign_link(&mut rng, false), foreign_address(&mut rng, false)] {
            link_not_lost(&bytes);
            for length in 0..bytes.len() {
                let mut torn = bytes[..length].to_vec();
                if let Some(start) = torn.get_mut(..4) {
                    start.copy_from_slice(&(length as u32).to_ne_bytes());
                }
                link_not_lost(&torn);
            }
            let mut bytes = bytes;
            for _ in 0..8 {
                let at = rng.usize(16..bytes.len());
                bytes[at] = if rng.bool() { rng.u8(..36) } else { rng.u8(..) };
                link_not_lost(&bytes);
            }
        }
    }
    assert!(seen > ROUNDS / 2, "{seen} messages of routes were understood");
}

#[test]
fn errors_are_read_alike() {
    let mut rng = Rng::with_seed(7);
    let mut worded = 0;
    for _ in 0..ROUNDS {
        let flags = [0x200, 0x300, 0x100, 0][rng.usize(..4)];
        let mut batch = wire::Batch::default();
        let mut fixed = (-rng.i32(..200)).to_ne_bytes().to_vec();
        fixed.extend((16 + 4 * rng.u32(..3)).to_ne_bytes());
        fixed.extend([0; 12]);
        fixed.resize(fixed.len() + 4 * rng.usize(..3), 0);
        batch.request(libc::NLMSG_ERROR as u16, flags, &fixed);
        if rng.bool() {
            batch.attribute(2, &[0; 4]);
        }
        batch.attribute(1, b"No such thing\0");
        let bytes = batch.bytes();
        let old = wire::parse_error(&wire::messages(bytes).next().unwrap());
        let new = crate::netlink::socket::parse_error(&message::messages(bytes).next().unwrap());
        worded += u32::from(new.as_ref().is_some_and(|error| error.text.is_some()));
        assert_eq!(old, new);
    }
    assert!(worded > ROUNDS / 10, "{worded}");
}
