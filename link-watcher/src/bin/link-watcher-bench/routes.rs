//! Failing over between two links by each back-end, and what becomes of flows: the part that the kernel's tables take.

use anyhow::{Context as _, Result};
use link_watcher::{
    config::ActuationChoice,
    route::{Family, failovers, flows_moved},
};

use crate::table::Table;

const PART: &str = "Moving prefixes to another link, in the kernel alone, ms";
const FLOWS: &str = "Flows over three links when one goes, % of all";
/// Family, prefixes, and the target of a failover by tables, ms.
const CASES: [(Family, u32, f64); 5] = [
    (Family::V4, 1, 1.0),
    (Family::V4, 1_000, 1.0),
    (Family::V4, 100_000, 1.0),
    (Family::V4, 1_000_000, 1.0),
    (Family::V6, 100_000, 50.0),
];
const CHOICES: [(&str, ActuationChoice); 3] =
    [("routes", ActuationChoice::Routes), ("tables", ActuationChoice::Tables), ("nexthop", ActuationChoice::Nexthop)];

/// From the decision until traffic is led elsewhere; with more than 10,000 prefixes by routes only three times.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    for (family, prefixes, target) in CASES {
        for (name, choice) in CHOICES {
            // A million routes in one table take some ten seconds a time: no more is to be learned there.
            if choice != ActuationChoice::Tables && prefixes > 100_000 {
                continue;
            }
            let rounds = if choice == ActuationChoice::Routes && prefixes > 10_000 { 3 } else { 21 };
            let measured = failovers(choice, family, prefixes, rounds)
                .with_context(|| format!("{prefixes} prefixes by {name}"))?;
            let mut moved_ms: Vec<f64> = measured.moved_ns.iter().map(|ns| *ns as f64 / 1e6).collect();
            let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
            let title = format!("{prefixes} {version} by {name}");
            let promised = choice != ActuationChoice::Routes;
            table.add(PART, title, promised.then_some(target), &mut moved_ms);
        }
    }
    for (name, choice, target) in
        [("routes", ActuationChoice::Routes, None), ("nexthop", ActuationChoice::Nexthop, Some(0.0))]
    {
        let moved = flows_moved(choice).with_context(|| format!("flows by {name}"))?;
        table.add(FLOWS, format!("moved although their link stays, by {name}"), target, &mut [moved * 100.0]);
    }
    Ok(())
}
