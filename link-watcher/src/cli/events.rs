//! Events for people.

use super::output::Style;
use crate::{control::EventRecord, trace::Trace};

/// One line: when, where, what, why, and how long it took.
pub fn render(record: &EventRecord, style: Style) -> String {
    let what = match record.what.as_str() {
        "link-up" => style.good("link-up"),
        what @ ("link-down" | "no-usable-link") => style.bad(what),
        what => style.warning(what),
    };
    let place = match &record.link {
        Some(link) => format!("{} {link}", record.group),
        None => record.group.clone(),
    };
    let mut line = format!("{}  {place}: {what}", record.time);
    if !record.from.is_empty() || !record.to.is_empty() {
        let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" + ") };
        line += &format!(" {} -> {}", names(&record.from), names(&record.to));
    }
    if !record.why.is_empty() {
        line += &format!(": {}", record.why);
    }
    if let Some(trace) = &record.trace {
        line += &format!(" ({})", took(trace));
    } else if let Some(ms) = record.detect_ms {
        line += &format!(" (detected in {ms:.1} ms)");
    }
    line
}

/// How long a move of traffic took, and in what.
fn took(trace: &Trace) -> String {
    let parts = trace.parts();
    let whole_ns = parts.iter().map(|(_, ns)| ns).sum();
    let parts: Vec<String> = parts.iter().map(|(name, ns)| format!("{name} {}", milliseconds(*ns))).collect();
    format!("took {} ms: {}", milliseconds(whole_ns), parts.join(", "))
}

/// A length in ms, with the digits that matter.
fn milliseconds(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    if ms < 0.1 { format!("{ms:.2}") } else { format!("{ms:.1}") }
}
