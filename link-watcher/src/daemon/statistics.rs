//! Has statistics of what happens, and keeps them.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc, oneshot,
    },
    time::{Instant, MissedTickBehavior, interval},
};

use super::core::{Core, Request};
use crate::{
    clock,
    control::EventRecord,
    event::{GroupId, LinkId, LinkVerdict},
    state::Keeper,
    statistics::{Kept, Measured, Statistics},
};

/// How often links are looked at. States have their times from events; this is for round trips and counters.
const LOOK: Duration = Duration::from_secs(5);
/// How often the sums are written.
const KEEP: Duration = Duration::from_secs(60);

/// How the links were found, and when, ns.
#[derive(Debug)]
pub(super) struct Look {
    taken_ns: u64,
    found: Vec<Measured>,
}

/// The sums, and the thread that writes them.
pub(super) struct Statisticians {
    statistics: Arc<Statistics>,
    keeper: Keeper<Kept>,
    kept: Instant,
}

impl Statisticians {
    /// Goes on with what earlier runs kept.
    ///
    /// # Errors
    ///
    /// Without another thread.
    pub(super) fn load(directory: &Path) -> Result<Self> {
        let statistics = Arc::new(Statistics::load(directory));
        let keeper = Keeper::start("lw-statistics", "statistics", statistics.writer())?;
        Ok(Self { statistics, keeper, kept: Instant::now() })
    }

    pub(super) fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// Has them written once a minute. Never waits for the disk.
    pub(super) fn keep(&mut self) {
        if self.kept.elapsed() >= KEEP {
            self.kept = Instant::now();
            // Nobody waits for it: what is wrong with the disk is said by the thread that writes.
            drop(self.keeper.keep(self.statistics.to_keep(false)));
        }
        self.statistics.set_problem(self.keeper.problem());
    }

    /// Writes the last of them, and waits for that, not for long.
    pub(super) fn stop(self) {
        drop(self.keeper.keep(self.statistics.to_keep(true)));
        self.keeper.stop();
    }
}

/// Notes what happens, and how links are found, until the core ends.
pub(super) async fn follow(
    statistics: Arc<Statistics>,
    mut events: broadcast::Receiver<Arc<EventRecord>>,
    requests: mpsc::Sender<Request>,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok(event) => statistics.event(&event),
                // The next look tells how all of it ended.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = looks.tick() => {
                let (answer, look) = oneshot::channel();
                if requests.send(Request::Look(answer)).await.is_err() {
                    return;
                }
                let Ok(look) = look.await else { return };
                // In the order in which they came about; what is newer than the look is not taken back by it.
                while let Ok(event) = events.try_recv() {
                    statistics.event(&event);
                }
                statistics.measured(look.taken_ns, &look.found);
            }
        }
    }
}

impl Core {
    /// How every link is now, without a word: this is asked all the time.
    pub(super) fn look(&self) -> Look {
        let found = self.engine.verdicts().filter_map(|(group, link, verdict)| self.measure(group, link, verdict));
        Look { taken_ns: clock::now_ns(), found: found.collect() }
    }

    fn measure(&self, group: GroupId, id: LinkId, verdict: LinkVerdict) -> Option<Measured> {
        let (sent, received, rtt_ns) = if self.links.contains_key(&id) {
            let state = &self.tables.states()[id.0 as usize];
            let rtt_ns = state.rtt_ns.load(Relaxed);
            (self.stats.of(id.0).sent.load(Relaxed), state.echoes.load(Relaxed), (rtt_ns > 0).then_some(rtt_ns))
        } else {
            let figures = self.uplinks.as_ref()?.figures(id).map(|known| known.figures);
            figures.map_or((0, 0, None), |figures| (figures.sent, figures.received, figures.rtt_ns))
        };
        let (group, link) = self.names(group, Some(id));
        Some(Measured { group, link: link?, verdict, sent, received, rtt_ns })
    }
}
