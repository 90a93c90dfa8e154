//! The one loop between everything: events in, the engine's actions out.
//!
//! It runs on its own thread. It waits for nothing but the kernel's answers to its own route changes, so the time from
//! silence to new routes is that of the engine and of one netlink transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::{
    announcements::Agenda,
    attach::Attacher,
    claims::FormerPeers,
    group::Group,
    links::Link,
    orders::Orders,
    publish::{Cause, Causes},
    registry::Registry,
    reload::Reloads,
    statistics::Look,
    uplinks::{self, UplinkGroup, Uplinks},
};
use crate::{
    announce::Own,
    clock,
    config::{Config, OnExit, WhenAllDown},
    control::{self, History},
    event::{Action, Event, GroupId, LinkId, LocalState, TransitionKind},
    ledger::SharedLedger,
    metrics::{self, Counters},
    notify::Notifiers,
    probe::{Order, Prober, Report, Stats, Tables},
    progress::{HEARTBEAT_NS, Progress, Watch},
    route::{
        Actuation, GroupRoutes, NetlinkObjects, NetlinkRoutes, NetlinkTables, Nexthop, Report as RouteReport,
        RouteSink as _,
    },
    system::{Ethernet, Interfaces, KernelEvents, LinkSysctls, NetlinkNeighbours, ProcSysctl, refresh},
    trace::Trace,
};

/// Kernel events taken in before the engine decides.
const EVENTS_A_ROUND: usize = 256;

/// Moves of uplinks' traffic of which people are told when the kernel has them; beyond these at once.
const MAX_UNTOLD: usize = 64;

/// What others may ask of the core.
#[derive(Debug)]
pub(super) enum Request {
    /// What came over the control socket.
    Control(control::Order),
    /// Read the configuration again.
    Reload,
    /// Move every peer group to its next usable link.
    NextLink,
    /// What metrics are made of.
    Metrics(metrics::Request),
    /// How links are, for statistics.
    Look(oneshot::Sender<Look>),
    /// Write the status to the log.
    LogStatus,
    /// Stop.
    Stop,
}

impl From<control::Order> for Request {
    fn from(order: control::Order) -> Self {
        Self::Control(order)
    }
}

impl From<metrics::Request> for Request {
    fn from(request: metrics::Request) -> Self {
        Self::Metrics(request)
    }
}

/// What reaches the core.
pub(super) struct Inputs {
    pub(super) reports: mpsc::Receiver<Vec<Report>>,
    pub(super) uplinks: mpsc::Receiver<uplinks::Report>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) kernel: KernelEvents,
}

/// Everything the loop works on.
pub(super) struct Core {
    pub(super) config_path: PathBuf,
    pub(super) config: Config,
    /// Shows that this loop gets on.
    pub(super) progress: Arc<Progress>,
    /// Over all threads.
    pub(super) watch: Arc<Watch>,
    /// What became of reading it again.
    pub(super) reloads: Reloads,
    pub(super) started_ns: u64,
    /// This daemon, in every packet.
    pub(super) instance: u32,
    pub(super) registry: Registry,
    pub(super) engine: crate::engine::Engine,
    pub(super) orders: Orders,
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) interfaces: Interfaces,
    pub(super) sysctls: LinkSysctls<ProcSysctl, SharedLedger>,
    /// Where the kernel sends what goes to peers.
    pub(super) neighbours: NetlinkNeighbours,
    /// What is ours in the kernel, for the next run.
    pub(super) ledger: SharedLedger,
    /// What former runs left.
    pub(super) former: FormerPeers,
    pub(super) routes: Actuation<NetlinkRoutes, NetlinkTables, NetlinkObjects>,
    pub(super) prober: Option<Prober>,
    pub(super) attacher: Attacher,
    pub(super) tables: Arc<dyn Tables>,
    pub(super) stats: Arc<Stats>,
    pub(super) slots: u32,
    pub(super) history: Arc<History>,
    pub(super) counters: Counters,
    /// Where metrics are to be served.
    pub(super) metrics_at: watch::Sender<Option<SocketAddr>>,
    /// Who is to be told what happens.
    pub(super) notifiers: watch::Sender<Notifiers>,
    /// Threads that serve uplinks, once there are any.
    pub(super) uplinks: Option<Uplinks>,
    pub(super) uplink_reports: mpsc::Sender<uplinks::Report>,
    pub(super) uplink_groups: BTreeMap<GroupId, UplinkGroup>,
    /// What the uplinks' thread knows peers to serve.
    pub(super) excluded: Vec<IpNet>,
    /// Groups whose routes are to be computed again, though their plan has not changed.
    pub(super) rerouted: BTreeSet<GroupId>,
    /// A group has died or come to life, and with it perhaps what dead groups leave to living ones has changed.
    pub(super) contested: bool,
    /// Links are to be looked at again, because of what happened to interfaces at this instant, ns.
    pub(super) interfaces_changed_ns: Option<u64>,
    /// What the next decision comes from.
    pub(super) causes: Causes,
    /// How often routes of others had changed when announcements were gathered last.
    pub(super) learned_changes: u64,
    /// There are too many of them, which was said.
    pub(super) too_many_learned: bool,
    /// What no peer may announce.
    pub(super) own: Own,
    /// When announcements have something to do.
    pub(super) agenda: Agenda,
    /// When the generation in keepalives is looked at again, ns.
    pub(super) look_ns: u64,
    /// When what was refused is to be looked at again, ns.
    pub(super) suspect_ns: u64,
    /// Something has happened that may change what the uplinks' thread is to do.
    pub(super) uplinks_touched: bool,
}

impl Core {
    /// Starts everything that the configuration names.
    pub(super) async fn start(&mut self) -> Result<()> {
        let config = self.config.clone();
        self.configure(config).await.map_err(anyhow::Error::msg)
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> Result<()> {
        loop {
            let now_ns = clock::now_ns();
            self.progress.made(now_ns);
            let wait = self.next_deadline_ns().saturating_sub(now_ns).min(HEARTBEAT_NS);
            tokio::select! {
                biased;
                Some(reports) = inputs.reports.recv() => reports.into_iter().for_each(|report| self.report(report)),
                event = inputs.kernel.next() => {
                    self.kernel_event(&event.context("listening to the kernel's events")?);
                }
                Some(report) = inputs.uplinks.recv() => self.uplink_report(report),
                Some(request) = inputs.requests.recv() => {
                    if let Request::Stop = request {
                        break;
                    }
                    self.request(request).await;
                }
                () = tokio::time::sleep(Duration::from_nanos(wait)) => {}
            }
            // What the kernel has said already comes before any decision, and before a route is written over something.
            for _ in 0..EVENTS_A_ROUND {
                let Some(event) = inputs.kernel.try_next() else { break };
                self.kernel_event(&event);
            }
            if let Some(changed_ns) = self.interfaces_changed_ns.take() {
                self.follow_interfaces(changed_ns);
            }
            inputs.kernel.filter(self.routes.filtered()).context("choosing the kernel's events")?;
            self.step().await;
            self.revert_unconfirmed().await;
        }
        self.stop().await
    }

    fn next_deadline_ns(&self) -> u64 {
        let decisions_ns = self.engine.next_deadline().unwrap_or(u64::MAX);
        decisions_ns
            .min(self.announcements_due_ns())
            .min(self.routes.next_deadline_ns())
            .min(self.former.next_deadline_ns())
            .min(self.reloads.next_deadline_ns())
            .min(self.orders.due_ns())
    }

    /// Brings everything up to now: the engine's deadlines and actions, announcements, repairs.
    pub(super) async fn step(&mut self) {
        self.end_orders();
        drop(self.orders.keep());
        let now_ns = clock::now_ns();
        // Time alone may make an uplink usable.
        self.uplinks_touched |=
            self.uplinks.is_some() && self.engine.next_deadline().is_some_and(|due_ns| due_ns <= now_ns);
        self.engine.tick(now_ns);
        self.carry_out().await;
        self.announce();
        self.concede();
        let rerouted = std::mem::take(&mut self.rerouted);
        // What a dead group leaves is free before another one takes it.
        let dead = |id: &&GroupId| self.groups.get(id).is_some_and(Group::is_dead);
        let (dead, living): (Vec<GroupId>, Vec<GroupId>) = rerouted.iter().partition(dead);
        for group in dead.into_iter().chain(living) {
            self.route(group).await;
        }
        if !rerouted.is_empty() {
            self.exclude_peer_prefixes().await;
        }
        if std::mem::take(&mut self.uplinks_touched) {
            self.hand_over();
        }
        let now_ns = clock::now_ns();
        if self.routes.next_deadline_ns() <= now_ns {
            for notice in self.routes.tick(now_ns).await {
                warn!("routes: {}", notice.say(&|id| self.group_name(id)));
            }
        }
        self.follow_learned();
        self.end_former().await;
    }

    fn report(&mut self, report: Report) {
        let now_ns = clock::now_ns();
        match report {
            Report::Unbound { link, why } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.unbound = Some(why);
                }
            }
            Report::Bound(link) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.unbound = None;
                }
            }
            Report::Alive(link) => {
                // What was said of its packets is over with the first good one, and not only at the next look.
                if let Some(link) = self.links.get_mut(&link) {
                    link.acquit();
                }
                self.engine.handle(now_ns, Event::Alive { link });
            }
            Report::Silent { link, last_good_ns, due_ns, woke_ns } => {
                let (due_ns, woke_ns) = (Some(due_ns), Some(woke_ns));
                self.causes.failed(link, Cause { due_ns, woke_ns, received_ns: now_ns });
                self.engine.handle(now_ns, Event::Silent { link, last_good_ns });
            }
            Report::RemoteState { link, state, woke_ns } => {
                self.causes.remote_changed(link, Cause { due_ns: None, woke_ns: Some(woke_ns), received_ns: now_ns });
                if let Some(group) = self.group_of(link) {
                    let id = group.id;
                    group.sender.peer(now_ns, state.instance);
                    self.schedule_announcements(id);
                }
                self.engine.handle(now_ns, Event::RemoteState { link, state });
            }
            Report::Impaired { link, impairment, last_good_ns, woke_ns } => {
                self.causes.failed(link, Cause { due_ns: None, woke_ns: Some(woke_ns), received_ns: now_ns });
                self.engine.handle(now_ns, Event::Impaired { link, impairment, last_good_ns });
            }
            Report::Moved { link, to } => self.follow_neighbour(link, to),
            Report::Control { link, instance, kind, body } => self.control(link, instance, kind, &body),
        }
    }

    /// Data shall go where the peer's packets come from.
    fn follow_neighbour(&mut self, id: LinkId, to: Ethernet) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(running) = &link.running else { return };
        let remote = link.config.remote;
        let (group, name) = (link.group, &link.config.name);
        match refresh(&mut self.neighbours, running.ifindex, remote, to) {
            Ok(None) => {}
            Ok(Some(old)) => {
                let (group, _) = self.names(group, None);
                info!(
                    "{group} {name}: the peer's packets come from {to}, and the kernel sends to {old}: it shall ask anew for \
                     the address of {remote}"
                );
            }
            Err(error) => warn!("asking the kernel for the Ethernet address of {remote}: {error}"),
        }
    }

    fn group_of(&mut self, link: LinkId) -> Option<&mut Group> {
        let group = self.links.get(&link)?.group;
        self.groups.get_mut(&group)
    }
}

// What the engine wants done.
impl Core {
    pub(super) async fn carry_out(&mut self) {
        let decided_ns = clock::now_ns();
        // When the kernel had the routes of the group whose actions these are: a group's come before what is told of it.
        let mut routed_ns = decided_ns;
        let mut told = Vec::new();
        for action in self.engine.actions() {
            match action {
                Action::Advertise { link, state } => self.advertise(link, state),
                Action::Route { group, plan } => {
                    if let Some(uplinks) = self.uplink_groups.get_mut(&group) {
                        uplinks.plan = Some(plan);
                        continue;
                    }
                    if let Some(group) = self.groups.get_mut(&group) {
                        let before = (group.is_dead(), group.is_alive());
                        group.plan = Some(plan);
                        self.contested |= before != (group.is_dead(), group.is_alive());
                    }
                    self.route(group).await;
                    routed_ns = clock::now_ns();
                }
                // People hear of it when it is done, so that they learn how long all of it took.
                Action::Notify(transition) => {
                    let trace = match &transition.what {
                        TransitionKind::ActiveChanged { from, to } => {
                            Some(Trace { routed_ns, ..self.trace(&transition, from, to, decided_ns) })
                        }
                        _ => None,
                    };
                    told.push((transition, trace));
                }
            }
        }
        self.causes.clear();
        for (transition, trace) in told {
            match (self.uplink_groups.get_mut(&transition.group), trace) {
                (Some(group), Some(trace)) if group.deferred.len() < MAX_UNTOLD => {
                    group.deferred.push((transition, trace))
                }
                _ => self.publish(&transition, trace),
            }
        }
    }

    /// Puts what we say of a link where prober and kernel program read it, and says it at once.
    fn advertise(&self, link: LinkId, state: LocalState) {
        let Some(group) = self.links.get(&link).and_then(|link| self.groups.get(&link.group)) else { return };
        let view = state.view(group.config.role).pack();
        let intent = &self.tables.intents()[link.0 as usize];
        if intent.view.swap(view, Relaxed) != view {
            self.order(Order::Kick(link));
        }
    }

    pub(super) fn order(&self, order: Order) {
        if let Some(prober) = &self.prober {
            prober.order(order);
        }
    }

    /// Makes the kernel's routes those of the group's plan.
    async fn route(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(&id) else { return };
        let Some(plan) = &group.plan else { return };
        // Where somebody else's routes shall carry the traffic meanwhile, ours are not in front of them.
        let withdrawn = plan.all_down && group.config.when_all_down == WhenAllDown::Withdraw;
        let base = self.base_routes(group);
        let desired = GroupRoutes {
            prefixes: if withdrawn { Arc::default() } else { group.served() },
            active: plan.active.iter().filter_map(|(link, weight)| self.nexthop(*link, *weight)).collect(),
            backups: plan.backups.iter().filter_map(|link| self.nexthop(*link, 1)).collect(),
            ..base
        };
        let report = self.routes.apply(clock::now_ns(), id, &desired).await;
        self.log_refusals(id, &report);
    }

    /// What the group wants, whatever link carries it.
    pub(super) fn base_routes(&self, group: &Group) -> GroupRoutes {
        GroupRoutes {
            table: group.config.table,
            metric: group.config.metric,
            prefixes: group.prefixes(),
            links: group.links.iter().filter_map(|link| self.nexthop(*link, 1)).collect(),
            choice: group.config.actuation,
            range: group.config.range,
            ..GroupRoutes::default()
        }
    }

    /// A link's next hop; nothing for one that a reload has removed, or that has no interface now.
    pub(super) fn nexthop(&self, link: LinkId, weight: u32) -> Option<Nexthop> {
        let link = self.links.get(&link)?;
        let ifindex = link.running.as_ref()?.ifindex;
        Some(Nexthop { ifindex, gateway: link.config.remote, weight })
    }

    fn log_refusals(&mut self, id: GroupId, report: &RouteReport) {
        let refusals: Vec<String> =
            report.refused.iter().map(|refusal| refusal.say(&|id| self.group_name(id))).collect();
        let Some(group) = self.groups.get_mut(&id) else { return };
        if let Some(error) = &report.error {
            error!("{}: routes: {error}", group.config.name);
        }
        let known: BTreeSet<&String> = group.route_refusals.iter().collect();
        let fresh: Vec<&String> = refusals.iter().filter(|refusal| !known.contains(refusal)).collect();
        // A peer may announce thousands of these: one line, whatever their number.
        if let Some(first) = fresh.first() {
            let more = if fresh.len() > 1 { format!("; and {} more", fresh.len() - 1) } else { String::new() };
            warn!("{}: no route for {first}{more}", group.config.name);
        }
        group.route_refusals = refusals;
    }
}

impl Core {
    async fn stop(mut self) -> Result<()> {
        let keep = self.config.daemon.on_exit == OnExit::Keep;
        if let Some(prober) = self.prober.take() {
            prober.stop();
        }
        if let Some(uplinks) = self.uplinks.take() {
            uplinks.stop(!keep).await;
        }
        if keep {
            info!("stopping; routes stay, and the kernel goes on answering, and says that this daemon is silent");
        } else {
            let report = self.routes.remove_all(clock::now_ns()).await;
            let all_gone = report.refused.is_empty() && report.error.is_none();
            for refusal in report.refused {
                warn!("a route stays: {}", refusal.say(&|id| self.group_name(id)));
            }
            for said in self.sysctls.restore() {
                warn!("{said}");
            }
            if all_gone {
                self.ledger.lock().clear();
            }
            info!("stopping; routes are removed");
        }
        self.attacher.release(keep);
        self.orders.stop();
        self.reloads.stop();
        Ok(())
    }
}
