//! For how long traffic is out when a link breaks, router to router, both directions, and where that time goes.

use std::time::Duration;

use anyhow::Result;
use link_watcher_tests::lab::{
    Direction, End, meter::Report, monotonic_ns, routers::TwoRouters, setup::Setup, trial::Trial,
};
use serde_json::Value;

use crate::{rig::Rig, table::Table};

const PART: &str = "Outage, ms, three cables, both directions";
const STEPS: &str = "Where an outage goes, ms";
/// Intervals of the silent cuts, ms; the multiplier is 3.
const INTERVALS_MS: [u64; 5] = [100, 10, 5, 3, 1];
/// Interval of one-way cuts and lost carriers, ms.
const ONE_WAY_MS: u64 = 10;
/// Most that one loss of the carrier shall cost, ms.
const CARRIER_MS: f64 = 1.5;
/// What a median at 1 ms × 3 may take, ms: waking up counts there.
const FASTEST_MS: f64 = 4.0;
/// Packets of the meter a second, a direction: what an outage is measured in.
const METER_RATE: u32 = 4000;

pub(crate) fn run(rig: &Rig, table: &mut Table, cuts: u32, quiet_s: u64) -> Result<()> {
    let mut all_steps = Vec::new();
    for interval_ms in INTERVALS_MS {
        let trial = start(rig, interval_ms)?;
        let detection_ms = (interval_ms * 3) as f64;
        let target = if interval_ms == 1 { FASTEST_MS } else { detection_ms };
        let name = format!("silent cut, {interval_ms} ms x 3");
        let mut steps = Steps::default();
        let mut outages = series(&trial, cuts, |routers, _| routers.wires[0].cut().map(|_| ()), &mut steps)?;
        table.add(PART, &name, Some(target), &mut outages);
        all_steps.push((name, steps));
        if interval_ms == ONE_WAY_MS {
            let mut steps = Steps::default();
            let one_way = |routers: &TwoRouters, cut: u32| {
                routers.wires[0].cut_one_way(Direction::BOTH[cut as usize % 2]).map(|_| ())
            };
            let mut outages = series(&trial, cuts, one_way, &mut steps)?;
            table.add(PART, format!("cut of one direction, {interval_ms} ms x 3"), Some(detection_ms), &mut outages);
            let carrier = |routers: &TwoRouters, cut: u32| {
                routers.wires[0].cut_carrier([End::Client, End::Server][cut as usize % 2]).map(|_| ())
            };
            let mut steps = Steps::default();
            let mut outages = series(&trial, cuts, carrier, &mut steps)?;
            table.add(PART, "carrier lost", Some(CARRIER_MS), &mut outages);
            all_steps.push(("carrier lost".to_owned(), steps));
        }
        if interval_ms == 1 {
            quiet(&trial, table, quiet_s)?;
        }
    }
    for (name, steps) in all_steps {
        steps.add_to(table, &name);
    }
    Ok(())
}

fn start(rig: &Rig, interval_ms: u64) -> Result<Trial> {
    let mut setup = Setup::cables(3, Duration::from_millis(interval_ms), 3);
    setup.hold_up = Duration::from_millis(200);
    setup.failback = Duration::from_millis(300);
    Trial::start(rig.lab()?, setup, &rig.daemon, METER_RATE)
}

/// Breaks the first link again and again, at phases spread evenly over the interval; the outages, ms, of the directions that
/// were out.
fn series(
    trial: &Trial,
    cuts: u32,
    cut_it: impl Fn(&TwoRouters, u32) -> Result<()>,
    steps: &mut Steps,
) -> Result<Vec<f64>> {
    let interval_ns = trial.routers.setup.interval.as_nanos() as u64;
    let mut outages_ms = Vec::new();
    for cut in 0..cuts {
        // Probes leave at multiples of the interval.
        let phase_ns = interval_ns * u64::from(cut) / u64::from(cuts);
        let into_ns = monotonic_ns() % interval_ns;
        trial.routers.lab.pause(Duration::from_nanos((phase_ns + interval_ns - into_ns) % interval_ns))?;
        let second = &trial.routers.setup.links[1].name;
        let reports = trial.measure(second, |routers| cut_it(routers, cut))?;
        let out: Vec<f64> = reports
            .iter()
            .filter(|report: &&Report| report.lost > 0)
            .map(|report| report.outage_ns as f64 / 1e6)
            .collect();
        steps.take(trial, out.iter().copied().fold(0.0, f64::max))?;
        outages_ms.extend(out);
        trial.repair()?;
    }
    Ok(outages_ms)
}

/// By the daemon's own account: from the last good packet to the decision, and on to the kernel's acknowledgement of the
/// new routes.
#[derive(Default)]
struct Steps {
    detect_ms: Vec<f64>,
    routes_ms: Vec<f64>,
    /// What the longer of the two directions' outages has besides.
    rest_ms: Vec<f64>,
}

impl Steps {
    /// Of the cut that has just been measured.
    fn take(&mut self, trial: &Trial, outage_ms: f64) -> Result<()> {
        let events = trial.routers.client_daemon.command(&["events", "--json"])?;
        let events = events.lines().rev().map(serde_json::from_str::<Value>);
        let moved = events.flatten().find(|event| event["what"] == "active-changed");
        let moved = moved.as_ref();
        let of = |key: &str| moved.and_then(|event| event[key].as_f64());
        if let (Some(detect_ms), Some(took_ms)) = (of("detect_ms"), of("took_ms")) {
            self.detect_ms.push(detect_ms);
            self.routes_ms.push(took_ms);
            self.rest_ms.push(outage_ms - detect_ms - took_ms);
        }
        Ok(())
    }

    fn add_to(mut self, table: &mut Table, name: &str) {
        if !self.detect_ms.is_empty() {
            table.add(STEPS, format!("{name}: last echo to decision"), None, &mut self.detect_ms);
            table.add(STEPS, format!("{name}: decision to routes"), None, &mut self.routes_ms);
            table.add(STEPS, format!("{name}: outage without both"), None, &mut self.rest_ms);
        }
    }
}

/// Lets nothing happen, and counts what the daemons make of it.
fn quiet(trial: &Trial, table: &mut Table, seconds: u64) -> Result<()> {
    let flaps = || -> Result<f64> {
        let mut sum = 0;
        for daemon in [&trial.routers.client_daemon, &trial.routers.server_daemon] {
            let status = daemon.status()?;
            let groups = status["groups"].as_array().into_iter().flatten();
            let links = groups.flat_map(|group| group["links"].as_array().into_iter().flatten());
            sum += links.filter_map(|link| link["flaps"].as_u64()).sum::<u64>();
        }
        Ok(sum as f64)
    };
    let before = flaps()?;
    trial.routers.lab.pause(Duration::from_secs(seconds))?;
    table.add(PART, format!("false downs in {seconds} quiet seconds, 1 ms x 3"), Some(0.0), &mut [flaps()? - before]);
    Ok(())
}
