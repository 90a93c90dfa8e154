//! Dampening of links that flap (RFC 2439, section 2.2): each flap adds a penalty, which decays with a half-life. A link whose
//! penalty has come too high is left out until it has decayed enough.

/// What a flap adds.
const FLAP: f64 = 1_000.0;
/// From here on a link is suppressed.
const SUPPRESS: f64 = 3_000.0;
/// Below this it is used again.
const REUSE: f64 = 750.0;
/// The penalty halves in this time, ns.
const HALF_LIFE_NS: f64 = 60e9;
/// Whatever happened, a quiet link is used again after so many half-lives.
const MOST_HALF_LIVES: i32 = 4;

/// Penalty of one link. Times are nanoseconds of one monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dampening {
    penalty: f64,
    /// When it was that high.
    at_ns: u64,
    suppressed: bool,
}

impl Dampening {
    /// The link has flapped; true: from now on it is suppressed.
    pub(super) fn flapped(&mut self, now_ns: u64) -> bool {
        let most = REUSE * 2_f64.powi(MOST_HALF_LIVES);
        (self.penalty, self.at_ns) = ((self.penalty_at(now_ns) + FLAP).min(most), now_ns);
        let newly = !self.suppressed && self.penalty >= SUPPRESS;
        self.suppressed |= newly;
        newly
    }

    /// Ends the suppression if it is time; true: it was.
    pub(super) fn release(&mut self, now_ns: u64) -> bool {
        let over = self.reuse_at_ns().is_some_and(|at_ns| now_ns >= at_ns);
        self.suppressed &= !over;
        over
    }

    /// When a suppressed link will be used again, if it flaps no more, ns.
    pub(super) fn reuse_at_ns(&self) -> Option<u64> {
        // Rounded up: at that instant the penalty is below.
        let after_ns = ((self.penalty / REUSE).log2().max(0.0) * HALF_LIFE_NS).ceil() as u64;
        self.suppressed.then(|| self.at_ns + after_ns + 1)
    }

    pub(super) const fn is_suppressed(&self) -> bool {
        self.suppressed
    }

    /// The penalty now.
    pub(super) fn penalty_at(&self, now_ns: u64) -> f64 {
        self.penalty * (-(now_ns.saturating_sub(self.at_ns) as f64) / HALF_LIFE_NS).exp2()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn flaps_in_a_row_suppress_and_quiet_releases() {
        let mut dampening = Dampening::default();
        let suppressed: Vec<bool> = (0..5).map(|flap| dampening.flapped(flap * 5 * S)).collect();
        assert_eq!(suppressed, [false, false, false, true, false], "told once");
        let reuse_ns = dampening.reuse_at_ns().unwrap();
        // From about 4,470 it takes 2.6 half-lives.
        assert!((150 * S..180 * S).contains(&(reuse_ns - 20 * S)), "{reuse_ns}");
        assert!(!dampening.release(reuse_ns - 1) && dampening.is_suppressed());
        assert!(dampening.release(reuse_ns) && !dampening.is_suppressed());
        assert!(dampening.penalty_at(reuse_ns) <= REUSE);
    }

    #[test]
    fn a_flap_every_two_minutes_is_borne() {
        let mut dampening = Dampening::default();
        assert!((0..1_000).all(|flap| !dampening.flapped(flap * 120 * S)));
    }

    #[test]
    fn no_history_suppresses_for_more_than_four_half_lives() {
        let mut dampening = Dampening::default();
        for flap in 0..10_000 {
            dampening.flapped(flap * S / 10);
        }
        let reuse_ns = dampening.reuse_at_ns().unwrap();
        assert!(reuse_ns - 1_000 * S <= 240 * S + 1, "{reuse_ns}");
    }
}
