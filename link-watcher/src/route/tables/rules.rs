//! Rules: which tables are asked, in which order.

use std::collections::BTreeSet;

use super::{BulkKernel, GAP_NS, Group, PRIORITIES, PeerTables, RETRY_NS, slot::Slot};
use crate::{
    event::GroupId,
    route::{Family, Notice, Rule, TableChange, reconcile::backoff_ns},
};

/// Rules written in one go: at 100,000 IPv6 routes the kernel takes 20 ms for each, and a failover waits for no more.
pub(super) const CHUNK: usize = 1;

impl Group {
    /// Tables in the order in which they are to be asked.
    fn order(&self, family: Family) -> Vec<u32> {
        let now: Vec<u32> = self.standing(family).into_iter().map(|rule| rule.table).collect();
        if self.leaving() || !self.families.contains(&family) && self.orphans_until_ns == 0 {
            return Vec::new();
        }
        let usable = |slot: &&Slot| slot.guarded && !slot.unwanted && slot.serves_family(family);
        let of = |way: &[super::Nexthop]| {
            self.slots.iter().find(|(_, slot)| slot.way == way && usable(slot)).map(|(table, slot)| (*table, slot))
        };
        // What several share is used when it is complete; until then one of them carries everything.
        let shared = of(&self.active).filter(|(_, slot)| self.active.len() == 1 || slot.full);
        let singles = self.active.iter().filter_map(|nexthop| of(&super::way_of(&[*nexthop])));
        let lead = shared.or_else(|| singles.min_by_key(|(_, slot)| !slot.full));
        let mut order: Vec<u32> = lead.iter().map(|(table, _)| *table).collect();
        if lead.is_none_or(|(_, slot)| !slot.full) {
            // What was served before is served on meanwhile.
            order.extend(&now);
        }
        order.extend(self.backups.iter().filter_map(|nexthop| of(&super::way_of(&[*nexthop]))).map(|(table, _)| table));
        if order.is_empty() {
            // The last way is never taken away.
            order = now;
        }
        let mut seen = BTreeSet::new();
        order.retain(|table| seen.insert(*table));
        order.truncate(PRIORITIES as usize);
        order
    }

    pub(super) fn wanted_rules(&self) -> BTreeSet<Rule> {
        let mut wanted = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            for (table, priority) in self.order(family).into_iter().zip(self.range.rule_priority..) {
                wanted.insert(Rule {
                    family,
                    priority,
                    mark: None,
                    from: None,
                    bound_to: None,
                    table,
                    suppress_prefix_len: None,
                });
            }
        }
        wanted
    }

    /// The rules that stand, in the order in which they are asked.
    pub(super) fn standing(&self, family: Family) -> Vec<&Rule> {
        let mut rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.family == family).collect();
        rules.sort_by_key(|rule| rule.priority);
        rules
    }

    /// The table that is asked after the one at this priority.
    fn behind(&self, family: Family, priority: u32) -> Option<u32> {
        self.standing(family).into_iter().find(|rule| rule.priority > priority).map(|rule| rule.table)
    }

    pub(super) fn rules_due(&self) -> bool {
        self.wanted_rules() != self.rules
    }
}

impl<K: BulkKernel> PeerTables<K> {
    /// Makes the first rules lead where they shall, and no more than that needs. Gives the messages sent.
    pub(super) fn swap(&mut self, now_ns: u64, id: GroupId) -> usize {
        if self.rules_due_ns <= now_ns + GAP_NS {
            // An answer was lost, or an event: what is thought to lead somewhere may not.
            self.read_rules(now_ns);
        }
        let Some(group) = self.groups.get(&id) else { return 0 };
        let wanted = group.wanted_rules();
        let first = group.range.rule_priority;
        let lead = |rule: &&Rule| rule.priority == first;
        let mut leads: Vec<Rule> = wanted.difference(&group.rules).filter(lead).copied().collect();
        if leads.is_empty() {
            return 0;
        }
        let gone: Vec<Rule> = group.rules.difference(&wanted).filter(lead).copied().collect();
        let is_full = |rule: &Rule| group.slots.get(&rule.table).is_some_and(|slot| slot.full);
        let full = leads.iter().all(is_full);
        // Where the best backup takes over, its rule stands behind the first: without that one it is the first that is asked.
        leads.retain(|rule| !(is_full(rule) && group.behind(rule.family, first) == Some(rule.table)));
        let mut changes: Vec<TableChange> = leads.iter().copied().map(TableChange::CreateRule).collect();
        // Where the new table may lack something, the old one is asked behind it before it loses the first place.
        let kept = wanted.difference(&group.rules).filter(|rule| gone.iter().any(|gone| gone.table == rule.table));
        changes.extend(kept.filter(|rule| !full && !lead(rule)).copied().map(TableChange::CreateRule));
        // A rule that stands at a place of its own is put behind one that came before: the old one goes last.
        changes.extend(gone.into_iter().map(TableChange::DeleteRule));
        self.write_rules(now_ns, id, &changes);
        changes.len()
    }

    /// Makes all rules of a group what they shall be, additions first, at most so many. Gives the messages sent.
    pub(super) fn sync_rules(&mut self, now_ns: u64, id: GroupId, most: usize) -> usize {
        let Some(group) = self.groups.get(&id) else { return 0 };
        if group.rules_retry_ns > now_ns && !group.leaving() {
            return 0;
        }
        let wanted = group.wanted_rules();
        let additions = wanted.difference(&group.rules).copied().map(TableChange::CreateRule);
        // The last one that is asked goes first, so that none catches what another one had.
        let mut removals: Vec<Rule> = group.rules.difference(&wanted).copied().collect();
        removals.sort_by_key(|rule| std::cmp::Reverse(rule.priority));
        let removals = removals.into_iter().map(TableChange::DeleteRule);
        let changes: Vec<TableChange> = additions.chain(removals).take(most).collect();
        self.write_rules(now_ns, id, &changes);
        changes.len()
    }

    fn write_rules(&mut self, now_ns: u64, id: GroupId, changes: &[TableChange]) {
        if changes.is_empty() {
            return;
        }
        let results = self.kernel.execute(changes);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Ok(results) = results else {
            self.rules_due_ns = self.rules_due_ns.min(now_ns + GAP_NS);
            group.rules_retry_ns = now_ns + GAP_NS;
            return;
        };
        group.rule_error = None;
        if let Some((port_id, TableChange::CreateRule(rule))) = group.rule_gone_by.zip(changes.first()) {
            group.rule_gone_by = None;
            let by = self.kernel.process(port_id);
            self.notices.push(Notice::RuleGone { what: rule.to_string(), by });
            group.fight.repairs += 1;
            group.fight.next_ns = now_ns + backoff_ns(group.fight.repairs);
        }
        for (change, result) in changes.iter().zip(results) {
            match (change, result.map_err(|error| (error.errno, error))) {
                (TableChange::CreateRule(rule), Ok(()) | Err((libc::EEXIST, _))) => drop(group.rules.insert(*rule)),
                (TableChange::DeleteRule(rule), Ok(()) | Err((libc::ENOENT | libc::ESRCH, _))) => {
                    group.rules.remove(rule);
                }
                (_, Ok(())) => {}
                (_, Err((_, error))) => {
                    group.rule_error = Some(error);
                    group.rules_retry_ns = now_ns + RETRY_NS;
                }
            }
        }
    }

    /// Reads the rules, and notes which of ours are gone.
    pub(super) fn read_rules(&mut self, now_ns: u64) {
        self.rules_due_ns = u64::MAX;
        let found = match self.kernel.rules() {
            Ok(found) => found,
            Err(error) => {
                self.rules_due_ns = now_ns + RETRY_NS;
                self.notices.push(Notice::Failed(format!("the rules could not be read: {error}")));
                return;
            }
        };
        for group in self.groups.values_mut() {
            let before = group.rules.len();
            group.take_rules(&found);
            if group.rules.len() < before {
                group.rule_gone_by.get_or_insert(0);
            }
        }
    }
}
