//! The status for people.

use std::time::{Duration, SystemTime};

use super::output::Style;
use crate::status::{ConfigSnapshot, DroppedSnapshot, GroupSnapshot, LinkSnapshot, Snapshot};

/// Columns of the table of links.
const HEADINGS: [&str; 12] = [
    "LINK",
    "INTERFACE",
    "TIER",
    "SHARE",
    "STATE",
    "USABLE",
    "RTT",
    "JITTER",
    "LOSS",
    "SENT/RECEIVED",
    "DROPPED",
    "SINCE",
];

/// Groups and their links, and below them what deserves a look.
pub fn render(snapshot: &Snapshot, now: SystemTime, style: Style) -> String {
    let uptime = Duration::try_from_secs_f64(snapshot.uptime_s).unwrap_or_default();
    let mut text =
        format!("link-watcher {}, engine {}, running for {}\n", snapshot.version, snapshot.engine, short(uptime));
    for note in daemon_notes(&snapshot.config) {
        text += &format!("{} {note}\n", style.doubtful("!"));
    }
    for group in &snapshot.groups {
        text += "\n";
        text += &render_group(group, now, style);
    }
    let asleep =
        snapshot.orders_asleep.iter().map(|order| format!("asleep, for the configuration does not name it: {order}"));
    let notes: Vec<String> = snapshot.state_problem.iter().cloned().chain(asleep).collect();
    if !notes.is_empty() {
        text += "\n";
    }
    for note in notes {
        text += &format!("{} {note}\n", style.doubtful("!"));
    }
    text
}

/// What deserves a look of the daemon itself.
pub(super) fn daemon_notes(config: &ConfigSnapshot) -> Vec<String> {
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

/// A group's kind, and of a peer which end of it this is.
pub(super) fn kind(group: &GroupSnapshot) -> String {
    match &group.role {
        Some(crate::event::Role::Client) => format!("{}, client", group.kind),
        Some(crate::event::Role::Server) => format!("{}, server", group.kind),
        None => group.kind.clone(),
    }
}

fn render_group(group: &GroupSnapshot, now: SystemTime, style: Style) -> String {
    let kind = kind(group);
    let active = match group.active.as_slice() {
        [] => style.bad("no link is active"),
        active => {
            let usable = group.links.iter().any(|link| link.usable && active.contains(&link.name));
            let names = active.join(" + ");
            format!("{} active", if usable { style.good(&names) } else { style.bad(&names) })
        }
    };
    let mut text = format!(
        "{} ({kind}): {active} since {}: {}\n",
        style.strong(&group.name),
        ago(&group.since, now),
        group.reason
    );
    let routes = &group.routes;
    text += &format!("  routes: {} installed, {} refused", routes.installed, routes.refused);
    if !group.announced_to_us.is_empty() {
        text += &format!("; announced to us: {}", group.announced_to_us.join(", "));
    }
    text += "\n";
    text += &render_links(group, now, style);
    for note in notes(group, now) {
        text += &format!("  {} {note}\n", style.doubtful("!"));
    }
    text
}

/// The table of links; `*` marks what carries traffic.
fn render_links(group: &GroupSnapshot, now: SystemTime, style: Style) -> String {
    let rows: Vec<[String; 12]> = group.links.iter().map(|link| row(link, now)).collect();
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
            (3, "up") => style.good(&cell),
            (3, "down" | "absent") => style.bad(&cell),
            (3, _) => style.doubtful(&cell),
            _ => cell,
        };
        let line: String = row.iter().enumerate().map(|(column, cell)| paint(column, pad(cell, column))).collect();
        text += &format!("  {mark} {}\n", line.trim_end());
    }
    text
}

fn row(link: &LinkSnapshot, now: SystemTime) -> [String; 12] {
    let milliseconds = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3} ms"));
    let state = if link.drained { format!("{}, drained", link.state) } else { link.state.clone() };
    [
        link.name.clone(),
        link.interface.clone(),
        link.tier.to_string(),
        if link.share > 0.0 { format!("{:.0}%", link.share * 100.0) } else { "-".to_owned() },
        state,
        if link.usable { "yes" } else { "no" }.to_owned(),
        milliseconds(link.rtt_ms),
        milliseconds(link.jitter_ms),
        format!("{:.1}%", link.loss * 100.0),
        format!("{}/{}", link.sent, link.received),
        dropped(&link.dropped).to_string(),
        ago(&link.since, now),
    ]
}

fn dropped(dropped: &DroppedSnapshot) -> u64 {
    causes(dropped).iter().map(|(count, _)| count).sum()
}

/// Packets dropped by cause.
fn causes(dropped: &DroppedSnapshot) -> [(u64, &'static str); 9] {
    [
        (dropped.malformed, "malformed"),
        (dropped.unknown, "unknown"),
        (dropped.replayed, "replayed"),
        (dropped.forged, "forged"),
        (dropped.reflected, "reflected"),
        (dropped.late, "late"),
        (dropped.distant, "distant"),
        (dropped.version, "of another version"),
        (dropped.junk, "junk"),
    ]
}

/// What deserves a look, and what to do about it.
fn notes(group: &GroupSnapshot, now: SystemTime) -> Vec<String> {
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
    notes.extend(group.routes.refusals.iter().map(|refusal| format!("refused: {refusal}")));
    for link in &group.links {
        notes_of_link(link, group, now, &mut notes);
    }
    notes
}

fn notes_of_link(link: &LinkSnapshot, group: &GroupSnapshot, now: SystemTime, notes: &mut Vec<String>) {
    let name = &link.name;
    let mut note = |text: String| notes.push(format!("{name}: {text}"));
    let up = link.state == "up";
    if link.state == "absent" {
        note(format!("interface {0} does not exist or is switched off: ip link show {0}", link.interface));
    } else if let (false, Some(reason)) = (up, &link.last_down_reason) {
        note(reason.clone());
    }
    let drained_by = |end: &str| link.drained_by.iter().any(|by| by == end);
    if drained_by("here") {
        let whose = whose(group, "drain", Some(name), now);
        let left = match link.connections {
            None | Some(0) => String::new(),
            Some(count) => format!("; connections that still use it: {count}"),
        };
        note(format!("out of service{whose}; `link-watcher undrain {} {name}` puts it back{left}", group.name));
    }
    if drained_by("peer") {
        note(
            "out of service: the peer's operator drained it; `link-watcher undrain` on the peer puts it back"
                .to_owned(),
        );
    }
    if let Some(order) = group.orders.iter().find(|order| order.what == "weight" && order.link.as_ref() == Some(name)) {
        let whose = whose(group, "weight", Some(name), now);
        let weight = order.weight.unwrap_or(link.weight);
        note(format!("weight {weight}{whose}; `link-watcher weight {} {name} file` takes it back", group.name));
    }
    if let (Some(reason), false) =
        (&link.usable_reason, link.drained || matches!(link.state.as_str(), "down" | "absent"))
    {
        note(reason.clone());
    }
    let causes: Vec<_> =
        causes(&link.dropped).iter().filter(|(n, _)| *n > 0).map(|(n, cause)| format!("{n} {cause}")).collect();
    if !causes.is_empty() {
        note(format!("dropped {}", causes.join(", ")));
    }
    if let Some(suspicion) = &link.suspicion {
        note(suspicion.clone());
    }
    if let Some(reason) = &link.engine_reason {
        note(format!("uses the engine {}: {reason}", link.engine));
    }
}

/// Who ordered something, since when, until when and why.
fn whose(group: &GroupSnapshot, what: &str, link: Option<&str>, now: SystemTime) -> String {
    let of_link = |of: Option<&str>| link.is_none() || of == link;
    let Some(order) = group.orders.iter().find(|order| order.what == what && of_link(order.link.as_deref())) else {
        return " by hand".to_owned();
    };
    let until = order.until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
    let reason = order.reason.as_ref().map(|reason| format!(" (\"{reason}\")")).unwrap_or_default();
    format!(" by {} since {}{until}{reason}", order.by, ago(&order.at, now))
}

/// How long ago an RFC 3339 time was; what cannot be read is shown as it is.
pub(super) fn ago(since: &str, now: SystemTime) -> String {
    match humantime::parse_rfc3339(since) {
        // A clock that was set back makes "now".
        Ok(since) => format!("{} ago", short(now.duration_since(since).unwrap_or_default())),
        Err(_) if since.is_empty() => "-".to_owned(),
        Err(_) => since.to_owned(),
    }
}

/// A duration in its two largest units.
pub(super) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let short = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([short(0), short(59), short(60)], ["0s", "59s", "1m 0s"]);
        assert_eq!([short(3_661), short(90_000)], ["1h 1m", "1d 1h"]);
    }

    #[test]
    fn times_are_relative() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(ago("1970-01-01T00:01:28.500Z", now), "11s ago");
        assert_eq!(ago("1970-01-01T00:02:28.500Z", now), "0s ago");
        assert_eq!(ago("", now), "-");
        assert_eq!(ago("never", now), "never");
    }
}
