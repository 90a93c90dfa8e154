//! What makes a link this link and no other, for its keys: packets that are copied to another link are signed by the wrong
//! key there. Both ends have to come to the same, from what each of them knows by itself.

use std::net::IpAddr;

use link_watcher_common::{
    hmac,
    maps::{KeySet, MAX_KEYS},
};
use zeroize::Zeroize as _;

use crate::{address::is_link_local, event::Role};

/// What link keys are derived for; another purpose, or another version, makes other keys.
const LABEL: &[u8] = b"link-watcher 2 link";
/// TTL or hop limit of a packet that no router has passed on.
const NO_ROUTER: u8 = 255;

/// A link's ends, as this side knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkIdentity<'a> {
    /// Which end we are.
    pub role: Role,
    /// UDP port of both ends.
    pub port: u16,
    /// Our address.
    pub local: IpAddr,
    /// The peer's, as we reach it.
    pub remote: IpAddr,
    /// What the file calls the link.
    pub name: &'a str,
    /// `max-hops` of the file; nothing: by whether `remote` is on the link.
    pub max_hops: Option<u8>,
    /// Whether `remote` lies in a prefix of the interface.
    pub on_link: bool,
    /// Whether another link of this peer has the same `remote`.
    pub shares_remote: bool,
}

impl LinkIdentity<'_> {
    /// Whether there may be a router between, and so an address translation: then only the link's name is the same at both
    /// ends.
    fn is_routed(&self) -> bool {
        self.max_hops.map_or(!self.on_link, |hops| hops > 1)
    }

    /// Whether the addresses alone do not tell the links apart: link-local ones may be the same on every interface.
    fn needs_name(&self) -> bool {
        self.is_routed() || is_link_local(self.remote) || self.shares_remote
    }

    /// Least TTL or hop limit that the peer's packets must come with (RFC 5082, section 3); 0: any.
    #[must_use]
    pub fn min_hops(&self) -> u8 {
        match self.max_hops {
            Some(hops) => NO_ROUTER - (hops.max(1) - 1),
            None if self.on_link => NO_ROUTER,
            None => 0,
        }
    }

    /// The message whose HMAC under the shared secret is the link's.
    fn message(&self) -> Vec<u8> {
        let (client, server) = match self.role {
            Role::Client => (self.local, self.remote),
            Role::Server => (self.remote, self.local),
        };
        let mut message = LABEL.to_vec();
        message.extend(self.port.to_be_bytes());
        for address in [client, server] {
            message.extend(if self.is_routed() { [0; 16] } else { mapped(address) });
        }
        if self.needs_name() {
            message.extend(self.name.as_bytes());
        }
        message
    }

    /// The link's keys, from those of its peer.
    #[must_use]
    pub fn keys(&self, roots: &KeySet) -> KeySet {
        let message = self.message();
        let mut keys = KeySet { count: roots.count, ids: roots.ids, ..KeySet::default() };
        for (key, root) in keys.states.iter_mut().zip(&roots.states).take(roots.count as usize % (MAX_KEYS + 1)) {
            let mut secret = hmac::derive(root, &message);
            *key = hmac::key_state(&secret);
            secret.zeroize();
        }
        keys
    }
}

/// An address as the maps and the identity have it: IPv4 as IPv4-mapped (RFC 4291, section 2.5.5.2).
#[must_use]
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client() -> LinkIdentity<'static> {
        LinkIdentity {
            role: Role::Client,
            port: 46721,
            local: ip("10.248.248.2"),
            remote: ip("10.248.248.1"),
            name: "optic",
            max_hops: None,
            on_link: true,
            shares_remote: false,
        }
    }

    /// The same link, as its other end knows it.
    fn other_end<'a>(of: &LinkIdentity<'a>) -> LinkIdentity<'a> {
        let role = if of.role == Role::Client { Role::Server } else { Role::Client };
        LinkIdentity { role, local: of.remote, remote: of.local, ..of.clone() }
    }

    fn roots() -> KeySet {
        let mut roots = KeySet { count: 2, ids: [7, 9, 0, 0], ..KeySet::default() };
        (roots.states[0], roots.states[1]) = (hmac::key_state(&[1; 32]), hmac::key_state(&[2; 32]));
        roots
    }

    fn first(identity: &LinkIdentity<'_>) -> ([u32; 8], [u32; 8]) {
        let keys = identity.keys(&roots());
        (keys.states[0].inner, keys.states[0].outer)
    }

    #[test]
    fn both_ends_come_to_the_same_keys() {
        let link_local = LinkIdentity { local: ip("fe80::2"), remote: ip("fe80::1"), ..client() };
        let routed = LinkIdentity { max_hops: Some(4), ..client() };
        for end in [client(), link_local, routed] {
            assert_eq!(first(&end), first(&other_end(&end)));
        }
        let keys = client().keys(&roots());
        assert_eq!((keys.count, keys.ids), (2, [7, 9, 0, 0]));
        assert_ne!(keys.states[0].inner, keys.states[1].inner);
        assert_eq!(keys.states[2].inner, [0; 8], "no key where there was none");
    }

    #[test]
    fn another_place_is_another_key() {
        let here = client();
        let elsewhere = [
            LinkIdentity { port: 46722, ..here.clone() },
            LinkIdentity { local: ip("10.248.249.2"), ..here.clone() },
            LinkIdentity { remote: ip("10.248.249.1"), ..here.clone() },
            LinkIdentity { role: Role::Server, ..here.clone() },
            LinkIdentity { max_hops: Some(2), ..here.clone() },
            LinkIdentity { shares_remote: true, ..here.clone() },
        ];
        for other in elsewhere {
            assert_ne!(first(&here), first(&other), "{other:?}");
        }
    }

    #[test]
    fn the_name_counts_where_addresses_do_not_tell() {
        let renamed = |of: &LinkIdentity<'_>| first(of) != first(&LinkIdentity { name: "radio", ..of.clone() });
        assert!(!renamed(&client()), "the two ends may call it as they like");
        assert!(renamed(&LinkIdentity { local: ip("fe80::2"), remote: ip("fe80::1"), ..client() }));
        assert!(renamed(&LinkIdentity { shares_remote: true, ..client() }));
        // Behind an address translation only the name is left.
        let routed = LinkIdentity { max_hops: Some(2), ..client() };
        assert!(renamed(&routed));
        assert_eq!(first(&routed), first(&LinkIdentity { remote: ip("203.0.113.7"), ..routed.clone() }));
        let far = LinkIdentity { on_link: false, ..client() };
        assert_eq!(first(&far), first(&routed), "and so it is where the remote is not on the link");
    }

    #[test]
    fn hops_are_demanded_where_the_link_says_so() {
        let with = |max_hops, on_link| LinkIdentity { max_hops, on_link, ..client() }.min_hops();
        assert_eq!(with(None, true), 255);
        assert_eq!(with(None, false), 0);
        assert_eq!(with(Some(1), false), 255);
        assert_eq!(with(Some(4), true), 252);
        assert_eq!(with(Some(255), true), 1);
    }
}
