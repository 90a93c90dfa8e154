//! What each section of the file may hold: one table, from which the reader knows keys, ranges and words, and from which come
//! `docs/configuration.md` and link-watcher.toml(5).

use std::{fmt::Write as _, ops::RangeInclusive, time::Duration};

use super::{diagnostic::either, metrics, notify, peer, uplinks};

/// A section, with its keys in the order in which people read about them.
#[derive(Debug)]
pub struct Schema {
    /// As it is written: `[[peer]]`; empty for the file itself.
    pub title: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
    /// The section that has the same keys and tells them.
    pub told_by: Option<&'static str>,
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What stands behind the `=`.
    pub takes: Takes,
    /// What counts where it is left out.
    pub otherwise: Otherwise,
    /// What it says.
    pub meaning: &'static str,
    /// The `kind` of the section that it is for; nothing: all of them.
    pub only: Option<&'static str>,
}

/// Values.
#[derive(Debug)]
pub enum Takes {
    /// A whole number.
    Number(RangeInclusive<u32>),
    /// A time such as `"10ms"`.
    Duration(RangeInclusive<Duration>),
    /// A time, or this word.
    DurationOr(RangeInclusive<Duration>, &'static str),
    /// One of these.
    Words(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A text: what kind of one.
    Text(&'static str),
    /// A list: of what.
    List(&'static str),
    /// A section of its own, by its head.
    Section(&'static str),
}

/// What counts where a key is left out.
#[derive(Debug)]
pub enum Otherwise {
    /// Nothing would: it is demanded.
    Demanded,
    /// This number.
    Number(u32),
    /// This time.
    Duration(Duration),
    /// This text or word.
    Text(&'static str),
    /// This.
    Flag(bool),
    /// No value of the file's: what happens then, in words.
    Words(&'static str),
}

impl Schema {
    pub(super) const fn new(title: &'static str, about: &'static str, keys: &'static [Key]) -> Self {
        Self { title, about, keys, told_by: None }
    }

    /// A key of this name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// Whether there may be several of it.
    pub(super) fn is_repeated(&self) -> bool {
        self.title.starts_with("[[")
    }

    /// As other sections are named by it: `peer.link`.
    pub(super) fn path(&self) -> &'static str {
        self.title.trim_matches(['[', ']'])
    }
}

impl Key {
    pub(super) const fn new(name: &'static str, takes: Takes, otherwise: Otherwise, meaning: &'static str) -> Self {
        Self { name, takes, otherwise, meaning, only: None }
    }

    /// A section inside of another one.
    pub(super) const fn section(name: &'static str, head: &'static str, meaning: &'static str) -> Self {
        Self::new(name, Takes::Section(head), Otherwise::Words("none"), meaning)
    }

    /// The head of the section that it is.
    pub(super) fn head(&self) -> Option<&'static str> {
        match self.takes {
            Takes::Section(head) => Some(head),
            _ => None,
        }
    }

    /// For this `kind` of the section alone.
    pub(super) const fn only(self, kind: &'static str) -> Self {
        Self { only: Some(kind), ..self }
    }

    /// What it takes, in words.
    #[must_use]
    pub fn value(&self) -> String {
        let duration = |duration: &Duration| humantime::format_duration(*duration).to_string();
        let times = |range: &RangeInclusive<Duration>| {
            format!("time from {} to {}", duration(range.start()), duration(range.end()))
        };
        match &self.takes {
            Takes::Number(range) => format!("number from {} to {}", range.start(), range.end()),
            Takes::Duration(range) => times(range),
            Takes::DurationOr(range, word) => format!("{}, or \"{word}\"", times(range)),
            Takes::Words(words) => format!("\"{}\"", either(words).replace(", ", "\", \"").replace(" or ", "\" or \"")),
            Takes::Flag => "true or false".to_owned(),
            Takes::Text(what) => (*what).to_owned(),
            Takes::List(what) => format!("list of {what}"),
            Takes::Section(head) if head.starts_with("[[") => format!("sections {head}"),
            Takes::Section(head) => format!("section {head}"),
        }
    }

    /// The value that counts where it is left out, as it would be written; nothing where no value says the same.
    #[must_use]
    pub fn default_value(&self) -> Option<String> {
        match &self.otherwise {
            Otherwise::Number(number) => Some(number.to_string()),
            Otherwise::Duration(duration) => Some(format!("\"{}\"", humantime::format_duration(*duration))),
            Otherwise::Text(text) => Some(format!("\"{text}\"")),
            Otherwise::Flag(flag) => Some(flag.to_string()),
            Otherwise::Demanded | Otherwise::Words(_) => None,
        }
    }

    /// What counts where it is left out, in words.
    #[must_use]
    pub fn default_words(&self) -> String {
        match &self.otherwise {
            Otherwise::Demanded => "demanded".to_owned(),
            Otherwise::Words(words) => (*words).to_owned(),
            _ => self.default_value().unwrap_or_default(),
        }
    }

    /// What it says, with the kind that it is for.
    #[must_use]
    pub fn told(&self) -> String {
        match self.only {
            Some(kind) => format!("`{kind}`: {}", self.meaning),
            None => self.meaning.to_owned(),
        }
    }
}

/// The file: its sections.
pub(super) static FILE: Schema = Schema::new(
    "",
    "",
    &[
        Key::section("daemon", "[daemon]", "the daemon itself"),
        Key::section("peer", "[[peer]]", "routers at the far end of several links"),
        Key::section("uplinks", "[[uplinks]]", "several ways to the internet"),
        Key::section("metrics", "[metrics]", "where metrics are served"),
        Key::section("notify", "[[notify]]", "who is told"),
    ],
);

/// Every section, near ones close to each other.
pub static SCHEMAS: [&Schema; 10] = [
    &super::DAEMON,
    &metrics::SCHEMA,
    &peer::PEER,
    &peer::LINK,
    &uplinks::UPLINKS,
    &uplinks::LINK,
    &uplinks::PROBE,
    &uplinks::LINK_PROBE,
    &uplinks::FORCE,
    &notify::SCHEMA,
];

/// The words of a choice.
pub(super) const fn words<T: Copy, const N: usize>(choices: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut at = 0;
    while at < N {
        words[at] = choices[at].0;
        at += 1;
    }
    words
}

/// All of it as a page of Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut page = "# Configuration\n\nEvery section and key of `/etc/link-watcher/link-watcher.toml`. This page, `man link-watcher.toml` and the daemon's \
                    own reader come from one\ntable: what is not here is refused. `link-watcher check` says what is wrong and what would be right, `link-watcher generate \
                    config` prints\nexamples.\n\nThe file is [TOML](https://toml.io). Times are texts such as `\"10ms\"`, `\"1s\"`, `\"2m\"`; relative paths begin at the \
                    directory of the file.\n"
        .to_owned();
    for schema in SCHEMAS {
        // Writing to a String cannot fail: here and below.
        let _ = write!(page, "\n## `{}`\n\n{}\n", schema.title, schema.about);
        if let Some(other) = schema.told_by {
            let _ = write!(page, "\nThe keys are those of `{other}`.\n");
            continue;
        }
        page.push_str("\n| key | value | left out | |\n|---|---|---|---|\n");
        for key in schema.keys {
            let default = match key.default_value() {
                Some(value) => format!("`{value}`"),
                None => key.default_words(),
            };
            let _ = writeln!(page, "| `{}` | {} | {default} | {} |", key.name, key.value(), key.told());
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_section_is_told_once_and_each_key_of_it() {
        let titles: BTreeSet<_> = SCHEMAS.iter().map(|schema| schema.title).collect();
        assert_eq!(titles.len(), SCHEMAS.len());
        for schema in SCHEMAS {
            let names: BTreeSet<_> = schema.names().into_iter().collect();
            assert_eq!(names.len(), schema.keys.len(), "{}", schema.title);
            for key in schema.keys {
                assert!(!key.meaning.is_empty() && !key.meaning.contains(['|', '\n']), "{} {}", schema.title, key.name);
                if let Takes::Section(head) = key.takes {
                    assert!(titles.contains(head), "{head}");
                }
            }
        }
    }
}
