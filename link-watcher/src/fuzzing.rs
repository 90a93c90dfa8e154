//! What comes from outside, as targets of a fuzzer: each takes any bytes, and holds what comes of them against what must be
//! so. `cargo xtask fuzz` runs them under libFuzzer, `cargo test` with the kept corpora and mutations of these.

use std::path::Path;

use ipnet::IpNet;

use crate::{
    announce::{Receiver, Sender, Way},
    cli, config,
    config::{Host, Severity},
    control::{Reply, Request},
    event::LinkId,
    keys, netlink, probe, state, uplink,
};

/// A reader of foreign bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name, also of its corpus.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 14] = [
    Target { name: "wire", run: probe::fuzzing::wire },
    Target { name: "announce", run: announce },
    Target { name: "control", run: control },
    Target { name: "config", run: config },
    Target { name: "key", run: keys::fuzz },
    Target { name: "state", run: state::fuzz },
    Target { name: "migrate", run: cli::fuzzing::migrate },
    Target { name: "nft", run: cli::fuzzing::nft },
    Target { name: "netlink", run: netlink::fuzz },
    Target { name: "dns", run: uplink::probe::fuzzing::dns },
    Target { name: "http", run: uplink::probe::fuzzing::http },
    Target { name: "icmp", run: uplink::probe::fuzzing::icmp },
    Target { name: "arp", run: uplink::probe::fuzzing::arp },
    Target { name: "ndp", run: uplink::probe::fuzzing::ndp },
];

/// What may follow in the bytes of a target that takes several messages: a choice, a length, and as many bytes of it.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[choice, length], rest) = data.split_first_chunk()?;
        let (piece, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        Some((choice, piece))
    })
}

/// A list of prefixes on its way, both ends: chunks, acknowledgements and questions of two lives of the peer.
fn announce(data: &[u8]) {
    const MOST: usize = 40;
    let (mut receiver, mut sender) = (Receiver::default(), Sender::default());
    receiver.set_max_prefixes(MOST);
    let own = ["192.0.2.0/24", "2001:db8::/32"].map(|prefix| prefix.parse::<IpNet>());
    sender.set(0, own.into_iter().flatten().collect());
    let ways = [Way { link: LinkId(0), rtt_ns: 0 }, Way { link: LinkId(1), rtt_ns: 1_000_000 }];
    for (step, (choice, body)) in pieces(data).enumerate() {
        let now_ns = step as u64 * 50_000_000;
        let instance = 1 + u32::from(choice >> 7);
        match choice & 7 {
            0..=2 => drop(receiver.take(now_ns, instance, body)),
            3 => drop(sender.acknowledge(now_ns, LinkId(0), instance, body)),
            4 => drop(sender.asked(now_ns, instance, body)),
            5 => {
                let generation = body.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
                receiver.hear(now_ns, Some((instance, generation)));
            }
            6 => sender.peer(now_ns, instance),
            _ => receiver.hear(now_ns, None),
        }
        if let Some(list) = receiver.poll(now_ns).list {
            assert!(list.len() <= MOST, "{} prefixes are more than {MOST}", list.len());
            assert!(list.iter().all(|prefix| prefix.trunc() == *prefix), "bits behind a prefix: {list:?}");
        }
        for (_, chunk) in sender.poll(now_ns, &ways) {
            assert!(chunk.len() <= link_watcher_common::wire::MAX_BODY_LEN, "a chunk of {} octets", chunk.len());
        }
    }
}

/// A line at the control socket, in either direction.
fn control(data: &[u8]) {
    fn written_and_read<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(data: &[u8]) {
        let Ok(value) = serde_json::from_slice::<T>(data) else { return };
        let read = serde_json::to_vec(&value).and_then(|text| serde_json::from_slice::<T>(&text));
        let read = read.map(|again| format!("{again:?}"));
        // A number so large that it is infinite is written as null.
        assert!(read.is_err() || read.is_ok_and(|again| again == format!("{value:?}")), "{value:?}");
    }
    written_and_read::<Request>(data);
    written_and_read::<Reply>(data);
}

/// A configuration. What is refused says where and why, within bounds.
fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("/nowhere/link-watcher.toml");
    match config::parse(path, text, &Host::default(), Severity::Error) {
        Ok(loaded) => assert_eq!(loaded.text, text),
        Err(refused) => {
            let said = refused.to_string();
            assert!(said.contains("/nowhere/link-watcher.toml"), "no place: {said}");
            assert!(said.len() < 1 << 20, "{} octets of complaints", said.len());
        }
    }
}
