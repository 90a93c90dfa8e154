//! What a link's keys are derived from besides the secret, so that a packet of one link is worth nothing on another.
//!
//! Both ends must come to the same bytes without a word to each other. Where nothing stands between them, the two
//! addresses say which link it is; where a router or a NAT may, only the name does.

use std::net::IpAddr;

/// Hops allowed where nothing is demanded: a packet always arrives with a TTL of at least 1.
pub const ANY_HOPS: u8 = 255;
/// Purpose of the derivation.
const LABEL: &[u8] = b"link-watcher 2 link";

/// One link as both of its ends see it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// UDP port of the peer.
    pub port: u16,
    /// The client's address.
    pub client: IpAddr,
    /// The server's address.
    pub server: IpAddr,
    /// The link's name in the configuration.
    pub name: &'a str,
    /// Hops allowed, 1 to 255; 1: none but the link itself.
    pub max_hops: u8,
    /// Whether another link of this peer has the same two addresses.
    pub addresses_shared: bool,
}

/// Hops allowed on a link: what the configuration says, else 1 where `remote` is on the link and no demand elsewhere.
pub fn max_hops(configured: Option<u8>, on_link: bool) -> u8 {
    configured.unwrap_or(if on_link { 1 } else { ANY_HOPS })
}

/// The TTL or hop limit that a packet must still have, which is sent with 255 (RFC 5082, section 3).
pub fn min_hops_left(max_hops: u8) -> u8 {
    // 256 − max_hops; a demand of 0 hops would be no packet at all.
    255 - max_hops.saturating_sub(1)
}

/// The message whose HMAC under the peer's root key is the link's secret.
///
/// A link of one hop is its addresses, and its name too where two links of the peer have the same. Over more hops the
/// addresses may be translated on the way, so that they are zeros, and the two ends must call the link alike.
pub fn link_identity(place: &Place<'_>) -> Vec<u8> {
    let one_hop = place.max_hops == 1;
    let address = |address: IpAddr| if one_hop { mapped(address) } else { [0; 16] };
    let name = if one_hop && !place.addresses_shared { "" } else { place.name };
    // A name has at most 64 bytes; a longer one is cut at what the length can say.
    let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
    let mut message = Vec::with_capacity(LABEL.len() + 36 + name.len());
    message.extend(LABEL);
    message.extend(place.port.to_be_bytes());
    message.extend(address(place.client));
    message.extend(address(place.server));
    message.extend(len.to_be_bytes());
    message.extend(&name.as_bytes()[..usize::from(len)]);
    message
}

/// As the maps have it: IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn optic() -> Place<'static> {
        Place {
            port: 46721,
            client: "10.248.248.2".parse().unwrap(),
            server: "10.248.248.1".parse().unwrap(),
            name: "optic",
            max_hops: 1,
            addresses_shared: false,
        }
    }

    #[test]
    fn one_hop_is_the_addresses_whatever_the_name() {
        let other_name = Place { name: "fibre", ..optic() };
        assert_eq!(link_identity(&optic()), link_identity(&other_name));
        for other in [
            Place { port: 46722, ..optic() },
            Place { client: "10.248.248.3".parse().unwrap(), ..optic() },
            Place { server: "10.248.248.4".parse().unwrap(), ..optic() },
            Place { client: optic().server, server: optic().client, ..optic() },
        ] {
            assert_ne!(link_identity(&optic()), link_identity(&other), "{other:?}");
        }
    }

    #[test]
    fn links_with_the_same_addresses_are_told_apart_by_name() {
        let first = Place { addresses_shared: true, ..optic() };
        let second = Place { name: "radio", ..first };
        assert_ne!(link_identity(&first), link_identity(&second));
        assert_ne!(link_identity(&first), link_identity(&optic()));
    }

    #[test]
    fn over_more_hops_only_the_name_counts() {
        let far = Place { max_hops: 2, ..optic() };
        let translated = Place { client: "192.0.2.7".parse().unwrap(), max_hops: ANY_HOPS, ..far };
        assert_eq!(link_identity(&far), link_identity(&translated));
        assert_ne!(link_identity(&far), link_identity(&Place { name: "radio", ..far }));
        assert_ne!(link_identity(&far), link_identity(&optic()));
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let mut expected = b"link-watcher 2 link".to_vec();
        expected.extend([0xb6, 0x81]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 248, 248, 2]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 248, 248, 1]);
        expected.extend([0, 0]);
        assert_eq!(link_identity(&optic()), expected);
    }

    #[test]
    fn hops_are_demanded_on_the_link_and_where_configured() {
        assert_eq!([max_hops(None, true), max_hops(None, false), max_hops(Some(3), true)], [1, ANY_HOPS, 3]);
        assert_eq!([min_hops_left(1), min_hops_left(2), min_hops_left(255)], [255, 254, 1]);
    }
}
