//! Verdicts that wait for word of the other uplinks.
//!
//! Where the targets behind one uplink are silent, it is left for another one that has been heard since, or of which nothing is
//! overdue. Where all others are overdue as well, it may be the targets that are silent, or this process that was not run: then
//! nothing moves before the others are judged, too. Where the others have been silent with it and answer again, it gets a round
//! of its own to do so as well, and is not left while it answers.

use std::collections::BTreeSet;

use crate::{
    event::LinkId,
    health::{Degraded, Verdict},
    uplink::probe::UplinkReport,
};

/// How often is looked at what the others do meanwhile, ns.
const LOOK_NS: u64 = 25_000_000;
/// Rounds that a verdict waits at most, and no less than this, ns: the others are judged within a round, unless nobody runs
/// whoever judges.
const ROUNDS: u64 = 4;
const LEAST_NS: u64 = 2_000_000_000;

/// An uplink, as far as it is known while another one's verdict waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) link: LinkId,
    /// The latest verdict, told or not.
    pub(super) verdict: Option<Verdict>,
    /// End of its last good round, monotonic ns; 0: never.
    pub(super) last_good_ns: u64,
    /// Since when it has had no other rounds, monotonic ns.
    pub(super) good_since_ns: u64,
    /// From the begin of one round to the end of the next, ns.
    pub(super) round_ns: u64,
}

impl Known {
    /// Whether its targets answer, as far as was judged.
    fn answers(&self) -> bool {
        matches!(self.verdict, Some(verdict) if !is_silence(verdict))
    }

    /// Whether it answers, has been heard since the other one was or its next word is not overdue, and was not silent with it.
    fn was_good(&self, now_ns: u64, silent: &Waiting) -> bool {
        self.is_heard(now_ns, silent) && self.good_since_ns <= silent.report.last_good_ns
    }

    /// Likewise, or it was, and has answered again for so long that the other one should have done so, too.
    fn speaks(&self, now_ns: u64, silent: &Waiting) -> bool {
        self.was_good(now_ns, silent) || self.is_heard(now_ns, silent) && now_ns >= self.good_since_ns + silent.round_ns
    }

    fn is_heard(&self, now_ns: u64, silent: &Waiting) -> bool {
        let since = self.last_good_ns >= silent.report.last_good_ns + silent.round_ns;
        self.answers() && (since || now_ns < self.last_good_ns + self.round_ns)
    }
}

/// Whether the targets say nothing; what is known of the uplink otherwise needs no comparison.
const fn is_silence(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Down(_) | Verdict::Degraded(Degraded::OnlyReplies))
}

struct Waiting {
    report: UplinkReport,
    round_ns: u64,
    until_ns: u64,
}

/// Those that wait, at most one for each uplink.
#[derive(Default)]
pub(super) struct Held {
    waiting: Vec<Waiting>,
    /// Uplinks whose silence was told.
    told_silent: BTreeSet<LinkId>,
}

impl Held {
    /// Takes a verdict; what waits of the same uplink is out of date. `round_ns`: from the begin of one of its rounds to the end of
    /// the next.
    pub(super) fn take(&mut self, now_ns: u64, report: UplinkReport, round_ns: u64) {
        self.waiting.retain(|waiting| waiting.report.link != report.link);
        let until_ns = now_ns + (ROUNDS * round_ns).max(LEAST_NS);
        self.waiting.push(Waiting { report, round_ns, until_ns });
    }

    /// Those that need not wait any more, to be told together. `group_of`: all uplinks of its group.
    pub(super) fn ready(&mut self, now_ns: u64, group_of: impl Fn(LinkId) -> Vec<Known>) -> Vec<UplinkReport> {
        let silent = self.waiting.iter().map(|waiting| &waiting.report).filter(|report| is_silence(report.verdict));
        let silent: BTreeSet<LinkId> = silent.map(|report| report.link).collect();
        let waits = |waiting: &Waiting| {
            let (own, mut others): (Vec<_>, Vec<_>) =
                group_of(waiting.report.link).into_iter().partition(|known| known.link == waiting.report.link);
            let answers_again = own.iter().any(|own| own.last_good_ns > waiting.report.last_good_ns);
            // What is known to be silent, and neither waits nor was told, is on its way here.
            let told = |other: &Known| self.told_silent.contains(&other.link);
            others.retain(|other| {
                other.verdict.is_some() && !silent.contains(&other.link) && (other.answers() || !told(other))
            });
            is_silence(waiting.report.verdict)
                && now_ns < waiting.until_ns
                && !others.is_empty()
                && !others.iter().any(|other| {
                    if answers_again { other.was_good(now_ns, waiting) } else { other.speaks(now_ns, waiting) }
                })
        };
        let all = std::mem::take(&mut self.waiting);
        let (wait, ready): (Vec<_>, Vec<_>) = all.into_iter().partition(waits);
        self.waiting = wait;
        for report in ready.iter().map(|waiting| &waiting.report) {
            if is_silence(report.verdict) {
                self.told_silent.insert(report.link);
            } else {
                self.told_silent.remove(&report.link);
            }
        }
        ready.into_iter().map(|waiting| waiting.report).collect()
    }

    /// When to ask [`Held::ready`] again, ns; nothing: none waits.
    pub(super) fn deadline_ns(&self, now_ns: u64) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(now_ns + LOOK_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Down;

    const S: u64 = 1_000_000_000;
    /// An interval and a timeout.
    const ROUND: u64 = 2 * S;
    const DOWN: Verdict = Verdict::Down(Down { answered: 0, required: 1, rounds: 3 });

    fn report(link: u32, verdict: Verdict, last_good_ns: u64) -> UplinkReport {
        UplinkReport { link: LinkId(link), verdict, last_good_ns, last_failure: None }
    }

    fn known(link: u32, verdict: Verdict, last_good_ns: u64) -> Known {
        Known { link: LinkId(link), verdict: Some(verdict), last_good_ns, good_since_ns: 0, round_ns: ROUND }
    }

    /// Which are ready, where these are beside each.
    fn ready(held: &mut Held, now_ns: u64, all: &[Known]) -> Vec<u32> {
        held.ready(now_ns, |_| all.to_vec()).into_iter().map(|report| report.link.0).collect()
    }

    #[test]
    fn one_that_dies_beside_a_good_one_waits_for_nothing() {
        let mut held = Held::default();
        // Three rounds of one second were bad; the other one is in the midst of a round.
        held.take(14 * S, report(1, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 14 * S, &[known(1, DOWN, 10 * S), known(2, Verdict::Up, 13 * S)]), [1]);
        // One that is asked once a minute was good when it was asked last.
        held.take(14 * S, report(1, DOWN, 10 * S), ROUND);
        let slow = Known { round_ns: 61 * S, ..known(2, Verdict::Up, 5 * S) };
        assert_eq!(ready(&mut held, 14 * S, &[slow]), [1]);
        assert_eq!(held.deadline_ns(14 * S), None);
    }

    #[test]
    fn those_that_fall_silent_together_are_told_together_however_late_each_is_judged() {
        let mut held = Held::default();
        let mut all = [known(1, DOWN, 10 * S), known(2, Verdict::Up, 10 * S), known(3, Verdict::Up, 11 * S)];
        held.take(14 * S, report(1, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 14 * S, &all), [0; 0]);
        assert_eq!(held.deadline_ns(14 * S), Some(14 * S + LOOK_NS));
        all[1].verdict = Some(DOWN);
        held.take(15 * S, report(2, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 15 * S, &all), [0; 0], "the third is not judged yet");
        all[2].verdict = Some(DOWN);
        held.take(16 * S, report(3, DOWN, 11 * S), ROUND);
        assert_eq!(ready(&mut held, 16 * S, &all), [1, 2, 3]);
    }

    #[test]
    fn one_is_left_as_soon_as_another_is_heard_and_what_is_out_of_date_is_not_told() {
        let mut held = Held::default();
        let mut all = [known(1, DOWN, 10 * S), known(2, Verdict::Up, 10 * S)];
        held.take(14 * S, report(1, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 14 * S, &all), [0; 0]);
        all[1].last_good_ns = 14 * S;
        assert_eq!(ready(&mut held, 14 * S + LOOK_NS, &all), [1]);
        held.take(20 * S, report(1, DOWN, 16 * S), ROUND);
        held.take(21 * S, report(1, Verdict::Up, 21 * S), ROUND);
        let told = held.ready(21 * S, |_| vec![known(2, Verdict::Up, 0)]);
        assert_eq!(told, [report(1, Verdict::Up, 21 * S)]);
    }

    #[test]
    fn one_that_was_silent_a_round_longer_than_the_others_is_not_left() {
        let mut held = Held::default();
        let mut all = [known(1, DOWN, 10 * S), known(2, Verdict::Up, 10 * S)];
        // The other one missed two rounds, this one three; the targets are back.
        (all[1].good_since_ns, all[1].last_good_ns) = (14 * S, 14 * S);
        held.take(14 * S, report(1, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 14 * S + LOOK_NS, &all), [0; 0], "its own next round is not over");
        // It answers, though not for long enough to be up.
        all[0].last_good_ns = 15 * S;
        all[1].last_good_ns = 16 * S;
        assert_eq!(ready(&mut held, 16 * S + LOOK_NS, &all), [0; 0]);
        held.take(18 * S, report(1, Verdict::Up, 18 * S), ROUND);
        assert_eq!(ready(&mut held, 18 * S, &all), [1]);
        // Where it does not, the others' word counts after a round.
        held.take(24 * S, report(1, DOWN, 20 * S), ROUND);
        (all[1].good_since_ns, all[1].last_good_ns) = (24 * S, 25 * S);
        assert_eq!(ready(&mut held, 26 * S - 1, &all), [0; 0]);
        assert_eq!(ready(&mut held, 26 * S, &all), [1]);
    }

    #[test]
    fn it_waits_no_longer_than_some_rounds_and_not_where_nobody_is_left() {
        let mut held = Held::default();
        held.take(14 * S, report(1, DOWN, 10 * S), ROUND);
        let overdue = [known(2, Verdict::Up, 10 * S)];
        assert_eq!(ready(&mut held, 14 * S + ROUNDS * ROUND - 1, &overdue), [0; 0]);
        assert_eq!(ready(&mut held, 14 * S + ROUNDS * ROUND, &overdue), [1]);
        for others in [&[][..], &[Known { verdict: None, ..known(2, DOWN, 0) }]] {
            held.take(30 * S, report(1, DOWN, 10 * S), ROUND);
            assert_eq!(ready(&mut held, 30 * S, others), [1], "{others:?}");
        }
        held.take(30 * S, report(1, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 30 * S, &[known(2, DOWN, 0)]), [0; 0], "its verdict is on its way");
        held.take(30 * S, report(2, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 30 * S, &[known(1, DOWN, 0), known(2, DOWN, 0)]), [1, 2]);
        held.take(31 * S, report(1, DOWN, 10 * S), ROUND);
        assert_eq!(ready(&mut held, 31 * S, &[known(2, DOWN, 0)]), [1], "its silence was told before");
    }
}
