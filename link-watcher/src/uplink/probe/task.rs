//! One uplink's task: carries out what its [`Health`] wants, and never waits for anything but the next thing to happen.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{debug, warn};

use super::{
    Evidence, ProbedUplink, UplinkFigures, UplinkReport, VERDICT_NS, send,
    socket::{Failure, random},
};
use crate::{
    clock,
    event::LinkId,
    health::{Action, Event, Health, ProbeId, Share, Verdict, is_flaky},
    tls::Tls,
};

/// What all uplinks' tasks share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) reports: mpsc::Sender<UplinkReport>,
    pub(super) evidence: Arc<dyn Evidence>,
    pub(super) figures: Arc<Mutex<BTreeMap<LinkId, UplinkFigures>>>,
    pub(super) tls: Tls,
}

impl Shared {
    pub(super) fn figures(&self) -> MutexGuard<'_, BTreeMap<LinkId, UplinkFigures>> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Probes one uplink until nobody wants it any more.
pub(super) async fn run(mut changes: watch::Receiver<Arc<ProbedUplink>>, shared: Shared) {
    let uplink = Arc::clone(&changes.borrow_and_update());
    let mut task = Task {
        health: begin(&uplink),
        uplink,
        probes: JoinSet::new(),
        last_failure: None,
        silent_since_ns: None,
        deferred: None,
        shared: shared.clone(),
    };
    loop {
        task.work();
        let wait = Duration::from_nanos(task.health.next_deadline().saturating_sub(clock::now_ns()));
        tokio::select! {
            // Answers come before the timer: one that waited while this thread was late is not to be overlooked.
            biased;
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let uplink = Arc::clone(&changes.borrow_and_update());
                task.change(uplink);
            }
            Some(ended) = task.probes.join_next() => match ended {
                Ok((probe, result)) => task.take(probe, result),
                // Its health will miss it.
                Err(error) => warn!("a probe through {} ends: {error}", task.uplink.interface),
            },
            permit = shared.reports.reserve(), if task.deferred.is_some() => match (permit, task.deferred.take()) {
                (Ok(permit), Some(report)) => permit.send(report),
                // Nobody listens any more.
                _ => return,
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn begin(uplink: &ProbedUplink) -> Health {
    // Without random numbers the order of targets is the same in each daemon, which harms nobody.
    let seed = random().map_or(u64::from(uplink.link.0), u64::from_ne_bytes);
    Health::new(uplink.config.spec(send::targets(&uplink.config)), seed, clock::now_ns())
}

/// Of each target of an uplink whether it is flaky by itself, by what all uplinks know of it.
fn flaky(known: &BTreeMap<LinkId, UplinkFigures>, link: LinkId) -> Vec<bool> {
    let asking = |name: &str| {
        let name = name.to_owned();
        known.values().filter_map(move |figures| {
            let (of, others): (Vec<_>, Vec<_>) = figures.targets.iter().partition(|(target, _)| *target == name);
            let (_, of) = of.first()?;
            Some((*of, others.into_iter().map(|(_, other)| other)))
        })
    };
    let own = known.get(&link).map_or(&[][..], |figures| &figures.targets);
    // This comes with each answer: of what loses nothing here nobody else need be asked.
    own.iter().map(|(name, of)| of.loss != Some(Share(0)) && is_flaky(asking(name))).collect()
}

struct Task {
    uplink: Arc<ProbedUplink>,
    health: Health,
    /// Probes under way. They end by themselves at their timeout.
    probes: JoinSet<(ProbeId, Result<Duration, Failure>)>,
    last_failure: Option<String>,
    /// Since when its targets are silent, ns; nothing: they are not.
    silent_since_ns: Option<u64>,
    /// The latest verdict, while the daemon has no room for it.
    deferred: Option<UplinkReport>,
    shared: Shared,
}

impl Task {
    fn work(&mut self) {
        let now_ns = clock::now_ns();
        self.silent_since_ns = self.health.wants_replies().then(|| self.silent_since_ns.unwrap_or(now_ns));
        // What came before says nothing of now.
        if let Some(since_ns) = self.silent_since_ns
            && let Some(replies) = self.shared.evidence.replies(self.uplink.link, since_ns)
        {
            self.health.handle(now_ns, Event::Replies(replies));
        }
        for action in self.health.poll(now_ns) {
            match action {
                Action::Send { probe, target } => {
                    let asking = send::probe(Arc::clone(&self.uplink), target, self.shared.tls.clone());
                    self.probes.spawn(async move { (probe, asking.await) });
                }
                Action::Tell { verdict, last_good_ns } => {
                    if verdict == Verdict::Up {
                        self.last_failure = None;
                    }
                    let last_failure = self.last_failure.clone();
                    let link = self.uplink.link;
                    self.deferred = Some(UplinkReport { link, verdict, last_good_ns, last_failure });
                }
            }
        }
        // What is known here, but not to the daemon yet, is still about to change for it.
        let told_ns = self.deferred.is_some().then_some(now_ns + VERDICT_NS);
        let mut known = self.shared.figures();
        self.health.set_flaky(flaky(&known, self.uplink.link));
        let targets = self.health.targets().enumerate();
        let figures = UplinkFigures {
            figures: self.health.figures(),
            verdict_due_ns: told_ns.or_else(|| self.health.verdict_due_ns()),
            last_failure: self.last_failure.clone(),
            targets: targets.map(|(index, known)| (send::name(&self.uplink, index), known)).collect(),
        };
        known.insert(self.uplink.link, figures);
    }

    fn take(&mut self, probe: ProbeId, result: Result<Duration, Failure>) {
        let event = match &result {
            // A timeout is far below five hundred years.
            Ok(rtt) => Event::Answered { probe, rtt_ns: rtt.as_nanos() as u64 },
            Err(Failure::Unanswered(_)) => Event::Failed(probe),
            Err(Failure::Unsent(_)) => Event::Unsent(probe),
        };
        if let Err(Failure::Unanswered(why) | Failure::Unsent(why)) = result {
            debug!("probe through {}: {why}", self.uplink.interface);
            self.last_failure = Some(why);
        }
        self.health.handle(clock::now_ns(), event);
    }

    fn change(&mut self, uplink: Arc<ProbedUplink>) {
        // Sockets of the old interface or address are of no use, and close.
        self.probes = JoinSet::new();
        if uplink.config != self.uplink.config {
            self.health = begin(&uplink);
        } else {
            let event = if uplink.losses == self.uplink.losses { Event::Moved } else { Event::Lost };
            self.health.handle(clock::now_ns(), event);
        }
        self.uplink = uplink;
    }
}
