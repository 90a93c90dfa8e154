//! What a reload changes of a peer is so from then on, and what it does not change goes on; also when the daemon dies meanwhile.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use link_watcher_lab::daemon::binary;
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP, TwoRouters};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::{active, group, link, usable};
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{End, Lab, monotonic_ns};

fn setup() -> Setup {
    Setup { interval: Duration::from_millis(50), hold_up: Duration::from_millis(200), ..Setup::default() }
}

fn routers(setup: Setup) -> TwoRouters {
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    routers.start_daemons().unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    routers.wait_all_usable(PATIENCE).unwrap();
    routers
}

/// Client and server change places: their links are others from then on, and work as before.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn roles_that_change_places_make_other_links() {
    let routers = routers(setup());
    for (end, from, to) in [(End::Client, "client", "server"), (End::Server, "server", "client")] {
        let role = |role: &str| format!("role = \"{role}\"");
        routers.daemon(end).edit_config(|text| text.replace(&role(from), &role(to))).unwrap();
        routers.daemon(end).command(&["reload"]).unwrap();
        if end == End::Client {
            // Two servers do not work, and that shows now, not with the next choice.
            let none = || Ok(usable(&routers.server_daemon.status()?, SERVER_GROUP).is_empty().then_some(()));
            routers.lab.wait_until("two servers to find no link", PATIENCE, none).unwrap();
        }
    }
    let status = routers.daemon(End::Server).status().unwrap();
    assert_eq!(group(&status, SERVER_GROUP).unwrap()["role"], "client");
    routers.wait_all_usable(PATIENCE).unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    // Who chooses now chooses, and the other one follows.
    routers.daemon(End::Server).command(&["switch", SERVER_GROUP, "wifi"]).unwrap();
    routers.wait_active("wifi", PATIENCE).unwrap();
    routers.lab.pause(2 * routers.setup.detection()).unwrap();
    routers.wait_all_usable(Duration::ZERO).unwrap();
    for (end, name) in [(End::Client, CLIENT_GROUP), (End::Server, SERVER_GROUP)] {
        assert_eq!(active(&routers.daemon(end).status().unwrap(), name), ["wifi"]);
    }
    routers.daemon(End::Server).command(&["switch", SERVER_GROUP, "auto"]).unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
}

/// What the peer announced long ago is judged by the list that holds now.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_narrower_or_wider_accept_counts_at_once() {
    for backend in ["routes", "tables", "nexthop"] {
        let routers = routers(Setup { server_settings: format!("actuation = \"{backend}\""), ..setup() });
        let server = routers.daemon(End::Server);
        let announced = |routers: &TwoRouters| {
            let status = routers.daemon(End::Server).status().unwrap();
            group(&status, SERVER_GROUP).unwrap()["announced_to_us"].as_array().unwrap().len()
        };
        let all = routers.beyond(End::Server).unwrap();
        let wait = |what: &str, count: usize| {
            let there = || {
                let routes = server.namespace().ip("route show table all proto 208")?;
                let stand = all.iter().filter(|prefix| routes.contains(&prefix.to_string())).count();
                Ok((announced(&routers) == count && stand == count).then_some(()))
            };
            routers.lab.wait_until(what, PATIENCE, there).unwrap();
        };
        wait("all announced prefixes", all.len());
        let kept = all[0].to_string();
        let accept = |prefixes: &[String]| {
            let line = format!(
                "accept = [{}]",
                prefixes.iter().map(|net| format!("\"{net}\"")).collect::<Vec<_>>().join(", ")
            );
            let edit = |text: String| {
                let replaced = text.lines().map(|old| if old.starts_with("accept = ") { line.as_str() } else { old });
                replaced.map(|line| format!("{line}\n")).collect()
            };
            server.edit_config(edit).unwrap();
            server.command(&["reload"]).unwrap();
        };
        accept(std::slice::from_ref(&kept));
        assert_eq!(announced(&routers), 1, "{backend}: the reload has judged it");
        wait("the others to go", 1);
        let status = routers.daemon(End::Client).status().unwrap();
        assert!(group(&status, CLIENT_GROUP).unwrap()["announcements"]["sent"].is_number());
        accept(&all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(announced(&routers), all.len(), "{backend}: the reload has judged it");
        wait("the others to be back", all.len());
    }
}

/// A link that is probed once a minute does not vouch for a daemon that is dead: the others say so as soon as ever.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slow_link_does_not_keep_a_dead_daemon_alive_on_the_others() {
    let routers = TwoRouters::build(setup(), &binary().unwrap()).unwrap();
    let key = routers.client_daemon.command(&["generate", "key"]).unwrap();
    for (end, role, far) in [(End::Client, "client", "198.51.100.0/24"), (End::Server, "server", "198.51.101.0/24")] {
        let key = routers.daemon(end).write_key("slow.key", key.trim()).unwrap();
        let slow = |text: String| {
            let (head, links) = text.split_once("[[peer.link]]").unwrap();
            let (of_slow, of_fast): (Vec<&str>, Vec<&str>) =
                links.split("[[peer.link]]").partition(|link| link.contains("name = \"tunnel\""));
            let listed =
                |links: Vec<&str>| links.iter().map(|link| format!("[[peer.link]]{link}\n")).collect::<String>();
            let peer = format!(
                "[[peer]]\nname = \"slow\"\nrole = \"{role}\"\nport = 46722\nkey-files = [\"{}\"]\n\
                 interval = \"60s\"\nmultiplier = 10\nroutes = [\"{far}\"]\n",
                key.display()
            );
            format!("{head}{}{peer}{}", listed(of_fast), listed(of_slow))
        };
        routers.daemon(end).edit_config(slow).unwrap();
    }
    routers.start_daemons().unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    let slow =
        || Ok((link(&routers.client_daemon.status()?, "slow", "tunnel").unwrap()["state"] == "up").then_some(()));
    routers.lab.wait_until("the slow link to be up", PATIENCE, slow).unwrap();
    routers.server_daemon.kill();
    let silent = || {
        let status = routers.client_daemon.status()?;
        Ok(group(&status, CLIENT_GROUP).unwrap()["peer_silence_s"].as_u64())
    };
    routers.lab.wait_until("the client to hear that the server's daemon is silent", PATIENCE, silent).unwrap();
}

/// What nobody has confirmed is taken back by a start, too, however the daemon ended; and by the next one.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_nobody_confirmed_does_not_outlive_a_crash() {
    let routers = routers(setup());
    let daemon = &routers.client_daemon;
    let tier = || link(&daemon.status().unwrap(), CLIENT_GROUP, "optic").unwrap()["tier"].clone();
    let before = tier();
    daemon.edit_config(|text| text.replacen("name = \"optic\"\n", "name = \"optic\"\ntier = 9\n", 1)).unwrap();
    daemon.command(&["reload", "--confirm-within", "1h"]).unwrap();
    assert_eq!(tier(), 9);
    for restart in 0..2 {
        daemon.kill();
        daemon.start().unwrap();
        assert_eq!(tier(), before, "restart {restart}: the former configuration serves");
        let config = daemon.status().unwrap()["config"].clone();
        assert_eq!(config["last_reload_successful"], false, "restart {restart}: {config:#}");
        assert!(config["problem"].as_str().unwrap().contains("nobody confirmed the file"), "{config:#}");
        assert!(daemon.log().contains("nobody confirmed the file"));
    }
    routers.wait_active("optic", PATIENCE).unwrap();
    // Who stands for it has it, over a crash as well.
    daemon.command(&["reload", "--confirm-within", "1h"]).unwrap();
    daemon.command(&["confirm"]).unwrap();
    for restart in 0..2 {
        assert_eq!(tier(), 9, "restart {restart}: what is confirmed stays");
        assert_eq!(daemon.status().unwrap()["config"]["last_reload_successful"], true);
        daemon.kill();
        daemon.start().unwrap();
    }
    // Another file is none that waits.
    daemon.edit_config(|text| text.replacen("tier = 9", "tier = 8", 1)).unwrap();
    daemon.command(&["reload", "--confirm-within", "1h"]).unwrap();
    daemon.edit_config(|text| text.replacen("tier = 8", "tier = 7", 1)).unwrap();
    daemon.kill();
    daemon.start().unwrap();
    assert_eq!(tier(), 7);
}

/// With sockets nobody answers for a daemon that is away: what it said of its stop counts, and nothing moves.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_planned_restart_with_sockets_is_no_outage() {
    let setup = Setup { engine: "socket".to_owned(), ..setup() };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap();
    let routers = &trial.routers;
    for (restarted, other, name) in [(End::Server, End::Client, CLIENT_GROUP), (End::Client, End::Server, SERVER_GROUP)]
    {
        let since_ns = monotonic_ns();
        let lines = |end: End| routers.daemon(end).log().lines().count();
        let before = lines(other);
        routers.daemon(restarted).stop().unwrap();
        routers.lab.pause(4 * routers.setup.detection()).unwrap();
        let status = routers.daemon(other).status().unwrap();
        assert_eq!(active(&status, name), ["optic"], "{status:#}");
        routers.daemon(restarted).start().unwrap();
        routers.wait_all_usable(PATIENCE).unwrap();
        routers.wait_active("optic", PATIENCE).unwrap();
        trial.wait_steady(monotonic_ns()).unwrap();
        let log = routers.daemon(other).log();
        let said: Vec<&str> = log.lines().skip(before).collect();
        assert!(!said.iter().any(|line| line.contains("is down") || line.contains("moved")), "{said:#?}");
        for report in trial.reports(since_ns) {
            assert_eq!((report.lost, report.duplicates), (0, 0), "{report:?}");
        }
    }
}
