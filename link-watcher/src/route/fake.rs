//! Pretended kernels and sinks for tests.
#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use ipnet::IpNet;

use super::{
    Adopted, Change, Egress, FoundRoute, GroupRoutes, Nexthop, Notice, PROTOCOL, Report, RouteKernel, RouteKey,
    RouteSink,
};
use crate::{
    event::GroupId,
    system::{Address, KernelError, KernelEvent, RouteChange, RouteEvent},
};

/// The port id of the back-end under test.
const OWN_PORT: u32 = 4000;
/// That of whoever else changes routes.
const FOREIGN_PORT: u32 = 17;

/// A kernel, shared between a back-end and its test.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKernel(Rc<RefCell<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    /// What the kernel uses in each place.
    pub(crate) routes: BTreeMap<RouteKey, FoundRoute>,
    /// What stands behind it.
    pub(crate) behind: BTreeMap<RouteKey, Vec<FoundRoute>>,
    /// Prefixes of which the filter of the event socket lets foreign removals pass.
    pub(crate) vacancies: Vec<IpNet>,
    /// Every system call's changes.
    pub(crate) calls: Vec<Vec<Change>>,
    /// Events not fetched yet.
    pub(crate) events: Vec<KernelEvent>,
    /// Interfaces that are not there.
    pub(crate) absent: BTreeSet<u32>,
    /// The answers to the next call get lost, though it is carried out.
    pub(crate) lose_answers: bool,
    /// Dumps of a table by place.
    pub(crate) lookups: usize,
}

impl FakeKernel {
    pub(crate) fn state(&self) -> std::cell::RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// Somebody else writes a route.
    pub(crate) fn foreign_write(&self, route: FoundRoute) {
        let mut state = self.state();
        let change = if state.routes.contains_key(&route.key) { RouteChange::Replaced } else { RouteChange::Added };
        // The filter of the event socket.
        if change == RouteChange::Replaced || route.protocol == PROTOCOL {
            state.events.push(event(change, FOREIGN_PORT, &route));
        }
        state.routes.insert(route.key, route);
    }

    /// Somebody else puts a route before what is there (`ip route prepend`).
    pub(crate) fn foreign_prepend(&self, route: FoundRoute) {
        let mut state = self.state();
        let Some(first) = state.routes.insert(route.key, route.clone()) else { panic!("nothing stands there") };
        state.behind.entry(route.key).or_default().insert(0, first);
        state.events.push(event(RouteChange::Replaced, FOREIGN_PORT, &route));
    }

    /// Somebody else removes whatever is used there.
    pub(crate) fn foreign_delete(&self, key: &RouteKey) {
        let mut state = self.state();
        if let Some(route) = state.take_first(key)
            && (route.protocol == PROTOCOL || state.vacancies.contains(&key.prefix))
        {
            state.events.push(event(RouteChange::Removed, FOREIGN_PORT, &route));
        }
    }

    /// The kernel drops every route that refers to a nexthop object, and says nothing.
    pub(crate) fn drop_referring(&self, id: u32) {
        self.state().routes.retain(|_, route| route.egress != Some(Egress::Object(id)));
    }

    /// The kernel drops a route because its interface loses its address; of the route it says nothing.
    pub(crate) fn drop_silently(&self, key: &RouteKey) {
        let mut state = self.state();
        let Some(route) = state.take_first(key) else { return };
        let Some(Egress::Nexthops(nexthops)) = route.egress else { return };
        for Nexthop { ifindex, gateway, .. } in nexthops {
            let address =
                Address { address: gateway, prefix_len: 24, peer: None, scope: 0, tentative: false, secondary: false };
            state.events.push(KernelEvent::AddressRemoved { ifindex, address });
        }
    }
}

fn event(change: RouteChange, port_id: u32, route: &FoundRoute) -> KernelEvent {
    KernelEvent::Route(RouteEvent { change, port_id, route: route.clone() })
}

impl State {
    /// Every route of a place, the one that is used first.
    pub(crate) fn all(&self, key: &RouteKey) -> Vec<&FoundRoute> {
        self.routes.get(key).into_iter().chain(self.behind.get(key).into_iter().flatten()).collect()
    }

    fn take_first(&mut self, key: &RouteKey) -> Option<FoundRoute> {
        let first = self.routes.remove(key);
        if let Some(behind) = self.behind.get_mut(key).filter(|behind| !behind.is_empty()) {
            self.routes.insert(*key, behind.remove(0));
        }
        first
    }

    fn carry_out(&mut self, change: &Change) -> Result<(), i32> {
        let wanted = change.route();
        let there = self.routes.get(&wanted.key);
        match change {
            Change::Delete(_) => {
                // The owner and the next hops must match.
                let found = FoundRoute { key: wanted.key, protocol: PROTOCOL, egress: Some(wanted.egress.clone()) };
                if there == Some(&found) {
                    self.take_first(&wanted.key);
                } else {
                    let behind = self.behind.get_mut(&wanted.key).ok_or(libc::ESRCH)?;
                    let at = behind.iter().position(|route| *route == found).ok_or(libc::ESRCH)?;
                    behind.remove(at);
                }
                self.events.push(event(RouteChange::Removed, OWN_PORT, &found));
                return Ok(());
            }
            Change::Create(_) if there.is_some() => return Err(libc::EEXIST),
            Change::Create(_) | Change::Replace(_) | Change::Append(_) => {}
        }
        if self.absent.iter().any(|ifindex| wanted.egress.uses(*ifindex)) {
            return Err(libc::ENODEV);
        }
        let route = FoundRoute { key: wanted.key, protocol: PROTOCOL, egress: Some(wanted.egress.clone()) };
        if matches!(change, Change::Append(_)) && there.is_some() {
            if self.all(&wanted.key).contains(&&route) {
                return Err(libc::EEXIST);
            }
            self.events.push(event(RouteChange::Added, OWN_PORT, &route));
            self.behind.entry(wanted.key).or_default().push(route);
            return Ok(());
        }
        let change = if there.is_some() { RouteChange::Replaced } else { RouteChange::Added };
        self.events.push(event(change, OWN_PORT, &route));
        self.routes.insert(wanted.key, route);
        Ok(())
    }
}

impl RouteKernel for FakeKernel {
    fn port_id(&self) -> u32 {
        OWN_PORT
    }

    fn execute(&mut self, changes: &[Change]) -> io::Result<Vec<Result<(), KernelError>>> {
        let mut state = self.state();
        state.calls.push(changes.to_vec());
        let results = changes.iter().map(|change| state.carry_out(change).map_err(KernelError::new)).collect();
        if std::mem::take(&mut state.lose_answers) {
            return Err(io::Error::other("lost"));
        }
        Ok(results)
    }

    fn ours(&mut self) -> io::Result<Vec<FoundRoute>> {
        let state = self.state();
        let all = state.routes.keys().flat_map(|key| state.all(key));
        Ok(all.filter(|route| route.protocol == PROTOCOL).cloned().collect())
    }

    fn occupants(&mut self, places: &BTreeSet<RouteKey>) -> io::Result<Vec<FoundRoute>> {
        let mut state = self.state();
        state.lookups += 1;
        Ok(places.iter().filter_map(|key| state.routes.get(key).cloned()).collect())
    }

    fn process(&self, port_id: u32) -> String {
        format!("port {port_id}")
    }
}

/// A sink that records what it is asked for, and does it.
#[derive(Debug, Default)]
#[allow(dead_code)] // For whoever drives a sink.
pub(crate) struct RecordingRoutes {
    /// What the groups want, one behind the other.
    pub(crate) applied: Vec<(GroupId, GroupRoutes)>,
    /// What `adopt` finds.
    pub(crate) adoptable: BTreeMap<GroupId, Vec<Nexthop>>,
    /// Groups that were removed.
    pub(crate) removed: Vec<GroupId>,
    /// Whether everything was.
    pub(crate) removed_all: bool,
    /// Events.
    pub(crate) observed: Vec<KernelEvent>,
}

impl RouteSink for RecordingRoutes {
    async fn adopt(&mut self, _: u64, group: GroupId, _: &GroupRoutes) -> Adopted {
        let active = self.adoptable.get(&group).cloned().unwrap_or_default();
        Adopted { routes: active.len(), active }
    }

    async fn apply(&mut self, _: u64, group: GroupId, desired: &GroupRoutes) -> Report {
        self.applied.push((group, desired.clone()));
        Report { written: desired.prefixes.len(), ..self.report(group) }
    }

    async fn remove(&mut self, _: u64, group: GroupId) -> Report {
        self.removed.push(group);
        Report::default()
    }

    async fn remove_all(&mut self, _: u64) -> Report {
        self.removed_all = true;
        Report::default()
    }

    fn observe(&mut self, _: u64, event: &KernelEvent) -> Option<Notice> {
        self.observed.push(event.clone());
        None
    }

    fn next_deadline_ns(&self) -> u64 {
        u64::MAX
    }

    async fn tick(&mut self, _: u64) -> Vec<Notice> {
        Vec::new()
    }

    fn report(&self, group: GroupId) -> Report {
        let last = self.applied.iter().rev().find(|(id, _)| *id == group);
        Report { installed: last.map_or(0, |(_, desired)| desired.prefixes.len()), ..Report::default() }
    }
}
