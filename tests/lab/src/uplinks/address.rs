//! Who has which address. All of them are for documentation (RFC 5737, RFC 3849) or private.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | provider n (from 0), gateway and router | .1 and .2 of a /28: 198.51.100.0, 203.0.113.0, 192.0.2.0, then the next /28 of each | 2001:db8:n+1::1, ::2 |
//! | what provider n gives the LAN | | 2001:db8:n+1:1::/64, router ::1, host ::10 |
//! | provider n to the internet | 10.248.100+n.1 and .2 | 2001:db8:ffff:n+1::1, ::2 |
//! | the LAN | 10.20.20.1/22, host 10.20.20.10 | |
//! | the internet | the constants here, on its loopback | |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Uplinks of a site at most.
pub const UPLINKS_MAX: usize = 8;

/// What probes ask.
pub const TARGETS: [&str; 4] = ["192.0.2.201", "192.0.2.202", "192.0.2.203", "192.0.2.204"];
/// All of [`TARGETS`].
pub const TARGETS_PREFIX: &str = "192.0.2.200/29";
/// The server of the LAN's connections.
pub const SERVER: &str = "192.0.2.129";
/// Somebody in the internet who connects to the site.
pub const VISITOR: &str = "192.0.2.130";
/// The IPv6 server, target, and visitor.
pub const SERVER6: &str = "2001:db8:fff::1";
/// Where servers say which address they see (TCP and UDP).
pub const WHO_PORT: u16 = 7007;
/// The same by TCP, for rules about mail.
pub const SMTP_PORT: u16 = 25;
/// Likewise.
pub const SUBMISSION_PORT: u16 = 587;

/// The router's address in the LAN.
pub const LAN_ROUTER: &str = "10.20.20.1/22";
/// The host in the LAN.
pub const LAN_HOST: &str = "10.20.20.10/22";

/// A provider's IPv4 prefix.
pub fn prefix4(number: usize) -> Ipv4Net {
    const NETS: [[u8; 3]; 3] = [[198, 51, 100], [203, 0, 113], [192, 0, 2]];
    let [a, b, c] = NETS[number % 3];
    // Bounded by UPLINKS_MAX.
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, (number / 3 * 16) as u8), 28)
}

/// Host number `host` (1 to 14) of a provider's IPv4 prefix.
pub fn host4(number: usize, host: u8) -> Ipv4Addr {
    let [a, b, c, d] = prefix4(number).addr().octets();
    Ipv4Addr::new(a, b, c, d + host)
}

/// A provider's gateway.
pub fn gateway4(number: usize) -> Ipv4Addr {
    host4(number, 1)
}

/// The router's address at a provider.
pub fn router4(number: usize) -> Ipv4Addr {
    host4(number, 2)
}

fn v6(segments: [usize; 8]) -> Ipv6Addr {
    // All of them are small constants, or bounded by UPLINKS_MAX.
    Ipv6Addr::from(segments.map(|segment| segment as u16))
}

/// A provider's IPv6 prefix: the link's and the LAN's are in it.
pub fn prefix6(number: usize) -> Ipv6Net {
    Ipv6Net::new_assert(v6([0x2001, 0xdb8, number + 1, 0, 0, 0, 0, 0]), 48)
}

/// A provider's IPv6 gateway.
pub fn gateway6(number: usize) -> Ipv6Addr {
    v6([0x2001, 0xdb8, number + 1, 0, 0, 0, 0, 1])
}

/// The router's IPv6 address at a provider.
pub fn router6(number: usize) -> Ipv6Addr {
    v6([0x2001, 0xdb8, number + 1, 0, 0, 0, 0, 2])
}

/// The prefix that a provider gives the LAN.
pub fn lan6(number: usize) -> Ipv6Net {
    Ipv6Net::new_assert(v6([0x2001, 0xdb8, number + 1, 1, 0, 0, 0, 0]), 64)
}

/// The router's (1) or the host's (16) address in the prefix that a provider gives the LAN.
pub fn lan_host6(number: usize, host: usize) -> Ipv6Addr {
    v6([0x2001, 0xdb8, number + 1, 1, 0, 0, 0, host])
}

/// A provider's (1) or the internet's (2) address on the leg between them.
pub(super) fn core4(number: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 248, 100 + number as u8, host)
}

/// Likewise for IPv6.
pub(super) fn core6(number: usize, host: usize) -> Ipv6Addr {
    v6([0x2001, 0xdb8, 0xffff, number + 1, 0, 0, 0, host])
}

/// The provider in whose prefix an address is.
pub fn provider_of(address: IpAddr) -> Option<usize> {
    (0..UPLINKS_MAX).find(|number| match address {
        IpAddr::V4(address) => prefix4(*number).contains(&address),
        IpAddr::V6(address) => prefix6(*number).contains(&address),
    })
}

/// A socket address out of one of the constants here.
pub fn socket(address: &str, port: u16) -> SocketAddr {
    // The constants are addresses: the tests of this module parse each.
    SocketAddr::new(address.parse().unwrap_or(IpAddr::from([0; 4])), port)
}

/// An address as a prefix of its own.
pub(super) fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn prefixes_are_apart_and_addresses_lead_back_to_them() {
        for number in 0..UPLINKS_MAX {
            assert_eq!(provider_of(router4(number).into()), Some(number));
            assert_eq!(provider_of(router6(number).into()), Some(number));
            assert_eq!(provider_of(lan_host6(number, 16).into()), Some(number));
        }
        assert_eq!(prefix4(4).to_string(), "203.0.113.16/28");
        let all: Ipv4Net = TARGETS_PREFIX.parse().unwrap();
        for target in TARGETS {
            assert!(all.contains(&target.parse::<Ipv4Addr>().unwrap()));
        }
        for outside in TARGETS.into_iter().chain([SERVER, VISITOR, SERVER6]) {
            assert_eq!(provider_of(outside.parse().unwrap()), None);
        }
        for inside in [LAN_ROUTER, LAN_HOST] {
            assert!(inside.parse::<IpNet>().is_ok());
        }
    }
}
