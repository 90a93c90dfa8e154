//! Places that several want: peers with the same prefixes, and routes of others in, before or instead of ours.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use link_watcher_lab::End;
use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP, TwoRouters};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::{active, group};
use link_watcher_lab::trial::PATIENCE;

/// Behind the server.
const FAR: &str = "203.0.113.10";
/// Behind the client.
const NEAR: &str = "10.20.20.10";
/// Another peer with the same prefixes, by the second link.
const OTHER: &str = "dc";

/// Waits until a router's kernel sends there through an interface, whatever any daemon says.
fn wait_through(routers: &TwoRouters, end: End, interface: &str, limit: Duration) {
    let (daemon, there) = match end {
        End::Client => (&routers.client_daemon, FAR),
        End::Server => (&routers.server_daemon, NEAR),
    };
    let through = || {
        // Without any route it fails.
        let said = daemon.namespace().ip(&format!("route get {there}"));
        Ok(said.is_ok_and(|said| said.contains(&format!("dev {interface} "))).then_some(()))
    };
    let waited = routers.lab.wait_until(&format!("{there} to be reached through {interface}"), limit, through);
    assert!(waited.is_ok(), "{waited:?}\n{}", daemon.log_tail());
}

/// Makes the link `wifi` another peer's, with the same settings.
fn split(daemon: &Daemon, name: &str, key: &str) {
    let key = daemon.write_key("other.key", key).unwrap();
    let edit = |text: String| {
        let (head, links) = text.split_once("[[peer.link]]").unwrap();
        let peer = &head[head.find("[[peer]]").unwrap()..];
        let other = peer.replace(&format!("name = \"{name}\""), &format!("name = \"{OTHER}\""));
        let other = other.replace("port = 46721", "port = 46722");
        // What is configured has one way; what is announced may have two.
        let other: String =
            other.lines().filter(|line| !line.starts_with("routes =")).map(|line| format!("{line}\n")).collect();
        let other =
            other.replace(daemon.config_path().with_file_name("peer.key").to_str().unwrap(), key.to_str().unwrap());
        let (of_other, of_first): (Vec<&str>, Vec<&str>) =
            links.split("[[peer.link]]").partition(|link| link.contains("name = \"wifi\""));
        let listed = |links: Vec<&str>| links.iter().map(|link| format!("[[peer.link]]{link}\n")).collect::<String>();
        format!("{head}{}{other}{}", listed(of_first), listed(of_other))
    };
    daemon.edit_config(edit).unwrap();
}

/// A peer whose links are all dead does not keep what another one can carry; when it is back it takes what is free.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_two_peers_with_one_prefix_the_living_one_has_it() {
    for backend in ["routes", "tables", "nexthop"] {
        let setup = Setup {
            interval: Duration::from_millis(50),
            hold_up: Duration::from_millis(200),
            server_settings: format!("actuation = \"{backend}\""),
            ..Setup::default()
        };
        let detection = setup.detection();
        let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
        let key = routers.client_daemon.command(&["generate", "key"]).unwrap();
        split(&routers.client_daemon, CLIENT_GROUP, key.trim());
        split(&routers.server_daemon, SERVER_GROUP, key.trim());
        // Whoever is first has it.
        routers.wire("wifi").unwrap().cut().unwrap();
        routers.start_daemons().unwrap();
        routers.wait_active("optic", PATIENCE).unwrap();
        wait_through(&routers, End::Server, "eth2", PATIENCE);
        routers.wire("wifi").unwrap().mend().unwrap();
        let daemon = &routers.server_daemon;
        let other = || Ok((active(&daemon.status()?, OTHER) == ["wifi"]).then_some(()));
        routers.lab.wait_until("the other peer to have its link", PATIENCE, other).unwrap();
        let routes = |name: &str| group(&daemon.status().unwrap(), name).unwrap()["routes"].to_string();
        let said = |what: &str, name: &str, words: &str| {
            let said = || Ok(routes(name).contains(words).then_some(()));
            assert!(routers.lab.wait_until(what, PATIENCE, said).is_ok(), "{backend}: {}", routes(name));
        };
        said("the prefix to be refused", OTHER, &format!("{SERVER_GROUP} has the same prefix"));
        for link in ["optic", "tunnel"] {
            routers.wire(link).unwrap().cut().unwrap();
        }
        // Two links, one behind the other; tables follow in portions.
        wait_through(&routers, End::Server, "eth3", 5 * detection);
        said("the prefix to be left", SERVER_GROUP, &format!("left to {OTHER}"));
        // The first one is back, and the other one dies.
        for link in ["optic", "tunnel"] {
            routers.wire(link).unwrap().mend().unwrap();
        }
        routers.wait_active("optic", PATIENCE).unwrap();
        routers.wire("wifi").unwrap().cut().unwrap();
        wait_through(&routers, End::Server, "eth2", PATIENCE);
        let log = daemon.log();
        assert!(!log.contains("group 0") && !log.contains("group 1"), "{backend}: groups have names\n{log}");
    }
}

/// Routers whose client has one prefix, the default, and a detection time that is short beside what is waited for else.
fn with_a_default(backend: &str) -> TwoRouters {
    let setup = Setup {
        interval: Duration::from_millis(50),
        hold_up: Duration::from_millis(200),
        client_settings: format!("actuation = \"{backend}\""),
        ..Setup::default()
    };
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    routers.start_daemons().unwrap();
    routers.wait_active("optic", PATIENCE).unwrap();
    routers.wait_all_usable(PATIENCE).unwrap();
    wait_through(&routers, End::Client, "eth1", PATIENCE);
    routers
}

/// Waits until the client's daemon says so many of its prefixes are refused.
fn wait_refused(routers: &TwoRouters, count: u64) {
    let refused = || {
        let status = routers.client_daemon.status()?;
        Ok((group(&status, CLIENT_GROUP).unwrap()["routes"]["refused"] == count).then_some(()))
    };
    routers.lab.wait_until(&format!("{count} prefixes to be refused"), PATIENCE, refused).unwrap();
}

/// A route of somebody's that came before ours and went is forgotten at that instant.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_route_before_ours_that_is_gone_hinders_no_failover() {
    for backend in ["routes", "nexthop"] {
        for seen in [true, false] {
            let routers = with_a_default(backend);
            routers.client.ip("route prepend unreachable default").unwrap();
            if seen {
                wait_refused(&routers, 1);
            }
            routers.client.ip("route del unreachable default").unwrap();
            routers.wire("optic").unwrap().cut().unwrap();
            wait_through(&routers, End::Client, "vlan10", 4 * routers.setup.detection());
        }
    }
}

/// Ours follows the links beside theirs, and carries the traffic as soon as theirs is gone.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn our_route_is_moved_though_one_that_is_refused_stands_before_it() {
    let routers = with_a_default("routes");
    routers.client.ip("route prepend unreachable default").unwrap();
    wait_refused(&routers, 1);
    routers.wire("optic").unwrap().cut().unwrap();
    let moved = || Ok(routers.client.ip("route show default metric 0 proto 208")?.contains("dev vlan10").then_some(()));
    routers.lab.wait_until("ours to be moved", 4 * routers.setup.detection(), moved).unwrap();
    assert!(routers.client.ip("route show default").unwrap().starts_with("unreachable"), "theirs stays first");
    routers.client.ip("route del unreachable default").unwrap();
    wait_through(&routers, End::Client, "vlan10", routers.setup.detection());
    wait_refused(&routers, 0);
}

/// Who replaces our route has the place; when he gives it up, ours is back at that instant, and not with the next look.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn our_route_is_back_when_the_one_in_its_place_goes() {
    for backend in ["routes", "nexthop"] {
        let routers = with_a_default(backend);
        routers.client.ip("route replace default via 10.20.20.10 dev eth0 metric 0").unwrap();
        wait_refused(&routers, 1);
        wait_through(&routers, End::Client, "eth0", PATIENCE);
        routers.client.ip("route del default via 10.20.20.10 dev eth0 metric 0").unwrap();
        wait_through(&routers, End::Client, "eth1", 4 * routers.setup.detection());
        wait_refused(&routers, 0);
    }
}
