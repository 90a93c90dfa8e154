//! Where an outage goes: its parts, by the clock that the bench, the daemons and their kernel programs share.

use anyhow::{Context as _, Result};
use link_watcher::trace::Trace;
use link_watcher_lab::{
    Moment,
    daemon::Daemon,
    meter::Report,
    metrics,
    routers::{CLIENT_GROUP, SERVER_GROUP},
    trial::Trial,
};
use serde_json::Value;

use crate::table::Table;

const PART: &str = "Where an outage goes, ms, from the cut on, in the direction that was out longer";
/// What stands between one instant and the next.
const NAMES: [&str; 5] = [
    "cut to verdict due",
    "to the thread awake",
    "to decided",
    "to routes acknowledged",
    "to first packet on the new link",
];

/// The outages of one kind of cut, in parts.
#[derive(Default)]
pub(crate) struct Stack {
    /// Of each cut the parts, ms.
    cuts: Vec<[f64; NAMES.len()]>,
    /// Sum, s, and number of both daemons' failovers before the first cut.
    before: (f64, f64),
    /// And after the last.
    after: (f64, f64),
}

impl Stack {
    /// Begins a series of cuts.
    ///
    /// # Errors
    /// Where a daemon cannot be scraped.
    pub(crate) fn begin(trial: &Trial) -> Result<Self> {
        let now = failovers(trial)?;
        Ok(Self { before: now, after: now, ..Self::default() })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where a daemon cannot be scraped.
    pub(crate) fn end(&mut self, trial: &Trial) -> Result<()> {
        self.after = failovers(trial)?;
        Ok(())
    }

    /// Adds the cut that has just been measured. Of its two directions the one that was out longer counts, with the
    /// daemon that sends in it: the two heal independently, and the longer one is the outage of a conversation.
    ///
    /// # Errors
    /// Where the daemon does not answer, or says nothing of the move.
    pub(crate) fn take(&mut self, trial: &Trial, cut: Moment, reports: &[Report; 2]) -> Result<()> {
        let [to_server, to_client] = reports;
        let (report, daemon) = if to_server.outage_ns >= to_client.outage_ns {
            (to_server, &trial.routers.client_daemon)
        } else {
            (to_client, &trial.routers.server_daemon)
        };
        if report.lost > 0 {
            self.cuts.push(parts_ms(cut, &move_after(daemon, cut)?, report));
        }
        Ok(())
    }

    /// Adds the rows, and the sum of each cut's parts.
    pub(crate) fn add_to(&self, table: &mut Table, name: &str) {
        if self.cuts.is_empty() {
            return;
        }
        for (at, part) in NAMES.iter().enumerate() {
            let mut values: Vec<f64> = self.cuts.iter().map(|cut| cut[at]).collect();
            table.add(PART, format!("{name}: {part}"), None, &mut values);
        }
        let mut sums: Vec<f64> = self.cuts.iter().map(|cut| cut.iter().sum()).collect();
        table.add(PART, format!("{name}: all of it"), None, &mut sums);
        let (sum, count) = (self.after.0 - self.before.0, self.after.1 - self.before.1);
        if count > 0.0 {
            // From the last echo on, which left up to an interval before the cut; in both directions.
            table.add(PART, format!("{name}: by the daemons' histograms, mean"), None, &mut [sum / count * 1e3]);
        }
    }
}

/// Sum, s, and number of the failovers that both daemons have counted.
fn failovers(trial: &Trial) -> Result<(f64, f64)> {
    let (mut sum, mut count) = (0.0, 0.0);
    let ends = [(&trial.routers.client_daemon, CLIENT_GROUP), (&trial.routers.server_daemon, SERVER_GROUP)];
    for (daemon, group) in ends {
        let text = metrics::scrape(daemon)?;
        sum += metrics::value(&text, &format!("link_watcher_failover_seconds_sum{{group=\"{group}\"}}"))?;
        count += metrics::value(&text, &format!("link_watcher_failover_seconds_count{{group=\"{group}\"}}"))?;
    }
    Ok((sum, count))
}

/// The trace of the first move of traffic that stood in the kernel after the cut.
fn move_after(daemon: &Daemon, cut: Moment) -> Result<Trace> {
    let events = daemon.command(&["events", "--json"])?;
    let traces = events.lines().filter_map(|line| {
        let mut event: Value = serde_json::from_str(line).ok()?;
        serde_json::from_value::<Trace>(event["trace"].take()).ok()
    });
    let mut after = traces.filter(|trace| trace.routed_ns >= cut.before_ns);
    after.next().context("a daemon's events say nothing of the move that a cut must have caused")
}

/// The parts of one outage. Each instant lies between those around it: a packet that passed before the daemon had read
/// the kernel's acknowledgement ends the outage there, and so does the kernel where it leaves a dead link by itself.
fn parts_ms(cut: Moment, trace: &Trace, report: &Report) -> [f64; NAMES.len()] {
    let passed_ns = report.outage_from_ns + report.outage_ns;
    let mut from_ns = cut.after_ns.min(report.outage_from_ns);
    let noticed_ns = trace.woke_ns.or(trace.received_ns).unwrap_or(trace.decided_ns);
    [trace.due_ns.unwrap_or(noticed_ns), noticed_ns, trace.decided_ns, trace.routed_ns, passed_ns].map(|at_ns| {
        let at_ns = at_ns.min(passed_ns).max(from_ns);
        (at_ns - std::mem::replace(&mut from_ns, at_ns)) as f64 / 1e6
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Moment = Moment { before_ns: 90_000, after_ns: 100_000 };

    fn report(from_ns: u64, until_ns: u64) -> Report {
        Report { lost: 1, outage_from_ns: from_ns, outage_ns: until_ns - from_ns, ..Report::default() }
    }

    fn trace(routed_ns: u64) -> Trace {
        Trace {
            last_good_ns: Some(80_000),
            due_ns: Some(3_100_000),
            woke_ns: Some(3_200_000),
            received_ns: Some(3_250_000),
            decided_ns: 3_300_000,
            routed_ns,
        }
    }

    #[test]
    fn the_parts_sum_to_the_time_from_the_cut_to_the_first_packet() {
        let parts = parts_ms(CUT, &trace(3_500_000), &report(200_000, 3_600_000));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(parts.iter().zip([3.0, 0.1, 0.1, 0.2, 0.1]).all(|(a, b)| close(*a, b)), "{parts:?}");
        assert!(close(parts.iter().sum(), 3.5));
    }

    #[test]
    fn a_packet_before_the_acknowledgement_ends_it() {
        let parts = parts_ms(CUT, &trace(3_500_000), &report(95_000, 3_400_000));
        assert!(parts.iter().all(|part| *part >= 0.0) && parts[4] == 0.0, "{parts:?}");
        assert!((parts.iter().sum::<f64>() - 3.305).abs() < 1e-9, "from the first packet lost: {parts:?}");
    }
}
