//! What people are told, in words: what happened, how it stands now, what to do. Pure.

use std::{fmt::Write as _, sync::Arc};

use serde::{Serialize, Serializer};

use super::outbox::Batch;
use crate::{
    control::EventRecord,
    status::{GroupSnapshot, LinkSnapshot, Snapshot},
};

/// Groups that a subject names.
const SUBJECT_GROUPS: usize = 2;
/// Longest subject, bytes.
const MAX_SUBJECT: usize = 160;

/// One message; as JSON what the template `json` sends.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Message {
    /// Whether it is a test, and nothing has happened.
    pub(super) test: bool,
    /// This machine's name.
    pub(super) host: String,
    /// The last event, RFC 3339 in UTC.
    pub(super) time: String,
    /// What it is about, in one line.
    pub(super) subject: String,
    /// All of it, for people.
    pub(super) text: String,
    /// The events, the oldest first.
    #[serde(serialize_with = "all")]
    pub(super) events: Vec<Arc<EventRecord>>,
    /// Events that are not among them, because there were too many.
    pub(super) omitted: u64,
    /// The groups that they are about, as they stand now; none where the daemon did not say in time.
    pub(super) groups: Vec<GroupSnapshot>,
}

fn all<S: Serializer>(events: &[Arc<EventRecord>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(events.iter().map(|event| &**event))
}

impl Message {
    /// What a batch comes to, given what is so now.
    pub(super) fn new(batch: Batch, status: Option<Snapshot>, host: &str) -> Self {
        let Batch { events, omitted } = batch;
        let mut names: Vec<&str> = Vec::new();
        for event in &events {
            if !names.contains(&event.group.as_str()) {
                names.push(&event.group);
            }
        }
        let now = status.map_or_else(Vec::new, |status| status.groups);
        let mut groups: Vec<GroupSnapshot> =
            now.into_iter().filter(|group| names.contains(&group.name.as_str())).collect();
        // Of an announced list nobody wants thousands of prefixes in a mail.
        groups.iter_mut().for_each(|group| group.announced_to_us.clear());
        let headlines: Vec<String> = names.iter().map(|name| format!("{name}: {}", headline(name, &events))).collect();
        let subject = subject(host, &headlines, omitted);
        let text = text(&headlines, &events, omitted, &groups);
        let time = events.last().map_or_else(String::new, |event| event.time.clone());
        Self { test: false, host: host.to_owned(), time, subject, text, events, omitted, groups }
    }

    /// To see whether messages arrive.
    pub(super) fn test(host: &str, notifier: &str, time: String) -> Self {
        let text = format!(
            "This is a test of the notifier {notifier} of link-watcher on {host}. Nothing has happened; there is nothing to do.\n"
        );
        Self {
            test: true,
            host: host.to_owned(),
            time,
            subject: format!("[link-watcher {host}] test of {notifier}"),
            text,
            events: Vec::new(),
            omitted: 0,
            groups: Vec::new(),
        }
    }

    /// The event that matters most: the last of the gravest.
    pub(super) fn gravest(&self) -> Option<&EventRecord> {
        let gravity = |event: &EventRecord| match event.what.as_str() {
            "no-usable-link" => 4,
            "link-down" | "link-dampened" => 3,
            "active-changed" => 2,
            "link-degraded" | "peer-silent" | "announcements-unanswered" => 1,
            _ => 0,
        };
        self.events.iter().max_by_key(|event| gravity(event)).map(AsRef::as_ref)
    }

    /// Names of the links that carry a group's traffic now, as far as it is known.
    pub(super) fn active(&self, group: &str) -> Vec<String> {
        if let Some(group) = self.groups.iter().find(|known| known.name == group) {
            return group.active.clone();
        }
        let moved = self.events.iter().rev().find(|event| event.group == group && event.what == "active-changed");
        moved.map_or_else(Vec::new, |event| event.to.clone())
    }
}

fn subject(host: &str, headlines: &[String], omitted: u64) -> String {
    let mut subject = format!("[link-watcher {host}] ");
    if headlines.is_empty() {
        let _ = write!(subject, "{omitted} events");
    }
    subject += &headlines.iter().take(SUBJECT_GROUPS).map(String::as_str).collect::<Vec<_>>().join("; ");
    if headlines.len() > SUBJECT_GROUPS {
        let _ = write!(subject, "; and {} more", headlines.len() - SUBJECT_GROUPS);
    }
    let subject: String = subject.chars().filter(|c| !c.is_control()).collect();
    match subject.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_SUBJECT) {
        Some(end) => format!("{}…", &subject[..end]),
        None => subject,
    }
}

/// What these events come to for one group.
fn headline(group: &str, events: &[Arc<EventRecord>]) -> String {
    let of_group = || events.iter().filter(|event| event.group == group);
    let moves: Vec<&EventRecord> =
        of_group().filter(|event| event.what == "active-changed").map(AsRef::as_ref).collect();
    let last_of = |what: &str| events.iter().rposition(|event| event.group == group && event.what == what);
    let outage = last_of("no-usable-link");
    if outage.is_some() && outage > last_of("active-changed") && outage > last_of("link-up") {
        return "no usable link".to_owned();
    }
    let after = if outage.is_some() { " after an outage" } else { "" };
    if let (Some(first), Some(last)) = (moves.first(), moves.last()) {
        return match (first.from.join(" + "), last.to.join(" + ")) {
            (from, to) if from == to && moves.len() > 1 => format!("traffic is back on {to}{after}"),
            (_, to) if to.is_empty() => "no link carries traffic".to_owned(),
            (from, to) if from.is_empty() => format!("traffic goes by {to}{after}"),
            (from, to) => format!("traffic moved from {from} to {to}{after}"),
        };
    }
    // The last word on each link.
    let mut links: Vec<(&str, &str)> = Vec::new();
    for event in of_group() {
        let Some(link) = event.link.as_deref() else { continue };
        links.retain(|(known, _)| *known != link);
        links.push((link, &event.what));
    }
    let words: Vec<String> = links.iter().map(|(link, what)| format!("{link} {}", state(what))).collect();
    if !words.is_empty() {
        return words.join(", ") + after;
    }
    of_group().next_back().map_or_else(String::new, |event| event.what.replace('-', " "))
}

/// A link's state after an event.
fn state(what: &str) -> String {
    match what {
        "link-up" => "is up".to_owned(),
        "link-down" => "is down".to_owned(),
        "link-degraded" => "is degraded".to_owned(),
        "link-dampened" => "flaps".to_owned(),
        other => other.replace('-', " "),
    }
}

fn text(headlines: &[String], events: &[Arc<EventRecord>], omitted: u64, groups: &[GroupSnapshot]) -> String {
    let mut text = headlines.iter().map(|line| format!("{line}.\n")).collect::<String>();
    text += "\nWhat happened (UTC):\n";
    if omitted > 0 {
        let _ = writeln!(text, "  {omitted} events that are not listed; link-watcher events has the last ones");
    }
    for event in events {
        let _ = writeln!(text, "  {}", line(event));
    }
    if groups.is_empty() {
        text += "\nHow it stands now the daemon did not say in time: link-watcher status\n";
        return text;
    }
    text += "\nNow:\n";
    for group in groups {
        let carries = if group.active.is_empty() {
            "no link carries traffic".to_owned()
        } else {
            format!("traffic goes by {}", group.active.join(" + "))
        };
        let _ = writeln!(text, "  {}: {carries}, since {} ({})", group.name, group.since, group.reason);
        for link in &group.links {
            let _ = writeln!(text, "    {}: {}", link.name, standing(link));
        }
    }
    text += "\nWhat to do:\n";
    for group in groups {
        let _ = writeln!(text, "  {}: {}", group.name, advice(group));
    }
    text
}

fn line(event: &EventRecord) -> String {
    let what = match (&event.link, event.what.as_str()) {
        (_, "active-changed") => {
            let names = |links: &[String]| if links.is_empty() { "nothing".to_owned() } else { links.join(" + ") };
            format!("traffic moved from {} to {}", names(&event.from), names(&event.to))
        }
        (Some(link), what) => format!("{link} {}", state(what)),
        (None, what) => what.replace('-', " "),
    };
    format!("{}  {}: {what}: {}", event.time, event.group, event.why)
}

fn standing(link: &LinkSnapshot) -> String {
    let mut text = format!("{}, since {}", link.state, link.since);
    if link.drained {
        text += ", drained";
    }
    if let (false, Some(why)) = (link.usable, &link.last_down_reason) {
        let _ = write!(text, " ({why})");
    }
    if let Some(suspicion) = &link.suspicion {
        let _ = write!(text, "; {suspicion}");
    }
    text
}

/// What an operator can do about a group.
fn advice(group: &GroupSnapshot) -> String {
    let unusable: Vec<&str> =
        group.links.iter().filter(|link| !link.usable && !link.drained).map(|link| link.name.as_str()).collect();
    let usable = group.links.iter().filter(|link| link.usable).count();
    if usable == 0 {
        return format!(
            "nothing gets through. Look at power, cables and the provider of {}; link-watcher doctor says what this machine lacks.",
            group.links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(" and ")
        );
    }
    if unusable.is_empty() {
        return "nothing.".to_owned();
    }
    let spare = if usable == 1 { "mend soon, there is no spare link left" } else { "traffic flows; mend when you can" };
    format!("{spare}: {}. link-watcher status says what is wrong.", unusable.join(", "))
}

#[cfg(test)]
mod tests;
