//! Configurations that can be run: what they mean, and what is only doubtful about them.
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, time::Duration};

use link_watcher::{
    config::{self, DatapathChoice, LogTarget, OnExit, Severity},
    event::{Failback, Role},
    route::RouteBackend,
};
use support::{Desk, host, peer, repository_file};

#[test]
fn what_is_left_out_has_its_documented_default() {
    let desk = Desk::new();
    let loaded = desk.parse(&peer("")).unwrap();
    assert!(loaded.warnings.is_empty());
    let daemon = &loaded.config.daemon;
    assert_eq!(daemon.control_socket, Path::new("/run/link-watcher/control.sock"));
    assert_eq!((daemon.engine, daemon.on_exit, daemon.realtime), (DatapathChoice::Auto, OnExit::Keep, true));
    assert_eq!((daemon.instance.as_deref(), daemon.log), (None, LogTarget::Auto));
    assert_eq!(loaded.config.metrics, None);
    let peer = &loaded.config.peers[0];
    assert_eq!((peer.name.as_str(), peer.role, peer.port, peer.keys.len()), ("hq", Role::Client, 46721, 1));
    assert_eq!((peer.interval, peer.multiplier), (Duration::from_millis(100), 3));
    assert_eq!((peer.failback, peer.hold_up), (Failback::After(30_000_000_000), Duration::from_secs(3)));
    assert_eq!((peer.table, peer.metric, peer.max_prefixes), (254, 0, 4096));
    // The tables follow from the name alone, in every version.
    assert_eq!((peer.actuation, peer.range.rule_priority), (RouteBackend::Auto, 32_600));
    assert_eq!(peer.range.table_base, 3_036_864);
    let link = &peer.links[0];
    assert_eq!((link.tier, link.weight), (1, 1));
    assert_eq!(link.local.unwrap().to_string(), "10.248.248.2");
}

#[test]
fn tiers_follow_the_order_of_the_file() {
    let desk = Desk::new();
    let text = peer("") + "[[peer.link]]\nname = \"b\"\ninterface = \"eth2\"\nremote = \"10.248.249.1\"\n";
    let config = desk.parse(&text).unwrap().config;
    let links: Vec<_> = config.peers[0].links.iter().map(|link| (link.name.as_str(), link.tier)).collect();
    assert_eq!(links, [("optic", 1), ("b", 2)]);
}

#[test]
fn everything_can_be_said() {
    let desk = Desk::new();
    let text = "[daemon]\ncontrol-socket = \"run/c.sock\"\nengine = \"socket\"\non-exit = \"remove\"\n\
                instance = \"left\"\nrealtime = false\nstate-directory = \"state\"\nlog = \"syslog\"\n"
        .to_owned()
        + &peer(
            "port = 1\ninterval = \"1ms\"\nmultiplier = 255\nroutes = [\"::/0\", \"2001:db8::/32\", \"0.0.0.0/0\"]\n\
             announce = [\"10.20.20.0/22\"]\nannounce-interfaces = [\"eth0\"]\naccept = [\"172.31.13.0/24\"]\nmax-prefixes = 65536\n\
             failback = \"manual\"\nhold-up = \"0s\"\ntable = 4294967295\nmetric = 7",
        )
        + "tier = 9\nweight = 256\n[metrics]\nlisten = \"[2001:db8::1]:9746\"\n";
    let config = desk.parse(&text).unwrap().config;
    assert_eq!(config.daemon.control_socket, desk.path("run/c.sock"));
    assert_eq!(config.metrics.unwrap().listen.to_string(), "[2001:db8::1]:9746");
    assert_eq!((config.daemon.engine, config.daemon.on_exit), (DatapathChoice::Socket, OnExit::Remove));
    assert_eq!((config.daemon.instance.as_deref(), config.daemon.realtime), (Some("left"), false));
    assert_eq!(config.daemon.log, LogTarget::Syslog);
    assert_eq!(config.daemon.own_state_directory(), desk.path("state/left"));
    let peer = &config.peers[0];
    assert_eq!((peer.port, peer.interval, peer.multiplier), (1, Duration::from_millis(1), 255));
    assert_eq!((peer.failback, peer.hold_up, peer.table, peer.metric), (Failback::Manual, Duration::ZERO, u32::MAX, 7));
    assert_eq!((peer.links[0].tier, peer.links[0].weight), (9, 256));
    assert_eq!((peer.routes.len(), peer.max_prefixes), (3, 65_536));
}

#[test]
fn a_hub_and_links_with_link_local_addresses_are_fine() {
    let desk = Desk::new();
    // Two peers on one interface, of which one shares the port, and a default route beside a longer prefix.
    let hub = peer("")
        + &peer("routes = [\"10.8.0.0/16\"]").replace("\"hq", "\"b").replace("\"10.248.248.1\"", "\"10.248.248.3\"");
    assert_eq!(desk.findings(&hub), [""; 0]);
    let link_local = peer("").replace("10.248.248.2", "fe80::1").replace("10.248.248.1", "fe80::2")
        + "[[peer.link]]\nname = \"b\"\ninterface = \"eth2\"\nlocal = \"fe80::1\"\nremote = \"fe80::2\"\n";
    assert_eq!(desk.findings(&link_local), [""; 0]);
    // Two groups over the same link, told apart by their ports.
    let twice = peer("") + &peer("routes = [\"10.8.0.0/16\"]\nport = 1").replace("\"hq", "\"b");
    assert_eq!(desk.findings(&twice), [""; 0]);
    // The same prefix in two tables.
    let tables = peer("") + &peer("table = 7\nport = 1").replace("\"hq", "\"b");
    assert_eq!(desk.findings(&tables), [""; 0]);
    let point_to_point = peer("").replace("eth1", "ppp0").replace("10.248.248.1", "203.0.113.1");
    assert_eq!(desk.findings(&point_to_point.replace("local = \"10.248.248.2\"\n", "")), [""; 0]);
}

#[test]
fn doubtful_values_are_warned_about() {
    let desk = Desk::new();
    assert_eq!(
        desk.peer_findings("multiplier = 1\nroutes = []"),
        [
            "warning 1:1: this peer has no routes, announce or accept: its links are watched, but no traffic ever moves | \
             say with `routes` what goes through the peer, or with `accept` what it may announce",
            "warning 5:14: with multiplier = 1 a single lost packet takes the link down | 3 is a good value",
        ]
    );
}

#[test]
fn for_the_daemon_an_absent_interface_is_a_warning() {
    let desk = Desk::new();
    let text = peer("").replace("eth1", "eth9");
    assert!(config::parse(&desk.path("c.toml"), &text, &host(), Severity::Error).is_err());
    let loaded = config::parse(&desk.path("c.toml"), &text, &host(), Severity::Warning).unwrap();
    assert_eq!(
        loaded.warnings[1].summary(),
        format!(
            "{}:9:13: there is no interface eth9 here (did you mean \"eth0\"? there are eth0, eth1, eth2, lo, ppp0)",
            desk.path("c.toml").display()
        )
    );
}

#[test]
fn the_example_that_is_shipped_can_be_run() {
    let desk = Desk::new();
    assert_eq!(desk.findings(&repository_file("examples/link-watcher.toml")), [""; 0]);
}

#[test]
fn what_the_example_shows_behind_a_hash_are_the_defaults() {
    let desk = Desk::new();
    // Notifiers have no defaults: there are none.
    let text = repository_file("examples/link-watcher.toml");
    // A section of its own, of which config_notify.rs knows more.
    let text = text.split("# [[notify]]").next().unwrap();
    let spoken: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // Those would change something: they have no default.
            Some(setting)
                if setting.contains(" = ")
                    && ![
                        "instance",
                        "control-group",
                        "announce",
                        "listen",
                        "table-base",
                        "max-loss",
                        "max-rtt",
                        "max-jitter",
                    ]
                    .iter()
                    .any(|key| setting.starts_with(key)) =>
            {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        // Their defaults are the interface's.
        .filter(|line| !["local", "max-hops"].iter().any(|key| line.starts_with(key)))
        .collect();
    assert!(spoken.contains("\nhold-up = "));
    assert_eq!(desk.parse(&spoken).unwrap().config, desk.parse(text).unwrap().config);
}
