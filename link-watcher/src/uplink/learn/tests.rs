//! What is made of configuration, interfaces and default routes; and when the kernel is asked.
#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use super::*;
use crate::{
    config::{FailbackConnections, Nat, ProbeConfig, ProbeKind},
    event::Failback,
    route::{FoundRoute, Hop, RouteKey},
    system::{Link, RouteChange, RouteEvent},
};

const SECOND: u64 = 1_000_000_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(interface: &str, gateways: &[&str], locals: &[&str]) -> UplinkConfig {
    UplinkConfig {
        name: interface.to_owned(),
        interface: interface.to_owned(),
        gateways: gateways.iter().map(|text| ip(text)).collect(),
        locals: locals.iter().map(|text| ip(text)).collect(),
        prefixes: Vec::new(),
        nat: Nat::Masquerade,
        tier: 1,
        weight: 1,
        probe: ProbeConfig {
            kind: ProbeKind::Icmp { targets: vec![ip("192.0.2.1")] },
            required: 1,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            fall: 3,
            rise: 3,
            max_loss: None,
            max_rtt: None,
            max_jitter: None,
            window: 60,
        },
    }
}

fn group(links: Vec<UplinkConfig>) -> UplinksConfig {
    UplinksConfig {
        dampening: true,
        name: "wan".to_owned(),
        routes: both(),
        lan: Vec::new(),
        sticky: true,
        flowtable: false,
        fwmark_mask: 0xff00,
        rule_priority: 20_000,
        table_base: 7000,
        failback: Failback::After(0),
        failback_connections: FailbackConnections::Stay,
        hold_up: Duration::ZERO,
        force: Vec::new(),
        links,
    }
}

fn both() -> Vec<IpNet> {
    ["0.0.0.0/0", "::/0"].iter().map(|net| net.parse().unwrap()).collect()
}

/// Addresses as `ip addr` writes them, with `peer P`, `secondary` or `tentative` behind.
fn interfaces(links: &[(Link, &[&str])]) -> Interfaces {
    let mut interfaces = Interfaces::default();
    for (link, addresses) in links {
        interfaces.update(&KernelEvent::Link(link.clone()));
        for text in *addresses {
            let mut words = text.split_whitespace();
            let net: IpNet = words.next().unwrap().parse().unwrap();
            let words: Vec<_> = words.collect();
            let address = Address {
                address: net.addr(),
                prefix_len: net.prefix_len(),
                peer: words.iter().position(|word| *word == "peer").map(|at| ip(words[at + 1])),
                scope: if text.starts_with("fe80") { 253 } else { 0 },
                tentative: words.contains(&"tentative"),
                secondary: words.contains(&"secondary"),
            };
            interfaces.update(&KernelEvent::AddressAdded { ifindex: link.ifindex, address });
        }
    }
    interfaces
}

fn link(ifindex: u32, name: &str) -> Link {
    Link { ifindex, name: name.to_owned(), admin_up: true, carrier: true, link_type: 1, ..Link::default() }
}

fn ppp(ifindex: u32) -> Link {
    Link { point_to_point: true, link_type: 512, ..link(ifindex, "ppp0") }
}

/// A default route: table, metric, next hop, source.
fn default(table: u32, metric: u32, ifindex: u32, gateway: &str, source: &str) -> FoundTableRoute {
    let optional = |text: &str| (!text.is_empty()).then(|| ip(text));
    let v6 = gateway.contains(':') || source.contains(':');
    let hop = Hop { ifindex, gateway: optional(gateway), weight: 1, onlink: false };
    FoundTableRoute {
        key: RouteKey { table, prefix: (if v6 { "::/0" } else { "0.0.0.0/0" }).parse().unwrap(), metric },
        protocol: 16,
        way: Some(Way::Through { hops: vec![hop], source: optional(source) }),
    }
}

#[derive(Clone, Default)]
struct FakeKernel(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    routes: Vec<FoundTableRoute>,
    macs: BTreeMap<(u32, IpAddr), [u8; 6]>,
    solicited: Vec<(u32, IpAddr)>,
    reads: usize,
    broken: bool,
}

impl LearnKernel for FakeKernel {
    fn default_routes(&mut self, _: &BTreeSet<u32>) -> io::Result<Vec<FoundTableRoute>> {
        let mut state = self.0.borrow_mut();
        state.reads += 1;
        if state.broken { Err(io::Error::other("broken")) } else { Ok(state.routes.clone()) }
    }

    fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
        Ok(self.0.borrow().macs.get(&(ifindex, address)).copied())
    }

    fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.0.borrow_mut().solicited.push((ifindex, address));
        Ok(())
    }
}

fn learned(routes: Vec<FoundTableRoute>) -> Learned {
    let kernel = FakeKernel::default();
    kernel.0.borrow_mut().routes = routes;
    let mut learner = Learner::new(kernel);
    learner.follow(0, [&group(vec![config("eth1", &[], &[])])]);
    learner.tick(0, &Interfaces::default());
    learner.learned
}

/// Gateway and source as text; `-` for none.
fn shown(path: Option<Path>) -> String {
    let text = |address: Option<IpAddr>| address.map_or("-".to_owned(), |address| address.to_string());
    path.map_or("none".to_owned(), |path| format!("{} {}", text(path.gateway), text(path.source)))
}

#[test]
fn addresses_and_gateways_come_from_the_nearest_source() {
    let dhcp = vec![default(254, 100, 2, "198.51.100.1", "")];
    let ra = vec![default(254, 1024, 2, "fe80::1", "")];
    let eth1: &[&str] = &["198.51.100.2/24"];
    let v6: &[&str] = &["fe80::2/64", "2001:db8:1::2/64"];
    for (gateways, locals, addresses, routes, expected) in [
        // Configured through and through.
        (&["198.51.100.1"][..], &["198.51.100.2"][..], eth1, vec![], "198.51.100.1 198.51.100.2"),
        (&["198.51.100.1"], &["198.51.100.3"], eth1, vec![], "lacks Local(198.51.100.3)"),
        (&["198.51.100.1"], &[], &["198.51.100.2/24 tentative"], vec![], "lacks Address"),
        (&["198.51.100.1"], &[], &["10.0.0.9/8", "198.51.100.2/24"], vec![], "198.51.100.1 198.51.100.2"),
        (
            &["198.51.100.1"],
            &[],
            &["198.51.100.2/24 secondary", "198.51.100.9/24"],
            vec![],
            "198.51.100.1 198.51.100.9",
        ),
        // A configured gateway may lie elsewhere.
        (&["203.0.113.1"], &[], eth1, vec![], "203.0.113.1 198.51.100.2"),
        // Learned.
        (&[], &[], eth1, dhcp.clone(), "198.51.100.1 198.51.100.2"),
        (&[], &[], eth1, vec![], "lacks Gateway"),
        (&[], &[], &[], dhcp.clone(), "lacks Address"),
        (&["198.51.100.77"], &[], eth1, dhcp, "198.51.100.77 198.51.100.2"),
        (
            &[],
            &[],
            &["10.0.0.9/8", "198.51.100.2/24"],
            vec![default(254, 0, 2, "10.0.0.1", "198.51.100.2")],
            "10.0.0.1 198.51.100.2",
        ),
        // The main table before others, then the lowest metric; another interface's counts for nothing.
        (
            &[],
            &[],
            eth1,
            vec![
                default(100, 0, 2, "198.51.100.5", ""),
                default(254, 200, 2, "198.51.100.4", ""),
                default(254, 100, 2, "198.51.100.3", ""),
                default(254, 0, 3, "198.51.100.2", ""),
            ],
            "198.51.100.3 198.51.100.2",
        ),
        (&[], &[], eth1, vec![default(100, 0, 2, "198.51.100.5", "")], "198.51.100.5 198.51.100.2"),
        // Proxy ARP: everything is on the link.
        (&[], &[], eth1, vec![default(254, 0, 2, "", "198.51.100.2")], "- 198.51.100.2"),
        // An Ethernet with one other end.
        (&[], &[], &["198.51.100.2/32 peer 203.0.113.1"], vec![], "203.0.113.1 198.51.100.2"),
        // IPv6 by router advertisement; temporary and deprecated addresses stand back.
        (&[], &[], v6, ra.clone(), "fe80::1 2001:db8:1::2"),
        (&[], &[], &["2001:db8:0::2/64 secondary", "2001:db8:1::2/64"], ra.clone(), "fe80::1 2001:db8:1::2"),
        (&[], &[], &["fe80::2/64"], ra, "fe80::1 -"),
        (&[], &[], &["fe80::2/64"], vec![], "lacks Address"),
    ] {
        let interfaces = interfaces(&[(link(2, "eth1"), addresses)]);
        let resolved = resolve(&both(), &config("eth1", gateways, locals), &interfaces, &learned(routes));
        let found = match resolved.lacks {
            Some(lack) => format!("lacks {lack:?}"),
            None => shown(resolved.ipv4.or(resolved.ipv6)),
        };
        assert_eq!(found, expected, "{gateways:?} {locals:?} {addresses:?}");
        assert_eq!(resolved.device == Device::Ready, resolved.lacks.is_none());
    }
}

#[test]
fn a_point_to_point_link_needs_no_gateway() {
    let resolve_ppp = |addresses: &[&str], routes| {
        let resolved =
            resolve(&both(), &config("ppp0", &[], &[]), &interfaces(&[(ppp(9), addresses)]), &learned(routes));
        (shown(resolved.ipv4), shown(resolved.ipv6))
    };
    let dialled: &[&str] = &["198.51.100.7/32 peer 203.0.113.1", "fe80::7/10"];
    assert_eq!(resolve_ppp(dialled, vec![]), ("- 198.51.100.7".to_owned(), "none".to_owned()));
    assert_eq!(
        resolve_ppp(dialled, vec![default(254, 1024, 9, "fe80::1", "")]),
        ("- 198.51.100.7".to_owned(), "fe80::1 -".to_owned())
    );
    assert_eq!(
        resolve_ppp(&["198.51.100.99/32 peer 203.0.113.1", "2001:db8:9::2/64"], vec![]),
        ("- 198.51.100.99".to_owned(), "- 2001:db8:9::2".to_owned())
    );
}

#[test]
fn a_device_goes_through_its_states() {
    let config = config("eth1", &["198.51.100.1"], &[]);
    let device = |interfaces: &Interfaces| {
        let resolved = resolve(&both(), &config, interfaces, &Learned::default());
        (resolved.device, resolved.ifindex, resolved.ipv4.is_some())
    };
    let addresses: &[&str] = &["198.51.100.2/24"];
    assert_eq!(device(&Interfaces::default()), (Device::Missing, 0, false));
    let down = Link { admin_up: false, ..link(2, "eth1") };
    assert_eq!(device(&interfaces(&[(down, addresses)])), (Device::Disabled, 2, false));
    let loose = Link { carrier: false, ..link(2, "eth1") };
    assert_eq!(device(&interfaces(&[(loose, addresses)])), (Device::NoCarrier, 2, true));
    assert_eq!(device(&interfaces(&[(link(2, "eth1"), &[])])), (Device::NoAddress, 2, false));
    assert_eq!(device(&interfaces(&[(link(7, "eth1"), addresses)])), (Device::Ready, 7, true));
}

#[test]
fn only_what_the_group_routes_matters() {
    let interfaces = interfaces(&[(link(2, "eth1"), &["198.51.100.2/24", "2001:db8:1::2/64"])]);
    let config = config("eth1", &["198.51.100.1", "2001:db8:1::1"], &[]);
    let resolve = |routes: &[IpNet]| {
        let resolved = resolve(routes, &config, &interfaces, &Learned::default());
        (resolved.ipv4.is_some(), resolved.ipv6.is_some())
    };
    assert_eq!(resolve(&both()), (true, true));
    assert_eq!(resolve(&both()[..1]), (true, false));
    assert_eq!(resolve(&both()[1..]), (false, true));
}

fn route_event(prefix: &str, protocol: u8) -> KernelEvent {
    let key = RouteKey { table: 254, prefix: prefix.parse().unwrap(), metric: 0 };
    let route = FoundRoute { key, protocol, egress: None };
    KernelEvent::Route(RouteEvent { change: RouteChange::Added, port_id: 7, route })
}

#[test]
fn the_kernel_is_asked_when_something_may_have_changed() {
    let kernel = FakeKernel::default();
    let mut learner = Learner::new(kernel.clone());
    assert_eq!(learner.next_deadline_ns(), u64::MAX);
    learner.observe(0, &KernelEvent::Resync);
    assert_eq!(learner.next_deadline_ns(), u64::MAX, "without uplinks nothing is read");
    learner.follow(0, [&group(vec![config("eth1", &[], &[])])]);
    let interfaces = interfaces(&[(link(2, "eth1"), &["198.51.100.2/24"]), (link(3, "eth9"), &[])]);
    assert_eq!(learner.tick(0, &interfaces), Tick::default());
    let quiet = learner.next_deadline_ns();
    assert!(quiet >= PERIOD_NS);
    let address = interfaces.get("eth1").unwrap().addresses[0];
    for event in [
        route_event("10.0.0.0/8", 16),
        route_event("0.0.0.0/0", PROTOCOL),
        KernelEvent::Link(link(3, "eth9")),
        KernelEvent::AddressAdded { ifindex: 3, address },
    ] {
        learner.observe(SECOND, &event);
        assert_eq!(learner.next_deadline_ns(), quiet, "{event:?}");
    }
    let mut now_ns = SECOND;
    for event in [
        route_event("0.0.0.0/0", 16),
        route_event("::/0", 9),
        KernelEvent::Link(link(2, "eth1")),
        KernelEvent::LinkRemoved { ifindex: 2, name: "eth1".to_owned() },
        KernelEvent::AddressRemoved { ifindex: 2, address },
        KernelEvent::Resync,
    ] {
        let reads = kernel.0.borrow().reads;
        for _ in 0..100 {
            learner.observe(now_ns, &event);
        }
        assert!(learner.next_deadline_ns() <= now_ns + GAP_NS, "{event:?}");
        for _ in 0..3 {
            learner.tick(now_ns + GAP_NS, &interfaces);
        }
        assert_eq!(kernel.0.borrow().reads, reads + 1, "{event:?}");
        now_ns += SECOND;
    }
    // A reading that fails leaves what was known.
    kernel.0.borrow_mut().routes = vec![default(254, 0, 2, "198.51.100.1", "")];
    learner.observe(now_ns, &KernelEvent::Resync);
    assert!(learner.tick(now_ns, &interfaces).changed);
    kernel.0.borrow_mut().broken = true;
    learner.observe(now_ns + SECOND, &KernelEvent::Resync);
    let tick = learner.tick(now_ns + SECOND, &interfaces);
    assert!(!tick.changed && tick.trouble.is_some());
    let resolved = learner.resolve(&both(), &config("eth1", &[], &[]), &interfaces);
    assert_eq!(shown(resolved.ipv4), "198.51.100.1 198.51.100.2");
}

#[test]
fn gateways_on_one_interface_are_told_apart_by_their_ethernet_address() {
    let kernel = FakeKernel::default();
    let mut learner = Learner::new(kernel.clone());
    let (one, two) = (config("eth1", &["198.51.100.1"], &[]), config("eth1", &["198.51.100.3"], &[]));
    let alone = config("eth2", &["203.0.113.1"], &[]);
    learner.follow(0, [&group(vec![one.clone(), alone]), &group(vec![two.clone()])]);
    let interfaces = interfaces(&[(link(2, "eth1"), &["198.51.100.2/24"]), (link(3, "eth2"), &["203.0.113.2/24"])]);
    kernel.0.borrow_mut().macs.insert((2, ip("198.51.100.1")), [1; 6]);
    assert!(learner.tick(0, &interfaces).changed);
    let mac = |learner: &Learner<FakeKernel>, config| learner.resolve(&both(), config, &interfaces).gateway_mac;
    assert_eq!((mac(&learner, &one), mac(&learner, &two)), (Some([1; 6]), None));
    assert_eq!(kernel.0.borrow().solicited, [(2, ip("198.51.100.3"))], "only the one that is not known");
    let lacks = learner.resolve(&both(), &two, &interfaces).lacks;
    assert_eq!(lacks, Some(Lack::Neighbour(ip("198.51.100.3"))), "what comes by it would be taken for the other's");
    assert_eq!(learner.next_deadline_ns(), SECOND / 10);
    kernel.0.borrow_mut().macs.insert((2, ip("198.51.100.3")), [3; 6]);
    assert!(learner.tick(SECOND, &interfaces).changed);
    assert_eq!((mac(&learner, &one), mac(&learner, &two)), (Some([1; 6]), Some([3; 6])));
    // Silence changes nothing, another router does.
    kernel.0.borrow_mut().macs.clear();
    assert!(!learner.tick(7 * SECOND, &interfaces).changed);
    kernel.0.borrow_mut().macs.insert((2, ip("198.51.100.3")), [4; 6]);
    assert!(learner.tick(14 * SECOND, &interfaces).changed);
    assert_eq!((mac(&learner, &one), mac(&learner, &two)), (Some([1; 6]), Some([4; 6])));
    learner.follow(15 * SECOND, [&group(vec![one.clone()])]);
    learner.tick(15 * SECOND, &interfaces);
    assert_eq!(mac(&learner, &one), None, "alone it needs none");
}
