//! What people read, word by word.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::status::{DroppedSnapshot, OrderSnapshot, PeerViewSnapshot, RoutesSnapshot, TargetSnapshot};

fn now() -> SystemTime {
    humantime::parse_rfc3339("2026-11-20T12:10:00Z").unwrap()
}

fn link(name: &str) -> LinkSnapshot {
    LinkSnapshot {
        name: name.to_owned(),
        interface: "eth1".to_owned(),
        tier: 1,
        weight: 1,
        state: "up".to_owned(),
        usable: true,
        engine: "xdp-native".to_owned(),
        since: "2026-11-20T12:00:00.100Z".to_owned(),
        remote: "10.248.248.1".to_owned(),
        rtt_ms: Some(0.042),
        jitter_ms: Some(0.003),
        sent: 1200,
        received: 1200,
        ..LinkSnapshot::default()
    }
}

fn group(links: Vec<LinkSnapshot>) -> GroupSnapshot {
    GroupSnapshot {
        name: "hq".to_owned(),
        kind: "peer".to_owned(),
        role: Some(Role::Client),
        failover: true,
        active: vec!["optic".to_owned()],
        since: "2026-11-20T12:00:00.123Z".to_owned(),
        reason: "lowest tier with a usable link".to_owned(),
        routes: RoutesSnapshot { installed: 2, table: Some(254), ..RoutesSnapshot::default() },
        links,
        ..GroupSnapshot::default()
    }
}

fn unusable(name: &str, state: &str, usable_reason: Option<&str>, last_down_reason: Option<&str>) -> LinkSnapshot {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    LinkSnapshot {
        state: state.to_owned(),
        usable: false,
        usable_reason: owned(usable_reason),
        last_down_reason: owned(last_down_reason),
        ..link(name)
    }
}

/// What stands below the link in the table.
fn below(link: LinkSnapshot, change: impl FnOnce(&mut GroupSnapshot)) -> Vec<String> {
    let mut group = group(vec![link]);
    change(&mut group);
    let text = render_group(&group, 4, now(), Style::default());
    let at = text.find("FOR\n").unwrap() + 4;
    text[at..].lines().skip(1).map(|line| line.trim_start().to_owned()).collect()
}

fn said(link: LinkSnapshot) -> String {
    below(link, |_| {}).join(" ")
}

#[test]
fn whoever_is_not_usable_has_a_reason_in_whatever_state() {
    let of = |state: &str, reason: Option<&str>, down: Option<&str>| said(unusable("wifi", state, reason, down));
    assert_eq!(of("up", Some("2.1 s of hold-up left"), Some("no echo for 300 ms")), "! 2.1 s of hold-up left");
    assert_eq!(of("up", Some("the peer does not hear us"), None), "! the peer does not hear us");
    assert_eq!(of("starting", Some("no verdict yet"), None), "! no verdict yet");
    assert_eq!(of("down", Some("it is down: carrier lost"), Some("carrier lost")), "! carrier lost");
    assert_eq!(of("dampened", Some("it flaps: 40 s left"), None), "! it flaps: 40 s left");
    assert_eq!(
        of("absent", Some("it is absent: the interface is gone"), Some("the interface is gone")),
        "! the interface is gone; `ip link show eth1` says more"
    );
    for state in ["up", "down", "starting", "degraded", "dampened", "absent"] {
        assert!(of(state, None, None).starts_with("! "), "{state}");
    }
    let resort = LinkSnapshot { name: "optic".to_owned(), ..unusable("", "degraded", None, Some("loss 30.0 %")) };
    assert_eq!(said(resort), "! loss 30.0 %; it carries the traffic all the same, for no other link is better");
}

#[test]
fn a_usable_link_that_waits_says_for_what_and_one_that_is_well_says_nothing() {
    let waits = LinkSnapshot { usable_reason: Some("failback in 26 s".to_owned()), ..link("wifi") };
    assert_eq!(said(waits), "! failback in 26 s");
    assert_eq!(said(link("optic")), "");
}

#[test]
fn a_drain_says_whose_it_is_and_where_it_is_undone() {
    let drained = |ends: &[&str]| LinkSnapshot {
        drained: true,
        drained_by: ends.iter().map(|end| (*end).to_owned()).collect(),
        ..unusable("optic", "up", Some("it is drained"), None)
    };
    let by_peer = said(drained(&["peer"]));
    assert_eq!(by_peer, "! drained by the peer; that is undone there: `link-watcher undrain` on the peer");
    assert!(!by_peer.contains("undrain hq"), "it would do nothing here");
    let order = OrderSnapshot {
        what: "drain".to_owned(),
        link: Some("optic".to_owned()),
        by: "root".to_owned(),
        at: "2026-11-20T12:09:00Z".to_owned(),
        until: Some("2026-11-20T14:09:00.000Z".to_owned()),
        reason: Some("splicing".to_owned()),
        ..OrderSnapshot::default()
    };
    let here = below(drained(&["here"]), |group| group.orders = vec![order]);
    assert_eq!(
        here,
        [
            "! drained here by root since 1m 0s ago, until 2026-11-20T14:09:00.000Z",
            "(\"splicing\"); `link-watcher undrain hq optic` puts it back",
        ]
    );
    let both = said(LinkSnapshot { connections: Some(40), ..drained(&["here", "peer"]) });
    assert!(both.contains("connections that still use it: 40 ! drained by the peer"), "{both}");
}

#[test]
fn what_was_refused_long_ago_is_counted_and_accuses_nobody() {
    let mended = LinkSnapshot {
        dropped: DroppedSnapshot { forged: 36_000, reflected: 9, ..DroppedSnapshot::default() },
        ..link("optic")
    };
    assert_eq!(said(mended.clone()), "dropped since the start: 36000 forged, 9 reflected");
    let now = LinkSnapshot { suspicion: Some("all 30 packets of the last 3 s were forged".to_owned()), ..mended };
    assert!(said(now).starts_with("! all 30 packets of the last 3 s were forged dropped since"));
}

#[test]
fn ordinary_names_fit_80_columns_and_nothing_is_cut_off() {
    let busy = LinkSnapshot {
        interface: "enp1s0f0".to_owned(),
        tier: 100,
        state: "degraded".to_owned(),
        share: 0.3333,
        loss: 0.995,
        rtt_ms: Some(1234.5),
        since: "2026-11-19T12:10:01Z".to_owned(),
        usable: false,
        last_down_reason: Some(
            "keepalives are answered by the peer's kernel, but for 4.0 s nothing came through its network stack: does a \
             firewall there or here drop UDP packets of this port?"
                .to_owned(),
        ),
        suspicion: Some("all 30 packets of the last 3 s were forged: do the key files (`link-watcher key fingerprint`) \
             or the names of the link differ, or is there a router or NAT between (max-hops)?".to_owned()),
        engine_reason: Some("eth1 has another XDP program".to_owned()),
        ..link("provider-1")
    };
    let announced = (0..200).map(|i| format!("10.{i}.0.0/16")).collect();
    let group = GroupSnapshot {
        reason: "lowest tier with a usable link, of two that were chosen by their weights".to_owned(),
        announced_to_us: announced,
        pinned: Some("provider-1".to_owned()),
        failover: false,
        peer_silence_s: Some(5),
        ..group(vec![busy.clone(), link("optic")])
    };
    let snapshot = Snapshot { groups: vec![group], ..Snapshot::default() };
    let text = render(&snapshot, now(), Style::default());
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
    }
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    for whole in [busy.last_down_reason.unwrap(), busy.suspicion.unwrap()] {
        assert!(words(&text).contains(&words(&whole)), "{text}");
    }
    assert!(words(&text).contains("10.3.0.0/16 and 196 more"), "{text}");
    let scope = Scope { group: Some("hq".to_owned()), link: None };
    let one = render_scope(&snapshot, &scope, now(), Style::default());
    assert!(one.contains("10.199.0.0/16"), "of one group all are listed");
    let scope = Scope { link: Some("optic".to_owned()), ..scope };
    let one = render_scope(&scope.cut(snapshot).unwrap(), &scope, now(), Style::default());
    assert!(one.lines().all(|line| line.chars().count() <= WIDTH), "{one}");
}

#[test]
fn of_a_peers_link_everything_is_said() {
    let optic = LinkSnapshot {
        share: 1.0,
        local: Some("10.248.248.2".to_owned()),
        detection_ms: Some(300.0),
        last_good: Some("2026-11-20T12:10:00Z".to_owned()),
        carried_by: vec!["here".to_owned(), "peer".to_owned()],
        peer: Some(PeerViewSnapshot {
            hears: true,
            active: true,
            received: 1199,
            probes: 1201,
            last_probe: Some("2026-11-20T12:09:59Z".to_owned()),
            ..PeerViewSnapshot::default()
        }),
        dropped: DroppedSnapshot { late: 3, ..DroppedSnapshot::default() },
        flaps: 2,
        last_down_reason: Some("carrier lost".to_owned()),
        worst_lateness_ms: Some(0.2),
        ..link("optic")
    };
    let order = OrderSnapshot {
        what: "failover".to_owned(),
        by: "root (anna by sudo)".to_owned(),
        at: "2026-11-20T12:09:00Z".to_owned(),
        ..OrderSnapshot::default()
    };
    let group = GroupSnapshot { orders: vec![order], ..group(vec![optic]) };
    assert_eq!(
        detail::render(&group, &group.links[0], now(), Style::default()),
        "\
hq optic (peer): carries the traffic of both ends
  state           up since 9m 59s ago (2026-11-20T12:00:00.100Z)
  usable          yes
  interface       eth1, local 10.248.248.2, remote 10.248.248.1
  verified by     xdp-native
  tier            1, weight 1, 100% of the traffic
  round trip      0.042 ms, jitter 0.003 ms, loss 0%
  detection time  300 ms here
  probes          1200 sent, 1200 answered
  last echo       0s ago
  the peer        hears us, sends its traffic here; place 1 in its order; 1199
                  probes of ours arrived there, 1201 of its probes here, the
                  last 1s ago
  dropped         3 late
  went down       2 times after having been up; the last reason: carrier lost
  own lateness    0.200 ms at worst in the last 10 s
  routes          of hq: 2 installed, 0 refused, table 254
  ordered         failover off by root (anna by sudo) since 1m 0s ago
"
    );
}

#[test]
fn of_an_uplink_everything_is_said() {
    let target = |target: &str, answers, rtt_ms, loss| TargetSnapshot {
        flaky: false,
        target: target.to_owned(),
        answers,
        rtt_ms,
        jitter_ms: rtt_ms.map(|_| 1.0),
        loss,
    };
    let fibre = LinkSnapshot {
        engine: "icmp".to_owned(),
        remote: "192.0.2.1".to_owned(),
        local: Some("192.0.2.2".to_owned()),
        detection_ms: Some(3000.0),
        connections: Some(40),
        mark: Some("0x100/0xff00".to_owned()),
        table: Some(7001),
        required_targets: Some(2),
        last_failure: Some("203.0.113.9: no answer within 1s".to_owned()),
        targets: vec![
            target("203.0.113.8", Some(true), Some(12.3), Some(0.0)),
            target("203.0.113.9", Some(false), None, Some(1.0)),
            target("203.0.113.10", None, None, None),
        ],
        ..link("fibre")
    };
    let routes =
        RoutesSnapshot { installed: 1, table: Some(7000), rule_priority: Some(20000), ..RoutesSnapshot::default() };
    let group =
        GroupSnapshot { name: "wan".to_owned(), kind: "uplinks".to_owned(), role: None, routes, ..group(vec![fibre]) };
    assert_eq!(
        detail::render(&group, &group.links[0], now(), Style::default()),
        "\
wan fibre (uplinks): carries no traffic
  state           up since 9m 59s ago (2026-11-20T12:00:00.100Z)
  usable          yes
  interface       eth1, local 192.0.2.2, gateway 192.0.2.1
  probed by       icmp
  tier            1, weight 1, 0% of the traffic
  round trip      0.042 ms, jitter 0.003 ms, loss 0%
  detection time  3000 ms here
  probes          1200 sent, 1200 answered
  last good round never
  last failure    203.0.113.9: no answer within 1s
  went down       0 times after having been up
  connections     40 still use it
  mark            0x100/0xff00, table 7001
  routes          of wan: 1 installed, 0 refused, table 7000, rules from
                  priority 20000
  targets         2 must answer in each round
    203.0.113.8             answers  12.30 ms, jitter 1.000 ms, loss 0%
    203.0.113.9             silent
    203.0.113.10            not asked yet
"
    );
}
