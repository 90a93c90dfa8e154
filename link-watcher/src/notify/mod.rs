//! Telling people what happened: by mail, by an HTTP request, by a program.
//!
//! ```text
//!  core ─▶ history (256 events, never waits) ─▶ a task for each notifier: outbox ─▶ message ─▶ delivery
//! ```
//!
//! It all runs on the thread that serves people. The core knows nothing of it: it writes its history, and who does not
//! read in time loses events, learns how many, and says so in the next message.

mod delivery;
mod email;
mod exec;
mod message;
mod outbox;
mod task;
mod template;
mod webhook;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub use self::delivery::{Delivery, DeliveryError};
pub(crate) use self::task::{Notifiers, serve};

/// How often what became of messages, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Messages that were taken.
    pub sent: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Messages that are not tried any more.
    pub given_up: u64,
}

/// [`Results`] by notifier, for whoever asks.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, Results>>);

impl Tally {
    /// All of them, by name.
    pub fn all(&self) -> BTreeMap<String, Results> {
        self.lock().clone()
    }

    fn count(&self, notifier: &str, count: impl FnOnce(&mut Results)) {
        count(self.lock().entry(notifier.to_owned()).or_default());
    }

    /// These are the notifiers from now on.
    fn retain(&self, notifiers: &[&str]) {
        let mut all = self.lock();
        all.retain(|known, _| notifiers.contains(&known.as_str()));
        for notifier in notifiers {
            all.entry((*notifier).to_owned()).or_default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Results>> {
        // Whoever panicked with the lock held left whole numbers behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
