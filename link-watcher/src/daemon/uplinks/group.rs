//! One group of uplinks, as the worker knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Decision, release::Releases};
use crate::{
    config::{UplinkConfig, UplinksConfig},
    event::{GroupId, LinkId},
    uplink::{Desired, Uplink, conntrack, learn::Resolved, probe::ProbedUplink},
};

/// What is known and decided about a group.
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) config: UplinksConfig,
    pub(super) links: Vec<LinkId>,
    /// Their numbers.
    pub(super) numbers: Vec<u32>,
    /// Numbers of uplinks that are no more: connections with their marks are to be released.
    pub(super) retired: BTreeSet<u32>,
    pub(super) resolved: Vec<Option<Resolved>>,
    /// How often each has stopped being ready.
    pub(super) losses: BTreeMap<LinkId, u64>,
    /// Uplinks whose address or gateway is gone, and since when, ns: a renewal takes them away for a moment.
    pub(super) lapsing: BTreeMap<LinkId, u64>,
    /// The interfaces of its fast path that exist now, with their indexes.
    pub(super) fast_path: BTreeMap<String, u32>,
    pub(super) decision: Decision,
    pub(super) releases: Releases,
    /// Addresses from which uplinks have connections: what they had, and still have.
    pub(super) sources: BTreeSet<(LinkId, IpAddr)>,
}

impl Group {
    /// From the begin of one of an uplink's rounds to the end of the next, ns; nothing: it is of another group.
    pub(super) fn round_ns(&self, link: LinkId) -> Option<u64> {
        let mut uplinks = self.links.iter().zip(&self.config.links);
        let probe = &uplinks.find(|(own, _)| **own == link)?.1.probe;
        Some((probe.interval + probe.timeout).as_nanos() as u64)
    }

    /// When the next connections are to be released, monotonic ns.
    pub(super) fn release_ns(&self) -> Option<u64> {
        self.releases.deadline_ns(|link| self.round_ns(link).unwrap_or(0))
    }

    /// The group as the kernel shall have it.
    pub(super) fn desired(&self, excluded: &[IpNet]) -> Desired {
        let uplinks = self.links.iter().zip(&self.config.links).zip(&self.resolved).zip(self.numbers.iter().copied());
        let uplink = |(((link, config), resolved), number): (((&LinkId, &UplinkConfig), &Option<Resolved>), u32)| {
            let resolved = resolved.as_ref();
            let active = self.decision.active.iter().find(|(active, _)| active == link);
            Uplink {
                ifindex: resolved.map_or(0, |resolved| resolved.ifindex),
                ipv4: resolved.and_then(|resolved| resolved.ipv4),
                ipv6: resolved.and_then(|resolved| resolved.ipv6),
                gateway_mac: resolved.and_then(|resolved| resolved.gateway_mac),
                weight: active.map_or(0, |(_, weight)| *weight),
                usable: self.decision.takes_forced(*link),
                ..Uplink::new(*link, number, config)
            }
        };
        let uplinks = uplinks.map(uplink).collect();
        Desired {
            excluded: excluded.to_vec(),
            fast_path: self.fast_path.clone(),
            tcp_loose: conntrack::takes_up_tcp(),
            uplinks,
            ..Desired::new(self.id, &self.config)
        }
    }

    /// What is to be probed of the group as it is wanted.
    pub(super) fn probed(&self, desired: &Desired) -> Vec<ProbedUplink> {
        let probed = |(uplink, config): (&Uplink, &UplinkConfig)| ProbedUplink {
            link: uplink.link,
            interface: uplink.interface.clone(),
            ifindex: uplink.ifindex,
            ipv4: uplink.ipv4,
            ipv6: uplink.ipv6,
            mark: desired.mark(uplink),
            losses: self.losses.get(&uplink.link).copied().unwrap_or(0),
            config: config.probe.clone(),
        };
        desired.uplinks.iter().zip(&self.config.links).map(probed).collect()
    }
}
