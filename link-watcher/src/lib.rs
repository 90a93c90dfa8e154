//! link-watcher, as a library: the binary, the tests and the benchmarks stand on it.

pub mod bpf_object;
pub mod config;
pub mod demo;
pub mod event;
pub mod keys;
pub mod route;
pub mod system;

pub use bpf_object::bpf_object;
