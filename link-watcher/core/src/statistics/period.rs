//! What is known of a link in some stretch of time, and what people are told of it.

use serde::{Deserialize, Serialize};

use super::Histogram;

/// Moves of traffic away from a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failovers {
    /// How many there were.
    pub count: u32,
    /// The longest time from the last good packet until the kernel had the new routes, ns.
    pub worst_ns: u64,
}

impl Failovers {
    /// One more.
    pub fn add(&mut self, outage_ns: u64) {
        self.merge(Self { count: 1, worst_ns: outage_ns });
    }

    /// Those of another stretch of time.
    pub fn merge(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.worst_ns = self.worst_ns.max(other.worst_ns);
    }

    /// The longest of them, ms; nothing of none.
    pub fn worst_ms(self) -> Option<f64> {
        (self.count > 0).then_some(self.worst_ns as f64 / 1e6)
    }
}

/// How a link was, as far as its statistics tell states apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answered.
    Up,
    /// It answered, but outside of its thresholds or only beneath the network stack.
    Degraded,
    /// It did not answer, was absent, or flapped.
    Down,
}

/// Sums over a stretch of time: a day, ten minutes, a run of the daemon. Only the time in which the daemon watched counts:
/// what happened while it did not run is not known, and no outage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Period {
    /// Time in which it answered, ms.
    #[serde(skip_serializing_if = "is_zero")]
    pub up_ms: u64,
    /// Time in which it was degraded, ms.
    #[serde(skip_serializing_if = "is_zero")]
    pub degraded_ms: u64,
    /// Time in which it was down, ms: the sum of its outages.
    #[serde(skip_serializing_if = "is_zero")]
    pub down_ms: u64,
    /// Outages that began in it.
    #[serde(skip_serializing_if = "is_zero")]
    pub outages: u64,
    /// The longest outage of those that it has a part of, ms: from its beginning, even if that was before.
    #[serde(skip_serializing_if = "is_zero")]
    pub longest_outage_ms: u64,
    /// How long the outage is, ms, that had not ended with it; 0: there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub open_outage_ms: u64,
    /// Probes sent.
    #[serde(skip_serializing_if = "is_zero")]
    pub sent: u64,
    /// Answers received.
    #[serde(skip_serializing_if = "is_zero")]
    pub received: u64,
    /// Moves of traffic away from it.
    #[serde(skip_serializing_if = "is_none")]
    pub failovers: Failovers,
    /// Round trips: the last one, looked at every few seconds.
    #[serde(skip_serializing_if = "Histogram::is_empty")]
    pub rtt: Histogram,
}

// As serde wants it: by reference.
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

const fn is_none(failovers: &Failovers) -> bool {
    failovers.count == 0
}

impl Period {
    /// So long it was in this state; of an outage, so long it has been by then.
    pub(super) fn spend(&mut self, state: State, ms: u64, outage_ms: u64) {
        let spent = match state {
            State::Up => &mut self.up_ms,
            State::Degraded => &mut self.degraded_ms,
            State::Down => &mut self.down_ms,
        };
        *spent = spent.saturating_add(ms);
        self.longest_outage_ms = self.longest_outage_ms.max(outage_ms);
        self.open_outage_ms = outage_ms;
    }

    /// Time in which it was watched, ms.
    pub fn observed_ms(&self) -> u64 {
        self.up_ms.saturating_add(self.degraded_ms).saturating_add(self.down_ms)
    }

    /// Takes over what was in a later one.
    pub fn merge(&mut self, later: &Self) {
        for (sum, more) in [
            (&mut self.up_ms, later.up_ms),
            (&mut self.degraded_ms, later.degraded_ms),
            (&mut self.down_ms, later.down_ms),
            (&mut self.outages, later.outages),
            (&mut self.sent, later.sent),
            (&mut self.received, later.received),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.longest_outage_ms = self.longest_outage_ms.max(later.longest_outage_ms);
        self.open_outage_ms = later.open_outage_ms;
        self.failovers.merge(later.failovers);
        self.rtt.merge(&later.rtt);
    }

    /// What people are told.
    pub fn figures(&self) -> Figures {
        let seconds = |ms: u64| ms as f64 / 1e3;
        let (observed_ms, lost) = (self.observed_ms(), self.sent.saturating_sub(self.received));
        let share = |part: u64, whole: u64| (whole > 0).then_some(part as f64 / whole as f64);
        let rtt_ms = |quantile| self.rtt.quantile(quantile).map(|ns| ns as f64 / 1e6);
        Figures {
            observed_s: seconds(observed_ms),
            availability: share(observed_ms - self.down_ms.min(observed_ms), observed_ms),
            degraded_s: seconds(self.degraded_ms),
            outages: self.outages,
            outage_s: seconds(self.down_ms),
            longest_outage_s: seconds(self.longest_outage_ms),
            failovers: self.failovers.count,
            worst_failover_ms: self.failovers.worst_ms(),
            sent: self.sent,
            lost,
            loss: share(lost, self.sent),
            rtt_median_ms: rtt_ms(0.5),
            rtt_p99_ms: rtt_ms(0.99),
        }
    }
}

/// What people and scripts are told of a link in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// For how long it was watched, s: the daemon ran, and had a verdict. All else is about that time only.
    pub observed_s: f64,
    /// Share of that time in which it answered, degraded or not, 0 to 1; nothing where it was not watched.
    pub availability: Option<f64>,
    /// For how long it was degraded, s.
    pub degraded_s: f64,
    /// Outages that began in it: the link was down, absent or dampened.
    pub outages: u64,
    /// Their sum, s, with what was of it of one that began before.
    pub outage_s: f64,
    /// The longest, s, from its beginning, even if that was before.
    pub longest_outage_s: f64,
    /// How often traffic was moved away from it because it failed.
    pub failovers: u32,
    /// The longest time from the last good packet until the kernel had the new routes, ms.
    pub worst_failover_ms: Option<f64>,
    /// Probes sent.
    pub sent: u64,
    /// Those without an answer, outages included.
    pub lost: u64,
    /// Their share, 0 to 1.
    pub loss: Option<f64>,
    /// Median of the round trip, ms, at most 3.2 % off.
    pub rtt_median_ms: Option<f64>,
    /// What 99 of 100 round trips do not exceed, ms, at most 3.2 % off.
    pub rtt_p99_ms: Option<f64>,
}
