//! How long failovers took.

/// Upper bounds of the buckets, ns. Between 1 ms and half a second they lie just above what is promised for the usual
/// intervals: 3 × 1, 3, 5, 10 and 100 ms, and one interval and 3 ms more.
pub(super) const BOUNDS_NS: [u64; 20] = [
    1_000_000,
    1_500_000,
    2_500_000,
    4_000_000,
    6_000_000,
    8_000_000,
    12_000_000,
    16_000_000,
    24_000_000,
    32_000_000,
    45_000_000,
    100_000_000,
    200_000_000,
    320_000_000,
    410_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Values by bucket; those beyond the last bound are in none, and only counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    buckets: [u64; BOUNDS_NS.len()],
    pub(super) count: u64,
    pub(super) sum_ns: u64,
}

impl Histogram {
    pub(super) fn observe(&mut self, ns: u64) {
        if let Some(bucket) = BOUNDS_NS.iter().position(|bound_ns| ns <= *bound_ns) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Each bound, ns, with the number of values up to it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.buckets.iter().scan(0, |below, count| {
            *below += count;
            Some(*below)
        });
        BOUNDS_NS.into_iter().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_all_values_to_the_count() {
        assert!(BOUNDS_NS.is_sorted());
        let mut histogram = Histogram::default();
        for ns in [0, 1_000_000, 1_000_001, 10_000_000_001, u64::MAX] {
            histogram.observe(ns);
        }
        let counts: Vec<u64> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[19], histogram.count), (2, 3, 3, 5));
        assert_eq!(histogram.sum_ns, u64::MAX, "it does not begin anew");
    }
}
