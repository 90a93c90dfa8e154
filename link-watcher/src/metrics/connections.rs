//! The connections that are served now: not more than [`MAX`], and which goes where another comes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::task::{AbortHandle, JoinSet};

/// Most connections at one time.
const MAX: usize = 16;

/// Whether a connection has asked for something.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<AtomicBool>);

impl Asked {
    /// It has.
    pub(super) fn note(&self) {
        self.0.store(true, Relaxed);
    }
}

/// All connections; they end with it.
#[derive(Default)]
pub(super) struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first.
    open: VecDeque<(AbortHandle, Asked)>,
}

impl Connections {
    /// Serves one more. Where there are too many the oldest of those that have not asked for anything is closed, or the oldest
    /// of all.
    pub(super) fn add<F: Future<Output = ()> + Send + 'static>(&mut self, serve: impl FnOnce(Asked) -> F) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|(task, _)| !task.is_finished());
        if self.open.len() >= MAX {
            let silent = self.open.iter().position(|(_, asked)| !asked.0.load(Relaxed)).unwrap_or(0);
            if let Some((task, _)) = self.open.remove(silent) {
                task.abort();
            }
        }
        let asked = Asked::default();
        let task = self.tasks.spawn(serve(asked.clone()));
        self.open.push_back((task, asked));
    }
}
