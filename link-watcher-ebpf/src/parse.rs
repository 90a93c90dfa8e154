//! From a frame to a UDP datagram: Ethernet with up to two VLAN tags, IPv4, IPv6, UDP.
//!
//! Whatever is none of these (fragments, IPv4 options and IPv6 extension headers among it) is nobody's business here:
//! [`Stop::NotOurs`]. Every access goes through [`at`].

use aya_ebpf::{
    bindings::BPF_F_MARK_MANGLED_0,
    programs::{TcContext, XdpContext},
};
use link_watcher_common::wire::{MAX_PACKET_LEN, PACKET_LEN, Packet};

use crate::Stop;

/// A frame as a hook hands it over.
pub(crate) trait Frame {
    /// Whether it starts with an Ethernet header, or else with the IP header.
    const ETHERNET: bool;
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address behind the last byte.
    fn end(&self) -> usize;
    /// Whether the stack remembers how far a checksum is done, so that it has to be told of changes.
    const IN_STACK: bool;
    /// Length of the frame, bytes. Not all of it need lie between start and end.
    fn len(&self) -> usize;
    /// The outer VLAN id, where it does not stand in the frame any more.
    fn stripped_vlan(&self) -> Option<u32>;
    /// Index of the interface it came in by.
    fn ifindex(&self) -> u32;
    /// Takes the change of the payload into the UDP checksum at an offset, where [`Frame::IN_STACK`]. No pointer into the
    /// frame is good afterwards.
    fn add_to_checksum(&self, offset: usize, difference: u64);
}

/// A frame at the XDP hook.
pub(crate) struct XdpFrame<'a, const ETHERNET: bool>(pub(crate) &'a XdpContext);

impl<const ETHERNET: bool> Frame for XdpFrame<'_, ETHERNET> {
    const ETHERNET: bool = ETHERNET;
    #[inline(always)]
    fn start(&self) -> usize {
        self.0.data()
    }
    #[inline(always)]
    fn end(&self) -> usize {
        self.0.data_end()
    }
    const IN_STACK: bool = false;
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }
    #[inline(always)]
    fn stripped_vlan(&self) -> Option<u32> {
        None
    }
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }
    #[inline(always)]
    fn add_to_checksum(&self, _offset: usize, _difference: u64) {}
}

/// A frame at the tc hook.
pub(crate) struct TcFrame<'a, const ETHERNET: bool>(pub(crate) &'a TcContext);

/// Most bytes that are looked at: Ethernet, two tags, IPv6, UDP, and a packet of ours.
const LOOKED_AT: u32 = (14 + 2 * 4 + 40 + 8 + PACKET_LEN) as u32;

impl<'a, const ETHERNET: bool> TcFrame<'a, ETHERNET> {
    /// Sees to it that everything that is looked at lies between start and end.
    #[inline(always)]
    pub(crate) fn new(context: &'a TcContext) -> Self {
        let wanted = context.len().min(LOOKED_AT);
        if context.data() + wanted as usize > context.data_end() {
            // Where that fails the frame is too short to be ours, and passes.
            let _ = context.pull_data(wanted);
        }
        Self(context)
    }
}

impl<const ETHERNET: bool> Frame for TcFrame<'_, ETHERNET> {
    const ETHERNET: bool = ETHERNET;
    const IN_STACK: bool = true;
    #[inline(always)]
    fn start(&self) -> usize {
        self.0.data()
    }
    #[inline(always)]
    fn end(&self) -> usize {
        self.0.data_end()
    }
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
    }
    #[inline(always)]
    fn stripped_vlan(&self) -> Option<u32> {
        // SAFETY: the context is the kernel's; the program may read these fields of it.
        let (present, tag) = unsafe { ((*self.0.skb.skb).vlan_present, (*self.0.skb.skb).vlan_tci) };
        (present != 0).then_some(tag & 0x0fff)
    }
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0.skb.skb).ifindex }
    }
    #[inline(always)]
    fn add_to_checksum(&self, offset: usize, difference: u64) {
        // "No checksum" stays none.
        let flags = u64::from(BPF_F_MARK_MANGLED_0);
        let _ = self.0.l4_csum_replace(offset, 0, difference, flags);
    }
}

/// The `T` at an offset, if the frame holds all of it.
#[inline(always)]
pub(crate) fn at<T>(frame: &impl Frame, offset: usize) -> Option<*mut T> {
    let address = frame.start() + offset;
    if address + size_of::<T>() > frame.end() { None } else { Some(address as *mut T) }
}

/// Copies eight bytes from or to a packet, at any alignment, in two instructions: the compiler would copy them one by
/// one. The kernel allows it on packets wherever the hardware does (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).
macro_rules! copy_words {
    ($from:expr, $to:expr, $($offset:literal)*) => {{
        $(
            core::arch::asm!(
                "{word} = *(u64 *)({from} + {offset})",
                "*(u64 *)({to} + {offset}) = {word}",
                from = in(reg) $from, to = in(reg) $to, word = out(reg) _, offset = const $offset,
                options(nostack),
            );
        )*
    }};
}

/// Copies a packet's bytes.
///
/// # Safety
///
/// Both places hold that many bytes, by a check that the kernel's verifier saw.
#[inline(always)]
pub(crate) unsafe fn copy(from: *const Packet, to: *mut Packet) {
    const { assert!(PACKET_LEN == 80) }
    // SAFETY: ten words are the 80 bytes that the caller vouches for.
    unsafe { copy_words!(from, to, 0 8 16 24 32 40 48 56 64 72) }
}

/// Reads an IPv6 address as two words.
///
/// # Safety
///
/// As [`copy`].
#[inline(always)]
pub(crate) unsafe fn address(from: *const [u32; 4]) -> [u64; 2] {
    let mut words = [0; 2];
    // SAFETY: reads the 16 bytes that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "{high} = *(u64 *)({from} + 0)",
            "{low} = *(u64 *)({from} + 8)",
            from = in(reg) from, high = out(reg) words[0], low = lateout(reg) words[1],
            options(pure, readonly, nostack),
        );
    }
    words
}

/// Ethernet header (IEEE 802.3).
#[repr(C, packed(2))]
pub(crate) struct Ethernet {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    pub(crate) ethertype: u16,
}

/// What follows the ethertype of a VLAN tag (IEEE 802.1Q).
#[repr(C, packed(2))]
struct Vlan {
    tag: u16,
    ethertype: u16,
}

/// IPv4 header without options (RFC 791).
#[repr(C, packed(2))]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) total_len: u16,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

/// IPv6 header (RFC 8200).
#[repr(C, packed(2))]
pub(crate) struct Ipv6 {
    pub(crate) version: u8,
    pub(crate) class_flow: [u8; 3],
    pub(crate) payload_len: u16,
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

/// UDP header (RFC 768).
#[repr(C, packed(2))]
pub(crate) struct Udp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) len: u16,
    pub(crate) checksum: u16,
}

/// The network header of a datagram. The pointers stay inside the frame.
#[derive(Clone, Copy)]
pub(crate) enum Network {
    V4(*mut Ipv4),
    V6(*mut Ipv6),
}

/// An unfragmented UDP datagram.
pub(crate) struct Datagram {
    /// VLAN ids as in [`link_watcher_common::maps::LinkKey::vlan`].
    pub(crate) vlan: u32,
    pub(crate) network: Network,
    /// Inside the frame.
    pub(crate) udp: *mut Udp,
    /// Offset of the UDP payload in the frame.
    pub(crate) payload: usize,
    /// What the IP header says follows it, in bytes.
    ip_payload_len: usize,
}

impl Datagram {
    /// Destination port, host order.
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        // SAFETY: `udp` was bounds-checked by `at`; the type is packed, so any alignment will do.
        u16::from_be(unsafe { (*self.udp).destination })
    }

    /// Source port, as it stands in the packet.
    #[inline(always)]
    pub(crate) fn source_port(&self) -> [u8; 2] {
        // SAFETY: as above.
        unsafe { (*self.udp).source }.to_ne_bytes()
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub(crate) fn hops(&self) -> u8 {
        // SAFETY: the headers were bounds-checked by `at`, packed.
        unsafe {
            match self.network {
                Network::V4(header) => (*header).ttl,
                Network::V6(header) => (*header).hop_limit,
            }
        }
    }

    /// Length of the UDP payload, if it is one that a packet of ours can have and the headers agree on it.
    /// What follows the datagram in the frame is padding.
    #[inline(always)]
    pub(crate) fn payload_len(&self) -> Option<usize> {
        // SAFETY: as above.
        let udp_len = usize::from(u16::from_be(unsafe { (*self.udp).len }));
        let payload_len = udp_len.wrapping_sub(size_of::<Udp>());
        let ours = udp_len == self.ip_payload_len && (PACKET_LEN..=MAX_PACKET_LEN).contains(&payload_len);
        ours.then_some(payload_len)
    }
}

// Ethertypes and protocol numbers (IANA), as they stand in memory.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_CTAG: u16 = 0x8100_u16.to_be();
const ETHERTYPE_STAG: u16 = 0x88a8_u16.to_be();
const PROTOCOL_UDP: u8 = 17;
/// "More fragments" and the offset (RFC 791).
const FRAGMENT_MASK: u16 = 0x3fff_u16.to_be();

/// Whether a frame is addressed to the Ethernet address that `mac` holds as [`link_watcher_common::maps::Intent::mac`] does.
/// The stack drops what goes to another one, and so a probe that did says nothing about the way of data.
#[inline(always)]
pub(crate) fn is_for_me<F: Frame>(frame: &F, mac: u64) -> bool {
    if !F::ETHERNET || mac == 0 {
        return true;
    }
    let Some(ethernet) = at::<Ethernet>(frame, 0) else { return false };
    // SAFETY: bounds-checked by `at`, packed.
    let [a, b, c, d, e, f] = unsafe { (*ethernet).destination };
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]) == mac
}

/// Finds the datagram in a frame.
#[inline(always)]
pub(crate) fn datagram(frame: &impl Frame) -> Result<Datagram, Stop> {
    datagram_of(frame).ok_or(Stop::NotOurs)
}

#[inline(always)]
fn datagram_of<F: Frame>(frame: &F) -> Option<Datagram> {
    if !F::ETHERNET {
        // Both versions' headers are at least that long. (A check for one byte would become a 32-bit comparison, of
        // which the kernel's verifier learns nothing.)
        let header: *mut Ipv4 = at(frame, 0)?;
        // SAFETY: bounds-checked by `at`.
        return match unsafe { (*header).version_ihl } >> 4 {
            4 => ipv4(frame, 0, 0),
            6 => ipv6(frame, 0, 0),
            _ => None,
        };
    }
    let ethernet: *mut Ethernet = at(frame, 0)?;
    // SAFETY: bounds-checked by `at`, packed.
    let mut ethertype = unsafe { (*ethernet).ethertype };
    let mut offset = size_of::<Ethernet>();
    let stripped = frame.stripped_vlan();
    let mut vlan = stripped.unwrap_or(0);
    if is_tag(ethertype) {
        let inner;
        (inner, ethertype) = tag(frame, offset)?;
        vlan = vlan << 16 | inner;
        offset += size_of::<Vlan>();
        if stripped.is_none() && is_tag(ethertype) {
            let inner;
            (inner, ethertype) = tag(frame, offset)?;
            vlan = vlan << 16 | inner;
            offset += size_of::<Vlan>();
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, offset, vlan),
        ETHERTYPE_IPV6 => ipv6(frame, offset, vlan),
        _ => None,
    }
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_CTAG || ethertype == ETHERTYPE_STAG
}

/// VLAN id and the ethertype behind it.
#[inline(always)]
fn tag(frame: &impl Frame, offset: usize) -> Option<(u32, u16)> {
    let vlan: *mut Vlan = at(frame, offset)?;
    // SAFETY: bounds-checked by `at`, packed.
    let Vlan { tag, ethertype } = unsafe { vlan.read() };
    Some((u32::from(u16::from_be(tag) & 0x0fff), ethertype))
}

#[inline(always)]
fn ipv4(frame: &impl Frame, offset: usize, vlan: u32) -> Option<Datagram> {
    let header: *mut Ipv4 = at(frame, offset)?;
    // SAFETY: bounds-checked by `at`, packed.
    let (version_ihl, fragment, protocol, total_len) =
        unsafe { ((*header).version_ihl, (*header).fragment, (*header).protocol, (*header).total_len) };
    // Version 4 and a header of five words: what has options is not answered: it may have been routed by its sender.
    if protocol != PROTOCOL_UDP || version_ihl != 0x45 || fragment & FRAGMENT_MASK != 0 {
        return None;
    }
    let udp = at(frame, offset + size_of::<Ipv4>())?;
    Some(Datagram {
        vlan,
        network: Network::V4(header),
        udp,
        payload: offset + size_of::<Ipv4>() + size_of::<Udp>(),
        ip_payload_len: usize::from(u16::from_be(total_len)).wrapping_sub(size_of::<Ipv4>()),
    })
}

#[inline(always)]
fn ipv6(frame: &impl Frame, offset: usize, vlan: u32) -> Option<Datagram> {
    let header: *mut Ipv6 = at(frame, offset)?;
    // SAFETY: bounds-checked by `at`, packed.
    let (version, next_header, payload_len) =
        unsafe { ((*header).version, (*header).next_header, (*header).payload_len) };
    if next_header != PROTOCOL_UDP || version >> 4 != 6 {
        return None;
    }
    let payload = offset + size_of::<Ipv6>();
    Some(Datagram {
        vlan,
        network: Network::V6(header),
        udp: at(frame, payload)?,
        payload: payload + size_of::<Udp>(),
        ip_payload_len: usize::from(u16::from_be(payload_len)),
    })
}
