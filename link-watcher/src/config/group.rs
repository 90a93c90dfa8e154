//! What groups of both kinds say in the same words: names, and when a better tier takes the traffic back.

use std::{ops::RangeInclusive, time::Duration};

use toml::Spanned;

use super::{
    diagnostic::nearest,
    reference::{Key, Otherwise, Takes},
    section::Section,
};
use crate::{event::Failback, health::Share};

/// The longest time that can be asked for.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_FAILBACK: Duration = Duration::from_secs(30);
const MANUAL: &str = "manual";
/// Traffic is shared by it.
pub(super) const WEIGHT: RangeInclusive<u32> = 1..=256;
pub(super) const DEFAULT_WEIGHT: u32 = 1;
pub(super) const MAX_TIER: u32 = 65_535;
pub(super) const DEFAULT_DAMPENING: bool = true;
/// What people write for a failback by hand.
pub(super) const NEVER: [&str; 7] = ["never", "off", "no", "none", "false", "stay", "disabled"];
/// Longest name of a group or link, bytes.
const MAX_NAME_LEN: usize = 64;

/// The name of a group, link or notifier.
pub(super) const NAME: Takes = Takes::Text("name of 1 to 64 bytes, without spaces, quotes and backslashes");
/// The name of an interface.
pub(super) const INTERFACE: Takes = Takes::Text("interface");
/// `failback` of both kinds.
pub(super) const FAILBACK: Key = Key::new(
    "failback",
    Takes::DurationOr(Duration::ZERO..=DAY, MANUAL),
    Otherwise::Duration(DEFAULT_FAILBACK),
    "how long a better tier must stay usable before it takes the traffic back; `manual`: never by itself",
);
/// `dampening` of both kinds.
pub(super) const DAMPENING: Key = Key::new(
    "dampening",
    Takes::Flag,
    Otherwise::Flag(DEFAULT_DAMPENING),
    "a link that flaps is left out until it is quiet (RFC 2439): penalty 1000 a flap, suppressed from 3000, reused below 750, half-life 60 s, at most \
     four half-lives",
);

/// `max-loss`.
pub(super) const fn max_loss_key(meaning: &'static str) -> Key {
    Key::new("max-loss", Takes::Text("share above 0% up to 100%"), Otherwise::Words("no limit"), meaning)
}

/// The values without their places.
pub(super) fn values<T>(spanned: Vec<Spanned<T>>) -> Vec<T> {
    spanned.into_iter().map(Spanned::into_inner).collect()
}

/// `failback`, 30 s where nothing is said.
pub(super) fn failback(section: &Section<'_>) -> Failback {
    let value = section.get("failback");
    if let Some(text) = value.and_then(|value| value.get_ref().as_str()) {
        if text == MANUAL {
            return Failback::Manual;
        }
        if let (Some(value), true) = (value, NEVER.contains(&text) || nearest(text, [MANUAL]).is_some()) {
            section.findings.error(
                &value.span(),
                format!("`failback` cannot be \"{text}\""),
                "did you mean \"manual\"? Then the traffic stays until somebody switches",
            );
            return Failback::Manual;
        }
    }
    let after = section.duration("failback", "30s").unwrap_or(DEFAULT_FAILBACK);
    // A day in nanoseconds is far below 2^64.
    Failback::After(after.as_nanos() as u64)
}

/// The name of a link, which `switch GROUP LINK` must be able to tell from `switch GROUP auto`.
pub(super) fn link_name(section: &Section<'_>, example: &str) -> Option<Spanned<String>> {
    let name = name(section, example);
    if let Some(name) = &name
        && name.get_ref() == "auto"
    {
        section.findings.error(
            &name.span(),
            "a link cannot be called \"auto\"",
            "`link-watcher switch GROUP auto` lets a group choose by itself: take another name",
        );
    }
    name
}

/// The name of a group or a link: it becomes a label of metrics and an argument of commands.
pub(super) fn name(section: &Section<'_>, example: &str) -> Option<Spanned<String>> {
    let example = format!("\"{example}\"");
    let Some(name) = section.string("name", &example) else {
        if section.get("name").is_none() && !section.excused("name") {
            section.missing("name", &example);
        }
        return None;
    };
    let text = name.get_ref();
    let wrong = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_NAME_LEN {
        "is longer than 64 bytes"
    } else if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '\\') {
        "has a space, a quote, a backslash or a control character"
    } else if text.starts_with('-') {
        "begins with a dash, which commands take for an option"
    } else {
        return Some(name);
    };
    section.findings.error(
        &name.span(),
        format!("this name {wrong}"),
        "letters, digits, dashes and underscores make a good name",
    );
    Some(name)
}

/// Greatest share of probes without answer.
pub(super) fn max_loss(section: &Section<'_>) -> Option<Share> {
    let text = section.string("max-loss", "\"20%\"")?;
    let percent = text.get_ref().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        // A hundred percent is a million millionths: the number fits, and is not negative.
        Some(percent) if percent > 0.0 && percent <= 100.0 => Some(Share((percent * 10_000.0).round() as u32)),
        _ => {
            section.findings.error(
                &text.span(),
                format!("`max-loss` is not a share between 0% and 100%: \"{}\"", text.get_ref()),
                "write a number and a percent sign, such as \"20%\" or \"0.5%\"; leave it out for no limit",
            );
            None
        }
    }
}
