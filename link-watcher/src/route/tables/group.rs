//! What a group wants in its tables, and what stands there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Claim, GAP_NS, MAX_LINKS,
    foreign::{Best, Foreign},
    slot::{EntryState, Progress, Slot},
    way_of,
};
use crate::{
    event::GroupId,
    route::{
        Family, FoundRule, GroupRoutes, Nexthop, PROTOCOL, Refusal, Report, RouteKey, Rule, TableRange, Why,
        effective_metric,
    },
    system::{KernelError, RouteChange, RouteEvent},
};

/// Metric of our routes in our tables.
const METRIC: u32 = 1024;
/// That of throw routes: they come before a route with the same prefix.
const THROW_METRIC: u32 = 1;
/// Most throw routes of a group: with more, its routes stand in the main table.
pub(super) const THROWS_MAX: usize = 4096;
/// Refusals that a report lists.
const REFUSALS_MAX: usize = 1000;

/// Somebody keeps changing what is ours.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fight {
    pub(super) repairs: u32,
    /// Earliest time of the next repair, ns.
    pub(super) next_ns: u64,
    /// Who: netlink port id.
    pub(super) by: Option<u32>,
    /// That a repair waits was said.
    pub(super) said: bool,
}

/// A group.
pub(crate) struct Group {
    pub(super) range: TableRange,
    metric: u32,
    prefixes: Arc<[IpNet]>,
    pub(super) active: Vec<Nexthop>,
    pub(super) backups: Vec<Nexthop>,
    /// Every prefix that is wanted or stands somewhere, in order.
    pub(super) list: Vec<IpNet>,
    /// Which of them are wanted.
    pub(super) target: Vec<bool>,
    wanted: usize,
    /// Families of what is wanted.
    pub(super) families: BTreeSet<Family>,
    /// Throw routes that every table needs.
    pub(super) throws: BTreeSet<IpNet>,
    refused: Vec<Refusal>,
    /// Tables in use, by number.
    pub(super) slots: BTreeMap<u32, Slot>,
    /// Tables of the range with something of somebody else's.
    pub(super) occupied: BTreeSet<u32>,
    /// Rules of ours that stand.
    pub(super) rules: BTreeSet<Rule>,
    /// The kernel did not want a rule.
    pub(super) rule_error: Option<KernelError>,
    pub(super) rules_retry_ns: u64,
    /// Somebody removed a rule that is not put back yet: netlink port id, 0: unknown.
    pub(super) rule_gone_by: Option<u32>,
    /// Until then what stands stays, though nothing wants it: the peer is to announce it again.
    pub(super) orphans_until_ns: u64,
    /// The list and the throw routes are to be computed again.
    /// It will be removed shortly: its routes stay as they are.
    pub(super) given_up: bool,
    pub(super) retarget: bool,
    /// Everything goes.
    leaving: bool,
    pub(super) unfit: Option<&'static str>,
    pub(super) fight: Fight,
    /// Routes that were gone, since the last repair was complete.
    lost: Option<(usize, RouteKey)>,
}

impl Group {
    pub(super) fn new(desired: &GroupRoutes) -> Self {
        Self {
            range: desired.range,
            metric: desired.metric,
            prefixes: Arc::default(),
            active: Vec::new(),
            backups: Vec::new(),
            list: Vec::new(),
            target: Vec::new(),
            wanted: 0,
            families: BTreeSet::new(),
            throws: BTreeSet::new(),
            refused: Vec::new(),
            slots: BTreeMap::new(),
            occupied: BTreeSet::new(),
            rules: BTreeSet::new(),
            rule_error: None,
            rules_retry_ns: 0,
            rule_gone_by: None,
            orphans_until_ns: 0,
            given_up: false,
            retarget: true,
            leaving: false,
            unfit: None,
            fight: Fight::default(),
            lost: None,
        }
    }

    /// Takes over what an earlier run left in a table.
    pub(super) fn adopt(&mut self, table: u32, way: Vec<Nexthop>) {
        // Whatever led there was led rightly.
        self.slots.insert(table, Slot { guarded: true, ..Slot::new(way, self.list.len()) });
    }

    /// Takes over the rules that lead to the group's tables.
    pub(super) fn take_rules(&mut self, found: &[FoundRule]) {
        let ours = found.iter().filter(|rule| rule.protocol == PROTOCOL && self.range.has(rule.table));
        self.rules = ours.filter_map(|rule| rule.rule).collect();
    }

    /// The table to which the first rule leads.
    pub(super) fn leads(&self) -> Option<u32> {
        self.rules.iter().min_by_key(|rule| rule.priority).map(|rule| rule.table)
    }

    /// Takes in what is wanted from now on.
    pub(super) fn want(&mut self, desired: &GroupRoutes) {
        (self.leaving, self.given_up) = (false, false);
        if self.metric != desired.metric || !same(&self.prefixes, &desired.prefixes) {
            (self.metric, self.prefixes) = (desired.metric, Arc::clone(&desired.prefixes));
            self.retarget = true;
            // Of the new list nothing is known to stand.
            self.slots.values_mut().for_each(|slot| slot.full = false);
        }
        (self.active, self.backups) = (way_of(&desired.active), desired.backups.clone());
        let mut ways: BTreeSet<Vec<Nexthop>> =
            desired.links.iter().chain(&self.active).chain(&self.backups).map(|link| way_of(&[*link])).collect();
        self.unfit = (ways.len() > MAX_LINKS).then_some("it has more links than there are tables for");
        if self.active.len() > 1 {
            ways.insert(self.active.clone());
        }
        ways.remove(&Vec::new());
        for slot in self.slots.values_mut() {
            let unwanted = !ways.remove(&slot.way);
            if unwanted != slot.unwanted {
                (slot.unwanted, slot.full) = (unwanted, false);
                slot.restart();
            }
        }
        for way in ways {
            let free = |table: &u32| !self.slots.contains_key(table) && !self.occupied.contains(table);
            let Some(table) = self.range.tables().find(free) else {
                self.unfit = Some("other programs' routes stand in too many of its tables");
                break;
            };
            self.slots.insert(table, Slot::new(way, self.list.len()));
        }
    }

    /// Wants nothing any more.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.prefixes = Arc::default();
        (self.orphans_until_ns, self.retarget) = (0, false);
        self.target.fill(false);
        (self.wanted, self.families) = (0, BTreeSet::new());
        for slot in self.slots.values_mut() {
            slot.unwanted = true;
            slot.restart();
        }
    }

    pub(super) const fn leaving(&self) -> bool {
        self.leaving
    }

    pub(super) fn gone(&self) -> bool {
        self.leaving && self.slots.is_empty() && self.rules.is_empty()
    }

    /// Computes what is wanted where: prefixes in order, and throw routes for what others have inside of them.
    pub(super) fn aim(&mut self, id: GroupId, foreign: &Foreign, claims: &BTreeMap<GroupId, Claim>) {
        self.retarget = false;
        self.refused.clear();
        let mut wanted: Vec<IpNet> = self.prefixes.iter().map(IpNet::trunc).collect();
        // Mostly in order already, which this is quick to see.
        wanted.sort_unstable();
        wanted.dedup();
        // What an earlier run left still leads, and must not catch too much either.
        let orphans = if self.orphans_until_ns == 0 { Vec::new() } else { self.orphans(&wanted) };
        let others: Vec<(GroupId, &Claim)> =
            claims.iter().filter(|(other, _)| **other != id).map(|(other, claim)| (*other, claim)).collect();
        let mut throws = BTreeSet::new();
        for (other, claim) in others {
            let first = (claim.metric, other) < (self.metric, id);
            for prefix in claim.prefixes.iter().map(IpNet::trunc) {
                if let Ok(at) = wanted.binary_search(&prefix) {
                    if first {
                        wanted.remove(at);
                        self.refused.push(Refusal { prefix, why: Why::OtherGroup(other) });
                        throws.insert(prefix);
                    }
                } else if covered(&wanted, &prefix) || covered(&orphans, &prefix) {
                    throws.insert(prefix);
                }
            }
        }
        for (prefix, Best { metric, protocol }) in &foreign.routes {
            if wanted.binary_search(prefix).is_ok() {
                if *metric <= effective_metric(prefix, self.metric) {
                    self.refused.push(Refusal { prefix: *prefix, why: Why::Foreign(Some(*protocol)) });
                    throws.insert(*prefix);
                }
            } else if orphans.binary_search(prefix).is_ok() {
                if *metric <= effective_metric(prefix, self.metric) {
                    throws.insert(*prefix);
                }
            } else if covered(&wanted, prefix) || covered(&orphans, prefix) {
                throws.insert(*prefix);
            }
            if throws.len() > THROWS_MAX {
                break;
            }
        }
        if throws.len() > THROWS_MAX {
            self.unfit = Some("too many routes of others lie inside of its prefixes");
        }
        if self.throws != throws {
            self.throws = throws;
            self.slots.values_mut().for_each(Slot::restart);
        }
        let targets = self.list.iter().zip(&self.target).filter(|(_, target)| **target);
        if targets.map(|(prefix, _)| prefix).eq(&wanted) {
            self.slots.values_mut().for_each(|slot| slot.full |= slot.complete());
            return;
        }
        self.wanted = wanted.len();
        self.families = wanted.iter().map(Family::of).collect();
        self.relist(&wanted);
    }

    /// Whether anything stands at this place of the list in any table.
    fn stands_anywhere(&self, at: usize) -> bool {
        self.slots.values().any(|slot| slot.standing[at] != EntryState::Nothing)
    }

    /// What stands in some table though nothing wants it, in order.
    fn orphans(&self, wanted: &[IpNet]) -> Vec<IpNet> {
        let unwanted = |(_, prefix): &(usize, &IpNet)| wanted.binary_search(prefix).is_err();
        let left = self.list.iter().enumerate().filter(unwanted).filter(|(at, _)| self.stands_anywhere(*at));
        left.map(|(_, prefix)| *prefix).collect()
    }

    /// Makes the list that of everything that is wanted or stands.
    fn relist(&mut self, wanted: &[IpNet]) {
        let old: Vec<usize> = (0..self.list.len()).filter(|at| self.stands_anywhere(*at)).collect();
        let mut list = Vec::with_capacity(wanted.len().max(old.len()));
        let mut target = Vec::with_capacity(list.capacity());
        // For each entry of the new list its place in the old one.
        let mut from = Vec::with_capacity(list.capacity());
        let (mut new, mut old) = (wanted.iter().peekable(), old.into_iter().peekable());
        loop {
            let (next_new, next_old) = (new.peek().copied().copied(), old.peek().map(|at| self.list[*at]));
            let Some(prefix) = next_new.into_iter().chain(next_old).min() else { break };
            list.push(prefix);
            target.push(new.next_if(|next| **next == prefix).is_some());
            from.push(old.next_if(|at| self.list[*at] == prefix));
        }
        for slot in self.slots.values_mut() {
            slot.standing = from.iter().map(|at| at.map_or(EntryState::Nothing, |at| slot.standing[at])).collect();
            slot.full = false;
            slot.restart();
        }
        (self.list, self.target) = (list, target);
    }

    /// Enters prefixes that stand although the list does not have them.
    pub(super) fn extend(&mut self, mut extra: Vec<IpNet>) {
        extra.sort_unstable();
        extra.dedup();
        let wanted: BTreeSet<IpNet> =
            self.list.iter().zip(&self.target).filter(|(_, target)| **target).map(|(prefix, _)| *prefix).collect();
        extra.extend(self.list.iter().copied());
        extra.sort_unstable();
        extra.dedup();
        self.relist(&extra);
        self.target = self.list.iter().map(|prefix| wanted.contains(prefix)).collect();
    }

    /// Whether the prefix is to stand in the table.
    pub(super) fn wants(&self, slot: &Slot, at: usize) -> bool {
        !slot.unwanted && self.target[at] && slot.serves(&self.list[at])
    }

    pub(super) fn place(table: u32, prefix: IpNet, throw: bool) -> RouteKey {
        RouteKey { table, prefix, metric: if throw { THROW_METRIC } else { METRIC } }
    }

    /// Is this one of our places, and which.
    pub(super) fn is_throw(key: &RouteKey) -> Option<bool> {
        match key.metric {
            METRIC => Some(false),
            THROW_METRIC => Some(true),
            _ => None,
        }
    }

    /// Tables are to be read.
    pub(super) fn mark_unread(&mut self, which: impl Fn(&Slot) -> bool) {
        self.slots.values_mut().filter(|slot| which(slot)).for_each(|slot| slot.progress = Progress::Unread);
    }

    /// Somebody changed a route in our tables. Gives whether that is to be repaired.
    pub(super) fn lose(&mut self, now_ns: u64, event: &RouteEvent) -> bool {
        let (key, next_ns) = (event.route.key, self.fight.next_ns);
        let Some(slot) = self.slots.get_mut(&key.table) else { return false };
        let at = self.list.binary_search(&key.prefix);
        match (event.change, Self::is_throw(&key), at) {
            (RouteChange::Removed, Some(true), _) => {
                if !slot.throws.remove(&key.prefix) {
                    return false;
                }
            }
            (RouteChange::Removed, Some(false), Ok(at)) if event.route.protocol == PROTOCOL => {
                if slot.standing[at] != EntryState::Ours {
                    return false;
                }
                slot.set(at, EntryState::Nothing);
                slot.full = false;
            }
            _ => slot.progress = Progress::Unread,
        }
        slot.restart();
        slot.retry_ns = slot.retry_ns.max(now_ns + GAP_NS).max(next_ns);
        self.count_lost(key, 1);
        true
    }

    /// Routes turned out to be gone.
    pub(super) fn count_lost(&mut self, key: RouteKey, count: usize) {
        self.lost.get_or_insert((0, key)).0 += count;
    }

    /// What was lost and stands again, if it all does.
    pub(super) fn repaired(&mut self) -> Option<(usize, RouteKey)> {
        let (_, key) = self.lost.as_ref()?;
        let slot = self.slots.get(&key.table);
        if slot.is_some_and(|slot| !slot.complete() && slot.error.is_none()) {
            return None;
        }
        self.fight.said = false;
        self.lost.take().filter(|_| slot.is_some_and(Slot::complete))
    }

    /// The peer has had its time to announce again what an earlier run had.
    pub(super) fn expire(&mut self, now_ns: u64) {
        if self.orphans_until_ns != 0 && self.orphans_until_ns <= now_ns {
            self.orphans_until_ns = 0;
            // What lay in them has no need of a throw route any more.
            self.retarget = true;
            self.slots.values_mut().for_each(Slot::restart);
        }
    }

    /// Forgets tables that are empty now.
    pub(super) fn drop_empty(&mut self) {
        let led_to: BTreeSet<u32> = self.rules.iter().map(|rule| rule.table).collect();
        self.slots.retain(|table, slot| {
            let over = slot.unwanted && slot.complete() && !led_to.contains(table) && slot.is_empty();
            !over
        });
    }

    /// When this group has something to do. What carries no traffic waits for `pause_until_ns`.
    pub(super) fn due_ns(&self, pause_until_ns: u64, foreign_known: bool) -> u64 {
        if self.retarget {
            return if foreign_known { 0 } else { u64::MAX };
        }
        if self.rules_due() {
            return self.rules_retry_ns;
        }
        let open = self.slots.iter().filter(|(table, slot)| !slot.complete() && !self.keeps(**table));
        let open = open.map(|(table, slot)| {
            let pause_ns = if self.carries(*table) { 0 } else { pause_until_ns };
            slot.retry_ns.max(pause_ns)
        });
        let orphans_ns = if self.orphans_until_ns == 0 { u64::MAX } else { self.orphans_until_ns };
        open.min().unwrap_or(u64::MAX).min(orphans_ns)
    }

    /// Whether a table that nothing wants stays for now, because it is the last way.
    pub(super) fn keeps(&self, table: u32) -> bool {
        let unwanted = self.slots.get(&table).is_some_and(|slot| slot.unwanted);
        unwanted && !self.leaving && self.rules.iter().any(|rule| rule.table == table)
    }

    /// Whether the table is that of the traffic, or is to be.
    pub(super) fn carries(&self, table: u32) -> bool {
        self.slots.get(&table).is_some_and(|slot| !slot.unwanted && slot.way == self.active)
            || self.rules.iter().any(|rule| rule.table == table && rule.priority == self.range.rule_priority)
    }

    pub(super) fn in_sync(&self) -> bool {
        let slots = self.slots.values().all(|slot| slot.complete() || slot.error.is_some());
        let lead = self.leads().and_then(|table| self.slots.get(&table));
        !self.retarget && slots && !self.rules_due() && (self.families.is_empty() || lead.is_some_and(Slot::complete))
    }

    pub(super) fn report(&self) -> Report {
        let mut refused = self.refused.clone();
        // Where somebody has deleted the first rule, the next one leads to a backup: what is wanted does not stand.
        let wanted = |slot: &&Slot| self.rule_gone_by.is_none() || slot.way == self.active;
        let lead = |family| self.standing(family).first().and_then(|rule| self.slots.get(&rule.table)).filter(wanted);
        for family in &self.families {
            let of_family = self.list.iter().zip(&self.target).enumerate();
            let of_family = of_family.filter(|(_, (prefix, target))| **target && Family::of(prefix) == *family);
            match lead(*family) {
                None => {
                    let why = match &self.rule_error {
                        Some(error) => Why::Kernel(error.clone()),
                        None if self.slots.values().any(|slot| slot.serves_family(*family)) => Why::Waiting,
                        None => Why::NoNexthop,
                    };
                    let prefixes = of_family.map(|(_, (prefix, _))| *prefix).take(REFUSALS_MAX);
                    refused.extend(prefixes.map(|prefix| Refusal { prefix, why: why.clone() }));
                }
                Some(slot) if (slot.full || slot.complete()) && slot.count < self.wanted => {
                    let missing = of_family.filter(|(at, _)| slot.standing[*at] != EntryState::Ours).take(REFUSALS_MAX);
                    refused.extend(missing.map(|(at, (prefix, _))| {
                        let why = match (slot.standing[at], &slot.error) {
                            _ if !slot.serves(prefix) => Why::NoNexthop,
                            (EntryState::Foreign, _) => Why::Foreign(None),
                            (_, Some(error)) => Why::Kernel(error.clone()),
                            (_, None) => Why::Waiting,
                        };
                        Refusal { prefix: *prefix, why }
                    }));
                }
                Some(_) => {}
            }
        }
        refused.sort_by_key(|refusal| refusal.prefix);
        refused.dedup_by_key(|refusal| refusal.prefix);
        refused.truncate(REFUSALS_MAX);
        let mut leads: Vec<&Slot> = self.families.iter().filter_map(|family| lead(*family)).collect();
        leads.dedup_by(|a, b| a.way == b.way);
        let standing: usize = leads.iter().map(|slot| slot.count).sum();
        let foreign = self.refused.iter().filter(|refusal| matches!(refusal.why, Why::Foreign(_))).count();
        Report { installed: standing.min(self.wanted).saturating_sub(foreign), refused, ..Report::default() }
    }
}

/// Whether two lists are the same; quick where they are one.
pub(super) fn same(one: &Arc<[IpNet]>, other: &Arc<[IpNet]>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// Whether one of the prefixes contains this one, and is shorter.
fn covered(sorted: &[IpNet], prefix: &IpNet) -> bool {
    let mut outer = *prefix;
    while let Some(next) = outer.supernet() {
        outer = next;
        if sorted.binary_search(&outer).is_ok() {
            return true;
        }
    }
    false
}
