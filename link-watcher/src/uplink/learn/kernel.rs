//! What is asked of the kernel to learn gateways: default routes and neighbours.

use std::{collections::BTreeSet, io, net::IpAddr, ops::ControlFlow};

use crate::{
    route::{
        Family, FoundTableRoute, PROTOCOL,
        codec::{self, Filter, append_address, parse_table_route},
        dump, nothing_there, rule,
    },
    system::{
        KernelError,
        netlink::{Batch, Requests, attributes, read_u16},
    },
};

/// Tables that are looked into, beside the main one; a router that has more must name its gateways.
const TABLES_MAX: usize = 64;
/// `struct ndmsg`: family u8, three bytes of padding, interface i32, state u16, flags u8, type u8 (linux/neighbour.h).
const NDMSG_LEN: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Somebody wants to send to this neighbour: it is to be resolved.
const NTF_USE: u8 = 1;
/// `NUD_INCOMPLETE | NUD_FAILED`: it does not answer.
const NUD_UNKNOWN: u16 = 0x01 | 0x20;

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
            let rules = dump(&mut self.requests, &mut self.batch, |message| rule::parse(message.payload))?;
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
        codec::dump(&mut self.batch, Family::V4.number(), Filter { table: Some(table), ..Filter::default() });
        Requests::open()?.dump_until(&mut self.batch, |message| match parse_table_route(message.payload) {
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
        codec::dump(&mut self.batch, Family::V6.number(), filter);
        let default = |route: &FoundTableRoute| route.key.table == table && route.key.prefix.prefix_len() == 0;
        found
            .extend(self.requests.dump(&mut self.batch, |message| parse_table_route(message.payload).filter(default))?);
        Ok(())
    }

    /// Starts a request about a neighbour.
    fn about(&mut self, message: u16, flags: i32, ndm_flags: u8, ifindex: u32, neighbour: IpAddr) {
        let mut fixed = [0; NDMSG_LEN];
        fixed[0] = (if neighbour.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8;
        fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        fixed[10] = ndm_flags;
        self.batch.clear();
        self.batch.request(message, flags as u16, &fixed);
        self.batch.attribute_with(NDA_DST, |bytes| append_address(bytes, neighbour));
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
        self.about(libc::RTM_GETNEIGH, 0, 0, ifindex, address);
        let mut found = None;
        let result = self.requests.ask(&mut self.batch, |message| found = parse_neighbour(message.payload))?;
        match result.into_iter().next() {
            Some(Err(error)) if !matches!(error.errno, libc::ENOENT | libc::ENODEV) => Err(failed(&error)),
            _ => Ok(found),
        }
    }

    fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.about(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE, NTF_USE, ifindex, address);
        match self.requests.transact(&mut self.batch)?.into_iter().next() {
            Some(Err(error)) => Err(failed(&error)),
            _ => Ok(()),
        }
    }
}

fn failed(error: &KernelError) -> io::Error {
    io::Error::other(error.to_string())
}

/// The Ethernet address in a neighbour message, where it is known.
fn parse_neighbour(payload: &[u8]) -> Option<[u8; 6]> {
    let fixed = payload.get(..NDMSG_LEN)?;
    if read_u16(fixed, 8)? & NUD_UNKNOWN != 0 {
        return None;
    }
    attributes(&payload[NDMSG_LEN..]).find(|(kind, _)| *kind == NDA_LLADDR).and_then(|(_, value)| value.try_into().ok())
}
