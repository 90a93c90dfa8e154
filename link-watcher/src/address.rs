//! What is asked of an address of either family.

use std::net::IpAddr;

/// Whether it means something on its own interface only (RFC 3927; RFC 4291, section 2.5.6).
#[must_use]
pub const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
