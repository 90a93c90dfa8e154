//! Metrics and traces of a running daemon, while a link is cut.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::metrics::{self, get, scrape, value};
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{Lab, monotonic_ns};
use serde_json::Value;

fn trial() -> Trial {
    let setup = Setup {
        interval: Duration::from_millis(50),
        daemon_settings: metrics::SETTINGS.to_owned(),
        ..Setup::default()
    };
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

/// Sum and count of the failovers of a daemon's group.
fn failovers(daemon: &Daemon, group: &str) -> (f64, f64) {
    let text = scrape(daemon).unwrap();
    let of = |part: &str| value(&text, &format!("link_watcher_failover_seconds_{part}{{group=\"{group}\"}}")).unwrap();
    (of("sum"), of("count"))
}

/// Traces of all moves, the oldest first.
fn traces(daemon: &Daemon) -> Vec<Value> {
    let events = daemon.command(&["events", "--json"]).unwrap();
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["what"] == "active-changed").map(|event| event["trace"].clone()).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cut_is_one_failover_with_its_trace_and_a_switch_is_none() {
    let trial = trial();
    let routers = &trial.routers;
    let ends = [(&routers.client_daemon, CLIENT_GROUP), (&routers.server_daemon, SERVER_GROUP)];
    let (first, second) = (routers.setup.links[0].clone(), routers.setup.links[1].clone());
    // An operator's switch and the way back miss no packet.
    routers.client_daemon.command(&["switch", CLIENT_GROUP, &second.name]).unwrap();
    routers.wait_active(&second.name, PATIENCE).unwrap();
    routers.client_daemon.command(&["switch", CLIENT_GROUP, "auto"]).unwrap();
    routers.wait_active(&first.name, PATIENCE).unwrap();
    for (daemon, group) in ends {
        assert_eq!(failovers(daemon, group), (0.0, 0.0));
    }
    let cut_ns = monotonic_ns();
    trial.cut_first().unwrap();
    let detection_s = routers.setup.detection().as_secs_f64();
    for (daemon, group) in ends {
        let (sum, count) = failovers(daemon, group);
        assert_eq!(count, 1.0, "{group}");
        assert!(sum > detection_s, "{group}: {sum} s is less than silence takes");
        let trace = traces(daemon).pop().unwrap();
        let at = |key: &str| trace[key].as_u64();
        let instants: Vec<u64> = ["last_good_ns", "due_ns", "woke_ns", "received_ns", "decided_ns", "routed_ns"]
            .iter()
            .filter_map(|key| at(key))
            .collect();
        assert!(instants.is_sorted() && at("last_good_ns").is_some(), "{trace}");
        assert!(at("decided_ns").unwrap() > cut_ns, "{trace}");
        let outage_s = (at("routed_ns").unwrap() - at("last_good_ns").unwrap()) as f64 / 1e9;
        assert!((outage_s - sum).abs() < 1e-6, "the histogram has what the trace says: {outage_s}, {sum}");
    }
    // Which end noticed first is open; that one of them did is not.
    assert!(ends.iter().any(|(daemon, _)| traces(daemon).last().unwrap()["due_ns"].is_u64()));
    let text = scrape(&routers.client_daemon).unwrap();
    let of = |name: &str, link: &str, interface: &str, further: &str| {
        let labels = format!("group=\"{CLIENT_GROUP}\",link=\"{link}\",interface=\"{interface}\"{further}");
        value(&text, &format!("link_watcher_{name}{{{labels}}}")).unwrap()
    };
    let lost = |name: &str, further: &str| of(name, &first.name, &first.client_interface, further);
    let taken = |name: &str, further: &str| of(name, &second.name, &second.client_interface, further);
    assert_eq!((lost("link_up", ""), lost("link_active", "")), (0.0, 0.0));
    assert_eq!((taken("link_up", ""), taken("link_active", "")), (1.0, 1.0));
    assert_eq!((lost("link_transitions_total", ",to=\"down\""), lost("link_usable", "")), (1.0, 0.0));
    assert!(taken("keepalives_total", ",direction=\"received\"") > 0.0 && taken("link_rtt_seconds", "") > 0.0);
    assert!(
        value(&text, &format!("link_watcher_routes{{group=\"{CLIENT_GROUP}\",state=\"installed\"}}")).unwrap() > 0.0
    );
    let human = routers.client_daemon.command(&["events"]).unwrap();
    assert!(human.contains(" ms: silence "), "{human}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reload_moves_starts_and_ends_the_metrics() {
    let trial = trial();
    let daemon = &trial.routers.client_daemon;
    let before = metrics::address();
    assert!(get(daemon, before, "/").unwrap().contains("<title>link-watcher</title>"));
    assert!(get(daemon, before, "/-/healthy").unwrap().starts_with("HTTP/1.1 200 "));
    let text = fs::read_to_string(daemon.config_path()).unwrap();
    let reload = |settings: &str| {
        fs::write(daemon.config_path(), text.replace(metrics::SETTINGS, settings)).unwrap();
        daemon.output(&["reload"]).unwrap()
    };
    // Same port, every address: the old listener has to go first.
    let after = SocketAddr::from(([127, 0, 0, 2], before.port()));
    assert!(reload(&metrics::SETTINGS.replace("127.0.0.1", "0.0.0.0")).status.success());
    let served = |what: &str, address: SocketAddr, is: bool| {
        let answers = || Ok((get(daemon, address, "/metrics").is_ok() == is).then_some(()));
        trial.routers.lab.wait_until(what, PATIENCE, answers).unwrap();
    };
    served("metrics on every address", after, true);
    // A port that somebody else has: nobody who only looks on decides whether a configuration is taken.
    let taken = daemon.namespace().run(|| std::net::TcpListener::bind("127.0.0.1:9747")).unwrap().unwrap();
    assert!(reload(&metrics::SETTINGS.replace("9746", "9747")).status.success());
    served("no metrics where they were", after, false);
    // A daemon that starts there says so, watches its links, and tries again.
    assert!(daemon.stop().unwrap().success());
    daemon.start().unwrap();
    let said = || Ok(daemon.log().contains("WARN cannot serve metrics on 127.0.0.1:9747").then_some(()));
    trial.routers.lab.wait_until("the daemon to say that the port is taken", PATIENCE, said).unwrap();
    drop(taken);
    served("metrics where nobody else is any more", SocketAddr::from(([127, 0, 0, 1], 9747)), true);
    assert!(reload("").status.success());
    served("no metrics", SocketAddr::from(([127, 0, 0, 1], 9747)), false);
}
