//! A pretended kernel for tests.
#![allow(clippy::unwrap_used)]

use std::{
    cell::{RefCell, RefMut},
    cmp::Reverse,
    collections::BTreeSet,
    io,
    net::IpAddr,
    rc::Rc,
};

use super::{
    BulkKernel, Family, FoundRoute, FoundRule, FoundTableRoute, PROTOCOL, Portion, TableChange, TableKernel, Way,
};
use crate::system::{KernelError, KernelEvent, RouteChange, RouteEvent};

/// The port id of the back-end under test.
const OWN_PORT: u32 = 4000;
/// That of whoever else changes something.
const FOREIGN_PORT: u32 = 17;

/// A kernel with one route a place, shared between a back-end and its test.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKernel(Rc<RefCell<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) routes: Vec<FoundTableRoute>,
    pub(crate) rules: Vec<FoundRule>,
    /// Every system call's changes.
    pub(crate) calls: Vec<Vec<TableChange>>,
    /// What is left to read in portions.
    pub(crate) unread: Vec<FoundTableRoute>,
    /// How often routes were read.
    pub(crate) reads: usize,
    /// Interfaces that are not there.
    pub(crate) absent: BTreeSet<u32>,
    /// Destinations that must never lose their way, and those that did.
    pub(crate) watched: Vec<IpAddr>,
    pub(crate) stranded: Vec<String>,
    /// The answers to the next call get lost, though it is carried out.
    pub(crate) lose_answers: bool,
}

impl FakeKernel {
    pub(crate) fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// Somebody else removes a route; gives the event.
    pub(crate) fn foreign_delete(&self, at: usize) -> KernelEvent {
        let route = self.state().routes.remove(at);
        let found = FoundRoute { key: route.key, protocol: route.protocol, egress: None };
        KernelEvent::Route(RouteEvent { change: RouteChange::Removed, port_id: FOREIGN_PORT, route: found })
    }

    /// Somebody else removes a rule; gives the event.
    pub(crate) fn foreign_delete_rule(&self, at: usize) -> KernelEvent {
        let rule = self.state().rules.remove(at);
        KernelEvent::Rule { removed: true, port_id: FOREIGN_PORT, rule }
    }

    /// The routes through an interface go, and the kernel says nothing of them.
    pub(crate) fn drop_interface(&self, ifindex: u32) -> KernelEvent {
        let through = |route: &FoundTableRoute| match &route.way {
            Some(Way::Through { hops, .. }) => hops.iter().any(|hop| hop.ifindex == ifindex),
            _ => false,
        };
        let mut state = self.state();
        state.routes.retain(|route| !through(route));
        state.absent.insert(ifindex);
        KernelEvent::LinkRemoved { ifindex, name: String::new() }
    }

    /// Our routes and rules as text, in order.
    pub(crate) fn ours(&self) -> BTreeSet<String> {
        let state = self.state();
        let routes = state.routes.iter().filter(|route| route.protocol == PROTOCOL);
        let rules = state.rules.iter().filter(|rule| rule.protocol == PROTOCOL);
        let rules = rules.map(|rule| rule.rule.map_or_else(|| format!("{rule:?}"), |rule| rule.to_string()));
        routes.map(|route| format!("{}: {:?}", route.key, route.way)).chain(rules).collect()
    }
}

impl State {
    /// Where a packet goes: the table and the next hops; nothing where no rule leads it out.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<(u32, Vec<u32>)> {
        let mut rules: Vec<&FoundRule> = self.rules.iter().collect();
        rules.sort_by_key(|rule| rule.priority);
        let tables = rules.iter().filter(|rule| (rule.family == Family::V4) == address.is_ipv4());
        for table in tables.map(|rule| rule.table).chain([254]) {
            let inside = |route: &&FoundTableRoute| route.key.table == table && route.key.prefix.contains(&address);
            let longest = self.routes.iter().filter(inside);
            let best = longest.min_by_key(|route| (Reverse(route.key.prefix.prefix_len()), route.key.metric));
            if let Some(Way::Through { hops, .. }) = best.and_then(|route| route.way.as_ref()) {
                return Some((table, hops.iter().map(|hop| hop.ifindex).collect()));
            }
        }
        None
    }

    fn carry_out(&mut self, change: &TableChange) -> Result<(), i32> {
        match change {
            TableChange::CreateRoute(route) | TableChange::ReplaceRoute(route) => {
                if let Way::Through { hops, .. } = &route.way
                    && hops.iter().any(|hop| self.absent.contains(&hop.ifindex))
                {
                    return Err(libc::ENODEV);
                }
                let there = self.routes.iter().position(|other| other.key == route.key);
                if matches!(change, TableChange::CreateRoute(_)) && there.is_some() {
                    return Err(libc::EEXIST);
                }
                if let Some(there) = there {
                    assert_eq!(self.routes[there].protocol, PROTOCOL, "a foreign route is replaced: {change}");
                    self.routes.remove(there);
                }
                self.routes.push(FoundTableRoute::ours(route));
            }
            TableChange::DeleteRoute(route) => {
                // A removal without next hops is of whatever there is.
                let any = matches!(&route.way, Way::Through { hops, .. } if hops.is_empty());
                let same = |other: &FoundTableRoute| {
                    if any {
                        (other.key, other.protocol) == (route.key, PROTOCOL)
                    } else {
                        *other == FoundTableRoute::ours(route)
                    }
                };
                let at = self.routes.iter().position(same).ok_or(libc::ESRCH)?;
                self.routes.remove(at);
            }
            TableChange::CreateRule(rule) => {
                if self.rules.iter().any(|other| other.protocol == PROTOCOL && other.rule == Some(*rule)) {
                    return Err(libc::EEXIST);
                }
                self.rules.push(FoundRule::ours(rule));
            }
            TableChange::DeleteRule(rule) => {
                let same = |other: &FoundRule| other.protocol == PROTOCOL && other.rule == Some(*rule);
                let at = self.rules.iter().position(same).ok_or(libc::ENOENT)?;
                self.rules.remove(at);
            }
        }
        Ok(())
    }
}

impl TableKernel for FakeKernel {
    fn port_id(&self) -> u32 {
        OWN_PORT
    }

    fn execute(&mut self, changes: &[TableChange]) -> io::Result<Vec<Result<(), KernelError>>> {
        let mut state = self.state();
        state.calls.push(changes.to_vec());
        let mut results = Vec::new();
        for change in changes {
            let before: Vec<IpAddr> =
                state.watched.iter().copied().filter(|address| state.lookup(*address).is_some()).collect();
            results.push(state.carry_out(change).map_err(KernelError::new));
            for address in before {
                if state.lookup(address).is_none() {
                    state.stranded.push(format!("{address} by {change}"));
                }
            }
        }
        if std::mem::take(&mut state.lose_answers) {
            return Err(io::Error::other("lost"));
        }
        Ok(results)
    }

    fn rules(&mut self) -> io::Result<Vec<FoundRule>> {
        Ok(self.state().rules.clone())
    }

    fn routes(&mut self, tables: &BTreeSet<u32>) -> io::Result<Vec<FoundTableRoute>> {
        let mut state = self.state();
        state.reads += 1;
        Ok(state.routes.iter().filter(|route| tables.contains(&route.key.table)).cloned().collect())
    }

    fn process(&self, port_id: u32) -> String {
        format!("port {port_id}")
    }
}

impl BulkKernel for FakeKernel {
    fn read(&mut self, table: u32, family: Family) -> io::Result<()> {
        let mut state = self.state();
        let of = |route: &&FoundTableRoute| route.key.table == table && Family::of(&route.key.prefix) == family;
        state.unread = state.routes.iter().filter(of).cloned().collect();
        Ok(())
    }

    fn portion(&mut self) -> io::Result<(Portion, bool)> {
        let mut state = self.state();
        let rest = state.unread.len().min(3);
        let rest = state.unread.split_off(rest);
        let portion = std::mem::replace(&mut state.unread, rest);
        let more = !state.unread.is_empty();
        let leaves_by = |route: &FoundTableRoute| match &route.way {
            Some(Way::Through { hops, .. }) => hops.iter().map(|hop| hop.ifindex).collect(),
            _ => Vec::new(),
        };
        Ok((portion.into_iter().map(|route| (route.clone(), leaves_by(&route))).collect(), more))
    }
}
