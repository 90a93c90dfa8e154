//! Neighbour solicitation (RFC 4861, sections 4.3 and 7), by a raw ICMPv6 socket.

use std::{
    io::IoSliceMut,
    net::{Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    arp::{self, Mac},
    socket::{Datagrams, Failure, Way, since, unanswered, unsent},
};
use crate::clock;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Type, code, checksum, reserved, target; then the option with our link-layer address.
const SOLICITATION_LEN: usize = 24 + 8;
/// An advertisement without its options.
const ADVERTISEMENT_LEN: usize = 24;
/// It answers a solicitation.
const SOLICITED: u8 = 0x40;
/// What no router has passed on (RFC 4861, section 7.1): so nobody off the link can take part.
const HOP_LIMIT: u8 = 255;

/// Asks; gives the round trip.
pub(super) async fn probe(way: &Way, target: Ipv6Addr) -> Result<Duration, Failure> {
    let (_, mac) = arp::device(&way.interface)?;
    let socket = open(way).map_err(unsent("opening an ICMPv6 socket"))?;
    let datagrams = Datagrams::new(socket).map_err(unsent("opening an ICMPv6 socket"))?;
    let to = SocketAddr::new(solicited_node(target).into(), 0);
    let sent_ns = clock::now_ns();
    datagrams.socket().send_to(&solicitation(mac, target), &to.into()).map_err(unsent("sending"))?;
    loop {
        let take = |socket: &Socket| receive(socket, target);
        if datagrams.receive_with(take).await.map_err(unanswered("receiving"))? {
            return Ok(since(sent_ns));
        }
    }
}

/// Not bound to our address: the kernel chooses the one that belongs to the link, which is link-local where there is one.
fn open(way: &Way) -> std::io::Result<Socket> {
    let socket = way.open(Domain::IPV6, Type::RAW, Protocol::ICMPV6)?;
    socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
    socket.set_multicast_loop_v6(false)?;
    setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    Ok(socket)
}

/// Takes the next packet: is it the target's advertisement?
fn receive(socket: &Socket, target: Ipv6Addr) -> std::io::Result<bool> {
    let mut buffer = [0; ADVERTISEMENT_LEN];
    let mut control = nix::cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let hop_limit = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv6HopLimit(limit) => Some(limit),
        _ => None,
    });
    let complete = message.bytes == ADVERTISEMENT_LEN && hop_limit == Some(HOP_LIMIT.into());
    Ok(complete && is_advertisement(&buffer, target))
}

/// RFC 4291, section 2.7.1.
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = target.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

/// The kernel fills the checksum in.
fn solicitation(mac: Mac, target: Ipv6Addr) -> [u8; SOLICITATION_LEN] {
    let mut message = [0; SOLICITATION_LEN];
    message[0] = SOLICITATION;
    message[8..24].copy_from_slice(&target.octets());
    // Source link-layer address, one unit of eight bytes long (section 4.6.1).
    message[24..26].copy_from_slice(&[1, 1]);
    message[26..].copy_from_slice(&mac);
    message
}

fn is_advertisement(message: &[u8; ADVERTISEMENT_LEN], target: Ipv6Addr) -> bool {
    message[..2] == [ADVERTISEMENT, 0] && message[4] & SOLICITED != 0 && message[8..24] == target.octets()
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &[u8], target: Ipv6Addr) {
    let Ok(message) = <&[u8; ADVERTISEMENT_LEN]>::try_from(data) else { return };
    assert!(!is_advertisement(message, target) || message[8..24] == target.octets(), "another neighbour");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_is_asked_hears_it() {
        let group = solicited_node("2001:db8::1:2345:6789".parse().unwrap());
        assert_eq!(group, "ff02::1:ff45:6789".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn only_the_targets_solicited_advertisement_counts() {
        let target = "2001:db8::1".parse().unwrap();
        let mut message = [0; ADVERTISEMENT_LEN];
        message.copy_from_slice(&solicitation([2; 6], target)[..ADVERTISEMENT_LEN]);
        assert!(!is_advertisement(&message, target));
        (message[0], message[4]) = (ADVERTISEMENT, SOLICITED);
        assert!(is_advertisement(&message, target));
        assert!(!is_advertisement(&message, "2001:db8::2".parse().unwrap()));
        message[4] = 0x80;
        assert!(!is_advertisement(&message, target), "unsolicited");
    }
}
