//! Real daemons, real packets: whatever breaks, traffic moves in time, and comes back without a loss.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use link_watcher_lab::daemon::binary;
use link_watcher_lab::meter::Report;
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP};
use link_watcher_lab::setup::{Family, Setup};
use link_watcher_lab::status::group;
use link_watcher_lab::trial::Trial;
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};

/// What an outage may exceed interval × multiplier + interval by: changing the routes, and the meter's precision at both
/// ends.
const ALLOWANCE: Duration = Duration::from_millis(5);

fn trial(setup: Setup) -> Trial {
    // Four packets a millisecond: precise enough for keepalives each millisecond.
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 4000).unwrap()
}

fn quick(interval_ms: u64) -> Setup {
    Setup { interval: Duration::from_millis(interval_ms), ..Setup::default() }
}

/// Every outage within the bound.
fn assert_in_time(trial: &Trial, reports: [Report; 2]) {
    let setup = &trial.routers.setup;
    let bound = setup.detection() + setup.interval + ALLOWANCE;
    for report in reports {
        println!("out for {:.1} ms of at most {bound:?}", report.outage_ns as f64 / 1e6);
        assert!(u128::from(report.outage_ns) <= bound.as_nanos(), "{report:?}, at most {bound:?}");
    }
}

fn assert_nothing_lost(reports: [Report; 2]) {
    for report in reports {
        assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
    }
}

fn silent_cuts_and_repairs(setup: Setup, cuts: u32) {
    let trial = trial(setup);
    for _ in 0..cuts {
        let reports = trial.cut_first().unwrap();
        assert_in_time(&trial, reports);
        assert_nothing_lost(trial.repair().unwrap());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_silent_cut_at_100_ms() {
    silent_cuts_and_repairs(quick(100), 2);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_silent_cut_at_10_ms() {
    silent_cuts_and_repairs(quick(10), 3);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_silent_cut_without_bpf() {
    silent_cuts_and_repairs(Setup { engine: "socket".to_owned(), ..quick(20) }, 2);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_silent_cut_at_tc() {
    let trial = trial(Setup { engine: "tc".to_owned(), ..quick(20) });
    for (end, group_name) in [(End::Client, CLIENT_GROUP), (End::Server, SERVER_GROUP)] {
        let status = trial.routers.daemon(end).status().unwrap();
        let links = group(&status, group_name).unwrap()["links"].as_array().unwrap();
        assert!(links.iter().all(|link| link["engine"] == "tc"), "{links:?}");
    }
    assert_in_time(&trial, trial.cut_first().unwrap());
    assert_nothing_lost(trial.repair().unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_silent_cut_of_ipv6_links() {
    silent_cuts_and_repairs(Setup { family: Family::V6, ..quick(20) }, 2);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cut_in_one_direction_only() {
    let trial = trial(quick(20));
    for direction in Direction::BOTH {
        let reports = trial.measure("wifi", |routers| routers.wires[0].cut_one_way(direction).map(|_| ())).unwrap();
        assert_in_time(&trial, reports);
        assert_nothing_lost(trial.repair().unwrap());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn carrier_lost_at_one_end() {
    let trial = trial(quick(20));
    for end in [End::Client, End::Server] {
        let reports = trial.measure("wifi", |routers| routers.wires[0].cut_carrier(end).map(|_| ())).unwrap();
        assert_in_time(&trial, reports);
        assert_nothing_lost(trial.repair().unwrap());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_links_cut_at_once_leave_the_third() {
    let trial = trial(quick(20));
    let reports = trial
        .measure("tunnel", |routers| {
            routers.wires[0].cut()?;
            routers.wires[1].cut().map(|_| ())
        })
        .unwrap();
    assert_in_time(&trial, reports);
    assert_nothing_lost(trial.repair().unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn with_no_link_left_the_routes_stay_and_traffic_returns_with_the_first() {
    let trial = trial(quick(20));
    // Not by which link: those that are cut a little later may serve for a moment.
    let destinations = || {
        let text = trial.routers.client.command(&["ip", "route", "show", "proto", "208"], "").unwrap();
        text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let before = destinations();
    assert!(!before.is_empty(), "the daemon has routes");
    let since_ns = monotonic_ns();
    for wire in &trial.routers.wires {
        wire.cut().unwrap();
    }
    trial
        .routers
        .lab
        .wait_until("every link to be down", Duration::from_secs(5), || {
            let status = trial.routers.client_daemon.status()?;
            Ok(link_watcher_lab::status::usable(&status, CLIENT_GROUP).is_empty().then_some(()))
        })
        .unwrap();
    assert_eq!(destinations(), before);
    trial.repair().unwrap();
    for report in trial.reports(since_ns) {
        assert!(!report.ongoing && report.lost > 0, "{report:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_planned_move_loses_nothing() {
    let trial = trial(quick(20));
    let order = |command: &'static str, argument: &'static str| {
        move |routers: &link_watcher_lab::routers::TwoRouters| {
            routers.client_daemon.command(&[command, CLIENT_GROUP, argument]).map(|_| ())
        }
    };
    for (command, argument, link) in [
        ("drain", "optic", "wifi"),
        ("undrain", "optic", "optic"),
        ("switch", "tunnel", "tunnel"),
        ("switch", "wifi", "wifi"),
        ("switch", "auto", "optic"),
    ] {
        assert_nothing_lost(trial.measure(link, order(command, argument)).unwrap());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flapping_link_does_not_move_traffic_to_and_fro() {
    let trial = trial(quick(20));
    trial.cut_first().unwrap();
    // It comes back again and again, but never for as long as `hold-up` (1 s).
    let since_ns = monotonic_ns();
    for _ in 0..10 {
        trial.routers.wires[0].mend().unwrap();
        trial.routers.lab.pause(Duration::from_millis(200)).unwrap();
        trial.routers.wires[0].cut().unwrap();
        trial.routers.lab.pause(Duration::from_millis(100)).unwrap();
    }
    trial.routers.wait_active("wifi", Duration::from_secs(1)).unwrap();
    assert_nothing_lost(trial.reports(since_ns));
    assert_nothing_lost(trial.repair().unwrap());
}
