//! The back-end of nexthop groups in a real kernel: what packets do, what is left alone.
#![allow(clippy::unwrap_used)]

mod route_support;

use std::{collections::BTreeMap, fs};

use ipnet::IpNet;
use link_watcher::{
    route::{GroupRoutes, Nexthop, Notice, Report, RouteBackend, RouteSink},
    system::KernelEvents,
};
use route_support::{
    AllBackEnds, GROUP, SECOND, TABLE_BASE as BASE, foreign, ip, link, namespace, nets, ours, three_links, v4, v6, way,
};

const V6: u32 = BASE + 1;

impl AllBackEnds {
    async fn apply(&mut self, desired: &GroupRoutes) -> Report {
        self.observe();
        self.sink.apply(self.now_ns, GROUP, desired).await
    }

    /// Installs a wish completely.
    async fn installed(desired: &GroupRoutes) -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.apply(desired).await.installed, desired.prefixes.len());
        bench.settle(SECOND).await;
        bench
    }
}

fn wish(prefixes: impl IntoIterator<Item = IpNet>, active: &[Nexthop], backups: &[Nexthop]) -> GroupRoutes {
    route_support::wish(RouteBackend::Nexthop, prefixes, active, backups)
}

fn weighted(nexthop: Nexthop, weight: u32) -> Nexthop {
    Nexthop { weight, ..nexthop }
}

/// Nexthop objects, ours or not.
fn objects(ours: bool) -> Vec<String> {
    let text = ip("-o nexthop show");
    let lines = text.lines().filter(|line| (line.contains("proto 208") || line.contains("proto link-watcher")) == ours);
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// How many buckets each interface has in a group.
fn shares(group: u32) -> BTreeMap<String, usize> {
    let text = ip("-o nexthop show");
    let mut devices = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1].to_owned());
        devices.insert(after("id").unwrap(), after("dev"));
    }
    let mut shares = BTreeMap::new();
    for id in bucket_members(group) {
        *shares.entry(devices[&id].clone().unwrap()).or_default() += 1;
    }
    shares
}

/// Who has each bucket, by number.
fn bucket_members(group: u32) -> Vec<String> {
    let text = ip(&format!("nexthop bucket show id {group}"));
    let mut members = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]).unwrap();
        members.insert(after("index").parse::<u32>().unwrap(), after("nhid").to_owned());
    }
    members.into_values().collect()
}

fn of(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_message_moves_everything_and_carrier_loss_needs_no_daemon() {
    namespace(|| async {
        three_links();
        let before = foreign();
        ip("nexthop add id 1 via 10.248.249.1 dev eth2 proto 4");
        ip("nexthop add id 7002 via 10.248.250.1 dev eth3 proto 4");
        ip("nexthop add id 2 group 1/7002 proto 4");
        ip("route add 10.77.0.0/16 nhid 2");
        ip("route add 10.30.0.0/16 via 10.248.250.1 metric 7");
        let others = (foreign(), objects(false));
        let prefixes = nets(&["10.20.0.0/16", "10.30.0.0/16", "203.0.113.0/24"]);
        let mut bench = AllBackEnds::installed(&wish(prefixes.clone(), &[v4(1)], &[v4(2), v4(3)])).await;
        assert_eq!(ours().len(), 3);
        assert!(ours().iter().all(|route| route.contains("nhid 7000")), "{:?}", ours());
        assert_eq!((way("10.30.0.1"), way("203.0.113.9")), ("eth1".into(), "eth1".into()));
        let report = bench.apply(&wish(prefixes.clone(), &[v4(2)], &[v4(3)])).await;
        assert_eq!((report.written, report.installed), (1, 3));
        assert_eq!((way("10.30.0.1"), way("203.0.113.9")), ("eth2".into(), "eth2".into()));
        bench.settle(SECOND).await;
        // Nobody does anything: the kernel leaves the dead link by itself, for the one that stands by.
        ip("link set far2 down");
        wait_for("eth3", || way("10.30.0.1"));
        assert_eq!(shares(BASE), of(&[("eth3", 128)]));
        assert_eq!(ours().len(), 3);
        // And now the daemon hears of it.
        let report = bench.apply(&wish(prefixes.clone(), &[v4(3)], &[v4(1)])).await;
        assert_eq!((report.written, report.installed), (1, 3));
        ip("link set far2 up");
        let carrier = || ip("-o link show eth2").contains("state UP").to_string();
        wait_for("true", carrier);
        bench.settle(SECOND).await;
        assert_eq!((objects(true).len(), shares(BASE)), (4, of(&[("eth3", 128)])));
        // The foreign group lost a member with the carrier, which is nobody's doing here.
        ip("nexthop add id 1 via 10.248.249.1 dev eth2 proto 4");
        ip("nexthop replace id 2 group 1/7002 proto 4");
        let report = bench.sink.remove_all(bench.now_ns).await;
        assert!(report.refused.is_empty());
        assert_eq!((ours(), objects(true)), (vec![], vec![]));
        assert_eq!((sorted(&foreign()), objects(false)), (sorted(&others.0), others.1));
        ip("nexthop flush");
        ip("route del 10.30.0.0/16 metric 7");
        assert_eq!(sorted(&foreign()), sorted(&before));
    });
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Waits until the kernel has noticed something about a carrier, which takes it a moment.
fn wait_for(wanted: &str, now: impl Fn() -> String) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while now() != wanted {
        assert!(std::time::Instant::now() < deadline, "{} instead of {wanted}", now());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn several_share_by_weight_and_no_healthy_bucket_moves() {
    namespace(|| async {
        three_links();
        let prefixes = nets(&["10.30.0.0/16"]);
        let several = [weighted(v4(1), 5), weighted(v4(2), 3), weighted(v4(3), 2)];
        let mut bench = AllBackEnds::installed(&wish(prefixes.clone(), &several, &[])).await;
        assert_eq!(shares(BASE), of(&[("eth1", 64), ("eth2", 39), ("eth3", 25)]));
        let before = bucket_members(BASE);
        let order = |bench: &[String]| bench.iter().find(|line| line.starts_with("id 7000 ")).cloned().unwrap();
        let group = order(&objects(true));
        assert!(group.contains("type resilient buckets 128 idle_timer 10 unbalanced_timer 120"), "{group}");
        // In another order it is the same.
        let reversed: Vec<Nexthop> = several.iter().rev().copied().collect();
        assert_eq!(bench.apply(&wish(prefixes.clone(), &reversed, &[])).await.written, 0);
        // One goes: what it had moves, and nothing else.
        let report = bench.apply(&wish(prefixes.clone(), &several[..2], &[])).await;
        assert_eq!(report.written, 1);
        let after = bucket_members(BASE);
        let moved: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old != new).map(|(old, _)| old).collect();
        assert_eq!(moved.len(), 25);
        assert!(moved.iter().all(|old| *old == moved[0]), "{moved:?}");
        bench.settle(SECOND).await;
        let shares = shares(BASE);
        assert!(!shares.contains_key("eth3"), "what stands by has nothing: {shares:?}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn vandals_are_repaired_and_a_restart_writes_nothing() {
    namespace(|| async {
        three_links();
        let prefixes: Vec<IpNet> =
            (0..500).map(|i| format!("10.{}.{}.0/24", 100 + i / 250, i % 250).parse().unwrap()).collect();
        let desired = wish(prefixes.clone(), &[v4(2)], &[v4(1)]);
        let bench = AllBackEnds::installed(&desired).await;
        let stood = (ours(), objects(true), bucket_members(BASE));
        assert_eq!((stood.0.len(), stood.1.len()), (500, 4));
        drop(bench);
        let mut bench = AllBackEnds::new();
        let adopted = bench.sink.adopt(bench.now_ns, GROUP, &wish(prefixes.clone(), &[], &[])).await;
        assert_eq!(
            (adopted.active.iter().map(|hop| hop.gateway).collect::<Vec<_>>(), adopted.routes),
            (vec![v4(2).gateway], 500)
        );
        let mut monitor = KernelEvents::open().unwrap();
        monitor.filter(link_watcher::system::Filtered { nexthops: true, ..Default::default() }).unwrap();
        bench.apply(&wish(prefixes.clone(), &[v4(2)], &[])).await;
        bench.settle(70 * SECOND).await;
        assert_eq!(monitor.try_next(), None, "a restart writes nothing");
        assert_eq!((ours(), objects(true), bucket_members(BASE)), stood);
        // Somebody deletes the group, and every route with it.
        ip("nexthop del id 7000");
        assert_eq!(ours().len(), 0);
        let notices = bench.settle(10 * SECOND).await;
        assert!(notices.iter().any(|notice| matches!(notice, Notice::ObjectGone { .. })), "{notices:?}");
        assert!(notices.iter().any(|notice| matches!(notice, Notice::Repaired { count: 500, .. })), "{notices:?}");
        assert_eq!((ours(), sorted(&objects(true).join("\n"))), (stood.0.clone(), sorted(&stood.1.join("\n"))));
        // And the next hop that carries everything.
        let id = bucket_members(BASE)[0].clone();
        ip(&format!("nexthop del id {id}"));
        assert_eq!(shares(BASE), of(&[("eth1", 128)]), "who stands by carries it on");
        bench.settle(70 * SECOND).await;
        assert_eq!((ours(), shares(BASE)), (stood.0.clone(), of(&[("eth2", 128)])));
        assert_eq!(objects(true).len(), 4);
        // Everything of everybody.
        ip("nexthop flush");
        bench.settle(70 * SECOND).await;
        assert_eq!((ours(), shares(BASE)), (stood.0.clone(), of(&[("eth2", 128)])));
        // The interface goes, and comes back as another one.
        ip("link del eth2");
        bench.apply(&wish(prefixes.clone(), &[v4(1)], &[v4(3)])).await;
        assert_eq!(way("10.100.7.1"), "eth1");
        bench.settle(SECOND).await;
        link(2);
        bench.apply(&wish(prefixes.clone(), &[v4(2)], &[v4(1)])).await;
        bench.settle(10 * SECOND).await;
        assert_eq!((way("10.100.7.1"), ours().len(), objects(true).len()), ("eth2".into(), 500, 4));
        bench.sink.remove_all(bench.now_ns).await;
        assert_eq!((ours(), objects(true)), (vec![], vec![]));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn when_every_carrier_is_lost_everything_comes_back() {
    namespace(|| async {
        three_links();
        let prefixes = nets(&["10.20.0.0/16", "2001:db8:20::/48"]);
        let mut both = wish(prefixes, &[v4(1), v6(1)], &[v4(2), v6(2)]);
        both.links = (1..=3).flat_map(|i| [v4(i), v6(i)]).collect();
        let mut bench = AllBackEnds::installed(&both).await;
        for i in 1..=3 {
            ip(&format!("link set far{i} down"));
        }
        wait_for("0", || (ours().len() + objects(true).len()).to_string());
        bench.settle(SECOND).await;
        let report = bench.sink.report(GROUP);
        assert_eq!((report.installed, report.refused.len()), (0, 2));
        assert!(report.refused[0].say(&|_| String::new()).contains("arrier"), "{report:?}");
        ip("link set far1 up");
        wait_for("true", || ip("-o link show eth1").contains("state UP").to_string());
        bench.settle(SECOND).await;
        assert_eq!(bench.sink.report(GROUP).installed, 2, "{:?}", bench.sink.report(GROUP));
        assert_eq!((way("10.20.0.1"), way("2001:db8:20::1")), ("eth1".into(), "eth1".into()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ipv6_has_a_group_of_its_own_and_carries_ipv4_too() {
    namespace(|| async {
        three_links();
        let before = (foreign(), objects(false));
        let prefixes = nets(&["2001:db8:20::/48", "10.20.0.0/16", "::/0"]);
        let mut bench = AllBackEnds::installed(&wish(prefixes.clone(), &[v6(1)], &[v6(2)])).await;
        assert_eq!((way("2001:db8:20::1"), way("10.20.0.1")), ("eth1".into(), "eth1".into()));
        assert_eq!((shares(BASE), shares(V6)), (of(&[("eth1", 128)]), of(&[("eth1", 128)])));
        let report = bench.apply(&wish(prefixes.clone(), &[v6(3)], &[v6(2)])).await;
        assert_eq!(report.written, 2, "one message a family");
        assert_eq!((way("2001:db8:20::1"), way("10.20.0.1")), ("eth3".into(), "eth3".into()));
        bench.settle(SECOND).await;
        // To next hops, and back.
        let by_routes = GroupRoutes { choice: RouteBackend::Routes, ..wish(prefixes.clone(), &[v6(3)], &[v6(2)]) };
        assert_eq!(bench.apply(&by_routes).await.installed, 3);
        assert_eq!((objects(true).len(), ours().len()), (0, 6));
        assert_eq!(way("2001:db8:20::1"), "eth3");
        assert_eq!(bench.apply(&wish(prefixes, &[v6(3)], &[v6(2)])).await.installed, 3);
        bench.settle(SECOND).await;
        assert_eq!((objects(true).len(), ours().len()), (5, 3));
        bench.sink.remove_all(bench.now_ns).await;
        assert_eq!((ours(), objects(true)), (vec![], vec![]));
        assert_eq!((foreign(), objects(false)), before);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_failover_takes_no_longer_with_many_routes() {
    namespace(|| async {
        three_links();
        fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap();
        let prefixes: Vec<IpNet> =
            (0..20_000).map(|i| format!("10.{}.{}.0/24", 60 + i / 250, i % 250).parse().unwrap()).collect();
        let mut bench = AllBackEnds::installed(&wish(prefixes.clone(), &[v4(1)], &[v4(2)])).await;
        let kept = wish(prefixes, &[v4(2)], &[]);
        let kept = GroupRoutes { prefixes: std::sync::Arc::clone(&kept.prefixes), ..kept };
        bench.apply(&kept).await;
        bench.settle(SECOND).await;
        for i in [3, 1, 2] {
            let report = bench.apply(&GroupRoutes { active: vec![v4(i)], ..kept.clone() }).await;
            assert_eq!((report.written, report.installed), (1, 20_000));
            assert_eq!(way("10.70.7.1"), format!("eth{i}"));
            bench.settle(SECOND).await;
        }
    });
}
