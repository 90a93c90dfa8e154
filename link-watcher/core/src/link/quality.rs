//! Whether a link that answers does so well enough: loss, round trip and jitter over its last probes, against thresholds.

use crate::health::{Degraded, Limits, Shares, Window};

/// Probes over which a link is measured.
const PROBES: usize = 100;
/// Probes that must have been measured before they count against a threshold.
const LEAST_PROBES: usize = 30;
/// Between two looks at the measures there are so many probes: a look costs as much as some hundred of them.
const PROBES_A_LOOK: usize = 10;

/// Watches one link.
#[derive(Clone, Debug)]
pub(super) struct Quality {
    limits: Limits,
    window: Window,
    /// Probes since the last look.
    since_look: usize,
    /// What is beyond its threshold.
    beyond: Option<Degraded>,
}

impl Quality {
    /// A link that is measured from now on; nothing: it has no thresholds.
    pub(super) fn new(limits: Limits) -> Option<Self> {
        (limits != Limits::default()).then(|| Self { limits, window: Window::new(PROBES), since_look: 0, beyond: None })
    }

    /// So many probes were answered, the last one after `rtt_ns`, and so many were lost.
    pub(super) fn measured(&mut self, answered: u64, rtt_ns: u64, lost: u64) {
        let times = |count: u64| usize::try_from(count).unwrap_or(PROBES).min(PROBES);
        (0..times(lost)).for_each(|_| self.window.push(None));
        (0..times(answered)).for_each(|_| self.window.push(Some(rtt_ns)));
        self.since_look = self.since_look.saturating_add(times(answered) + times(lost));
    }

    /// What is beyond its threshold, if anything. It stays so until every measure is well below.
    pub(super) fn beyond(&mut self) -> Option<Degraded> {
        if self.since_look < PROBES_A_LOOK {
            return self.beyond;
        }
        self.since_look = 0;
        let measure = self.window.measure_of(LEAST_PROBES);
        let shares = if self.beyond.is_some() { &Shares::LEAVE } else { &Shares::ENTER };
        let now = self.limits.beyond(measure, shares);
        // The first reason stays, with its figures: it is no news that they change.
        self.beyond = self.beyond.filter(|_| now.is_some()).or(now);
        self.beyond
    }

    /// The link was silent: what was measured before says nothing of it now.
    pub(super) fn forget(&mut self) {
        self.window.clear();
        (self.since_look, self.beyond) = (0, None);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::health::Share;

    const MS: u64 = 1_000_000;

    fn quality() -> Quality {
        let limits = Limits { loss: Some(Share(200_000)), rtt_ns: Some(40 * MS), jitter_ns: Some(10 * MS) };
        Quality::new(limits).unwrap()
    }

    #[test]
    fn without_thresholds_nothing_is_measured() {
        assert!(Quality::new(Limits::default()).is_none());
    }

    #[test]
    fn loss_beyond_the_threshold_counts_until_it_is_half_of_it() {
        let mut quality = quality();
        let mut run = |probes: u64, every: u64| {
            for probe in 0..probes {
                let lost = u64::from(probe % every == 0);
                quality.measured(1 - lost, MS, lost);
                quality.beyond();
            }
            quality.beyond()
        };
        assert_eq!(run(200, 20), None, "5 %");
        assert!(matches!(run(200, 3), Some(Degraded::Loss { .. })), "33 %");
        assert!(matches!(run(200, 7), Some(Degraded::Loss { .. })), "14 %: not calm enough");
        assert_eq!(run(200, 20), None);
    }

    #[test]
    fn round_trips_beyond_their_threshold_count_and_silence_ends_it() {
        let mut quality = quality();
        (0..100).for_each(|_| quality.measured(1, 50 * MS, 0));
        assert!(matches!(quality.beyond(), Some(Degraded::Rtt { .. })));
        quality.forget();
        assert_eq!(quality.beyond(), None);
        (0..20).for_each(|_| quality.measured(0, 0, 1));
        assert_eq!(quality.beyond(), None, "too few to say anything");
        (0..100).for_each(|probe| quality.measured(1, MS + 30 * MS * (probe % 2), 0));
        assert!(matches!(quality.beyond(), Some(Degraded::Jitter { .. })));
    }
}
