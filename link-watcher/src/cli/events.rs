//! Events for people.

use super::output::Style;
use crate::control::EventRecord;

/// One line: when, where, what, why, and how long it took.
pub fn render(record: &EventRecord, style: Style) -> String {
    let what = match record.what.as_str() {
        "link-up" => style.good("link-up"),
        what @ ("link-down" | "no-usable-link") => style.bad(what),
        what => style.doubtful(what),
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
    let took = [("detected in", record.detect_ms), ("routes changed in", record.took_ms)];
    let took: Vec<_> = took.iter().filter_map(|(what, ms)| ms.map(|ms| format!("{what} {ms:.1} ms"))).collect();
    if !took.is_empty() {
        line += &format!(" ({})", took.join(", "));
    }
    line
}
