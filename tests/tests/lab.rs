//! The lab itself: what is cut is cut, what is measured is true, and nothing is left.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use link_watcher_lab::forge::Forge;
use link_watcher_lab::frame::Frame;
use link_watcher_lab::meter::{Meter, Report};
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::routers::TwoRouters;
use link_watcher_lab::service::Service;
use link_watcher_lab::setup::{LinkSetup, Medium, Setup};
use link_watcher_lab::wire::Wire;
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};
use link_watcher_programs::{SH, SLEEP};

const STEADY: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(5);

/// Two routers with static routes over their first link, and traffic through them. No daemon runs.
fn routers(setup: Setup) -> (TwoRouters, Meter) {
    let routers = TwoRouters::build(setup, Path::new("/nonexistent")).unwrap();
    routers.client.add_route("0.0.0.0/0".parse().unwrap(), "10.248.248.1".parse().unwrap()).unwrap();
    routers.server.add_route("10.20.20.0/22".parse().unwrap(), "10.248.248.2".parse().unwrap()).unwrap();
    let meter = routers.meter(1000).unwrap();
    meter.wait_steady(&routers.lab, monotonic_ns(), STEADY, LIMIT).unwrap();
    (routers, meter)
}

fn tunnel_only() -> Setup {
    Setup {
        links: vec![LinkSetup {
            name: "tunnel".to_owned(),
            medium: Medium::Tunnel,
            client_interface: "tun1".to_owned(),
            server_interface: "tun1".to_owned(),
        }],
        ..Setup::default()
    }
}

fn reports(meter: &Meter, since_ns: u64) -> [Report; 2] {
    Direction::BOTH.map(|direction| meter.report(direction, since_ns))
}

/// Cuts for 200 ms; returns what the meter says, and for how long it really was cut (at least, at most).
fn cut_for_200_ms(routers: &TwoRouters, meter: &Meter, directions: &[Direction]) -> ([Report; 2], u64, u64) {
    let wire = &routers.wires[0];
    let start_ns = monotonic_ns();
    let cut = match directions {
        [one] => wire.cut_one_way(*one).unwrap(),
        _ => wire.cut().unwrap(),
    };
    routers.lab.pause(Duration::from_millis(200)).unwrap();
    let mended = wire.mend().unwrap();
    println!(
        "cutting took {} µs, mending {} µs",
        (cut.after_ns - cut.before_ns) / 1000,
        (mended.after_ns - mended.before_ns) / 1000
    );
    meter.wait_steady(&routers.lab, mended.after_ns, STEADY, LIMIT).unwrap();
    (reports(meter, start_ns), mended.before_ns - cut.after_ns, mended.after_ns - cut.before_ns)
}

/// The meter's outage is the true one, but for one sending interval at each end.
fn assert_outage(report: Report, at_least_ns: u64, at_most_ns: u64) {
    println!("cut for {at_least_ns}..{at_most_ns} ns: {report:?}");
    // Two sending intervals, and as much again for a sender that was woken late.
    let slack_ns = 4_000_000 + 2 * report.precision_ns;
    assert!(report.outage_ns + slack_ns >= at_least_ns, "{report:?}");
    assert!(report.outage_ns <= at_most_ns + slack_ns, "{report:?}");
    assert!(report.lost > 100, "{report:?}");
}

fn cut_both_ways_and_one_way(setup: Setup) {
    let (routers, meter) = routers(setup);
    let (both, at_least_ns, at_most_ns) = cut_for_200_ms(&routers, &meter, &Direction::BOTH);
    for report in both {
        assert_outage(report, at_least_ns, at_most_ns);
    }
    for direction in Direction::BOTH {
        let (both, at_least_ns, at_most_ns) = cut_for_200_ms(&routers, &meter, &[direction]);
        let cut = usize::from(direction == Direction::ToClient);
        assert_outage(both[cut], at_least_ns, at_most_ns);
        assert_eq!(both[1 - cut].lost, 0, "the other way is not cut");
    }
    let duplicates: u64 = reports(&meter, 0).iter().map(|report| report.duplicates).sum();
    assert_eq!(duplicates, 0);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cable_cut_loses_what_it_should_and_nothing_else() {
    cut_both_ways_and_one_way(Setup::cables(1, Duration::from_millis(100), 3));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tunnel_cut_loses_what_it_should_and_nothing_else() {
    cut_both_ways_and_one_way(tunnel_only());
}

fn silent_cut_keeps_carrier_and_carrier_cut_takes_it(setup: Setup) {
    let (routers, meter) = routers(setup);
    let ends = [
        (&routers.client, &routers.setup.links[0].client_interface, End::Client),
        (&routers.server, &routers.setup.links[0].server_interface, End::Server),
    ];
    let wire = &routers.wires[0];
    wire.cut().unwrap();
    for (namespace, interface, _) in &ends {
        assert!(namespace.has_carrier(interface).unwrap(), "{interface} keeps its carrier");
    }
    wire.mend().unwrap();
    for (namespace, interface, end) in &ends {
        let cut = wire.cut_carrier(*end).unwrap();
        routers
            .lab
            .wait_until("the carrier to go", LIMIT, || Ok((!namespace.has_carrier(interface).unwrap()).then_some(())))
            .unwrap();
        routers.lab.pause(Duration::from_millis(100)).unwrap();
        for report in reports(&meter, cut.after_ns) {
            assert_eq!(report.delivered, 0, "nothing passes: {report:?}");
            assert!(report.sent > 50, "{report:?}");
        }
        let mended = wire.mend().unwrap();
        meter.wait_steady(&routers.lab, mended.after_ns, STEADY, LIMIT).unwrap();
        assert!(namespace.has_carrier(interface).unwrap(), "{interface} has its carrier again");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_cable_can_lose_its_carrier() {
    silent_cut_keeps_carrier_and_carrier_cut_takes_it(Setup::cables(1, Duration::from_millis(100), 3));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tunnel_can_lose_its_carrier() {
    silent_cut_keeps_carrier_and_carrier_cut_takes_it(tunnel_only());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_uncut_link_loses_nothing() {
    for setup in [Setup::cables(1, Duration::from_millis(100), 3), tunnel_only()] {
        let (routers, meter) = routers(setup);
        let start_ns = monotonic_ns();
        routers.lab.pause(Duration::from_secs(2)).unwrap();
        for report in reports(&meter, start_ns) {
            assert!(report.sent > 1500, "{report:?}");
            assert_eq!((report.lost, report.duplicates), (0, 0));
        }
    }
}

/// Every packet that a host sent to the port of `receiver` arrives there twice when it is captured and replayed.
fn captured_frames_can_be_replayed_and_spoilt(setup: Setup) {
    let (routers, meter) = routers(setup);
    drop(meter);
    let forge = Forge::on(&routers.wires[0]).unwrap();
    let bind = |namespace: &Arc<Namespace>, address: &str| {
        let socket = namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    };
    let receiver = bind(&routers.server_hosts, "203.0.113.10:7001");
    let sender = bind(&routers.client_hosts, "10.20.20.10:7002");
    let frames = std::thread::scope(|scope| {
        let capture =
            scope.spawn(|| forge.capture(Direction::ToServer, 3, LIMIT, |frame| frame.ports() == Some((7002, 7001))));
        // The capture begins at some moment of its own: send until it has what it wants.
        while !capture.is_finished() {
            sender.send_to(b"genuine", "203.0.113.10:7001").unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        capture.join().unwrap().unwrap()
    });
    assert_eq!(frames.len(), 3);
    let mut buffer = [0; 64];
    receiver.set_nonblocking(true).unwrap();
    while receiver.recv(&mut buffer).is_ok() {}
    receiver.set_nonblocking(false).unwrap();

    // A silently cut link is no obstacle: the attacker sits at its end.
    routers.wires[0].cut().unwrap();
    let flipped = frames[0].with_flipped_bit(0).unwrap();
    let other = frames[0].with_payload(b"made up").unwrap();
    for (frame, expected) in [(&frames[0], &b"genuine"[..]), (&flipped, &b"fenuine"[..]), (&other, &b"made up"[..])] {
        forge.inject(Direction::ToServer, frame).unwrap();
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], expected);
    }
    let reflected: Frame = frames[0].reflected().unwrap();
    forge.inject(Direction::ToClient, &reflected).unwrap();
    let (len, from) = sender.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.to_string().as_str()), (&b"genuine"[..], "203.0.113.10:7001"));
    let sent = forge.flood(Direction::ToServer, &frames, 20_000, Duration::from_millis(200)).unwrap();
    println!("flooded {sent} frames in 200 ms");
    assert!((100..=4100).contains(&sent));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn frames_of_a_cable_can_be_replayed_and_spoilt() {
    captured_frames_can_be_replayed_and_spoilt(Setup::cables(1, Duration::from_millis(100), 3));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_of_a_tunnel_can_be_replayed_and_spoilt() {
    captured_frames_can_be_replayed_and_spoilt(tunnel_only());
}

/// Files whose names belong to this process's labs.
fn remains() -> Vec<PathBuf> {
    let pid = std::process::id();
    [
        ("/run/netns", format!("lw-{pid}-")),
        (std::env::temp_dir().to_str().unwrap(), format!("link-watcher-lab-{pid}-")),
        ("/sys/fs/bpf/link-watcher", format!("lab-{pid}-")),
    ]
    .iter()
    .flat_map(|(directory, prefix)| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_str().unwrap().starts_with(prefix.as_str()))
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nothing_is_left() {
    // One test binary runs its tests in one process: only this lab's own names are looked for.
    let lab_names = |routers: &TwoRouters| {
        let name = routers.client.name().to_owned();
        let id = name.strip_prefix("lw-").unwrap().strip_suffix("-client").unwrap().to_owned();
        move |path: &PathBuf| path.to_str().unwrap().contains(&id)
    };
    let (routers, meter) = routers(Setup::default());
    let mine = lab_names(&routers);
    let sleeper = routers.client.spawn(SLEEP.command().arg("0")).unwrap();
    assert!(sleeper.wait_with_output().unwrap().status.success());
    assert!(matches!(routers.wires[2], Wire::Tunnel(_)));
    assert_eq!(remains().iter().filter(|path| mine(path)).count(), 6, "five namespaces, a directory");
    drop(meter);
    drop(routers);
    assert_eq!(remains().iter().filter(|path| mine(path)).count(), 0);

    // The same when a test fails.
    let mut name = String::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let routers = TwoRouters::build(Setup::default(), Path::new("/nonexistent")).unwrap();
        name = routers.client.name().to_owned();
        assert!(Path::new("/run/netns").join(&name).exists());
        panic!("as a failing test does");
    }));
    assert!(panicked.is_err());
    assert!(!Path::new("/run/netns").join(&name).exists());
}

/// Whether a process is there and not merely waiting to be reaped.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_ends_with_all_that_it_started() {
    let lab = Lab::new().unwrap();
    let namespace = lab.namespace("service").unwrap();
    for by_lab in [false, true] {
        let mut command = SH.command();
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let service = Service::start(&lab, &namespace, "service", &mut command).unwrap();
        let started =
            lab.wait_until("the service's child", LIMIT, || Ok(service.log().lines().next().map(str::to_owned)));
        let child = started.unwrap();
        service.check().unwrap();
        assert!(lives(&child) && lives(&service.pid().to_string()));
        let pid = service.pid().to_string();
        if by_lab {
            lab.close();
            assert!(service.check().is_err());
        } else {
            drop(service);
        }
        assert!(!lives(&pid));
        // Killed already, but on another processor it may take its time to die.
        lab.wait_until("the child to die", LIMIT, || Ok((!lives(&child)).then_some(()))).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_that_ends_by_itself_is_reported_with_its_last_words() {
    let lab = Lab::new().unwrap();
    let namespace = lab.namespace("service").unwrap();
    let mut command = SH.command();
    command.args(["-c", "echo no such option; exit 3"]);
    let service = Service::start(&lab, &namespace, "service", &mut command).unwrap();
    let ended = lab.wait_until("the service to end", LIMIT, || Ok(service.check().err()));
    assert!(ended.unwrap().to_string().contains("no such option"));
}
