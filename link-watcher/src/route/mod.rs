//! Actuation through routes: what a group wants, beside what the kernel has, and the messages that make them agree.
//!
//! **What is ours.** Routes with protocol number [`PROTOCOL`] that this instance installed itself, or that it found at
//! start and that lead through next hops of its own links ([`RouteSink::adopt`]). The protocol number alone is not
//! enough, because several daemons may run on one machine. Two instances must not share a link.
//!
//! **Nothing else is changed.** A place (table, prefix, metric) that is not known to be ours is only ever taken with
//! `NLM_F_EXCL`, so the kernel itself refuses where somebody is already there; only a place that is ours is replaced. A
//! removal names our protocol and next hops, so the kernel checks the owner once more. Whoever takes our place later
//! shows up as an event ([`RouteSink::observe`]), and from then on the place is refused, and not fought for.
//!
//! **Metrics.** The active route has the configured metric. IPv6 has no metric 0 and reads 1 there, so that the default
//! stands before what a router advertisement brings at 1024, as with IPv4 it stands before everything. Backups stand at
//! the [`MAX_BACKUPS`] metrics behind it, best first. They come before a default route that DHCP or a router
//! advertisement left at metric 100 or more as long as the configured metric is at most 67, and that route then is the
//! last resort.
//!
//! **Order.** Active routes first, then backups, then removals; a prefix whose new routes could not be installed keeps
//! its old ones.

mod backend;
#[cfg(test)]
pub(crate) mod fake;
mod kernel;
pub(crate) mod nexthop;
mod plan;
mod reconcile;
mod routes;
mod sink;
#[cfg(test)]
pub(crate) mod table_fake;
mod table_kernel;
mod tables;
#[cfg(test)]
mod tests;
mod ways;

use std::{fmt, net::IpAddr, ops::Range, sync::Arc};

use ipnet::IpNet;

pub(crate) use self::reconcile::{BACKOFF_MAX_NS, GAP_NS, backoff_ns};
pub use self::{
    backend::RouteBackend,
    kernel::{Change, NetlinkRoutes, RouteKernel},
    nexthop::{COMPAT_MODE, NetlinkObjects, NexthopGroups, ObjectChange, ObjectKernel},
    routes::Routes,
    sink::Actuation,
    table_kernel::{BulkKernel, NetlinkTables, Portion, TableChange, TableKernel},
    tables::{LearnedRoute, MAX_LINKS, PRIORITIES, PeerTables, TABLES},
    ways::udp_ways,
};
pub(crate) use crate::netlink::canonical;
pub use crate::netlink::{
    Egress, Family, FoundObject, FoundRoute, FoundRule, FoundTableRoute, Hop, InterfaceName, Member, Nexthop, Object,
    PROTOCOL, Route, RouteKey, Rule, TableRoute, Way,
};

use crate::{
    event::GroupId,
    system::{KernelError, KernelEvent},
};

/// The main table (`RT_TABLE_MAIN`, linux/rtnetlink.h).
pub(crate) const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;
/// Where the kernel has the rule of the main table; that of the default table follows (`fib_default_rules_init`,
/// net/ipv4/fib_rules.c).
pub(crate) const MAIN_RULE_PRIORITY: u32 = 32_766;
/// Backups that stand beside an active route, at the metrics metric + 1 to metric + 32; more are left out.
pub const MAX_BACKUPS: u32 = 32;
/// The metric that the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`, net/ip6_route.h).
pub const IPV6_DEFAULT_METRIC: u32 = 1024;
/// The lowest metric of an IPv6 route, which the kernel does not read as [`IPV6_DEFAULT_METRIC`].
const IPV6_FIRST_METRIC: u32 = 1;

/// What a group wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRoutes {
    /// Routing table, 1 to 2^32 − 1.
    pub table: u32,
    /// Metric of the active route; 0: before all others.
    pub metric: u32,
    /// Where to. The same pointer means the same list: a failover must not look at a million prefixes.
    pub prefixes: Arc<[IpNet]>,
    /// Next hops that share the traffic, in any order.
    pub active: Vec<Nexthop>,
    /// Usable next hops that stand by, best first.
    pub backups: Vec<Nexthop>,
    /// Those of all the group's links, usable or not.
    pub links: Vec<Nexthop>,
    /// Which back-end.
    pub choice: RouteBackend,
    /// What the back-ends of tables and of nexthop objects may use.
    pub range: TableRange,
    /// Nexthop groups that carry everything, instead of next hops; set by [`Actuation`].
    pub objects: Option<Objects>,
}

/// The kernel's nexthop groups that routes refer to; nothing for a family that has none now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Id of the one for IPv4 prefixes.
    pub v4: Option<u32>,
    /// Id of the one for IPv6 prefixes.
    pub v6: Option<u32>,
}

impl Objects {
    /// The one for a prefix.
    const fn serving(&self, prefix: &IpNet) -> Option<u32> {
        match prefix {
            IpNet::V4(_) => self.v4,
            IpNet::V6(_) => self.v6,
        }
    }
}

/// Tables, rules and nexthop objects of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRange {
    /// The first of [`TABLES`] tables, and of as many ids of nexthop objects.
    pub table_base: u32,
    /// Priority of the first of at most [`PRIORITIES`] rules.
    pub rule_priority: u32,
}

impl TableRange {
    /// Every table.
    pub const fn tables(&self) -> Range<u32> {
        self.table_base..self.table_base.saturating_add(TABLES)
    }

    /// Where nothing is.
    pub const NOWHERE: Self = Self { table_base: u32::MAX - TABLES, rule_priority: 0 };

    /// Whether a table is in both; rules are told apart by the tables that they lead to.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.table_base.abs_diff(other.table_base) < TABLES
    }

    /// Whether the table, or the id of a nexthop object, is among them.
    pub fn has(&self, table: u32) -> bool {
        self.tables().contains(&table)
    }
}

/// Why a prefix has no route from us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A route of somebody else's stands in its place; its protocol number, where it could be found out.
    Foreign(Option<u8>),
    /// Another group was first.
    OtherGroup(GroupId),
    /// No next hop can serve it: none with an interface now, or only IPv4 gateways for an IPv6 prefix.
    NoNexthop,
    /// The kernel refused.
    Kernel(KernelError),
    /// It was removed, and is about to be put back.
    Waiting,
}

impl Why {
    /// For people, with the names of groups.
    fn say(&self, name: &dyn Fn(GroupId) -> String) -> String {
        match self {
            Self::Foreign(None) => "another program's route stands there".to_owned(),
            Self::Foreign(Some(PROTOCOL)) => {
                format!("another instance's route stands there (protocol {PROTOCOL}, through a link that is not ours)")
            }
            Self::Foreign(Some(protocol)) => {
                format!("a route of {} stands there; remove it, or give this group another metric", Owner(*protocol))
            }
            Self::OtherGroup(group) => format!("{} has the same prefix, metric and table", name(*group)),
            Self::NoNexthop => "no link has an interface and an address family that could carry it".to_owned(),
            Self::Kernel(error) if error.errno == libc::EPERM => {
                format!("the kernel refused: {error}; routes need root or CAP_NET_ADMIN")
            }
            Self::Kernel(error) => format!("the kernel refused: {error}"),
            Self::Waiting => "it was removed, and is put back shortly".to_owned(),
        }
    }
}

/// A protocol number with its name (linux/rtnetlink.h, `/etc/iproute2/rt_protos`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub u8);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            2 => "the kernel",
            3 => "boot scripts or ip route",
            4 => "a static configuration",
            9 => "router advertisements",
            11 => "zebra",
            12 => "BIRD",
            16 => "DHCP",
            18 => "keepalived",
            42 => "babeld",
            186 => "BGP",
            187 => "IS-IS",
            188 => "OSPF",
            189 => "RIP",
            192 => "EIGRP",
            PROTOCOL => "link-watcher",
            _ => return write!(f, "protocol {}", self.0),
        };
        write!(f, "{name} (protocol {})", self.0)
    }
}

/// A prefix that could not be served as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub prefix: IpNet,
    /// Why.
    pub why: Why,
}

impl Refusal {
    /// For people, with the names of groups.
    pub fn say(&self, name: &dyn Fn(GroupId) -> String) -> String {
        format!("{}: {}", self.prefix, self.why.say(name))
    }
}

/// How a group's routes stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Prefixes whose traffic goes where it is wanted.
    pub installed: usize,
    /// Prefixes whose traffic does not, in order.
    pub refused: Vec<Refusal>,
    /// Prefixes that lack a backup only.
    pub backups_refused: Vec<Refusal>,
    /// Messages that the call sent to the kernel; 0: everything stood already.
    pub written: usize,
    /// The exchange with the kernel failed as a whole; it is repeated by itself.
    pub error: Option<String>,
}

/// What was found at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Next hops that carry the group's traffic now, by the majority of its routes, in canonical order.
    pub active: Vec<Nexthop>,
    /// Routes found.
    pub routes: usize,
}

/// Something the log should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Routes of ours were gone or changed, and stand again.
    Repaired {
        /// Group.
        group: GroupId,
        /// How many.
        count: usize,
        /// The first one.
        example: RouteKey,
        /// Who did it, where somebody did: netlink port id, and the process behind it.
        by: Option<String>,
    },
    /// Somebody removes our routes again and again; the next repair waits.
    BackingOff {
        /// Group.
        group: GroupId,
        /// How many routes wait.
        count: usize,
        /// The first one.
        example: RouteKey,
        /// Who.
        by: String,
        /// For how long, ms.
        wait_ms: u64,
    },
    /// A rule of ours was gone, and stands again.
    RuleGone {
        /// Which.
        what: String,
        /// Who did it, where somebody did.
        by: String,
    },
    /// A nexthop object of ours was gone or changed, and stands again.
    ObjectGone {
        /// Which.
        what: String,
        /// Who did it.
        by: String,
    },
    /// Something in this machine is at odds with what a group uses.
    Precaution(String),
    /// A group's traffic is carried by another back-end from now on.
    Handed {
        /// Group.
        group: GroupId,
        /// By tables, else by routes in its table.
        tables: bool,
        /// How many.
        prefixes: usize,
    },
    /// A group cannot be served by tables or nexthop objects, though it would be better.
    Unfit {
        /// Group.
        group: GroupId,
        /// Why.
        why: &'static str,
    },
    /// Somebody put a route of theirs in our place. It stays.
    Taken {
        /// Which.
        key: RouteKey,
        /// Protocol of the new route.
        protocol: u8,
        /// Who.
        by: String,
    },
    /// Routes of an earlier run, which nothing wants any more, are gone.
    Expired {
        /// How many.
        count: usize,
    },
    /// The kernel's tables could not be read; another attempt follows.
    Failed(String),
}

impl Notice {
    /// For people, with the names of groups.
    pub fn say(&self, name: &dyn Fn(GroupId) -> String) -> String {
        match self {
            Self::Repaired { group, count, example, by } => {
                let by = by.as_ref().map_or_else(String::new, |by| format!("; last removed by {by}"));
                format!("{}: {count} routes had gone and stand again, among them {example}{by}", name(*group))
            }
            Self::BackingOff { group, count, example, by, wait_ms } => format!(
                "{}: {by} keeps removing our routes, {count} now, among them {example}; the next repair waits {wait_ms} \
                 ms. Keep that program from routes with protocol {PROTOCOL}",
                name(*group)
            ),
            Self::Precaution(what) => what.clone(),
            Self::RuleGone { what, by } | Self::ObjectGone { what, by } => {
                format!("{what} had gone and stands again; removed by {by}")
            }
            Self::Handed { group, tables: true, prefixes } => format!(
                "{}: {prefixes} prefixes stand in a table for each link now: failing over is one rule",
                name(*group)
            ),
            Self::Handed { group, tables: false, prefixes } => {
                format!("{}: {prefixes} prefixes stand in its routing table itself now", name(*group))
            }
            Self::Unfit { group, why } => {
                format!("{}: failing over takes longer than it could, route by route: {why}", name(*group))
            }
            Self::Taken { key, protocol, by } => format!(
                "{by} put a route of {} in the place of ours, {key}; it stays, and ours is refused until it is gone",
                Owner(*protocol)
            ),
            Self::Expired { count } => {
                format!("{count} routes of an earlier run are wanted no more and were removed")
            }
            Self::Failed(error) => format!("the routes could not be checked, another attempt follows: {error}"),
        }
    }
}

/// Where desired state goes. All times are nanoseconds of the monotonic clock.
#[allow(async_fn_in_trait)] // The daemon runs on one thread, so the futures need not be `Send`.
pub trait RouteSink {
    /// To be called for each group at start (and when a reload gives it other links) before the first
    /// [`apply`](Self::apply): what an earlier run left behind is taken over as it stands, where it leads only through
    /// `desired.links`; of the rest of `desired` only the numbers count. What nothing wants 120 s later is removed, which
    /// leaves a peer the time to announce its prefixes again.
    async fn adopt(&mut self, now_ns: u64, group: GroupId, desired: &GroupRoutes) -> Adopted;

    /// Makes the kernel agree with what the group wants from now on. A prefix for which `desired` has no next hop keeps
    /// the routes that it has.
    async fn apply(&mut self, now_ns: u64, group: GroupId, desired: &GroupRoutes) -> Report;

    /// Forgets the group and removes its routes.
    async fn remove(&mut self, now_ns: u64, group: GroupId) -> Report;

    /// Removes everything that is ours: `on-exit = "remove"`. What could not be removed is refused in the report.
    async fn remove_all(&mut self, now_ns: u64) -> Report;

    /// Takes notice of what happens in the kernel; every event belongs here. Work that follows from it is due at
    /// [`next_deadline_ns`](Self::next_deadline_ns).
    fn observe(&mut self, now_ns: u64, event: &KernelEvent) -> Option<Notice>;

    /// When [`tick`](Self::tick) has something to do; it may be in the past.
    fn next_deadline_ns(&self) -> u64;

    /// Does what is due: compares the kernel's routes with what is wanted, and repairs the difference.
    async fn tick(&mut self, now_ns: u64) -> Vec<Notice>;

    /// How a group's routes stand, as far as is known.
    fn report(&self, group: GroupId) -> Report;
}

/// The metric of a group's active routes: the configured one, or the lowest there is.
fn effective_metric(prefix: &IpNet, metric: u32) -> u32 {
    match (prefix, metric) {
        (IpNet::V6(_), 0) => IPV6_FIRST_METRIC,
        _ => metric,
    }
}

/// Whether the kernel can send `prefix` through `gateway` (IPv4 through an IPv6 gateway: `RTA_VIA`).
fn serves(gateway: IpAddr, prefix: &IpNet) -> bool {
    gateway.is_ipv6() || prefix.addr().is_ipv4()
}
