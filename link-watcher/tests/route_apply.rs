//! Routes in a real kernel: what is written, what is left alone.
#![allow(clippy::unwrap_used)]

mod route_support;

use std::time::Instant;

use link_watcher::{
    event::GroupId,
    route::{GroupRoutes, Nexthop, RouteSink, Why},
};
use route_support::*;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_switch_replaces_and_backups_stand_beside() {
    namespace(|| async {
        three_links();
        let before = foreign();
        let mut bench = Bench::new();
        let prefixes = ["10.20.20.0/22", "0.0.0.0/0"];
        let report = bench.apply(&desired(&prefixes, &[v4(1)], &[v4(2), v4(3)])).await;
        assert_eq!((report.installed, report.refused.len(), report.written, report.error), (2, 0, 6, None));
        assert_eq!(
            ours(),
            [
                "default via 10.248.248.1 dev eth1",
                "default via 10.248.249.1 dev eth2 metric 1",
                "default via 10.248.250.1 dev eth3 metric 2",
                "10.20.20.0/22 via 10.248.248.1 dev eth1",
                "10.20.20.0/22 via 10.248.249.1 dev eth2 metric 1",
                "10.20.20.0/22 via 10.248.250.1 dev eth3 metric 2",
            ]
        );
        let report = bench.apply(&desired(&prefixes, &[v4(1)], &[v4(2), v4(3)])).await;
        assert_eq!((report.installed, report.written), (2, 0), "nothing to do");
        let report = bench.apply(&desired(&prefixes, &[v4(2)], &[v4(3)])).await;
        assert_eq!((report.installed, report.written), (2, 6));
        assert_eq!(
            ours(),
            [
                "default via 10.248.249.1 dev eth2",
                "default via 10.248.250.1 dev eth3 metric 1",
                "10.20.20.0/22 via 10.248.249.1 dev eth2",
                "10.20.20.0/22 via 10.248.250.1 dev eth3 metric 1",
            ]
        );
        // Another metric: the new ones first, then the old ones go.
        let other = GroupRoutes { metric: 50, table: 7000, ..desired(&prefixes, &[v4(2)], &[]) };
        bench.apply(&other).await;
        assert_eq!(
            ours(),
            [
                "default via 10.248.249.1 dev eth2 table 7000 metric 50",
                "10.20.20.0/22 via 10.248.249.1 dev eth2 table 7000 metric 50",
            ]
        );
        let report = bench.routes.remove_all(bench.now_ns).await;
        assert_eq!((report.written, report.refused.len()), (2, 0));
        assert_eq!(ours(), [""; 0]);
        assert_eq!(before, foreign());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn several_active_links_make_one_route_in_canonical_order() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        let heavy = Nexthop { weight: 3, ..v4(2) };
        let prefixes = ["10.20.20.0/22", "2001:db8:ffff::/48"];
        let report = bench.apply(&desired(&prefixes, &[heavy, v4(1), v6(3), v6(1)], &[])).await;
        assert_eq!((report.installed, report.written), (2, 2));
        assert_eq!(
            ours(),
            [
                "10.20.20.0/22 nexthop via 10.248.248.1 dev eth1 weight 1 nexthop via 10.248.249.1 dev eth2 weight 3 \
                 nexthop via inet6 2001:db8:1::1 dev eth1 weight 1 nexthop via inet6 2001:db8:3::1 dev eth3 weight 1",
                "2001:db8:ffff::/48 metric 1 pref medium nexthop via 2001:db8:1::1 dev eth1 weight 1 \
                 nexthop via 2001:db8:3::1 dev eth3 weight 1",
            ]
        );
        let report = bench.apply(&desired(&prefixes, &[v6(1), v6(3), v4(1), heavy], &[])).await;
        assert_eq!(report.written, 0, "the same members in another order are the same route");
        let report = bench.apply(&desired(&prefixes, &[v6(1), v4(1)], &[v6(3)])).await;
        assert_eq!((report.installed, report.written), (2, 4));
        bench.routes.remove_all(bench.now_ns).await;
        assert_eq!(ours(), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn families_are_served_as_far_as_the_kernel_can() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        let report = bench.apply(&desired(&["10.20.20.0/22"], &[v6(1)], &[v4(2)])).await;
        assert_eq!(report.installed, 1);
        assert_eq!(
            ours(),
            ["10.20.20.0/22 via inet6 2001:db8:1::1 dev eth1", "10.20.20.0/22 via 10.248.249.1 dev eth2 metric 1"]
        );
        assert_eq!(bench.apply(&desired(&["10.20.20.0/22"], &[v6(1)], &[v4(2)])).await.written, 0);
        let report = bench.apply(&desired(&["10.20.20.0/22", "::/0"], &[v4(1)], &[])).await;
        assert_eq!(report.installed, 1);
        assert_eq!(report.refused.iter().map(|refusal| &refusal.why).collect::<Vec<_>>(), [&Why::NoNexthop]);
        // Only a backup can carry IPv6.
        let report = bench.apply(&desired(&["::/0"], &[v4(1)], &[v6(2)])).await;
        assert_eq!(report.installed, 1);
        assert_eq!(ours(), ["default via 2001:db8:2::1 dev eth2 metric 2 pref medium"]);
        // Without any next hop it stays where it was.
        let report = bench.apply(&desired(&["::/0"], &[v4(1)], &[])).await;
        assert_eq!((report.installed, report.written), (0, 0));
        assert_eq!(ours(), ["default via 2001:db8:2::1 dev eth2 metric 2 pref medium"]);
        // IPv6 switch: it has no metric 0, and 1 is the first.
        bench.apply(&desired(&["::/0"], &[v6(1)], &[v6(2)])).await;
        bench.apply(&desired(&["::/0"], &[v6(3)], &[v6(1)])).await;
        assert_eq!(
            ours(),
            [
                "default via 2001:db8:3::1 dev eth3 metric 1 pref medium",
                "default via 2001:db8:1::1 dev eth1 metric 2 pref medium"
            ]
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_foreign_route_in_our_place_stays() {
    namespace(|| async {
        three_links();
        ip("route add default via 10.248.250.1 dev eth3 proto dhcp");
        ip("route add 10.1.0.0/16 via 10.248.250.1 dev eth3 metric 1 proto bird");
        ip("route add blackhole 10.2.0.0/16 proto static");
        ip("-6 route add default via 2001:db8:3::1 dev eth3 metric 1 proto ra");
        ip("route add 10.4.0.0/16 via 10.248.250.1 dev eth3 proto 208");
        let before = foreign();
        let mut bench = Bench::new();
        let prefixes = ["0.0.0.0/0", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "::/0"];
        for active in [1, 2, 1] {
            let other = 3 - active;
            let report = bench.apply(&desired(&prefixes, &[v4(active), v6(active)], &[v4(other)])).await;
            let refused: Vec<_> = report.refused.iter().map(|r| (r.prefix.to_string(), r.why.clone())).collect();
            let foreign = |prefix: &str, protocol| (prefix.to_owned(), Why::Foreign(Some(protocol)));
            assert_eq!(
                refused,
                [foreign("0.0.0.0/0", 16), foreign("10.2.0.0/16", 4), foreign("10.4.0.0/16", 208), foreign("::/0", 9)]
            );
            let backups: Vec<_> = report.backups_refused.iter().map(|r| r.prefix.to_string()).collect();
            assert_eq!((report.installed, backups), (2, vec!["10.1.0.0/16".to_owned()]));
            assert_eq!(before, foreign_state());
        }
        assert!(ours().contains(&"10.4.0.0/16 via 10.248.250.1 dev eth3".to_owned()), "another instance's stays");
        // Once it has gone, the place is taken at the next comparison.
        ip("route del default via 10.248.250.1 dev eth3 proto dhcp");
        bench.settle(31 * SECOND).await;
        assert_eq!(bench.routes.report(GROUP).installed, 3);
        bench.routes.remove_all(bench.now_ns).await;
        assert_eq!(ours(), ["10.4.0.0/16 via 10.248.250.1 dev eth3"]);
    });
}

/// Router advertisements bring a default route at 1024: ours stands before it, unless another metric is asked for.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_advertised_default_route_is_the_last_resort() {
    namespace(|| async {
        three_links();
        ip("-6 route add default via 2001:db8:3::1 dev eth3 metric 1024 proto ra");
        let through = |interface: &str| {
            let found = ip("-6 route get 2001:db8:ffff::1");
            assert!(found.contains(&format!("dev {interface} ")), "{found}");
        };
        let mut bench = Bench::new();
        let report = bench.apply(&desired(&["::/0"], &[v6(1)], &[v6(2)])).await;
        assert_eq!((report.installed, report.refused.len(), report.backups_refused.len()), (1, 0, 0));
        through("eth1");
        bench.apply(&desired(&["::/0"], &[v6(2)], &[v6(1)])).await;
        through("eth2");
        let report = bench.apply(&GroupRoutes { metric: 2000, ..desired(&["::/0"], &[v6(1)], &[v6(2)]) }).await;
        assert_eq!(report.installed, 1);
        through("eth3");
        bench.routes.remove_all(bench.now_ns).await;
        through("eth3");
    });
}

/// [`foreign`], where a closure has that name.
fn foreign_state() -> String {
    foreign()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn who_takes_our_place_keeps_it() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        let (v4_prefixes, v6_prefixes) = (["10.1.0.0/16", "10.2.0.0/16"], ["2001:db8:ffff::/48"]);
        let group6 = GroupId(6);
        bench.apply(&desired(&v4_prefixes, &[v4(1)], &[])).await;
        bench.routes.apply(bench.now_ns, group6, &desired(&v6_prefixes, &[v6(1)], &[])).await;
        ip("route replace 10.1.0.0/16 via 10.248.250.1 dev eth3 proto static");
        ip("route prepend 10.2.0.0/16 via 10.248.250.1 dev eth3 proto static");
        ip("-6 route replace 2001:db8:ffff::/48 via 2001:db8:3::1 dev eth3 metric 1 proto static");
        let before = foreign();
        let notices = bench.settle(SECOND / 100).await;
        assert_eq!(notices.len(), 3, "{notices:?}");
        for _ in 0..3 {
            let report = bench.apply(&desired(&v4_prefixes, &[v4(2)], &[])).await;
            assert_eq!((report.installed, report.refused.len()), (0, 2));
            let report = bench.routes.apply(bench.now_ns, group6, &desired(&v6_prefixes, &[v6(2)], &[])).await;
            assert_eq!((report.installed, report.refused.len()), (0, 1));
            assert_eq!(before, foreign());
            assert_eq!(bench.settle(31 * SECOND).await, []);
        }
        ip("route del 10.2.0.0/16 proto static");
        ip("route del 10.1.0.0/16 proto static");
        ip("-6 route del 2001:db8:ffff::/48 proto static");
        bench.settle(31 * SECOND).await;
        assert_eq!(
            ours(),
            [
                "10.1.0.0/16 via 10.248.249.1 dev eth2",
                "10.2.0.0/16 via 10.248.249.1 dev eth2",
                "2001:db8:ffff::/48 via 2001:db8:2::1 dev eth2 metric 1 pref medium"
            ]
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_refusal_in_a_batch_keeps_nothing_else_back() {
    namespace(|| async {
        three_links();
        ip("route add 10.20.77.0/24 via 10.248.250.1 dev eth3 proto static");
        let mut bench = Bench::new();
        let prefixes: Vec<_> = (0..500).map(|i| format!("10.{}.{}.0/24", 20 + i / 250, i % 250)).collect();
        let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
        let report = bench.apply(&desired(&prefixes, &[v4(1)], &[])).await;
        assert_eq!((report.installed, report.refused.len()), (499, 1));
        assert_eq!(
            report.refused[0].say(&|_| String::new()),
            "10.20.77.0/24: a route of a static configuration (protocol 4) \
             stands there; remove it, or give this group another metric"
        );
        // Every one fails: the answers of a whole chunk are errors.
        let nowhere = hop(2, "192.168.12.1");
        let report = bench.apply(&desired(&prefixes, &[nowhere], &[])).await;
        assert_eq!((report.installed, report.refused.len(), report.error), (0, 500, None));
        let said = report.refused[0].say(&|_| String::new());
        assert!(said.contains("Nexthop has invalid gateway"), "{said}");
        assert_eq!(ours().len(), 499, "and the old routes stand");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn groups_do_not_take_each_others_places() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        bench.apply(&desired(&["10.1.0.0/16"], &[v4(1)], &[])).await;
        let other = GroupId(1);
        let wish = desired(&["10.1.0.0/16", "10.2.0.0/16"], &[v4(2)], &[]);
        let report = bench.routes.apply(bench.now_ns, other, &wish).await;
        assert_eq!((report.installed, report.refused[0].why.clone()), (1, Why::OtherGroup(GROUP)));
        bench.routes.remove(bench.now_ns, GROUP).await;
        bench.settle(0).await;
        assert_eq!(bench.routes.report(other).installed, 2);
        assert_eq!(ours(), ["10.1.0.0/16 via 10.248.249.1 dev eth2", "10.2.0.0/16 via 10.248.249.1 dev eth2"]);
    });
}

/// Figures of this machine: median of many switches, ms.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_switch_takes_milliseconds() {
    namespace(|| async {
        three_links();
        for (count, bound_ms) in [(10, 5.0), (1_000, 100.0)] {
            for version in [4, 6] {
                let mut bench = Bench::new();
                let prefixes: Vec<_> = (0..count)
                    .map(|i| match version {
                        4 => format!("10.{}.{}.0/24", 20 + i / 250, i % 250),
                        _ => format!("2001:db8:8000:{i:x}::/64"),
                    })
                    .collect();
                let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
                let hops = |i| if version == 4 { v4(i) } else { v6(i) };
                let wishes = [desired(&prefixes, &[hops(1)], &[]), desired(&prefixes, &[hops(2)], &[])];
                let mut times_ms = Vec::new();
                for i in 0..40 {
                    let start = Instant::now();
                    let report = bench.routes.apply(bench.now_ns, GROUP, &wishes[i % 2]).await;
                    times_ms.push(start.elapsed().as_secs_f64() * 1e3);
                    assert_eq!((report.installed, report.written), (count, count));
                }
                times_ms.sort_by(f64::total_cmp);
                println!("{count} IPv{version} prefixes: {:.3} ms, worst {:.3}", times_ms[20], times_ms[39]);
                // Far above what it takes, so that a busy machine does not fail the test.
                assert!(times_ms[20] < bound_ms);
                bench.routes.remove_all(bench.now_ns).await;
            }
        }
    });
}
