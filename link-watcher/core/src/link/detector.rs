//! Silence, told from one's own lateness.
//!
//! A link is silent when the newest probe that was answered left longer ago than `interval × multiplier` and the usual round
//! trip, *and* at least `multiplier − 1` probes (at least one) have each had about an interval to be answered since then. The
//! first condition asks when the probe left, not when its echo came: what somebody holds back on the way proves nothing
//! about now. The second one keeps a stalled prober from taking its own absence for the peer's: probes that it did not send
//! prove nothing.
//!
//! The usual round trip is the least of the last 30 to 60 s. Who delays packets can only raise a round trip, and a link whose
//! way has really become longer is taken as it is after that time; until then its echoes are *late*.
//!
//! With `multiplier − 1` probes lost in a row, the echo of the next one is due exactly at the end of the detection time. It
//! may take as much longer than the last one as round trips and the prober's own wake-ups have lately differed, at most half
//! an interval: else every such loss would be a false alarm whenever the network is a little slower than before.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::maps::LinkState;

use super::StackWatch;
use crate::event::Impairment;

/// A change of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Echoes arrive.
    Alive,
    /// No echo for the detection time.
    Silent {
        /// Last echo, ns; 0: never.
        last_good_ns: u64,
        /// From when on it was to be noticed, ns: what is later is the prober's own lateness.
        due_ns: u64,
    },
    /// The link answers, but not as a working one does.
    Impaired(Impairment),
}

/// What was last said of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Alive,
    /// Alive beneath the peer's network stack only.
    Beneath,
    Late,
    Silent,
}

/// Share of an interval that a probe must have had to be answered before it counts: a little less than all of it, because
/// the next one may leave a little early. In eighths.
const PATIENCE_EIGHTHS: u64 = 7;
/// The spread of round trips and of lateness is forgotten by this share with each sample: it remembers some hundreds
/// of probes.
const SPREAD_DECAY: u64 = 256;
/// Round trips until their spread is known; who knows little is patient.
const RTTS_KNOWN: u32 = 16;
/// Part of an interval that an echo may always be late.
const LEAST_SLACK: u64 = 32;
/// Probes over which loss is measured before the measure starts anew.
const LOSS_WINDOW: u64 = 64;
/// The usual round trip is the least of one to two of these, ns.
const USUAL_WINDOW_NS: u64 = 30_000_000_000;
/// No link's round trip is longer than this or the detection time, ns: more than any satellite's, a loaded one's included.
const LONGEST_RTT_NS: u64 = 2_000_000_000;

/// What the prober sees of a link's echoes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echoes {
    /// When the last one arrived, ns; 0: never.
    pub last_ns: u64,
    /// Highest sequence answered.
    pub highest: u64,
    /// When the probe with that sequence left, ns.
    pub newest_sent_ns: u64,
    /// Round trip of the last one, ns.
    pub rtt_ns: u64,
    /// How many so far.
    pub count: u64,
    /// How many more came too late to count.
    pub late: u64,
    /// When the last of these arrived, ns; 0: never.
    pub last_late_ns: u64,
    /// Its round trip, ns.
    pub late_rtt_ns: u64,
}

impl Echoes {
    /// As the verifier of packets has written them.
    pub fn of(state: &LinkState<AtomicU64>) -> Self {
        Self {
            last_ns: state.last_echo_ns.load(Relaxed),
            highest: state.newest_answered.load(Relaxed),
            newest_sent_ns: state.newest_sent_ns.load(Relaxed),
            rtt_ns: state.rtt_ns.load(Relaxed),
            count: state.echoes.load(Relaxed),
            late: state.late_echoes.load(Relaxed),
            last_late_ns: state.last_late_ns.load(Relaxed),
            late_rtt_ns: state.late_rtt_ns.load(Relaxed),
        }
    }
}

/// The least round trip lately.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    window: u64,
    /// In this window and in the one before; 0: none.
    least_ns: [u64; 2],
}

impl Usual {
    fn turn(&mut self, now_ns: u64) {
        let window = now_ns / USUAL_WINDOW_NS;
        if window != self.window {
            let former_ns = if window == self.window + 1 { self.least_ns[0] } else { 0 };
            *self = Self { window, least_ns: [0, former_ns] };
        }
    }

    fn take(&mut self, rtt_ns: u64) {
        let rtt_ns = rtt_ns.max(1);
        let [least_ns, _] = &mut self.least_ns;
        *least_ns = if *least_ns == 0 { rtt_ns } else { rtt_ns.min(*least_ns) };
    }

    fn ns(&self) -> Option<u64> {
        self.least_ns.into_iter().filter(|ns| *ns != 0).min()
    }
}

/// Detects silence of one link. Times are nanoseconds of one monotonic clock.
#[derive(Clone, Debug)]
pub struct Detector {
    interval_ns: u64,
    multiplier: u32,
    start_ns: u64,
    /// Nothing: none yet.
    verdict: Option<Verdict>,
    seen: Echoes,
    last_sent_ns: u64,
    last_sequence: u64,
    /// The last probe has had its time, or its echo.
    last_sent_counted: bool,
    /// Probes since the last echo that have had their time.
    unanswered: u32,
    /// When the last of these had had it, ns.
    unanswered_ns: u64,
    /// First probe after the prober was late, until it is answered: one more must go unanswered. Echoes of earlier probes,
    /// which waited meanwhile, prove nothing about now.
    stalled_at: Option<u64>,
    /// A probe whose round trip is being measured: sequence, send time. One at a time is enough, whatever the round trip.
    timed: Option<(u64, u64)>,
    usual: Usual,
    /// Late echoes in a row, none more than the detection time after the one before.
    late_run: u64,
    /// Whether it answers through the peer's network stack.
    pub stack: StackWatch,
    /// Range of the round trips lately, ns; zeros: none yet.
    rtt_low_ns: u64,
    rtt_high_ns: u64,
    rtts_measured: u32,
    /// How late probes have left lately, ns.
    lateness_ns: u64,
    due_total: u64,
    loss_from: (u64, u64),
    loss: f64,
}

impl Detector {
    /// A link that is probed from now on.
    pub fn new(interval_ns: u64, multiplier: u32, now_ns: u64) -> Self {
        Self {
            interval_ns,
            multiplier,
            start_ns: now_ns,
            verdict: None,
            seen: Echoes::default(),
            last_sent_ns: 0,
            last_sequence: 0,
            last_sent_counted: true,
            unanswered: 0,
            unanswered_ns: 0,
            stalled_at: None,
            timed: None,
            usual: Usual::default(),
            late_run: 0,
            stack: StackWatch::new(interval_ns),
            rtt_low_ns: 0,
            rtt_high_ns: 0,
            rtts_measured: 0,
            lateness_ns: 0,
            due_total: 0,
            loss_from: (0, 0),
            loss: 0.0,
        }
    }

    /// A probe has left.
    pub fn on_sent(&mut self, now_ns: u64, sequence: u64) {
        self.count_last(now_ns);
        // In punctual operation the last probe of the detection time has had the round trip to be answered, though not
        // a whole interval; after a stall not even that is sure.
        if self.last_sent_ns != 0 {
            let late_ns = (now_ns - self.last_sent_ns).saturating_sub(self.interval_ns);
            if late_ns > self.interval_ns / 2 {
                self.stalled_at = Some(sequence);
            }
            self.lateness_ns = late_ns.max(self.lateness_ns - self.lateness_ns / SPREAD_DECAY);
        }
        self.timed = self.timed.or(Some((sequence, now_ns)));
        (self.last_sent_ns, self.last_sequence, self.last_sent_counted) = (now_ns, sequence, false);
    }

    /// Judges. Call it at [`Detector::deadline_ns`], and whenever echoes may have arrived.
    pub fn poll(&mut self, now_ns: u64, echoes: Echoes) -> Option<Edge> {
        if echoes.highest > self.seen.highest {
            self.unanswered = 0;
            self.stalled_at = self.stalled_at.filter(|sequence| *sequence > echoes.highest);
            if !self.last_sent_counted && echoes.highest >= self.last_sequence {
                self.last_sent_counted = true;
                self.due_total += 1;
            }
        }
        self.count_last(now_ns);
        let fresh = echoes.count > self.seen.count;
        let late = echoes.late > self.seen.late;
        if late {
            // A few at least: one that is late says nothing of the link.
            let run = echoes.late - self.seen.late;
            let goes_on = echoes.last_late_ns.saturating_sub(self.seen.last_late_ns) <= self.detection_ns();
            self.late_run = if goes_on { self.late_run.saturating_add(run) } else { run };
        }
        if echoes.highest > self.seen.highest {
            self.measure_rtt(echoes);
        }
        self.usual.turn(now_ns);
        if fresh {
            self.usual.take(echoes.rtt_ns);
        }
        if late && echoes.late_rtt_ns <= self.longest_rtt_ns() {
            self.usual.take(echoes.late_rtt_ns);
        }
        self.seen = echoes;
        self.measure_loss();
        let quiet = now_ns >= self.silent_from_ns();
        match self.verdict {
            Some(Verdict::Late | Verdict::Silent) | None if fresh && !quiet => {
                self.stack.forgive();
                self.verdict = Some(Verdict::Alive);
                Some(Edge::Alive)
            }
            Some(Verdict::Alive | Verdict::Beneath) | None if quiet && self.unanswered >= self.needed() => {
                if self.answers_late(now_ns) {
                    return Some(self.turn_late());
                }
                let due_ns = self.silent_from_ns().max(self.unanswered_ns);
                Some(self.turn_silent(due_ns))
            }
            Some(Verdict::Late) if now_ns >= self.late_until_ns() => {
                let due_ns = self.late_until_ns();
                Some(self.turn_silent(due_ns))
            }
            Some(Verdict::Silent) if late && self.answers_late(now_ns) => Some(self.turn_late()),
            Some(Verdict::Alive) => {
                let for_ns = self.stack.beneath_for_ns(now_ns)?;
                self.verdict = Some(Verdict::Beneath);
                Some(Edge::Impaired(Impairment::Beneath { for_ns }))
            }
            Some(Verdict::Beneath) if self.stack.beneath_for_ns(now_ns).is_none() => {
                self.verdict = Some(Verdict::Alive);
                Some(Edge::Alive)
            }
            _ => None,
        }
    }

    /// Whether late echoes come in a row, now.
    fn answers_late(&self, now_ns: u64) -> bool {
        self.late_run >= u64::from(self.multiplier) && now_ns < self.late_until_ns()
    }

    fn turn_late(&mut self) -> Edge {
        self.verdict = Some(Verdict::Late);
        Edge::Impaired(Impairment::Late { rtt_ns: self.seen.late_rtt_ns, usual_ns: self.usual.ns().unwrap_or(0) })
    }

    fn turn_silent(&mut self, due_ns: u64) -> Edge {
        self.verdict = Some(Verdict::Silent);
        Edge::Silent { last_good_ns: self.seen.last_ns, due_ns }
    }

    /// Most time from a probe to its echo that counts, ns.
    pub fn max_age_ns(&self) -> u64 {
        let plausible_ns = self.usual.ns().map(|usual_ns| usual_ns + self.detection_ns() + self.slack_ns());
        plausible_ns.unwrap_or(u64::MAX).min(self.longest_rtt_ns())
    }

    /// How many sequences the acknowledgement in a probe of the peer's may be behind: what it takes to notice a cut of the
    /// one direction, to say so by the other, and as much again.
    pub fn max_lag(&self) -> u64 {
        2 * u64::from(self.multiplier) + 4 + self.max_age_ns() / self.interval_ns
    }

    /// Whether its echoes count, as far as was said.
    pub const fn is_alive(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Alive | Verdict::Beneath))
    }

    /// Judges a link beside one that has just turned silent, by the same evidence but up to half an interval early: links
    /// that die together are noticed together, though their round trips differ, and no traffic moves to one that is about
    /// to follow.
    pub fn join(&mut self, now_ns: u64) -> Option<Edge> {
        self.count_last(now_ns);
        let almost_quiet = now_ns + self.interval_ns / 2 >= self.silent_from_ns();
        let dead = self.is_alive() && almost_quiet && self.unanswered >= self.needed() && !self.answers_late(now_ns);
        dead.then(|| self.turn_silent(now_ns))
    }

    /// When it can next have something to say, unless echoes arrive or probes leave.
    pub fn deadline_ns(&self) -> u64 {
        match self.verdict {
            Some(Verdict::Silent) => return u64::MAX,
            Some(Verdict::Late) => return self.late_until_ns(),
            Some(Verdict::Alive | Verdict::Beneath) | None => {}
        }
        let missing = self.needed().saturating_sub(self.unanswered);
        match missing {
            0 => self.silent_from_ns(),
            1 if !self.last_sent_counted => self.silent_from_ns().max(self.last_sent_ns + self.patience_ns()),
            // More probes must leave first.
            _ => u64::MAX,
        }
    }

    /// Share of the last probes that got no echo, 0 to 1.
    pub const fn loss(&self) -> f64 {
        self.loss
    }

    const fn detection_ns(&self) -> u64 {
        self.interval_ns * self.multiplier as u64
    }

    fn longest_rtt_ns(&self) -> u64 {
        self.detection_ns().max(LONGEST_RTT_NS)
    }

    fn silent_from_ns(&self) -> u64 {
        if self.seen.count == 0 {
            // One interval more: the peer may still take my earlier session for alive, and answer a probe late.
            return self.start_ns + self.detection_ns() + self.interval_ns;
        }
        let usual_ns = self.usual.ns().unwrap_or(self.seen.rtt_ns);
        self.seen.newest_sent_ns + usual_ns + self.detection_ns() + self.slack_ns()
    }

    /// Until when late echoes keep the link from being silent.
    fn late_until_ns(&self) -> u64 {
        if self.seen.late == 0 { 0 } else { self.seen.last_late_ns + self.detection_ns() + self.slack_ns() }
    }

    /// How much longer than the last echo the next one may take.
    fn slack_ns(&self) -> u64 {
        // Twice what was seen, because what was seen is not all there is.
        let spread_ns = 2 * self.rtt_high_ns.saturating_sub(self.rtt_low_ns);
        let least_ns = if self.rtts_measured < RTTS_KNOWN { self.interval_ns } else { self.interval_ns / LEAST_SLACK };
        (spread_ns + self.lateness_ns).max(least_ns).min(self.interval_ns / 2)
    }

    fn measure_rtt(&mut self, echoes: Echoes) {
        let Some((sequence, sent_ns)) = self.timed.take_if(|(sequence, _)| *sequence <= echoes.highest) else { return };
        // A later probe's echo says nothing about this one's time.
        if sequence != echoes.highest {
            return;
        }
        let rtt_ns = echoes.last_ns.saturating_sub(sent_ns);
        self.rtts_measured = self.rtts_measured.saturating_add(1);
        if self.rtt_high_ns == 0 {
            (self.rtt_low_ns, self.rtt_high_ns) = (rtt_ns, rtt_ns);
            return;
        }
        let spread_ns = self.rtt_high_ns.saturating_sub(self.rtt_low_ns);
        self.rtt_high_ns = rtt_ns.max(self.rtt_high_ns - spread_ns / SPREAD_DECAY);
        self.rtt_low_ns = rtt_ns.min(self.rtt_low_ns + spread_ns / SPREAD_DECAY);
    }

    fn needed(&self) -> u32 {
        // Before the first echo the round trip is unknown: every probe of the detection time gets its interval.
        if self.stalled_at.is_some() || self.seen.count == 0 {
            self.multiplier
        } else {
            self.multiplier.saturating_sub(1).max(1)
        }
    }

    fn patience_ns(&self) -> u64 {
        self.interval_ns * PATIENCE_EIGHTHS / 8
    }

    /// Counts the last probe once it has had its time.
    fn count_last(&mut self, now_ns: u64) {
        if !self.last_sent_counted && now_ns.saturating_sub(self.last_sent_ns) >= self.patience_ns() {
            self.last_sent_counted = true;
            self.unanswered = self.unanswered.saturating_add(1);
            self.unanswered_ns = self.last_sent_ns + self.patience_ns();
            self.due_total += 1;
        }
    }

    fn measure_loss(&mut self) {
        let (due_before, echoes_before) = self.loss_from;
        let due = self.due_total - due_before;
        let echoes = self.seen.count.saturating_sub(echoes_before);
        if due > 0 {
            self.loss = (1.0 - echoes as f64 / due as f64).clamp(0.0, 1.0);
        }
        if due >= LOSS_WINDOW {
            self.loss_from = (self.due_total, self.seen.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const I: u64 = 10_000_000;
    const RTT: u64 = 50_000;

    fn echoed(sent_ns: u64, at_ns: u64, highest: u64, count: u64) -> Echoes {
        let rtt_ns = at_ns - sent_ns;
        Echoes { last_ns: at_ns, highest, newest_sent_ns: sent_ns, rtt_ns, count, ..Echoes::default() }
    }

    /// Probes every interval from 0; echoes for sequences where `answered`; stalls of the prober in between. Gives every
    /// edge with its time.
    fn run(
        multiplier: u32,
        until: u64,
        answered: impl Fn(u64) -> bool,
        stalled: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Edge)> {
        let (mut detector, mut edges) = (Detector::new(I, multiplier, 1), Vec::new());
        let (mut echoes, mut in_flight, mut sequence, mut next_send) = (Echoes::default(), Vec::new(), 0, 1);
        let step = I / 40;
        for now in (1..until).step_by(step as usize) {
            in_flight.retain(|&(at, sequence): &(u64, u64)| {
                if at <= now {
                    echoes = echoed(at - RTT, at, sequence, echoes.count + 1);
                }
                at > now
            });
            if stalled(now) {
                continue;
            }
            if now >= next_send {
                next_send += ((now - next_send) / I + 1) * I;
                sequence += 1;
                detector.on_sent(now, sequence);
                if answered(now) {
                    in_flight.push((now + RTT, sequence));
                }
            }
            if let Some(edge) = detector.poll(now, echoes) {
                edges.push((now, edge));
            }
        }
        edges
    }

    #[test]
    fn a_good_link_is_alive_once() {
        let edges = run(3, 100 * I, |_| true, |_| false);
        assert_eq!(edges.len(), 1);
        assert_eq!(edges[0].1, Edge::Alive);
    }

    #[test]
    fn a_link_dead_from_the_start_is_silent_an_interval_after_the_detection_time() {
        let edges = run(3, 100 * I, |_| false, |_| false);
        assert_eq!(edges.len(), 1);
        assert!(matches!(edges[0].1, Edge::Silent { last_good_ns: 0, .. }), "{edges:?}");
        assert!((4 * I..=4 * I + I / 10).contains(&edges[0].0), "{edges:?}");
    }

    #[test]
    fn a_cut_is_noticed_between_two_and_three_intervals_later() {
        for multiplier in [2, 3, 5] {
            for phase in 0..40 {
                let cut = 50 * I + phase * I / 40;
                let edges = run(multiplier, 100 * I, |now| now < cut, |_| false);
                let (at, Edge::Silent { last_good_ns, due_ns }) = edges[1] else { panic!("{edges:?}") };
                let m = u64::from(multiplier);
                assert!(due_ns <= at && at - due_ns <= I / 40, "noticed at the next look: {edges:?}");
                assert!(due_ns >= last_good_ns + m * I, "{edges:?}");
                assert!(
                    at - cut >= (m - 1) * I && at - cut <= m * I + I / 10,
                    "x{multiplier} phase {phase}: {}",
                    at - cut
                );
            }
        }
    }

    #[test]
    fn loss_below_the_multiplier_never_alarms() {
        for lost in 1..=2_u64 {
            let edges = run(3, 500 * I, |now| (now / I).is_multiple_of(lost + 1), |_| false);
            assert_eq!(edges.len(), 1, "{lost} lost in a row: {edges:?}");
        }
    }

    #[test]
    fn no_stall_of_its_own_ever_alarms() {
        for length in 1..=200 {
            for phase in (0..40).step_by(7) {
                let from = 50 * I + phase * I / 40;
                let edges = run(3, 100 * I, |_| true, |now| (from..from + length * I / 10).contains(&now));
                assert_eq!(edges.len(), 1, "stall of {length}/10 at {phase}/40: {edges:?}");
            }
        }
    }

    #[test]
    fn a_stall_with_a_lost_probe_does_not_alarm_either() {
        for phase in 0..40 {
            let from = 50 * I + phase * I / 40;
            let edges =
                run(3, 100 * I, |now| !(49 * I..=51 * I).contains(&now), |now| (from..from + 6 * I).contains(&now));
            assert_eq!(edges.len(), 1, "{phase}: {edges:?}");
        }
    }

    #[test]
    fn a_cut_during_a_stall_is_noticed_soon_after_it() {
        for phase in 0..40 {
            let from = 50 * I + phase * I / 40;
            let until = from + 8 * I;
            let edges = run(3, 100 * I, |now| now < from, |now| (from..until).contains(&now));
            assert_eq!(edges.len(), 2, "{edges:?}");
            assert!(edges[1].0 - until <= 4 * I, "{phase}: {}", edges[1].0 - until);
            let Edge::Silent { due_ns, .. } = edges[1].1 else { panic!("{edges:?}") };
            assert!(due_ns >= until, "probes that were not sent prove nothing: {due_ns}");
        }
    }

    #[test]
    fn a_link_that_is_about_to_turn_silent_joins_and_no_other() {
        let mut detector = Detector::new(I, 3, 1);
        let at = |sequence: u64| 1 + (sequence - 1) * I;
        let last = 20;
        for sequence in 1..=last {
            detector.on_sent(at(sequence), sequence);
            detector.poll(at(sequence) + RTT, echoed(at(sequence), at(sequence) + RTT, sequence, sequence));
        }
        for sequence in last + 1..=last + 2 {
            detector.on_sent(at(sequence), sequence);
            assert_eq!(detector.join(at(sequence)), None, "too early");
        }
        assert_eq!(detector.join(at(last + 2) + I / 2), None, "the second has not had its time");
        detector.on_sent(at(last + 3), last + 3);
        assert_eq!(
            detector.join(at(last + 3)),
            Some(Edge::Silent { last_good_ns: at(last) + RTT, due_ns: at(last + 3) })
        );
        assert_eq!(detector.join(at(last + 3)), None, "once");
    }

    #[test]
    fn an_answer_after_silence_is_alive_again() {
        let edges = run(3, 100 * I, |now| !(20 * I..40 * I).contains(&now), |_| false);
        assert_eq!(edges.len(), 3);
        assert_eq!(edges[2].1, Edge::Alive);
        assert!(edges[2].0 - 40 * I <= I + I / 10);
    }

    /// Two ends over a way whose delay is `delay(now)` for a packet that leaves now; nothing: it is cut. The verifier's side of
    /// lateness is played as `verify::commit` has it.
    fn history(interval: u64, until: u64, delay: impl Fn(u64) -> Option<u64>) -> Vec<(u64, Edge)> {
        let (mut detector, mut edges) = (Detector::new(interval, 3, 1), Vec::new());
        let (mut echoes, mut in_flight, mut sequence) = (Echoes::default(), Vec::new(), 0);
        for now in (1..until).step_by((interval / 20) as usize) {
            if now > sequence * interval {
                sequence += 1;
                detector.on_sent(now, sequence);
                in_flight.extend(delay(now).map(|delay| (now + delay, now, sequence)));
            }
            in_flight.sort_unstable();
            while in_flight.first().is_some_and(|(at, ..)| *at <= now) {
                let (at, sent, sequence) = in_flight.remove(0);
                if at - sent > detector.max_age_ns() {
                    (echoes.late, echoes.last_late_ns, echoes.late_rtt_ns) = (echoes.late + 1, at, at - sent);
                    continue;
                }
                (echoes.last_ns, echoes.rtt_ns, echoes.count) = (at, at - sent, echoes.count + 1);
                if sequence > echoes.highest {
                    (echoes.highest, echoes.newest_sent_ns) = (sequence, sent);
                }
            }
            edges.extend(detector.poll(now, echoes).map(|edge| (now, edge)));
        }
        edges
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_link_that_answers_beneath_the_stack_only_is_impaired_until_it_answers_through_it() {
        let mut detector = Detector::new(100 * MS, 3, 1);
        let mut edges = Vec::new();
        for sequence in 1..200 {
            let now = sequence * 100 * MS;
            detector.on_sent(now, sequence);
            if detector.stack.is_due(now) {
                detector.stack.on_sent(now);
                if sequence > 100 {
                    detector.stack.on_answer(now + MS, now);
                }
            }
            edges.extend(
                detector.poll(now + MS, echoed(now, now + MS, sequence, sequence)).map(|edge| (sequence, edge)),
            );
        }
        let [(_, Edge::Alive), (from, Edge::Impaired(Impairment::Beneath { .. })), (until, Edge::Alive)] = edges[..]
        else {
            panic!("{edges:?}")
        };
        assert!((40..=42).contains(&from) && (101..=111).contains(&until), "{edges:?}");
    }

    #[test]
    fn a_satellite_is_up_and_stays_up() {
        let edges = history(100 * MS, 120_000 * MS, |_| Some(600 * MS));
        // Longer than the detection time, the first echo finds the link given up.
        assert!(matches!(edges[..], [(_, Edge::Silent { last_good_ns: 0, .. }), (_, Edge::Alive)]), "{edges:?}");
    }

    #[test]
    fn echoes_held_back_do_not_keep_a_cut_link_up() {
        // Held for twelve seconds, then played one each interval, in their order.
        let edges = history(100 * MS, 60_000 * MS, |now| match now / MS {
            0..20_000 => Some(MS),
            20_000..32_000 => Some(12_000 * MS),
            _ => None,
        });
        let (at, last) = edges[edges.len() - 1];
        assert!(matches!(last, Edge::Silent { .. }), "{edges:?}");
        assert!(!edges[1..].iter().any(|(_, edge)| *edge == Edge::Alive), "{edges:?}");
        let (first_at, _) = edges[1];
        assert!(first_at <= 20_420 * MS, "{edges:?}");
        assert!(at <= 44_500 * MS, "and when they end it is over: {edges:?}");
    }

    #[test]
    fn a_delay_that_is_not_usual_is_late_and_a_cut_behind_it_is_noticed_in_time() {
        let edges = history(100 * MS, 40_000 * MS, |now| match now / MS {
            0..20_000 => Some(MS),
            20_000..30_000 => Some(1_500 * MS),
            _ => None,
        });
        assert!(matches!(edges[1].1, Edge::Silent { .. } | Edge::Impaired(_)), "{edges:?}");
        assert!(
            edges.iter().any(|(_, edge)| matches!(edge, Edge::Impaired(Impairment::Late { usual_ns: MS, .. }))),
            "{edges:?}"
        );
        assert!(!edges[1..].iter().any(|(_, edge)| *edge == Edge::Alive), "{edges:?}");
    }

    #[test]
    fn a_way_that_has_become_longer_is_taken_as_it_is_after_a_while() {
        let edges = history(100 * MS, 120_000 * MS, |now| Some(if now < 20_000 * MS { MS } else { 700 * MS }));
        let (at, last) = edges[edges.len() - 1];
        assert_eq!(last, Edge::Alive, "{edges:?}");
        assert!(at <= 20_000 * MS + 2 * USUAL_WINDOW_NS + 1_000 * MS, "{at}");
    }

    #[test]
    fn after_any_history_of_delays_a_cut_is_noticed_within_the_detection_time_and_a_usual_round_trip() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut cuts, mut longest) = (0, 0);
        for _ in 0..300 {
            let interval = [10 * MS, 100 * MS][random.usize(..2)];
            let base = random.u64(MS / 10..=50 * MS);
            let cut = interval * random.u64(50..300);
            // Spells of other delays, of up to three seconds, each for up to a hundred intervals.
            let spells: Vec<(u64, u64, u64)> = (0..random.usize(..6))
                .map(|_| (random.u64(..cut), interval * random.u64(1..100), random.u64(..3_000 * MS)))
                .collect();
            let edges = history(interval, cut + 40 * interval + 3_000 * MS, |now| {
                let spell = spells.iter().find(|(from, length, _)| (*from..from + length).contains(&now));
                (now < cut).then(|| spell.map_or(base, |(.., delay)| base + delay))
            });
            let bound = 3 * interval + base + interval / 2 + interval;
            let alive_after = edges.iter().filter(|(at, edge)| *at > cut + bound && *edge == Edge::Alive).count();
            assert_eq!(alive_after, 0, "cut at {cut}, usual {base}: {edges:?}");
            let last_verdict = edges.iter().rfind(|(at, _)| *at <= cut + bound).map(|(_, edge)| *edge);
            assert_ne!(last_verdict, Some(Edge::Alive), "cut at {cut}, usual {base}, {spells:?}: {edges:?}");
            cuts += usize::from(edges.iter().any(|(_, edge)| *edge == Edge::Alive));
            longest = longest.max(edges.len());
        }
        assert!(cuts > 250 && longest > 4, "{cuts} links were alive, at most {longest} changes");
    }
}
