//! Passive evidence, between the thread that counts and the one that asks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::{event::LinkId, uplink::probe::Evidence};

/// Counters as they were last read. Whoever asks has them read again, and does not wait for it: the next answer is newer.
#[derive(Debug, Default)]
pub(super) struct Counted {
    last: Mutex<Count>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Count {
    /// When it was begun, ns.
    at_ns: u64,
    replies: BTreeMap<LinkId, u64>,
}

impl Counted {
    /// Until somebody asks.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Takes new counts over; they were begun to be read at `at_ns`.
    pub(super) fn set(&self, at_ns: u64, replies: impl IntoIterator<Item = (LinkId, u64)>) {
        let replies = replies.into_iter().collect();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Count { at_ns, replies };
    }
}

impl Evidence for Counted {
    fn replies(&self, link: LinkId, since_ns: u64) -> Option<u64> {
        self.asked.notify_one();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.replies.get(&link).copied().filter(|_| last.at_ns >= since_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_from_before_the_doubt_is_none() {
        let counted = Counted::default();
        let link = LinkId(1);
        assert_eq!(counted.replies(link, 0), None, "nobody has counted yet");
        counted.set(100, [(link, 7)]);
        assert_eq!(counted.replies(link, 100), Some(7));
        // Connections went on, then targets are silent again: the old count must not be what the next one is compared with.
        assert_eq!(counted.replies(link, 101), None);
        counted.set(150, [(link, 900)]);
        assert_eq!(counted.replies(link, 101), Some(900));
    }
}
