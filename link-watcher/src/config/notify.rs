//! `[[notify]]`: who is told what happened, and how.

mod email;
mod exec;
mod webhook;

use std::{path::Path, time::Duration};

pub use self::{
    email::{EmailConfig, SmtpServer, SmtpTls},
    exec::ExecConfig,
    webhook::{Template, WebhookConfig},
};
use super::{
    Severity,
    diagnostic::{either, nearest},
    group::{self, DAY},
    section::Section,
};

/// Most notifiers.
const MAX_NOTIFIERS: usize = 32;
const DEFAULT_MIN_INTERVAL: Duration = Duration::from_secs(60);

/// What can be told, as `on` names it.
const EVENTS: &[&str] = &[
    "link-down",
    "link-up",
    "link-degraded",
    "link-dampened",
    "active-changed",
    "no-link",
    "ordered",
    "peer-restarted",
    "peer-silent",
    "peer-back",
    "announcements-unanswered",
    "announcements-answered",
];
/// What is told where `on` does not say.
const DEFAULT_EVENTS: &[&str] =
    &["link-down", "link-up", "link-degraded", "link-dampened", "active-changed", "no-link"];

const COMMON_KEYS: &[&str] = &["kind", "name", "on", "min-interval"];
/// Keys of all kinds: those of [`COMMON_KEYS`], and those of each.
pub(super) const KEYS: &[&str] = &[
    "kind",
    "name",
    "on",
    "min-interval",
    "from",
    "to",
    "smtp",
    "password-file",
    "tls",
    "url",
    "template",
    "secret-file",
    "command",
];
const KINDS: &[(&str, Kind)] = &[("email", Kind::Email), ("webhook", Kind::Webhook), ("exec", Kind::Exec)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Email,
    Webhook,
    Exec,
}

impl Kind {
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Email => &["from", "to", "smtp", "password-file", "tls"],
            Self::Webhook => &["url", "template", "secret-file"],
            Self::Exec => &["command"],
        }
    }
}

/// `[[notify]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyConfig {
    /// Name, unique among notifiers.
    pub name: String,
    /// What is told, as events are named in the history; at least one.
    pub on: Vec<&'static str>,
    /// Least time between two messages, 0 to a day: what happens meanwhile is put together in one.
    pub min_interval: Duration,
    /// How it is told.
    pub means: Means,
}

/// How people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// By mail.
    Email(EmailConfig),
    /// By an HTTP request.
    Webhook(WebhookConfig),
    /// By a program.
    Exec(ExecConfig),
}

impl Means {
    /// The `kind` of it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Email(_) => "email",
            Self::Webhook(_) => "webhook",
            Self::Exec(_) => "exec",
        }
    }
}

/// Reads all of them. Where a file that one needs cannot be used now, that is as bad as `absent` says.
pub(super) fn read(root: &Section<'_>, directory: &Path, absent: Severity) -> Vec<NotifyConfig> {
    let sections = root.sections("notify", "[[notify]]", KEYS);
    if let Some(section) = sections.get(MAX_NOTIFIERS) {
        root.findings.error(
            &section.span(),
            format!("there are {} sections [[notify]]", sections.len()),
            format!("{MAX_NOTIFIERS} are the most: one can tell several people"),
        );
    }
    let mut notifiers: Vec<NotifyConfig> = Vec::new();
    for section in sections.into_iter().take(MAX_NOTIFIERS) {
        let Some(notifier) = read_one(&section, directory, absent) else { continue };
        if notifiers.iter().any(|other| other.name == notifier.name) {
            root.findings.error(
                &section.get("name").map_or(section.span(), toml::Spanned::span),
                format!("there is another notifier called {}", notifier.name),
                "give each [[notify]] a name of its own",
            );
        }
        notifiers.push(notifier);
    }
    notifiers
}

fn read_one(section: &Section<'_>, directory: &Path, absent: Severity) -> Option<NotifyConfig> {
    let name = group::name(section, "admin");
    let kind = section.choice("kind", KINDS);
    if section.get("kind").is_none() {
        section.missing("kind", "\"email\"");
    }
    if let Some(kind) = kind {
        refuse_keys_of_others(section, kind);
    }
    let on = events(section);
    let min_interval = section.duration("min-interval", Duration::ZERO..=DAY, "1m").unwrap_or(DEFAULT_MIN_INTERVAL);
    let means = match kind? {
        Kind::Email => email::read(section, directory, absent).map(Means::Email),
        Kind::Webhook => webhook::read(section, directory, absent).map(Means::Webhook),
        Kind::Exec => exec::read(section, absent).map(Means::Exec),
    };
    Some(NotifyConfig { name: name?.into_inner(), on, min_interval, means: means? })
}

/// A key that another kind has is not wrong by its name, but nobody would look at it.
fn refuse_keys_of_others(section: &Section<'_>, kind: Kind) {
    let word = KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(word, _)| word);
    for key in KEYS.iter().filter(|key| !COMMON_KEYS.contains(key) && !kind.keys().contains(key)) {
        if let Some(value) = section.get(key) {
            section.findings.error(
                &value.span(),
                format!("`{key}` is not for kind = \"{word}\""),
                format!("its keys are {}, {}", COMMON_KEYS.join(", "), kind.keys().join(", ")),
            );
        }
    }
}

fn events(section: &Section<'_>) -> Vec<&'static str> {
    let example = "[\"link-down\", \"no-link\"]";
    let mut on = Vec::new();
    for word in section.strings("on", example) {
        match EVENTS.iter().find(|known| *known == word.get_ref()) {
            Some(known) => on.push(in_history(known)),
            None => {
                let help = match nearest(word.get_ref(), EVENTS.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}\"? It is one of {}", either(EVENTS)),
                    None => format!("write {}", either(EVENTS)),
                };
                section.findings.error(&word.span(), format!("`on` cannot have \"{}\"", word.get_ref()), help);
            }
        }
    }
    match section.get("on") {
        None => DEFAULT_EVENTS.iter().map(|event| in_history(event)).collect(),
        Some(value) => {
            if section.is_empty("on") {
                let help = format!("write on = {example}, or leave the line out for all that matters");
                section.findings.error(&value.span(), "`on` is empty: nothing would be told", help);
            }
            on
        }
    }
}

/// As `events --json` names it.
fn in_history(event: &'static str) -> &'static str {
    if event == "no-link" { "no-usable-link" } else { event }
}
