//! What is, beside what is meant.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Difference, Explanation, Meant, follow::Way};
use crate::control::Intent;

/// Chooses who means to carry the packet, and says what is not so.
pub(super) fn judge(explanation: &mut Explanation, meant: &Meant, nft_seen: bool) {
    if explanation.ways.iter().all(|way| way.to_router) {
        explanation.notes.push("it is for this machine itself, and leaves by no link".to_owned());
        return;
    }
    let Some(intent) = carrier(&meant.intents).cloned() else {
        explanation.notes.push("no group of the configuration routes this address: nothing is meant for it".to_owned());
        return;
    };
    let mut differences = Vec::new();
    if more_specific(&explanation.ways, &intent) {
        explanation.notes.push(format!(
            "a route that is more specific than {} of {} comes first: it is connected here, or somebody else's",
            intent.prefix, intent.group
        ));
    } else {
        if intent.kind == "uplinks" && nft_seen && explanation.nftables.is_none() {
            differences.push(Difference {
                what: format!("the nftables table of {} is not loaded: new connections are not marked", intent.group),
                remedy: restart(meant),
            });
        }
        let owner = explanation.source.and_then(|source| owner(&intent, source));
        differences.extend(explanation.ways.iter().filter_map(|way| wrong(way, &intent, owner, meant)));
        differences.extend(missing(&explanation.ways, &intent));
        if intent.withdrawn {
            explanation.notes.push(format!(
                "no link of {} works, so that its routes are withdrawn (when-all-down): others' routes carry it",
                intent.group
            ));
            differences.clear();
        }
        let hops = explanation.ways.iter().flat_map(|way| &way.hops).filter(|hop| hop.taken);
        let broken = hops.filter_map(|hop| hop.link.as_ref()).find(|link| link.usable == Some(false));
        explanation.notes.extend(broken.map(|link| {
            format!(
                "{} is not usable, so that it may not arrive: link-watcher status {} says why",
                link.link, link.group
            )
        }));
        if let (Some(incoming), "uplinks") = (&explanation.incoming, intent.kind.as_str())
            && !intent.lan.contains(incoming)
        {
            explanation.notes.push(format!(
                "{incoming} is no `lan` of {}: its connections get no mark, and are routed packet by packet",
                intent.group
            ));
        }
    }
    let mut seen = BTreeSet::new();
    differences.retain(|difference: &Difference| seen.insert(difference.what.clone()));
    explanation.differences = differences;
    explanation.intent = Some(intent);
}

/// Whose business the packet is: a peer's more specific prefix, then uplinks, then a peer's default route.
fn carrier(intents: &[Intent]) -> Option<&Intent> {
    let best = |kind: &str, longer_than: u8| {
        let of_kind = intents.iter().filter(|intent| intent.kind == kind && intent.prefix.prefix_len() >= longer_than);
        // The first of the file where several are alike.
        of_kind.rev().max_by_key(|intent| intent.prefix.prefix_len())
    };
    best("peer", 1).or_else(|| best("uplinks", 0)).or_else(|| best("peer", 0))
}

/// Whether somebody else's more specific route decides, as it may.
fn more_specific(ways: &[Way], intent: &Intent) -> bool {
    let specific = |way: &Way| {
        let rule_first = way.rule.as_ref().is_none_or(|rule| rule.ours || matches!(rule.table, Some(253..=255)));
        let route = way.route.as_ref();
        rule_first && route.is_some_and(|route| !route.ours && route.prefix.prefix_len() > intent.prefix.prefix_len())
    };
    !ways.is_empty() && ways.iter().all(specific)
}

/// The uplink that this source belongs to.
fn owner(intent: &Intent, source: IpAddr) -> Option<&str> {
    let sources = intent.marks.iter().flat_map(|mark| mark.sources.iter().map(move |prefix| (mark, prefix)));
    // The first of the file where two have the same.
    let longest =
        sources.rev().filter(|(_, prefix)| prefix.contains(&source)).max_by_key(|(_, prefix)| prefix.prefix_len());
    longest.map(|(mark, _)| mark.link.as_str())
}

/// What is wrong with a way; `owner` is the uplink that the packet's source belongs to.
fn wrong(way: &Way, intent: &Intent, owner: Option<&str>, meant: &Meant) -> Option<Difference> {
    let group = &intent.group;
    let difference = |what: String, remedy: String| Some(Difference { what, remedy });
    if let Some(rule) = way.rule.as_ref().filter(|rule| !rule.ours && !matches!(rule.table, Some(253..=255))) {
        let priority = intent.rule_priority.unwrap_or(32_766);
        return difference(
            format!("somebody else's rule \"{}\" decides before {group} is asked", rule.text),
            match &intent.rule_priority {
                Some(_) if rule.priority < priority => format!(
                    "set `rule-priority` of {group} below {}, or take that rule out: ip rule del pref {}",
                    rule.priority, rule.priority
                ),
                _ => format!("take it out, or give it a later place: ip rule del pref {}", rule.priority),
            },
        );
    }
    if let Some(refused) = &way.refused {
        return difference(
            format!("it goes nowhere: {refused}"),
            format!(
                "link-watcher status {group} says how its links are; link-watcher doctor says what the machine lacks"
            ),
        );
    }
    if let Some(route) = way.route.as_ref().filter(|route| !route.ours) {
        return difference(
            format!(
                "the route {} of table {} decides, which {} made, and not one of {group}",
                route.prefix,
                route.table_name(),
                route.maker()
            ),
            if way.hops.iter().any(|hop| hop.link.as_ref().is_some_and(|link| link.group == *group)) {
                restart(meant)
            } else {
                format!(
                    "take it out, or give it a worse metric: ip route del {} table {}",
                    route.prefix,
                    route.table_name()
                )
            },
        );
    }
    for hop in way.hops.iter().filter(|hop| way.hops.len() == 1 || hop.taken) {
        let Some(link) = &hop.link else {
            return difference(format!("it leaves by {}, which is no link of {group}", hop.interface), restart(meant));
        };
        if link.group != *group {
            return difference(
                format!("it leaves by {} of {}, and not by {group}", link.link, link.group),
                "link-watcher status says what each group routes".to_owned(),
            );
        }
        if let Some(owner) = owner {
            if link.link != owner {
                let what = format!("it leaves by {}, while its source is {owner}'s", link.link);
                return difference(what, restart(meant));
            }
            continue;
        }
        // What is forced to a link may use it though it takes no turns.
        let forced = !way.mark_names(intent).is_empty() && link.usable == Some(true);
        if !intent.active.is_empty() && !forced && !intent.active.iter().any(|active| active.link == link.link) {
            let active: Vec<&str> = intent.active.iter().map(|active| active.link.as_str()).collect();
            return difference(
                format!("it leaves by {}, while {group} means {}", link.link, active.join(", ")),
                restart(meant),
            );
        }
    }
    None
}

/// Links that ought to take their turns and do not.
fn missing(ways: &[Way], intent: &Intent) -> Option<Difference> {
    let by_turns = ways.iter().any(|way| way.by_turns);
    let shared = ways.iter().any(|way| way.hops.len() > 1);
    if intent.active.len() < 2 || !(by_turns || shared) {
        return None;
    }
    let taken: BTreeSet<&str> = ways
        .iter()
        .flat_map(|way| &way.hops)
        .filter_map(|hop| hop.link.as_ref())
        .map(|link| link.link.as_str())
        .collect();
    let lacking: Vec<&str> =
        intent.active.iter().map(|active| active.link.as_str()).filter(|link| !taken.contains(link)).collect();
    (!lacking.is_empty()).then(|| Difference {
        what: format!("{} of {} ought to have a share, and has none", lacking.join(", "), intent.group),
        remedy: format!("link-watcher status {} says what could not be written", intent.group),
    })
}

impl Way {
    /// The uplink that its mark names; empty: none.
    pub(super) fn mark_names<'a>(&self, intent: &'a Intent) -> &'a str {
        let named = intent.marks.iter().find(|mark| self.mark & mark.mask == mark.mark);
        named.map_or("", |mark| mark.link.as_str())
    }
}

fn restart(meant: &Meant) -> String {
    if meant.snapshot.is_some() {
        "the daemon puts that right within seconds; if it does not, its log says why (journalctl -u link-watcher)"
            .to_owned()
    } else {
        "no daemon watches over it: systemctl start link-watcher".to_owned()
    }
}
