//! What others do to our routes, and what restarts leave behind: adopted, repaired, removed; never somebody else's.
#![allow(clippy::unwrap_used)]

mod route_support;

use std::time::Instant;

use link_watcher::{
    route::{GroupRoutes, NetlinkRoutes, Notice, RouteSink, Routes, Why},
    system::{Filtered, KernelEvent},
};
use route_support::*;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn deleted_routes_are_put_back_at_once_but_not_for_ever() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        bench.apply(&desired(&["10.1.0.0/16", "::/0"], &[v4(1), v6(1)], &[v4(2)])).await;
        let stood = ours();
        let quiet = bench.routes.next_deadline_ns();
        assert_eq!(bench.observe(), []);
        assert_eq!(bench.routes.next_deadline_ns(), quiet, "our own changes are no news");
        ip("route flush proto 208");
        ip("-6 route flush proto 208");
        assert_eq!(ours(), [""; 0]);
        let notices = bench.settle(0).await;
        assert_eq!(ours(), stood);
        let [Notice::Repaired { count: 3, by: Some(by), .. }] = &notices[..] else { panic!("{notices:?}") };
        assert!(by.contains("netlink port"), "{by}");

        // Again and again: the time without a route grows, up to a minute.
        let mut repairs = 0;
        for _ in 0..200 {
            ip("route flush proto 208");
            let notices = bench.settle(SECOND).await;
            repairs += usize::from(!ours().iter().all(|line| line.contains("default")));
            assert!(notices.len() <= 1, "{notices:?}");
        }
        assert!((5..=12).contains(&repairs), "{repairs} repairs in 200 s");
        // Peace.
        bench.settle(61 * SECOND).await;
        assert_eq!(ours(), stood);
        assert_eq!(bench.routes.report(GROUP).installed, 2);
        bench.settle(150 * SECOND).await;
        ip("route flush proto 208");
        bench.settle(SECOND / 100).await;
        assert_eq!(ours(), stood, "forgiven");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn changed_routes_are_set_right() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        bench.apply(&desired(&["10.1.0.0/16"], &[v4(1), v4(2)], &[v4(3)])).await;
        let stood = ours();
        ip("route replace 10.1.0.0/16 via 10.248.250.1 dev eth3 proto 208");
        bench.settle(0).await;
        assert_eq!(ours(), stood);
        ip("route del 10.1.0.0/16 metric 1 proto 208");
        bench.settle(SECOND).await;
        assert_eq!(ours(), stood);
        // Lost events: everything is looked at.
        ip("route flush proto 208");
        while bench.events.try_next().is_some() {}
        bench.routes.observe(bench.now_ns, &KernelEvent::Resync);
        bench.settle(SECOND).await;
        assert_eq!(ours(), stood);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_route_put_before_ours_hinders_no_failover_and_frees_the_place_when_it_goes() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        let waiting = || Filtered { vacancies: nets(&["10.1.0.0/16"]), ..Filtered::default() };
        bench.apply(&desired(&["10.1.0.0/16"], &[v4(1)], &[])).await;
        ip("route prepend unreachable 10.1.0.0/16");
        let notices = bench.settle(SECOND).await;
        assert!(matches!(notices[..], [Notice::Taken { protocol: 3, .. }]), "{notices:?}");
        bench.events.filter(waiting()).unwrap();
        bench.apply(&desired(&["10.1.0.0/16"], &[v4(2)], &[])).await;
        assert_eq!(ours(), ["10.1.0.0/16 via 10.248.249.1 dev eth2"]);
        assert!(ip("route show 10.1.0.0/16").starts_with("unreachable"), "theirs stays, and is first");
        ip("route del unreachable 10.1.0.0/16");
        bench.settle(2 * SECOND).await;
        assert_eq!(bench.routes.report(GROUP).installed, 1);
        // Replaced, and given back; what goes elsewhere is no event.
        ip("route replace unreachable 10.1.0.0/16");
        bench.settle(SECOND).await;
        assert_eq!(ours(), [""; 0]);
        ip("route add unreachable 10.2.0.0/16");
        ip("route del unreachable 10.2.0.0/16");
        assert!(bench.events.try_next().is_none());
        ip("route del unreachable 10.1.0.0/16");
        bench.settle(SECOND).await;
        assert_eq!(ours(), ["10.1.0.0/16 via 10.248.249.1 dev eth2"]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_restart_adopts_what_stands() {
    namespace(|| async {
        three_links();
        let links = [v4(1), v4(2)];
        let wish = GroupRoutes { metric: 5, ..desired(&["10.1.0.0/16", "10.2.0.0/16"], &[v4(2)], &[v4(1)]) };
        Bench::new().apply(&wish).await;
        // Another instance's, on another link and even in a place beside ours.
        ip("route add 10.1.0.0/16 via 10.248.250.1 dev eth3 metric 77 proto 208");
        ip("route add 10.9.0.0/16 via 10.248.250.1 dev eth3 proto 208");
        let stood = ours();
        let mut monitor = Bench::new();
        let mut bench = Bench::new();
        let adopted =
            bench.routes.adopt(bench.now_ns, GROUP, &GroupRoutes { links: links.to_vec(), ..wish.clone() }).await;
        assert_eq!((adopted.active, adopted.routes), (vec![v4(2)], 4));
        // The peer has announced only one so far.
        let one = GroupRoutes { prefixes: nets(&["10.1.0.0/16"]).into(), ..wish.clone() };
        let report = bench.apply(&one).await;
        assert_eq!((report.installed, report.written), (1, 0));
        bench.settle(SECOND).await;
        assert_eq!(ours(), stood);
        let mut events = std::iter::from_fn(|| monitor.events.try_next());
        let ours_too = |event| matches!(event, KernelEvent::Route(event) if event.route.protocol == 208);
        assert!(!events.any(ours_too), "a restart changes nothing");
        // It never announces the other.
        let notices = bench.settle(120 * SECOND).await;
        assert!(matches!(notices[..], [Notice::Expired { count: 2 }]), "{notices:?}");
        let left: Vec<_> = stood.iter().filter(|line| !line.starts_with("10.2.")).cloned().collect();
        assert_eq!(ours(), left);
        bench.routes.remove_all(bench.now_ns).await;
        assert_eq!(
            ours(),
            ["10.1.0.0/16 via 10.248.250.1 dev eth3 metric 77", "10.9.0.0/16 via 10.248.250.1 dev eth3"]
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn routes_of_an_earlier_run_are_recognised_even_late() {
    namespace(|| async {
        three_links();
        Bench::new().apply(&desired(&["10.1.0.0/16"], &[v4(1)], &[])).await;
        // Not adopted: the group was first applied with other next hops, and meets the route in its place.
        let mut bench = Bench::new();
        bench
            .routes
            .adopt(
                bench.now_ns,
                GROUP,
                &GroupRoutes { table: 7000, links: vec![v4(1), v4(2)], ..desired(&[], &[], &[]) },
            )
            .await;
        let report = bench.apply(&desired(&["10.1.0.0/16"], &[v4(2)], &[])).await;
        assert_eq!((report.installed, report.error), (1, None));
        assert_eq!(ours(), ["10.1.0.0/16 via 10.248.249.1 dev eth2"]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn interfaces_that_go_and_come_back() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new();
        let wish = |backup| desired(&["10.1.0.0/16"], &[v4(1)], &[backup]);
        bench.apply(&wish(v4(2))).await;
        let stood = ours();
        // The last address goes, and the kernel drops the route without a word.
        ip("addr del 10.248.248.2/24 dev eth1");
        bench.settle(SECOND).await;
        assert_eq!(ours(), ["10.1.0.0/16 via 10.248.249.1 dev eth2 metric 1"]);
        assert_eq!(bench.routes.report(GROUP).installed, 0);
        ip("addr add 10.248.248.2/24 dev eth1");
        bench.settle(SECOND).await;
        assert_eq!(ours(), stood);
        // Down and up.
        ip("link set eth1 down");
        bench.settle(SECOND).await;
        ip("link set eth1 up");
        bench.settle(SECOND).await;
        assert_eq!(ours(), stood);
        // Gone, and back under another index.
        let before = v4(1);
        ip("link del eth1");
        bench.settle(SECOND).await;
        let report = bench.apply(&wish(v4(2))).await;
        assert_eq!((v4(1).ifindex, report.installed), (0, 1), "the backup carries it");
        assert_eq!(ours(), ["10.1.0.0/16 via 10.248.249.1 dev eth2 metric 1"]);
        link(1);
        assert_ne!(v4(1), before);
        bench.apply(&wish(v4(2))).await;
        assert_eq!(ours(), stood);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_instances_side_by_side() {
    namespace(|| async {
        three_links();
        let (mut one, mut two) = (Bench::new(), Bench::new());
        one.apply(&desired(&["10.1.0.0/16"], &[v4(1)], &[v4(2)])).await;
        let wish = GroupRoutes { metric: 10, ..desired(&["10.1.0.0/16", "10.2.0.0/16"], &[v4(3)], &[]) };
        two.apply(&wish).await;
        let stood = ours();
        for _ in 0..3 {
            assert_eq!(one.settle(31 * SECOND).await, []);
            assert_eq!(two.settle(31 * SECOND).await, []);
        }
        assert_eq!(ours(), stood);
        one.routes.remove_all(one.now_ns).await;
        assert_eq!(two.settle(31 * SECOND).await, []);
        assert_eq!(
            ours(),
            ["10.1.0.0/16 via 10.248.250.1 dev eth3 metric 10", "10.2.0.0/16 via 10.248.250.1 dev eth3"]
                .map(|line| if line.contains("metric") { line.to_owned() } else { format!("{line} metric 10") })
        );
    });
}

/// A router with many routes of others: comparing ours must not read them, and only finding out whose route stands in
/// our place does.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_table_of_others_stays_cheap() {
    namespace(|| async {
        three_links();
        const COUNT: u32 = 100_000;
        let prefix = |i: u32| format!("{}.{}.{}.0/24", 20 + i / 65536, i / 256 % 256, i % 256);
        let mut bench = Bench::new();
        ip_batch((0..COUNT).map(|i| format!("route add {} via 10.248.250.1 proto bgp", prefix(i))));
        let mut events = std::iter::from_fn(|| bench.events.try_next());
        let theirs = |event| matches!(event, KernelEvent::Route(event) if event.route.protocol == 186);
        assert!(!events.any(theirs), "not one event of theirs");
        bench.apply(&desired(&["10.1.0.0/16"], &[v4(1)], &[v4(2)])).await;
        let start = Instant::now();
        assert_eq!(bench.settle(31 * SECOND).await, []);
        let compared_ms = start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        bench.apply(&desired(&["10.1.0.0/16"], &[v4(2)], &[v4(1)])).await;
        let switched_ms = start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        let taken = prefix(COUNT / 2);
        let report = bench.apply(&desired(&["10.1.0.0/16", &taken], &[v4(2)], &[v4(1)])).await;
        let looked_up_ms = start.elapsed().as_secs_f64() * 1e3;
        assert_eq!(report.refused[0].why, Why::Foreign(Some(186)));
        println!(
            "beside {COUNT} foreign routes: compared in {compared_ms:.1} ms, switched in {switched_ms:.3} ms, an owner \
             looked up in {looked_up_ms:.1} ms"
        );
        // Far above what it takes, so that a busy machine does not fail the test.
        assert!(compared_ms < 500.0 && switched_ms < 50.0);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_permission_every_prefix_says_so() {
    namespace(|| async {
        three_links();
        let hops = [v4(1)];
        let mut routes = Routes::new(NetlinkRoutes::open().unwrap());
        // Root without capabilities, for this thread alone.
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).unwrap();
        let report = routes.apply(SECOND, GROUP, &desired(&["10.1.0.0/16"], &hops, &[])).await;
        assert_eq!(report.installed, 0);
        let said = report.refused[0].say(&|_| String::new());
        assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    });
}
