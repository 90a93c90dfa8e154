//! The thread: one loop around `epoll`, woken by its timer, its sockets, its orders and the kernel program.
//!
//! In each round the sockets come first and the detectors last, so that an echo that waited while the thread was late is
//! never taken for silence.

mod links;
mod look;
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
    maps::{Intent, LinkState},
    wire::{HOPS, MAX_PACKET_LEN},
};
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::{
    links::{Probed, probed},
    waiting::Waiting,
};
use super::{
    Order, ProbedLink, Prober, Report, Stats, Tables, Threads, endpoint::Endpoints, frame::Frames, timers::TimerQueue,
};
use crate::{clock, event::LinkId, progress::HEARTBEAT_NS, system::Ethernet};

/// Priority under `SCHED_FIFO`, 1 to 99: above the daemon's other threads, below the kernel's own at 50.
const REALTIME_PRIORITY: u8 = 20;

/// Between two looks at what the kernel has dropped at the sockets, ns.
const DROPS_PERIOD_NS: u64 = 1_000_000_000;

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
