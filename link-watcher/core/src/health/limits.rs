//! Thresholds of loss, round trip and jitter, for uplinks and for the links of peers.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Share, window::Measure};

/// What a link may have at most; nothing: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Share of probes without answer.
    pub loss: Option<Share>,
    /// Median round trip, ns.
    pub rtt_ns: Option<u64>,
    /// Mean difference of successive round trips, ns.
    pub jitter_ns: Option<u64>,
}

/// Shares of the thresholds that count, in eighths.
pub(crate) struct Shares {
    loss: u32,
    times: u32,
}

impl Shares {
    /// Beyond its threshold a figure makes a link degraded.
    pub(crate) const ENTER: Self = Self { loss: 8, times: 8 };
    /// To be up again every figure must be this far below, so that what wavers about its threshold does not flap. Loss is
    /// counted from few probes, so it wavers most: at a true loss of 30 % and thirty probes it shows 20 % now and then.
    pub(crate) const LEAVE: Self = Self { loss: 4, times: 7 };
}

/// Why a link that answers is degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Degraded {
    /// Too many probes are lost.
    Loss {
        /// So many.
        is: Share,
        /// Allowed.
        max: Share,
    },
    /// The median round trip takes too long.
    Rtt {
        /// So long, ns.
        is_ns: u64,
        /// Allowed, ns.
        max_ns: u64,
    },
    /// The round trips differ too much.
    Jitter {
        /// So much, ns.
        is_ns: u64,
        /// Allowed, ns.
        max_ns: u64,
    },
    /// The targets are silent, but replies to established connections arrive.
    OnlyReplies,
}

impl Limits {
    /// Which figure is beyond these shares of its threshold.
    pub(crate) fn beyond(&self, measure: Measure, shares: &Shares) -> Option<Degraded> {
        // Below a share of 1 it is no more than the threshold itself.
        let part_ns = |max_ns: u64| (u128::from(max_ns) * u128::from(shares.times) / 8) as u64;
        if let (Some(is), Some(max)) = (measure.loss, self.loss)
            && u64::from(is.0) > u64::from(max.0) * u64::from(shares.loss) / 8
        {
            return Some(Degraded::Loss { is, max });
        }
        if let (Some(is_ns), Some(max_ns)) = (measure.rtt_ns, self.rtt_ns)
            && is_ns > part_ns(max_ns)
        {
            return Some(Degraded::Rtt { is_ns, max_ns });
        }
        if let (Some(is_ns), Some(max_ns)) = (measure.jitter_ns, self.jitter_ns)
            && is_ns > part_ns(max_ns)
        {
            return Some(Degraded::Jitter { is_ns, max_ns });
        }
        None
    }
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: Share| f64::from(share.0) / 10_000.0;
        let ms = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e3;
        match *self {
            Self::Loss { is, max } => write!(f, "loss {:.1} %, allowed are {} %", percent(is), percent(max)),
            Self::Rtt { is_ns, max_ns } => {
                write!(f, "round trip {:.1} ms, allowed are {} ms", ms(is_ns), ms(max_ns))
            }
            Self::Jitter { is_ns, max_ns } => write!(f, "jitter {:.1} ms, allowed are {} ms", ms(is_ns), ms(max_ns)),
            Self::OnlyReplies => f.write_str("its targets are silent, but replies to connections arrive"),
        }
    }
}
