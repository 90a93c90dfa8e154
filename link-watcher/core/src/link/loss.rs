//! Which way probes are lost: there, or their echoes on the way back.
//!
//! An echo says how many probes its sender has received so far. Two echoes with some probes between them tell how many of
//! these arrived there, and how many echoes of those came back.

/// Probes over which it is measured: at least these, at most twice as many.
const WINDOW: u64 = 64;

/// What an echo with a higher sequence than all before it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Its sequence: so many probes have left.
    pub(super) sent: u64,
    /// Probes that the peer had received when it answered.
    pub(super) received_there: u64,
    /// Echoes that have come so far.
    pub(super) echoes: u64,
}

/// Shares that were lost, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EachWay {
    /// Of the probes, on their way to the peer.
    pub there: f64,
    /// Of the echoes, on their way back.
    pub back: f64,
}

/// Measures it.
#[derive(Clone, Debug, Default)]
pub(super) struct LossEachWay {
    /// Where the measure begins, and where the next one will.
    from: Option<(Counts, Counts)>,
    now: Option<EachWay>,
}

impl LossEachWay {
    /// Takes in an echo that is newer than all before.
    pub(super) fn take(&mut self, counts: Counts) {
        let (older, newer) = self.from.unwrap_or((counts, counts));
        // A peer that has been started again counts from nothing.
        if counts.received_there < newer.received_there || counts.sent < newer.sent {
            *self = Self { from: Some((counts, counts)), now: None };
            return;
        }
        let sent = counts.sent - older.sent;
        let there = (counts.received_there - older.received_there).min(sent);
        let back = counts.echoes.saturating_sub(older.echoes).min(there);
        let lost = |of: u64, arrived: u64| if of == 0 { 0.0 } else { 1.0 - arrived as f64 / of as f64 };
        if sent >= WINDOW {
            self.now = Some(EachWay { there: lost(sent, there), back: lost(there, back) });
        }
        let turns = counts.sent - newer.sent >= WINDOW;
        self.from = Some(if turns { (newer, counts) } else { (older, newer) });
    }

    /// No echo comes: what was measured says nothing of now.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What is lost each way; nothing before so many probes have left.
    pub(super) const fn now(&self) -> Option<EachWay> {
        self.now
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// So many probes, of which each `there`th is lost on its way, and of the echoes each `back`th.
    fn probes(loss: &mut LossEachWay, counts: &mut Counts, count: u64, there: u64, back: u64) {
        for _ in 0..count {
            counts.sent += 1;
            if counts.sent.is_multiple_of(there) {
                continue;
            }
            counts.received_there += 1;
            if counts.received_there.is_multiple_of(back) {
                continue;
            }
            counts.echoes += 1;
            loss.take(*counts);
        }
    }

    #[test]
    fn each_way_is_told_by_itself_and_follows_a_change() {
        let (mut loss, mut counts) = (LossEachWay::default(), Counts::default());
        probes(&mut loss, &mut counts, WINDOW / 2, 1000, 1000);
        assert_eq!(loss.now(), None, "too few to say");
        for (there, back, expected) in [(4, 1000, (0.25, 0.0)), (1000, 5, (0.0, 0.2)), (1000, 1000, (0.0, 0.0))] {
            probes(&mut loss, &mut counts, 3 * WINDOW, there, back);
            let now = loss.now().unwrap();
            assert!(
                (now.there - expected.0).abs() < 0.03 && (now.back - expected.1).abs() < 0.03,
                "{now:?} {expected:?}"
            );
        }
    }

    #[test]
    fn a_peer_that_begins_anew_and_a_silence_begin_the_measure_anew() {
        let (mut loss, mut counts) = (LossEachWay::default(), Counts::default());
        probes(&mut loss, &mut counts, 4 * WINDOW, 1000, 1000);
        counts.received_there = 0;
        probes(&mut loss, &mut counts, 3, 1000, 1000);
        assert_eq!(loss.now(), None);
        probes(&mut loss, &mut counts, 2 * WINDOW, 1000, 1000);
        assert_eq!(loss.now(), Some(EachWay { there: 0.0, back: 0.0 }));
        loss.forget();
        assert_eq!(loss.now(), None);
    }

    #[test]
    fn what_was_counted_twice_or_out_of_order_is_no_negative_loss() {
        let mut loss = LossEachWay::default();
        for sent in 1..=3 * WINDOW {
            loss.take(Counts { sent, received_there: sent * 2, echoes: sent * 3 });
        }
        assert_eq!(loss.now(), Some(EachWay { there: 0.0, back: 0.0 }));
    }
}
