//! What is known of each target, for the status.

use super::{Health, Share};

/// What is known of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetFigures {
    /// Whether it answered the last time that it was asked; nothing: it has not answered yet, and is not missed either.
    pub answers: Option<bool>,
    /// Median round trip over its part of the window, ns.
    pub rtt_ns: Option<u64>,
    /// Mean difference of successive round trips, ns.
    pub jitter_ns: Option<u64>,
    /// Share of its probes without answer; nothing while the window is empty, as after an outage.
    pub loss: Option<Share>,
    /// How many probes that says.
    pub probes: usize,
    /// It is flaky by itself, see [`is_flaky`](super::is_flaky).
    pub flaky: bool,
}

impl Health {
    /// Says of each target, in the order of the configuration, whether it is flaky by itself. Such a one takes no threshold.
    pub fn set_flaky(&mut self, flaky: impl IntoIterator<Item = bool>) {
        for (target, flaky) in self.targets.iter_mut().zip(flaky) {
            target.flaky = flaky;
        }
    }

    /// Each target, in the order of the configuration.
    pub fn targets(&self) -> impl Iterator<Item = TargetFigures> {
        self.targets.iter().map(|target| {
            let measure = target.window.measure();
            // Whoever answers is not suspected any more, see `unanswered`.
            let answers = if target.suspect_until > 0 { Some(false) } else { measure.rtt_ns.map(|_| true) };
            TargetFigures {
                answers,
                rtt_ns: measure.rtt_ns,
                jitter_ns: measure.jitter_ns,
                loss: measure.loss,
                probes: target.window.len(),
                flaky: target.flaky,
            }
        })
    }
}
