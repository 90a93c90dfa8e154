//! Which back-end serves each group, and the change from one to the other.
//!
//! Both stand while a group changes over: tables win over routes, because their rules come before the main table, and
//! both lead through the same links. Only when the new one stands completely does the old one go.
//!
//! Nexthop groups need routes that refer to them, which the back-end of routes writes: there they are only another place
//! where routes lead, so that a change from or to next hops is a replacement of each. A failover leaves the routes alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Adopted, BulkKernel, GroupRoutes, LearnedRoute, MAIN_TABLE, NexthopGroups, Notice, ObjectKernel, PeerTables,
    Report, RouteBackend, RouteKernel, RouteSink, Routes, Why,
};
use crate::{
    event::GroupId,
    system::{Filtered, KernelEvent},
};

/// Beyond so many prefixes tables are chosen: failing over takes some 4 ms by routes then.
const TABLES_ABOVE: usize = 1000;
/// Below so many they are left again.
const ROUTES_BELOW: usize = 500;
/// How long a group that tables could not serve is left to routes, ns.
const UNFIT_NS: u64 = 300_000_000_000;

/// All back-ends behind one sink.
pub struct Actuation<R, T, N> {
    routes: Routes<R>,
    tables: PeerTables<T>,
    nexthops: NexthopGroups<N>,
    /// What each group wants, and how it is served.
    groups: BTreeMap<GroupId, Served>,
    notices: Vec<Notice>,
}

/// A group.
struct Served {
    desired: GroupRoutes,
    by_tables: bool,
    /// It has routes in its own table, too.
    by_routes: bool,
    /// Its routes refer to nexthop groups: what the back-end of routes was last told to do.
    carried: Option<GroupRoutes>,
    /// How these routes stood then.
    report: Report,
    /// Why tables or nexthop groups cannot serve it, and until when that is taken for granted, ns.
    unfit: Option<(&'static str, u64)>,
}

impl<R: RouteKernel, T: BulkKernel, N: ObjectKernel> Actuation<R, T, N> {
    /// Holds nothing yet.
    pub fn new(routes: R, tables: T, nexthops: N) -> Self {
        Self {
            routes: Routes::new(routes),
            tables: PeerTables::new(tables),
            nexthops: NexthopGroups::new(nexthops),
            groups: BTreeMap::new(),
            notices: Vec::new(),
        }
    }

    /// Which events are needed. To be asked before each [`tick`](RouteSink::tick).
    pub fn filtered(&self) -> Filtered {
        Filtered {
            main_table: self.tables.follows_main(),
            protocols: self.tables.followed().iter().copied().collect(),
            nexthops: self.nexthops.follows(),
            vacancies: self.routes.vacancies(),
            without: vec![self.tables.port_id(), self.routes.port_id(), self.nexthops.port_id()],
        }
    }

    /// Follows the routes of these protocols in the main table, whoever makes them.
    pub fn follow(&mut self, now_ns: u64, protocols: &BTreeSet<u8>) {
        self.tables.follow(now_ns, protocols);
    }

    /// The routes of the protocols that are followed, in order, and a number that grows with each change; no routes if there are
    /// too many to follow.
    pub fn learned(&self) -> (Option<&[LearnedRoute]>, u64) {
        self.tables.learned()
    }

    /// Whether tables serve the group.
    pub fn by_tables(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|served| served.by_tables)
    }

    /// The group will be removed shortly, when what takes its place stands.
    pub fn give_up(&mut self, now_ns: u64, group: GroupId) {
        self.routes.give_up(now_ns, group);
        self.tables.give_up(group);
    }

    /// Whether what the group wants stands as far as the kernel takes it, so that nothing else need carry its traffic.
    pub fn stands(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|served| !served.by_tables || self.tables.in_sync(group))
    }

    /// Whether something of the group is in the kernel still, or about to be.
    pub fn serves(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group) || self.tables.serves(group) || self.nexthops.serves(group)
    }

    /// Whether tables shall serve it.
    fn choose(&self, now_ns: u64, id: GroupId, desired: &GroupRoutes, by_tables: bool) -> bool {
        let unfit = self.groups.get(&id).and_then(|served| served.unfit);
        if desired.table != MAIN_TABLE
            || self.tables.unfit(id).is_some()
            || unfit.is_some_and(|(_, end_ns)| now_ns < end_ns)
        {
            return false;
        }
        match desired.choice {
            RouteBackend::Routes | RouteBackend::Nexthop => false,
            RouteBackend::Tables => true,
            RouteBackend::Auto if by_tables => {
                desired.prefixes.len() >= ROUTES_BELOW || self.tables.waits_for_peer(now_ns, id)
            }
            RouteBackend::Auto => desired.prefixes.len() > TABLES_ABOVE,
        }
    }

    /// Ends changes that are complete, and begins those that have become due by themselves.
    async fn change_over(&mut self, now_ns: u64) {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let Some(served) = self.groups.get(&id) else { continue };
            if self.choose(now_ns, id, &served.desired, served.by_tables) != served.by_tables {
                let desired = served.desired.clone();
                self.apply(now_ns, id, &desired).await;
            } else if served.by_tables && served.by_routes && self.tables.in_sync(id) {
                let (group, prefixes) = (id, served.desired.prefixes.len());
                let none = GroupRoutes { prefixes: Default::default(), ..served.desired.clone() };
                self.routes.apply(now_ns, id, &none).await;
                self.routes.remove(now_ns, id).await;
                self.nexthops.release(id);
                self.notices.push(Notice::Handed { group, tables: true, prefixes });
                if let Some(served) = self.groups.get_mut(&id) {
                    served.by_routes = false;
                }
            }
        }
    }

    /// Has the group served by routes, through nexthop groups where these are chosen and to be had.
    async fn apply_routes(&mut self, now_ns: u64, id: GroupId, desired: &GroupRoutes) -> Report {
        let Some(served) = self.groups.get_mut(&id) else { return Report::default() };
        let refused = served.unfit.is_some_and(|(_, end_ns)| now_ns < end_ns);
        if desired.choice == RouteBackend::Nexthop && !refused {
            match self.nexthops.apply(now_ns, id, desired) {
                Ok(written) => {
                    let mut report = self.refer(now_ns, id, desired).await;
                    report.written += written;
                    return report;
                }
                Err(why) => {
                    if served.unfit.is_none_or(|(said, _)| said != why) {
                        self.notices.push(Notice::Unfit { group: id, why });
                    }
                    served.unfit = Some((why, now_ns + UNFIT_NS));
                }
            }
        }
        served.carried = None;
        let report = self.routes.apply(now_ns, id, desired).await;
        self.drop_objects(id);
        report
    }

    /// Makes the group's routes refer to its nexthop groups, unless they do.
    async fn refer(&mut self, now_ns: u64, id: GroupId, desired: &GroupRoutes) -> Report {
        for lost in self.nexthops.take_lost() {
            self.routes.lost(now_ns, lost);
        }
        let Some(served) = self.groups.get(&id) else { return Report::default() };
        // Only what concerns the routes, so that a failover changes nothing here.
        let referring = GroupRoutes {
            active: Vec::new(),
            backups: Vec::new(),
            links: Vec::new(),
            objects: Some(self.nexthops.objects(id)),
            ..desired.clone()
        };
        // Never by comparing lists, which may be long: the same one again costs the back-end of routes nothing but time.
        let same = |carried: &GroupRoutes| {
            let place = |routes: &GroupRoutes| (routes.table, routes.metric, routes.range, routes.objects);
            Arc::ptr_eq(&carried.prefixes, &referring.prefixes) && place(carried) == place(&referring)
        };
        if served.carried.as_ref().is_some_and(same) {
            return Report { written: 0, ..served.report.clone() };
        }
        let report = self.routes.apply(now_ns, id, &referring).await;
        let report = self.explain(id, report);
        if let Some(served) = self.groups.get_mut(&id) {
            (served.carried, served.report) = (Some(referring), report.clone());
        }
        report
    }

    /// What follows from a change of nexthop groups that nobody asked for.
    async fn follow_objects(&mut self, now_ns: u64) {
        for lost in self.nexthops.take_lost() {
            self.routes.lost(now_ns, lost);
        }
        let ids: Vec<GroupId> = self.groups.keys().copied().filter(|id| self.nexthops.serves(*id)).collect();
        for id in ids {
            let Some(served) = self.groups.get(&id) else { continue };
            let objects = Some(self.nexthops.objects(id));
            match &served.carried {
                None => self.drop_objects(id),
                Some(carried) if carried.objects != objects || self.nexthops.unfit(id).is_some() => {
                    let desired = served.desired.clone();
                    self.apply(now_ns, id, &desired).await;
                }
                Some(_) => {}
            }
        }
    }

    /// Removes nexthop objects that no route of ours refers to any more, if they are not to be used.
    fn drop_objects(&mut self, id: GroupId) {
        if self.nexthops.serves(id) && !self.routes.refers_to_objects(id) {
            self.nexthops.release(id);
        }
    }

    /// Says why there is no nexthop group, where prefixes lack one.
    fn explain(&self, id: GroupId, mut report: Report) -> Report {
        if let Some(error) = self.nexthops.error(id) {
            for refusal in report.refused.iter_mut().filter(|refusal| refusal.why == Why::NoNexthop) {
                refusal.why = Why::Kernel(error.clone());
            }
        }
        report
    }
}

impl<R: RouteKernel, T: BulkKernel, N: ObjectKernel> RouteSink for Actuation<R, T, N> {
    async fn adopt(&mut self, now_ns: u64, group: GroupId, desired: &GroupRoutes) -> Adopted {
        let by_routes = self.routes.adopt(now_ns, group, desired).await;
        let by_tables = self.tables.adopt(now_ns, group, desired, self.routes.tables_in_use(now_ns));
        let by_objects = self.nexthops.adopt(now_ns, group, desired);
        let served = Served {
            desired: desired.clone(),
            by_tables: self.tables.serves(group),
            by_routes: by_routes.routes > 0,
            carried: None,
            report: Report::default(),
            unfit: None,
        };
        self.groups.entry(group).or_insert(served);
        let found = [by_tables.active, by_objects.active, by_routes.active];
        let active = found.into_iter().find(|active| !active.is_empty()).unwrap_or_default();
        Adopted { active, routes: by_routes.routes + by_tables.routes }
    }

    async fn apply(&mut self, now_ns: u64, id: GroupId, desired: &GroupRoutes) -> Report {
        let (was_by_tables, by_routes) =
            self.groups.get(&id).map_or((false, false), |served| (served.by_tables, served.by_routes));
        let by_tables = self.choose(now_ns, id, desired, was_by_tables);
        let served = self.groups.entry(id).or_insert_with(|| Served {
            desired: desired.clone(),
            by_tables,
            by_routes: false,
            carried: None,
            report: Report::default(),
            unfit: None,
        });
        served.desired.clone_from(desired);
        served.by_tables = by_tables;
        self.tables.claim(id, desired);
        if by_tables {
            let mut report = self.tables.apply(now_ns, id, desired);
            if by_routes {
                // They still carry what the tables do not have yet.
                report = self.apply_routes(now_ns, id, desired).await;
            }
            return report;
        }
        served.by_routes = true;
        if let Some(why) = self.tables.unfit(id).filter(|_| self.tables.serves(id)) {
            if served.unfit.is_none_or(|(said, _)| said != why) {
                self.notices.push(Notice::Unfit { group: id, why });
            }
            served.unfit = Some((why, now_ns + UNFIT_NS));
        }
        let report = self.apply_routes(now_ns, id, desired).await;
        if self.tables.serves(id) {
            // The routes stand now.
            self.tables.release(now_ns, id);
            if was_by_tables {
                let prefixes = desired.prefixes.len();
                self.notices.push(Notice::Handed { group: id, tables: false, prefixes });
            }
        }
        report
    }

    async fn remove(&mut self, now_ns: u64, group: GroupId) -> Report {
        self.groups.remove(&group);
        self.tables.disclaim(group);
        let written = self.tables.release(now_ns, group);
        let report = self.routes.remove(now_ns, group).await;
        let objects = self.nexthops.release(group);
        Report { written: report.written + written + objects, ..report }
    }

    async fn remove_all(&mut self, now_ns: u64) -> Report {
        let ids: BTreeSet<GroupId> = self.groups.keys().copied().collect();
        let written: usize = ids.iter().map(|id| self.tables.clear(now_ns, *id)).sum();
        self.groups.clear();
        let report = self.routes.remove_all(now_ns).await;
        let written = written + ids.into_iter().map(|id| self.nexthops.release(id)).sum::<usize>();
        Report { written: report.written + written, ..report }
    }

    fn observe(&mut self, now_ns: u64, event: &KernelEvent) -> Option<Notice> {
        let notice = self.tables.observe(now_ns, event);
        self.nexthops.observe(now_ns, event);
        self.routes.observe(now_ns, event).or(notice)
    }

    fn next_deadline_ns(&self) -> u64 {
        if !self.notices.is_empty() {
            return 0;
        }
        self.routes.next_deadline_ns().min(self.tables.next_deadline_ns()).min(self.nexthops.next_deadline_ns())
    }

    async fn tick(&mut self, now_ns: u64) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.tables.next_deadline_ns() <= now_ns {
            notices.extend(self.tables.tick(now_ns));
            self.change_over(now_ns).await;
        }
        // Groups before the routes that refer to them.
        if self.nexthops.next_deadline_ns() <= now_ns {
            notices.extend(self.nexthops.tick(now_ns));
            self.follow_objects(now_ns).await;
        }
        if self.routes.next_deadline_ns() <= now_ns {
            notices.extend(self.routes.tick(now_ns).await);
            for (id, served) in self.groups.iter_mut().filter(|(_, served)| served.carried.is_some()) {
                served.report = self.routes.report(*id);
            }
        }
        notices.append(&mut self.notices);
        notices
    }

    fn report(&self, group: GroupId) -> Report {
        match self.groups.get(&group) {
            Some(served) if served.by_tables && !served.by_routes => self.tables.report(group),
            Some(served) if served.carried.is_some() => self.explain(group, self.routes.report(group)),
            _ => self.routes.report(group),
        }
    }
}
