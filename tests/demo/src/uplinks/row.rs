//! The table: a row for each step, and whether the step went as it should.

use std::collections::BTreeMap;
use std::time::Duration;

use link_watcher_lab::uplinks::dialer::DialReport;
use link_watcher_lab::uplinks::flow::Fate;

use crate::paint::outage;

/// What a step may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// For how long new connections may fail; nothing: not one.
    pub(super) failing: Option<Duration>,
    /// The uplinks whose open connections end. All others' stay.
    pub(super) ended: &'static [&'static str],
    /// How new connections are spread afterwards, percent.
    pub(super) shares: [usize; 3],
}

/// What a step did cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Cost {
    /// New connections, from the step's beginning until they succeeded steadily.
    pub(super) dialed: DialReport,
    /// Open connections, by uplink.
    pub(super) held: BTreeMap<String, Fate>,
    /// How new connections were spread afterwards.
    pub(super) counts: Vec<usize>,
}

/// Points by which a share of some hundred connections may be off: other connections take turns in between.
const SHARE_POINTS: f64 = 5.0;

impl Cost {
    /// Open connections altogether.
    fn total(&self) -> Fate {
        self.held.values().fold(Fate::default(), |sum, fate| Fate {
            same: sum.same + fate.same,
            moved: sum.moved + fate.moved,
            reset: sum.reset + fate.reset,
            hung: sum.hung + fate.hung,
            other: sum.other + fate.other,
        })
    }

    /// Shares in percent.
    fn shares(&self) -> Vec<f64> {
        let sum: usize = self.counts.iter().sum();
        self.counts.iter().map(|count| *count as f64 * 100.0 / sum.max(1) as f64).collect()
    }

    /// What is not as it should be, if anything.
    pub(super) fn complaint(&self, expected: &Expected) -> Option<String> {
        let failing = Duration::from_nanos(self.dialed.failing_ns);
        match expected.failing {
            None if self.dialed.failed > 0 => {
                return Some(format!("{} new connections failed where none may", self.dialed.failed));
            }
            Some(limit) if failing > limit => {
                return Some(format!("new connections failed for {failing:.1?}, more than {limit:?}"));
            }
            _ => {}
        }
        for (name, fate) in &self.held {
            let ended = expected.ended.contains(&name.as_str());
            let right = if ended { fate.reset + fate.other == fate.total() } else { fate.same == fate.total() };
            if !right {
                let words = if ended { "are to be reset" } else { "are to stay" };
                return Some(format!("open connections by {name} {words}, but: {fate:?}"));
            }
        }
        let shares = self.shares();
        let right = shares
            .iter()
            .zip(expected.shares)
            .all(|(share, wanted)| (share - wanted as f64).abs() <= SHARE_POINTS && (wanted > 0 || *share == 0.0));
        (!right).then(|| format!("new connections are spread {}, not {:?} %", self.shares_text(), expected.shares))
    }

    fn shares_text(&self) -> String {
        let shares: Vec<_> = self.shares().iter().map(|share| format!("{share:.0}")).collect();
        shares.join("/")
    }

    /// The columns of a row between what happens and the mark.
    pub(super) fn columns(&self) -> String {
        let total = self.total();
        columns([
            &outage(self.dialed.failing_ns),
            &total.same.to_string(),
            &(total.reset + total.other).to_string(),
            &(total.moved + total.hung).to_string(),
            &self.shares_text(),
        ])
    }
}

fn columns([failing, stay, ended, lost, shares]: [&str; 5]) -> String {
    format!("{failing:>10} {stay:>5} {ended:>5} {lost:>5} {shares:>9}")
}

/// The beginning of a row.
pub(super) fn what(text: &str) -> String {
    format!("  {text:<42} ")
}

/// The table's head.
pub(super) fn head() -> String {
    format!(
        "{}{}        link-watcher",
        what("what happens"),
        columns(["new failed", "stay", "reset", "hang", "shares %"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost() -> Cost {
        let fate = |same, reset| Fate { same, reset, ..Fate::default() };
        Cost {
            dialed: DialReport { failed: 3, failing_ns: 300_000_000, ..DialReport::default() },
            held: [("fibre".to_owned(), fate(0, 100)), ("dsl".to_owned(), fate(60, 0))].into(),
            counts: vec![0, 61, 39],
        }
    }

    #[test]
    fn each_promise_is_looked_at() {
        let death = Expected { failing: Some(Duration::from_millis(300)), ended: &["fibre"], shares: [0, 60, 40] };
        assert_eq!(cost().complaint(&death), None);
        assert!(cost().complaint(&Expected { failing: None, ..death }).is_some());
        assert!(cost().complaint(&Expected { failing: Some(Duration::from_millis(299)), ..death }).is_some());
        assert!(cost().complaint(&Expected { ended: &[], ..death }).is_some());
        assert!(cost().complaint(&Expected { shares: [10, 50, 40], ..death }).is_some());
        let mut hung = cost();
        hung.held.insert("fibre".to_owned(), Fate { hung: 1, reset: 99, ..Fate::default() });
        assert!(hung.complaint(&death).is_some());
        let mut stray = cost();
        stray.counts[0] = 1;
        assert!(stray.complaint(&death).is_some(), "not one to a dead uplink");
    }

    #[test]
    fn the_table_is_aligned() {
        let row = format!("{}{}", what("fibre dies"), cost().columns());
        assert_eq!(row.chars().count() + "        ".len(), head().find("link-watcher").unwrap_or(0));
    }
}
