//! Clients who may only ask: however many they are, and however often they ask, they keep nobody out who orders, and cost the
//! core little.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, Semaphore, mpsc};

use super::serve::status;
use crate::{
    control::{Order, Reply},
    statistics::Statistics,
    status::Snapshot,
};

/// Of all clients those who may only ask: they never keep out somebody who orders.
pub(super) const MAX_READERS: usize = 16;
/// How old what they are shown may be: however often they ask, the core is asked no more often.
pub(super) const READERS_STALE: Duration = Duration::from_millis(200);
/// How many questions of theirs in a row are put to the core; then one each [`READERS_STALE`].
pub(super) const READERS_QUESTIONS: u32 = 10;

/// Those who may only ask.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) places: Arc<Semaphore>,
    /// What they were shown last, and when.
    shown: Mutex<Option<(Instant, Snapshot)>>,
    /// Questions of theirs that the core may still be asked.
    questions: std::sync::Mutex<Allowance>,
}

/// How often something may be done: [`READERS_QUESTIONS`] times at once, and once more each [`READERS_STALE`].
#[derive(Debug, Default)]
struct Allowance {
    /// When all of it may be used again.
    full: Option<Instant>,
}

impl Allowance {
    /// Uses one of them; `false`: there is none left.
    fn take(&mut self, now: Instant) -> bool {
        let from = self.full.map_or(now, |full| full.max(now));
        let left = from.duration_since(now) <= READERS_STALE * (READERS_QUESTIONS - 1);
        if left {
            self.full = Some(from + READERS_STALE);
        }
        left
    }
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_READERS)),
            shown: Mutex::default(),
            questions: std::sync::Mutex::default(),
        }
    }
}

impl Readers {
    /// What is so, at most [`READERS_STALE`] old. Who asks meanwhile waits for the same answer.
    pub(super) async fn status<T: From<Order>>(&self, orders: &mpsc::Sender<T>, statistics: &Statistics) -> Reply {
        let mut shown = self.shown.lock().await;
        if let Some((at, snapshot)) = &*shown
            && at.elapsed() < READERS_STALE
        {
            return Reply::Status(snapshot.clone());
        }
        let reply = status(orders, statistics).await;
        if let Reply::Status(snapshot) = &reply {
            *shown = Some((Instant::now(), snapshot.clone()));
        }
        reply
    }

    /// Whether a question of one of them may be put to the core now; each is answered anew.
    pub(super) fn may_ask(&self) -> bool {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_ask_often_at_once_and_then_as_time_goes_by() {
        let (mut allowance, begun) = (Allowance::default(), Instant::now());
        let mut at =
            |ms: u64, count: u32| (0..count).filter(|_| allowance.take(begun + Duration::from_millis(ms))).count();
        assert_eq!(at(0, 1_000), 10);
        assert_eq!((at(199, 5), at(200, 5), at(1_200, 100)), (0, 1, 5));
        assert_eq!(at(60_000, 1_000), 10, "what was not used does not add up");
    }
}
