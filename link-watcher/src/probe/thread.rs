//! The thread: one loop around `epoll`, woken by its timer, its sockets, its orders and the kernel program.
//!
//! In each round the sockets come first and the detectors last, so that an echo that waited while the thread was late is
//! never taken for silence.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use link_watcher_common::{
    hmac,
    maps::View,
    window,
    wire::{Header, Kind, MAX_PACKET_LEN, PACKET_LEN, Packet, flags},
};
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{
    Order, ProbedLink, Report, Stats, Tables, Verifier,
    endpoint::{Endpoint, EndpointKey},
    receive::{self, Judge, Verdict},
    tables::{begin, first_sequence, forget},
};
use crate::{
    clock,
    event::{LinkId, PeerSaid},
    link::{Detector, Echoes, Edge},
};

/// Packets taken from one socket before the timers get their turn again.
const PACKETS_A_ROUND: usize = 64;
/// Links whose probes leave at one instant; the next ones leave a little later, so that a thousand links do not overrun
/// a queue of a thousand packets.
const LINKS_A_PHASE: u32 = 32;
/// Parts of an interval over which the links are spread.
const PHASES: u32 = 16;
/// Least lease: a daemon stalled for a moment does not look dead, ns.
const MIN_LEASE_NS: u64 = 1_000_000_000;
/// Priority under `SCHED_FIFO`, 1 to 99: above the daemon's other threads, below the kernel's own at 50.
const REALTIME_PRIORITY: u8 = 20;

/// Most reports that wait for the daemon before control packets are dropped.
const MAX_OUTBOX: usize = 4096;
/// Deadlines are rounded up to multiples of this, so that links that die together are noticed together, ns.
const DEADLINE_GRID_NS: u64 = 250_000;

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

/// The way to the thread.
pub struct Prober {
    orders: Arc<Mutex<Vec<Order>>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Gives an order. It is carried out in the order given, at once.
    pub fn order(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        // Fails only where the counter would overflow: then the thread is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Stops the thread and waits for it.
    pub fn stop(mut self, lease_until_ns: u64) {
        self.order(Order::Stop { lease_until_ns });
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the probing thread has panicked");
        }
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
    session: u32,
    realtime: bool,
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
    let mut thread = Thread {
        tables,
        stats,
        news,
        session,
        started_ns: clock::now_ns(),
        reports,
        epoll,
        timer,
        wake: Arc::clone(&wake),
        orders: Arc::clone(&orders),
        endpoints: BTreeMap::new(),
        tokens: BTreeMap::new(),
        next_token: 0,
        links: BTreeMap::new(),
        due: BinaryHeap::new(),
        buffer: Box::new([0; MAX_PACKET_LEN + 1]),
        changed: Vec::new(),
        outbox: Vec::new(),
        lost_one: false,
        lease_ns: MIN_LEASE_NS,
    };

    // From the start: the kernel program may be attached before the first probe leaves.
    thread.renew_lease(clock::now_ns());
    let thread = std::thread::Builder::new()
        .name("lw-probe".to_owned())
        .spawn(move || {
            if realtime {
                crate::realtime::raise(REALTIME_PRIORITY);
            }
            thread.run();
        })
        .context("starting the probing thread")?;
    Ok(Prober { orders, wake, thread: Some(thread) })
}

/// One probed link.
struct Probed {
    link: ProbedLink,
    endpoint: EndpointKey,
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
    told: Option<PeerSaid>,
    last_error: Option<std::io::ErrorKind>,
}

struct Thread {
    tables: Arc<dyn Tables>,
    stats: Arc<Stats>,
    news: Option<Box<dyn KernelNews>>,
    session: u32,
    started_ns: u64,
    reports: mpsc::Sender<Vec<Report>>,
    epoll: OwnedFd,
    timer: OwnedFd,
    wake: Arc<OwnedFd>,
    orders: Arc<Mutex<Vec<Order>>>,
    endpoints: BTreeMap<EndpointKey, Endpoint>,
    tokens: BTreeMap<u64, EndpointKey>,
    next_token: u64,
    links: BTreeMap<LinkId, Probed>,
    /// When which link wants attention, soonest first.
    due: BinaryHeap<Reverse<(u64, LinkId)>>,
    buffer: Box<[u8; MAX_PACKET_LEN + 1]>,
    changed: Vec<u32>,
    /// Reports of this round: they go together, so that links that die at one instant are one decision.
    outbox: Vec<Report>,
    /// A link has turned silent in this round.
    lost_one: bool,
    /// The longest detection time of all links, at least [`MIN_LEASE_NS`].
    lease_ns: u64,
}

impl Thread {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
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
            for event in &events {
                match event.data.u64() {
                    TOKEN_TIMER => drop(rustix::io::read(&self.timer, &mut [0; 8])),
                    TOKEN_ORDERS => drop(rustix::io::read(&self.wake, &mut [0; 8])),
                    TOKEN_KERNEL => {
                        if let Some(news) = &mut self.news {
                            news.drain(&mut self.changed);
                        }
                    }
                    token => self.receive(token),
                }
            }
            if self.obey() {
                return;
            }
            let mut changed = std::mem::take(&mut self.changed);
            for slot in changed.drain(..) {
                self.look(LinkId(slot));
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
                Order::Add(link) => {
                    let what = format!("{} on {}", link.remote, link.interface);
                    if let Err(error) = self.add(*link) {
                        warn!("cannot probe {what}: {error:#}");
                    }
                }
                Order::Remove(id) => self.remove(id),
                Order::Keys { link, keys } => {
                    if let Some(probed) = self.links.get_mut(&link) {
                        probed.link.keys = keys;
                    }
                }
                Order::Kick(id) => self.probe(id, clock::now_ns()),
                Order::Control { link, kind, body } => self.send_control(link, kind, &body),
                Order::Stop { lease_until_ns } => {
                    self.tables.settings().lease_until_ns.store(lease_until_ns, Relaxed);
                    self.say_restarting();
                    return true;
                }
            }
        }
        false
    }

    fn add(&mut self, link: ProbedLink) -> Result<()> {
        let id = link.id;
        self.remove(id);
        let key = EndpointKey { ifindex: link.ifindex, local: link.local, port: link.port };
        if !self.endpoints.contains_key(&key) {
            let endpoint = Endpoint::open(key, &link.interface)?;
            epoll::add(&self.epoll, &endpoint, epoll::EventData::new_u64(self.next_token), epoll::EventFlags::IN)
                .context("epoll")?;
            self.tokens.insert(self.next_token, key);
            self.next_token += 1;
            self.endpoints.insert(key, endpoint);
        }
        if let Some(endpoint) = self.endpoints.get_mut(&key) {
            endpoint.links.insert(link.remote, id);
        }
        let intent = &self.tables.intents()[id.0 as usize];
        // The first probe leaves at once; from then on all links of one interval and phase share their instants, so that
        // one wake-up serves them, and links that die together are noticed together.
        let now_ns = clock::now_ns();
        let phase_ns = u64::from((id.0 / LINKS_A_PHASE) % PHASES) * link.interval_ns / u64::from(PHASES);
        let first_ns = now_ns;
        let sequence = first_sequence(now_ns - self.started_ns);
        begin(intent, &self.tables.states()[id.0 as usize], sequence);
        let probed = Probed {
            endpoint: key,
            detector: Detector::new(link.interval_ns, link.multiplier, now_ns, sequence),
            sequence,
            control_sequence: sequence,
            next_probe_ns: first_ns,
            phase_ns,
            due_ns: first_ns,
            pending: None,
            told: None,
            last_error: None,
            link,
        };
        self.links.insert(id, probed);
        self.due.push(Reverse((first_ns, id)));
        self.lease_ns = self.lease_ns.max(intent.detection_ns.load(Relaxed));
        self.renew_lease(now_ns);
        Ok(())
    }

    fn remove(&mut self, id: LinkId) {
        let Some(probed) = self.links.remove(&id) else { return };
        forget(&self.tables.states()[id.0 as usize]);
        let Some(endpoint) = self.endpoints.get_mut(&probed.endpoint) else { return };
        endpoint.links.remove(&probed.link.remote);
        if endpoint.links.is_empty() {
            // Closing the socket takes it out of epoll.
            self.endpoints.remove(&probed.endpoint);
            self.tokens.retain(|_, key| *key != probed.endpoint);
        }
    }

    /// Takes what waits at one socket.
    fn receive(&mut self, token: u64) {
        let Some(&key) = self.tokens.get(&token) else { return };
        for _ in 0..PACKETS_A_ROUND {
            let Some(endpoint) = self.endpoints.get(&key) else { return };
            match endpoint.receive(&mut self.buffer) {
                Ok(Some((length, from))) => self.take(key, from, length),
                Ok(None) => return,
                Err(error) => {
                    debug!("receiving on {}: {error}", key.local);
                    return;
                }
            }
        }
    }

    /// Judges the packet in the buffer.
    fn take(&mut self, key: EndpointKey, from: std::net::IpAddr, length: usize) {
        let Some(endpoint) = self.endpoints.get(&key) else { return };
        let Some(&id) = endpoint.links.get(&from) else {
            // Of all links here the first stands for the endpoint, as in the kernel program.
            if let Some(first) = endpoint.links.values().min() {
                self.stats.of(first.0).refuse(link_watcher_common::verify::Refusal::Unknown);
            }
            return;
        };
        let Some(probed) = self.links.get(&id) else { return };
        let stats = self.stats.of(id.0);
        let payload = &self.buffer[..length.min(self.buffer.len())];
        let judge = Judge {
            intent: &self.tables.intents()[id.0 as usize],
            state: &self.tables.states()[id.0 as usize],
            keys: &probed.link.keys,
            lease_until_ns: self.tables.settings().lease_until_ns.load(Relaxed),
            now_ns: clock::now_ns(),
        };
        let delivered = match probed.link.verifier {
            Verifier::Kernel => match receive::judge_passed(payload, &judge) {
                Ok(header) => header,
                Err(refusal) => return stats.refuse(refusal),
            },
            Verifier::Socket => match receive::judge(payload, &judge) {
                Err(refusal) => return stats.refuse(refusal),
                Ok(verdict) => {
                    stats.accept(verdict.counted_as());
                    match verdict {
                        Verdict::Deliver { header } => Some(header),
                        Verdict::Alive { changed } => {
                            if changed {
                                self.changed.push(id.0);
                            }
                            None
                        }
                        Verdict::Answer { echo, changed } => {
                            // An echo that cannot be sent is a lost one: the peer counts it.
                            let _ = endpoint.send(&echo, SocketAddr::new(from, key.port));
                            if changed {
                                self.changed.push(id.0);
                            }
                            None
                        }
                    }
                }
            },
        };
        if let Some(header) = delivered
            && self.outbox.len() < MAX_OUTBOX
        {
            // Beyond the bound it is lost, as the network might have lost it: its sender repeats it.
            let body = payload[PACKET_LEN..].to_vec();
            let (session, kind) = (header.sender_session, header.kind);
            self.outbox.push(Report::Control { link: id, session, kind, body });
        }
    }

    /// Serves every link whose time has come.
    fn serve_due(&mut self) {
        let now_ns = clock::now_ns();
        let mut renewed = false;
        while let Some(&Reverse((due_ns, id))) = self.due.peek() {
            if due_ns > now_ns {
                break;
            }
            self.due.pop();
            let Some(probed) = self.links.get_mut(&id) else { continue };
            if probed.due_ns != due_ns {
                continue;
            }
            self.stats.of(id.0).worst_lateness_ns.fetch_max(now_ns - due_ns, Relaxed);
            if probed.next_probe_ns <= now_ns {
                // Missed instants are not made up for: a burst of probes proves nothing.
                let interval_ns = probed.link.interval_ns;
                probed.next_probe_ns =
                    (now_ns - probed.phase_ns) / interval_ns * interval_ns + interval_ns + probed.phase_ns;
                self.probe(id, now_ns);
                if !renewed {
                    self.renew_lease(now_ns);
                    renewed = true;
                }
            }
            self.look(id);
            let Some(probed) = self.links.get_mut(&id) else { continue };
            // Strictly later than now, or the loop would not end.
            let deadline_ns = probed.detector.deadline_ns();
            let deadline_ns = deadline_ns.checked_next_multiple_of(DEADLINE_GRID_NS).unwrap_or(deadline_ns);
            probed.due_ns = probed.next_probe_ns.min(deadline_ns).max(now_ns + 1);
            self.due.push(Reverse((probed.due_ns, id)));
        }
    }

    /// Sends one probe.
    fn probe(&mut self, id: LinkId, now_ns: u64) {
        let Some(probed) = self.links.get_mut(&id) else { return };
        let intent = &self.tables.intents()[id.0 as usize];
        probed.sequence = (probed.sequence + 1).min(window::MAX_SEQUENCE);
        // Before the packet leaves: its echo may be there before the call returns.
        intent.sent_sequence.store(probed.sequence, Relaxed);
        let mut header = header(probed, self.session, &*self.tables, Kind::Probe);
        header.sequence = probed.sequence;
        header.sent_ns = now_ns;
        probed.detector.on_sent(now_ns, probed.sequence);
        let mut packet: Packet = [0; PACKET_LEN];
        header.emit(&mut packet);
        hmac::sign(&mut packet, &probed.link.keys.states[0]);
        let stats = self.stats.of(id.0);
        stats.sent.fetch_add(1, Relaxed);
        let Some(endpoint) = self.endpoints.get(&probed.endpoint) else { return };
        let result = endpoint.send(&packet, SocketAddr::new(probed.link.remote, probed.link.port));
        let kind = result.as_ref().err().map(std::io::Error::kind);
        if let Err(error) = result {
            stats.send_errors.fetch_add(1, Relaxed);
            if kind != probed.last_error {
                debug!("probe to {} on {}: {error}", probed.link.remote, probed.link.interface);
            }
        }
        probed.last_error = kind;
    }

    fn send_control(&mut self, id: LinkId, kind: Kind, body: &[u8]) {
        let Some(probed) = self.links.get_mut(&id) else { return };
        if body.len() > MAX_PACKET_LEN - PACKET_LEN {
            return;
        }
        probed.control_sequence = (probed.control_sequence + 1).min(window::MAX_SEQUENCE);
        let mut header = header(probed, self.session, &*self.tables, kind);
        header.sequence = probed.control_sequence;
        header.set_body_digest(receive::body_digest(body));
        let mut packet: Packet = [0; PACKET_LEN];
        header.emit(&mut packet);
        hmac::sign(&mut packet, &probed.link.keys.states[0]);
        let mut whole = packet.to_vec();
        whole.extend_from_slice(body);
        if let Some(endpoint) = self.endpoints.get(&probed.endpoint) {
            // Lost is lost: whoever ordered it repeats it until it is acknowledged.
            let _ = endpoint.send(&whole, SocketAddr::new(probed.link.remote, probed.link.port));
        }
    }

    /// Looks at a link: does it answer, and does the peer say something new?
    fn look(&mut self, id: LinkId) {
        let Some(probed) = self.links.get_mut(&id) else { return };
        let state = &self.tables.states()[id.0 as usize];
        let echoes = Echoes {
            last_ns: state.last_echo_ns.load(Relaxed),
            highest: window::highest(state.echo_window.load(Relaxed)),
            count: state.echoes.load(Relaxed),
        };
        if let Some(edge) = probed.detector.poll(clock::now_ns(), echoes) {
            self.lost_one |= matches!(edge, Edge::Silent { .. });
            probed.pending = Some(edge);
        }
        self.stats.of(id.0).loss_ppm.store((probed.detector.loss() * 1e6) as u64, Relaxed);
        self.report(id);
    }

    /// Looks whether other links are about to follow one that has just turned silent.
    fn join(&mut self) {
        let now_ns = clock::now_ns();
        let joined: Vec<LinkId> = self
            .links
            .iter_mut()
            .filter_map(|(id, probed)| {
                probed.pending = Some(probed.detector.join(now_ns)?);
                Some(*id)
            })
            .collect();
        for id in joined {
            self.report(id);
        }
    }

    /// Puts what the daemon does not know yet about a link into the outbox.
    fn report(&mut self, id: LinkId) {
        let Some(probed) = self.links.get_mut(&id) else { return };
        let state = &self.tables.states()[id.0 as usize];
        // Before an echo its session and view are those of an earlier time.
        if state.last_echo_ns.load(Relaxed) != 0 {
            let session = state.peer_session.load(Relaxed) as u32;
            let view = View::unpack(state.peer_view.load(Relaxed));
            let said = PeerSaid {
                session,
                epoch: view.epoch,
                rank: view.rank,
                active: view.flags & flags::ACTIVE != 0,
                drained: view.flags & flags::DRAINED != 0,
                hears: view.flags & flags::HEARS != 0,
                restarting: view.flags & flags::RESTARTING != 0,
            };
            if probed.told.replace(said) != Some(said) {
                self.outbox.push(Report::Said { link: id, said });
            }
        }
        self.outbox.extend(probed.pending.take().map(|edge| match edge {
            Edge::Alive => Report::Alive(id),
            Edge::Silent { last_good_ns } => Report::Silent { link: id, last_good_ns },
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

    fn renew_lease(&self, now_ns: u64) {
        self.tables.settings().lease_until_ns.store(now_ns + self.lease_ns, Relaxed);
    }

    /// Tells every peer that this is a planned stop.
    fn say_restarting(&mut self) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let view = &self.tables.intents()[id.0 as usize].view;
            let mut said = View::unpack(view.load(Relaxed));
            said.flags |= flags::RESTARTING;
            view.store(said.pack(), Relaxed);
            self.probe(id, clock::now_ns());
        }
    }

    /// Sets the timer to the next instant at which something is due.
    fn arm(&self) {
        let Some(&Reverse((due_ns, _))) = self.due.peek() else { return };
        let at = Timespec {
            tv_sec: i64::try_from(due_ns / 1_000_000_000).unwrap_or(i64::MAX),
            // Below a billion.
            tv_nsec: (due_ns % 1_000_000_000) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once) {
            warn!("setting the timer: {error}");
        }
    }
}

/// A header with everything that does not depend on the packet.
fn header(probed: &Probed, session: u32, tables: &dyn Tables, kind: Kind) -> Header {
    let slot = probed.link.id.0 as usize;
    let intent = &tables.intents()[slot];
    let mine = View::unpack(intent.view.load(Relaxed));
    Header {
        kind,
        flags: mine.flags,
        key_id: probed.link.keys.ids[0],
        sender_session: session,
        receiver_session: tables.states()[slot].peer_session.load(Relaxed) as u32,
        rank: mine.rank,
        generation: intent.generation.load(Relaxed) as u16,
        epoch: mine.epoch,
        sequence: 0,
        sent_ns: 0,
        received: 0,
    }
}
