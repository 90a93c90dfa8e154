//! Tasks around the daemon.
fn main() {}
