//! Small packets to a port where they end, as soon as a namespace has them.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use link_watcher_lab::netns::Namespace;

/// A packet of 64 octets on Ethernet is that long inside of UDP.
pub(crate) const PAYLOAD: [u8; 18] = [0x5a; 18];
/// Discard (RFC 863).
pub(crate) const PORT: u16 = 9;
/// Packets between two looks at the clock.
pub(crate) const BURST: usize = 256;

const TABLE: &str =
    "table ip sink {\nchain first { type filter hook prerouting priority raw;\nudp dport 9 counter drop\n}\n}\n";

/// From now on they end here: what is behind is not what is measured.
pub(crate) fn dig(namespace: &Namespace) -> Result<()> {
    namespace.command(&["nft", "-f", "-"], TABLE).map(drop)
}

/// How many have ended here so far.
pub(crate) fn count(namespace: &Namespace) -> Result<u64> {
    let text = namespace.command(&["nft", "list", "table", "ip", "sink"], "")?;
    let count = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    count.context("the sink counts nothing")
}

/// Sends packets by the sockets in turn, one burst at least and for as long as `span`: how many, and the time that they took.
pub(crate) fn send(sockets: &[UdpSocket], span: Duration) -> Result<(u64, Duration)> {
    let (begin, mut sent) = (Instant::now(), 0);
    while sent == 0 || begin.elapsed() < span {
        for socket in sockets.iter().cycle().take(BURST) {
            socket.send(&PAYLOAD)?;
            sent += 1;
        }
    }
    Ok((sent, begin.elapsed()))
}
