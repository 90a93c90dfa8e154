//! Health of one uplink, told from the answers of its targets. No clock, no sockets: it says what to send
//! ([`Action::Send`]), is told what came of it ([`Event`]), and gives the verdict ([`Action::Tell`]).
//!
//! **Rounds.** At each interval a round begins. It is good as soon as `required` different targets have answered, and bad if
//! they have not within `timeout`. As many targets as are required are asked at once, in shuffled order. One that fails, or has
//! been silent for longer than patience (twice the usual round trip, within bounds), is replaced by the next one at once; its
//! answer still counts until its own timeout. When all have been asked, those without an answer are asked once more. A target
//! that left a probe unanswered comes last for some rounds. So one dead target neither fails a round nor delays most of them.
//!
//! **Verdict.** The first good round after the start is `Up`. `fall` bad rounds in a row are `Down`, at most `fall` intervals
//! and one timeout after the last good moment; then `rise` good rounds in a row are `Up` again.
//!
//! **Thresholds.** Loss, round trip and jitter are measured for each target over its share of the last `window` rounds. The
//! uplink's figures are those of the `required`-th best target: a target that is dead, far or throttled makes no loss, delay
//! or jitter of the uplink's as long as enough others are good. Beyond a threshold the uplink is `Degraded`, until for `rise`
//! good rounds in a row round trip and jitter were at most 7/8 of it, and loss at most half of it.
//!
//! **Passive evidence.** Going down, an uplink whose counter of replies to established connections still grew within the last
//! `fall` rounds is `Degraded` instead, and `Down` when that has stopped for as long.
//!
//! **Own lateness** costs its own length. Whoever calls late may not have read what has come: before it is judged there is one
//! more turn for that. Whoever was away for longer than the timeout may have missed answers altogether: the round is forgotten
//! and begun anew, once until the next good one, so that a machine that is always late still notices a dead uplink.

mod flaky;
mod limits;
mod round;
mod target;
mod verdict;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    flaky::is_flaky,
    limits::{Degraded, Limits},
    target::TargetFigures,
    verdict::{Down, Figures, Verdict},
};
pub(crate) use self::{limits::Shares, window::Window};
use self::{
    round::{InFlight, Round},
    window::{Measure, best},
};
/// Probes that a target must have had before its figures count against a threshold.
const LEAST_PROBES: usize = 10;

/// A turn for what waits to be read, ns.
const TURN_NS: u64 = 1_000_000;

/// A share in parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(pub u32);

/// What is measured, and against what. Times in ns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// How many targets there are, at least 1.
    pub targets: usize,
    /// Targets that must answer in one round, 1 to `targets`.
    pub required: usize,
    /// From the beginning of one round to that of the next.
    pub interval_ns: u64,
    /// How long an answer may take, at most `interval_ns`.
    pub timeout_ns: u64,
    /// Bad rounds in a row until it is down, at least 1.
    pub fall: u32,
    /// Good rounds in a row until it is up again, at least 1.
    pub rise: u32,
    /// Greatest loss, round trip and jitter.
    pub limits: Limits,
    /// Rounds over which these are measured, at least 1.
    pub window: usize,
}

impl Spec {
    /// Puts into range what the configuration's checks rule out.
    fn in_range(self) -> Self {
        let interval_ns = self.interval_ns.max(1);
        Self {
            required: self.required.clamp(1, self.targets.max(1)),
            interval_ns,
            timeout_ns: self.timeout_ns.clamp(1, interval_ns),
            fall: self.fall.max(1),
            rise: self.rise.max(1),
            window: self.window.max(1),
            ..self
        }
    }
}

/// Number of one probe, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeId(pub u64);

/// What shall be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Asks a target, at once.
    Send {
        /// Under this number.
        probe: ProbeId,
        /// Index of the target.
        target: usize,
    },
    /// The verdict has changed.
    Tell {
        /// To this.
        verdict: Verdict,
        /// End of the last good round, ns; 0: never.
        last_good_ns: u64,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The target answered.
    Answered {
        /// Probe.
        probe: ProbeId,
        /// Round trip, ns.
        rtt_ns: u64,
    },
    /// The probe has left and will not be answered: refused, or answered wrongly.
    Failed(ProbeId),
    /// The probe could not leave: no address, no route. That is no loss.
    Unsent(ProbeId),
    /// So many replies to established connections have come in by this uplink. Only wanted while
    /// [`Health::wants_replies`].
    Replies(u64),
    /// The uplink has a new interface or address: what is in flight proves nothing.
    Moved,
    /// The uplink's interface or address was gone: whatever the verdict was, it has to rise again. The daemon knows already.
    Lost,
}

/// State of one uplink.
#[derive(Debug)]
pub struct Health {
    spec: Spec,
    random: fastrand::Rng,
    verdict: Option<Verdict>,
    targets: Vec<Target>,
    round: Option<Round>,
    /// Rounds begun so far.
    rounds: u64,
    /// When the first probe left that was answered after it was down, ns: earlier ones say nothing about afterwards.
    alive_from_ns: Option<u64>,
    next_round_ns: u64,
    in_flight: BTreeMap<ProbeId, InFlight>,
    probes: u64,
    good_in_a_row: u32,
    bad_in_a_row: u32,
    /// Good rounds in a row with every figure well within its threshold.
    calm_in_a_row: u32,
    forgotten_in_a_row: u32,
    /// Before this nothing is judged, ns: what has come while nobody looked is being read.
    reading_until_ns: u64,
    /// Since the last good round one was forgotten because of lateness.
    forgiven: bool,
    replies: Replies,
    figures: Measure,
    last_good_ns: u64,
    good_since_ns: u64,
    sent: u64,
    received: u64,
    /// When the next call of `poll` is due.
    due_ns: u64,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Target {
    window: Window,
    /// Up to this round it comes last.
    suspect_until: u64,
    /// It is flaky by itself.
    flaky: bool,
}

/// Replies to established connections, seen while targets are silent.
#[derive(Debug, Default)]
struct Replies {
    last: Option<u64>,
    /// The counter at the end of the last bad round.
    mark: Option<u64>,
    /// Rounds since it last grew; nothing: it did not.
    quiet: Option<u32>,
}

impl Health {
    /// An uplink that is probed from now on; `seed` decides the order of the targets.
    pub fn new(spec: Spec, seed: u64, now_ns: u64) -> Self {
        let spec = spec.in_range();
        // The targets share the probes of a round.
        let capacity = (spec.window * spec.required).div_ceil(spec.targets.max(1));
        let targets = (0..spec.targets)
            .map(|_| Target { window: Window::new(capacity), suspect_until: 0, flaky: false })
            .collect();
        Self {
            spec,
            random: fastrand::Rng::with_seed(seed),
            verdict: None,
            targets,
            round: None,
            rounds: 0,
            alive_from_ns: Some(0),
            next_round_ns: now_ns,
            in_flight: BTreeMap::new(),
            probes: 0,
            good_in_a_row: 0,
            bad_in_a_row: 0,
            calm_in_a_row: 0,
            forgotten_in_a_row: 0,
            reading_until_ns: 0,
            forgiven: false,
            replies: Replies::default(),
            figures: Measure::default(),
            last_good_ns: 0,
            good_since_ns: 0,
            sent: 0,
            received: 0,
            due_ns: now_ns,
            actions: Vec::new(),
        }
    }

    /// Takes in what happened. Call [`Health::poll`] afterwards.
    pub fn handle(&mut self, now_ns: u64, event: Event) {
        self.mind_lateness(now_ns);
        match event {
            Event::Answered { probe, rtt_ns } => {
                let Some(in_flight) = self.in_flight.remove(&probe) else { return };
                self.received += 1;
                self.alive_from_ns.get_or_insert(in_flight.sent_ns);
                let target = &mut self.targets[in_flight.target];
                target.suspect_until = 0;
                target.window.push(Some(rtt_ns));
                if let Some(asked) = self.asked_now(&in_flight) {
                    asked.answered = true;
                }
            }
            Event::Failed(probe) => {
                if let Some(in_flight) = self.in_flight.remove(&probe) {
                    self.lost(&in_flight);
                }
            }
            Event::Unsent(probe) => {
                let Some(in_flight) = self.in_flight.remove(&probe) else { return };
                self.sent -= 1;
                self.unanswered(&in_flight);
            }
            Event::Replies(counter) => {
                self.replies.mark.get_or_insert(counter);
                self.replies.last = Some(counter);
            }
            Event::Moved => self.forget(now_ns),
            Event::Lost => self.lose(now_ns),
        }
    }

    /// Does what is due, and gives what shall be done. Call it at [`Health::next_deadline`] and after every event.
    pub fn poll(&mut self, now_ns: u64) -> Vec<Action> {
        self.mind_lateness(now_ns);
        if now_ns < self.reading_until_ns {
            if self.round.as_ref().is_some_and(|round| round.answered() >= self.spec.required) {
                self.conclude(now_ns, None);
            }
            self.due_ns = self.reading_until_ns;
            return std::mem::take(&mut self.actions);
        }
        while let Some(entry) = self.in_flight.first_entry()
            && now_ns >= entry.get().sent_ns + self.spec.timeout_ns
        {
            let in_flight = entry.remove();
            self.lost(&in_flight);
        }
        if let Some(round) = &self.round {
            let answered = round.answered();
            if answered >= self.spec.required {
                self.conclude(now_ns, None);
            } else if now_ns >= round.start_ns + self.spec.timeout_ns {
                self.conclude(now_ns, Some(answered));
            }
        }
        if self.round.is_none() && now_ns >= self.next_round_ns {
            self.begin(now_ns);
        }
        self.ask(now_ns);
        self.due_ns = self.deadline(now_ns);
        std::mem::take(&mut self.actions)
    }

    /// When [`Health::poll`] is next due, ns.
    pub const fn next_deadline(&self) -> u64 {
        self.due_ns
    }

    /// Targets are silent: [`Event::Replies`] is wanted before each [`Health::poll`].
    pub fn wants_replies(&self) -> bool {
        let asked_for_more = |round: &Round| round.asked.iter().filter(|asked| asked.asks > 0).count();
        self.bad_in_a_row > 0 || self.round.as_ref().is_some_and(|round| asked_for_more(round) > self.spec.required)
    }

    /// When the round ends that may change the verdict, ns; nothing: no round does soon, as far as is known. What befalls several
    /// uplinks at a time is to be judged together.
    pub fn verdict_due_ns(&self) -> Option<u64> {
        let begun = self.round.as_ref();
        let changes = match self.verdict {
            Some(Verdict::Down(_)) => self.good_in_a_row > 0 && self.good_in_a_row + 1 >= self.spec.rise,
            _ if self.wants_replies() => self.bad_in_a_row + 1 >= self.spec.fall,
            Some(Verdict::Degraded(_)) => self.calm_in_a_row > 0 && self.calm_in_a_row + 1 >= self.spec.rise,
            _ => false,
        };
        // A quarter of the timeout is lateness that is no lateness.
        let timeout_ns = self.spec.timeout_ns + self.spec.timeout_ns / 4;
        changes.then(|| begun.map_or(self.next_round_ns, |round| round.start_ns) + timeout_ns)
    }

    /// For status and metrics.
    pub fn figures(&self) -> Figures {
        let unknown = if matches!(self.verdict, Some(Verdict::Down(_))) { Share(1_000_000) } else { Share(0) };
        Figures {
            verdict: self.verdict,
            rtt_ns: self.figures.rtt_ns,
            jitter_ns: self.figures.jitter_ns,
            loss: self.figures.loss.unwrap_or(unknown),
            sent: self.sent,
            received: self.received,
            last_good_ns: self.last_good_ns,
            good_since_ns: self.good_since_ns,
        }
    }

    /// Whether it is called so late that answers may wait unread, or were never possible.
    fn mind_lateness(&mut self, now_ns: u64) {
        let late_ns = now_ns.saturating_sub(self.due_ns);
        if late_ns <= self.spec.timeout_ns / 4 {
            return;
        }
        if late_ns > self.spec.timeout_ns && !std::mem::replace(&mut self.forgiven, true) {
            self.forget(now_ns);
            self.due_ns = now_ns;
        } else if self.reading_until_ns < self.due_ns {
            self.reading_until_ns = now_ns + TURN_NS;
            self.due_ns = self.reading_until_ns;
        }
    }

    /// Its interface or address was gone: only good rounds from now on speak for it.
    fn lose(&mut self, now_ns: u64) {
        self.in_flight.clear();
        self.round = None;
        self.next_round_ns = now_ns;
        (self.good_in_a_row, self.bad_in_a_row, self.calm_in_a_row) = (0, 0, 0);
        self.replies = Replies::default();
        self.alive_from_ns = None;
        self.targets.iter_mut().for_each(|target| target.window.clear());
        let down = Down { answered: 0, required: self.spec.required, rounds: 0 };
        self.verdict = self.verdict.map(|_| Verdict::Down(down));
    }

    /// Forgets what is in flight and the round that is not decided, and begins anew.
    fn forget(&mut self, now_ns: u64) {
        if self.in_flight.is_empty() && self.round.is_none() || self.forgotten_in_a_row >= self.spec.fall {
            return;
        }
        self.forgotten_in_a_row += 1;
        self.in_flight.clear();
        self.round = None;
        self.next_round_ns = now_ns;
    }

    fn deadline(&self, now_ns: u64) -> u64 {
        let patience_ns = self.patience_ns();
        let round_ns = match &self.round {
            None => self.next_round_ns,
            Some(round) => {
                let impatient = round.asked.iter().filter(|asked| asked.asks > 0 && !asked.answered);
                let impatient = impatient.map(|asked| asked.last_ns + patience_ns).filter(|&at_ns| at_ns > now_ns);
                impatient.fold(round.start_ns + self.spec.timeout_ns, u64::min)
            }
        };
        // Sent in the order of their numbers: the first is the oldest.
        let oldest = self.in_flight.values().next();
        oldest.map_or(round_ns, |in_flight| round_ns.min(in_flight.sent_ns + self.spec.timeout_ns))
    }
}
