#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

/// A kernel with a LAN and two uplinks.
struct Routes;

impl Fib for Routes {
    fn way_out(&mut self, address: IpAddr) -> Option<String> {
        Some(if address.to_string().starts_with("10.") { "eth0" } else { "eth1" }.to_owned())
    }

    fn kind(&mut self, address: IpAddr, _: Option<&str>) -> String {
        if address.to_string() == "10.0.0.1" { "local" } else { "unicast" }.to_owned()
    }
}

fn packet() -> Packet {
    Packet {
        source: Some("10.0.0.2".parse().unwrap()),
        destination: "192.0.2.1".parse().unwrap(),
        protocol: "tcp",
        port: Some(443),
        source_port: None,
        incoming: Some("eth0".to_owned()),
        outgoing: None,
        mark: 0x10000,
        connection_mark: 0,
        state: "new",
    }
}

fn table(rules: &[(&str, Value)], further: &[Value]) -> Loaded {
    let mut objects = vec![json!({"chain": {"name": "first", "hook": "prerouting", "prio": -150, "policy": "accept"}})];
    for name in ["one", "two", "pick"] {
        objects.push(json!({"chain": {"name": name}}));
    }
    objects.extend(rules.iter().map(|(chain, expr)| json!({"rule": {"chain": chain, "expr": expr}})));
    objects.extend(further.iter().cloned());
    Loaded::parse(&json!({"nftables": objects}).to_string()).unwrap()
}

fn mark(value: u32) -> Value {
    json!([{"mangle": {"key": {"meta": {"key": "mark"}},
        "value": {"|": [{"&": [{"meta": {"key": "mark"}}, 0xffff_00ff_u32]}, value]}}}])
}

fn equal(left: &Value, right: &Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

fn marks(table: &Loaded, packet: &Packet) -> Vec<(u32, u32)> {
    let outcomes = table.run("prerouting", packet, &mut Routes).unwrap();
    outcomes.iter().map(|outcome| (outcome.packet.mark, (outcome.share * 100.0).round() as u32)).collect()
}

fn goto(chain: &str) -> Value {
    json!({"goto": {"target": chain}})
}

#[test]
fn turns_are_shares_and_bits_of_others_stay() {
    let turns = json!([[{"range": [0, 4]}, goto("one")], [5, goto("two")], [{"range": [6, 7]}, goto("two")]]);
    let numgen = json!({"numgen": {"mode": "inc", "mod": 8, "offset": 0}});
    let rules = [
        ("first", json!([goto("pick")])),
        ("pick", json!([{"vmap": {"key": numgen, "data": {"set": turns}}}])),
        ("one", mark(0x100)),
        ("two", mark(0x200)),
    ];
    assert_eq!(marks(&table(&rules, &[]), &packet()), [(0x10100, 63), (0x10200, 38)]);
}

#[test]
fn what_is_forced_and_what_is_left_alone() {
    let payload = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let prefix = json!({"prefix": {"addr": "10.0.0.0", "len": 8}});
    let rules = [
        (
            "first",
            json!([equal(&json!({"fib": {"result": "type", "flags": ["daddr"]}}), &json!("local")), {"return": null}]),
        ),
        (
            "first",
            json!([
                equal(&payload("ip", "saddr"), &prefix),
                equal(&payload("tcp", "dport"), &json!({"range": [20, 25]})),
                goto("one")
            ]),
        ),
        ("first", json!([equal(&payload("udp", "dport"), &json!(53)), {"reject": {"type": "icmpx"}}])),
        ("first", json!([equal(&json!({"meta": {"key": "iifname"}}), &json!({"set": ["eth0", "lan*"]})), goto("two")])),
        ("one", mark(0x100)),
        ("two", mark(0x200)),
    ];
    let table = table(&rules, &[]);
    assert_eq!(marks(&table, &packet()), [(0x10200, 100)]);
    assert_eq!(marks(&table, &Packet { port: Some(25), ..packet() }), [(0x10100, 100)]);
    let lan5 = Packet { incoming: Some("lan5".to_owned()), ..packet() };
    assert_eq!(marks(&table, &lan5), [(0x10200, 100)]);
    assert_eq!(marks(&table, &Packet { incoming: Some("eth9".to_owned()), ..packet() }), [(0x10000, 100)]);
    assert_eq!(marks(&table, &Packet { destination: "10.0.0.1".parse().unwrap(), ..packet() }), [(0x10000, 100)]);
    let dns = Packet { protocol: "udp", port: Some(53), ..packet() };
    let outcomes = table.run("prerouting", &dns, &mut Routes).unwrap();
    assert_eq!(outcomes[0].refused.as_deref(), Some("rejected by chain first"));
}

#[test]
fn a_connection_that_exists_keeps_its_mark_also_by_a_named_map() {
    let key = json!({"&": [{"ct": {"key": "mark"}}, 0xff00]});
    let map = json!({"map": {"name": "restore", "elem": [[0x100, goto("one")], [0x200, goto("two")]]}});
    let rules = [
        ("first", json!([{"vmap": {"key": key, "data": "@restore"}}])),
        ("first", json!([{"match": {"op": "!=", "left": {"ct": {"key": "state"}}, "right": "new"}}, {"return": null}])),
        ("first", json!([goto("one")])),
        ("one", mark(0x100)),
        ("two", mark(0x200)),
    ];
    let table = table(&rules, &[map]);
    let known = Packet { connection_mark: 0x200, state: "established", ..packet() };
    assert_eq!(marks(&table, &known), [(0x10200, 100)]);
    assert_eq!(marks(&table, &Packet { connection_mark: 0, ..known }), [(0x10000, 100)]);
    assert_eq!(marks(&table, &packet()), [(0x10100, 100)]);
}

#[test]
fn the_first_packet_of_a_tcp_connection_is_its_syn() {
    let flags = json!({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]});
    let middle = json!([{"match": {"op": "!=", "left": flags, "right": "syn"}}, {"drop": null}]);
    let table = table(&[("first", middle)], &[]);
    let refused = |packet: Packet| table.run("prerouting", &packet, &mut Routes).unwrap()[0].refused.is_some();
    assert!(!refused(packet()));
    assert!(refused(Packet { state: "established", ..packet() }));
    assert!(!refused(Packet { protocol: "udp", state: "established", ..packet() }), "it has no flags");
}

#[test]
fn what_is_not_known_is_no_guess() {
    let rules = [("first", json!([{"queue": {"num": 1}}]))];
    assert!(table(&rules, &[]).run("prerouting", &packet(), &mut Routes).is_err());
    let endless = [("first", json!([goto("one")])), ("one", json!([goto("one")]))];
    assert!(table(&endless, &[]).run("prerouting", &packet(), &mut Routes).is_err());
    assert!(Loaded::parse("{}").is_err() && Loaded::parse("no").is_err());
}

#[test]
fn the_rule_that_refuses_is_known() {
    let port = |n: u16| equal(&json!({"payload": {"protocol": "tcp", "field": "dport"}}), &json!(n));
    let drops = json!({"chain": {"name": "last", "hook": "input", "prio": 0, "policy": "drop"}});
    let accepts = json!({"rule": {"chain": "last", "handle": 7, "expr": [port(443), {"accept": null}]}});
    let jumps = json!({"rule": {"chain": "last", "handle": 8, "expr": [{"jump": {"target": "one"}}]}});
    let refuses = json!({"rule": {"chain": "one", "handle": 9, "expr": [port(80), {"drop": null}]}});
    let table = table(&[], &[drops, accepts, jumps, refuses]);
    let refused = |port| {
        let packet = Packet { port: Some(port), ..packet() };
        table.run("input", &packet, &mut Routes).unwrap().remove(0).refused_by
    };
    assert_eq!(refused(443), None, "what a rule accepts does not come to the policy");
    let by = |chain: &str, rule| Some(Refuser { base: "last".to_owned(), chain: chain.to_owned(), rule });
    assert_eq!(refused(80), by("one", Some(9)));
    assert_eq!(refused(22), by("last", None));
}

#[test]
fn a_rule_that_is_known_not_to_match_may_say_what_it_likes() {
    let obscure = json!({"match": {"op": "==", "left": {"osf": {"key": "name"}}, "right": "Linux"}});
    let tcp = |n: u16| equal(&json!({"payload": {"protocol": "tcp", "field": "dport"}}), &json!(n));
    let rules = [
        ("first", json!([obscure.clone(), tcp(80), {"drop": null}])),
        ("first", json!([goto("one")])),
        ("one", mark(0x100)),
    ];
    assert_eq!(marks(&table(&rules, &[]), &packet()), [(0x10100, 100)]);
    let matching = [("first", json!([obscure, tcp(443), {"drop": null}]))];
    assert!(table(&matching, &[]).run("prerouting", &packet(), &mut Routes).is_err());
}
