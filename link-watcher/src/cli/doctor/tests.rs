#![allow(clippy::unwrap_used)]

use std::{
    io,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    bpf::{Mode, XdpProgram},
    cli::explain::{
        kernel::{NamedTable, by_table},
        nft::Fib,
    },
    config::{Host, Severity},
    foreign_rules::Policy,
    system::{Interfaces, KernelEvent, Link},
};

/// A machine on which everything is as it should be, until a test changes it.
struct Fake {
    files: BTreeMap<String, String>,
    links: Vec<Link>,
    programs: BTreeMap<u32, XdpProgram>,
    features: BTreeMap<u32, u64>,
    nexthops: Option<i32>,
    conntrack: Option<i32>,
    nft: Result<&'static str, io::ErrorKind>,
    policy: Policy,
    /// As `nft -j list ruleset` prints it.
    ruleset: Result<serde_json::Value, String>,
}

impl Fake {
    fn good() -> Self {
        let files = [
            ("/proc/sys/kernel/osrelease", "6.18.44-amd64"),
            ("/proc/self/status", "Name:\tlink-watcher\nCapEff:\t000001ffffffffff\n"),
            ("/proc/self/mountinfo", "42 23 0:39 / /sys/fs/bpf rw,relatime - bpf bpf rw"),
            ("/proc/sys/net/core/bpf_jit_enable", "1"),
            ("/proc/sys/net/ipv4/ip_forward", "1"),
            ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
            ("/proc/sys/net/netfilter/nf_conntrack_count", "12"),
            ("/proc/sys/net/netfilter/nf_conntrack_max", "1000"),
            ("/proc/sys/net/ipv4/conf/all/rp_filter", "0"),
            ("/proc/sys/net/ipv4/conf/eth1/rp_filter", "0"),
            ("/proc/sys/net/ipv4/conf/eth2/rp_filter", "2"),
            ("/proc/17/comm", "chronyd"),
            ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
        ];
        let link = |ifindex, name: &str| Link {
            ifindex,
            name: name.to_owned(),
            admin_up: true,
            carrier: true,
            link_type: libc::ARPHRD_ETHER,
            mtu: 1500,
            ..Link::default()
        };
        Self {
            files: files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect(),
            links: vec![link(2, "eth0"), link(3, "eth1"), link(4, "eth2")],
            programs: BTreeMap::new(),
            features: BTreeMap::from([(3, 0x7)]),
            nexthops: None,
            conntrack: None,
            nft: Ok("nftables v1.0.6"),
            policy: Policy::default(),
            ruleset: Ok(serde_json::Value::Null),
        }
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    /// What is wrong with this machine, on one line each.
    fn complaints(&self, needs: &Needs) -> Vec<String> {
        let report = examine(self, needs, ok("configuration", "c.toml is good"));
        let wrong = report.checks.iter().filter(|finding| finding.level != Level::Ok);
        wrong
            .map(|finding| {
                let subject = finding.subject.as_deref().unwrap_or_default();
                let level = if finding.level == Level::Missing { "missing" } else { "warning" };
                let remedy = finding.remedy.as_deref().expect("every complaint has a remedy");
                format!("{level} {} {subject}: {} | {remedy}", finding.check, finding.message)
            })
            .collect()
    }

    fn said(&self, needs: &Needs, check: &str, subject: &str) -> String {
        let report = examine(self, needs, ok("configuration", "c.toml is good"));
        let found = report
            .checks
            .into_iter()
            .find(|finding| finding.check == check && finding.subject.as_deref().unwrap_or_default() == subject);
        found.unwrap().message
    }
}

impl Machine for Fake {
    fn read(&self, path: &str) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &str) -> Vec<String> {
        let inside = self.files.keys().filter_map(|path| path.strip_prefix(directory)?.strip_prefix('/'));
        inside.filter_map(|path| path.split('/').next()).map(str::to_owned).collect()
    }

    fn target(&self, link: &str) -> Option<String> {
        (link == "/sys/class/net/eth1/device/driver").then(|| "ixgbe".to_owned())
    }

    fn interfaces(&self) -> io::Result<Interfaces> {
        let mut interfaces = Interfaces::default();
        for link in &self.links {
            interfaces.update(&KernelEvent::Link(link.clone()));
        }
        Ok(interfaces)
    }

    fn xdp_programs(&self) -> io::Result<BTreeMap<u32, XdpProgram>> {
        Ok(self.programs.clone())
    }

    fn xdp_features(&self) -> io::Result<BTreeMap<u32, u64>> {
        Ok(self.features.clone())
    }

    fn nexthops(&self) -> io::Result<()> {
        self.nexthops.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn conntrack(&self) -> io::Result<()> {
        self.conntrack.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn nft(&self) -> io::Result<String> {
        self.nft.map(str::to_owned).map_err(io::Error::from)
    }

    fn filters(&self) -> Result<(Vec<NamedTable>, Box<dyn Fib>), String> {
        Ok((by_table(self.ruleset.as_ref().map_err(Clone::clone)?), Box::new(NoRoutes)))
    }

    fn rule_text(&self, _: &str, _: &str, handle: u64) -> Option<String> {
        (handle == 9).then(|| "iifname \"eth1\" udp dport != 53 drop".to_owned())
    }

    fn policy(&self) -> io::Result<Policy> {
        Ok(self.policy.clone())
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
    }
}

struct NoRoutes;

impl Fib for NoRoutes {
    fn way_out(&mut self, _: IpAddr) -> Option<String> {
        None
    }

    fn kind(&mut self, _: IpAddr, _: Option<&str>) -> String {
        "local".to_owned()
    }
}

/// eth1 leads to a peer, eth2 to the internet, eth0 to the LAN.
fn needs() -> Needs {
    Needs {
        peers: true,
        bpf: true,
        realtime: true,
        uplinks: true,
        nexthop: false,
        ipv4: true,
        ipv6: true,
        interfaces: BTreeMap::from([
            ("eth0".to_owned(), Use::default()),
            ("eth1".to_owned(), Use { peer: true, ..Use::default() }),
            ("eth2".to_owned(), Use { uplink: true, ..Use::default() }),
        ]),
        claims: Vec::new(),
        ports: Vec::new(),
    }
}

fn one(machine: &Fake) -> String {
    let complaints = machine.complaints(&needs());
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    complaints.into_iter().next().unwrap()
}

#[test]
fn a_good_machine_lacks_nothing() {
    let machine = Fake::good();
    assert_eq!(machine.complaints(&needs()), [""; 0]);
    let report = examine(&machine, &needs(), ok("configuration", "c.toml is good"));
    let text = render(&report, Style::default());
    assert!(
        text.starts_with("ok       configuration   c.toml is good\nok       kernel          Linux 6.18.44-amd64\n"),
        "{text}"
    );
    assert!(text.contains("ok       xdp eth1        native: the driver ixgbe has it\n"), "{text}");
    assert!(text.ends_with("\n\nNothing is missing.\n"), "{text}");
}

#[test]
fn needs_follow_from_the_configuration() {
    let text = "[daemon]\nrealtime = false\n[[uplinks]]\nname = \"wan\"\nlan = [\"eth0\"]\n[uplinks.probe]\ntargets = \
                [\"192.0.2.1\"]\n[[uplinks.link]]\nname = \"a\"\ninterface = \"eth2\"\n";
    let loaded = config::parse(Path::new("c.toml"), text, &Host::default(), Severity::Warning).unwrap();
    let interfaces = BTreeMap::from([
        ("eth0".to_owned(), Use::default()),
        ("eth2".to_owned(), Use { uplink: true, ..Use::default() }),
    ]);
    let expected = Needs {
        peers: false,
        bpf: false,
        realtime: false,
        ipv6: false,
        interfaces,
        claims: Claim::all(&loaded.config),
        ..needs()
    };
    assert_eq!(expected.claims.len(), 1);
    assert_eq!(Needs::of(&loaded.config), expected);
    // And then what only peers need is not asked for.
    let machine =
        Fake::good().file("/proc/self/status", "CapEff:\t0000000000003000\n").file("/proc/self/mountinfo", "");
    assert_eq!(machine.complaints(&expected), [""; 0]);
}

#[test]
fn rules_of_others_are_asked_for_where_ours_are() {
    let config = "[[uplinks]]\nname = \"wan\"\nlan = [\"eth0\"]\n[uplinks.probe]\ntargets = [\"192.0.2.1\"]\n\
                  [[uplinks.link]]\nname = \"a\"\ninterface = \"eth2\"\n";
    let loaded = config::parse(Path::new("c.toml"), config, &Host::default(), Severity::Warning).unwrap();
    let needs = Needs::of(&loaded.config);
    assert_eq!(Fake::good().said(&needs, "rules", ""), "no policy rule of others takes traffic that is ours");
}

#[test]
fn a_filter_that_drops_announcements_is_named() {
    let port = Port {
        interface: "eth1".to_owned(),
        local: Some("192.0.2.1".parse().unwrap()),
        remote: "192.0.2.2".parse().unwrap(),
        port: 46_721,
        asks: false,
    };
    let needs = |asks| Needs { ports: vec![Port { asks, ..port.clone() }], ..needs() };
    let filter = |policy: &str, rules: &[serde_json::Value]| {
        let mut objects =
            vec![serde_json::json!({"chain": {"family": "inet", "table": "mine", "name": "in", "hook": "input",
            "prio": 0, "policy": policy}})];
        let rule = |(at, expr): (usize, &serde_json::Value)| serde_json::json!({"rule": {"family": "inet", "table": "mine", "chain": "in", "handle": at + 8, "expr": expr}});
        objects.extend(rules.iter().enumerate().map(rule));
        Fake { ruleset: Ok(serde_json::json!({"nftables": objects})), ..Fake::good() }
    };
    let is = |left: serde_json::Value, op: &str, right: serde_json::Value| serde_json::json!({"match": {"op": op, "left": left, "right": right}});
    let dport = serde_json::json!({"payload": {"protocol": "udp", "field": "dport"}});
    let state = is(serde_json::json!({"ct": {"key": "state"}}), "in", serde_json::json!(["established", "related"]));
    let known = serde_json::json!([state, {"accept": null}]);
    let verdict = |verdict: &str, test| serde_json::json!([test, {verdict: null}]);

    let dropped = filter("accept", &[known.clone(), verdict("drop", is(dport.clone(), "!=", 53.into()))]);
    assert_eq!(
        dropped.complaints(&needs(false)),
        [
            "warning announcements eth1: nftables drops UDP 46721 from 192.0.2.2 here (table inet mine, hook input, chain in, rule 9: \
          iifname \"eth1\" udp dport != 53 drop): announcements are lost, although the link is up where XDP \
          answers keepalives beneath it | nft insert rule inet mine in iifname \"eth1\" udp dport 46721 accept, and likewise in the file that makes \
          the table"
        ]
    );
    // Who asks gets its answers.
    assert_eq!(dropped.complaints(&needs(true)), [""; 0]);
    let complaints = filter("drop", &[known]).complaints(&needs(false));
    assert!(complaints[0].contains("(table inet mine, hook input, the policy of chain in)"), "{complaints:?}");
    let let_in = filter("drop", &[verdict("accept", is(dport, "==", 46_721.into()))]);
    assert_eq!(let_in.said(&needs(false), "announcements", "eth1"), "UDP 46721 is let in from 192.0.2.2");
    let xt = filter("drop", &[serde_json::json!([{"xt": null}])]);
    assert!(xt.said(&needs(false), "announcements", "eth1").contains("cannot be told: the nftables table inet mine"));
    let root = Fake { ruleset: Err("run this with sudo".to_owned()), ..Fake::good() };
    assert!(root.said(&needs(false), "announcements", "").ends_with("cannot be seen: run this with sudo"));
}

#[test]
fn kernels() {
    let with = |release: &str| Fake::good().file("/proc/sys/kernel/osrelease", release);
    assert_eq!(
        one(&with("5.10.0-28-amd64")),
        "warning kernel : Linux 5.10.0-28-amd64 is too old for our eBPF programs: keepalives go through sockets | install \
         Linux 5.15 or later, or write engine = \"socket\""
    );
    assert_eq!(
        with("6.1.0-18-amd64").said(&needs(), "kernel", ""),
        "Linux 6.1.0-18-amd64; where XDP is taken there is no tc, but sockets"
    );
    let mut machine = Fake::good();
    machine.nexthops = Some(libc::EOPNOTSUPP);
    assert!(one(&machine).starts_with("warning nexthops : no nexthop objects ("));
    let machine = Fake::good().file("/proc/sys/net/ipv4/nexthop_compat_mode", "1");
    assert_eq!(machine.complaints(&needs()), [""; 0]);
    let complaints = machine.complaints(&Needs { nexthop: true, ..needs() });
    assert!(complaints[0].contains("0.8 ms for 1,000 | sysctl -w net.ipv4.nexthop_compat_mode=0"), "{complaints:?}");
}

#[test]
fn capabilities() {
    let machine = Fake::good().file("/proc/self/status", "CapEff:\t0000000000000000\n");
    let complaints = machine.complaints(&needs());
    assert_eq!(
        complaints[0],
        "missing capabilities : CAP_NET_ADMIN is missing: no route can be changed | run this with sudo; for a service: \
         CapabilityBoundingSet=CAP_NET_ADMIN"
    );
    let missing: Vec<_> = complaints.iter().filter(|line| line.starts_with("missing")).collect();
    assert_eq!((complaints.len(), missing.len()), (6, 2));
    // CAP_SYS_ADMIN covers CAP_BPF and CAP_PERFMON.
    let machine = Fake::good().file("/proc/self/status", "CapEff:\t0000000000a03000\n");
    assert_eq!(
        machine.complaints(&needs()),
        [
            "warning capabilities : CAP_IPC_LOCK is missing: probing may wait for the disk | run this with sudo; for a service: CapabilityBoundingSet=CAP_IPC_LOCK"
        ]
    );
}

#[test]
fn bpf() {
    assert_eq!(
        one(&Fake::good().file("/proc/self/mountinfo", "24 1 0:20 / /sys rw - sysfs sysfs rw")),
        "warning bpffs : no BPF file system on /sys/fs/bpf: the daemon mounts one, if it may | mount -t bpf bpf \
         /sys/fs/bpf; systemd does so at start"
    );
    assert!(one(&Fake::good().file("/proc/sys/net/core/bpf_jit_enable", "0")).starts_with("warning bpf-jit"));
    let lockdown = "none integrity [confidentiality]";
    assert!(one(&Fake::good().file("/sys/kernel/security/lockdown", lockdown)).starts_with("warning lockdown"));
}

#[test]
fn netfilter() {
    let mut machine = Fake::good();
    machine.nft = Err(io::ErrorKind::NotFound);
    machine.conntrack = Some(libc::EINVAL);
    let complaints = machine.complaints(&needs());
    assert_eq!(
        complaints[0],
        "missing nftables : there is no command nft: connections cannot be spread | apt install nftables"
    );
    assert!(
        complaints[1]
            .starts_with("missing conntrack : connections of a dead uplink cannot be released (Invalid argument")
    );
    // Peers alone need neither.
    assert_eq!(machine.complaints(&Needs { uplinks: false, ..needs() }), [""; 0]);
    let full = Fake::good().file("/proc/sys/net/netfilter/nf_conntrack_count", "800");
    assert_eq!(
        one(&full),
        "warning connections : 800 of at most 1000: once the table is full, new connections are dropped | sysctl -w \
         net.netfilter.nf_conntrack_max=2000"
    );
}

#[test]
fn forwarding() {
    assert_eq!(
        one(&Fake::good().file("/proc/sys/net/ipv6/conf/all/forwarding", "0")),
        "warning forwarding : net.ipv6.conf.all.forwarding is 0: this machine does not forward IPv6 packets of others | \
         sysctl -w net.ipv6.conf.all.forwarding=1, and a line in a file in /etc/sysctl.d, if it is to be a router"
    );
}

#[test]
fn interfaces() {
    let mut machine = Fake::good();
    machine.links.remove(0);
    machine.links[1].carrier = false;
    assert_eq!(
        machine.complaints(&needs()),
        [
            "warning interface eth0: there is none of this name now: it is used from the moment that it appears | ip link \
             shows what there is",
            "warning interface eth2: hardware, without carrier | look at the cable and at the other end",
        ]
    );
    machine = Fake::good();
    machine.links[1].admin_up = false;
    assert_eq!(one(&machine), "warning interface eth1: hardware, switched off | ip link set eth1 up");
}

#[test]
fn xdp_without_attaching() {
    let program = |name: Option<&str>| XdpProgram { mode: Mode::XdpGeneric, id: 7, name: name.map(str::to_owned) };
    let mut machine = Fake::good();
    machine.programs.insert(3, program(Some("lw_xdp_ethernet")));
    assert_eq!(machine.said(&needs(), "xdp", "eth1"), "our program runs here, generic");
    machine.programs.insert(3, program(Some("xdp_dispatcher")));
    assert_eq!(
        one(&machine),
        "warning xdp eth1: another program is on the hook: id 7, xdp_dispatcher, generic; ours goes to tc or a socket | ip \
         link set dev eth1 xdp off, if nobody needs it"
    );
    machine.programs.clear();
    machine.features.clear();
    assert!(machine.said(&needs(), "xdp", "eth1").starts_with("whether the driver ixgbe has a native mode shows"));
    machine.features.insert(3, 0);
    assert!(machine.said(&needs(), "xdp", "eth1").starts_with("generic: the driver ixgbe has no native mode"));
    machine.features.insert(3, 1);
    machine.links[1].mtu = 9000;
    assert!(one(&machine).starts_with("warning xdp eth1: the driver ixgbe has a native mode, but may refuse it"));
    machine.links[1].kind = Some("veth".to_owned());
    assert!(machine.said(&needs(), "xdp", "eth1").starts_with("generic: a virtual interface"));
    machine.links[1].link_type = libc::ARPHRD_INFINIBAND;
    assert!(one(&machine).starts_with("warning xdp eth1: link layers of type 32 are not ours"));
}

#[test]
fn reverse_path_filters() {
    let strict = || Fake::good().file("/proc/sys/net/ipv4/conf/eth2/rp_filter", "1");
    assert_eq!(
        one(&strict()),
        "warning rp_filter eth2: strict: answers that come in by an uplink that is not the main table's are dropped. The \
         daemon sets it to loose | for good: sysctl -w net.ipv4.conf.eth2.rp_filter=2; or \
         net.ipv4.conf.eth2.src_valid_mark=1 beside it"
    );
    let marked = strict().file("/proc/sys/net/ipv4/conf/all/src_valid_mark", "1");
    assert_eq!(marked.said(&needs(), "rp_filter", "eth2"), "strict, and it looks at marks (src_valid_mark)");
    // The greater one of the two counts.
    let all = Fake::good().file("/proc/sys/net/ipv4/conf/all/rp_filter", "1");
    assert_eq!(all.said(&needs(), "rp_filter", "eth2"), "loose");
    assert!(one(&all).starts_with("warning rp_filter eth1: strict: packets are lost while the two ends choose"));
    let mut vlan = Fake::good().file("/proc/sys/net/ipv4/conf/eth0.7/rp_filter", "1");
    vlan.links[2].name = "eth0.7".to_owned();
    let interfaces = BTreeMap::from([("eth0.7".to_owned(), Use { peer: true, ..Use::default() })]);
    let complaints = vlan.complaints(&Needs { interfaces, ..needs() });
    assert!(complaints[0].ends_with("sysctl -w net.ipv4.conf.eth0/7.rp_filter=2"), "{complaints:?}");
}

#[test]
fn other_daemons() {
    let machine = Fake::good().file("/proc/20/comm", "zebra").file("/proc/21/comm", "systemd-network");
    let complaints = machine.complaints(&needs());
    assert!(complaints[0].starts_with("warning neighbour zebra: FRR's zebra deletes nexthop objects"));
    assert_eq!(
        complaints[1],
        "warning neighbour systemd-networkd: when it reconfigures an interface it deletes routes, rules and nexthop \
         objects that it did not make | write [Network] ManageForeignRoutes=no ManageForeignRoutingPolicyRules=no into \
         /etc/systemd/networkd.conf.d/link-watcher.conf"
    );
    let settings = "[Network]\nManageForeignRoutes = no\nManageForeignRoutingPolicyRules=no\n";
    let tamed = Fake::good()
        .file("/proc/21/comm", "systemd-network")
        .file("/etc/systemd/networkd.conf.d/10-ours.conf", settings);
    assert_eq!(tamed.complaints(&needs()), [""; 0]);
}

#[test]
fn clocks() {
    let mut machine = Fake::good().file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet");
    assert!(one(&machine).starts_with("warning clocksource : time comes from hpet"));
    machine = Fake::good();
    machine.files.remove("/proc/17/comm");
    assert!(one(&machine).starts_with("warning clock : it is 2026-05-28T20:26:40Z, and no daemon keeps it right"));
}

#[test]
fn for_scripts() {
    let mut machine = Fake::good();
    machine.nft = Err(io::ErrorKind::NotFound);
    let report = examine(&machine, &needs(), configuration_is_good(Path::new("c.toml"), 2));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["missing"].as_u64(), json["warnings"].as_u64()), (Some(1), Some(1)));
    assert_eq!(json["checks"][0]["level"], "warning");
    assert_eq!(json["checks"][0]["subject"], serde_json::Value::Null);
    let nft = json["checks"].as_array().unwrap().iter().find(|check| check["check"] == "nftables").unwrap();
    assert_eq!((nft["level"].as_str(), nft["remedy"].as_str()), (Some("missing"), Some("apt install nftables")));
    assert!(render(&report, Style::default()).ends_with("\n1 essential thing is missing; 1 warning.\n"));
}

#[test]
fn router_advertisements() {
    let text = "[[uplinks]]\nname = \"wan\"\nroutes = [\"::/0\"]\nlan = []\n[uplinks.probe]\ntargets = [\"2001:db8::1\"]\n\
                [[uplinks.link]]\nname = \"a\"\ninterface = \"eth1\"\ngateway = \"fe80::1\"\n\
                [[uplinks.link]]\nname = \"b\"\ninterface = \"eth2\"\n";
    let loaded = config::parse(Path::new("c.toml"), text, &Host::default(), Severity::Warning).unwrap();
    let needs = Needs::of(&loaded.config);
    let ra = |accept: &str, forwarding: &str| {
        Fake::good()
            .file("/proc/sys/net/ipv6/conf/eth2/accept_ra", accept)
            .file("/proc/sys/net/ipv6/conf/eth2/forwarding", forwarding)
            .complaints(&needs)
    };
    assert_eq!((ra("2", "1").len(), ra("1", "0").len()), (0, 0));
    assert_eq!(
        ra("1", "1"),
        [
            "warning accept_ra eth2: it is 1: unless networkd or a DHCPv6 client takes advertisements, no IPv6 gateway is \
             learned | sysctl -w net.ipv6.conf.eth2.accept_ra=2, or give the link its `gateway`"
        ]
    );
    assert_eq!(ra("0", "0").len(), 1);
}
