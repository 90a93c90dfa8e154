//! Uplinks eth1 to eth3 of a namespace, and what the kernel has of them.
#![allow(dead_code)] // Each test file uses its own part.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use link_watcher::{
    config::Nat,
    event::LinkId,
    system::{Interfaces, KernelEvent, KernelEvents},
    uplink::{
        Desired, Path, Uplink,
        tables::{NetlinkTables, TableNotice, Tables},
    },
};
use link_watcher_programs::IP;

use crate::route_support::*;

/// An uplink through eth`i`, with IPv6 too.
pub(crate) fn uplink(i: u32, weight: u32) -> Uplink {
    let path = |gateway: String, source: String| {
        Some(Path { gateway: Some(gateway.parse().unwrap()), source: Some(source.parse().unwrap()) })
    };
    Uplink {
        link: LinkId(i),
        number: i,
        name: format!("provider{i}"),
        interface: format!("eth{i}"),
        ifindex: Interfaces::read().unwrap().index(&format!("eth{i}")).unwrap_or(0),
        ipv4: path(format!("10.248.{}.1", 247 + i), format!("10.248.{}.2", 247 + i)),
        ipv6: path(format!("2001:db8:{i}::1"), format!("2001:db8:{i}::2")),
        gateway_mac: None,
        prefixes: Vec::new(),
        nat: Nat::Masquerade,
        weight,
        usable: weight > 0,
    }
}

pub(crate) fn wish(weights: [u32; 3]) -> Desired {
    Desired {
        group: GROUP,
        name: "wan".to_owned(),
        routes: nets(&["0.0.0.0/0", "::/0"]),
        excluded: Vec::new(),
        lan: vec!["eth0".to_owned()],
        sticky: true,
        fast_path: BTreeMap::new(),
        tcp_loose: true,
        fwmark_mask: 0xff00,
        rule_priority: 20_000,
        table_base: 7000,
        force: Vec::new(),
        uplinks: (1..).zip(weights).map(|(i, weight)| uplink(i, weight)).collect(),
    }
}

/// The back-end with its events, and a clock in the test's hand.
pub(crate) struct Bench {
    pub(crate) tables: Tables<NetlinkTables>,
    pub(crate) events: KernelEvents,
    pub(crate) now_ns: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let events = KernelEvents::open().unwrap();
        Self { tables: Tables::new(NetlinkTables::open().unwrap()), events, now_ns: SECOND }
    }

    /// Applies, which must succeed completely; gives the number of messages.
    pub(crate) fn apply(&mut self, desired: &Desired) -> usize {
        self.observe();
        let report = self.tables.apply(self.now_ns, desired);
        assert!(report.complete && report.error.is_none(), "{report:?}");
        report.written
    }

    pub(crate) fn observe(&mut self) -> Vec<KernelEvent> {
        let events: Vec<_> = std::iter::from_fn(|| self.events.try_next()).collect();
        events.iter().for_each(|event| self.tables.observe(self.now_ns, event));
        events
    }

    /// The events, and what is due because of them `after_ns` later.
    pub(crate) fn settle(&mut self, after_ns: u64) -> Vec<TableNotice> {
        self.observe();
        self.now_ns += after_ns;
        self.tables.reconcile(self.now_ns)
    }
}

pub(crate) fn is_ours(line: &str) -> bool {
    line.contains("proto 208") || line.contains("proto link-watcher") || line.contains("protocol 208")
}

pub(crate) fn rules() -> Vec<String> {
    let all = ip("-4 -d rule show") + &ip("-6 -d rule show");
    all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Everything of others, byte for byte.
pub(crate) fn others() -> (String, Vec<String>) {
    (foreign(), rules().into_iter().filter(|line| !is_ours(line)).collect())
}

/// Sorted, because rules of one priority stand in the order in which they were made; each matches other packets.
pub(crate) fn our_rules() -> Vec<String> {
    let mut ours: Vec<_> = rules().into_iter().filter(|line| is_ours(line)).collect();
    ours.sort_unstable();
    ours
}

/// The interface by which a packet leaves, or what the kernel says instead.
pub(crate) fn leaves_by(arguments: &str) -> String {
    let output = IP.command().args(["route", "get"]).args(arguments.split_whitespace()).output();
    let output = output.unwrap();
    if !output.status.success() {
        return String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap_or_default().to_owned()
}

/// Waits until it holds: the kernel tells of carrier a moment later.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Members of the spreading route.
pub(crate) fn spread(family: &str) -> String {
    let text = ip(&format!("-{family} -o route show table 7000")).replace('\\', "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
