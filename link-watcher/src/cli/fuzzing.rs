//! Foreign files and programs that commands read.

use std::net::IpAddr;

use super::explain::nft::{Fib, Loaded, MAX_OUTCOMES, Packet};

/// A configuration of Fault Tolerant Router.
pub(crate) fn migrate(data: &[u8]) {
    super::migrate::fuzz(data);
}

struct Nowhere;

impl Fib for Nowhere {
    fn way_out(&mut self, _: IpAddr) -> Option<String> {
        None
    }

    fn kind(&mut self, _: IpAddr, _: Option<&str>) -> String {
        "unicast".to_owned()
    }
}

/// What `nft -j list table` prints, and a packet that goes through all hooks of it: shares are those of one packet.
pub(crate) fn nft(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(loaded) = Loaded::parse(text) else { return };
    let packet = Packet {
        source: None,
        destination: IpAddr::from([198, 51, 100, 1]),
        protocol: "tcp",
        source_port: None,
        port: Some(80),
        incoming: Some("eth0".to_owned()),
        outgoing: None,
        mark: 0,
        connection_mark: 0,
        state: "new",
    };
    for hook in ["prerouting", "forward", "output", "postrouting"] {
        if let Ok(outcomes) = loaded.run(hook, &packet, &mut Nowhere) {
            assert!(outcomes.len() <= MAX_OUTCOMES, "{} outcomes", outcomes.len());
            let whole: f64 = outcomes.iter().map(|outcome| outcome.share).sum();
            assert!((whole - 1.0).abs() < 1e-6, "shares of {whole} in all");
        }
    }
}
