//! Whether a link answers by the whole way that data takes, and not only beneath the network stack.
//!
//! The peer's kernel program answers probes before its firewall and routing see them. So once in a while a *stack-probe* goes
//! out through our stack and up through the peer's, and its daemon answers by the same way. Several in a row without an
//! answer, while the kernel answers, mean that something between the two drops what goes through.

/// Least time between two of them, ns.
const EVERY_NS: u64 = 1_000_000_000;
/// So many in a row, each with its time to be answered.
const NEEDED: u32 = 3;

/// Watches one link. Times are nanoseconds of one monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct StackWatch {
    every_ns: u64,
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
        Self { every_ns, next_ns: 0, unanswered_since_ns: 0, unanswered: 0 }
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
        self.next_ns = now_ns + self.every_ns;
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
