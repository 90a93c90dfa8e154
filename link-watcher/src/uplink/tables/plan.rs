//! Pure: from what a group of uplinks wants to routes and rules, and from what the kernel has to the messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Found, Problem, TableChange};
use crate::{
    config::RULE_PRIORITIES,
    route::{Family, Hop, IPV6_DEFAULT_METRIC, InterfaceName, MAIN_TABLE, PROTOCOL, RouteKey, Rule, TableRoute, Way},
    uplink::{Desired, Path, Uplink},
};

/// What is more specific than a default route in the main table comes first: connected networks, static routes, peers.
const MAIN_OFFSET: u32 = 0;
/// Sockets that are bound to an interface leave by it, whatever uplink was picked: asked before marks, else the picked
/// uplink's table, which does not lead there, would leave them without any way.
const BOUND_OFFSET: u32 = 50;
/// Marks: an uplink's own table. At most one of them matches a packet, so they share a priority.
const MARK_OFFSET: u32 = 100;
/// Source addresses, the longest prefix first: up to 128 priorities.
const SOURCE_OFFSET: u32 = 300;
/// Everything else is spread.
const SPREAD_OFFSET: u32 = 900;
const _: () = assert!(SOURCE_OFFSET + 128 < SPREAD_OFFSET && SPREAD_OFFSET < RULE_PRIORITIES);

/// The metric of what comes after everything else.
const LAST_METRIC: u32 = u32::MAX;

/// The routes and rules of a group, routes in the order of their tables, rules in that of their priorities.
///
/// An uplink's own table leads out through it, and nowhere else: behind its default route an unreachable one stands, so
/// that what is marked for it never leaves by another. It does not depend on the uplink's state, because probes need it.
/// The spreading table has the group's routes through all uplinks with a weight; a family in which none has one has
/// none here, and keeps those that it has.
///
/// Next hops are on the link by definition (`onlink`): then a route does not depend on the kernel having made the
/// connected one before, nor on the gateway being inside of it.
pub fn wanted(desired: &Desired) -> (Vec<TableRoute>, Vec<Rule>) {
    let (mut routes, mut rules) = (Vec::new(), Vec::new());
    let mut sources = BTreeSet::new();
    for family in families(desired) {
        let prefixes: BTreeSet<IpNet> =
            desired.routes.iter().filter(|prefix| Family::of(prefix) == family).map(IpNet::trunc).collect();
        if let Some(way) = spread(desired, family) {
            let key = |prefix| place(desired.table_base, prefix);
            routes.extend(prefixes.into_iter().map(|prefix| TableRoute { key: key(prefix), way: way.clone() }));
        }
        let rule = |offset, table| Rule {
            family,
            priority: desired.rule_priority + offset,
            mark: None,
            from: None,
            bound_to: None,
            table,
            suppress_prefix_len: None,
        };
        rules.push(Rule { suppress_prefix_len: Some(0), ..rule(MAIN_OFFSET, MAIN_TABLE) });
        rules.push(rule(SPREAD_OFFSET, desired.table_base));
        for uplink in &desired.uplinks {
            let table = desired.table(uplink);
            let default = place(table, everything(family));
            let path = path(uplink, family);
            if let Some(path) = path {
                let way = Way::Through { hops: vec![hop(uplink, path, 1)], source: path.source };
                routes.push(TableRoute { key: default, way });
            }
            routes.push(TableRoute { key: RouteKey { metric: LAST_METRIC, ..default }, way: Way::Unreachable });
            rules.push(Rule { mark: Some((desired.mark(uplink), desired.fwmark_mask)), ..rule(MARK_OFFSET, table) });
            // Of several on one interface only marks tell which.
            let shared = desired.uplinks.iter().filter(|other| other.interface == uplink.interface).count() > 1;
            if let Some(interface) = InterfaceName::new(&uplink.interface).filter(|_| !shared) {
                rules.push(Rule { bound_to: Some(interface), ..rule(BOUND_OFFSET, table) });
            }
            for from in uplink.sources().filter(|source| Family::of(source) == family) {
                // Of two uplinks with one address the first has it, as far as marks do not tell them apart.
                if sources.insert(from) {
                    let offset = SOURCE_OFFSET + u32::from(from.max_prefix_len() - from.prefix_len());
                    rules.push(Rule { from: Some(from), ..rule(offset, table) });
                }
            }
        }
    }
    routes.sort_by_key(|route| route.key);
    rules.sort_unstable_by_key(|rule| (rule.priority, *rule));
    (routes, rules)
}

/// The families that the group routes.
fn families(desired: &Desired) -> BTreeSet<Family> {
    desired.routes.iter().map(Family::of).collect()
}

/// Where the spreading table leads; nothing where no uplink has a weight.
fn spread(desired: &Desired, family: Family) -> Option<Way> {
    let uplinks = desired.uplinks.iter().filter(|uplink| uplink.weight > 0);
    let mut members: Vec<(Hop, Option<IpAddr>)> = uplinks
        .filter_map(|uplink| path(uplink, family).map(|path| (hop(uplink, path, uplink.weight), path.source)))
        .collect();
    // The kernel takes no IPv6 next hop without a gateway beside others.
    if family == Family::V6 && members.len() > 1 {
        let heaviest = members.iter().copied().max_by_key(|(hop, _)| (hop.weight, std::cmp::Reverse(hop.ifindex)));
        members.retain(|(hop, _)| hop.gateway.is_some());
        if members.is_empty() {
            members.extend(heaviest);
        }
    }
    match &mut members[..] {
        [] => None,
        [(only, source)] => Some(Way::Through { hops: vec![Hop { weight: 1, ..*only }], source: *source }),
        // One preferred source would be wrong for all others: the kernel takes the address of the interface.
        several => Some(Way::Through { hops: several.iter().map(|(hop, _)| *hop).collect(), source: None }),
    }
}

/// The uplink's way of a family, where its interface is there.
fn path(uplink: &Uplink, family: Family) -> Option<Path> {
    let path = match family {
        Family::V4 => uplink.ipv4,
        Family::V6 => uplink.ipv6,
    };
    path.filter(|_| uplink.ifindex != 0)
}

fn hop(uplink: &Uplink, path: Path, weight: u32) -> Hop {
    Hop { ifindex: uplink.ifindex, gateway: path.gateway, weight: weight.min(256), onlink: path.gateway.is_some() }
}

/// The default route's prefix.
fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn place(table: u32, prefix: IpNet) -> RouteKey {
    let metric = match prefix {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => IPV6_DEFAULT_METRIC,
    };
    RouteKey { table, prefix, metric }
}

/// The messages that make what the kernel has what is wanted: routes, then rules to them; then removals, rules first.
/// `keep`: the group stays, and with it a family of its spreading table for which nothing is wanted.
pub(super) fn changes(
    (routes, rules): &(Vec<TableRoute>, Vec<Rule>),
    keep: Option<&Desired>,
    found: &Found,
) -> (Vec<TableChange>, Vec<Problem>) {
    let mut problems = Vec::new();
    let (mut additions, mut removals) = (Vec::new(), Vec::new());

    let (mut ours, mut foreign) = (BTreeMap::new(), BTreeSet::new());
    for route in &found.routes {
        match &route.way {
            // The first of several in a place is the one that the kernel uses.
            Some(way) if route.protocol == PROTOCOL => {
                ours.entry(route.key).or_insert(way);
            }
            // What we would never make is somebody else's, whatever its protocol number.
            _ => {
                foreign.insert(route.key);
                problems.push(Problem::ForeignRoute { key: route.key, protocol: route.protocol });
            }
        }
    }
    for route in routes.iter().filter(|route| !foreign.contains(&route.key)) {
        match ours.get(&route.key) {
            None => additions.push(TableChange::CreateRoute(route.clone())),
            Some(way) if **way == route.way => {}
            Some(_) => additions.push(TableChange::ReplaceRoute(route.clone())),
        }
    }
    let keeps = |key: &RouteKey| {
        let spread = |wanted: &TableRoute| {
            wanted.key.table == key.table && Family::of(&wanted.key.prefix) == Family::of(&key.prefix)
        };
        keep.is_some_and(|desired| {
            key.table == desired.table_base
                && desired.routes.iter().any(|prefix| prefix.trunc() == key.prefix)
                && !routes.iter().any(spread)
        })
    };
    let wanted_keys: BTreeSet<RouteKey> = routes.iter().map(|route| route.key).collect();
    let stale = ours.into_iter().filter(|(key, _)| !wanted_keys.contains(key) && !keeps(key));

    let mut there = BTreeSet::new();
    for found in &found.rules {
        match found.rule.filter(|_| found.protocol == PROTOCOL) {
            Some(rule) => {
                there.insert((rule.priority, rule));
            }
            None => problems.push(Problem::ForeignRule {
                family: found.family,
                priority: found.priority,
                protocol: found.protocol,
            }),
        }
    }
    let wanted_rules: BTreeSet<(u32, Rule)> = rules.iter().map(|rule| (rule.priority, *rule)).collect();
    additions.extend(wanted_rules.difference(&there).map(|(_, rule)| TableChange::CreateRule(*rule)));
    // The last one that is asked goes first, so that none ever catches what another one had.
    let stale_rules: Vec<Rule> = there.difference(&wanted_rules).map(|(_, rule)| *rule).collect();
    removals.extend(stale_rules.into_iter().rev().map(TableChange::DeleteRule));
    removals.extend(stale.map(|(key, way)| TableChange::DeleteRoute(TableRoute { key, way: way.clone() })));
    additions.append(&mut removals);
    (additions, problems)
}

/// Tables that the group uses now.
pub(super) fn tables(desired: &Desired) -> impl Iterator<Item = u32> + '_ {
    std::iter::once(desired.table_base).chain(desired.uplinks.iter().map(|uplink| desired.table(uplink)))
}
