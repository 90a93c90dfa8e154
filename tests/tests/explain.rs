//! `explain` says the way that packets then take, and `what-if` what then happens.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use link_watcher_lab::Lab;
use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::history::number;
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::routers::CLIENT_GROUP;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::active;
use link_watcher_lab::trial::Trial;
use link_watcher_lab::uplinks::address::{SERVER, SERVER6, SMTP_PORT, WHO_PORT, lan_host6, socket};
use link_watcher_lab::uplinks::flow::{Call, Transport};
use link_watcher_lab::uplinks::setup::{GROUP, SiteSetup};
use link_watcher_lab::uplinks::{PATIENCE, Site, open_all};
use serde_json::Value;

/// A host behind the lab's client, and one behind its server.
const HOST: &str = "10.20.20.10";
const FAR_HOST: &str = "203.0.113.10";
/// Situations that a random life has, unless `LINK_WATCHER_SITUATIONS` says otherwise.
const SITUATIONS: u64 = 12;

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    serde_json::from_str(&daemon.command(&all).unwrap()).unwrap()
}

/// The links of the ways that an answer gives.
fn links(answer: &Value, of: &str) -> BTreeSet<String> {
    let ways = answer[of].as_array().unwrap().iter();
    let hops = ways.flat_map(|way| way["hops"].as_array().unwrap());
    hops.map(|hop| hop["link"]["link"].as_str().unwrap().to_owned()).collect()
}

fn assert_as_meant(answer: &Value) {
    assert_eq!(answer["differences"], Value::Array(Vec::new()), "{answer:#}");
}

/// Text for people fits a terminal.
fn assert_readable(daemon: &Daemon, arguments: &[&str]) -> String {
    let text = daemon.command(arguments).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    println!("{text}");
    text
}

fn sent(router: &Namespace, interface: &str) -> u64 {
    let text = router.command(&["ip", "-j", "-s", "link", "show", "dev", interface], "").unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// The link by which most packets leave the client's router now.
fn busiest(trial: &Trial) -> String {
    let routers = &trial.routers;
    let count = || -> Vec<u64> {
        let links = routers.setup.links.iter();
        links.map(|link| sent(&routers.client, &link.client_interface)).collect()
    };
    let before = count();
    routers.lab.pause(Duration::from_millis(300)).unwrap();
    let more = count().into_iter().zip(before).map(|(now, before)| now - before);
    let (_, at) = more.enumerate().map(|(at, more)| (more, at)).max().unwrap();
    routers.setup.links[at].name.clone()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_peers_link_is_told_before_and_after_a_cut() {
    for actuation in ["routes", "tables", "nexthop"] {
        let setup = Setup {
            interval: Duration::from_millis(50),
            client_settings: format!("actuation = \"{actuation}\"\n"),
            ..Setup::default()
        };
        let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 500).unwrap();
        let daemon = &trial.routers.client_daemon;
        let first = trial.first().to_owned();
        let question = ["explain", HOST, FAR_HOST, "--protocol", "udp", "--port", "7000"];
        let answer = json(daemon, &question);
        assert_as_meant(&answer);
        assert_eq!(links(&answer, "ways"), BTreeSet::from([first.clone()]), "{actuation}");
        assert_eq!(busiest(&trial), first, "{actuation}");
        let route = &answer["ways"][0]["route"];
        assert_eq!((route["ours"].as_bool(), answer["incoming"].as_str()), (Some(true), Some("eth0")), "{answer:#}");
        assert_readable(daemon, &question);
        // From the router itself, and by an interface's name.
        for from in ["router", "eth0"] {
            let answer = json(daemon, &["explain", from, FAR_HOST]);
            assert_eq!(links(&answer, "ways"), BTreeSet::from([first.clone()]), "{actuation} {from}");
        }

        let foretold = json(daemon, &["what-if", CLIENT_GROUP, &first, "down"]);
        assert_readable(daemon, &["what-if", CLIENT_GROUP, &first, "down"]);
        assert_eq!(active(&daemon.status().unwrap(), CLIENT_GROUP), [first.as_str()], "asking changes nothing");
        trial.cut_first().unwrap();
        let now = active(&daemon.status().unwrap(), CLIENT_GROUP);
        assert_eq!(foretold["then"][0]["active"][0]["link"], now[0].as_str(), "{foretold:#}");
        let answer = json(daemon, &question);
        assert_as_meant(&answer);
        assert_eq!(links(&answer, "ways"), BTreeSet::from([now[0].clone()]), "{actuation}");
        assert_eq!(busiest(&trial), now[0], "{actuation}");

        // Somebody's own route in front of ours is named, with the remedy.
        trial.routers.client.command(&["ip", "rule", "add", "pref", "50", "lookup", "4711"], "").unwrap();
        let elsewhere = ["ip", "route", "add", "default", "via", HOST, "table", "4711"];
        trial.routers.client.command(&elsewhere, "").unwrap();
        let answer = json(daemon, &["explain", "router", FAR_HOST]);
        let difference = &answer["differences"][0];
        assert!(difference["what"].as_str().unwrap().contains("50: from all lookup 4711"), "{answer:#}");
        assert!(difference["remedy"].as_str().unwrap().contains("ip rule del pref 50"), "{answer:#}");
    }
}

/// What new connections do: the uplinks by which they leave.
fn taken(site: &Site, call: Call, count: usize) -> BTreeSet<String> {
    let crowd = open_all(&site.lan, call, count).unwrap();
    let counts = site.by_uplink(&crowd.by_source());
    site.names().iter().zip(counts).filter(|(_, count)| *count > 0).map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn uplinks_are_told_with_their_shares_and_connections() {
    let setup = SiteSetup {
        further: format!("[[uplinks.force]]\nlink = \"lte\"\nprotocol = \"tcp\"\nport = {SMTP_PORT}\n"),
        ..SiteSetup::default()
    };
    let site = Site::start(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
    let port = WHO_PORT.to_string();
    let question = ["explain", HOST, SERVER, "--port", &port];
    let answer = json(&site.daemon, &question);
    assert_as_meant(&answer);
    let mut shares: Vec<(String, u64)> = answer["ways"]
        .as_array()
        .unwrap()
        .iter()
        .map(|way| {
            let link = way["hops"][0]["link"]["link"].as_str().unwrap().to_owned();
            (link, (way["share"].as_f64().unwrap() * 100.0).round() as u64)
        })
        .collect();
    shares.sort();
    let expected = [("dsl", 30), ("fibre", 50), ("lte", 20)].map(|(name, share)| (name.to_owned(), share));
    assert!(shares.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && a.1.abs_diff(b.1) <= 1), "{shares:?}");
    assert_eq!(answer["connections"], 0);

    // One that exists stays, with its source.
    let crowd = site.open(Transport::Tcp, 1).unwrap();
    let source = *crowd.by_source().keys().next().unwrap();
    let answer = json(&site.daemon, &question);
    assert_eq!(answer["connections"], 1, "{answer:#}");
    assert_eq!(answer["existing"][0]["translated"], source.to_string(), "{answer:#}");
    let at = site.by_uplink(&crowd.by_source()).iter().position(|count| *count > 0).unwrap();
    assert_eq!(links(&answer, "existing"), BTreeSet::from([site.names()[at].to_owned()]), "{answer:#}");
    assert_readable(&site.daemon, &question);

    // What is forced goes there alone, and what is the router's own takes its turns.
    let mail = SMTP_PORT.to_string();
    let answer = json(&site.daemon, &["explain", HOST, SERVER, "--port", &mail]);
    assert_as_meant(&answer);
    assert_eq!(links(&answer, "ways"), BTreeSet::from(["lte".to_owned()]));
    let own = json(&site.daemon, &["explain", "router", SERVER, "--port", &port]);
    assert_as_meant(&own);
    assert_eq!(links(&own, "ways").len(), 3, "{own:#}");
    let here = json(&site.daemon, &["explain", HOST, "10.20.20.1"]);
    assert_eq!(here["ways"][0]["to_router"], true, "{here:#}");

    // What would be released, and then is.
    let foretold = json(&site.daemon, &["what-if", GROUP, site.names()[at], "down"]);
    assert_eq!(foretold["connections"][0]["released"], true, "{foretold:#}");
    assert!(foretold["counted"][site.names()[at]]["count"].as_u64().unwrap() >= 1, "{foretold:#}");
    let drained = json(&site.daemon, &["what-if", GROUP, site.names()[at], "drained"]);
    assert_eq!(drained["connections"][0]["released"], false, "{drained:#}");
    assert_readable(&site.daemon, &["what-if", GROUP, "lte", "down"]);

    // Without a daemon the kernel still says where packets go.
    site.daemon.kill();
    let path = site.daemon.config_path();
    let question = [&question[..], &["--config", path.to_str().unwrap()]].concat();
    let answer = json(&site.daemon, &question);
    assert!(answer["no_daemon"].is_string(), "{answer:#}");
    assert_eq!(links(&answer, "ways").len(), 3, "{answer:#}");
    assert_readable(&site.daemon, &question);
}

/// Waits until all uplinks are up, and nothing is to move by itself any more: a busy machine may lose one meanwhile.
fn wait_settled(site: &Site) {
    let settled = || {
        let status = site.daemon.status()?;
        let links = status["groups"][0]["links"].as_array().unwrap();
        let up = links.iter().all(|link| link["state"] == "up" && (link["usable"] == true || link["drained"] == true));
        let active = active(&status, GROUP);
        let Some(first) = active.first().filter(|_| up) else { return Ok(None) };
        let course = json(&site.daemon, &["what-if", GROUP, first, "up"]);
        let stays = course["then"].as_array().unwrap().iter().all(|then| then["active"] == course["now"]["active"]);
        Ok((stays && course["now"]["active"].as_array().unwrap().len() == active.len()).then_some(()))
    };
    site.lab.wait_until("the uplinks to settle", PATIENCE, settled).unwrap();
}

/// A random life: each time `explain` names the uplinks that new connections then take, and `what-if` those that carry
/// traffic once the link is lost. What has a provider's IPv6 address as its source leaves by that provider or not at all.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn random_situations_are_told_as_they_are() {
    // Links are lost again and again, which is not the question here.
    let mut setup = SiteSetup { ipv6: true, ..SiteSetup::default() };
    setup.group_settings.push_str("dampening = false\n");
    let site = Site::start(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
    let port = WHO_PORT.to_string();
    let call = site.call(Transport::Tcp);
    let call6 = Call { destination: socket(SERVER6, WHO_PORT), limit: Duration::from_millis(500), ..call };
    for provider in &site.providers {
        provider.refuse_foreign_sources6().unwrap();
    }
    let mut rng = fastrand::Rng::with_seed(number("LINK_WATCHER_SEED").unwrap_or(1));
    let mut below = |n: usize| rng.usize(..n);
    let names: Vec<String> = site.names().iter().map(|name| (*name).to_owned()).collect();
    let mut seen = BTreeSet::new();
    for situation in 0..number("LINK_WATCHER_SITUATIONS").unwrap_or(SITUATIONS) {
        // What cannot be done is refused, and leaves another situation.
        let order = |arguments: &[&str]| drop(site.daemon.output(arguments).unwrap());
        order(&["switch", GROUP, "auto"]);
        for name in &names {
            order(&[["undrain", "undrain", "drain"][below(3)], GROUP, name]);
        }
        if below(4) == 0 {
            order(&["switch", GROUP, &names[below(names.len())]]);
        }
        let check = |alive: &dyn Fn(&str) -> bool| {
            for provider in &site.providers {
                let source = lan_host6(provider.number(), 16);
                let answer = json(&site.daemon, &["explain", &source.to_string(), SERVER6, "--port", &port]);
                assert_as_meant(&answer);
                let own = links(&answer, "ways") == BTreeSet::from([provider.name().to_owned()]);
                let call = Call { source: Some(source.into()), ..call6 };
                let open = open_all(&site.lan, call, 1).is_ok_and(|crowd| crowd.len() == 1);
                assert_eq!(open, own && alive(provider.name()), "situation {situation}, {source}: {answer:#}");
            }
            let answer = json(&site.daemon, &["explain", HOST, SERVER, "--port", &port]);
            assert_as_meant(&answer);
            let told = links(&answer, "ways");
            assert_eq!(taken(&site, call, 64), told, "situation {situation}: {answer:#}");
            told
        };
        wait_settled(&site);
        let told = check(&|_| true);
        seen.insert(told.clone());
        let lost = told.first().unwrap().clone();
        let foretold = json(&site.daemon, &["what-if", GROUP, &lost, "down"]);
        if foretold["then"][0]["without_a_way"] == true {
            continue;
        }
        site.provider(&lost).unwrap().die(false).unwrap();
        site.wait_state(&lost, "down", PATIENCE).unwrap();
        let carry = foretold["then"][0]["active"].as_array().unwrap();
        let carry: Vec<&str> = carry.iter().map(|share| share["link"].as_str().unwrap()).collect();
        site.wait_active(&carry, PATIENCE).unwrap();
        assert_eq!(
            check(&|name| name != lost),
            carry.iter().map(|link| (*link).to_owned()).collect(),
            "situation {situation}"
        );
        site.mend().unwrap();
    }
    assert!(seen.len() >= 3, "the situations differ: {seen:?}");
}
