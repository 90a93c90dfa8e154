//! Somebody on the wire without a key, and firewalls that see what the kernel program does not.

#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use link_watcher_lab::daemon::binary;
use link_watcher_lab::forge::Forge;
use link_watcher_lab::frame::Frame;
use link_watcher_lab::routers::{CLIENT_GROUP, PORT, SERVER_GROUP, link_address};
use link_watcher_lab::setup::{Family, Setup};
use link_watcher_lab::status::{active, group};
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::wire::Wire;
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};
use serde_json::Value;

/// The link that carries the traffic.
const FROM: &str = "optic";
/// One that stands by.
const TO: &str = "wifi";

fn trial(engine: &str) -> Trial {
    let setup = Setup { interval: Duration::from_millis(50), engine: engine.to_owned(), ..Setup::default() };
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

/// One link, as one end's daemon sees it.
fn link(trial: &Trial, end: End, name: &str) -> Value {
    let group_name = if end == End::Client { CLIENT_GROUP } else { SERVER_GROUP };
    let status = trial.routers.daemon(end).status().unwrap();
    let links = group(&status, group_name).unwrap()["links"].as_array().unwrap().clone();
    links.into_iter().find(|link| link["name"] == name).unwrap()
}

/// Copies all keepalives of the link that carries the traffic to another one, with its addresses, for 3 s; gives how many.
fn copy_to(trial: &Trial, templates: [(Direction, Frame); 2]) -> usize {
    let until = Instant::now() + Duration::from_secs(3);
    thread::scope(|scope| {
        let copiers = templates.map(|(direction, template)| {
            scope.spawn(move || {
                let source = Forge::on(trial.routers.wire(FROM).unwrap()).unwrap();
                let target = Forge::on(trial.routers.wire(TO).unwrap()).unwrap();
                let mut copied = 0;
                while Instant::now() < until {
                    let taken = source.capture(direction, 8, Duration::from_millis(50), Frame::is_keepalive).unwrap();
                    for copy in taken.iter().filter_map(|frame| template.with_payload(frame.payload()?)) {
                        target.inject(direction, &copy).unwrap();
                        copied += 1;
                    }
                }
                copied
            })
        });
        copiers.map(|copier| copier.join().unwrap()).iter().sum()
    })
}

/// A keepalive of a link, in each direction.
fn keepalives(trial: &Trial, name: &str) -> [(Direction, Frame); 2] {
    let forge = Forge::on(trial.routers.wire(name).unwrap()).unwrap();
    let one = |direction| forge.capture(direction, 1, Duration::from_secs(2), Frame::is_keepalive).unwrap().remove(0);
    Direction::BOTH.map(|direction| (direction, one(direction)))
}

/// A link, whether cut both ways or working, stays as it is whatever of another one's is copied to it.
fn copies_are_worth_nothing(engine: &str, dead: bool) {
    let trial = trial(engine);
    let templates = keepalives(&trial, TO);
    if dead {
        trial.routers.wire(TO).unwrap().cut().unwrap();
    }
    let copied = copy_to(&trial, templates);
    assert!(copied > 50, "{copied} packets copied");
    for end in [End::Client, End::Server] {
        let target = link(&trial, end, TO);
        assert_eq!((target["state"] == "down", target["flaps"] == 1), (dead, dead), "{target:#}");
        let dropped = target["dropped"]["forged"].as_u64().unwrap() + target["dropped"]["replayed"].as_u64().unwrap();
        assert!(dropped > 10, "they are counted: {target:#}");
        let good = link(&trial, end, FROM);
        assert_eq!((good["state"].as_str(), good["flaps"].as_u64()), (Some("up"), Some(0)), "{good:#}");
        assert_eq!(good["peer"]["active"], true, "nothing moved: {good:#}");
    }
    trial.routers.wire(TO).unwrap().mend().unwrap();
    trial.wait_normal().unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keepalives_copied_to_a_dead_link_do_not_bring_it_back() {
    copies_are_worth_nothing("auto", true);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keepalives_copied_to_a_dead_link_do_not_bring_it_back_without_bpf() {
    copies_are_worth_nothing("socket", true);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keepalives_copied_to_a_dead_link_do_not_bring_it_back_at_tc() {
    copies_are_worth_nothing("tc", true);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keepalives_copied_to_a_working_link_move_nothing() {
    copies_are_worth_nothing("auto", false);
}

/// Sequences of a link that was away begin anew, or higher: one packet of it is no word about another link.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_probe_of_a_link_that_was_away_harms_no_other_one() {
    let trial = trial("auto");
    let router = &trial.routers.client;
    let setup = trial.routers.setup.links.iter().find(|link| link.name == TO).unwrap();
    let shown = router.ip(&format!("-4 -br addr show dev {}", setup.client_interface)).unwrap();
    let address = shown.split_whitespace().nth(2).unwrap();
    for order in ["del", "add"] {
        router.ip(&format!("addr {order} {address} dev {}", setup.client_interface)).unwrap();
        trial.routers.lab.pause(Duration::from_millis(500)).unwrap();
    }
    trial.wait_normal().unwrap();
    let probes = keepalives(&trial, TO);
    let headers = keepalives(&trial, FROM);
    let forge = Forge::on(trial.routers.wire(FROM).unwrap()).unwrap();
    for ((direction, probe), (_, header)) in probes.iter().zip(&headers) {
        forge.inject(*direction, &header.with_payload(probe.payload().unwrap()).unwrap()).unwrap();
    }
    // Some detection times.
    trial.routers.lab.pause(Duration::from_secs(1)).unwrap();
    for end in [End::Client, End::Server] {
        let harmed = link(&trial, end, FROM);
        assert_eq!((harmed["state"].as_str(), harmed["flaps"].as_u64()), (Some("up"), Some(0)), "{harmed:#}");
    }
}

/// What the kernel program thinks of each keepalive, with the link's name; of many only some.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_kernel_program_says_what_it_does_where_it_is_asked_to() {
    let setup = Setup {
        interval: Duration::from_millis(50),
        daemon_settings: "kernel-log = \"debug\"".to_owned(),
        ..Setup::default()
    };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap();
    let server = trial.routers.daemon(End::Server);
    let lines = |what: &str| server.log().lines().filter(|line| line.contains(what)).count();
    let lab = &trial.routers.lab;
    let said = |what: &str| {
        lab.wait_until(&format!("the kernel program to say {what:?}"), PATIENCE, || Ok((lines(what) > 0).then_some(())))
    };
    said("optic on eth2: probe answered").unwrap();
    assert!(link(&trial, End::Server, FROM)["slot"].is_u64(), "its place in the maps is told");
    said("optic on eth2: echo taken in").unwrap();
    let [(direction, probe), _] = keepalives(&trial, FROM);
    let forge = Forge::on(trial.routers.wire(FROM).unwrap()).unwrap();
    // A bit of the signature.
    let forged = probe.with_flipped_bit(8 * probe.payload().unwrap().len() - 1).unwrap();
    forge.inject(direction, &forged).unwrap();
    said("optic on eth2: dropped: ").unwrap();
    let before = lines("optic on eth2: dropped: ");
    forge.flood(direction, &[forged], 50_000, Duration::from_secs(1)).unwrap();
    said("more packets, which are not told one by one").unwrap();
    let told = lines("optic on eth2: dropped: ") - before;
    assert!(told < 400, "{told} lines of a second");
}

/// Processor time that the real-time probing thread of one end's daemon has had.
fn probing_time(trial: &Trial, end: End) -> Duration {
    let pid = trial.routers.daemon(end).pid().unwrap();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
    let thread =
        threads.into_iter().find(|thread| std::fs::read_to_string(thread.join("comm")).unwrap() == "lw-probe\n");
    // The first figure of it: ns on a processor.
    let statistics = std::fs::read_to_string(thread.unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}

/// Fragments come past the kernel program, and are a whole probe again at the socket.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn fragments_of_a_probe_cost_the_real_time_thread_little() {
    let trial = trial("auto");
    let forge = Forge::on(&trial.routers.wires[0]).unwrap();
    let limit = Duration::from_secs(2);
    let keepalive = |frame: &Frame| frame.ports().is_some_and(|(_, to)| to == PORT);
    let captured = forge.capture(Direction::ToServer, 1, limit, keepalive).unwrap();
    let fragments = captured[0].fragments(24).unwrap();
    let name = trial.first();
    let before = link(&trial, End::Server, name);
    assert_ne!(before["engine"], "socket", "a kernel program verifies: {before:#}");
    let (since, had) = (Instant::now(), probing_time(&trial, End::Server));
    let sent = forge.flood(Direction::ToServer, &fragments, 120_000, Duration::from_secs(3)).unwrap();
    let share = (probing_time(&trial, End::Server) - had).as_secs_f64() / since.elapsed().as_secs_f64();
    println!("{sent} fragments, the probing thread took {share:.3} of a processor");
    assert!(sent > 60_000, "no flood: {sent} fragments");
    let counted = |link: &Value| {
        let dropped = link["dropped"].as_object().unwrap();
        dropped.values().map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    // Drops at the socket are counted once a second.
    trial
        .routers
        .lab
        .wait_until("the probes to be counted", PATIENCE, || {
            let after = link(&trial, End::Server, name);
            let dropped = counted(&after) - counted(&before);
            Ok((dropped >= sent / 2 - sent / 20).then_some(()))
        })
        .unwrap();
    let after = link(&trial, End::Server, name);
    assert!(share < 0.1, "the probing thread took {share:.2} of a processor");
    assert_eq!((&after["state"], &after["flaps"]), (&before["state"], &before["flaps"]), "{after:#}");
    trial.wait_normal().unwrap();
}

/// The kernel program answers keepalives before the firewall sees them; data is lost.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_answers_beneath_a_firewall_only_is_left_within_five_seconds() {
    let trial = trial("auto");
    let interface = &trial.routers.setup.links[0].server_interface;
    let nft = |script: &str| {
        let status = trial.routers.server.command(&["nft", "-f", "-"], script);
        assert!(status.is_ok(), "{script}: {status:?}");
    };
    let since = Instant::now();
    nft(&format!(
        "table inet filter {{ chain pre {{ type filter hook prerouting priority -300; iifname \"{interface}\" drop; }}; }}"
    ));
    trial.routers.wait_active(&trial.routers.setup.links[1].name, PATIENCE).unwrap();
    // Three stack-probes a second apart, and the one after them; and what a busy machine takes.
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    let impaired = link(&trial, End::Client, &trial.routers.setup.links[0].name);
    assert_eq!(impaired["state"], "degraded", "{impaired:#}");
    let reason = impaired["last_down_reason"].as_str().unwrap();
    assert!(reason.contains("network stack") && reason.contains("firewall"), "{reason}");
    nft("delete table inet filter");
    trial.wait_normal().unwrap();
    let status = trial.routers.daemon(End::Server).status().unwrap();
    assert_eq!(active(&status, SERVER_GROUP), ["optic"]);
}

/// The peer's interface gets another Ethernet address, and what it would tell of that by ARP is lost: keepalives come from
/// there and are answered, while the kernel's neighbour entry sends data to where nobody is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn traffic_follows_a_peer_to_another_ethernet_address_that_was_not_told() {
    let trial = trial("auto");
    let routers = &trial.routers;
    let setup = &routers.setup.links[0];
    let (interface, name) = (setup.server_interface.as_str(), trial.first());
    let Wire::Cable(cable) = routers.wire(name).unwrap() else { panic!("{name} is a cable") };
    // Answers pass: the client may ask, the server tells nothing by itself.
    let rules = format!(
        "table bridge lost {{ chain forward {{ type filter hook forward priority 0; iifname \"{}\" arp operation request drop; }}; }}",
        cable.port(End::Server)
    );
    cable.middle().command(&["nft", "-f", "-"], &rules).unwrap();
    let shown = routers.client.command(&["ip", "-br", "link", "show", "dev", &setup.client_interface], "").unwrap();
    let client = shown.split_whitespace().nth(2).unwrap();
    // Its kernel forgets all neighbours with the change, and could not ask for the client's address.
    let remote = link_address(0, Family::V4, End::Client);
    let batch = format!(
        "link set {interface} address 02:00:00:00:00:99\nneighbour replace {remote} lladdr {} dev {interface} nud permanent\n",
        client
    );
    let since_ns = monotonic_ns();
    routers.server.command(&["ip", "-batch", "-"], &batch).unwrap();
    trial.wait_steady(since_ns).unwrap();
    let [to_server, to_client] = trial.reports(since_ns);
    println!("to the server: {to_server:?}\nto the client: {to_client:?}");
    // The detection time is 150 ms; a busy machine takes its own.
    assert!(to_server.outage_ns < 400_000_000, "{to_server:?}");
    assert!(to_client.outage_ns < 400_000_000, "{to_client:?}");
    let same = link(&trial, End::Client, name);
    assert_eq!((same["state"].as_str(), same["flaps"].as_u64()), (Some("up"), Some(0)), "{same:#}");
    assert_eq!(active(&routers.daemon(End::Client).status().unwrap(), CLIENT_GROUP), [name]);
    let log = routers.daemon(End::Client).log();
    assert!(log.contains("02:00:00:00:00:99"), "{log}");
}
