//! The thread's packets: what comes is judged, what goes is signed.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed};

use link_watcher_common::{
    hmac,
    maps::{Party, View},
    verify::Refusal,
    window,
    wire::{Header, Kind, MAX_PACKET_LEN, PACKET_LEN, flags},
};
use tracing::debug;

use super::{Probed, Thread, probed};
use crate::{
    clock,
    event::LinkId,
    probe::{
        Report, Tables, Verifier,
        endpoint::Arrived,
        receive::{self, Judge, Verdict},
    },
};

/// Packets taken from one socket before the timers get their turn again.
/// For how long the core may be at one thing until the peer is told that this daemon is silent, ns: longer than it takes to
/// write a million routes at a stop or a reload.
const CORE_LIMIT_NS: u64 = 3_000_000_000;

const PACKETS_A_ROUND: usize = 64;
/// Most reports that wait for the daemon before control packets are dropped.
const MAX_OUTBOX: usize = 4096;

impl Thread {
    /// Takes what waits at one socket.
    pub(super) fn receive(&mut self, endpoint: usize) {
        for _ in 0..PACKETS_A_ROUND {
            let Some(socket) = self.endpoints.get(endpoint) else { return };
            match socket.receive(&mut self.buffer) {
                Ok(Some(arrived)) => self.take(endpoint, &arrived),
                Ok(None) => return,
                Err(error) => {
                    debug!("receiving on {}: {error}", socket.key.local);
                    return;
                }
            }
        }
    }

    /// Judges the packet in the buffer.
    fn take(&mut self, endpoint: usize, arrived: &Arrived) {
        let Arrived { length, from, hops } = *arrived;
        let Some(endpoint) = self.endpoints.get(endpoint) else { return };
        let Some(&id) = endpoint.links.get(&from.ip()) else {
            // Of all links here the first stands for the endpoint, as in the kernel program.
            if let Some(first) = endpoint.links.values().min() {
                self.stats.of(first.0).refuse(Refusal::Unknown);
            }
            return;
        };
        let Some(probed) = probed(&mut self.links, id) else { return };
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
        let Some(header) = delivered else { return };
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
        let neighbour = state.neighbour.load(Relaxed);
        let direct = answered && neighbour != 0;
        let result = match (&self.frames, &probed.head) {
            (Some(frames), Some(head)) if direct => {
                let [a, b, c, d, e, f, ..] = neighbour.to_ne_bytes();
                frames.send(probed.link.ifindex, head, &packet, [a, b, c, d, e, f])
            }
            _ => {
                let Some(endpoint) = self.endpoints.get(probed.endpoint) else { return };
                endpoint.send(&packet, SocketAddr::new(probed.link.remote, probed.link.port))
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
            let remote = SocketAddr::new(probed.link.remote, probed.link.port);
            self.send_bare(id, Kind::StackProbe, now_ns, remote);
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
            let _ = endpoint.send(&whole, SocketAddr::new(probed.link.remote, probed.link.port));
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
