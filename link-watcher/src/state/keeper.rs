//! The thread that writes: whoever has something to keep hands it over and goes on, however slow the disk is.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::StateFile;

/// Those who wait until something is written; beyond these nobody is told.
const MAX_WAITING: usize = 64;
/// When a write that failed is tried again, at first and at most.
const RETRIES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How long a daemon that stops waits for the disk.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Where something is kept.
pub trait Store<T>: Send + 'static {
    /// Keeps it in the place of what was kept before, and returns when a power failure does not take it away.
    ///
    /// # Errors
    ///
    /// Why it is not kept.
    fn keep(&mut self, what: &T) -> Result<(), String>;
}

impl<T: Serialize> Store<T> for StateFile {
    fn keep(&mut self, what: &T) -> Result<(), String> {
        self.write(what, true).map_err(|error| error.to_string())
    }
}

/// Whether something was kept, or why not.
pub type Kept = Result<(), String>;

/// The way to the thread that writes. What is handed over replaces what was not written yet.
#[derive(Debug)]
pub struct Keeper<T> {
    shared: Arc<Shared<T>>,
    ended: mpsc::Receiver<()>,
}

#[derive(Debug)]
struct Shared<T> {
    work: Mutex<Work<T>>,
    changed: Condvar,
    subject: &'static str,
}

#[derive(Debug)]
struct Work<T> {
    next: Option<T>,
    waiting: Vec<oneshot::Sender<Kept>>,
    problem: Option<String>,
    stop: bool,
}

impl<T: Send + 'static> Keeper<T> {
    /// Starts the thread; `subject` is what is kept, for people. Do so before the calling thread becomes a real-time one: this one
    /// inherits its scheduling.
    ///
    /// # Errors
    ///
    /// Without another thread.
    pub fn start(name: &'static str, subject: &'static str, store: impl Store<T>) -> Result<Self> {
        Self::start_with(name, subject, store, RETRIES)
    }

    fn start_with(
        name: &'static str,
        subject: &'static str,
        store: impl Store<T>,
        retries: (Duration, Duration),
    ) -> Result<Self> {
        let work = Work { next: None, waiting: Vec::new(), problem: None, stop: false };
        let shared = Arc::new(Shared { work: Mutex::new(work), changed: Condvar::new(), subject });
        let (ends, ended) = mpsc::channel();
        let body = {
            let shared = Arc::clone(&shared);
            move || {
                shared.serve(store, retries);
                // Nobody may listen any more.
                let _ = ends.send(());
            }
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .with_context(|| format!("starting the thread {name}"))?;
        Ok(Self { shared, ended })
    }

    /// Has something kept. Never waits; what comes of it is told by the channel, if at all.
    pub fn keep(&self, what: T) -> oneshot::Receiver<Kept> {
        let (tell, told) = oneshot::channel();
        let mut work = self.shared.work();
        work.next = Some(what);
        if work.waiting.len() < MAX_WAITING {
            work.waiting.push(tell);
        }
        self.shared.changed.notify_one();
        told
    }

    /// Why what was handed over last is not kept.
    pub fn problem(&self) -> Option<String> {
        self.shared.work().problem.clone()
    }

    /// Ends the thread, once what was handed over is written, or the disk has had its time.
    pub fn stop(self) {
        self.shared.work().stop = true;
        self.shared.changed.notify_one();
        if self.ended.recv_timeout(STOP_LIMIT).is_err() {
            let subject = self.shared.subject;
            warn!("the disk takes more than {} s: the last of {subject} may be lost", STOP_LIMIT.as_secs());
        }
    }
}

impl<T> Shared<T> {
    fn work(&self) -> MutexGuard<'_, Work<T>> {
        // Whoever panicked with the lock held left nothing half done behind.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut store: impl Store<T>, (first, most): (Duration, Duration)) {
        let mut unwritten = None;
        let mut pause = first;
        loop {
            let (next, waiting, stop) = {
                let mut work = self.work();
                if unwritten.is_none() {
                    let idle = |work: &mut Work<T>| work.next.is_none() && !work.stop;
                    work = self.changed.wait_while(work, idle).unwrap_or_else(PoisonError::into_inner);
                } else {
                    let idle = |work: &mut Work<T>| work.next.is_none() && !work.stop;
                    let waited = self.changed.wait_timeout_while(work, pause, idle);
                    work = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                (work.next.take(), std::mem::take(&mut work.waiting), work.stop)
            };
            if let Some(what) = next.or_else(|| unwritten.take()) {
                let kept = store.keep(&what);
                pause = if kept.is_ok() { first } else { (pause * 2).min(most) };
                unwritten = kept.is_err().then_some(what);
                self.note(&kept);
                for tell in waiting {
                    // Whoever ordered it may have gone: that is their affair.
                    let _ = tell.send(kept.clone());
                }
            }
            if stop {
                return;
            }
        }
    }

    /// Says what has changed, and not every failure again.
    fn note(&self, kept: &Kept) {
        let problem = kept.clone().err();
        let before = std::mem::replace(&mut self.work().problem, problem.clone());
        match problem {
            Some(problem) if before.as_ref() != Some(&problem) => {
                warn!("{} would not outlive a restart, for writing fails: {problem}", self.subject);
            }
            None if before.is_some() => info!("{} can be written again", self.subject),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A disk that remembers what it was given, and fails when told to.
    #[derive(Clone, Default)]
    struct FakeStore(Arc<Mutex<(Vec<u32>, Vec<&'static str>)>>);

    impl Store<u32> for FakeStore {
        fn keep(&mut self, what: &u32) -> Result<(), String> {
            let mut state = self.0.lock().unwrap();
            if let Some(failure) = state.1.pop() {
                return Err(failure.to_owned());
            }
            state.0.push(*what);
            Ok(())
        }
    }

    impl FakeStore {
        fn failing(failures: &[&'static str]) -> Self {
            Self(Arc::new(Mutex::new((Vec::new(), failures.to_vec()))))
        }

        fn kept(&self) -> Vec<u32> {
            self.0.lock().unwrap().0.clone()
        }
    }

    #[test]
    fn what_is_handed_over_is_kept_and_told() {
        let store = FakeStore::default();
        let keeper = Keeper::start("keeper", "a number", store.clone()).unwrap();
        assert_eq!(keeper.keep(1).blocking_recv(), Ok(Ok(())));
        assert_eq!(keeper.keep(2).blocking_recv(), Ok(Ok(())));
        drop(keeper.keep(3));
        keeper.stop();
        assert_eq!(store.kept(), [1, 2, 3], "the last one too, though nobody waits");
    }

    #[test]
    fn a_failure_is_told_shown_and_tried_again() {
        let store = FakeStore::failing(&["no space"; 2]);
        let soon = Duration::from_millis(1);
        let keeper = Keeper::start_with("keeper", "a number", store.clone(), (soon, soon)).unwrap();
        assert_eq!(keeper.keep(1).blocking_recv(), Ok(Err("no space".to_owned())));
        // Whoever comes next makes it write at once; who comes after the retry finds it written.
        while keeper.problem().is_some() {
            thread::yield_now();
        }
        assert_eq!(store.kept(), [1]);
        keeper.stop();
    }

    #[test]
    fn the_newest_replaces_what_could_not_be_written() {
        let store = FakeStore::failing(&["read-only"]);
        let never = Duration::from_secs(3600);
        let keeper = Keeper::start_with("keeper", "a number", store.clone(), (never, never)).unwrap();
        assert_eq!(keeper.keep(1).blocking_recv(), Ok(Err("read-only".to_owned())));
        assert_eq!(keeper.problem().unwrap(), "read-only");
        assert_eq!(keeper.keep(2).blocking_recv(), Ok(Ok(())));
        assert_eq!((keeper.problem(), store.kept()), (None, vec![2]));
        keeper.stop();
    }
}
