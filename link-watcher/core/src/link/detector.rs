//! Silence, told from one's own lateness.
//!
//! A link is silent when no echo has arrived for `interval × multiplier`, *and* at least `multiplier − 1` probes (at least
//! one) have each had about an interval to be answered since the last echo. The second condition is what keeps a stalled
//! prober from taking its own absence for the peer's: probes that it did not send prove nothing.
//!
//! With `multiplier − 1` probes lost in a row, the echo of the next one is due exactly at the end of the detection time. It
//! may take as much longer than the last one as round trips and the prober's own wake-ups have lately differed, at most half
//! an interval: else every such loss would be a false alarm whenever the network is a little slower than before.

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

/// What the prober sees of a link's echoes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echoes {
    /// When the last one arrived, ns; 0: never.
    pub last_ns: u64,
    /// Highest sequence answered.
    pub highest: u64,
    /// How many so far.
    pub count: u64,
}

/// Detects silence of one link. Times are nanoseconds of one monotonic clock.
#[derive(Clone, Debug)]
pub struct Detector {
    interval_ns: u64,
    multiplier: u32,
    start_ns: u64,
    /// Nothing: no verdict yet.
    alive: Option<bool>,
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
    /// A link that is probed from now on, with the sequences behind `sequence`.
    pub const fn new(interval_ns: u64, multiplier: u32, now_ns: u64, sequence: u64) -> Self {
        Self {
            interval_ns,
            multiplier,
            start_ns: now_ns,
            alive: None,
            seen: Echoes { last_ns: 0, highest: sequence, count: 0 },
            last_sent_ns: 0,
            last_sequence: sequence,
            last_sent_counted: true,
            unanswered: 0,
            unanswered_ns: 0,
            stalled_at: None,
            timed: None,
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
        if echoes.highest > self.seen.highest {
            self.measure_rtt(echoes);
        }
        self.seen = echoes;
        self.measure_loss();
        let quiet = now_ns >= self.silent_from_ns();
        if self.alive != Some(true) && fresh && !quiet {
            self.alive = Some(true);
            return Some(Edge::Alive);
        }
        if self.alive != Some(false) && quiet && self.unanswered >= self.needed() {
            self.alive = Some(false);
            let due_ns = self.silent_from_ns().max(self.unanswered_ns);
            return Some(Edge::Silent { last_good_ns: self.seen.last_ns, due_ns });
        }
        None
    }

    /// Judges a link beside one that has just turned silent, by the same evidence but up to half an interval early: links
    /// that die together are noticed together, though their round trips differ, and no traffic moves to one that is about
    /// to follow.
    pub fn join(&mut self, now_ns: u64) -> Option<Edge> {
        self.count_last(now_ns);
        let almost_quiet = now_ns + self.interval_ns / 2 >= self.silent_from_ns();
        if self.alive == Some(true) && almost_quiet && self.unanswered >= self.needed() {
            self.alive = Some(false);
            return Some(Edge::Silent { last_good_ns: self.seen.last_ns, due_ns: now_ns });
        }
        None
    }

    /// When it can next have something to say, unless echoes arrive or probes leave.
    pub fn deadline_ns(&self) -> u64 {
        if self.alive == Some(false) {
            return u64::MAX;
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

    fn silent_from_ns(&self) -> u64 {
        let detection_ns = self.interval_ns * u64::from(self.multiplier);
        if self.seen.count == 0 {
            // One interval more: the peer may still take my earlier session for alive, and answer a probe late.
            return self.start_ns + detection_ns + self.interval_ns;
        }
        self.seen.last_ns.max(self.start_ns) + detection_ns + self.slack_ns()
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

    /// Probes every interval from 0; echoes for sequences where `answered`; stalls of the prober in between. Gives every
    /// edge with its time.
    fn run(
        multiplier: u32,
        until: u64,
        answered: impl Fn(u64) -> bool,
        stalled: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Edge)> {
        let (mut detector, mut edges) = (Detector::new(I, multiplier, 1, 0), Vec::new());
        let (mut echoes, mut in_flight, mut sequence, mut next_send) = (Echoes::default(), Vec::new(), 0, 1);
        let step = I / 40;
        for now in (1..until).step_by(step as usize) {
            in_flight.retain(|&(at, sequence): &(u64, u64)| {
                if at <= now {
                    echoes = Echoes { last_ns: at, highest: sequence, count: echoes.count + 1 };
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
        let mut detector = Detector::new(I, 3, 1, 0);
        let at = |sequence: u64| 1 + (sequence - 1) * I;
        let last = 20;
        for sequence in 1..=last {
            detector.on_sent(at(sequence), sequence);
            detector
                .poll(at(sequence) + RTT, Echoes { last_ns: at(sequence) + RTT, highest: sequence, count: sequence });
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
}
