//! Messages, word by word.

use super::*;

pub(super) fn event(second: u32, link: Option<&str>, what: &str, why: &str) -> Arc<EventRecord> {
    Arc::new(EventRecord {
        time: format!("2026-11-20T12:00:{second:02}.000Z"),
        group: "hq".to_owned(),
        link: link.map(str::to_owned),
        what: what.to_owned(),
        why: why.to_owned(),
        ..EventRecord::default()
    })
}

fn moved(second: u32, from: &[&str], to: &[&str]) -> Arc<EventRecord> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let event = EventRecord::clone(&event(second, None, "active-changed", "optic: no echo for 30 ms"));
    Arc::new(EventRecord { from: names(from), to: names(to), ..event })
}

fn link(name: &str, state: &str) -> LinkSnapshot {
    LinkSnapshot {
        name: name.to_owned(),
        state: state.to_owned(),
        usable: state == "up",
        since: "2026-11-20T12:00:00.000Z".to_owned(),
        last_down_reason: Some("no echo for 30 ms".to_owned()),
        ..LinkSnapshot::default()
    }
}

fn status(active: &[&str], links: Vec<LinkSnapshot>) -> Option<Snapshot> {
    let group = |name: &str, links| GroupSnapshot {
        name: name.to_owned(),
        active: active.iter().map(|name| (*name).to_owned()).collect(),
        since: "2026-11-20T12:00:01.000Z".to_owned(),
        reason: "lowest tier with a usable link".to_owned(),
        announced_to_us: vec!["10.20.20.0/22".to_owned()],
        links,
        ..GroupSnapshot::default()
    };
    Some(Snapshot { groups: vec![group("other", Vec::new()), group("hq", links)], ..Snapshot::default() })
}

fn message(events: &[Arc<EventRecord>], omitted: u64, status: Option<Snapshot>) -> Message {
    Message::new(Batch { events: events.to_vec(), omitted }, status, "r1")
}

#[test]
fn a_failover_in_words() {
    let events = [event(0, Some("optic"), "link-down", "no echo for 30 ms"), moved(1, &["optic"], &["wifi"])];
    let message = message(&events, 0, status(&["wifi"], vec![link("optic", "down"), link("wifi", "up")]));
    assert_eq!(message.subject, "[link-watcher r1] hq: traffic moved from optic to wifi");
    assert_eq!(
        message.text,
        "\
hq: traffic moved from optic to wifi.

What happened (UTC):
  2026-11-20T12:00:00.000Z  hq: optic is down: no echo for 30 ms
  2026-11-20T12:00:01.000Z  hq: traffic moved from optic to wifi: optic: no echo for 30 ms

Now:
  hq: traffic goes by wifi, since 2026-11-20T12:00:01.000Z (lowest tier with a usable link)
    optic: down, since 2026-11-20T12:00:00.000Z (no echo for 30 ms)
    wifi: up, since 2026-11-20T12:00:00.000Z

What to do:
  hq: mend soon, there is no spare link left: optic. link-watcher status says what is wrong.
"
    );
    assert_eq!(message.gravest().map(|event| event.what.as_str()), Some("link-down"));
    assert_eq!((message.groups.len(), message.groups[0].announced_to_us.len()), (1, 0));
    assert_eq!((message.active("hq"), message.time.as_str()), (vec!["wifi".to_owned()], "2026-11-20T12:00:01.000Z"));
}

#[test]
fn an_outage_that_is_over_is_told_as_one() {
    let outage = event(1, None, "no-usable-link", "no link of hq is usable; routes stay");
    let during = message(std::slice::from_ref(&outage), 0, status(&["optic"], vec![link("optic", "down")]));
    assert_eq!(during.subject, "[link-watcher r1] hq: no usable link");
    assert!(during.text.contains("  hq: nothing gets through. Look at power, cables and the provider of optic;"));
    let back = event(2, Some("optic"), "link-up", "");
    let after = message(&[outage.clone(), back], 0, None);
    assert_eq!(after.subject, "[link-watcher r1] hq: optic is up after an outage");
    let after = message(&[outage, moved(3, &["optic"], &["wifi"])], 0, None);
    assert_eq!(after.subject, "[link-watcher r1] hq: traffic moved from optic to wifi after an outage");
    assert_eq!(after.active("hq"), ["wifi"]);
    assert!(after.text.ends_with("did not say in time: link-watcher status\n"), "{}", after.text);
}

#[test]
fn there_and_back_is_where_it_was() {
    let events = [moved(0, &["optic"], &["wifi"]), moved(9, &["wifi"], &["optic"])];
    let message = message(&events, 12, status(&["optic"], vec![link("optic", "up"), link("wifi", "up")]));
    assert_eq!(message.subject, "[link-watcher r1] hq: traffic is back on optic");
    assert!(message.text.contains("  12 events that are not listed;"), "{}", message.text);
    assert!(message.text.ends_with("What to do:\n  hq: nothing.\n"), "{}", message.text);
}

#[test]
fn subjects_are_one_line_of_bounded_length() {
    let of_group = |name: &str| {
        let event = EventRecord::clone(&event(0, Some("optic"), "link-down", "a"));
        Arc::new(EventRecord { group: name.to_owned(), ..event })
    };
    let events = ["a", "b", "c", "d"].map(of_group);
    let subject = message(&events, 0, None).subject;
    assert_eq!(subject, "[link-watcher r1] a: optic is down; b: optic is down; and 2 more");
    let long = message(&[of_group(&"ü\n".repeat(200))], 0, None).subject;
    assert!(long.len() < MAX_SUBJECT + 8 && !long.contains('\n') && long.ends_with('…'), "{long}");
}

#[test]
fn a_test_says_that_it_is_one() {
    let message = Message::test("r1", "admin", "T".to_owned());
    assert!(message.test && message.subject == "[link-watcher r1] test of admin" && message.gravest().is_none());
}
