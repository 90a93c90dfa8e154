//! The kernel's side of tables and rules, and the trait behind which tests put a pretended one.

use std::{collections::BTreeSet, fmt, io};

use super::{Family, FoundRule, FoundTableRoute, Rule, TableRoute};
use crate::netlink::{
    Batch, KernelError, Requests, dump, nothing_there, process,
    route::{self, Filter, Mode},
    rule,
};

/// One message to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// Take a place where nothing stands; fails with `EEXIST` where something does.
    CreateRoute(TableRoute),
    /// Change what stands in a place, atomically.
    ReplaceRoute(TableRoute),
    /// Remove it, if it is ours.
    DeleteRoute(TableRoute),
    /// Add a rule.
    CreateRule(Rule),
    /// Remove it, if it is ours.
    DeleteRule(Rule),
}

impl fmt::Display for TableChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateRoute(route) | Self::ReplaceRoute(route) => write!(f, "route {}", route.key),
            Self::DeleteRoute(route) => write!(f, "removal of route {}", route.key),
            Self::CreateRule(rule) => write!(f, "{rule}"),
            Self::DeleteRule(rule) => write!(f, "removal of {rule}"),
        }
    }
}

/// What tables and rules need of a kernel.
pub trait TableKernel {
    /// The port id that events caused by our own requests carry.
    fn port_id(&self) -> u32;

    /// Carries out the changes in their order with one system call; the answer has an entry for each. A change that
    /// fails does not hinder those behind it. Fails as a whole only when the answers were lost.
    fn execute(&mut self, changes: &[TableChange]) -> io::Result<Vec<Result<(), KernelError>>>;

    /// Every rule of both families.
    fn rules(&mut self) -> io::Result<Vec<FoundRule>>;

    /// Every route in these tables.
    fn routes(&mut self, tables: &BTreeSet<u32>) -> io::Result<Vec<FoundTableRoute>>;

    /// Who uses a netlink port id, in words.
    fn process(&self, port_id: u32) -> String;
}

/// Routes, each with the interfaces that it leaves by.
pub type Portion = Vec<(FoundTableRoute, Vec<u32>)>;

/// What tables of very many routes need of a kernel beyond that: to be read in portions.
pub trait BulkKernel: TableKernel {
    /// Starts reading a table's routes of a family; what was being read before is given up.
    fn read(&mut self, table: u32, family: Family) -> io::Result<()>;

    /// The next portion, some 300 routes, each with the interfaces that it leaves by, and whether more follows.
    fn portion(&mut self) -> io::Result<(Portion, bool)>;
}

/// The kernel, over a netlink socket in the network namespace of the thread that opens it.
pub struct NetlinkTables {
    requests: Requests,
    batch: Batch,
    /// Table that is being read, with a socket for it alone.
    reading: Option<(u32, Requests)>,
}

impl NetlinkTables {
    /// Opens the socket. Needs no privilege; changing routes and rules needs `CAP_NET_ADMIN`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()?, batch: Batch::default(), reading: None })
    }
}

impl TableKernel for NetlinkTables {
    fn port_id(&self) -> u32 {
        self.requests.port_id()
    }

    fn execute(&mut self, changes: &[TableChange]) -> io::Result<Vec<Result<(), KernelError>>> {
        self.batch.clear();
        for change in changes {
            match change {
                TableChange::CreateRoute(route) => route::write_table_route(&mut self.batch, route, Mode::Create),
                TableChange::ReplaceRoute(route) => route::write_table_route(&mut self.batch, route, Mode::Replace),
                TableChange::DeleteRoute(route) => route::delete_table_route(&mut self.batch, route),
                TableChange::CreateRule(rule) => rule::create(&mut self.batch, rule),
                TableChange::DeleteRule(rule) => rule::delete(&mut self.batch, rule),
            }
        }
        self.requests.transact(&mut self.batch)
    }

    fn rules(&mut self) -> io::Result<Vec<FoundRule>> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            self.batch.clear();
            rule::dump(&mut self.batch, family);
            found.extend(dump(&mut self.requests, &mut self.batch, |message| rule::parse(message.payload()))?);
        }
        Ok(found)
    }

    fn routes(&mut self, tables: &BTreeSet<u32>) -> io::Result<Vec<FoundTableRoute>> {
        let mut found = Vec::new();
        for table in tables {
            for family in [Family::V4, Family::V6] {
                self.batch.clear();
                let filter = Filter { table: Some(*table), ..Filter::default() };
                route::dump(&mut self.batch, family.number(), filter);
                found.extend(dump(&mut self.requests, &mut self.batch, |message| {
                    route::parse_table_route(message.payload())
                })?);
            }
        }
        // A kernel without strict dumps sends everything.
        found.retain(|route| tables.contains(&route.key.table));
        Ok(found)
    }

    fn process(&self, port_id: u32) -> String {
        process(port_id)
    }
}

impl BulkKernel for NetlinkTables {
    fn read(&mut self, table: u32, family: Family) -> io::Result<()> {
        // A fresh socket has no rest of an earlier dump.
        let mut requests = Requests::open()?;
        self.batch.clear();
        route::dump(&mut self.batch, family.number(), Filter { table: Some(table), ..Filter::default() });
        requests.dump_start(&mut self.batch)?;
        self.reading = Some((table, requests));
        Ok(())
    }

    fn portion(&mut self) -> io::Result<(Portion, bool)> {
        let Some((table, requests)) = &mut self.reading else { return Ok((Vec::new(), false)) };
        let mut found = Vec::new();
        let more = match requests.dump_portion(|message| found.extend(route::parse_whole_route(message.payload()))) {
            Err(error) if nothing_there(&error) => false,
            other => other?,
        };
        // A kernel without strict dumps sends everything.
        found.retain(|(route, _): &(FoundTableRoute, _)| route.key.table == *table);
        if !more {
            self.reading = None;
        }
        Ok((found, more))
    }
}
