//! One program with one set of timers, at work in the lab.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use link_watcher::bpf::RunTimes;
use link_watcher_lab::{
    Direction, End,
    meter::{Meter, Report},
    monotonic_ns,
    routers::TwoRouters,
    service::Service,
    setup::Setup,
};

use super::{ENDS, Program, Timers, accounts::Spent, links};
use crate::rig::Rig;

/// Links between the two routers.
const LINKS: usize = 3;
/// Packets of the meter a second, a direction: what an outage is measured in.
const METER_RATE: u32 = 4000;
/// Traffic has recovered when every packet has passed for so long.
const STEADY: Duration = Duration::from_millis(150);
/// The longest that starting may take, recovering, and using a mended link again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Spans over which the processor time is taken, each so long.
const SPANS: usize = 3;
const SPAN: Duration = Duration::from_secs(2);
/// For how long the processors are kept busy.
pub(crate) const BUSY: Duration = Duration::from_secs(15);

/// The routers with the program at both, and traffic.
pub(crate) struct Round {
    /// The traffic. The first fields: these end before the namespaces that they are in.
    meter: Meter,
    services: [Vec<Service>; 2],
    program: &'static dyn Program,
    pub(crate) routers: TwoRouters,
}

impl Round {
    /// Starts everything and waits until all links are up and the first carries the traffic.
    pub(crate) fn start(rig: &Rig, program: &'static dyn Program, timers: Timers) -> Result<Self> {
        let mut setup = Setup::cables(LINKS, Duration::from_millis(timers.interval_ms), timers.multiplier);
        setup.hold_up = Duration::from_millis(200);
        setup.failback = Duration::from_millis(300);
        let routers = TwoRouters::build_in(rig.lab()?, setup, &rig.daemon)?;
        let services = program.start(&routers, timers)?;
        let round = Self { meter: routers.meter(METER_RATE)?, services, program, routers };
        round.wait_normal()?;
        Ok(round)
    }

    /// By the programs' own account, of each session: whether it is up, and how often it has gone down.
    fn sessions(&self) -> BTreeMap<(usize, String), (bool, u64)> {
        let mut sessions = BTreeMap::new();
        for (end, services) in self.services.iter().enumerate() {
            for log in services.iter().map(Service::log) {
                for heard in log.lines().filter_map(|line| self.program.heard(line)) {
                    let (up, downs): &mut (bool, u64) =
                        sessions.entry((end, heard.session.to_owned())).or_insert((false, 0));
                    *downs += u64::from(*up && !heard.up);
                    *up = heard.up;
                }
            }
        }
        sessions
    }

    fn downs(&self) -> f64 {
        self.sessions().values().map(|(_, downs)| downs).sum::<u64>() as f64
    }

    /// Runs `meanwhile`, in which no link is cut; how often a session went down all the same.
    pub(crate) fn false_downs<T>(&self, meanwhile: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
        let before = self.downs();
        let done = meanwhile()?;
        Ok((self.downs() - before, done))
    }

    fn wait_normal(&self) -> Result<()> {
        let mut up = 0;
        let waited =
            self.routers.lab.wait_until("the first of three live links to carry the traffic", PATIENCE, || {
                self.services.iter().flatten().try_for_each(Service::check)?;
                up = self.sessions().values().filter(|(up, _)| *up).count();
                Ok((up == ENDS.len() * LINKS && self.first_carries()?).then_some(()))
            });
        waited.with_context(|| format!("{up} of {} sessions are up", ENDS.len() * LINKS))?;
        self.wait_steady(monotonic_ns())
    }

    /// Whether both routers send to the hosts behind the other by the first link.
    fn first_carries(&self) -> Result<bool> {
        for ((end, _), beyond) in ENDS.into_iter().zip(["203.0.113.10", "10.20.20.10"]) {
            // Fails where there is no route at all yet.
            let route = self.routers.daemon(end).namespace().command(&["ip", "route", "get", beyond], "");
            let Some(first) = links(&self.routers, end).next() else { return Ok(false) };
            if !route.is_ok_and(|route| route.contains(&format!(" dev {} ", first.interface))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn wait_steady(&self, since_ns: u64) -> Result<()> {
        self.meter.wait_steady(&self.routers.lab, since_ns, STEADY, PATIENCE)
    }

    /// The longest outage of either direction since then, ms.
    pub(crate) fn longest_outage_ms(&self, since_ns: u64) -> f64 {
        self.reports(since_ns).map(|report| report.outage_ns as f64 / 1e6).into_iter().fold(0.0, f64::max)
    }

    fn reports(&self, since_ns: u64) -> [Report; 2] {
        Direction::BOTH.map(|direction| self.meter.report(direction, since_ns))
    }

    /// Cuts the first link again and again, at phases spread evenly over the interval; the outages, ms, of the directions
    /// that were out. Traffic that has not recovered when patience ends counts as out until then.
    pub(crate) fn outages_ms(&self, cuts: u32) -> Result<Vec<f64>> {
        let interval_ns = self.routers.setup.interval.as_nanos() as u64;
        let first = &self.routers.wires[0];
        let mut outages_ms = Vec::new();
        for cut in 0..cuts {
            let phase_ns = interval_ns * u64::from(cut) / u64::from(cuts);
            let into_ns = monotonic_ns() % interval_ns;
            self.routers.lab.pause(Duration::from_nanos((phase_ns + interval_ns - into_ns) % interval_ns))?;
            let since_ns = monotonic_ns();
            first.cut()?;
            let _ = self.wait_steady(monotonic_ns());
            let out = self.reports(since_ns).into_iter().filter(|report| report.lost > 0);
            outages_ms.extend(out.map(|report| report.outage_ns as f64 / 1e6));
            first.mend()?;
            self.wait_normal().with_context(|| format!("after cut {} was mended", cut + 1))?;
        }
        Ok(outages_ms)
    }

    /// Keeps every processor busy twice over, and counts what is taken for dead.
    pub(crate) fn busy(&self) -> Result<f64> {
        let spinners = 2 * thread::available_parallelism().map_or(1, usize::from);
        let stop = AtomicBool::new(false);
        let (downs, ()) = self.false_downs(|| {
            thread::scope(|scope| {
                for _ in 0..spinners {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                    });
                }
                let paused = self.routers.lab.pause(BUSY);
                stop.store(true, Ordering::Relaxed);
                paused
            })
        })?;
        Ok(downs)
    }

    /// What one end takes of a core for each session, %, at either end and over several spans.
    pub(crate) fn cost_percent(&self) -> Result<Vec<f64>> {
        let clock = RunTimes::start().context("cannot start the kernel's clock for BPF programs")?;
        let mut percent = Vec::new();
        for _ in 0..SPANS {
            let look = || -> Result<Vec<Spent>> { ENDS.iter().map(|(end, _)| self.spent(*end, &clock)).collect() };
            let (from_ns, before) = (monotonic_ns(), look()?);
            self.routers.lab.pause(SPAN)?;
            let (after, ns) = (look()?, (monotonic_ns() - from_ns) as f64);
            percent.extend(after.into_iter().zip(before).map(|(after, before)| {
                let spent = after.since(before);
                (spent.processes_ns + spent.kernel_ns) / ns * 100.0 / LINKS as f64
            }));
        }
        Ok(percent)
    }

    /// What one end has spent so far.
    pub(crate) fn spent(&self, end: End, clock: &RunTimes) -> Result<Spent> {
        let number = usize::from(end == End::Server);
        Spent::look(&self.services[number], self.routers.daemon(end).namespace(), clock)
    }
}
