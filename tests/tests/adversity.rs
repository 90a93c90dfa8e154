//! Busy machines, crashes, floods, and others who change our routes: nothing of it moves traffic or loses a packet.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use link_watcher_lab::daemon::binary;
use link_watcher_lab::forge::Forge;
use link_watcher_lab::routers::{CLIENT_GROUP, PORT, SERVER_GROUP};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::{self, active, group, usable};
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};
use link_watcher_programs::{IP, own};

fn trial(setup: Setup) -> Trial {
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

fn quick(interval_ms: u64) -> Setup {
    Setup { interval: Duration::from_millis(interval_ms), ..Setup::default() }
}

/// How often links went down by one daemon's account.
fn flaps_at(trial: &Trial, end: End) -> u64 {
    status::flaps(&trial.routers.daemon(end).status().unwrap())
}

/// How often links went down by both daemons' account.
fn flaps(trial: &Trial) -> u64 {
    flaps_at(trial, End::Client) + flaps_at(trial, End::Server)
}

/// Packets that the server's daemon dropped, for whatever reason.
fn dropped(trial: &Trial) -> u64 {
    let status = trial.routers.daemon(End::Server).status().unwrap();
    let links = group(&status, SERVER_GROUP).unwrap()["links"].as_array().unwrap();
    let reasons = links.iter().flat_map(|link| link["dropped"].as_object().unwrap().values());
    reasons.map(|count| count.as_u64().unwrap()).sum()
}

/// Traffic is where it was, and nothing was lost since.
fn assert_untouched(trial: &Trial, since_ns: u64) {
    trial.wait_steady(monotonic_ns()).unwrap();
    for report in trial.reports(since_ns) {
        assert_eq!(report.lost, 0, "{report:?}");
    }
    trial.routers.wait_active(trial.first(), Duration::from_secs(1)).unwrap();
}

/// The client's routes of our protocol, one a line.
fn routes(trial: &Trial) -> String {
    let mut command = IP.command();
    command.args(["route", "show", "table", "main"]).stdout(std::process::Stdio::piped());
    let output = trial.routers.client.spawn(&mut command).unwrap().wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn ip(trial: &Trial, arguments: &[&str]) {
    let status = trial.routers.client.spawn(IP.command().args(arguments)).unwrap().wait_with_output().unwrap();
    assert!(status.status.success(), "ip {}", arguments.join(" "));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn busy_processors_take_no_link_down() {
    let trial = trial(quick(10));
    let before = flaps(&trial);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 * thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let paused = trial.routers.lab.pause(Duration::from_secs(20));
        stop.store(true, Ordering::Relaxed);
        paused.unwrap();
    });
    let logs = [End::Client, End::Server].map(|end| trial.routers.daemon(end).log_tail()).join("\n");
    assert_eq!(flaps(&trial), before, "no link went down; {logs}");
    trial.routers.wait_active("optic", Duration::from_secs(1)).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_crash_of_either_daemon_moves_no_traffic() {
    let trial = trial(quick(50));
    for (end, other, other_group) in
        [(End::Server, End::Client, CLIENT_GROUP), (End::Client, End::Server, SERVER_GROUP)]
    {
        let since_ns = monotonic_ns();
        trial.routers.daemon(end).kill();
        trial
            .routers
            .lab
            .wait_until("the other side to notice", PATIENCE, || {
                let status = trial.routers.daemon(other).status()?;
                assert_eq!(active(&status, other_group), ["optic"], "routes stay");
                assert_eq!(usable(&status, other_group).len(), 3, "its kernel answers: a dead daemon is no dead path");
                Ok(group(&status, other_group).and_then(|group| group["peer_silence_s"].as_u64()).map(drop))
            })
            .unwrap();
        trial.routers.daemon(end).start().unwrap();
        trial.wait_normal().unwrap();
        assert_untouched(&trial, since_ns);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_planned_restart_of_either_daemon_takes_no_link_down() {
    let trial = trial(quick(50));
    for (end, other) in [(End::Server, End::Client), (End::Client, End::Server)] {
        let since_ns = monotonic_ns();
        let before = flaps_at(&trial, other);
        assert!(trial.routers.daemon(end).stop().unwrap().success());
        trial.routers.daemon(end).start().unwrap();
        trial.wait_normal().unwrap();
        assert_untouched(&trial, since_ns);
        assert_eq!(flaps_at(&trial, other), before, "the kernel answered meanwhile");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flood_of_junk_takes_no_link_down() {
    let trial = trial(quick(50));
    let forge = Forge::on(&trial.routers.wires[0]).unwrap();
    let genuine = forge
        .capture(Direction::ToServer, 1, Duration::from_secs(2), |frame| {
            frame.ports().is_some_and(|(_, to)| to == PORT)
        })
        .unwrap();
    let junk: Vec<_> = (0..64_u8).map(|byte| genuine[0].with_payload(&[byte; 80]).unwrap()).collect();
    let (before, dropped_before) = (flaps(&trial), dropped(&trial));
    let since_ns = monotonic_ns();
    let sent = forge.flood(Direction::ToServer, &junk, 50_000, Duration::from_secs(5)).unwrap();
    let dropped = dropped(&trial) - dropped_before;
    println!("{sent} junk packets in 5 s, {dropped} dropped by the daemon");
    assert!(sent >= 10_000, "no flood: {sent} packets");
    assert!(dropped >= sent / 2, "of {sent} packets only {dropped} came to the daemon");
    assert_eq!(flaps(&trial), before);
    assert_untouched(&trial, since_ns);
}

/// Probes of links that answer go past the network stack, and yet nothing that the stack would not let out counts for long.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_filter_against_probes_is_noticed_and_its_end_too() {
    let trial = trial(quick(50));
    let interface = &trial.routers.setup.links[0].client_interface;
    let nft = |script: &str| {
        let status = trial.routers.client.command(&["nft", "-f", "-"], script);
        assert!(status.is_ok(), "{script}: {status:?}");
    };
    nft(&format!(
        "table inet filter {{ chain output {{ type filter hook output priority 0; \
         oifname \"{interface}\" udp dport 46721 drop; }}; }}"
    ));
    trial.routers.wait_active(&trial.routers.setup.links[1].name, PATIENCE).unwrap();
    nft("delete table inet filter");
    trial.wait_normal().unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_route_that_somebody_deletes_is_put_back_and_others_are_left_alone() {
    let trial = trial(quick(50));
    ip(&trial, &["route", "add", "198.51.100.0/24", "via", "10.20.20.10", "proto", "static"]);
    let before = routes(&trial);
    assert!(before.contains("198.51.100.0/24"));
    ip(&trial, &["route", "del", "default"]);
    trial
        .routers
        .lab
        .wait_until("the route to be put back", PATIENCE, || Ok((routes(&trial) == before).then_some(())))
        .unwrap();
    trial.wait_normal().unwrap();
    // A move and the way back leave everything as it was, too.
    trial.cut_first().unwrap();
    assert!(routes(&trial).contains("198.51.100.0/24"));
    trial.repair().unwrap();
    assert_eq!(routes(&trial), before);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn routes_stay_or_go_with_the_daemon_as_configured() {
    for (on_exit, stay) in [("keep", true), ("remove", false)] {
        let trial = trial(Setup { daemon_settings: format!("on-exit = \"{on_exit}\"\n"), ..quick(50) });
        assert!(routes(&trial).contains("default"));
        trial.routers.client_daemon.stop().unwrap();
        assert_eq!(routes(&trial).contains("default"), stay, "{}", routes(&trial));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_demo_recovers_from_every_step() {
    let output = own(binary().unwrap()).args(["demo", "peer", "--script"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
}
