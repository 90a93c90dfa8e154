//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 section 4), by raw sockets: any number of daemons side by side, and no setting of
//! the kernel is needed.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Type};

use super::socket::{Datagrams, Failure, Way, random, since, unanswered, unsent};
use crate::clock;

/// Identifier, sequence number and payload are all random: nobody who has not seen the request can answer it, and no answer
/// to another request is taken for its own.
const RANDOM_LEN: usize = 2 + 2 + 32;
/// Type, code, checksum, then the random part.
const MESSAGE_LEN: usize = 4 + RANDOM_LEN;
/// The message behind the longest IPv4 header.
const BUFFER_LEN: usize = 60 + MESSAGE_LEN;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Asks; gives the round trip.
pub(super) async fn probe(way: &Way, target: IpAddr) -> Result<Duration, Failure> {
    let (domain, protocol) =
        if target.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = way.open(domain, Type::RAW, protocol).map_err(unsent("opening an ICMP socket"))?;
    way.bind(&socket).map_err(unsent("binding an ICMP socket to our address"))?;
    // Connected: only what the target itself sends gets through.
    socket.connect(&SocketAddr::new(target, 0).into()).map_err(unsent("finding the way"))?;
    let random = random()?;
    let datagrams = Datagrams::new(socket).map_err(unsent("opening an ICMP socket"))?;
    let sent_ns = clock::now_ns();
    datagrams.socket().send(&request(target.is_ipv6(), &random)).map_err(unsent("sending"))?;
    let mut buffer = [0; BUFFER_LEN];
    loop {
        let length = datagrams.receive(&mut buffer).await.map_err(unanswered("receiving"))?;
        let message = if target.is_ipv4() { behind_ipv4(&buffer[..length]) } else { Some(&buffer[..length]) };
        if message.is_some_and(|message| is_reply(target.is_ipv6(), &random, message)) {
            return Ok(since(sent_ns));
        }
    }
}

fn request(v6: bool, random: &[u8; RANDOM_LEN]) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = if v6 { ECHO_REQUEST_V6 } else { ECHO_REQUEST };
    message[4..].copy_from_slice(random);
    if !v6 {
        // The kernel does so for ICMPv6.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

fn is_reply(v6: bool, random: &[u8; RANDOM_LEN], message: &[u8]) -> bool {
    let expected = if v6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
    message.len() == MESSAGE_LEN && message[..2] == [expected, 0] && message[4..] == *random
}

/// What follows the IPv4 header, which raw sockets give too.
fn behind_ipv4(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0xf) * 4..)
}

/// RFC 1071, for an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &[u8]) {
    let random = [7; RANDOM_LEN];
    for (v6, message) in [(false, behind_ipv4(data)), (true, Some(data))] {
        let taken = message.is_some_and(|message| is_reply(v6, &random, message));
        assert!(!taken || data.ends_with(&random), "the answer to another request");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_request_is_right() {
        for fill in [0, 1, 0x7f, 0xff] {
            // With the right checksum inside, the sum of everything is zero.
            assert_eq!(checksum(&request(false, &[fill; RANDOM_LEN])), 0);
        }
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let random = [7; RANDOM_LEN];
        for v6 in [false, true] {
            let mut reply = request(v6, &random);
            assert!(!is_reply(v6, &random, &reply), "our own request is no reply");
            reply[0] = if v6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
            assert!(is_reply(v6, &random, &reply));
            for (byte, what) in [(1, "code"), (4, "identifier"), (6, "sequence"), (MESSAGE_LEN - 1, "payload")] {
                let mut other = reply;
                other[byte] ^= 1;
                assert!(!is_reply(v6, &random, &other), "another {what}");
            }
            assert!(!is_reply(v6, &random, &reply[..MESSAGE_LEN - 1]));
        }
    }

    #[test]
    fn a_broken_header_is_no_packet() {
        assert_eq!(behind_ipv4(&[]), None);
        assert_eq!(behind_ipv4(&[0x4f; 59]), None);
        assert_eq!(behind_ipv4(&[0x45; 21]), Some(&[0x45][..]));
    }
}
