//! The last probes to one target, and what they say.

use std::collections::VecDeque;

use super::Share;

/// Outcomes of the last probes to one target: the round trip in ns, or nothing for a lost one.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    outcomes: VecDeque<Option<u64>>,
    capacity: usize,
}

/// What a target's window says. Each figure is worse the greater it is, and absent where nothing says anything of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Lost probes among all of the window.
    pub(super) loss: Option<Share>,
    /// Median round trip, ns.
    pub(super) rtt_ns: Option<u64>,
    /// Mean difference of successive round trips, ns.
    pub(super) jitter_ns: Option<u64>,
}

impl Window {
    /// Remembers `capacity` probes, at least 1.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { outcomes: VecDeque::with_capacity(capacity), capacity }
    }

    /// How many probes it remembers at most.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn push(&mut self, rtt_ns: Option<u64>) {
        if self.outcomes.len() == self.capacity {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(rtt_ns);
    }

    pub(crate) fn clear(&mut self) {
        self.outcomes.clear();
    }

    /// How many probes it remembers now.
    pub(super) fn len(&self) -> usize {
        self.outcomes.len()
    }

    pub(super) fn measure(&self) -> Measure {
        if self.outcomes.is_empty() {
            return Measure::default();
        }
        let mut rtts: Vec<u64> = self.outcomes.iter().flatten().copied().collect();
        let lost = self.outcomes.len() - rtts.len();
        // At most a million, whatever the window.
        let loss = Share((lost as u64 * 1_000_000 / self.outcomes.len() as u64) as u32);
        let differences: Vec<u64> = rtts.windows(2).map(|pair| pair[0].abs_diff(pair[1])).collect();
        let jitter_ns = mean(&differences);
        rtts.sort_unstable();
        Measure { loss: Some(loss), rtt_ns: rtts.get(rtts.len() / 2).copied(), jitter_ns }
    }

    /// The measure, once it has at least so many probes.
    pub(crate) fn measure_of(&self, least: usize) -> Measure {
        if self.len() < least { Measure::default() } else { self.measure() }
    }
}

fn mean(values: &[u64]) -> Option<u64> {
    let sum: u128 = values.iter().map(|&value| u128::from(value)).sum();
    // A mean is no greater than the greatest.
    (!values.is_empty()).then(|| (sum / values.len() as u128) as u64)
}

/// The `required` best targets' figures: each that of the worst among them. So a target that is dead, far or throttled says
/// nothing as long as `required` others are good. Only windows with at least `least` probes are heard.
pub(super) fn best<'a>(windows: impl Iterator<Item = &'a Window>, required: usize, least: usize) -> Measure {
    let heard: Vec<Measure> =
        windows.filter(|window| window.len() >= least.min(window.capacity())).map(Window::measure).collect();
    Measure {
        loss: worst_needed(heard.iter().filter_map(|measure| measure.loss), required),
        rtt_ns: worst_needed(heard.iter().filter_map(|measure| measure.rtt_ns), required),
        jitter_ns: worst_needed(heard.iter().filter_map(|measure| measure.jitter_ns), required),
    }
}

fn worst_needed<T: Ord + Copy>(values: impl Iterator<Item = T>, required: usize) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(required.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(outcomes: &[Option<u64>]) -> Window {
        let mut window = Window::new(8);
        outcomes.iter().for_each(|&outcome| window.push(outcome));
        window
    }

    #[test]
    fn a_window_measures_its_last_probes() {
        let mut full = window(&[Some(900); 8]);
        for rtt in [10, 30, 20] {
            full.push(Some(rtt));
            full.push(None);
        }
        // Left are two of 900, then 10, 30, 20 with losses between.
        let measure = full.measure();
        assert_eq!(measure.loss, Some(Share(375_000)));
        assert_eq!((measure.rtt_ns, measure.jitter_ns), (Some(30), Some((890 + 20 + 10) / 4)));
        full.clear();
        assert_eq!(full.measure(), Measure::default());
    }

    #[test]
    fn nothing_answered_has_no_round_trip() {
        let measure = window(&[None, None]).measure();
        assert_eq!(measure, Measure { loss: Some(Share(1_000_000)), rtt_ns: None, jitter_ns: None });
    }

    #[test]
    fn the_best_required_targets_speak() {
        let windows =
            [window(&[None; 4]), window(&[Some(5); 4]), window(&[Some(7); 4]), window(&[Some(900), None, None, None])];
        let best_two = best(windows.iter(), 2, 4);
        assert_eq!(best_two, Measure { loss: Some(Share(0)), rtt_ns: Some(7), jitter_ns: Some(0) });
        assert_eq!(best(windows.iter(), 3, 4).loss, Some(Share(750_000)));
        assert_eq!(best(windows.iter(), 4, 4).rtt_ns, None, "one never answered");
        assert_eq!(best(windows.iter(), 2, 5), Measure::default(), "too few to say anything");
    }
}
