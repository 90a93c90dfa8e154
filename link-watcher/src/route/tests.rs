//! The back-end on a pretended kernel: order, bounds, and what others do.
#![allow(clippy::unwrap_used)]

mod beside;

use std::collections::BTreeMap;

use super::{fake::FakeKernel, *};

const GROUP: GroupId = GroupId(0);
const SECOND: u64 = 1_000_000_000;

fn hop(ifindex: u32) -> Nexthop {
    Nexthop { ifindex, gateway: format!("10.248.{ifindex}.1").parse().unwrap(), weight: 1 }
}

fn net(i: u32) -> IpNet {
    format!("10.{}.{}.0/24", i / 250, i % 250).parse().unwrap()
}

fn group_routes(prefixes: u32, active: &[u32], backups: &[u32]) -> GroupRoutes {
    GroupRoutes {
        table: 254,
        metric: 0,
        prefixes: (0..prefixes).map(net).collect(),
        active: active.iter().map(|i| hop(*i)).collect(),
        backups: backups.iter().map(|i| hop(*i)).collect(),
        ..GroupRoutes::default()
    }
}

fn key(prefix: u32, metric: u32) -> RouteKey {
    RouteKey { table: 254, prefix: net(prefix), metric }
}

fn foreign(key: RouteKey, protocol: u8) -> FoundRoute {
    FoundRoute { key, protocol, egress: Some(Egress::Nexthops(vec![hop(99)])) }
}

/// Runs what never waits for anything outside.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn pair() -> (FakeKernel, Routes<FakeKernel>) {
    let kernel = FakeKernel::default();
    (kernel.clone(), Routes::new(kernel))
}

/// Hands the events over, and does what is due `now_ns`.
fn run_due(kernel: &FakeKernel, routes: &mut Routes<FakeKernel>, now_ns: u64) -> Vec<Notice> {
    let mut notices = Vec::new();
    let events = std::mem::take(&mut kernel.state().events);
    for event in events {
        notices.extend(routes.observe(now_ns, &event));
    }
    kernel.state().vacancies = routes.vacancies();
    notices.extend(run(routes.tick(now_ns)));
    notices
}

#[test]
fn what_carries_traffic_is_written_first_and_removals_come_last() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(300, &[1], &[2, 3])));
    kernel.state().calls.clear();
    let report = run(routes.apply(0, GROUP, &group_routes(300, &[2], &[3])));
    assert_eq!((report.installed, report.written), (300, 900));
    let calls = std::mem::take(&mut kernel.state().calls);
    assert!(calls.iter().all(|call| call.len() <= 200), "the answers of a call fit the receive buffer");
    let all: Vec<Change> = calls.concat();
    assert!(all[..300].iter().all(|change| matches!(change, Change::Replace(route) if route.key.metric == 0)));
    assert!(all[300..600].iter().all(|change| matches!(change, Change::Replace(route) if route.key.metric == 1)));
    assert!(all[600..].iter().all(|change| matches!(change, Change::Delete(route) if route.key.metric == 2)));
}

#[test]
fn a_prefix_keeps_its_old_route_where_the_new_one_is_refused() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(2, &[1], &[])));
    kernel.foreign_write(foreign(key(0, 50), 16));
    let report = run(routes.apply(0, GROUP, &GroupRoutes { metric: 50, ..group_routes(2, &[1], &[]) }));
    assert_eq!((report.installed, report.refused.len()), (1, 1));
    let standing: Vec<RouteKey> = kernel.state().routes.keys().copied().collect();
    assert_eq!(standing, [key(0, 0), key(0, 50), key(1, 50)]);
    // Nor does it move without any next hop.
    kernel.state().calls.clear();
    run(routes.apply(0, GROUP, &GroupRoutes { metric: 50, ..group_routes(2, &[], &[]) }));
    assert!(kernel.state().calls.is_empty());
}

#[test]
fn a_backup_that_nothing_wants_goes_though_the_route_before_it_is_refused() {
    let (kernel, mut routes) = pair();
    kernel.foreign_write(foreign(key(0, 0), 16));
    run(routes.apply(0, GROUP, &group_routes(1, &[1], &[2])));
    assert_eq!(kernel.state().routes.len(), 2, "theirs, and our backup behind it");
    run(routes.apply(0, GROUP, &group_routes(1, &[1], &[])));
    assert_eq!(kernel.state().routes.keys().copied().collect::<Vec<_>>(), [key(0, 0)]);
    // Ours is there as soon as theirs is gone.
    run_due(&kernel, &mut routes, SECOND);
    kernel.foreign_delete(&key(0, 0));
    run_due(&kernel, &mut routes, 5 * SECOND);
    assert_eq!(routes.report(GROUP).installed, 1);
}

#[test]
fn lost_answers_are_looked_up() {
    let (kernel, mut routes) = pair();
    kernel.state().lose_answers = true;
    let report = run(routes.apply(0, GROUP, &group_routes(3, &[1], &[])));
    assert!(report.error.is_some());
    assert_eq!(report.installed, 0);
    let due_ns = routes.next_deadline_ns();
    assert!(due_ns <= SECOND);
    assert_eq!(run_due(&kernel, &mut routes, due_ns), []);
    assert_eq!(routes.report(GROUP).installed, 3);
}

#[test]
fn an_owner_is_looked_up_once() {
    let (kernel, mut routes) = pair();
    kernel.foreign_write(foreign(key(0, 0), 16));
    run(routes.apply(0, GROUP, &group_routes(2, &[1], &[])));
    for i in 1..20u64 {
        run(routes.apply(i, GROUP, &group_routes(2, &[1 + (i % 2) as u32], &[])));
        run_due(&kernel, &mut routes, i * 31 * SECOND);
    }
    assert_eq!(kernel.state().lookups, 1, "reading a table of a million routes is not for every comparison");
    assert_eq!(routes.report(GROUP).refused[0].why, Why::Foreign(Some(16)));
}

#[test]
fn what_one_group_wants_no_more_another_one_gets_that_was_refused() {
    let (kernel, mut routes) = pair();
    let other = GroupId(1);
    run(routes.apply(0, GROUP, &group_routes(2, &[1], &[])));
    let report = run(routes.apply(0, other, &group_routes(2, &[2], &[])));
    assert_eq!((report.installed, &report.refused[0].why), (0, &Why::OtherGroup(GROUP)));
    assert_eq!(
        report.refused[0].say(&|group| format!("peer{}", group.0)),
        "10.0.0.0/24: peer0 has the same prefix, metric and table"
    );
    run(routes.apply(SECOND, GROUP, &group_routes(1, &[1], &[])));
    run_due(&kernel, &mut routes, SECOND);
    assert_eq!((routes.report(GROUP).installed, routes.report(other).installed), (1, 1));
}

#[test]
fn silent_losses_are_repaired_and_are_no_fight() {
    let (kernel, mut routes) = pair();
    run(routes.apply(0, GROUP, &group_routes(2, &[1], &[])));
    for i in 1..100 {
        kernel.drop_silently(&key(0, 0));
        let notices = run_due(&kernel, &mut routes, i * 31 * SECOND);
        assert!(matches!(notices[..], [Notice::Repaired { count: 1, by: None, .. }]), "{notices:?}");
    }
}

#[test]
fn what_the_kernel_refuses_is_tried_again() {
    let (kernel, mut routes) = pair();
    kernel.state().absent.insert(1);
    let report = run(routes.apply(0, GROUP, &group_routes(2, &[1], &[2])));
    assert_eq!((report.installed, report.refused.len()), (0, 2));
    kernel.state().absent.clear();
    run_due(&kernel, &mut routes, 5 * SECOND);
    assert_eq!(routes.report(GROUP).installed, 2);
}

#[test]
fn metrics_stay_in_their_range() {
    let many: Vec<u32> = (2..100).collect();
    let wanted = plan::Wanted::of(&group_routes(1, &[1], &many));
    assert_eq!(wanted.routes.keys().last().unwrap().metric, MAX_BACKUPS);
    let wanted = plan::Wanted::of(&GroupRoutes { metric: u32::MAX, ..group_routes(1, &[1], &[2]) });
    assert_eq!(wanted.routes.len(), 1);
    let v6 = GroupRoutes { prefixes: ["::/0".parse().unwrap()].into(), ..group_routes(1, &[1], &[]) };
    assert_eq!(plan::Wanted::of(&v6).leads.values().collect::<Vec<_>>(), [&None]);
}

/// Whatever happens in whatever order: no foreign route is ever changed, every place that is free in the end is taken
/// as wanted, and nothing of ours is left elsewhere.
#[test]
fn random_histories_end_as_wanted() {
    for seed in 0..300u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let (kernel, mut routes) = pair();
        let mut foreigners: BTreeMap<RouteKey, FoundRoute> = BTreeMap::new();
        let mut now_ns = SECOND;
        let mut last = GroupRoutes::default();
        for step in 0..60 {
            now_ns += random(3 * SECOND);
            let place = key(random(4) as u32, random(3) as u32);
            match random(8) {
                0 | 1 => {
                    // Whoever writes routes reads the news first.
                    run_due(&kernel, &mut routes, now_ns);
                    let (active, backup) = (1 + random(3) as u32, 1 + random(3) as u32);
                    last = group_routes(random(5) as u32, &[active], &[backup]);
                    run(routes.apply(now_ns, GROUP, &last));
                }
                2 => {
                    let route = foreign(place, [2, 4, 16, 208][random(4) as usize]);
                    kernel.foreign_write(route.clone());
                    foreigners.insert(place, route);
                }
                3 => {
                    kernel.foreign_delete(&place);
                    foreigners.remove(&place);
                }
                4 if !foreigners.contains_key(&place) => kernel.drop_silently(&place),
                7 if !foreigners.contains_key(&place) && kernel.state().routes.contains_key(&place) => {
                    let route = foreign(place, [4, 208][random(2) as usize]);
                    kernel.foreign_prepend(route.clone());
                    foreigners.insert(place, route);
                }
                5 => kernel.state().lose_answers = true,
                _ => {
                    run_due(&kernel, &mut routes, now_ns);
                }
            }
            for (key, route) in &foreigners {
                assert_eq!(kernel.state().routes.get(key), Some(route), "seed {seed}, step {step}");
            }
        }
        // Long enough for every fight to be over.
        for _ in 0..20 {
            now_ns += 61 * SECOND;
            run_due(&kernel, &mut routes, now_ns);
        }
        let wanted = plan::Wanted::of(&last);
        let state = kernel.state();
        for (key, egress) in wanted.routes.iter().filter(|(key, _)| !foreigners.contains_key(key)) {
            let route = FoundRoute { key: *key, protocol: PROTOCOL, egress: Some(egress.clone()) };
            assert_eq!(state.routes.get(key), Some(&route), "seed {seed}");
        }
        let served = |prefix| wanted.routes.keys().any(|key| key.prefix == prefix && !foreigners.contains_key(key));
        for (key, behind) in &state.behind {
            let ours = |route: &FoundRoute| route.egress.as_ref() == wanted.routes.get(key);
            assert!(behind.iter().all(ours) && behind.len() < 2, "seed {seed}: {key} has {behind:?} behind");
        }
        for key in state.routes.keys() {
            let ours = wanted.routes.contains_key(key) || foreigners.contains_key(key);
            // A prefix whose every wanted place is somebody else's keeps what it had.
            let kept = wanted.leads.contains_key(&key.prefix) && !served(key.prefix);
            assert!(ours || kept, "seed {seed}: {key} is left over");
        }
    }
}
