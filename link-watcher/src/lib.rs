//! link-watcher, as a library: the binary, the tests and the benchmarks stand on it.

pub mod config;
pub mod event;
pub mod keys;
