//! What runs of each link: its socket, its kernel program, its place in the maps.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use link_watcher_common::maps::{KeySet, LinkKey, MAX_KEYS};

use crate::{
    config::{EngineChoice, PeerConfig, PeerLinkConfig},
    event::{Device, GroupId, LinkId},
    keys::Key,
    probe::Verifier,
};

/// One link at run time.
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) group: GroupId,
    pub(super) config: PeerLinkConfig,
    pub(super) port: u16,
    pub(super) interval_ns: u64,
    pub(super) multiplier: u32,
    pub(super) keys: Arc<KeySet>,
    /// What the engine knows of its interface.
    pub(super) device: Option<Device>,
    /// What runs now.
    pub(super) running: Option<Running>,
}

/// What runs of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) ifindex: u32,
    pub(super) local: IpAddr,
    pub(super) verifier: Verifier,
    /// As the status prints it.
    pub(super) engine: &'static str,
    /// Why no better one.
    pub(super) engine_reason: Option<String>,
}

impl Link {
    pub(super) fn new(id: LinkId, group: GroupId, peer: &PeerConfig, config: &PeerLinkConfig) -> Self {
        Self {
            id,
            group,
            config: config.clone(),
            port: peer.port,
            interval_ns: super::registry::nanoseconds(peer.interval),
            multiplier: peer.multiplier,
            keys: Arc::new(key_set(&peer.keys)),
            device: None,
            running: None,
        }
    }

    /// Takes over what a reload may change without a new start; says whether the keys did.
    pub(super) fn take_over(&mut self, fresh: Self) -> bool {
        let rekeyed = fresh.keys.ids != self.keys.ids
            || fresh.keys.count != self.keys.count
            || fresh.keys.states.iter().zip(&self.keys.states).any(|(new, old)| new.inner != old.inner);
        self.config = fresh.config;
        self.keys = fresh.keys;
        rekeyed
    }

    /// Where its packets arrive: for one link, and for the endpoint itself.
    pub(super) fn keys_in_map(&self, running: &Running) -> [LinkKey; 2] {
        let link = LinkKey {
            ifindex: running.ifindex,
            vlan: 0,
            local: mapped(running.local),
            remote: mapped(self.config.remote),
            port: self.port,
            reserved: 0,
        };
        [link, LinkKey { remote: [0; 16], ..link }]
    }
}

/// An address as the maps have it.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A peer's keys as the maps have them. The configuration allows no more than [`MAX_KEYS`].
pub(super) fn key_set(keys: &[Key]) -> KeySet {
    let mut set = KeySet::default();
    for (i, key) in keys.iter().take(MAX_KEYS).enumerate() {
        set.ids[i] = key.id();
        set.states[i] = key.signing_state();
        set.count += 1;
    }
    set
}

/// The verifier's name for the engine of most links.
pub(super) fn engine_of_most<'a>(engines: impl Iterator<Item = &'a str>, choice: EngineChoice) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for engine in engines {
        *counts.entry(engine.split('-').next().unwrap_or(engine)).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(engine, _)| engine);
    most.unwrap_or(match choice {
        EngineChoice::Auto | EngineChoice::Xdp => "xdp",
        EngineChoice::Tc => "tc",
        EngineChoice::Socket => "socket",
    })
    .to_owned()
}
