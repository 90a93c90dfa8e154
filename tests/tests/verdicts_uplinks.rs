//! Verdicts on uplinks: what befalls several is one event, what is back must rise, what others do to an address is no death.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use link_watcher_lab::daemon::binary;
use link_watcher_lab::uplinks::flow::{Crowd, Fate, Transport};
use link_watcher_lab::uplinks::setup::SiteSetup;
use link_watcher_lab::uplinks::{PATIENCE, Site, assert_split};
use link_watcher_lab::{End, Lab, monotonic_ns};
use serde_json::Value;

/// Fibre and DSL, of one tier.
const BOTH: [&str; 2] = ["fibre", "dsl"];

fn site(setup: SiteSetup) -> Site {
    Site::start(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap()
}

/// Only the first two uplinks.
fn of_two(mut setup: SiteSetup) -> SiteSetup {
    setup.uplinks.truncate(2);
    setup
}

fn fates(site: &Site, crowd: &mut Crowd) -> BTreeMap<String, Fate> {
    site.fates(crowd.recheck().unwrap())
}

/// All of these were answered on the uplink that they had.
fn assert_untouched(fates: &BTreeMap<String, Fate>, names: &[&str]) {
    for name in names {
        let fate = fates.get(*name).copied().unwrap_or_default();
        assert!(fate.total() > 0, "{name} has connections: {fates:?}");
        assert_eq!(fate, Fate { same: fate.total(), ..Fate::default() }, "{name}: {fates:?}");
    }
}

/// The targets are down: every uplink works.
fn silence_targets(site: &Site, silent: bool) {
    let change = if silent {
        "table inet silent {\nchain input { type filter hook input priority filter;\nip daddr 192.0.2.200/29 drop\n}\n}"
    } else {
        "delete table inet silent"
    };
    site.internet.namespace().command(&["nft", "-f", "-"], change).unwrap();
}

/// Waits until both are in this state; with connections, these are asked all the time, and none is touched.
fn wait_both(site: &Site, state: &str, mut traffic: Option<&mut Crowd>) {
    site.lab
        .wait_until(&format!("both to be {state}"), PATIENCE, || {
            if let Some(crowd) = &mut traffic {
                assert_untouched(&fates(site, crowd), &BOTH);
            }
            let mut all = true;
            for name in BOTH {
                all &= site.uplink(name)?["state"] == state;
            }
            Ok(all.then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", site.daemon.log_tail()));
}

/// What the daemon has logged since its log was so long.
fn logged_since(site: &Site, len: usize) -> String {
    site.daemon.log().get(len..).unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn targets_that_all_fall_silent_at_once_move_and_release_nothing() {
    let mut setup = of_two(SiteSetup::default());
    // Each falls several times within seconds.
    setup.group_settings += "dampening = false\n";
    let site = site(setup);
    for turn in 0..8 {
        // The rounds of the two begin at one time, and then at another distance each time.
        if turn >= 4 {
            site.router.namespace().set_up("eth2", false).unwrap();
            site.wait_state("dsl", "absent", PATIENCE).unwrap();
            site.lab.pause(site.setup.interval * (turn % 4) / 4).unwrap();
            site.router.namespace().set_up("eth2", true).unwrap();
        }
        site.wait_all_up().unwrap();
        site.wait_active(&BOTH, PATIENCE).unwrap();

        let mut streams = site.open(Transport::Tcp, 40).unwrap();
        let mut datagrams = site.open(Transport::Udp, 40).unwrap();
        let logged = site.daemon.log().len();
        silence_targets(&site, true);
        wait_both(&site, "down", None);
        site.lab.pause(site.setup.interval).unwrap();
        site.wait_active(&BOTH, PATIENCE).unwrap();
        let log = logged_since(&site, logged);
        assert!(!log.contains("are released"), "turn {turn}: {log}");
        assert!(log.contains("no uplink is usable"), "turn {turn}: {log}");
        assert_untouched(&fates(&site, &mut streams), &BOTH);
        assert_untouched(&fates(&site, &mut datagrams), &BOTH);
        assert_split(&site.by_uplink(&site.open(Transport::Tcp, 40).unwrap().by_source()), &[25, 15]);
        silence_targets(&site, false);
        site.wait_all_up().unwrap();
        site.lab.pause(site.setup.interval).unwrap();
        let log = logged_since(&site, logged);
        assert!(!log.contains("are released"), "turn {turn}, as they return: {log}");
        assert!(!log.contains("traffic moved"), "turn {turn}, as they return: {log}");
        assert_untouched(&fates(&site, &mut streams), &BOTH);
        assert_untouched(&fates(&site, &mut datagrams), &BOTH);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn equally_bad_uplinks_share_whichever_was_the_first_to_be_so() {
    let site = site(of_two(SiteSetup::default()));
    let mut crowd = site.open(Transport::Tcp, 80).unwrap();
    let assert_shared = |crowd: &mut Crowd, what: &str| {
        site.wait_active(&BOTH, PATIENCE).unwrap();
        assert_untouched(&fates(&site, crowd), &BOTH);
        let counts = site.by_uplink(&site.open(Transport::Tcp, 80).unwrap().by_source());
        println!("{what}: {counts:?}");
        assert_split(&counts, &[50, 30]);
        assert_untouched(&fates(&site, crowd), &BOTH);
    };
    silence_targets(&site, true);
    wait_both(&site, "degraded", Some(&mut crowd));
    assert_shared(&mut crowd, "both at once");
    silence_targets(&site, false);
    wait_both(&site, "up", Some(&mut crowd));

    for [first, second] in [["fibre", "dsl"], ["dsl", "fibre"]] {
        site.provider(first).unwrap().hide_targets().unwrap();
        site.lab
            .wait_until(&format!("{second} to carry all"), PATIENCE, || {
                assert_untouched(&fates(&site, &mut crowd), &BOTH);
                let active = link_watcher_lab::status::active(&site.daemon.status()?, "wan");
                Ok((active == [second]).then_some(()))
            })
            .unwrap();
        site.provider(second).unwrap().hide_targets().unwrap();
        wait_both(&site, "degraded", Some(&mut crowd));
        assert_shared(&mut crowd, first);
        site.mend().unwrap();
        wait_both(&site, "up", Some(&mut crowd));
        site.wait_active(&BOTH, PATIENCE).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cable_that_was_out_for_a_moment_must_rise_from_then() {
    let mut setup = of_two(SiteSetup { rise: 10, ..SiteSetup::default() });
    // It is about the rounds alone.
    setup.group_settings = "failback = \"0s\"\nhold-up = \"0s\"\ndampening = false\n".to_owned();
    let site = site(setup);
    let (interval, rise) = (site.setup.interval, site.setup.rise);
    let cable = site.provider("fibre").unwrap().access().unwrap();
    for out in [Duration::ZERO, interval * 2] {
        let mut crowd: Option<Crowd> = None;
        let mut back_ns = 0;
        for flap in 0..3 {
            cable.cut_carrier(End::Client).unwrap();
            site.wait_state("fibre", "down", PATIENCE).unwrap();
            site.wait_active(&["dsl"], PATIENCE).unwrap();
            site.lab.pause(out).unwrap();
            back_ns = monotonic_ns();
            cable.mend().unwrap();
            // What was opened after the first flap has nothing to do with it.
            let crowd = crowd.get_or_insert_with(|| site.open(Transport::Tcp, 20).unwrap());
            assert_untouched(&fates(&site, crowd), &["dsl"]);
            assert_eq!(site.by_uplink(&crowd.by_source()), [0, 20], "flap {flap}");
            site.lab.pause(interval * (rise / 2)).unwrap();
        }
        site.wait_state("fibre", "up", PATIENCE).unwrap();
        let took_ns = u128::from(monotonic_ns() - back_ns);
        println!("out for {out:?}: up again after {:.1} rounds", took_ns as f64 / interval.as_nanos() as f64);
        // The first round begins when the carrier is back, and the last one is good as soon as it is answered. The first may have
        // been due a moment before it began.
        assert!(took_ns >= (interval * (rise - 1) - interval / 4).as_nanos(), "used after {took_ns} ns");
        // The kernel tells of a carrier up to a second late where it has told of another one just before.
        assert!(took_ns <= (interval * rise * 4).as_nanos(), "used after {took_ns} ns");
        site.wait_active(&BOTH, PATIENCE).unwrap();
        assert_untouched(&fates(&site, crowd.as_mut().unwrap()), &["dsl"]);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_renewal_that_flushes_and_adds_the_same_address_costs_no_connection() {
    for learned in [false, true] {
        let mut setup = of_two(SiteSetup::default());
        setup.uplinks[0].learned = learned;
        let site = Site::build(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
        let router = site.router.namespace();
        let default = "route replace default via 198.51.100.1 dev eth1 proto dhcp metric 1024\n";
        if learned {
            router.command(&["ip", "-batch", "-"], default).unwrap();
        }
        site.daemon.start().unwrap();
        site.wait_all_up().unwrap();
        site.wait_active(&BOTH, PATIENCE).unwrap();
        let mut streams = site.open(Transport::Tcp, 80).unwrap();
        let mut datagrams = site.open(Transport::Udp, 80).unwrap();
        let renewal = format!(
            "addr flush dev eth1 scope global\naddr add 198.51.100.2/28 dev eth1\n{}",
            if learned { default } else { "" }
        );
        for turn in 0..5 {
            router.command(&["ip", "-batch", "-"], &renewal).unwrap();
            // At once, and when the daemon has had time for whatever it does.
            for what in ["at once", "an interval later"] {
                for (kind, crowd) in [("tcp", &mut streams), ("udp", &mut datagrams)] {
                    let fates = fates(&site, crowd);
                    println!("{kind}, learned {learned}, renewal {turn}, {what}: {fates:?}");
                    assert_untouched(&fates, &BOTH);
                }
                site.lab.pause(site.setup.interval).unwrap();
            }
        }
        let said = site.uplink("fibre").unwrap();
        assert_eq!((said["state"].as_str(), said["flaps"].as_u64()), (Some("up"), Some(0)), "{said}");
        assert_split(&site.by_uplink(&site.open(Transport::Tcp, 80).unwrap().by_source()), &[50, 30]);
    }
}

/// Daemon's events of a link: what and why.
fn events_of(site: &Site, link: &str) -> Vec<(String, String)> {
    let text = site.daemon.command(&["events", "--json"]).unwrap();
    let parsed = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_link = parsed.filter(|event| event["link"] == link);
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    of_link.map(|event| (word(&event, "what"), word(&event, "why"))).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn replies_from_before_a_cut_are_no_evidence() {
    let site = site(of_two(SiteSetup::default()));
    for cut in 0..3 {
        // Connections are answered, pause, and then all is cut: no reply comes any more.
        let mut crowd = site.open(Transport::Tcp, 40).unwrap();
        for _ in 0..5 {
            assert_untouched(&fates(&site, &mut crowd), &BOTH);
        }
        site.lab.pause(site.setup.interval * 3).unwrap();
        let before = events_of(&site, "fibre").len();
        site.provider("fibre").unwrap().die(false).unwrap();
        site.wait_state("fibre", "down", PATIENCE).unwrap();
        let events = events_of(&site, "fibre").split_off(before);
        println!("cut {cut}: {events:?}");
        assert_eq!(events.len(), 1, "cut {cut}: {events:?}");
        site.mend().unwrap();
        site.wait_all_up().unwrap();
        site.wait_active(&BOTH, PATIENCE).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_uplink_that_flaps_all_day_is_left_out_with_one_line() {
    let mut setup = of_two(SiteSetup { rise: 1, ..SiteSetup::default() });
    setup.group_settings = "failback = \"0s\"\nhold-up = \"0s\"\n".to_owned();
    let site = site(setup);
    let cable = site.provider("fibre").unwrap().access().unwrap();
    let flap = || {
        let flaps = site.uplink("fibre").unwrap()["flaps"].as_u64().unwrap();
        cable.cut_carrier(End::Client).unwrap();
        site.wait_state("fibre", "down", PATIENCE).unwrap();
        cable.mend().unwrap();
        site.lab
            .wait_until("fibre to answer", PATIENCE, || {
                let said = site.uplink("fibre")?;
                let answers = said["state"] == "up" || said["state"] == "dampened";
                Ok((answers && said["flaps"].as_u64() > Some(flaps)).then_some(()))
            })
            .unwrap();
    };
    // Each adds 1,000, and too little decays in between to matter: from 3,000 on it is left out.
    for _ in 0..4 {
        flap();
    }
    site.wait_state("fibre", "dampened", PATIENCE).unwrap();
    site.wait_active(&["dsl"], PATIENCE).unwrap();
    let told = events_of(&site, "fibre");
    let logged = site.daemon.log().len();
    let mut crowd = site.open(Transport::Tcp, 20).unwrap();
    assert_eq!(site.by_uplink(&crowd.by_source()), [0, 20]);
    for _ in 0..20 {
        flap();
    }
    assert_eq!(events_of(&site, "fibre"), told, "the history is not flooded");
    let log = logged_since(&site, logged);
    assert!(!log.contains("fibre"), "nor is the log: {log}");
    assert_untouched(&fates(&site, &mut crowd), &["dsl"]);
    let said = site.uplink("fibre").unwrap();
    assert_eq!((said["state"].as_str(), said["usable"].as_bool()), (Some("dampened"), Some(false)), "{said}");
    assert_eq!(said["flaps"], 24, "they are counted: {said}");
    assert!(said["usable_reason"].as_str().unwrap().contains("it flaps"), "{said}");
    let dampened: Vec<_> = told.iter().filter(|(_, why)| why.contains("it flaps")).collect();
    assert_eq!(dampened.len(), 1, "{told:?}");
    // Better than nothing: where it is the only one that answers, it is used.
    site.provider("dsl").unwrap().die(false).unwrap();
    site.wait_active(&["fibre"], PATIENCE).unwrap();
}
