//! From a datagram to an outcome: whose is it, and is it good? The rules are [`link_watcher_common::verify`]'s.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use link_watcher_common::{
    hmac,
    maps::{LinkKey, Word},
    verify::{self, Outcome, Refusal},
    window,
    wire::{Header, PACKET_LEN, Packet},
};

use crate::{
    Good, Stop, echo,
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
    let refuse = |refusal| Stop::Refused(slot, refusal);
    let packet = datagram.payload_len().and_then(|len| Some((len, parse::at::<Packet>(frame, datagram.payload)?)));
    let (len, packet) = packet.ok_or(refuse(Refusal::Malformed))?;
    if len > PACKET_LEN && parse::at::<u8>(frame, datagram.payload + len - 1).is_none() {
        return Err(refuse(Refusal::Malformed));
    }
    let scratch = maps::scratch().ok_or(Stop::NotOurs)?;
    // SAFETY: bounds-checked by `at`.
    unsafe { parse::copy(packet, &raw mut scratch.packet.0) };
    if maps::is_benchmark() {
        // SAFETY: as above.
        unsafe { parse::copy(packet, &raw mut scratch.original.0) };
    }
    if !known {
        let malformed = Header::parse(&scratch.packet.0).is_err();
        return Err(refuse(if malformed { Refusal::Malformed } else { Refusal::Unknown }));
    }
    match decide(slot, len > PACKET_LEN, scratch).map_err(refuse)? {
        Outcome::Alive { .. } => Ok(Good::Echo(slot)),
        Outcome::Deliver => Ok(Good::Control(slot)),
        Outcome::Answer { .. } => {
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
fn decide(slot: u32, has_body: bool, scratch: &mut Scratch) -> Result<Outcome, Refusal> {
    let Scratch { packet: Aligned(packet), words, .. } = scratch;
    let header = Header::parse(packet).map_err(|_| Refusal::Malformed)?;
    if has_body && !header.kind.is_control() {
        return Err(Refusal::Malformed);
    }
    // User space writes a slot's values before it enters the link, so these are always there.
    let state = maps::state(slot).ok_or(Refusal::Unknown)?;
    let intent = maps::intent(slot).ok_or(Refusal::Unknown)?;
    if maps::is_benchmark() {
        state.echo_window.store(window::EMPTY);
        state.probe_window.store(window::EMPTY);
        state.control_window.store(window::EMPTY);
    }
    // SAFETY: takes nothing and has no conditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let candidate = verify::screen(&header, intent, state, maps::lease_until_ns(), now_ns)?;
    let keys = maps::keys(intent.key_slot.load()).ok_or(Refusal::Forged)?;
    verify::authentic(packet, header.key_id, keys, words)?;
    // Read again, because kept meanwhile it would take up stack.
    let header = Header::parse(packet).map_err(|_| Refusal::Malformed)?;
    let outcome = verify::commit(&header, candidate, state, now_ns)?;
    if let Outcome::Alive { changed: true } | Outcome::Answer { changed: true } = outcome {
        maps::notify(slot);
    }
    if let Outcome::Answer { .. } = outcome {
        verify::echo(&header, intent, state, keys).emit(packet);
        hmac::sign(packet, &keys.states[0], words);
    }
    Ok(outcome)
}

/// The link that a datagram belongs to and `true`, or its endpoint and `false` where no link explains its source.
#[inline(always)]
fn slot_of(datagram: &Datagram, ifindex: u32) -> Option<(u32, bool)> {
    let mut key = LinkKey { ifindex, vlan: datagram.vlan, port: datagram.port(), ..LinkKey::default() };
    // SAFETY: the headers were bounds-checked by `parse::at`, packed.
    unsafe {
        match datagram.network {
            Network::V4(header) => {
                key.local = mapped((*header).destination);
                key.remote = mapped((*header).source);
            }
            Network::V6(header) => {
                key.local = core::mem::transmute::<[u32; 4], [u8; 16]>((*header).destination);
                key.remote = core::mem::transmute::<[u32; 4], [u8; 16]>((*header).source);
            }
        }
    }
    if let Some(slot) = maps::link_id(&key) {
        return Some((slot, true));
    }
    key.remote = [0; 16];
    Some((maps::link_id(&key)?, false))
}

/// An IPv4 address in network order as IPv4-mapped (RFC 4291, section 2.5.5.2).
#[inline(always)]
fn mapped(address: u32) -> [u8; 16] {
    // SAFETY: four words of any value are sixteen bytes.
    unsafe { core::mem::transmute([0, 0, 0xffff_u32.to_be(), address]) }
}
