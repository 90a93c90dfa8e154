//! What is asked of the kernel to learn gateways: default routes and neighbours.

use std::{collections::BTreeSet, io, net::IpAddr, ops::ControlFlow};

use crate::netlink::{
    Batch, Family, FoundTableRoute, KernelError, PROTOCOL, Requests, dump,
    link::{get_neighbour, parse_neighbour, use_neighbour},
    nothing_there,
    route::{self, Filter, parse_table_route},
    rule,
};

/// Tables that are looked into, beside the main one; a router that has more must name its gateways.
const TABLES_MAX: usize = 64;

/// What learning needs of a kernel.
pub trait LearnKernel {
    /// The default routes through these interfaces in all tables that rules lead to, except those with our protocol.
    fn default_routes(&mut self, interfaces: &BTreeSet<u32>) -> io::Result<Vec<FoundTableRoute>>;

    /// A neighbour's Ethernet address, as far as it is known.
    fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>>;

    /// Has the kernel ask for it (ARP, neighbour solicitation).
    fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()>;
}

/// The kernel, over netlink in the network namespace of the thread that opens it.
pub struct NetlinkLearn {
    requests: Requests,
    batch: Batch,
}

impl NetlinkLearn {
    /// Opens the socket. Needs no privilege, except `CAP_NET_ADMIN` for [`solicit`](LearnKernel::solicit).
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()?, batch: Batch::default() })
    }

    /// Tables that packets may be looked up in, without the local one.
    fn tables(&mut self) -> io::Result<BTreeSet<u32>> {
        let mut tables = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            self.batch.clear();
            rule::dump(&mut self.batch, family);
            let rules = dump(&mut self.requests, &mut self.batch, |message| rule::parse(message.payload()))?;
            let others = rules.into_iter().filter(|rule| rule.protocol != PROTOCOL).map(|rule| rule.table);
            tables.extend(others.filter(|table| !matches!(*table, 0 | 255)).take(TABLES_MAX));
        }
        tables.insert(u32::from(libc::RT_TABLE_MAIN));
        Ok(tables)
    }

    /// Default routes of a table. The kernel lists an IPv4 table from 0.0.0.0 upwards, so reading ends with the first other
    /// destination, however many follow.
    fn ipv4(&mut self, table: u32, found: &mut Vec<FoundTableRoute>) -> io::Result<()> {
        self.batch.clear();
        route::dump(&mut self.batch, Family::V4.number(), Filter { table: Some(table), ..Filter::default() });
        Requests::open()?.dump_until(&mut self.batch, |message| match parse_table_route(message.payload()) {
            Some(route) if !route.key.prefix.addr().is_unspecified() => ControlFlow::Break(()),
            route => {
                found.extend(route.filter(|route| route.key.table == table));
                ControlFlow::Continue(())
            }
        })
    }

    /// Default routes of a table through an interface. The kernel lists them last, so it is left to it to skip the rest.
    fn ipv6(&mut self, table: u32, ifindex: u32, found: &mut Vec<FoundTableRoute>) -> io::Result<()> {
        self.batch.clear();
        let filter = Filter { table: Some(table), ifindex: Some(ifindex), ..Filter::default() };
        route::dump(&mut self.batch, Family::V6.number(), filter);
        let default = |route: &FoundTableRoute| route.key.table == table && route.key.prefix.prefix_len() == 0;
        found.extend(
            self.requests.dump(&mut self.batch, |message| parse_table_route(message.payload()).filter(default))?,
        );
        Ok(())
    }
}

/// Of a route dump: not an error where the interface has just gone.
fn tolerate(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if nothing_there(&error) || error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

impl LearnKernel for NetlinkLearn {
    fn default_routes(&mut self, interfaces: &BTreeSet<u32>) -> io::Result<Vec<FoundTableRoute>> {
        let mut found = Vec::new();
        for table in self.tables()? {
            tolerate(self.ipv4(table, &mut found))?;
            for ifindex in interfaces {
                tolerate(self.ipv6(table, *ifindex, &mut found))?;
            }
        }
        found.retain(|route| route.key.prefix.prefix_len() == 0 && route.protocol != PROTOCOL);
        Ok(found)
    }

    fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
        self.batch.clear();
        get_neighbour(&mut self.batch, ifindex, address);
        let mut found = None;
        let result = self.requests.ask(&mut self.batch, |message| found = parse_neighbour(message.payload()))?;
        match result.into_iter().next() {
            Some(Err(error)) if !matches!(error.errno, libc::ENOENT | libc::ENODEV) => Err(failed(&error)),
            _ => Ok(found),
        }
    }

    fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.batch.clear();
        use_neighbour(&mut self.batch, ifindex, address);
        match self.requests.transact(&mut self.batch)?.into_iter().next() {
            Some(Err(error)) => Err(failed(&error)),
            _ => Ok(()),
        }
    }
}

fn failed(error: &KernelError) -> io::Error {
    io::Error::other(error.to_string())
}
