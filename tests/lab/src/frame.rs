//! Frames as they are on a wire, and the ways to spoil them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::routers::PORT;

/// Length of an Ethernet header, octets.
const ETHERNET_LEN: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_UDP: u8 = 17;
/// Length of a UDP header, octets.
const UDP_LEN: usize = 8;
/// Length of an IPv6 header, octets.
const IPV6_LEN: usize = 40;

/// A packet as it is on a wire: with an Ethernet header on a cable, beginning with the IP header in a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
    /// Where the IP header begins: 14 or 0.
    network: usize,
}

impl Frame {
    /// A frame of a cable, beginning with its Ethernet header.
    pub fn ethernet(bytes: Vec<u8>) -> Frame {
        Frame { bytes, network: ETHERNET_LEN }
    }

    /// A packet of a tunnel, beginning with its IP header.
    pub fn ip(bytes: Vec<u8>) -> Frame {
        Frame { bytes, network: 0 }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the UDP header begins, if this is an unfragmented UDP packet of IPv4 or of IPv6 without extension headers.
    fn udp(&self) -> Option<usize> {
        if self.network == ETHERNET_LEN {
            let ethertype = self.bytes.get(12..14)?;
            if ethertype != ETHERTYPE_IPV4 && ethertype != ETHERTYPE_IPV6 {
                return None;
            }
        }
        let ip = self.bytes.get(self.network..)?;
        let offset = match ip.first()? >> 4 {
            4 => {
                // Fragment offset and "more fragments" (RFC 791, section 3.1): 0 in a whole packet.
                let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
                if *ip.get(9)? != PROTOCOL_UDP || fragment != 0 {
                    return None;
                }
                usize::from(ip[0] & 0x0f) * 4
            }
            6 if *ip.get(6)? == PROTOCOL_UDP => IPV6_LEN,
            _ => return None,
        };
        ip.get(offset..offset + UDP_LEN)?;
        Some(self.network + offset)
    }

    /// Source and destination port, if it is a UDP packet.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let udp = self.udp()?;
        let port = |at: usize| u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]);
        Some((port(udp), port(udp + 2)))
    }

    /// Whether it is of the daemons' protocol, in either direction: from or to the port that the lab's files say.
    pub fn is_keepalive(&self) -> bool {
        self.ports().is_some_and(|(from, to)| from == PORT || to == PORT)
    }

    /// The UDP payload, if it is a UDP packet.
    pub fn payload(&self) -> Option<&[u8]> {
        let udp = self.udp()?;
        let length = usize::from(u16::from_be_bytes([self.bytes[udp + 4], self.bytes[udp + 5]]));
        // The UDP header's length leaves out the padding of a short Ethernet frame.
        self.bytes.get(udp + UDP_LEN..udp + length)
    }

    /// Source and destination address, if it is a UDP packet.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        self.udp()?;
        let ip = &self.bytes[self.network..];
        if ip[0] >> 4 == 4 {
            let at = |at: usize| IpAddr::from(Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]));
            Some((at(12), at(16)))
        } else {
            let at = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&ip[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            Some((at(8), at(24)))
        }
    }

    /// The same packet with another UDP payload; lengths and checksums are right. `None` if it is no UDP packet.
    pub fn with_payload(&self, payload: &[u8]) -> Option<Frame> {
        let udp = self.udp()?;
        let mut bytes = self.bytes[..udp + UDP_LEN].to_vec();
        bytes.extend_from_slice(payload);
        Frame { bytes, ..*self }.with_lengths_and_checksums()
    }

    /// The same packet with one bit of its payload flipped, and right checksums. `None` if it is no UDP packet or the
    /// payload has no such bit.
    pub fn with_flipped_bit(&self, bit: usize) -> Option<Frame> {
        let mut payload = self.payload()?.to_vec();
        *payload.get_mut(bit / 8)? ^= 1 << (bit % 8);
        self.with_payload(&payload)
    }

    /// The same packet of IPv4 in two fragments, the first with `first` octets behind its IP header, a multiple of 8. `None` if it
    /// is no UDP packet of IPv4 or not longer than that.
    pub fn fragments(&self, first: usize) -> Option<[Frame; 2]> {
        /// "More fragments" (RFC 791, section 3.1).
        const MORE: u16 = 0x2000;
        let udp = self.udp()?;
        if self.bytes[self.network] >> 4 != 4 || !first.is_multiple_of(8) || udp + first >= self.bytes.len() {
            return None;
        }
        let fragment = |from: usize, to: usize, flags: u16| {
            let mut bytes = [&self.bytes[..udp], &self.bytes[from..to]].concat();
            let ip = &mut bytes[self.network..];
            let length = (udp - self.network + to - from) as u16;
            ip[2..4].copy_from_slice(&length.to_be_bytes());
            let place = flags | ((from - udp) / 8) as u16;
            ip[6..8].copy_from_slice(&place.to_be_bytes());
            ip[10..12].fill(0);
            let header = Sum::default().add(&ip[..udp - self.network]).finish();
            ip[10..12].copy_from_slice(&header.to_be_bytes());
            Frame { bytes, ..*self }
        };
        Some([fragment(udp, udp + first, MORE), fragment(udp + first, self.bytes.len(), 0)])
    }

    /// The same packet sent back: MAC addresses, IP addresses and ports swapped. `None` if it is no UDP packet.
    pub fn reflected(&self) -> Option<Frame> {
        let udp = self.udp()?;
        let mut frame = self.clone();
        if self.network == ETHERNET_LEN {
            swap(&mut frame.bytes, 0, 6);
        }
        if self.bytes[self.network] >> 4 == 4 {
            swap(&mut frame.bytes, self.network + 12, 4);
        } else {
            swap(&mut frame.bytes, self.network + 8, 16);
        }
        swap(&mut frame.bytes, udp, 2);
        // Swapping leaves every checksum right.
        Some(frame)
    }

    /// The same packet with its IP and UDP lengths set to what there is and its checksums computed: one captured on a
    /// virtual interface may still wait for its checksum. `None` if it is no UDP packet.
    pub fn with_lengths_and_checksums(mut self) -> Option<Frame> {
        let udp = self.udp()?;
        let network = self.network;
        let udp_length = u16::try_from(self.bytes.len() - udp).ok()?;
        self.bytes[udp + 4..udp + 6].copy_from_slice(&udp_length.to_be_bytes());
        let mut sum = Sum::default();
        if self.bytes[network] >> 4 == 4 {
            let length = u16::try_from(self.bytes.len() - network).ok()?;
            self.bytes[network + 2..network + 4].copy_from_slice(&length.to_be_bytes());
            self.bytes[network + 10..network + 12].fill(0);
            let header = Sum::default().add(&self.bytes[network..udp]).finish();
            self.bytes[network + 10..network + 12].copy_from_slice(&header.to_be_bytes());
            sum = sum.add(&self.bytes[network + 12..network + 20]);
        } else {
            self.bytes[network + 4..network + 6].copy_from_slice(&udp_length.to_be_bytes());
            sum = sum.add(&self.bytes[network + 8..network + 40]);
        }
        self.bytes[udp + 6..udp + 8].fill(0);
        let checksum = sum
            .add(&u16::from(PROTOCOL_UDP).to_be_bytes())
            .add(&udp_length.to_be_bytes())
            .add(&self.bytes[udp..])
            .finish();
        // A computed zero is sent as all ones (RFC 768).
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        self.bytes[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
        Some(self)
    }
}

/// Swaps the `len` octets at `at` with the `len` octets behind them.
fn swap(bytes: &mut [u8], at: usize, len: usize) {
    let (left, right) = bytes[at..at + 2 * len].split_at_mut(len);
    left.swap_with_slice(right);
}

/// The Internet checksum (RFC 1071).
#[derive(Default)]
struct Sum(u32);

impl Sum {
    fn add(mut self, bytes: &[u8]) -> Sum {
        for pair in bytes.chunks(2) {
            self.0 += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        }
        self
    }

    fn finish(self) -> u16 {
        let folded = (self.0 & 0xffff) + (self.0 >> 16);
        !((folded & 0xffff) + (folded >> 16)) as u16
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// 198.51.100.1:1000 to 198.51.100.2:2000, "abcd", as Linux sends it.
    fn sample() -> Frame {
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        bytes.extend([0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2]);
        bytes.extend([0x03, 0xe8, 0x07, 0xd0, 0, 0, 0, 0]);
        bytes.extend(b"abcd");
        Frame::ethernet(bytes).with_lengths_and_checksums().unwrap()
    }

    #[test]
    fn checksums_verify() {
        let frame = sample();
        let ip = &frame.bytes()[14..];
        assert_eq!(Sum::default().add(&ip[..20]).finish(), 0, "header");
        let pseudo = Sum::default().add(&ip[12..20]).add(&[0, 17]).add(&ip[24..26]);
        assert_eq!(pseudo.add(&ip[20..]).finish(), 0, "UDP");
        assert_eq!(frame.payload().unwrap(), b"abcd");
        assert_eq!(frame.ports().unwrap(), (1000, 2000));
    }

    #[test]
    fn a_reflection_swaps_all_addresses_and_nothing_else() {
        let frame = sample();
        let reflected = frame.reflected().unwrap();
        assert_eq!(reflected.ports().unwrap(), (2000, 1000));
        let (source, destination) = frame.addresses().unwrap();
        assert_eq!(reflected.addresses().unwrap(), (destination, source));
        assert_eq!(reflected.payload(), frame.payload());
        assert_eq!(reflected.clone().with_lengths_and_checksums().unwrap(), reflected);
        assert_eq!(reflected.reflected().unwrap(), frame);
    }

    #[test]
    fn a_flipped_bit_is_the_only_difference_of_the_payload() {
        let frame = sample().with_flipped_bit(9).unwrap();
        assert_eq!(frame.payload().unwrap(), [b'a', b'b' ^ 2, b'c', b'd']);
        assert!(sample().with_flipped_bit(32).is_none());
    }

    #[test]
    fn fragments_have_everything_between_them() {
        let frame = sample();
        let [first, second] = frame.fragments(8).unwrap();
        for fragment in [&first, &second] {
            assert_eq!(Sum::default().add(&fragment.bytes()[14..34]).finish(), 0, "header");
            assert_eq!(fragment.payload(), None);
        }
        assert_eq!((&first.bytes()[20..22], &second.bytes()[20..22]), (&[0x20, 0][..], &[0, 1][..]));
        assert_eq!([&first.bytes()[34..], &second.bytes()[34..]].concat(), frame.bytes()[34..]);
        assert!(frame.fragments(16).is_none() && frame.fragments(4).is_none());
    }

    #[test]
    fn what_is_no_udp_packet_has_no_payload() {
        let sample = sample();
        let mut arp = sample.bytes().to_vec();
        arp[13] = 6;
        let mut fragment = sample.bytes().to_vec();
        fragment[20] |= 0x20;
        for bytes in [arp, fragment, sample.bytes()[..30].to_vec(), Vec::new()] {
            assert_eq!(Frame::ethernet(bytes).payload(), None);
        }
    }
}
