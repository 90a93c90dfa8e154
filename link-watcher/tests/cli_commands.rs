//! The commands as they are typed: what they print where, and their exit codes.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use link_watcher::{
    cli,
    control::Change,
    keys::{Key, Secret},
    trace::Trace,
};
use link_watcher_programs::own;
use serde_json::Value;
use support::{
    Desk,
    daemon::{FakeDaemon, event, snapshot},
};

fn command(arguments: &[&str]) -> Command {
    let mut command = own(env!("CARGO_BIN_EXE_link-watcher"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs it as a user who may do nothing, which only root can become. The binary is copied to where that user
/// can reach it.
fn run_as_nobody(desk: &Desk, arguments: &[&str]) -> Output {
    run_as(desk, NOBODY, NOBODY, arguments)
}

/// A user, and a group, who may do nothing.
const NOBODY: u32 = 65534;

fn run_as(desk: &Desk, uid: u32, gid: u32, arguments: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let binary = desk.path("link-watcher");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_link-watcher"), &binary).unwrap();
    }
    fs::set_permissions(desk.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    own(binary).args(arguments).uid(uid).gid(gid).output().unwrap()
}

/// A configuration that is right on every machine: its link is the loopback interface.
const ON_LOOPBACK: &str = "[[peer]]\nname = \"hq\"\nrole = \"client\"\nkey-files = [\"hq.key\"]\n\
                           routes = [\"203.0.113.0/24\"]\n\
                           [[peer.link]]\nname = \"a\"\ninterface = \"lo\"\nremote = \"127.0.0.2\"\n";

#[test]
fn check_says_that_a_configuration_is_good() {
    let desk = Desk::new();
    let path = desk.write("c.toml", &ON_LOOPBACK.replace("role", "multiplier = 1\nrole"));
    let output = run(&["check", path.to_str().unwrap()]);
    assert_eq!((code(&output), stdout(&output)), (0, format!("{} is good: 1 peer, 1 link\n", path.display())));
    assert!(stderr(&output).starts_with("warning: with multiplier = 1 "), "{}", stderr(&output));
}

#[test]
fn check_refuses_with_78_and_complains_on_stderr() {
    let desk = Desk::new();
    let path = desk.write("c.toml", &ON_LOOPBACK.replace("\"lo\"", "\"no-such-if0\""));
    for arguments in [vec!["check", path.to_str().unwrap()], vec!["check", "--config", path.to_str().unwrap()]] {
        let output = run(&arguments);
        assert_eq!((code(&output), stdout(&output)), (78, String::new()));
        assert!(stderr(&output).contains(&format!(
            "error: there is no interface no-such-if0 here\n --> {}:8:13\n  |\n8 | interface = \"no-such-if0\"\n  |             \
             ^^^^^^^^^^^^^\n  = help: there are ",
            path.display()
        )));
        assert!(stderr(&output).ends_with("c.toml is refused: 1 error\n"));
    }
    let missing = run(&["check", "/nowhere/c.toml"]);
    assert_eq!(code(&missing), 78);
    assert_eq!(
        stderr(&missing),
        "error: there is no such file\n --> /nowhere/c.toml\n  = help: link-watcher generate config prints one to begin \
         with; --config PATH names another\n\n/nowhere/c.toml is refused: 1 error\n"
    );
    fs::write(&path, b"[daemon]\ninstance = \"\xff\"\n").unwrap();
    assert!(stderr(&run(&["check", path.to_str().unwrap()])).contains("it is not UTF-8, first at line 2"));
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        vec!["frobnicate"],
        vec!["switch", "hq"],
        vec!["failover", "perhaps"],
        vec!["drain", "hq", "optic", "--for", "1ms"],
        vec!["weight", "hq", "optic", "heavy"],
        vec!["status", "--colour"],
        vec!["demo", "--interval", "1us"],
        vec!["man", "frobnicate"],
        vec!["generate", "key", "uplinks"],
        vec!["generate", "key", "--force"],
        vec!["generate", "config", "uplinks", "--role", "server"],
        vec!["generate", "config", "pair", "--role", "server"],
        vec!["generate"],
        vec!["generate", "config", "--from", "mwan3", "/etc/config/mwan3"],
        vec!["generate", "config", "--from", "fault-tolerant-router"],
    ] {
        let output = run(&arguments);
        assert_eq!((code(&output), stdout(&output).as_str()), (2, ""), "{arguments:?}");
        assert!(!stderr(&output).is_empty());
    }
    assert_eq!(code(&run(&["--help"])), 0);
    assert_eq!(stdout(&run(&["--version"])), format!("link-watcher {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn no_daemon_is_69_with_a_remedy() {
    let desk = Desk::new();
    let socket = desk.path("none.sock");
    for arguments in [
        vec!["status"],
        vec!["status", "--watch"],
        vec!["events", "--follow"],
        vec!["switch", "hq", "auto"],
        vec!["failover", "off"],
        vec!["drain", "hq", "optic"],
        vec!["reload"],
    ] {
        let output = command(&arguments).arg("--socket").arg(&socket).output().unwrap();
        assert_eq!((code(&output), stdout(&output).as_str()), (69, ""), "{arguments:?}");
        assert!(stderr(&output).contains("Is it running? `systemctl status link-watcher` says."));
    }
}

/// As on a terminal that has been hung up.
#[test]
fn a_complaint_that_cannot_be_written_leaves_the_exit_code() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = command(&["status", "--socket", "/nowhere/control.sock"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(69));
}

#[test]
fn the_socket_is_found_through_the_configuration() {
    let desk = Desk::new();
    let _daemon = FakeDaemon::start(&desk.path("run/c.sock")).unwrap();
    // Whatever else is wrong with the file.
    let path = desk.write("c.toml", "[daemon]\ncontrol-socket = \"run/c.sock\"\nengine = 1\n");
    assert_eq!(code(&run(&["--config", path.to_str().unwrap(), "status"])), 0);
    let missing = run(&["status", "--config", "/nowhere/c.toml"]);
    assert_eq!(code(&missing), 78);
    assert!(stderr(&missing).contains("there is no such file"));
}

#[test]
fn status_as_json_is_one_document() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let output = run(&["status", "--json", "--socket", daemon.socket.to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status, serde_json::to_value(snapshot()).unwrap());
    assert_eq!(status["groups"][0]["links"][0]["dropped"]["forged"], 0);
    assert_eq!(status["groups"][0]["pinned"], Value::Null);
}

#[test]
fn status_for_people() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let output = run(&["status", "--socket", daemon.socket.to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    // No terminal: no colours. Times go on, the rest stands still.
    let text = stdout(&output);
    let since = text.split_once(" active since ").unwrap().1.split_once(" ago: ").unwrap().0.to_owned();
    let text = text.replace(&format!("since {since} ago"), "since");
    let mut without_times: Vec<&str> = text.lines().map(str::trim_end).collect();
    for line in &mut without_times[5..7] {
        // The last cell.
        *line = line.rsplit_once("  ").unwrap().0.trim_end();
    }
    assert_eq!(
        without_times.join("\n"),
        "\
link-watcher 0.1.0, engine xdp, running for 12s

hq (peer, client): optic active since: lowest tier with a usable link
  routes: 2 installed, 0 refused; announced to us: 10.20.20.0/22
    LINK   INTERFACE  TIER  SHARE  STATE  USABLE  RTT ms  LOSS  FOR
  * optic  eth1       1     100%   up     yes     0.042   0%
    wifi   eth2       2     -      down   no      -       100%
      ! carrier lost
      ! all 12 packets of the last 3 s were forged
      ! uses the engine socket: eth2 has another XDP program
        dropped since the start: 12 forged"
    );
}

#[test]
fn status_of_a_group_and_of_a_link_and_of_unknown_ones() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let status = |more: &[&str]| run(&[&["status", "--socket", daemon.socket.to_str().unwrap()], more].concat());
    assert!(stdout(&status(&["hq"])).starts_with("hq (peer, client): optic active since "));
    let link = stdout(&status(&["hq", "wifi"]));
    assert!(link.starts_with("hq wifi (peer): carries no traffic\n  ! carrier lost\n"), "{link}");
    let json: Value = serde_json::from_slice(&status(&["hq", "wifi", "--json"]).stdout).unwrap();
    let mut whole = serde_json::to_value(snapshot()).unwrap();
    whole["groups"][0]["links"].as_array_mut().unwrap().remove(0);
    assert_eq!(json, whole);
    for (names, known) in [
        (vec!["paris"], "no group is called paris; there is hq"),
        (vec!["hq", "fibre", "--json"], "hq has no link fibre; it has optic, wifi"),
    ] {
        let unknown = status(&names);
        assert_eq!((code(&unknown), stdout(&unknown).as_str()), (2, ""));
        assert_eq!(stderr(&unknown), format!("link-watcher: {known}\n"));
    }
}

#[test]
fn the_exit_code_tells_how_things_are_where_it_is_asked_for() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let status = |more: &[&str]| run(&[&["status", "--socket", daemon.socket.to_str().unwrap()], more].concat());
    assert_eq!(code(&status(&[])), 0);
    let bare = status(&["--exit-code"]);
    assert_eq!(code(&bare), 1, "wifi is down: optic has no spare");
    assert!(stdout(&bare).contains("hq (peer, client)"), "and it is shown all the same");
    assert_eq!(code(&status(&["hq", "--exit-code", "--json"])), 1);
    assert_eq!(code(&status(&["hq", "optic", "--exit-code"])), 0);
    assert_eq!(code(&status(&["hq", "wifi", "--exit-code"])), 2);
    drop(daemon);
    assert_eq!(code(&run(&["status", "--exit-code", "--socket", desk.path("c.sock").to_str().unwrap()])), 69);
}

#[test]
fn notes_of_a_group_stand_below_its_links() {
    let mut snapshot = snapshot();
    snapshot.groups[0].peer_silence_s = Some(5);
    snapshot.groups[0].pinned = Some("wifi".to_owned());
    snapshot.groups[0].failover = false;
    let text = cli::render_status(&snapshot, std::time::SystemTime::UNIX_EPOCH, cli::Style::default());
    let at = text.find("  ! pinned").unwrap();
    assert_eq!(
        text[at..],
        *"  ! pinned to wifi by hand; `link-watcher switch hq auto` lets the group choose
    again
  ! automatic failover is off by hand; `link-watcher failover on hq` turns it on
    again
  ! the peer's daemon has been silent for 5 s; its kernel still answers, so that
    the links are judged as ever
"
    );
}

#[test]
fn status_is_watched_until_nobody_reads() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let mut watching = command(&["status", "--watch", "--json", "--socket", daemon.socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    let status: Value = serde_json::from_str(&first).expect("one document a line");
    assert_eq!(status["version"], "0.1.0");
    drop(lines);
    assert_eq!(watching.wait().unwrap().code(), Some(1));
}

#[test]
fn changes_reach_the_daemon_as_they_were_typed() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let socket = daemon.socket.to_str().unwrap();
    let group = || "hq".to_owned();
    let link = || "optic".to_owned();
    let cases = [
        (vec!["switch", "hq", "optic"], Change::Switch { group: group(), link: Some(link()), force: false }),
        (vec!["switch", "hq", "optic", "--force"], Change::Switch { group: group(), link: Some(link()), force: true }),
        (vec!["switch", "hq", "auto"], Change::Switch { group: group(), link: None, force: false }),
        (vec!["failover", "off"], Change::Failover { group: None, on: false }),
        (vec!["failover", "on", "hq"], Change::Failover { group: Some(group()), on: true }),
        (vec!["drain", "hq", "optic"], Change::Drain { group: group(), link: link(), for_seconds: None }),
        (
            vec!["drain", "hq", "optic", "--for", "2h 1s"],
            Change::Drain { group: group(), link: link(), for_seconds: Some(7201) },
        ),
        (vec!["weight", "hq", "optic", "5"], Change::Weight { group: group(), link: link(), weight: Some(5) }),
        (vec!["weight", "hq", "optic", "file"], Change::Weight { group: group(), link: link(), weight: None }),
        (vec!["undrain", "hq", "optic"], Change::Undrain { group: group(), link: link() }),
    ];
    for (arguments, change) in cases {
        let output = command(&arguments).args(["--socket", socket]).output().unwrap();
        assert_eq!((code(&output), stdout(&output)), (0, format!("done: {change:?}\n")));
        assert_eq!(daemon.asked.lock().unwrap().pop(), Some(change));
    }
}

#[test]
fn the_daemon_knows_who_orders_and_why() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let socket = daemon.socket.to_str().unwrap();
    let order = |sudo_user: &str, reason: &str| {
        let mut command = command(&["drain", "hq", "optic", "--reason", reason, "--socket", socket]);
        command.env("SUDO_USER", sudo_user).output().unwrap()
    };
    assert_eq!(code(&order("anna", "splicing")), 0);
    let author = daemon.authors.lock().unwrap().pop().unwrap();
    assert_eq!(author.reason.as_deref(), Some("splicing"));
    // Who runs the tests is known to the kernel; who is behind him only by his own word.
    assert!(author.by.ends_with(" (anna by sudo)"), "{}", author.by);
    assert_eq!(code(&order("anna; rm", "")), 0);
    let author = daemon.authors.lock().unwrap().pop().unwrap();
    assert!(!author.by.contains("anna") && author.reason.is_none(), "{author:?}");
    let long = order("anna", &"x".repeat(201));
    assert_eq!((code(&long), stderr(&long).as_str()), (1, "link-watcher: a reason has at most 200 characters\n"));
}

#[test]
fn what_the_daemon_refuses_is_1_and_a_refused_configuration_78() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let socket = daemon.socket.to_str().unwrap();
    let output = run(&["switch", "paris", "optic", "--socket", socket]);
    assert_eq!((code(&output), stdout(&output).as_str()), (1, ""));
    assert_eq!(stderr(&output), "link-watcher: there is no group \"paris\"; there is hq\n");
    let output = run(&["reload", "--socket", socket]);
    assert_eq!(code(&output), 78);
    assert_eq!(stderr(&output), "the configuration is refused; the old one stays\n");
}

#[test]
fn a_core_that_stops_is_69() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let output = run(&["switch", "", "auto", "--socket", daemon.socket.to_str().unwrap()]);
    assert_eq!((code(&output), stderr(&output).as_str()), (69, "link-watcher: the daemon is stopping\n"));
}

#[test]
fn events_for_people_and_for_scripts() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let socket = daemon.socket.to_str().unwrap();
    daemon.push(30);
    daemon.history.push(link_watcher::control::EventRecord {
        link: None,
        what: "active-changed".to_owned(),
        from: vec!["optic".to_owned()],
        to: vec!["wifi".to_owned()],
        took_ms: Some(0.25),
        trace: Some(Trace {
            last_good_ns: Some(1_000_000_000),
            due_ns: Some(1_030_750_000),
            woke_ns: Some(1_030_800_000),
            received_ns: Some(1_030_820_000),
            decided_ns: 1_030_840_000,
            routed_ns: 1_031_090_000,
        }),
        ..event(31)
    });
    let output = run(&["events", "--socket", socket]);
    assert_eq!(
        stdout(&output),
        "2026-11-20T12:00:00.123Z  hq optic: link-down: no echo for 30 ms (detected in 30.0 ms)\n\
         2026-11-20T12:00:00.123Z  hq: active-changed optic -> wifi: no echo for 31 ms (took 31.1 ms: silence 30.8, wake \
         0.05, decide 0.04, routes 0.2)\n"
    );
    let output = run(&["events", "--json", "--socket", socket]);
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], serde_json::to_value(event(30)).unwrap());
    assert_eq!(lines.len(), 2);
}

#[test]
fn events_are_followed_as_they_come_until_the_daemon_ends() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    daemon.push(1);
    let mut following = command(&["events", "--follow", "--json", "--socket", daemon.socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert_eq!(next()["why"], "no echo for 1 ms");
    daemon.push(2);
    assert_eq!(next()["why"], "no echo for 2 ms");
    drop(daemon);
    assert_eq!(code(&following.wait_with_output().unwrap()), 69);
}

#[test]
fn a_generated_key_is_good_and_never_overwritten() {
    let desk = Desk::new();
    let path = desk.path("new.key");
    let generate = || run(&["generate", "key", "--output", path.to_str().unwrap()]);
    assert_eq!(code(&generate()), 0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let key = Key::read(&path).unwrap();
    let again = generate();
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains("exists already and is left as it is"));
    assert_eq!(Key::read(&path).unwrap(), key);
    assert_eq!(code(&run(&["generate", "key", "--force", "--output", path.to_str().unwrap()])), 0);
    assert_ne!(Key::read(&path).unwrap(), key);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let printed = run(&["generate", "key"]);
    desk.write_key("printed.key", 0o600, &stdout(&printed));
    assert_ne!(Key::read(&desk.path("printed.key")).unwrap(), key);
    let nowhere = run(&["generate", "key", "--output", "/dev/null/k"]);
    assert_eq!(code(&nowhere), 1);
    assert!(stderr(&nowhere).contains("a part of its path is a file"), "{}", stderr(&nowhere));
}

#[test]
fn the_nftables_of_a_configuration_are_printed() {
    let example = format!("{}/examples/uplinks.toml", env!("CARGO_MANIFEST_DIR"));
    let printed = run(&["generate", "nft", "--config", &example]);
    assert_eq!(code(&printed), 0, "{}", stderr(&printed));
    assert!(stdout(&printed).contains("\ntable inet link_watcher {\n"), "{}", stdout(&printed));
    assert!(stdout(&printed).contains("numgen inc mod "));
    let desk = Desk::new();
    desk.write_key("hq.key", 0o600, Secret::generate().unwrap().to_base64().as_str());
    let peer_only = desk.write("peer.toml", ON_LOOPBACK);
    let refused = run(&["generate", "nft", "--config", peer_only.to_str().unwrap()]);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("has no [[uplinks]]"), "{}", stderr(&refused));
}

#[test]
fn completions_and_pages_are_printed() {
    assert!(stdout(&run(&["completions", "bash"])).contains("complete -F"));
    assert!(stdout(&run(&["man"])).contains(".TH link-watcher 8"));
    let page = stdout(&run(&["man", "drain"]));
    assert!(page.contains(".TH link-watcher-drain 8") && page.contains("socket"), "{page}");
}

#[test]
fn the_doctor_looks_at_this_machine() {
    let desk = Desk::new();
    let good = desk.write("c.toml", ON_LOOPBACK);
    let output = run(&["doctor", "--json", "--config", good.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(code(&output), i32::from(report["missing"] != 0), "{report:#}");
    assert_eq!(report["checks"][0]["check"], "configuration");
    // It has one link, and so no spare.
    assert_eq!(report["checks"][0]["level"], "warning");
    let looked: Vec<_> = report["checks"].as_array().unwrap().iter().map(|check| &check["check"]).collect();
    for check in ["kernel", "nexthops", "interface", "neighbour", "clock"] {
        assert!(looked.iter().any(|looked| *looked == check), "{check} in {looked:?}");
    }
    let bad = desk.write("bad.toml", "[[peer]]\n");
    let output = run(&["doctor", "--config", bad.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(stdout(&output).starts_with("missing  configuration"), "{}", stdout(&output));
}

#[test]
fn another_programs_configuration_is_converted() {
    let desk = Desk::new();
    let yaml = "uplinks:\n- interface: lo\n  ip: 127.0.0.1\n  gateway: 127.0.0.2\n  description: Loop\n\
                downlinks:\n  lan:\ntests:\n  ips: [192.0.2.1]\n  interval: 60\ncolour: red\n";
    let path = desk.write("ftr.conf", yaml);
    let convert = |more: &[&str]| {
        let from = ["generate", "config", "--from", "fault-tolerant-router", path.to_str().unwrap()];
        run(&[&from[..], more].concat())
    };
    let printed = convert(&[]);
    assert_eq!(code(&printed), 0, "{}", stderr(&printed));
    assert!(stderr(&printed).contains("warning: `colour` is not known and was not converted\n"));
    let toml = desk.path("new.toml");
    assert_eq!(code(&convert(&["--output", toml.to_str().unwrap()])), 0);
    assert_eq!(fs::read_to_string(&toml).unwrap(), stdout(&printed));
    let checked = run(&["check", toml.to_str().unwrap()]);
    assert_eq!(
        (code(&checked), stdout(&checked)),
        (0, format!("{} is good: 1 uplink\n", toml.display())),
        "{}",
        stderr(&checked)
    );
    desk.write("ftr.conf", &yaml.replace("gateway: 127.0.0.2", "gateway: localhost"));
    let refused = convert(&[]);
    assert_eq!(code(&refused), 78);
    assert!(stderr(&refused).contains("`gateway` is not an address: \"localhost\""), "{}", stderr(&refused));
    desk.write("ftr.conf", "uplinks: {");
    assert_eq!(code(&convert(&[])), 78);
    desk.write("ftr.conf", &"[".repeat(1 << 20));
    assert_eq!(code(&convert(&[])), 78);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_privilege_it_is_77_and_names_what_is_missing() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let config = desk.write("c.toml", ON_LOOPBACK);
    // A key that nobody may read, and so only what only root can do is missing.
    desk.write_key("nobody.key", 0o600, Secret::generate().unwrap().to_base64().as_str());
    let own = desk.write("own.toml", &ON_LOOPBACK.replace("hq.key", "nobody.key"));
    std::os::unix::fs::chown(desk.path("nobody.key"), Some(65534), None).unwrap();
    let cases = [
        (vec!["status", "--socket", daemon.socket.to_str().unwrap()], "is for root only: run this with sudo"),
        (vec!["run", "--config", own.to_str().unwrap()], "CAP_NET_ADMIN"),
        (vec!["run", "--config", config.to_str().unwrap()], "hq.key cannot be read: permission denied"),
        (vec!["check", config.to_str().unwrap()], "hq.key cannot be read: permission denied"),
    ];
    for (arguments, complaint) in cases {
        let output = run_as_nobody(&desk, &arguments);
        assert_eq!(code(&output), 77, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(complaint), "{}", stderr(&output));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn members_of_the_control_group_may_ask_and_orders_stay_roots() {
    let desk = Desk::new();
    let (member, stranger) = (NOBODY, NOBODY - 1);
    let daemon = FakeDaemon::start_for(&desk.path("c.sock"), member);
    daemon.push(1);
    let socket = daemon.socket.to_str().unwrap();
    let metadata = fs::metadata(&daemon.socket).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.uid(), metadata.gid()), (0o660, 0, member));
    let asked = run_as(&desk, NOBODY, member, &["status", "--json", "--socket", socket]);
    assert_eq!(code(&asked), 0, "{}", stderr(&asked));
    assert_eq!(serde_json::from_slice::<Value>(&asked.stdout).unwrap(), serde_json::to_value(snapshot()).unwrap());
    let events = run_as(&desk, NOBODY, member, &["events", "--socket", socket]);
    assert!(stdout(&events).contains("no echo for 1 ms"), "{}", stderr(&events));
    for order in [
        vec!["switch", "hq", "wifi"],
        vec!["drain", "hq", "optic"],
        vec!["failover", "off"],
        vec!["weight", "hq", "optic", "3"],
        vec!["reload", "--dry-run"],
        vec!["confirm"],
    ] {
        let refused = run_as(&desk, NOBODY, member, &[&order[..], &["--socket", socket]].concat());
        assert_eq!((code(&refused), stdout(&refused).as_str()), (77, ""), "{order:?}");
        assert!(stderr(&refused).ends_with("orders are root's: run this with sudo\n"), "{}", stderr(&refused));
    }
    assert!(daemon.asked.lock().unwrap().is_empty());
    assert_eq!(code(&run(&["switch", "hq", "wifi", "--socket", socket])), 0);
    let elsewhere = run_as(&desk, NOBODY, stranger, &["status", "--socket", socket]);
    assert_eq!(code(&elsewhere), 77);
    assert!(stderr(&elsewhere).contains("is for root only: run this with sudo"), "{}", stderr(&elsewhere));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn readers_never_keep_out_whoever_orders() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start_for(&desk.path("c.sock"), NOBODY);
    let socket = daemon.socket.to_str().unwrap();
    let watch = || {
        use std::os::unix::process::CommandExt;
        let mut command = own(desk.path("link-watcher"));
        command.args(["events", "--follow", "--socket", socket]).uid(NOBODY).gid(NOBODY);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    assert_eq!(code(&run_as(&desk, NOBODY, NOBODY, &["status", "--socket", socket])), 0);
    let mut followers: Vec<_> = (0..40).map(|_| watch()).collect();
    // Those who find no place end by themselves: then all places are taken.
    let begun = Instant::now();
    while followers.iter_mut().filter_map(|follower| follower.try_wait().unwrap()).count() < 40 - 16 {
        assert!(begun.elapsed() < Duration::from_secs(30), "more readers have a place than may");
        std::thread::sleep(Duration::from_millis(10));
    }
    let ordered = run(&["switch", "hq", "wifi", "--socket", socket]);
    for follower in &mut followers {
        // It may have ended.
        let _ = follower.kill();
        follower.wait().unwrap();
    }
    assert_eq!(code(&ordered), 0, "root has a place: {}", stderr(&ordered));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn readers_questions_are_bounded_and_roots_are_not() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start_for(&desk.path("c.sock"), NOBODY);
    let question = ["what-if", "hq", "optic", "down", "--socket", daemon.socket.to_str().unwrap()];
    let asked =
        |as_member: bool| stderr(&if as_member { run_as(&desk, NOBODY, NOBODY, &question) } else { run(&question) });
    // Ten at once, and five a second: no machine starts this so slowly.
    let begun = Instant::now();
    let refused =
        std::iter::repeat_with(|| asked(true)).take(200).find(|said| !said.contains("nothing is known")).unwrap();
    assert!(
        refused.contains("have 5 questions (`explain`, `what-if`, `report`) a second, and 10 at once: try again"),
        "{refused}"
    );
    println!("refused after {:?}", begun.elapsed());
    for _ in 0..30 {
        let said = asked(false);
        assert!(said.contains("nothing is known"), "{said}");
    }
}

#[test]
fn packets_are_told_until_the_trace_is_over() {
    let desk = Desk::new();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let trace = |more: &[&str]| run(&[&["trace-packets", "--socket", daemon.socket.to_str().unwrap()], more].concat());
    let told = trace(&["hq", "--for", "1m"]);
    assert_eq!(code(&told), 0);
    assert_eq!(
        stdout(&told),
        "2026-11-20T12:00:00.123Z  hq optic  in  dropped (forged): its signature fits none of the keys\n\
         ... and 7 packets more, which are not told one by one\n"
    );
    assert_eq!(
        stderr(&told),
        "link-watcher: tracing hq optic for 60000 ms\nlink-watcher: 1 packets told, 7 left out\n"
    );
    let lines = stdout(&trace(&["--json"]));
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines[0]["cause"].as_str(), lines[1]["left_out"].as_u64()), (Some("forged"), Some(7)));
    assert_eq!(daemon.authors.lock().unwrap().len(), 2);
    let cut_short = trace(&["--for", "10m"]);
    assert_eq!(code(&cut_short), 1);
    assert!(stderr(&cut_short).contains("ended before its time: the daemon stops"), "{}", stderr(&cut_short));
    for wrong in ["11m", "10ms", "soon"] {
        assert_eq!(code(&trace(&["--for", wrong])), 2, "{wrong}");
    }
}

#[test]
fn a_fingerprint_is_compared_instead_of_the_key() {
    let desk = Desk::new();
    let path = desk.path("made.key");
    let made = run(&["key", "generate", path.to_str().unwrap()]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let text = fs::read_to_string(&path).unwrap();
    desk.write_key("copy.key", 0o400, &format!("\n {text}\n"));
    let print = |name: &str| run(&["key", "fingerprint", desk.path(name).to_str().unwrap()]);
    let printed = stdout(&print("made.key"));
    assert_eq!(printed.trim(), Key::read(&path).unwrap().fingerprint());
    assert_eq!(printed, stdout(&print("copy.key")));
    assert_ne!(printed, stdout(&print("hq.key")));
    desk.write_key("open.key", 0o644, &text);
    let refused = print("open.key");
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("has mode 0644"), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("; chmod 600 "), "{}", stderr(&refused));
}

#[test]
fn a_configuration_that_others_can_change_is_refused() {
    let desk = Desk::new();
    let file = desk.write("c.toml", ON_LOOPBACK);
    for (mode, bits) in [(0o666, "0666"), (0o620, "0620")] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let refused = run(&["check", file.to_str().unwrap()]);
        assert_eq!(code(&refused), 78);
        let said = stderr(&refused);
        assert!(said.contains(&format!("others can change it: file {} has mode {bits}", file.display())), "{said}");
        assert!(said.contains(&format!("chmod go-w {}", file.display())), "{said}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let good = run(&["check", file.to_str().unwrap()]);
    assert_eq!(code(&good), 0, "{}", stderr(&good));
}
