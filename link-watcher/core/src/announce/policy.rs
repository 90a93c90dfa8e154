//! Which of a peer's prefixes are used.
//!
//! A prefix is used if it lies in one of `accept`, and does not touch what no peer has a say in: this router's own networks
//! and addresses, its links, and the ranges that mean something special in every network. `accept` may name such a prefix
//! exactly; then it is used.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::MAX_REFUSALS_KEPT;

/// Why a prefix is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// `accept` does not cover it.
    NotAccepted,
    /// There is no `accept`.
    NoAccept,
    /// It lies in a network of the router's own, or covers one.
    OwnNetwork,
    /// It covers an address of a link's, or is one.
    LinkAddress,
    /// It is a default route.
    DefaultRoute,
    /// It touches 0.0.0.0/8 or ::.
    Unspecified,
    /// It touches 127.0.0.0/8 or ::1.
    Loopback,
    /// It touches 169.254.0.0/16 or fe80::/10.
    LinkLocal,
    /// It touches 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// It touches 240.0.0.0/4, with the broadcast address 255.255.255.255.
    Reserved,
    /// It touches ::ffff:0:0/96.
    Mapped,
    /// Something that a later version knows.
    Other,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::NotAccepted,
        Self::NoAccept,
        Self::OwnNetwork,
        Self::LinkAddress,
        Self::DefaultRoute,
        Self::Unspecified,
        Self::Loopback,
        Self::LinkLocal,
        Self::Multicast,
        Self::Reserved,
        Self::Mapped,
    ];

    /// As an acknowledgement carries it, from 1; 0: other.
    pub(super) fn code(self) -> u8 {
        Self::ALL.iter().position(|known| *known == self).map_or(0, |at| at as u8 + 1)
    }

    pub(super) fn from_code(code: u8) -> Self {
        usize::from(code).checked_sub(1).and_then(|at| Self::ALL.get(at)).copied().unwrap_or(Self::Other)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAccepted => "it is outside of `accept`",
            Self::NoAccept => "there is no `accept`; list there what the peer may announce",
            Self::OwnNetwork => "it overlaps a network of this router's own",
            Self::LinkAddress => "it contains an address of a link",
            Self::DefaultRoute => "it is a default route, and `accept` does not name exactly that",
            Self::Unspecified => "it overlaps the unspecified addresses (0.0.0.0/8, ::)",
            Self::Loopback => "it overlaps the loopback addresses (127.0.0.0/8, ::1)",
            Self::LinkLocal => "it overlaps the link-local addresses (169.254.0.0/16, fe80::/10)",
            Self::Multicast => "it overlaps the multicast addresses (224.0.0.0/4, ff00::/8)",
            Self::Reserved => "it overlaps the reserved addresses (240.0.0.0/4, with the broadcast address)",
            Self::Mapped => "it overlaps the IPv4-mapped addresses (::ffff:0:0/96)",
            Self::Other => "for a reason that only a later version can name",
        })
    }
}

/// What became of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// What is used, in order.
    pub accepted: Vec<IpNet>,
    /// How many are not.
    pub refused: usize,
    /// The first of these, with the reasons; at most [`MAX_REFUSALS_KEPT`].
    pub refusals: Vec<(IpNet, Reason)>,
}

/// What no peer has a say in: prefixes without one inside of another, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    ranges: Vec<(IpNet, Reason)>,
}

impl Own {
    /// From the router's own networks and addresses, and the addresses of both ends of its links.
    pub fn new(networks: impl IntoIterator<Item = IpNet>, links: impl IntoIterator<Item = IpAddr>) -> Self {
        let networks = networks.into_iter().map(|network| (network.trunc(), Reason::OwnNetwork));
        let links = links.into_iter().map(|address| (IpNet::from(address), Reason::LinkAddress));
        let own = networks.chain(links).filter(|(range, _)| range.prefix_len() > 0);
        let v4 = |a, length, reason| (IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, 0, 0, 0)), length), reason);
        let v6 = |address, length, reason| (IpNet::new_assert(IpAddr::V6(address), length), reason);
        let special = [
            v4(0, 8, Reason::Unspecified),
            v4(127, 8, Reason::Loopback),
            (IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16), Reason::LinkLocal),
            v4(224, 4, Reason::Multicast),
            v4(240, 4, Reason::Reserved),
            v6(Ipv6Addr::UNSPECIFIED, 128, Reason::Unspecified),
            v6(Ipv6Addr::LOCALHOST, 128, Reason::Loopback),
            v6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, Reason::Mapped),
            v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Reason::LinkLocal),
            v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Reason::Multicast),
        ];
        let mut ranges: Vec<(IpNet, Reason)> = special.into_iter().chain(own).collect();
        // Whoever contains another sorts before it.
        ranges.sort_by_key(|(range, reason)| (range.network(), range.prefix_len(), *reason));
        ranges.dedup_by(|(inner, _), (outer, _)| outer.contains(&*inner));
        Self { ranges }
    }

    /// Why a prefix is none of a peer's business.
    fn touches(&self, prefix: &IpNet) -> Option<Reason> {
        if prefix.prefix_len() == 0 {
            return Some(Reason::DefaultRoute);
        }
        let touches =
            |(range, reason): &(IpNet, Reason)| (range.contains(prefix) || prefix.contains(range)).then_some(*reason);
        // None lies in another: only the last that does not begin behind it can contain it, and the next can lie in it.
        let at = self.ranges.partition_point(|(range, _)| range.network() <= prefix.network());
        let before = at.checked_sub(1).and_then(|before| self.ranges.get(before));
        before.and_then(touches).or_else(|| self.ranges.get(at).and_then(touches))
    }
}

/// What is allowed.
#[derive(Clone, Debug)]
pub struct Policy<'a> {
    own: &'a Own,
    exactly: BTreeSet<IpNet>,
    /// Without one inside of another, in order.
    ranges: Vec<IpNet>,
}

impl<'a> Policy<'a> {
    /// From `accept`, and from what no peer has a say in.
    pub fn new(accept: &[IpNet], own: &'a Own) -> Self {
        let exactly: BTreeSet<IpNet> = accept.iter().map(IpNet::trunc).collect();
        let mut ranges: Vec<IpNet> = exactly.iter().copied().collect();
        ranges.sort_by_key(|range| (range.network(), range.prefix_len()));
        ranges.dedup_by(|inner, outer| outer.contains(&*inner));
        Self { own, exactly, ranges }
    }

    /// Judges a list.
    pub fn judge(&self, list: &[IpNet]) -> Judged {
        let mut judged = Judged::default();
        for prefix in list {
            match self.refuses(prefix) {
                None => judged.accepted.push(*prefix),
                Some(reason) => {
                    judged.refused += 1;
                    if judged.refusals.len() < MAX_REFUSALS_KEPT {
                        judged.refusals.push((*prefix, reason));
                    }
                }
            }
        }
        judged
    }

    fn refuses(&self, prefix: &IpNet) -> Option<Reason> {
        if self.exactly.contains(prefix) {
            return None;
        }
        if self.ranges.is_empty() {
            return Some(Reason::NoAccept);
        }
        let at = self.ranges.partition_point(|range| range.network() <= prefix.network());
        let accepted = at.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|range| range.contains(prefix));
        // What touches our own is said first: it is what somebody looks for who has named a wide range.
        self.own.touches(prefix).or_else(|| (!accepted).then_some(Reason::NotAccepted))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| net(text)).collect()
    }

    fn own() -> Own {
        let links = ["10.248.1.2", "10.248.1.1", "2001:db8:f::1"].map(|text| text.parse().unwrap());
        Own::new(nets(&["10.1.0.0/24", "10.1.0.1/32", "10.248.1.0/30", "2001:db8:1::/64"]), links)
    }

    fn verdict(accept: &[&str], prefix: &str) -> Option<Reason> {
        let own = own();
        let judged = Policy::new(&nets(accept), &own).judge(&[net(prefix)]);
        assert_eq!(judged.accepted.len() + judged.refused, 1);
        judged.refusals.first().map(|(_, reason)| *reason)
    }

    #[test]
    fn what_touches_our_own_is_refused_unless_accept_names_exactly_that() {
        use Reason::*;
        for (prefix, reason) in [
            ("10.1.0.0/24", OwnNetwork),
            ("10.1.0.0/25", OwnNetwork),
            ("10.1.0.128/25", OwnNetwork),
            ("10.1.0.77/32", OwnNetwork),
            ("10.1.0.0/16", OwnNetwork),
            ("10.0.0.0/8", OwnNetwork),
            ("10.248.1.1/32", OwnNetwork),
            ("2001:db8:1::/64", OwnNetwork),
            ("2001:db8:1::77/128", OwnNetwork),
            ("2001:db8:f::1/128", LinkAddress),
            ("2001:db8:f::/48", LinkAddress),
            ("0.0.0.0/0", DefaultRoute),
            ("::/0", DefaultRoute),
            ("0.0.0.0/8", Unspecified),
            ("0.1.2.0/24", Unspecified),
            ("::/128", Unspecified),
            ("127.0.0.0/8", Loopback),
            ("127.0.0.53/32", Loopback),
            ("126.0.0.0/7", Loopback),
            ("::1/128", Loopback),
            ("169.254.0.0/16", LinkLocal),
            ("169.254.7.0/24", LinkLocal),
            ("fe80::/64", LinkLocal),
            ("224.0.0.0/4", Multicast),
            ("239.1.2.3/32", Multicast),
            ("ff02::/16", Multicast),
            ("255.255.255.255/32", Reserved),
            ("240.0.0.0/4", Reserved),
            ("250.1.2.0/24", Reserved),
            ("::ffff:0:0/96", Mapped),
            ("::ffff:c000:200/120", Mapped),
            ("::/64", Unspecified),
        ] {
            let wide = if prefix.contains(':') { "::/0" } else { "0.0.0.0/0" };
            if prefix != wide {
                assert_eq!(verdict(&[wide], prefix), Some(reason), "{prefix} with accept = {wide}");
            }
            assert_eq!(verdict(&[prefix], prefix), None, "{prefix} is named exactly");
        }
        assert_eq!(verdict(&["10.0.0.0/8"], "0.0.0.0/0"), Some(DefaultRoute));
        assert_eq!(verdict(&["0.0.0.0/0"], "0.0.0.0/0"), None);
    }

    #[test]
    fn accept_covers_what_lies_in_it_and_nothing_else() {
        let accept = ["10.0.0.0/8", "10.20.0.0/16", "192.0.2.0/25", "2001:db8::/32"];
        for prefix in ["10.2.0.0/16", "10.20.20.0/22", "10.1.1.0/24", "192.0.2.0/26", "2001:db8:2::/48"] {
            assert_eq!(verdict(&accept, prefix), None, "{prefix}");
        }
        for prefix in ["192.0.2.0/24", "192.0.2.128/25", "11.0.0.0/8", "2001:db9::/32", "172.16.0.0/12"] {
            assert_eq!(verdict(&accept, prefix), Some(Reason::NotAccepted), "{prefix}");
        }
        assert_eq!(verdict(&[], "192.0.2.0/24"), Some(Reason::NoAccept));
    }

    /// The quick look agrees with looking at each range, on random prefixes in a small space, where they often touch.
    #[test]
    fn the_quick_look_agrees_with_the_slow_one() {
        let mut random = fastrand::Rng::with_seed(4);
        let mut prefix = || {
            let address = Ipv4Addr::new(10, 0, random.u8(..4), random.u8(..));
            IpNet::new(IpAddr::V4(address), random.u8(16..=32)).unwrap().trunc()
        };
        let (mut touched, mut accepted) = (0, 0);
        for _ in 0..2_000 {
            let (networks, accept) = ([prefix(), prefix(), prefix()], [prefix(), prefix(), prefix()]);
            let own = Own::new(networks, []);
            let policy = Policy::new(&accept, &own);
            for _ in 0..10 {
                let prefix = prefix();
                let touches = networks.iter().any(|own| own.contains(&prefix) || prefix.contains(own));
                let in_accept = accept.iter().any(|range| range.contains(&prefix));
                let right = accept.contains(&prefix) || (in_accept && !touches);
                assert_eq!(policy.refuses(&prefix).is_none(), right, "{prefix}: {networks:?}, {accept:?}");
                (touched, accepted) = (touched + usize::from(touches), accepted + usize::from(right));
            }
        }
        assert!(touched > 1_000 && accepted > 1_000, "{touched} touch, {accepted} are accepted");
    }

    #[test]
    fn refusals_are_counted_all_and_kept_few() {
        let own = own();
        let list: Vec<IpNet> = (0..5_000_u32)
            .map(|i| IpNet::new(IpAddr::V4(Ipv4Addr::from(0xAC10_0000 + (i << 8))), 24).unwrap())
            .collect();
        let judged = Policy::new(&nets(&["10.0.0.0/8"]), &own).judge(&list);
        assert_eq!((judged.refused, judged.refusals.len(), judged.accepted.len()), (5_000, MAX_REFUSALS_KEPT, 0));
    }

    #[test]
    fn reasons_have_codes_that_come_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), reason);
        }
        assert_eq!(
            (Reason::Other.code(), Reason::from_code(0), Reason::from_code(200)),
            (0, Reason::Other, Reason::Other)
        );
    }
}
