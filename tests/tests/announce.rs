//! Ten thousand prefixes announced between two daemons: how long it takes, and what keepalives and traffic notice.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use link_watcher_tests::lab::daemon::binary;
use link_watcher_tests::lab::routers::CLIENT_GROUP;
use link_watcher_tests::lab::setup::Setup;
use link_watcher_tests::lab::trial::{PATIENCE, Trial};
use link_watcher_tests::lab::{End, Lab, monotonic_ns, status};

const PREFIXES: usize = 10_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ten_thousand_prefixes_take_a_second_and_cost_no_keepalive() {
    let setup = Setup {
        client_settings: "accept = [\"172.16.0.0/12\"]\n".to_owned(),
        failback: Duration::from_millis(300),
        hold_up: Duration::from_millis(200),
        ..Setup::cables(3, Duration::from_millis(10), 3)
    };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 2000).unwrap();
    let (client, server) = (trial.routers.daemon(End::Client), trial.routers.daemon(End::Server));
    let list: Vec<String> =
        (0..PREFIXES).map(|i| format!("\"172.{}.{}.{}/28\"", 16 + i / 4096, i / 16 % 256, i % 16 * 16)).collect();
    let text = fs::read_to_string(server.config_path()).unwrap();
    let text =
        text.replacen("role = \"server\"\n", &format!("role = \"server\"\nannounce = [{}]\n", list.join(",")), 1);
    fs::write(server.config_path(), text).unwrap();
    let flaps = |end: End| -> u64 {
        let status = trial.routers.daemon(end).status().unwrap();
        status["groups"][0]["links"].as_array().unwrap().iter().map(|link| link["flaps"].as_u64().unwrap()).sum()
    };
    let before = (flaps(End::Client), flaps(End::Server));
    let since_ns = monotonic_ns();
    server.command(&["reload"]).unwrap();
    let reloaded_ns = monotonic_ns();
    trial
        .routers
        .lab
        .wait_until("the announcement", PATIENCE, || {
            Ok(client.log().contains("the peer announces 10000 prefixes").then_some(()))
        })
        .unwrap();
    let announced_ns = monotonic_ns();
    trial
        .routers
        .lab
        .wait_until("the routes", PATIENCE, || {
            let status = client.status()?;
            let group = status::group(&status, CLIENT_GROUP).unwrap();
            Ok((group["routes"]["installed"].as_u64().unwrap() > PREFIXES as u64).then_some(()))
        })
        .unwrap();
    let installed_ns = monotonic_ns();
    let ms = |to_ns: u64| (to_ns - since_ns) as f64 / 1e6;
    println!(
        "reload answered after {:.0} ms, announced after {:.0}, installed after {:.0}",
        ms(reloaded_ns),
        ms(announced_ns),
        ms(installed_ns)
    );
    for report in trial.reports(since_ns) {
        println!("{report:?}");
        assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
    }
    assert_eq!((flaps(End::Client), flaps(End::Server)), before, "no keepalive was missed");
    assert!(announced_ns - reloaded_ns < 1_000_000_000, "announced within a second");
    // The change to tables is over when they stand for every link.
    let handed = || Ok(client.log().contains("stand in a table for each link").then_some(()));
    trial.routers.lab.wait_until("tables", PATIENCE, handed).unwrap();
    // A failover now moves them all in time.
    let reports = trial.cut_first().unwrap();
    for report in reports {
        println!("out for {:.1} ms", report.outage_ns as f64 / 1e6);
        assert!(report.outage_ns < 45_000_000, "{report:?}");
    }
}
