//! Groups of uplinks at run time.
//!
//! Everything that is done for uplinks (probes aside, which have their own thread) is done by one thread, `lw-uplink-apply`: it
//! follows their interfaces and gateways, and writes rules, tables and the nftables table, which takes milliseconds where a
//! peer's failover takes microseconds. The core decides, as for peers, and never waits for it.

mod core;
mod evidence;
mod foresee;
mod group;
mod held;
mod release;
mod worker;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::claims::Numbers;
use crate::{
    config::{UplinkConfig, UplinksConfig},
    event::{Device, GroupId, LinkId, Plan, Transition},
    health::Verdict,
    ledger::SharedLedger,
    progress::Watch,
    trace::Trace,
    uplink::{
        Desired, Uplink,
        probe::{UplinkFigures, UplinkProber},
    },
};

/// What an operator is told.
pub(super) type Answer = Result<String, String>;

/// For how long the worker may be at one thing, ns: `nft` may take five seconds, several times in a row.
const LIMIT_NS: u64 = 60_000_000_000;
/// Orders that wait for the worker.
const QUEUE: usize = 64;

/// One group of uplinks, as the core knows it.
pub(super) struct UplinkGroup {
    pub(super) id: GroupId,
    pub(super) config: UplinksConfig,
    /// Ids of its uplinks, in the order of the file.
    pub(super) links: Vec<LinkId>,
    /// Their numbers, from 1.
    pub(super) numbers: Vec<u32>,
    /// What the engine wants.
    pub(super) plan: Option<Plan>,
    /// What the worker was told last.
    decision: Option<Decision>,
    /// What stands in the kernel.
    standing: Option<Decision>,
    /// Who ordered something, and is to be told when it stands.
    waiting: Vec<(oneshot::Sender<Answer>, Answer)>,
    /// What people are told once the kernel has the new routes.
    pub(super) deferred: Vec<(Transition, Trace)>,
}

impl UplinkGroup {
    pub(super) const fn new(id: GroupId, config: UplinksConfig, links: Vec<LinkId>, numbers: Vec<u32>) -> Self {
        Self {
            id,
            config,
            links,
            numbers,
            plan: None,
            decision: None,
            standing: None,
            waiting: Vec::new(),
            deferred: Vec::new(),
        }
    }

    /// The group as the kernel shall have it, as far as the configuration tells: without ways and weights.
    fn desired(&self) -> Desired {
        let uplink = |((link, config), number): ((LinkId, &UplinkConfig), &u32)| Uplink::new(link, *number, config);
        let uplinks = self.uplinks().zip(&self.numbers).map(uplink).collect();
        Desired { uplinks, ..Desired::new(self.id, &self.config) }
    }

    /// Whether a decision is on its way to the kernel. Where nothing was decided yet, as after a start without any uplink that
    /// works, nothing is, though the worker has told what stands.
    fn is_pending(&self) -> bool {
        self.decision.is_some() && self.decision != self.standing
    }

    /// Uplinks that take new connections, as the kernel has it.
    fn active(&self) -> impl Iterator<Item = LinkId> {
        self.standing.iter().flat_map(|standing| &standing.active).map(|(link, _)| *link)
    }

    /// Uplinks with their ids.
    pub(super) fn uplinks(&self) -> impl Iterator<Item = (LinkId, &UplinkConfig)> {
        self.links.iter().copied().zip(&self.config.links)
    }
}

/// A group of the configuration.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) id: GroupId,
    pub(super) config: UplinksConfig,
    /// Ids of its uplinks, in the order of the file.
    pub(super) links: Vec<LinkId>,
    /// Their numbers.
    pub(super) numbers: Numbers,
}

/// What the core wants.
#[derive(Debug)]
pub(super) enum Order {
    /// These are all groups from now on.
    Configure(Vec<Configured>),
    /// Peers serve these: no uplink's connections.
    Exclude(Vec<IpNet>),
    /// A group's traffic shall go there.
    Decided(Decision),
    /// End; with `true` remove everything that is ours.
    Stop(bool),
}

/// What the engine decided about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) group: GroupId,
    /// Uplinks that take new connections, with their weights.
    pub(super) active: Vec<(LinkId, u32)>,
    /// Uplinks that may be used by rule.
    pub(super) usable: Vec<LinkId>,
    /// Uplinks that do not work at all: their connections are to be released.
    pub(super) dead: Vec<LinkId>,
    /// Uplinks that are out of service: their connections are counted.
    pub(super) drained: Vec<LinkId>,
}

impl Decision {
    /// The weight of an uplink that takes new connections; 0: it takes none.
    fn weight(&self, link: LinkId) -> u32 {
        self.active.iter().find(|(active, _)| *active == link).map_or(0, |(_, weight)| *weight)
    }

    /// Whether what is forced to an uplink may go there: as long as it is usable, and as long as others use it or would have no
    /// better one.
    fn takes_forced(&self, link: LinkId) -> bool {
        self.usable.contains(&link) || self.usable.is_empty() || self.weight(link) > 0
    }
}

/// What the worker tells.
#[derive(Debug)]
pub(super) enum Report {
    /// An uplink's interface or way out has changed; what lacks.
    Device { link: LinkId, device: Device, lack: Option<String> },
    /// Its probes have come to a verdict; why the last one without answer had none.
    Probed { link: LinkId, verdict: Verdict, last_good_ns: u64, last_failure: Option<String> },
    /// Another verdict may come at once, or by then: it is to be decided together with the next.
    VerdictPending { link: LinkId, until_ns: u64 },
    /// An earlier run left the group's traffic there.
    Adopted { group: GroupId, links: Vec<LinkId> },
    /// A decision about the group stands in the kernel.
    Done { done: Decision, done_ns: u64 },
}

/// How things stand, for the status.
#[derive(Debug, Default)]
pub(super) struct AppliedState {
    /// By group: whether everything stands, and what does not.
    pub(super) groups: BTreeMap<GroupId, Vec<String>>,
    /// By uplink: where it leads.
    pub(super) ways: BTreeMap<LinkId, WayOut>,
    /// By uplink that is out of service: connections that still use it.
    pub(super) connections: BTreeMap<LinkId, u32>,
}

/// Where an uplink leads, for the status.
#[derive(Clone, Debug, Default)]
pub(super) struct WayOut {
    /// Its gateways, or that it needs none; nothing where it has no way now.
    pub(super) gateways: String,
    /// Our addresses there.
    pub(super) locals: String,
    /// Mark of its connections.
    pub(super) mark: u32,
    /// Its own table.
    pub(super) table: u32,
}

impl WayOut {
    fn of(desired: &Desired, uplink: &Uplink) -> Self {
        let paths = || [uplink.ipv4, uplink.ipv6].into_iter().flatten();
        let listed = |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let gateways: Vec<IpAddr> = paths().filter_map(|path| path.gateway).collect();
        let point_to_point = gateways.is_empty() && paths().next().is_some();
        Self {
            gateways: if point_to_point { "point-to-point".to_owned() } else { listed(gateways) },
            locals: listed(paths().filter_map(|path| path.source).collect()),
            mark: desired.mark(uplink),
            table: desired.table(uplink),
        }
    }
}

/// The way to the worker.
pub(super) struct Uplinks {
    orders: mpsc::Sender<Order>,
    standing: Arc<Mutex<AppliedState>>,
    prober: Arc<UplinkProber>,
    thread: JoinHandle<()>,
}

impl Uplinks {
    /// Starts the threads. `instance` names the nftables table.
    pub(super) fn start(
        instance: Option<&str>,
        ledger: SharedLedger,
        watch: &Watch,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self> {
        let (orders, taken) = mpsc::channel(QUEUE);
        let standing = Arc::new(Mutex::new(AppliedState::default()));
        let evidence = Arc::new(evidence::Counted::default());
        let (verdicts_in, verdicts) = mpsc::channel(QUEUE);
        let prober = Arc::new(crate::uplink::probe::spawn(verdicts_in, Arc::clone(&evidence) as _)?);
        let parts = worker::Parts {
            instance: instance.map(str::to_owned),
            ledger,
            progress: watch.over("the thread that serves uplinks", LIMIT_NS),
            orders: taken,
            reports,
            verdicts,
            standing: Arc::clone(&standing),
            evidence,
            prober: Arc::clone(&prober),
        };
        let thread = std::thread::Builder::new()
            .name("lw-uplink-apply".to_owned())
            .spawn(move || worker::run(parts))
            .context("starting the thread that serves uplinks")?;
        Ok(Self { orders, standing, prober, thread })
    }

    /// Orders something. The worker takes orders all the time; it may be behind by some milliseconds.
    pub(super) async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            warn!(
                "the thread that serves uplinks has ended: their routes stay as they are until link-watcher restarts"
            );
        }
    }

    /// Hands a decision over; `false`: the worker is far behind, and is to be told later.
    fn try_order(&self, order: Order) -> bool {
        !matches!(self.orders.try_send(order), Err(mpsc::error::TrySendError::Full(_)))
    }

    /// How things stand, for those who look later.
    pub(super) fn shared_standing(&self) -> Arc<Mutex<AppliedState>> {
        Arc::clone(&self.standing)
    }

    /// How things stand.
    pub(super) fn standing(&self) -> MutexGuard<'_, AppliedState> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is measured of an uplink.
    pub(super) fn figures(&self, link: LinkId) -> Option<UplinkFigures> {
        self.prober.figures(link)
    }

    /// Ends the threads, having removed everything that is ours if so asked.
    pub(super) async fn stop(self, remove: bool) {
        self.order(Order::Stop(remove)).await;
        drop(self.orders);
        if self.thread.join().is_err() {
            warn!("the thread that serves uplinks has panicked");
        }
        // The worker has given up its share.
        if let Some(prober) = Arc::into_inner(self.prober) {
            prober.stop();
        }
    }
}
