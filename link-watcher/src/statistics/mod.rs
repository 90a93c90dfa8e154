//! How links were, over the runs of the daemon: the pure sums of the core, the files where they are kept, and what people are
//! shown of them.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

pub use self::files::{Files, Kept, Writer, date, day_of};
pub use link_watcher_core::statistics::{
    Archive, Day, DayRecord, Failovers, Figures, GroupRecord, Histogram, MAX_DAYS, Measured, Now, Period, Recorder,
    STEP_S, Step, Steps,
};

use crate::{clock, control::EventRecord, event::LinkVerdict, state::FileError, status::Snapshot};

/// The sums of this run and of those before, for all who note or show them. Nobody who decides ever waits for it.
#[derive(Debug)]
pub struct Statistics {
    recorder: Mutex<Recorder<Files>>,
    files: Files,
    /// Why they do not outlive a restart.
    problem: Mutex<Option<String>>,
}

/// The time by both clocks.
fn now() -> Now {
    Now { unix_ms: clock::unix_ms(), monotonic_ns: clock::now_ns() }
}

/// Today, in UTC.
pub fn today() -> Day {
    Step::of(clock::unix_ms()).day()
}

impl Statistics {
    /// Goes on with what earlier runs kept below this state directory. What cannot be read is said, and begins anew.
    pub fn load(directory: &Path) -> Self {
        let files = Files::below(directory);
        let recorder = Recorder::new(files.clone(), files.steps(), now());
        Self { recorder: Mutex::new(recorder), files, problem: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Recorder<Files>> {
        // Sums that miss the part over which somebody panicked are better than none.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something that has happened just now.
    pub fn event(&self, event: &EventRecord) {
        let verdict = match event.what.as_str() {
            "link-up" => LinkVerdict::Up,
            "link-down" => LinkVerdict::Down,
            "link-degraded" => LinkVerdict::Degraded,
            "link-dampened" => LinkVerdict::Dampened,
            "active-changed" => {
                if let Some(outage_ns) = event.trace.and_then(|trace| trace.outage_ns()) {
                    let left: Vec<String> =
                        event.from.iter().filter(|link| !event.to.contains(link)).cloned().collect();
                    self.lock().failed_over(now(), &event.group, &left, outage_ns);
                }
                return;
            }
            _ => return,
        };
        if let Some(link) = &event.link {
            let after_good_ms = event.detect_ms.unwrap_or_default().max(0.0) as u64;
            self.lock().changed(now(), &event.group, link, verdict, after_good_ms);
        }
    }

    /// Notes how all links of the configuration were found at `taken_ns` of the monotonic clock.
    pub fn measured(&self, taken_ns: u64, found: &[Measured]) {
        self.lock().measured(now(), taken_ns, found);
    }

    /// What is to be kept now.
    pub fn to_keep(&self, last: bool) -> Kept {
        let mut recorder = self.lock();
        recorder.advance(now());
        Kept { days: recorder.days().to_vec(), step: recorder.step(), steps: recorder.steps(), last }
    }

    /// What writes it, on a thread of its own.
    pub fn writer(&self) -> Writer {
        Writer::new(self.files.clone())
    }

    /// Why they do not outlive a restart, where they do not.
    pub fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Puts them into a status.
    pub fn fill(&self, snapshot: &mut Snapshot) {
        let mut recorder = self.lock();
        recorder.advance(now());
        for group in &mut snapshot.groups {
            let failovers = recorder.failovers(&group.name);
            (group.failovers_today, group.worst_failover_today_ms) = (failovers.count, failovers.worst_ms());
            for link in &mut group.links {
                link.statistics = recorder.figures(&group.name, &link.name);
            }
        }
        drop(recorder);
        snapshot.statistics_problem.clone_from(&self.problem.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Each link since the start, by the names of group and link.
    pub fn runs(&self) -> BTreeMap<(String, String), Period> {
        let mut recorder = self.lock();
        recorder.advance(now());
        recorder.runs()
    }

    /// The last day in steps.
    pub fn last_day(&self) -> LastDay {
        let mut recorder = self.lock();
        recorder.advance(now());
        LastDay::new(&recorder.steps(), recorder.step())
    }

    /// The days of which something is known, from this one on, at most [`MAX_DAYS`].
    pub fn days(&self, since: Day) -> Vec<Day> {
        let recorder = self.lock();
        let in_memory = recorder.days().iter().filter(|(_, record)| !record.groups.is_empty()).map(|(day, _)| *day);
        let mut days: BTreeSet<Day> = in_memory.collect();
        drop(recorder);
        days.extend(self.files.days());
        days.into_iter().filter(|day| *day >= since).collect()
    }

    /// What is known of a day. It may wait for the disk.
    ///
    /// # Errors
    ///
    /// Where its file cannot be read.
    pub fn day(&self, day: Day) -> Result<DayRecord, FileError> {
        let mut recorder = self.lock();
        recorder.advance(now());
        if let Some((_, record)) = recorder.days().iter().find(|(known, _)| *known == day) {
            return Ok(record.clone());
        }
        drop(recorder);
        Ok(self.files.read(day)?.unwrap_or_default())
    }
}

/// The last day in steps, as `/history.json` has it: short, for it is asked for every minute.
#[derive(Debug, Serialize)]
pub struct LastDay {
    /// Length of a step, s.
    step_s: u64,
    /// When the step begins that is not over yet, seconds since 1970.
    now_s: u64,
    /// What the numbers of a step are.
    fields: [&'static str; 11],
    /// By group and link, the oldest first.
    groups: BTreeMap<String, BTreeMap<String, Vec<Numbers>>>,
}

/// A step, in the order of [`FIELDS`].
type Numbers = (u64, f64, f64, f64, u64, u64, u64, Option<f64>, Option<f64>, Option<f64>, Option<f64>);

const FIELDS: [&str; 11] = [
    "begins_s",
    "up_s",
    "degraded_s",
    "down_s",
    "outages",
    "sent",
    "lost",
    "rtt_p10_ms",
    "rtt_median_ms",
    "rtt_p90_ms",
    "worst_failover_ms",
];

impl LastDay {
    fn new(steps: &Steps, now: Step) -> Self {
        let numbers = |(step, period): (&Step, &Period)| -> Numbers {
            let figures = period.figures();
            let rtt_ms = |share| period.rtt.quantile(share).map(|ns| (ns as f64 / 1e3).round() / 1e3);
            (
                step.begins_s(),
                period.up_ms as f64 / 1e3,
                figures.degraded_s,
                figures.outage_s,
                period.outages,
                figures.sent,
                figures.lost,
                rtt_ms(0.1),
                rtt_ms(0.5),
                rtt_ms(0.9),
                figures.worst_failover_ms,
            )
        };
        // What a clock that was set back has left in the future is nobody's last day.
        let link = |steps: &BTreeMap<Step, Period>| steps.range(..=now).map(numbers).collect();
        let groups = steps
            .iter()
            .map(|(group, links)| {
                let links = links.iter().map(|(name, steps)| (name.clone(), link(steps))).collect();
                (group.clone(), links)
            })
            .collect();
        Self { step_s: STEP_S, now_s: now.begins_s(), fields: FIELDS, groups }
    }
}
