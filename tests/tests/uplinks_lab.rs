//! The lab of uplinks itself, with rules made by hand and no daemon: what is measured there is true.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use link_watcher_lab::netns::Namespace;
use link_watcher_lab::tunnel::Impairment;
use link_watcher_lab::uplinks::address::{
    SERVER6, TARGETS, WHO_PORT, gateway4, gateway6, host4, lan_host6, lan6, router4, socket,
};
use link_watcher_lab::uplinks::flow::{Call, Fate, Transport};
use link_watcher_lab::uplinks::setup::SiteSetup;
use link_watcher_lab::uplinks::{Site, open_all};
use link_watcher_lab::{Direction, Lab, monotonic_ns};

/// Which uplink each of ten new connections in a row takes, by its number from 1: 5, 3 and 2 of them.
const ALL: [usize; 10] = [1, 2, 1, 3, 1, 2, 1, 3, 1, 2];
/// Without the first.
const NOT_FIRST: [usize; 10] = [2, 3, 2, 3, 2, 2, 3, 2, 3, 2];

fn site(setup: SiteSetup) -> Site {
    Site::build(Lab::new().unwrap(), setup, Path::new("/nonexistent")).unwrap()
}

fn router(site: &Site) -> &Namespace {
    site.router.namespace()
}

/// Which uplink new connections take.
fn pick(site: &Site, turns: [usize; 10]) {
    let elements: Vec<_> =
        turns.iter().enumerate().map(|(turn, number)| format!("{turn} : {:#x}", number << 8)).collect();
    let text = format!(
        "add table inet by_hand\nadd chain inet by_hand pick\nflush chain inet by_hand pick\n\
         add rule inet by_hand pick meta mark set numgen inc mod 10 map {{ {} }}\n",
        elements.join(", ")
    );
    router(site).command(&["nft", "-f", "-"], &text).unwrap();
}

/// Rules, tables and marks for three uplinks.
fn by_hand(site: &Site) {
    let mut rules = String::from("rule add pref 20000 lookup main suppress_prefixlength 0\n");
    let mut arrivals = String::new();
    for (number, provider) in site.providers.iter().enumerate() {
        let (interface, own, turn) = (provider.interface(), provider.router_address(), number + 1);
        writeln!(rules, "rule add pref {} fwmark {:#x}/0xff00 lookup {}", 20000 + turn, turn << 8, 7000 + turn)
            .unwrap();
        writeln!(rules, "rule add pref {} from {own} lookup {}", 20100 + turn, 7000 + turn).unwrap();
        let gateway = if provider.interface().starts_with("ppp") { None } else { Some(gateway4(number)) };
        let via = gateway.map(|gateway| format!("via {gateway}")).unwrap_or_default();
        writeln!(rules, "route add default {via} dev {interface} table {}", 7000 + turn).unwrap();
        writeln!(
            arrivals,
            "iifname {interface} ct state new meta mark set {:#x} ct mark set meta mark return",
            turn << 8
        )
        .unwrap();
    }
    let first = site.providers[0].interface();
    writeln!(rules, "rule add pref 20900 lookup 7000").unwrap();
    writeln!(rules, "route add default via {} dev {first} table 7000", gateway4(0)).unwrap();
    router(site).command(&["ip", "-batch", "-"], &rules).unwrap();
    pick(site, ALL);
    let table = format!(
        "table inet by_hand {{
            chain arrive {{ type filter hook prerouting priority mangle;
                ct mark and 0xff00 != 0 meta mark set ct mark return
                {arrivals}
                iifname eth0 ct state new fib daddr type != local jump pick
                ct mark set meta mark
            }}
            chain leave {{ type route hook output priority mangle;
                ct mark and 0xff00 != 0 meta mark set ct mark return
                ct state new meta mark and 0xff00 == 0 fib daddr type != local jump pick
                ct mark set meta mark
            }}
            chain translate {{ type nat hook postrouting priority srcnat;
                oifname != {{ eth0, lo }} masquerade
            }}
        }}"
    );
    router(site).command(&["nft", "-f", "-"], &table).unwrap();
}

/// Releases the connections of uplink `number` (from 1).
fn release(site: &Site, number: usize) {
    let mark = format!("{:#x}/0xff00", number << 8);
    router(site).command(&["conntrack", "-D", "-m", &mark], "").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn shares_are_counted_and_connections_held() {
    let site = site(SiteSetup::default());
    by_hand(&site);
    for transport in [Transport::Tcp, Transport::Udp] {
        let began = Instant::now();
        let mut crowd = site.open(transport, 1000).unwrap();
        println!("{transport:?}: 1000 opened in {:?}", began.elapsed());
        // Connections that overlap take their turns all the same.
        assert_eq!(site.by_uplink(&crowd.by_source()), [500, 300, 200]);
        for _ in 0..3 {
            let fates = site.fates(crowd.recheck().unwrap());
            assert_eq!(fates["fibre"], Fate { same: 500, ..Fate::default() });
            assert_eq!(fates["dsl"], Fate { same: 300, ..Fate::default() });
            assert_eq!(fates["lte"], Fate { same: 200, ..Fate::default() });
        }
        println!("{transport:?}: asked three times after {:?}", began.elapsed());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_of_a_dead_uplink_hang_until_they_are_released() {
    let site = site(SiteSetup::default());
    by_hand(&site);
    let mut silent = site.open(Transport::Tcp, 100).unwrap();
    let mut released = site.open(Transport::Tcp, 100).unwrap();
    let mut datagrams = site.open(Transport::Udp, 100).unwrap();
    site.providers[0].die(false).unwrap();
    let fates = site.fates(silent.recheck().unwrap());
    assert_eq!(fates["fibre"], Fate { hung: 50, ..Fate::default() }, "nobody tells them");
    assert_eq!(fates["dsl"], Fate { same: 30, ..Fate::default() });
    pick(&site, NOT_FIRST);
    release(&site, 1);
    let fates = site.fates(released.recheck().unwrap());
    assert_eq!(fates["fibre"], Fate { reset: 50, ..Fate::default() });
    assert_eq!(fates["dsl"], Fate { same: 30, ..Fate::default() });
    assert_eq!(fates["lte"], Fate { same: 20, ..Fate::default() });
    let fates = site.fates(datagrams.recheck().unwrap());
    assert_eq!(fates["fibre"], Fate { moved: 50, ..Fate::default() });
    assert_eq!(fates["dsl"], Fate { same: 30, ..Fate::default() });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_visitor_is_answered_only_by_the_uplink_he_came_by() {
    let site = site(SiteSetup::default());
    // Answers by the main table alone: only what came by its default route is answered, providers drop the rest.
    router(&site).add_route("0.0.0.0/0".parse().unwrap(), gateway4(0).into()).unwrap();
    let answered: Vec<_> = site
        .providers
        .iter()
        .map(|provider| site.visit(provider, Transport::Tcp, WHO_PORT, 5).unwrap().len())
        .collect();
    assert_eq!(answered, [5, 0, 0]);
    by_hand(&site);
    for provider in &site.providers {
        let mut crowd = site.visit(provider, Transport::Tcp, WHO_PORT, 20).unwrap();
        assert_eq!(crowd.len(), 20, "{:?}", crowd.failures);
        let fates: Vec<_> = crowd.recheck().unwrap().into_values().collect();
        assert_eq!(fates, [Fate { same: 20, ..Fate::default() }]);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_dialer_knows_for_how_long_new_connections_failed() {
    let site = site(SiteSetup::default());
    by_hand(&site);
    let dialer = site.dial(200).unwrap();
    site.wait_steady(&dialer).unwrap();
    let from_ns = monotonic_ns();
    let cut = site.providers[0].die(false).unwrap();
    site.lab.pause(Duration::from_millis(500)).unwrap();
    pick(&site, NOT_FIRST);
    let until_ns = monotonic_ns();
    site.wait_steady(&dialer).unwrap();
    let report = dialer.report(from_ns);
    println!("{report:?}");
    // Five of ten fail, and the turns come each 5 ms: the first and the last failure are at most some turns away. One that
    // was under way when the cut came may have failed as well.
    let (at_least_ns, at_most_ns) = (until_ns - cut.after_ns - 50_000_000, until_ns - from_ns + 50_000_000);
    assert!((at_least_ns..at_most_ns).contains(&report.failing_ns), "{at_least_ns}..{at_most_ns}: {report:?}");
    let share = report.failed as f64 / (report.failing_ns as f64 / 5e6);
    assert!((0.4..0.6).contains(&share), "half of the attempts failed: {share}");
    assert!(report.failures.keys().eq(["no answer"]));
}

/// How many of `count` pings from the router by one uplink are answered, and their mean time, ms.
fn ping(site: &Site, number: usize, count: usize) -> (usize, f64) {
    let provider = &site.providers[number];
    let (count_text, own) = (count.to_string(), provider.router_address().to_string());
    // Without the mark the router's own traffic is spread like any other.
    let mark = ((number + 1) << 8).to_string();
    let text = router(site)
        .command(
            &["sh", "-c", "ping -n -q -c $0 -i 0.01 -W 1 -I $1 -m $2 $3 || true", &count_text, &own, &mark, TARGETS[0]],
            "",
        )
        .unwrap();
    let received = text.split(" received").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    let average = text.split('/').nth(4).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    (received, average)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_fault_does_what_it_says_and_is_mended() {
    let mut site = site(SiteSetup::with_ppp());
    by_hand(&site);
    let sound = |site: &Site| {
        site.mend().unwrap();
        for number in 0..3 {
            assert_eq!(ping(site, number, 5).0, 5, "uplink {number} is sound");
        }
    };
    sound(&site);
    site.providers[0].impair(Impairment { loss_percent: 30, ..Impairment::default() });
    let received = ping(&site, 0, 300).0;
    println!("30 % loss each way: {received} of 300 answered");
    // 0.7 squared is 49 %.
    assert!((110..185).contains(&received), "{received}");
    sound(&site);
    site.providers[1].impair(Impairment { delay: Duration::from_millis(250), ..Impairment::default() });
    let (received, average_ms) = ping(&site, 1, 10);
    println!("250 ms each way: {average_ms} ms");
    assert!(received == 10 && (500.0..600.0).contains(&average_ms), "{received}, {average_ms}");
    sound(&site);
    site.providers[0].stop_forwarding().unwrap();
    assert_eq!(ping(&site, 0, 5).0, 0);
    let gateway = gateway4(0).to_string();
    router(&site).command(&["ping", "-c", "1", "-W", "1", &gateway], "").unwrap();
    sound(&site);
    for direction in Direction::BOTH {
        site.providers[2].access().unwrap().cut_one_way(direction).unwrap();
        assert_eq!(ping(&site, 2, 5).0, 0);
        sound(&site);
    }
    site.providers[0].hide_targets().unwrap();
    assert_eq!(ping(&site, 0, 5).0, 0);
    assert_eq!(site.open(Transport::Tcp, 30).unwrap().len(), 30, "only the targets are hidden");
    sound(&site);

    // The answers to fibre come by dsl: connections work as long as dsl does, though nothing comes by fibre.
    site.providers[0].answer_through(&site.providers[1], site.internet.namespace()).unwrap();
    let received = |interface: &str| -> u64 {
        let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
        // sysfs shows the namespace of whoever mounted it; ip asks the kernel.
        let text = router(&site).command(&["ip", "-s", "link", "show", interface], "").unwrap();
        text.lines()
            .nth(3)
            .and_then(|line| line.split_whitespace().nth(1))
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("no count as in {path}: {text}"))
    };
    let before = (received("eth1"), received("eth2"));
    let (answered, _) = ping(&site, 0, 20);
    let (by_fibre, by_dsl) = (received("eth1") - before.0, received("eth2") - before.1);
    println!("lying targets: {answered} of 20 answered, {by_fibre} packets by fibre, {by_dsl} by dsl");
    assert!(answered == 20 && by_fibre < 5 && by_dsl >= 20);
    sound(&site);

    // Another address, as PPP gives one.
    let router_namespace = std::sync::Arc::clone(site.router.namespace());
    site.providers[2].renumber(&router_namespace, host4(2, 5), host4(2, 9)).unwrap();
    router_namespace
        .command(
            &[
                "sh",
                "-ec",
                "ip rule add pref 20103 from $0 lookup 7003; ip route replace default dev ppp0 table 7003",
                "192.0.2.5",
            ],
            "",
        )
        .unwrap();
    assert_eq!(ping(&site, 2, 5).0, 5);
    let sources = site.open(Transport::Tcp, 10).unwrap().by_source();
    assert_eq!(sources[&host4(2, 5).into()], 2);

    // An interface that is gone, and comes back with another index.
    let index = router_namespace.index("eth1").unwrap();
    router_namespace.delete_interface("eth1").unwrap();
    assert!(router_namespace.index("eth1").is_err());
    site.providers[0].plug_in(&router_namespace, false).unwrap();
    assert_ne!(router_namespace.index("eth1").unwrap(), index);
    router_namespace.command(&["ip", "route", "add", "default", "via", "198.51.100.1", "table", "7001"], "").unwrap();
    assert_eq!(ping(&site, 0, 5).0, 5);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_providers_share_a_wire() {
    let mut setup = SiteSetup::default();
    setup.uplinks[1].interface = "eth1".to_owned();
    let site = site(setup);
    for number in [0, 1] {
        let (gateway, table) = (gateway4(number).to_string(), (7001 + number).to_string());
        router(&site).command(&["ip", "route", "add", "default", "via", &gateway, "table", &table], "").unwrap();
        let own = router4(number).to_string();
        router(&site).command(&["ip", "rule", "add", "from", &own, "lookup", &table], "").unwrap();
        assert_eq!(ping(&site, number, 5).0, 5);
    }
    site.providers[1].die(false).unwrap();
    assert_eq!((ping(&site, 0, 5).0, ping(&site, 1, 5).0), (5, 0));
    let neighbours = router(&site).command(&["ip", "neigh", "show", "dev", "eth1"], "").unwrap();
    let mut addresses: Vec<_> = neighbours.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 2, "each gateway has an address of its own: {neighbours}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_provider_has_its_own_ipv6_prefix_in_the_lan() {
    let site = site(SiteSetup { ipv6: true, ..SiteSetup::default() });
    for (number, provider) in site.providers.iter().enumerate() {
        let (prefix, gateway) = (lan6(number).to_string(), gateway6(number).to_string());
        let (interface, table) = (provider.interface(), (7001 + number).to_string());
        let route = ["ip", "-6", "route", "add", "default", "via", &gateway, "dev", interface, "table", &table];
        router(&site).command(&route, "").unwrap();
        router(&site).command(&["ip", "-6", "rule", "add", "from", &prefix, "lookup", &table], "").unwrap();
    }
    for number in 0..3 {
        let own = lan_host6(number, 16).into();
        let call = Call { source: Some(own), destination: socket(SERVER6, WHO_PORT), ..site.call(Transport::Tcp) };
        let crowd = open_all(&site.lan, call, 20).unwrap();
        assert_eq!(crowd.by_source()[&own], 20);
        let visit = Call {
            source: Some(call.destination.ip()),
            destination: (own, WHO_PORT).into(),
            ..site.call(Transport::Tcp)
        };
        assert_eq!(open_all(&site.internet, visit, 20).unwrap().len(), 20);
    }
}
