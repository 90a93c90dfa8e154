//! One table, and how far it is.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    route::{Family, Nexthop, serves},
    system::KernelError,
};

/// What stands in a table for a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    Nothing,
    /// As wanted.
    Ours,
    /// Ours, but through other next hops.
    Other,
    /// Somebody else's.
    Foreign,
    /// Nothing, because the kernel refused; tried again when the table is next read.
    Refused,
}

/// How far a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// What stands there is to be read.
    Unread,
    /// Everything up to this step is right: prefixes are gone through twice, to write and then to remove.
    Filling(usize),
    Complete,
}

/// A table, and the links that it is for.
#[derive(Debug)]
pub(super) struct Slot {
    /// In canonical order.
    pub(super) way: Vec<Nexthop>,
    /// One for each entry of the group's list.
    pub(super) standing: Vec<EntryState>,
    /// How many are [`EntryState::Ours`].
    pub(super) count: usize,
    /// Throw routes that stand.
    pub(super) throws: BTreeSet<IpNet>,
    pub(super) progress: Progress,
    /// Everything that is wanted stood when it was last looked at, and nothing is known to have gone since.
    pub(super) full: bool,
    /// A rule may lead here: no packet is caught wrongly.
    pub(super) guarded: bool,
    /// Nothing wants it any more: it is emptied.
    pub(super) unwanted: bool,
    /// Why nothing at all can be written, as without an interface that is up.
    pub(super) error: Option<KernelError>,
    /// Nothing is written before, ns.
    pub(super) retry_ns: u64,
}

impl Slot {
    pub(super) fn new(way: Vec<Nexthop>, entries: usize) -> Self {
        Self {
            way,
            standing: vec![EntryState::Nothing; entries],
            count: 0,
            throws: BTreeSet::new(),
            progress: Progress::Unread,
            full: false,
            guarded: false,
            unwanted: false,
            error: None,
            retry_ns: 0,
        }
    }

    pub(super) fn uses(&self, ifindex: u32) -> bool {
        self.way.iter().any(|nexthop| nexthop.ifindex == ifindex)
    }

    pub(super) fn serves(&self, prefix: &IpNet) -> bool {
        self.way.iter().any(|nexthop| serves(nexthop.gateway, prefix))
    }

    pub(super) fn serves_family(&self, family: Family) -> bool {
        self.way.iter().any(|nexthop| nexthop.gateway.is_ipv6() || family == Family::V4)
    }

    pub(super) fn complete(&self) -> bool {
        self.progress == Progress::Complete
    }

    /// Goes through everything again.
    pub(super) fn restart(&mut self) {
        if self.progress != Progress::Unread {
            self.progress = Progress::Filling(0);
        }
    }

    pub(super) fn set(&mut self, at: usize, standing: EntryState) {
        let before = std::mem::replace(&mut self.standing[at], standing);
        self.count -= usize::from(before == EntryState::Ours);
        self.count += usize::from(standing == EntryState::Ours);
    }

    pub(super) fn is_empty(&self) -> bool {
        let stands = |standing: &EntryState| matches!(standing, EntryState::Ours | EntryState::Other);
        self.throws.is_empty() && !self.standing.iter().any(stands)
    }
}
