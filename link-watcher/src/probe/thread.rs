//! The thread: one loop around `epoll`, woken by its timer, its sockets, its orders and the kernel program.
//!
//! In each round the sockets come first and the detectors last, so that an echo that waited while the thread was late is
//! never taken for silence.

mod packets;
mod waiting;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result};
use link_watcher_common::{
    maps::{Intent, KeyState, LinkState, Party, View},
    wire::{HOPS, MAX_PACKET_LEN},
};
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::waiting::Waiting;
use super::{
    Order, ProbedLink, Prober, Report, Stats, Tables, Threads,
    endpoint::{EndpointKey, Endpoints},
    frame::{Frames, Head},
    receive::PassedWindow,
    timers::{Lateness, TimerQueue},
};
use crate::{
    clock,
    event::{LinkId, RemoteState},
    link::{Detector, Echoes, Edge},
    progress::HEARTBEAT_NS,
    slot::{begin, end},
    system::Ethernet,
};

/// Links whose probes leave at one instant; the next ones leave a little later, so that a thousand links do not overrun
/// a queue of a thousand packets.
const LINKS_A_PHASE: u32 = 32;
/// Parts of an interval over which the links are spread.
const PHASES: u32 = 16;
/// Priority under `SCHED_FIFO`, 1 to 99: above the daemon's other threads, below the kernel's own at 50.
const REALTIME_PRIORITY: u8 = 20;

/// Deadlines are rounded up to multiples of this, so that links that die together are noticed together, ns.
const DEADLINE_GRID_NS: u64 = 250_000;

/// Between two looks at what the kernel has dropped at the sockets, ns.
const DROPS_PERIOD_NS: u64 = 1_000_000_000;

/// Between two reports that a peer's Ethernet address is another one, ns: somebody in between could change it with each packet.
const MOVE_GAP_NS: u64 = 1_000_000_000;

const TOKEN_TIMER: u64 = u64::MAX;
const TOKEN_ORDERS: u64 = u64::MAX - 1;
const TOKEN_KERNEL: u64 = u64::MAX - 2;

/// Tells which links have news from the kernel program. Its descriptor becomes readable when there is something.
pub trait KernelNews: AsFd + Send {
    /// Appends the slots, and takes at most a bounded number.
    fn drain(&mut self, slots: &mut Vec<u32>);
}

impl KernelNews for crate::bpf::Events {
    fn drain(&mut self, slots: &mut Vec<u32>) {
        self.drain(slots);
    }
}

/// Starts the thread.
///
/// # Errors
///
/// If the kernel gives no epoll, timer or event descriptor or no thread.
pub fn spawn(
    tables: Arc<dyn Tables>,
    stats: Arc<Stats>,
    news: Option<Box<dyn KernelNews>>,
    instance: u32,
    realtime: bool,
    threads: Threads,
    reports: mpsc::Sender<Vec<Report>>,
) -> Result<Prober> {
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).context("eventfd")?);
    let orders = Arc::new(Mutex::new(Vec::new()));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).context("timerfd")?;
    let watch = |fd: rustix::fd::BorrowedFd<'_>, token| {
        epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN).context("epoll")
    };
    watch(timer.as_fd(), TOKEN_TIMER)?;
    watch(wake.as_fd(), TOKEN_ORDERS)?;
    if let Some(news) = &news {
        watch(news.as_fd(), TOKEN_KERNEL)?;
    }
    let mut links = Vec::new();
    links.resize_with(tables.states().len(), || None);
    let mut thread = Thread {
        tables,
        stats,
        news,
        instance,
        reports,
        epoll,
        timer,
        wake: Arc::clone(&wake),
        orders: Arc::clone(&orders),
        endpoints: Endpoints::default(),
        frames: Frames::open().inspect_err(|error| debug!("every probe goes by a UDP socket: {error}")).ok(),
        links,
        waiting: Waiting::default(),
        due: TimerQueue::default(),
        paused: BTreeSet::new(),
        drops_due_ns: 0,
        buffer: Box::new([0; MAX_PACKET_LEN + 1]),
        changed: Vec::new(),
        outbox: Vec::new(),
        lost_one: false,
        woke_ns: 0,
        armed_ns: 0,
        threads,
    };
    let thread = std::thread::Builder::new()
        .name("lw-probe".to_owned())
        .spawn(move || {
            if realtime {
                crate::realtime::raise(REALTIME_PRIORITY);
            }
            let _guard = thread.threads.own.guard();
            thread.run();
        })
        .context("starting the probing thread")?;
    Ok(Prober { orders, wake, thread: Some(thread) })
}

/// One probed link.
struct Probed {
    link: ProbedLink,
    /// Its signing key and that one's id, here because each probe needs them at once.
    key: KeyState,
    key_id: u8,
    /// Index of its endpoint.
    endpoint: usize,
    /// Headers of its probes as frames.
    head: Option<Head>,
    /// Which control packets have come by the socket.
    passed: PassedWindow,
    detector: Detector,
    sequence: u64,
    control_sequence: u64,
    next_probe_ns: u64,
    /// Where in an interval its probes leave.
    phase_ns: u64,
    /// Entry in `due` that counts; older ones are void.
    due_ns: u64,
    /// Verdict of the detector that the daemon does not know yet.
    pending: Option<Edge>,
    /// What the daemon knows the peer to say.
    told: Option<RemoteState>,
    /// The Ethernet address that the daemon knows the peer's packets to come from.
    neighbour: Option<Ethernet>,
    /// When another one is told next, ns.
    next_move_ns: u64,
    last_error: Option<std::io::ErrorKind>,
    lateness: Lateness,
}

struct Thread {
    tables: Arc<dyn Tables>,
    stats: Arc<Stats>,
    news: Option<Box<dyn KernelNews>>,
    /// This daemon, in every packet.
    instance: u32,
    reports: mpsc::Sender<Vec<Report>>,
    epoll: OwnedFd,
    timer: OwnedFd,
    wake: Arc<OwnedFd>,
    orders: Arc<Mutex<Vec<Order>>>,
    endpoints: Endpoints,
    /// Nothing: there are no packet sockets.
    frames: Option<Frames>,
    /// By slot.
    links: Vec<Option<Probed>>,
    waiting: Waiting,
    due: TimerQueue,
    /// Endpoints that brought too much junk, by when they are looked at again. One that is gone meanwhile harms nobody.
    paused: BTreeSet<(u64, usize)>,
    /// When the sockets' drops are counted next.
    drops_due_ns: u64,
    buffer: Box<[u8; MAX_PACKET_LEN + 1]>,
    changed: Vec<u32>,
    /// Reports of this round: they go together, so that links that die at one instant are one decision.
    outbox: Vec<Report>,
    /// A link has turned silent in this round.
    lost_one: bool,
    /// When this round began.
    woke_ns: u64,
    /// What the timer is set to.
    armed_ns: u64,
    threads: Threads,
}

impl Thread {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
        // Without a single link nobody else wakes it, and it has to come round all the same.
        self.woke_ns = clock::now_ns();
        self.arm();
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // Nothing a running thread does can cause it.
                    warn!("probing ends: epoll: {error}");
                    return;
                }
            }
            self.woke_ns = clock::now_ns();
            self.threads.own.made(self.woke_ns);
            for event in &events {
                match event.data.u64() {
                    // Once its time has come it is set anew at the end of the round, which also makes it unreadable.
                    TOKEN_TIMER => {}
                    TOKEN_ORDERS => drop(rustix::io::read(&self.wake, &mut [0; 8])),
                    TOKEN_KERNEL => {
                        if let Some(news) = &mut self.news {
                            news.drain(&mut self.changed);
                        }
                    }
                    token => self.receive(token as usize),
                }
            }
            self.resume();
            self.count_drops();
            if self.obey() {
                return;
            }
            let mut changed = std::mem::take(&mut self.changed);
            for slot in changed.drain(..) {
                self.look(LinkId(slot), clock::now_ns());
            }
            self.changed = changed;
            self.serve_due();
            if std::mem::take(&mut self.lost_one) {
                self.join();
            }
            self.flush();
            self.arm();
        }
    }

    /// Carries out all orders; true: it was told to stop.
    fn obey(&mut self) -> bool {
        let orders = std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        for order in orders {
            match order {
                Order::Add(link) => self.add_or_wait(*link),
                Order::Remove(id) => {
                    self.waiting.remove(id);
                    self.remove(id);
                }
                Order::Keys { link, keys } => {
                    self.rekey_waiting(link, &keys);
                    if let Some(probed) = probed(&mut self.links, link) {
                        (probed.key, probed.key_id) = (keys.states[0], keys.ids[0]);
                        probed.link.keys = keys;
                    }
                }
                Order::Limits { link, limits } => {
                    self.waiting.limit(link, limits);
                    if let Some(probed) = probed(&mut self.links, link) {
                        probed.link.limits = limits;
                        probed.detector.limit(limits);
                    }
                }
                Order::Kick(id) => self.probe(id, clock::now_ns()),
                Order::Control { link, kind, body } => self.send_control(link, kind, &body),
                Order::Stop => {
                    self.say_restarting();
                    return true;
                }
            }
        }
        false
    }

    fn add(&mut self, link: ProbedLink) -> Result<()> {
        let id = link.id;
        let key = EndpointKey { ifindex: link.ifindex, local: link.local, port: link.port };
        let (endpoint, fresh) = self.endpoints.open(key, &link.interface)?;
        if fresh && let Err(error) = self.watch(endpoint) {
            self.endpoints.close(endpoint);
            return Err(error);
        }
        if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
            endpoint.links.insert(link.remote, id);
        }
        let intent = &self.tables.intents()[id.0 as usize];
        // The first probe leaves at once; from then on all links of one interval and phase share their instants, so that
        // one wake-up serves them, and links that die together are noticed together.
        let now_ns = clock::now_ns();
        let phase_ns = u64::from(phase(id)) * link.interval_ns / u64::from(PHASES);
        let first_ns = now_ns;
        begin(intent, &self.tables.states()[id.0 as usize], Party { instance: self.instance, session: link.session });
        let probed = Probed {
            key: link.keys.states[0],
            key_id: link.keys.ids[0],
            endpoint,
            head: Head::new(link.local, link.remote, link.port),
            passed: PassedWindow::default(),
            detector: Detector::new(link.interval_ns, link.multiplier, link.limits, now_ns),
            sequence: 0,
            control_sequence: 0,
            next_probe_ns: first_ns,
            phase_ns,
            due_ns: first_ns,
            pending: None,
            told: None,
            neighbour: None,
            next_move_ns: 0,
            last_error: None,
            lateness: Lateness::default(),
            link,
        };
        self.links[id.0 as usize] = Some(probed);
        self.share_stack_probes();
        self.fit(endpoint);
        self.due.push(first_ns, id);
        Ok(())
    }

    fn remove(&mut self, id: LinkId) {
        let Some(probed) = self.links.get_mut(id.0 as usize).and_then(Option::take) else { return };
        end(&self.tables.intents()[id.0 as usize], &self.tables.states()[id.0 as usize]);
        self.share_stack_probes();
        let Some(endpoint) = self.endpoints.get_mut(probed.endpoint) else { return };
        endpoint.links.remove(&probed.link.remote);
        if endpoint.links.is_empty() {
            // Closing the socket takes it out of epoll.
            self.endpoints.close(probed.endpoint);
        } else {
            self.fit(probed.endpoint);
        }
    }

    /// Tells every link how many share the time for stack-probes.
    fn share_stack_probes(&mut self) {
        let links = u32::try_from(self.links.iter().flatten().count()).unwrap_or(u32::MAX);
        for probed in self.links.iter_mut().flatten() {
            probed.detector.stack.share(links, phase(probed.link.id), PHASES);
        }
    }

    /// Serves every link whose time has come.
    fn serve_due(&mut self) {
        let now_ns = clock::now_ns();
        while let Some((due_ns, ids)) = self.due.pop(now_ns) {
            for &id in &ids {
                self.try_again(id, now_ns);
                let Some(probed) = probed(&mut self.links, id) else { continue };
                if probed.due_ns != due_ns {
                    continue;
                }
                let worst_ns = probed.lateness.worst(now_ns, now_ns - due_ns);
                self.stats.of(id.0).worst_lateness_ns.store(worst_ns, Relaxed);
                // Each packet bears its own time: those before it have taken theirs.
                let now_ns = clock::now_ns();
                if probed.next_probe_ns <= now_ns {
                    // Missed instants are not made up for: a burst of probes proves nothing.
                    let interval_ns = probed.link.interval_ns;
                    probed.next_probe_ns =
                        (now_ns - probed.phase_ns) / interval_ns * interval_ns + interval_ns + probed.phase_ns;
                    self.probe(id, now_ns);
                }
                self.look(id, now_ns);
                self.schedule(id, now_ns);
            }
            self.due.recycle(ids);
        }
    }

    /// Enters when a link wants attention next: strictly later than now, or serving would not end.
    fn schedule(&mut self, id: LinkId, now_ns: u64) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        let deadline_ns = on_grid(probed.detector.deadline_ns());
        probed.due_ns = probed.next_probe_ns.min(deadline_ns).max(now_ns + 1);
        self.due.push(probed.due_ns, id);
    }

    /// Looks at a link: does it answer, and does the peer say something new?
    fn look(&mut self, id: LinkId, now_ns: u64) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        let state = &self.tables.states()[id.0 as usize];
        let echoes = Echoes::of(state);
        let edge = probed.detector.poll(now_ns, echoes);
        let intent = &self.tables.intents()[id.0 as usize];
        intent.max_age_ns.store(probed.detector.max_age_ns(), Relaxed);
        intent.max_lag.store(probed.detector.max_lag(), Relaxed);
        if let Some(edge) = edge {
            self.lost_one |= matches!(edge, Edge::Silent { .. });
            probed.pending = Some(edge);
        }
        let stats = self.stats.of(id.0);
        stats.loss_ppm.store((probed.detector.loss() * 1e6) as u64, Relaxed);
        stats.note_loss_each_way(probed.detector.loss_each_way());
        self.report(id);
    }

    /// Looks whether other links are about to follow one that has just turned silent.
    fn join(&mut self) {
        let now_ns = clock::now_ns();
        let joined: Vec<LinkId> = self
            .links
            .iter_mut()
            .flatten()
            .filter_map(|probed| {
                probed.pending = Some(probed.detector.join(now_ns)?);
                Some(probed.link.id)
            })
            .collect();
        for id in joined {
            self.report(id);
        }
    }

    /// Puts what the daemon does not know yet about a link into the outbox.
    fn report(&mut self, id: LinkId) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        let state = &self.tables.states()[id.0 as usize];
        // Before an echo its session and view are those of an earlier time.
        if state.last_echo_ns.load(Relaxed) != 0 {
            let peer = Party::unpack(state.peer.load(Relaxed));
            let said = RemoteState::heard(peer, View::unpack(state.peer_view.load(Relaxed)));
            if probed.told.replace(said) != Some(said) {
                self.outbox.push(Report::LocalState { link: id, said, woke_ns: self.woke_ns });
            }
        }
        let ethernet = origin(state).0;
        if ethernet.is_some() && ethernet != probed.neighbour && self.woke_ns >= probed.next_move_ns {
            // The first one is no move, and delays none.
            if probed.neighbour.is_some() {
                probed.next_move_ns = self.woke_ns + MOVE_GAP_NS;
            }
            probed.neighbour = ethernet;
            self.outbox.extend(ethernet.map(|to| Report::Moved { link: id, to }));
        }
        self.outbox.extend(probed.pending.take().map(|edge| match edge {
            Edge::Alive => Report::Alive(id),
            Edge::Impaired(impairment) => Report::Impaired {
                link: id,
                impairment,
                last_good_ns: state.last_echo_ns.load(Relaxed),
                woke_ns: self.woke_ns,
            },
            Edge::Silent { last_good_ns, due_ns } => Report::Silent {
                link: id,
                last_good_ns,
                due_ns: on_grid(due_ns).min(self.woke_ns),
                woke_ns: self.woke_ns,
            },
        }));
    }

    /// Hands the outbox to the daemon. With its queue full the reports stay, and go with the next round's: a link
    /// adds at most a few a round, and only when something changes.
    fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        if let Ok(permit) = self.reports.try_reserve() {
            permit.send(std::mem::take(&mut self.outbox));
        }
    }

    /// Sets the timer to the next instant at which something is due, or the thread has to show that it gets on.
    fn arm(&mut self) {
        let resume_ns = self.paused.first().map(|(resume_ns, _)| *resume_ns);
        let heartbeat_ns = self.woke_ns + HEARTBEAT_NS;
        let due_ns = self.due.next_ns().into_iter().chain(resume_ns).fold(heartbeat_ns, u64::min);
        if due_ns == self.armed_ns && due_ns > self.woke_ns {
            return;
        }
        self.armed_ns = due_ns;
        let at = Timespec {
            tv_sec: i64::try_from(due_ns / 1_000_000_000).unwrap_or(i64::MAX),
            // Below a billion.
            tv_nsec: (due_ns % 1_000_000_000) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once) {
            self.armed_ns = 0;
            warn!("setting the timer: {error}");
        }
    }
}

/// Where the peer's newest probe came from, as the state has it: Ethernet address and UDP port.
fn origin(state: &LinkState<AtomicU64>) -> (Option<Ethernet>, Option<u16>) {
    let [a, b, c, d, e, f, g, h] = state.neighbour.load(Relaxed).to_ne_bytes();
    let (ethernet, port) = ([a, b, c, d, e, f], u16::from_be_bytes([g, h]));
    ((ethernet != [0; 6]).then_some(Ethernet(ethernet)), (port != 0).then_some(port))
}

/// Where a link's packets go: a NAT on the way may have given the peer another port than both ends' own, on a link that may be
/// translated at all.
fn destination(link: &ProbedLink, intent: &Intent<AtomicU64>, state: &LinkState<AtomicU64>) -> SocketAddr {
    let routed = intent.min_hops.load(Relaxed) < u64::from(HOPS);
    let translated = origin(state).1.filter(|_| routed);
    SocketAddr::new(link.remote, translated.unwrap_or(link.port))
}

/// Which of the phases a link's packets leave in.
const fn phase(id: LinkId) -> u32 {
    (id.0 / LINKS_A_PHASE) % PHASES
}

/// A deadline as the timer is set for it.
fn on_grid(deadline_ns: u64) -> u64 {
    deadline_ns.checked_next_multiple_of(DEADLINE_GRID_NS).unwrap_or(deadline_ns)
}

/// A link, if it is probed.
fn probed(links: &mut [Option<Probed>], id: LinkId) -> Option<&mut Probed> {
    links.get_mut(id.0 as usize)?.as_mut()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::{probe::HeapTables, progress::Watch};

    #[test]
    fn a_thread_without_links_comes_round() {
        let own = Watch::default().over("the probing thread", 0);
        let threads = Threads { own: Arc::clone(&own), core: Arc::clone(&own) };
        let begin_ns = clock::now_ns();
        let (tables, (reports, _taken)) = (Arc::new(HeapTables::new(1)), mpsc::channel(1));
        let prober = spawn(tables, Arc::new(Stats::new(1)), None, 1, false, threads, reports).unwrap();
        let came_round = || own.within(begin_ns + HEARTBEAT_NS, 0);
        while !came_round() && clock::now_ns() < begin_ns + 20 * HEARTBEAT_NS {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(came_round(), "who watches it would take it for one that hangs");
        prober.stop();
    }
}
