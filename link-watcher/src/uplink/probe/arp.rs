//! ARP request to a neighbour (RFC 826), by a packet socket: the kernel's own table of neighbours remembers who is gone.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, bind, recvfrom},
};
use socket2::{Domain, Protocol, Type};

use super::socket::{Datagrams, Failure, Way, since, unanswered, unsent};
use crate::clock;

/// A link-layer address of Ethernet.
pub(super) type Mac = [u8; 6];

/// Ethernet header and ARP packet.
const FRAME_LEN: usize = 14 + 28;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Asks; gives the round trip.
pub(super) async fn probe(way: &Way, target: Ipv4Addr) -> Result<Duration, Failure> {
    let (device, mac) = device(&way.interface)?;
    // Where we have no address yet, none is claimed (RFC 5227, section 1.1).
    let source = match way.source {
        Some(IpAddr::V4(source)) => source,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let arp = Protocol::from(i32::from((libc::ETH_P_ARP as u16).to_be()));
    let socket = way.open_unbound(Domain::PACKET, Type::RAW, arp).map_err(unsent("opening a packet socket"))?;
    bind(socket.as_raw_fd(), &device).map_err(|error| unsent("binding a packet socket")(error.into()))?;
    let datagrams = Datagrams::new(socket).map_err(unsent("opening a packet socket"))?;
    let sent_ns = clock::now_ns();
    datagrams.socket().send(&request(mac, source, target)).map_err(unsent("sending"))?;
    let mut buffer = [0; FRAME_LEN];
    loop {
        let take = |socket: &socket2::Socket| Ok(recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)?);
        let (length, from) = datagrams.receive_with(take).await.map_err(unanswered("receiving"))?;
        // Until it was bound the socket heard every interface.
        let ours = from.is_some_and(|from| from.ifindex() == device.ifindex());
        if ours && length == FRAME_LEN && is_reply(&buffer, mac, source, target) {
            return Ok(since(sent_ns));
        }
    }
}

/// An Ethernet interface's index and link-layer address, and the latter alone.
pub(super) fn device(interface: &str) -> Result<(LinkAddr, Mac), Failure> {
    let mut entries = getifaddrs().map_err(|error| unsent("listing interfaces")(error.into()))?;
    let found =
        entries.find_map(|entry| entry.address.filter(|_| entry.interface_name == interface)?.as_link_addr().copied());
    let device = found.ok_or_else(|| Failure::Unsent(format!("no interface {interface}")))?;
    match device.addr() {
        Some(mac) if device.hatype() == libc::ARPHRD_ETHER => Ok((device, mac)),
        _ => Err(Failure::Unsent(format!("{interface} is not Ethernet: it has no neighbours to ask"))),
    }
}

fn request(mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&(libc::ETH_P_ARP as u16).to_be_bytes());
    // Hardware: Ethernet; protocol: IPv4; lengths of both; operation.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, REQUEST]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&source.octets());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

fn is_reply(frame: &[u8; FRAME_LEN], mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> bool {
    frame[12..14] == (libc::ETH_P_ARP as u16).to_be_bytes()
        && frame[14..22] == [0, 1, 8, 0, 6, 4, 0, REPLY]
        && frame[28..32] == target.octets()
        && frame[32..38] == mac
        && frame[38..42] == source.octets()
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &[u8], mac: Mac, source: Ipv4Addr, target: Ipv4Addr) {
    let Ok(frame) = <&[u8; FRAME_LEN]>::try_from(data) else { return };
    assert!(!is_reply(frame, mac, source, target) || *frame != request(mac, source, target), "our own request");
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const US: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    #[test]
    fn only_the_targets_reply_to_us_counts() {
        let request = request(MAC, US, GATEWAY);
        assert!(!is_reply(&request, MAC, US, GATEWAY));
        let mut reply = request;
        reply[21] = REPLY;
        reply[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        reply[28..32].copy_from_slice(&GATEWAY.octets());
        reply[32..38].copy_from_slice(&MAC);
        reply[38..42].copy_from_slice(&US.octets());
        assert!(is_reply(&reply, MAC, US, GATEWAY));
        for (byte, what) in [(13, "ethertype"), (21, "operation"), (31, "sender"), (37, "station"), (41, "receiver")] {
            let mut other = reply;
            other[byte] ^= 4;
            assert!(!is_reply(&other, MAC, US, GATEWAY), "another {what}");
        }
    }
}
