//! What was measured of each link a while ago: the round trip second by second, and the rate of its probes.

use std::collections::{HashMap, VecDeque};

use crate::status::{LinkSnapshot, Snapshot};

/// Samples of a link that are kept, one a second.
pub(super) const SAMPLES_MAX: usize = 240;
/// Seconds of the daemon's time between two samples at least: a little less than one, for nobody asks exactly each second.
const SAMPLE_S: f64 = 0.9;
/// Bars of eight heights, the lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A link's counters at a sample.
#[derive(Clone, Copy, Debug)]
struct Counters {
    uptime_s: f64,
    sent: u64,
    received: u64,
}

/// What was measured of one link.
#[derive(Clone, Debug, Default)]
pub(super) struct LinkHistory {
    last: Option<Counters>,
    /// Round trips in ms, the newest last; nothing where most of what was sent did not come back.
    samples: VecDeque<Option<f64>>,
    /// Probes sent and received a second.
    rates: Option<(f64, f64)>,
}

impl LinkHistory {
    fn take(&mut self, uptime_s: f64, link: &LinkSnapshot) {
        let now = Counters { uptime_s, sent: link.sent, received: link.received };
        let Some(last) = self.last else {
            self.last = Some(now);
            return;
        };
        let elapsed_s = uptime_s - last.uptime_s;
        let (sent, received) = (link.sent.checked_sub(last.sent), link.received.checked_sub(last.received));
        let (Some(sent), Some(received), true) = (sent, received, elapsed_s >= 0.0) else {
            // The daemon was started again, and counts from 0.
            (self.last, self.rates) = (Some(now), None);
            return;
        };
        if elapsed_s < SAMPLE_S {
            return;
        }
        self.last = Some(now);
        self.rates = Some((sent as f64 / elapsed_s, received as f64 / elapsed_s));
        let sample = match (sent, received) {
            // Less than one probe a second: what was so last is so still.
            (0, 0) if link.usable => self.samples.back().copied().flatten().or(link.rtt_ms),
            // Doubled without a sum that could overflow.
            _ if received > 0 && received >= sent - sent / 2 => link.rtt_ms,
            _ => None,
        };
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Probes sent and received a second, once two samples are known.
    pub(super) const fn rates(&self) -> Option<(f64, f64)> {
        self.rates
    }

    /// The last samples as bars, the newest at the right, in `columns` columns; a blank for each second whose probes were lost.
    ///
    /// A full bar is the highest of what is shown, or double the lowest where that is more: what is steady stands at half
    /// the height, and noise does not look like trouble.
    pub(super) fn bars(&self, columns: usize) -> String {
        let shown = self.samples.iter().skip(self.samples.len().saturating_sub(columns));
        let values = || shown.clone().flatten().copied().filter(|ms| ms.is_finite() && *ms >= 0.0);
        let (low, high) = values().fold((f64::MAX, 0.0_f64), |(low, high), ms| (low.min(ms), high.max(ms)));
        let full = high.max(2.0 * low);
        let bar = |sample: &Option<f64>| match sample {
            Some(ms) if full > 0.0 => BARS[((ms / full * 8.0).ceil() as usize).clamp(1, BARS.len()) - 1],
            Some(_) => BARS[0],
            None => ' ',
        };
        let bars: String = shown.clone().map(bar).collect();
        format!("{bars:>columns$}")
    }
}

/// What was measured of every link.
#[derive(Clone, Debug, Default)]
pub(super) struct Histories {
    links: HashMap<(String, String), LinkHistory>,
}

impl Histories {
    /// Takes what the daemon says now. Of links that it does not name any more nothing is kept.
    pub(super) fn take(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.links);
        for group in &snapshot.groups {
            for link in &group.links {
                let key = (group.name.clone(), link.name.clone());
                let mut history = before.remove(&key).unwrap_or_default();
                history.take(snapshot.uptime_s, link);
                self.links.insert(key, history);
            }
        }
    }

    /// Of one link.
    pub(super) fn of(&self, group: &str, link: &str) -> Option<&LinkHistory> {
        self.links.get(&(group.to_owned(), link.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(sent: u64, received: u64, rtt_ms: f64) -> LinkSnapshot {
        LinkSnapshot { sent, received, rtt_ms: Some(rtt_ms), usable: true, ..LinkSnapshot::default() }
    }

    fn fed(looks: &[(f64, u64, u64, f64)]) -> LinkHistory {
        let mut history = LinkHistory::default();
        for &(uptime_s, sent, received, rtt_ms) in looks {
            history.take(uptime_s, &link(sent, received, rtt_ms));
        }
        history
    }

    #[test]
    fn what_is_lost_is_a_gap() {
        let history =
            fed(&[(0.0, 0, 0, 1.0), (1.0, 10, 10, 1.0), (2.0, 20, 10, 1.0), (3.0, 30, 13, 1.0), (4.0, 40, 20, 4.0)]);
        assert_eq!(history.bars(6), "  ▂  █", "most of it lost is as good as all");
        assert_eq!(history.bars(2), " ▄", "only what is shown counts");
        assert_eq!(history.bars(0), "");
        assert_eq!(history.rates(), Some((10.0, 7.0)));
    }

    #[test]
    fn what_is_steady_stands_at_half_the_height() {
        let history = fed(&[(0.0, 0, 0, 0.04), (1.0, 1, 1, 0.04), (2.0, 2, 2, 0.041), (3.0, 3, 3, 0.04)]);
        assert_eq!(history.bars(3), "▄▅▄");
    }

    #[test]
    fn there_is_one_sample_a_second_at_most() {
        let history = fed(&[(0.0, 0, 0, 1.0), (0.5, 5, 5, 1.0), (1.0, 10, 10, 1.0), (1.1, 11, 11, 1.0)]);
        assert_eq!((history.samples.len(), history.rates()), (1, Some((10.0, 10.0))));
    }

    #[test]
    fn a_slow_probe_leaves_no_gaps_between_its_answers() {
        let history = fed(&[(0.0, 0, 0, 1.0), (1.0, 1, 1, 1.0), (2.0, 1, 1, 1.0), (3.0, 2, 1, 1.0)]);
        assert_eq!(history.bars(3), "▄▄ ", "but a lost one does");
    }

    #[test]
    fn a_daemon_that_starts_again_begins_a_new_count() {
        let history = fed(&[(9.0, 900, 900, 1.0), (0.5, 5, 5, 1.0), (1.5, 15, 15, 1.0)]);
        assert_eq!((history.bars(2), history.rates()), (" ▄".to_owned(), Some((10.0, 10.0))));
        assert_eq!(fed(&[(9.0, 900, 900, 1.0), (10.0, 5, 5, 1.0)]).rates(), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut histories = Histories::default();
        let mut snapshot = Snapshot::default();
        snapshot.groups.push(crate::status::GroupSnapshot { name: "hq".to_owned(), ..Default::default() });
        for second in 0..2 * SAMPLES_MAX as u64 {
            snapshot.uptime_s = second as f64;
            let name = if second == 0 { "old" } else { "optic" };
            snapshot.groups[0].links = vec![LinkSnapshot { name: name.to_owned(), ..link(second, second, 1.0) }];
            histories.take(&snapshot);
        }
        assert!(histories.of("hq", "old").is_none());
        assert_eq!(histories.of("hq", "optic").map(|history| history.samples.len()), Some(SAMPLES_MAX));
    }
}
