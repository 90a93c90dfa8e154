//! What an operator does to a running daemon: signals and reloads. Nothing of it loses a packet.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::routers::{CLIENT_GROUP, TwoRouters};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::{active, link};
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{End, Lab, monotonic_ns};
use nix::sys::signal::Signal;
use serde_json::Value;

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

fn edit(daemon: &Daemon, change: impl FnOnce(&str) -> String) {
    let before = fs::read_to_string(daemon.config_path()).unwrap();
    let after = change(&before);
    assert_ne!(before, after, "the edit changes the file");
    fs::write(daemon.config_path(), after).unwrap();
}

/// Exit code and both streams of a command.
fn said(daemon: &Daemon, arguments: &[&str]) -> (i32, String) {
    let output = daemon.output(arguments).unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(both).unwrap())
}

/// What is refused is seen: in the exit code, the status, the events and the metrics, until a reload succeeds.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refused_reload_is_seen_everywhere() {
    let trial = trial();
    let daemon = &trial.routers.client_daemon;
    // A slip of the finger would leave the link without its interface.
    edit(daemon, |text| text.replacen("interface = \"eth1\"", "interface = \"eht1\"", 1));
    let (code, why) = said(daemon, &["reload"]);
    assert_eq!(code, 78, "{why}");
    assert!(why.contains("there is no interface eht1 here") && why.contains("did you mean \"eth1\"?"), "{why}");
    let status = daemon.status().unwrap();
    assert_eq!(status["config"]["last_reload_successful"], false);
    assert!(status["config"]["problem"].as_str().unwrap().contains("eht1"), "{status:#}");
    assert_eq!(link(&status, CLIENT_GROUP, "optic").unwrap()["usable"], true, "the link goes on");
    assert!(said(daemon, &["status"]).1.contains("is not what runs"));
    assert!(said(daemon, &["events"]).1.contains("config-refused"));
    // Who knows that it will come says so.
    let (code, why) = said(daemon, &["reload", "--dry-run", "--force"]);
    assert_eq!(code, 0, "{why}");
    assert!(why.contains("interface = \"eht1\" (was \"eth1\")") && why.contains("would be read"), "{why}");
    assert!(why.contains("begin anew, without a verdict: hq optic"), "{why}");
    edit(daemon, |text| text.replace("eht1", "eth1"));
    let (code, why) = said(daemon, &["reload"]);
    assert_eq!((code, why.contains("nothing changes")), (0, true), "{why}");
    assert_eq!(daemon.status().unwrap()["config"]["last_reload_successful"], true);
}

/// An interface that is away for a while is no reason to refuse what is new elsewhere.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_was_there_before_may_be_away() {
    let trial = trial();
    let daemon = &trial.routers.client_daemon;
    trial.routers.client.delete_interface("tun1").unwrap();
    trial.routers.client.command(&["ip", "addr", "flush", "dev", "vlan10"], "").unwrap();
    edit(daemon, |text| text.replacen("failback = \"2000ms\"", "failback = \"3s\"", 1));
    let (code, why) = said(daemon, &["reload"]);
    assert_eq!(code, 0, "{why}");
    assert!(why.contains("~ peer hq: failback = \"3s\" (was \"2000ms\")") && why.contains("warning: "), "{why}");
}

/// Whoever cuts himself off with a reload gets the former configuration back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_nobody_confirms_is_taken_back() {
    let trial = trial();
    let daemon = &trial.routers.client_daemon;
    let tier = |status: &serde_json::Value| link(status, CLIENT_GROUP, "optic").unwrap()["tier"].clone();
    let since_ns = monotonic_ns();
    let before = tier(&daemon.status().unwrap());
    edit(daemon, |text| text.replacen("name = \"optic\"\n", "name = \"optic\"\ntier = 9\n", 1));
    let (code, why) = said(daemon, &["reload", "--confirm-within", "2s"]);
    assert_eq!((code, why.contains("`link-watcher confirm` within 2 s")), (0, true), "{why}");
    assert_eq!(tier(&daemon.status().unwrap()), 9);
    let back = || Ok((tier(&daemon.status()?) == before).then_some(()));
    trial.routers.lab.wait_until("the former configuration", PATIENCE, back).unwrap();
    let status = daemon.status().unwrap();
    assert!(status["config"]["problem"].as_str().unwrap().contains("nobody confirmed"), "{status:#}");
    assert_eq!(said(daemon, &["confirm"]).0, 1, "nothing waits any more");
    assert_eq!(said(daemon, &["reload", "--confirm-within", "1s"]).0, 0);
    assert_eq!(said(daemon, &["confirm"]).0, 0);
    trial.routers.lab.pause(Duration::from_millis(1500)).unwrap();
    assert_eq!(tier(&daemon.status().unwrap()), 9, "what is confirmed stays");
    assert_nothing_lost_since(&trial, since_ns);
}

/// `check`, `reload` and the daemon look at the machine in the same way: an address with a peer is one on Ethernet, too.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn check_takes_what_the_daemon_runs() {
    let trial = trial();
    let daemon = &trial.routers.client_daemon;
    for step in ["ip -4 addr flush dev eth1", "ip addr add 10.248.248.2 peer 10.248.248.1 dev eth1"] {
        let step: Vec<&str> = step.split(' ').collect();
        trial.routers.client.command(&step, "").unwrap();
    }
    edit(daemon, |text| text.replacen("local = \"10.248.248.2\"\n", "", 1));
    let path = daemon.config_path();
    let (code, why) = said(daemon, &["check", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{why}");
    assert_eq!(said(daemon, &["reload"]).0, 0);
    let usable = || Ok((link(&daemon.status()?, CLIENT_GROUP, "optic").unwrap()["usable"] == true).then_some(()));
    trial.routers.lab.wait_until("optic to be usable", PATIENCE, usable).unwrap();
}

/// Two of our addresses could be meant, and the peer expects the other one.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_silent_link_names_the_address_that_it_could_speak_from() {
    let setup = Setup { interval: Duration::from_millis(50), ..Setup::default() };
    let routers = TwoRouters::build_in(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
    let daemon = routers.daemon(End::Client);
    let of_lab = routers.setup.links[0].clone();
    let text = fs::read_to_string(daemon.config_path()).unwrap();
    let local = text.lines().find(|line| line.starts_with("local = ")).unwrap().to_owned();
    let expected = local.split('"').nth(1).unwrap().to_owned();
    fs::write(daemon.config_path(), text.replacen(&format!("{local}\n"), "", 1)).unwrap();
    let other = format!("{}.77", expected.rsplit_once('.').unwrap().0);
    let interface = of_lab.client_interface.as_str();
    // The one that the kernel lists last is taken.
    routers.client.command(&["ip", "address", "add", &format!("{other}/24"), "dev", interface], "").unwrap();
    routers.start_daemons().unwrap();
    let shown = || daemon.status().map(|status| link(&status, CLIENT_GROUP, &of_lab.name).cloned());
    let down = || Ok(shown()?.filter(|link: &Value| link["state"] == "down"));
    let link_now = routers.lab.wait_until("the link to be down", PATIENCE, down).unwrap();
    let said = format!("it speaks from {other}, and {interface} has {expected} in the same prefix");
    assert_eq!(link_now["local"], other.as_str());
    assert!(link_now["last_down_reason"].as_str().unwrap().contains(&said), "{link_now:#}");
    let log = daemon.log();
    assert!(log.contains(&said) && log.contains("has several addresses in the same prefix"), "{log}");
    // As the reason asks for.
    fs::write(daemon.config_path(), text).unwrap();
    daemon.command(&["reload"]).unwrap();
    let up = || Ok(shown()?.filter(|link: &Value| link["state"] == "up"));
    let link_now = routers.lab.wait_until("the link to be up", PATIENCE, up).unwrap();
    assert!(!link_now["last_down_reason"].to_string().contains("it speaks from"), "{link_now:#}");
}
