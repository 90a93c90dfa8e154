//! The status for people: in 80 columns, as far as names allow.

mod detail;
pub(super) mod notes;
mod scope;
pub(super) mod text;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

pub(super) use self::scope::Scope;
use self::text::{ago, elapsed_or_dash, milliseconds, note, paragraph, percent, short};
use super::{output::Style, text::WIDTH};
use crate::{
    event::Role,
    status::{GroupSnapshot, LinkSnapshot, Snapshot},
};

/// Columns of the table of links.
const HEADINGS: [&str; 9] = ["LINK", "INTERFACE", "TIER", "SHARE", "STATE", "USABLE", "RTT ms", "LOSS", "FOR"];
/// The one that is coloured.
const STATE: usize = 4;
/// Prefixes that are listed of a group among others.
const MAX_PREFIXES: usize = 4;

/// Groups and their links, and below each what deserves a look.
pub fn render(snapshot: &Snapshot, now: SystemTime, style: Style) -> String {
    let uptime = Duration::try_from_secs_f64(snapshot.uptime_s).unwrap_or_default();
    let mut text =
        format!("link-watcher {}, engine {}, running for {}\n", snapshot.version, snapshot.engine, short(uptime));
    for said in notes::of_daemon(&snapshot.config) {
        text += &note(0, &said, style);
    }
    for group in &snapshot.groups {
        text += "\n";
        text += &render_group(group, MAX_PREFIXES, now, style);
    }
    let asleep =
        snapshot.orders_asleep.iter().map(|order| format!("asleep, for the configuration does not name it: {order}"));
    let notes: Vec<String> = snapshot.state_problem.iter().cloned().chain(asleep).collect();
    if !notes.is_empty() {
        text += "\n";
    }
    for said in notes {
        text += &note(0, &said, style);
    }
    text
}

/// What is asked for, of a status that was cut down to it.
pub(super) fn render_scope(snapshot: &Snapshot, scope: &Scope, now: SystemTime, style: Style) -> String {
    let part = |group: &GroupSnapshot| match &scope.link {
        None => render_group(group, usize::MAX, now, style),
        Some(_) => group.links.iter().map(|link| detail::render(group, link, now, style)).collect(),
    };
    match &scope.group {
        None => render(snapshot, now, style),
        Some(_) => snapshot.groups.iter().map(part).collect(),
    }
}

fn render_group(group: &GroupSnapshot, most_prefixes: usize, now: SystemTime, style: Style) -> String {
    let kind = kind(group);
    let (active, usable) = active(group);
    let since = ago(&group.since, now);
    let columns = format!("{} ({kind}): {active} since {since}: {}", group.name, group.reason).chars().count();
    let active = if usable { style.good(&active) } else { style.bad(&active) };
    let mut text = format!("{} ({kind}): {active} since {since}:", style.strong(&group.name));
    text += &if columns <= WIDTH {
        format!(" {}\n", group.reason)
    } else {
        format!("\n{}", paragraph("  ", &group.reason))
    };
    let routes = &group.routes;
    let mut said = format!("routes: {} installed, {} refused", routes.installed, routes.refused);
    if !group.announced_to_us.is_empty() {
        said += &format!("; announced to us: {}", listed(&group.announced_to_us, most_prefixes));
    }
    text += &paragraph("  ", &said);
    text += &render_links(group, now, style);
    for said in notes::of_group(group, now) {
        text += &note(2, &said, style);
    }
    text
}

/// Which links carry a group's traffic, in words, and whether any of them is usable.
pub(super) fn active(group: &GroupSnapshot) -> (String, bool) {
    let usable = group.links.iter().any(|link| link.usable && group.active.contains(&link.name));
    let active = match group.active.as_slice() {
        [] => "no link is active".to_owned(),
        active => format!("{} active", active.join(" + ")),
    };
    (active, usable)
}

/// What a group is, and of a peer which end this is.
pub(super) fn kind(group: &GroupSnapshot) -> String {
    match &group.role {
        Some(Role::Client) => format!("{}, client", group.kind),
        Some(Role::Server) => format!("{}, server", group.kind),
        None => group.kind.clone(),
    }
}

/// The first of some prefixes, and how many more there are.
fn listed(prefixes: &[String], most: usize) -> String {
    let shown = prefixes.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    match prefixes.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The table of links; `*` marks what carries traffic. Below each link stands what deserves a look of it.
fn render_links(group: &GroupSnapshot, now: SystemTime, style: Style) -> String {
    let rows: Vec<[String; HEADINGS.len()]> = group.links.iter().map(|link| row(link, now)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    // Padded before it is painted: a terminal does not count colours as columns.
    let pad = |cell: &str, column: usize| format!("{cell:<0$}  ", widths[column]);
    let heading: String = HEADINGS.iter().enumerate().map(|(column, cell)| pad(cell, column)).collect();
    let mut text = format!("    {}\n", heading.trim_end());
    for (row, link) in rows.iter().zip(&group.links) {
        let mark = if group.active.contains(&link.name) { "*" } else { " " };
        let paint = |column: usize, cell: String| match (column, link.state.as_str()) {
            (STATE, "up") => style.good(&cell),
            (STATE, "down" | "absent") => style.bad(&cell),
            (STATE, _) => style.warning(&cell),
            _ => cell,
        };
        let line: String = row.iter().enumerate().map(|(column, cell)| paint(column, pad(cell, column))).collect();
        text += &format!("  {mark} {}\n", line.trim_end());
        for said in notes::of_link(link, group, now) {
            text += &note(6, &said, style);
        }
        // What was refused long ago accuses nobody.
        if let Some(dropped) = notes::dropped(&link.dropped) {
            text += &paragraph("        ", &format!("dropped since the start: {dropped}"));
        }
    }
    text
}

fn row(link: &LinkSnapshot, now: SystemTime) -> [String; HEADINGS.len()] {
    [
        link.name.clone(),
        link.interface.clone(),
        link.tier.to_string(),
        if link.share > 0.0 { percent(link.share) } else { "-".to_owned() },
        link.state.clone(),
        if link.usable { "yes" } else { "no" }.to_owned(),
        milliseconds(link.rtt_ms).trim_end_matches(" ms").to_owned(),
        percent(link.loss),
        elapsed_or_dash(&link.since, now),
    ]
}
