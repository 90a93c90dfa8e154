//! Targets that are flaky by themselves: they lose several times what the others lose, by every uplink that asks them. That is
//! nothing that an uplink could help.

use super::{LEAST_PROBES, Share, TargetFigures};

/// Probes without answer that it takes at least: fewer happen to any target.
const LEAST_LOST: u64 = 3;
/// What it loses at least, and how many times what the others do: to be called flaky, and to stay so.
const ENTER: (Share, u32) = (Share(100_000), 4);
const STAY: (Share, u32) = (Share(50_000), 2);

/// Whether a target is flaky by itself. `uplinks`: of each uplink that asks it, what is known there of this target, and of the
/// others.
///
/// An uplink that has no probes to tell by, as one that is down, says nothing; one that has too few speaks against it.
pub fn is_flaky<'a, O>(uplinks: impl IntoIterator<Item = (TargetFigures, O)>) -> bool
where
    O: IntoIterator<Item = &'a TargetFigures>,
{
    let mut seen = false;
    for (of, others) in uplinks {
        let Some(loss) = of.loss else { continue };
        let mut others: Vec<u32> = others.into_iter().filter_map(|other| other.loss).map(|loss| loss.0).collect();
        others.sort_unstable();
        // Half of the others lose no more than this.
        let Some(usual) = others.get(others.len().saturating_sub(1) / 2) else { return false };
        let (least, times) = if of.flaky { STAY } else { ENTER };
        // A share is rounded down.
        let lost = (u64::from(loss.0) * of.probes as u64 + 500_000) / 1_000_000;
        if of.probes < LEAST_PROBES
            || !of.flaky && lost < LEAST_LOST
            || loss.0 < least.0.max(usual.saturating_mul(times))
        {
            return false;
        }
        seen = true;
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(percent: u32, probes: usize, flaky: bool) -> TargetFigures {
        let loss = (probes > 0).then_some(Share(percent * 10_000));
        TargetFigures { answers: Some(true), rtt_ns: None, jitter_ns: None, loss, probes, flaky }
    }

    /// Of each uplink the target's own loss and that of the others, percent.
    fn judged(uplinks: &[(u32, &[u32])], flaky: bool) -> bool {
        let others: Vec<Vec<_>> = uplinks
            .iter()
            .map(|(_, others)| others.iter().map(|percent| figures(*percent, 30, false)).collect())
            .collect();
        is_flaky(uplinks.iter().zip(&others).map(|((own, _), others)| (figures(*own, 30, flaky), others)))
    }

    #[test]
    fn it_is_the_target_where_it_is_so_by_every_uplink() {
        assert!(judged(&[(30, &[0, 0, 1])], false));
        assert!(judged(&[(30, &[0]), (25, &[5])], false));
        assert!(!judged(&[(30, &[0]), (0, &[0])], false), "it is one uplink's way to it");
        assert!(!judged(&[(30, &[25, 30, 0])], false), "most lose as much: it is the uplink");
        assert!(judged(&[(30, &[30, 0, 0])], false), "two of four");
        assert!(!judged(&[(8, &[0, 0])], false), "a little is nothing");
        assert!(is_flaky([(figures(30, 10, false), &[figures(0, 10, false)])]));
        assert!(!is_flaky([(figures(20, 10, false), &[figures(0, 10, false)])]), "two of ten may be chance");
        assert!(
            judged(&[(8, &[0, 0])], true) && !judged(&[(4, &[0, 0])], true),
            "what is called so stays so for a while"
        );
        assert!(!judged(&[(100, &[])], false), "there is nothing to compare with");
    }

    #[test]
    fn who_knows_nothing_is_not_heard_and_who_knows_little_speaks_against_it() {
        let good = [figures(0, 30, false)];
        let of = |own: &[TargetFigures]| is_flaky(own.iter().map(|own| (*own, &good)));
        assert!(of(&[figures(30, 30, false), figures(0, 0, false)]));
        assert!(!of(&[figures(30, 30, false), figures(50, 5, false)]));
        assert!(!of(&[figures(0, 0, false)]));
        assert!(!of(&[]));
    }
}
