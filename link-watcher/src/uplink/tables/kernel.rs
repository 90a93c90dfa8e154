//! The kernel's side of tables and rules, and the trait behind which tests put a pretended one.

use std::{collections::BTreeSet, io};

use super::{Found, TableChange};
use crate::{
    route::{
        Family, FoundRule, FoundTableRoute, PROTOCOL,
        codec::{self, Filter, Mode},
        nothing_there, process, rule,
    },
    system::{
        KernelError,
        netlink::{Batch, Message, Requests},
    },
};

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

/// The kernel, over a netlink socket in the network namespace of the thread that opens it.
pub struct NetlinkTables {
    requests: Requests,
    batch: Batch,
}

impl NetlinkTables {
    /// Opens the socket. Needs no privilege; changing routes and rules needs `CAP_NET_ADMIN`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()?, batch: Batch::default() })
    }

    fn dump<T>(&mut self, found: &mut Vec<T>, parse: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<()> {
        match self.requests.dump(&mut self.batch, parse) {
            Err(error) if nothing_there(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(more) => {
                found.extend(more);
                Ok(())
            }
        }
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
                TableChange::CreateRoute(route) => codec::write_table_route(&mut self.batch, route, Mode::Create),
                TableChange::ReplaceRoute(route) => codec::write_table_route(&mut self.batch, route, Mode::Replace),
                TableChange::DeleteRoute(route) => codec::delete_table_route(&mut self.batch, route),
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
            self.dump(&mut found, |message| rule::parse(message.payload))?;
        }
        Ok(found)
    }

    fn routes(&mut self, tables: &BTreeSet<u32>) -> io::Result<Vec<FoundTableRoute>> {
        let mut found = Vec::new();
        for table in tables {
            for family in [Family::V4, Family::V6] {
                self.batch.clear();
                let filter = Filter { table: Some(*table), ..Filter::default() };
                codec::dump(&mut self.batch, family.number(), filter);
                self.dump(&mut found, |message| codec::parse_table_route(message.payload))?;
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

impl Found {
    /// What stands after a change that succeeded.
    pub(super) fn take_in(&mut self, change: &TableChange) {
        match change {
            TableChange::CreateRoute(route) | TableChange::ReplaceRoute(route) => {
                self.routes.retain(|found| found.key != route.key);
                let found = FoundTableRoute { key: route.key, protocol: PROTOCOL, way: Some(route.way.clone()) };
                self.routes.push(found);
            }
            TableChange::DeleteRoute(route) => {
                self.routes.retain(|found| found.protocol != PROTOCOL || found.key != route.key);
            }
            TableChange::CreateRule(rule) => self.rules.push(FoundRule {
                family: rule.family,
                priority: rule.priority,
                protocol: PROTOCOL,
                table: rule.table,
                rule: Some(*rule),
            }),
            TableChange::DeleteRule(rule) => {
                self.rules.retain(|found| found.protocol != PROTOCOL || found.rule.as_ref() != Some(rule));
            }
        }
    }
}
