//! Policy rules of other programs, made with `ip rule` in their shape: `doctor` and the daemon's start name them, and the
//! remedy that they give is one.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use link_watcher_lab::Lab;
use link_watcher_lab::daemon::binary;
use link_watcher_lab::uplinks::Site;
use link_watcher_lab::uplinks::address::SERVER;
use link_watcher_lab::uplinks::setup::SiteSetup;
use serde_json::Value;

/// What `doctor` says of policy rules: level, message and remedy.
fn doctor(site: &Site) -> Vec<(String, String, String)> {
    let config = site.daemon.config_path();
    let output = site.daemon.output(&["doctor", "--json", "--config", config.to_str().unwrap()]).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["check"] == "rules");
    checks.map(|check| (text(&check["level"]), text(&check["message"]), text(&check["remedy"]))).collect()
}

fn ip(site: &Site, arguments: &str) {
    site.daemon.namespace().ip(arguments).unwrap();
}

fn one_with(found: &[(String, String, String)], part: &str) -> String {
    let of: Vec<_> = found.iter().filter(|(level, message, _)| level == "warning" && message.contains(part)).collect();
    assert_eq!(of.len(), 1, "{part}: {found:#?}");
    of[0].2.clone()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn rules_in_the_shape_of_wg_quick_and_tailscale_are_named() {
    let site = Site::build(Lab::new().unwrap(), SiteSetup::default(), &binary().unwrap()).unwrap();
    assert_eq!(doctor(&site)[0].0, "ok");
    // A tunnel that takes everything, up before the daemon: the kernel puts its rules right before the main table's.
    ip(&site, "link add wgx type veth peer name wgy");
    ip(&site, "link set wgx up");
    ip(&site, "route add default dev wgx table 51820");
    ip(&site, "rule add not fwmark 51820 table 51820");
    ip(&site, "rule add table main suppress_prefixlength 0");
    // Tailscale, beside a default route of the main table.
    ip(&site, "route replace default dev eth1 metric 4000");
    ip(&site, "rule add pref 5210 fwmark 0x80000/0xff0000 lookup main");
    ip(&site, "rule add pref 5230 fwmark 0x80000/0xff0000 lookup default");
    ip(&site, "rule add pref 5250 fwmark 0x80000/0xff0000 unreachable");
    ip(&site, "rule add pref 5270 lookup 52");

    let found = doctor(&site);
    let remedy = one_with(&found, "was to lead into a tunnel leaves in the clear");
    assert!(remedy.contains("Table = 51820, FwMark = 0xca6c"), "{remedy}");
    one_with(&found, "packets that carry its mark 0xca6c have bits of ours");
    let remedy = one_with(&found, "Tailscale's own packets follow the default route of the main table");

    site.daemon.start().unwrap();
    site.wait_all_up().unwrap();
    let log = site.daemon.log();
    for part in ["leaves in the clear", "have bits of ours", "Tailscale's own packets follow"] {
        assert_eq!(log.matches(part).count(), 1, "{part}: {log}");
    }
    assert_eq!(doctor(&site), found, "ours make no difference");

    // The remedy is one: what Tailscale sends now goes the way of all, also when the main table's way is another.
    let way = || {
        let question = ["ip", "route", "get", SERVER, "mark", "0x80000"];
        site.daemon.namespace().command(&question, "").unwrap()
    };
    assert!(!way().contains("table 7000"), "{}", way());
    let command: Vec<&str> = remedy.split(',').next().unwrap().split(' ').collect();
    site.daemon.namespace().command(&command, "").unwrap();
    assert!(way().contains("table 7000"), "{}", way());
    let messages: BTreeSet<String> = doctor(&site).into_iter().map(|(_, message, _)| message).collect();
    assert!(messages.iter().all(|message| !message.contains("Tailscale")), "{messages:#?}");

    // The tunnel that comes up behind the daemon stands before ours, and has everything.
    ip(&site, "rule del not fwmark 51820 table 51820");
    ip(&site, "rule del table main suppress_prefixlength 0");
    ip(&site, "rule add pref 4001 not fwmark 51820 table 51820");
    ip(&site, "rule add pref 4000 table main suppress_prefixlength 0");
    one_with(&doctor(&site), "all traffic without the mark 0xca6c, the LAN's too, is routed by table 51820");
    assert!(way().contains("dev wgx"), "{}", way());
}

/// What `doctor` and the documentation say to do beside wg-quick.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_remedy_beside_a_full_tunnel_leaves_the_tunnel_to_the_uplinks() {
    let setup = SiteSetup { group_settings: "fwmark = \"0xff0000\"\n".to_owned(), ..SiteSetup::default() };
    let site = Site::start(Lab::new().unwrap(), setup, &binary().unwrap()).unwrap();
    ip(&site, "link add wgx type veth peer name wgy");
    ip(&site, "link set wgx up");
    ip(&site, "link set wgy up");
    ip(&site, "route add default dev wgx table 51820");
    ip(&site, "rule add pref 19998 table main suppress_prefixlength 0");
    // As wg-quick itself makes it: with our bits the tunnel's own packets would enter it again.
    ip(&site, "rule add pref 19999 not fwmark 0xca6c table 51820");
    let way = |mark: &str| site.daemon.namespace().command(&["ip", "route", "get", SERVER, "mark", mark], "").unwrap();
    let marked_by_us = "0x1ca6c";
    assert!(way(marked_by_us).contains("dev wgx"), "{}", way(marked_by_us));
    let remedy = one_with(&doctor(&site), "it matches every packet, its own too");
    let rule = "not fwmark 0xca6c/0xff00ffff lookup 51820";
    assert!(remedy.contains(rule), "{remedy}");

    ip(&site, "rule del pref 19999");
    ip(&site, &format!("rule add pref 19999 {rule}"));
    assert!(way("0").contains("dev wgx"), "everything enters the tunnel: {}", way("0"));
    assert!(way("0xca6c").contains("table 7000"), "{}", way("0xca6c"));
    assert!(way(marked_by_us).contains("table 7001"), "{}", way(marked_by_us));
    let found = doctor(&site);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].2.contains("if it is not meant"), "{found:#?}");
}
