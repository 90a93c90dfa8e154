//! Netlink: bytes to values and back, and the sockets that carry them. It knows no policy: `route`, `uplink`, `system` and
//! `bpf` use it, and it uses none of them.
//!
//! Values are coded by netlink-packet-route and built by rtnetlink's builders, on netlink-packet-core; by hand only what
//! these have not: nexthop objects and netfilter. The transport is our own over netlink-sys: docs/architecture.md has
//! the reasons.

pub(crate) mod any_rule;
mod events;
pub(crate) mod fib;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod netfilter;
pub(crate) mod nexthop;
mod removals;
pub(crate) mod route;
pub(crate) mod rule;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    events::parse,
    message::Batch,
    removals::TableRemovals,
    route::canonical,
    socket::{Requests, dump, nothing_there, process},
};
pub use self::{
    events::{Filtered, KernelEvent, KernelEvents, MAX_VACANCIES, RouteChange, RouteEvent},
    link::{Address, Link},
    nexthop::{FoundObject, Member, Object},
    route::{Egress, FoundRoute, FoundTableRoute, Hop, Nexthop, Route, RouteKey, TableRoute, Way},
    rule::{Family, FoundRule, InterfaceName, Rule},
    socket::KernelError,
};

/// Protocol number of our routes (`rtm_protocol`), named in `/etc/iproute2/rt_protos.d/`.
pub const PROTOCOL: u8 = 208;

/// An answer of the kernel, as every reader of one takes it.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    for message in message::messages(data) {
        let _ = parse(&message);
        let payload = message.payload();
        let _ = (any_rule::parse(payload), rule::parse(payload), nexthop::parse(payload));
        let _ = (link::parse_link(payload), link::parse_xdp(payload), link::parse_address(payload));
        let _ = (link::parse_neighbour(payload), link::parse_learned_neighbour(payload));
        let _ = (route::parse_route(payload), route::parse_way_out(payload), route::parse_table_route(payload));
        let _ = route::parse_whole_route(payload);
        netfilter::fuzz(payload);
    }
}
