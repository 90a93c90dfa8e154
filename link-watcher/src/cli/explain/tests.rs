#![allow(clippy::unwrap_used)]

use super::{
    follow::{Decider, Hop, Route},
    *,
};
use crate::control::{LinkMark, Share};

fn intent(kind: &str, prefix: &str) -> Intent {
    let share = |link: &str| Share { link: link.to_owned(), share: 0.5 };
    Intent {
        group: format!("{kind} group"),
        kind: kind.to_owned(),
        prefix: prefix.parse().unwrap(),
        rule_priority: Some(20_000).filter(|_| kind == "uplinks"),
        active: vec![share("fibre"), share("dsl")],
        lan: vec!["eth0".to_owned()],
        marks: vec![LinkMark {
            link: "fibre".to_owned(),
            mark: 0x100,
            mask: 0xff00,
            table: 7001,
            sources: vec!["2001:db8:1::/48".parse().unwrap()],
        }],
        ..Intent::default()
    }
}

fn way(link: &str, group: &str) -> Way {
    let link = LinkSaid {
        group: group.to_owned(),
        link: link.to_owned(),
        state: Some("up".to_owned()),
        usable: Some(true),
        active: Some(true),
        evidence: vec!["up since then".to_owned(), "1200 of 1200 probes answered (icmp)".to_owned()],
    };
    Way {
        share: 1.0,
        rule: Some(Decider { priority: 20_100, text: "20100: lookup 7001".to_owned(), table: Some(7001), ours: true }),
        route: Some(Route {
            table: 7001,
            prefix: "0.0.0.0/0".parse().unwrap(),
            metric: 0,
            protocol: 208,
            ours: true,
            kind: "unicast".to_owned(),
        }),
        hops: vec![Hop { interface: "eth1".to_owned(), share: 1.0, taken: true, link: Some(link), ..Hop::default() }],
        ..Way::default()
    }
}

fn judged(way: Way, intents: Vec<Intent>) -> Explanation {
    judged_from(None, way, intents)
}

fn judged_from(source: Option<&str>, way: Way, intents: Vec<Intent>) -> Explanation {
    let mut explanation = Explanation {
        packet: "from 10.20.20.10, which comes in by eth0, to 192.0.2.129, tcp port 443".to_owned(),
        source: source.map(|source| source.parse().unwrap()),
        incoming: Some("eth0".to_owned()),
        nftables: Some("link_watcher".to_owned()),
        ways: vec![way],
        ..Explanation::default()
    };
    let meant = Meant { snapshot: Some(Snapshot::default()), config: None, intents, no_daemon: None };
    judge::judge(&mut explanation, &meant, true);
    explanation
}

#[test]
fn what_is_as_meant_has_no_difference() {
    let explanation = judged(way("fibre", "uplinks group"), vec![intent("uplinks", "0.0.0.0/0")]);
    assert_eq!(explanation.differences, []);
    let text = render::render(&explanation);
    assert!(text.contains("It is as meant.") && text.contains("fibre is usable and active"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn a_peers_prefix_goes_before_uplinks_and_its_default_behind() {
    let both = |peer: &str| vec![intent("peer", peer), intent("uplinks", "0.0.0.0/0")];
    assert_eq!(judged(way("fibre", "x"), both("192.0.2.0/24")).intent.unwrap().kind, "peer");
    assert_eq!(judged(way("fibre", "x"), both("0.0.0.0/0")).intent.unwrap().kind, "uplinks");
}

#[test]
fn each_difference_has_its_remedy() {
    let group = || vec![intent("uplinks", "0.0.0.0/0")];
    let foreign = Decider { priority: 5210, text: "5210: lookup 52".to_owned(), table: Some(52), ours: false };
    let tailscale = judged(Way { rule: Some(foreign), ..way("fibre", "uplinks group") }, group());
    assert!(tailscale.differences[0].what.contains("5210: lookup 52"), "{tailscale:?}");
    assert!(tailscale.differences[0].remedy.contains("`rule-priority` of uplinks group below 5210"), "{tailscale:?}");
    let idle = judged(way("lte", "uplinks group"), group());
    assert!(idle.differences[0].what.contains("leaves by lte, while uplinks group means fibre, dsl"), "{idle:?}");
    let refused = Way { refused: Some("no route".to_owned()), ..way("fibre", "uplinks group") };
    let refused = judged(refused, group());
    assert!(refused.differences[0].what.contains("goes nowhere: no route"), "{refused:?}");
    assert!(render::render(&refused).contains("NOT as meant"));
    // What is forced to an uplink that takes no turns is as meant.
    let mut forced = intent("uplinks", "0.0.0.0/0");
    forced.marks[0].link = "lte".to_owned();
    let forced = judged(Way { mark: 0x100, ..way("lte", "uplinks group") }, vec![forced]);
    assert_eq!(forced.differences, []);
}

#[test]
fn a_source_of_an_uplink_goes_there_whichever_is_active() {
    let by = |link: &str, active: &[&str]| {
        let mut meant = intent("uplinks", "::/0");
        meant.active.retain(|share| active.contains(&share.link.as_str()));
        judged_from(Some("2001:db8:1::10"), way(link, "uplinks group"), vec![meant]).differences
    };
    assert_eq!(by("fibre", &["dsl"]), []);
    assert!(by("dsl", &["dsl"])[0].what.contains("leaves by dsl, while its source is fibre's"));
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    let to: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(Question::new("2001:db8::1", to, None, None).is_err());
    assert!(Question::new("router", to, Some(1), Some(PacketProtocol::Icmp)).is_err());
    let tcp = Question::new("eth0", to, Some(443), None).unwrap();
    assert_eq!((tcp.from.clone(), tcp.protocol()), (From::Interface("eth0".to_owned()), ("tcp", 6)));
    assert_eq!(Question::new("router", to, None, None).unwrap().protocol(), ("icmp", 1));
}
