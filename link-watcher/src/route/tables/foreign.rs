//! What others have in the main table.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{super::RouteKey, GAP_NS};

/// Most routes of others that are followed; with more, routes of ours stand in the main table like theirs.
pub(super) const FOREIGN_MAX: usize = 65_536;
/// Least time between two readings of the main table, ns.
const READ_GAP_NS: u64 = 1_000_000_000;

/// A route of somebody else's: the one with the lowest metric of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Best {
    pub(super) metric: u32,
    pub(super) protocol: u8,
}

/// A route of a protocol that is followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LearnedRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// Indices of the interfaces that it leaves by, in order.
    pub interfaces: Vec<u32>,
}

/// The main table, without our own routes. Additions count at once; what goes, goes with the next reading, so that a
/// packet rather leaves our tables in vain for a moment than is caught wrongly.
pub(super) struct Foreign {
    pub(super) routes: BTreeMap<IpNet, Best>,
    /// It was read since the first group is served.
    pub(super) known: bool,
    pub(super) overflow: bool,
    /// When it is to be read again, ns.
    pub(super) due_ns: u64,
    /// Additions during a reading, which may have missed them.
    added: Vec<(IpNet, Best)>,
    /// The filter of events takes one round to change, and only what is read behind it is complete.
    armed: bool,
    read_ns: u64,
    /// Protocols whose routes are wanted with the interfaces that they leave by.
    protocols: BTreeSet<u8>,
    /// These routes, in order; nothing: there are more than [`FOREIGN_MAX`].
    learned: Option<Vec<LearnedRoute>>,
    /// How often they have changed.
    learned_changes: u64,
}

impl Default for Foreign {
    fn default() -> Self {
        Self {
            routes: BTreeMap::new(),
            known: false,
            overflow: false,
            due_ns: u64::MAX,
            added: Vec::new(),
            armed: false,
            read_ns: 0,
            protocols: BTreeSet::new(),
            learned: Some(Vec::new()),
            learned_changes: 0,
        }
    }
}

impl Foreign {
    /// It is to be read again, at this time or later.
    pub(super) fn schedule_read(&mut self, at_ns: u64) {
        let at_ns =
            if self.known || !self.protocols.is_empty() { at_ns.max(self.read_ns + READ_GAP_NS) } else { at_ns };
        self.due_ns = self.due_ns.min(at_ns);
    }

    /// The first group is served, and what was known of others' routes may be of an earlier time.
    pub(super) fn begin_others(&mut self, now_ns: u64) {
        (self.known, self.armed, self.due_ns) = (false, false, now_ns);
    }

    /// No group is served any more, and the events of others' routes end.
    pub(super) fn end_others(&mut self) {
        let (protocols, learned) = (std::mem::take(&mut self.protocols), self.learned.take());
        let due_ns = if protocols.is_empty() { u64::MAX } else { self.due_ns };
        let (learned_changes, read_ns) = (self.learned_changes, self.read_ns);
        *self = Self { protocols, learned, learned_changes, due_ns, read_ns, ..Self::default() };
    }

    /// Wants routes of these protocols from now on.
    pub(super) fn follow(&mut self, now_ns: u64, protocols: &BTreeSet<u8>) {
        if self.protocols != *protocols {
            self.protocols.clone_from(protocols);
            self.armed = false;
            self.schedule_read(now_ns);
        }
    }

    /// Whether routes of a protocol are wanted.
    pub(super) fn follows(&self, protocol: u8) -> bool {
        self.protocols.contains(&protocol)
    }

    /// The protocols whose routes are wanted.
    pub(super) const fn protocols(&self) -> &BTreeSet<u8> {
        &self.protocols
    }

    /// Takes over the routes of these that were read.
    pub(super) fn learn(&mut self, mut read: Option<Vec<LearnedRoute>>) {
        if let Some(read) = &mut read {
            read.sort_unstable();
        }
        if self.learned != read {
            self.learned = read;
            self.learned_changes += 1;
        }
    }

    /// The routes of these protocols, and how often they have changed.
    pub(super) fn learned(&self) -> (Option<&[LearnedRoute]>, u64) {
        (self.learned.as_deref(), self.learned_changes)
    }

    /// Whether to read it now.
    pub(super) fn begin(&mut self, now_ns: u64) -> bool {
        if self.due_ns > now_ns {
            return false;
        }
        if !std::mem::replace(&mut self.armed, true) {
            return false;
        }
        (self.due_ns, self.read_ns) = (u64::MAX, now_ns);
        self.added.clear();
        true
    }

    /// Takes over what was read. Gives whether anything has changed.
    pub(super) fn replace(&mut self, read: Option<BTreeMap<IpNet, Best>>) -> bool {
        self.overflow = read.is_none();
        let mut read = read.unwrap_or_default();
        for (prefix, best) in self.added.drain(..) {
            better(&mut read, prefix, best);
        }
        let changed = !self.known || read != self.routes;
        self.routes = read;
        self.known = true;
        changed
    }

    /// The table could not be read.
    pub(super) fn failed(&mut self, now_ns: u64) {
        self.due_ns = now_ns + READ_GAP_NS;
    }

    /// Takes in a route that appeared. Gives whether it matters.
    pub(super) fn insert(&mut self, key: RouteKey, protocol: u8) -> bool {
        let best = Best { metric: key.metric, protocol };
        if self.added.len() < FOREIGN_MAX {
            self.added.push((key.prefix, best));
        } else {
            self.schedule_read(self.read_ns + GAP_NS);
        }
        if !self.overflow && self.routes.len() >= FOREIGN_MAX {
            self.overflow = true;
        }
        !self.overflow && better(&mut self.routes, key.prefix, best)
    }
}

/// Enters a route, unless there are too many.
pub(super) fn note(learned: &mut Option<Vec<LearnedRoute>>, route: LearnedRoute) {
    match learned {
        Some(routes) if routes.len() < FOREIGN_MAX => routes.push(route),
        _ => *learned = None,
    }
}

/// Enters a route where it comes before what is there.
pub(super) fn better(routes: &mut BTreeMap<IpNet, Best>, prefix: IpNet, best: Best) -> bool {
    let known = routes.get(&prefix);
    if known.is_some_and(|known| known.metric <= best.metric) {
        return false;
    }
    routes.insert(prefix, best);
    true
}
