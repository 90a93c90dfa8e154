//! Which back-end serves a group.

/// Which back-end serves a group's prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteBackend {
    /// By their number.
    #[default]
    Auto,
    /// Each prefix a route in the peer's table.
    Routes,
    /// A table for each link, and rules.
    Tables,
    /// Each prefix a route in the peer's table, which refers to a resilient nexthop group.
    Nexthop,
}
