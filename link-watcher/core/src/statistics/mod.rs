//! How links were: by day, for as long as a contract with a provider may be disputed, and in ten-minute steps for the last day.
//!
//! [`Recorder`] takes what happens with the time, and has sums; keeping them over a restart is for others. Bounds: 1,024
//! links, two days in memory (of [`MAX_DAYS`] that are kept), 288 steps a link, 416 ranges a histogram.

mod histogram;
mod period;
mod recorder;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    histogram::Histogram,
    period::{Failovers, Figures, Period, State},
    recorder::{Archive, Measured, Now, Recorder},
};

/// Most days that are kept.
pub const MAX_DAYS: usize = 400;
/// Most links of a day, those that were renamed or removed on it too; also most links at a time. Further ones have no
/// statistics.
pub const MAX_LINKS: usize = 1024;
/// Length of a step, s.
pub const STEP_S: u64 = 600;
/// Steps of a day.
pub const STEPS_A_DAY: u32 = 144;

/// A day in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(pub u32);

/// Ten minutes, counted from the beginning of 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Step(pub u32);

impl Step {
    /// The one that a time, ms since 1970, is in.
    pub const fn of(unix_ms: u64) -> Self {
        Self((unix_ms / (STEP_S * 1000)) as u32)
    }

    /// The day that it is part of.
    pub const fn day(self) -> Day {
        Day(self.0 / STEPS_A_DAY)
    }

    /// When it begins, seconds since 1970.
    pub const fn begins_s(self) -> u64 {
        self.0 as u64 * STEP_S
    }
}

/// A day's sums, by the names of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DayRecord {
    /// Groups.
    pub groups: BTreeMap<String, GroupRecord>,
}

/// A group's sums of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupRecord {
    /// Moves of its traffic away from a failure.
    pub failovers: Failovers,
    /// Its links, by their names.
    pub links: BTreeMap<String, Period>,
}

impl DayRecord {
    /// The sums of a link; nothing where there are too many already.
    fn link(&mut self, group: &str, link: &str) -> Option<&mut Period> {
        let known = self.groups.get(group).is_some_and(|group| group.links.contains_key(link));
        if !known && self.groups.values().map(|group| group.links.len()).sum::<usize>() >= MAX_LINKS {
            return None;
        }
        Some(self.groups.entry(group.to_owned()).or_default().links.entry(link.to_owned()).or_default())
    }

    fn find(&self, group: &str, link: &str) -> Option<&Period> {
        self.groups.get(group)?.links.get(link)
    }
}

/// The last day in steps, by the names of groups and links.
pub type Steps = BTreeMap<String, BTreeMap<String, BTreeMap<Step, Period>>>;
