//! A site with three providers whose router has tables, rules and nftables of uplinks, but no daemon.
#![allow(dead_code)] // Each test file uses its own part.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    path::Path as FilePath,
    time::Duration,
};

use link_watcher::{
    config::Nat,
    event::{GroupId, LinkId},
    uplink::{
        Desired, Path, Uplink,
        conntrack::{Conntrack, ConntrackSink},
        nft::{Applied, Nft, Ruleset},
        tables::{NetlinkTables, Tables},
    },
};
use link_watcher_lab::{
    Lab,
    netns::Namespace,
    uplinks::{
        Site,
        address::{SERVER, TARGETS, WHO_PORT, gateway4, gateway6, lan6, router4, router6, socket},
        flow::Crowd,
        setup::SiteSetup,
    },
};
use socket2::{Domain, Protocol, Socket, Type};

/// The site, what its router shall have, and what sees to it.
pub(crate) struct Rig {
    pub(crate) site: Site,
    pub(crate) desired: Desired,
    pub(crate) ruleset: Ruleset<Nft>,
    tables: Tables<NetlinkTables>,
    conntrack: Conntrack,
}

/// What a probe sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Udp,
    Tcp,
    Icmp,
    /// Bound to the interface only.
    UnmarkedUdp,
}

impl Rig {
    /// With tables, rules and nftables as `change` leaves the wish.
    pub(crate) fn new(setup: SiteSetup, change: impl FnOnce(&mut Desired)) -> Self {
        let mut rig = Self::build(setup, change);
        rig.apply_tables();
        rig.apply();
        rig
    }

    /// Without anything on the router.
    pub(crate) fn build(setup: SiteSetup, change: impl FnOnce(&mut Desired)) -> Self {
        let binary = FilePath::new(env!("CARGO_BIN_EXE_link-watcher"));
        let site = Site::build(Lab::new().unwrap(), setup, binary).unwrap();
        let mut desired = wish(&site);
        change(&mut desired);
        let router = site.router.namespace();
        router.sysctl("net/ipv4/conf/all/src_valid_mark", "1").unwrap();
        let (ruleset, tables, conntrack) = router
            .run(|| {
                let ruleset = Ruleset::new(Nft::open().unwrap(), None);
                (ruleset, Tables::new(NetlinkTables::open().unwrap()), Conntrack::open().unwrap())
            })
            .unwrap();
        Self { desired, ruleset, tables, conntrack, site }
    }

    /// Runs `work` in the router's namespace.
    pub(crate) fn in_router<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        let router: std::sync::Arc<Namespace> = self.site.router.namespace().clone();
        router.run(|| work(self)).unwrap()
    }

    /// Runs a program there.
    pub(crate) fn router(&self, arguments: &[&str], input: &str) -> String {
        self.site.router.namespace().command(arguments, input).unwrap()
    }

    pub(crate) fn apply(&mut self) -> Applied {
        self.in_router(|rig| rig.ruleset.apply(0, std::slice::from_ref(&rig.desired)).unwrap())
    }

    pub(crate) fn apply_tables(&mut self) {
        let report = self.in_router(|rig| rig.tables.apply(0, &rig.desired));
        assert!(report.complete, "{report:?}");
    }

    /// Releases the connections of the uplink with this index.
    pub(crate) fn release(&mut self, index: usize) -> u32 {
        let (mark, mask) = (self.desired.mark(&self.desired.uplinks[index]), self.desired.fwmark_mask);
        self.conntrack.release(mark, mask).unwrap()
    }

    /// Releases those that are answered to `source`.
    pub(crate) fn release_source(&mut self, index: usize, source: IpAddr) -> u32 {
        let (mark, mask) = (self.desired.mark(&self.desired.uplinks[index]), self.desired.fwmark_mask);
        self.conntrack.release_source(mark, mask, source).unwrap()
    }

    /// The counters of answers, in the order of the uplinks.
    pub(crate) fn replies(&mut self) -> Vec<u64> {
        self.in_router(|rig| rig.ruleset.replies().unwrap()).into_iter().map(|(_, packets)| packets).collect()
    }

    pub(crate) fn by_uplink(&self, crowd: &Crowd) -> Vec<usize> {
        self.site.by_uplink(&crowd.by_source())
    }

    /// How many connections of the router's conntrack have each mark.
    pub(crate) fn marks(&self) -> BTreeMap<u32, usize> {
        let mut marks = BTreeMap::new();
        for line in self.router(&["conntrack", "-L"], "").lines() {
            let mark = line.split_whitespace().find_map(|word| word.strip_prefix("mark=")).unwrap();
            *marks.entry(mark.parse().unwrap()).or_default() += 1;
        }
        marks
    }

    /// All tables but ours, byte for byte.
    pub(crate) fn foreign_tables(&self) -> String {
        let listing = self.router(&["nft", "-a", "list", "ruleset"], "");
        let mut text = String::new();
        let mut ours = false;
        for line in listing.lines() {
            if line.starts_with("table ") {
                ours = line.starts_with("table inet link_watcher");
            }
            if !ours {
                text += line;
                text.push('\n');
            }
        }
        text
    }

    /// A server on port 25 of the router; may be asked for again.
    pub(crate) fn serve_router_mail(&self) {
        let _ = self.site.router.serve_tcp(25);
    }

    /// Sends questions through one uplink from one socket, bound as probes are, and asserts that each is answered.
    pub(crate) fn probe(&self, index: usize, probe: Probe, questions: u16) {
        let uplink = &self.desired.uplinks[index];
        let mark = self.desired.mark(uplink);
        let seen = router4(index).to_string();
        self.site
            .router
            .namespace()
            .run(|| {
                let (kind, protocol) = match probe {
                    Probe::Udp | Probe::UnmarkedUdp => (Type::DGRAM, Protocol::UDP),
                    Probe::Tcp => (Type::STREAM, Protocol::TCP),
                    Probe::Icmp => (Type::RAW, Protocol::ICMPV4),
                };
                let mut socket_ = Socket::new(Domain::IPV4, kind, Some(protocol)).unwrap();
                socket_.bind_device(Some(uplink.interface.as_bytes())).unwrap();
                if probe != Probe::UnmarkedUdp {
                    socket_.bind(&SocketAddr::from((router4(index), 0)).into()).unwrap();
                    socket_.set_mark(mark).unwrap();
                }
                socket_.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let target = match probe {
                    Probe::Icmp => SocketAddr::new(TARGETS[0].parse().unwrap(), 0),
                    _ => socket(SERVER, WHO_PORT),
                };
                socket_.connect(&target.into()).unwrap();
                for question in 1..=questions {
                    let mut answer = [0; 128];
                    if probe == Probe::Icmp {
                        socket_.write_all(&echo_request(7, question)).unwrap();
                        let length = socket_.read(&mut answer).unwrap();
                        // An IPv4 header, then type, code, checksum, identifier, sequence.
                        assert_eq!((length, answer[20], answer[27]), (28, 0, question as u8));
                    } else {
                        socket_.write_all(b"?\n").unwrap();
                        let length = socket_.read(&mut answer).unwrap();
                        assert_eq!(String::from_utf8_lossy(&answer[..length]).trim(), seen, "{probe:?}");
                    }
                }
            })
            .unwrap();
    }
}

/// An ICMP echo request (RFC 792) without data.
fn echo_request(identifier: u16, sequence: u16) -> [u8; 8] {
    let checksum = !(0x0800 + u32::from(identifier) + u32::from(sequence)) as u16;
    let mut message = [8, 0, 0, 0, 0, 0, 0, 0];
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message
}

/// What the picture of the lab asks for.
fn wish(site: &Site) -> Desired {
    let setup = &site.setup;
    let uplink = |(index, uplink): (usize, &link_watcher_lab::uplinks::setup::UplinkSetup)| {
        let shared = setup.uplinks.iter().filter(|other| other.interface == uplink.interface).count() > 1;
        Uplink {
            link: LinkId(index as u32),
            number: index as u32 + 1,
            name: uplink.name.clone(),
            interface: uplink.interface.clone(),
            ifindex: site.router.namespace().index(&uplink.interface).unwrap(),
            ipv4: Some(Path { gateway: Some(gateway4(index).into()), source: Some(router4(index).into()) }),
            ipv6: setup
                .ipv6
                .then(|| Path { gateway: Some(gateway6(index).into()), source: Some(router6(index).into()) }),
            gateway_mac: shared.then(|| mac(&site.providers[index])),
            prefixes: if setup.ipv6 { vec![lan6(index).into()] } else { vec![] },
            nat: Nat::Masquerade,
            weight: uplink.weight,
            usable: true,
        }
    };
    let mut routes = vec!["0.0.0.0/0".parse().unwrap()];
    if setup.ipv6 {
        routes.push("::/0".parse().unwrap());
    }
    Desired {
        group: GroupId(0),
        name: "wan".into(),
        routes,
        excluded: Vec::new(),
        lan: vec!["eth0".into()],
        sticky: true,
        fast_path: BTreeMap::new(),
        tcp_loose: true,
        fwmark_mask: 0xff00,
        rule_priority: 20_000,
        table_base: 7000,
        force: vec![],
        uplinks: setup.uplinks.iter().enumerate().map(uplink).collect(),
    }
}

/// The Ethernet address of a provider's router.
fn mac(provider: &link_watcher_lab::uplinks::provider::Provider) -> [u8; 6] {
    let shown = provider
        .namespace()
        .command(&["ip", "-o", "-4", "addr", "show", "to", &gateway4(provider.number()).to_string()], "")
        .unwrap();
    let interface = shown.split_whitespace().nth(1).unwrap().to_owned();
    let shown = provider.namespace().command(&["ip", "-o", "link", "show", &interface], "").unwrap();
    let address = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let octets: Vec<u8> = address.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    octets.try_into().unwrap()
}
