#![allow(clippy::unwrap_used)]

use super::*;
use crate::statistics::{GroupRecord, Histogram};

fn period(down_ms: u64, outages: u64, rtts_ns: &[u64]) -> Period {
    let mut rtt = Histogram::default();
    rtts_ns.iter().for_each(|ns| rtt.add(*ns));
    Period {
        up_ms: 86_400_000 - down_ms,
        down_ms,
        outages,
        longest_outage_ms: down_ms,
        sent: 864_000,
        received: 864_000 - down_ms / 100,
        failovers: Failovers { count: outages as u32, worst_ns: outages * 31_200_000 },
        rtt,
        ..Period::default()
    }
}

fn day(links: &[(&str, Period)]) -> DayRecord {
    let failovers = Failovers { count: 1, worst_ns: 31_200_000 };
    let links = links.iter().map(|(name, period)| ((*name).to_owned(), period.clone())).collect();
    DayRecord { groups: BTreeMap::from([("hq".to_owned(), GroupRecord { failovers, links })]) }
}

fn days() -> Vec<(Day, DayRecord)> {
    let good = period(0, 0, &[412_000; 5]);
    vec![
        (Day(20_784), day(&[("optic", good.clone()), ("wifi", period(86_400_000, 1, &[]))])),
        (Day(20_785), day(&[("optic", period(60_000, 2, &[412_000, 412_000, 90_000_000])), ("wifi", good.clone())])),
        (Day(20_786), day(&[("optic", good)])),
    ]
}

fn scope(names: &[&str]) -> Scope {
    let name = |i: usize| names.get(i).map(|name| (*name).to_owned());
    Scope { group: name(0), link: name(1) }
}

fn report(names: &[&str]) -> Result<Report, String> {
    let report = Report::new(Day(20_784), Day(20_786), "daemon", &days(), &scope(names))?;
    Ok(Report { host: "router1".to_owned(), ..report })
}

#[test]
fn a_table_that_one_can_send() {
    let text = report(&["hq", "optic"]).unwrap().render();
    let expected = "\
link-watcher on router1, 2026-11-27 to 2026-11-29

hq optic
DAY          SEEN ANSWERED OUT   SUM LONGEST FAILOVER   LOSS   RTT   99%
2026-11-27 24h00m     100%   0     0       0        -     0% 0.418 0.418
2026-11-28 24h00m  99.930%   2 1m00s   1m00s     62ms 0.069% 0.418 90.18
2026-11-29 24h00m     100%   0     0       0        -     0% 0.418 0.418
in all      3d00h  99.976%   2 1m00s   1m00s     62ms 0.023% 0.418 90.18

hq: a failure moved the traffic 3 times, the longest 31ms.
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn the_longest_figures_fit_eighty_columns() {
    let worst = Figures {
        observed_s: 399.0 * 86_400.0,
        availability: Some(0.999_999),
        outages: 1_000,
        outage_s: 399.0 * 86_400.0,
        longest_outage_s: 3_599.0,
        worst_failover_ms: Some(59_000.0),
        loss: Some(0.000_001),
        rtt_median_ms: Some(99.99),
        rtt_p99_ms: Some(60_000.0),
        ..Figures::default()
    };
    let days = vec![DayReport { date: "2026-11-29".to_owned(), figures: worst.clone() }];
    let link = LinkReport { name: "optic".to_owned(), total: worst, days };
    let group = GroupReport { name: "hq".to_owned(), failovers: 1, worst_failover_ms: None, links: vec![link] };
    let text = Report { groups: vec![group], ..report(&[]).unwrap() }.render();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains(" 99.999% ") && text.contains("<.001%"), "never better than it was: {text}");
}

#[test]
fn names_choose_and_unknown_ones_are_answered_with_the_known() {
    let links = |names: &[&str]| -> Vec<String> {
        report(names).unwrap().groups.iter().flat_map(|group| &group.links).map(|link| link.name.clone()).collect()
    };
    assert_eq!(
        (links(&[]), links(&["hq", "wifi"])),
        (vec!["optic".to_owned(), "wifi".to_owned()], vec!["wifi".to_owned()])
    );
    assert_eq!(report(&["lyon"]).unwrap_err(), "no group is called lyon; there is hq");
    assert_eq!(report(&["hq", "fibre"]).unwrap_err(), "hq has no link fibre; it has optic, wifi");
    let nothing = Report::new(Day(0), Day(1), "files", &days(), &scope(&[])).unwrap().render();
    assert!(nothing.ends_with("1970-01-01 to 1970-01-02\nNothing is known of these days.\n"), "{nothing}");
}

#[test]
fn so_many_days_as_asked_for_with_today() {
    let first = |text: &str| first_day(Day(20_786), humantime::parse_duration(text).unwrap());
    assert_eq!([first("1s"), first("1d"), first("25h"), first("30d")], [20_786, 20_786, 20_785, 20_757].map(Day));
    assert_eq!((first("100years"), first_day(Day(3), Duration::from_secs(30 * DAY_S))), (Day(20_387), Day(0)));
}

#[test]
fn as_json() {
    let json = serde_json::to_value(report(&["hq", "wifi"]).unwrap()).unwrap();
    let link = &json["groups"][0]["links"][0];
    assert_eq!(
        (&json["source"], &link["name"], &link["days"][0]["date"]),
        (&"daemon".into(), &"wifi".into(), &"2026-11-27".into())
    );
    assert_eq!((&link["days"][0]["availability"], &link["total"]["outages"]), (&0.0.into(), &1.into()));
    assert_eq!(link["days"][0]["rtt_median_ms"], serde_json::Value::Null);
}

#[test]
fn files_are_read_where_no_daemon_runs_and_a_broken_one_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::below(directory.path());
    assert_eq!(from_files(&files, Day(0)).unwrap(), []);
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(files.directory()).unwrap();
        std::fs::write(files.directory().join(name), text).unwrap();
    };
    let text = serde_json::json!({"version": 1, "content": day(&[("optic", period(0, 0, &[]))])}).to_string();
    write("2026-11-27.json", &text);
    write("2026-11-28.json", "{");
    write("2026-11-29.json", &text);
    let days = |first| from_files(&files, Day(first)).unwrap().iter().map(|(day, _)| day.0).collect::<Vec<_>>();
    assert_eq!((days(0), days(20_785)), (vec![20_784, 20_786], vec![20_786]));
}
