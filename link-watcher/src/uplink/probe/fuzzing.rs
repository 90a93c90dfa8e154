//! Answers to the probes of an uplink.

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::{io::AsyncWriteExt as _, runtime};

use super::{arp, dns, http, icmp, ndp};

/// An answer to a question for `example.com`.
pub(crate) fn dns(data: &[u8]) {
    dns::fuzz(data);
}

/// A response; the connection ends behind it.
pub(crate) fn http(data: &[u8]) {
    // It cannot fail: it needs neither threads nor the kernel's events.
    let Ok(runtime) = runtime::Builder::new_current_thread().build() else { return };
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let said = async {
            let _ = theirs.write_all(data).await;
            let _ = theirs.shutdown().await;
        };
        tokio::join!(http::fuzz(ours), said);
    });
}

/// An IPv4 packet with an echo's answer, or an ICMPv6 message.
pub(crate) fn icmp(data: &[u8]) {
    icmp::fuzz(data);
}

/// A frame with an ARP answer.
pub(crate) fn arp(data: &[u8]) {
    arp::fuzz(data, [2, 0, 0, 0, 0, 1], Ipv4Addr::new(198, 51, 100, 2), Ipv4Addr::new(198, 51, 100, 1));
}

/// A neighbour's advertisement.
pub(crate) fn ndp(data: &[u8]) {
    ndp::fuzz(data, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
}
