//! Tables and rules of uplinks in a real kernel: where packets go, and what is left alone.
#![allow(clippy::unwrap_used)]

mod route_support;
mod uplink_support;

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use link_watcher::{
    system::Interfaces,
    uplink::{
        Desired, Path,
        tables::{Problem, TableNotice},
    },
};
use route_support::{GROUP, SECOND, ip, ip_batch, namespace, nets, ours, three_links};
use uplink_support::*;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn tables_and_rules_stand_as_wanted() {
    namespace(|| async {
        three_links();
        let before = others();
        let mut bench = Bench::new();
        let desired = Desired { routes: nets(&["0.0.0.0/0"]), ..wish([2, 1, 0]) };
        assert_eq!(bench.apply(&desired), 18);
        assert_eq!(
            ours(),
            [
                "default table 7000 nexthop via 10.248.248.1 dev eth1 weight 2 onlink nexthop via 10.248.249.1 dev eth2 \
                 weight 1 onlink",
                "default via 10.248.248.1 dev eth1 table 7001 src 10.248.248.2 onlink",
                "unreachable default table 7001 metric 4294967295",
                "default via 10.248.249.1 dev eth2 table 7002 src 10.248.249.2 onlink",
                "unreachable default table 7002 metric 4294967295",
                "default via 10.248.250.1 dev eth3 table 7003 src 10.248.250.2 onlink",
                "unreachable default table 7003 metric 4294967295",
            ]
        );
        assert_eq!(
            our_rules(),
            [
                "20000: from all lookup main suppress_prefixlength 0 proto 208",
                "20050: from all oif eth1 lookup 7001 proto 208",
                "20050: from all oif eth2 lookup 7002 proto 208",
                "20050: from all oif eth3 lookup 7003 proto 208",
                "20100: from all fwmark 0x100/0xff00 lookup 7001 proto 208",
                "20100: from all fwmark 0x200/0xff00 lookup 7002 proto 208",
                "20100: from all fwmark 0x300/0xff00 lookup 7003 proto 208",
                "20300: from 10.248.248.2 lookup 7001 proto 208",
                "20300: from 10.248.249.2 lookup 7002 proto 208",
                "20300: from 10.248.250.2 lookup 7003 proto 208",
                "20900: from all lookup 7000 proto 208",
            ]
        );
        assert_eq!(bench.apply(&desired), 0, "nothing to do");
        assert_eq!(before, others());
        assert_eq!(bench.settle(31 * SECOND), []);
        bench.apply(&wish([2, 1, 0]));
        assert_eq!((bench.apply(&wish([2, 1, 0])), bench.settle(31 * SECOND)), (0, vec![]));
        let report = bench.tables.remove(bench.now_ns, GROUP);
        assert!(report.complete, "{report:?}");
        assert_eq!((ours(), our_rules()), (Vec::new(), Vec::new()));
        assert_eq!(before, others());
    });
}

/// Tiers 1, 1, 2: whichever uplinks fail, in whichever order, every packet ends in the right table.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn all_combinations_of_failing_uplinks_end_in_the_right_table() {
    namespace(|| async {
        three_links();
        // DHCP left a default route, somebody has rules before and between ours.
        ip("route add default via 10.248.250.1 dev eth3 proto dhcp metric 100");
        ip("rule add pref 19000 fwmark 0x7/0xff lookup 77");
        ip("rule add pref 20150 fwmark 0x8/0xff lookup 78");
        ip("route add 198.51.100.0/24 via 10.248.249.1 dev eth2 proto static");
        let before = others();
        let mut bench = Bench::new();
        const WEIGHTS: [u32; 3] = [3, 2, 1];
        const TIERS: [u32; 3] = [1, 1, 2];
        // All sequences of two sets of working uplinks, so each transition from one to another.
        let mut last = BTreeMap::new();
        for (first, second) in (0..8u32).flat_map(|first| (0..8u32).map(move |second| (first, second))) {
            for set in [first, second] {
                let works = |i: usize| set >> i & 1 == 1;
                let tier = (0..3).filter(|i| works(*i)).map(|i| TIERS[i]).min();
                let weight = |i: usize| if works(i) && Some(TIERS[i]) == tier { WEIGHTS[i] } else { 0 };
                let weights = [weight(0), weight(1), weight(2)];
                bench.apply(&wish(weights));
                let active: BTreeMap<u32, u32> = (1..).zip(weights).filter(|(_, weight)| *weight > 0).collect();
                // With all of them down everything stays.
                if !active.is_empty() {
                    last = active;
                }
                if last.is_empty() {
                    continue;
                }
                let alone = last.len() == 1;
                for (family, gateway) in [("4", "10.248."), ("6", "2001:db8:")] {
                    let shown = spread(family);
                    for i in 1..=3 {
                        let member = last.get(&i).map(|weight| format!("dev eth{i} weight {weight}"));
                        let there = shown.contains(&format!("dev eth{i} "));
                        let as_wanted = member.is_some_and(|member| alone || shown.contains(&member));
                        assert_eq!((there, as_wanted), (last.contains_key(&i), last.contains_key(&i)), "{shown}");
                    }
                    assert_eq!(shown.matches(gateway).count(), last.len() + usize::from(alone), "{shown}");
                }
                let active: Vec<String> = last.keys().map(|i| format!("eth{i}")).collect();
                for target in ["192.0.2.1", "192.0.2.77", "2001:db8:ffff::1"] {
                    let out = leaves_by(target);
                    assert!(active.contains(&out), "{target} leaves by {out}, active: {active:?}");
                    for i in 1..=3 {
                        assert_eq!(leaves_by(&format!("{target} mark {:#x}", i << 8 | 0x55)), format!("eth{i}"));
                    }
                }
                for i in 1..=3 {
                    assert_eq!(leaves_by(&format!("192.0.2.1 from 10.248.{}.2", 247 + i)), format!("eth{i}"));
                    assert_eq!(leaves_by(&format!("2001:db8:ffff::1 from 2001:db8:{i}::2")), format!("eth{i}"));
                }
                // More specific routes of the main table, whatever the mark.
                assert_eq!(leaves_by("198.51.100.7 mark 0x100"), "eth2");
                assert_eq!(leaves_by("10.248.250.9 mark 0x100"), "eth3");
            }
        }
        assert_eq!(before, others());
        bench.tables.remove(bench.now_ns, GROUP);
        assert_eq!(leaves_by("192.0.2.1"), "eth3");
        assert_eq!((before, Vec::new(), Vec::new()), (others(), ours(), our_rules()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_marked_never_leaves_by_another_uplink() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        bench.apply(&wish([1, 1, 1]));
        ip("link set eth1 down");
        let mut desired = wish([0, 1, 1]);
        desired.uplinks[0].ipv4 = None;
        desired.uplinks[0].ipv6 = None;
        bench.apply(&desired);
        for target in ["192.0.2.1", "2001:db8:ffff::1"] {
            assert!(leaves_by(&format!("{target} mark 0x100")).contains("No route to host"));
            assert_eq!(leaves_by(&format!("{target} mark 0x200")), "eth2");
        }
        assert!(!spread("4").contains("eth1"));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_others_have_in_our_ranges_stays_and_is_reported() {
    namespace(|| async {
        three_links();
        ip("rule add pref 20100 fwmark 0x100/0xff00 lookup 99");
        ip("rule add pref 20500 uidrange 1-2 lookup 7003 protocol 208");
        ip("-6 rule add pref 20900 lookup 99");
        ip("route add default via 10.248.249.1 dev eth2 proto static table 7001");
        ip("-6 route add default via 2001:db8:2::1 dev eth2 proto static metric 1024 table 7001");
        ip("route add 10.9.0.0/16 via 10.248.249.1 dev eth2 proto bird table 7000");
        ip("route add blackhole 10.8.0.0/16 proto 208 table 7002");
        let dump = || {
            let foreign_of_ours = |lines: Vec<String>| {
                let odd = |line: &String| line.contains("uidrange") || line.contains("blackhole");
                lines.into_iter().filter(odd).collect::<Vec<_>>()
            };
            (others(), foreign_of_ours(rules()), foreign_of_ours(ours()))
        };
        let before = dump();
        let mut bench = Bench::new();
        for weights in [[1, 1, 1], [0, 1, 1], [0, 0, 1]] {
            let report = bench.tables.apply(bench.now_ns, &wish(weights));
            assert!(!report.complete && report.error.is_none());
            let kernel = |problem: &&Problem| matches!(problem, Problem::Kernel { .. });
            assert_eq!((report.problems.len(), report.problems.iter().filter(kernel).count()), (7, 0), "{report:?}");
            assert_eq!(before, dump());
            bench.settle(6 * SECOND);
        }
        // Who comes in later stays too, and is told of once.
        ip("route replace default via 10.248.249.1 dev eth2 proto static table 7003");
        let later = dump();
        let notices = bench.settle(SECOND);
        assert!(matches!(&notices[..], [TableNotice::Trouble { said, .. }] if said.len() == 1), "{notices:?}");
        for _ in 0..3 {
            assert_eq!(bench.settle(31 * SECOND), []);
            assert_eq!(later, dump());
        }
        // Its place is taken when it is gone.
        ip("route del default proto static table 7003");
        bench.settle(SECOND);
        assert_eq!(leaves_by("192.0.2.1 mark 0x300"), "eth3");
        bench.tables.remove(bench.now_ns, GROUP);
        assert_eq!(before, dump());
        assert_eq!((our_rules().len(), ours().len()), (1, 1), "only what looks like ours and is not");
    });
}

/// A tun device as PPP makes it: one other end, no gateway.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_point_to_point_uplink_needs_no_gateway() {
    namespace(|| async {
        three_links();
        let ppp = |local: &str| {
            ip("tuntap add mode tun dev ppp0");
            ip(&format!("addr add {local} peer 203.0.113.1/32 dev ppp0"));
            ip("-6 addr add 2001:db8:9::2/64 dev ppp0 nodad");
            ip("link set ppp0 up");
        };
        ppp("198.51.100.7");
        let wish = |local: &str, weights| {
            let mut desired = wish(weights);
            let path = |source: &str| Some(Path { gateway: None, source: Some(source.parse::<IpAddr>().unwrap()) });
            desired.uplinks[0].interface = "ppp0".to_owned();
            desired.uplinks[0].ifindex = Interfaces::read().unwrap().index("ppp0").unwrap_or(0);
            desired.uplinks[0].ipv4 = path(local);
            desired.uplinks[0].ipv6 = path("2001:db8:9::2");
            desired
        };
        let mut bench = Bench::new();
        bench.apply(&wish("198.51.100.7", [1, 0, 0]));
        assert_eq!(spread("4"), "default dev ppp0 proto 208 scope link src 198.51.100.7 linkdown");
        assert_eq!(leaves_by("2001:db8:ffff::1 mark 0x100"), "ppp0");
        bench.apply(&wish("198.51.100.7", [3, 1, 0]));
        assert_eq!(bench.settle(31 * SECOND), [], "read back as written");
        assert_eq!(
            spread("4"),
            "default proto 208 nexthop dev ppp0 weight 3 linkdown nexthop via 10.248.249.1 dev eth2 weight 1 onlink"
        );
        // The kernel takes no IPv6 next hop without a gateway beside others.
        assert!(spread("6").contains("via 2001:db8:2::1 dev eth2") && !spread("6").contains("ppp0"));
        // Dialled again: another device, another address.
        ip("link del ppp0");
        bench.settle(SECOND);
        ppp("198.51.100.99");
        bench.apply(&wish("198.51.100.99", [3, 1, 0]));
        assert_eq!(leaves_by("192.0.2.1 mark 0x100"), "ppp0");
        assert!(our_rules().iter().any(|rule| rule.contains("from 198.51.100.99 lookup 7001")));
        assert!(!our_rules().iter().any(|rule| rule.contains("198.51.100.7 ")));
        bench.apply(&wish("198.51.100.99", [0, 0, 1]));
        assert_eq!(bench.settle(31 * SECOND), []);
        bench.tables.remove(bench.now_ns, GROUP);
        assert_eq!((ours(), our_rules()), (Vec::new(), Vec::new()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn gateways_outside_of_our_prefix_and_of_the_other_family() {
    namespace(|| async {
        three_links();
        let mut desired = wish([1, 1, 0]);
        desired.uplinks[0].ipv4.as_mut().unwrap().gateway = Some("203.0.113.1".parse().unwrap());
        desired.uplinks[1].ipv4.as_mut().unwrap().gateway = Some("fe80::1".parse().unwrap());
        desired.uplinks[1].ipv6.as_mut().unwrap().gateway = Some("fe80::1".parse().unwrap());
        let mut bench = Bench::new();
        bench.apply(&desired);
        assert_eq!(bench.settle(31 * SECOND), [], "read back as written");
        for i in 1..=2 {
            assert_eq!(leaves_by(&format!("192.0.2.1 mark {:#x}", i << 8)), format!("eth{i}"));
            assert_eq!(leaves_by(&format!("2001:db8:ffff::1 mark {:#x}", i << 8)), format!("eth{i}"));
        }
    });
}

/// Figures of this machine: failing over and reading, beside a full table of others, ms.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_failover_takes_less_than_a_millisecond() {
    namespace(|| async {
        three_links();
        const COUNT: u32 = 100_000;
        let prefix = |i: u32| format!("{}.{}.{}.0/24", 20 + i / 65536, i / 256 % 256, i % 256);
        ip_batch((0..COUNT).map(|i| format!("route add {} via 10.248.250.1 proto bgp", prefix(i))));
        let mut bench = Bench::new();
        bench.apply(&wish([2, 1, 0]));
        let wishes = [wish([0, 1, 0]), wish([2, 1, 0])];
        let mut times_ms = Vec::new();
        for i in 0..40 {
            let start = Instant::now();
            let report = bench.tables.apply(bench.now_ns, &wishes[i % 2]);
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
            assert!(report.complete && report.written == 2);
        }
        times_ms.sort_by(f64::total_cmp);
        let start = Instant::now();
        assert_eq!(bench.settle(31 * SECOND), []);
        let compared_ms = start.elapsed().as_secs_f64() * 1e3;
        println!("failover {:.3} ms, worst {:.3}; compared in {compared_ms:.3} ms", times_ms[20], times_ms[39]);
        // Far above what it takes, so that a busy machine does not fail the test.
        assert!(times_ms[20] < 20.0 && compared_ms < 100.0);
    });
}
