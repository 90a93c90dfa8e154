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
    replies: Mutex<BTreeMap<LinkId, u64>>,
    asked: Notify,
}

impl Counted {
    /// Until somebody asks.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Takes new counts over.
    pub(super) fn set(&self, replies: impl IntoIterator<Item = (LinkId, u64)>) {
        *self.replies.lock().unwrap_or_else(PoisonError::into_inner) = replies.into_iter().collect();
    }
}

impl Evidence for Counted {
    fn replies(&self, link: LinkId) -> Option<u64> {
        self.asked.notify_one();
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).get(&link).copied()
    }
}
