//! What is drawn, as text, and what keys do.
#![allow(clippy::unwrap_used)]

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::{
    draw::draw,
    picture::News,
    view::{Action, View},
};
use crate::{
    control::{Change, EventRecord},
    event::Role,
    status::{GroupSnapshot, LinkSnapshot, Snapshot},
    trace::Trace,
};

/// What `lived` looks like.
const PICTURE: &str = "\
link-watcher 0.1.0, engine xdp, running for 1m 48s                  12:00:08 UTC
   LINK         STATE         RTT ms JIT ms  LOSS SHARE     PKT/S     ROUND TRIP
hq (peer, client): optic active, since 2m 8s ago: lowest tier with a usable link
>* optic        up             0.042  0.003  0.0%  100%     10/10       ▄▅█  ▄▅▅
   wifi         up             2.500  0.800  0.0%     -     10/10       ▄▄▄▄▄▄▄▄
 - tunnel       down               -      -  100%     -      10/0
wan (uplinks): fibre active, PINNED to fibre, FAILOVER OFF, since 2m 8s ago: lo…
 * fibre        up            11.200  0.003  0.0%  100%     10/10       ▄▄▄▄▄▄▄▄
   dsl          drained/up    31.000  0.003  5.0%     -     10/10       ▄▄▄▄▄▄▄▄
optic: eth1 to 10.248.248.1, tier 1, weight 1, xdp-native, up since 1h 0m ago

── events ──────────────────────────────────────────────────────────────────────
2026-11-19 23:59:59.500Z  hq: peer-restarted: the peer's daemon was started
    again
11:57:59.700  hq tunnel: link-down: no valid packet for 300 ms
11:57:59.700  hq: active-changed wifi -> optic: lowest tier with a usable link
    (took 300.4 ms: silence 300.0, wake 0.05, decide 0.05, routes 0.3)






↑↓  s switch  a auto  d drain  u undrain  f failover  p pause  ? help  q quit
";

/// 12:00:00.
fn noon() -> SystemTime {
    humantime::parse_rfc3339("2026-11-20T12:00:00Z").unwrap()
}

fn later(seconds: u64) -> SystemTime {
    noon() + Duration::from_secs(seconds)
}

fn link(name: &str, interface: &str, tier: u32) -> LinkSnapshot {
    LinkSnapshot {
        name: name.to_owned(),
        interface: interface.to_owned(),
        tier,
        weight: 1,
        state: "up".to_owned(),
        usable: true,
        engine: "xdp-native".to_owned(),
        since: "2026-11-20T11:00:00.000Z".to_owned(),
        remote: "10.248.248.1".to_owned(),
        rtt_ms: Some(0.042),
        jitter_ms: Some(0.003),
        ..LinkSnapshot::default()
    }
}

/// A peer with three links, and two uplinks of which one is drained.
fn snapshot() -> Snapshot {
    let optic = LinkSnapshot { share: 1.0, ..link("optic", "eth1", 1) };
    let wifi = LinkSnapshot { rtt_ms: Some(2.5), jitter_ms: Some(0.8), ..link("wifi", "vlan10", 2) };
    let tunnel = LinkSnapshot {
        state: "down".to_owned(),
        usable: false,
        rtt_ms: None,
        jitter_ms: None,
        loss: 1.0,
        last_down_reason: Some("no valid packet for 300 ms".to_owned()),
        ..link("tunnel", "tun1", 3)
    };
    let fibre = LinkSnapshot { share: 1.0, rtt_ms: Some(11.2), ..link("fibre", "eth2", 1) };
    let dsl = LinkSnapshot { drained: true, rtt_ms: Some(31.0), loss: 0.05, ..link("dsl", "ppp0", 1) };
    let hq = GroupSnapshot {
        name: "hq".to_owned(),
        kind: "peer".to_owned(),
        role: Some(Role::Client),
        failover: true,
        active: vec!["optic".to_owned()],
        since: "2026-11-20T11:58:00.000Z".to_owned(),
        reason: "lowest tier with a usable link".to_owned(),
        links: vec![optic, wifi, tunnel],
        ..GroupSnapshot::default()
    };
    let wan = GroupSnapshot {
        name: "wan".to_owned(),
        kind: "uplinks".to_owned(),
        role: None,
        pinned: Some("fibre".to_owned()),
        failover: false,
        active: vec!["fibre".to_owned()],
        links: vec![fibre, dsl],
        ..hq.clone()
    };
    Snapshot {
        version: "0.1.0".to_owned(),
        uptime_s: 100.0,
        engine: "xdp".to_owned(),
        groups: vec![hq, wan],
        ..Snapshot::default()
    }
}

/// What is so a second later: ten probes more of every link, of which `lost` of `optic` did not come back.
fn pass(snapshot: &mut Snapshot, lost: u64, rtt_ms: f64) {
    snapshot.uptime_s += 1.0;
    for link in snapshot.groups.iter_mut().flat_map(|group| &mut group.links) {
        link.sent += 10;
        link.received += match link.name.as_str() {
            "optic" => 10 - lost,
            "tunnel" => 0,
            _ => 10,
        };
        if link.name == "optic" {
            link.rtt_ms = Some(rtt_ms);
        }
    }
}

fn status(snapshot: &Snapshot) -> News {
    News::Status(Box::new(snapshot.clone()))
}

fn event(time: &str, what: &str, link: Option<&str>, why: &str) -> EventRecord {
    EventRecord {
        time: time.to_owned(),
        group: "hq".to_owned(),
        link: link.map(str::to_owned),
        what: what.to_owned(),
        why: why.to_owned(),
        ..EventRecord::default()
    }
}

fn moved(time: &str, from: &str, to: &str, why: &str) -> EventRecord {
    let trace = Trace {
        last_good_ns: Some(1_000_000_000),
        due_ns: Some(1_300_000_000),
        woke_ns: Some(1_300_050_000),
        received_ns: Some(1_300_070_000),
        decided_ns: 1_300_100_000,
        routed_ns: 1_300_400_000,
    };
    EventRecord {
        from: vec![from.to_owned()],
        to: vec![to.to_owned()],
        trace: Some(trace),
        ..event(time, "active-changed", None, why)
    }
}

fn empty() -> View {
    let mut view = View::new(false, noon());
    view.resize((80, 24));
    view
}

/// A view that has seen some seconds go by.
fn lived() -> View {
    let mut view = empty();
    let mut snapshot = snapshot();
    view.take(status(&snapshot), noon());
    let past = [(0, 0.04), (0, 0.05), (0, 0.08), (10, 0.04), (9, 0.04), (0, 0.04), (1, 0.041), (0, 0.042)];
    for (second, (lost, rtt_ms)) in (1..).zip(past) {
        pass(&mut snapshot, lost, rtt_ms);
        view.take(status(&snapshot), later(second));
    }
    let records = [
        event("2026-11-19T23:59:59.500Z", "peer-restarted", None, "the peer's daemon was started again"),
        event("2026-11-20T11:57:59.700Z", "link-down", Some("tunnel"), "no valid packet for 300 ms"),
        moved("2026-11-20T11:57:59.700Z", "wifi", "optic", "lowest tier with a usable link"),
    ];
    for record in records {
        view.take(News::Event(Box::new(record)), later(8));
    }
    view
}

/// The screen of 80 columns and 24 lines as text.
fn screen(view: &View) -> String {
    screen_of(view, 80, 24)
}

/// The screen as text, with blanks at the ends of lines removed.
fn screen_of(view: &View, columns: u16, lines: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| draw(view, frame.area(), frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..lines {
        let mut line = String::new();
        let mut x = 0;
        while x < columns {
            let symbol = buffer[(x, y)].symbol();
            line += symbol;
            // A wide character has two cells, of which the second shows nothing.
            x += super::text::width(symbol).max(1) as u16;
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn press(view: &mut View, code: KeyCode) -> Option<Action> {
    view.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_in(view: &mut View, keys: &str) -> Option<Action> {
    keys.chars().map(|key| press(view, KeyCode::Char(key))).last().flatten()
}

#[test]
fn the_screen_has_links_their_past_and_the_events() {
    assert_eq!(screen(&lived()), PICTURE);
    let documented = include_str!("../../../../docs/operation.md");
    assert!(documented.contains(PICTURE), "docs/operation.md shows it as it is");
}

#[test]
fn a_larger_terminal_has_more_of_everything() {
    let text = screen_of(&lived(), 150, 40);
    assert!(text.contains("FAILOVER OFF, since 2m 8s ago: lowest tier with a usable link\n"), "{text}");
    assert!(text.contains("(took 300.4 ms: silence 300.0, wake 0.05, decide 0.05, routes 0.3)"), "{text}");
    assert_eq!(text.lines().count(), 40);
}

#[test]
fn a_smaller_terminal_is_told_so_and_takes_no_orders() {
    let mut view = lived();
    assert_eq!(screen_of(&view, 79, 24).trim_end(), "79x24 is too small: 80x24 is needed; q quits");
    view.resize((79, 24));
    assert_eq!((type_in(&mut view, "dy"), type_in(&mut view, "q")), (None, Some(Action::Quit)));
    for (columns, lines) in [(80, 23), (10, 2), (1, 1)] {
        screen_of(&view, columns, lines);
    }
    view.resize((80, 24));
    assert_eq!(screen(&view), PICTURE, "as before, once there is room");
}

/// Many links: the selected one is in sight, and what is not is counted.
#[test]
fn sixty_four_links_are_scrolled() {
    let mut snapshot = snapshot();
    snapshot.groups.truncate(1);
    snapshot.groups[0].links = (1..=64).map(|n| link(&format!("link{n}"), "eth1", n)).collect();
    let mut view = empty();
    view.take(status(&snapshot), noon());
    let text = screen(&view);
    assert!(text.contains("> ") && text.contains(" link11 ") && !text.contains(" link12 "), "{text}");
    assert!(text.contains("── lines of links above: 0, below: 53 ─"), "{text}");
    for _ in 0..31 {
        press(&mut view, KeyCode::Down);
    }
    let text = screen(&view);
    assert!(text.contains(">  link32 ") && text.contains("above: 26, below: 27"), "{text}");
    press(&mut view, KeyCode::End);
    press(&mut view, KeyCode::Down);
    let text = screen(&view);
    assert!(text.contains(">  link64 ") && text.contains("above: 53, below: 0"), "{text}");
    press(&mut view, KeyCode::Home);
    press(&mut view, KeyCode::Up);
    assert!(screen(&view).contains(">  link1 "));
    // Every event has its lines, however many links there are.
    assert!(screen(&view).contains("none yet"));
}

#[test]
fn what_is_too_long_is_cut_and_moves_nothing() {
    let mut snapshot = snapshot();
    let long = "a-link-with-a-name-that-nobody-should-give-to-a-link";
    snapshot.groups[0].links[1].name = long.to_owned();
    snapshot.groups[0].links[2].name = "日本語日本語日本語".to_owned();
    snapshot.groups[0].reason = "because ".repeat(100);
    let mut view = empty();
    view.take(status(&snapshot), noon());
    view.take(News::Event(Box::new(event("2026-11-20T11:59:00.000Z", "link-down", None, &"why ".repeat(400)))), noon());
    let text = screen(&view);
    assert!(text.contains("   a-link-with… up             2.500  0.800"), "{text}");
    assert!(text.contains(" - 日本語日本…  down               -"), "{text}");
    assert!(text.lines().all(|line| super::text::width(line) <= 80), "{text}");
    assert!(text.matches("why why").count() > 4 && text.lines().count() == 24, "{text}");
    let wide = screen_of(&view, 200, 24);
    assert!(wide.contains(&format!("   {}… up", &long[..47])), "{wide}");
}

/// What the daemon says is shown and never obeyed.
#[test]
fn control_characters_do_not_reach_the_terminal() {
    let evil = "\x1b]0;owned\x07\x1b[2J\u{9b}31m\r\n\u{202e}x";
    let mut snapshot = snapshot();
    snapshot.version = evil.to_owned();
    snapshot.state_problem = Some(evil.to_owned());
    let group = &mut snapshot.groups[0];
    (group.name, group.reason, group.active) = (evil.to_owned(), evil.to_owned(), vec![evil.to_owned()]);
    let link = &mut group.links[0];
    (link.name, link.state, link.usable) = (evil.to_owned(), evil.to_owned(), false);
    (link.interface, link.usable_reason) = (evil.to_owned(), Some(evil.to_owned()));
    let mut view = empty();
    view.take(status(&snapshot), noon());
    view.take(News::Event(Box::new(event(evil, evil, Some(evil), evil))), noon());
    let assert_plain = |view: &View| {
        let text = screen_of(view, 120, 30);
        let bad = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.contains("�]0;owned��[2J"), "it is shown: {text}");
    };
    assert_plain(&view);
    type_in(&mut view, "s");
    assert!(screen(&view).contains("is not usable"));
    assert_plain(&view);
    type_in(&mut view, "n");
    view.take(News::Answer(Err(evil.to_owned())), noon());
    assert_plain(&view);
    view.take(News::NoAnswer(evil.to_owned()), noon());
    assert_plain(&view);
}

#[test]
fn a_daemon_that_is_away_is_said_and_looked_for() {
    let mut view = empty();
    assert!(screen(&view).starts_with("link-watcher: asking the daemon  "));
    let away = || News::NoAnswer("no daemon answers on /run/link-watcher/control.sock: Connection refused".to_owned());
    view.take(away(), later(1));
    let text = screen(&view);
    assert!(text.contains("! no daemon answers on /run/link-watcher/control.sock: Connection refused;"), "{text}");
    assert!(text.contains("trying again"), "{text}");
    let mut view = lived();
    view.take(away(), later(20));
    let text = screen(&view);
    assert!(
        text.contains("trying again; below: as it was 12s ago") && text.contains("> * optic")
            || text.contains(">* optic"),
        "{text}"
    );
    assert_eq!(type_in(&mut view, "u"), None);
    assert!(screen(&view).contains("! no daemon answers: nothing can be ordered"));
    view.take(status(&snapshot()), later(21));
    assert!(!screen(&view).contains("no daemon answers on"));
}

#[test]
fn a_pause_holds_the_picture_and_misses_nothing() {
    let mut view = lived();
    type_in(&mut view, "p");
    let held = screen(&view);
    assert!(held.starts_with("PAUSED (p): link-watcher 0.1.0, engine xdp, running for 1m 48s"), "{held}");
    let mut now = snapshot();
    now.groups[0].active = vec!["wifi".to_owned()];
    now.uptime_s = 200.0;
    view.take(status(&now), later(100));
    view.take(News::Event(Box::new(event("2026-11-20T12:01:00.000Z", "link-down", Some("optic"), "cut"))), later(100));
    assert_eq!(screen(&view), held);
    view.take(News::NoAnswer("no daemon answers".to_owned()), later(101));
    assert!(screen(&view).contains("! no daemon answers"), "this is said all the same");
    view.take(status(&now), later(102));
    type_in(&mut view, "p");
    let text = screen(&view);
    assert!(text.contains("hq (peer, client): wifi active") && text.contains("12:01:00.000  hq optic: link-down: cut"));
}

#[test]
fn the_configuration_that_is_not_what_runs_is_said() {
    let mut snapshot = snapshot();
    snapshot.config.path = "/etc/x.toml".to_owned();
    snapshot.config.problem = Some("line 3: unknown key".to_owned());
    snapshot.config.refused_at = Some("2026-11-20T11:00:00Z".to_owned());
    snapshot.state_problem = Some("read-only".to_owned());
    let mut view = empty();
    view.take(status(&snapshot), noon());
    assert!(screen(&view).contains("! (2 notes, see status) /etc/x.toml is not what runs"), "{}", screen(&view));
}

fn ordered(change: Change) -> Option<Action> {
    Some(Action::Order(change))
}

#[test]
fn what_may_cut_traffic_is_asked_first() {
    let (group, link) = ("hq".to_owned(), "optic".to_owned());
    let drain = Change::Drain { group: group.clone(), link: link.clone(), for_seconds: None };
    let switch = Change::Switch { group: group.clone(), link: Some(link), force: false };
    let failover = Change::Failover { group: Some(group), on: false };
    for (key, question, change) in [
        ("d", "Take optic of hq out of service, until it is put back? Its", drain),
        ("s", "Pin hq to optic, which carries its traffic already?", switch),
        ("f", "Turn automatic failover of hq off? Nothing moves by itself", failover),
    ] {
        let mut view = lived();
        assert_eq!(type_in(&mut view, key), None);
        let text = screen(&view);
        assert!(text.contains(question) && text.contains("y: yes    any other key: no"), "{text}");
        assert_eq!(type_in(&mut view, "n"), None);
        assert!(screen(&view).contains("nothing was ordered"));
        for other in [KeyCode::Enter, KeyCode::Esc, KeyCode::Char('Y'), KeyCode::Char('q')] {
            type_in(&mut view, key);
            assert_eq!(press(&mut view, other), None, "{other:?} is no yes");
        }
        assert_eq!(type_in(&mut view, &format!("{key}y")), ordered(change));
    }
}

#[test]
fn what_cuts_nothing_is_ordered_at_once() {
    let mut view = lived();
    let auto = Change::Switch { group: "hq".to_owned(), link: None, force: false };
    assert_eq!(type_in(&mut view, "a"), ordered(auto));
    assert_eq!(type_in(&mut view, "u"), None);
    assert!(screen(&view).contains("! the daemon has not answered the last order yet"));
    view.take(News::Answer(Ok("hq chooses again; traffic is on optic".to_owned())), later(9));
    assert!(screen(&view).contains("\nhq chooses again; traffic is on optic\n"));
    type_in(&mut view, "G");
    let undrain = Change::Undrain { group: "wan".to_owned(), link: "dsl".to_owned() };
    assert_eq!(type_in(&mut view, "u"), ordered(undrain));
    view.take(News::Answer(Err("there is no group \"wan\"".to_owned())), later(9));
    assert!(screen(&view).contains("\n! there is no group \"wan\"\n"));
    let on = Change::Failover { group: Some("wan".to_owned()), on: true };
    assert_eq!(type_in(&mut view, "f"), ordered(on));
}

/// What a yes does is what was asked, whatever happens meanwhile.
#[test]
fn an_order_is_for_the_link_that_was_named() {
    let mut view = lived();
    press(&mut view, KeyCode::Down);
    type_in(&mut view, "d");
    let mut other = snapshot();
    other.groups[0].links.remove(0);
    view.take(status(&other), later(9));
    let drain = Change::Drain { group: "hq".to_owned(), link: "wifi".to_owned(), for_seconds: None };
    assert_eq!(type_in(&mut view, "y"), ordered(drain));
    view.take(News::Answer(Ok(String::new())), later(9));
    // A link that goes is not mistaken for the one in its place.
    other.groups[0].links.remove(0);
    view.take(status(&other), later(10));
    assert_eq!(type_in(&mut view, "d"), None);
    assert!(screen(&view).contains("! there is no such link any more"));
    // The same before anybody has chosen, in a picture that is held.
    let mut view = lived();
    type_in(&mut view, "p");
    view.take(status(&other), later(10));
    assert_eq!(type_in(&mut view, "dy"), None);
}

#[test]
fn the_help_has_every_key() {
    let mut view = lived();
    type_in(&mut view, "?");
    let text = screen(&view);
    for key in
        ["select a link", "switch: pin", "auto: let", "drain the selected", "failover of", "pause", "quit", "PgUp"]
    {
        assert!(text.contains(key), "{key}: {text}");
    }
    type_in(&mut view, "x");
    assert_eq!(screen(&view), PICTURE);
    assert_eq!(type_in(&mut view, "?q"), Some(Action::Quit));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    type_in(&mut view, "d");
    assert_eq!(view.press(interrupt), Some(Action::Quit), "also while it asks");
}

#[test]
fn older_events_are_a_page_up() {
    let mut view = lived();
    for n in 0..40 {
        let record = event("2026-11-20T12:00:00.000Z", "link-up", Some("optic"), &format!("number {n}."));
        view.take(News::Event(Box::new(record)), later(9));
    }
    assert!(screen(&view).contains("number 39.") && !screen(&view).contains("number 20."));
    for _ in 0..3 {
        press(&mut view, KeyCode::PageUp);
    }
    let text = screen(&view);
    assert!(text.contains("number 24.") && !text.contains("number 25."), "{text}");
    assert!(text.contains("── 15 newer ones below ─"), "{text}");
    for _ in 0..20 {
        press(&mut view, KeyCode::PageUp);
    }
    assert!(screen(&view).contains("peer-restarted"), "the oldest");
    for _ in 0..20 {
        press(&mut view, KeyCode::PageDown);
    }
    assert!(screen(&view).contains("number 39."));
}

#[test]
fn colours_are_there_only_where_they_are_wanted() {
    let colours = |coloured| {
        let mut view = View::new(coloured, noon());
        view.take(status(&snapshot()), noon());
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(&view, frame.area(), frame.buffer_mut())).unwrap();
        let cells = terminal.backend().buffer().content();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colours(false), 0);
    assert!(colours(true) > 0);
}
