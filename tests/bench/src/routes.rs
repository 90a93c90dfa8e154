//! Failing over between two links by each back-end, and what becomes of flows: the part that the kernel's tables take.

mod kernel;

use std::time::Duration;

use anyhow::{Context as _, Result};
use link_watcher::route::{Family, RouteBackend};
use link_watcher_lab::{
    announcement::{ACCEPTS, announce},
    setup::Setup,
    trial::Trial,
};

use self::kernel::{failovers, flows_moved};
use crate::{rig::Rig, table::Table};

const PART: &str = "Moving prefixes to another link, in the kernel alone, ms";
const FLOWS: &str = "Flows over three links when one goes, % of all";
const ANNOUNCING: &str = "Announcing prefixes to a peer, three cables at 10 ms x 3";
/// Announced at a time, and how often.
const ANNOUNCED: usize = 10_000;
const ANNOUNCEMENTS: u32 = 3;
/// Packets of the traffic a second, a direction.
const METER_RATE: u32 = 2000;
/// Family, prefixes, and the target of a failover by tables, ms.
const CASES: [(Family, u32, f64); 5] = [
    (Family::V4, 1, 1.0),
    (Family::V4, 1_000, 1.0),
    (Family::V4, 100_000, 1.0),
    (Family::V4, 1_000_000, 1.0),
    (Family::V6, 100_000, 50.0),
];
const CHOICES: [(&str, RouteBackend); 3] =
    [("routes", RouteBackend::Routes), ("tables", RouteBackend::Tables), ("nexthop", RouteBackend::Nexthop)];

/// From the decision until traffic is led elsewhere; with more than 10,000 prefixes by routes only three times.
pub(crate) fn run(rig: &Rig, table: &mut Table) -> Result<()> {
    for (family, prefixes, target) in CASES {
        for (name, choice) in CHOICES {
            // A million routes in one table take some ten seconds a time: no more is to be learned there.
            if choice != RouteBackend::Tables && prefixes > 100_000 {
                continue;
            }
            let rounds = if choice == RouteBackend::Routes && prefixes > 10_000 { 3 } else { 21 };
            let moved_ns = failovers(choice, family, prefixes, rounds)
                .with_context(|| format!("{prefixes} prefixes by {name}"))?;
            let mut moved_ms: Vec<f64> = moved_ns.iter().map(|ns| *ns as f64 / 1e6).collect();
            let version = if family == Family::V4 { "IPv4" } else { "IPv6" };
            let title = format!("{prefixes} {version} by {name}");
            let promised = choice != RouteBackend::Routes;
            table.add(PART, title, promised.then_some(target), &mut moved_ms);
        }
    }
    for (name, choice, target) in
        [("routes", RouteBackend::Routes, None), ("nexthop", RouteBackend::Nexthop, Some(0.0))]
    {
        let moved = flows_moved(choice).with_context(|| format!("flows by {name}"))?;
        table.add(FLOWS, format!("moved although their link stays, by {name}"), target, &mut [moved * 100.0]);
    }
    announcements(rig, table)
}

/// From a reload of one daemon until the other one has everything in the kernel, keepalives going on.
fn announcements(rig: &Rig, table: &mut Table) -> Result<()> {
    let (mut announced_ms, mut installed_ms) = (Vec::new(), Vec::new());
    let (mut false_downs, mut unanswered, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ANNOUNCEMENTS {
        let settings = ACCEPTS.to_owned();
        let setup = Setup { client_settings: settings, ..Setup::cables(3, Duration::from_millis(10), 3) };
        let trial = Trial::start(rig.lab()?, setup, &rig.daemon, METER_RATE)?;
        let announcement = announce(&trial, ANNOUNCED)?;
        announced_ms.push(announcement.announced_ns as f64 / 1e6);
        installed_ms.push(announcement.installed_ns as f64 / 1e6);
        false_downs.push(announcement.false_downs as f64);
        unanswered.push(announcement.unanswered as f64);
        lost.push(announcement.lost as f64);
    }
    let name = |what: &str| format!("{ANNOUNCED} prefixes: {what}");
    table.add(ANNOUNCING, name("until the peer knows them, ms"), None, &mut announced_ms);
    table.add(ANNOUNCING, name("until they are installed, ms"), Some(1000.0), &mut installed_ms);
    table.add(ANNOUNCING, name("links taken for dead meanwhile"), Some(0.0), &mut false_downs);
    table.add(ANNOUNCING, name("keepalives without an answer meanwhile"), None, &mut unanswered);
    table.add(ANNOUNCING, name("packets of the traffic lost meanwhile"), Some(0.0), &mut lost);
    Ok(())
}
