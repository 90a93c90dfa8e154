//! Which sequence numbers were seen already: the anti-replay window of RFC 4302, appendix B, packed into one word so
//! that one compare-and-exchange moves it.
//!
//! The upper 40 bits hold the highest sequence seen, the lower 24 one bit for each of the 24 before it. 2^40
//! sequences last 34 years at one a millisecond; within a session they only ever grow.

/// Highest sequence a session can use.
pub const MAX_SEQUENCE: u64 = (1 << 40) - 1;
/// How far behind the highest a sequence may arrive and still count, once.
pub const WINDOW: u64 = 24;
/// No sequence seen.
pub const EMPTY: u64 = 0;

const MASK: u64 = (1 << WINDOW) - 1;

/// Highest sequence seen; 0 if none.
#[inline(always)]
pub const fn highest(window: u64) -> u64 {
    window >> WINDOW
}

/// The window with everything up to `sequence` seen.
#[inline(always)]
pub const fn all_until(sequence: u64) -> u64 {
    (sequence << WINDOW) | if sequence == 0 { 0 } else { MASK }
}

/// The window with `sequence` seen, or `None` if it was seen before or is too old to know.
/// `sequence` is in 1 ..= [`MAX_SEQUENCE`].
#[inline(always)]
pub const fn accept(window: u64, sequence: u64) -> Option<u64> {
    let highest = highest(window);
    if sequence > highest {
        let step = sequence - highest;
        // The old highest becomes one of the bits behind the new one, unless it is too far behind.
        // An empty window has no old highest.
        let bits =
            if step > WINDOW || highest == 0 { 0 } else { (((window & MASK) << step) | (1 << (step - 1))) & MASK };
        return Some((sequence << WINDOW) | bits);
    }
    let behind = highest - sequence;
    if behind == 0 || behind > WINDOW {
        return None;
    }
    let bit = 1 << (behind - 1);
    if window & bit != 0 {
        return None;
    }
    Some(window | bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_was_before_is_seen() {
        for sequence in [1, 5, 24, 25, 1_000_000, MAX_SEQUENCE - 1] {
            let window = all_until(sequence);
            assert!((1..=sequence.min(40)).all(|back| accept(window, sequence + 1 - back).is_none()));
            assert!(accept(window, sequence + 1).is_some());
        }
        assert_eq!(all_until(0), EMPTY);
    }

    #[test]
    fn agrees_with_a_set_of_everything_seen() {
        // A small linear congruential generator: the same sequence of tries at every run.
        let mut random = 1_u64;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        for _ in 0..200 {
            let (mut window, mut seen, mut top) = (EMPTY, BTreeSet::new(), 0_u64);
            for _ in 0..500 {
                let sequence = (top + next() % 40).saturating_sub(20).max(1);
                let expected = !seen.contains(&sequence) && sequence + WINDOW >= top;
                match accept(window, sequence) {
                    Some(moved) => {
                        assert!(expected, "accepted {sequence}, highest {top}");
                        window = moved;
                        seen.insert(sequence);
                        top = top.max(sequence);
                        assert_eq!(highest(window), top);
                    }
                    None => assert!(!expected, "refused {sequence}, highest {top}"),
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(accept(EMPTY, 1), Some(1 << WINDOW));
        let last = accept(EMPTY, MAX_SEQUENCE);
        assert_eq!(last.map(highest), Some(MAX_SEQUENCE));
        assert_eq!(last.and_then(|window| accept(window, MAX_SEQUENCE)), None);
    }
}
