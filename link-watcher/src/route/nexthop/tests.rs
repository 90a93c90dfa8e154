//! The back-end on a pretended kernel whose flows are never idle: what moves, what is repaired, what is left alone.
#![allow(clippy::unwrap_used)]

use ipnet::IpNet;

use super::{
    fake::{FakeObjects, State},
    *,
};
use crate::route::{
    Actuation, Nexthop, RouteBackend, RouteSink, TableRange, fake::FakeKernel as FakeRoutes, table_fake::FakeKernel,
};

const GROUP: GroupId = GroupId(0);
const SECOND: u64 = 1_000_000_000;
const BASE: u32 = 7000;

fn hop(ifindex: u32) -> Nexthop {
    Nexthop { ifindex, gateway: format!("10.248.{ifindex}.1").parse().unwrap(), weight: 1 }
}

fn weighted(ifindex: u32, weight: u32) -> Nexthop {
    Nexthop { weight, ..hop(ifindex) }
}

fn net(i: u32) -> IpNet {
    format!("10.{}.{}.0/24", i / 250, i % 250).parse().unwrap()
}

fn group_routes(active: &[Nexthop], backups: &[u32]) -> GroupRoutes {
    GroupRoutes {
        table: 254,
        prefixes: (0..10).map(net).collect(),
        active: active.to_vec(),
        backups: backups.iter().map(|i| hop(*i)).collect(),
        links: (1..=3).map(hop).collect(),
        choice: RouteBackend::Nexthop,
        range: TableRange { table_base: BASE, rule_priority: 32_600 },
        ..GroupRoutes::default()
    }
}

/// Runs what never waits for anything outside.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A sink with its kernels, and a clock.
struct Bench {
    routes: FakeRoutes,
    objects: FakeObjects,
    sink: Actuation<FakeRoutes, FakeKernel, FakeObjects>,
    now_ns: u64,
}

impl Bench {
    fn new() -> Self {
        let routes = FakeRoutes::default();
        let objects = FakeObjects::with(&routes);
        Self { sink: Self::sink(&routes, &objects), routes, objects, now_ns: SECOND }
    }

    fn sink(routes: &FakeRoutes, objects: &FakeObjects) -> Actuation<FakeRoutes, FakeKernel, FakeObjects> {
        Actuation::new(routes.clone(), FakeKernel::default(), objects.clone())
    }

    fn restart(&mut self) {
        self.sink = Self::sink(&self.routes, &self.objects);
    }

    fn apply(&mut self, desired: &GroupRoutes) -> crate::route::Report {
        run(self.sink.apply(self.now_ns, GROUP, desired))
    }

    /// Everything that is due within `after_ns`.
    fn run_due(&mut self, after_ns: u64) -> Vec<Notice> {
        let end_ns = self.now_ns + after_ns;
        let mut notices = Vec::new();
        for _ in 0..10_000 {
            let due_ns = self.sink.next_deadline_ns();
            if due_ns > end_ns {
                self.now_ns = end_ns;
                return notices;
            }
            self.now_ns = self.now_ns.max(due_ns);
            notices.extend(run(self.sink.tick(self.now_ns)));
        }
        panic!("there is no end of work");
    }

    fn observe(&mut self, event: &KernelEvent) {
        self.sink.observe(self.now_ns, event);
    }

    /// Installs what is wanted, and forgets what that took.
    fn installed(desired: &GroupRoutes) -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.apply(desired).installed, 10);
        bench.run_due(SECOND);
        bench.forget();
        bench
    }

    fn forget(&mut self) {
        let mut state = self.objects.state();
        (state.calls, state.looks) = (Vec::new(), 0);
        self.routes.state().calls.clear();
    }

    fn shares(&self) -> Vec<(u32, usize)> {
        self.objects.shares(BASE).into_iter().collect()
    }

    fn objects(&self) -> usize {
        self.objects.state().objects.len()
    }
}

fn calls(state: &State) -> Vec<ObjectChange> {
    state.calls.concat()
}

#[test]
fn a_failover_is_one_message_and_touches_no_route() {
    let mut bench = Bench::installed(&group_routes(&[hop(1)], &[2, 3]));
    assert_eq!(bench.shares(), [(1, 128)]);
    assert_eq!(bench.objects(), 4, "three links and a group");
    let report = bench.apply(&group_routes(&[hop(2)], &[3]));
    assert_eq!((report.written, report.installed), (1, 10));
    assert_eq!(bench.shares(), [(2, 128)]);
    assert_eq!(bench.objects.state().looks, 0, "nothing gave reason to doubt");
    bench.run_due(SECOND);
    assert!(matches!(&calls(&bench.objects.state())[..], [ObjectChange::Replace(BASE, _)]));
    assert!(bench.routes.state().calls.is_empty());
}

#[test]
fn who_gives_traffic_up_leaves_before_it_stands_by() {
    let mut bench = Bench::installed(&group_routes(&[hop(1)], &[2]));
    // Both work: somebody has asked for the other one.
    assert_eq!(bench.apply(&group_routes(&[hop(2)], &[1])).written, 1);
    assert_eq!(bench.shares(), [(2, 128)], "no flow is left on the old link, however busy");
    bench.run_due(SECOND);
    assert_eq!(bench.shares(), [(2, 128)]);
    // The daemon does nothing: the kernel goes to the one that stands by.
    let _ = bench.objects.carrier(2, false);
    assert_eq!(bench.shares(), [(1, 128)]);
    assert_eq!(bench.routes.state().routes.len(), 10);
}

#[test]
fn several_share_by_weight_and_no_healthy_flow_moves() {
    let several = [weighted(1, 5), weighted(2, 3), weighted(3, 2)];
    let mut bench = Bench::installed(&group_routes(&several, &[]));
    assert_eq!(bench.shares(), [(1, 64), (2, 39), (3, 25)]);
    let before = bench.objects.state().buckets[&BASE].clone();
    bench.apply(&group_routes(&several[..2], &[]));
    let after = bench.objects.state().buckets[&BASE].clone();
    let dead = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    assert_eq!(dead, 25, "what the dead link had, and nothing else");
    bench.run_due(SECOND);
    // The same in another order is the same.
    bench.forget();
    assert_eq!(bench.apply(&group_routes(&[several[1], several[0]], &[])).written, 0);
    bench.run_due(SECOND);
    assert!(calls(&bench.objects.state()).is_empty());
}

#[test]
fn carrier_loss_is_survived_and_repaired() {
    let mut bench = Bench::installed(&group_routes(&[hop(1)], &[2]));
    let event = bench.objects.carrier(1, false);
    assert_eq!(bench.shares(), [(2, 128)]);
    bench.observe(&event);
    assert_eq!(bench.apply(&group_routes(&[hop(2)], &[])).written, 1);
    bench.run_due(SECOND);
    assert_eq!(bench.objects(), 3, "no object for a link without carrier");
    // Now the last one with carrier, too.
    for i in [2, 3] {
        let event = bench.objects.carrier(i, false);
        bench.observe(&event);
    }
    assert_eq!((bench.objects(), bench.routes.state().routes.len()), (0, 0));
    bench.run_due(SECOND);
    assert_eq!(bench.sink.report(GROUP).installed, 0);
    assert!(bench.sink.report(GROUP).refused[0].say(&|_| String::new()).contains("the kernel refused"));
    let event = bench.objects.carrier(2, true);
    bench.observe(&event);
    bench.run_due(SECOND);
    assert_eq!((bench.shares(), bench.sink.report(GROUP).installed), (vec![(2, 128)], 10));
    for i in [1, 3] {
        let event = bench.objects.carrier(i, true);
        bench.observe(&event);
    }
    bench.run_due(SECOND);
    assert_eq!((bench.shares(), bench.objects()), (vec![(2, 128)], 4));
}

#[test]
fn what_others_remove_is_put_back_ever_more_slowly() {
    let mut bench = Bench::installed(&group_routes(&[hop(1)], &[2]));
    let mut waits = Vec::new();
    for _ in 0..4 {
        let event = bench.objects.foreign_delete(BASE);
        bench.observe(&event);
        let since_ns = bench.now_ns;
        while bench.sink.report(GROUP).installed < 10 || bench.routes.state().routes.is_empty() {
            bench.now_ns = bench.now_ns.max(bench.sink.next_deadline_ns());
            run(bench.sink.tick(bench.now_ns));
        }
        waits.push((bench.now_ns - since_ns) / 1_000_000);
    }
    assert_eq!(waits, [0, 100, 200, 400]);
    // A next hop of a link: its group loses it, too.
    let link = *bench.objects.state().objects.keys().nth(1).unwrap();
    let event = bench.objects.foreign_delete(link);
    assert_eq!(bench.shares(), [(2, 128)]);
    bench.observe(&event);
    let notices = bench.run_due(2 * SECOND);
    assert!(notices.iter().any(|notice| matches!(notice, Notice::ObjectGone { .. })), "{notices:?}");
    // What stood by meanwhile gives everything back at once.
    assert_eq!(bench.shares(), [(1, 128)]);
}

#[test]
fn a_restart_writes_nothing() {
    let mut bench = Bench::installed(&group_routes(&[weighted(2, 2), weighted(3, 1)], &[1]));
    bench.restart();
    let adopted = run(bench.sink.adopt(bench.now_ns, GROUP, &group_routes(&[], &[])));
    let mut carrying: Vec<u32> = adopted.active.iter().map(|nexthop| nexthop.ifindex).collect();
    carrying.sort_unstable();
    assert_eq!((carrying, adopted.routes), (vec![2, 3], 10));
    bench.run_due(SECOND);
    // Nothing is known of the one that stands by yet.
    bench.apply(&group_routes(&[weighted(2, 2), weighted(3, 1)], &[]));
    bench.run_due(200 * SECOND);
    assert!(calls(&bench.objects.state()).is_empty() && bench.routes.state().calls.is_empty());
}

#[test]
fn foreign_objects_stay() {
    let mut bench = Bench::new();
    let foreign = Object::Hop { ifindex: 9, gateway: "10.9.9.9".parse().unwrap() };
    // One where a link's would be, another instance's, and one outside of our range.
    for (id, protocol) in [(BASE + 2, 11), (BASE + 3, PROTOCOL), (1, 11)] {
        bench.objects.state().objects.insert(id, (protocol, foreign.clone()));
    }
    let before = bench.objects.state().objects.clone();
    assert_eq!(bench.apply(&group_routes(&[hop(1)], &[2])).installed, 10);
    bench.run_due(100 * SECOND);
    assert_eq!(bench.shares(), [(1, 128)]);
    run(bench.sink.remove_all(bench.now_ns));
    assert_eq!(bench.objects.state().objects, before);
    assert!(bench.routes.state().routes.is_empty());
}

#[test]
fn without_groups_routes_do() {
    let unfit = |prepare: &dyn Fn(&mut State)| {
        let mut bench = Bench::new();
        prepare(&mut bench.objects.state());
        assert_eq!(bench.apply(&group_routes(&[hop(1)], &[2])).installed, 10);
        let egress = bench.routes.state().routes.values().next().unwrap().egress.clone();
        assert_eq!(egress, Some(crate::route::Egress::Nexthops(vec![hop(1)])));
        let notices = bench.run_due(SECOND);
        let Some(Notice::Unfit { why, .. }) = notices.first() else { panic!("{notices:?}") };
        (*why, bench.objects())
    };
    let (why, left) = unfit(&|state| state.refuses_all = Some(libc::EOPNOTSUPP));
    assert!(why.contains("Linux 5.3") && left == 0);
    let (why, left) = unfit(&|state| state.refuses_groups = Some(libc::EINVAL));
    assert!(why.contains("Linux 5.13") && left == 0);
    let hop = Object::Hop { ifindex: 9, gateway: "10.9.9.9".parse().unwrap() };
    let (why, left) = unfit(&|state| drop(state.objects.insert(BASE, (4, hop.clone()))));
    assert!(why.contains("table-base") && left == 1);
}

#[test]
fn another_choice_replaces_each_route_and_drops_the_objects() {
    let mut bench = Bench::installed(&group_routes(&[hop(1)], &[2]));
    let by_routes = GroupRoutes { choice: RouteBackend::Routes, ..group_routes(&[hop(1)], &[2]) };
    assert_eq!(bench.apply(&by_routes).installed, 10);
    assert_eq!((bench.objects(), bench.routes.state().routes.len()), (0, 20));
    assert_eq!(bench.apply(&group_routes(&[hop(1)], &[2])).installed, 10);
    assert_eq!(bench.routes.state().routes.len(), 10);
    // Another run has another choice: what it does not want yet must not go with its group.
    bench.run_due(SECOND);
    bench.restart();
    run(bench.sink.adopt(bench.now_ns, GROUP, &by_routes));
    let fewer = GroupRoutes { prefixes: (0..5).map(net).collect(), ..by_routes };
    bench.apply(&fewer);
    bench.run_due(100 * SECOND);
    assert_eq!(bench.routes.state().routes.len(), 15);
    bench.run_due(100 * SECOND);
    assert_eq!((bench.objects(), bench.routes.state().routes.len()), (0, 10));
}

#[test]
fn lost_answers_and_events_are_no_harm() {
    let mut bench = Bench::installed(&group_routes(&[hop(1)], &[2, 3]));
    bench.objects.state().lose_answers = true;
    bench.apply(&group_routes(&[hop(2)], &[3]));
    assert_eq!(bench.shares(), [(2, 128)]);
    bench.run_due(10 * SECOND);
    let _ = bench.objects.foreign_delete(BASE);
    bench.observe(&KernelEvent::Resync);
    bench.run_due(SECOND);
    assert_eq!((bench.shares(), bench.routes.state().routes.len()), (vec![(2, 128)], 10));
}

#[test]
fn each_family_has_its_group() {
    let six = |ifindex: u32| Nexthop { gateway: format!("2001:db8:{ifindex}::1").parse().unwrap(), ..hop(ifindex) };
    let mixed = GroupRoutes {
        prefixes: [net(1), "2001:db8:1::/48".parse().unwrap()].into_iter().collect(),
        links: vec![hop(1), six(2), six(3)],
        ..group_routes(&[hop(1), six(2)], &[])
    };
    let mut bench = Bench::new();
    assert_eq!(bench.apply(&mixed).installed, 2);
    bench.run_due(SECOND);
    assert_eq!(bench.shares(), [(1, 64), (2, 64)]);
    assert_eq!(bench.objects.shares(BASE + 1).into_iter().collect::<Vec<_>>(), [(2, 128)]);
    let report = bench.apply(&GroupRoutes { active: vec![six(3)], ..mixed });
    assert_eq!((report.written, report.installed), (2, 2));
    assert_eq!((bench.shares(), bench.objects.shares(BASE + 1).len()), (vec![(3, 128)], 1));
}
