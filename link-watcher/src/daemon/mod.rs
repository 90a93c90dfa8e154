//! The daemon: start, threads, signals, stop.
//!
//! Three threads: the prober and the core under `SCHED_FIFO` if the configuration says so, and this one with everything
//! that serves people. Nobody in the first two ever waits for the third. Uplinks add two: one probes, one writes.

mod announcements;
mod attach;
mod configure;
mod core;
mod follow;
mod group;
mod links;
mod registry;
mod requests;
mod snapshot;
mod suspect;
mod systemd;
mod tell;
mod uplinks;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow};
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
    attach::Attacher,
    core::{Core, Inputs, Request},
    registry::Registry,
    tell::News,
};
use crate::{
    announce::Own,
    bpf::Kernel,
    clock,
    config::{self, Config, EngineChoice},
    control::{History, Server},
    engine::Engine,
    error::{MissingPrivilege, chain},
    metrics::{self, Counters},
    notify::{self, Notifiers, Tally},
    probe::{self, HeapTables, KernelNews, Stats, Tables},
    random, realtime,
    route::{Actuation, NetlinkObjects, NetlinkRoutes, NetlinkTables},
    system::{Interfaces, KernelEvents, LinkSysctls, ProcSysctl},
};

/// Priority of the core under `SCHED_FIFO`: below the prober, whose timing proves things.
const CORE_PRIORITY: u8 = 10;
/// Reports, requests that wait: when it is full, reports are noted and come later, requests wait.
const QUEUE: usize = 1024;

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
    let loaded = config::load(config_path)?;
    start_logging();
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
    let result = runtime.block_on(serve(config_path, loaded.config));
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

/// Everything between the first thread and the last.
async fn serve(config_path: &Path, config: Config) -> Result<()> {
    // Before anything is changed: a second daemon on the same socket would fight the first one.
    let server = Server::bind(&config.daemon.control_socket).context("the control socket")?;
    let listen = config.metrics.map(|metrics| metrics.listen);
    let (metrics_at, metrics_watched) = watch::channel(listen);
    let history = Arc::new(History::default());
    let (requests_in, requests) = mpsc::channel(QUEUE);
    let (stopped_in, mut stopped) = oneshot::channel();
    let (notifiers, notifiers_watched) = watch::channel(Notifiers::from(config.notifiers.as_slice()));
    let outward = Outward { history: Arc::clone(&history), metrics_at, notifiers };
    let tally = Arc::new(Tally::default());
    let core = start_core(config_path.to_owned(), config, outward, requests, stopped_in)?;
    let mut signals = Signals::listen()?;
    let notifiers =
        tokio::spawn(notify::serve(notifiers_watched, Arc::clone(&history), requests_in.clone(), Arc::clone(&tally)));
    let server = tokio::spawn(server.run(requests_in.clone(), Arc::clone(&history)));
    let faces = metrics::Faces { requests: requests_in.clone(), history, tally };
    // A busy port is no reason not to watch links.
    let metrics = listen.and_then(|address| metrics::Listener::bind(address).ok());
    let metrics = tokio::spawn(metrics::Listener::run(metrics, metrics_watched, faces));
    let mut stopping = false;
    let result = loop {
        tokio::select! {
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
    if core.join().is_err() {
        error!("the core has panicked");
    }
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
                    let (core, inputs) = build(config_path, config, outward, requests).await?;
                    // Only now: loading and the first dumps may take their time.
                    if realtime {
                        realtime::raise(CORE_PRIORITY);
                    }
                    core.run(inputs).await
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
    let stats = Arc::new(Stats::new(slots as usize));
    let instance = random::nonzero();
    let (reports_in, reports) = mpsc::channel(QUEUE);
    let (uplink_reports_in, uplink_reports) = mpsc::channel(QUEUE);
    let realtime = config.daemon.realtime;
    let prober = probe::spawn(Arc::clone(&tables), Arc::clone(&stats), news, instance, realtime, reports_in)?;
    // Before the first dump, so that nothing is missed between the two.
    let kernel_events = KernelEvents::open().context("listening to the kernel's events")?;
    let interfaces = Interfaces::read().context("reading the interfaces")?;
    let opening = "opening a netlink socket";
    let routes = Actuation::new(
        NetlinkRoutes::open().context(opening)?,
        NetlinkTables::open().context(opening)?,
        NetlinkObjects::open().context(opening)?,
    );
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs() as u32);
    let mut core = Core {
        config_path,
        started_ns,
        instance,
        registry: Registry::default(),
        engine: Engine::new(epoch),
        groups: BTreeMap::new(),
        links: BTreeMap::new(),
        interfaces,
        sysctls: LinkSysctls::new(ProcSysctl),
        routes,
        prober: Some(prober),
        attacher: Attacher::new(config.daemon.engine, kernel),
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
        spared: Vec::new(),
        rerouted: BTreeSet::new(),
        interfaces_changed_ns: None,
        news: News::default(),
        own: Own::new([], []),
        look_ns: 0,
        suspect_ns: 0,
        uplinks_touched: true,
        config,
    };
    core.start().await?;
    systemd::ready();
    Ok((core, Inputs { reports, uplinks: uplink_reports, requests, kernel: kernel_events }))
}

/// Loads the kernel program, or says why there is none.
fn load_kernel(config: &Config, slots: u32) -> std::result::Result<Kernel, String> {
    if config.daemon.engine == EngineChoice::Socket {
        return Err("the configuration says engine = \"socket\"".to_owned());
    }
    let object = crate::bpf_object().ok_or_else(|| {
        "this daemon was built without the kernel program; `cargo xtask build-ebpf` builds both".to_owned()
    })?;
    let mut directory = PathBuf::from("/sys/fs/bpf/link-watcher");
    if let Some(instance) = &config.daemon.instance {
        directory.push(instance);
    }
    let loaded = Kernel::load(object, &directory, slots);
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

/// Log lines to stderr; under journald without the time, which it adds itself.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LINK_WATCHER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    // A second daemon in one process, as in tests, keeps the first one's log. Here and below.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let _ = builder.without_time().with_target(false).try_init();
    } else {
        let _ = builder.with_target(false).try_init();
    }
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
