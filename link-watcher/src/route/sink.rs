//! Which back-end serves each group, and the change from one to the other.
//!
//! Both stand while a group changes over: tables win over routes, because their rules come before the main table, and
//! both lead through the same links. Only when the new one stands completely does the old one go.

use std::collections::{BTreeMap, BTreeSet};

use super::{Adopted, BulkKernel, GroupRoutes, Notice, PeerTables, Report, RouteKernel, RouteSink, Routes};
use crate::{
    config::ActuationChoice,
    event::GroupId,
    system::{Filtered, KernelEvent},
};

/// Beyond so many prefixes tables are chosen: failing over takes some 4 ms by routes then.
const TABLES_ABOVE: usize = 1000;
/// Below so many they are left again.
const ROUTES_BELOW: usize = 500;
/// How long a group that tables could not serve is left to routes, ns.
const UNFIT_NS: u64 = 300_000_000_000;
/// `RT_TABLE_MAIN`.
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

/// Both back-ends behind one sink.
pub struct Actuation<R, T> {
    routes: Routes<R>,
    tables: PeerTables<T>,
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
    /// Why tables cannot serve it, and until when that is taken for granted, ns.
    unfit: Option<(&'static str, u64)>,
}

impl<R: RouteKernel, T: BulkKernel> Actuation<R, T> {
    /// Holds nothing yet.
    pub fn new(routes: R, tables: T) -> Self {
        Self {
            routes: Routes::new(routes),
            tables: PeerTables::new(tables),
            groups: BTreeMap::new(),
            notices: Vec::new(),
        }
    }

    /// Which events are needed. To be asked before each [`tick`](RouteSink::tick).
    pub fn filtered(&self) -> Filtered {
        Filtered { main_table: self.tables.follows_main(), without: vec![self.tables.port_id(), self.routes.port_id()] }
    }

    /// Whether tables serve the group.
    pub fn by_tables(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|served| served.by_tables)
    }

    /// Whether tables shall serve it.
    fn choose(&self, now_ns: u64, id: GroupId, desired: &GroupRoutes, by_tables: bool) -> bool {
        let unfit = self.groups.get(&id).and_then(|served| served.unfit);
        if desired.table != MAIN || self.tables.unfit(id).is_some() || unfit.is_some_and(|(_, end_ns)| now_ns < end_ns)
        {
            return false;
        }
        match desired.choice {
            ActuationChoice::Routes => false,
            ActuationChoice::Tables => true,
            ActuationChoice::Auto if by_tables => {
                desired.prefixes.len() >= ROUTES_BELOW || self.tables.waits_for_peer(now_ns, id)
            }
            ActuationChoice::Auto => desired.prefixes.len() > TABLES_ABOVE,
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
            } else if served.by_tables && served.by_routes && self.tables.settled(id) {
                let (group, prefixes) = (id, served.desired.prefixes.len());
                let none = GroupRoutes { prefixes: Default::default(), ..served.desired.clone() };
                self.routes.apply(now_ns, id, &none).await;
                self.routes.remove(now_ns, id).await;
                self.notices.push(Notice::Handed { group, tables: true, prefixes });
                if let Some(served) = self.groups.get_mut(&id) {
                    served.by_routes = false;
                }
            }
        }
    }
}

impl<R: RouteKernel, T: BulkKernel> RouteSink for Actuation<R, T> {
    async fn adopt(&mut self, now_ns: u64, group: GroupId, desired: &GroupRoutes) -> Adopted {
        let by_routes = self.routes.adopt(now_ns, group, desired).await;
        let by_tables = self.tables.adopt(now_ns, group, desired, self.routes.tables_in_use(now_ns));
        let served = Served {
            desired: desired.clone(),
            by_tables: self.tables.serves(group),
            by_routes: by_routes.routes > 0,
            unfit: None,
        };
        self.groups.entry(group).or_insert(served);
        let active = if by_tables.active.is_empty() { by_routes.active } else { by_tables.active };
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
            unfit: None,
        });
        served.desired.clone_from(desired);
        served.by_tables = by_tables;
        self.tables.claim(id, desired);
        if by_tables {
            let mut report = self.tables.apply(now_ns, id, desired);
            if by_routes {
                // They still carry what the tables do not have yet.
                report = self.routes.apply(now_ns, id, desired).await;
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
        let report = self.routes.apply(now_ns, id, desired).await;
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
        Report { written: report.written + written, ..report }
    }

    async fn remove_all(&mut self, now_ns: u64) -> Report {
        let ids: BTreeSet<GroupId> = self.groups.keys().copied().collect();
        let written: usize = ids.into_iter().map(|id| self.tables.clear(now_ns, id)).sum();
        self.groups.clear();
        let report = self.routes.remove_all(now_ns).await;
        Report { written: report.written + written, ..report }
    }

    fn observe(&mut self, now_ns: u64, event: &KernelEvent) -> Option<Notice> {
        let notice = self.tables.observe(now_ns, event);
        self.routes.observe(now_ns, event).or(notice)
    }

    fn next_deadline_ns(&self) -> u64 {
        self.routes.next_deadline_ns().min(self.tables.next_deadline_ns())
    }

    async fn tick(&mut self, now_ns: u64) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.tables.next_deadline_ns() <= now_ns {
            notices.extend(self.tables.tick(now_ns));
            self.change_over(now_ns).await;
        }
        if self.routes.next_deadline_ns() <= now_ns {
            notices.extend(self.routes.tick(now_ns).await);
        }
        notices.append(&mut self.notices);
        notices
    }

    fn report(&self, group: GroupId) -> Report {
        match self.groups.get(&group) {
            Some(served) if served.by_tables && !served.by_routes => self.tables.report(group),
            _ => self.routes.report(group),
        }
    }
}
