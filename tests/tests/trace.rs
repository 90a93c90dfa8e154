//! `trace-packets`: a talkative program in place of the quiet one moves no traffic, and goes when nobody reads any more.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use link_watcher_lab::daemon::binary;
use link_watcher_lab::forge::Forge;
use link_watcher_lab::frame::Frame;
use link_watcher_lab::routers::{CLIENT_GROUP, PORT, SERVER_GROUP};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::link;
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};
use serde_json::Value;

fn trial(engine: &str) -> Trial {
    // Three links: 1,200 keepalives a second arrive at each end.
    let setup = Setup { interval: Duration::from_millis(5), engine: engine.to_owned(), ..Setup::default() };
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

/// Ids of the programs on the server's links.
fn programs(trial: &Trial) -> Vec<u32> {
    let id = |interface: &str| {
        let shown = trial.routers.server.ip(&format!("-d link show dev {interface}")).unwrap();
        let (_, behind) = shown.split_once("prog/xdp id ").unwrap_or_else(|| panic!("{shown}"));
        behind.split_whitespace().next().unwrap().parse().unwrap()
    };
    trial.routers.setup.links.iter().map(|link| id(&link.server_interface)).collect()
}

/// Waits until the server's programs are all others than these, or these again.
fn wait_programs(trial: &Trial, quiet: &[u32], again: bool) {
    let what = if again { "the quiet programs to be back" } else { "the talkative programs" };
    let good = |now: &[u32]| now.iter().zip(quiet).all(|(now, quiet)| (now == quiet) == again);
    trial.routers.lab.wait_until(what, PATIENCE, || Ok(good(&programs(trial)).then_some(()))).unwrap();
}

/// No link was taken for dead, and no packet of traffic was lost.
fn assert_undisturbed(trial: &Trial, since_ns: u64) {
    trial.wait_steady(monotonic_ns()).unwrap();
    for report in trial.reports(since_ns) {
        assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
    }
    for (end, group) in [(End::Client, CLIENT_GROUP), (End::Server, SERVER_GROUP)] {
        let status = trial.routers.daemon(end).status().unwrap();
        for setup in &trial.routers.setup.links {
            let link = link(&status, group, &setup.name).unwrap();
            assert_eq!((link["state"].as_str(), link["flaps"].as_u64()), (Some("up"), Some(0)), "{link:#}");
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_trace_says_what_becomes_of_each_packet_and_moves_no_traffic() {
    let trial = trial("auto");
    let server = trial.routers.daemon(End::Server);
    let forge = Forge::on(&trial.routers.wires[0]).unwrap();
    // Byte 4 is the kind: a probe.
    let is_probe = |frame: &Frame| {
        frame.ports().is_some_and(|(_, to)| to == PORT) && frame.payload().is_some_and(|payload| payload[4] == 1)
    };
    let quiet = programs(&trial);
    let since_ns = monotonic_ns();

    let trace = server.spawn(&["trace-packets", "--for", "6s", "--json"]).unwrap();
    wait_programs(&trial, &quiet, false);
    let probe = forge.capture(Direction::ToServer, 1, Duration::from_secs(2), is_probe).unwrap().remove(0);
    // A bit of the sequence, which makes it 8 million more (bytes 24 to 31); and a packet that was there before.
    let forged = probe.with_flipped_bit(8 * 29 + 7).unwrap();
    forge.flood(Direction::ToServer, &[forged, probe], 400, Duration::from_secs(1)).unwrap();
    let refused = server.output(&["trace-packets", SERVER_GROUP]).unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("one runs already (root, since "), "{said}");

    let output = trace.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("tracing branch optic, branch wifi, branch tunnel for 6s"),
        "{said}"
    );
    wait_programs(&trial, &quiet, true);
    assert_undisturbed(&trial, since_ns);

    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let packets: Vec<&Value> = lines.iter().filter(|line| line["what"].is_string()).collect();
    let seen = |key: &str| packets.iter().filter_map(|packet| packet[key].as_str()).collect::<BTreeSet<_>>();
    assert!(seen("what").is_superset(&["answered", "taken-in", "dropped"].into()), "{:?}", seen("what"));
    assert!(seen("cause").is_superset(&["forged", "replayed"].into()), "{:?}", seen("cause"));
    assert_eq!(seen("link"), ["optic", "tunnel", "wifi"].into());
    assert_eq!((seen("group"), seen("direction")), ([SERVER_GROUP].into(), ["in"].into()));
    assert!(packets.len() <= 6 * 400 + 20, "{} lines", packets.len());
    let left_out: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
    // Three links, each with a probe and an echo each 5 ms, for 6 s, and what was injected.
    let all = packets.len() as u64 + left_out;
    assert!((6_000..=8_500).contains(&all), "{} told, {left_out} left out", packets.len());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_quiet_program_is_back_whoever_ends() {
    let trial = trial("auto");
    let server = trial.routers.daemon(End::Server);
    let quiet = programs(&trial);
    let since_ns = monotonic_ns();

    // The command dies.
    let mut trace = server.spawn(&["trace-packets", "--for", "10m"]).unwrap();
    wait_programs(&trial, &quiet, false);
    trace.kill().unwrap();
    trace.wait().unwrap();
    wait_programs(&trial, &quiet, true);
    assert_undisturbed(&trial, since_ns);

    // One link alone.
    let mut trace = server.spawn(&["trace-packets", SERVER_GROUP, "wifi", "--for", "10m"]).unwrap();
    trial
        .routers
        .lab
        .wait_until("one program to be exchanged", PATIENCE, || {
            let now = programs(&trial);
            Ok((now[0] == quiet[0] && now[1] != quiet[1] && now[2] == quiet[2]).then_some(()))
        })
        .unwrap();
    // The daemon stops, and leaves the kernel answering.
    server.stop().unwrap();
    assert_eq!(programs(&trial), quiet);
    assert!(!trace.wait().unwrap().success());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_trace_at_tc_and_of_a_keepalive_a_millisecond_moves_no_traffic() {
    for engine in ["tc", "auto"] {
        // Room for a machine that runs other tests: what a trace itself costs is far less than ten milliseconds.
        let setup =
            Setup { interval: Duration::from_millis(1), multiplier: 10, engine: engine.to_owned(), ..Setup::default() };
        let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap();
        let since_ns = monotonic_ns();
        let trace = trial.routers.daemon(End::Server).spawn(&["trace-packets", "--for", "2s", "--json"]).unwrap();
        let output = trace.wait_with_output().unwrap();
        assert!(output.status.success(), "{engine}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let links: BTreeSet<&str> = lines.iter().filter_map(|line| line["link"].as_str()).collect();
        assert_eq!(links, ["optic", "tunnel", "wifi"].into(), "{engine}");
        let told = lines.iter().filter(|line| line["what"].is_string()).count() as u64;
        let left_out: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
        // Three links, each with a probe and an echo a millisecond; a program is exchanged a moment after the clock starts.
        assert!((6_000..=13_000).contains(&(told + left_out)), "{engine}: {told} told, {left_out} left out");
        assert_undisturbed(&trial, since_ns);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_socket_verifies_the_kernel_program_does_not_see() {
    let trial = trial("socket");
    let server = trial.routers.daemon(End::Server);
    let refused = |arguments: &[&str]| {
        let output = server.output(arguments).unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["trace-packets"]);
    assert!(said.contains("branch optic (by a socket: the configuration says engine = \"socket\")"), "{said}");
    assert!(refused(&["trace-packets", "nobody"]).contains("no group is called nobody; there is branch"));
}
