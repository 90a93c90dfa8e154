//! Probes of uplinks: a thread of its own that asks targets through each uplink, and tells verdicts.
//!
//! It knows nothing of groups or routes: it is given [`ProbedUplink`]s and gives [`UplinkReport`]s. Each uplink is a task of
//! its own, each probe another, so that no uplink waits for another's. The judging is [`Health`](crate::health::Health)'s.

mod arp;
mod dns;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod http;
mod icmp;
mod ndp;
mod send;
mod socket;
mod task;
mod tcp;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tracing::warn;

use self::task::Shared;
use super::Path;
use crate::{
    config::ProbeConfig,
    event::LinkId,
    health::{Figures, TargetFigures, Verdict},
    tls::Tls,
};

/// A verdict is with the daemon within this time, ns.
pub const VERDICT_NS: u64 = 100_000_000;

/// An uplink, as the prober needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedUplink {
    /// Its slot.
    pub link: LinkId,
    /// Interface name.
    pub interface: String,
    /// The interface's index; 0: there is none now.
    pub ifindex: u32,
    /// IPv4, where the uplink has it now.
    pub ipv4: Option<Path>,
    /// IPv6 likewise.
    pub ipv6: Option<Path>,
    /// Mark of its probes: its own in the group's mask, so that its own table routes them; 0: none.
    pub mark: u32,
    /// How often its interface, carrier, address or gateway has been lost. Each time its probes must rise again.
    pub losses: u64,
    /// How it is probed.
    pub config: ProbeConfig,
}

/// An uplink's verdict has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkReport {
    /// Uplink.
    pub link: LinkId,
    /// What it is now.
    pub verdict: Verdict,
    /// End of the last good round, monotonic ns; 0: never.
    pub last_good_ns: u64,
    /// Why the last probe without answer had none, with its target; nothing with [`Verdict::Up`].
    pub last_failure: Option<String>,
}

/// What is known of an uplink, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkFigures {
    /// Verdict and measurements.
    pub figures: Figures,
    /// When another verdict may follow, ns; nothing: none is near.
    pub verdict_due_ns: Option<u64>,
    /// Why the last probe without answer had none, with its target; forgotten when the uplink is up.
    pub last_failure: Option<String>,
    /// Each target, as people call it, in the order of the configuration.
    pub targets: Vec<(String, TargetFigures)>,
}

/// Passive evidence that an uplink works.
pub trait Evidence: Send + Sync {
    /// How many packets of established connections have come in by this uplink so far, counted at `since_ns` (monotonic clock) or
    /// later; nothing where that is not known yet, or nobody counts. It is only asked while targets are silent, and must not wait.
    fn replies(&self, link: LinkId, since_ns: u64) -> Option<u64>;
}

/// No passive evidence.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvidence;

impl Evidence for NoEvidence {
    fn replies(&self, _: LinkId, _: u64) -> Option<u64> {
        None
    }
}

/// The way to the thread. Dropped, the thread ends.
pub struct UplinkProber {
    wanted: watch::Sender<Vec<ProbedUplink>>,
    figures: FiguresByLink,
    thread: JoinHandle<()>,
}

/// Kept up to date by the thread.
type FiguresByLink = Arc<Mutex<BTreeMap<LinkId, UplinkFigures>>>;

impl UplinkProber {
    /// Probes these from now on, and no others. One that was there before keeps its state, also under a new interface index,
    /// address, gateway or mark; only a changed [`ProbeConfig`] begins anew. Never waits.
    pub fn set(&self, uplinks: Vec<ProbedUplink>) {
        self.wanted.send_replace(uplinks);
    }

    /// What is known of an uplink; nothing before its first probe.
    pub fn figures(&self, link: LinkId) -> Option<UplinkFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).get(&link).cloned()
    }

    /// Stops the thread and waits for it, which takes no longer than closing its sockets.
    pub fn stop(self) {
        drop(self.wanted);
        if self.thread.join().is_err() {
            warn!("the thread that probes uplinks has panicked");
        }
    }
}

/// Starts the thread. Of each uplink the latest verdict arrives, however long `reports` is full.
///
/// # Errors
///
/// If the kernel gives no event descriptors or no thread.
pub fn spawn(reports: mpsc::Sender<UplinkReport>, evidence: Arc<dyn Evidence>) -> Result<UplinkProber> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("epoll")?;
    let (wanted, changes) = watch::channel(Vec::new());
    let figures = FiguresByLink::default();
    let shared = Shared { reports, evidence, figures: Arc::clone(&figures), tls: Tls::default() };
    let thread = std::thread::Builder::new()
        .name("lw-uplink-probe".to_owned())
        .spawn(move || {
            crate::realtime::lower();
            runtime.block_on(keep(changes, shared));
            // A thread that reads certificates must not hold the stop up.
            runtime.shutdown_background();
        })
        .context("starting the thread that probes uplinks")?;
    Ok(UplinkProber { wanted, figures, thread })
}

/// Keeps one task for each uplink that is wanted, until nobody wants anything.
async fn keep(mut changes: watch::Receiver<Vec<ProbedUplink>>, shared: Shared) {
    let mut running: BTreeMap<LinkId, (watch::Sender<Arc<ProbedUplink>>, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = changes.borrow_and_update().clone();
        running.retain(|link, (_, task)| {
            let stays = wanted.iter().any(|uplink| uplink.link == *link);
            if !stays {
                task.abort();
                shared.figures().remove(link);
            }
            stays
        });
        for uplink in wanted {
            let uplink = Arc::new(uplink);
            if let Some((orders, _)) = running.get(&uplink.link) {
                orders.send_if_modified(|known| {
                    let changed = *known != uplink;
                    known.clone_from(&uplink);
                    changed
                });
                continue;
            }
            let link = uplink.link;
            let (orders, changes) = watch::channel(uplink);
            running.insert(link, (orders, tasks.spawn(task::run(changes, shared.clone()))));
        }
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(ended) = tasks.join_next() => if let Err(error) = ended && error.is_panic() {
                    warn!("probing an uplink ends: {error}");
                },
            }
        }
    }
}
