//! Probes as frames, handed to the interface without the network stack's way down: half the price of a UDP socket's.
//!
//! Only a link that answers is probed this way, and where the peer's last probe came from. Everything else goes by the socket:
//! every probe after one that was not answered, and all that shall take the whole way of data. So whatever the stack has to
//! say (neighbours, routes, filters) still decides over the link, and nothing goes to an address that has moved for longer
//! than one probe.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use link_watcher_common::wire::{HOPS, PACKET_LEN, Packet};

use super::endpoint::{PRIORITY_CONTROL, TOS_NETWORK_CONTROL};
use crate::bpf::packet;

/// Lengths of headers, bytes.
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const LONGEST: usize = IPV6_LEN + UDP_LEN + PACKET_LEN;
/// `IPPROTO_UDP`.
const PROTOCOL: u8 = 17;

/// The socket that frames leave by, of whatever interface.
pub(super) struct Frames(OwnedFd);

impl Frames {
    /// Opens it; it receives nothing. Needs `CAP_NET_RAW`.
    pub(super) fn open() -> io::Result<Self> {
        let socket = packet::open()?;
        // Only a wish, as for the UDP sockets.
        let _ = socket2::SockRef::from(&socket).set_priority(PRIORITY_CONTROL);
        Ok(Self(socket))
    }

    /// Sends one probe to an Ethernet address, without waiting.
    pub(super) fn send(&self, ifindex: u32, head: &Head, probe: &Packet, to: packet::Mac) -> io::Result<()> {
        let mut bytes = [0; LONGEST];
        let length = head.write(probe, &mut bytes);
        packet::send(&self.0, ifindex, head.ethertype, to, &bytes[..length])
    }
}

/// The headers of a link's probes: all but the UDP checksum stay the same.
pub(super) struct Head {
    ethertype: u16,
    bytes: [u8; IPV6_LEN + UDP_LEN],
    length: usize,
    /// Sum of the pseudo header and the UDP header (RFC 768).
    sum: u32,
}

impl Head {
    /// For probes from one address to another; nothing where these are of two kinds.
    pub(super) fn new(local: IpAddr, remote: IpAddr, port: u16) -> Option<Self> {
        let udp_len = (UDP_LEN + PACKET_LEN) as u16;
        let mut bytes = [0; IPV6_LEN + UDP_LEN];
        let (ethertype, ip_len) = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                bytes[..IPV4_LEN].copy_from_slice(&ipv4(local, remote, udp_len));
                (libc::ETH_P_IP, IPV4_LEN)
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                bytes[..IPV6_LEN].copy_from_slice(&ipv6(local, remote, udp_len));
                (libc::ETH_P_IPV6, IPV6_LEN)
            }
            _ => return None,
        };
        let (ip, udp) = bytes.split_at_mut(ip_len);
        udp[..2].copy_from_slice(&port.to_be_bytes());
        udp[2..4].copy_from_slice(&port.to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let addresses = if ip_len == IPV4_LEN { &ip[12..] } else { &ip[8..] };
        let sum = add(addresses) + u32::from(PROTOCOL) + u32::from(udp_len) + add(&udp[..UDP_LEN]);
        Some(Self { ethertype: ethertype as u16, bytes, length: ip_len + UDP_LEN, sum })
    }

    /// Writes a whole packet from the IP header on; gives its length.
    fn write(&self, probe: &Packet, bytes: &mut [u8; LONGEST]) -> usize {
        let length = self.length + PACKET_LEN;
        bytes[..self.length].copy_from_slice(&self.bytes[..self.length]);
        bytes[self.length..length].copy_from_slice(probe);
        let checksum = match !fold(self.sum + add(probe)) {
            // Zero would mean "no checksum" (RFC 768).
            0 => u16::MAX,
            checksum => checksum,
        };
        bytes[self.length - 2..self.length].copy_from_slice(&checksum.to_be_bytes());
        length
    }
}

/// RFC 791, without options. Nothing this short is ever fragmented, so it needs no identification (RFC 6864).
fn ipv4(local: Ipv4Addr, remote: Ipv4Addr, udp_len: u16) -> [u8; IPV4_LEN] {
    let mut header = [0; IPV4_LEN];
    header[0] = 0x45;
    header[1] = TOS_NETWORK_CONTROL as u8;
    header[2..4].copy_from_slice(&(IPV4_LEN as u16 + udp_len).to_be_bytes());
    header[6] = 0x40; // Do not fragment.
    header[8] = HOPS;
    header[9] = PROTOCOL;
    header[12..16].copy_from_slice(&local.octets());
    header[16..].copy_from_slice(&remote.octets());
    let checksum = !fold(add(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// RFC 8200.
fn ipv6(local: Ipv6Addr, remote: Ipv6Addr, udp_len: u16) -> [u8; IPV6_LEN] {
    let mut header = [0; IPV6_LEN];
    let class = TOS_NETWORK_CONTROL as u8;
    header[0] = 0x60 | class >> 4;
    header[1] = class << 4;
    header[4..6].copy_from_slice(&udp_len.to_be_bytes());
    header[6] = PROTOCOL;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&local.octets());
    header[24..].copy_from_slice(&remote.octets());
    header
}

/// Sum of big-endian words (RFC 1071) of an even number of bytes, at most some thousands.
fn add(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn written(local: &str, remote: &str) -> Vec<u8> {
        let head = Head::new(local.parse().unwrap(), remote.parse().unwrap(), 46721).unwrap();
        let probe: Packet = std::array::from_fn(|at| at as u8 ^ 0xa5);
        let mut bytes = [0; LONGEST];
        let length = head.write(&probe, &mut bytes);
        assert_eq!(bytes[length - PACKET_LEN..length], probe);
        bytes[..length].to_vec()
    }

    #[test]
    fn ipv4_headers_are_complete() {
        let bytes = written("192.0.2.1", "192.0.2.2");
        assert_eq!(bytes.len(), 108);
        assert_eq!(bytes[..10], [0x45, 0xc0, 0, 108, 0, 0, 0x40, 0, 255, 17]);
        assert_eq!(bytes[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
        assert_eq!(bytes[20..26], [0xb6, 0x81, 0xb6, 0x81, 0, 88]);
        // A sum over a correct checksum has all bits set.
        assert_eq!(fold(add(&bytes[..20])), 0xffff);
        assert_eq!(fold(add(&bytes[12..]) + 17 + 88), 0xffff);
    }

    #[test]
    fn ipv6_headers_are_complete() {
        let bytes = written("2001:db8::1", "2001:db8::2");
        assert_eq!(bytes.len(), 128);
        assert_eq!(bytes[..8], [0x6c, 0, 0, 0, 0, 88, 17, 255]);
        assert_eq!((bytes[23], bytes[39]), (1, 2));
        assert_eq!(fold(add(&bytes[8..]) + 17 + 88), 0xffff);
    }

    #[test]
    fn no_frame_leads_from_one_family_to_the_other() {
        assert!(Head::new("192.0.2.1".parse().unwrap(), "2001:db8::2".parse().unwrap(), 1).is_none());
    }
}
