//! Routing tables and rules of uplinks: what a group wants, beside what the kernel has, and the messages that make them
//! agree.
//!
//! **What is ours.** Rules with protocol number [`PROTOCOL`] and a priority among the group's
//! [`RULE_PRIORITIES`], and routes with that protocol number in the group's tables: those
//! of its uplinks, and those that rules of ours lead to, which an earlier run with more uplinks may have left.
//! Two instances must not share these ranges.
//!
//! **Nothing else is changed.** Whatever else is found in our ranges is reported and stays; a route that stands where one
//! of ours shall stand keeps its place. Places are taken with `NLM_F_EXCL`; only what is known to be ours is replaced.
//! A removal names our protocol, so the kernel checks the owner once more.
//!
//! **Order.** Routes, then the rules that lead to them; then removals, rules first. Replacing a route is atomic.
//!
//! What was read stays known until an event of the kernel, or a failure, makes it doubtful: failing over takes one system
//! call. Reading is bounded by what our tables hold, not by what the machine's other tables do.

mod plan;
mod repair;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use self::plan::wanted;
use super::Desired;
pub use crate::route::{NetlinkTables, TableChange, TableKernel};
use crate::{
    config::RULE_PRIORITIES,
    event::{GroupId, LinkId},
    route::{Family, FoundRule, FoundTableRoute, MAIN_TABLE, Owner, PROTOCOL, RouteKey, Rule, TableRoute, Way},
    system::KernelError,
};

/// Messages in one system call: the errors of all of them fit the receive buffer.
const CHUNK: usize = 200;
/// Time between two comparisons without any other reason, ns.
const PERIOD_NS: u64 = 30_000_000_000;
/// The same while the kernel refuses something, ns.
const RETRY_NS: u64 = 5_000_000_000;
/// Problems that a report names; what is beyond is only counted.
const PROBLEMS_MAX: usize = 32;

/// What is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Somebody else's route stands in a table of ours, maybe where ours shall stand.
    ForeignRoute {
        /// Where.
        key: RouteKey,
        /// Whose (`rtm_protocol`).
        protocol: u8,
    },
    /// Somebody else's rule stands among ours.
    ForeignRule {
        /// Of which family.
        family: Family,
        /// Its priority.
        priority: u32,
        /// Whose (`FRA_PROTOCOL`, numbered as those of routes); 0: unknown.
        protocol: u8,
    },
    /// The kernel refused.
    Kernel {
        /// What.
        what: String,
        /// Why.
        error: KernelError,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignRoute { key, protocol } => write!(
                f,
                "a route of {} stands in a table of ours, {key}; it stays: remove it, or give this group another \
                 table-base",
                Owner(*protocol)
            ),
            Self::ForeignRule { family, priority, protocol } => write!(
                f,
                "a rule of {} stands among ours, {family:?} priority {priority}; it stays: remove it, or give this group \
                 another rule-priority",
                Owner(*protocol)
            ),
            Self::Kernel { what, error } if error.errno == libc::EPERM => {
                write!(f, "{what}: the kernel refused: {error}; routes and rules need root or CAP_NET_ADMIN")
            }
            Self::Kernel { what, error } => write!(f, "{what}: the kernel refused: {error}"),
        }
    }
}

/// How a group's tables and rules stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableReport {
    /// Whether everything stands as wanted.
    pub complete: bool,
    /// Messages that the call sent to the kernel; 0: everything stood already.
    pub written: usize,
    /// What is not as it should be, at most 32 of them.
    pub problems: Vec<Problem>,
    /// The exchange with the kernel failed as a whole; it is repeated by itself.
    pub error: Option<String>,
}

/// Something the log should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableNotice {
    /// Routes or rules were gone or changed, and stand again.
    Repaired {
        /// Group.
        group: GroupId,
        /// How many.
        count: usize,
        /// The first one.
        example: String,
        /// Who did it, where somebody did.
        by: Option<String>,
    },
    /// Somebody removes them again and again; the next repair waits.
    BackingOff {
        /// Group.
        group: GroupId,
        /// Who.
        by: String,
        /// For how long, ms.
        wait_ms: u64,
    },
    /// New problems, or an exchange that failed.
    Trouble {
        /// Group.
        group: GroupId,
        /// What, each a sentence.
        said: Vec<String>,
    },
}

impl TableNotice {
    /// For people, with the names of groups.
    pub fn say(&self, name: &dyn Fn(GroupId) -> String) -> String {
        match self {
            Self::Repaired { group, count, example, by } => {
                let by = by.as_ref().map_or_else(String::new, |by| format!("; last removed by {by}"));
                format!("{}: {count} routes or rules had gone and stand again, among them {example}{by}", name(*group))
            }
            Self::BackingOff { group, by, wait_ms } => format!(
                "{}: {by} keeps removing our routes or rules; the next repair waits {wait_ms} ms. Keep that program from \
                 what has protocol {PROTOCOL}",
                name(*group)
            ),
            Self::Trouble { group, said } => format!("{}: {}", name(*group), said.join("; ")),
        }
    }
}

/// What the kernel has in a group's ranges, anybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    routes: Vec<FoundTableRoute>,
    rules: Vec<FoundRule>,
}

/// A group, what it wants and what it has.
#[derive(Debug, Default)]
struct Group {
    /// Nothing: it is to be removed.
    desired: Option<Desired>,
    wanted: (Vec<TableRoute>, Vec<Rule>),
    /// As last read and written since; nothing: to be read, because something happened.
    found: Option<Found>,
    /// Tables in which something of ours may stand, beside those that our rules lead to.
    tables: BTreeSet<u32>,
    /// First priorities of the ranges in which rules of ours may stand.
    priorities: BTreeSet<u32>,
    /// The weights when there last were any.
    weights: BTreeMap<LinkId, u32>,
    fight: repair::Fight,
    report: TableReport,
}

impl Group {
    fn owns_priority(&self, priority: u32) -> bool {
        self.priorities.iter().any(|first| (*first..first.saturating_add(RULE_PRIORITIES)).contains(&priority))
    }

    fn concerned(&self, ifindex: u32) -> bool {
        self.desired.iter().any(|desired| desired.uplinks.iter().any(|uplink| uplink.ifindex == ifindex))
    }

    /// Takes a new wish. With no weight at all the last ones count still: the last default routes are never taken away.
    fn want(&mut self, desired: &Desired) {
        let mut desired = desired.clone();
        let weights: BTreeMap<LinkId, u32> = desired
            .uplinks
            .iter()
            .filter(|uplink| uplink.weight > 0)
            .map(|uplink| (uplink.link, uplink.weight))
            .collect();
        if weights.is_empty() {
            for uplink in &mut desired.uplinks {
                uplink.weight = self.weights.get(&uplink.link).copied().unwrap_or(0);
            }
        } else {
            self.weights = weights;
        }
        let before = (self.tables.len(), self.priorities.len());
        self.tables.extend(plan::tables(&desired));
        self.priorities.insert(desired.rule_priority);
        if before != (self.tables.len(), self.priorities.len()) {
            self.found = None;
        }
        self.wanted = wanted(&desired);
        self.desired = Some(desired);
    }

    /// After a reload, ranges that were this group's may be another's, who clears them: from now on they are not its own.
    fn yield_to(&mut self, other: &Desired) {
        let before = (self.tables.len(), self.priorities.len());
        for table in plan::tables(other) {
            self.tables.remove(&table);
        }
        self.priorities.remove(&other.rule_priority);
        if before != (self.tables.len(), self.priorities.len()) {
            self.found = None;
        }
    }

    /// Forgets ranges that are not used any more, once nothing of ours is left there.
    fn forget_old_ranges(&mut self) {
        if let Some(desired) = &self.desired {
            self.tables = plan::tables(desired).collect();
            self.priorities = BTreeSet::from([desired.rule_priority]);
        }
    }
}

/// Tables and rules over a kernel. All times are nanoseconds of the monotonic clock.
pub struct Tables<K> {
    kernel: K,
    groups: BTreeMap<GroupId, Group>,
    /// When they are to be compared again, and when they last were, ns.
    due_ns: u64,
    compared_ns: u64,
}

impl<K: TableKernel> Tables<K> {
    /// Holds nothing yet.
    pub fn new(kernel: K) -> Self {
        Self { kernel, groups: BTreeMap::new(), due_ns: u64::MAX, compared_ns: 0 }
    }

    /// Makes the kernel agree with what the group wants from now on; what is right already stays untouched. Where no
    /// uplink has a weight, the group's traffic stays where it is.
    pub fn apply(&mut self, now_ns: u64, desired: &Desired) -> TableReport {
        self.due(now_ns + PERIOD_NS);
        for (_, other) in self.groups.iter_mut().filter(|(id, _)| **id != desired.group) {
            other.yield_to(desired);
        }
        self.groups.entry(desired.group).or_default().want(desired);
        self.sync(now_ns, desired.group);
        self.report(desired.group)
    }

    /// Removes what is the group's, and forgets it. What could not be removed is in the report.
    pub fn remove(&mut self, now_ns: u64, group: GroupId) -> TableReport {
        let Some(entry) = self.groups.get_mut(&group) else { return TableReport::default() };
        entry.desired = None;
        entry.wanted = Default::default();
        entry.found = None;
        self.sync(now_ns, group);
        self.groups.remove(&group).map(|entry| entry.report).unwrap_or_default()
    }

    /// Removes everything that is ours: `on-exit = "remove"`.
    pub fn remove_all(&mut self, now_ns: u64) -> Vec<(GroupId, TableReport)> {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        ids.into_iter().map(|id| (id, self.remove(now_ns, id))).collect()
    }

    /// Removes what an earlier run left in ranges that no group has any more: the rules from `rule_priority` on that lead to
    /// the table `table_base` or one of `numbers` behind it, then what of ours is in these tables. What a group of today
    /// wants stays. Gives how many routes and rules were removed.
    ///
    /// # Errors
    /// In words: what could not be read, or removed.
    pub fn remove_former(
        &mut self,
        table_base: u32,
        rule_priority: u32,
        numbers: impl IntoIterator<Item = u32>,
    ) -> Result<usize, String> {
        let reading = |error| format!("reading routing tables and rules: {error}");
        let mut tables: BTreeSet<u32> = numbers.into_iter().map(|number| table_base.saturating_add(number)).collect();
        tables.insert(table_base);
        let priorities = rule_priority..rule_priority.saturating_add(RULE_PRIORITIES);
        let mut rules = Vec::new();
        for found in self.kernel.rules().map_err(reading)? {
            let Some(rule) = found.rule.filter(|_| found.protocol == PROTOCOL) else { continue };
            // The one that asks the main table first leads to no table of ours.
            let first =
                rule.table == MAIN_TABLE && rule.suppress_prefix_len == Some(0) && rule.priority == rule_priority;
            let wanted = self.groups.values().any(|group| group.wanted.1.contains(&rule));
            if priorities.contains(&rule.priority) && (first || tables.contains(&rule.table)) && !wanted {
                rules.push(rule);
            }
        }
        // The last one that is asked goes first, so that none ever catches what another one had.
        rules.sort_unstable_by_key(|rule| std::cmp::Reverse(rule.priority));
        let mut changes: Vec<TableChange> = rules.into_iter().map(TableChange::DeleteRule).collect();
        for desired in self.groups.values().filter_map(|group| group.desired.as_ref()) {
            tables.retain(|table| !plan::tables(desired).any(|used| used == *table));
        }
        let found = self.kernel.routes(&tables).map_err(reading)?;
        let ours = found.into_iter().filter(|route| route.protocol == PROTOCOL);
        changes.extend(
            ours.filter_map(|route| Some(TableChange::DeleteRoute(TableRoute { key: route.key, way: route.way? }))),
        );
        for chunk in changes.chunks(CHUNK) {
            let results = self.kernel.execute(chunk).map_err(|error| format!("{} removals: {error}", chunk.len()))?;
            for (change, result) in chunk.iter().zip(results) {
                match result {
                    Err(error) if !is_gone(error.errno) => return Err(format!("{change}: {error}")),
                    _ => {}
                }
            }
        }
        Ok(changes.len())
    }

    /// The uplinks through which the group's traffic goes now, as the kernel has it, with their weights: what an earlier
    /// run left. To be asked before the first [`apply`](Self::apply). Empty where nothing is known.
    pub fn standing(&mut self, desired: &Desired) -> BTreeMap<LinkId, u32> {
        let found = self.kernel.routes(&BTreeSet::from([desired.table_base])).unwrap_or_default();
        let mut standing = BTreeMap::new();
        for route in found.into_iter().filter(|route| route.protocol == PROTOCOL) {
            let Some(Way::Through { hops, .. }) = route.way else { continue };
            for hop in hops {
                let leads = |uplink: &&super::Uplink| {
                    let gateways = [uplink.ipv4, uplink.ipv6].map(|path| path.map(|path| path.gateway));
                    uplink.ifindex == hop.ifindex && gateways.contains(&Some(hop.gateway))
                };
                standing.extend(desired.uplinks.iter().find(leads).map(|uplink| (uplink.link, hop.weight)));
            }
        }
        standing
    }

    /// How a group's tables and rules stand, as far as is known.
    pub fn report(&self, group: GroupId) -> TableReport {
        self.groups.get(&group).map(|entry| entry.report.clone()).unwrap_or_default()
    }

    /// Makes the kernel agree with what the group wants. Gives what it changed, each with whether it succeeded.
    fn sync(&mut self, now_ns: u64, id: GroupId) -> Vec<(TableChange, bool)> {
        let mut done = Vec::new();
        let Some(group) = self.groups.get_mut(&id) else { return done };
        group.report = TableReport::default();
        // The second round is for what turned out to be otherwise than it was known.
        for _ in 0..2 {
            match synchronise(&mut self.kernel, group) {
                Ok(more) => {
                    let again = group.found.is_none();
                    done.extend(more);
                    if !again {
                        break;
                    }
                }
                Err(error) => {
                    group.found = None;
                    group.report.complete = false;
                    group.report.error = Some(error);
                    break;
                }
            }
        }
        group.report.written = done.len();
        if group.report.complete {
            group.forget_old_ranges();
        } else {
            self.due(now_ns + RETRY_NS);
        }
        done
    }

    /// Brings comparison forward to `at_ns`.
    fn due(&mut self, at_ns: u64) {
        self.due_ns = self.due_ns.min(at_ns);
    }
}

/// One round. Afterwards nothing is known of what the kernel has if something failed.
fn synchronise<K: TableKernel>(kernel: &mut K, group: &mut Group) -> Result<Vec<(TableChange, bool)>, String> {
    if group.found.is_none() {
        group.found = Some(read(kernel, group).map_err(|error| format!("reading routing tables and rules: {error}"))?);
    }
    let mut found = group.found.take().unwrap_or_default();
    let (changes, mut problems) = plan::changes(&group.wanted, group.desired.as_ref(), &found);
    let blocked = problems.iter().any(|problem| match problem {
        Problem::ForeignRoute { key, .. } => group.wanted.0.iter().any(|route| route.key == *key),
        _ => false,
    });
    let mut done = Vec::with_capacity(changes.len());
    for chunk in changes.chunks(CHUNK) {
        let results = kernel.execute(chunk).map_err(|error| format!("{} routes and rules: {error}", chunk.len()))?;
        for (change, result) in chunk.iter().zip(results) {
            let removal = matches!(change, TableChange::DeleteRoute(_) | TableChange::DeleteRule(_));
            let result = match result {
                Err(error) if removal && is_gone(error.errno) => Ok(()),
                other => other,
            };
            done.push((change.clone(), result.is_ok()));
            match result {
                Ok(()) => found.take_in(change),
                Err(error) => problems.push(Problem::Kernel { what: change.to_string(), error }),
            }
        }
    }
    let failed = done.iter().any(|(_, good)| !good);
    if !failed {
        group.found = Some(found);
    }
    group.report.complete = !failed && !blocked;
    problems.truncate(PROBLEMS_MAX);
    group.report.problems = problems;
    Ok(done)
}

/// What is not there counts as removed.
const fn is_gone(errno: i32) -> bool {
    matches!(errno, libc::ESRCH | libc::ENOENT | libc::ENODEV)
}

/// Reads the group's ranges.
fn read<K: TableKernel>(kernel: &mut K, group: &mut Group) -> std::io::Result<Found> {
    let mut rules = kernel.rules()?;
    rules.retain(|rule| group.owns_priority(rule.priority));
    // Never the kernel's own tables (253 to 255), nor none.
    let led_to = rules
        .iter()
        .filter(|rule| rule.protocol == PROTOCOL && rule.rule.is_some())
        .map(|rule| rule.table)
        .filter(|table| !matches!(table, 0 | 253..=255));
    group.tables.extend(led_to);
    Ok(Found { routes: kernel.routes(&group.tables)?, rules })
}

impl Found {
    /// What stands after a change that succeeded.
    pub(super) fn take_in(&mut self, change: &TableChange) {
        match change {
            TableChange::CreateRoute(route) | TableChange::ReplaceRoute(route) => {
                self.routes.retain(|found| found.key != route.key);
                self.routes.push(FoundTableRoute::ours(route));
            }
            TableChange::DeleteRoute(route) => {
                self.routes.retain(|found| found.protocol != PROTOCOL || found.key != route.key);
            }
            TableChange::CreateRule(rule) => self.rules.push(FoundRule::ours(rule)),
            TableChange::DeleteRule(rule) => {
                self.rules.retain(|found| found.protocol != PROTOCOL || found.rule.as_ref() != Some(rule));
            }
        }
    }
}
