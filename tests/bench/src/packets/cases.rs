//! The kernel program on single packets: one of each kind that it tells apart.

use std::{net::Ipv4Addr, path::Path, sync::atomic::Ordering::Relaxed};

use anyhow::{Result, ensure};
use link_watcher::bpf::{Hook, Kernel, LinkLayer};
use link_watcher_common::{
    hmac,
    maps::{KeySet, LinkKey, Party},
    wire::{DEFAULT_PORT, Header, Kind, PACKET_LEN, Packet, flags},
};

/// A measured case.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// What the packet was.
    pub(super) name: &'static str,
    /// What the design allows, ns.
    pub(super) target_ns: u32,
    /// Time the program took, ns a packet, in the mean of each batch. Batches of the same index followed each other in all
    /// cases, so that they can be subtracted.
    pub(super) ns: Vec<f64>,
}

/// Measures the program by running it on single packets, each repeated [`REPEAT`] times in [`BATCHES`] batches, as if they
/// came in by the interface `ifindex`, which exists and is up. `directory` is a free pin directory.
pub(super) fn measure(object: &[u8], directory: &Path, ifindex: u32) -> Result<Vec<Measured>> {
    let mut kernel = Kernel::load_for_benchmark(object, directory, 1)?;
    let measured = measure_with(&mut kernel, ifindex);
    kernel.release(false)?;
    measured
}

/// Packets a batch.
pub(crate) const REPEAT: u32 = 5_000;
/// Batches a case.
pub(super) const BATCHES: usize = 201;

const SLOT: u32 = 0;
const KEY: [u8; 32] = [7; 32];
const MINE: u32 = 1;
const PEERS: u32 = 2;
const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

fn measure_with(kernel: &mut Kernel, ifindex: u32) -> Result<Vec<Measured>> {
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
            ensure!(run.verdict == *verdict, "{name}: its verdict is {}, not {verdict}", run.verdict);
            measured.ns.push(run.duration.as_nanos() as f64);
        }
    }
    Ok(measured.into())
}

/// One link, whose other end is the client, with a lease that does not run out.
fn prepare(kernel: &mut Kernel, ifindex: u32) -> Result<()> {
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
    Ok(kernel.set_port(DEFAULT_PORT, true)?)
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
