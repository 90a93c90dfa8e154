//! A slow model of the kernel program: a parser over slices and `link_watcher_common::verify` on plain atomics. And packets to hold
//! it against others with.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::AtomicU64,
};

use link_watcher::bpf::LinkLayer;
use link_watcher_common::{
    hmac,
    maps::{Counters, Intent, KeySet, LinkState},
    verify::{self, Outcome, Refusal},
    wire::{Header, Kind, MAX_PACKET_LEN, PACKET_LEN, Unreadable, flags},
};

use super::*;

/// A UDP datagram that the model found.
pub struct Datagram<'a> {
    pub vlan: u32,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    /// TTL or hop limit.
    pub hops: u8,
    /// What IP and UDP say of its length.
    pub lens: (usize, usize),
    /// Everything behind the UDP header, padding too.
    pub rest: &'a [u8],
}

pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn parse(layer: LinkLayer, frame: &[u8]) -> Option<Datagram<'_>> {
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
pub struct Model {
    pub intent: Intent<AtomicU64>,
    pub state: LinkState<AtomicU64>,
    pub keys: KeySet,
    pub counters: Counters,
    pub links: BTreeMap<(u32, IpAddr), IpAddr>,
}

impl Model {
    /// Verdict and, for an answer, the UDP payload.
    pub fn judge(&mut self, layer: LinkLayer, frame: &[u8], now_ns: u64) -> (u32, Option<Vec<u8>>) {
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

    pub fn verify(
        &self,
        datagram: &Datagram<'_>,
        known: bool,
        now_ns: u64,
    ) -> Result<(Outcome, Option<Vec<u8>>), Refusal> {
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
pub fn timeless(state: &LinkState<AtomicU64>) -> Vec<u64> {
    let words = words(state);
    [1, 5, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17].map(|i| words[i]).to_vec()
}

pub fn mostly<T>(random: &mut Random, usual: T, other: T) -> T {
    if random.below(12) == 0 { other } else { usual }
}

/// A packet that is mostly good, in one or the other respect.
pub fn header(random: &mut Random, highest: u64) -> Header {
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
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
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
