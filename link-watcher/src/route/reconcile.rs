//! Comparing what the kernel has with what is wanted, and repairing the difference: on events, and now and then.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{
    Change, Egress, FoundRoute, Notice, PROTOCOL, Route, RouteKernel, RouteKey,
    routes::{Cause, Fight, PERIOD_NS, RETRY_NS, Routes},
};
use crate::{
    event::GroupId,
    system::{KernelEvent, Link, RouteChange, RouteEvent},
};

/// Least time between two comparisons, ns: however many events there are, the daemon does other things too.
pub(crate) const GAP_NS: u64 = 10_000_000;
/// Least time between two readings of whole tables for what stands before ours, ns.
const LOOK_GAP_NS: u64 = 1_000_000_000;
/// So many routes are compared now and then without any reason.
const CHEAP: usize = 5000;
/// The wait after the first repair of a route that somebody removed; it doubles with every further one, ns.
const BACKOFF_MIN_NS: u64 = 100_000_000;
/// Its bound, and how long a route must stand for its fight to be over, ns.
pub(crate) const BACKOFF_MAX_NS: u64 = 60_000_000_000;

/// The wait after so many repairs.
pub(crate) fn backoff_ns(repairs: u32) -> u64 {
    BACKOFF_MIN_NS.saturating_mul(1 << repairs.saturating_sub(1).min(20)).min(BACKOFF_MAX_NS)
}

impl<K: RouteKernel> Routes<K> {
    pub(super) fn notice(&mut self, now_ns: u64, event: &KernelEvent) -> Option<Notice> {
        match event {
            KernelEvent::Route(event) => return self.route_event(now_ns, event),
            KernelEvent::Resync => {
                self.mark_unverified(|_, _| true);
                self.due(now_ns);
            }
            // The kernel drops routes with the interface or its last address, and says nothing (IPv4).
            KernelEvent::Link(Link { ifindex, admin_up: false, .. })
            | KernelEvent::LinkRemoved { ifindex, .. }
            | KernelEvent::AddressRemoved { ifindex, .. }
                if self.concerned(*ifindex) =>
            {
                self.mark_unverified(|_, egress| egress.uses(*ifindex));
                self.due_soon(now_ns);
            }
            // What could not be written before may be possible now.
            KernelEvent::Link(Link { ifindex, .. }) | KernelEvent::AddressAdded { ifindex, .. }
                if self.concerned(*ifindex) && self.incomplete() =>
            {
                self.freed = true;
                self.due_soon(now_ns);
            }
            _ => {}
        }
        None
    }

    /// Whether all routes can be compared without keeping a failover waiting: 0.24 ms for a thousand.
    pub(super) fn cheap(&self) -> bool {
        self.groups.values().map(|group| group.held.len()).sum::<usize>() <= CHEAP
    }

    /// Whether there is a reason to compare them, beyond that it has not been done for a while: the kernel tells of
    /// everything that happens to them, or that it could not tell.
    pub(super) fn needs_comparison(&self, now_ns: u64) -> bool {
        let group = |group: &super::routes::Group| {
            let expired = !group.orphans.is_empty() && group.orphans_until_ns <= now_ns;
            expired || !group.unverified.is_empty() || !group.unsure.is_empty()
        };
        let open = !(self.refused.is_empty() && self.failed.is_empty() && self.fights.is_empty());
        self.freed || open || self.groups.values().any(group)
    }

    /// Whether something that is wanted does not stand.
    pub(super) fn incomplete(&self) -> bool {
        self.groups.values().any(|group| group.wanted.routes.keys().any(|key| !group.stands(key)))
    }

    /// From now until the next comparison these places may be empty, or somebody else's.
    fn mark_unverified(&mut self, which: impl Fn(&RouteKey, &Egress) -> bool) {
        for group in self.groups.values_mut() {
            let unverified = group.held.iter().filter(|(key, egress)| which(key, egress)).map(|(key, _)| *key);
            group.unverified.extend(unverified);
        }
    }

    /// The routes of a group may have gone with the nexthop object that they refer to: the kernel says nothing (IPv4).
    pub(super) fn lost(&mut self, now_ns: u64, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let referring = group.held.iter().filter(|(_, egress)| matches!(egress, Egress::Object(_)));
        group.unverified.extend(referring.map(|(key, _)| *key));
        self.due(now_ns);
    }

    /// Whether any route of the group refers to a nexthop object.
    pub(super) fn refers_to_objects(&self, id: GroupId) -> bool {
        let held = self.groups.get(&id).into_iter().flat_map(|group| group.held.values());
        held.into_iter().any(|egress| matches!(egress, Egress::Object(_)))
    }

    fn due_soon(&mut self, now_ns: u64) {
        self.due(now_ns.max(self.compared_ns + GAP_NS));
    }

    fn concerned(&self, ifindex: u32) -> bool {
        self.groups.values().any(|group| group.known.iter().any(|(known, _)| *known == ifindex))
    }

    fn route_event(&mut self, now_ns: u64, event: &RouteEvent) -> Option<Notice> {
        let key = event.route.key;
        if event.port_id == self.kernel.port_id() {
            return None;
        }
        let held = self.groups.values().any(|group| group.held.contains_key(&key));
        let wanted = self.groups.values().any(|group| group.wanted.routes.contains_key(&key));
        let ours = self.groups.values().any(|group| {
            let known = event.route.egress.is_some() && group.held.get(&key) == event.route.egress.as_ref();
            event.route.protocol == PROTOCOL && (known || group.recognises(&event.route))
        });
        if !ours {
            return match event.change {
                RouteChange::Replaced if held || wanted => self.taken(now_ns, event),
                RouteChange::Removed => {
                    self.vacated(now_ns, event, held, wanted);
                    None
                }
                RouteChange::Added | RouteChange::Replaced => None,
            };
        }
        if !held && !wanted {
            return None;
        }
        self.mark_unverified(|held, _| *held == key);
        // The kernel's own doing comes from port 0 and is no fight.
        if wanted && event.port_id != 0 {
            self.fights.entry(key).or_default().port_id = event.port_id;
            self.due_again(now_ns, &key);
        } else {
            self.due_soon(now_ns);
        }
        None
    }

    /// Somebody else's route took a place of ours, or stands before ours.
    fn taken(&mut self, now_ns: u64, event: &RouteEvent) -> Option<Notice> {
        let key = event.route.key;
        if self.refused.insert(key, Some(event.route.protocol)).is_some() {
            return None;
        }
        // It may be gone by now: of its removal nothing is told before the filter of the events knows.
        self.due_again(now_ns, &key);
        let by = self.kernel.process(event.port_id);
        Some(Notice::Taken { key, protocol: event.route.protocol, by })
    }

    /// Somebody else's route left a place.
    fn vacated(&mut self, now_ns: u64, event: &RouteEvent, held: bool, wanted: bool) {
        let key = event.route.key;
        if !self.refused.contains_key(&key) {
            return;
        }
        self.freed = true;
        // Where ours stands beside it, another foreign one may do so, too: that takes a look.
        if !held {
            self.refused.remove(&key);
            if wanted {
                let fight = self.fights.entry(key).or_default();
                (fight.broken, fight.port_id) = (true, event.port_id);
            }
        }
        self.due_again(now_ns, &key);
    }

    /// Brings comparison forward to when this place may be written again.
    fn due_again(&mut self, now_ns: u64, key: &RouteKey) {
        let next_ns = self.fights.get(key).map_or(0, |fight| fight.next_ns);
        self.due(now_ns.max(next_ns).max(self.compared_ns + GAP_NS));
    }

    /// Reads the kernel's routes, repairs what differs, and sets the time of the next comparison.
    pub(super) async fn compare(&mut self, now_ns: u64) -> Vec<Notice> {
        self.compared_ns = now_ns;
        self.due_ns = now_ns + PERIOD_NS;
        let found = match self.kernel.ours() {
            Ok(found) => found,
            Err(error) => {
                self.due_ns = now_ns + RETRY_NS;
                return vec![Notice::Failed(error.to_string())];
            }
        };
        let mut actual: BTreeMap<RouteKey, FoundRoute> = BTreeMap::new();
        let mut behind = Vec::new();
        for route in found {
            // The first of several in a place is the one that the kernel uses.
            match actual.entry(route.key) {
                Entry::Vacant(entry) => drop(entry.insert(route)),
                Entry::Occupied(_) => behind.push(route),
            }
        }
        let mut notices = Vec::new();
        self.prune();
        self.recheck_refused(now_ns, &actual, &mut notices);
        self.failed.clear();
        self.expire(now_ns, &mut notices);
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let mut lost = self.take_stock(id, &actual);
            self.take_stock_behind(now_ns, id, &behind, &mut notices).await;
            lost.retain(|key| self.groups.get(&id).is_none_or(|group| !group.stands(key)));
            if let Err(error) = self.sync(now_ns, id, Cause::Repair).await {
                notices.push(Notice::Failed(error));
            }
            self.report_repairs(now_ns, id, lost, &mut notices);
        }
        self.suspects.clear();
        self.freed = false;
        if !self.failed.is_empty() {
            self.due(now_ns + RETRY_NS);
        }
        notices
    }

    /// Places of others are tried again. Where our route still stands behind a foreign one, creating cannot tell
    /// whether the foreign one has gone, so the table is read.
    fn recheck_refused(&mut self, now_ns: u64, actual: &BTreeMap<RouteKey, FoundRoute>, notices: &mut Vec<Notice>) {
        let fights = &self.fights;
        // What must wait is not tried.
        let waits = |key: &RouteKey| fights.get(key).is_some_and(|fight| fight.next_ns > now_ns);
        (self.refused, self.suspects) =
            std::mem::take(&mut self.refused).into_iter().partition(|(key, _)| waits(key) && !actual.contains_key(key));
        let behind: BTreeSet<RouteKey> =
            self.suspects.keys().filter(|key| actual.contains_key(*key)).copied().collect();
        if behind.is_empty() {
            return;
        }
        if now_ns < self.look_ns {
            let known = |key: &RouteKey| (*key, self.suspects.get(key).copied().flatten());
            self.refused.extend(behind.iter().map(known));
            self.due(self.look_ns);
            return;
        }
        self.look_ns = now_ns + LOOK_GAP_NS;
        match self.kernel.occupants(&behind) {
            Ok(first) => {
                let foreign = first.into_iter().filter(|route| route.protocol != PROTOCOL);
                self.refused.extend(foreign.map(|route| (route.key, Some(route.protocol))));
            }
            Err(error) => {
                self.refused.extend(self.suspects.iter().map(|(key, protocol)| (*key, *protocol)));
                notices.push(Notice::Failed(error.to_string()));
            }
        }
    }

    /// Corrects what the group believes to hold. Gives the wanted places that are not as they were.
    fn take_stock(&mut self, id: GroupId, actual: &BTreeMap<RouteKey, FoundRoute>) -> Vec<RouteKey> {
        let Some(group) = self.groups.get_mut(&id) else { return Vec::new() };
        group.unverified.clear();
        let mut lost = Vec::new();
        let held = std::mem::take(&mut group.held);
        for (key, egress) in held {
            match actual.get(&key) {
                Some(found) if found.egress.as_ref() == Some(&egress) => {
                    group.held.insert(key, egress);
                    continue;
                }
                Some(FoundRoute { egress: Some(egress), .. }) if group.recognises(&actual[&key]) => {
                    group.held.insert(key, egress.clone());
                }
                Some(found) => {
                    self.refused.insert(key, Some(found.protocol));
                }
                None => {}
            }
            group.orphans.remove(&key);
            if group.wanted.routes.contains_key(&key) {
                lost.push(key);
            }
        }
        // What stands although it is not known to: the answers to its request were lost.
        let unsure = std::mem::take(&mut group.unsure);
        let standing: Vec<&FoundRoute> = unsure
            .iter()
            .chain(group.wanted.routes.keys())
            .filter_map(|key| actual.get(key).filter(|found| group.recognises(found)))
            .collect();
        standing.into_iter().for_each(|found| group.hold(found));
        lost
    }

    /// Routes with our protocol that stand behind another one: behind another instance's ours are still ours, and of two of
    /// ours the last one was not removed in time.
    async fn take_stock_behind(&mut self, now_ns: u64, id: GroupId, behind: &[FoundRoute], notices: &mut Vec<Notice>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut extra = Vec::new();
        for found in behind {
            if !group.recognises(found) {
                continue;
            }
            let Some(egress) = found.egress.clone() else { continue };
            match group.held.get(&found.key) {
                Some(held) if *held == egress => {}
                Some(_) => extra.push(Change::Delete(Route { key: found.key, egress })),
                None => {
                    group.hold(found);
                    self.refused.entry(found.key).or_insert(Some(PROTOCOL));
                }
            }
        }
        if let Err(error) = self.execute(now_ns, id, &extra).await {
            notices.push(Notice::Failed(error));
        }
    }

    /// Routes of an earlier run have waited long enough.
    fn expire(&mut self, now_ns: u64, notices: &mut Vec<Notice>) {
        let mut count = 0;
        let mut next_ns = u64::MAX;
        for group in self.groups.values_mut().filter(|group| !group.orphans.is_empty()) {
            if group.orphans_until_ns <= now_ns {
                count += group.orphans.len();
                group.orphans.clear();
            } else {
                next_ns = next_ns.min(group.orphans_until_ns);
            }
        }
        self.due(next_ns);
        if count > 0 {
            notices.push(Notice::Expired { count });
        }
    }

    /// Keeps the books of a group's fights, and says what was repaired and what waits.
    fn report_repairs(&mut self, now_ns: u64, id: GroupId, lost: Vec<RouteKey>, notices: &mut Vec<Notice>) {
        let Some(group) = self.groups.get(&id) else { return };
        let mut repaired: BTreeSet<RouteKey> = lost.into_iter().filter(|key| group.stands(key)).collect();
        let mut waiting: Vec<(RouteKey, Fight)> = Vec::new();
        let (mut by, mut next_ns) = (None, u64::MAX);
        self.fights.retain(|key, fight| {
            if !group.wanted.routes.contains_key(key) {
                return true;
            }
            if !group.stands(key) {
                // A place that somebody else has is not fought for.
                if fight.next_ns > now_ns && !self.refused.contains_key(key) {
                    next_ns = next_ns.min(fight.next_ns);
                    // Said once for each wait.
                    if !std::mem::replace(&mut fight.broken, true) {
                        waiting.push((*key, *fight));
                    }
                }
                return true;
            }
            if std::mem::take(&mut fight.broken) {
                repaired.insert(*key);
            }
            if repaired.contains(key) {
                fight.repairs += 1;
                fight.next_ns = now_ns + backoff_ns(fight.repairs);
                by = Some(fight.port_id);
                return true;
            }
            // Nothing was amiss, or it has stood for long enough.
            fight.repairs > 0 && fight.next_ns + BACKOFF_MAX_NS > now_ns
        });
        self.due(next_ns);
        let by = by.map(|port_id| self.kernel.process(port_id));
        if let Some(&example) = repaired.first() {
            notices.push(Notice::Repaired { group: id, count: repaired.len(), example, by });
        }
        if let Some((example, fight)) = waiting.first() {
            notices.push(Notice::BackingOff {
                group: id,
                count: waiting.len(),
                example: *example,
                by: self.kernel.process(fight.port_id),
                wait_ms: (fight.next_ns - now_ns) / 1_000_000,
            });
        }
    }
}
