//! How values spread: counts by ranges that grow with the value, so that few of them do for a microsecond and a minute.

use serde::{Deserialize, Serialize};

/// Each doubling has so many ranges of equal width.
const RANGES_A_DOUBLING: u64 = 16;
/// Values up to 2^10 ns, a microsecond, are in the first range.
const FIRST_BIT: u32 = 10;
/// From 2^36 ns on, 69 s, they are in the last one.
const LAST_BIT: u32 = 36;
/// Number of ranges.
const RANGES: u16 = (LAST_BIT - FIRST_BIT) as u16 * RANGES_A_DOUBLING as u16;

/// Durations, counted: from 1 µs to 69 s any quantile of it is at most 3.2 % from that of the values themselves; what is
/// shorter or longer counts as that. It has at most 416 ranges, and only those that hold something take room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    /// Ranges that hold something, in order, with their counts.
    counts: Vec<(u16, u64)>,
}

impl Histogram {
    /// Counts a value, ns.
    pub fn add(&mut self, ns: u64) {
        self.add_many(range(ns), 1);
    }

    /// Counts what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(range, count)| self.add_many(*range, *count));
    }

    fn add_many(&mut self, range: u16, count: u64) {
        // What somebody has edited may name ranges that there are not.
        let range = range.min(RANGES - 1);
        match self.counts.binary_search_by_key(&range, |(range, _)| *range) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(count),
            Err(at) => self.counts.insert(at, (range, count)),
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The value that this share of all, 0 to 1, does not exceed, ns: the middle of its range; nothing of no values.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut below = 0_u64;
        let last = self.counts.last()?;
        let of_rank = self.counts.iter().find(|(_, count)| {
            below = below.saturating_add(*count);
            below >= rank
        });
        Some(middle(of_rank.unwrap_or(last).0))
    }
}

/// The range that a value is in.
fn range(ns: u64) -> u16 {
    let ns = ns.clamp(1 << FIRST_BIT, (1 << LAST_BIT) - 1);
    let doubling = ns.ilog2();
    let within = (ns >> (doubling - RANGES_A_DOUBLING.ilog2())) % RANGES_A_DOUBLING;
    (doubling - FIRST_BIT) as u16 * RANGES_A_DOUBLING as u16 + within as u16
}

/// The middle of a range, ns.
fn middle(range: u16) -> u64 {
    let range = u64::from(range.min(RANGES - 1));
    let width = 1 << (FIRST_BIT as u64 + range / RANGES_A_DOUBLING - u64::from(RANGES_A_DOUBLING.ilog2()));
    (RANGES_A_DOUBLING + range % RANGES_A_DOUBLING) * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        values.into_iter().for_each(|ns| histogram.add(ns));
        histogram
    }

    #[test]
    fn every_value_is_near_the_middle_of_its_range() {
        let mut ns = 1_024_u64;
        while ns < 60_000_000_000 {
            let error = (middle(range(ns)) as f64 - ns as f64).abs() / ns as f64;
            assert!(error <= 0.032, "{ns}: {error}");
            ns += ns / 97 + 1;
        }
        assert_eq!((range(0), range(1 << 10), range(u64::MAX)), (0, 0, RANGES - 1));
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = of((1..=1_000).map(|n| n * 10_000));
        for (share, exact) in [(0.0, 10_000.0), (0.5, 5_000_000.0), (0.99, 9_900_000.0), (1.0, 10_000_000.0)] {
            let found = histogram.quantile(share).unwrap_or_default() as f64;
            assert!((found - exact).abs() <= 0.032 * exact, "{share}: {found}");
        }
        assert_eq!((histogram.count(), Histogram::default().quantile(0.5)), (1_000, None));
    }

    #[test]
    fn two_together_are_as_one_and_none_has_more_ranges_than_there_are() {
        let (mut one, other) = (of([5_000, 70_000_000]), of([5_000, 900_000]));
        one.merge(&other);
        assert_eq!(one, of([5_000, 5_000, 900_000, 70_000_000]));
        let edited = Histogram { counts: vec![(u16::MAX, u64::MAX), (3, 5)] };
        one.merge(&edited);
        assert_eq!(one.count(), u64::MAX);
        assert!(edited.quantile(0.5).is_some_and(|ns| ns < 70_000_000_000));
        let full = of((0..200_000).map(|n| 1_000 + n * n));
        assert!(full.counts.len() <= usize::from(RANGES));
    }
}
