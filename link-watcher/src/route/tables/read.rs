//! Reading tables, a portion at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use ipnet::IpNet;

use super::{
    BulkKernel, Group, Nexthop, PROTOCOL, PeerTables, RETRY_NS, fill,
    foreign::{Best, FOREIGN_MAX, LearnedRoute, better, note},
    group::THROWS_MAX,
    slot::{EntryState, Progress},
    way_of,
};
use crate::{
    event::GroupId,
    route::{Family, FoundTableRoute, MAIN_TABLE, Notice, Portion, Way},
};

/// A table that is being read.
pub(super) struct Reading {
    what: What,
    family: Family,
}

enum What {
    /// The main table; nothing if it has too much.
    Main {
        others: Option<BTreeMap<IpNet, Best>>,
        /// Routes of the protocols that are followed.
        learned: Option<Vec<LearnedRoute>>,
    },
    Slot {
        group: GroupId,
        table: u32,
        /// For each entry of the group's list what stands there.
        standing: Vec<EntryState>,
        throws: BTreeSet<IpNet>,
        /// What the list does not have.
        extra: Vec<(IpNet, EntryState)>,
    },
}

impl Reading {
    /// Whether it is a table of this group.
    pub(super) fn of(&self, id: GroupId) -> bool {
        matches!(self.what, What::Slot { group, .. } if group == id)
    }

    /// Whether it is the main table.
    pub(super) fn of_main(&self) -> bool {
        matches!(self.what, What::Main { .. })
    }

    fn table(&self) -> u32 {
        match self.what {
            What::Main { .. } => MAIN_TABLE,
            What::Slot { table, .. } => table,
        }
    }
}

/// How many routes the table has, at least, and where the first one of ours leads. Throw routes, of which there may be many, lead
/// nowhere.
pub(super) fn first_look<K: BulkKernel>(kernel: &mut K, table: u32) -> io::Result<(usize, Option<Vec<Nexthop>>)> {
    let (mut count, mut way) = (0, None);
    for family in [Family::V4, Family::V6] {
        kernel.read(table, family)?;
        loop {
            let (found, more) = kernel.portion()?;
            count += found.len();
            let mut routes = found.iter().map(|(route, _)| route).filter(|route| route.protocol == PROTOCOL);
            way = way.or_else(|| routes.find_map(nexthops));
            if !more || way.is_some() || count > THROWS_MAX {
                break;
            }
        }
    }
    Ok((count, way))
}

fn nexthops(route: &FoundTableRoute) -> Option<Vec<Nexthop>> {
    let Some(Way::Through { hops, .. }) = &route.way else { return None };
    let hops = hops.iter().map(|hop| {
        let gateway = hop.gateway?;
        Some(Nexthop { ifindex: hop.ifindex, gateway, weight: hop.weight })
    });
    Some(way_of(&hops.collect::<Option<Vec<_>>>()?))
}

impl<K: BulkKernel> PeerTables<K> {
    /// Reads a portion of what is to be read, if anything is.
    pub(super) fn read_portion(&mut self, now_ns: u64, only: Option<GroupId>) -> bool {
        if self.reading.is_none() && !self.start_reading(now_ns, only) {
            return false;
        }
        match self.kernel.portion() {
            Ok((found, more)) => {
                self.take_in(found);
                if !more {
                    self.next_family(now_ns);
                }
            }
            Err(error) => self.reading_failed(now_ns, &error),
        }
        true
    }

    fn start_reading(&mut self, now_ns: u64, only: Option<GroupId>) -> bool {
        let mut unread =
            self.groups.iter().filter(|(id, _)| only.is_none_or(|only| only == **id)).flat_map(|(id, group)| {
                let carrying = group.slots.iter().filter(|(table, _)| group.carries(**table));
                let others = group.slots.iter().filter(|(table, _)| !group.carries(**table));
                carrying.chain(others).map(move |(table, slot)| (*id, group, *table, slot))
            });
        let what = if self.foreign.begin(now_ns) {
            What::Main { others: Some(BTreeMap::new()), learned: Some(Vec::new()) }
        } else if let Some((id, group, table, _)) =
            unread.find(|(_, _, _, slot)| slot.progress == Progress::Unread && slot.retry_ns <= now_ns)
        {
            let standing = vec![EntryState::Nothing; group.list.len()];
            What::Slot { group: id, table, standing, throws: BTreeSet::new(), extra: Vec::new() }
        } else {
            return false;
        };
        self.reading = Some(Reading { what, family: Family::V4 });
        self.begin_family(now_ns, Family::V4);
        true
    }

    fn begin_family(&mut self, now_ns: u64, family: Family) {
        let Some(reading) = &mut self.reading else { return };
        reading.family = family;
        let table = reading.table();
        if let Err(error) = self.kernel.read(table, family) {
            self.reading_failed(now_ns, &error);
        }
    }

    fn reading_failed(&mut self, now_ns: u64, error: &io::Error) {
        let Some(reading) = self.reading.take() else { return };
        self.notices.push(Notice::Failed(format!("table {}: {error}", reading.table())));
        match reading.what {
            What::Main { .. } => self.foreign.failed(now_ns),
            What::Slot { group, table, .. } => {
                let slot = self.groups.get_mut(&group).and_then(|group| group.slots.get_mut(&table));
                slot.into_iter().for_each(|slot| slot.retry_ns = now_ns + RETRY_NS);
            }
        }
    }

    fn take_in(&mut self, found: Portion) {
        let Some(reading) = &mut self.reading else { return };
        match &mut reading.what {
            What::Main { others, learned } => {
                for (route, interfaces) in found {
                    if self.foreign.follows(route.protocol) {
                        let route = LearnedRoute { prefix: route.key.prefix, protocol: route.protocol, interfaces };
                        note(learned, route);
                    }
                    // Only groups here ask for them.
                    if self.groups.is_empty() {
                        continue;
                    }
                    let ours = |group: &Group| match route.way {
                        Some(Way::Object(id)) => group.range.has(id),
                        _ => nexthops(&route).is_some_and(|way| group.leads_through(&way)),
                    };
                    if route.protocol == PROTOCOL && self.groups.values().any(ours) {
                        continue;
                    }
                    let Some(known) = others else { continue };
                    let best = Best { metric: route.key.metric, protocol: route.protocol };
                    better(known, route.key.prefix, best);
                    if known.len() > FOREIGN_MAX {
                        *others = None;
                    }
                }
            }
            What::Slot { group, table, standing, throws, extra } => {
                let Some(group) = self.groups.get_mut(group) else { return };
                let Some(slot) = group.slots.get(table) else { return };
                for (route, _) in found {
                    let ours = route.protocol == PROTOCOL;
                    let at = group.list.binary_search(&route.key.prefix);
                    match (Group::is_throw(&route.key), at) {
                        // Somebody else's stays.
                        (Some(true), _) => drop(throws.insert(route.key.prefix)),
                        (Some(false), Ok(at)) if standing[at] == EntryState::Nothing => {
                            standing[at] = fill::classify(slot, &route.key, route.way.as_ref(), ours);
                        }
                        (Some(false), Err(_)) if ours => {
                            extra.push((route.key.prefix, fill::classify(slot, &route.key, route.way.as_ref(), true)));
                        }
                        // Beside ours, it does no harm here.
                        _ => {}
                    }
                }
            }
        }
    }

    fn next_family(&mut self, now_ns: u64) {
        if self.reading.as_ref().is_some_and(|reading| reading.family == Family::V4) {
            return self.begin_family(now_ns, Family::V6);
        }
        let Some(reading) = self.reading.take() else { return };
        match reading.what {
            What::Main { others, learned } => {
                self.foreign.learn(learned);
                if !self.groups.is_empty() && self.foreign.replace(others) {
                    self.groups.values_mut().for_each(|group| group.retarget = true);
                }
            }
            What::Slot { group, table, standing, throws, extra } => {
                let Some(group) = self.groups.get_mut(&group) else { return };
                group.take_stock(now_ns, table, standing, throws);
                if !extra.is_empty() {
                    group.extend(extra.iter().map(|(prefix, _)| *prefix).collect());
                    group.found_beside(table, &extra);
                    // Others may have something inside of it.
                    group.retarget |= group.orphans_until_ns != 0;
                }
            }
        }
    }
}

impl Group {
    /// Whether all of these are next hops of the group's links.
    fn leads_through(&self, way: &[Nexthop]) -> bool {
        let known = |nexthop: &Nexthop| {
            let mut all = self.slots.values().flat_map(|slot| &slot.way);
            all.any(|known| (known.ifindex, known.gateway) == (nexthop.ifindex, nexthop.gateway))
        };
        way.iter().all(known)
    }

    /// Corrects what the group believes to stand in a table.
    fn take_stock(&mut self, now_ns: u64, table: u32, standing: Vec<EntryState>, throws: BTreeSet<IpNet>) {
        let Some(slot) = self.slots.get_mut(&table) else { return };
        let lost = slot.standing.iter().zip(&standing);
        let mut lost = lost.enumerate().filter(|(_, (old, new))| **old == EntryState::Ours && old != new);
        let lost = lost.next().map(|(first, _)| (first, 1 + lost.count()));
        slot.count = standing.iter().filter(|standing| **standing == EntryState::Ours).count();
        (slot.standing, slot.throws) = (standing, throws);
        slot.progress = Progress::Filling(0);
        slot.full &= lost.is_none();
        slot.retry_ns = slot.retry_ns.min(now_ns.max(self.fight.next_ns));
        if let Some((first, count)) = lost {
            self.count_lost(Self::place(table, self.list[first], false), count);
        }
    }

    /// Enters what stands in a table although nothing wanted it so far.
    fn found_beside(&mut self, table: u32, extra: &[(IpNet, EntryState)]) {
        let Self { slots, list, .. } = self;
        let Some(slot) = slots.get_mut(&table) else { return };
        for (prefix, standing) in extra {
            if let Ok(at) = list.binary_search(prefix) {
                slot.set(at, *standing);
            }
        }
    }
}
