//! The back-end on a pretended kernel: order, bounds, and what others do.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use super::{
    super::{
        FoundTableRoute, Hop, TableChange, TableRange, Way,
        fake::FakeKernel as FakeRoutes,
        nexthop::fake::FakeObjects,
        sink::Actuation,
        table_fake::{FakeKernel, State},
    },
    *,
};
use crate::route::{RouteBackend, RouteSink};

const GROUP: GroupId = GroupId(0);
const SECOND: u64 = 1_000_000_000;
const RANGE: TableRange = TableRange { table_base: 7000, rule_priority: 32_600 };

fn hop(ifindex: u32) -> Nexthop {
    Nexthop { ifindex, gateway: format!("10.248.{ifindex}.1").parse().unwrap(), weight: 1 }
}

fn net(i: u32) -> IpNet {
    format!("10.{}.{}.0/24", i / 250, i % 250).parse().unwrap()
}

fn inside(i: u32) -> IpAddr {
    format!("10.{}.{}.9", i / 250, i % 250).parse().unwrap()
}

fn group_routes(prefixes: impl IntoIterator<Item = u32>, active: &[u32], backups: &[u32]) -> GroupRoutes {
    GroupRoutes {
        table: 254,
        prefixes: prefixes.into_iter().map(net).collect(),
        active: active.iter().map(|i| hop(*i)).collect(),
        backups: backups.iter().map(|i| hop(*i)).collect(),
        links: (1..=3).map(hop).collect(),
        choice: RouteBackend::Tables,
        range: RANGE,
        ..GroupRoutes::default()
    }
}

fn route(table: u32, prefix: IpNet, metric: u32, protocol: u8, ifindex: u32) -> FoundTableRoute {
    let hops = vec![Hop { ifindex, gateway: Some("192.0.2.1".parse().unwrap()), weight: 1, onlink: false }];
    FoundTableRoute {
        key: Group::place(table, prefix, false).with(metric),
        protocol,
        way: Some(Way::Through { hops, source: None }),
    }
}

impl crate::route::RouteKey {
    fn with(self, metric: u32) -> Self {
        Self { metric, ..self }
    }
}

fn pair() -> (FakeKernel, PeerTables<FakeKernel>) {
    let kernel = FakeKernel::default();
    (kernel.clone(), PeerTables::new(kernel))
}

/// Does everything that is due at this time, in bounded portions.
fn run_due(tables: &mut PeerTables<FakeKernel>, now_ns: &mut u64) -> Vec<Notice> {
    let mut notices = Vec::new();
    for _ in 0..100_000 {
        if tables.next_deadline_ns() > *now_ns + 10 * PAUSE_NS {
            return notices;
        }
        *now_ns = (*now_ns).max(tables.next_deadline_ns());
        notices.extend(tables.tick(*now_ns));
    }
    panic!("no end");
}

fn lead(state: &State, i: u32) -> Option<Vec<u32>> {
    state.lookup(inside(i)).map(|(_, through)| through)
}

#[test]
fn failing_over_to_the_best_backup_is_one_message_however_many_prefixes() {
    for prefixes in [1, 300, 2000] {
        let (kernel, mut tables) = pair();
        let mut now_ns = SECOND;
        let list: std::sync::Arc<[IpNet]> = (0..prefixes).map(net).collect();
        let group_routes = |active: &[u32], backups: &[u32]| GroupRoutes {
            prefixes: list.clone(),
            ..group_routes([], active, backups)
        };
        tables.apply(now_ns, GROUP, &group_routes(&[1], &[2, 3]));
        run_due(&mut tables, &mut now_ns);
        assert!(tables.in_sync(GROUP));
        assert_eq!(tables.report(GROUP).installed, prefixes as usize);
        assert!(kernel.state().calls.iter().all(|call| call.len() <= CHUNK), "a failover waits for no more");
        assert_eq!(lead(&kernel.state(), prefixes - 1), Some(vec![1]));
        kernel.state().calls.clear();
        let report = tables.apply(now_ns, GROUP, &group_routes(&[2], &[3]));
        assert_eq!((report.written, report.installed), (1, prefixes as usize));
        let calls = std::mem::take(&mut kernel.state().calls);
        assert!(matches!(calls[0][..], [TableChange::DeleteRule(_)]), "{calls:?}");
        assert_eq!(lead(&kernel.state(), 0), Some(vec![2]));
        assert_eq!(tables.apply(now_ns, GROUP, &group_routes(&[2], &[3])).written, 0, "it leads there already");
        run_due(&mut tables, &mut now_ns);
        let order: Vec<(u32, u32)> = {
            let mut rules: Vec<_> = kernel.state().rules.iter().map(|rule| (rule.priority, rule.table)).collect();
            rules.sort_unstable();
            rules
        };
        assert_eq!(order, [(32_600, 7001), (32_601, 7002)], "active, then the backup that is usable");
        // To a link that is no backup, as by hand: its rule is made behind the old one, which goes.
        kernel.state().calls.clear();
        assert_eq!(tables.apply(now_ns, GROUP, &group_routes(&[1], &[2, 3])).written, 2);
        let calls = std::mem::take(&mut kernel.state().calls);
        assert!(matches!(calls[0][..], [TableChange::CreateRule(_), TableChange::DeleteRule(_)]), "{calls:?}");
        assert_eq!(lead(&kernel.state(), 0), Some(vec![1]));
        run_due(&mut tables, &mut now_ns);
        tables.clear(now_ns, GROUP);
        assert!(kernel.ours().is_empty());
    }
}

#[test]
fn the_longest_prefix_wins_whosever_it_is() {
    let (kernel, mut tables) = pair();
    let mut now_ns = SECOND;
    let wide: IpNet = "10.0.0.0/8".parse().unwrap();
    // A connected network, a wider route, one with the same prefix and a worse metric, one that others had first.
    for (prefix, metric, protocol) in
        [("10.0.7.0/24", 0, 2), ("0.0.0.0/0", 0, 4), ("10.0.0.0/8", 50, 4), ("10.0.3.0/24", 0, 4)]
    {
        kernel.state().routes.push(route(254, prefix.parse().unwrap(), metric, protocol, 90));
    }
    let mut desired = group_routes([2, 3], &[1], &[2]);
    desired.prefixes = [wide].into_iter().chain(desired.prefixes.iter().copied()).collect();
    let report = tables.apply(now_ns, GROUP, &desired);
    assert_eq!(report.written, 0, "nothing is caught before it is known what others have");
    run_due(&mut tables, &mut now_ns);
    let through = |i| lead(&kernel.state(), i).unwrap();
    assert_eq!((through(7), through(3)), (vec![90], vec![90]));
    assert_eq!((through(2), through(9)), (vec![1], vec![1]));
    let report = tables.report(GROUP);
    assert_eq!((report.installed, report.refused.len()), (2, 1));
    assert_eq!(report.refused[0].prefix, "10.0.3.0/24".parse().unwrap());
    // One more appears.
    kernel.state().routes.push(route(254, net(9), 0, 2, 91));
    let found = crate::route::FoundRoute { key: route(254, net(9), 0, 2, 91).key, protocol: 2, egress: None };
    let event = RouteEvent { change: RouteChange::Added, port_id: 0, route: found };
    tables.observe(now_ns, &KernelEvent::Route(event));
    run_due(&mut tables, &mut now_ns);
    assert_eq!(lead(&kernel.state(), 9).unwrap(), [91]);
    // It goes, and what is left is read some time later.
    kernel.state().routes.retain(|route| route.key.prefix != net(9) || route.key.table != 254);
    now_ns += 31 * SECOND;
    run_due(&mut tables, &mut now_ns);
    assert_eq!(lead(&kernel.state(), 9).unwrap(), [1]);
}

/// What an earlier run left waits for the peer's word; what others had, and have no more, does not keep its packets away meanwhile.
#[test]
fn what_others_had_at_a_restart_is_no_longer_left_to_them_when_it_goes() {
    let (kernel, mut tables) = pair();
    let mut now_ns = SECOND;
    let with = |kernel: &FakeKernel, i| kernel.state().routes.push(route(254, net(i), 0, 4, 90));
    // The same prefix, one within a wide one, and one within what the peer has announced before.
    [2, 9].into_iter().for_each(|i| with(&kernel, i));
    let narrow: IpNet = "172.16.5.0/24".parse().unwrap();
    kernel.state().routes.push(route(254, narrow, 0, 4, 90));
    let wide = |others: &[&str]| {
        let mut desired = group_routes([2, 3], &[1], &[2]);
        let others = ["10.0.0.0/8"].iter().chain(others).map(|prefix| prefix.parse::<IpNet>().unwrap());
        desired.prefixes = others.chain(desired.prefixes.iter().copied()).collect();
        desired
    };
    tables.apply(now_ns, GROUP, &wide(&["172.16.0.0/16"]));
    run_due(&mut tables, &mut now_ns);
    let mut tables = PeerTables::new(kernel.clone());
    tables.adopt(now_ns, GROUP, &group_routes([], &[], &[]), None);
    tables.apply(now_ns, GROUP, &wide(&[]));
    run_due(&mut tables, &mut now_ns);
    let through = |i| lead(&kernel.state(), i).unwrap();
    let to = |address: &str| kernel.state().lookup(address.parse().unwrap()).map(|(_, through)| through);
    assert_eq!((through(2), through(9), through(3)), (vec![90], vec![90], vec![1]));
    assert_eq!((to("172.16.5.9"), to("172.16.6.9")), (Some(vec![90]), Some(vec![1])));
    kernel.state().routes.retain(|route| route.key.table != 254 || route.key.prefix == narrow);
    now_ns += 31 * SECOND;
    run_due(&mut tables, &mut now_ns);
    assert_eq!((through(2), through(9)), (vec![1], vec![1]));
    assert_eq!((to("172.16.5.9"), to("172.16.6.9")), (Some(vec![90]), Some(vec![1])), "theirs, within what waits");
    now_ns += ORPHAN_GRACE_NS;
    run_due(&mut tables, &mut now_ns);
    assert_eq!((to("172.16.5.9"), to("172.16.6.9")), (Some(vec![90]), None));
    let throws = kernel.state().routes.iter().filter(|route| route.way == Some(Way::Throw)).count();
    assert_eq!(throws, 0, "nothing is left that is for nobody");
}

#[test]
fn several_active_links_share_a_table_once_it_is_full() {
    let (kernel, mut tables) = pair();
    let mut now_ns = SECOND;
    tables.apply(now_ns, GROUP, &group_routes(0..500, &[1, 2], &[3]));
    run_due(&mut tables, &mut now_ns);
    assert_eq!(lead(&kernel.state(), 17), Some(vec![1, 2]));
    let report = tables.apply(now_ns, GROUP, &group_routes(0..500, &[2], &[3]));
    assert_eq!((report.written, lead(&kernel.state(), 17)), (2, Some(vec![2])));
    run_due(&mut tables, &mut now_ns);
    assert_eq!(kernel.state().routes.len(), 1500, "the shared table is gone");
}

#[test]
fn a_restart_takes_over_and_lets_the_peer_announce_again() {
    let (kernel, mut tables) = pair();
    let mut now_ns = SECOND;
    tables.apply(now_ns, GROUP, &group_routes(0..400, &[2], &[1, 3]));
    run_due(&mut tables, &mut now_ns);
    let stood = kernel.ours();
    let mut tables = PeerTables::new(kernel.clone());
    let adopted = tables.adopt(now_ns, GROUP, &group_routes([], &[], &[]), None);
    assert_eq!(adopted.active, [hop(2)]);
    tables.apply(now_ns, GROUP, &group_routes(0..5, &[2], &[1, 3]));
    run_due(&mut tables, &mut now_ns);
    assert_eq!(kernel.ours(), stood);
    tables.apply(now_ns, GROUP, &group_routes(0..350, &[2], &[1, 3]));
    run_due(&mut tables, &mut now_ns);
    assert_eq!(kernel.ours(), stood);
    // It never announces the rest.
    now_ns += ORPHAN_GRACE_NS;
    run_due(&mut tables, &mut now_ns);
    assert_eq!(kernel.state().routes.len(), 3 * 350);
}

#[test]
fn what_others_remove_stands_again_and_foreign_routes_stay() {
    let (kernel, mut tables) = pair();
    let mut now_ns = SECOND;
    let foreign = route(7000, net(5), 1024, 4, 77);
    kernel.state().routes.push(foreign.clone());
    tables.apply(now_ns, GROUP, &group_routes(0..20, &[1], &[2]));
    run_due(&mut tables, &mut now_ns);
    let stood = kernel.ours();
    for round in 0..3 {
        now_ns += 61 * SECOND;
        run_due(&mut tables, &mut now_ns);
        let at = kernel.state().routes.iter().position(|route| route.protocol == PROTOCOL).unwrap();
        let events = [kernel.foreign_delete(at), kernel.foreign_delete_rule(0)];
        for event in events {
            tables.observe(now_ns, &event);
        }
        now_ns += 2 * SECOND;
        let notices = run_due(&mut tables, &mut now_ns);
        assert!(
            notices.iter().any(|notice| matches!(notice, Notice::Repaired { count: 1, .. })),
            "{round}: {notices:?}"
        );
        assert_eq!(kernel.ours(), stood);
    }
    tables.clear(now_ns, GROUP);
    assert_eq!(kernel.state().routes, [foreign]);
}

#[test]
fn a_rule_that_somebody_keeps_removing_counts_as_missing_though_a_backups_stands() {
    let (kernel, mut tables) = pair();
    let mut now_ns = SECOND;
    tables.apply(now_ns, GROUP, &group_routes(0..3, &[1], &[2]));
    run_due(&mut tables, &mut now_ns);
    let mut missing = 0;
    for round in 0..200 {
        now_ns += SECOND / 10;
        let first = kernel.state().rules.iter().position(|rule| rule.priority == RANGE.rule_priority);
        if let Some(at) = first {
            let event = kernel.foreign_delete_rule(at);
            tables.observe(now_ns, &event);
        }
        run_due(&mut tables, &mut now_ns);
        let active = lead(&kernel.state(), 0) == Some(vec![1]);
        let report = tables.report(GROUP);
        assert_eq!(report.installed, if active { 3 } else { 0 }, "round {round}: {report:?}");
        assert_eq!(report.refused.len(), 3 - report.installed, "round {round}: {report:?}");
        missing += usize::from(!active);
    }
    assert!(missing > 150, "the fight is fought ever more slowly: {missing}");
}

#[test]
fn a_dead_interface_costs_nothing_but_its_own_table() {
    let (kernel, mut tables) = pair();
    let mut now_ns = SECOND;
    tables.apply(now_ns, GROUP, &group_routes(0..200, &[1], &[2]));
    run_due(&mut tables, &mut now_ns);
    let event = kernel.drop_interface(1);
    tables.observe(now_ns, &event);
    tables.apply(now_ns, GROUP, &group_routes(0..200, &[2], &[]));
    assert_eq!(lead(&kernel.state(), 3), Some(vec![2]));
    let notices = run_due(&mut tables, &mut now_ns);
    assert!(notices.is_empty(), "{notices:?}");
    kernel.state().absent.clear();
    now_ns += 6 * SECOND;
    run_due(&mut tables, &mut now_ns);
    assert!(tables.in_sync(GROUP));
    assert_eq!(kernel.state().routes.len(), 3 * 200);
}

/// Runs what never waits for anything outside.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn the_number_of_prefixes_decides_with_some_patience() {
    let (routes, kernel) = (FakeRoutes::default(), FakeKernel::default());
    let mut sink = Actuation::new(routes.clone(), kernel.clone(), FakeObjects::default());
    let mut now_ns = SECOND;
    let auto = |count| GroupRoutes { choice: RouteBackend::Auto, ..group_routes(0..count, &[1], &[2]) };
    for (count, by_tables) in [(1000, false), (1001, true), (500, true), (499, false), (1000, false)] {
        run(sink.apply(now_ns, GROUP, &auto(count)));
        for _ in 0..500 {
            now_ns += 2 * PAUSE_NS;
            run(sink.tick(now_ns));
        }
        assert_eq!(sink.by_tables(GROUP), by_tables, "{count}");
        assert_eq!(sink.report(GROUP).installed, count as usize);
        assert_eq!(routes.state().routes.is_empty(), by_tables, "{count}: only one of the two stands");
        assert_eq!(kernel.state().routes.is_empty(), !by_tables, "{count}: only one of the two stands");
    }
    // A table of its own is led to by rules of its own, which are not ours.
    let other = GroupRoutes { table: 100, ..auto(5000) };
    run(sink.apply(now_ns, GROUP, &other));
    assert!(!sink.by_tables(GROUP));
    run(sink.remove_all(now_ns));
    assert!(routes.state().routes.is_empty() && kernel.ours().is_empty());
}

/// Whatever happens in whatever order: nobody who has a way, and shall have one, ever loses it, not for a single message;
/// foreign routes stay; and in the end everything is as wanted, and nothing is left over.
#[test]
fn random_histories_end_as_wanted() {
    for seed in 0..100u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = move |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let (kernel, mut tables) = pair();
        let mut now_ns = SECOND;
        let mut last = group_routes([], &[1], &[]);
        let mut foreigners = Vec::new();
        for step in 0..60 {
            now_ns += random(3 * SECOND);
            match random(8) {
                0..=2 => {
                    let (active, backup) = (1 + random(3) as u32, 1 + random(3) as u32);
                    let first = random(60) as u32;
                    let mut desired = group_routes(first..first + random(140) as u32, &[active], &[backup]);
                    if random(2) == 0 {
                        desired.prefixes = last.prefixes.clone();
                    }
                    // Whoever is wanted before and after keeps a way all the time.
                    let kept = last.prefixes.iter().filter(|prefix| desired.prefixes.contains(prefix));
                    kernel.state().watched = kept.step_by(7).map(|prefix| prefix.hosts().next().unwrap()).collect();
                    let answers = !kernel.state().lose_answers;
                    tables.apply(now_ns, GROUP, &desired);
                    let full = |slot: &&slot::Slot| slot.full && slot.uses(active) && !desired.prefixes.is_empty();
                    let found = tables.groups[&GROUP].slots.iter().find(|(_, slot)| full(slot));
                    if let Some((table, _)) = found.filter(|_| answers) {
                        let state = kernel.state();
                        // The first of those with equal priority, as the kernel has it.
                        let asked = state.rules.iter().min_by_key(|rule| rule.priority).map(|rule| rule.table);
                        assert_eq!(asked, Some(*table), "seed {seed}, step {step}: traffic moves at once");
                    }
                    last = desired;
                }
                3 => {
                    let prefix = net(random(200) as u32);
                    let found = route(7000 + random(4) as u32, prefix, 1024, 4, 77);
                    let taken = kernel.state().routes.iter().any(|route| route.key == found.key);
                    if !taken {
                        kernel.state().routes.push(found.clone());
                        foreigners.push(found);
                    }
                }
                4 => {
                    let ours: Vec<usize> = {
                        let state = kernel.state();
                        let ours = state.routes.iter().enumerate().filter(|(_, route)| route.protocol == PROTOCOL);
                        ours.map(|(at, _)| at).collect()
                    };
                    if let Some(at) = ours.get(random(ours.len().max(1) as u64) as usize) {
                        let event = kernel.foreign_delete(*at);
                        tables.observe(now_ns, &event);
                    }
                }
                5 => kernel.state().lose_answers = true,
                6 => {
                    let rules = kernel.state().rules.len();
                    if rules > 0 {
                        let event = kernel.foreign_delete_rule(random(rules as u64) as usize);
                        tables.observe(now_ns, &event);
                    }
                }
                _ => {
                    for _ in 0..random(20) {
                        now_ns += PAUSE_NS;
                        tables.tick(now_ns);
                    }
                }
            }
            assert_eq!(kernel.state().stranded, [""; 0], "seed {seed}, step {step}");
        }
        for _ in 0..20 {
            now_ns += 61 * SECOND;
            run_due(&mut tables, &mut now_ns);
        }
        assert!(tables.in_sync(GROUP), "seed {seed}");
        let state = kernel.state();
        for foreign in &foreigners {
            assert!(state.routes.contains(foreign), "seed {seed}: {foreign:?}");
        }
        let active = last.active[0].ifindex;
        for (table, slot) in &tables.groups[&GROUP].slots {
            let standing = state.routes.iter().filter(|route| route.key.table == *table && route.protocol == PROTOCOL);
            let taken = foreigners
                .iter()
                .filter(|foreign| foreign.key.table == *table && last.prefixes.contains(&foreign.key.prefix));
            assert_eq!(standing.count() + taken.count(), last.prefixes.len(), "seed {seed}");
            let leads = state.rules.iter().any(|rule| rule.priority == RANGE.rule_priority && rule.table == *table);
            assert_eq!(leads, slot.uses(active) && !last.prefixes.is_empty(), "seed {seed}");
        }
    }
}
