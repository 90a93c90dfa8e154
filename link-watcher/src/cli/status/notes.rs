//! What deserves a look, and what to do about it.

use std::{collections::BTreeSet, time::SystemTime};

use super::text::ago;
use crate::status::{ConfigSnapshot, DroppedSnapshot, GroupSnapshot, LinkSnapshot, OrderSnapshot};

/// Of the daemon itself.
pub(in crate::cli) fn of_daemon(config: &ConfigSnapshot) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(problem), Some(at)) = (&config.problem, &config.refused_at) {
        let first = problem.lines().next().unwrap_or_default();
        notes.push(format!("{} is not what runs, since {at}: {first}. `link-watcher check` says more", config.path));
    }
    if let Some(until) = &config.unconfirmed_until {
        notes.push(format!("the configuration waits for `link-watcher confirm`: the former one returns at {until}"));
    }
    notes.extend(config.ledger_problem.clone());
    notes
}

/// Of a group as a whole.
pub(super) fn of_group(group: &GroupSnapshot, now: SystemTime) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(link) = &group.pinned {
        let whose = whose(group, "switch", None, now);
        notes.push(format!(
            "pinned to {link}{whose}; `link-watcher switch {} auto` lets the group choose again",
            group.name
        ));
    }
    if !group.failover {
        let whose = whose(group, "failover", None, now);
        notes.push(format!(
            "automatic failover is off{whose}; `link-watcher failover on {}` turns it on again",
            group.name
        ));
    }
    if let Some(seconds) = group.peer_silence_s {
        notes.push(format!(
            "the peer's daemon has been silent for {seconds} s; its kernel still answers, so that the links are judged as ever"
        ));
    }
    if let Some(announcements) = &group.announcements {
        notes.extend(announcements.problem.iter().map(|problem| format!("announcements: {problem}")));
        let refused = announcements.refused_by_peer.iter();
        notes.extend(refused.map(|refused| format!("the peer refuses {}: {}", refused.prefix, refused.why)));
    }
    let targets = group.links.iter().flat_map(|link| &link.targets);
    let flaky: BTreeSet<&str> = targets.filter(|target| target.flaky).map(|target| target.target.as_str()).collect();
    notes.extend(flaky.iter().map(|target| {
        format!(
            "the target {target} loses several times what the others do, by every uplink: it is flaky by itself, and takes no \
             threshold; ask another one in its place"
        )
    }));
    notes.extend(group.routes.refusals.iter().map(|refusal| format!("refused: {refusal}")));
    notes
}

/// Of a link: first why traffic may not use it, or does not yet.
pub(super) fn of_link(link: &LinkSnapshot, group: &GroupSnapshot, now: SystemTime) -> Vec<String> {
    let name = &link.name;
    let mut notes = drains(link, group, now);
    notes.extend(unusable(link, group));
    if !link.usable && notes.is_empty() {
        notes.push(format!("it is {}, and the daemon does not say why traffic may not use it", link.state));
    }
    if let Some(order) = group.orders.iter().find(|order| order.what == "weight" && order.link.as_ref() == Some(name)) {
        let whose = whose(group, "weight", Some(name), now);
        let weight = order.weight.unwrap_or(link.weight);
        notes.push(format!("weight {weight}{whose}; `link-watcher weight {} {name} file` takes it back", group.name));
    }
    notes.extend(link.suspicion.clone());
    if let Some(reason) = &link.engine_reason {
        notes.push(format!("uses the engine {}: {reason}", link.engine));
    }
    notes
}

/// At which end it was taken out of service, and where that is taken back.
fn drains(link: &LinkSnapshot, group: &GroupSnapshot, now: SystemTime) -> Vec<String> {
    let drained_by = |end: &str| link.drained_by.iter().any(|by| by == end);
    let mut notes = Vec::new();
    if drained_by("here") {
        let whose = whose(group, "drain", Some(&link.name), now);
        let left = match link.connections {
            None | Some(0) => String::new(),
            Some(count) => format!("; connections that still use it: {count}"),
        };
        notes.push(format!(
            "drained here{whose}; `link-watcher undrain {} {}` puts it back{left}",
            group.name, link.name
        ));
    }
    if drained_by("peer") {
        notes.push("drained by the peer; that is undone there: `link-watcher undrain` on the peer".to_owned());
    }
    notes
}

/// What keeps traffic off it beside an operator.
fn unusable(link: &LinkSnapshot, group: &GroupSnapshot) -> Option<String> {
    let last = || link.last_down_reason.clone().or_else(|| link.usable_reason.clone());
    match link.state.as_str() {
        // Whoever drained it knows why it is not used.
        "up" if link.drained => None,
        "up" | "starting" => link.usable_reason.clone(),
        "absent" => {
            let why = last().unwrap_or_else(|| "the interface does not exist or is switched off".to_owned());
            Some(format!("{why}; `ip link show {}` says more", link.interface))
        }
        "degraded" if group.active.contains(&link.name) => Some(format!(
            "{}; it carries the traffic all the same, for no other link is better",
            last().unwrap_or_else(|| "it answers badly".to_owned())
        )),
        _ => last(),
    }
}

/// Packets dropped by cause, those that there were; nothing where there were none.
pub(super) fn dropped(dropped: &DroppedSnapshot) -> Option<String> {
    let causes = [
        (dropped.malformed, "malformed"),
        (dropped.unknown, "unknown"),
        (dropped.replayed, "replayed"),
        (dropped.forged, "forged"),
        (dropped.reflected, "reflected"),
        (dropped.late, "late"),
        (dropped.distant, "distant"),
        (dropped.version, "of another version"),
        (dropped.junk, "junk"),
    ];
    let causes: Vec<String> =
        causes.iter().filter(|(count, _)| *count > 0).map(|(count, cause)| format!("{count} {cause}")).collect();
    (!causes.is_empty()).then(|| causes.join(", "))
}

/// Who ordered something, since when, until when and why.
fn whose(group: &GroupSnapshot, what: &str, link: Option<&str>, now: SystemTime) -> String {
    let of_link = |of: Option<&str>| link.is_none() || of == link;
    let order = group.orders.iter().find(|order| order.what == what && of_link(order.link.as_deref()));
    order.map_or_else(|| " by hand".to_owned(), |order| author(order, now))
}

/// Who gave an order, since when, until when and why.
pub(super) fn author(order: &OrderSnapshot, now: SystemTime) -> String {
    let until = order.until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
    let reason = order.reason.as_ref().map(|reason| format!(" (\"{reason}\")")).unwrap_or_default();
    format!(" by {} since {}{until}{reason}", order.by, ago(&order.at, now))
}
