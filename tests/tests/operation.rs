//! What an operator does to a running daemon: signals and reloads. Nothing of it loses a packet.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use link_watcher_lab::daemon::binary;
use link_watcher_lab::routers::CLIENT_GROUP;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::{active, link};
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{Lab, monotonic_ns};
use nix::sys::signal::Signal;

fn trial() -> Trial {
    let setup = Setup { interval: Duration::from_millis(50), ..Setup::default() };
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

fn wait_logged(trial: &Trial, text: &str) {
    let daemon = &trial.routers.client_daemon;
    let what = format!("the log to have \"{text}\"");
    trial.routers.lab.wait_until(&what, PATIENCE, || Ok(daemon.log().contains(text).then_some(()))).unwrap();
}

fn assert_nothing_lost_since(trial: &Trial, since_ns: u64) {
    trial.wait_steady(monotonic_ns()).unwrap();
    for report in trial.reports(since_ns) {
        assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn signals_do_what_they_are_for() {
    let trial = trial();
    let since_ns = monotonic_ns();
    let daemon = &trial.routers.client_daemon;
    daemon.signal(Signal::SIGUSR1).unwrap();
    wait_logged(&trial, "status: {\"version\"");
    let first = trial.first().to_owned();
    daemon.signal(Signal::SIGUSR2).unwrap();
    trial
        .routers
        .lab
        .wait_until("traffic to be on the next link", PATIENCE, || {
            Ok((active(&daemon.status()?, CLIENT_GROUP) != [first.as_str()]).then_some(()))
        })
        .unwrap();
    daemon.command(&["switch", CLIENT_GROUP, "auto"]).unwrap();
    trial.routers.wait_active(&first, PATIENCE).unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    wait_logged(&trial, "read: peers: 1");
    assert_nothing_lost_since(&trial, since_ns);
    assert!(daemon.stop().unwrap().success(), "SIGTERM is a planned end");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_bad_reload_changes_nothing_and_a_good_one_only_what_it_says() {
    let trial = trial();
    let since_ns = monotonic_ns();
    let daemon = &trial.routers.client_daemon;
    let good = fs::read_to_string(daemon.config_path()).unwrap();
    let before = daemon.status().unwrap();
    for bad in [good.replace("[[peer.link]]", "[[peer.lnik]]"), good.replace("remote", "remtoe"), "[[peer]".to_owned()]
    {
        fs::write(daemon.config_path(), bad).unwrap();
        let refused = daemon.output(&["reload"]).unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("error: "), "{refused:?}");
    }
    daemon.signal(Signal::SIGHUP).unwrap();
    wait_logged(&trial, "the configuration stays as it was");
    let after = daemon.status().unwrap();
    for name in ["optic", "wifi", "tunnel"] {
        let known = |status: &serde_json::Value| {
            let link = link(status, CLIENT_GROUP, name).unwrap().clone();
            (link["since"].clone(), link["flaps"].clone(), link["interface"].clone())
        };
        assert_eq!(known(&before), known(&after), "{name} was not touched");
    }
    // Other routes: the links go on as they are.
    let more = good.replace("routes = [", "routes = [\"198.51.100.0/24\", ");
    assert_ne!(more, good);
    fs::write(daemon.config_path(), more).unwrap();
    daemon.command(&["reload"]).unwrap();
    let status = daemon.status().unwrap();
    assert_eq!(
        link(&status, CLIENT_GROUP, "optic").unwrap()["since"],
        link(&before, CLIENT_GROUP, "optic").unwrap()["since"]
    );
    assert_nothing_lost_since(&trial, since_ns);
}
