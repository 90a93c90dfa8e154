//! What uplinks learn from a real kernel, and how it is followed.
#![allow(clippy::unwrap_used)]

mod route_support;

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddrV6},
    process::Child,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use link_watcher::{
    config::{FailbackConnections, Nat, ProbeConfig, ProbeKind, UplinkConfig, UplinksConfig},
    event::{Device, Failback},
    system::{Interfaces, KernelEvent, KernelEvents},
    uplink::learn::{Learner, NetlinkLearn, Resolved},
};
use link_watcher_programs::{NSENTER, UNSHARE};
use route_support::*;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

fn config(interface: &str, gateways: &[&str]) -> UplinkConfig {
    UplinkConfig {
        name: interface.to_owned(),
        interface: interface.to_owned(),
        gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
        locals: Vec::new(),
        prefixes: Vec::new(),
        nat: Nat::Masquerade,
        tier: 1,
        weight: 1,
        probe: ProbeConfig {
            kind: ProbeKind::Icmp { targets: vec!["192.0.2.1".parse().unwrap()] },
            required: 1,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            fall: 3,
            rise: 3,
            max_loss: None,
            max_rtt: None,
            max_jitter: None,
            window: 60,
        },
    }
}

/// A learner with its events and interfaces as the daemon keeps them, and a clock in the test's hand.
struct Bench {
    learner: Learner<NetlinkLearn>,
    events: KernelEvents,
    interfaces: Interfaces,
    routes: Vec<IpNet>,
    links: Vec<UplinkConfig>,
    now_ns: u64,
}

impl Bench {
    fn new(links: Vec<UplinkConfig>) -> Self {
        let events = KernelEvents::open().unwrap();
        let interfaces = Interfaces::read().unwrap();
        let mut learner = Learner::new(NetlinkLearn::open().unwrap());
        let routes = nets(&["0.0.0.0/0", "::/0"]);
        let group = UplinksConfig {
            dampening: true,
            name: "wan".to_owned(),
            routes: routes.clone(),
            lan: Vec::new(),
            sticky: true,
            flowtable: false,
            fwmark_mask: 0xff00,
            rule_priority: 20_000,
            table_base: 7000,
            failback: Failback::After(0),
            failback_connections: FailbackConnections::Stay,
            hold_up: Duration::ZERO,
            force: Vec::new(),
            links: links.clone(),
        };
        learner.follow(SECOND, [&group]);
        let mut bench = Self { learner, events, interfaces, routes, links, now_ns: SECOND };
        bench.settle();
        bench
    }

    /// Takes in what the kernel has told, and does what is due a tenth of a second later. Gives whether anything that was
    /// learned changed.
    fn settle(&mut self) -> bool {
        while let Some(event) = self.events.try_next() {
            self.learner.observe(self.now_ns, &event);
            match event {
                KernelEvent::Resync => self.interfaces = Interfaces::read().unwrap(),
                event => drop(self.interfaces.update(&event)),
            }
        }
        self.now_ns += SECOND / 10;
        if self.learner.next_deadline_ns() > self.now_ns {
            return false;
        }
        let tick = self.learner.tick(self.now_ns, &self.interfaces);
        assert_eq!(tick.trouble, None);
        tick.changed
    }

    fn resolve(&mut self, at: usize) -> Resolved {
        self.settle();
        self.learner.resolve(&self.routes, &self.links[at], &self.interfaces)
    }

    /// Gateway and source of both families.
    fn paths(&mut self, at: usize) -> [String; 2] {
        let resolved = self.resolve(at);
        let text = |address: Option<IpAddr>| address.map_or("-".to_owned(), |address| address.to_string());
        [resolved.ipv4, resolved.ipv6]
            .map(|path| path.map_or("none".to_owned(), |path| format!("{} {}", text(path.gateway), text(path.source))))
    }

    /// Waits until the paths are these: some news come a moment later.
    fn until(&mut self, at: usize, expected: [&str; 2]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.paths(at);
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?} instead of {expected:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const NONE: &str = "none";

#[test]
#[ignore = "needs root: cargo xtask test"]
fn dhcp_gives_and_takes_gateways() {
    namespace(|| async {
        three_links();
        let mut bench = Bench::new(vec![config("eth1", &[]), config("eth2", &[])]);
        let local = "10.248.248.2";
        assert_eq!(bench.paths(0), [NONE, NONE]);
        assert_eq!(bench.resolve(0).device, Device::NoGateway);
        ip("route add default via 10.248.248.1 dev eth1 proto dhcp metric 100");
        assert_eq!(bench.paths(0), [format!("10.248.248.1 {local}"), NONE.to_owned()]);
        assert_eq!(bench.paths(1), [NONE, NONE], "another interface's gateway is not its own");
        // Renewed with another gateway, first beside the old one, then in its place.
        ip("route add default via 10.248.248.7 dev eth1 proto dhcp metric 50");
        assert_eq!(bench.paths(0)[0], format!("10.248.248.7 {local}"));
        ip("route replace default via 10.248.248.8 dev eth1 proto dhcp metric 50");
        assert_eq!(bench.paths(0)[0], format!("10.248.248.8 {local}"));
        // The lease's address too.
        ip("addr add 10.248.248.66/24 dev eth1");
        ip("route replace default via 10.248.248.8 dev eth1 proto dhcp metric 50 src 10.248.248.66");
        assert_eq!(bench.paths(0)[0], "10.248.248.8 10.248.248.66");
        ip("route del default via 10.248.248.8 metric 50");
        ip("route del default via 10.248.248.1 metric 100");
        assert_eq!(bench.paths(0)[0], NONE);
        // A table of its own, as networkd can be told to; it counts when a rule leads there.
        ip("route add default via 10.248.248.9 dev eth1 proto dhcp table 100");
        assert_eq!(bench.paths(0)[0], NONE);
        ip("rule add pref 500 lookup 100");
        assert_eq!(bench.paths(0)[0], format!("10.248.248.9 {local}"));
        // What is ours teaches nothing.
        ip("route add default via 10.248.248.11 dev eth1 proto 208");
        assert_eq!(bench.paths(0)[0], format!("10.248.248.9 {local}"));
        ip("rule del pref 500");
        assert_eq!(bench.paths(0)[0], NONE);
        ip("route del default proto 208");
        // With its last address an interface loses its route, of which the kernel says nothing.
        ip("route add default via 10.248.249.1 dev eth2 proto dhcp");
        assert_eq!(bench.paths(1)[0], "10.248.249.1 10.248.249.2");
        ip("addr del 10.248.249.2/24 dev eth2");
        ip("addr add 10.248.249.5/24 dev eth2");
        assert_eq!(bench.paths(1)[0], NONE);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn interfaces_that_are_not_there_yet_or_come_back() {
    namespace(|| async {
        let mut bench = Bench::new(vec![config("eth1", &["10.248.248.1", "2001:db8:1::1"]), config("eth2", &[])]);
        assert_eq!(bench.resolve(0).device, Device::Missing);
        three_links();
        let both = ["10.248.248.1 10.248.248.2", "2001:db8:1::1 2001:db8:1::2"];
        bench.until(0, both);
        ip("route add default via 10.248.249.1 dev eth2 proto dhcp");
        assert_eq!(bench.paths(1), ["10.248.249.1 10.248.249.2", NONE]);
        let before = [bench.resolve(0).ifindex, bench.resolve(1).ifindex];
        for i in [1, 2] {
            ip(&format!("link del eth{i}"));
            assert_eq!(bench.resolve(i as usize - 1).device, Device::Missing);
            link(i);
        }
        bench.until(0, both);
        assert_eq!(bench.paths(1), [NONE, NONE]);
        ip("route add default via 10.248.249.1 dev eth2 proto dhcp");
        assert_eq!(bench.paths(1), ["10.248.249.1 10.248.249.2", NONE]);
        let after = [bench.resolve(0), bench.resolve(1)];
        assert!(after.iter().zip(before).all(|(now, before)| now.ifindex != before && now.device == Device::Ready));
        ip("link set eth1 down");
        assert_eq!((bench.resolve(0).device, bench.paths(0)), (Device::Disabled, [NONE, NONE].map(str::to_owned)));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ppp_dials_again_with_another_address() {
    namespace(|| async {
        let mut bench = Bench::new(vec![config("ppp0", &[])]);
        for local in ["198.51.100.7", "198.51.100.99"] {
            ip("tuntap add mode tun dev ppp0");
            ip(&format!("addr add {local} peer 203.0.113.1/32 dev ppp0"));
            ip("link set ppp0 up");
            assert_eq!(bench.paths(0), [&format!("- {local}"), NONE]);
            ip("-6 addr add 2001:db8:9::2/64 dev ppp0 nodad");
            bench.until(0, [&format!("- {local}"), "- 2001:db8:9::2"]);
            // The address changes without a new device.
            ip(&format!("addr del {local} peer 203.0.113.1/32 dev ppp0"));
            assert_eq!(bench.paths(0)[0], NONE);
            ip("addr add 198.51.100.50 peer 203.0.113.9/32 dev ppp0");
            assert_eq!(bench.paths(0)[0], "- 198.51.100.50");
            ip("link del ppp0");
            assert_eq!(bench.resolve(0).device, Device::Missing);
        }
    });
}

/// A router advertisement (RFC 4861 section 4.2) with this lifetime, from far1, and a prefix for addresses.
fn advertise(lifetime_s: u16) {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.bind_device(Some(b"far1")).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    let ifindex = Interfaces::read().unwrap().index("far1").unwrap();
    let mut packet = vec![134, 0, 0, 0, 64, 0];
    packet.extend_from_slice(&lifetime_s.to_be_bytes());
    packet.extend_from_slice(&[0; 8]);
    // Prefix information: on link, autonomous, valid and preferred for an hour.
    packet.extend_from_slice(&[3, 4, 64, 0xc0]);
    packet.extend_from_slice(&[3600u32.to_be_bytes(), 3600u32.to_be_bytes(), [0; 4]].concat());
    packet.extend_from_slice(&"2001:db8:77::".parse::<Ipv6Addr>().unwrap().octets());
    let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, ifindex);
    socket.send_to(&packet, &SockAddr::from(everybody)).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn router_advertisements_come_and_run_out() {
    namespace(|| async {
        three_links();
        ip("-6 addr flush dev eth1");
        std::fs::write("/proc/sys/net/ipv6/route/gc_interval", "1").unwrap();
        for (name, value) in [("accept_ra", "2"), ("accept_dad", "0"), ("dad_transmits", "0"), ("addr_gen_mode", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/eth1/{name}"), value).unwrap();
        }
        ip("link set eth1 address 02:00:00:00:00:01");
        ip("-6 addr add fe80::1/64 dev far1 nodad");
        ip("-6 addr add fe80::2/64 dev eth1 nodad");
        let mut bench = Bench::new(vec![config("eth1", &[])]);
        bench.until(0, [NONE, NONE]);
        advertise(3);
        let up = [NONE, "fe80::1 2001:db8:77::ff:fe00:1"];
        bench.until(0, up);
        // It runs out, and the kernel notices.
        bench.until(0, [NONE, NONE]);
        advertise(1800);
        bench.until(0, up);
        // A router that leaves says so: lifetime 0.
        advertise(0);
        bench.until(0, [NONE, NONE]);
    });
}

/// Another network namespace, which goes with it.
struct Other(Child);

impl Other {
    fn new() -> Self {
        let child = UNSHARE.command().args(["--net", "sleep", "60"]).spawn().unwrap();
        let other = Self(child);
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let deadline = Instant::now() + Duration::from_secs(5);
        let own = namespace("thread-self").unwrap();
        while namespace(&other.0.id().to_string()).is_ok_and(|other| other == own) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
        other
    }

    fn ip(&self, arguments: &str) {
        let status = NSENTER
            .command()
            .args(["-t", &self.0.id().to_string(), "--net", "ip"])
            .args(arguments.split_whitespace())
            .status();
        assert!(status.unwrap().success(), "ip {arguments}");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn gateways_on_one_interface_are_asked_for_their_ethernet_address() {
    namespace(|| async {
        three_links();
        let router = Other::new();
        ip(&format!("link set far1 netns {}", router.0.id()));
        router.ip("link set far1 address 02:00:00:00:00:77");
        router.ip("link set far1 up");
        router.ip("addr add 10.248.248.1/24 dev far1");
        ip("neigh add 10.248.248.3 lladdr 02:00:00:00:00:33 dev eth1 nud permanent");
        let mut bench = Bench::new(vec![config("eth1", &["10.248.248.1"]), config("eth1", &["10.248.248.3"])]);
        assert_eq!(bench.resolve(1).gateway_mac, Some([2, 0, 0, 0, 0, 0x33]));
        let deadline = Instant::now() + Duration::from_secs(20);
        while bench.resolve(0).gateway_mac != Some([2, 0, 0, 0, 0, 0x77]) {
            assert!(Instant::now() < deadline, "{}", ip("neigh"));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(ip("neigh show 10.248.248.3").contains("PERMANENT"), "and it stays what it was");
        // Another router takes the address over.
        ip("neigh replace 10.248.248.1 lladdr 02:00:00:00:00:78 dev eth1");
        bench.now_ns += 10 * SECOND;
        assert_eq!(bench.resolve(0).gateway_mac, Some([2, 0, 0, 0, 0, 0x78]));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_table_costs_little() {
    namespace(|| async {
        three_links();
        const COUNT: u32 = 100_000;
        let mut bench = Bench::new(vec![config("eth1", &[]), config("eth2", &[])]);
        let prefix = |i: u32| format!("{}.{}.{}.0/24", 20 + i / 65536, i / 256 % 256, i % 256);
        ip_batch((0..COUNT).map(|i| format!("route add {} via 10.248.250.1 proto bgp", prefix(i))));
        ip_batch((0..20_000).map(|i| format!("route add 2001:db8:8000:{i:x}::/64 via 2001:db8:3::1 proto bgp")));
        assert!(!bench.settle());
        assert!(
            bench.learner.next_deadline_ns() > bench.now_ns + SECOND,
            "not one of those routes is a reason to look"
        );
        ip("route add default via 10.248.248.1 dev eth1");
        ip("-6 route add default via 2001:db8:2::1 dev eth2");
        let start = Instant::now();
        assert!(bench.settle());
        let read_ms = start.elapsed().as_secs_f64() * 1e3;
        assert_eq!(bench.paths(0), ["10.248.248.1 10.248.248.2", NONE]);
        assert_eq!(bench.paths(1), [NONE, "2001:db8:2::1 2001:db8:2::2"]);
        println!("read beside {COUNT} IPv4 and 20,000 IPv6 routes of others in {read_ms:.2} ms");
        // Far above what it takes, so that a busy machine does not fail the test.
        assert!(read_ms < 200.0);
    });
}
