//! The kernel's events: what comes, what is kept away, and the table of interfaces that they keep.
#![allow(clippy::unwrap_used)]

mod route_support;

use std::net::IpAddr;

use link_watcher::{
    event::Device,
    system::{Interfaces, KernelEvent, KernelEvents, LinkSysctls, ProcSysctl, RouteChange},
};
use route_support::*;

fn drain(events: &mut KernelEvents) -> Vec<KernelEvent> {
    std::iter::from_fn(|| events.try_next()).collect()
}

/// What came of routes that BIRD or we made; the kernel makes some of its own when a link comes up, a moment later.
fn routes(events: &mut KernelEvents) -> Vec<(RouteChange, u8, bool)> {
    let routes = drain(events).into_iter().filter_map(|event| match event {
        KernelEvent::Route(event) => Some((event.change, event.route.protocol, event.port_id != 0)),
        _ => None,
    });
    routes.filter(|(_, protocol, _)| [12, 208].contains(protocol)).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn foreign_routes_cost_nothing() {
    namespace(|| async {
        three_links();
        let mut events = KernelEvents::open().unwrap();
        let all = |verb: &str, rest: &str| {
            let verb = verb.to_owned();
            let rest = rest.to_owned();
            (0..2_000).map(move |i| format!("route {verb} 10.{}.{}.0/24 {rest}", 20 + i / 250, i % 250))
        };
        ip_batch(all("add", "via 10.248.248.1 proto bird"));
        ip_batch((0..500).map(|i| format!("route add 2001:db8:8000:{i:x}::/64 via 2001:db8:1::1 proto bird")));
        ip("route append 10.20.0.0/24 via 10.248.249.1 proto bird");
        ip_batch(all("del", "proto bird"));
        ip("-6 route flush proto bird");
        ip("route del 10.20.0.0/24");
        // The one that came second to an occupied place, which cannot be told from ours without its prefix.
        let seen = routes(&mut events);
        assert!(seen.len() <= 1, "{seen:?}");
        ip("route add 10.20.0.0/24 via 10.248.248.1 proto bird");
        ip("route replace 10.20.0.0/24 via 10.248.249.1 proto bird");
        ip("route add 10.21.0.0/24 via 10.248.248.1 proto 208");
        ip("route del 10.21.0.0/24");
        let seen = routes(&mut events);
        assert_eq!(
            seen,
            [(RouteChange::Replaced, 12, true), (RouteChange::Added, 208, true), (RouteChange::Removed, 208, true)]
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_overrun_asks_for_a_new_look() {
    namespace(|| async {
        three_links();
        let mut events = KernelEvents::open().unwrap();
        for verb in ["add", "del"] {
            ip_batch(
                (0..20_000).map(|i| format!("route {verb} 10.{}.{}.0/24 dev eth1 proto 208", 20 + i / 250, i % 250)),
            );
        }
        let seen = drain(&mut events);
        assert!(seen.contains(&KernelEvent::Resync), "{} events without an overrun", seen.len());
        ip("link set eth1 mtu 1400");
        let mtu = |event: &KernelEvent| matches!(event, KernelEvent::Link(link) if link.mtu == 1400);
        assert!(drain(&mut events).iter().any(mtu), "and it goes on");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn events_keep_the_table_as_a_new_look_would_find_it() {
    namespace(|| async {
        let mut events = KernelEvents::open().unwrap();
        let mut interfaces = Interfaces::read().unwrap();
        three_links();
        for command in [
            "link set eth1 down",
            "link set eth1 name uplink",
            "link set uplink up",
            "addr add 198.51.100.2/24 dev uplink",
            "addr add 198.51.100.3/32 peer 198.51.100.9 dev eth2",
            "addr del 10.248.249.2/24 dev eth2",
            "addr flush dev eth3",
            "link del eth3",
            "link add eth3 type veth peer name far3",
            "tuntap add mode tun dev tun0",
            "link set tun0 up",
            "link set uplink mtu 1300",
            "link set far1 down",
        ] {
            ip(command);
            drain(&mut events).iter().for_each(|event| {
                interfaces.update(event);
            });
        }
        // Carrier is told a moment later, by a worker of the kernel.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        while interfaces != Interfaces::read().unwrap() {
            let event = tokio::time::timeout_at(deadline, events.next()).await.expect("the tables agree in the end");
            interfaces.update(&event.unwrap());
        }
        let remote: IpAddr = "10.248.248.1".parse().unwrap();
        assert_eq!(interfaces.device("uplink", None, remote), Device::NoCarrier);
        assert_eq!(interfaces.device("eth1", None, remote), Device::Missing);
        assert_eq!(interfaces.device("eth3", None, remote), Device::Disabled);
        let tun = &interfaces.get("tun0").unwrap().link;
        assert_eq!((tun.kind.as_deref(), tun.link_type, tun.address_len), (Some("tun"), 65534, 0));
        let veth = &interfaces.get("uplink").unwrap().link;
        assert_eq!((veth.kind.as_deref(), veth.link_type, veth.address_len, veth.mtu), (Some("veth"), 1, 6, 1300));
        ip("link set far1 up");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        while interfaces.device("uplink", None, remote) != Device::Ready {
            let event = tokio::time::timeout_at(deadline, events.next()).await.expect("carrier comes back");
            interfaces.update(&event.unwrap());
        }
        let peer: IpAddr = "198.51.100.9".parse().unwrap();
        assert_eq!(interfaces.local_for("eth2", peer), Some("198.51.100.3".parse().unwrap()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn settings_are_changed_and_put_back() {
    namespace(|| async {
        three_links();
        let path = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}");
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap().trim().to_owned();
        std::fs::write(path("all/rp_filter"), "1").unwrap();
        std::fs::write(path("eth1/rp_filter"), "0").unwrap();
        let mut sysctls = LinkSysctls::new(ProcSysctl, std::collections::BTreeMap::new());
        let said = sysctls.prepare("eth1");
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!((read("eth1/rp_filter"), read("eth1/ignore_routes_with_linkdown")), ("2".into(), "1".into()));
        assert_eq!(sysctls.prepare("eth1"), [""; 0]);
        assert_eq!(sysctls.restore(), [""; 0]);
        assert_eq!((read("eth1/rp_filter"), read("eth1/ignore_routes_with_linkdown")), ("0".into(), "0".into()));
        assert_eq!(sysctls.prepare("nosuch"), [""; 0]);
        assert_eq!(sysctls.prepare_uplink("eth2").len(), 4);
        assert_eq!((read("eth2/rp_filter"), read("eth2/src_valid_mark")), ("2".into(), "1".into()));
        assert_eq!(sysctls.restore(), [""; 0]);
        assert_eq!((read("eth2/rp_filter"), read("eth2/src_valid_mark")), ("0".into(), "0".into()));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        assert_eq!(sysctls.forwarding(true, false).len(), 1);
    });
}
