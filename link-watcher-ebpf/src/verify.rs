//! From a datagram to an outcome: whose is it, and is it good? The rules are [`link_watcher_common::verify`]'s.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use link_watcher_common::{
    maps::Word,
    verify::{self, Outcome, Refusal},
    window,
    wire::{Header, PACKET_LEN, Packet, Unreadable},
};

use crate::{
    Good, Stop, echo, hmac,
    maps::{self, Aligned, Scratch},
    parse::{self, Datagram, Frame, Network},
};

/// Checks a frame, cheapest test first, and answers it in place if it is a valid probe.
#[inline(always)]
pub(crate) fn handle(frame: &impl Frame) -> Result<Good, Stop> {
    let datagram = parse::datagram(frame)?;
    if !maps::is_our_port(datagram.port()) {
        return Err(Stop::NotOurs);
    }
    let (slot, known) = slot_of(&datagram, frame.ifindex()).ok_or(Stop::NotOurs)?;
    // User space writes a slot's values before it enters the link, so these are always there.
    let intent = maps::intent(slot).ok_or(Stop::NotOurs)?;
    if !parse::is_for_me(frame, intent.mac.load()) {
        return Err(Stop::NotOurs);
    }
    let refuse = |refusal| Stop::Refused(slot, refusal);
    let packet = datagram.payload_len().and_then(|len| Some((len, parse::at::<Packet>(frame, datagram.payload)?)));
    let (len, packet) = packet.ok_or(refuse(Refusal::Malformed))?;
    if datagram.payload + len > frame.len() {
        return Err(refuse(Refusal::Malformed));
    }
    let scratch = maps::scratch().ok_or(Stop::NotOurs)?;
    // SAFETY: bounds-checked by `at`.
    unsafe { parse::copy(packet, &raw mut scratch.packet.0) };
    if !known {
        let malformed = Header::parse(&scratch.packet.0) == Err(Unreadable::Malformed);
        return Err(refuse(if malformed { Refusal::Malformed } else { Refusal::Unknown }));
    }
    match decide(slot, len > PACKET_LEN, datagram.hops(), scratch).map_err(refuse)? {
        Outcome::Alive { .. } => Ok(Good::Echo(slot)),
        Outcome::Deliver => Ok(Good::Control(slot)),
        Outcome::Answer { newest, .. } => {
            if newest {
                maps::note_neighbour(frame, slot, datagram.source_port());
            }
            if maps::is_benchmark() {
                // SAFETY: bounds-checked by `at`.
                unsafe { parse::copy(packet, &raw mut scratch.original.0) };
            }
            echo::answer(frame, &datagram, packet, scratch);
            if maps::is_benchmark() {
                // Swaps everything back. SAFETY: bounds-checked by `at`.
                echo::answer(frame, &datagram, packet, scratch);
                unsafe { parse::copy(&raw const scratch.original.0, packet) };
            }
            Ok(Good::Probe(slot))
        }
    }
}

/// The checks proper, on the copy of the packet in `scratch`, and in its place the echo of a good probe. Never inlined:
/// it keeps the stack small, and the kernel's verifier from walking through it once for each way to get here.
#[inline(never)]
fn decide(slot: u32, has_body: bool, hops: u8, scratch: &mut Scratch) -> Result<Outcome, Refusal> {
    let Aligned(packet) = &mut scratch.packet;
    let header = match Header::parse(packet) {
        Ok(header) => header,
        Err(Unreadable::Malformed) => return Err(Refusal::Malformed),
        Err(Unreadable::OtherVersion(version)) => {
            note_version(slot, version);
            return Err(Refusal::Version);
        }
    };
    if has_body && !header.kind.has_body() {
        return Err(Refusal::Malformed);
    }
    let state = maps::state(slot).ok_or(Refusal::Unknown)?;
    let intent = maps::intent(slot).ok_or(Refusal::Unknown)?;
    let mut read_ns = 0;
    let clock = || {
        // SAFETY: takes nothing and has no conditions.
        read_ns = unsafe { bpf_ktime_get_ns() };
        read_ns
    };
    let candidate = verify::screen(&header, hops, intent, state, clock)?;
    let keys = maps::keys(slot).ok_or(Refusal::Forged)?;
    verify::authentic(header.key_id, keys, |key| hmac::sign(packet, key))?;
    // Half a microsecond late, but no forgery pays for it.
    // SAFETY: as above.
    let now_ns = if read_ns == 0 { unsafe { bpf_ktime_get_ns() } } else { read_ns };
    // Read again, because kept meanwhile it would take up stack.
    let header = Header::parse(packet).map_err(|_| Refusal::Malformed)?;
    let outcome = verify::commit(&header, candidate, intent, state, now_ns)?;
    if maps::is_benchmark() {
        // The same packet is to be good again.
        state.echo_window.store(window::EMPTY);
        state.probe_window.store(window::EMPTY);
        state.control_window.store(window::EMPTY);
    }
    if let Outcome::Alive { changed: true } | Outcome::Answer { changed: true, .. } = outcome {
        maps::notify(slot);
    }
    if let Outcome::Answer { .. } = outcome {
        verify::echo(&header, intent, state, keys, now_ns).emit(packet);
        hmac::sign(packet, &keys.states[0]);
    }
    Ok(outcome)
}

/// Notes that the peer speaks another version; for people, who are told.
#[inline(always)]
fn note_version(slot: u32, version: u8) {
    if let Some(state) = maps::state(slot) {
        // SAFETY: takes nothing and has no conditions.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        state.other_version.store(now_ns & !0xff | u64::from(version));
    }
}

/// The link that a datagram belongs to and `true`, or its endpoint and `false` where no link explains its source.
#[inline(always)]
fn slot_of(datagram: &Datagram, ifindex: u32) -> Option<(u32, bool)> {
    // SAFETY: the headers were bounds-checked by `parse::at`, packed.
    let (local, remote) = unsafe {
        match datagram.network {
            Network::V4(header) => (mapped((*header).destination), mapped((*header).source)),
            Network::V6(header) => {
                (parse::address(&raw const (*header).destination), parse::address(&raw const (*header).source))
            }
        }
    };
    let interface = u64::from(ifindex) | u64::from(datagram.vlan) << 32;
    let mut words = [interface, local[0], local[1], remote[0], remote[1], u64::from(datagram.port())];
    if let Some(slot) = maps::link_id(&words) {
        return Some((slot, true));
    }
    words[3] = 0;
    words[4] = 0;
    Some((maps::link_id(&words)?, false))
}

/// An IPv4 address in network order as IPv4-mapped (RFC 4291, section 2.5.5.2), two words as they stand in memory.
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    [0, u64::from(0xffff_u32.to_be()) | u64::from(address) << 32]
}
