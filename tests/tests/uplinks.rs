//! Uplinks while all of them work: shares, connections that stay, visitors, forced connections, others' rules.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use link_watcher_lab::Lab;
use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::status::{active, group};
use link_watcher_lab::uplinks::address::{SERVER, SERVER6, SMTP_PORT, SUBMISSION_PORT, WHO_PORT, lan_host6, socket};
use link_watcher_lab::uplinks::flow::{Call, Crowd, Failure, Fate, Transport};
use link_watcher_lab::uplinks::host::Host;
use link_watcher_lab::uplinks::setup::{GROUP, SiteSetup};
use link_watcher_lab::uplinks::{PATIENCE, Site, assert_split, open_all};

/// What a visitor calls to reach the host in the LAN, where somebody's own rules translate it.
const TRANSLATED_PORT: u16 = 8080;

fn site(setup: SiteSetup) -> Site {
    Site::start(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap()
}

/// Every uplink has its share, in percent, within two points.
fn assert_shares(site: &Site, crowd: &Crowd, percents: [usize; 3]) {
    let counts = site.by_uplink(&crowd.by_source());
    println!("{counts:?} of {}", crowd.len());
    for (count, percent) in counts.iter().zip(percents) {
        let off = (*count as f64 / crowd.len() as f64 * 100.0 - percent as f64).abs();
        assert!(off <= 2.0, "{counts:?} of {}, and not {percents:?} %", crowd.len());
    }
}

/// Every connection that is held is answered, and on the uplink that it had.
fn assert_all_same(crowd: &mut Crowd) {
    let held = crowd.len();
    let fates = crowd.recheck().unwrap();
    let same: usize = fates.values().map(|fate| fate.same).sum();
    assert_eq!(same, held, "{fates:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn new_connections_are_shared_by_weight_and_stay_where_they_are() {
    let site = site(SiteSetup::default());
    let mut crowds = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        crowds.push(site.open(transport, 1000).unwrap());
        // The router's own connections are spread as well.
        crowds.push(open_all(&site.router, site.call(transport), 1000).unwrap());
    }
    for crowd in &crowds {
        assert_shares(&site, crowd, [50, 30, 20]);
    }
    for _ in 0..5 {
        for crowd in &mut crowds {
            assert_all_same(crowd);
        }
        site.lab.pause(site.setup.interval).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn other_weights_are_taken_at_run_time_and_move_no_connection() {
    let mut site = site(SiteSetup::default());
    let mut before = site.open(Transport::Tcp, 300).unwrap();
    for (uplink, weight) in site.setup.uplinks.iter_mut().zip([1, 1, 2]) {
        uplink.weight = weight;
    }
    site.configure().unwrap();
    site.daemon.command(&["reload"]).unwrap();
    assert_shares(&site, &site.open(Transport::Tcp, 1000).unwrap(), [25, 25, 50]);
    assert_all_same(&mut before);
    for name in site.names() {
        assert_eq!(site.uplink(name).unwrap()["flaps"], 0, "{name} did not flap");
    }
}

/// Rules as an administrator may have them: they send what visitors call to the host in the LAN.
fn translate_visitors(site: &Site) {
    let text = format!(
        "table ip administrator {{
            chain visitors {{
                type nat hook prerouting priority dstnat;
                iifname != eth0 tcp dport {TRANSLATED_PORT} dnat to 10.20.20.10:{WHO_PORT}
                iifname != eth0 udp dport {TRANSLATED_PORT} dnat to 10.20.20.10:{WHO_PORT}
            }}
        }}\n"
    );
    site.router.namespace().command(&["nft", "-f", "-"], &text).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn visitors_are_answered_by_the_uplink_they_came_by() {
    let site = site(SiteSetup::default());
    translate_visitors(&site);
    for provider in &site.providers {
        for (transport, port) in
            [(Transport::Tcp, WHO_PORT), (Transport::Tcp, TRANSLATED_PORT), (Transport::Udp, TRANSLATED_PORT)]
        {
            let mut crowd = site.visit(provider, transport, port, 100).unwrap();
            assert_eq!(crowd.len(), 100, "{transport:?} to {} port {port}: {:?}", provider.name(), crowd.failures);
            assert_all_same(&mut crowd);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_uplink_of_tier_0_is_not_chosen_but_answers_and_takes_what_is_forced() {
    let mut setup = SiteSetup::tiers([1, 1, 0]);
    setup.further = format!("[[uplinks.force]]\nlink = \"lte\"\nprotocol = \"tcp\"\nport = {SMTP_PORT}\n");
    let site = site(setup);
    let counts = site.by_uplink(&site.open(Transport::Tcp, 200).unwrap().by_source());
    assert_split(&counts, &[125, 75, 0]);
    let visit = site.visit(site.provider("lte").unwrap(), Transport::Tcp, WHO_PORT, 50).unwrap();
    assert_eq!(visit.len(), 50, "{:?}", visit.failures);
    let mail = Call { destination: socket(SERVER, SMTP_PORT), ..site.call(Transport::Tcp) };
    for host in [&site.lan, &site.router] {
        let forced = open_all(host, mail, 50).unwrap();
        assert_split(&site.by_uplink(&forced.by_source()), &[0, 0, 50]);
    }
    // It is not chosen even when nothing else is left.
    for name in ["fibre", "dsl"] {
        site.provider(name).unwrap().die(false).unwrap();
        site.wait_state(name, "down", PATIENCE).unwrap();
    }
    let crowd = Crowd::open(&site.lan, site.call(Transport::Tcp), 10).unwrap();
    assert!(crowd.is_empty(), "nothing goes by an uplink of tier 0: {:?}", crowd.by_source());
    assert_eq!(open_all(&site.lan, mail, 10).unwrap().len(), 10);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn forced_connections_fail_at_once_without_their_uplink_unless_others_may_take_them() {
    let force = |port: u16, or_others: bool| {
        format!(
            "[[uplinks.force]]\nlink = \"dsl\"\nsource = \"10.20.20.0/22\"\ndestination = \"{SERVER}/32\"\nprotocol = \"tcp\"\nport = {port}\n\
             or-others = {or_others}\n"
        )
    };
    let site =
        site(SiteSetup { further: force(SMTP_PORT, false) + &force(SUBMISSION_PORT, true), ..SiteSetup::default() });
    let mail = Call { destination: socket(SERVER, SMTP_PORT), ..site.call(Transport::Tcp) };
    let mut forced = open_all(&site.lan, mail, 50).unwrap();
    assert_split(&site.by_uplink(&forced.by_source()), &[0, 50, 0]);
    assert_shares(&site, &site.open(Transport::Tcp, 1000).unwrap(), [50, 30, 20]);
    assert_all_same(&mut forced);

    site.provider("dsl").unwrap().die(false).unwrap();
    site.wait_active(&["fibre", "lte"], PATIENCE).unwrap();
    // As many as the kernel may tell in a row by ICMP (net.ipv4.icmp_ratelimit has a burst of 6).
    let refused = Crowd::open(&site.lan, mail, 5).unwrap();
    assert_eq!(refused.failures, vec![Failure::Unreachable; 5], "they are told so, and do not wait");
    let others = Call { destination: socket(SERVER, SUBMISSION_PORT), ..mail };
    let elsewhere = site.by_uplink(&open_all(&site.lan, others, 70).unwrap().by_source());
    assert_split(&elsewhere, &[50, 0, 20]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_operator_pins_and_drains_without_harm_to_connections() {
    let site = site(SiteSetup::default());
    let mut before = site.open(Transport::Tcp, 100).unwrap();
    site.daemon.command(&["switch", GROUP, "dsl"]).unwrap();
    site.wait_active(&["dsl"], PATIENCE).unwrap();
    assert_split(&site.by_uplink(&site.open(Transport::Tcp, 50).unwrap().by_source()), &[0, 50, 0]);
    site.daemon.command(&["switch", GROUP, "auto"]).unwrap();
    site.wait_active(&["fibre", "dsl", "lte"], PATIENCE).unwrap();
    site.daemon.command(&["drain", GROUP, "fibre"]).unwrap();
    site.wait_active(&["dsl", "lte"], PATIENCE).unwrap();
    assert_split(&site.by_uplink(&site.open(Transport::Tcp, 50).unwrap().by_source()), &[0, 30, 20]);
    assert_all_same(&mut before);
    site.daemon.command(&["undrain", GROUP, "fibre"]).unwrap();
    site.wait_active(&["fibre", "dsl", "lte"], PATIENCE).unwrap();
    assert_all_same(&mut before);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_that_crashes_or_restarts_moves_nothing() {
    let site = site(SiteSetup::default());
    let mut crowd = site.open(Transport::Tcp, 200).unwrap();
    let dialer = site.dial(100).unwrap();
    site.wait_steady(&dialer).unwrap();
    for crash in [true, false] {
        if crash {
            site.daemon.kill();
        } else {
            site.daemon.stop().unwrap();
        }
        assert_shares(&site, &site.open(Transport::Tcp, 500).unwrap(), [50, 30, 20]);
        assert_all_same(&mut crowd);
        site.daemon.start().unwrap();
        site.wait_all_up().unwrap();
        assert_shares(&site, &site.open(Transport::Tcp, 500).unwrap(), [50, 30, 20]);
        assert_all_same(&mut crowd);
    }
    site.wait_steady(&dialer).unwrap();
    let report = dialer.report(0);
    assert_eq!(report.failed, 0, "{report:?}");
}

/// A packet that is between two rules while these are written may find neither the former nor the new sets and maps.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_that_begin_while_rules_are_written_have_an_uplink_and_its_address() {
    const WRITTEN: usize = 120;
    let site = site(SiteSetup::default());
    let ended = Arc::new(AtomicBool::new(false));
    let (until, lan) = (Arc::clone(&ended), Arc::clone(site.lan.namespace()));
    let load = thread::spawn(move || {
        lan.enter().unwrap();
        // Bounded, also where the test fails before it says that it is over.
        for _ in 0..100_000 {
            if until.load(Ordering::Relaxed) {
                return;
            }
            // Each datagram has another source port: a new connection.
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"who", (SERVER, WHO_PORT)).unwrap();
            thread::sleep(Duration::from_micros(200));
        }
    });
    for number in 0..WRITTEN {
        site.daemon.command(&[["drain", "undrain"][number % 2], GROUP, "fibre"]).unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    load.join().unwrap();
    let known = site.router.namespace().command(&["conntrack", "-L", "-p", "udp"], "").unwrap();
    let begun: Vec<_> = known.lines().filter(|line| line.contains(" src=10.20.20.10 ")).collect();
    let lost = begun.iter().filter(|line| line.contains(" dst=10.20.20.10 ") || line.contains(" mark=0 "));
    let lost: Vec<_> = lost.collect();
    assert!(begun.len() > 50 * WRITTEN, "only {}", begun.len());
    assert!(lost.is_empty(), "{} of {}, such as {}", lost.len(), begun.len(), lost[0]);
}

/// Everything of other owners in a namespace: nftables without our tables, rules and routes without our protocol number.
fn foreign(namespace: &Namespace) -> String {
    let mut text = String::new();
    let tables = namespace.command(&["nft", "list", "tables"], "").unwrap();
    for table in tables.lines().filter(|table| !table.starts_with("table inet link_watcher")) {
        // Stateless: counters go on.
        let arguments: Vec<_> = ["nft", "-s", "list"].into_iter().chain(table.split_whitespace()).collect();
        text += &namespace.command(&arguments, "").unwrap();
    }
    for arguments in [
        &["ip", "-N", "-d", "-4", "rule", "show"][..],
        &["ip", "-N", "-d", "-6", "rule", "show"],
        &["ip", "-N", "-d", "-4", "route", "show", "table", "all"],
        &["ip", "-N", "-d", "-6", "route", "show", "table", "all"],
    ] {
        let lines = namespace.command(arguments, "").unwrap();
        // A route of several next hops is shown on several lines; only ours is such a one here.
        for line in lines.lines().filter(|line| !line.contains("proto 208") && !line.starts_with([' ', '\t'])) {
            // Routes out of the neighbour table's life (IPv6 only) are shown with their age.
            text += line.split(" expires ").next().unwrap();
            text.push('\n');
        }
    }
    text
}

/// Rules, routes, marks and sysctls as somebody else may have them.
fn install_others(router: &Namespace) {
    router
        .command(
            &["nft", "-f", "-"],
            "table inet somebody {
                set friends { type ipv4_addr; elements = { 192.0.2.129, 192.0.2.130 } }
                counter lost_marks { }
                chain first {
                    type filter hook prerouting priority -300;
                    iifname eth0 meta mark set meta mark or 0x1
                }
                chain connections {
                    type filter hook prerouting priority -100;
                    iifname eth0 ct state new ct mark set ct mark or 0x10000
                }
                chain last {
                    type filter hook postrouting priority 200;
                    iifname eth0 tcp dport 7007 meta mark and 0xffff00ff != 0x1 counter name lost_marks
                    iifname eth0 tcp dport 7007 ct mark and 0xffff00ff != 0x10000 counter name lost_marks
                }
            }
            table ip link_watcher_of_another {
                chain forward { type filter hook forward priority 0; policy accept; }
            }\n",
        )
        .unwrap();
    router
        .command(
            &["ip", "-batch", "-"],
            "rule add pref 15000 fwmark 0x4/0x4 lookup 100 protocol 99\n\
             rule add pref 25000 from 10.99.0.0/16 lookup 100\n\
             route add 10.98.0.0/16 via 10.20.20.10 proto 99\n\
             route add default via 10.20.20.10 table 100 proto static\n\
             route add default via 198.51.100.1 metric 4000 proto dhcp\n",
        )
        .unwrap();
    router
        .command(
            &["ip", "-6", "-batch", "-"],
            "rule add pref 15000 fwmark 0x4/0x4 lookup 100 protocol 99\n\
             route add 2001:db8:98::/48 dev eth0 proto 99\n",
        )
        .unwrap();
}

/// The sysctls that the daemon may touch, of all interfaces.
fn sysctls(router: &Namespace) -> String {
    router.command(&["sh", "-c", "cd /proc/sys/net && grep -H . ipv4/ip_forward ipv6/conf/*/forwarding ipv4/conf/*/rp_filter ipv4/conf/*/src_valid_mark ipv4/conf/*/forwarding"], "").unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_others_have_stays_byte_for_byte() {
    let setup = SiteSetup { daemon_settings: "on-exit = \"remove\"\n".to_owned(), ..SiteSetup::default() };
    let site = Site::build(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
    let router: &Arc<Namespace> = site.router.namespace();
    install_others(router);
    let (before, sysctls_before) = (foreign(router), sysctls(router));
    assert!(before.contains("lost_marks") && before.contains("10.98.0.0/16") && before.contains("15000:"), "{before}");
    site.daemon.start().unwrap();
    site.wait_all_up().unwrap();
    assert_eq!(foreign(router), before, "while it runs");

    assert_shares(&site, &site.open(Transport::Tcp, 500).unwrap(), [50, 30, 20]);
    site.provider("fibre").unwrap().die(false).unwrap();
    site.wait_active(&["dsl", "lte"], PATIENCE).unwrap();
    assert_eq!(foreign(router), before, "after a failure");
    let mut crowd = site.open(Transport::Tcp, 100).unwrap();
    assert_all_same(&mut crowd);
    site.mend().unwrap();
    site.wait_active(&["fibre", "dsl", "lte"], PATIENCE).unwrap();
    site.daemon.command(&["reload"]).unwrap();
    assert_eq!(foreign(router), before, "after a repair and a reload");
    let counter = router.command(&["nft", "list", "counter", "inet", "somebody", "lost_marks"], "").unwrap();
    assert!(counter.contains("packets 0 "), "bits of others in packet and connection marks stay: {counter}");

    site.daemon.stop().unwrap();
    assert_eq!(foreign(router), before, "afterwards");
    let tables = router.command(&["nft", "list", "tables"], "").unwrap();
    assert!(!tables.contains("inet link_watcher"), "ours is gone: {tables}");
    for arguments in [&["ip", "-N", "-d", "rule"][..], &["ip", "-N", "-d", "route", "show", "table", "all"]] {
        let ours = router.command(arguments, "").unwrap();
        assert!(!ours.contains("proto 208"), "ours is gone: {ours}");
    }
    assert_eq!(sysctls(router), sysctls_before, "sysctls are put back");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_others_delete_of_ours_is_repaired() {
    let site = site(SiteSetup::default());
    let router = site.router.namespace();
    let ours = |router: &Namespace| {
        let tables = router.command(&["nft", "list", "tables"], "").unwrap();
        let table = tables.lines().find(|table| table.starts_with("table inet link_watcher")).map(str::to_owned);
        let rules = router.command(&["ip", "-N", "-d", "rule"], "").unwrap();
        let rules: Vec<_> = rules.lines().filter(|rule| rule.contains("proto 208")).map(str::to_owned).collect();
        let routes = router.command(&["ip", "-N", "-d", "-o", "route", "show", "table", "all"], "").unwrap();
        let mut routes: Vec<_> =
            routes.lines().filter(|route| route.contains("proto 208")).map(str::to_owned).collect();
        routes.sort();
        (table, rules, routes)
    };
    let before = ours(router);
    let table = before.0.clone().unwrap();
    let mut delete_table: Vec<_> = vec!["nft", "delete"];
    delete_table.extend(table.split_whitespace());
    for arguments in [
        delete_table,
        vec![
            "sh",
            "-c",
            "for pref in $(ip -N -d rule | grep 'proto 208' | cut -d: -f1); do ip rule del pref $pref; done",
        ],
        vec!["sh", "-c", "for table in 7000 7001 7002 7003; do ip route flush table $table; done"],
    ] {
        router.command(&arguments, "").unwrap();
        assert_ne!(ours(router), before);
        site.lab
            .wait_until("ours to be there again", PATIENCE, || Ok((ours(router) == before).then_some(())))
            .unwrap_or_else(|error| panic!("after {arguments:?}: {error:#}\n{:#?}\n{before:#?}", ours(router)));
    }
    assert_shares(&site, &site.open(Transport::Tcp, 500).unwrap(), [50, 30, 20]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn uplinks_of_ipv6_serve_their_own_prefixes_untranslated() {
    let site =
        Site::build(Lab::new().unwrap(), SiteSetup { ipv6: true, ..SiteSetup::default() }, &binary().unwrap()).unwrap();
    for provider in &site.providers {
        provider.refuse_foreign_sources6().unwrap();
    }
    site.daemon.start().unwrap();
    site.wait_all_up().unwrap();
    let mut crowds = BTreeMap::new();
    for (number, provider) in site.providers.iter().enumerate() {
        let own = lan_host6(number, 16);
        let call =
            Call { source: Some(own.into()), destination: socket(SERVER6, WHO_PORT), ..site.call(Transport::Tcp) };
        let crowd = open_all(&site.lan, call, 50).unwrap();
        assert!(crowd.by_source().keys().eq([&IpAddr::from(own)]), "untranslated: {:?}", crowd.by_source());
        crowds.insert(provider.name().to_owned(), crowd);
        let call = Call {
            source: Some(SERVER6.parse().unwrap()),
            destination: (own, WHO_PORT).into(),
            ..site.call(Transport::Tcp)
        };
        assert_eq!(open_all(&site.internet, call, 20).unwrap().len(), 20, "visitors to {own}");
    }
    site.provider("dsl").unwrap().die(false).unwrap();
    site.wait_active(&["fibre", "lte"], PATIENCE).unwrap();
    for name in ["fibre", "lte"] {
        assert_all_same(crowds.get_mut(name).unwrap());
    }
    // IPv4 as ever.
    let counts = site.by_uplink(&site.open(Transport::Tcp, 70).unwrap().by_source());
    assert_split(&counts, &[50, 0, 20]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_peer_and_uplinks_share_a_daemon_and_an_interface() {
    let lab = Lab::new().unwrap();
    let mut site = Site::build(lab.clone(), SiteSetup::default(), &binary().unwrap()).unwrap();
    // Provider 1 is at the same time the head office, with a prefix of its own behind the same wire.
    let office = Arc::clone(site.providers[0].namespace());
    office.add_address("lo", "10.77.0.1/32".parse().unwrap()).unwrap();
    let office_host = Arc::new(Host::start(&office).unwrap());
    office_host.serve_tcp(WHO_PORT).unwrap();
    let key = "bGluay13YXRjaGVyLWxhYi1rZXktb2YtMzItb2N0ZXRzLSE=";
    let peer = |role: &str, local: &str, remote: &str, interface: &str, key: &std::path::Path, rest: &str| {
        format!(
            "[[peer]]\nname = \"hq\"\nrole = \"{role}\"\nkey-files = [\"{}\"]\ninterval = \"100ms\"\nhold-up = \"100ms\"\n{rest}\n\
             [[peer.link]]\nname = \"optic\"\ninterface = \"{interface}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n",
            key.display()
        )
    };
    let daemon = Daemon::prepare(&lab, &office, "office", &binary().unwrap()).unwrap();
    let office_key = daemon.write_key("hq.key", key).unwrap();
    let accept = "accept = [\"10.20.20.0/22\"]";
    daemon.write_config("", &peer("server", "198.51.100.1", "198.51.100.2", "access", &office_key, accept)).unwrap();
    let router_key = site.daemon.write_key("hq.key", key).unwrap();
    let announce = "routes = [\"10.77.0.0/16\"]\nannounce = [\"10.20.20.0/22\"]";
    site.setup.further = peer("client", "198.51.100.2", "198.51.100.1", "eth1", &router_key, announce);
    site.configure().unwrap();
    daemon.start().unwrap();
    site.daemon.start().unwrap();
    site.wait_all_up().unwrap();
    lab.wait_until("the peer's link to be up", PATIENCE, || {
        let status = site.daemon.status()?;
        let office = daemon.status()?;
        let announced = group(&office, "hq").map(|group| &group["routes"]["installed"]);
        Ok((active(&status, "hq") == ["optic"] && announced.is_some_and(|count| *count == 1)).then_some(()))
    })
    .unwrap();

    let to_office = Call { destination: "10.77.0.1:7007".parse().unwrap(), ..site.call(Transport::Tcp) };
    let mut crowd = open_all(&site.lan, to_office, 100).unwrap();
    assert!(
        crowd.by_source().keys().eq([&IpAddr::from([10, 20, 20, 10])]),
        "what goes to the peer is neither spread nor translated: {:?}",
        crowd.by_source()
    );
    assert_shares(&site, &site.open(Transport::Tcp, 500).unwrap(), [50, 30, 20]);
    // The internet behind provider 1 dies, the head office does not.
    site.provider("fibre").unwrap().die(true).unwrap();
    site.wait_active(&["dsl", "lte"], PATIENCE).unwrap();
    let fates: Vec<_> = crowd.recheck().unwrap().into_values().collect();
    assert_eq!(fates, [Fate { same: 100, ..Fate::default() }]);
    assert_eq!(open_all(&site.lan, to_office, 20).unwrap().len(), 20);
}
