//! The reply to a probe, written over it: same length, both directions swapped.

use core::ptr;

use aya_ebpf::helpers::bpf_csum_diff;
use link_watcher_common::wire::{HOPS, PACKET_LEN, Packet};

use crate::{
    maps::Scratch,
    parse::{self, Datagram, Ethernet, Frame, Network, Udp},
};

/// UDP's protocol number, as the pseudo header sums it.
const PROTOCOL_UDP: u64 = 17_u16.to_be() as u64;
/// Length of UDP header and packet, likewise.
const UDP_LEN: u64 = ((size_of::<Udp>() + PACKET_LEN) as u16).to_be() as u64;

/// Offset of UDP's checksum.
const UDP_CHECKSUM: usize = core::mem::offset_of!(Udp, checksum);

/// Turns the frame of a valid probe into the echo that stands signed in `scratch`.
#[inline(always)]
pub(crate) fn answer<F: Frame>(frame: &F, datagram: &Datagram, packet: *mut Packet, scratch: &Scratch) {
    let size = PACKET_LEN as u32;
    let difference = if F::IN_STACK {
        // SAFETY: reads both packets, bounds-checked by the caller.
        unsafe { bpf_csum_diff(packet.cast(), size, (&raw const scratch.packet.0).cast_mut().cast(), size, 0) }
    } else {
        0
    };
    // SAFETY: bounds-checked by the caller.
    unsafe { parse::copy(&raw const scratch.packet.0, packet) };
    if F::ETHERNET
        && let Some(ethernet) = parse::at::<Ethernet>(frame, 0)
    {
        // SAFETY: bounds-checked by `at`, packed.
        unsafe { ptr::swap(&raw mut (*ethernet).destination, &raw mut (*ethernet).source) };
    }
    // SAFETY: the headers were bounds-checked when they were parsed, packed.
    let addresses = unsafe {
        match datagram.network {
            Network::V4(header) => {
                let (source, destination) = ((*header).source, (*header).destination);
                (*header).source = destination;
                (*header).destination = source;
                // Swapped words sum up alike, so only the TTL's word changes the checksum (RFC 1624, equation 3).
                let before = u16::from_ne_bytes([(*header).ttl, (*header).protocol]);
                let after = u16::from_ne_bytes([HOPS, (*header).protocol]);
                (*header).ttl = HOPS;
                let sum = u64::from(!(*header).checksum) + u64::from(!before) + u64::from(after);
                (*header).checksum = !fold(sum);
                u64::from(source) + u64::from(destination)
            }
            Network::V6(header) => {
                let (source, destination) = ((*header).source, (*header).destination);
                (*header).source = destination;
                (*header).destination = source;
                (*header).hop_limit = HOPS;
                sum(&source) + sum(&destination)
            }
        }
    };
    // SAFETY: as above.
    unsafe {
        let (source, destination) = ((*datagram.udp).source, (*datagram.udp).destination);
        (*datagram.udp).source = destination;
        (*datagram.udp).destination = source;
        if F::IN_STACK {
            // The checksum may still be the pseudo header's alone, which the swap does not change.
            frame.add_to_checksum(datagram.payload - size_of::<Udp>() + UDP_CHECKSUM, difference as u64);
            return;
        }
        let total = addresses
            + PROTOCOL_UDP
            + UDP_LEN * 2 // Once in the pseudo header, once in the header.
            + u64::from(source)
            + u64::from(destination)
            + sum(&*(&raw const scratch.packet.0).cast::<[u32; PACKET_LEN / 4]>());
        let checksum = !fold(total);
        // Zero would mean "no checksum" (RFC 768), which IPv6 forbids.
        (*datagram.udp).checksum = if checksum == 0 { 0xffff } else { checksum };
    }
}

/// Sum of words for the Internet checksum, whose byte order is the memory's own (RFC 1071, section 2).
#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> u64 {
    let mut total = 0;
    let mut i = 0;
    while i < N {
        total += u64::from(words[i]);
        i += 1;
    }
    total
}

/// Folds a sum of at most 2^48 into 16 bits.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}
