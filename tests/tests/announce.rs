//! Ten thousand prefixes announced between two daemons: how long it takes, and what keepalives and traffic notice.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use link_watcher_lab::announcement::{ACCEPTS, announce};
use link_watcher_lab::daemon::binary;
use link_watcher_lab::routers::{TwoRouters, link_address};
use link_watcher_lab::setup::{Family, Setup};
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::{End, Lab};
use serde_json::Value;

const PREFIXES: usize = 10_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ten_thousand_prefixes_take_a_second_and_cost_no_keepalive() {
    let setup = Setup {
        client_settings: ACCEPTS.to_owned(),
        failback: Duration::from_millis(300),
        hold_up: Duration::from_millis(200),
        ..Setup::cables(3, Duration::from_millis(10), 3)
    };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 2000).unwrap();
    let announced = announce(&trial, PREFIXES).unwrap();
    println!("{announced:?}");
    assert_eq!((announced.lost, announced.false_downs), (0, 0), "no packet was lost, no keepalive missed");
    assert!(announced.announced_ns < 1_000_000_000, "announced within a second");
    // The change to tables is over when they stand for every link.
    let client = trial.routers.daemon(End::Client);
    let handed = || Ok(client.log().contains("stand in a table for each link").then_some(()));
    trial.routers.lab.wait_until("tables", PATIENCE, handed).unwrap();
    // A failover now moves them all in time.
    let reports = trial.cut_first().unwrap();
    for report in reports {
        println!("out for {:.1} ms", report.outage_ns as f64 / 1e6);
        assert!(report.outage_ns < 45_000_000, "{report:?}");
    }
}

/// Makes the server announce this list from now on.
fn announce_list(routers: &TwoRouters, list: &[String]) {
    let server = routers.daemon(End::Server);
    let text = fs::read_to_string(server.config_path()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("announce = "));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let quoted: Vec<String> = list.iter().map(|prefix| format!("\"{prefix}\"")).collect();
    let announce = format!("role = \"server\"\nannounce = [{}]\n", quoted.join(", "));
    fs::write(server.config_path(), text.replacen("role = \"server\"\n", &announce, 1)).unwrap();
    server.command(&["reload"]).unwrap();
}

fn announcements(routers: &TwoRouters, end: End) -> Value {
    routers.daemon(end).status().unwrap()["groups"][0]["announcements"].clone()
}

fn routers(client_settings: &str) -> TwoRouters {
    let setup = Setup {
        client_settings: client_settings.to_owned(),
        hold_up: Duration::from_millis(200),
        ..Setup::cables(2, Duration::from_millis(50), 3)
    };
    let routers = TwoRouters::build_in(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
    routers.start_daemons().unwrap();
    routers.wait_all_usable(PATIENCE).unwrap();
    routers
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_two_lists_in_quick_succession_the_newer_is_in_use_within_a_second() {
    let routers = routers(ACCEPTS);
    let list = |count: u32| (0..count).map(|i| format!("172.16.{i}.0/24")).collect::<Vec<_>>();
    for count in [3, 5, 4, 6] {
        announce_list(&routers, &list(2));
        announce_list(&routers, &list(count));
        let newest = || {
            let status = routers.daemon(End::Client).status()?;
            let used = status["groups"][0]["announced_to_us"].as_array().map_or(0, Vec::len);
            Ok((used == count as usize).then_some(()))
        };
        routers.lab.wait_until("the newest list", Duration::from_millis(1_500), newest).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_no_peer_has_a_say_in_is_refused_and_said_at_both_ends() {
    let routers = routers("accept = [\"0.0.0.0/0\", \"224.0.1.0/24\"]\n");
    // What the server sends to the client is the client's own networks.
    let mut own = routers.beyond(End::Server).unwrap().into_iter();
    let own = own.find(|prefix| (1..32).contains(&prefix.prefix_len())).unwrap();
    let mut list: Vec<String> = ["127.0.0.0/8", "224.0.0.0/24", "169.254.0.0/16"].map(str::to_owned).to_vec();
    list.extend(own.subnets(own.prefix_len() + 1).unwrap().map(|half| half.to_string()));
    list.push(format!("{}/32", link_address(1, Family::V4, End::Client)));
    let refused = list.len();
    list.extend(["172.16.1.0/24".to_owned(), "224.0.1.0/24".to_owned()]);
    announce_list(&routers, &list);
    let done = || {
        let status = announcements(&routers, End::Server);
        Ok((status["acknowledged"] == true && status["sent"] == list.len()).then_some(status))
    };
    let told = routers.lab.wait_until("the acknowledgement", Duration::from_secs(3), done).unwrap();
    assert_eq!(told["refused_by_peer_count"], refused, "{told}");
    let here = announcements(&routers, End::Client);
    assert_eq!((&here["received"], &here["refused_count"]), (&list.len().into(), &refused.into()), "{here}");
    let status = routers.daemon(End::Client).status().unwrap();
    let used = &status["groups"][0]["announced_to_us"];
    assert_eq!(*used, serde_json::json!(["172.16.1.0/24", "224.0.1.0/24"]), "what `accept` names exactly is used");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn thousands_of_refused_announcements_are_one_line_and_a_count() {
    let routers = routers("accept = [\"10.0.0.0/8\"]\n");
    let list: Vec<String> = (0..4_000).map(|i| format!("172.{}.{}.0/24", 16 + i / 256, i % 256)).collect();
    announce_list(&routers, &list);
    for shorter in [3_999, 3_998, 3_997] {
        announce_list(&routers, &list[..shorter]);
    }
    let done = || Ok((announcements(&routers, End::Client)["refused_count"] == 3_997).then_some(()));
    routers.lab.wait_until("the last list", Duration::from_secs(5), done).unwrap();
    let log = routers.daemon(End::Client).log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("are refused, such as")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_list_beyond_max_prefixes_is_refused_whole_and_said_at_both_ends() {
    let routers = routers("accept = [\"172.16.0.0/12\"]\nmax-prefixes = 100\n");
    announce_list(&routers, &["172.16.1.0/24".to_owned()]);
    let used = |routers: &TwoRouters| {
        routers.daemon(End::Client).status().unwrap()["groups"][0]["announced_to_us"].as_array().map_or(0, Vec::len)
    };
    let first = || Ok((used(&routers) == 1).then_some(()));
    routers.lab.wait_until("the first list", Duration::from_secs(3), first).unwrap();
    announce_list(&routers, &(0..101).map(|i| format!("172.16.{i}.0/24")).collect::<Vec<_>>());
    for end in [End::Client, End::Server] {
        let said =
            || Ok(announcements(&routers, end)["problem"].as_str().filter(|said| said.contains("100")).map(drop));
        routers.lab.wait_until("the refusal", Duration::from_secs(3), said).unwrap();
    }
    assert_eq!(used(&routers), 1, "the former list stays");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_firewall_that_drops_announcements_is_named_at_both_ends_until_it_is_gone() {
    let routers = routers(ACCEPTS);
    let rules = "table inet w13 { chain input { type filter hook input priority 0; udp dport 46721 drop; }; }\n";
    routers.client.command(&["nft", "-f", "-"], rules).unwrap();
    announce_list(&routers, &["172.16.1.0/24".to_owned()]);
    for end in [End::Client, End::Server] {
        let said = || {
            let problem = announcements(&routers, end)["problem"].clone();
            Ok(problem.as_str().filter(|said| said.contains("is UDP 46721 let in?")).map(drop))
        };
        routers.lab.wait_until("the firewall to be named", Duration::from_secs(7), said).unwrap();
        let log = routers.daemon(end).log();
        assert_eq!(log.lines().filter(|line| line.contains("is UDP 46721 let in?")).count(), 1, "one line");
        let events = routers.daemon(end).command(&["events"]).unwrap();
        assert!(events.contains("announcements-unanswered"), "{events}");
    }
    let config = routers.daemon(End::Client).config_path();
    let doctor = || {
        let doctor = ["doctor", "--json", "--config", config.to_str().unwrap()];
        let report = routers.daemon(End::Client).output(&doctor).unwrap();
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["check"] == "announcements");
        checks.cloned().collect::<Vec<Value>>()
    };
    let found = doctor();
    assert_eq!(found.len(), routers.setup.links.len(), "{found:#?}");
    let mut remedies = String::new();
    for check in found {
        let text = |key: &str| check[key].as_str().unwrap().to_owned();
        let where_ = "(table inet w13, hook input, chain input, rule ";
        assert!(text("message").contains(where_) && text("message").contains(": udp dport 46721 drop)"), "{check:#}");
        remedies += text("remedy").strip_prefix("nft ").unwrap().split(',').next().unwrap();
        remedies.push('\n');
    }
    routers.client.command(&["nft", "-f", "-"], &remedies).unwrap();
    assert!(doctor().iter().all(|check| check["level"] == "ok"), "the remedy is one: {:#?}", doctor());
    let healed = || Ok((announcements(&routers, End::Server)["acknowledged"] == true).then_some(()));
    routers.lab.wait_until("the list", Duration::from_millis(1_500), healed).unwrap();
}

/// The seed's "additional routes": what leaves by the interfaces that are announced, followed as it changes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn routes_of_other_protocols_are_announced_as_they_come_and_go() {
    let setup = Setup {
        client_settings: "announce-interfaces = [\"eth0\"]\nannounce-routes = [\"static\", 99]".to_owned(),
        server_settings: String::new(),
        hold_up: Duration::from_millis(200),
        ..Setup::cables(2, Duration::from_millis(50), 3)
    };
    let routers = TwoRouters::build_in(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
    let server = routers.daemon(End::Server);
    let text = fs::read_to_string(server.config_path()).unwrap();
    fs::write(server.config_path(), text.replacen("accept = [", "accept = [\"172.16.0.0/16\", ", 1)).unwrap();
    let ip = |line: &str| {
        let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
        routers.client.command(&words, "").unwrap();
    };
    ip("route add 172.16.1.0/24 via 10.20.20.10 proto static");
    routers.start_daemons().unwrap();
    let wait = |wanted: &[&str]| {
        let announced = || {
            let status = server.status()?;
            let list = status["groups"][0]["announced_to_us"].as_array().cloned().unwrap_or_default();
            let of_others: Vec<&str> =
                list.iter().filter_map(Value::as_str).filter(|prefix| prefix.starts_with("172.16.")).collect();
            Ok((of_others == wanted).then_some(()))
        };
        routers.lab.wait_until(&format!("{wanted:?} to be announced"), PATIENCE, announced).unwrap();
    };
    wait(&["172.16.1.0/24"]);
    ip("route add 172.16.2.0/24 via 10.20.20.10 proto 99");
    // Of another protocol, by another interface, a default, and nowhere at all.
    ip("route add 172.16.3.0/24 via 10.20.20.10 proto 98");
    ip("route add 172.16.4.0/24 dev wan1 proto static");
    ip("route add default via 10.20.20.10 proto static metric 9999");
    ip("route add blackhole 172.16.5.0/24 proto static");
    wait(&["172.16.1.0/24", "172.16.2.0/24"]);
    ip("route del 172.16.1.0/24");
    wait(&["172.16.2.0/24"]);
    // The LAN's cable is pulled, and put in again: the routes are gone for good, and said to be.
    ip("link set eth0 down");
    wait(&[]);
}
