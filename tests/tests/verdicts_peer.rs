//! Verdicts on the links of a peer: who is to be waited for, and who must prove himself.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::link;
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::tunnel::Impairment;
use link_watcher_lab::wire::Wire;
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};
use nix::sys::signal::Signal;
use serde_json::Value;

fn trial(setup: Setup) -> Trial {
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

/// What the daemon has told, in order, from its event number `from` on.
fn events(daemon: &Daemon, from: usize) -> Vec<Value> {
    let text = daemon.command(&["events", "--json"]).unwrap();
    text.lines().skip(from).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Its times have milliseconds.
fn time_ms(event: &Value) -> u64 {
    let text = event["time"].as_str().unwrap();
    // HH:MM:SS.mmm behind the date; the tests do not run over midnight more than once.
    let (clock, _) = text.split_once('T').unwrap().1.split_once('Z').unwrap();
    let (seconds, milliseconds) = clock.split_once('.').unwrap();
    let seconds = seconds.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap());
    seconds * 1000 + milliseconds.parse::<u64>().unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn traffic_does_not_wait_for_an_interface_that_is_made_anew() {
    let setup = Setup { interval: Duration::from_millis(300), ..Setup::default() };
    let mut trial = trial(setup);
    let interval = trial.routers.setup.interval;
    // The daemon sees it go and come, or is not scheduled until the next one is there already.
    for paused in [false, true, true] {
        let router = trial.routers.client.clone();
        let index = router.index("eth1").unwrap();
        let since_ns = monotonic_ns();
        if paused {
            trial.routers.client_daemon.signal(Signal::SIGSTOP).unwrap();
        }
        router.delete_interface("eth1").unwrap();
        let Wire::Cable(cable) = &mut trial.routers.wires[0] else { panic!("optic is a cable") };
        cable.plug_in(End::Client, &router, "eth1").unwrap();
        for address in ["10.248.248.2/24", "2001:db8:248::2/64"] {
            router.add_address("eth1", address.parse().unwrap()).unwrap();
        }
        assert_ne!(router.index("eth1").unwrap(), index);
        if paused {
            trial.routers.client_daemon.signal(Signal::SIGCONT).unwrap();
        }
        trial.routers.wait_active("wifi", PATIENCE).unwrap();
        trial.wait_steady(monotonic_ns()).unwrap();
        for report in trial.reports(since_ns) {
            let intervals = report.outage_ns as f64 / interval.as_nanos() as f64;
            println!("paused {paused}: out for {intervals:.2} intervals");
            // Nobody had to miss a single keepalive.
            assert!(intervals < 1.0, "{report:?}");
        }
        trial.wait_normal().unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn hold_up_holds_whichever_end_complains() {
    for lossy in Direction::BOTH {
        let mut setup = Setup {
            interval: Duration::from_millis(20),
            failback: Duration::ZERO,
            hold_up: Duration::from_secs(2),
            ..Setup::default()
        };
        // The tunnel is preferred: it can lose packets.
        setup.links.rotate_right(1);
        let hold_up = setup.hold_up;
        let trial = trial(setup);
        let Wire::Tunnel(tunnel) = &trial.routers.wires[0] else { panic!("the first is a tunnel") };
        let before = events(&trial.routers.client_daemon, 0).len();
        tunnel.impair_one_way(lossy, Impairment { loss_percent: 30, delay: Duration::ZERO });
        let span = hold_up * 10;
        trial.routers.lab.pause(span).unwrap();
        let events = events(&trial.routers.client_daemon, before);
        let moves: Vec<_> = events.iter().filter(|event| event["what"] == "active-changed").collect();
        let backs = moves.iter().filter(|event| event["to"][0] == "tunnel").count();
        println!("{lossy:?} loses 30 %: {} moves, {backs} of them back", moves.len());
        assert!(!moves.is_empty(), "the losses are felt: {events:?}");
        for pair in moves.windows(2) {
            let (left, back) = (pair[0], pair[1]);
            if back["to"][0] == "tunnel" {
                let away_ms = time_ms(back).saturating_sub(time_ms(left));
                assert!(u128::from(away_ms) + 1 >= hold_up.as_millis(), "back after {away_ms} ms: {left}, {back}");
            }
        }
        // Each time away lasts as long as that at least.
        assert!(backs as u32 <= span.as_millis() as u32 / hold_up.as_millis() as u32, "{moves:?}");
        let said = |daemon: &Daemon, group: &str| link(&daemon.status().unwrap(), group, "tunnel").cloned().unwrap();
        for (daemon, group) in
            [(&trial.routers.client_daemon, CLIENT_GROUP), (&trial.routers.server_daemon, SERVER_GROUP)]
        {
            println!("{group}: {} flaps, {}", said(daemon, group)["flaps"], said(daemon, group)["last_down_reason"]);
        }
    }
}
