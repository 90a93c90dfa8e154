//! Silence, told from one's own lateness.
//!
//! A link is silent when the newest probe that was answered left longer ago than `interval × multiplier` and the usual round
//! trip, *and* `multiplier` probes have left since then, the last of which has had the time to be answered. Both
//! ask when a probe left, not when its echo came: what somebody holds back on the way proves nothing about now. Of a punctual
//! prober they are true at the same instant. The second one keeps a late prober from taking its own absence for the peer's:
//! probes that it did not send prove nothing. Its lateness costs its own length: each probe is judged by its own time.
//!
//! The usual round trip is the least of the last 30 to 60 s. Who delays packets can only raise a round trip, and a link whose
//! way has really become longer is taken as it is after that time; until then its echoes are *late*.
//!
//! With `multiplier − 1` probes lost in a row, the echo of the next one is due exactly at the end of the detection time. It
//! may take as much longer than the last one as round trips and the prober's own wake-ups have lately differed, at most half
//! an interval: else every such loss would be a false alarm whenever the network is a little slower than before. After a stall
//! it may take nearly an interval.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::maps::LinkState;

use super::{
    StackWatch,
    loss::{Counts, EachWay, LossEachWay},
    outstanding::Outstanding,
    quality::Quality,
    usual::Usual,
};
use crate::{event::Impairment, health::Limits};

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
    /// Alive, but beneath the peer's network stack only, or beyond its thresholds.
    Impaired(Impairment),
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
const RTTS_KNOWN: u32 = 32;
/// Part of an interval that an echo may always be late.
const LEAST_SLACK: u64 = 32;
/// Probes over which loss is measured before the measure starts anew.
const LOSS_WINDOW: u64 = 64;
/// No link's round trip is longer than this or the detection time, ns: more than any satellite's, a loaded one's included.
pub(crate) const LONGEST_RTT_NS: u64 = 2_000_000_000;

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
    /// How many probes the peer had received when it sent the one with the highest sequence.
    pub received_there: u64,
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
            received_there: state.peer_received.load(Relaxed),
            late: state.late_echoes.load(Relaxed),
            last_late_ns: state.last_late_ns.load(Relaxed),
            late_rtt_ns: state.late_rtt_ns.load(Relaxed),
        }
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
    outstanding: Outstanding,
    /// First probe after the prober was late, until it is answered: what waits meanwhile takes its time. Echoes of earlier
    /// probes prove nothing about now.
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
    /// The highest sequence that is accounted for, and how many echoes had come then: at the last look, and where the measure of
    /// loss begins.
    accounted: (u64, u64),
    loss_from: (u64, u64),
    loss: f64,
    loss_each_way: LossEachWay,
    /// Nothing: it has no thresholds.
    quality: Option<Quality>,
}

impl Detector {
    /// A link that is probed from now on.
    pub fn new(interval_ns: u64, multiplier: u32, limits: Limits, now_ns: u64) -> Self {
        let detection_ns = interval_ns * u64::from(multiplier);
        let on_their_way = detection_ns.max(LONGEST_RTT_NS) / interval_ns + 2 * u64::from(multiplier);
        Self {
            interval_ns,
            multiplier,
            start_ns: now_ns,
            verdict: None,
            seen: Echoes::default(),
            last_sent_ns: 0,
            outstanding: Outstanding::new(usize::try_from(on_their_way).unwrap_or(usize::MAX)),
            stalled_at: None,
            timed: None,
            usual: Usual::default(),
            late_run: 0,
            stack: StackWatch::new(interval_ns),
            rtt_low_ns: 0,
            rtt_high_ns: 0,
            rtts_measured: 0,
            lateness_ns: 0,
            accounted: (0, 0),
            loss_from: (0, 0),
            loss: 0.0,
            loss_each_way: LossEachWay::default(),
            quality: Quality::new(limits),
        }
    }

    /// Other thresholds hold from now on; what was measured is measured anew.
    pub fn limit(&mut self, limits: Limits) {
        self.quality = Quality::new(limits);
    }

    /// A probe has left.
    pub fn on_sent(&mut self, now_ns: u64, sequence: u64) {
        if self.last_sent_ns != 0 {
            let late_ns = (now_ns - self.last_sent_ns).saturating_sub(self.interval_ns);
            if late_ns > self.interval_ns / 2 {
                self.stalled_at = Some(sequence);
            }
            self.lateness_ns = late_ns.max(self.lateness_ns - self.lateness_ns / SPREAD_DECAY);
        }
        self.timed = self.timed.or(Some((sequence, now_ns)));
        self.last_sent_ns = now_ns;
        self.outstanding.sent(now_ns, sequence);
    }

    /// Judges. Call it at [`Detector::deadline_ns`], and whenever echoes may have arrived.
    pub fn poll(&mut self, now_ns: u64, echoes: Echoes) -> Option<Edge> {
        if echoes.highest > self.seen.highest {
            self.outstanding.answered(echoes.highest);
            self.stalled_at = self.stalled_at.filter(|sequence| *sequence > echoes.highest);
        }
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
            let Echoes { highest, received_there, count, .. } = echoes;
            self.loss_each_way.take(Counts { sent: highest, received_there, echoes: count });
        }
        self.usual.turn(now_ns);
        if fresh {
            self.usual.take(echoes.rtt_ns);
        }
        if late && echoes.late_rtt_ns <= self.longest_rtt_ns() {
            self.usual.take(echoes.late_rtt_ns);
        }
        self.seen = echoes;
        self.measure_loss(now_ns);
        let silent_at_ns = self.silent_at_ns();
        match self.verdict {
            Some(Verdict::Late | Verdict::Silent) | None if fresh && now_ns < self.silent_from_ns() => {
                self.stack.forgive();
                Some(self.turn_alive())
            }
            Some(Verdict::Alive | Verdict::Impaired(_)) | None if silent_at_ns.is_some_and(|at_ns| now_ns >= at_ns) => {
                if self.answers_late(now_ns) {
                    return Some(self.turn_late());
                }
                Some(self.turn_silent(silent_at_ns.unwrap_or(now_ns)))
            }
            Some(Verdict::Late) if now_ns >= self.late_until_ns() => {
                let due_ns = self.late_until_ns();
                Some(self.turn_silent(due_ns))
            }
            Some(Verdict::Silent) if late && self.answers_late(now_ns) => Some(self.turn_late()),
            Some(Verdict::Alive) => {
                let impairment = self.impairment(now_ns)?;
                self.verdict = Some(Verdict::Impaired(impairment));
                Some(Edge::Impaired(impairment))
            }
            Some(Verdict::Impaired(told)) => match self.impairment(now_ns) {
                None => Some(self.turn_alive()),
                Some(now) if std::mem::discriminant(&now) != std::mem::discriminant(&told) => {
                    self.verdict = Some(Verdict::Impaired(now));
                    Some(Edge::Impaired(now))
                }
                Some(_) => None,
            },
            _ => None,
        }
    }

    /// What is wrong with a link that is not silent.
    fn impairment(&mut self, now_ns: u64) -> Option<Impairment> {
        let beneath = self.stack.beneath_for_ns(now_ns).map(|for_ns| Impairment::Beneath { for_ns });
        let quality = || self.quality.as_mut().and_then(Quality::beyond).map(Impairment::Beyond);
        beneath.or_else(quality)
    }

    /// Whether late echoes come in a row, now.
    fn answers_late(&self, now_ns: u64) -> bool {
        self.late_run >= u64::from(self.multiplier) && now_ns < self.late_until_ns()
    }

    fn turn_alive(&mut self) -> Edge {
        self.verdict = Some(Verdict::Alive);
        Edge::Alive
    }

    fn turn_late(&mut self) -> Edge {
        self.verdict = Some(Verdict::Late);
        Edge::Impaired(Impairment::Late { rtt_ns: self.seen.late_rtt_ns, usual_ns: self.usual.ns().unwrap_or(0) })
    }

    fn turn_silent(&mut self, due_ns: u64) -> Edge {
        self.verdict = Some(Verdict::Silent);
        // Which probes were lost is decided now; the measures begin anew with what comes after.
        self.outstanding.forget();
        self.loss_each_way.forget();
        if let Some(quality) = &mut self.quality {
            quality.forget();
        }
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
        matches!(self.verdict, Some(Verdict::Alive | Verdict::Impaired(_)))
    }

    /// Judges a link beside one that has just turned silent, by the same evidence but up to half an interval early: links
    /// that die together are noticed together, though their round trips differ, and no traffic moves to one that is about
    /// to follow.
    pub fn join(&mut self, now_ns: u64) -> Option<Edge> {
        let almost_quiet = now_ns + self.interval_ns / 2 >= self.silent_from_ns();
        // Probes that have had nearly an interval; after a stall one more.
        let needed = self.multiplier.saturating_sub(u32::from(self.stalled_at.is_none())).max(1);
        let time_ns = if self.stalled_at.is_none() { self.patience_ns() } else { self.answer_time_ns() };
        let had_theirs = self.nth_sent_ns(needed).is_some_and(|sent_ns| now_ns >= sent_ns + time_ns);
        let dead = self.is_alive() && self.seen.count > 0 && almost_quiet && had_theirs && !self.answers_late(now_ns);
        dead.then(|| self.turn_silent(now_ns))
    }

    /// When it can next have something to say, unless echoes arrive or probes leave.
    pub fn deadline_ns(&self) -> u64 {
        match self.verdict {
            Some(Verdict::Silent) => return u64::MAX,
            Some(Verdict::Late) => return self.late_until_ns(),
            Some(Verdict::Alive | Verdict::Impaired(_)) | None => {}
        }
        // Until enough probes have left there is nothing to judge.
        self.silent_at_ns().unwrap_or(u64::MAX)
    }

    /// Share of the last probes that got no echo, 0 to 1.
    pub const fn loss(&self) -> f64 {
        self.loss
    }

    /// What is lost on the way there and back; nothing before enough probes were answered.
    pub const fn loss_each_way(&self) -> Option<EachWay> {
        self.loss_each_way.now()
    }

    const fn detection_ns(&self) -> u64 {
        self.interval_ns * self.multiplier as u64
    }

    fn longest_rtt_ns(&self) -> u64 {
        self.detection_ns().max(LONGEST_RTT_NS)
    }

    fn silent_from_ns(&self) -> u64 {
        if self.seen.count == 0 {
            // The round trip is not known yet. One interval more: the peer may still take my earlier session for alive, and
            // answer a probe late.
            return self.start_ns + self.longest_rtt_ns() + self.interval_ns;
        }
        let usual_ns = self.usual.ns().unwrap_or(self.seen.rtt_ns);
        self.seen.newest_sent_ns + usual_ns + self.detection_ns() + self.slack_ns()
    }

    /// From when on nothing but an answer keeps the link from being silent, ns; nothing: more probes must leave first.
    fn silent_at_ns(&self) -> Option<u64> {
        let sent_ns = self.nth_sent_ns(self.multiplier)?;
        let time_ns = self.answer_time_ns();
        // Where the way has become longer by nearly the detection time, answers that still come one each interval count.
        let answers_until_ns = if self.seen.count == 0 { 0 } else { self.seen.last_ns + self.interval_ns * 5 / 4 };
        Some((sent_ns + time_ns).max(self.silent_from_ns()).max(answers_until_ns))
    }

    /// How long the last of the probes that decide has to be answered, ns.
    fn answer_time_ns(&self) -> u64 {
        let usual_ns = self.usual.ns().unwrap_or(self.seen.rtt_ns) + self.slack_ns();
        match self.stalled_at {
            _ if self.seen.count == 0 => self.patience_ns(),
            // What waits after a stall takes its time, and the way there and back its own.
            Some(_) => usual_ns.max(self.patience_ns()),
            None => usual_ns,
        }
    }

    /// When the `number`th probe after the newest answered one left, ns.
    fn nth_sent_ns(&self, number: u32) -> Option<u64> {
        self.outstanding.nth_sent_ns(number as usize)
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

    fn patience_ns(&self) -> u64 {
        self.interval_ns * PATIENCE_EIGHTHS / 8
    }

    /// Counts what came of the probes since the last look.
    fn measure_loss(&mut self, now_ns: u64) {
        // Longer than a usual round trip: what is on its way is no loss.
        let time_ns = self.usual.ns().unwrap_or(0) + self.interval_ns;
        let now = (self.outstanding.account(now_ns, time_ns), self.seen.count);
        let (accounted, echoes) = (now.0 - self.accounted.0, now.1.saturating_sub(self.accounted.1));
        self.accounted = now;
        let alive = self.is_alive();
        if let Some(quality) = self.quality.as_mut().filter(|_| alive) {
            quality.measured(echoes, self.seen.rtt_ns, accounted.saturating_sub(echoes));
        }
        let (accounted, echoes) = (now.0 - self.loss_from.0, now.1.saturating_sub(self.loss_from.1));
        if accounted > 0 {
            self.loss = (1.0 - echoes as f64 / accounted as f64).clamp(0.0, 1.0);
        }
        if accounted >= LOSS_WINDOW {
            self.loss_from = now;
        }
    }
}

#[cfg(test)]
mod tests;
