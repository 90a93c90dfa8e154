//! The kernel programs at both hooks against a slow model of it: a parser over slices and `link_watcher_common::verify` on plain atomics,
//! over thousands of random and mutated packets. Verdict, counters, state and answer must be the same.
#![allow(missing_docs, clippy::unwrap_used)]

mod bpf;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bpf::*;
use link_watcher::bpf::{Hook, LinkLayer};
use link_watcher_common::{
    hmac,
    maps::{Counters, Intent, KeySet, LinkState, View},
    verify::{self, Outcome, Refusal},
    wire::{Header, Kind, MAX_PACKET_LEN, PACKET_LEN, Unreadable, flags},
};

/// Cases of one run, unless `LINK_WATCHER_CASES` says otherwise.
const CASES: u32 = 200_000;

/// A UDP datagram that the model found.
struct Datagram<'a> {
    vlan: u32,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    /// TTL or hop limit.
    hops: u8,
    /// What IP and UDP say of its length.
    lens: (usize, usize),
    /// Everything behind the UDP header, padding too.
    rest: &'a [u8],
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn parse(layer: LinkLayer, frame: &[u8]) -> Option<Datagram<'_>> {
    let mut vlan = 0;
    let mut packet = frame;
    if layer == LinkLayer::Ethernet {
        let mut ethertype = be16(frame, 12)?;
        packet = &frame[14..];
        for _ in 0..2 {
            if ethertype == 0x8100 || ethertype == 0x88a8 {
                vlan = vlan << 16 | u32::from(be16(packet, 0)? & 0xfff);
                ethertype = be16(packet, 2)?;
                packet = &packet[4..];
            }
        }
        let version = packet.first()? >> 4;
        if !matches!((ethertype, version), (0x0800, 4) | (0x86dd, 6)) {
            return None;
        }
    }
    let (source, destination, ip_len, hops, udp) = match packet.first()? >> 4 {
        4 => {
            // With options it is nobody's business.
            const HEADER_LEN: usize = 20;
            if packet.len() < HEADER_LEN || packet[0] != 0x45 || packet[9] != 17 || be16(packet, 6)? & 0x3fff != 0 {
                return None;
            }
            let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            let ip_len = usize::from(be16(packet, 2)?).wrapping_sub(HEADER_LEN);
            (address(12).into(), address(16).into(), ip_len, packet[8], &packet[HEADER_LEN..])
        }
        6 => {
            if packet.len() < 40 || packet[6] != 17 {
                return None;
            }
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            (address(8).into(), address(24).into(), usize::from(be16(packet, 4)?), packet[7], &packet[40..])
        }
        _ => return None,
    };
    let lens = (ip_len, usize::from(be16(udp, 4)?));
    Some(Datagram { vlan, source, destination, port: be16(udp, 2)?, hops, lens, rest: udp.get(8..)? })
}

/// What the program is held against.
struct Model {
    intent: Intent<AtomicU64>,
    state: LinkState<AtomicU64>,
    keys: KeySet,
    counters: Counters,
    links: BTreeMap<(u32, IpAddr), IpAddr>,
}

impl Model {
    /// Verdict and, for an answer, the UDP payload.
    fn judge(&mut self, layer: LinkLayer, frame: &[u8], now_ns: u64) -> (u32, Option<Vec<u8>>) {
        if layer == LinkLayer::Ethernet && frame[..6] != ETHERNET_DESTINATION {
            return (PASS, None);
        }
        let Some(datagram) = parse(layer, frame) else { return (PASS, None) };
        let remote = self.links.get(&(datagram.vlan, datagram.destination));
        let (true, Some(remote)) = (datagram.port == PORT, remote) else { return (PASS, None) };
        match self.verify(&datagram, datagram.source == *remote, now_ns) {
            Ok((Outcome::Alive { .. }, _)) => {
                self.counters.echoes += 1;
                (DROP, None)
            }
            Ok((Outcome::Deliver, _)) => {
                self.counters.control += 1;
                (PASS, None)
            }
            Ok((Outcome::Answer { .. }, echo)) => {
                self.counters.probes += 1;
                (TX, echo)
            }
            Err(refusal) => {
                *match refusal {
                    Refusal::Malformed => &mut self.counters.malformed,
                    Refusal::Unknown => &mut self.counters.unknown,
                    Refusal::Replayed => &mut self.counters.replayed,
                    Refusal::Reflected => &mut self.counters.reflected,
                    Refusal::Forged => &mut self.counters.forged,
                    Refusal::Late => &mut self.counters.late,
                    Refusal::Distant => &mut self.counters.distant,
                    Refusal::Version => &mut self.counters.version,
                } += 1;
                (DROP, None)
            }
        }
    }

    fn verify(&self, datagram: &Datagram<'_>, known: bool, now_ns: u64) -> Result<(Outcome, Option<Vec<u8>>), Refusal> {
        let (ip_len, udp_len) = datagram.lens;
        let payload_len = udp_len.wrapping_sub(8);
        let payload = datagram.rest.get(..payload_len).ok_or(Refusal::Malformed)?;
        let packet = payload.first_chunk::<PACKET_LEN>().ok_or(Refusal::Malformed)?;
        let header = match Header::parse(packet) {
            Ok(header) => header,
            Err(Unreadable::Malformed) => return Err(Refusal::Malformed),
            Err(Unreadable::OtherVersion(_)) if ip_len != udp_len || payload_len > MAX_PACKET_LEN => {
                return Err(Refusal::Malformed);
            }
            Err(Unreadable::OtherVersion(_)) if !known => return Err(Refusal::Unknown),
            Err(Unreadable::OtherVersion(_)) => return Err(Refusal::Version),
        };
        let longest = if header.kind.has_body() { MAX_PACKET_LEN } else { PACKET_LEN };
        if ip_len != udp_len || payload_len > longest {
            // A stranger's kind is not looked at so closely; both are counted as something wrong.
            let too_long_for_any = ip_len != udp_len || payload_len > MAX_PACKET_LEN;
            return Err(if known || too_long_for_any { Refusal::Malformed } else { Refusal::Unknown });
        }
        if !known {
            return Err(Refusal::Unknown);
        }
        let candidate = verify::screen(&header, datagram.hops, &self.intent, &self.state, || now_ns)?;
        verify::authentic(header.key_id, &self.keys, |key| hmac::verify(packet, key))?;
        let outcome = verify::commit(&header, candidate, &self.intent, &self.state, now_ns)?;
        let echo = matches!(outcome, Outcome::Answer { .. }).then(|| {
            let mut echo = [0; PACKET_LEN];
            verify::echo(&header, &self.intent, &self.state, &self.keys, now_ns).emit(&mut echo);
            hmac::sign(&mut echo, &self.keys.states[0]);
            echo.to_vec()
        });
        Ok((outcome, echo))
    }
}

/// Words of a state that do not depend on the clock.
fn timeless(state: &LinkState<AtomicU64>) -> Vec<u64> {
    let words = words(state);
    [1, 5, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17].map(|i| words[i]).to_vec()
}

fn mostly<T>(random: &mut Random, usual: T, other: T) -> T {
    if random.below(12) == 0 { other } else { usual }
}

/// A packet that is mostly good, in one or the other respect.
fn header(random: &mut Random, highest: u64) -> Header {
    let kinds = [
        Kind::Probe,
        Kind::Probe,
        Kind::Probe,
        Kind::Echo,
        Kind::Echo,
        Kind::Echo,
        Kind::Announce,
        Kind::AnnounceAck,
        Kind::Notice,
        Kind::StackProbe,
        Kind::StackEcho,
    ];
    let lag_less = mostly(random, 20, 399);
    let near = (highest + 4).saturating_sub(random.next() % 32).max(1);
    Header {
        kind: kinds[random.below(kinds.len())],
        flags: mostly(random, flags::CLIENT, 0) | (random.next() as u8 & flags::ALL & !flags::CLIENT),
        key_id: mostly(random, KEY_ID, 200),
        silence_seconds: mostly(random, 0, 7),
        sender_session: mostly(random, PEERS, PEERS + 1),
        receiver_session: mostly(random, MINE, 0),
        rank: random.next() as u16,
        generation: random.next() as u16 % 3,
        epoch: random.next() as u32 % 4,
        sequence: mostly(random, near, near + 100),
        // Of now, or of long ago.
        sent_ns: mostly(random, u64::MAX, 1),
        // Up to date, behind, and of the future.
        received: SENT + lag_less - random.next() % 400,
        instance: mostly(random, PEERS_INSTANCE, PEERS_INSTANCE + 1),
    }
}

/// Breaks a frame in one place or another.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(7) {
        0 => {
            let bit = random.below(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        1 => {
            let at = random.below(frame.len());
            frame[at] = random.next() as u8;
        }
        // The headers are a small part of the frame, so they get a share of their own.
        2 | 3 => {
            let at = random.below(frame.len().min(70));
            frame[at] = [0, 1, 0x45, 0x60, 17, 80, 88, 0xff, random.next() as u8][random.below(9)];
        }
        4 => frame.truncate(14 + random.below(frame.len() - 13)),
        5 => frame.extend((0..random.below(60)).map(|i| i as u8)),
        _ => {
            let at = random.below(frame.len());
            frame.insert(at, random.next() as u8);
        }
    }
}

/// A frame that claims by its first 14 bytes to hold an IP header, and does not.
fn too_short(frame: &[u8]) -> bool {
    let header_len = match be16(frame, 12) {
        Some(0x0800) => 20,
        Some(0x86dd) => 40,
        _ => 0,
    };
    frame.len() < 14 + header_len
}

/// A verdict at tc as XDP has it.
fn as_xdp(hook: Hook, verdict: u32) -> u32 {
    match (hook, verdict.cast_signed()) {
        (Hook::Xdp, _) => verdict,
        // TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT.
        (Hook::Tc, -1) => PASS,
        (Hook::Tc, 2) => DROP,
        (Hook::Tc, 7) => TX,
        (Hook::Tc, other) => panic!("the tc program never says {other}"),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_program_and_the_model_agree() {
    agree(Hook::Xdp);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_program_at_tc_and_the_model_agree() {
    agree(Hook::Tc);
}

fn agree(hook: Hook) {
    let mut bench = Bench::new(v4());
    bench.add_link(v6(), 0);
    bench.add_link(v4(), 42);
    bench.add_link(v6(), 7 << 16 | 42);
    let copy = |word: &AtomicU64| AtomicU64::new(word.load(Relaxed));
    let intent = bench.intent();
    let mut model = Model {
        intent: Intent {
            me: copy(&intent.me),
            view: copy(&intent.view),
            generation: copy(&intent.generation),
            sent_sequence: copy(&intent.sent_sequence),
            detection_ns: copy(&intent.detection_ns),
            max_age_ns: copy(&intent.max_age_ns),
            max_lag: copy(&intent.max_lag),
            renewed_ns: copy(&intent.renewed_ns),
            lease_ns: copy(&intent.lease_ns),
            mac: copy(&intent.mac),
            min_hops: copy(&intent.min_hops),
            reserved: Default::default(),
        },
        state: LinkState::default(),
        keys: keys(),
        counters: Counters::default(),
        links: BTreeMap::from([
            ((0, v4().local), v4().remote),
            ((0, v6().local), v6().remote),
            ((42, v4().local), v4().remote),
            ((7 << 16 | 42, v6().local), v6().remote),
        ]),
    };
    let seed = std::env::var("LINK_WATCHER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("LINK_WATCHER_SEED={seed}");
    let mut random = Random(seed);
    let mut highest = 0;
    let mut seen = BTreeMap::<String, u32>::new();
    let cases = std::env::var("LINK_WATCHER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    for case in 0..cases {
        // The clock is the one input that cannot be the same on both sides, so it never decides.
        if random.below(50) == 0 {
            let detection_ns = if random.below(2) == 0 { 0 } else { u64::MAX };
            model.intent.detection_ns.store(detection_ns, Relaxed);
            intent.detection_ns.store(detection_ns, Relaxed);
            // Alive, or silent for longer than can be said.
            let lease_ns = if random.below(5) == 0 { 0 } else { u64::MAX };
            bench.renew(0, lease_ns);
            model.intent.renewed_ns.store(0, Relaxed);
            model.intent.lease_ns.store(lease_ns, Relaxed);
            let view = View { epoch: random.next() as u32, rank: 3, silence_seconds: 0, flags: flags::ACTIVE };
            model.intent.view.store(view.pack(), Relaxed);
            intent.view.store(view.pack(), Relaxed);
        }
        let header = header(&mut random, highest);
        let key = if header.key_id == KEY_ID { KEY } else { b"the next key" };
        let key = if random.below(25) == 0 { b"another link's key" } else { key };
        let mut payload = signed_with(&header, key).to_vec();
        if random.below(25) == 0 {
            payload[3] = [1, 3][random.below(2)];
        }
        if header.kind.is_control() && random.below(2) == 0 {
            payload.resize(PACKET_LEN + random.below(300), 0x5a);
        }
        let mut ends = if random.below(2) == 0 { v4() } else { v6() };
        if random.below(15) == 0 {
            ends.remote = if ends.local.is_ipv4() { "203.0.113.7" } else { "2001:db8::7" }.parse().unwrap();
        }
        let vlans: &[(u16, u16)] =
            [&[][..], &[], &[(0x8100, 42)], &[(0x88a8, 7), (0x8100, 42)], &[(0x8100, 0)]][random.below(5)];
        let options: &[u8] = if random.below(4) == 0 { &[1, 1, 1, 0] } else { &[] };
        let ttl = mostly(&mut random, 255, 150);
        let udp = Udp { vlans, options, ttl, ..Udp::new(ends, &payload) };
        let layer = if random.below(4) == 0 { LinkLayer::None } else { LinkLayer::Ethernet };
        let mut frame = if layer == LinkLayer::None { udp.packet() } else { udp.frame() };
        if layer == LinkLayer::Ethernet && random.below(30) == 0 {
            frame[5] ^= 1; // to another Ethernet address
        }
        if random.below(2) == 0 {
            for _ in 0..=random.below(3) {
                mutate(&mut random, &mut frame);
            }
        }

        // `bpf_prog_test_run_skb` (net/bpf/test_run.c) makes no `sk_buff` of what is shorter than the header that it claims.
        let run = match bench.kernel().run(hook, layer, LO, &frame, 1) {
            Err(_) if hook == Hook::Tc && too_short(&frame) => {
                *seen.entry("too short for tc".to_owned()).or_default() += 1;
                continue;
            }
            run => run.unwrap(),
        };
        let (verdict, echo) = model.judge(layer, &frame, now_ns());
        let context = || format!("case {case}: {layer:?} {header:?} {frame:02x?}");
        assert_eq!(as_xdp(hook, run.verdict), verdict, "{}", context());
        assert_eq!(timeless(bench.state()), timeless(&model.state), "{}", context());
        match echo {
            None => assert_eq!(run.packet, frame, "{}", context()),
            Some(echo) => {
                assert_eq!(run.packet.len(), frame.len());
                let answer = parse(layer, &run.packet).unwrap();
                let question = parse(layer, &frame).unwrap();
                assert_eq!((answer.source, answer.destination), (question.destination, question.source));
                assert_eq!(answer.rest[..PACKET_LEN], echo, "{}", context());
                highest = highest.max(header.sequence);
            }
        }
        if verdict != PASS {
            highest = highest.max(model.state.echo_window.load(Relaxed) >> 24);
        }
        let counters = bench.counters();
        assert_eq!(counters, model.counters, "{}", context());
        // The times are the kernel's.
        for (to, from) in [
            (&model.state.last_echo_ns, &bench.state().last_echo_ns),
            (&model.state.last_probe_ns, &bench.state().last_probe_ns),
        ] {
            to.store(from.load(Relaxed), Relaxed);
        }
        *seen.entry(format!("verdict {verdict}")).or_default() += 1;
    }
    println!("{seen:?} {:?}", model.counters);
    // Every outcome was among them, often.
    let Counters { probes, echoes, control, malformed, unknown, replayed, reflected, forged, late, distant, version } =
        model.counters;
    for count in [probes, echoes, control, malformed, unknown, replayed, reflected, forged, late, distant, version] {
        assert!(count >= 100, "{:?}", model.counters);
    }
}
