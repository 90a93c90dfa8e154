#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;

fn way(interface: &str, ifindex: u32) -> Way {
    Way { interface: interface.to_owned(), ifindex, gateway: "10.248.248.1".parse().unwrap() }
}

fn peer(name: &str, table: u32) -> PeerClaim {
    let ways = BTreeSet::from([way("eth1", 2)]);
    PeerClaim { name: name.to_owned(), table, metric: 0, table_base: 1_000_000, rule_priority: 32_600, ways }
}

fn uplinks(numbers: &[(&str, u32)]) -> UplinksClaim {
    UplinksClaim {
        name: "wan".to_owned(),
        fwmark_mask: 0xff00,
        rule_priority: 20_000,
        table_base: 7000,
        numbers: numbers.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect(),
    }
}

#[test]
fn what_was_claimed_is_known_to_the_next_run() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open_in(directory.path());
    assert!(ledger.former().is_empty() && ledger.problem().is_none());
    ledger.claim(vec![peer("hq", 254)], vec![uplinks(&[("a", 1)])]);
    ledger.add_way(&peer("hq", 254), way("eth2", 3));
    ledger.add_way(&peer("hq", 77), way("eth3", 4));
    ledger.save();
    let mut shared = SharedLedger::new(ledger);
    shared.record("ipv4/conf/eth1/rp_filter", "1", "2");
    // The second value is ours already: the first one is the administrator's.
    shared.record("ipv4/conf/eth1/rp_filter", "2", "2");
    drop(shared);
    let mut next = Ledger::open_in(directory.path());
    assert_eq!(next.problem(), None);
    let former = next.former().clone();
    assert_eq!(former.peers[0].ways, BTreeSet::from([way("eth1", 2), way("eth2", 3)]));
    assert_eq!(former.sysctls["ipv4/conf/eth1/rp_filter"], ("1".to_owned(), "2".to_owned()));
    // Another table: both are claimed until nothing is left of the former one.
    next.claim(vec![peer("hq", 77)], Vec::new());
    assert_eq!(next.claims().peers.len(), 2);
    next.keep_only_peers(&[peer("hq", 77)]);
    assert_eq!((next.claims().peers.len(), next.claims().peers[0].table), (1, 77));
    next.strike_uplinks(&uplinks(&[]));
    assert_eq!(next.claims().uplinks, []);
}

#[test]
fn a_record_that_cannot_be_used_is_said_and_survived() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.json");
    let stamp = |version: u32, boot: &str| {
        let content = format!("{{\"stamp\": {{\"boot_id\": \"{boot}\", \"network_namespace\": 1}}, \"claims\": 5}}");
        format!("{{\"version\": {version}, \"content\": {content}}}")
    };
    for (text, problem) in [
        ("", Some("EOF while parsing")),
        ("{\"version\": 1", Some("EOF while parsing")),
        (&stamp(2, "x"), Some("of version 2")),
        // Of another boot: what it says has gone with that one.
        (&stamp(1, "x"), None),
        (&"x".repeat((8 << 20) + 1), Some("longer than")),
    ] {
        fs::write(&path, text).unwrap();
        let mut ledger = Ledger::open_in(directory.path());
        assert_eq!(ledger.problem().is_some(), problem.is_some(), "{:?}", ledger.problem());
        assert!(ledger.problem().unwrap_or_default().contains(problem.unwrap_or_default()), "{:?}", ledger.problem());
        assert!(ledger.former().is_empty());
        ledger.claim(vec![peer("hq", 254)], Vec::new());
        ledger.save();
        assert_eq!(ledger.problem(), None, "it is written anew");
    }
}

#[test]
fn a_second_daemon_of_the_same_name_keeps_away_from_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = Ledger::open_in(directory.path());
    let mut second = Ledger::open_in(directory.path());
    assert!(second.problem().unwrap().contains("give each its own `instance`"), "{:?}", second.problem());
    second.claim(vec![peer("other", 254)], Vec::new());
    second.save();
    first.claim(vec![peer("hq", 254)], Vec::new());
    first.save();
    drop(first);
    assert_eq!(Ledger::open_in(directory.path()).former().peers[0].name, "hq");
}

#[test]
fn a_place_that_cannot_be_written_is_said_once_and_survived() {
    let directory = tempfile::tempdir().unwrap();
    let not_a_directory = directory.path().join("file");
    fs::write(&not_a_directory, "").unwrap();
    let mut ledger = Ledger::open_in(&not_a_directory.join("main"));
    assert!(ledger.problem().unwrap().contains("is not written down"), "{:?}", ledger.problem());
    ledger.claim(vec![peer("hq", 254)], Vec::new());
    ledger.save();
    assert_eq!(ledger.claims().peers.len(), 1);
    // Where the directory goes away below us.
    let gone = directory.path().join("gone");
    let mut ledger = Ledger::open_in(&gone);
    fs::remove_dir_all(&gone).unwrap();
    fs::write(&gone, "").unwrap();
    ledger.claim(vec![peer("hq", 254)], Vec::new());
    ledger.save();
    assert!(ledger.problem().unwrap().contains("may not know all"), "{:?}", ledger.problem());
    fs::remove_file(&gone).unwrap();
    ledger.save();
    assert_eq!(ledger.problem(), None, "it is tried again");
    let mode = fs::metadata(gone.join("ledger.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_uplink_keeps_its_number_wherever_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open_in(directory.path());
    let mut number = |names: &[&str], room| {
        let (given, numbers) = ledger.numbers("wan", names, room);
        ledger.claim(Vec::new(), vec![UplinksClaim { numbers, ..uplinks(&[]) }]);
        given
    };
    assert_eq!(number(&["u1", "u2"], 255), [1, 2]);
    assert_eq!(number(&["u3", "u1", "u2"], 255), [3, 1, 2]);
    assert_eq!(number(&["u2", "u3"], 255), [2, 3]);
    // The number of one that is gone stays free as long as there is room: its connections may still have it.
    assert_eq!(number(&["u2", "u4"], 255), [2, 4]);
    assert_eq!(number(&["u1", "u2", "u3", "u4"], 255), [1, 2, 3, 4]);
    assert_eq!(number(&["u2", "u4", "u5"], 4), [2, 4, 1]);
    // A narrower mask.
    assert_eq!(number(&["u2", "u4"], 3), [2, 3]);
}

/// Whatever is asked for, in any order: names have different numbers, within the room, and keep them.
#[test]
fn numbers_are_different_and_stay() {
    let mut random = fastrand::Rng::with_seed(7);
    let names: Vec<String> = (0..8).map(|i| format!("u{i}")).collect();
    let mut known = BTreeMap::new();
    for _ in 0..20_000 {
        let room = random.u32(1..=10);
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        random.shuffle(&mut names);
        names.truncate(random.usize(0..=names.len().min(room as usize)));
        let assigned = numbers::assign(&known, &names, room);
        let given: BTreeSet<u32> = assigned.values().copied().collect();
        assert_eq!(given.len(), assigned.len(), "{assigned:?}");
        assert!(given.iter().all(|number| (1..=room).contains(number)), "{assigned:?}");
        for name in names {
            let number = assigned.get(name).unwrap();
            assert!(known.get(name).is_none_or(|before| before == number || *before > room), "{known:?} {assigned:?}");
        }
        known = assigned;
    }
}
