//! What has happened, kept over runs: whoever asks after a restart what led to it finds it.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use tracing::warn;

use crate::{
    control::{EventRecord, History},
    state::{Keeper, StateFile},
};

/// Version of the file, and its longest length, bytes: some ten times what a full history needs.
const EVENTS: (u32, u64) = (1, 4 << 20);

/// The history, and the file where it is kept.
pub(super) struct Past {
    history: Arc<History>,
    keeper: Keeper<Vec<EventRecord>>,
    /// As many events had there been when it was kept last.
    kept: u64,
}

impl Past {
    /// Takes over what earlier runs kept. What cannot be read is said, and begins anew.
    ///
    /// # Errors
    ///
    /// Without another thread.
    pub(super) fn load(directory: &Path) -> Result<Self> {
        let file = StateFile::new(directory.join("events.json"), EVENTS.0, EVENTS.1);
        let history = Arc::new(History::default());
        match file.read::<Vec<EventRecord>>() {
            Ok(records) => records.unwrap_or_default().into_iter().for_each(|record| history.push(record)),
            Err(error) => warn!("the events of earlier runs are not known: {error}"),
        }
        let kept = history.count();
        Ok(Self { history, keeper: Keeper::start("lw-events", "what has happened", file)?, kept })
    }

    pub(super) fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Keeps what has happened since the last call. Never waits for the disk.
    pub(super) fn keep(&mut self) {
        let count = self.history.count();
        if count != self.kept {
            self.kept = count;
            let recent = self.history.recent();
            // Nobody waits for it: what is wrong with the disk is said by the thread that writes.
            drop(self.keeper.keep(recent.iter().map(|record| EventRecord::clone(record)).collect()));
        }
    }

    /// Keeps the last of it, and waits for that, not for long.
    pub(super) fn stop(mut self) {
        self.keep();
        self.keeper.stop();
    }
}
