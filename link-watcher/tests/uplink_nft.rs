//! The nftables table of uplinks on real packets: a site with three providers, without a daemon.
#![allow(clippy::unwrap_used)]

mod uplink_rig;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use link_watcher::{
    config::{ForceConfig, Nat, Protocol},
    uplink::nft::{Applied, RulesetNotice},
};
use link_watcher_lab::setup::Medium;
use link_watcher_lab::uplinks::{
    address::{SERVER, SMTP_PORT, SUBMISSION_PORT, WHO_PORT, gateway4, lan_host6, router4, router6, socket},
    flow::{Call, Crowd, Failure, Fate, Transport},
    host::Host,
    open_all,
    setup::{SiteSetup, UplinkSetup},
};
use std::sync::Arc;
use uplink_rig::*;

/// Within two points of these percents.
fn assert_shares(counts: &[usize], percents: &[usize]) {
    println!("{counts:?}");
    let total: usize = counts.iter().sum();
    for (count, percent) in counts.iter().zip(percents) {
        let off = (*count as f64 / total as f64 * 100.0 - *percent as f64).abs();
        assert!(off <= 2.0, "{counts:?}, and not {percents:?} %");
    }
}

/// All that is held is answered, on the uplink that it had.
fn assert_all_same(crowd: &mut Crowd) {
    let held = crowd.len();
    let fates = crowd.recheck().unwrap();
    assert_eq!(fates.values().map(|fate| fate.same).sum::<usize>(), held, "{fates:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_are_shared_by_weight_and_stay() {
    let mut rig = Rig::new(SiteSetup::default(), |_| {});
    let mut crowds = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        crowds.push(rig.site.open(transport, 1000).unwrap());
        crowds.push(open_all(&rig.site.router, rig.site.call(transport), 1000).unwrap());
    }
    for crowd in &crowds {
        assert_shares(&rig.by_uplink(crowd), &[50, 30, 20]);
    }
    crowds.iter_mut().for_each(assert_all_same);
    // Other weights, and the whole table written anew, move nothing.
    for (uplink, weight) in rig.desired.uplinks.iter_mut().zip([1, 1, 2]) {
        uplink.weight = weight;
    }
    assert_eq!(rig.apply(), Applied::Updated);
    assert_shares(&rig.by_uplink(&rig.site.open(Transport::Tcp, 1000).unwrap()), &[25, 25, 50]);
    rig.desired.name = "renamed".into();
    assert_eq!(rig.apply(), Applied::Replaced);
    crowds.iter_mut().for_each(assert_all_same);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn visitors_are_answered_by_the_uplink_they_came_by() {
    let rig = Rig::new(SiteSetup::default(), |_| {});
    let translate = "table ip administrator {
        chain visitors {
            type nat hook prerouting priority dstnat;
            iifname != eth0 tcp dport 8080 dnat to 10.20.20.10:7007
            iifname != eth0 udp dport 8080 dnat to 10.20.20.10:7007
        }
    }\n";
    rig.router(&["nft", "-f", "-"], translate);
    for provider in &rig.site.providers {
        for (transport, port) in [(Transport::Tcp, WHO_PORT), (Transport::Tcp, 8080), (Transport::Udp, 8080)] {
            let mut crowd = rig.site.visit(provider, transport, port, 100).unwrap();
            assert_eq!(crowd.len(), 100, "{transport:?} port {port} by {}: {:?}", provider.name(), crowd.failures);
            assert_all_same(&mut crowd);
        }
    }
}

fn force(link: &str, port: u16, or_others: bool) -> ForceConfig {
    ForceConfig {
        link: link.into(),
        source: None,
        destination: None,
        protocol: Some(Protocol::Tcp),
        ports: Some(port..=port),
        or_others,
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn tier_0_only_answers_and_takes_what_is_forced() {
    let rig = Rig::new(SiteSetup::default(), |desired| {
        desired.uplinks[2].weight = 0;
        desired.force = vec![force("lte", SMTP_PORT, false)];
    });
    for host in [&rig.site.lan, &rig.site.router] {
        assert_eq!(rig.by_uplink(&open_all(host, rig.site.call(Transport::Tcp), 200).unwrap()), [125, 75, 0]);
        let mail = Call { destination: socket(SERVER, SMTP_PORT), ..rig.site.call(Transport::Tcp) };
        assert_eq!(rig.by_uplink(&open_all(host, mail, 50).unwrap()), [0, 0, 50]);
    }
    let visit = rig.site.visit(&rig.site.providers[2], Transport::Tcp, WHO_PORT, 50).unwrap();
    assert_eq!(visit.len(), 50, "{:?}", visit.failures);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_forced_to_a_dead_uplink_fails_at_once_unless_others_may_take_it() {
    let udp = |or_others| ForceConfig {
        protocol: Some(Protocol::Udp),
        destination: Some("192.0.2.201/32".parse().unwrap()),
        ..force("dsl", WHO_PORT, or_others)
    };
    let rig = Rig::new(SiteSetup::default(), |desired| {
        desired.uplinks[1].usable = false;
        desired.uplinks[1].weight = 0;
        desired.force = vec![force("dsl", SMTP_PORT, false), force("dsl", SUBMISSION_PORT, true), udp(false)];
    });
    for host in [&rig.site.lan, &rig.site.router] {
        for (transport, server, port) in
            [(Transport::Tcp, SERVER, SMTP_PORT), (Transport::Udp, "192.0.2.201", WHO_PORT)]
        {
            let call = Call { destination: socket(server, port), ..rig.site.call(transport) };
            let begun = Instant::now();
            // The kernel sends six ICMP errors to one host at once, then one a second.
            let crowd = Crowd::open(host, call, 5).unwrap();
            assert!(crowd.is_empty());
            let at = host.namespace().name();
            let failures = &crowd.failures;
            assert!(failures.iter().all(|why| *why == Failure::Unreachable), "{at} {transport:?} {failures:?}");
            assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
        }
        let call = Call { destination: socket(SERVER, SUBMISSION_PORT), ..rig.site.call(Transport::Tcp) };
        let others = rig.by_uplink(&open_all(host, call, 70).unwrap());
        assert_eq!((others[1], others.iter().sum::<usize>()), (0, 70));
        // What does not go to the internet is not concerned: the router's own mail server, say.
        let inside = Call { destination: "10.20.20.1:25".parse().unwrap(), ..rig.site.call(Transport::Tcp) };
        rig.serve_router_mail();
        assert_eq!(open_all(host, inside, 5).unwrap().len(), 5);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_uplinks_on_one_interface_are_told_apart_by_their_routers() {
    let mut setup = SiteSetup::default();
    setup.uplinks[1] = UplinkSetup::new("dsl", Medium::Cable, "eth1", 3);
    let rig = Rig::new(setup, |_| {});
    for host in [&rig.site.lan, &rig.site.router] {
        let mut crowd = open_all(host, rig.site.call(Transport::Tcp), 1000).unwrap();
        assert_shares(&rig.by_uplink(&crowd), &[50, 30, 20]);
        assert_all_same(&mut crowd);
    }
    for provider in &rig.site.providers {
        let mut crowd = rig.site.visit(provider, Transport::Tcp, WHO_PORT, 50).unwrap();
        assert_eq!(crowd.len(), 50, "by {}: {:?}", provider.name(), crowd.failures);
        assert_all_same(&mut crowd);
    }
    // The address alone may be either's: what tells is the mark of each visitor's connection.
    let marks = rig.marks();
    assert_eq!((marks[&0x100], marks[&0x200]), (1000 + 50, 600 + 50), "{marks:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn others_tables_and_marks_stay_as_they_are() {
    let foreign = "table inet somebody {
        counter wrong {
        }
        chain before {
            type filter hook prerouting priority raw;
            iifname eth0 meta mark set 0x00120003
        }
        chain then {
            type filter hook prerouting priority -160;
            iifname eth0 ct state new ct mark set 0x00450006
        }
        chain after {
            type filter hook forward priority filter;
            iifname eth0 meta mark and 0xffff00ff != 0x00120003 counter name wrong
            iifname eth0 meta mark and 0x0000ff00 == 0 counter name wrong
            iifname eth0 ct mark and 0xffff00ff != 0x00450006 counter name wrong
        }
    }
    table ip more {
        set s {
            type ipv4_addr
            elements = { 192.0.2.77 }
        }
    }\n";
    let mut rig = Rig::build(SiteSetup::default(), |_| {});
    rig.router(&["nft", "-f", "-"], foreign);
    let before = rig.foreign_tables();
    rig.apply();
    rig.apply_tables();
    assert_eq!(rig.foreign_tables(), before);
    let mut crowd = rig.site.open(Transport::Tcp, 100).unwrap();
    assert_eq!(rig.by_uplink(&crowd), [50, 30, 20]);
    assert_all_same(&mut crowd);
    assert_eq!(rig.marks().get(&0x0045_0106), Some(&50), "{:?}", rig.marks());
    rig.desired.uplinks[0].weight = 0;
    assert_eq!(rig.apply(), Applied::Updated);
    rig.release(0);
    assert_eq!(rig.marks().get(&0x0045_0106), None);
    // A released connection whose host has something to send at that moment has found its new uplink already.
    assert!(rig.marks().get(&0x0045_0206).is_some_and(|count| *count >= 30), "{:?}", rig.marks());
    rig.in_router(|rig| rig.ruleset.remove().unwrap());
    // Where a packet of theirs had been marked otherwise than they left it, a counter would differ too.
    assert_eq!(rig.router(&["nft", "-a", "list", "ruleset"], ""), before);
}

fn released(nat: impl Fn(usize) -> Nat) {
    let mut rig = Rig::new(SiteSetup::default(), |desired| {
        for (number, uplink) in desired.uplinks.iter_mut().enumerate() {
            uplink.nat = nat(number);
        }
    });
    let hosts = [Arc::clone(&rig.site.lan), Arc::clone(&rig.site.router)];
    let open =
        |rig: &Rig, transport| hosts.each_ref().map(|host| open_all(host, rig.site.call(transport), 100).unwrap());
    let mut tcp = open(&rig, Transport::Tcp);
    let mut udp = open(&rig, Transport::Udp);
    rig.site.providers[0].die(false).unwrap();
    rig.desired.uplinks[0].weight = 0;
    rig.desired.uplinks[0].usable = false;
    let begun = Instant::now();
    rig.apply();
    let applied = begun.elapsed();
    rig.apply_tables();
    let count = rig.release(0);
    println!("pick map {applied:?}, all {:?}, released {count}", begun.elapsed());
    assert_eq!(count, 200, "half of four hundred");
    let dead = router4(0).into();
    for crowd in &mut tcp {
        let fates: BTreeMap<IpAddr, Fate> = crowd.recheck().unwrap();
        println!("TCP {fates:?}");
        assert_eq!((fates[&dead].reset, fates[&dead].total()), (50, 50), "{fates:?}");
        let others = fates.iter().filter(|(source, _)| **source != dead);
        assert_eq!(others.map(|(_, fate)| fate.same).sum::<usize>(), 50, "{fates:?}");
    }
    for crowd in &mut udp {
        let fates = crowd.recheck().unwrap();
        println!("UDP {fates:?}");
        assert_eq!((fates[&dead].moved, fates[&dead].total()), (50, 50), "{fates:?}");
        let others = fates.iter().filter(|(source, _)| **source != dead);
        assert_eq!(others.map(|(_, fate)| fate.same).sum::<usize>(), 50, "{fates:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn only_the_dead_uplinks_connections_are_released() {
    released(|_| Nat::Masquerade);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_with_a_static_source_are_released_as_well() {
    released(|number| Nat::Source(router4(number).into()));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_from_a_lost_address_alone_are_released() {
    let mut rig = Rig::new(SiteSetup::default(), |_| {});
    let mut crowd = rig.site.open(Transport::Tcp, 100).unwrap();
    assert_eq!(rig.release_source(0, router4(1).into()), 0, "nothing of the first uplink comes from there");
    assert_eq!(rig.release_source(0, router6(0).into()), 0, "another family");
    assert_all_same(&mut crowd);
    assert_eq!(rig.release_source(0, router4(0).into()), 50);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn probes_go_where_they_are_marked_for_and_are_no_evidence() {
    let mut rig = Rig::new(SiteSetup::default(), |_| {});
    assert_eq!(rig.replies(), [0, 0, 0]);
    for number in 0..3 {
        for probe in [Probe::Udp, Probe::Tcp, Probe::Icmp] {
            // Twice by the same connection: the second answer belongs to what conntrack calls established.
            rig.probe(number, probe, 2);
        }
    }
    assert_eq!(rig.replies(), [0, 0, 0], "answers to probes");
    assert_eq!(rig.marks().keys().copied().collect::<Vec<_>>(), [0], "connections of probes have no mark");
    // Scans from outside are none either.
    rig.site.visit(&rig.site.providers[0], Transport::Tcp, WHO_PORT, 10).unwrap();
    rig.site.visit(&rig.site.providers[0], Transport::Udp, 9, 10).unwrap();
    assert_eq!(rig.replies(), [0, 0, 0], "connections from outside");
    let mut crowd = rig.site.open(Transport::Udp, 100).unwrap();
    let counts = rig.by_uplink(&crowd);
    assert_eq!(rig.replies(), counts.iter().map(|count| *count as u64).collect::<Vec<_>>());
    rig.site.providers[1].die(false).unwrap();
    let before = rig.replies();
    let _ = crowd.recheck().unwrap();
    let grown: Vec<u64> = rig.replies().iter().zip(&before).map(|(after, before)| after - before).collect();
    assert_eq!(grown, [counts[0] as u64, 0, counts[2] as u64]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ipv6_leaves_by_the_uplink_that_its_source_belongs_to() {
    let rig = Rig::new(SiteSetup { ipv6: true, ..SiteSetup::default() }, |_| {});
    for number in 0..3 {
        let (lan, own) = (lan_host6(number, 16), link_watcher_lab::uplinks::address::router6(number));
        for (host, source) in [(&rig.site.lan, lan), (&rig.site.router, own)] {
            let call = Call {
                source: Some(source.into()),
                destination: socket(link_watcher_lab::uplinks::address::SERVER6, WHO_PORT),
                ..rig.site.call(Transport::Tcp)
            };
            // Providers drop what has not a source of theirs.
            let mut crowd = open_all(host, call, 30).unwrap();
            assert_eq!(crowd.by_source(), BTreeMap::from([(source.into(), 30)]));
            assert_all_same(&mut crowd);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn connections_from_before_stay_where_their_answers_come_by() {
    let mut rig = Rig::build(SiteSetup::default(), |_| {});
    rig.router(&["ip", "route", "add", "default", "via", &gateway4(1).to_string()], "");
    let former =
        "table ip former { chain c { type nat hook postrouting priority srcnat; oifname eth2 masquerade; }; }\n";
    rig.router(&["nft", "-f", "-"], former);
    let mut crowd = rig.site.open(Transport::Tcp, 50).unwrap();
    assert_eq!(rig.by_uplink(&crowd), [0, 50, 0]);
    // The site begins to use three uplinks; servers have something to say meanwhile.
    rig.apply();
    assert_all_same(&mut crowd);
    rig.apply_tables();
    rig.router(&["nft", "delete", "table", "ip", "former"], "");
    assert_all_same(&mut crowd);
    assert_eq!(rig.marks().get(&0x200), Some(&50));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn other_networks_of_ours_are_left_alone_and_a_providers_own_has_its_own_uplink() {
    let rig = Rig::new(SiteSetup::default(), |_| {});
    let to = |destination: &str| Call { destination: destination.parse().unwrap(), ..rig.site.call(Transport::Tcp) };
    // To the router, and to the LAN.
    open_all(&rig.site.lan, to("10.20.20.1:7007"), 10).unwrap();
    open_all(&rig.site.router, to("10.20.20.10:7007"), 10).unwrap();
    assert_eq!(rig.marks(), BTreeMap::from([(0, 20)]));
    // A host in a provider's network is reached by the connected route, whatever was picked.
    let server = Host::start(rig.site.providers[1].namespace()).unwrap();
    server.serve_tcp(WHO_PORT).unwrap();
    for host in [&rig.site.lan, &rig.site.router] {
        let mut crowd = open_all(host, to(&format!("{}:7007", gateway4(1))), 30).unwrap();
        assert_eq!(rig.by_uplink(&crowd), [0, 30, 0]);
        assert_all_same(&mut crowd);
    }
    assert_eq!(rig.marks(), BTreeMap::from([(0, 20), (0x200, 60)]));
    // A socket that is bound to an interface leaves by it.
    for number in 0..3 {
        rig.probe(number, Probe::UnmarkedUdp, 10);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_others_do_to_the_table_is_put_right() {
    let mut rig = Rig::new(SiteSetup::default(), |_| {});
    let mut now_ns = 0;
    let mut tick = |rig: &mut Rig| {
        now_ns += 1_000_000_000;
        rig.in_router(|rig| rig.ruleset.tick(now_ns))
    };
    assert_eq!(tick(&mut rig), None);
    rig.router(&["nft", "add", "table", "inet", "somebody"], "");
    assert_eq!(tick(&mut rig), None);
    let table = || "link_watcher".to_owned();
    rig.router(&["nft", "flush", "ruleset"], "");
    assert_eq!(tick(&mut rig), Some(RulesetNotice::Repaired { table: table(), removed: true, wait_ns: 1_000_000_000 }));
    assert_eq!(tick(&mut rig), None);
    rig.router(&["nft", "insert", "rule", "inet", "link_watcher", "pick4_1", "drop"], "");
    assert_eq!(
        tick(&mut rig),
        Some(RulesetNotice::Repaired { table: table(), removed: false, wait_ns: 1_000_000_000 })
    );
    assert_eq!(rig.by_uplink(&rig.site.open(Transport::Tcp, 100).unwrap()), [50, 30, 20]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn applying_takes_some_milliseconds() {
    let mut rig = Rig::new(SiteSetup::default(), |_| {});
    let median = |rig: &mut Rig, what: &str, change: &dyn Fn(&mut Rig, usize), expected: Applied| {
        let mut times: Vec<Duration> = (0..41)
            .map(|turn| {
                change(rig, turn);
                let begun = Instant::now();
                assert_eq!(rig.apply(), expected);
                begun.elapsed()
            })
            .collect();
        times.sort();
        println!("{what}: median {:?}, worst {:?}", times[20], times[40]);
        assert!(times[20] < Duration::from_millis(500));
    };
    let weigh = |rig: &mut Rig, turn: usize| rig.desired.uplinks[0].weight = [5, 0][turn % 2];
    rig.desired.uplinks[0].weight = 0;
    rig.apply();
    median(&mut rig, "pick map", &weigh, Applied::Updated);
    let name = |rig: &mut Rig, turn: usize| rig.desired.uplinks[0].name = format!("name{turn}");
    median(&mut rig, "whole table", &name, Applied::Replaced);
    let mut times: Vec<Duration> = (0..41)
        .map(|_| {
            let begun = Instant::now();
            rig.replies();
            begun.elapsed()
        })
        .collect();
    times.sort();
    println!("counters (with entering the namespace): median {:?}", times[20]);
}
