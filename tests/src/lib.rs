//! The lab in which link-watcher is tried: routers in network namespaces, links that can be cut, a traffic meter.
//!
//! [`lab`] is a library without any policy of its own: the scenario tests and `link-watcher demo` build the same
//! picture from it. Everything it makes carries the process's id in its name and is removed when it is dropped.

pub mod lab;
