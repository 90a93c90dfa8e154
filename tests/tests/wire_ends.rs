//! What the two ends say of each other where key, hops or addresses between them are not as expected: for as long as it is so.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP, fresh_key};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::group;
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_lab::wire::Wire;
use link_watcher_lab::{End, Lab};
use serde_json::Value;

const ENDS: [End; 2] = [End::Client, End::Server];

fn trial() -> Trial {
    let setup = Setup { interval: Duration::from_millis(50), ..Setup::default() };
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

/// A peer's first link.
fn link(daemon: &Daemon, name: &str) -> Value {
    group(&daemon.status().unwrap(), name).unwrap()["links"][0].clone()
}

fn first(trial: &Trial, end: End) -> Value {
    let name = if end == End::Client { CLIENT_GROUP } else { SERVER_GROUP };
    link(trial.routers.daemon(end), name)
}

/// Waits until an end says of its first link what all of `words` are in, sees that it goes on saying so, and that it did so once
/// in the log.
fn says_for_as_long_as_it_is_so(trial: &Trial, end: End, words: &[&str]) {
    let suspicion = || {
        let link = first(trial, end);
        let said = link["suspicion"].as_str().unwrap_or_default().to_owned();
        (words.iter().all(|word| said.contains(word)), link)
    };
    let lab = &trial.routers.lab;
    lab.wait_until(&format!("{end:?} to say why"), PATIENCE, || Ok(suspicion().0.then_some(()))).unwrap();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let (said, link) = suspicion();
        assert!(said, "{end:?} has forgotten it: {link:#}");
        assert_eq!(link["state"], "down", "{link:#}");
        lab.pause(Duration::from_millis(200)).unwrap();
    }
    let log = trial.routers.daemon(end).log();
    let lines = log.lines().filter(|line| line.contains(" optic") && words.iter().all(|word| line.contains(word)));
    assert_eq!(lines.count(), 1, "{end:?}: {log}");
}

fn says_nothing_any_more(trial: &Trial) {
    trial.wait_normal().unwrap();
    for end in ENDS {
        let link = first(trial, end);
        assert_eq!((&link["suspicion"], link["state"].as_str()), (&Value::Null, Some("up")), "{end:?}: {link:#}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_wrong_key_at_one_end_is_the_reason_for_as_long_as_it_is_wrong() {
    let trial = trial();
    let client = trial.routers.daemon(End::Client);
    let key = std::fs::read_to_string(client.config_path().with_file_name("peer.key")).unwrap();
    client.write_key("peer.key", &fresh_key().unwrap()).unwrap();
    client.command(&["reload"]).unwrap();
    for end in ENDS {
        says_for_as_long_as_it_is_so(&trial, end, &["all ", "were forged: do the key files"]);
    }
    client.write_key("peer.key", key.trim()).unwrap();
    client.command(&["reload"]).unwrap();
    says_nothing_any_more(&trial);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_that_a_router_has_passed_on_are_refused_and_the_remedy_is_named() {
    let trial = trial();
    let Wire::Cable(cable) = trial.routers.wire(trial.first()).unwrap() else { panic!("a cable") };
    let far =
        "table bridge far { chain forward { type filter hook forward priority 0; udp dport 46721 ip ttl set 250; }; }";
    cable.middle().command(&["nft", "-f", "-"], far).unwrap();
    for end in ENDS {
        says_for_as_long_as_it_is_so(&trial, end, &["hops", "max-hops"]);
        let link = first(&trial, end);
        assert!(link["dropped"]["distant"].as_u64().unwrap() > 10, "{link:#}");
    }
    cable.middle().command(&["nft", "delete", "table", "bridge", "far"], "").unwrap();
    says_nothing_any_more(&trial);
}

/// Client 192.0.2.2, a NAT box at 192.0.2.1 and 198.51.100.1, server 198.51.100.2.
struct Translated {
    client: Daemon,
    server: Daemon,
    lab: Lab,
}

impl Translated {
    fn new(masquerade: &str, hops: &str, engine: &str) -> Self {
        let lab = Lab::new().unwrap();
        let [client, nat, server] = ["client", "nat", "server"].map(|role| Arc::new(lab.namespace(role).unwrap()));
        client.connect("wan", &nat, "in").unwrap();
        nat.connect("out", &server, "wan").unwrap();
        for (namespace, interface, address) in [
            (&client, "wan", "192.0.2.2/24"),
            (&nat, "in", "192.0.2.1/24"),
            (&nat, "out", "198.51.100.1/24"),
            (&server, "wan", "198.51.100.2/24"),
        ] {
            namespace.add_address(interface, address.parse().unwrap()).unwrap();
        }
        client.add_route("198.51.100.0/24".parse().unwrap(), "192.0.2.1".parse().unwrap()).unwrap();
        nat.sysctl("net/ipv4/ip_forward", "1").unwrap();
        let rules = format!(
            "table ip nat {{ chain post {{ type nat hook postrouting priority srcnat; oifname \"out\" {masquerade}; }}; }}"
        );
        nat.command(&["nft", "-f", "-"], &rules).unwrap();
        let key = fresh_key().unwrap();
        let daemon = |namespace, role, local, remote, own| {
            let daemon = Daemon::prepare(&lab, namespace, role, &binary().unwrap()).unwrap();
            let path = daemon.write_key("peer.key", &key).unwrap();
            let text = format!(
                "[[peer]]\nname = \"other\"\nrole = \"{role}\"\nkey-files = [\"{}\"]\ninterval = \"50ms\"\nhold-up = \"0s\"\n{own}\n\
                 [[peer.link]]\nname = \"a\"\ninterface = \"wan\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n{hops}\n",
                path.display()
            );
            daemon.write_config(&format!("engine = \"{engine}\""), &text).unwrap();
            daemon
        };
        let client = daemon(&client, "client", "192.0.2.2", "198.51.100.2", "routes = [\"203.0.113.0/24\"]");
        let server = daemon(&server, "server", "198.51.100.2", "198.51.100.1", "accept = [\"10.0.0.0/8\"]");
        server.start().unwrap();
        client.start().unwrap();
        Self { client, server, lab }
    }

    fn ends(&self) -> [Value; 2] {
        [&self.client, &self.server].map(|daemon| link(daemon, "other"))
    }
}

fn a_nat_in_between(masquerade: &str, engine: &str) {
    let ends = Translated::new(masquerade, "max-hops = 2", engine);
    // What was lost before the ends knew each other is forgotten.
    let good = |link: &Value| link["state"] == "up" && link["loss"].as_f64() == Some(0.0);
    let up = || Ok(ends.ends().iter().all(good).then_some(()));
    let waited = ends.lab.wait_until("both ends to be up and lose nothing", PATIENCE, up);
    waited.unwrap_or_else(|error| panic!("{error}: {:#?}", ends.ends()));
    let before = ends.ends();
    ends.lab.pause(Duration::from_secs(3)).unwrap();
    for (before, after) in before.iter().zip(ends.ends()) {
        assert_eq!((&after["state"], &after["flaps"]), (&before["state"], &before["flaps"]), "{after:#}");
        assert_eq!((after["loss"].as_f64(), &after["dropped"]), (Some(0.0), &before["dropped"]), "{after:#}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_nat_between_the_ends_is_passed() {
    a_nat_in_between("masquerade", "auto");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_nat_that_chooses_random_ports_is_passed() {
    a_nat_in_between("masquerade random", "auto");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_nat_that_chooses_random_ports_is_passed_without_bpf() {
    a_nat_in_between("masquerade random", "socket");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_nat_that_the_file_does_not_allow_is_named_with_the_key_to_set() {
    let ends = Translated::new("masquerade", "", "auto");
    let said = || {
        let said =
            ends.ends().iter().any(|link| link["suspicion"].as_str().is_some_and(|said| said.contains("max-hops")));
        Ok(said.then_some(()))
    };
    ends.lab
        .wait_until("max-hops to be named", PATIENCE, said)
        .unwrap_or_else(|error| panic!("{error}: {:#?}", ends.ends()));
}
