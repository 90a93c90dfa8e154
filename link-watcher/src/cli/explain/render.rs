//! The answer as a story.

use super::{
    Explanation, LinkSaid,
    follow::{Hop, Way},
};
use crate::cli::text::wrapped;

pub(super) fn render(explanation: &Explanation) -> String {
    let mut out = wrapped("", &format!("A packet {}", explanation.packet));
    let ways = &explanation.ways;
    if ways.len() > 1 {
        out += "\nA new connection takes one of these ways:\n";
    }
    for way in ways {
        out += "\n";
        if ways.len() > 1 {
            out += &wrapped("", &format!("{:.0} % of them:", way.share * 100.0));
        }
        out += &story(way, explanation);
    }
    match explanation.connections {
        None | Some(0) => {}
        Some(count) => {
            let text = match count {
                1 => "One such connection exists, and stays where it is:".to_owned(),
                count => format!("{count} such connections exist, and stay where they are; the first of them:"),
            };
            out += "\n";
            out += &wrapped("", &text);
            for way in &explanation.existing {
                out += &wrapped(
                    "  ",
                    &format!("{}: {}", way.connection.as_deref().unwrap_or("one"), briefly(way, explanation)),
                );
            }
        }
    }
    out += "\n";
    out += &meant(explanation);
    for note in &explanation.notes {
        out += &wrapped("", &format!("Note: {note}."));
    }
    for unseen in &explanation.unseen {
        out += &wrapped("", &format!("Not seen: {unseen}."));
    }
    out
}

/// One way, step by step.
fn story(way: &Way, explanation: &Explanation) -> String {
    let mut steps: Vec<String> = Vec::new();
    if let Some(table) = &explanation.nftables {
        let names = explanation.intent.as_ref().map_or("", |intent| way.mark_names(intent));
        let named = if names.is_empty() { String::new() } else { format!(", that of {names}") };
        let mark = if way.mark == 0 {
            "leaves it without a mark".to_owned()
        } else {
            format!("gives it the mark {:#x}{named}", way.mark)
        };
        let turns = if way.by_turns { ", for it is its turn" } else { "" };
        steps.push(format!("nftables: the table inet {table} {mark}{turns} ({})", chains(&way.chains)));
    }
    if !way.rules_before.is_empty() {
        steps.push(format!("rules that it meets, whose tables have nothing for it: {}", way.rules_before.join("; ")));
    }
    match &way.rule {
        Some(rule) => steps.push(format!(
            "the rule that decides is {}{}",
            rule.text,
            if rule.ours { ", which is ours" } else { "" }
        )),
        None if way.route.is_some() => steps.push("which rule leads there cannot be told".to_owned()),
        None => {}
    }
    if let Some(route) = &way.route {
        let metric = if route.metric == 0 { String::new() } else { format!(" metric {}", route.metric) };
        let kind = if route.kind == "unicast" { String::new() } else { format!("{} ", route.kind) };
        steps.push(format!(
            "the route is {kind}{}{metric} in table {}, made by {}",
            prefix(&route.prefix),
            route.table_name(),
            route.maker()
        ));
    }
    if way.to_router {
        steps.push("it is delivered to this machine itself".to_owned());
    }
    match way.hops.as_slice() {
        [] => {}
        [hop] => steps.push(format!("it leaves {}", by(hop))),
        hops => {
            let several = hops.iter().map(|hop| format!("{:.0} % {}", hop.share * 100.0, by(hop))).collect::<Vec<_>>();
            steps.push(format!("traffic is shared among {}", several.join("; ")));
            steps.extend(
                hops.iter()
                    .filter(|hop| hop.taken)
                    .map(|hop| format!("between these two addresses it leaves {}", by(hop))),
            );
        }
    }
    for link in way.hops.iter().filter(|hop| way.hops.len() == 1 || hop.taken).filter_map(|hop| hop.link.as_ref()) {
        steps.push(state(link));
    }
    if let Some(refused) = &way.refused {
        steps.push(format!("it goes no further: {refused}"));
    } else if let Some(to) = &way.translated {
        steps.push(format!("its source becomes {to} (address translation)"));
    } else if !way.hops.is_empty() && explanation.nftables.is_some() {
        let source = way.source.or(explanation.source).map(|source| format!(" {source}")).unwrap_or_default();
        steps.push(format!("its source{source} stays as it is"));
    }
    let mut out = String::new();
    for (number, step) in (1..).zip(&steps) {
        out += &wrapped(&format!("{number:>2}. "), step);
    }
    out
}

fn chains(chains: &[String]) -> String {
    if chains.is_empty() { "none of its chains concerns it".to_owned() } else { chains.join(" > ") }
}

fn prefix(prefix: &ipnet::IpNet) -> String {
    if prefix.prefix_len() == 0 { "default".to_owned() } else { prefix.to_string() }
}

fn by(hop: &Hop) -> String {
    let link = hop.link.as_ref().map(|link| format!(", which is {} of {}", link.link, link.group)).unwrap_or_default();
    match hop.gateway {
        Some(gateway) => format!("by {} to {gateway}{link}", hop.interface),
        None => format!("by {}, straight to its destination{link}", hop.interface),
    }
}

fn state(link: &LinkSaid) -> String {
    if link.state.is_none() {
        return format!("how {} is nobody knows without a daemon", link.link);
    }
    let usable = if link.usable == Some(true) { "usable" } else { "not usable" };
    let active = if link.active == Some(true) { "active" } else { "not active" };
    format!("{} is {usable} and {active}: {}", link.link, link.evidence.join("; "))
}

/// A way in one line.
fn briefly(way: &Way, explanation: &Explanation) -> String {
    if let Some(refused) = &way.refused {
        return refused.clone();
    }
    let hop = way.hops.iter().find(|hop| hop.taken).or(way.hops.first());
    let out = hop.map_or_else(|| "to this machine".to_owned(), by);
    let mark = if way.mark == 0 { "no mark".to_owned() } else { format!("mark {:#x}", way.mark) };
    let names = explanation.intent.as_ref().map_or("", |intent| way.mark_names(intent));
    let named = if names.is_empty() { String::new() } else { format!(" of {names}") };
    let source = way.translated.as_ref().map(|to| format!(", as {to}")).unwrap_or_default();
    format!("{mark}{named}, {out}{source}")
}

/// What is meant, and whether it is so.
fn meant(explanation: &Explanation) -> String {
    let mut out = String::new();
    if let Some(intent) = &explanation.intent {
        let share = |share: &crate::control::Share| format!("{} {:.0} %", share.link, share.share * 100.0);
        let active: Vec<String> = intent.active.iter().map(share).collect();
        let through = match (active.is_empty(), &explanation.no_daemon) {
            (false, _) => format!("by {}", active.join(", ")),
            (true, Some(_)) => "by a link of its own".to_owned(),
            (true, None) => "by no link yet".to_owned(),
        };
        out += &wrapped("", &format!("Meant: {} sends {} {through}.", intent.group, prefix(&intent.prefix)));
    }
    if let Some(why) = &explanation.no_daemon {
        let what = "what is meant is what the configuration says, and the state of links is not known";
        out += &wrapped("", &format!("No daemon was asked: {why}; {what}."));
    }
    match (explanation.differences.as_slice(), &explanation.intent) {
        ([], Some(_)) if explanation.no_daemon.is_some() => out += "As far as that tells, it is as meant.\n",
        ([], Some(_)) => out += "It is as meant.\n",
        ([], None) => {}
        (differences, _) => {
            for difference in differences {
                out += &wrapped("", &format!("NOT as meant: {}. Remedy: {}.", difference.what, difference.remedy));
            }
        }
    }
    out
}
