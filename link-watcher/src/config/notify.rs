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
    reference::{Key, Otherwise, Schema, Takes, words},
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

const KINDS: [(&str, Kind); 3] = [("email", Kind::Email), ("webhook", Kind::Webhook), ("exec", Kind::Exec)];
/// `[[notify]]`.
pub(super) static SCHEMA: Schema = Schema::new(
    "[[notify]]",
    "Somebody who is told what happens. Each kind has keys of its own.",
    &[
        Key::new("kind", Takes::Words(&words(&KINDS)), Otherwise::Demanded, "how he is told"),
        Key::new("name", group::NAME, Otherwise::Demanded, "unique among notifiers"),
        Key::new(
            "on",
            Takes::List("words"),
            Otherwise::Words("the first six"),
            "what is told: `link-down`, `link-up`, `link-degraded`, `link-dampened`, `active-changed`, `no-link`; `ordered`, `peer-restarted`, `peer-silent`, \
             `peer-back`, `announcements-unanswered`, `announcements-answered`",
        ),
        Key::new(
            "min-interval",
            Takes::Duration(Duration::ZERO..=DAY),
            Otherwise::Duration(DEFAULT_MIN_INTERVAL),
            "least time between two messages; what happens meanwhile is put together in one",
        ),
        Key::new("from", Takes::Text("mail address"), Otherwise::Demanded, "sender").only("email"),
        Key::new("to", Takes::List("1 to 32 mail addresses"), Otherwise::Demanded, "recipients").only("email"),
        Key::new(
            "smtp",
            Takes::Text("URL such as \"smtps://user@mail.example.com\""),
            Otherwise::Demanded,
            "the mail server, and the user there; smtps:// is TLS, smtp:// is STARTTLS",
        )
        .only("email"),
        Key::new(
            "password-file",
            Takes::Text("path, or \"credential:NAME\""),
            Otherwise::Words("none"),
            "the user's password: one line, mode 0600",
        )
        .only("email"),
        Key::new(
            "tls",
            Takes::Words(&words(&email::TLS)),
            Otherwise::Words("`required`; to this machine itself `none`"),
            "whether the server must speak TLS",
        )
        .only("email"),
        Key::new("url", Takes::Text("URL of http or https"), Otherwise::Demanded, "where messages are posted")
            .only("webhook"),
        Key::new("template", Takes::Words(&words(&webhook::TEMPLATES)), Otherwise::Text("json"), "what the body is")
            .only("webhook"),
        Key::new(
            "secret-file",
            Takes::Text("path, or \"credential:NAME\""),
            Otherwise::Words("not signed"),
            "what the body is signed with (HMAC-SHA256)",
        )
        .only("webhook"),
        Key::new(
            "command",
            Takes::List("whole path of a program, and at most 32 arguments"),
            Otherwise::Demanded,
            "what is run, without a shell",
        )
        .only("exec"),
    ],
);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Email,
    Webhook,
    Exec,
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
    let sections = root.sections("notify", &SCHEMA);
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
    let kind = section.choice("kind", &KINDS);
    if section.get("kind").is_none() {
        section.missing("kind", "\"email\"");
    }
    if let Some(kind) = kind {
        refuse_keys_of_others(section, kind);
    }
    let on = events(section);
    let min_interval = section.duration("min-interval", "1m").unwrap_or(DEFAULT_MIN_INTERVAL);
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
    for (key, _, span) in section.of_other_kinds(word) {
        section.findings.error(
            &span,
            format!("`{key}` is not for kind = \"{word}\""),
            format!("its keys are {}", section.keys_of_kind(word).join(", ")),
        );
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
