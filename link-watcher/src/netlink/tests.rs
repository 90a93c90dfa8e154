//! The bytes of what is written, and bytes that nobody would write.
#![allow(clippy::unwrap_used)]

use fastrand::Rng;
use rtnetlink::packet_core::{DefaultNla, Emitable as _};

use super::{
    Batch, Family, FoundObject, Hop, InterfaceName, Object, RouteKey, Rule, TableRoute, Way,
    link::{parse_address, parse_learned_neighbour, parse_link, parse_neighbour, parse_xdp},
    message::{attribute, messages, nest, nla},
    netfilter, nexthop,
    route::{Mode, RTA_ENCAP, RTA_VIA, delete_table_route, parse_route, parse_table_route, write_table_route},
    rule,
};

const ROUNDS: usize = 20_000;

/// What follows the header of the only message.
fn payload(write: impl FnOnce(&mut Batch)) -> Vec<u8> {
    let mut batch = Batch::default();
    write(&mut batch);
    messages(batch.bytes()).next().unwrap().payload().to_vec()
}

fn hop(ifindex: u32, gateway: &str, weight: u32, onlink: bool) -> Hop {
    Hop { ifindex, gateway: (!gateway.is_empty()).then(|| gateway.parse().unwrap()), weight, onlink }
}

fn route(prefix: &str, table: u32, metric: u32, way: Way) -> TableRoute {
    TableRoute { key: RouteKey { table, prefix: prefix.parse().unwrap(), metric }, way }
}

/// The bytes are those of a little-endian machine.
#[cfg(target_endian = "little")]
#[test]
fn routes_are_these_bytes() {
    let source = Some("198.51.100.2".parse().unwrap());
    let way = Way::Through { hops: vec![hop(3, "198.51.100.1", 1, true)], source };
    #[rustfmt::skip]
    assert_eq!(payload(|batch| write_table_route(batch, &route("10.20.20.0/22", 7001, 9, way), Mode::Create)), [
        2, 22, 0, 0, 254, 208, 0, 1, 4, 0, 0, 0,
        8, 0, 1, 0, 10, 20, 20, 0,
        8, 0, 15, 0, 0x59, 0x1b, 0, 0,
        8, 0, 6, 0, 9, 0, 0, 0,
        8, 0, 4, 0, 3, 0, 0, 0,
        8, 0, 5, 0, 198, 51, 100, 1,
        8, 0, 7, 0, 198, 51, 100, 2,
    ]);
    let hops = vec![hop(3, "198.51.100.1", 256, true), hop(4, "2001:db8::1", 1, false), hop(5, "", 2, false)];
    let way = Way::Through { hops, source: None };
    #[rustfmt::skip]
    assert_eq!(payload(|batch| write_table_route(batch, &route("10.0.0.0/8", 254, 0, way), Mode::Create)), [
        2, 8, 0, 0, 254, 208, 0, 1, 0, 0, 0, 0,
        8, 0, 1, 0, 10, 0, 0, 0,
        60, 0, 9, 0,
        16, 0, 4, 255, 3, 0, 0, 0, 8, 0, 5, 0, 198, 51, 100, 1,
        32, 0, 0, 0, 4, 0, 0, 0, 22, 0, 18, 0, 10, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
        8, 0, 0, 1, 5, 0, 0, 0,
    ]);
    // Scope NOWHERE, and for IPv6 not the way.
    let way = Way::Through { hops: vec![hop(3, "fe80::1", 1, false)], source: None };
    #[rustfmt::skip]
    assert_eq!(payload(|batch| delete_table_route(batch, &route("::/0", 254, 1024, way))), [
        10, 0, 0, 0, 254, 208, 255, 1, 0, 0, 0, 0,
        20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        8, 0, 6, 0, 0, 4, 0, 0,
    ]);
    #[rustfmt::skip]
    assert_eq!(payload(|batch| delete_table_route(batch, &route("10.0.0.0/8", 254, 0, Way::Throw))), [
        2, 8, 0, 0, 254, 208, 255, 9, 0, 0, 0, 0,
        8, 0, 1, 0, 10, 0, 0, 0,
    ]);
    #[rustfmt::skip]
    assert_eq!(payload(|batch| delete_table_route(batch, &route("10.0.0.0/8", 254, 0, Way::Object(9)))), [
        2, 8, 0, 0, 254, 208, 255, 1, 0, 0, 0, 0,
        8, 0, 1, 0, 10, 0, 0, 0,
        8, 0, 30, 0, 9, 0, 0, 0,
    ]);
}

fn a_rule() -> Rule {
    Rule {
        family: Family::V4,
        priority: 20_000,
        mark: Some((0x100, 0xff00)),
        from: Some("198.51.100.0/24".parse().unwrap()),
        bound_to: InterfaceName::new("eth1"),
        table: 7001,
        suppress_prefix_len: Some(0),
    }
}

#[cfg(target_endian = "little")]
#[test]
fn rules_are_these_bytes() {
    #[rustfmt::skip]
    let bytes = [
        2, 0, 24, 0, 0, 0, 0, 1, 0, 0, 0, 0,
        8, 0, 6, 0, 0x20, 0x4e, 0, 0,
        8, 0, 15, 0, 0x59, 0x1b, 0, 0,
        5, 0, 21, 0, 208, 0, 0, 0,
        8, 0, 2, 0, 198, 51, 100, 0,
        8, 0, 10, 0, 0, 1, 0, 0,
        8, 0, 16, 0, 0, 0xff, 0, 0,
        9, 0, 17, 0, b'e', b't', b'h', b'1', 0, 0, 0, 0,
        8, 0, 14, 0, 0, 0, 0, 0,
    ];
    assert_eq!(payload(|batch| rule::create(batch, &a_rule())), bytes);
    assert_eq!(payload(|batch| rule::delete(batch, &a_rule())), bytes);
}

#[cfg(target_endian = "little")]
#[test]
fn releasing_connections_is_these_bytes() {
    let source = Some("198.51.100.2".parse().unwrap());
    #[rustfmt::skip]
    assert_eq!(payload(|batch| netfilter::forget(batch, 2, 0x1ff, 0xff00, source)), [
        2, 1, 0, 0,
        8, 0, 8, 0, 0, 0, 1, 0,
        8, 0, 21, 0, 0, 0, 0xff, 0,
        16, 0, 2, 0, 12, 0, 1, 0, 8, 0, 2, 0, 198, 51, 100, 2,
        12, 0, 25, 0x80, 8, 0, 2, 0, 2, 0, 0, 0,
    ]);
}

/// A fixed part, then some of these attributes; half of them with bytes changed, a quarter cut off.
fn noisy(rng: &mut Rng, fixed: &[u8], attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = fixed.to_vec();
    for _ in 0..rng.usize(..7) {
        let start = bytes.len();
        let attribute = &attributes[rng.usize(..attributes.len())];
        bytes.resize(start + attribute.buffer_len(), 0);
        attribute.emit(&mut bytes[start..]);
    }
    if rng.bool() {
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] = if rng.bool() { rng.u8(..36) } else { rng.u8(..) };
        }
    }
    if rng.u8(..4) == 0 {
        bytes.truncate(rng.usize(..=bytes.len()));
    }
    bytes
}

/// Feeds a parser, which must not panic, and counts what it makes of it: too few of a class, and the test says nothing.
fn feed<const N: usize>(fixed: &[u8], attributes: &[DefaultNla], class: impl Fn(&[u8]) -> usize) {
    let mut rng = Rng::with_seed(1);
    let mut counts = [0; N];
    for _ in 0..ROUNDS {
        counts[class(&noisy(&mut rng, fixed, attributes))] += 1;
    }
    assert!(counts.iter().all(|count| *count > ROUNDS / 100), "too few of a class: {counts:?}");
}

/// The value of an attribute that the route is written with.
fn written(way: Way, kind: u16) -> DefaultNla {
    let payload = payload(|batch| write_table_route(batch, &route("10.0.0.0/8", 7001, 9, way), Mode::Create));
    nla(kind, attribute(&payload[12..], kind).unwrap())
}

#[test]
fn no_route_makes_it_panic() {
    let hops = vec![hop(3, "198.51.100.1", 2, true), hop(4, "2001:db8::1", 1, false)];
    let mut attributes = vec![
        written(Way::Through { hops, source: None }, libc::RTA_MULTIPATH),
        nla(libc::RTA_DST, [10, 0, 0, 0]),
        nla(libc::RTA_TABLE, 7001u32.to_ne_bytes()),
        nla(libc::RTA_PRIORITY, 9u32.to_ne_bytes()),
        nla(libc::RTA_GATEWAY, [198, 51, 100, 1]),
        nla(RTA_VIA, [[10, 0].as_slice(), &[7; 16]].concat()),
        nla(libc::RTA_PREFSRC, [198, 51, 100, 2]),
        nla(libc::RTA_CACHEINFO, [0; 32]),
        nla(RTA_ENCAP, [0; 8]),
        nla(30, 7u32.to_ne_bytes()),
    ];
    attributes.extend(std::iter::repeat_n(nla(libc::RTA_OIF, 3u32.to_ne_bytes()), 6));
    let class = |bytes: &[u8]| {
        let found = parse_table_route(bytes);
        assert_eq!(found.is_some(), parse_route(bytes).is_some());
        match found.map(|found| found.way) {
            None => 0,
            Some(None) => 1,
            Some(Some(Way::Object(_))) => 2,
            Some(Some(Way::Through { hops, .. })) if hops.len() > 1 => 3,
            Some(Some(Way::Through { .. } | Way::Unreachable | Way::Throw)) => 4,
        }
    };
    feed::<5>(&[2, 8, 0, 0, 254, 208, 0, 1, 0, 0, 0, 0], &attributes, class);
}

#[test]
fn a_route_that_says_something_new_or_malformed_is_seen() {
    let fixed = [2, 8, 0, 0, 52, 11, 0, 1, 0, 0, 0, 0];
    let place = [nla(libc::RTA_DST, [10, 0, 0, 0]), nla(libc::RTA_PRIORITY, 9u32.to_ne_bytes())];
    for odd in [
        nla(libc::RTA_GATEWAY, [1, 2, 3]),
        nla(libc::RTA_OIF, [1]),
        nla(RTA_VIA, [99, 0, 1]),
        nla(libc::RTA_MULTIPATH, [255; 20]),
        nla(libc::RTA_METRICS, [1, 2, 3]),
        nla(30, [1]),
        nla(999, [1]),
    ] {
        let mut bytes = fixed.to_vec();
        let attributes = [&place[..], std::slice::from_ref(&odd)].concat();
        bytes.resize(12 + attributes.as_slice().buffer_len(), 0);
        attributes.as_slice().emit(&mut bytes[12..]);
        let found = parse_table_route(&bytes).unwrap();
        let key = RouteKey { table: 52, prefix: "10.0.0.0/8".parse().unwrap(), metric: 9 };
        assert_eq!((found.key, found.protocol, found.way), (key, 11, None), "{odd:?}");
    }
}

#[test]
fn no_rule_makes_it_panic() {
    let attributes = [
        nla(2, [198, 51, 100, 0]),
        nla(6, 7u32.to_ne_bytes()),
        nla(10, 7u32.to_ne_bytes()),
        nla(14, 0u32.to_ne_bytes()),
        nla(15, 7001u32.to_ne_bytes()),
        nla(16, 7u32.to_ne_bytes()),
        nla(17, *b"eth1\0"),
        nla(21, [208]),
        nla(3, *b"eth2\0"),
    ];
    feed::<3>(&[2, 0, 24, 0, 0, 0, 0, 1, 0, 0, 0, 0], &attributes, |bytes| {
        match rule::parse(bytes).map(|found| found.rule) {
            None => 0,
            Some(None) => 1,
            Some(Some(_)) => 2,
        }
    });
}

#[test]
fn no_object_makes_it_panic() {
    let mut attributes = vec![
        nla(2, [3, 0, 0, 0, 9, 0, 0, 0]),
        nest(12, &[nla(1, nexthop::BUCKETS.to_ne_bytes())]),
        nla(3, 1u16.to_ne_bytes()),
        nla(5, 3u32.to_ne_bytes()),
        nla(6, [198, 51, 100, 1]),
    ];
    attributes.extend(attributes.clone());
    attributes.extend(std::iter::repeat_n(nla(1, 9u32.to_ne_bytes()), 6));
    attributes.push(nla(4, []));
    feed::<5>(&[2, 0, 208, 0, 0, 0, 0, 0], &attributes, |bytes| match nexthop::parse(bytes) {
        None => 0,
        Some(FoundObject { object: None, .. }) => 1,
        Some(FoundObject { object: Some(Object::Hop { .. }), .. }) => 2,
        Some(FoundObject { object: Some(Object::Group { fit, .. }), .. }) => 3 + usize::from(fit),
    });
}

#[test]
fn no_link_makes_it_panic() {
    let xdp = nest(43, &[nla(2, [2]), nla(4, 7u32.to_ne_bytes())]);
    let attributes = [
        nla(libc::IFLA_IFNAME, *b"eth1\0"),
        nla(libc::IFLA_MTU, 1500u32.to_ne_bytes()),
        nla(libc::IFLA_OPERSTATE, [6]),
        nla(libc::IFLA_CARRIER, [1]),
        nest(libc::IFLA_LINKINFO, &[nla(1, *b"veth\0"), nla(2, [1, 2, 3])]),
        xdp,
        nla(300, [9]),
    ];
    feed::<4>(&[0, 0, 1, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &attributes, |bytes| {
        usize::from(parse_link(bytes).is_some()) + 2 * usize::from(parse_xdp(bytes).is_some())
    });
}

#[test]
fn no_address_or_neighbour_makes_it_panic() {
    let attributes = [
        nla(libc::IFA_ADDRESS, [198, 51, 100, 1]),
        nla(libc::IFA_LOCAL, [198, 51, 100, 2]),
        nla(libc::IFA_FLAGS, [0x40, 0, 0, 0]),
        nla(6, [0; 16]),
    ];
    feed::<2>(&[2, 24, 0, 0, 7, 0, 0, 0], &attributes, |bytes| usize::from(parse_address(bytes).is_some()));
    let attributes = [nla(1, [198, 51, 100, 1]), nla(2, [2, 0, 0, 0, 0, 1]), nla(3, [0; 16])];
    feed::<2>(&[2, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 1], &attributes, |bytes| {
        usize::from(parse_neighbour(bytes).is_some())
    });
}

#[test]
fn only_a_learned_neighbour_may_be_forgotten() {
    let message = |state: u8| {
        let mut bytes = vec![2, 0, 0, 0, 7, 0, 0, 0, state, 0, 0, 1];
        bytes.extend([10, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 0]);
        bytes
    };
    let ethernet = Some([2, 0, 0, 0, 0, 1]);
    // Reachable, stale, delay, probe; no ARP, permanent; incomplete, failed.
    for state in [0x02, 0x04, 0x08, 0x10] {
        assert_eq!(parse_learned_neighbour(&message(state)), ethernet, "{state:#x}");
    }
    for state in [0x40, 0x80] {
        assert_eq!(parse_neighbour(&message(state)), ethernet, "{state:#x}");
        assert_eq!(parse_learned_neighbour(&message(state)), None, "{state:#x}");
    }
    for state in [0x01, 0x20] {
        assert_eq!(parse_learned_neighbour(&message(state)), None, "{state:#x}");
    }
}
