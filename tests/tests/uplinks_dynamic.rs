//! Uplinks whose addresses, gateways and interfaces come, change and go; and several on one wire.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use link_watcher_lab::Lab;
use link_watcher_lab::daemon::binary;
use link_watcher_lab::uplinks::address::{WHO_PORT, gateway4, host4, router4};
use link_watcher_lab::uplinks::flow::{Crowd, Fate, Transport};
use link_watcher_lab::uplinks::setup::SiteSetup;
use link_watcher_lab::uplinks::{PATIENCE, Site, assert_split};

const ALL: [&str; 3] = ["fibre", "dsl", "lte"];

fn program() -> PathBuf {
    binary().unwrap()
}

fn assert_untouched(site: &Site, crowd: &mut Crowd, names: &[&str]) -> BTreeMap<String, Fate> {
    let fates = site.fates(crowd.recheck().unwrap());
    for name in names {
        let fate = fates[*name];
        assert_eq!(fate, Fate { same: fate.total(), ..Fate::default() }, "{name}: {fates:?}");
    }
    fates
}

/// A hundred connections are spread by weight, and each provider's visitors are answered.
fn assert_serves(site: &Site) {
    assert_split(&site.by_uplink(&site.open(Transport::Tcp, 100).unwrap().by_source()), &[50, 30, 20]);
    for provider in &site.providers {
        let crowd = site.visit(provider, Transport::Tcp, WHO_PORT, 20).unwrap();
        assert_eq!(crowd.len(), 20, "visitors by {}: {:?}", provider.name(), crowd.failures);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_point_to_point_uplink_changes_its_addresses() {
    let mut site = Site::start(Lab::new().unwrap(), SiteSetup::with_ppp(), &program()).unwrap();
    let router = Arc::clone(site.router.namespace());
    assert_serves(&site);
    // Another address, another peer; then the old ones again, as with a provider that has few.
    // What is renumbered without a gap is never down: nothing but the address tells that its connections are over.
    let steps = [
        (host4(2, 5), host4(2, 9), false),
        (host4(2, 6), host4(2, 9), false),
        (host4(2, 7), host4(2, 10), true),
        (router4(2), gateway4(2), true),
    ];
    for (own, peer, without_gap) in steps {
        let mut crowd = site.open(Transport::Tcp, 100).unwrap();
        let provider = &mut site.providers[2];
        if without_gap {
            provider.renumber_without_gap(&router, own, peer).unwrap();
        } else {
            provider.renumber(&router, own, peer).unwrap();
        }
        site.lab
            .wait_until("new connections by the new address", PATIENCE, || {
                let crowd = Crowd::open(&site.lan, site.call(Transport::Tcp), 20)?;
                let sources = crowd.by_source();
                Ok((crowd.len() == 20 && sources.contains_key(&IpAddr::from(own))).then_some(()))
            })
            .unwrap();
        site.wait_active(&ALL, PATIENCE).unwrap();
        assert_serves(&site);
        let lte = assert_untouched(&site, &mut crowd, &["fibre", "dsl"])["lte"];
        assert_eq!(lte.hung + lte.moved, 0, "connections with the old address end, they do not hang: {lte:?}");
    }
    // Dead and back, with the addresses that it has now.
    site.provider("lte").unwrap().die(false).unwrap();
    site.wait_active(&["fibre", "dsl"], PATIENCE).unwrap();
    site.mend().unwrap();
    site.wait_active(&ALL, PATIENCE).unwrap();
    assert_serves(&site);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_gateway_is_learned_from_a_default_route_and_followed() {
    let mut setup = SiteSetup::default();
    setup.uplinks[0].learned = true;
    let site = Site::build(Lab::new().unwrap(), setup, &program()).unwrap();
    let router = site.router.namespace();
    site.daemon.start().unwrap();
    for name in ["dsl", "lte"] {
        site.wait_state(name, "up", PATIENCE).unwrap();
    }
    assert_ne!(site.uplink("fibre").unwrap()["state"], "up", "nobody knows its gateway");
    // As a DHCP client would.
    router
        .command(
            &["ip", "route", "add", "default", "via", "198.51.100.1", "dev", "eth1", "proto", "dhcp", "metric", "1024"],
            "",
        )
        .unwrap();
    site.wait_active(&ALL, PATIENCE).unwrap();
    assert_serves(&site);
    // The provider moves its gateway to another address.
    // (In this order: with the first address of a prefix the kernel removes the others.)
    site.providers[0].namespace().command(&["ip", "addr", "del", "198.51.100.1/28", "dev", "access"], "").unwrap();
    site.providers[0].namespace().add_address("access", "198.51.100.14/28".parse().unwrap()).unwrap();
    router
        .command(
            &[
                "ip",
                "route",
                "replace",
                "default",
                "via",
                "198.51.100.14",
                "dev",
                "eth1",
                "proto",
                "dhcp",
                "metric",
                "1024",
            ],
            "",
        )
        .unwrap();
    site.lab
        .wait_until("the uplink's own table to follow", PATIENCE, || {
            let table = router.command(&["ip", "route", "show", "table", "7001"], "")?;
            Ok(table.contains("198.51.100.14").then_some(()))
        })
        .unwrap();
    site.wait_active(&ALL, PATIENCE).unwrap();
    assert_serves(&site);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_comes_late_goes_and_comes_back_with_another_index() {
    let mut site = Site::build(Lab::new().unwrap(), SiteSetup::default(), &program()).unwrap();
    let router = Arc::clone(site.router.namespace());
    router.delete_interface("eth1").unwrap();
    site.daemon.start().unwrap();
    site.wait_active(&["dsl", "lte"], PATIENCE).unwrap();
    site.wait_state("fibre", "absent", PATIENCE).unwrap();
    let mut crowd = site.open(Transport::Tcp, 50).unwrap();
    let mut indexes = Vec::new();
    for _ in 0..2 {
        site.providers[0].plug_in(&router, false).unwrap();
        indexes.push(router.index("eth1").unwrap());
        site.wait_active(&ALL, PATIENCE).unwrap();
        assert_serves(&site);
        router.delete_interface("eth1").unwrap();
        site.wait_state("fibre", "absent", PATIENCE).unwrap();
        site.wait_active(&["dsl", "lte"], PATIENCE).unwrap();
        assert_split(&site.by_uplink(&site.open(Transport::Tcp, 50).unwrap().by_source()), &[0, 30, 20]);
        assert_untouched(&site, &mut crowd, &["dsl", "lte"]);
    }
    assert_ne!(indexes[0], indexes[1]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interface_goes_down_and_up() {
    let site = Site::start(Lab::new().unwrap(), SiteSetup::default(), &program()).unwrap();
    let router = site.router.namespace();
    // Taking it down takes its routes along, in all tables.
    router.set_up("eth1", false).unwrap();
    site.wait_state("fibre", "absent", PATIENCE).unwrap();
    site.wait_active(&["dsl", "lte"], PATIENCE).unwrap();
    router.set_up("eth1", true).unwrap();
    site.wait_active(&ALL, PATIENCE).unwrap();
    assert_serves(&site);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_providers_on_one_interface_are_told_apart() {
    let mut setup = SiteSetup::default();
    setup.uplinks[1].interface = "eth1".to_owned();
    for number in [0, 1] {
        setup.uplinks[number].settings = format!("local = \"{}\"\n", router4(number));
    }
    let site = Site::start(Lab::new().unwrap(), setup, &program()).unwrap();
    assert_serves(&site);
    // To the host in the LAN as well: there the answer has no address of the uplink's to be known by.
    site.router
        .namespace()
        .command(
            &["nft", "-f", "-"],
            "table ip administrator {
                chain visitors {
                    type nat hook prerouting priority dstnat;
                    iifname != eth0 tcp dport 8080 dnat to 10.20.20.10:7007
                }
            }\n",
        )
        .unwrap();
    for provider in &site.providers {
        let crowd = site.visit(provider, Transport::Tcp, 8080, 50).unwrap();
        assert_eq!(crowd.len(), 50, "visitors by {}: {:?}", provider.name(), crowd.failures);
    }
    let mut crowd = site.open(Transport::Tcp, 200).unwrap();
    for _ in 0..3 {
        assert_untouched(&site, &mut crowd, &ALL);
    }
    site.provider("dsl").unwrap().die(false).unwrap();
    site.wait_active(&["fibre", "lte"], PATIENCE).unwrap();
    assert_eq!(site.uplink("fibre").unwrap()["flaps"], 0);
    let dsl = assert_untouched(&site, &mut crowd, &["fibre", "lte"])["dsl"];
    assert_eq!(dsl, Fate { reset: 60, ..Fate::default() });
    site.mend().unwrap();
    site.wait_active(&ALL, PATIENCE).unwrap();
    assert_serves(&site);
}
