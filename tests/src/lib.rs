//! The lab in which link-watcher is tried: see [`lab`].
