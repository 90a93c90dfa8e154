//! Running the program on a packet of one's own (`BPF_PROG_TEST_RUN`): for the tests, which see every verdict, and for the
//! benchmark, which lets the kernel repeat one packet a million times and tell how long that took.

use std::{net::Ipv4Addr, path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use aya::programs::{Program, TestRun as _, TestRunOptions};
use link_watcher_common::{
    hmac,
    maps::{KeySet, LinkKey, Party},
    wire::{DEFAULT_PORT, Header, Kind, PACKET_LEN, Packet, flags},
};

use super::{Error, Hook, Kernel, LinkLayer, load};
use crate::error::chain;

/// What the program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its verdict: `XDP_DROP` 1, `XDP_PASS` 2, `XDP_TX` 3 (linux/bpf.h); at tc `TC_ACT_UNSPEC` -1, `TC_ACT_SHOT` 2,
    /// `TC_ACT_REDIRECT` 7 (linux/pkt_cls.h).
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Time a run took, in the mean over the repetitions.
    pub duration: Duration,
}

impl Kernel {
    /// As [`Kernel::load`], with programs for benchmarks: they forget what they have seen of a link before each packet, and
    /// undo an answer at once, so that one packet can be repeated. Both cost a few nanoseconds, which the figures contain.
    ///
    /// # Errors
    ///
    /// As [`Kernel::load`].
    pub fn load_for_benchmark(object: &[u8], directory: &Path, links: u32) -> Result<Self, Error> {
        Self::load_as(object, directory, links, None, true)
    }

    /// Runs the program of a hook for such devices on a packet as if it came in by an existing interface that is up. The packet
    /// has at least 14 bytes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the packet or the interface.
    pub fn run(
        &mut self,
        hook: Hook,
        layer: LinkLayer,
        ifindex: u32,
        packet: &[u8],
        repeat: u32,
    ) -> Result<Run, Error> {
        // Both in linux/bpf.h.
        let context = match hook {
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            Hook::Xdp => [0, packet.len() as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat(),
            // `struct __sk_buff` up to its 11th word, `ifindex`. The others are the kernel's to say.
            Hook::Tc => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ifindex].map(u32::to_ne_bytes).concat(),
        };
        let mut after = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let name = load::name(hook, layer);
        load::program(&mut self.ebpf, hook, layer)?;
        let result = match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => program.test_run(options),
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            _ => return Err(Error::Object(format!("has a program {name} of another type"))),
        };
        let result = result.map_err(|error| Error::Run(chain(&error)))?;
        Ok(Run { verdict: result.return_value, packet: after, duration: result.duration })
    }

    /// How many instructions the kernel's verifier went through until it took the program of a hook for such devices: it gives
    /// up at a million (`BPF_COMPLEXITY_LIMIT_INSNS`). Nothing before Linux 5.16, which does not tell.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program, or tells nothing of it.
    pub fn verified_instructions(&mut self, hook: Hook, layer: LinkLayer) -> Result<Option<u32>, Error> {
        let name = load::name(hook, layer);
        load::program(&mut self.ebpf, hook, layer)?;
        let info = match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => program.info(),
            Some(Program::SchedClassifier(program)) => program.info(),
            _ => return Err(Error::Object(format!("has a program {name} of another type"))),
        };
        info.map(|info| info.verified_instruction_count()).map_err(|error| Error::Run(chain(&error)))
    }
}

/// A measured case.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What the packet was.
    pub name: &'static str,
    /// What the design allows, ns.
    pub target_ns: u32,
    /// Time the program took, ns a packet, in the mean of each batch. Batches of the same index followed each other in all
    /// cases, so that they can be subtracted.
    pub ns: Vec<f64>,
}

/// Measures the program by running it on single packets, each repeated [`REPEAT`] times in [`BATCHES`] batches, as if they
/// came in by the interface `ifindex`, which exists and is up. `directory` is a free pin directory.
///
/// # Errors
///
/// As [`Kernel::load`] and [`Kernel::run`]; and if the program's verdict is not the expected one, so that nothing else is
/// measured.
pub fn measure(object: &[u8], directory: &Path, ifindex: u32) -> Result<Vec<Measured>, Error> {
    let mut kernel = Kernel::load_for_benchmark(object, directory, 1)?;
    let measured = measure_with(&mut kernel, ifindex);
    kernel.release(false)?;
    measured
}

/// Packets a batch.
pub const REPEAT: u32 = 5_000;
/// Batches a case.
pub const BATCHES: usize = 201;

const SLOT: u32 = 0;
const KEY: [u8; 32] = [7; 32];
const MINE: u32 = 1;
const PEERS: u32 = 2;
const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

fn measure_with(kernel: &mut Kernel, ifindex: u32) -> Result<Vec<Measured>, Error> {
    // linux/bpf.h
    const XDP_DROP: u32 = 1;
    const XDP_PASS: u32 = 2;
    const XDP_TX: u32 = 3;
    prepare(kernel, ifindex)?;
    let probe = Header {
        kind: Kind::Probe,
        flags: flags::CLIENT,
        key_id: 1,
        sender_session: PEERS,
        receiver_session: MINE,
        rank: 0,
        generation: 0,
        epoch: 0,
        sequence: 5,
        sent_ns: 1,
        received: 0,
        silence_seconds: 0,
        instance: PEERS,
    };
    let echo = Header { kind: Kind::Echo, ..probe };
    let forged = |header| {
        let mut packet = signed(header);
        packet[PACKET_LEN - 1] ^= 1;
        packet
    };
    let replayed = Header { sequence: 1 << 30, ..echo };
    let wrong_session = Header { receiver_session: MINE + 2, ..echo };
    // In the order in which a packet fails. The echo comes before the probe: it teaches the peer's session.
    let cases = [
        ("not ours", 40, frame(REMOTE, 53, &signed(&probe)), XDP_PASS),
        ("malformed", 50, frame(REMOTE, DEFAULT_PORT, &signed(&probe)[1..]), XDP_DROP),
        ("unknown link", 50, frame(STRANGER, DEFAULT_PORT, &signed(&probe)), XDP_DROP),
        ("wrong session", 50, frame(REMOTE, DEFAULT_PORT, &signed(&wrong_session)), XDP_DROP),
        ("replayed", 60, frame(REMOTE, DEFAULT_PORT, &signed(&replayed)), XDP_DROP),
        ("forged", 500, frame(REMOTE, DEFAULT_PORT, &forged(&echo)), XDP_DROP),
        ("valid echo", 550, frame(REMOTE, DEFAULT_PORT, &signed(&echo)), XDP_DROP),
        ("valid probe, answered", 1000, frame(REMOTE, DEFAULT_PORT, &signed(&probe)), XDP_TX),
    ];
    let mut measured =
        cases.each_ref().map(|&(name, target_ns, ..)| Measured { name, target_ns, ns: Vec::with_capacity(BATCHES) });
    // In turn, so that what else the machine does meets all of them.
    for _ in 0..BATCHES {
        for ((name, _, frame, verdict), measured) in cases.iter().zip(&mut measured) {
            let run = kernel.run(Hook::Xdp, LinkLayer::Ethernet, ifindex, frame, REPEAT)?;
            if run.verdict != *verdict {
                return Err(Error::Run(format!("{name}: its verdict is {}, not {verdict}", run.verdict)));
            }
            measured.ns.push(run.duration.as_nanos() as f64);
        }
    }
    Ok(measured.into())
}

/// One link, whose other end is the client, with a lease that does not run out.
fn prepare(kernel: &mut Kernel, ifindex: u32) -> Result<(), Error> {
    let tables = kernel.tables();
    let intent = &tables.intents()[SLOT as usize];
    intent.me.store(Party { instance: MINE, session: MINE }.pack(), Relaxed);
    intent.sent_sequence.store(1000, Relaxed);
    intent.detection_ns.store(1_000_000_000, Relaxed);
    // As on a link: what is asked for is asked for here too.
    intent.max_age_ns.store(u64::MAX, Relaxed);
    intent.max_lag.store(u64::MAX, Relaxed);
    intent.lease_ns.store(u64::MAX, Relaxed);
    intent.min_hops.store(64, Relaxed);
    intent.mac.store(u64::from_ne_bytes([2, 0, 0, 0, 0, 1, 0, 0]), Relaxed);
    let mut keys = KeySet { count: 1, ids: [1, 0, 0, 0], ..KeySet::default() };
    keys.states[0] = hmac::key_state(&KEY);
    kernel.set_keys(SLOT, &keys)?;
    let mapped = |address: Ipv4Addr| address.to_ipv6_mapped().octets();
    let key =
        LinkKey { ifindex, local: mapped(LOCAL), remote: mapped(REMOTE), port: DEFAULT_PORT, ..LinkKey::default() };
    kernel.insert_link(key, SLOT)?;
    kernel.insert_link(LinkKey { remote: [0; 16], ..key }, SLOT)?;
    kernel.track_traffic(ifindex)?;
    kernel.set_port(DEFAULT_PORT, true)
}

fn signed(header: &Header) -> Packet {
    hmac::signed(header, &hmac::key_state(&KEY))
}

/// An Ethernet frame with an IPv4 UDP datagram. Nobody looks at its checksums.
fn frame(source: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend((20 + udp_len).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source.octets());
    frame.extend(LOCAL.octets());
    frame.extend(DEFAULT_PORT.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(udp_len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}
