//! The thread that makes the kernel have what was decided about uplinks, and tells what befalls their interfaces.

mod apply;
mod configure;
mod follow;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::mpsc;
use tracing::error;

use super::{AppliedState, Order, QUEUE, Report, evidence::Counted, group::Group, held};
use crate::{
    clock,
    event::{GroupId, LinkId},
    health::Figures,
    ledger::SharedLedger,
    netlink::TableRemovals,
    progress::{HEARTBEAT_NS, Progress},
    realtime,
    system::{Interfaces, KernelEvents, LinkSysctls, ProcSysctl},
    uplink::{
        conntrack::Conntrack,
        learn::{Learner, NetlinkLearn},
        nft::{Nft, Ruleset},
        probe::{UplinkProber, UplinkReport, VERDICT_NS},
        tables::{NetlinkTables, Tables},
    },
};

/// Kernel events taken in before anything is done about them.
const EVENTS_A_ROUND: usize = 256;
/// How often connections of uplinks that are out of service are counted, ns.
const COUNT_NS: u64 = 1_000_000_000;
/// For so long an address or gateway may be gone without any consequence, ns: clients of DHCP flush and add them at a renewal.
const RENEWAL_NS: u64 = 500_000_000;

/// What the worker is made of.
pub(super) struct Parts {
    pub(super) instance: Option<String>,
    pub(super) ledger: SharedLedger,
    pub(super) progress: Arc<Progress>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) verdicts: mpsc::Receiver<UplinkReport>,
    pub(super) standing: Arc<Mutex<AppliedState>>,
    pub(super) evidence: Arc<Counted>,
    pub(super) prober: Arc<UplinkProber>,
}

struct Worker {
    reports: mpsc::Sender<Report>,
    standing: Arc<Mutex<AppliedState>>,
    evidence: Arc<Counted>,
    prober: Arc<UplinkProber>,
    /// Verdicts that are not told yet.
    held: held::Held,
    events: KernelEvents,
    interfaces: Interfaces,
    learner: Learner<NetlinkLearn>,
    tables: Tables<NetlinkTables>,
    ruleset: Ruleset<Nft>,
    removals: TableRemovals,
    conntrack: Conntrack,
    sysctls: LinkSysctls<ProcSysctl, SharedLedger>,
    ledger: SharedLedger,
    /// What former runs left is to be removed yet.
    former: bool,
    groups: BTreeMap<GroupId, Group>,
    /// What peers serve.
    excluded: Vec<IpNet>,
    /// Uplinks are to be resolved again.
    changed: bool,
    /// Groups of which the kernel does not have yet what is wanted.
    dirty: BTreeSet<GroupId>,
    /// Complaints in the log already.
    said: BTreeSet<String>,
    /// When connections of uplinks that are out of service are counted again, ns.
    count_ns: u64,
}

/// Runs until told to stop.
pub(super) fn run(parts: Parts) {
    let _guard = parts.progress.guard();
    // Where a reload starts it, it would have the core's, and so would each `nft`.
    realtime::lower();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error!("uplinks are not served: no runtime: {error}"),
    };
    runtime.block_on(async {
        let Parts { instance, ledger, progress, mut orders, reports, mut verdicts, standing, evidence, prober } = parts;
        let worker = Worker::open(instance.as_deref(), ledger, reports, standing, evidence, prober);
        match worker {
            Ok(worker) => {
                if let Err(error) = worker.serve(&progress, &mut orders, &mut verdicts).await {
                    error!("uplinks are not served any more, their routes stay as they are: {error}");
                }
            }
            Err(error) => error!("uplinks are not served: {error}"),
        }
    });
}

impl Worker {
    fn open(
        instance: Option<&str>,
        ledger: SharedLedger,
        reports: mpsc::Sender<Report>,
        standing: Arc<Mutex<AppliedState>>,
        evidence: Arc<Counted>,
        prober: Arc<UplinkProber>,
    ) -> io::Result<Self> {
        // Before the first dump, so that nothing is missed between the two.
        let events = KernelEvents::open()?;
        Ok(Self {
            reports,
            standing,
            evidence,
            prober,
            held: held::Held::default(),
            events,
            interfaces: Interfaces::read()?,
            learner: Learner::new(NetlinkLearn::open()?),
            tables: Tables::new(NetlinkTables::open()?),
            ruleset: Ruleset::new(Nft::open()?, instance),
            removals: TableRemovals::open()?,
            conntrack: Conntrack::open()?,
            sysctls: LinkSysctls::new(ProcSysctl, ledger.clone()),
            ledger,
            former: true,
            groups: BTreeMap::new(),
            excluded: Vec::new(),
            changed: false,
            dirty: BTreeSet::new(),
            said: BTreeSet::new(),
            count_ns: u64::MAX,
        })
    }

    async fn serve(
        mut self,
        progress: &Progress,
        orders: &mut mpsc::Receiver<Order>,
        verdicts: &mut mpsc::Receiver<UplinkReport>,
    ) -> io::Result<()> {
        loop {
            let now_ns = clock::now_ns();
            progress.made(now_ns);
            let wait_ns = self.next_deadline_ns().saturating_sub(now_ns).min(HEARTBEAT_NS);
            tokio::select! {
                biased;
                Some(order) = orders.recv() => {
                    // Several uplinks that change at one time are one change of the kernel's state.
                    let mut next = Some(order);
                    while let Some(order) = next {
                        if let Order::Stop(remove) = order {
                            if remove {
                                self.remove();
                            }
                            return Ok(());
                        }
                        self.obey(order).await;
                        next = orders.try_recv().ok();
                    }
                }
                Some(report) = verdicts.recv() => {
                    let (mut next, mut count) = (Some(report), 0);
                    while let Some(report) = next.take() {
                        let round_ns = self.round_ns(report.link);
                        self.held.take(now_ns, report, round_ns);
                        count += 1;
                        next = if count < QUEUE { verdicts.try_recv().ok() } else { None };
                    }
                }
                event = self.events.next() => self.event(&event?),
                removed = self.removals.next() => {
                    if removed?.is_none_or(|table| table == self.ruleset.table()) {
                        self.ruleset.was_removed(now_ns);
                    }
                }
                () = self.evidence.asked() => self.count(),
                () = tokio::time::sleep(Duration::from_nanos(wait_ns)) => {}
            }
            self.pass_on().await;
            for _ in 0..EVENTS_A_ROUND {
                let Some(event) = self.events.try_next() else { break };
                self.event(&event);
            }
            self.follow().await;
            self.carry_out().await;
            self.release_late();
            self.repair();
            if self.count_ns <= clock::now_ns() {
                self.count_drained();
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Configure(groups) => self.configure(groups).await,
            Order::Decided(decision) => self.decided(decision),
            Order::Exclude(prefixes) => {
                self.excluded = prefixes;
                self.dirty.extend(self.groups.keys());
            }
            Order::Stop(_) => {}
        }
    }

    /// Makes the kernel have what has changed, and says so.
    async fn carry_out(&mut self) {
        let changed = std::mem::take(&mut self.dirty);
        if changed.is_empty() {
            return;
        }
        self.apply(&changed);
        let done_ns = clock::now_ns();
        // Whoever drains an uplink is told what is left on it.
        self.count_drained();
        for id in changed {
            let Some(done) = self.groups.get(&id).map(|group| group.decision.clone()) else { continue };
            self.tell(Report::Done { done, done_ns }).await;
        }
    }

    fn next_deadline_ns(&self) -> u64 {
        let ruleset_ns = self.ruleset.deadline_ns().unwrap_or(u64::MAX);
        let deadlines = [self.learner.next_deadline_ns(), self.tables.next_deadline_ns(), ruleset_ns, self.count_ns];
        let held_ns = self.held.deadline_ns(clock::now_ns());
        let release_ns = self.groups.values().filter_map(Group::release_ns);
        deadlines.into_iter().chain(self.lapse_ns()).chain(held_ns).chain(release_ns).min().unwrap_or(u64::MAX)
    }

    /// When the first address or gateway has been gone for longer than a renewal takes, ns.
    fn lapse_ns(&self) -> Option<u64> {
        self.groups.values().flat_map(|group| group.lapsing.values()).min().map(|since_ns| since_ns + RENEWAL_NS)
    }

    /// From the begin of one of its rounds to the end of the next, ns; 0 where it is not served any more.
    fn round_ns(&self, link: LinkId) -> u64 {
        self.groups.values().find_map(|group| group.round_ns(link)).unwrap_or(0)
    }

    /// All uplinks of the group of this one, as far as they are known.
    fn group_of(&self, link: LinkId) -> Vec<held::Known> {
        let known = |one: &LinkId| {
            let Figures { verdict, last_good_ns, good_since_ns, .. } = self.prober.figures(*one)?.figures;
            Some(held::Known { link: *one, verdict, last_good_ns, good_since_ns, round_ns: self.round_ns(*one) })
        };
        self.others(link).chain([&link]).filter_map(known).collect()
    }

    fn others(&self, link: LinkId) -> impl Iterator<Item = &LinkId> {
        let group = self.groups.values().find(|group| group.links.contains(&link));
        group.into_iter().flat_map(|group| &group.links).filter(move |other| **other != link)
    }

    /// Tells verdicts that need not wait any more, such that those of one time are decided together.
    async fn pass_on(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        let together = held.ready(clock::now_ns(), |link| self.group_of(link));
        self.held = held;
        let links: BTreeSet<LinkId> = together.iter().map(|report| report.link).collect();
        let beside: Vec<Report> = links.iter().flat_map(|link| self.pending_beside(*link)).collect();
        // A further verdict on one that is told here is pending as well, but follows by itself.
        let fresh = |report: &Report| matches!(report, Report::VerdictPending { link, .. } if !links.contains(link));
        for pending in beside.into_iter().filter(fresh) {
            self.tell(pending).await;
        }
        // The last one decides.
        let until_ns = clock::now_ns() + VERDICT_NS;
        for report in together.iter().skip(1) {
            self.tell(Report::VerdictPending { link: report.link, until_ns }).await;
        }
        for UplinkReport { link, verdict, last_good_ns, last_failure } in together {
            self.tell(Report::Probed { link, verdict, last_good_ns, last_failure }).await;
        }
    }

    /// The other uplinks of a group whose verdicts are about to change as well.
    fn pending_beside(&self, link: LinkId) -> Vec<Report> {
        let due = |other: &LinkId| {
            let until_ns = self.prober.figures(*other)?.verdict_due_ns?;
            Some(Report::VerdictPending { link: *other, until_ns })
        };
        self.others(link).filter_map(due).collect()
    }

    async fn tell(&self, report: Report) {
        // Without the core the process is ending.
        let _ = self.reports.send(report).await;
    }

    fn standing(&self) -> MutexGuard<'_, AppliedState> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a complaint to the log, once as long as it holds.
    fn complain(&mut self, key: &str, complaint: Option<String>) {
        match complaint {
            Some(complaint) => {
                if self.said.insert(format!("{key}{complaint}")) {
                    error!("{complaint}");
                }
            }
            None => self.said.retain(|said| !said.starts_with(key)),
        }
    }

    fn count(&mut self) {
        let now_ns = clock::now_ns();
        match self.ruleset.replies() {
            Ok(replies) => {
                self.evidence.set(now_ns, replies);
                self.complain("count", None);
            }
            Err(error) => self.complain("count", Some(format!("replies on uplinks cannot be counted: {error}"))),
        }
    }
}
