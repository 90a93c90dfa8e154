//! One link: everything that is known of it.

use std::time::SystemTime;

use super::{
    notes,
    text::{ago, milliseconds, note, paragraph, percent},
};
use crate::{
    cli::Style,
    status::{GroupSnapshot, LinkSnapshot, PeerViewSnapshot, TargetSnapshot},
};

/// Columns before what is said under a heading.
const HEAD: usize = 16;

/// Everything that is known of a link of this group.
pub(super) fn render(group: &GroupSnapshot, link: &LinkSnapshot, now: SystemTime, style: Style) -> String {
    let active = group.active.contains(&link.name);
    let carries = match (active, link.carried_by.iter().any(|end| end == "peer")) {
        (true, true) => "carries the traffic of both ends",
        (true, false) => "carries the traffic",
        (false, true) => "carries the peer's traffic",
        (false, false) => "carries no traffic",
    };
    let mut text = format!("{} ({}): {carries}\n", style.strong(&format!("{} {}", group.name, link.name)), group.kind);
    for said in notes::of_link(link, group, now) {
        text += &note(2, &said, style);
    }
    for (head, said) in facts(group, link, now) {
        text += &paragraph(&format!("  {head:<HEAD$}"), &said);
    }
    for target in &link.targets {
        text += &format!("    {}\n", one_target(target));
    }
    text
}

fn facts(group: &GroupSnapshot, link: &LinkSnapshot, now: SystemTime) -> Vec<(&'static str, String)> {
    let peer = group.kind == "peer";
    let mut facts = vec![
        ("state", format!("{} since {} ({})", link.state, ago(&link.since, now), link.since)),
        ("usable", if link.usable { "yes" } else { "no" }.to_owned()),
        ("interface", format!("{}, {}", link.interface, addresses(link, peer))),
        (if peer { "verified by" } else { "probed by" }, link.engine.clone()),
        ("tier", format!("{}, weight {}, {} of the traffic", link.tier, link.weight, percent(link.share))),
        (
            "round trip",
            format!(
                "{}, jitter {}, loss {}",
                milliseconds(link.rtt_ms),
                milliseconds(link.jitter_ms),
                percent(link.loss)
            ),
        ),
    ];
    if let Some((there, back)) = link.loss_there.zip(link.loss_back) {
        facts
            .push(("lost each way", format!("{} on the way there, {} on the way back", percent(there), percent(back))));
    }
    facts.extend(link.detection_ms.map(|ms| ("detection time", format!("{ms} ms here"))));
    facts.push(("probes", format!("{} sent, {} answered", link.sent, link.received)));
    let last = link.last_good.as_ref().map_or_else(|| "never".to_owned(), |at| ago(at, now));
    facts.push((if peer { "last echo" } else { "last good round" }, last));
    facts.extend(link.last_failure.clone().map(|why| ("last failure", why)));
    if peer {
        let view = link.peer.as_ref();
        facts.push(("the peer", view.map_or_else(|| "has said nothing yet".to_owned(), |view| says(view, now))));
        let dropped = notes::dropped(&link.dropped).unwrap_or_else(|| "nothing".to_owned());
        facts.push(("dropped", dropped));
    }
    let last = link.last_down_reason.as_ref().map(|why| format!("; the last reason: {why}")).unwrap_or_default();
    facts.push(("went down", format!("{} times after having been up{last}", link.flaps)));
    facts.extend(
        link.worst_lateness_ms
            .map(|ms| ("own lateness", format!("{} at worst in the last 10 s", milliseconds(Some(ms))))),
    );
    facts.extend(link.slot.map(|slot| ("bpftool", format!("slot {slot} of the pinned maps"))));
    facts.extend(link.connections.map(|count| ("connections", format!("{count} still use it"))));
    facts.extend(link.mark.clone().zip(link.table).map(|(mark, table)| ("mark", format!("{mark}, table {table}"))));
    facts.push(("routes", routes(group)));
    facts.extend(group.orders.iter().map(|order| ("ordered", ordered(order, now))));
    facts.extend(link.required_targets.map(|required| ("targets", format!("{required} must answer in each round"))));
    facts
}

fn addresses(link: &LinkSnapshot, peer: bool) -> String {
    let local = link.local.as_deref().unwrap_or("none yet");
    match (peer, link.remote.as_str()) {
        (true, remote) => format!("local {local}, remote {remote}"),
        (false, "") => format!("local {local}, no gateway yet"),
        (false, way) => format!("local {local}, gateway {way}"),
    }
}

fn says(view: &PeerViewSnapshot, now: SystemTime) -> String {
    let word = |so: bool, yes: &'static str, no: &'static str| if so { yes } else { no };
    let mut said = vec![
        word(view.hears, "hears us", "does not hear us"),
        word(view.active, "sends its traffic here", "sends its traffic elsewhere"),
    ];
    said.extend(view.drained.then_some("has drained the link"));
    said.extend(view.restarting.then_some("is about to restart"));
    let last = view.last_probe.as_ref().map(|at| format!(", the last {}", ago(at, now))).unwrap_or_default();
    format!(
        "{}; place {} in its order; {} probes of ours arrived there, {} of its probes here{last}",
        said.join(", "),
        u32::from(view.rank) + 1,
        view.received,
        view.probes
    )
}

/// The group's routes: they are not those of one link.
fn routes(group: &GroupSnapshot) -> String {
    let routes = &group.routes;
    let table = routes.table.map(|table| format!(", table {table}")).unwrap_or_default();
    let rules = routes.rule_priority.map(|priority| format!(", rules from priority {priority}")).unwrap_or_default();
    format!("of {}: {} installed, {} refused{table}{rules}", group.name, routes.installed, routes.refused)
}

fn ordered(order: &crate::status::OrderSnapshot, now: SystemTime) -> String {
    let what = match (order.what.as_str(), order.weight, &order.link) {
        ("failover", ..) => "failover off".to_owned(),
        ("switch", _, Some(link)) => format!("switch to {link}"),
        (what, Some(weight), _) => format!("{what} {weight}"),
        (what, None, _) => what.to_owned(),
    };
    format!("{what}{}", notes::author(order, now))
}

fn one_target(target: &TargetSnapshot) -> String {
    let answers = match target.answers {
        _ if target.flaky => "flaky by itself",
        Some(true) => "answers",
        Some(false) => "silent",
        None => "not asked yet",
    };
    let figures = target.rtt_ms.map(|rtt| {
        let jitter = milliseconds(target.jitter_ms);
        format!("  {}, jitter {jitter}, loss {}", milliseconds(Some(rtt)), percent(target.loss.unwrap_or_default()))
    });
    format!("{:<24}{answers}{}", target.target, figures.unwrap_or_default())
}
