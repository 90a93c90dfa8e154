//! Failing over between two links, by routes and by tables.

use anyhow::{Context as _, Result};
use link_watcher::{
    config::ActuationChoice,
    route::{Family, failovers},
};
use serde_json::{Value, json};

/// Family, prefixes, and the target of a failover by tables, ms.
const CASES: [(Family, u32, f64); 5] = [
    (Family::V4, 1, 1.0),
    (Family::V4, 1_000, 1.0),
    (Family::V4, 100_000, 1.0),
    (Family::V4, 1_000_000, 1.0),
    (Family::V6, 100_000, 50.0),
];

/// A row for each case and back-end; printed as they come if somebody reads them.
pub(crate) fn rows(print: bool) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    if print {
        println!("A failover's part in the kernel's tables, ms: from the decision until traffic is led elsewhere");
        println!(
            "  {:<26} {:>7} {:>9} {:>9} {:>9} {:>10} {:>12}",
            "", "target", "min", "median", "max", "filling s", "longest wait"
        );
    }
    for (family, prefixes, target) in CASES {
        for (name, choice) in [("routes", ActuationChoice::Routes), ("tables", ActuationChoice::Tables)] {
            // By routes a million take some ten seconds a time: no more is to be learned there.
            if choice == ActuationChoice::Routes && prefixes > 100_000 {
                continue;
            }
            let rounds = if choice == ActuationChoice::Routes && prefixes > 10_000 { 3 } else { 21 };
            let mut measured = failovers(choice, family, prefixes, rounds)
                .with_context(|| format!("{prefixes} prefixes by {name}"))?;
            measured.moved_ns.sort_unstable();
            let ms = |ns: u64| ns as f64 / 1e6;
            let at = |i: usize| ms(measured.moved_ns.get(i).copied().unwrap_or(0));
            let (min, median) = (at(0), at(measured.moved_ns.len() / 2));
            let max = at(measured.moved_ns.len().saturating_sub(1));
            let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
            let title = format!("{prefixes} {version} by {name}");
            let target = (choice == ActuationChoice::Tables).then_some(target);
            let (filled_s, wait) = (measured.filled_ns as f64 / 1e9, ms(measured.longest_wait_ns));
            if print {
                let target = target.map_or_else(|| "-".to_owned(), |target| format!("{target:.0}"));
                println!("  {title:<26} {target:>7} {min:>9.3} {median:>9.3} {max:>9.3} {filled_s:>10.2} {wait:>12.3}");
            }
            rows.push(json!({
                "name": title, "target": target, "min": min, "median": median, "max": max,
                "ratio": target.map(|target| median / target), "filled_s": filled_s, "longest_wait_ms": wait,
            }));
        }
    }
    Ok(rows)
}
