//! Very many prefixes announced by one router to the other while traffic runs.

use std::fs;

use anyhow::{Context, Result};

use super::routers::CLIENT_GROUP;
use super::trial::{PATIENCE, Trial};
use super::{End, monotonic_ns, status};

/// What the client needs in its configuration to accept the announced prefixes.
pub const ACCEPTS: &str = "accept = [\"172.16.0.0/12\"]\nmax-prefixes = 65536\n";

/// What became of an announcement.
#[derive(Clone, Copy, Debug)]
pub struct Announcement {
    /// From the reload's end until the client has the whole list, ns.
    pub announced_ns: u64,
    /// Until all of it is installed there, ns.
    pub installed_ns: u64,
    /// Links that either end took for dead meanwhile.
    pub false_downs: u64,
    /// Probes of either end without an answer meanwhile; those under way at the beginning and the end may count.
    pub unanswered: u64,
    /// Packets of the traffic that were lost meanwhile, both directions.
    pub lost: u64,
}

/// Has the server announce so many prefixes, at most 65,536, beside what it announces.
///
/// # Errors
/// When they are not installed in time.
pub fn announce(trial: &Trial, prefixes: usize) -> Result<Announcement> {
    let (client, server) = (trial.routers.daemon(End::Client), trial.routers.daemon(End::Server));
    let list: Vec<String> =
        (0..prefixes).map(|i| format!("\"172.{}.{}.{}/28\"", 16 + i / 4096, i / 16 % 256, i % 16 * 16)).collect();
    let text = fs::read_to_string(server.config_path()).context("the server's configuration")?;
    let text =
        text.replacen("role = \"server\"\n", &format!("role = \"server\"\nannounce = [{}]\n", list.join(",")), 1);
    fs::write(server.config_path(), text).context("the server's configuration")?;
    let before = counters(trial)?;
    let since_ns = monotonic_ns();
    server.command(&["reload"])?;
    let reloaded_ns = monotonic_ns();
    let said = format!("the peer announces {prefixes} prefixes");
    trial.routers.lab.wait_until("the announcement", PATIENCE, || Ok(client.log().contains(&said).then_some(())))?;
    let announced_ns = monotonic_ns() - reloaded_ns;
    trial.routers.lab.wait_until("the routes", PATIENCE, || {
        let status = client.status()?;
        let installed = status::group(&status, CLIENT_GROUP).and_then(|group| group["routes"]["installed"].as_u64());
        Ok(installed.filter(|installed| *installed > prefixes as u64).map(drop))
    })?;
    let installed_ns = monotonic_ns() - reloaded_ns;
    let (after, reports) = (counters(trial)?, trial.reports(since_ns));
    Ok(Announcement {
        announced_ns,
        installed_ns,
        false_downs: after.0 - before.0,
        unanswered: (after.1 - before.1).saturating_sub(after.2 - before.2),
        lost: reports.iter().map(|report| report.lost + report.duplicates).sum(),
    })
}

/// Flaps, probes sent and probes answered, of all links of both ends.
fn counters(trial: &Trial) -> Result<(u64, u64, u64)> {
    let mut sums = (0, 0, 0);
    for end in [End::Client, End::Server] {
        let status = trial.routers.daemon(end).status()?;
        let groups = status["groups"].as_array().into_iter().flatten();
        for link in groups.flat_map(|group| group["links"].as_array().into_iter().flatten()) {
            let count = |name: &str| link[name].as_u64().unwrap_or_default();
            sums = (sums.0 + count("flaps"), sums.1 + count("sent"), sums.2 + count("received"));
        }
    }
    Ok(sums)
}
