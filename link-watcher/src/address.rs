//! What is asked of an address of either family.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether it means something on its own interface only (RFC 3927; RFC 4291, section 2.5.6).
#[must_use]
pub const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The longest of some prefixes that has an address, without bits behind its length.
#[must_use]
pub fn longest_match(prefixes: &[IpNet], to: IpAddr) -> Option<IpNet> {
    prefixes.iter().filter(|prefix| prefix.contains(&to)).max_by_key(|prefix| prefix.prefix_len()).map(IpNet::trunc)
}
