//! Two daemons with `actuation = "nexthop"`: whatever breaks, traffic moves in time, and comes back without a loss.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use link_watcher_lab::daemon::binary;
use link_watcher_lab::routers::CLIENT_GROUP;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::Trial;
use link_watcher_lab::{End, Lab, monotonic_ns, status};
use link_watcher_programs::IP;

/// What an outage may exceed interval × multiplier + interval by.
const ALLOWANCE: Duration = Duration::from_millis(5);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nexthop_groups_carry_the_traffic_through_cuts_and_a_restart() {
    let actuation = "actuation = \"nexthop\"\n".to_owned();
    let setup = Setup {
        client_settings: actuation.clone(),
        server_settings: actuation,
        failback: Duration::from_millis(300),
        hold_up: Duration::from_millis(200),
        ..Setup::cables(3, Duration::from_millis(20), 3)
    };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 2000).unwrap();
    let bound_ns = (trial.routers.setup.detection() + trial.routers.setup.interval + ALLOWANCE).as_nanos() as u64;
    let second = trial.routers.setup.links[1].name.clone();
    // Silently, then with the carrier: the kernel then deletes the next hop.
    for cut in [false, true] {
        let reports = if cut {
            trial.measure(&second, |routers| routers.wires[0].cut_carrier(End::Client).map(|_| ())).unwrap()
        } else {
            trial.cut_first().unwrap()
        };
        for report in reports {
            println!("out for {:.1} ms", report.outage_ns as f64 / 1e6);
            assert!(report.outage_ns <= bound_ns, "{report:?}");
        }
        for report in trial.repair().unwrap() {
            assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
        }
    }
    let client = trial.routers.daemon(End::Client);
    let objects = || {
        let output = client.namespace().run(|| IP.command().args(["-o", "nexthop"]).output());
        let text = String::from_utf8(output.unwrap().unwrap().stdout).unwrap();
        text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
    };
    let stood = objects();
    assert_eq!(stood.iter().filter(|line| line.contains("type resilient")).count(), 1, "{stood:?}");
    assert_eq!(stood.len(), 4, "{stood:?}");
    let since_ns = monotonic_ns();
    assert!(client.stop().unwrap().success());
    assert_eq!(objects(), stood, "they stay, as routes do");
    client.start().unwrap();
    trial.wait_normal().unwrap();
    let status = client.status().unwrap();
    let routes = &status::group(&status, CLIENT_GROUP).unwrap()["routes"];
    assert_eq!((routes["installed"].as_u64(), routes["refused"].as_u64()), (Some(1), Some(0)), "{status}");
    assert_eq!(objects(), stood);
    for report in trial.reports(since_ns) {
        assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
    }
}
