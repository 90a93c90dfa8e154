//! Which uplink each of successive new connections gets.

/// Slots at most: with more, the table would cost more time than the shares gain by it. 256 are enough for every weight
/// against 1 to leave its mark.
const SLOTS_MAX: u32 = 256;
/// Blocks are repeated, each in another order, up to so many slots.
const SLOTS_WANTED: u32 = 64;

/// The slots that `numgen inc` goes through: in each block every uplink has as many as its weight says (weights in lowest
/// terms), so that shares are exact after every block. Within blocks the order is mixed, each in another way: programs
/// that open connections in a rhythm, such as a name query before each transfer, then still use all uplinks for both.
/// Always the same for the same weights. Whoever has no weight gets none.
pub(super) fn slots(weights: &[(u32, u32)]) -> Vec<u32> {
    let weights: Vec<(u32, u32)> = weights.iter().copied().filter(|(_, weight)| *weight > 0).collect();
    let weights = scaled(&weights);
    let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
    if sum == 0 {
        return Vec::new();
    }
    // One uplink needs no mixing.
    let blocks = if weights.len() == 1 { 1 } else { (SLOTS_WANTED / sum).max(1) };
    let mut random = Random(0);
    let mut slots = Vec::new();
    for _ in 0..blocks {
        let start = slots.len();
        for (number, weight) in &weights {
            slots.extend(std::iter::repeat_n(*number, *weight as usize));
        }
        // Fisher–Yates.
        let block = &mut slots[start..];
        for last in (1..block.len()).rev() {
            block.swap(last, random.below(last + 1));
        }
    }
    slots
}

/// The weights in lowest terms, in sum at most [`SLOTS_MAX`] (or one each, where there are more), none of them 0.
fn scaled(weights: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let divisor = weights.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
    let mut scaled: Vec<(u32, u32)> = weights.iter().map(|(number, weight)| (*number, weight / divisor)).collect();
    let sum: u32 = scaled.iter().map(|(_, weight)| weight).sum();
    if sum > SLOTS_MAX {
        for (_, weight) in &mut scaled {
            *weight = ((*weight * SLOTS_MAX + sum / 2) / sum).max(1);
        }
    }
    scaled
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn count(slots: &[u32], number: u32) -> usize {
        slots.iter().filter(|slot| **slot == number).count()
    }

    #[test]
    fn every_block_has_the_weights() {
        let slots = slots(&[(1, 50), (2, 30), (3, 20), (4, 0)]);
        assert_eq!(slots.len(), 60);
        for block in slots.chunks(10) {
            assert_eq!([1, 2, 3, 4].map(|number| count(block, number)), [5, 3, 2, 0]);
        }
    }

    #[test]
    fn a_rhythm_of_two_meets_both_of_two() {
        let slots = slots(&[(1, 1), (2, 1)]);
        let every_second: Vec<u32> = slots.iter().copied().step_by(2).collect();
        let first = count(&every_second, 1);
        assert!((8..=24).contains(&first), "{first} of {}", every_second.len());
    }

    #[test]
    fn extremes_stay_in_bounds() {
        assert_eq!(slots(&[]), [0; 0]);
        assert_eq!(slots(&[(7, 0)]), [0; 0]);
        assert_eq!(slots(&[(7, 256)]), [7]);
        let steep = slots(&[(1, 256), (2, 1)]);
        assert_eq!((count(&steep, 1), count(&steep, 2)), (255, 1));
        let many: Vec<(u32, u32)> = (1..=64).map(|number| (number, 200 + number % 57)).collect();
        let slots = slots(&many);
        assert!(slots.len() <= 320 && many.iter().all(|(number, _)| count(&slots, *number) >= 3));
    }
}
