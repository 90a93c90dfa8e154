//! The kernel's side of the route back-end, and the trait behind which tests put a pretended one.

use std::{collections::BTreeSet, io};

use super::{Family, FoundRoute, PROTOCOL, Route, RouteKey};
use crate::netlink::{
    Batch, KernelError, Requests, dump, process,
    route::{self, Filter, Mode},
};

/// One message to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Take a place where nothing stands; fails with `EEXIST` where something does.
    Create(Route),
    /// Change what stands in a place, atomically.
    Replace(Route),
    /// Stand behind whatever is in a place, as only IPv4 routes can; fails with `EEXIST` where this very route does.
    Append(Route),
    /// Remove it, if it has our protocol and these next hops.
    Delete(Route),
}

impl Change {
    /// The route that it is about.
    pub fn route(&self) -> &Route {
        match self {
            Self::Create(route) | Self::Replace(route) | Self::Append(route) | Self::Delete(route) => route,
        }
    }
}

/// What the route back-end needs of a kernel.
pub trait RouteKernel {
    /// The port id that events caused by our own requests carry.
    fn port_id(&self) -> u32;

    /// Carries out the changes in their order with one system call; the answer has an entry for each. A change that
    /// fails does not hinder those behind it. Fails as a whole only when the answers were lost.
    fn execute(&mut self, changes: &[Change]) -> io::Result<Vec<Result<(), KernelError>>>;

    /// Every route with protocol [`PROTOCOL`], of all instances.
    fn ours(&mut self) -> io::Result<Vec<FoundRoute>>;

    /// What stands in these places: the route that the kernel would use first, for each place that is taken.
    fn occupants(&mut self, places: &BTreeSet<RouteKey>) -> io::Result<Vec<FoundRoute>>;

    /// Who uses a netlink port id, in words.
    fn process(&self, port_id: u32) -> String;
}

/// The kernel, over a netlink socket in the network namespace of the thread that opens it.
pub struct NetlinkRoutes {
    requests: Requests,
    batch: Batch,
}

impl NetlinkRoutes {
    /// Opens the socket. Needs no privilege; changing routes needs `CAP_NET_ADMIN`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()?, batch: Batch::default() })
    }

    fn dump(&mut self, family: i32, filter: Filter) -> io::Result<Vec<FoundRoute>> {
        self.batch.clear();
        route::dump(&mut self.batch, family as u8, filter);
        dump(&mut self.requests, &mut self.batch, |message| route::parse_route(message.payload()))
    }
}

impl RouteKernel for NetlinkRoutes {
    fn port_id(&self) -> u32 {
        self.requests.port_id()
    }

    fn execute(&mut self, changes: &[Change]) -> io::Result<Vec<Result<(), KernelError>>> {
        self.batch.clear();
        for change in changes {
            match change {
                Change::Create(route) => route::write(&mut self.batch, route, Mode::Create),
                Change::Replace(route) => route::write(&mut self.batch, route, Mode::Replace),
                Change::Append(route) => route::write(&mut self.batch, route, Mode::Append),
                Change::Delete(route) => route::delete(&mut self.batch, route),
            }
        }
        self.requests.transact(&mut self.batch)
    }

    fn ours(&mut self) -> io::Result<Vec<FoundRoute>> {
        let filter = Filter { protocol: Some(PROTOCOL), ..Filter::default() };
        let mut found = self.dump(libc::AF_INET, filter)?;
        found.extend(self.dump(libc::AF_INET6, filter)?);
        // A kernel without strict dumps sends everything.
        found.retain(|route| route.protocol == PROTOCOL);
        Ok(found)
    }

    fn occupants(&mut self, places: &BTreeSet<RouteKey>) -> io::Result<Vec<FoundRoute>> {
        let dumps: BTreeSet<(u8, u32)> =
            places.iter().map(|key| (Family::of(&key.prefix).number(), key.table)).collect();
        let mut found = Vec::new();
        let mut missing = places.clone();
        for (family, table) in dumps {
            for route in self.dump(i32::from(family), Filter { table: Some(table), ..Filter::default() })? {
                // Several routes may share a place; the kernel lists the one that it uses first.
                if missing.remove(&route.key) {
                    found.push(route);
                }
            }
        }
        Ok(found)
    }

    fn process(&self, port_id: u32) -> String {
        process(port_id)
    }
}
