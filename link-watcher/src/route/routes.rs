//! The route back-end: what it holds for each group, and what stands of it.

mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Adopted, Egress, FoundRoute, GroupRoutes, Nexthop, Notice, PROTOCOL, Refusal, Report, RouteKernel, RouteKey,
    RouteSink, TableRange, Why, effective_metric, plan::Wanted,
};
use crate::{
    event::GroupId,
    system::{KernelError, KernelEvent, MAX_VACANCIES},
};

/// How long a route of an earlier run may wait until something wants it, ns.
pub(super) const ORPHAN_GRACE_NS: u64 = 120_000_000_000;
/// Time between two comparisons of all routes without any other reason, ns.
pub(super) const PERIOD_NS: u64 = 30_000_000_000;
/// The same while the kernel refuses a route, ns.
pub(super) const RETRY_NS: u64 = 5_000_000_000;
/// Next hops remembered for each group; beyond it only the newest count.
const KNOWN_MAX: usize = 1024;

/// The route back-end over a kernel.
pub struct Routes<K> {
    pub(super) kernel: K,
    pub(super) groups: BTreeMap<GroupId, Group>,
    /// Places where somebody else's route stands, with its protocol as far as known.
    pub(super) refused: BTreeMap<RouteKey, Option<u8>>,
    /// What was refused before the comparison that is going on, which tries again.
    pub(super) suspects: BTreeMap<RouteKey, Option<u8>>,
    /// What the kernel did not want.
    pub(super) failed: BTreeMap<RouteKey, KernelError>,
    pub(super) fights: BTreeMap<RouteKey, Fight>,
    /// What the kernel had at an instant: all groups of a start look at once. Gone with the first thing written.
    looked: Option<Looked>,
    /// A place may have become free that a group waits for.
    pub(super) freed: bool,
    /// When the routes are to be compared again, and when they last were, ns.
    pub(super) due_ns: u64,
    pub(super) compared_ns: u64,
    /// Before this instant no table is read for what stands before ours, ns.
    pub(super) look_ns: u64,
}

/// Routes of all instances at one instant.
struct Looked {
    at_ns: u64,
    routes: Vec<FoundRoute>,
    tables: BTreeSet<u32>,
}

/// A group, what it wants and what it has.
#[derive(Default)]
pub(super) struct Group {
    pub(super) wanted: Wanted,
    /// Places that are ours, and what stands there.
    pub(super) held: BTreeMap<RouteKey, Egress>,
    /// Next hops of its links: what leads through these only, and has our protocol, is ours.
    pub(super) known: BTreeSet<(u32, IpAddr)>,
    /// Ids of its nexthop objects, whether it has any or not: the same holds of these.
    pub(super) range: TableRange,
    /// Of the held places those from an earlier run that nothing has wanted yet.
    pub(super) orphans: BTreeSet<RouteKey>,
    /// When these go, ns.
    pub(super) orphans_until_ns: u64,
    /// Places that were written to, but the answer was lost.
    pub(super) unsure: BTreeSet<RouteKey>,
    /// Of the held places those that may be empty, or somebody else's by now: to be taken like any other.
    pub(super) unverified: BTreeSet<RouteKey>,
}

impl Group {
    /// Whether a route was made for this group, by us or by an earlier run.
    pub(super) fn recognises(&self, found: &FoundRoute) -> bool {
        found.protocol == PROTOCOL
            && match &found.egress {
                Some(Egress::Nexthops(nexthops)) => {
                    nexthops.iter().all(|nexthop| self.known.contains(&(nexthop.ifindex, nexthop.gateway)))
                }
                Some(Egress::Object(id)) => self.range.has(*id),
                None => false,
            }
    }

    /// Enters a route that was found and is recognised, unless something stands there already.
    pub(super) fn hold(&mut self, found: &FoundRoute) {
        if let Some(egress) = &found.egress {
            self.held.entry(found.key).or_insert_with(|| egress.clone());
        }
    }

    pub(super) fn stands(&self, key: &RouteKey) -> bool {
        self.held.get(key).is_some_and(|egress| self.wanted.routes.get(key) == Some(egress))
    }

    fn know(&mut self, nexthops: &[Nexthop]) {
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        self.known.extend(nexthops.iter().map(|nexthop| (nexthop.ifindex, nexthop.gateway)));
    }
}

/// Somebody keeps changing a route of ours.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fight {
    /// Repairs so far.
    pub(super) repairs: u32,
    /// Earliest time of the next one, ns.
    pub(super) next_ns: u64,
    /// A repair is due then.
    pub(super) broken: bool,
    /// Who: netlink port id.
    pub(super) port_id: u32,
}

/// Why routes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something else is wanted.
    Request,
    /// Something is not as it was: fights wait for their time.
    Repair,
}

impl<K: RouteKernel> Routes<K> {
    /// A back-end that holds nothing yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            groups: BTreeMap::new(),
            refused: BTreeMap::new(),
            suspects: BTreeMap::new(),
            failed: BTreeMap::new(),
            fights: BTreeMap::new(),
            looked: None,
            freed: false,
            due_ns: u64::MAX,
            compared_ns: 0,
            look_ns: 0,
        }
    }

    /// The port id that events caused by our own requests carry.
    pub fn port_id(&self) -> u32 {
        self.kernel.port_id()
    }

    /// Tables that hold a route of this or another instance, as they were at `now_ns`; nothing if that is unknown.
    pub(super) fn tables_in_use(&self, now_ns: u64) -> Option<&BTreeSet<u32>> {
        self.looked.as_ref().filter(|looked| looked.at_ns == now_ns).map(|looked| &looked.tables)
    }

    /// Prefixes of places that wait for the route of somebody else's to go.
    pub(super) fn vacancies(&self) -> Vec<IpNet> {
        // One more than the filter can name.
        self.refused.keys().map(|key| key.prefix).take(MAX_VACANCIES + 1).collect()
    }

    /// Reads all routes with our protocol, once for an instant.
    fn look(&mut self, now_ns: u64) -> std::io::Result<()> {
        if self.tables_in_use(now_ns).is_none() {
            let routes = self.kernel.ours()?;
            let tables = routes.iter().map(|route| route.key.table).collect();
            self.looked = Some(Looked { at_ns: now_ns, routes, tables });
        }
        Ok(())
    }

    /// Brings comparison forward to `at_ns`.
    pub(super) fn due(&mut self, at_ns: u64) {
        self.due_ns = self.due_ns.min(at_ns);
    }

    /// A group that will be removed shortly: what it has stands until another one wants the place, or it is removed.
    pub fn give_up(&mut self, now_ns: u64, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.wanted = Wanted::default();
        group.orphans = group.held.keys().copied().collect();
        group.orphans_until_ns = now_ns + ORPHAN_GRACE_NS;
        self.due(now_ns + ORPHAN_GRACE_NS);
    }

    /// Whether a wanted route is in the kernel: of one that somebody changed since the last comparison this is not known, and
    /// the next one waits as long as the fight says.
    fn is_there(&self, group: &Group, key: &RouteKey) -> bool {
        group.stands(key) && !(group.unverified.contains(key) && self.fights.contains_key(key))
    }

    /// Why a wanted route does not stand.
    fn why(&self, id: GroupId, key: &RouteKey) -> Why {
        if let Some(protocol) = self.refused.get(key) {
            Why::Foreign(*protocol)
        } else if let Some(error) = self.failed.get(key) {
            Why::Kernel(error.clone())
        } else if let Some(other) = self.other_holder(id, key) {
            Why::OtherGroup(other)
        } else {
            Why::Waiting
        }
    }

    /// Forgets refusals and errors in places that no group wants, or holds still.
    pub(super) fn prune(&mut self) {
        let groups = &self.groups;
        let wanted = |key: &RouteKey| {
            groups.values().any(|group| group.wanted.routes.contains_key(key) || group.held.contains_key(key))
        };
        self.refused.retain(|key, _| wanted(key));
        self.fights.retain(|key, _| wanted(key));
        self.failed.retain(|key, _| wanted(key));
    }

    async fn remove_groups(&mut self, now_ns: u64, ids: &[GroupId]) -> Report {
        let mut report = Report::default();
        for id in ids {
            if let Some(group) = self.groups.get_mut(id) {
                group.wanted = Wanted::default();
                group.orphans.clear();
            }
            match self.sync(now_ns, *id, Cause::Request).await {
                Ok(written) => report.written += written,
                Err(error) => report.error = Some(error),
            }
            let Some(group) = self.groups.get(id) else { continue };
            report.refused.extend(group.held.keys().map(|key| Refusal { prefix: key.prefix, why: self.why(*id, key) }));
            self.groups.remove(id);
        }
        self.prune();
        // Another group may have waited for a place that is free now.
        self.freed = true;
        self.due(now_ns);
        report
    }
}

impl<K: RouteKernel> RouteSink for Routes<K> {
    async fn adopt(&mut self, now_ns: u64, group: GroupId, desired: &GroupRoutes) -> Adopted {
        let GroupRoutes { table, metric, links, .. } = desired;
        self.due(now_ns + PERIOD_NS);
        let entry = self.groups.entry(group).or_default();
        entry.know(links);
        entry.range = desired.range;
        // Places that are refused or vanish meanwhile are found by the comparison that follows a failure.
        if self.look(now_ns).is_err() {
            self.freed = true;
            self.due(now_ns);
            return Adopted::default();
        }
        let (Some(entry), Some(looked)) = (self.groups.get(&group), &self.looked) else { return Adopted::default() };
        let held = |key: &RouteKey| self.groups.values().any(|group| group.held.contains_key(key));
        let found = looked.routes.iter().filter(|route| route.key.table == *table);
        let found: Vec<FoundRoute> =
            found.filter(|route| entry.recognises(route) && !held(&route.key)).cloned().collect();
        let Some(entry) = self.groups.get_mut(&group) else { return Adopted::default() };
        let mut carriers: BTreeMap<Vec<Nexthop>, usize> = BTreeMap::new();
        let routes = found.len();
        for route in found {
            if let Some(Egress::Nexthops(nexthops)) = &route.egress
                && route.key.metric == effective_metric(&route.key.prefix, *metric)
            {
                *carriers.entry(nexthops.clone()).or_default() += 1;
            }
            entry.hold(&route);
            entry.orphans.insert(route.key);
        }
        entry.orphans_until_ns = now_ns + ORPHAN_GRACE_NS;
        if routes > 0 {
            self.due(now_ns + ORPHAN_GRACE_NS);
        }
        let active = carriers.into_iter().max_by_key(|(_, count)| *count).map(|(nexthops, _)| nexthops);
        Adopted { active: active.unwrap_or_default(), routes }
    }

    async fn apply(&mut self, now_ns: u64, group: GroupId, desired: &GroupRoutes) -> Report {
        self.looked = None;
        self.due(now_ns + PERIOD_NS);
        let entry = self.groups.entry(group).or_default();
        entry.know(&desired.active);
        entry.know(&desired.backups);
        entry.range = desired.range;
        let wanted = Wanted::of(desired);
        entry.orphans.retain(|key| !wanted.routes.contains_key(key));
        let fewer = entry.wanted.routes.keys().any(|key| !wanted.routes.contains_key(key));
        // Another next hop may be what the kernel accepts.
        for key in wanted.routes.keys() {
            self.failed.remove(key);
        }
        entry.wanted = wanted;
        if fewer {
            self.prune();
        }
        let result = self.sync(now_ns, group, Cause::Request).await;
        if !self.failed.is_empty() {
            self.due(now_ns + RETRY_NS);
        }
        if fewer && self.groups.len() > 1 && self.incomplete() {
            // Another group may have waited for a place that is free now.
            self.freed = true;
            self.due(now_ns);
        }
        let mut report = self.report(group);
        match result {
            Ok(written) => report.written = written,
            Err(error) => report.error = Some(error),
        }
        report
    }

    async fn remove(&mut self, now_ns: u64, group: GroupId) -> Report {
        self.remove_groups(now_ns, &[group]).await
    }

    async fn remove_all(&mut self, now_ns: u64) -> Report {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        self.remove_groups(now_ns, &ids).await
    }

    fn observe(&mut self, now_ns: u64, event: &KernelEvent) -> Option<Notice> {
        self.notice(now_ns, event)
    }

    fn next_deadline_ns(&self) -> u64 {
        self.due_ns
    }

    async fn tick(&mut self, now_ns: u64) -> Vec<Notice> {
        if now_ns < self.due_ns {
            return Vec::new();
        }
        if !self.cheap() && !self.needs_comparison(now_ns) {
            self.due_ns = now_ns + PERIOD_NS;
            return Vec::new();
        }
        self.compare(now_ns).await
    }

    fn report(&self, group: GroupId) -> Report {
        let mut report = Report::default();
        let Some(entry) = self.groups.get(&group) else { return report };
        for (prefix, lead) in &entry.wanted.leads {
            match lead {
                None => report.refused.push(Refusal { prefix: *prefix, why: Why::NoNexthop }),
                Some(key) if self.is_there(entry, key) && !self.refused.contains_key(key) => report.installed += 1,
                Some(key) => report.refused.push(Refusal { prefix: *prefix, why: self.why(group, key) }),
            }
        }
        for key in entry.wanted.routes.keys().filter(|key| !entry.wanted.is_lead(key)) {
            if !self.is_there(entry, key) {
                report.backups_refused.push(Refusal { prefix: key.prefix, why: self.why(group, key) });
            }
        }
        report
    }
}
