//! From rounds to the verdict.

use std::fmt;

use super::{Action, Degraded, Health, LEAST_PROBES, Measure, Replies, Share, Shares, best};

/// What is thought of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Up,
    /// It works somehow, but is not to be used.
    Degraded(Degraded),
    /// It does not work.
    Down(Down),
}

/// Why an uplink is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down {
    /// Targets that answered in the last round.
    pub answered: usize,
    /// Targets that should have.
    pub required: usize,
    /// Bad rounds in a row.
    pub rounds: u32,
}

/// What is known of an uplink, for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The verdict; nothing yet at the start.
    pub verdict: Option<Verdict>,
    /// Median round trip, ns; nothing before the first answers.
    pub rtt_ns: Option<u64>,
    /// Mean difference of successive round trips, ns.
    pub jitter_ns: Option<u64>,
    /// Share of probes without answer.
    pub loss: Share,
    /// Probes sent.
    pub sent: u64,
    /// Answers received in time.
    pub received: u64,
    /// End of the last good round, ns; 0: never.
    pub last_good_ns: u64,
    /// End of the first of the good rounds in a row of which that is the last, ns.
    pub good_since_ns: u64,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, required, rounds } = self;
        write!(f, "{answered} of {required} required targets answered, {rounds} rounds in a row")
    }
}

impl Health {
    /// Ends the round: it was good, or bad with only so many answers.
    pub(super) fn conclude(&mut self, now_ns: u64, bad: Option<usize>) {
        self.round = None;
        self.forgotten_in_a_row = 0;
        if bad.is_some() {
            self.good_in_a_row = 0;
            self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
            self.weigh_replies();
        } else {
            self.bad_in_a_row = 0;
            if self.good_in_a_row == 0 {
                self.good_since_ns = now_ns;
            }
            self.good_in_a_row = self.good_in_a_row.saturating_add(1);
            self.last_good_ns = now_ns;
            self.replies = Replies::default();
            self.forgiven = false;
        }
        self.figures = self.best(1);
        let verdict = self.judge(bad);
        if bad.is_some() && matches!(verdict, Some(Verdict::Down(_))) {
            self.alive_from_ns = None;
        }
        if verdict != self.verdict {
            self.verdict = verdict;
            self.calm_in_a_row = 0;
            if let Some(Verdict::Down(_)) = verdict {
                self.targets.iter_mut().for_each(|target| target.window.clear());
                self.figures = self.best(1);
            }
            let last_good_ns = self.last_good_ns;
            self.actions.extend(verdict.map(|verdict| Action::Tell { verdict, last_good_ns }));
        }
    }

    fn judge(&mut self, bad: Option<usize>) -> Option<Verdict> {
        let fallen = bad.filter(|_| self.bad_in_a_row >= self.spec.fall);
        match (self.verdict, fallen) {
            (down @ Some(Verdict::Down(_)), _) => {
                if self.good_in_a_row < self.spec.rise {
                    return down;
                }
                Some(self.beyond(&Shares::ENTER).map_or(Verdict::Up, Verdict::Degraded))
            }
            (_, Some(answered)) => {
                if self.replies.quiet.is_some_and(|rounds| rounds < self.spec.fall) {
                    return Some(Verdict::Degraded(Degraded::OnlyReplies));
                }
                let rounds = self.bad_in_a_row;
                Some(Verdict::Down(Down { answered, required: self.spec.required, rounds }))
            }
            (None, None) => bad.is_none().then_some(Verdict::Up),
            (Some(Verdict::Up), None) => Some(self.beyond(&Shares::ENTER).map_or(Verdict::Up, Verdict::Degraded)),
            (Some(Verdict::Degraded(reason)), None) => {
                let beyond = self.beyond(&Shares::LEAVE);
                self.calm_in_a_row = if bad.is_none() && beyond.is_none() { self.calm_in_a_row + 1 } else { 0 };
                if self.calm_in_a_row >= self.spec.rise {
                    return Some(Verdict::Up);
                }
                // The first reason stays, with its figures: it is no news that they change.
                let outdated = reason == Degraded::OnlyReplies && bad.is_none();
                Some(Verdict::Degraded(beyond.filter(|_| outdated).unwrap_or(reason)))
            }
        }
    }

    /// Which figure is beyond these shares of its threshold.
    fn beyond(&self, shares: &Shares) -> Option<Degraded> {
        self.spec.limits.beyond(self.best(LEAST_PROBES), shares)
    }

    /// The figures of the best `required` targets; what is flaky by itself is none of them.
    fn best(&self, least: usize) -> Measure {
        let windows = || self.targets.iter().filter(|target| !target.flaky).map(|target| &target.window);
        best(windows(), self.spec.required.min(windows().count()), least)
    }

    /// At the end of a bad round: has the counter of replies grown since the last one?
    fn weigh_replies(&mut self) {
        let Replies { last, mark, quiet } = &mut self.replies;
        let grew = matches!((*last, *mark), (Some(last), Some(mark)) if last > mark);
        *quiet = if grew { Some(0) } else { quiet.map(|rounds| rounds.saturating_add(1)) };
        *mark = *last;
    }
}
