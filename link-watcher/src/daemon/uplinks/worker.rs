//! The thread that makes the kernel have what was decided about uplinks, and tells what befalls their interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{
    Configured, Decision, Order, QUEUE, Report, Standing, WayOut, evidence::Counted, group::Group, held,
    release::Releases,
};
use crate::{
    clock,
    event::{Device, GroupId, LinkId},
    health::Figures,
    ledger::{SharedLedger, UplinksClaim},
    netlink::TableRemovals,
    progress::{HEARTBEAT_NS, Progress},
    realtime,
    system::{Interfaces, KernelEvent, KernelEvents, LinkSysctls, ProcSysctl},
    uplink::{
        Desired,
        conntrack::{Conntrack, ConntrackSink as _},
        learn::{Learner, NetlinkLearn, Resolved},
        nft::{Nft, Ruleset},
        probe::{UplinkProber, UplinkReport, VERDICT_NS},
        sysctls,
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
    pub(super) standing: Arc<Mutex<Standing>>,
    pub(super) evidence: Arc<Counted>,
    pub(super) prober: Arc<UplinkProber>,
}

struct Worker {
    reports: mpsc::Sender<Report>,
    standing: Arc<Mutex<Standing>>,
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
    spared: Vec<IpNet>,
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
        standing: Arc<Mutex<Standing>>,
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
            spared: Vec::new(),
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
            Order::Spare(prefixes) => {
                self.spared = prefixes;
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
        let beside: Vec<Report> = links.iter().flat_map(|link| self.doubted_beside(*link)).collect();
        // A further verdict of one that is told here is doubtful as well, but follows by itself.
        let fresh = |report: &Report| matches!(report, Report::Doubted { link, .. } if !links.contains(link));
        for doubted in beside.into_iter().filter(fresh) {
            self.tell(doubted).await;
        }
        // The last one decides.
        let until_ns = clock::now_ns() + VERDICT_NS;
        for report in together.iter().skip(1) {
            self.tell(Report::Doubted { link: report.link, until_ns }).await;
        }
        for UplinkReport { link, verdict, last_good_ns, last_failure } in together {
            self.tell(Report::Probed { link, verdict, last_good_ns, last_failure }).await;
        }
    }

    /// The other uplinks of a group whose verdicts are about to change as well.
    fn doubted_beside(&self, link: LinkId) -> Vec<Report> {
        let due = |other: &LinkId| {
            let until_ns = self.prober.figures(*other)?.verdict_due_ns?;
            Some(Report::Doubted { link: *other, until_ns })
        };
        self.others(link).filter_map(due).collect()
    }

    async fn tell(&self, report: Report) {
        // Without the core the process is ending.
        let _ = self.reports.send(report).await;
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
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

// What befalls interfaces.
impl Worker {
    fn event(&mut self, event: &KernelEvent) {
        let now_ns = clock::now_ns();
        self.learner.observe(now_ns, event);
        self.tables.observe(now_ns, event);
        self.changed |= self.interfaces.follow(event);
    }

    /// Looks how the uplinks' interfaces, addresses and gateways are now, and does what follows.
    async fn follow(&mut self) {
        let now_ns = clock::now_ns();
        if self.learner.next_deadline_ns() <= now_ns {
            let tick = self.learner.tick(now_ns, &self.interfaces);
            self.changed |= tick.changed;
            self.complain("learn", tick.trouble);
        }
        let lapsed = self.lapse_ns().is_some_and(|at_ns| at_ns <= now_ns);
        if std::mem::take(&mut self.changed) || lapsed {
            self.resolve().await;
        }
    }

    async fn resolve(&mut self) {
        let now_ns = clock::now_ns();
        let mut reports = Vec::new();
        for group in self.groups.values_mut() {
            for ((link, config), known) in group.links.iter().zip(&group.config.links).zip(&mut group.resolved) {
                let resolved = self.learner.resolve(&group.config.routes, config, &self.interfaces);
                if lapses(known.as_ref(), &resolved) {
                    let since_ns = *group.lapsing.entry(*link).or_insert(now_ns);
                    if now_ns < since_ns + RENEWAL_NS {
                        continue;
                    }
                }
                group.lapsing.remove(link);
                if known.as_ref() == Some(&resolved) {
                    continue;
                }
                if resolved.device != Device::Ready && known.as_ref().is_some_and(|known| known.device == Device::Ready)
                {
                    *group.losses.entry(*link).or_default() += 1;
                }
                let before = known.replace(resolved.clone());
                let has = [resolved.ipv4, resolved.ipv6].into_iter().flatten().filter_map(|path| path.source);
                group.sources.extend(has.map(|source| (*link, source)));
                self.dirty.insert(group.id);
                if resolved.ifindex != 0 && before.as_ref().is_none_or(|before| before.ifindex != resolved.ifindex) {
                    for said in self.sysctls.prepare_uplink(&config.interface) {
                        info!("{said}");
                    }
                }
                let lack = resolved.lacks.map(|lack| lack.to_string());
                if before.is_none_or(|before| before.device != resolved.device || before.lacks != resolved.lacks) {
                    reports.push(Report::Device { link: *link, device: resolved.device, lack });
                }
            }
            let lapsing = |link| group.lapsing.contains_key(link);
            if group.sources.iter().any(|(link, source)| !lapsing(link) && !self.interfaces.have(*source)) {
                self.dirty.insert(group.id);
            }
        }
        for report in reports {
            self.tell(report).await;
        }
    }
}

// What was decided.
impl Worker {
    async fn configure(&mut self, groups: Vec<Configured>) {
        let now_ns = clock::now_ns();
        let kept: BTreeSet<GroupId> = groups.iter().map(|group| group.id).collect();
        let gone: Vec<GroupId> = self.groups.keys().copied().filter(|id| !kept.contains(id)).collect();
        for id in gone {
            self.groups.remove(&id);
            self.tables.remove(now_ns, id);
            self.standing().groups.remove(&id);
        }
        self.learner.follow(now_ns, groups.iter().map(|group| &group.config));
        self.learner.tick(now_ns, &self.interfaces);
        let mut fresh = Vec::new();
        for Configured { id, config, links, numbers } in groups {
            for said in sysctls::warnings(&self.sysctls, &config) {
                warn!("{said}");
            }
            let known = self.groups.remove(&id);
            if known.is_none() {
                fresh.push(id);
            }
            let nothing =
                Decision { group: id, active: Vec::new(), usable: Vec::new(), dead: Vec::new(), drained: Vec::new() };
            let mut group = Group {
                id,
                config,
                resolved: vec![None; links.len()],
                links,
                numbers: numbers.numbers,
                // Of an earlier run, as far as this one began with it.
                retired: numbers.retired.into_iter().collect(),
                decision: nothing,
                releases: Releases::default(),
                sources: BTreeSet::new(),
                losses: BTreeMap::new(),
                lapsing: BTreeMap::new(),
            };
            if let Some(known) = known {
                let gone = known.links.iter().zip(&known.numbers).filter(|(link, _)| !group.links.contains(link));
                group.retired = gone.map(|(_, number)| *number).chain(known.retired).collect();
                (group.decision, group.releases, group.sources) = (known.decision, known.releases, known.sources);
                group.losses = known.losses;
            }
            self.groups.insert(id, group);
        }
        self.resolve().await;
        for id in fresh {
            self.adopt(id).await;
        }
        self.dirty.extend(self.groups.keys());
        if self.groups.is_empty() {
            self.apply(&BTreeSet::new());
        }
        if std::mem::take(&mut self.former) {
            self.carry_out().await;
            self.end_former();
        }
    }

    /// Removes what former runs left for groups that are no more, or have other numbers now: behind what is wanted, which
    /// stands already.
    fn end_former(&mut self) {
        let former = self.ledger.lock().former().uplinks.clone();
        let now: Vec<Desired> = self.groups.values().map(|group| group.desired(&self.spared)).collect();
        if now.is_empty() && !former.is_empty() {
            let failed = self.ruleset.remove_former().err().map(|error| error.to_string());
            self.complain("former nft", failed);
        }
        for claim in former {
            let same = |desired: &&Desired| {
                desired.name == claim.name
                    && (desired.rule_priority, desired.table_base, desired.fwmark_mask)
                        == (claim.rule_priority, claim.table_base, claim.fwmark_mask)
            };
            if now.iter().any(|desired| same(&desired)) {
                continue;
            }
            match self.tables.remove_former(claim.table_base, claim.rule_priority, claim.numbers.values().copied()) {
                Ok(0) => {}
                Ok(count) => info!("{}: {count} routes and rules of an earlier run are removed", claim.name),
                Err(error) => {
                    error!("{}: routes and rules of an earlier run stay: {error}", claim.name);
                    continue;
                }
            }
            self.release_former(&claim, &now);
            let mut ledger = self.ledger.lock();
            ledger.strike_uplinks(&claim);
            ledger.save();
        }
    }

    /// Connections with marks that mean nothing any more find another way.
    fn release_former(&mut self, claim: &UplinksClaim, now: &[Desired]) {
        if now.iter().any(|desired| desired.fwmark_mask & claim.fwmark_mask != 0) {
            // These bits are another group's now: whose a connection is cannot be told.
            return;
        }
        for number in claim.numbers.values() {
            let mark = number << claim.fwmark_mask.trailing_zeros();
            if let Err(error) = self.conntrack.release(mark, claim.fwmark_mask) {
                warn!("{}: connections of its uplinks hang until they time out: {error}", claim.name);
            }
        }
    }

    /// Finds out where an earlier run left the group's traffic, and leaves it there.
    async fn adopt(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let found = self.tables.standing(&group.desired(&self.spared));
        if found.is_empty() {
            return;
        }
        info!("{}: what an earlier run left is taken over", group.config.name);
        group.decision.active = found.into_iter().collect();
        group.decision.usable = group.decision.active.iter().map(|(link, _)| *link).collect();
        let links = group.decision.usable.clone();
        self.tell(Report::Adopted { group: id, links }).await;
    }

    fn decided(&mut self, decision: Decision) {
        let Some(group) = self.groups.get_mut(&decision.group) else { return };
        let before = std::mem::replace(&mut group.decision, decision);
        let moves = group.config.moves_connections();
        group.releases.decided(clock::now_ns(), &before, &group.decision, &group.links, moves);
        self.dirty.insert(group.id);
    }

    /// Makes the kernel have what is wanted: which uplink new connections take, then routes, then the release of
    /// connections that would hang.
    fn apply(&mut self, changed: &BTreeSet<GroupId>) {
        let now_ns = clock::now_ns();
        let desired: Vec<Desired> = self.groups.values().map(|group| group.desired(&self.spared)).collect();
        let failed = self.ruleset.apply(now_ns, &desired).err().map(|error| error.to_string());
        self.complain("nft", failed.clone());
        let changed = |desired: &&Desired| changed.contains(&desired.group);
        for desired in desired.iter().filter(changed) {
            let report = self.tables.apply(now_ns, desired);
            let mut problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
            problems.extend(report.error);
            problems.extend(failed.clone());
            let said = (!problems.is_empty()).then(|| format!("{}: {}", desired.name, problems.join("; ")));
            self.complain(&format!("tables {}", desired.name), said);
            let mut standing = self.standing();
            standing.groups.insert(desired.group, problems);
            standing.ways.extend(desired.uplinks.iter().map(|uplink| (uplink.link, WayOut::of(desired, uplink))));
        }
        let groups = self.groups.values().zip(&desired);
        self.prober.set(groups.flat_map(|(group, desired)| group.probed(desired)).collect());
        for desired in desired.iter().filter(changed) {
            self.release(desired);
        }
    }

    /// Releases connections that had to wait for their uplink's word.
    fn release_late(&mut self) {
        let now_ns = clock::now_ns();
        let due = self.groups.values().filter(|group| group.release_ns().is_some_and(|at_ns| at_ns <= now_ns));
        let desired: Vec<Desired> = due.map(|group| group.desired(&self.spared)).collect();
        for desired in &desired {
            self.release(desired);
        }
    }

    fn release(&mut self, desired: &Desired) {
        let Some(group) = self.groups.get_mut(&desired.group) else { return };
        let (has, lost): (BTreeSet<_>, _) = std::mem::take(&mut group.sources)
            .into_iter()
            .partition(|(link, source)| group.lapsing.contains_key(link) || self.interfaces.have(*source));
        group.sources = has;
        let mut due: Vec<(LinkId, Option<IpAddr>)> =
            lost.into_iter().map(|(link, source)| (link, Some(source))).collect();
        let mut releases = std::mem::take(&mut group.releases);
        let of_dead = releases.due(clock::now_ns(), |link| group.round_ns(link).unwrap_or(0));
        group.releases = releases;
        due.extend(of_dead.into_iter().map(|link| (link, None)));
        let mut complaints = Vec::new();
        for number in std::mem::take(&mut group.retired) {
            let mark = number << desired.fwmark_mask.trailing_zeros();
            if let Err(error) = self.conntrack.release(mark, desired.fwmark_mask) {
                complaints.push(format!("{}: connections of a removed uplink hang: {error}", desired.name));
            }
        }
        for (link, source) in due {
            let Some(uplink) = desired.uplink(link) else { continue };
            let (mark, mask) = (desired.mark(uplink), desired.fwmark_mask);
            let (released, from) = match source {
                Some(source) => (self.conntrack.release_source(mark, mask, source), format!(" from {source}")),
                None => (self.conntrack.release(mark, mask), String::new()),
            };
            match released {
                Ok(0) => {}
                Ok(count) => {
                    info!("{}: about {count} connections of {}{from} are released", desired.name, uplink.name);
                }
                Err(error) => complaints.push(format!(
                    "{}: connections of {}{from} hang until they time out: {error}",
                    desired.name, uplink.name
                )),
            }
        }
        let complaint = (!complaints.is_empty()).then(|| complaints.join("; "));
        self.complain("release", complaint);
    }

    /// Counts the connections of uplinks that are out of service.
    fn count_drained(&mut self) {
        let mut connections = BTreeMap::new();
        for group in self.groups.values().filter(|group| !group.decision.drained.is_empty()) {
            let desired = group.desired(&self.spared);
            for uplink in desired.uplinks.iter().filter(|uplink| group.decision.drained.contains(&uplink.link)) {
                // A count that cannot be had is none: it is shown, and nothing depends on it.
                if let Ok(count) = self.conntrack.connections(desired.mark(uplink), desired.fwmark_mask) {
                    connections.insert(uplink.link, count);
                }
            }
        }
        self.count_ns = if connections.is_empty() { u64::MAX } else { clock::now_ns() + COUNT_NS };
        self.standing().connections = connections;
    }

    /// Puts right what others have changed.
    fn repair(&mut self) {
        let now_ns = clock::now_ns();
        if self.tables.next_deadline_ns() <= now_ns {
            for notice in self.tables.reconcile(now_ns) {
                let name = |id: GroupId| {
                    let group = self.groups.get(&id);
                    group.map_or_else(|| "a group that is gone".to_owned(), |group| group.config.name.clone())
                };
                warn!("uplinks: {}", notice.say(&name));
            }
        }
        if self.ruleset.deadline_ns().is_some_and(|due_ns| due_ns <= now_ns)
            && let Some(notice) = self.ruleset.tick(now_ns)
        {
            // Repairs become rarer by themselves where somebody keeps undoing them.
            warn!("uplinks: {notice}");
        }
    }

    fn remove(&mut self) {
        if let Err(error) = self.ruleset.remove() {
            warn!("the nftables table stays: {error}");
        }
        for (_, report) in self.tables.remove_all(clock::now_ns()) {
            for problem in report.problems {
                warn!("tables of uplinks: {problem}");
            }
        }
        for said in self.sysctls.restore() {
            warn!("{said}");
        }
    }
}

/// Whether an uplink that was ready lacks no more than what a renewal takes away for a moment.
fn lapses(known: Option<&Resolved>, now: &Resolved) -> bool {
    known.is_some_and(|known| known.device == Device::Ready && known.ifindex == now.ifindex)
        && matches!(now.device, Device::NoAddress | Device::NoGateway)
}
