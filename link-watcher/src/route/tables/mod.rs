//! Actuation through tables: every link has a table of its own with all prefixes of the group, and rules lead to the one
//! that carries the traffic. Failing over to the best backup removes one rule a family, however many prefixes there are.
//!
//! **What is ours.** Rules with protocol number [`PROTOCOL`] that lead to the group's [`TABLES`] tables, and routes with
//! that number in them. Whatever else is found there is reported and stays: places are taken with `NLM_F_EXCL`.
//!
//! **Rules.** The first one, at the group's priority, leads to the active link's table; those behind it to the backups',
//! best first. A link without carrier serves nobody (`ignore_routes_with_linkdown`), so that its packets fall through to
//! the next rule: the router survives carrier loss even when the daemon is dead.
//!
//! **The longest prefix wins** across tables as it would in one. A more specific route of somebody else's in the main
//! table, or of another group, gets a `throw` route in ours, which sends its packets on to the rules behind. So that none
//! is ever caught wrongly, a table's throw routes come before its routes, and go after them.
//!
//! **Filling** is done in portions, one each time that [`PeerTables::tick`] is called: the active link's table first.
//! A failover waits for one portion at most. Reading tables, at start and now and then, goes in portions as well.

mod fill;
mod foreign;
mod group;
mod read;
mod rules;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use ipnet::IpNet;

pub use self::foreign::LearnedRoute;
pub(super) use self::group::Group;
use self::{foreign::Foreign, read::Reading};
use super::{
    Adopted, BulkKernel, FoundRule, GroupRoutes, MAIN_TABLE, Nexthop, Notice, PROTOCOL, Report, canonical,
    reconcile::{BACKOFF_MAX_NS, GAP_NS, backoff_ns},
    routes::{ORPHAN_GRACE_NS, PERIOD_NS, RETRY_NS},
};
use crate::{
    event::GroupId,
    system::{KernelEvent, Link, RouteChange, RouteEvent},
};

/// Tables of a group: one for each link, and some for what several links share.
pub const TABLES: u32 = 64;
/// Rule priorities of a group; groups may share them.
pub const PRIORITIES: u32 = 100;
/// Most links of a group that this back-end serves.
pub const MAX_LINKS: usize = 48;
/// Messages in one portion: some 0.4 ms, which a failover may have to wait.
const CHUNK: usize = 100;
/// Entries looked at in one portion.
const SCAN: usize = 50_000;
/// Time between two portions for a table that carries no traffic, ns: other work of the machine gets its turn.
const PAUSE_NS: u64 = 1_000_000;

/// What of a group another one has to know.
struct Claim {
    metric: u32,
    prefixes: Arc<[IpNet]>,
}

/// The back-end over a kernel. All times are nanoseconds of the monotonic clock.
pub struct PeerTables<K> {
    kernel: K,
    groups: BTreeMap<GroupId, Group>,
    /// What all groups route, those of other back-ends too.
    claims: BTreeMap<GroupId, Claim>,
    foreign: Foreign,
    /// Every rule, as they were at an instant of a start. Gone with the first thing written.
    rules_looked: Option<(u64, Vec<FoundRule>)>,
    reading: Option<Reading>,
    /// When the rules are to be read again, ns.
    rules_due_ns: u64,
    /// When every table is to be read again, ns.
    audit_due_ns: u64,
    /// No portion for a table without traffic before this, ns.
    pause_until_ns: u64,
    notices: Vec<Notice>,
}

impl<K: BulkKernel> PeerTables<K> {
    /// Holds nothing yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            groups: BTreeMap::new(),
            claims: BTreeMap::new(),
            foreign: Foreign::default(),
            rules_looked: None,
            reading: None,
            rules_due_ns: u64::MAX,
            audit_due_ns: u64::MAX,
            pause_until_ns: 0,
            notices: Vec::new(),
        }
    }

    /// The port id that events caused by our own requests carry.
    pub fn port_id(&self) -> u32 {
        self.kernel.port_id()
    }

    /// Whether the main table's events are needed: while any group is served.
    pub fn follows_main(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Follows the routes of these protocols in the main table, whoever makes them.
    pub fn follow(&mut self, now_ns: u64, protocols: &BTreeSet<u8>) {
        self.foreign.follow(now_ns, protocols);
        if self.audit_due_ns == u64::MAX && !self.idle() {
            self.audit_due_ns = now_ns + PERIOD_NS;
        }
    }

    /// The protocols whose routes are followed.
    pub fn followed(&self) -> &BTreeSet<u8> {
        self.foreign.protocols()
    }

    /// The routes of the protocols that are followed, in order, and a number that grows with each change; no routes if there are
    /// too many.
    pub fn learned(&self) -> (Option<&[LearnedRoute]>, u64) {
        self.foreign.learned()
    }

    /// Whether there is nothing to do: no group is served, and nobody wants to know of the main table.
    fn idle(&self) -> bool {
        self.groups.is_empty() && self.foreign.protocols().is_empty()
    }

    /// Whether the group is served here, or what it had is still being removed.
    pub fn serves(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// Whether what is wanted of the group stands in every detail, so that nothing else need carry its traffic.
    pub fn in_sync(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(Group::in_sync)
    }

    /// Why the group cannot be served here, in words.
    pub fn unfit(&self, group: GroupId) -> Option<&'static str> {
        if self.foreign.overflow {
            return Some("the main table has too many routes of others to keep the longest prefix first");
        }
        self.groups.get(&group)?.unfit
    }

    /// Tells what a group routes, whichever back-end serves it.
    pub fn claim(&mut self, group: GroupId, desired: &GroupRoutes) {
        self.rules_looked = None;
        let known = self.claims.get(&group);
        if known.is_some_and(|claim| claim.metric == desired.metric && group::same(&claim.prefixes, &desired.prefixes))
        {
            return;
        }
        let claim = Claim { metric: desired.metric, prefixes: Arc::clone(&desired.prefixes) };
        self.claims.insert(group, claim);
        for (_, other) in self.groups.iter_mut().filter(|(id, _)| **id != group) {
            other.retarget = true;
        }
    }

    /// The group will be removed shortly: its prefixes are anybody's, and what it has stands as it is until then.
    pub fn give_up(&mut self, group: GroupId) {
        self.disclaim(group);
        if let Some(group) = self.groups.get_mut(&group) {
            group.given_up = true;
        }
    }

    /// The group routes nothing any more.
    pub fn disclaim(&mut self, group: GroupId) {
        self.claims.remove(&group);
        self.groups.values_mut().for_each(|group| group.retarget = true);
    }

    /// To be called at start, before the first [`apply`](Self::apply): takes over what an earlier run left in the group's
    /// tables. `in_use`: all tables of the machine that hold routes with our protocol; nothing if that is unknown.
    pub fn adopt(
        &mut self,
        now_ns: u64,
        id: GroupId,
        desired: &GroupRoutes,
        in_use: Option<&BTreeSet<u32>>,
    ) -> Adopted {
        let mut group = Group::new(desired);
        let (mut active, mut routes) = (Vec::new(), 0);
        // All groups of a start look at once.
        if self.rules_looked.as_ref().is_none_or(|(at_ns, _)| *at_ns != now_ns) {
            let Ok(rules) = self.kernel.rules() else { return Adopted::default() };
            self.rules_looked = Some((now_ns, rules));
        }
        if let Some((_, rules)) = &self.rules_looked {
            group.take_rules(rules);
        }
        // Usually there is nothing, and a thousand groups have 64,000 tables.
        let nothing = in_use.is_some_and(|in_use| in_use.range(desired.range.tables()).next().is_none());
        if nothing && group.rules.is_empty() {
            return Adopted::default();
        }
        for table in desired.range.tables() {
            let Ok((found, way)) = read::first_look(&mut self.kernel, table) else { continue };
            let known = |hop: &Nexthop| {
                desired.links.iter().any(|link| (link.ifindex, link.gateway) == (hop.ifindex, hop.gateway))
            };
            match way.filter(|way| way.iter().all(known)) {
                Some(way) => {
                    routes += found;
                    if group.leads() == Some(table) {
                        active.clone_from(&way);
                    }
                    group.adopt(table, way);
                }
                None if found > 0 => drop(group.occupied.insert(table)),
                None => {}
            }
        }
        if routes > 0 || !group.rules.is_empty() {
            group.orphans_until_ns = now_ns + ORPHAN_GRACE_NS;
            self.groups.insert(id, group);
            self.begin(now_ns);
        }
        Adopted { active, routes }
    }

    /// Whether an earlier run's routes may still be waiting for their prefixes to be announced again.
    pub fn waits_for_peer(&self, now_ns: u64, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|group| now_ns < group.orphans_until_ns)
    }

    /// Makes the kernel agree with what the group wants from now on: traffic moves in this call where the table stands
    /// already, the rest follows in [`tick`](Self::tick).
    pub fn apply(&mut self, now_ns: u64, id: GroupId, desired: &GroupRoutes) -> Report {
        self.claim(id, desired);
        if let Some(group) = self.groups.get_mut(&id)
            && group.range != desired.range
        {
            // A reload has given it other numbers: what stands at the old ones goes at once, rules first.
            self.clear(now_ns, id);
        }
        if let Entry::Vacant(entry) = self.groups.entry(id) {
            entry.insert(Group::new(desired));
            self.begin(now_ns);
        }
        let Some(group) = self.groups.get_mut(&id) else { return Report::default() };
        group.want(desired);
        let written = self.swap(now_ns, id);
        Report { written, ..self.report(id) }
    }

    /// Removes the group's rules now, and its tables in the ticks that follow. Gives the messages sent.
    pub fn release(&mut self, now_ns: u64, id: GroupId) -> usize {
        let Some(group) = self.groups.get_mut(&id) else { return 0 };
        group.leave();
        let written = self.sync_rules(now_ns, id, usize::MAX);
        if self.groups.get(&id).is_some_and(Group::gone) {
            self.groups.remove(&id);
        }
        written
    }

    /// Removes everything of the group before it returns: some 4 s for a million routes. Gives the messages sent.
    pub fn clear(&mut self, now_ns: u64, id: GroupId) -> usize {
        let mut written = self.release(now_ns, id);
        self.pause_until_ns = 0;
        // Each round reads a portion, or removes one; what the kernel refuses twice stays.
        let mut idle = 0;
        while idle < 2 && self.groups.contains_key(&id) {
            match self.work(now_ns, Some(id)) {
                0 => idle += 1,
                done => (idle, written) = (0, written + done),
            }
        }
        self.groups.remove(&id);
        written
    }

    fn begin(&mut self, now_ns: u64) {
        if self.groups.len() == 1 {
            self.foreign.begin_others(now_ns);
            self.reading.take_if(|reading| reading.of_main());
        }
        self.rules_due_ns = self.rules_due_ns.min(now_ns);
        if self.audit_due_ns == u64::MAX {
            self.audit_due_ns = now_ns + PERIOD_NS;
        }
        self.foreign.schedule_read(now_ns);
    }

    /// Takes notice of what happens in the kernel.
    pub fn observe(&mut self, now_ns: u64, event: &KernelEvent) -> Option<Notice> {
        if self.idle() {
            return None;
        }
        match event {
            KernelEvent::Route(event) if event.port_id != self.kernel.port_id() => {
                return self.route_event(now_ns, event);
            }
            KernelEvent::Rule { port_id, rule, removed: true } if *port_id != self.kernel.port_id() => {
                for group in self.groups.values_mut() {
                    if rule.rule.is_some_and(|rule| group.rules.remove(&rule)) {
                        group.rules_retry_ns = (now_ns + GAP_NS).max(group.fight.next_ns);
                        group.rule_gone_by = Some(*port_id);
                    }
                }
            }
            KernelEvent::Resync => {
                self.foreign.schedule_read(now_ns);
                self.rules_due_ns = self.rules_due_ns.min(now_ns);
                self.groups.values_mut().for_each(|group| group.mark_unread(|_| true));
            }
            KernelEvent::Link(Link { ifindex, admin_up: false, .. })
            | KernelEvent::LinkRemoved { ifindex, .. }
            | KernelEvent::AddressRemoved { ifindex, .. } => {
                // The kernel drops routes with the interface or its last address, and says nothing (IPv4).
                self.foreign.schedule_read(now_ns + GAP_NS);
                for slot in self.groups.values_mut().flat_map(|group| group.slots.values_mut()) {
                    if slot.uses(*ifindex) {
                        (slot.progress, slot.full) = (slot::Progress::Unread, false);
                    }
                }
            }
            KernelEvent::Link(Link { ifindex, .. }) | KernelEvent::AddressAdded { ifindex, .. } => {
                // What could not be written before may be possible now.
                for slot in self.groups.values_mut().flat_map(|group| group.slots.values_mut()) {
                    if slot.uses(*ifindex) && slot.error.is_some() {
                        slot.retry_ns = now_ns;
                    }
                }
            }
            KernelEvent::Route(_) | KernelEvent::Rule { .. } | KernelEvent::Nexthop { .. } => {}
        }
        None
    }

    fn route_event(&mut self, now_ns: u64, event: &RouteEvent) -> Option<Notice> {
        let key = event.route.key;
        if key.table == MAIN_TABLE {
            let ours = event.route.protocol == PROTOCOL;
            let followed = self.foreign.follows(event.route.protocol);
            if self.groups.is_empty() {
                // What was replaced may have been one of those.
                if followed || event.change == RouteChange::Replaced {
                    self.foreign.schedule_read(now_ns + GAP_NS);
                }
            } else if event.change == RouteChange::Added && !ours {
                if followed {
                    self.foreign.schedule_read(now_ns + GAP_NS);
                }
                if self.foreign.insert(key, event.route.protocol) {
                    self.groups.values_mut().for_each(|group| group.retarget = true);
                }
            } else if !ours {
                // What is left there now is not known.
                self.foreign.schedule_read(now_ns + GAP_NS);
            }
            return None;
        }
        let (id, group) = self.groups.iter_mut().find(|(_, group)| group.range.has(key.table))?;
        if !group.lose(now_ns, event) || event.port_id == 0 {
            return None;
        }
        group.fight.by = Some(event.port_id);
        if group.fight.next_ns <= now_ns || std::mem::replace(&mut group.fight.said, true) {
            return None;
        }
        let wait_ms = (group.fight.next_ns - now_ns) / 1_000_000;
        let by = self.kernel.process(event.port_id);
        Some(Notice::BackingOff { group: *id, count: 1, example: key, by, wait_ms })
    }

    /// When [`tick`](Self::tick) has something to do; it may be in the past.
    pub fn next_deadline_ns(&self) -> u64 {
        if self.idle() {
            return u64::MAX;
        }
        if self.reading.is_some() {
            return 0;
        }
        let slots = self
            .groups
            .values()
            .map(|group| group.due_ns(self.pause_until_ns, self.foreign.known))
            .min()
            .unwrap_or(u64::MAX);
        slots.min(self.rules_due_ns).min(self.audit_due_ns).min(self.foreign.due_ns)
    }

    /// Does one portion of what is due.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Notice> {
        self.work(now_ns, None);
        std::mem::take(&mut self.notices)
    }

    /// One portion of what is due, for one group alone or for all. Gives how much was done.
    fn work(&mut self, now_ns: u64, only: Option<GroupId>) -> usize {
        if self.idle() {
            return 0;
        }
        if self.rules_due_ns <= now_ns {
            self.read_rules(now_ns);
        }
        if self.audit_due_ns <= now_ns {
            self.audit_due_ns = now_ns + PERIOD_NS;
            self.rules_due_ns = self.rules_due_ns.min(now_ns + 1);
            self.foreign.schedule_read(now_ns);
            self.groups.values_mut().for_each(|group| group.mark_unread(|_| true));
        }
        let ids: Vec<GroupId> = self.groups.keys().copied().filter(|id| only.is_none_or(|only| only == *id)).collect();
        let mut done = 0;
        for id in &ids {
            done += self.sync_group(now_ns, *id);
        }
        if done > 0 {
            return done;
        }
        // What carries traffic before what does not; reading between the two.
        let mut next = self.next_fill(now_ns, &ids, true);
        if next.is_none() {
            if self.read_portion(now_ns, only) {
                return 1;
            }
            next = self.next_fill(now_ns, &ids, false);
            self.pause_until_ns = next.filter(|_| only.is_none()).map_or(self.pause_until_ns, |_| now_ns + PAUSE_NS);
        }
        let Some((id, table)) = next else { return 0 };
        let done = self.fill(now_ns, id, table);
        if self.groups.get(&id).and_then(|group| group.slots.get(&table)).is_some_and(slot::Slot::complete) {
            self.sync_group(now_ns, id);
        }
        done
    }

    /// What is small and due of a group: targets, rules, the end of it. Gives the messages sent.
    fn sync_group(&mut self, now_ns: u64, id: GroupId) -> usize {
        let Some(group) = self.groups.get_mut(&id) else { return 0 };
        // What is given up stays as it is.
        group.retarget &= !group.given_up;
        if group.retarget && self.foreign.known {
            group.aim(id, &self.foreign, &self.claims);
            // Indices have changed.
            self.reading.take_if(|reading| reading.of(id));
        }
        group.expire(now_ns);
        let written = self.sync_rules(now_ns, id, rules::CHUNK);
        let Some(group) = self.groups.get_mut(&id) else { return written };
        group.drop_empty();
        if group.gone() {
            self.groups.remove(&id);
            if self.groups.is_empty() {
                self.foreign.end_others();
            }
            return written + 1;
        }
        if let Some((count, example)) = group.repaired() {
            let by = group.fight.by.take().filter(|port_id| *port_id != 0);
            if by.is_some() {
                group.fight.repairs += 1;
                group.fight.next_ns = now_ns + backoff_ns(group.fight.repairs);
            }
            let by = by.map(|port_id| self.kernel.process(port_id));
            self.notices.push(Notice::Repaired { group: id, count, example, by });
        } else if group.fight.repairs > 0 && group.fight.next_ns + BACKOFF_MAX_NS <= now_ns {
            group.fight = group::Fight::default();
        }
        written
    }

    /// How a group's routes stand, as far as is known.
    pub fn report(&self, id: GroupId) -> Report {
        self.groups.get(&id).map(Group::report).unwrap_or_default()
    }
}

/// Next hops as a table's routes have them.
fn way_of(nexthops: &[Nexthop]) -> Vec<Nexthop> {
    canonical(nexthops.iter().copied().filter(|nexthop| nexthop.ifindex != 0))
}
