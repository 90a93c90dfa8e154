//! Random lives of a router with several uplinks.
