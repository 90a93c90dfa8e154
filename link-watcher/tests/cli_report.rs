//! `link-watcher report` as it is typed: with a daemon, without one, and what it says where it cannot.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, os::unix::process::CommandExt as _, process::Output};

use link_watcher::{
    event::LinkVerdict,
    state::Store as _,
    statistics::{Measured, Statistics, date, today},
};
use link_watcher_programs::own;
use serde_json::Value;
use support::{Desk, daemon::FakeDaemon};

fn report(desk: &Desk, arguments: &[&str]) -> Output {
    let mut command = own(env!("CARGO_BIN_EXE_link-watcher"));
    command.arg("report").args(arguments).arg("--socket").arg(desk.path("c.sock"));
    command.arg("--config").arg(desk.path("c.toml")).output().unwrap()
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// With a configuration whose daemon keeps its state on the desk.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("c.toml", "[daemon]\nstate-directory = \"state\"\n");
    desk
}

/// One look at a link.
fn look(statistics: &Statistics) {
    let measured = Measured {
        group: "hq".to_owned(),
        link: "optic".to_owned(),
        verdict: LinkVerdict::Up,
        sent: 100,
        received: 99,
        rtt_ns: Some(412_000),
    };
    statistics.measured(u64::MAX, &[measured]);
}

#[test]
fn a_daemon_tells_of_the_days() {
    let desk = desk();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    let (code, text, complaint) = said(&report(&desk, &[]));
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert!(text.ends_with("Nothing is known of these days.\n"), "{text}");
    look(&daemon.statistics);
    let (code, text, _) = said(&report(&desk, &[]));
    assert!(code == 0 && text.contains("\n\nhq optic\nDAY ") && text.contains(&date(today())), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let (code, json, _) = said(&report(&desk, &["hq", "optic", "--json", "--since", "2d"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["source"], &json["groups"][0]["links"][0]["name"]), (0, &"daemon".into(), &"optic".into()));
    assert_eq!(json["until"], date(today()));
    assert_ne!(json["since"], json["until"]);
}

#[test]
fn unknown_names_and_times_are_wrong_usage() {
    let desk = desk();
    let daemon = FakeDaemon::start(&desk.path("c.sock")).unwrap();
    look(&daemon.statistics);
    let unknown = said(&report(&desk, &["lyon"]));
    assert_eq!(unknown, (2, String::new(), "link-watcher: no group is called lyon; there is hq\n".to_owned()));
    let unknown = said(&report(&desk, &["hq", "fibre"]));
    assert_eq!(unknown.2, "link-watcher: hq has no link fibre; it has optic\n");
    assert_eq!(said(&report(&desk, &["--since", "yesterday"])).0, 2);
}

#[test]
fn without_a_daemon_the_files_tell_and_say_so() {
    let desk = desk();
    let (code, text, complaint) = said(&report(&desk, &[]));
    assert_eq!((code, text.as_str()), (69, ""), "nothing was written either");
    assert!(complaint.starts_with("link-watcher: no daemon answers on "), "{complaint}");
    let statistics = Statistics::load(&desk.path("state/main"));
    look(&statistics);
    statistics.writer().keep(&statistics.to_keep(true)).unwrap();
    let (code, text, complaint) = said(&report(&desk, &["--json"]));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["source"]), (0, &"files".into()));
    let link = &json["groups"][0]["links"][0];
    let (median_ms, days) = (link["total"]["rtt_median_ms"].as_f64().unwrap(), link["days"].as_array().unwrap());
    assert!((median_ms - 0.412).abs() < 0.412 * 0.032 && days.len() == 1, "{link}");
    assert!(complaint.contains("state/main: ") || complaint.contains("this is what it has written to"), "{complaint}");
    // A later run goes on with them.
    let again = Statistics::load(&desk.path("state/main")).day(today()).unwrap();
    assert_eq!(again.groups["hq"].links["optic"].rtt.count(), 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn who_may_not_read_the_files_is_told() {
    let desk = desk();
    let statistics = Statistics::load(&desk.path("state/main"));
    look(&statistics);
    statistics.writer().keep(&statistics.to_keep(true)).unwrap();
    fs::set_permissions(desk.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_link-watcher"), desk.path("link-watcher")).unwrap();
    let mut command = own(desk.path("link-watcher"));
    command.arg("report").arg("--socket").arg(desk.path("c.sock")).arg("--config").arg(desk.path("c.toml"));
    let (code, text, complaint) = said(&command.uid(65534).gid(65534).output().unwrap());
    assert_eq!((code, text.as_str()), (77, ""), "{complaint}");
    assert!(complaint.contains("is for root only"), "{complaint}");
}
