//! What happens, put into sums.

use std::collections::{BTreeMap, BTreeSet};

use super::{Day, DayRecord, Failovers, MAX_LINKS, Period, STEP_S, STEPS_A_DAY, State, Step, Steps};
use crate::{event::LinkVerdict, status::StatisticsSnapshot};

/// Steps that a link has at most: a day's, and as many that a clock that was set back has left in the future.
const MAX_STEPS: usize = 2 * STEPS_A_DAY as usize;
/// Days in memory: today, and yesterday, until it is surely written.
const DAYS_IN_MEMORY: usize = 2;

/// The time by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What a clock on the wall shows, ms since 1970: it says to which day something belongs.
    pub unix_ms: u64,
    /// A clock that nobody sets, ns: it says how long something took.
    pub monotonic_ns: u64,
}

impl Now {
    fn step(self) -> Step {
        Step::of(self.unix_ms)
    }

    fn earlier(self, ms: u64) -> Self {
        Self {
            unix_ms: self.unix_ms.saturating_sub(ms),
            monotonic_ns: self.monotonic_ns.saturating_sub(ms.saturating_mul(1_000_000)),
        }
    }
}

/// A link of the configuration, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Group.
    pub group: String,
    /// Name.
    pub link: String,
    /// State.
    pub verdict: LinkVerdict,
    /// Probes sent so far.
    pub sent: u64,
    /// Answers received so far.
    pub received: u64,
    /// Last round trip, ns.
    pub rtt_ns: Option<u64>,
}

impl From<LinkVerdict> for Option<State> {
    fn from(verdict: LinkVerdict) -> Self {
        match verdict {
            LinkVerdict::Starting => None,
            LinkVerdict::Up => Some(State::Up),
            LinkVerdict::Degraded => Some(State::Degraded),
            LinkVerdict::Down | LinkVerdict::Dampened | LinkVerdict::Absent => Some(State::Down),
        }
    }
}

/// Where days are that are not in memory.
pub trait Archive {
    /// What was kept of a day; nothing where nothing was.
    fn day(&mut self, day: Day) -> Option<DayRecord>;
}

/// The sums.
#[derive(Debug)]
pub struct Recorder<A> {
    archive: A,
    links: BTreeMap<(String, String), Link>,
    /// In memory, the one that was touched last at the end.
    days: Vec<(Day, DayRecord)>,
    /// Up to here all is in the sums.
    now: Now,
}

#[derive(Debug, Default)]
struct Link {
    /// Nothing: it is not watched, or there is no verdict.
    state: Option<State>,
    /// When it changed last, ns.
    changed_ns: u64,
    /// Its counters, as they were found last.
    counted: Option<(u64, u64)>,
    /// How long the outage has been that goes on, ms, as far as it was watched.
    outage_ms: u64,
    /// One goes on.
    out: bool,
    steps: BTreeMap<Step, Period>,
    /// Since the start.
    run: Period,
}

impl<A: Archive> Recorder<A> {
    /// Goes on with what earlier runs have kept. Nothing is watched yet.
    pub fn new(archive: A, steps: Steps, now: Now) -> Self {
        let mut recorder = Self { archive, links: BTreeMap::new(), days: Vec::new(), now };
        for (group, links) in steps {
            for (link, mut steps) in links {
                tidy(&mut steps, now.step());
                if recorder.links.len() < MAX_LINKS && !steps.is_empty() {
                    recorder.links.insert((group.clone(), link), Link { steps, ..Link::default() });
                }
            }
        }
        // An outage may have begun yesterday.
        let today = now.step().day();
        recorder.open(Day(today.0.saturating_sub(1)));
        recorder.open(today);
        recorder
    }

    /// All links of the configuration, as they were found at `taken_ns` of the monotonic clock. What is told of a change since
    /// then is newer.
    pub fn measured(&mut self, now: Now, taken_ns: u64, found: &[Measured]) {
        self.advance(now);
        let named: BTreeSet<(&str, &str)> = found.iter().map(|one| (one.group.as_str(), one.link.as_str())).collect();
        for ((group, name), link) in &mut self.links {
            if !named.contains(&(group.as_str(), name.as_str())) {
                *link = Link { steps: std::mem::take(&mut link.steps), ..Link::default() };
            }
        }
        for one in found {
            let Some((open_ms, link)) = self.link(&one.group, &one.link) else { continue };
            if link.changed_ns <= taken_ns {
                link.become_state(one.verdict.into(), open_ms, now.monotonic_ns);
            }
            let (sent, received) = (one.sent, one.received);
            let (sent_before, received_before) = link.counted.replace((sent, received)).unwrap_or((sent, received));
            // They begin anew where the link does.
            let grown = match (sent.checked_sub(sent_before), received.checked_sub(received_before)) {
                (Some(sent), Some(received)) => (sent, received),
                _ => (0, 0),
            };
            let rtt_ns = one.rtt_ns.filter(|_| matches!(link.state, Some(State::Up | State::Degraded)));
            self.add(now.step(), &one.group, &one.link, |period| {
                period.sent = period.sent.saturating_add(grown.0);
                period.received = period.received.saturating_add(grown.1);
                if let Some(ns) = rtt_ns {
                    period.rtt.add(ns);
                }
            });
            self.count_outage(now, &one.group, &one.link);
        }
        let step = now.step();
        self.links.retain(|_, link| {
            tidy(&mut link.steps, step);
            link.is_watched() || !link.steps.is_empty()
        });
    }

    /// A link has changed its state; the last good packet was so long before, ms, where that says something.
    pub fn changed(&mut self, now: Now, group: &str, link: &str, verdict: LinkVerdict, after_good_ms: u64) {
        let state: Option<State> = verdict.into();
        if state == Some(State::Down) {
            // It was out since then, though nobody knew.
            let then = now.earlier(after_good_ms);
            if then.monotonic_ns > self.now.monotonic_ns {
                self.advance(then);
            }
        } else {
            self.advance(now);
        }
        if let Some((open_ms, link)) = self.link(group, link) {
            link.become_state(state, open_ms, now.monotonic_ns);
        }
        self.count_outage(self.now, group, link);
        self.advance(now);
    }

    /// A group's traffic has left these links because of a failure; so long after the last good packet the new routes stood, ns.
    pub fn failed_over(&mut self, now: Now, group: &str, left: &[String], outage_ns: u64) {
        self.advance(now);
        for link in left {
            self.add(now.step(), group, link, |period| period.failovers.add(outage_ns));
        }
        let day = self.open(now.step().day());
        if let Some(group) = day.groups.get_mut(group) {
            group.failovers.add(outage_ns);
        }
    }

    /// Brings the sums up to now.
    pub fn advance(&mut self, now: Now) {
        let mut ms = now.monotonic_ns.saturating_sub(self.now.monotonic_ns) / 1_000_000;
        // What is less than a millisecond is for the next time.
        let monotonic_ns = self.now.monotonic_ns + ms * 1_000_000;
        let watched: Vec<(String, String)> =
            self.links.iter().filter(|(_, link)| link.state.is_some()).map(|(names, _)| names.clone()).collect();
        // By the wall clock as it is now: one that was set only says where it belongs, and not how long it was.
        let mut from_ms = now.unix_ms.saturating_sub(ms);
        while ms > 0 {
            let step = Step::of(from_ms);
            let part_ms = ((step.begins_s() + STEP_S) * 1000 - from_ms).min(ms);
            for (group, link) in &watched {
                self.spend(step, group, link, part_ms);
            }
            (from_ms, ms) = (from_ms + part_ms, ms - part_ms);
        }
        self.now = Now { unix_ms: now.unix_ms, monotonic_ns };
    }

    fn spend(&mut self, step: Step, group: &str, name: &str, ms: u64) {
        let Some(link) = self.links.get_mut(&(group.to_owned(), name.to_owned())) else { return };
        let Some(state) = link.state else { return };
        if state == State::Down {
            link.outage_ms = link.outage_ms.saturating_add(ms);
        }
        let outage_ms = link.outage_ms;
        self.add(step, group, name, |period| period.spend(state, ms, outage_ms));
    }

    /// An outage that has begun is one, however long it will be.
    fn count_outage(&mut self, now: Now, group: &str, name: &str) {
        let Some(link) = self.links.get_mut(&(group.to_owned(), name.to_owned())) else { return };
        let out = link.state == Some(State::Down);
        let begun = out && !link.out;
        if link.state.is_some() {
            link.out = out;
        }
        if begun {
            self.add(now.step(), group, name, |period| period.outages += 1);
        }
    }

    /// Adds to all sums of a link that the step belongs to.
    fn add(&mut self, step: Step, group: &str, link: &str, add: impl Fn(&mut Period)) {
        if let Some(known) = self.links.get_mut(&(group.to_owned(), link.to_owned())) {
            add(&mut known.run);
            add(known.steps.entry(step).or_default());
        }
        if let Some(day) = self.open(step.day()).link(group, link) {
            add(day);
        }
    }

    /// A link, with the length of the outage in which earlier runs have left it, ms; nothing where there are too many.
    fn link(&mut self, group: &str, link: &str) -> Option<(u64, &mut Link)> {
        let names = (group.to_owned(), link.to_owned());
        if !self.links.contains_key(&names) && self.links.len() >= MAX_LINKS {
            // One that was renamed or removed is not worth a new one.
            let gone = self.links.iter().find(|(_, link)| !link.is_watched()).map(|(names, _)| names.clone())?;
            self.links.remove(&gone);
        }
        let newest = self.days.iter().filter_map(|(day, record)| Some((*day, record.find(group, link)?)));
        let open_ms = newest.max_by_key(|(day, _)| *day).map_or(0, |(_, period)| period.open_outage_ms);
        Some((open_ms, self.links.entry(names).or_default()))
    }

    /// A day, which is in memory from then on, and the last to leave it.
    fn open(&mut self, day: Day) -> &mut DayRecord {
        let known = self.days.iter().position(|(known, _)| *known == day).map(|at| self.days.remove(at));
        let record = known.map_or_else(|| self.archive.day(day).unwrap_or_default(), |(_, record)| record);
        self.days.push((day, record));
        self.days.drain(..self.days.len().saturating_sub(DAYS_IN_MEMORY));
        let last = self.days.len() - 1;
        &mut self.days[last].1
    }
}

impl<A> Recorder<A> {
    /// Where days are that are not in memory.
    pub const fn archive(&self) -> &A {
        &self.archive
    }

    /// The days in memory: what is to be kept.
    pub fn days(&self) -> &[(Day, DayRecord)] {
        &self.days
    }

    /// The step that it is in.
    pub fn step(&self) -> Step {
        self.now.step()
    }

    /// The last day in steps, of all links that have any: what is to be kept, and shown.
    pub fn steps(&self) -> Steps {
        let mut steps = Steps::new();
        for ((group, name), link) in self.links.iter().filter(|(_, link)| !link.steps.is_empty()) {
            steps.entry(group.clone()).or_default().insert(name.clone(), link.steps.clone());
        }
        steps
    }

    /// Of a link: today and the last 24 hours; nothing of one that is not known.
    pub fn figures(&self, group: &str, link: &str) -> Option<StatisticsSnapshot> {
        let known = self.links.get(&(group.to_owned(), link.to_owned()))?;
        let now = self.now.step();
        let day = self.today().and_then(|day| day.find(group, link));
        let mut last = Period::default();
        known.steps.range(first(now)..=now).for_each(|(_, step)| last.merge(step));
        Some(StatisticsSnapshot { today: day.map(Period::figures).unwrap_or_default(), last_24h: last.figures() })
    }

    /// Of each link since the start, by the names of group and link.
    pub fn runs(&self) -> BTreeMap<(String, String), Period> {
        self.links.iter().map(|(names, link)| (names.clone(), link.run.clone())).collect()
    }

    /// A group's failovers of today.
    pub fn failovers(&self, group: &str) -> Failovers {
        let group = self.today().and_then(|day| day.groups.get(group));
        group.map(|group| group.failovers).unwrap_or_default()
    }

    fn today(&self) -> Option<&DayRecord> {
        let today = self.now.step().day();
        self.days.iter().find(|(day, _)| *day == today).map(|(_, record)| record)
    }
}

impl Link {
    /// It is one of the configuration.
    const fn is_watched(&self) -> bool {
        self.counted.is_some()
    }

    /// An earlier run may have left it in an outage, of this length.
    fn become_state(&mut self, state: Option<State>, open_ms: u64, now_ns: u64) {
        if self.state == state {
            return;
        }
        let unwatched = self.state.is_none();
        match state {
            Some(State::Down) if unwatched && !self.out && open_ms > 0 => (self.out, self.outage_ms) = (true, open_ms),
            Some(State::Up | State::Degraded) => self.outage_ms = 0,
            _ => {}
        }
        (self.state, self.changed_ns) = (state, now_ns);
    }
}

/// The first step of the 24 hours that end with this one.
fn first(now: Step) -> Step {
    Step((now.0 + 1).saturating_sub(STEPS_A_DAY))
}

/// Forgets what is older than a day, and what is too much: what lies furthest in the future is what a wrong clock has made.
fn tidy(steps: &mut BTreeMap<Step, Period>, now: Step) {
    steps.retain(|step, _| *step >= first(now));
    while steps.len() > MAX_STEPS {
        steps.pop_last();
    }
}
