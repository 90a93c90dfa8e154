#![allow(clippy::unwrap_used)]

use std::{collections::VecDeque, net::IpAddr};

use super::*;
use crate::{
    config::{ForceConfig, Nat, Protocol},
    event::GroupId,
    uplink::{Path, Uplink},
};

const SECOND: u64 = 1_000_000_000;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn uplink(number: u32, name: &str, weight: u32) -> Uplink {
    Uplink {
        link: LinkId(10 + number),
        number,
        name: name.into(),
        interface: format!("eth{number}"),
        ifindex: number,
        ipv4: Some(Path {
            gateway: Some(address(&format!("198.51.100.{}", 16 * number + 1))),
            source: Some(address(&format!("198.51.100.{}", 16 * number + 2))),
        }),
        ipv6: None,
        gateway_mac: None,
        prefixes: vec![],
        nat: Nat::Masquerade,
        weight,
        usable: true,
    }
}

fn force(link: &str) -> ForceConfig {
    ForceConfig { link: link.into(), source: None, destination: None, protocol: None, ports: None, or_others: false }
}

fn group() -> Desired {
    Desired {
        group: GroupId(0),
        name: "wan".into(),
        routes: vec!["0.0.0.0/0".parse().unwrap()],
        excluded: Vec::new(),
        lan: vec!["eth0".into()],
        sticky: true,
        fast_path: BTreeMap::new(),
        tcp_loose: true,
        fwmark_mask: 0xff00,
        rule_priority: 20000,
        table_base: 7000,
        force: vec![],
        uplinks: vec![uplink(1, "fibre", 2), uplink(2, "dsl", 1)],
    }
}

/// The rules of a chain.
fn chain<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("    chain {name} {{");
    let lines = text.lines().skip_while(|line| *line != start).skip(1);
    lines.take_while(|line| *line != "    }").map(str::trim).collect()
}

#[test]
fn the_whole_text() {
    let mut group = group();
    group.uplinks[1].nat = Nat::Source(address("203.0.113.7"));
    group.force = vec![ForceConfig { protocol: Some(Protocol::Tcp), ports: Some(25..=25), ..force("dsl") }];
    let text = render(&[group], None);
    let golden = include_str!("golden.nft");
    if text != golden {
        let path = std::env::temp_dir().join("golden.nft");
        std::fs::write(&path, &text).unwrap();
        panic!("the text differs from golden.nft; compare it with {}", path.display());
    }
}

#[test]
fn the_table_of_an_instance() {
    assert_eq!(rules::table_name(None), "link_watcher");
    assert_eq!(rules::table_name(Some("a-b.c")), "link_watcher_a_b_c");
}

#[test]
fn what_has_no_weight_is_not_picked_and_one_alone_needs_no_counting() {
    let mut group = group();
    group.uplinks[0].weight = 0;
    assert_eq!(chain(&render(&[group.clone()], None), "pick4_1"), ["goto take_1_2"]);
    group.uplinks[1].weight = 0;
    assert_eq!(chain(&render(&[group], None), "pick4_1"), [""; 0]);
}

#[test]
fn families_are_apart_and_ipv6_belongs_to_its_source() {
    let mut group = group();
    group.routes.push("2000::/3".parse().unwrap());
    group.uplinks[1].ipv6 = Some(Path { gateway: None, source: Some(address("2001:db8:2::2")) });
    group.uplinks[1].prefixes = vec!["2001:db8:2:1::/64".parse().unwrap(), "203.0.113.0/29".parse().unwrap()];
    let text = render(&[group], None);
    assert_eq!(chain(&text, "pick6_1"), ["goto take_1_2"]);
    assert_eq!(
        chain(&text, "choose6_1"),
        [
            "ip6 daddr != { 2000::/3 } return",
            "ip6 saddr 2001:db8:2::2 goto take_1_2",
            "ip6 saddr 2001:db8:2:1::/64 goto take_1_2",
            "goto pick6_1"
        ]
    );
    assert_eq!(chain(&text, "choose4_1"), ["ip saddr 203.0.113.0/29 goto take_1_2", "goto pick4_1"]);
    assert_eq!(chain(&text, "translate_1")[0], "ip saddr { 203.0.113.0/29 } return");
    assert!(chain(&text, "translate_1")[1..].iter().all(|rule| rule.starts_with("meta nfproto ipv4 ")));
}

#[test]
fn forced_connections_fail_or_are_spread_where_their_uplink_is_not_usable() {
    let mut group = group();
    group.force = vec![
        ForceConfig { protocol: Some(Protocol::Udp), ports: Some(1000..=2000), ..force("fibre") },
        ForceConfig { protocol: Some(Protocol::Tcp), ports: Some(25..=25), ..force("fibre") },
        ForceConfig { destination: Some("192.0.2.0/24".parse().unwrap()), ..force("fibre") },
        ForceConfig { source: Some("10.0.0.0/8".parse().unwrap()), or_others: true, ..force("fibre") },
        ForceConfig { destination: Some("2001:db8::/32".parse().unwrap()), ..force("fibre") },
        ForceConfig { protocol: Some(Protocol::Icmp), ..force("dsl") },
    ];
    group.uplinks[0].usable = false;
    assert_eq!(
        chain(&render(&[group], None), "choose4_1"),
        [
            "udp dport 1000-2000 reject with icmpx admin-prohibited",
            "tcp dport 25 reject with tcp reset",
            "ip daddr 192.0.2.0/24 meta l4proto tcp reject with tcp reset",
            "ip daddr 192.0.2.0/24 reject with icmpx admin-prohibited",
            "ip saddr 10.0.0.0/8 goto pick4_1",
            "meta l4proto icmp goto take_1_2",
            "goto pick4_1"
        ]
    );
}

#[test]
fn two_on_one_interface_are_told_apart() {
    let mut group = group();
    for (uplink, last) in group.uplinks.iter_mut().zip(1..) {
        uplink.interface = "eth1".into();
        uplink.gateway_mac = Some([2, 0, 0, 0, 0, last]);
    }
    let text = render(&[group], None);
    assert_eq!(
        chain(&text, "inbound_1")[2..],
        [
            "iifname \"eth1\" ether saddr 02:00:00:00:00:01 goto take_1_1",
            "iifname \"eth1\" ether saddr 02:00:00:00:00:02 goto take_1_2"
        ]
    );
    let leaves = "meta nfproto ipv4 oifname \"eth1\" meta mark & 0x0000ff00 == 0x00000200";
    assert_eq!(
        chain(&text, "translate_1")[3..],
        [
            format!("{leaves} ip saddr {{ 198.51.100.18 }} snat ip to 198.51.100.34"),
            format!("{leaves} fib saddr . oif type local return"),
            format!("{leaves} snat ip to 198.51.100.34")
        ]
    );
    assert_eq!(
        chain(&text, "departing_1")[4..],
        ["oifname \"eth1\" ct mark & 0x0000ff00 != { 0x00000100, 0x00000200 } goto take_1_1"]
    );
    assert!(chain(&text, "late_1").contains(&"oifname \"eth1\" drop"), "whose it is only a mark tells");
}

#[test]
fn names_cannot_break_out_of_their_place() {
    let mut group = group();
    group.name = "a\n}\nflush ruleset".into();
    group.uplinks[0].name = "b\r\nflush ruleset".into();
    group.uplinks[0].interface = "e\"; drop".into();
    let text = render(&[group], None);
    assert!(!text.lines().any(|line| line.trim().starts_with("flush")));
    assert!(text.contains("iifname \"e/; drop\""));
}

/// A pretended nftables with one table.
#[derive(Debug, Default)]
struct Fake {
    applied: Vec<String>,
    fail: usize,
    /// What contains this is refused.
    refuse: Option<&'static str>,
    generation: u32,
    listing: Option<String>,
    counters: VecDeque<Vec<(String, u64)>>,
}

impl RulesetSink for Fake {
    fn apply(&mut self, text: &str) -> Result<(), NftError> {
        self.applied.push(text.to_owned());
        if self.fail > 0 {
            self.fail -= 1;
            return Err(NftError::Missing);
        }
        if let Some(word) = self.refuse.filter(|word| text.contains(word)) {
            return Err(NftError::Refused { complaint: format!("Error: no {word}"), line: None });
        }
        self.generation += 1;
        self.listing = text.contains('{').then(|| text.to_owned());
        Ok(())
    }

    fn list(&mut self, _: &str) -> Result<Option<String>, NftError> {
        Ok(self.listing.clone())
    }

    fn generation(&mut self) -> io::Result<u32> {
        Ok(self.generation)
    }

    fn counters(&mut self, _: &str) -> io::Result<Vec<(String, u64)>> {
        self.counters.pop_front().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn applied() -> Ruleset<Fake> {
    let mut ruleset = Ruleset::new(Fake::default(), None);
    assert_eq!(ruleset.apply(0, &[group()]).unwrap(), Applied::Replaced);
    ruleset
}

#[test]
fn only_what_changes_is_written() {
    let mut ruleset = applied();
    assert_eq!(ruleset.apply(1, &[group()]).unwrap(), Applied::Unchanged);
    let mut changed = group();
    changed.uplinks[0].weight = 0;
    assert_eq!(ruleset.apply(2, &[changed.clone()]).unwrap(), Applied::Updated);
    assert_eq!(
        ruleset.sink.applied[1],
        "flush chain inet link_watcher pick4_1\n\
         table inet link_watcher {\n    chain pick4_1 {\n        goto take_1_2\n    }\n}\n"
    );
    changed.uplinks.pop();
    assert_eq!(ruleset.apply(3, &[changed]).unwrap(), Applied::Replaced);
    assert_eq!(ruleset.apply(4, &[]).unwrap(), Applied::Replaced);
    assert_eq!(ruleset.sink.applied[3], "add table inet link_watcher\ndelete table inet link_watcher\n");
    assert_eq!(ruleset.apply(5, &[]).unwrap(), Applied::Unchanged);
    assert_eq!((ruleset.sink.applied.len(), ruleset.deadline_ns()), (4, None));
}

fn fast(interfaces: &[(&str, u32)]) -> Desired {
    let fast_path = interfaces.iter().map(|(name, index)| ((*name).to_owned(), *index)).collect();
    Desired { fast_path, ..group() }
}

#[test]
fn the_fast_path_follows_its_interfaces() {
    let both = fast(&[("eth0", 2), ("eth1", 3)]);
    let text = render(std::slice::from_ref(&both), None);
    assert!(text.contains(
        "    flowtable fast {\n        hook ingress priority filter\n        devices = { \"eth0\", \"eth1\" }\n    }\n"
    ));
    let forwarded =
        ["ct mark & 0x0000ff00 == 0 goto adopt_1", "ct state established meta l4proto { tcp, udp } flow add @fast"];
    assert_eq!(chain(&text, "forwarded_1"), forwarded);
    assert!(!render(&[fast(&[])], None).contains("fast"), "nobody is there");
    let mut ruleset = Ruleset::new(Fake::default(), None);
    assert_eq!(ruleset.apply(0, std::slice::from_ref(&both)).unwrap(), Applied::Replaced);
    assert_eq!(ruleset.apply(1, &[both]).unwrap(), Applied::Unchanged);
    // One went, and another came under its name.
    assert_eq!(ruleset.apply(2, &[fast(&[("eth0", 2), ("eth1", 9)])]).unwrap(), Applied::Replaced);
}

#[test]
fn a_fast_path_that_the_kernel_refuses_is_left_out_until_another_one_is_wanted() {
    let (both, one) = (fast(&[("eth0", 2), ("eth1", 3)]), fast(&[("eth0", 2)]));
    let mut ruleset = Ruleset::new(Fake { refuse: Some("flowtable"), ..Fake::default() }, None);
    assert_eq!(ruleset.apply(0, std::slice::from_ref(&both)).unwrap(), Applied::Replaced);
    assert_eq!(ruleset.fast_path_refused(), Some("Error: no flowtable"));
    assert_eq!(ruleset.sink.applied.len(), 2);
    assert!(!ruleset.sink.applied[1].contains("fast"));
    assert_eq!(ruleset.tick(0), None, "it stands as well as it can");
    let lighter = Desired { uplinks: vec![uplink(1, "fibre", 0), uplink(2, "dsl", 1)], ..both.clone() };
    assert_eq!(ruleset.apply(1, &[lighter]).unwrap(), Applied::Updated, "a failover costs no attempt");
    assert_eq!(ruleset.apply(2, &[group()]).unwrap(), Applied::Updated);
    assert_eq!(ruleset.fast_path_refused(), None, "none is wanted");
    ruleset.sink.refuse = None;
    assert_eq!(ruleset.apply(3, &[one]).unwrap(), Applied::Replaced);
    assert_eq!(ruleset.fast_path_refused(), None);
    assert!(ruleset.sink.applied.last().unwrap().contains("flowtable fast"));
}

/// As `nft` lists what it was given.
fn listed(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().starts_with('#') && !line.starts_with(['a', 'd']));
    lines.map(|line| line.replace("    ", "\t") + "\n").collect()
}

#[test]
fn of_a_table_that_an_earlier_run_left_only_the_rules_are_written_unless_more_differs() {
    let takes_over = |listing: String| {
        let mut ruleset = Ruleset::new(Fake { listing: Some(listing), ..Fake::default() }, None);
        let applied = ruleset.apply(0, &[group()]).unwrap();
        let text = ruleset.sink.applied.remove(0);
        assert_eq!(text.contains("delete table"), applied == Applied::Replaced);
        assert_eq!(text.contains("flush chain inet link_watcher pick4_1\n"), applied == Applied::Updated);
        assert!(chain(&text, "pick4_1").len() > 2 && chain(&text, "srcnat").contains(&"jump translate_1"));
        applied
    };
    let same = listed(&render(&[group()], None));
    assert_eq!(takes_over(same.clone()), Applied::Updated);
    let mut other = group();
    (other.uplinks[0].weight, other.uplinks[1].ifindex) = (7, 9);
    assert_eq!(takes_over(listed(&render(&[other.clone()], None))), Applied::Updated, "other rules");
    other.uplinks.pop();
    assert_eq!(takes_over(listed(&render(&[other], None))), Applied::Replaced, "an uplink less");
    for (here, there) in [
        ("\tchain own_1 {", "\tflags dormant\n\tchain own_1 {"),
        ("\tchain own_1 {", "\tset own {\n\t}\n\tchain own_1 {"),
        ("srcnat; policy accept", "srcnat; policy drop"),
    ] {
        assert_eq!(takes_over(same.replace(here, there)), Applied::Replaced, "{there}");
    }
}

#[test]
fn with_all_weights_gone_the_last_ones_count_still() {
    let mut ruleset = applied();
    let mut down = group();
    for uplink in &mut down.uplinks {
        uplink.weight = 0;
    }
    assert_eq!(ruleset.apply(1, &[down.clone()]).unwrap(), Applied::Unchanged);
    let mut first = Ruleset::new(Fake::default(), None);
    first.apply(0, &[down]).unwrap();
    assert_eq!(chain(&first.sink.applied[0], "pick4_1"), [""; 0]);
}

#[test]
fn a_small_change_that_is_refused_becomes_a_whole_one() {
    let mut ruleset = applied();
    ruleset.sink.fail = 1;
    let mut changed = group();
    changed.uplinks[0].weight = 0;
    assert_eq!(ruleset.apply(1, &[changed]).unwrap(), Applied::Replaced);
    assert!(ruleset.sink.applied[2].starts_with("# link-watcher"));
}

#[test]
fn what_failed_is_tried_again_later_and_later() {
    let mut ruleset = Ruleset::new(Fake { fail: 3, ..Fake::default() }, None);
    assert!(ruleset.apply(0, &[group()]).is_err());
    assert_eq!(ruleset.tick(SECOND - 1), None);
    assert!(matches!(ruleset.tick(SECOND), Some(RulesetNotice::Failed(_))));
    assert_eq!(ruleset.deadline_ns(), Some(3 * SECOND));
    assert!(matches!(ruleset.tick(3 * SECOND), Some(RulesetNotice::Failed(_))));
    assert_eq!(ruleset.tick(7 * SECOND), Some(RulesetNotice::Applied));
    assert_eq!(ruleset.tick(8 * SECOND), None);
}

#[test]
fn what_others_do_to_the_table_is_put_right_and_to_other_tables_is_not_our_business() {
    let mut ruleset = applied();
    assert_eq!(ruleset.tick(0), None);
    ruleset.sink.generation += 1;
    assert_eq!(ruleset.tick(SECOND), None);
    assert_eq!(ruleset.sink.applied.len(), 1);
    ruleset.sink.generation += 1;
    ruleset.sink.listing = None;
    let repaired = |removed| Some(RulesetNotice::Repaired { table: "link_watcher".into(), removed, wait_ns: SECOND });
    assert_eq!(ruleset.tick(2 * SECOND), repaired(true));
    assert_eq!(ruleset.tick(3 * SECOND), None);
    ruleset.sink.generation += 1;
    ruleset.sink.listing.as_mut().unwrap().push('#');
    assert_eq!(ruleset.tick(4 * SECOND), repaired(false));
    assert_eq!(ruleset.deadline_ns(), Some(5 * SECOND));
}

#[test]
fn a_table_that_is_removed_stands_again_at_once_but_not_for_who_keeps_doing_it() {
    let mut ruleset = applied();
    assert_eq!(ruleset.tick(0), None);
    let mut remove = |now_ns| {
        ruleset.sink.generation += 1;
        ruleset.sink.listing = None;
        ruleset.was_removed(now_ns);
        matches!(ruleset.tick(now_ns), Some(RulesetNotice::Repaired { removed: true, .. }))
    };
    assert!(remove(SECOND / 10), "at the event");
    assert!(!remove(SECOND / 5), "again");
    assert!(remove(SECOND / 10 + SECOND), "a period after the first repair");
    // Our own writing removes it as well.
    ruleset.was_removed(2 * SECOND);
    assert_eq!(ruleset.tick(2 * SECOND), None);
}

/// Whoever removes it four times a second finds us ever more patient; and once he has stopped, as attentive as before.
#[test]
fn repairs_of_the_table_become_rarer_where_somebody_keeps_undoing_them() {
    let mut ruleset = applied();
    assert_eq!(ruleset.tick(0), None);
    let mut repairs = Vec::new();
    for quarter in 0..4 * 600 {
        let now_ns = quarter * SECOND / 4;
        ruleset.sink.generation += 1;
        ruleset.sink.listing = None;
        if let Some(RulesetNotice::Repaired { .. }) = ruleset.tick(now_ns) {
            repairs.push(now_ns / SECOND);
        }
    }
    assert!(repairs.starts_with(&[1, 2, 4, 8, 16, 32, 64, 124]) && repairs.len() < 20, "{repairs:?}");
    // The last look: it stands as it was left.
    let mut now_ns = ruleset.deadline_ns().unwrap();
    assert!(matches!(ruleset.tick(now_ns), Some(RulesetNotice::Repaired { .. })));
    now_ns = ruleset.deadline_ns().unwrap();
    assert_eq!(ruleset.tick(now_ns), None);
    assert_eq!(ruleset.deadline_ns(), Some(now_ns + SECOND));
}

#[test]
fn counts_of_answers_never_decrease() {
    let mut ruleset = applied();
    let counters =
        |first, second| vec![("answers_1_1".into(), first), ("answers_1_2".into(), second), ("foreign".into(), 1)];
    ruleset.sink.counters = [counters(5, 7), counters(6, 7), counters(2, 0)].into();
    let links = |first, second| vec![(LinkId(11), first), (LinkId(12), second)];
    assert_eq!(ruleset.replies().unwrap(), links(0, 0));
    assert_eq!(ruleset.replies().unwrap(), links(1, 0));
    // The table was written anew.
    assert_eq!(ruleset.replies().unwrap(), links(3, 0));
    assert!(ruleset.replies().is_err());
}

/// Only where sources are translated can a private one leave; and where conntrack takes no connection in its middle, what is
/// invalid may be one that was released.
#[test]
fn the_middle_of_a_connection_that_nobody_knows_is_reset() {
    let mut group = group();
    group.uplinks[0].nat = Nat::None;
    let text = render(&[group.clone()], None);
    let known = [
        "fib daddr type != unicast return",
        "ip saddr { 198.51.100.18/32 } return",
        "ct state new meta l4proto tcp reject with tcp reset",
        "drop",
    ];
    assert_eq!(chain(&text, "unknown_1"), known);
    group.tcp_loose = false;
    let text = render(&[group.clone()], None);
    assert_eq!(chain(&text, "unknown_1")[2], "meta l4proto tcp reject with tcp reset");
    group.uplinks[1].nat = Nat::None;
    assert!(!render(&[group], None).contains("unknown_1"));
}
