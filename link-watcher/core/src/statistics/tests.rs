//! Days, nights, restarts and wrong clocks, in simulated time.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::event::LinkVerdict::{self, Absent, Dampened, Degraded, Down, Starting, Up};

/// 2026-11-29 00:00 UTC, ms.
const MIDNIGHT_MS: u64 = 1_795_910_400_000;
const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 3600;
const DAY_S: u64 = 86_400;

/// Files of days, by number.
#[derive(Debug, Default, Clone)]
struct FakeArchive(BTreeMap<Day, DayRecord>);

impl Archive for FakeArchive {
    fn day(&mut self, day: Day) -> Option<DayRecord> {
        self.0.get(&day).cloned()
    }
}

/// A router whose link `hq optic` is watched, with its clocks.
struct Router {
    recorder: Recorder<FakeArchive>,
    now: Now,
    verdict: LinkVerdict,
    name: &'static str,
    counted: (u64, u64),
}

impl Router {
    fn new(unix_ms: u64) -> Self {
        let now = Now { unix_ms, monotonic_ns: 5_000_000_000 };
        let recorder = Recorder::new(FakeArchive::default(), Steps::new(), now);
        let mut router = Self { recorder, now, verdict: Up, name: "optic", counted: (0, 0) };
        router.look();
        router
    }

    fn look(&mut self) {
        let found = Measured {
            group: "hq".to_owned(),
            link: self.name.to_owned(),
            verdict: self.verdict,
            sent: self.counted.0,
            received: self.counted.1,
            rtt_ns: Some(400_000),
        };
        self.recorder.measured(self.now, self.now.monotonic_ns, &[found]);
    }

    /// Goes on for so long, and looks every 5 s.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds / 5 {
            self.now.unix_ms += 5_000;
            self.now.monotonic_ns += 5_000_000_000;
            self.counted.0 += 50;
            self.counted.1 += if self.verdict == Up { 50 } else { 0 };
            self.look();
        }
    }

    fn become_verdict(&mut self, verdict: LinkVerdict, after_good_ms: u64) {
        self.verdict = verdict;
        self.recorder.changed(self.now, "hq", self.name, verdict, after_good_ms);
    }

    /// Writes, stops, and starts after so long; as a machine that has booted meanwhile.
    fn restart(&mut self, seconds: u64) {
        let mut archive = self.recorder_archive();
        archive.0.extend(self.recorder.days().iter().cloned());
        self.now = Now { unix_ms: self.now.unix_ms + seconds * 1_000, monotonic_ns: 9_000_000_000 };
        self.recorder = Recorder::new(archive, self.recorder.steps(), self.now);
        self.counted = (0, 0);
        self.look();
    }

    fn recorder_archive(&self) -> FakeArchive {
        let mut archive = self.recorder.archive().clone();
        archive.0.extend(self.recorder.days().iter().cloned());
        archive
    }

    fn day(&self, day: u64) -> Period {
        let archive = self.recorder_archive();
        let day = Day((MIDNIGHT_MS / 1_000 / DAY_S + day) as u32);
        archive.0.get(&day).and_then(|record| record.find("hq", self.name)).cloned().unwrap_or_default()
    }

    fn last_24h(&self) -> Figures {
        self.recorder.figures("hq", self.name).unwrap().last_24h
    }
}

#[test]
fn a_day_with_an_outage() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.pass(HOUR_S);
    router.become_verdict(Down, 300);
    router.recorder.failed_over(router.now, "hq", &["optic".to_owned()], 301_000_000);
    router.pass(MINUTE_S);
    router.become_verdict(Up, 0);
    router.pass(HOUR_S);
    router.become_verdict(Degraded, 0);
    router.pass(MINUTE_S);
    let day = router.day(0);
    // The look that would have told of the last 300 ms as up had been taken already: they are up.
    assert_eq!((day.outages, day.down_ms, day.longest_outage_ms, day.open_outage_ms), (1, 60_000, 60_000, 0));
    assert_eq!((day.up_ms, day.degraded_ms), (2 * HOUR_S * 1_000, 60_000));
    let figures = day.figures();
    assert_eq!(figures.observed_s, 7_320.0);
    assert!((figures.availability.unwrap() - 7_260.0 / 7_320.0).abs() < 1e-9);
    assert_eq!((figures.sent, figures.lost), (73_200, 1_200));
    assert_eq!((figures.failovers, figures.worst_failover_ms), (1, Some(301.0)));
    assert!((figures.rtt_median_ms.unwrap() - 0.4).abs() < 0.4 * 0.032);
    assert_eq!(router.recorder.failovers("hq"), Failovers { count: 1, worst_ns: 301_000_000 });
    assert_eq!(router.last_24h(), figures);
}

#[test]
fn an_outage_begins_with_the_last_good_packet() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.pass(10);
    router.now.unix_ms += 2_000;
    router.now.monotonic_ns += 2_000_000_000;
    router.become_verdict(Down, 300);
    router.pass(5);
    let day = router.day(0);
    assert_eq!((day.up_ms, day.down_ms), (11_700, 5_300));
}

#[test]
fn states_that_are_no_use_are_outages_and_no_verdict_is_not_watched() {
    let mut router = Router::new(MIDNIGHT_MS);
    for (verdict, seconds) in [(Down, 10), (Dampened, 20), (Absent, 30), (Starting, 40), (Down, 50), (Up, 60)] {
        router.become_verdict(verdict, 0);
        router.pass(seconds);
    }
    let day = router.day(0);
    assert_eq!((day.outages, day.down_ms, day.longest_outage_ms, day.up_ms), (1, 110_000, 110_000, 60_000));
}

#[test]
fn an_outage_over_midnight_is_one_and_each_day_has_its_part() {
    let mut router = Router::new(MIDNIGHT_MS - HOUR_S * 1_000);
    router.become_verdict(Down, 0);
    router.pass(2 * HOUR_S);
    router.become_verdict(Up, 0);
    router.pass(10);
    let (first, second) = (Day((MIDNIGHT_MS / 1_000 / DAY_S) as u32 - 1), router.day(0));
    let first = router.recorder_archive().0[&first].find("hq", "optic").cloned().unwrap();
    assert_eq!((first.outages, first.down_ms, first.longest_outage_ms), (1, 3_600_000, 3_600_000));
    assert_eq!((second.outages, second.down_ms, second.longest_outage_ms), (0, 3_600_000, 7_200_000));
    let mut both = first;
    both.merge(&second);
    let figures = both.figures();
    assert_eq!((figures.outages, figures.outage_s, figures.longest_outage_s), (1, 7_200.0, 7_200.0));
}

#[test]
fn a_stop_is_not_watched_and_an_outage_goes_on_behind_it() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.pass(MINUTE_S);
    router.restart(HOUR_S);
    router.pass(MINUTE_S);
    assert_eq!((router.day(0).observed_ms(), router.day(0).outages), (120_000, 0), "no outage");
    router.become_verdict(Down, 0);
    router.pass(MINUTE_S);
    // A first verdict takes its time.
    router.verdict = Starting;
    router.restart(HOUR_S);
    router.pass(10);
    router.become_verdict(Down, 0);
    router.pass(MINUTE_S);
    let day = router.day(0);
    assert_eq!((day.outages, day.down_ms, day.longest_outage_ms), (1, 120_000, 120_000), "the same outage");
    router.verdict = Up;
    router.restart(HOUR_S);
    router.pass(MINUTE_S);
    router.become_verdict(Down, 0);
    router.pass(MINUTE_S);
    let day = router.day(0);
    assert_eq!((day.outages, day.longest_outage_ms), (2, 120_000), "another one, not longer");
    assert_eq!(router.last_24h().observed_s, 360.0, "steps go on, too");
    assert_eq!(router.last_24h().sent, day.sent);
}

#[test]
fn a_wall_clock_that_is_set_makes_time_neither_longer_nor_shorter() {
    let mut router = Router::new(MIDNIGHT_MS + 2 * HOUR_S * 1_000);
    router.pass(HOUR_S);
    router.now.unix_ms -= HOUR_S * 1_000;
    router.pass(HOUR_S);
    assert_eq!(router.day(0).observed_ms(), 2 * HOUR_S * 1_000);
    assert_eq!(router.last_24h().observed_s, 7_200.0);
    // Back over midnight: that day goes on, though it was not in memory.
    router.restart(0);
    router.now.unix_ms -= 3 * DAY_S * 1_000;
    router.pass(MINUTE_S);
    router.now.unix_ms += 3 * DAY_S * 1_000;
    router.pass(MINUTE_S);
    assert_eq!(router.day(0).observed_ms(), (2 * HOUR_S + MINUTE_S) * 1_000);
    // Forward: what was left out is not watched.
    router.now.unix_ms += DAY_S * 1_000;
    router.pass(HOUR_S);
    assert_eq!(router.day(1).observed_ms(), HOUR_S * 1_000);
    assert_eq!(router.day(0).observed_ms(), (2 * HOUR_S + MINUTE_S) * 1_000);
}

#[test]
fn a_clock_that_starts_in_1970_loses_nothing() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.pass(HOUR_S);
    router.restart(MINUTE_S);
    let right = router.now.unix_ms;
    let mut archive = router.recorder_archive();
    archive.0.extend(router.recorder.days().iter().cloned());
    router.now.unix_ms = 10_000;
    router.recorder = Recorder::new(archive, router.recorder.steps(), router.now);
    router.pass(MINUTE_S);
    router.now.unix_ms = right + 2 * MINUTE_S * 1_000;
    router.pass(MINUTE_S);
    assert_eq!(router.day(0).observed_ms(), (HOUR_S + MINUTE_S) * 1_000);
    assert_eq!(router.last_24h().observed_s, (HOUR_S + MINUTE_S) as f64);
}

#[test]
fn what_is_older_than_a_day_leaves_the_steps() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.become_verdict(Down, 0);
    router.pass(MINUTE_S);
    router.become_verdict(Up, 0);
    router.pass(DAY_S + HOUR_S);
    let steps = &router.recorder.steps()["hq"]["optic"];
    assert_eq!(steps.len(), STEPS_A_DAY as usize);
    let figures = router.last_24h();
    assert_eq!((figures.outages, figures.availability), (0, Some(1.0)));
    assert!(figures.observed_s > 86_400.0 - STEP_S as f64 && figures.observed_s <= 86_400.0, "{figures:?}");
}

#[test]
fn a_renamed_link_is_another_one_and_the_old_one_is_forgotten() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.pass(HOUR_S);
    router.name = "fibre";
    router.counted = (0, 0);
    router.look();
    router.pass(HOUR_S);
    assert_eq!(router.day(0).up_ms, HOUR_S * 1_000);
    router.name = "optic";
    assert_eq!(router.day(0).up_ms, HOUR_S * 1_000, "nobody watched it since");
    assert!(router.recorder.figures("hq", "optic").is_some());
    router.name = "fibre";
    router.pass(DAY_S);
    assert!(router.recorder.figures("hq", "optic").is_none());
    assert_eq!(router.recorder.steps()["hq"].len(), 1);
}

#[test]
fn counters_that_begin_anew_are_no_loss() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.pass(MINUTE_S);
    router.counted = (3, 2);
    router.look();
    router.pass(MINUTE_S);
    assert_eq!((router.day(0).sent, router.day(0).received), (1_200, 1_200));
}

#[test]
fn an_answer_from_before_a_change_does_not_take_it_back() {
    let mut router = Router::new(MIDNIGHT_MS);
    router.pass(10);
    let taken_ns = router.now.monotonic_ns;
    router.now.monotonic_ns += 1_000_000;
    router.now.unix_ms += 1;
    router.become_verdict(Down, 0);
    let found =
        Measured { group: "hq".to_owned(), link: "optic".to_owned(), verdict: Up, sent: 0, received: 0, rtt_ns: None };
    router.recorder.measured(router.now, taken_ns, &[found]);
    router.pass(MINUTE_S);
    assert_eq!((router.day(0).outages, router.day(0).down_ms), (1, 60_000));
}

#[test]
fn there_is_an_end_to_it() {
    let mut router = Router::new(MIDNIGHT_MS);
    for round in 0..3 {
        let found: Vec<Measured> = (0..MAX_LINKS)
            .map(|n| Measured {
                group: "hq".to_owned(),
                link: format!("{round}-{n}"),
                verdict: Up,
                sent: 0,
                received: 0,
                rtt_ns: Some(1),
            })
            .collect();
        router.now.monotonic_ns += 5_000_000_000;
        router.now.unix_ms += 5_000;
        router.recorder.measured(router.now, router.now.monotonic_ns, &found);
    }
    assert!(router.recorder.steps()["hq"].len() <= MAX_LINKS);
    assert!(router.recorder.days().iter().all(|(_, day)| day.groups.values().all(|g| g.links.len() <= MAX_LINKS)));
    assert!(router.recorder.days().len() <= 2);
}
