//! The codec that the crates replace, as it was, for one comparison: old against new.
#![allow(dead_code, clippy::all, clippy::unwrap_used, missing_docs)]

mod differential;
pub(super) mod events;
pub(super) mod nexthop;
pub(super) mod other;
pub(super) mod route;
pub(super) mod rule;
pub(super) mod wire;
