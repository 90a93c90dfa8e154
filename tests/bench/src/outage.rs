//! For how long traffic is out when a link breaks, router to router, both directions, and where that time goes.

use std::{cell::Cell, time::Duration};

use anyhow::Result;
use link_watcher_lab::{
    Direction, End, Moment, meter::Report, metrics, monotonic_ns, routers::TwoRouters, setup::Setup, status::flaps,
    trial::Trial,
};

use crate::{rig::Rig, stack::Stack, table::Table};

const PART: &str = "Outage, ms, three cables, both directions";
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
    let mut stacks = Vec::new();
    for interval_ms in INTERVALS_MS {
        let trial = start(rig, interval_ms)?;
        let detection_ms = (interval_ms * 3) as f64;
        let target = if interval_ms == 1 { FASTEST_MS } else { detection_ms };
        let name = format!("silent cut, {interval_ms} ms x 3");
        let mut stack = Stack::begin(&trial)?;
        let mut outages = series(&trial, cuts, |routers, _| routers.wires[0].cut(), &mut stack)?;
        table.add(PART, &name, Some(target), &mut outages);
        stacks.push((name, stack));
        if interval_ms == ONE_WAY_MS {
            let one_way =
                |routers: &TwoRouters, cut: u32| routers.wires[0].cut_one_way(Direction::BOTH[cut as usize % 2]);
            let name = format!("cut of one direction, {interval_ms} ms x 3");
            let mut stack = Stack::begin(&trial)?;
            let mut outages = series(&trial, cuts, one_way, &mut stack)?;
            table.add(PART, &name, Some(detection_ms), &mut outages);
            stacks.push((name, stack));
            let carrier = |routers: &TwoRouters, cut: u32| {
                routers.wires[0].cut_carrier([End::Client, End::Server][cut as usize % 2])
            };
            let mut stack = Stack::begin(&trial)?;
            let mut outages = series(&trial, cuts, carrier, &mut stack)?;
            table.add(PART, "carrier lost", Some(CARRIER_MS), &mut outages);
            stacks.push(("carrier lost".to_owned(), stack));
        }
        if interval_ms == 1 {
            quiet(&trial, table, quiet_s)?;
        }
    }
    for (name, stack) in stacks {
        stack.add_to(table, &name);
    }
    Ok(())
}

fn start(rig: &Rig, interval_ms: u64) -> Result<Trial> {
    let mut setup = Setup::cables(3, Duration::from_millis(interval_ms), 3);
    setup.hold_up = Duration::from_millis(200);
    setup.failback = Duration::from_millis(300);
    metrics::SETTINGS.clone_into(&mut setup.daemon_settings);
    Trial::start(rig.lab()?, setup, &rig.daemon, METER_RATE)
}

/// Breaks the first link again and again, at phases spread evenly over the interval; the outages, ms, of the directions that
/// were out.
fn series(
    trial: &Trial,
    cuts: u32,
    cut_it: impl Fn(&TwoRouters, u32) -> Result<Moment>,
    stack: &mut Stack,
) -> Result<Vec<f64>> {
    let interval_ns = trial.routers.setup.interval.as_nanos() as u64;
    let mut outages_ms = Vec::new();
    for cut in 0..cuts {
        // Probes leave at multiples of the interval.
        let phase_ns = interval_ns * u64::from(cut) / u64::from(cuts);
        let into_ns = monotonic_ns() % interval_ns;
        trial.routers.lab.pause(Duration::from_nanos((phase_ns + interval_ns - into_ns) % interval_ns))?;
        let second = &trial.routers.setup.links[1].name;
        let moment = Cell::new(None);
        let reports = trial.measure(second, |routers| cut_it(routers, cut).map(|when| moment.set(Some(when))))?;
        let out = reports.iter().filter(|report: &&Report| report.lost > 0);
        outages_ms.extend(out.map(|report| report.outage_ns as f64 / 1e6));
        if let Some(when) = moment.get() {
            stack.take(trial, when, &reports)?;
        }
        trial.repair()?;
    }
    stack.end(trial)?;
    Ok(outages_ms)
}

/// Lets nothing happen, and counts what the daemons make of it.
fn quiet(trial: &Trial, table: &mut Table, seconds: u64) -> Result<()> {
    let flaps = || -> Result<f64> {
        let daemons = [&trial.routers.client_daemon, &trial.routers.server_daemon];
        let sum =
            daemons.map(|daemon| daemon.status().map(|status| flaps(&status))).into_iter().sum::<Result<u64>>()?;
        Ok(sum as f64)
    };
    let before = flaps()?;
    trial.routers.lab.pause(Duration::from_secs(seconds))?;
    table.add(PART, format!("false downs in {seconds} quiet seconds, 1 ms x 3"), Some(0.0), &mut [flaps()? - before]);
    Ok(())
}
