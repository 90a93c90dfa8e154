//! Whether a link answers by the whole way that data takes, and not only beneath the network stack.
//!
//! The peer's kernel program answers probes before its firewall and routing see them. So once in a while a *stack-probe* goes
//! out through our stack and up through the peer's, and its daemon answers by the same way. Several in a row without an
//! answer, while the kernel answers, mean that something between the two drops what goes through.

/// Least time between two of a link's, ns.
const EVERY_NS: u64 = 1_000_000_000;
/// How many links may send one in that time: each takes several times what a keepalive takes. With more links each waits longer.
const LINKS_AT_ONCE: u32 = 256;
/// So many in a row, each with its time to be answered.
const NEEDED: u32 = 3;

/// Watches one link. Times are nanoseconds of one monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct StackWatch {
    /// Between two keepalives.
    interval_ns: u64,
    every_ns: u64,
    /// Where in that time they leave.
    phase_ns: u64,
    /// When the next one leaves.
    next_ns: u64,
    /// When the first of those left that have had no answer; 0: none has left.
    unanswered_since_ns: u64,
    /// How many of them have had their time.
    unanswered: u32,
}

impl StackWatch {
    /// Of a link that is probed so often.
    #[must_use]
    pub const fn new(interval_ns: u64) -> Self {
        let every_ns = if interval_ns > EVERY_NS { interval_ns } else { EVERY_NS };
        Self { interval_ns, every_ns, phase_ns: 0, next_ns: 0, unanswered_since_ns: 0, unanswered: 0 }
    }

    /// It is one of so many links, and sends its own in the given one of so many phases. Those of one phase leave together:
    /// their answers come together, and wake the prober once. Those of other phases leave at other times, so that a thousand
    /// links are no burst.
    pub const fn share(&mut self, links: u32, phase: u32, phases: u32) {
        let crowd_ns = EVERY_NS * links.div_ceil(LINKS_AT_ONCE) as u64;
        self.every_ns = if self.interval_ns > crowd_ns { self.interval_ns } else { crowd_ns };
        self.phase_ns = self.every_ns / phases as u64 * phase as u64;
    }

    /// Whether it is time for one.
    #[must_use]
    pub const fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.next_ns
    }

    /// One leaves.
    pub const fn on_sent(&mut self, now_ns: u64) {
        if self.unanswered_since_ns == 0 {
            self.unanswered_since_ns = now_ns;
        } else {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        // The next instant of the phase that gives this one most of its time to be answered.
        let earliest_ns = now_ns + self.every_ns / 4 * 3;
        self.next_ns = earliest_ns.saturating_sub(self.phase_ns).next_multiple_of(self.every_ns) + self.phase_ns;
    }

    /// The answer to one that left at `sent_ns`. One that is too old to be about now changes nothing.
    pub const fn on_answer(&mut self, now_ns: u64, sent_ns: u64) {
        if now_ns.saturating_sub(sent_ns) < self.every_ns * NEEDED as u64 {
            self.forgive();
        }
    }

    /// That there is no answer means nothing: the link does not answer at all, or the peer's daemon is known to be silent.
    pub const fn forgive(&mut self) {
        (self.unanswered_since_ns, self.unanswered) = (0, 0);
    }

    /// For how long the link has answered beneath the stack only, ns; nothing: it answers through it, as far as is known.
    #[must_use]
    pub const fn beneath_for_ns(&self, now_ns: u64) -> Option<u64> {
        if self.unanswered < NEEDED { None } else { Some(now_ns.saturating_sub(self.unanswered_since_ns)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn three_without_an_answer_are_told_and_one_answer_is_enough() {
        let mut watch = StackWatch::new(S / 10);
        for second in 1..=3 {
            assert!(watch.is_due(second * S));
            watch.on_sent(second * S);
            assert!(!watch.is_due(second * S + S / 2));
            assert_eq!(watch.beneath_for_ns(second * S), None);
        }
        watch.on_sent(4 * S);
        assert_eq!(watch.beneath_for_ns(4 * S), Some(3 * S));
        watch.on_answer(8 * S, 4 * S);
        assert!(watch.beneath_for_ns(8 * S).is_some(), "held back for four seconds, it says nothing about now");
        watch.on_answer(8 * S, 7 * S);
        assert_eq!(watch.beneath_for_ns(8 * S), None);
    }

    #[test]
    fn links_of_one_phase_leave_together_whenever_they_began() {
        let leaves = |links: u32, phase: u32, began_ns: u64| {
            let mut watch = StackWatch::new(S / 10);
            watch.share(links, phase, 16);
            let probes = (0..200).map(|probe| began_ns + probe * S / 10);
            let left = probes.filter(|now_ns| {
                let due = watch.is_due(*now_ns);
                if due {
                    watch.on_sent(*now_ns);
                }
                due
            });
            left.skip(1).collect::<Vec<_>>()
        };
        let first = leaves(10, 3, 7 * S);
        assert!(first.iter().all(|left_ns| left_ns % S == S / 5), "{first:?}: the probe after 3/16 s");
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] == S));
        assert!(leaves(10, 3, 8 * S + S / 2).iter().all(|left_ns| left_ns % S == S / 5));
        assert!(leaves(256, 8, 7 * S).iter().all(|left_ns| left_ns % S == S / 2));
        let crowded = leaves(1000, 8, 7 * S);
        assert!(crowded.windows(2).all(|pair| pair[1] - pair[0] == 4 * S), "{crowded:?}: a thousand take turns");
    }

    #[test]
    fn what_a_silent_daemon_does_not_answer_accuses_nobody() {
        let mut watch = StackWatch::new(S / 10);
        for second in 1..20 {
            watch.on_sent(second * S);
            if second % 3 == 0 {
                watch.forgive();
            }
            assert_eq!(watch.beneath_for_ns(second * S), None);
        }
    }
}
