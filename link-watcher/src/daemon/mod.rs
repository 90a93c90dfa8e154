//! The daemon: start, threads, signals, stop.
//!
//! Three threads: the prober and the core under `SCHED_FIFO` if the configuration says so, and this one with everything
//! that serves people. Nobody in the first two ever waits for the third. Uplinks add two: one probes, one writes.

mod announcements;
mod attach;
mod claims;
mod configure;
mod core;
mod foresee;
mod group;
mod interfaces;
mod links;
mod orders;
mod packets;
mod past;
mod publish;
mod registry;
mod reload;
mod requests;
mod rivals;
mod snapshot;
mod statistics;
mod suspect;
mod systemd;
mod trace;
mod uplinks;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use aya_log::Level;
use link_watcher_common::maps::MAX_LINKS;
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::CapabilitySet,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use tracing::{error, warn};

use self::{
    announcements::Agenda,
    attach::Attacher,
    claims::FormerPeers,
    core::{Core, Inputs, Request},
    orders::Orders,
    packets::SlotNames,
    past::Past,
    publish::Causes,
    registry::Registry,
    reload::Reloads,
    statistics::Statisticians,
};
use crate::{
    announce::Own,
    bpf::{self, Kernel},
    clock,
    config::{Config, ControlGroup, DatapathChoice, KernelLog, Loaded},
    control::{History, Server},
    engine::Engine,
    error::{MissingPrivilege, chain},
    foreign_rules::{self, Claim},
    ledger::{Ledger, SharedLedger},
    log,
    metrics::{self, Counters},
    notify::{self, Notifiers, Tally},
    probe::{self, HeapTables, KernelNews, Stats, Tables},
    progress::{Trouble, Watch},
    random, realtime,
    route::{Actuation, NetlinkObjects, NetlinkRoutes, NetlinkTables},
    system::{Interfaces, KernelEvents, LinkSysctls, NetlinkNeighbours, ProcSysctl},
};

/// Priority of the core under `SCHED_FIFO`: below the prober, whose timing proves things.
const CORE_PRIORITY: u8 = 10;
/// Reports, requests that wait: when it is full, reports are noted and come later, requests wait.
const QUEUE: usize = 1024;

/// For how long the core may be at one thing, ns: writing a million routes takes it some seconds.
const CORE_LIMIT_NS: u64 = 20_000_000_000;
/// The same of the probing thread, which never waits for anything.
const PROBER_LIMIT_NS: u64 = 5_000_000_000;
/// How often it is looked whether the threads get on.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Slots of the per-link tables for so many links: room for a reload that replaces all of them, and some more.
fn slots_for(links: usize) -> u32 {
    u32::try_from((links * 2).next_power_of_two()).unwrap_or(MAX_LINKS).clamp(64, MAX_LINKS)
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// With what keeps it from starting, and the remedy.
pub fn run(config_path: &Path) -> Result<()> {
    let hidden = hide_memory();
    let (loaded, aside) = reload::load(config_path)?;
    let _flush = log::start(loaded.config.daemon.log);
    if let Some(aside) = &aside {
        error!("{aside}\nthe configuration that ran last serves until `link-watcher reload` takes a better one");
    }
    if let Err(error) = hidden {
        warn!("this process can be dumped ({error}): a core dump would hold what signs keepalives");
    }
    for warning in &loaded.warnings {
        warn!("{}", warning.summary());
    }
    if let Some(missing) = missing_privilege() {
        return Err(missing.into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(serve(config_path, loaded, aside));
    // A notifier's name that is still being looked up, or its program, must not hold up the end.
    runtime.shutdown_background();
    result
}

/// No core dump and no debugger of an equal gets at the keys (`PR_SET_DUMPABLE`, prctl(2)). `/proc/PID` belongs to root
/// from then on, whoever runs this.
fn hide_memory() -> rustix::io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Lets the members of a group ask. That this fails is no reason not to watch links: root may ask all the same.
fn admit(server: &Server, group: Option<&ControlGroup>) {
    // A group that is not known is among the warnings.
    let Some(ControlGroup { name, gid: Some(gid) }) = group else { return };
    if let Err(error) = server.admit(*gid) {
        warn!(
            "the control socket stays root's, for it cannot be given to the group {name}: {error}; it takes CAP_CHOWN (for a \
             service: CapabilityBoundingSet=CAP_CHOWN)"
        );
    }
}

/// Says which policy rules of others take traffic that is ours, or the other way round.
fn warn_of_rules(config: &Config) {
    match foreign_rules::Policy::read() {
        Ok(policy) => {
            for trouble in foreign_rules::judge(&policy, &Claim::all(config)).iter().filter(|trouble| !trouble.among) {
                warn!("{}; {}", trouble.message(), trouble.remedy);
            }
        }
        Err(error) => warn!("policy rules of others cannot be looked at: {error}"),
    }
}

/// Everything between the first thread and the last.
async fn serve(config_path: &Path, loaded: Loaded, aside: Option<reload::Aside>) -> Result<()> {
    let Loaded { text, config, .. } = loaded;
    // Before anything is changed: a second daemon on the same socket would fight the first one.
    let server = Server::bind(&config.daemon.control_socket).context("the control socket")?;
    admit(&server, config.daemon.control_group.as_ref());
    warn_of_rules(&config);
    let listen = config.metrics.map(|metrics| metrics.listen);
    let (metrics_at, metrics_watched) = watch::channel(listen);
    let mut past = Past::load(&config.daemon.own_state_directory())?;
    let history = Arc::clone(past.history());
    let mut statisticians = Statisticians::load(&config.daemon.own_state_directory())?;
    let statistics = Arc::clone(statisticians.statistics());
    // Only of what happens from now on.
    let (_, happening) = history.follow();
    let (requests_in, requests) = mpsc::channel(QUEUE);
    let (stopped_in, mut stopped) = oneshot::channel();
    let (notifiers, notifiers_watched) = watch::channel(Notifiers::from(config.notifiers.as_slice()));
    let outward = Outward { history: Arc::clone(&history), metrics_at, notifiers };
    let tally = Arc::new(Tally::default());
    let reloads = Reloads::new(text, aside, &config.daemon.own_state_directory())?;
    let watch = Arc::new(Watch::default());
    let core = start_core(config_path.to_owned(), config, reloads, Arc::clone(&watch), outward, requests, stopped_in)?;
    let mut signals = Signals::listen()?;
    let notifiers =
        tokio::spawn(notify::serve(notifiers_watched, Arc::clone(&history), requests_in.clone(), Arc::clone(&tally)));
    let server = tokio::spawn(server.run(requests_in.clone(), Arc::clone(&history), Arc::clone(&statistics)));
    let counted = tokio::spawn(statistics::follow(Arc::clone(&statistics), happening, requests_in.clone()));
    let told = tokio::spawn(systemd::tell_status(requests_in.clone(), Arc::clone(&history)));
    let faces = metrics::Faces { requests: requests_in.clone(), history, tally, statistics };
    // A busy port is no reason not to watch links.
    let metrics = listen.and_then(|address| metrics::Listener::bind(address).ok());
    let metrics = tokio::spawn(metrics::Listener::run(metrics, metrics_watched, faces));
    let mut stopping = false;
    let mut watching = tokio::time::interval(WATCH_INTERVAL);
    let mut troubled = false;
    let result = loop {
        tokio::select! {
            _ = watching.tick() => {
                past.keep();
                statisticians.keep();
                match watch.trouble(clock::now_ns()) {
                    // At a stop they end in their order.
                    _ if stopping => systemd::alive(),
                    None => {
                        troubled = false;
                        systemd::alive();
                    }
                    // It cannot be asked to stop in order; what stands goes on, and the next run takes it over.
                    Some(trouble @ Trouble::Ended(_)) => return Err(anyhow!("{trouble}")),
                    Some(trouble) => if !std::mem::replace(&mut troubled, true) {
                        error!("{trouble}");
                    },
                }
            }
            result = &mut stopped => break result.unwrap_or_else(|_| Err(anyhow!("the core has ended by itself"))),
            signal = signals.next() => match signal {
                Some(Request::Stop) if stopping => {
                    warn!("stopped at once, as asked twice; routes and kernel programs stay as they are");
                    return Ok(());
                }
                Some(request) => {
                    stopping |= matches!(request, Request::Stop);
                    // The core takes requests all the time; a full queue means that it hangs.
                    if requests_in.try_send(request).is_err() {
                        error!("the core does not take any more requests");
                    }
                }
                None => {}
            },
        }
    };
    server.abort();
    metrics.abort();
    notifiers.abort();
    told.abort();
    counted.abort();
    if core.join().is_err() {
        error!("the core has panicked");
    }
    past.stop();
    statisticians.stop();
    result
}

/// What the core tells those who serve people.
struct Outward {
    history: Arc<History>,
    metrics_at: watch::Sender<Option<SocketAddr>>,
    notifiers: watch::Sender<Notifiers>,
}

/// Starts the core's thread; what it ends with comes through the channel.
fn start_core(
    config_path: PathBuf,
    config: Config,
    reloads: Reloads,
    watch: Arc<Watch>,
    outward: Outward,
    requests: mpsc::Receiver<Request>,
    stopped: oneshot::Sender<Result<()>>,
) -> Result<JoinHandle<()>> {
    let body = move || {
        let realtime = config.daemon.realtime;
        let result = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the core's runtime")
            .and_then(|runtime| {
                runtime.block_on(async {
                    let (core, inputs) = build(config_path, config, reloads, watch, outward, requests).await?;
                    // Only now: loading and the first dumps may take their time.
                    if realtime {
                        realtime::raise(CORE_PRIORITY);
                    }
                    // A task that is woken by its own runtime costs no call to the kernel; a future that is blocked on does.
                    tokio::spawn(core.run(inputs)).await.context("the core")?
                })
            });
        // Nobody listens any more: then the process is ending anyway.
        let _ = stopped.send(result);
    };
    std::thread::Builder::new().name("lw-core".to_owned()).spawn(body).context("starting the core's thread")
}

async fn build(
    config_path: PathBuf,
    config: Config,
    reloads: Reloads,
    watch: Arc<Watch>,
    outward: Outward,
    requests: mpsc::Receiver<Request>,
) -> Result<(Core, Inputs)> {
    let started_ns = clock::now_ns();
    let slots = slots_for(config.peers.iter().map(|peer| peer.links.len()).sum());
    let mut kernel = load_kernel(&config, slots);
    let (tables, news): (Arc<dyn Tables>, Option<Box<dyn KernelNews>>) = match &mut kernel {
        Ok(kernel) => (kernel.tables(), kernel.events().map(|events| Box::new(events) as Box<dyn KernelNews>)),
        Err(_) => (Arc::new(HeapTables::new(slots as usize)), None),
    };
    let slot_names = SlotNames::default();
    if let Some(log) = kernel.as_mut().ok().and_then(Kernel::packet_log)
        && let Err(error) = packets::follow(log, slot_names.clone())
    {
        warn!("nobody tells what the kernel program says of packets: {error}");
    }
    let stats = Arc::new(Stats::new(slots as usize));
    let instance = random::nonzero();
    let (reports_in, reports) = mpsc::channel(QUEUE);
    let (uplink_reports_in, uplink_reports) = mpsc::channel(QUEUE);
    let realtime = config.daemon.realtime;
    let progress = watch.over("the core", CORE_LIMIT_NS);
    let threads =
        probe::Threads { own: watch.over("the probing thread", PROBER_LIMIT_NS), core: Arc::clone(&progress) };
    let prober = probe::spawn(Arc::clone(&tables), Arc::clone(&stats), news, instance, realtime, threads, reports_in)?;
    // Before the first dump, so that nothing is missed between the two.
    let kernel_events = KernelEvents::open().context("listening to the kernel's events")?;
    let interfaces = Interfaces::read().context("reading the interfaces")?;
    let opening = "opening a netlink socket";
    let routes = Actuation::new(
        NetlinkRoutes::open().context(opening)?,
        NetlinkTables::open().context(opening)?,
        NetlinkObjects::open().context(opening)?,
    );
    let ledger = Ledger::open(config.daemon.instance.as_deref());
    if let Some(problem) = ledger.problem() {
        warn!("{problem}");
    }
    let ledger = SharedLedger::new(ledger);
    let orders = Orders::load(&config.daemon.own_state_directory(), SystemTime::now())?;
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs() as u32);
    let mut core = Core {
        config_path,
        started_ns,
        instance,
        registry: Registry::default(),
        engine: Engine::new(epoch),
        orders,
        groups: BTreeMap::new(),
        links: BTreeMap::new(),
        interfaces,
        neighbours: NetlinkNeighbours::open().context(opening)?,
        sysctls: LinkSysctls::new(ProcSysctl, ledger.clone()),
        ledger,
        former: FormerPeers::default(),
        routes,
        prober: Some(prober),
        attacher: Attacher::new(config.daemon.engine, kernel, slot_names),
        tables,
        stats,
        slots,
        history: outward.history,
        counters: Counters::default(),
        metrics_at: outward.metrics_at,
        notifiers: outward.notifiers,
        uplinks: None,
        uplink_reports: uplink_reports_in,
        uplink_groups: BTreeMap::new(),
        excluded: Vec::new(),
        rerouted: BTreeSet::new(),
        contested: true,
        interfaces_changed_ns: None,
        causes: Causes::default(),
        learned_changes: 0,
        too_many_learned: false,
        own: Own::new([], []),
        agenda: Agenda::default(),
        look_ns: 0,
        suspect_ns: 0,
        uplinks_touched: true,
        config,
        reloads,
        progress,
        watch,
    };
    core.start().await?;
    core.keep_last_good();
    systemd::ready();
    Ok((core, Inputs { reports, uplinks: uplink_reports, requests, kernel: kernel_events }))
}

/// Loads the kernel program, or says why there is none.
fn load_kernel(config: &Config, slots: u32) -> std::result::Result<Kernel, String> {
    let directory = bpf::pin_directory(config.daemon.instance.as_deref());
    if config.daemon.engine == DatapathChoice::Socket {
        // The program of a run with another engine would go on answering, and no socket would see a keepalive.
        if let Err(error) = bpf::clear_pins(&directory, false) {
            warn!("a kernel program of an earlier run stays, and may keep keepalives from sockets: {}", chain(&error));
        }
        return Err("the configuration says engine = \"socket\"".to_owned());
    }
    let object = crate::bpf_object().ok_or_else(|| {
        "this daemon was built without the kernel program; `cargo xtask build-ebpf` builds both".to_owned()
    })?;
    if let Some(apart_s) = clock::apart_from_kernel() {
        let why = format!(
            "this process has a clock of its own, {apart_s} s apart from the kernel's (time_namespaces(7)): run it outside of \
             that namespace, or keepalives stay with sockets"
        );
        warn!("{why}");
        return Err(why);
    }
    let level = config.daemon.kernel_log.map(|level| match level {
        KernelLog::Error => Level::Error,
        KernelLog::Warn => Level::Warn,
        KernelLog::Info => Level::Info,
        KernelLog::Debug => Level::Debug,
    });
    let loaded = match level {
        None => Kernel::load(object, &directory, slots),
        Some(level) => Kernel::load_talkative(object, &directory, slots, level),
    };
    loaded.map_err(|error| chain(&error)).inspect_err(|reason| {
        warn!("no kernel program, keepalives are verified by sockets: {reason}");
    })
}

/// What is missing to run at all, and how to get it.
fn missing_privilege() -> Option<MissingPrivilege> {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective).ok()?;
    let needed = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN (routes)"),
        (CapabilitySet::NET_RAW, "CAP_NET_RAW (sockets bound to an interface)"),
    ];
    let missing: Vec<&str> =
        needed.iter().filter(|(set, _)| !effective.contains(*set)).map(|(_, name)| *name).collect();
    (!missing.is_empty()).then(|| {
        MissingPrivilege(format!(
            "missing {}: run it as root (`sudo link-watcher`), or grant them in the systemd unit",
            missing.join(" and ")
        ))
    })
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            user1: listen(SignalKind::user_defined1())?,
            user2: listen(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Option<Request> {
        tokio::select! {
            some = self.terminate.recv() => some.map(|()| Request::Stop),
            some = self.interrupt.recv() => some.map(|()| Request::Stop),
            some = self.hangup.recv() => some.map(|()| Request::Reload),
            some = self.user1.recv() => some.map(|()| Request::LogStatus),
            some = self.user2.recv() => some.map(|()| Request::NextLink),
        }
    }
}
