//! A long life of two routers at work: something happens, on a machine that is strained somehow, again and again. Each promise
//! has its figure at the end, and what is worse than promised fails.
//!
//! `LINK_WATCHER_SOAK_MINUTES` says for how long, `LINK_WATCHER_SEED` what happens; `cargo xtask soak` sets both.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use link_watcher_lab::daemon::binary;
use link_watcher_lab::forge::Forge;
use link_watcher_lab::history::number;
use link_watcher_lab::routers::{CLIENT_GROUP, PORT};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::flaps;
use link_watcher_lab::trial::Trial;
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

/// Minutes where nobody says.
const MINUTES: u64 = 2;
const INTERVAL: Duration = Duration::from_millis(10);
/// Packets of traffic a second, each way.
const RATE_PER_S: u32 = 1000;
/// What the processors are strained by runs above everything but the daemon's probing thread.
const BELOW_OURS: u8 = 5;
/// Forged packets a second.
const FLOOD_PER_S: u64 = 50_000;
/// How long nothing happens where it is to be quiet.
const QUIET: Duration = Duration::from_secs(2);
/// Beyond the detection time, intervals: the first probe that is lost may leave one later, and so may the last that counts.
const BEYOND_DETECTION: u32 = 2;
/// What a strained machine may add, intervals: threads of normal priority decide and write the routes.
const STRAINED: u32 = 40;

/// Lines of a daemon's log that a turn may make, a start among them.
const LINES_A_TURN: u64 = 60;

/// What is hard on the machine meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strain {
    None,
    /// More threads that never wait than there are processors.
    Busy,
    /// One for each processor, under SCHED_FIFO, below the daemon's priority.
    Fifo,
    /// Forged packets on the first link.
    Flood,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Nothing,
    Cut,
    CutOneWay,
    Unplugged,
    Killed,
    Restarted,
    Drained,
    Reloaded,
}

const STRAINS: [Strain; 4] = [Strain::None, Strain::Busy, Strain::Fifo, Strain::Flood];
const HAPPENINGS: [Happening; 8] = [
    Happening::Nothing,
    Happening::Cut,
    Happening::CutOneWay,
    Happening::Unplugged,
    Happening::Killed,
    Happening::Restarted,
    Happening::Drained,
    Happening::Reloaded,
];

impl Happening {
    /// Most intervals that traffic may be out.
    fn allowance(self, strain: Strain, multiplier: u32) -> u32 {
        let detection = multiplier + BEYOND_DETECTION;
        match (self, strain) {
            (Self::Cut | Self::CutOneWay | Self::Unplugged, Strain::None) => detection,
            (Self::Cut | Self::CutOneWay | Self::Unplugged, _) => detection + STRAINED,
            _ => 0,
        }
    }
}

/// Runs `work` on a strained machine.
fn strained<T>(trial: &Trial, strain: Strain, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = AtomicBool::new(false);
    let processors = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let spin = |priority: Option<u8>| {
            if let Some(priority) = priority.and_then(|priority| priority.try_into().ok()) {
                let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
                let crossplatform = ThreadPriority::Crossplatform(priority);
                // Without that right it is one more of the others.
                let _ = set_thread_priority_and_policy(thread_native_id(), crossplatform, fifo);
            }
            while !stop.load(Ordering::Relaxed) {
                // A fifth of the time is left, or nobody could tell the thread to end.
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_millis(40) {
                    std::hint::spin_loop();
                }
                thread::sleep(Duration::from_millis(if priority.is_some() { 10 } else { 0 }));
            }
        };
        match strain {
            Strain::None => {}
            Strain::Busy => (0..2 * processors).for_each(|_| drop(scope.spawn(move || spin(None)))),
            Strain::Fifo => (0..processors).for_each(|_| drop(scope.spawn(move || spin(Some(BELOW_OURS))))),
            Strain::Flood => drop(scope.spawn(|| flood(trial, &stop))),
        }
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

/// Packets as a stranger makes them, until it is enough; what cannot be sent is not sent.
fn flood(trial: &Trial, stop: &AtomicBool) -> Option<()> {
    let forge = Forge::on(&trial.routers.wires[0]).ok()?;
    let ours = |frame: &link_watcher_lab::frame::Frame| frame.ports().is_some_and(|(_, to)| to == PORT);
    let genuine = forge.capture(Direction::ToServer, 1, Duration::from_secs(1), ours).ok()?;
    let genuine = genuine.first()?;
    let junk: Vec<_> = (0..64_u8).map(|byte| genuine.with_payload(&[byte; 80])).collect::<Option<_>>()?;
    while !stop.load(Ordering::Relaxed) {
        forge.flood(Direction::ToServer, &junk, FLOOD_PER_S, Duration::from_millis(100)).ok()?;
    }
    Some(())
}

/// Outages of one cause, ms, and how many of them were longer than promised.
#[derive(Default)]
struct Figures {
    outages_ms: Vec<f64>,
    broken: Vec<String>,
}

struct Soak {
    trial: Trial,
    rng: Rng,
    figures: BTreeMap<(Happening, Strain), Figures>,
    false_downs: u64,
    turns: u64,
    /// Least and most memory of a daemon that has run for a while, kB.
    resident_kb: (u64, u64),
}

impl Soak {
    fn turn(&mut self) -> Result<()> {
        self.turns += 1;
        let strain = *self.rng.choice(&STRAINS).context("strains")?;
        let happening = *self.rng.choice(&HAPPENINGS).context("happenings")?;
        let end = if self.rng.bool() { End::Client } else { End::Server };
        let before = self.flaps()?;
        let (trial, rng) = (&self.trial, &mut self.rng);
        let reports = strained(trial, strain, || happen(trial, happening, end, rng))
            .with_context(|| format!("{happening:?} at the {end:?}, {strain:?}"))?;
        let worst_ns = reports.iter().map(|report| report.outage_ns).max().unwrap_or_default();
        let allowed = INTERVAL * happening.allowance(strain, trial.routers.setup.multiplier);
        let figures = self.figures.entry((happening, strain)).or_default();
        figures.outages_ms.push(worst_ns as f64 / 1e6);
        if u128::from(worst_ns) > allowed.as_nanos() {
            figures
                .broken
                .push(format!("{happening:?} at the {end:?}, {strain:?}: out for {} ms", worst_ns / 1_000_000));
        }
        // A daemon that was started again counts from nothing.
        if matches!(happening, Happening::Nothing | Happening::Drained | Happening::Reloaded) {
            self.false_downs += self.flaps()?.saturating_sub(before);
        }
        self.trial.repair()?;
        self.look_at_memory()
    }

    fn flaps(&self) -> Result<u64> {
        [End::Client, End::Server]
            .map(|end| self.trial.routers.daemon(end).status().map(|status| flaps(&status)))
            .into_iter()
            .sum()
    }

    fn look_at_memory(&mut self) -> Result<()> {
        for end in [End::Client, End::Server] {
            let daemon = self.trial.routers.daemon(end);
            let beyond = daemon.beyond_bounds(self.turns * LINES_A_TURN);
            ensure!(beyond.is_empty(), "{beyond}");
            let kb = daemon.resident_kb();
            self.resident_kb = (self.resident_kb.0.min(kb), self.resident_kb.1.max(kb));
        }
        Ok(())
    }

    fn print(&mut self) {
        println!(
            "\n{:<12} {:<8} {:>6} {:>10} {:>10} {:>10}",
            "what", "strain", "times", "median ms", "worst ms", "may be ms"
        );
        let multiplier = self.trial.routers.setup.multiplier;
        for ((happening, strain), figures) in &mut self.figures {
            let outages = &mut figures.outages_ms;
            outages.sort_by(f64::total_cmp);
            let may_be = INTERVAL * happening.allowance(*strain, multiplier);
            println!(
                "{:<12} {:<8} {:>6} {:>10.1} {:>10.1} {:>10}",
                format!("{happening:?}"),
                format!("{strain:?}"),
                outages.len(),
                outages[outages.len() / 2],
                outages[outages.len() - 1],
                may_be.as_millis()
            );
        }
        println!(
            "false downs: {}; memory of a daemon: {} to {} kB",
            self.false_downs, self.resident_kb.0, self.resident_kb.1
        );
    }
}

/// Lets it happen, and says what it cost.
fn happen(
    trial: &Trial,
    happening: Happening,
    end: End,
    rng: &mut Rng,
) -> Result<[link_watcher_lab::meter::Report; 2]> {
    let (first, second) = (trial.first().to_owned(), trial.routers.setup.links[1].name.clone());
    let wire = &trial.routers.wires[0];
    let daemon = trial.routers.daemon(end);
    let one_way = Direction::BOTH[usize::from(rng.bool())];
    trial.routers.lab.pause(Duration::from_millis(rng.u64(..100)))?;
    match happening {
        Happening::Nothing => trial.measure(&first, |routers| routers.lab.pause(QUIET)),
        Happening::Cut => trial.measure(&second, |_| wire.cut().map(drop)),
        Happening::CutOneWay => trial.measure(&second, |_| wire.cut_one_way(one_way).map(drop)),
        Happening::Unplugged => trial.measure(&second, |_| wire.cut_carrier(end).map(drop)),
        Happening::Killed => trial.measure(&first, |_| daemon.crash()),
        Happening::Restarted => trial.measure(&first, |_| daemon.restart()),
        Happening::Drained => {
            let client = &trial.routers.client_daemon;
            let out = trial.measure(&second, |_| client.command(&["drain", CLIENT_GROUP, &first]).map(drop))?;
            let back = trial.measure(&first, |_| client.command(&["undrain", CLIENT_GROUP, &first]).map(drop))?;
            Ok([0, 1].map(|at| if out[at].outage_ns > back[at].outage_ns { out[at] } else { back[at] }))
        }
        Happening::Reloaded => trial.measure(&first, |_| daemon.command(&["reload"]).map(drop)),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whatever_the_machine_suffers_each_promise_holds() {
    let minutes = number("LINK_WATCHER_SOAK_MINUTES").unwrap_or(MINUTES);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = number("LINK_WATCHER_SEED").unwrap_or(clock);
    println!("seed {seed}");
    let setup = Setup {
        hold_up: Duration::from_millis(200),
        failback: Duration::from_millis(300),
        ..Setup::cables(3, INTERVAL, 3)
    };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), RATE_PER_S).unwrap();
    let mut soak = Soak {
        trial,
        rng: Rng::with_seed(seed),
        figures: BTreeMap::new(),
        false_downs: 0,
        turns: 0,
        resident_kb: (u64::MAX, 0),
    };
    let until_ns = monotonic_ns() + minutes * 60 * 1_000_000_000;
    let mut ended = Ok(());
    while ended.is_ok() && monotonic_ns() < until_ns {
        ended = soak.turn();
    }
    soak.print();
    ended.unwrap();
    let broken: Vec<_> = soak.figures.values().flat_map(|figures| &figures.broken).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(soak.false_downs, 0);
}
