//! Who watches the watcher: each thread that others depend on shows that it gets on, and one that serves people looks.
//!
//! A thread that stands still says nothing by itself, and everything around it may look well. So each comes round at least
//! every [`HEARTBEAT_NS`], whether it has anything to do or not, and says so. A thread that ends is the end of the daemon: the
//! next one takes over what this one leaves.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::clock;

/// Least often that a watched thread comes round, ns.
pub const HEARTBEAT_NS: u64 = 1_000_000_000;

/// How one thread gets on.
#[derive(Debug)]
pub struct Progress {
    name: &'static str,
    /// For how long it may be at one thing, ns.
    limit_ns: u64,
    at_ns: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// It gets on. To be called once a round.
    pub fn made(&self, now_ns: u64) {
        self.at_ns.store(now_ns, Relaxed);
    }

    /// Whether it got on within the last `limit_ns`.
    pub fn within(&self, now_ns: u64, limit_ns: u64) -> bool {
        now_ns.saturating_sub(self.at_ns.load(Relaxed)) <= limit_ns
    }

    /// To be held by the thread: it has ended when this is dropped, however it ends.
    pub fn guard(self: &Arc<Self>) -> Guard {
        Guard(Arc::clone(self))
    }
}

/// A thread that is there.
#[derive(Debug)]
pub struct Guard(Arc<Progress>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}

/// What is wrong with a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is gone.
    Ended(&'static str),
    /// It has been at one thing for so long, ns.
    Stalled(&'static str, u64),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(name) => write!(f, "{name} has ended by itself, which is a fault of this program"),
            Self::Stalled(name, ns) => write!(
                f,
                "{name} has not come round for {} s: links are not watched. `systemctl restart link-watcher` moves no \
                 traffic; with WatchdogSec= systemd does so by itself",
                ns / 1_000_000_000
            ),
        }
    }
}

/// All threads that are watched.
#[derive(Debug, Default)]
pub struct Watch(Mutex<Vec<Arc<Progress>>>);

impl Watch {
    /// Watches one more thread, from now on.
    pub fn over(&self, name: &'static str, limit_ns: u64) -> Arc<Progress> {
        let at_ns = AtomicU64::new(clock::now_ns());
        let progress = Arc::new(Progress { name, limit_ns, at_ns, ended: AtomicBool::new(false) });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&progress));
        progress
    }

    /// The first thing that is wrong.
    pub fn trouble(&self, now_ns: u64) -> Option<Trouble> {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = threads.iter().find(|thread| thread.ended.load(Relaxed));
        let stalled = || threads.iter().find(|thread| !thread.within(now_ns, thread.limit_ns));
        ended.map(|thread| Trouble::Ended(thread.name)).or_else(|| {
            let thread = stalled()?;
            Some(Trouble::Stalled(thread.name, now_ns.saturating_sub(thread.at_ns.load(Relaxed))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stands_still_or_ends_is_noticed() {
        let watch = Watch::default();
        let core = watch.over("the core", 10);
        let prober = watch.over("the prober", 20);
        let guard = prober.guard();
        core.made(100);
        prober.made(100);
        assert_eq!(watch.trouble(110), None);
        assert_eq!(watch.trouble(111), Some(Trouble::Stalled("the core", 11)));
        core.made(111);
        assert_eq!(watch.trouble(120), None);
        assert_eq!(watch.trouble(121), Some(Trouble::Stalled("the prober", 21)));
        drop(guard);
        assert_eq!(watch.trouble(100), Some(Trouble::Ended("the prober")));
        assert!(core.within(115, 4) && !core.within(116, 4));
    }
}
