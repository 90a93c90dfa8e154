#![allow(clippy::unwrap_used)]
use std::path::Path;

use super::*;
use crate::config::{self, Host, Severity};

fn claims(group: &str) -> Vec<Claim> {
    let text = format!(
        "[[uplinks]]\nname = \"wan\"\nlan = [\"eth0\"]\n{group}\n[uplinks.probe]\ntargets = [\"192.0.2.1\"]\n\
         [[uplinks.link]]\nname = \"fibre\"\ninterface = \"eth1\"\n[[uplinks.link]]\nname = \"dsl\"\ninterface = \"eth2\"\n"
    );
    let loaded = config::parse(Path::new("c.toml"), &text, &Host::default(), Severity::Warning).unwrap();
    Claim::all(&loaded.config)
}

fn rule(priority: u32, table: u32) -> AnyRule {
    AnyRule::for_all(Family::V4, priority, Deed::Table(table))
}

/// The tunnel's two rules at these priorities, as wg-quick makes them.
fn wg_quick(main: u32, tunnel: u32) -> [AnyRule; 2] {
    [
        AnyRule { suppress_prefix_len: Some(0), ..rule(main, MAIN_TABLE) },
        AnyRule { inverted: true, mark: Some((0xca6c, u32::MAX)), ..rule(tunnel, 51820) },
    ]
}

fn tailscale() -> [AnyRule; 4] {
    let own = |rule: AnyRule| AnyRule { mark: Some(TAILSCALE_MARK), ..rule };
    [
        own(rule(5210, MAIN_TABLE)),
        own(rule(5230, 253)),
        AnyRule { deed: Deed::Refuse("unreachable"), ..own(rule(5250, 0)) },
        rule(5270, 52),
    ]
}

/// The kernel's own rules, and these; with default routes in these tables.
fn policy(rules: &[AnyRule], defaults: &[u32]) -> Policy {
    let kernels = |priority, table| AnyRule { protocol: KERNEL, ..rule(priority, table) };
    let mut all = vec![kernels(0, 255), kernels(32_766, 254), kernels(32_767, 253)];
    all.extend_from_slice(rules);
    all.sort_by_key(|rule| rule.priority);
    Policy { rules: all, defaults: defaults.iter().map(|table| (Family::V4, *table)).collect() }
}

fn said(policy: &Policy, claims: &[Claim]) -> Vec<(String, String)> {
    judge(policy, claims).into_iter().map(|trouble| (trouble.message(), trouble.remedy)).collect()
}

fn assert_said(found: &[(String, String)], expected: &[(&str, &str)]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((message, remedy), (of_message, of_remedy)) in found.iter().zip(expected) {
        assert!(message.contains(of_message), "{message}");
        assert!(remedy.contains(of_remedy), "{remedy}");
    }
}

#[test]
fn the_kernels_rules_and_ours_are_no_trouble() {
    let ours = AnyRule { protocol: PROTOCOL, ..rule(20_900, 7000) };
    assert_eq!(said(&policy(&[ours], &[MAIN_TABLE, 7000]), &claims("")), []);
    // What is for somebody in particular was made on purpose.
    let narrow = AnyRule { from: Some("10.0.0.5/32".parse().unwrap()), ..rule(100, 100) };
    assert_eq!(said(&policy(&[narrow], &[100]), &claims("")), []);
}

#[test]
fn a_full_tunnel_before_ours_takes_everything() {
    let found = said(&policy(&wg_quick(19_998, 19_999), &[51820]), &claims(""));
    assert_said(
        &found,
        &[
            (
                "\"19999: not from all fwmark 0xca6c lookup 51820\" (IPv4) is not ours: all traffic without the mark 0xca6c, \
                 the LAN's too, is routed by table 51820, before it comes to uplinks wan",
                "ip rule add priority 19999 not fwmark 0xca6c/0xff00ffff lookup 51820",
            ),
            ("have bits of ours (0xff00): they count as sent by choice", "`fwmark` = \"0xff0000\""),
        ],
    );
    // As the remedy says: that everything goes into the tunnel is still worth a line.
    let mut rules = wg_quick(19_998, 19_999);
    rules[1].mark = Some((0xca6c, 0xff00_ffff));
    let found = said(&policy(&rules, &[51820]), &claims("fwmark = \"0xff0000\""));
    assert_said(&found, &[("is routed by table 51820", "if it is not meant")]);
}

#[test]
fn a_full_tunnel_behind_ours_gets_nothing() {
    let found = said(&policy(&wg_quick(32_764, 32_765), &[51820]), &claims("fwmark = \"0xff0000\""));
    assert_said(
        &found,
        &[(
            "uplinks wan take all traffic before it, and what table 51820 was to lead into a tunnel leaves in the clear",
            "FwMark = 0xca6c",
        )],
    );
    // Ours take no more than their routes.
    let found = said(
        &policy(&wg_quick(32_764, 32_765), &[51820]),
        &claims("routes = [\"198.51.100.0/24\"]\nfwmark = \"0xff0000\""),
    );
    assert_eq!(found, []);
}

#[test]
fn a_tunnels_own_packets_stay_its_own() {
    // The mark is compared whole, and our bits change it: sent on by us, its packets would enter it again.
    let found = said(&policy(&wg_quick(19_998, 19_999), &[51820]), &claims("fwmark = \"0xff0000\""));
    assert_said(
        &found,
        &[("all traffic", ""), ("(0xff0000): once uplinks wan have chosen an uplink, it matches every packet", "")],
    );
}

#[test]
fn tailscale_stays_on_the_main_tables_default_route() {
    let found = said(&policy(&tailscale(), &[MAIN_TABLE]), &claims(""));
    assert_said(
        &found,
        &[(
            "Tailscale's own packets follow the default route of the main table",
            "ip rule add priority 5200 fwmark 0x80000/0xff0000 goto 20000",
        )],
    );
    let mut rules = tailscale().to_vec();
    rules.push(AnyRule { deed: Deed::Goto(20_000), mark: Some(TAILSCALE_MARK), ..rule(5200, 0) });
    assert_eq!(said(&policy(&rules, &[MAIN_TABLE]), &claims("")), [], "the remedy cures");
    assert_said(&said(&policy(&tailscale(), &[]), &claims("")), &[("they reach nobody", "goto 20000")]);
}

#[test]
fn tailscale_behind_ours_or_as_exit_node() {
    let found = said(&policy(&tailscale(), &[MAIN_TABLE]), &claims("rule-priority = 4000"));
    assert!(found.iter().any(|(message, remedy)| {
        message.contains("table 52 is never asked") && remedy == "write `rule-priority` = 5271 or more for uplinks wan"
    }));
    let found = said(&policy(&tailscale()[3..], &[52]), &claims(""));
    assert_said(&found, &[("all traffic is routed by table 52", "tailscale set --exit-node=")]);
    let found = said(&policy(&tailscale()[..1], &[]), &claims("fwmark = \"0xff0000\"\nrule-priority = 4000"));
    assert!(found.iter().any(|(message, remedy)| {
        message.contains("have bits of ours (0xff0000)") && remedy == "write `fwmark` = \"0xff00\" in [[uplinks]]"
    }));
}

#[test]
fn any_rule_for_everything_before_ours_is_named() {
    let found = said(&policy(&[rule(3000, MAIN_TABLE)], &[MAIN_TABLE]), &claims(""));
    assert_said(
        &found,
        &[(
            "all traffic is routed by table main",
            "the priority 21000 or more, if it is not meant; or write `rule-priority` = 2000 or less",
        )],
    );
    assert_eq!(
        said(&policy(&[rule(3000, MAIN_TABLE)], &[]), &claims("")),
        [],
        "without default route it leads nowhere"
    );
    let refuses = AnyRule { deed: Deed::Refuse("prohibit"), ..rule(3000, 0) };
    assert_said(&said(&policy(&[refuses], &[]), &claims("")), &[("all traffic is refused there", "")]);
    let found = said(&policy(&[rule(20_100, 99)], &[99]), &claims(""));
    assert_said(&found, &[("it stands among ours (20000 to 20999, uplinks wan)", "`rule-priority` = 20101")]);
    let found = said(&policy(&[rule(25_000, 99)], &[99]), &claims(""));
    assert_said(
        &found,
        &[("table 99 is never asked", "a priority below 20000, or write `rule-priority` = 25001 or more")],
    );
    assert!(!judge(&policy(&[rule(25_000, 99)], &[99]), &claims(""))[0].among);
}

#[test]
fn a_mark_of_others_that_is_an_uplinks_is_named_with_it() {
    let marked = AnyRule { mark: Some((0x200, 0xff00)), ..rule(100, 100) };
    let found = said(&policy(&[marked], &[]), &claims(""));
    assert_said(&found, &[("they are taken for uplink dsl's (uplinks wan)", "`fwmark` = \"0xff0000\"")]);
}

#[test]
fn one_line_for_both_families_and_never_many() {
    let mut both = wg_quick(32_764, 32_765).to_vec();
    both.extend(wg_quick(32_764, 32_765).map(|rule| AnyRule { family: Family::V6, ..rule }));
    let found = said(&policy(&both, &[51820]), &claims("routes = [\"0.0.0.0/0\", \"::/0\"]\nfwmark = \"0xff0000\""));
    assert_said(&found, &[("(IPv4, IPv6) is not ours", "")]);
    let many: Vec<AnyRule> = (1..100).map(|at| rule(at, MAIN_TABLE)).collect();
    assert_eq!(said(&policy(&many, &[MAIN_TABLE]), &claims("")).len(), MAX_TROUBLES);
}

#[test]
fn peers_have_rules_of_their_own_or_the_main_table() {
    let peer = |main: bool, everything: bool| {
        let (first, last) = if main { (32_766, 32_766) } else { (32_600, 32_699) };
        let (families, none) = (BTreeSet::from([Family::V4]), BTreeSet::new());
        let everything = if everything { families.clone() } else { none };
        vec![Claim { whose: "peer dc".to_owned(), first, last, families, everything, main, marks: None }]
    };
    let before = policy(&wg_quick(32_764, 32_765), &[51820]);
    assert_eq!(said(&before, &peer(true, false)), [], "the main table is asked first");
    let first = policy(&wg_quick(32_598, 32_599), &[51820]);
    assert_said(&said(&first, &peer(false, false)), &[("before it comes to peer dc", "")]);
    assert_said(&said(&before, &peer(true, true)), &[("before it comes to peer dc", "")]);
}
