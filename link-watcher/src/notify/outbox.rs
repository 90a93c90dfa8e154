//! What waits to be told to somebody, and when it is told; pure: the time comes in, messages go out.
//!
//! 1. After the first event others of the same failure are awaited for [`GATHER_NS`].
//! 2. Between two messages lies the least interval that the notifier has. What happens meanwhile becomes one message.
//! 3. What could not be sent is tried again, ever more slowly, together with what has happened since. Good news, such as a
//!    link that is back, is a reason to try at once: it may be the way out.
//! 4. What is refused [`MAX_REFUSALS`] times, or could not be sent for [`MAX_AGE_NS`], is given up; the next message says how much that was.
//! 5. Only the last [`MAX_EVENTS`] events are kept; of older ones the number.

use std::{collections::VecDeque, sync::Arc};

use crate::control::EventRecord;

/// Most events in one message.
pub(super) const MAX_EVENTS: usize = 64;
/// How long after the first event others are awaited, ns.
pub(super) const GATHER_NS: u64 = SECOND_NS;
/// How often a message is offered to somebody who refuses it.
pub(super) const MAX_REFUSALS: u32 = 5;
/// How long a message is tried, ns.
pub(super) const MAX_AGE_NS: u64 = 24 * 3600 * SECOND_NS;
/// Least and longest time between two tries, ns.
const RETRY_NS: u64 = 5 * SECOND_NS;
const MAX_RETRY_NS: u64 = 300 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;

/// What is told in one message.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// The last events, the oldest first.
    pub(super) events: Vec<Arc<EventRecord>>,
    /// How many more there were, which are not known any more.
    pub(super) omitted: u64,
}

/// What becomes of a message that could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is tried again in so long, ns.
    Retry(u64),
    /// It is not.
    GivenUp,
}

/// What waits for one notifier.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    min_interval_ns: u64,
    waiting: VecDeque<Arc<EventRecord>>,
    omitted: u64,
    /// When the oldest of those that wait came.
    since_ns: Option<u64>,
    due_ns: Option<u64>,
    /// When the last message was sent, or tried.
    tried_ns: Option<u64>,
    failures: u32,
    refusals: u32,
}

impl Outbox {
    /// With this least time between two messages.
    pub(super) fn new(min_interval_ns: u64) -> Self {
        Self { min_interval_ns, ..Self::default() }
    }

    /// Changes the least time between two messages, from the next message on.
    pub(super) fn set_min_interval(&mut self, min_interval_ns: u64) {
        self.min_interval_ns = min_interval_ns;
    }

    /// The configuration has changed: what failed may work now.
    pub(super) fn try_soon(&mut self, now_ns: u64) {
        self.refusals = 0;
        if self.failures > 0 {
            self.hasten(now_ns);
        }
    }

    /// Something has happened.
    pub(super) fn push(&mut self, now_ns: u64, event: Arc<EventRecord>) {
        let good_news = matches!(event.what.as_str(), "link-up" | "peer-back") || !event.to.is_empty();
        self.waiting.push_back(event);
        self.bound();
        self.since_ns.get_or_insert(now_ns);
        if self.failures > 0 && self.due_ns.is_some() {
            if good_news {
                self.hasten(now_ns);
            }
            return;
        }
        let earliest_ns = self.tried_ns.map_or(0, |tried_ns| tried_ns.saturating_add(self.min_interval_ns));
        self.due_ns.get_or_insert(earliest_ns.max(now_ns + GATHER_NS));
    }

    /// So many events came too fast to be taken.
    pub(super) fn lose(&mut self, count: u64) {
        self.omitted = self.omitted.saturating_add(count);
    }

    /// When something is to be sent.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// What is to be sent now, if it is time. Whoever takes it says what became of it, [`Outbox::sent`] or
    /// [`Outbox::failed`].
    pub(super) fn take(&mut self, now_ns: u64) -> Option<Batch> {
        self.due_ns.filter(|due_ns| *due_ns <= now_ns)?;
        self.due_ns = None;
        self.tried_ns = Some(now_ns);
        Some(Batch { events: self.waiting.drain(..).collect(), omitted: std::mem::take(&mut self.omitted) })
    }

    /// It was sent. Gives how many tries had failed before.
    pub(super) fn sent(&mut self) -> u32 {
        (self.since_ns, self.refusals) = (None, 0);
        std::mem::take(&mut self.failures)
    }

    /// It was not: `refused`, rather than not reached.
    pub(super) fn failed(&mut self, now_ns: u64, batch: Batch, refused: bool) -> Fate {
        self.failures = self.failures.saturating_add(1);
        self.refusals += u32::from(refused);
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        self.omitted = self.omitted.saturating_add(batch.omitted);
        if self.refusals >= MAX_REFUSALS || now_ns.saturating_sub(since_ns) >= MAX_AGE_NS {
            self.lose(batch.events.len() as u64);
            (self.since_ns, self.refusals, self.failures) = (None, 0, 0);
            return Fate::GivenUp;
        }
        batch.events.into_iter().rev().for_each(|event| self.waiting.push_front(event));
        self.bound();
        let wait_ns = RETRY_NS.saturating_mul(1 << (self.failures - 1).min(16)).min(MAX_RETRY_NS);
        self.due_ns = Some(now_ns + wait_ns);
        Fate::Retry(wait_ns)
    }

    /// Tries again as soon as can be.
    fn hasten(&mut self, now_ns: u64) {
        let earliest_ns = self.tried_ns.map_or(0, |tried_ns| tried_ns + RETRY_NS).max(now_ns + GATHER_NS);
        self.due_ns = self.due_ns.map(|due_ns| due_ns.min(earliest_ns));
    }

    /// The oldest become a number.
    fn bound(&mut self) {
        while self.waiting.len() > MAX_EVENTS {
            self.waiting.pop_front();
            self.lose(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MINUTE_NS: u64 = 60 * SECOND_NS;

    fn event(what: &str, why: &str) -> Arc<EventRecord> {
        Arc::new(EventRecord { what: what.to_owned(), why: why.to_owned(), ..EventRecord::default() })
    }

    fn whys(batch: &Batch) -> Vec<&str> {
        batch.events.iter().map(|event| event.why.as_str()).collect()
    }

    #[test]
    fn what_belongs_together_is_one_message() {
        let mut outbox = Outbox::new(MINUTE_NS);
        assert_eq!((outbox.due_ns(), outbox.take(0).is_none()), (None, true));
        outbox.push(5, event("link-down", "a"));
        outbox.push(6, event("active-changed", "b"));
        assert_eq!(outbox.due_ns(), Some(5 + GATHER_NS));
        assert!(outbox.take(4 + GATHER_NS).is_none());
        assert_eq!(whys(&outbox.take(5 + GATHER_NS).unwrap()), ["a", "b"]);
        assert_eq!(outbox.sent(), 0);
        assert_eq!(outbox.due_ns(), None);
    }

    #[test]
    fn within_the_least_interval_all_is_put_together() {
        let mut outbox = Outbox::new(MINUTE_NS);
        outbox.push(0, event("link-down", "first"));
        let first_ns = GATHER_NS;
        outbox.take(first_ns).unwrap();
        outbox.sent();
        for second in 2..50 {
            outbox.push(second * SECOND_NS, event("link-down", "later"));
            assert_eq!(outbox.due_ns(), Some(first_ns + MINUTE_NS));
        }
        assert_eq!(outbox.take(first_ns + MINUTE_NS).unwrap().events.len(), 48);
        outbox.sent();
        // Long after it, only what belongs together is awaited.
        outbox.push(500 * SECOND_NS, event("link-up", "back"));
        assert_eq!(outbox.due_ns(), Some(500 * SECOND_NS + GATHER_NS));
    }

    #[test]
    fn a_failure_is_tried_again_ever_more_slowly_with_what_came_meanwhile() {
        let mut outbox = Outbox::new(0);
        outbox.push(0, event("link-down", "a"));
        let mut waits = Vec::new();
        for round in 0..9 {
            let now_ns = outbox.due_ns().unwrap();
            let batch = outbox.take(now_ns).unwrap();
            assert_eq!(batch.events.len(), 1 + round);
            outbox.push(now_ns, event("link-down", "more"));
            let Fate::Retry(wait_ns) = outbox.failed(now_ns, batch, false) else { panic!() };
            waits.push(wait_ns / SECOND_NS);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        let batch = outbox.take(outbox.due_ns().unwrap()).unwrap();
        assert_eq!((batch.events[0].why.as_str(), batch.events.len()), ("a", 10));
        assert_eq!(outbox.sent(), 9);
    }

    #[test]
    fn good_news_are_tried_soon_but_not_faster_than_the_first_retry() {
        let mut outbox = Outbox::new(0);
        outbox.push(0, event("no-usable-link", "a"));
        let mut now_ns = 0;
        for _ in 0..8 {
            now_ns = outbox.due_ns().unwrap();
            let batch = outbox.take(now_ns).unwrap();
            outbox.failed(now_ns, batch, false);
        }
        outbox.push(now_ns + SECOND_NS, event("link-down", "bad news change nothing"));
        assert_eq!(outbox.due_ns(), Some(now_ns + MAX_RETRY_NS));
        outbox.push(now_ns + SECOND_NS, event("link-up", "b"));
        assert_eq!(outbox.due_ns(), Some(now_ns + RETRY_NS));
        let later_ns = now_ns + RETRY_NS;
        let batch = outbox.take(later_ns).unwrap();
        assert_eq!(whys(&batch), ["a", "bad news change nothing", "b"]);
        outbox.failed(later_ns, batch, false);
        outbox.try_soon(later_ns + MINUTE_NS);
        assert_eq!(outbox.due_ns(), Some(later_ns + MINUTE_NS + GATHER_NS), "a new configuration is good news too");
    }

    #[test]
    fn only_the_last_events_are_kept_and_the_number_of_the_others() {
        let mut outbox = Outbox::new(0);
        for n in 0..MAX_EVENTS + 7 {
            outbox.push(0, event("link-down", &n.to_string()));
        }
        outbox.lose(3);
        let batch = outbox.take(GATHER_NS).unwrap();
        assert_eq!((batch.events.len(), batch.omitted, batch.events[0].why.as_str()), (MAX_EVENTS, 10, "7"));
        outbox.push(GATHER_NS, event("link-up", "new"));
        outbox.failed(GATHER_NS, batch, false);
        let batch = outbox.take(outbox.due_ns().unwrap()).unwrap();
        let last = batch.events.last().unwrap().why.clone();
        assert_eq!((batch.events.len(), batch.omitted, last.as_str()), (MAX_EVENTS, 11, "new"));
    }

    #[test]
    fn what_is_refused_again_and_again_is_given_up_and_told_of() {
        let mut outbox = Outbox::new(0);
        outbox.push(0, event("link-down", "a"));
        for refusal in 1..=MAX_REFUSALS {
            let now_ns = outbox.due_ns().unwrap();
            let batch = outbox.take(now_ns).unwrap();
            let fate = outbox.failed(now_ns, batch, true);
            assert_eq!(fate == Fate::GivenUp, refusal == MAX_REFUSALS);
        }
        assert_eq!(outbox.due_ns(), None);
        outbox.push(MAX_AGE_NS, event("link-up", "b"));
        let batch = outbox.take(MAX_AGE_NS + GATHER_NS).unwrap();
        assert_eq!((whys(&batch), batch.omitted), (vec!["b"], 1));
    }

    #[test]
    fn what_cannot_be_sent_for_a_day_is_given_up() {
        let mut outbox = Outbox::new(0);
        outbox.push(0, event("link-down", "a"));
        let mut tries = 0;
        loop {
            let now_ns = outbox.due_ns().unwrap();
            let batch = outbox.take(now_ns).unwrap();
            tries += 1;
            if outbox.failed(now_ns, batch, false) == Fate::GivenUp {
                assert!((MAX_AGE_NS..MAX_AGE_NS + MAX_RETRY_NS).contains(&now_ns));
                break;
            }
        }
        assert!((290..300).contains(&tries), "{tries}");
    }
}
