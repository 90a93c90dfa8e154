//! The kernel's policy rules, and which tables they lead out by.

use std::{collections::BTreeSet, io, ops::ControlFlow};

use super::{MAIN_TABLE, takes_everything};
use crate::netlink::{
    Batch, Family, PROTOCOL, Requests,
    any_rule::{self, AnyRule, Deed},
    dump, nothing_there,
    route::{self, Filter},
    rule,
};

/// Of tables that rules of others name, so many are looked into.
const MAX_TABLES: usize = 32;

/// Policy rules of this network namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// In the order in which the kernel asks them.
    pub(super) rules: Vec<AnyRule>,
    /// Tables with a default route, of those that decide for everybody's traffic.
    pub(super) defaults: BTreeSet<(Family, u32)>,
}

impl Policy {
    /// Asks the kernel.
    pub(crate) fn read() -> io::Result<Self> {
        let mut policy = Self::default();
        for family in [Family::V4, Family::V6] {
            let (mut requests, mut batch) = (Requests::open()?, Batch::default());
            rule::dump(&mut batch, family);
            let mut rules = match dump(&mut requests, &mut batch, |message| any_rule::parse(message.payload())) {
                // A kernel without IPv6 has none.
                Err(_) if family == Family::V6 => continue,
                rules => rules?,
            };
            rules.sort_by_key(|rule: &AnyRule| rule.priority);
            let named = rules.iter().filter(|rule| rule.protocol != PROTOCOL && takes_everything(rule));
            let named = named.filter_map(|rule| if let Deed::Table(table) = rule.deed { Some(table) } else { None });
            let tables: BTreeSet<u32> = named.chain([MAIN_TABLE]).take(MAX_TABLES).collect();
            for table in tables {
                if has_default(family, table)? {
                    policy.defaults.insert((family, table));
                }
            }
            policy.rules.extend(rules);
        }
        Ok(policy)
    }

    /// Whether a table has a way for everything.
    pub(super) fn leads(&self, family: Family, table: u32) -> bool {
        self.defaults.contains(&(family, table))
    }
}

/// The dump ends at the first default route: with a million others behind it, it costs nothing.
fn has_default(family: Family, table: u32) -> io::Result<bool> {
    let mut batch = Batch::default();
    route::dump(&mut batch, family.number(), Filter { table: Some(table), ..Filter::default() });
    let mut found = false;
    let result = Requests::open()?.dump_until(&mut batch, |message| {
        let key = route::parse_table_route(message.payload()).map(|route| route.key);
        found |= key.is_some_and(|key| key.table == table && key.prefix.prefix_len() == 0);
        if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match result {
        // A table that nobody has put anything into.
        Err(error) if nothing_there(&error) => Ok(false),
        result => result.map(|()| found),
    }
}
