//! Foreign files and programs that commands read.

/// A configuration of Fault Tolerant Router.
pub(crate) fn migrate(data: &[u8]) {
    super::migrate::fuzz(data);
}

/// What `nft -j list table` prints.
pub(crate) fn nft(data: &[u8]) {
    super::explain::fuzz(data);
}
