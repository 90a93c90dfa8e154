//! Uplinks: several ways to the internet.
//!
//! What the engine decides about a group of uplinks, together with what the kernel says of its interfaces, is one value,
//! [`Desired`]. Everything that is written to the kernel for uplinks follows from it.

pub mod conntrack;
pub mod learn;
pub mod nft;
pub mod probe;
pub mod sysctls;
pub mod tables;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    config::{ForceConfig, Nat, UplinkConfig, UplinksConfig},
    event::{GroupId, LinkId},
};

/// A group of uplinks as the kernel shall have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Number.
    pub group: GroupId,
    /// Name.
    pub name: String,
    /// What goes through the uplinks.
    pub routes: Vec<IpNet>,
    /// What peers serve, default routes aside: neither spread nor translated, though it may use the same interfaces.
    pub excluded: Vec<IpNet>,
    /// Interfaces whose new connections are spread.
    pub lan: Vec<String>,
    /// Whether a connection stays on its uplink.
    pub sticky: bool,
    /// The interfaces between which established connections take the fast path: those that exist now, each with its index,
    /// for one that comes again under its former name is another one. None: no fast path.
    pub fast_path: BTreeMap<String, u32>,
    /// Whether conntrack takes the middle of a TCP connection for the begin of one (`nf_conntrack_tcp_loose`, the kernel's
    /// default).
    pub tcp_loose: bool,
    /// Bits of packet and connection mark that are ours.
    pub fwmark_mask: u32,
    /// Priority of our first rule.
    pub rule_priority: u32,
    /// The table that spreads; the uplinks' own are the ones behind it.
    pub table_base: u32,
    /// Connections that shall use one uplink.
    pub force: Vec<ForceConfig>,
    /// All of its uplinks, whatever their state, in the order of their numbers.
    pub uplinks: Vec<Uplink>,
}

/// One uplink as the kernel shall have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its id.
    pub link: LinkId,
    /// Its number in the group, from 1: its mark is this number in the group's mask, its table `table_base` plus it.
    pub number: u32,
    /// Name.
    pub name: String,
    /// Interface.
    pub interface: String,
    /// The interface's index; 0: there is none now.
    pub ifindex: u32,
    /// IPv4, where the group routes it and the uplink has it now.
    pub ipv4: Option<Path>,
    /// IPv6 likewise.
    pub ipv6: Option<Path>,
    /// The gateway's link-layer address, where another uplink of any group uses the same interface.
    pub gateway_mac: Option<[u8; 6]>,
    /// Prefixes that the provider routes to us.
    pub prefixes: Vec<IpNet>,
    /// How sources are translated.
    pub nat: Nat,
    /// Share of new connections, 0 to 256; 0: none, so not active.
    pub weight: u32,
    /// Whether what is forced to it may go there.
    pub usable: bool,
}

/// The way of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Next hop; nothing on a link without any, such as PPP.
    pub gateway: Option<IpAddr>,
    /// Our address there.
    pub source: Option<IpAddr>,
}

impl Uplink {
    /// An uplink of the configuration of which nothing else is known: without interface and way, and not used.
    pub fn new(link: LinkId, number: u32, config: &UplinkConfig) -> Self {
        Self {
            link,
            number,
            name: config.name.clone(),
            interface: config.interface.clone(),
            ifindex: 0,
            ipv4: None,
            ipv6: None,
            gateway_mac: None,
            prefixes: config.prefixes.clone(),
            nat: config.nat,
            weight: 0,
            usable: false,
        }
    }

    /// What has one of these sources leaves by it, whichever uplink is active: our addresses there, and its prefixes.
    pub(crate) fn sources(&self) -> impl Iterator<Item = IpNet> {
        let ways = [self.ipv4, self.ipv6].into_iter().flatten().filter(|_| self.ifindex != 0);
        let own = ways.filter_map(|way| way.source).map(IpNet::from);
        own.chain(self.prefixes.iter().map(IpNet::trunc))
    }
}

impl Desired {
    /// A group of the configuration without any uplink.
    pub fn new(group: GroupId, config: &UplinksConfig) -> Self {
        Self {
            group,
            name: config.name.clone(),
            routes: config.routes.clone(),
            excluded: Vec::new(),
            lan: config.lan.clone(),
            sticky: config.sticky,
            fast_path: BTreeMap::new(),
            tcp_loose: true,
            fwmark_mask: config.fwmark_mask,
            rule_priority: config.rule_priority,
            table_base: config.table_base,
            force: config.force.clone(),
            uplinks: Vec::new(),
        }
    }

    /// What the configuration alone says of the group: as if all of its uplinks were up. Addresses that the daemon would
    /// learn are not known, nor is who is behind an interface that several uplinks share.
    pub fn with_all_up(group: GroupId, config: &UplinksConfig) -> Self {
        let lowest = config.links.iter().map(|link| link.tier).filter(|tier| *tier > 0).min();
        let uplink = |(link, number): (&UplinkConfig, u32)| {
            // Where the file names addresses, the uplink has their families; else whatever the group routes.
            let named: Vec<IpAddr> = link.gateways.iter().chain(&link.locals).copied().collect();
            let path = |ipv4: bool| {
                let of = |addresses: &[IpAddr]| addresses.iter().copied().find(|address| address.is_ipv4() == ipv4);
                let routed = config.routes.iter().any(|prefix| prefix.addr().is_ipv4() == ipv4);
                let has = routed && (named.is_empty() || of(&named).is_some());
                has.then(|| Path { gateway: of(&link.gateways), source: of(&link.locals) })
            };
            Uplink {
                ipv4: path(true),
                ipv6: path(false),
                weight: if Some(link.tier) == lowest { link.weight } else { 0 },
                usable: true,
                ..Uplink::new(LinkId(number - 1), number, link)
            }
        };
        Self {
            uplinks: config.links.iter().zip(1..).map(uplink).collect(),
            fast_path: config.fast_path().map(|interface| (interface.to_owned(), 0)).collect(),
            ..Self::new(group, config)
        }
    }

    /// One of its uplinks.
    pub fn uplink(&self, link: LinkId) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| uplink.link == link)
    }

    /// The mark of an uplink: its number in our bits.
    pub const fn mark(&self, uplink: &Uplink) -> u32 {
        uplink.number << self.fwmark_mask.trailing_zeros()
    }

    /// The uplink's own table.
    pub const fn table(&self, uplink: &Uplink) -> u32 {
        self.table_base + uplink.number
    }
}
