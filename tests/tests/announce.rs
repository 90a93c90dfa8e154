//! Ten thousand prefixes announced between two daemons: how long it takes, and what keepalives and traffic notice.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use link_watcher_lab::announcement::{ACCEPTS, announce};
use link_watcher_lab::daemon::binary;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{End, Lab};

const PREFIXES: usize = 10_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ten_thousand_prefixes_take_a_second_and_cost_no_keepalive() {
    let setup = Setup {
        client_settings: ACCEPTS.to_owned(),
        failback: Duration::from_millis(300),
        hold_up: Duration::from_millis(200),
        ..Setup::cables(3, Duration::from_millis(10), 3)
    };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 2000).unwrap();
    let announced = announce(&trial, PREFIXES).unwrap();
    println!("{announced:?}");
    assert_eq!((announced.lost, announced.false_downs), (0, 0), "no packet was lost, no keepalive missed");
    assert!(announced.announced_ns < 1_000_000_000, "announced within a second");
    // The change to tables is over when they stand for every link.
    let client = trial.routers.daemon(End::Client);
    let handed = || Ok(client.log().contains("stand in a table for each link").then_some(()));
    trial.routers.lab.wait_until("tables", PATIENCE, handed).unwrap();
    // A failover now moves them all in time.
    let reports = trial.cut_first().unwrap();
    for report in reports {
        println!("out for {:.1} ms", report.outage_ns as f64 / 1e6);
        assert!(report.outage_ns < 45_000_000, "{report:?}");
    }
}
