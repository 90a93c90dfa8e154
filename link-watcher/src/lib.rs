//! link-watcher, as a library: the binary, the tests and the benchmarks stand on it.

pub mod bpf_object;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod event;
pub mod keys;
pub mod route;
pub mod system;

pub use bpf_object::bpf_object;
