//! The back-end of tables in a real kernel: what packets do, what is left alone.
#![allow(clippy::unwrap_used)]

mod route_support;

use std::sync::Arc;

use ipnet::IpNet;
use link_watcher::{
    route::{GroupRoutes, Nexthop, Notice, RouteBackend, RouteSink},
    system::KernelEvents,
};
use route_support::{AllBackEnds, GROUP, SECOND, foreign, ip, link, namespace, nets, ours, three_links, v4, v6, way};

fn wish(prefixes: impl IntoIterator<Item = IpNet>, active: &[Nexthop], backups: &[Nexthop]) -> GroupRoutes {
    route_support::wish(RouteBackend::Tables, prefixes, active, backups)
}

fn rules() -> Vec<String> {
    let text = ip("-4 rule show") + &ip("-6 rule show");
    text.lines()
        .filter(|line| line.contains("700"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_rule_moves_everything_and_carrier_loss_needs_no_daemon() {
    namespace(|| async {
        three_links();
        for i in 1..=3 {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/eth{i}/ignore_routes_with_linkdown"), "1").unwrap();
            std::fs::write(format!("/proc/sys/net/ipv6/conf/eth{i}/ignore_routes_with_linkdown"), "1").unwrap();
        }
        ip("link add lan type veth peer name host");
        ip("addr add 10.20.20.1/24 dev lan");
        ip("link set lan up");
        ip("link set host up");
        ip("route add blackhole 10.0.0.0/8");
        ip("rule add from 198.51.100.7 lookup 100 priority 32500");
        let sorted = || foreign().lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        let before = (sorted(), ip("rule show"));
        let mut both = AllBackEnds::new();
        let prefixes = nets(&["10.20.0.0/16", "10.30.0.0/16", "203.0.113.0/24"]);
        both.sink.apply(both.now_ns, GROUP, &wish(prefixes.clone(), &[v4(1)], &[v4(2), v4(3)])).await;
        assert_eq!(both.settle(SECOND).await, []);
        assert_eq!(both.sink.report(GROUP).installed, 3);
        assert_eq!(
            (way("10.30.0.1"), way("203.0.113.9"), way("10.20.20.9")),
            ("eth1".into(), "eth1".into(), "lan".into())
        );
        assert_eq!(rules().len(), 3);
        let report = both.sink.apply(both.now_ns, GROUP, &wish(prefixes.clone(), &[v4(2)], &[v4(1), v4(3)])).await;
        assert_eq!(report.written, 1);
        assert_eq!(
            (way("10.30.0.1"), way("203.0.113.9"), way("10.20.20.9")),
            ("eth2".into(), "eth2".into(), "lan".into())
        );
        both.settle(SECOND).await;
        // Nobody does anything: the kernel leaves the dead link by itself.
        ip("link set far2 down");
        assert_eq!((way("10.30.0.1"), way("10.20.20.9")), ("eth1".into(), "lan".into()));
        ip("link set far2 up");
        assert_eq!(way("10.30.0.1"), "eth2");
        let report = both.sink.remove_all(both.now_ns).await;
        assert!(report.refused.is_empty());
        assert_eq!((ours(), rules()), (vec![], vec![]));
        assert_eq!((sorted(), ip("rule show")), before);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ipv6_moves_and_connected_networks_stay() {
    namespace(|| async {
        three_links();
        let before = foreign();
        let mut both = AllBackEnds::new();
        let prefixes = nets(&["2001:db8::/32", "::/0"]);
        both.sink.apply(both.now_ns, GROUP, &wish(prefixes.clone(), &[v6(1)], &[v6(2)])).await;
        both.settle(SECOND).await;
        assert_eq!((way("2001:db8:ffff::1"), way("2001:db8:3::9")), ("eth1".into(), "eth3".into()));
        both.sink.apply(both.now_ns, GROUP, &wish(prefixes.clone(), &[v6(3)], &[v6(2)])).await;
        assert_eq!((way("2001:db8:ffff::1"), way("2001:db8:1::9")), ("eth3".into(), "eth1".into()));
        // A network appears inside of what goes through the peer.
        ip("addr add 2001:db8:77::1/64 dev eth2 nodad");
        both.settle(SECOND).await;
        assert_eq!(way("2001:db8:77::9"), "eth2");
        ip("addr del 2001:db8:77::1/64 dev eth2");
        both.settle(40 * SECOND).await;
        assert_eq!(way("2001:db8:77::9"), "eth3");
        both.sink.remove_all(both.now_ns).await;
        assert_eq!((ours(), rules(), foreign()), (vec![], vec![], before));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_restart_and_vandals_change_nothing_for_long() {
    namespace(|| async {
        three_links();
        let mut both = AllBackEnds::new();
        let prefixes: Vec<IpNet> =
            (0..2500).map(|i| format!("10.{}.{}.0/24", 100 + i / 250, i % 250).parse().unwrap()).collect();
        let desired = |active, backup| wish(prefixes.clone(), &[active], &[backup]);
        both.sink.apply(both.now_ns, GROUP, &desired(v4(2), v4(1))).await;
        both.settle(5 * SECOND).await;
        let stood = (ours(), rules());
        assert_eq!(stood.0.len(), 3 * 2500);
        let mut both = AllBackEnds::new();
        let adopted = both.sink.adopt(both.now_ns, GROUP, &desired(v4(2), v4(1))).await;
        assert_eq!(adopted.active, [v4(2)]);
        let mut monitor = KernelEvents::open().unwrap();
        both.sink.apply(both.now_ns, GROUP, &desired(v4(2), v4(1))).await;
        both.settle(5 * SECOND).await;
        assert_eq!((ours(), rules()), stood);
        assert_eq!(monitor.try_next(), None, "a restart writes nothing");
        // Somebody empties the table that carries the traffic, and removes the rule.
        ip("route flush table 7001");
        assert_eq!(way("10.100.7.1"), "eth1", "the backup's table carries it on");
        ip("rule del priority 32600");
        let notices = both.settle(10 * SECOND).await;
        assert!(notices.iter().any(|notice| matches!(notice, Notice::Repaired { count: 2500, .. })), "{notices:?}");
        assert!(notices.iter().any(|notice| matches!(notice, Notice::RuleGone { .. })), "{notices:?}");
        assert_eq!((ours(), rules()), stood);
        // The interface goes, and comes back as another one.
        ip("link del eth2");
        both.observe();
        both.sink.apply(both.now_ns, GROUP, &desired(v4(1), v4(3))).await;
        assert_eq!(way("10.100.7.1"), "eth1");
        both.settle(SECOND).await;
        link(2);
        both.sink.apply(both.now_ns, GROUP, &desired(v4(2), v4(1))).await;
        both.settle(10 * SECOND).await;
        assert_eq!(way("10.100.7.1"), "eth2");
        assert_eq!(ours().len(), 3 * 2500);
        both.sink.remove_all(both.now_ns).await;
        assert_eq!((ours(), rules()), (vec![], vec![]));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn crossing_the_threshold_strands_nobody() {
    namespace(|| async {
        three_links();
        let mut both = AllBackEnds::new();
        let list = |count: u32| -> Arc<[IpNet]> {
            (0..count).map(|i| format!("10.{}.{}.0/24", 100 + i / 250, i % 250).parse().unwrap()).collect()
        };
        for (count, by_tables) in [(400, false), (1200, true), (400, false), (1200, true)] {
            let desired =
                GroupRoutes { choice: RouteBackend::Auto, prefixes: list(count), ..wish([], &[v4(1)], &[v4(2)]) };
            both.sink.apply(both.now_ns, GROUP, &desired).await;
            // After every portion of the change everybody who had a way has it.
            let end_ns = both.now_ns + 5 * SECOND;
            while both.sink.next_deadline_ns() <= end_ns {
                both.now_ns = both.now_ns.max(both.sink.next_deadline_ns());
                both.observe();
                both.sink.tick(both.now_ns).await;
                assert_eq!((way("10.100.0.9"), way("10.101.149.9")), ("eth1".into(), "eth1".into()));
            }
            both.now_ns = end_ns;
            assert_eq!((both.sink.by_tables(GROUP), both.sink.report(GROUP).installed), (by_tables, count as usize));
            let expected = if by_tables { 3 * count } else { 2 * count };
            assert_eq!(ours().len(), expected as usize);
        }
        both.sink.remove_all(both.now_ns).await;
        assert_eq!((ours(), rules()), (vec![], vec![]));
    });
}
