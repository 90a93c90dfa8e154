//! A round: which targets are asked in it, which come next where some are silent, and what has become of each probe.

use super::{Action, Health, ProbeId, Verdict};

/// How often one target is asked in one round.
pub(super) const ASKS_A_ROUND: u32 = 2;
/// Rounds for which a target comes last after a probe without answer.
const SUSPECT_ROUNDS: u64 = 10;

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) target: usize,
    pub(super) sent_ns: u64,
    round: u64,
}

/// A round that is not decided.
#[derive(Debug)]
pub(super) struct Round {
    number: u64,
    pub(super) start_ns: u64,
    /// In the order in which they are asked.
    pub(super) asked: Vec<Asked>,
}

/// A target in a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    target: usize,
    pub(super) asks: u32,
    pub(super) last_ns: u64,
    failed: bool,
    pub(super) answered: bool,
}

impl Asked {
    /// It may still answer as quickly as usual.
    const fn may_answer_soon(&self, now_ns: u64, patience_ns: u64) -> bool {
        self.asks > 0 && !self.answered && !self.failed && now_ns < self.last_ns + patience_ns
    }

    const fn may_be_asked(&self, now_ns: u64, patience_ns: u64) -> bool {
        !self.answered && (self.asks == 0 || self.asks < ASKS_A_ROUND && now_ns >= self.last_ns + patience_ns)
    }
}

impl Round {
    pub(super) fn answered(&self) -> usize {
        self.asked.iter().filter(|asked| asked.answered).count()
    }

    fn find(&mut self, target: usize) -> Option<&mut Asked> {
        self.asked.iter_mut().find(|asked| asked.target == target)
    }
}

impl Health {
    /// The part of its round that a probe has, if that round is not decided.
    pub(super) fn asked_now(&mut self, in_flight: &InFlight) -> Option<&mut Asked> {
        self.round.as_mut().filter(|round| round.number == in_flight.round)?.find(in_flight.target)
    }

    pub(super) fn unanswered(&mut self, in_flight: &InFlight) {
        self.targets[in_flight.target].suspect_until = self.rounds + SUSPECT_ROUNDS;
        if let Some(asked) = self.asked_now(in_flight) {
            asked.failed = true;
        }
    }

    pub(super) fn lost(&mut self, in_flight: &InFlight) {
        // An outage is told by its bad rounds. It must not be held against the uplink once more, as loss, after its end.
        let works = matches!(self.verdict, Some(Verdict::Up | Verdict::Degraded(_))) || self.good_in_a_row > 0;
        // Nor must a probe from then that runs out only now.
        if works && self.alive_from_ns.is_some_and(|from_ns| in_flight.sent_ns >= from_ns) {
            self.targets[in_flight.target].window.push(None);
        }
        self.unanswered(in_flight);
    }

    pub(super) fn begin(&mut self, now_ns: u64) {
        self.rounds += 1;
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        self.random.shuffle(&mut order);
        // Stable: it stays shuffled among the equal.
        order.sort_by_key(|&target| self.targets[target].suspect_until >= self.rounds);
        let asked =
            order.into_iter().map(|target| Asked { target, asks: 0, last_ns: 0, failed: false, answered: false });
        self.round = Some(Round { number: self.rounds, start_ns: now_ns, asked: asked.collect() });
        // Rounds keep their grid, as long as they are punctual.
        let on_grid_ns = self.next_round_ns + self.spec.interval_ns;
        let late = now_ns > self.next_round_ns + self.spec.timeout_ns / 4;
        self.next_round_ns = if late { now_ns + self.spec.interval_ns } else { on_grid_ns.max(now_ns + 1) };
    }

    /// Asks as many targets as are needed for `required` answers, counting on those that may still answer soon.
    pub(super) fn ask(&mut self, now_ns: u64) {
        let patience_ns = self.patience_ns();
        let Some(round) = &mut self.round else { return };
        loop {
            let counts = |asked: &&Asked| asked.answered || asked.may_answer_soon(now_ns, patience_ns);
            if round.asked.iter().filter(counts).count() >= self.spec.required {
                return;
            }
            // Who was not asked yet comes first, else in the order of the round.
            let candidates = round.asked.iter_mut().filter(|asked| asked.may_be_asked(now_ns, patience_ns));
            let Some(next) = candidates.min_by_key(|asked| asked.asks) else { return };
            (next.asks, next.last_ns, next.failed) = (next.asks + 1, now_ns, false);
            let probe = ProbeId(self.probes);
            self.probes += 1;
            self.sent += 1;
            self.in_flight.insert(probe, InFlight { target: next.target, sent_ns: now_ns, round: round.number });
            self.actions.push(Action::Send { probe, target: next.target });
        }
    }

    /// How long a target may be silent before the next one is asked, ns.
    pub(super) fn patience_ns(&self) -> u64 {
        let timeout_ns = self.spec.timeout_ns;
        let usual_ns = self.figures.rtt_ns.map_or(timeout_ns / 4, |rtt_ns| rtt_ns.saturating_mul(2));
        usual_ns.clamp(timeout_ns / 8, timeout_ns / 2)
    }
}
