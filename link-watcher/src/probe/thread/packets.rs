//! The thread's packets: what comes is judged, what goes is signed.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed};

use anyhow::{Context as _, Result};
use link_watcher_common::{
    hmac,
    maps::{Party, View},
    verify::Refusal,
    window,
    wire::{Header, Kind, MAX_PACKET_LEN, PACKET_LEN, flags},
};
use rustix::event::epoll;
use tracing::{debug, warn};

use super::{DROPS_PERIOD_NS, Probed, Thread, destination, origin, probed};
use crate::{
    clock,
    event::LinkId,
    probe::{
        Report, Tables, Verifier,
        endpoint::Arrived,
        receive::{self, Judge, Verdict},
    },
    system::Ethernet,
};

/// For how long the core may be at one thing until the peer is told that this daemon is silent, ns: longer than it takes to
/// write a million routes at a stop or a reload.
const CORE_LIMIT_NS: u64 = 3_000_000_000;
/// Packets that are no good taken from one socket before the timers get their turn again.
const JUNK_A_ROUND: usize = 64;
/// Most reports that wait for the daemon before control packets are dropped.
const MAX_OUTBOX: usize = 4096;

impl Thread {
    /// Takes what waits at one socket.
    pub(super) fn receive(&mut self, endpoint: usize) {
        let mut junk = 0;
        for _ in 0..JUNK_A_ROUND {
            let Some(socket) = self.endpoints.get(endpoint) else { return };
            match socket.receive(&mut self.buffer) {
                Ok(Some(arrived)) => {
                    // Mostly there is no second one, and asking costs as much as taking: if there is, epoll says so again.
                    if self.take(endpoint, &arrived) {
                        break;
                    }
                    junk += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    debug!("receiving on {}: {error}", socket.key.local);
                    break;
                }
            }
        }
        let Some(socket) = self.endpoints.get_mut(endpoint) else { return };
        if let Some(resume_ns) = socket.budget.spend(self.woke_ns, junk) {
            // What its buffer does not hold meanwhile is dropped by the kernel, and counted as junk.
            if epoll::delete(&self.epoll, &*socket).is_ok() {
                self.paused.insert((resume_ns, endpoint));
            }
        }
    }

    /// Looks at an endpoint's socket from now on.
    pub(super) fn watch(&self, endpoint: usize) -> Result<()> {
        let Some(socket) = self.endpoints.get(endpoint) else { return Ok(()) };
        let token = epoll::EventData::new_u64(endpoint as u64);
        match epoll::add(&self.epoll, socket, token, epoll::EventFlags::IN) {
            // Another socket has got the number of one that was left alone.
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error).context("epoll"),
        }
    }

    /// Looks again at the sockets whose pause is over.
    pub(super) fn resume(&mut self) {
        while let Some(&(resume_ns, endpoint)) = self.paused.first()
            && resume_ns <= self.woke_ns
        {
            self.paused.pop_first();
            if let Err(error) = self.watch(endpoint) {
                // Only without memory: the link it serves is noticed as silent.
                warn!("a socket is not looked at any more: {error:#}");
            }
        }
    }

    /// Fits an endpoint's filter and budget to the links that it has.
    pub(super) fn fit(&mut self, endpoint: usize) {
        let Some(endpoint) = self.endpoints.get_mut(endpoint) else { return };
        let links = || endpoint.links.values().filter_map(|id| self.links.get(id.0 as usize)?.as_ref());
        endpoint.budget.fit(links().map(|probed| probed.link.interval_ns));
        let control_only = links().all(|probed| probed.link.verifier == Verifier::Kernel);
        if let Err(error) = endpoint.filter(control_only) {
            debug!("no filter at the socket of {}: {error}", endpoint.key.local);
        }
    }

    /// Counts what the kernel has dropped at the sockets, where it is time.
    pub(super) fn count_drops(&mut self) {
        if self.woke_ns < self.drops_due_ns {
            return;
        }
        self.drops_due_ns = self.woke_ns + DROPS_PERIOD_NS;
        for endpoint in self.endpoints.iter_mut() {
            if let Some(first) = endpoint.first_link() {
                self.stats.of(first.0).junk.fetch_add(endpoint.new_drops(), Relaxed);
            }
        }
    }

    /// Judges the packet in the buffer; says whether it was good.
    fn take(&mut self, endpoint: usize, arrived: &Arrived) -> bool {
        let Arrived { length, from, hops } = *arrived;
        let Some(endpoint) = self.endpoints.get(endpoint) else { return false };
        let Some(&id) = endpoint.links.get(&from.ip()) else {
            // Of all links here the first stands for the endpoint, as in the kernel program.
            if let Some(first) = endpoint.first_link() {
                self.stats.of(first.0).refuse(Refusal::Unknown);
            }
            return false;
        };
        let Some(probed) = probed(&mut self.links, id) else { return false };
        let stats = self.stats.of(id.0);
        let payload = &self.buffer[..length.min(self.buffer.len())];
        let judge = Judge {
            intent: &self.tables.intents()[id.0 as usize],
            state: &self.tables.states()[id.0 as usize],
            keys: &probed.link.keys,
            hops,
            now_ns: clock::now_ns(),
        };
        let delivered = match probed.link.verifier {
            Verifier::Kernel => match receive::judge_passed(payload, &judge, &mut probed.passed) {
                Ok(Some(header)) => Some(header),
                // Until the socket's filter stands, or without it.
                Ok(None) => {
                    stats.junk.fetch_add(1, Relaxed);
                    return false;
                }
                Err(refusal) => {
                    stats.refuse(refusal);
                    return false;
                }
            },
            Verifier::Socket => match receive::judge(payload, &judge) {
                Err(refusal) => {
                    stats.refuse(refusal);
                    return false;
                }
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
                        Verdict::Answer { echo, changed, newest } => {
                            // As the kernel program notes it, which sees the Ethernet address too.
                            if newest {
                                let [g, h] = from.port().to_be_bytes();
                                judge.state.neighbour.store(u64::from_ne_bytes([0, 0, 0, 0, 0, 0, g, h]), Relaxed);
                            }
                            // An echo that cannot be sent is a lost one: the peer counts it.
                            let _ = endpoint.send(&echo, from);
                            if changed {
                                self.changed.push(id.0);
                            }
                            None
                        }
                    }
                }
            },
        };
        let Some(header) = delivered else { return true };
        match header.kind {
            Kind::StackProbe => self.answer_stack_probe(id, &header, from),
            Kind::StackEcho => {
                probed.detector.stack.on_answer(clock::now_ns(), header.sent_ns);
                self.changed.push(id.0);
            }
            Kind::Probe | Kind::Echo => {}
            Kind::Announce | Kind::AnnounceAck | Kind::Notice if self.outbox.len() < MAX_OUTBOX => {
                let body = payload[PACKET_LEN..].to_vec();
                let (instance, kind) = (header.instance, header.kind);
                self.outbox.push(Report::Control { link: id, instance, kind, body });
            }
            // Beyond the bound it is lost, as the network might have lost it: its sender repeats it.
            Kind::Announce | Kind::AnnounceAck | Kind::Notice => {}
        }
        true
    }

    /// Sends one probe.
    pub(super) fn probe(&mut self, id: LinkId, now_ns: u64) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        let intent = &self.tables.intents()[id.0 as usize];
        let state = &self.tables.states()[id.0 as usize];
        let answered = state.newest_answered.load(Relaxed) == probed.sequence;
        probed.sequence = (probed.sequence + 1).min(window::MAX_SEQUENCE);
        // Before the packet leaves: its echo may be there before the call returns.
        intent.sent_sequence.store(probed.sequence, Relaxed);
        // Links that are probed are nothing without a core that decides by them.
        if self.threads.core.within(now_ns, CORE_LIMIT_NS) {
            intent.renewed_ns.store(now_ns, Relaxed);
        }
        let header =
            Header { sequence: probed.sequence, sent_ns: now_ns, ..header(probed, &*self.tables, Kind::Probe) };
        probed.detector.on_sent(now_ns, probed.sequence);
        let packet = hmac::signed(&header, &probed.key);
        let stats = self.stats.of(id.0);
        stats.sent.fetch_add(1, Relaxed);
        let to = destination(&probed.link, intent, state);
        let direct = origin(state).0.filter(|_| answered && to.port() == probed.link.port);
        let result = match (&self.frames, &probed.head, direct) {
            (Some(frames), Some(head), Some(Ethernet(neighbour))) => {
                frames.send(probed.link.ifindex, head, &packet, neighbour)
            }
            _ => {
                let Some(endpoint) = self.endpoints.get(probed.endpoint) else { return };
                endpoint.send(&packet, to)
            }
        };
        let kind = result.as_ref().err().map(std::io::Error::kind);
        if let Err(error) = result {
            stats.send_errors.fetch_add(1, Relaxed);
            if kind != probed.last_error {
                debug!("probe to {} on {}: {error}", probed.link.remote, probed.link.interface);
            }
        }
        probed.last_error = kind;
        // A link that does not answer at all, or whose peer's daemon is silent, tells nothing about the stacks between.
        let peer_lives = View::unpack(state.peer_view.load(Relaxed)).silence_seconds == 0;
        if !probed.detector.is_alive() || !peer_lives {
            probed.detector.stack.forgive();
        } else if probed.detector.stack.is_due(now_ns) {
            probed.detector.stack.on_sent(now_ns);
            self.send_bare(id, Kind::StackProbe, now_ns, to);
        }
    }

    /// Answers a stack-probe, by the way that it came.
    fn answer_stack_probe(&mut self, id: LinkId, probe: &Header, from: SocketAddr) {
        self.send_bare(id, Kind::StackEcho, probe.sent_ns, from);
    }

    /// Sends a control packet without a body by the UDP socket; `sent_ns` is when its probe left.
    fn send_bare(&mut self, id: LinkId, kind: Kind, sent_ns: u64, to: SocketAddr) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        probed.control_sequence = (probed.control_sequence + 1).min(window::MAX_SEQUENCE);
        let header = Header { sequence: probed.control_sequence, sent_ns, ..header(probed, &*self.tables, kind) };
        if let Some(endpoint) = self.endpoints.get(probed.endpoint) {
            // Lost is lost: the next one is a second away.
            let _ = endpoint.send(&hmac::signed(&header, &probed.key), to);
        }
    }

    pub(super) fn send_control(&mut self, id: LinkId, kind: Kind, body: &[u8]) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        if body.len() > MAX_PACKET_LEN - PACKET_LEN {
            return;
        }
        probed.control_sequence = (probed.control_sequence + 1).min(window::MAX_SEQUENCE);
        let mut header = header(probed, &*self.tables, kind);
        header.sequence = probed.control_sequence;
        header.set_body_digest(receive::body_digest(body));
        let mut whole = hmac::signed(&header, &probed.key).to_vec();
        whole.extend_from_slice(body);
        if let Some(endpoint) = self.endpoints.get(probed.endpoint) {
            // Lost is lost: whoever ordered it repeats it until it is acknowledged.
            let slot = id.0 as usize;
            let to = destination(&probed.link, &self.tables.intents()[slot], &self.tables.states()[slot]);
            let _ = endpoint.send(&whole, to);
        }
    }

    /// Tells every peer that this is a planned stop.
    pub(super) fn say_restarting(&mut self) {
        let ids: Vec<LinkId> = self.links.iter().flatten().map(|probed| probed.link.id).collect();
        for id in ids {
            let view = &self.tables.intents()[id.0 as usize].view;
            let mut said = View::unpack(view.load(Relaxed));
            said.flags |= flags::RESTARTING;
            view.store(said.pack(), Relaxed);
            self.probe(id, clock::now_ns());
        }
    }
}

/// A header with everything that does not depend on the packet.
fn header(probed: &Probed, tables: &dyn Tables, kind: Kind) -> Header {
    let slot = probed.link.id.0 as usize;
    let (intent, state) = (&tables.intents()[slot], &tables.states()[slot]);
    let mine = View::unpack(intent.view.load(Relaxed));
    let me = Party::unpack(intent.me.load(Relaxed));
    Header {
        kind,
        flags: mine.flags,
        key_id: probed.key_id,
        silence_seconds: 0,
        sender_session: me.session,
        receiver_session: Party::unpack(state.peer.load(Relaxed)).session,
        rank: mine.rank,
        generation: intent.generation.load(Relaxed) as u16,
        epoch: mine.epoch,
        sequence: 0,
        sent_ns: 0,
        received: window::highest(state.probe_window.load(Relaxed)),
        instance: me.instance,
    }
}
