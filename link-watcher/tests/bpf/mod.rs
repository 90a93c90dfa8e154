//! What the tests of the kernel program share: a loaded program with one link, and packets made by other code than the
//! program's own.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)] // Each test uses a part of it.

pub mod model;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Instant,
};

use hmac::{Hmac, KeyInit, Mac};
use link_watcher::bpf::{Hook, Kernel, LinkLayer, Run};
use link_watcher_common::{
    hmac::key_state,
    maps::{Counters, Intent, KeySet, LinkKey, LinkState, Party, View},
    wire::{HEADER_LEN, Header, Kind, PACKET_LEN, Packet, TAG_LEN, flags},
};
use sha2::Sha256;

pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const TX: u32 = 3;

/// The loopback device: there in every network namespace, and good enough for `BPF_PROG_TEST_RUN`.
pub const LO: u32 = 1;
pub const PORT: u16 = 46721;
pub const SLOT: u32 = 5;
pub const KEY_ID: u8 = 77;
pub const KEY: &[u8] = b"a key of no particular length, neither short nor long";
pub const MINE: u32 = 0x1111_2222;
pub const PEERS: u32 = 0x3333_4444;
/// The two daemons.
pub const MY_INSTANCE: u32 = 0x5555_6666;
pub const PEERS_INSTANCE: u32 = 0x7777_8888;
/// How old an echo may be here.
pub const MAX_AGE_NS: u64 = 1_000_000_000;
/// How far an acknowledgement may lag behind here.
pub const MAX_LAG: u64 = 100;
/// Highest sequence that was sent.
pub const SENT: u64 = 1_000_000;
pub const DETECTION_NS: u64 = 300_000_000;

/// The object that `cargo xtask build-ebpf` made.
pub fn object() -> Vec<u8> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/link-watcher.bpf.o");
    let path = std::env::var_os("LINK_WATCHER_BPF_OBJECT").map_or_else(|| PathBuf::from(default), PathBuf::from);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask build-ebpf`", path.display()))
}

/// A pin directory that nobody else uses.
pub fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/sys/fs/bpf/link-watcher/test-{}-{next}", std::process::id()))
}

/// `CLOCK_MONOTONIC`, as the program reads it.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Both ends of a link.
#[derive(Clone, Copy)]
pub struct Ends {
    pub local: IpAddr,
    pub remote: IpAddr,
}

pub fn ends(local: &str, remote: &str) -> Ends {
    Ends { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

pub fn v4() -> Ends {
    ends("198.51.100.1", "198.51.100.2")
}

pub fn v6() -> Ends {
    ends("2001:db8::1", "2001:db8::2")
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A link's key and its endpoint's.
fn link_keys(ends: Ends, vlan: u32) -> [LinkKey; 2] {
    let (local, remote) = (mapped(ends.local), mapped(ends.remote));
    let key = LinkKey { ifindex: LO, vlan, local, remote, port: PORT, reserved: 0 };
    [key, LinkKey { remote: [0; 16], ..key }]
}

/// What is said and demanded on a link of these tests.
pub fn want(intent: &Intent<AtomicU64>) {
    let me = Party { instance: MY_INSTANCE, session: MINE };
    let view = View { epoch: 9, rank: 4, silence_seconds: 0, flags: flags::HEARS };
    for (word, value) in [
        (&intent.me, me.pack()),
        (&intent.view, view.pack()),
        (&intent.generation, 12),
        (&intent.sent_sequence, SENT),
        (&intent.detection_ns, DETECTION_NS),
        (&intent.max_age_ns, MAX_AGE_NS),
        (&intent.max_lag, MAX_LAG),
        (&intent.mac, mac_word(ETHERNET_DESTINATION)),
        (&intent.min_hops, 200),
    ] {
        word.store(value, Ordering::Relaxed);
    }
}

/// A loaded program with one link in [`SLOT`]; this side is the server.
pub struct Bench {
    pub kernel: Option<Kernel>,
    pub started: Instant,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(kernel) = self.kernel.take() {
            kernel.release(false).unwrap();
        }
    }
}

impl Bench {
    pub fn new(ends: Ends) -> Self {
        Self::with(Kernel::load(&object(), &directory(), 8).unwrap(), ends)
    }

    pub fn with(kernel: Kernel, ends: Ends) -> Self {
        let mut bench = Self { kernel: Some(kernel), started: Instant::now() };
        want(bench.intent());
        bench.renew(now_ns(), u64::MAX);
        bench.kernel().set_keys(SLOT, &keys()).unwrap();
        bench.add_link(ends, 0);
        bench.kernel().set_port(PORT, true).unwrap();
        bench
    }

    pub fn kernel(&mut self) -> &mut Kernel {
        self.kernel.as_mut().unwrap()
    }

    pub fn add_link(&mut self, ends: Ends, vlan: u32) {
        for key in link_keys(ends, vlan) {
            self.kernel().insert_link(key, SLOT).unwrap();
        }
    }

    pub fn remove_link(&mut self, ends: Ends, vlan: u32) {
        for key in link_keys(ends, vlan) {
            self.kernel().remove_link(&key).unwrap();
        }
    }

    pub fn intent(&mut self) -> &'static Intent<AtomicU64> {
        self.leak(|tables| &tables.intents()[SLOT as usize])
    }

    pub fn state(&mut self) -> &'static LinkState<AtomicU64> {
        self.leak(|tables| &tables.states()[SLOT as usize])
    }

    /// The mappings are few and small, and the tests short: leaked, their references borrow nothing.
    fn leak<T>(&mut self, get: impl FnOnce(&'static link_watcher::bpf::SharedTables) -> T) -> T {
        get(Box::leak(Box::new(self.kernel().tables())))
    }

    /// The daemon's last sign of life, and how long it may give none.
    pub fn renew(&mut self, at_ns: u64, lease_ns: u64) {
        self.intent().renewed_ns.store(at_ns, Ordering::Relaxed);
        self.intent().lease_ns.store(lease_ns, Ordering::Relaxed);
    }

    pub fn counters(&mut self) -> Counters {
        self.kernel().counters(SLOT).unwrap()
    }

    pub fn run(&mut self, frame: &[u8]) -> Run {
        self.run_as(Hook::Xdp, LinkLayer::Ethernet, frame)
    }

    pub fn run_as(&mut self, hook: Hook, layer: LinkLayer, frame: &[u8]) -> Run {
        self.kernel().run(hook, layer, LO, frame, 1).unwrap()
    }

    /// Makes the peer's session known, as a first echo does.
    pub fn meet(&mut self) {
        let sequence = 1;
        let run = self.run(&Udp::new(v4(), &signed(&echo(sequence))).frame());
        assert_eq!(run.verdict, DROP);
        assert_eq!(self.state().peer.load(Ordering::Relaxed), peer(PEERS));
    }

    /// Every word of the state.
    pub fn words(&mut self) -> Vec<u64> {
        words(self.state())
    }
}

/// A peer of this session, as a state has it.
pub fn peer(session: u32) -> u64 {
    Party { instance: PEERS_INSTANCE, session }.pack()
}

/// An Ethernet address, as an intent has it.
pub fn mac_word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// Where a probe came from, as a state has it.
pub fn origin_word([a, b, c, d, e, f]: [u8; 6], port: u16) -> u64 {
    let [g, h] = port.to_be_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Every word of a state, in order.
pub fn words(state: &LinkState<AtomicU64>) -> Vec<u64> {
    [
        &state.last_echo_ns,
        &state.echo_window,
        &state.rtt_ns,
        &state.srtt_ns,
        &state.jitter_ns,
        &state.echoes,
        &state.last_probe_ns,
        &state.probe_window,
        &state.probes,
        &state.peer,
        &state.peer_view,
        &state.peer_generation,
        &state.peer_received,
        &state.control_window,
        &state.neighbour,
        &state.newest_sent_ns,
        &state.newest_answered,
        &state.late_echoes,
        &state.last_late_ns,
        &state.late_rtt_ns,
        &state.other_version,
    ]
    .map(|word| word.load(Ordering::Relaxed))
    .to_vec()
}

pub fn keys() -> KeySet {
    let mut keys = KeySet { count: 2, ids: [KEY_ID, 200, 0, 0], ..KeySet::default() };
    keys.states[0] = key_state(KEY);
    keys.states[1] = key_state(b"the next key");
    keys
}

/// A probe of the peer, who is the client.
pub fn probe(sequence: u64) -> Header {
    Header {
        kind: Kind::Probe,
        flags: flags::CLIENT | flags::HEARS,
        key_id: KEY_ID,
        silence_seconds: 0,
        sender_session: PEERS,
        receiver_session: MINE,
        rank: 1,
        generation: 6,
        epoch: 3,
        sequence,
        sent_ns: 123_456,
        received: SENT - 1,
        instance: PEERS_INSTANCE,
    }
}

/// The peer's echo of a probe of ours that was sent just now.
pub fn echo(sequence: u64) -> Header {
    Header { kind: Kind::Echo, sent_ns: now_ns(), received: sequence, ..probe(sequence) }
}

pub fn control(sequence: u64) -> Header {
    Header { kind: Kind::Announce, ..probe(sequence) }
}

/// Signed by the `hmac` crate, not by our own code.
pub fn signed(header: &Header) -> Packet {
    signed_with(header, KEY)
}

pub fn signed_with(header: &Header, key: &[u8]) -> Packet {
    let mut packet = [0; PACKET_LEN];
    header.emit(&mut packet);
    sign(&mut packet, key);
    packet
}

pub fn sign(packet: &mut [u8], key: &[u8]) {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(&packet[..HEADER_LEN]);
    packet[HEADER_LEN..PACKET_LEN].copy_from_slice(&mac.finalize().into_bytes()[..TAG_LEN]);
}

/// A UDP datagram and everything below it.
#[derive(Clone)]
pub struct Udp<'a> {
    pub ends: Ends,
    pub vlans: &'a [(u16, u16)],
    pub options: &'a [u8],
    pub ttl: u8,
    pub source_port: u16,
    pub port: u16,
    pub payload: Vec<u8>,
}

impl<'a> Udp<'a> {
    /// From the remote end to the local one.
    pub fn new(ends: Ends, payload: &[u8]) -> Self {
        Self { ends, vlans: &[], options: &[], ttl: 255, source_port: 50_000, port: PORT, payload: payload.to_vec() }
    }

    pub fn datagram(&self) -> Vec<u8> {
        let len = (8 + self.payload.len()) as u16;
        let mut udp = Vec::new();
        udp.extend(self.source_port.to_be_bytes());
        udp.extend(self.port.to_be_bytes());
        udp.extend(len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let sum = udp_checksum(self.ends.remote, self.ends.local, &udp);
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        udp
    }

    /// From the IP header on.
    pub fn packet(&self) -> Vec<u8> {
        let udp = self.datagram();
        let mut packet = Vec::new();
        match (self.ends.remote, self.ends.local) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                assert_eq!(self.options.len() % 4, 0);
                let header_len = 20 + self.options.len();
                packet.extend([0x40 | (header_len / 4) as u8, 0xc0]);
                packet.extend(((header_len + udp.len()) as u16).to_be_bytes());
                packet.extend([0x12, 0x34, 0x40, 0x00, self.ttl, 17, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(self.options);
                let sum = internet_checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x6c, 0x01, 0x23, 0x45]);
                packet.extend((udp.len() as u16).to_be_bytes());
                packet.extend([17, self.ttl]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            _ => panic!("ends of two families"),
        }
        packet.extend(udp);
        packet
    }

    /// From the Ethernet header on.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = ETHERNET_DESTINATION.to_vec();
        frame.extend(ETHERNET_SOURCE);
        for (ethertype, tag) in self.vlans {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if self.ends.local.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }
}

pub const ETHERNET_DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const ETHERNET_SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// RFC 1071, as slowly as it is written there.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// Over pseudo header and datagram. A right one, included, gives zero, which is sent as 0xffff.
pub fn udp_checksum(source: IpAddr, destination: IpAddr, udp: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((udp.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 17]);
    bytes.extend(udp);
    match internet_checksum(&bytes) {
        0 => 0xffff,
        sum => sum,
    }
}

/// A small generator with a fixed seed: the same cases at every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }
}
