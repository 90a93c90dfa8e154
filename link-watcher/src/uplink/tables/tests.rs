//! Tables and rules on a pretended kernel: what is wanted, order, bounds, and what others do.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::route::table_fake::FakeKernel;
use crate::{
    config::Nat,
    route::{Hop, IPV6_DEFAULT_METRIC},
    uplink::{Path, Uplink},
};

const GROUP: GroupId = GroupId(0);
const SECOND: u64 = 1_000_000_000;

fn uplink(number: u32, weight: u32) -> Uplink {
    let v4 = Path {
        gateway: Some(format!("198.51.{number}.1").parse().unwrap()),
        source: Some(format!("198.51.{number}.2").parse().unwrap()),
    };
    Uplink {
        link: LinkId(number),
        number,
        name: format!("provider{number}"),
        interface: format!("eth{number}"),
        ifindex: 10 + number,
        ipv4: Some(v4),
        ipv6: None,
        gateway_mac: None,
        prefixes: Vec::new(),
        nat: Nat::Masquerade,
        weight,
        usable: true,
    }
}

fn desired(weights: &[u32]) -> Desired {
    Desired {
        group: GROUP,
        name: "wan".to_owned(),
        routes: vec!["0.0.0.0/0".parse().unwrap()],
        excluded: Vec::new(),
        lan: vec!["eth0".to_owned()],
        sticky: true,
        fast_path: BTreeMap::new(),
        tcp_loose: true,
        fwmark_mask: 0xff00,
        rule_priority: 20_000,
        table_base: 7000,
        force: Vec::new(),
        uplinks: (1..).zip(weights).map(|(number, weight)| uplink(number, *weight)).collect(),
    }
}

fn v6(mut uplink: Uplink, gateway: Option<&str>) -> Uplink {
    let source = format!("2001:db8:{}::2", uplink.number).parse().unwrap();
    uplink.ipv6 = Some(Path { gateway: gateway.map(|gateway| gateway.parse().unwrap()), source: Some(source) });
    uplink
}

fn pair() -> (FakeKernel, Tables<FakeKernel>) {
    let kernel = FakeKernel::default();
    (kernel.clone(), Tables::new(kernel))
}

fn spread_of(kernel: &FakeKernel) -> Vec<(u32, u32)> {
    let state = kernel.state();
    let route = state.routes.iter().find(|route| route.key.table == 7000);
    match route.and_then(|route| route.way.clone()) {
        Some(Way::Through { hops, .. }) => hops.iter().map(|hop| (hop.ifindex, hop.weight)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn rules_ask_in_this_order() {
    let mut desired = desired(&[2, 1]);
    desired.uplinks[0].prefixes = vec!["203.0.113.0/28".parse().unwrap(), "2001:db8:100::/48".parse().unwrap()];
    let (_, rules) = wanted(&desired);
    let said: Vec<String> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "IPv4 rule 20000: lookup 254",
            "IPv4 rule 20050: oif eth1 lookup 7001",
            "IPv4 rule 20050: oif eth2 lookup 7002",
            "IPv4 rule 20100: fwmark 0x100/0xff00 lookup 7001",
            "IPv4 rule 20100: fwmark 0x200/0xff00 lookup 7002",
            "IPv4 rule 20300: from 198.51.1.2/32 lookup 7001",
            "IPv4 rule 20300: from 198.51.2.2/32 lookup 7002",
            "IPv4 rule 20304: from 203.0.113.0/28 lookup 7001",
            "IPv4 rule 20900: lookup 7000",
        ]
    );
    assert_eq!(rules[0].suppress_prefix_len, Some(0));
    assert!(rules[1..].iter().all(|rule| rule.suppress_prefix_len.is_none()));
    // Two on one interface are not told apart by it.
    let mut shared = desired.clone();
    shared.uplinks[1].interface = "eth1".to_owned();
    assert!(wanted(&shared).1.iter().all(|rule| rule.bound_to.is_none()));
    // The widest prefix stays in the range.
    desired.routes = vec!["::/0".parse().unwrap()];
    desired.uplinks[0].prefixes = vec!["::/0".parse().unwrap()];
    let (_, rules) = wanted(&desired);
    assert!(rules.is_sorted_by_key(|rule| rule.priority));
    assert!(rules.iter().all(|rule| (20_000..20_000 + RULE_PRIORITIES).contains(&rule.priority)));
    assert_eq!(rules.last().unwrap().table, 7000);
}

#[test]
fn an_address_that_two_uplinks_have_is_the_firsts() {
    let mut desired = desired(&[1, 1]);
    desired.uplinks[1].ipv4 = desired.uplinks[0].ipv4;
    let (_, rules) = wanted(&desired);
    let from: Vec<u32> = rules.iter().filter(|rule| rule.from.is_some()).map(|rule| rule.table).collect();
    assert_eq!(from, [7001]);
}

#[test]
fn an_uplinks_own_table_leads_nowhere_else() {
    let mut desired = desired(&[1, 0, 1]);
    desired.uplinks[2].ipv4 = None;
    let (routes, rules) = wanted(&desired);
    let in_table = |table| routes.iter().filter(|route| route.key.table == table).collect::<Vec<_>>();
    let [out, last] = &in_table(7002)[..] else { panic!("{routes:?}") };
    let hop = Hop { ifindex: 12, gateway: Some("198.51.2.1".parse().unwrap()), weight: 1, onlink: true };
    assert_eq!(out.way, Way::Through { hops: vec![hop], source: Some("198.51.2.2".parse().unwrap()) });
    assert_eq!((out.key.metric, last.key.metric, &last.way), (0, u32::MAX, &Way::Unreachable));
    let [last] = &in_table(7003)[..] else { panic!("{routes:?}") };
    assert_eq!(last.way, Way::Unreachable);
    assert!(rules.iter().any(|rule| rule.table == 7003), "what is marked for it has nowhere else to go");
    let [spread] = &in_table(7000)[..] else { panic!("{routes:?}") };
    assert!(matches!(&spread.way, Way::Through { hops, .. } if hops.len() == 1 && hops[0].ifindex == 11));
}

#[test]
fn the_spreading_table_has_the_groups_routes_in_each_family() {
    let mut desired = desired(&[5, 3, 2]);
    desired.routes = ["0.0.0.0/0", "10.0.0.0/8", "::/0"].iter().map(|net| net.parse().unwrap()).collect();
    desired.uplinks[0] = v6(uplink(1, 5), Some("fe80::1"));
    desired.uplinks[1] = v6(uplink(2, 3), None);
    desired.uplinks[2] = v6(uplink(3, 2), Some("2001:db8:3::1"));
    let spread = |desired: &Desired| {
        let (routes, _) = wanted(desired);
        let shown = |route: &TableRoute| match &route.way {
            Way::Through { hops, source } => {
                let hops: Vec<_> = hops.iter().map(|hop| (hop.ifindex, hop.weight)).collect();
                (route.key.prefix.to_string(), route.key.metric, hops, source.is_some())
            }
            Way::Unreachable | Way::Throw | Way::Object(_) => panic!("{route:?}"),
        };
        routes.iter().filter(|route| route.key.table == 7000).map(shown).collect::<Vec<_>>()
    };
    let all = vec![(11, 5), (12, 3), (13, 2)];
    let v6_metric = IPV6_DEFAULT_METRIC;
    assert_eq!(
        spread(&desired),
        [
            ("0.0.0.0/0".to_owned(), 0, all.clone(), false),
            ("10.0.0.0/8".to_owned(), 0, all, false),
            ("::/0".to_owned(), v6_metric, vec![(11, 5), (13, 2)], false),
        ]
    );
    // Without any gateway the kernel takes a single one: the heaviest.
    for uplink in &mut desired.uplinks {
        uplink.ipv6 = uplink.ipv6.map(|path| Path { gateway: None, ..path });
    }
    assert_eq!(spread(&desired)[2], ("::/0".to_owned(), v6_metric, vec![(11, 1)], true));
}

#[test]
fn additions_come_before_removals_and_a_failover_is_one_message() {
    let (kernel, mut tables) = pair();
    let report = tables.apply(0, &desired(&[2, 1, 1]));
    // 3 × (default, unreachable) + spread; 1 + 3 + 3 + 3 + 1 rules.
    assert_eq!((report.complete, report.written), (true, 18));
    assert_eq!(spread_of(&kernel), [(11, 2), (12, 1), (13, 1)]);
    let reads = kernel.state().reads;
    let report = tables.apply(SECOND, &desired(&[0, 1, 1]));
    assert_eq!((report.complete, report.written, kernel.state().reads), (true, 1, reads));
    assert_eq!(spread_of(&kernel), [(12, 1), (13, 1)]);
    assert!(matches!(kernel.state().calls.last().unwrap()[..], [TableChange::ReplaceRoute(_)]));

    // Another address: its rule comes before the old one goes.
    let mut moved = desired(&[0, 1, 1]);
    let path = Path { source: Some("198.51.1.77".parse().unwrap()), ..moved.uplinks[0].ipv4.unwrap() };
    moved.uplinks[0].ipv4 = Some(path);
    tables.apply(SECOND, &moved);
    let last = kernel.state().calls.last().unwrap().clone();
    assert!(
        matches!(last[..], [TableChange::ReplaceRoute(_), TableChange::CreateRule(_), TableChange::DeleteRule(_)]),
        "{last:?}"
    );

    // Everything goes, the rules in reverse.
    kernel.state().calls.clear();
    let report = tables.remove(2 * SECOND, GROUP);
    assert_eq!((report.complete, kernel.ours().len()), (true, 0));
    let last = kernel.state().calls.concat();
    let rules = last.iter().position(|change| matches!(change, TableChange::DeleteRoute(_))).unwrap();
    assert_eq!(rules, 11);
    assert!(matches!(last[0], TableChange::DeleteRule(rule) if rule.table == 7000));
    assert!(matches!(last[10], TableChange::DeleteRule(rule) if rule.table == 254));
}

#[test]
fn a_restart_adopts_and_says_what_carried_the_traffic() {
    let (kernel, mut tables) = pair();
    tables.apply(0, &desired(&[0, 3, 1]));
    kernel.state().calls.clear();
    let mut tables = Tables::new(kernel.clone());
    let standing = tables.standing(&desired(&[0, 0, 0]));
    assert_eq!(standing, BTreeMap::from([(LinkId(2), 3), (LinkId(3), 1)]));
    assert_eq!(tables.apply(0, &desired(&[0, 0, 0])).written, 0, "no verdict yet, no change");
    assert_eq!(tables.apply(0, &desired(&[0, 3, 1])).written, 0);
    assert_eq!(kernel.state().calls.len(), 0);
    // Fewer uplinks than before: what belonged to the third goes.
    let mut tables = Tables::new(kernel.clone());
    assert!(tables.apply(0, &desired(&[0, 3])).complete);
    assert!(!kernel.ours().iter().any(|said| said.contains("7003")), "{:?}", kernel.ours());
}

#[test]
fn the_last_default_stays_and_comes_back() {
    let (kernel, mut tables) = pair();
    tables.apply(0, &desired(&[2, 1]));
    tables.apply(0, &desired(&[0, 1]));
    assert_eq!(tables.apply(0, &desired(&[0, 0])).written, 0);
    assert_eq!(spread_of(&kernel), [(12, 1)]);
    let event = kernel.drop_interface(12);
    tables.observe(SECOND, &event);
    kernel.state().absent.clear();
    tables.reconcile(tables.next_deadline_ns());
    assert_eq!(spread_of(&kernel), [(12, 1)]);
    // A prefix that is not the group's any more goes even then.
    let mut other = desired(&[0, 0]);
    other.routes = vec!["10.0.0.0/8".parse().unwrap()];
    other.uplinks.iter_mut().for_each(|uplink| uplink.ipv4 = None);
    tables.apply(0, &other);
    assert_eq!(spread_of(&kernel), []);
}

#[test]
fn a_reload_with_other_ranges_leaves_nothing_behind() {
    let (kernel, mut tables) = pair();
    tables.apply(0, &desired(&[1, 1]));
    let other = Desired { rule_priority: 5000, table_base: 900, ..desired(&[1, 1]) };
    assert!(tables.apply(0, &other).complete);
    let (kernel_only, mut fresh) = pair();
    fresh.apply(0, &other);
    assert_eq!(kernel.ours(), kernel_only.ours());
}

#[test]
fn groups_may_change_places_at_a_reload() {
    let (kernel, mut tables) = pair();
    let one = desired(&[1, 1]);
    let two = Desired { group: GroupId(1), rule_priority: 5000, table_base: 900, ..desired(&[3, 1]) };
    tables.apply(0, &one);
    tables.apply(0, &two);
    let one = Desired { rule_priority: 5000, table_base: 900, ..one };
    let two = Desired { rule_priority: 20_000, table_base: 7000, ..two };
    tables.apply(0, &one);
    tables.apply(0, &two);
    assert_eq!(spread_of(&kernel), [(11, 3), (12, 1)]);
    let stood = kernel.ours();
    assert_eq!(tables.reconcile(60 * SECOND), [], "nothing was left undone");
    // The second goes, and its place is the first's.
    tables.apply(0, &desired(&[1, 1]));
    tables.remove(0, GroupId(1));
    assert_eq!(kernel.ours().len(), stood.len() / 2);
    assert_eq!(tables.reconcile(120 * SECOND), []);
}

/// Whatever happens in whatever order: nothing of others is ever changed (the pretended kernel sees to that too), and in the
/// end all of ours stands as in a machine where nothing happened.
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
        let (kernel, mut tables) = pair();
        let through =
            Way::Through { hops: vec![Hop { ifindex: 9, gateway: None, weight: 1, onlink: false }], source: None };
        let key = |table| RouteKey { table, prefix: "10.0.0.0/8".parse().unwrap(), metric: 0 };
        let routes: Vec<_> = [7000, 7002, 254]
            .map(|table| FoundTableRoute { key: key(table), protocol: 4, way: Some(through.clone()) })
            .into();
        let rule = FoundRule { family: Family::V4, priority: 20_100, protocol: 3, table: 77, rule: None };
        kernel.state().routes.extend(routes.clone());
        kernel.state().rules.push(rule);
        let foreign = |kernel: &FakeKernel| {
            let state = kernel.state();
            let routes = state.routes.iter().filter(|route| route.protocol != PROTOCOL).cloned().collect::<Vec<_>>();
            (routes, state.rules.iter().filter(|rule| rule.protocol != PROTOCOL).copied().collect::<Vec<_>>())
        };
        let mut now_ns = SECOND;
        let mut last = desired(&[1, 1, 1]);
        for step in 0..60 {
            now_ns += random(3 * SECOND);
            let ours = |protocols: Vec<u8>| {
                protocols.into_iter().enumerate().filter(|(_, protocol)| *protocol == PROTOCOL).map(|(at, _)| at)
            };
            match random(7) {
                0 | 1 => {
                    let count = 1 + random(3) as usize;
                    let weights: Vec<u32> = (0..count).map(|_| random(3) as u32).collect();
                    last = desired(&weights);
                    tables.apply(now_ns, &last);
                }
                2 => {
                    let places: Vec<_> =
                        ours(kernel.state().routes.iter().map(|route| route.protocol).collect()).collect();
                    if let Some(at) = places.get(random(8) as usize) {
                        tables.observe(now_ns, &kernel.foreign_delete(*at));
                    }
                }
                3 => {
                    let places: Vec<_> =
                        ours(kernel.state().rules.iter().map(|rule| rule.protocol).collect()).collect();
                    if let Some(at) = places.get(random(8) as usize) {
                        tables.observe(now_ns, &kernel.foreign_delete_rule(*at));
                    }
                }
                4 => {
                    let event = kernel.drop_interface(11 + random(3) as u32);
                    tables.observe(now_ns, &event);
                }
                5 => kernel.state().lose_answers = true,
                _ => {
                    kernel.state().absent.clear();
                    tables.reconcile(now_ns);
                }
            }
            assert_eq!(foreign(&kernel), (routes.clone(), vec![rule]), "seed {seed}, step {step}");
        }
        kernel.state().absent.clear();
        last.uplinks.iter_mut().for_each(|uplink| uplink.weight = uplink.weight.max(1));
        tables.apply(now_ns, &last);
        // Long enough for every fight to be over.
        for _ in 0..5 {
            now_ns += 61 * SECOND;
            tables.reconcile(now_ns);
        }
        let (undisturbed, mut fresh) = pair();
        fresh.apply(0, &last);
        assert_eq!(kernel.ours(), undisturbed.ours(), "seed {seed}");
        tables.remove(now_ns, GROUP);
        assert_eq!((kernel.ours().len(), foreign(&kernel)), (0, (routes, vec![rule])), "seed {seed}");
    }
}

#[test]
fn foreign_routes_and_rules_stay_and_are_named() {
    let (kernel, mut tables) = pair();
    let key = |table, prefix: &str| RouteKey { table, prefix: prefix.parse().unwrap(), metric: 0 };
    let through =
        Way::Through { hops: vec![Hop { ifindex: 9, gateway: None, weight: 1, onlink: false }], source: None };
    let routes = [
        FoundTableRoute { key: key(7001, "0.0.0.0/0"), protocol: 4, way: Some(through.clone()) },
        FoundTableRoute { key: key(7002, "10.0.0.0/8"), protocol: 4, way: Some(through) },
        FoundTableRoute { key: key(7002, "10.1.0.0/16"), protocol: PROTOCOL, way: None },
    ];
    let rule = FoundRule { family: Family::V4, priority: 20_500, protocol: 3, table: 77, rule: None };
    let rules = [rule, FoundRule { protocol: PROTOCOL, ..rule }, FoundRule { priority: 21_000, ..rule }];
    kernel.state().routes.extend(routes.clone());
    kernel.state().rules.extend(rules);
    let report = tables.apply(0, &desired(&[1, 1]));
    assert!(!report.complete, "the first uplink's table lacks its default route");
    assert_eq!(report.problems.len(), 5, "{:?}", report.problems);
    tables.apply(0, &desired(&[1, 0]));
    tables.remove(0, GROUP);
    let state = kernel.state();
    assert_eq!((&state.routes[..], &state.rules[..]), (&routes[..], &rules[..]));
}

#[test]
fn removals_are_repaired_with_growing_waits() {
    let (kernel, mut tables) = pair();
    tables.apply(0, &desired(&[2, 1]));
    let stood = kernel.ours();
    let (mut now_ns, mut repairs, mut waits) = (SECOND, 0, 0);
    for _ in 0..100 {
        let events = [kernel.foreign_delete(0), kernel.foreign_delete_rule(0)];
        events.iter().for_each(|event| tables.observe(now_ns, event));
        for _ in 0..2 {
            for notice in tables.reconcile(now_ns) {
                match notice {
                    TableNotice::Repaired { by, .. } => {
                        assert_eq!(by.as_deref(), Some("port 17"));
                        repairs += 1;
                    }
                    TableNotice::BackingOff { .. } => waits += 1,
                    TableNotice::Trouble { .. } => panic!("{notice:?}"),
                }
            }
            now_ns = now_ns.max(tables.next_deadline_ns().min(now_ns + SECOND));
        }
        if kernel.state().routes.is_empty() || kernel.state().rules.is_empty() {
            break;
        }
    }
    assert!((4..40).contains(&repairs) && waits <= repairs + 1, "{repairs} repairs, {waits} waits");
    // When it is over, all of it stands again, and a wish never waits.
    tables.apply(now_ns, &desired(&[2, 1]));
    assert_eq!(kernel.ours(), stood);
}

#[test]
fn what_the_kernel_refuses_is_tried_again_and_said_once() {
    let (kernel, mut tables) = pair();
    kernel.state().absent.insert(11);
    let report = tables.apply(0, &desired(&[2, 1]));
    assert!(!report.complete);
    assert!(report.problems.iter().any(|problem| matches!(problem, Problem::Kernel { .. })), "{report:?}");
    assert!(tables.next_deadline_ns() <= RETRY_NS);
    assert_eq!(tables.reconcile(RETRY_NS), []);
    kernel.state().absent.clear();
    tables.reconcile(2 * RETRY_NS);
    assert!(tables.report(GROUP).complete);
    assert_eq!(spread_of(&kernel), [(11, 2), (12, 1)]);
}

#[test]
fn lost_answers_are_looked_up() {
    let (kernel, mut tables) = pair();
    kernel.state().lose_answers = true;
    let report = tables.apply(0, &desired(&[2, 1]));
    assert!(report.error.is_some() && !report.complete);
    assert!(tables.reconcile(tables.next_deadline_ns()).is_empty(), "all of it had been carried out");
    assert!(tables.report(GROUP).complete);
}
