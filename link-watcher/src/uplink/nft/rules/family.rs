//! An address family, in nft's words.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::uplink::Uplink;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `ip` or `ip6`.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    pub(super) fn nfproto(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    pub(super) fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    pub(super) fn has(self, prefix: &IpNet) -> bool {
        matches!((self, prefix), (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_)))
    }

    /// The uplink's own address of this family; nothing in the inner option where it is not known.
    pub(super) fn path(self, uplink: &Uplink) -> Option<Option<IpAddr>> {
        match self {
            Self::V4 => uplink.ipv4,
            Self::V6 => uplink.ipv6,
        }
        .map(|path| path.source)
    }
}
