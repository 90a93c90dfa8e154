//! link-watcher, as a library: the binary, the tests and the benchmarks stand on it.

// `eprintln` panics where standard error is gone: `log::say` does not.
#![warn(clippy::print_stderr)]

pub mod address;
pub mod bpf;
pub mod bpf_object;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod error;
mod foreign_rules;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod keys;
pub mod ledger;
mod linger;
pub mod link_identity;
mod log;
pub mod metrics;
mod netlink;
pub mod notify;
pub mod probe;
pub mod progress;
pub mod random;
pub mod realtime;
pub mod route;
pub mod state;
pub mod statistics;
pub mod system;
mod tls;
pub mod trace;
pub mod trust;
pub mod uplink;

pub use bpf_object::bpf_object;
pub use link_watcher_core::{announce, engine, event, health, link, select, slot, status, suspicion};
