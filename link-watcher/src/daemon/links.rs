//! What runs of each link: its socket, its kernel program, its place in the maps.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use link_watcher_common::maps::{KeySet, LinkKey, MAX_KEYS};

use crate::{
    clock,
    config::{DatapathChoice, PeerConfig, PeerLinkConfig},
    event::{Device, GroupId, LinkId, Role},
    health::Limits,
    keys::Key,
    link_identity::{LinkIdentity, mapped},
    probe::Verifier,
    suspicion::{self, Suspicion},
};

/// One link at run time.
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) group: GroupId,
    pub(super) config: PeerLinkConfig,
    pub(super) port: u16,
    pub(super) interval_ns: u64,
    pub(super) multiplier: u32,
    pub(super) limits: Limits,
    role: Role,
    /// Whether another link of the peer has the same remote address.
    shares_remote: bool,
    /// Keys of the peer, from which the link's are derived.
    roots: Arc<KeySet>,
    /// Why nothing good arrives, as far as what is refused tells.
    pub(super) judge: suspicion::Judge,
    pub(super) suspicion: Option<Suspicion>,
    /// Why it cannot be probed yet.
    pub(super) unbound: Option<String>,
    /// Another address of the interface that could be ours as well, where `local` does not say which.
    pub(super) rival: Option<IpAddr>,
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
    /// Whether the peer's address lies in a prefix of the interface.
    pub(super) on_link: bool,
    pub(super) verifier: Verifier,
    /// As the status prints it.
    pub(super) engine: &'static str,
    /// Why no better one.
    pub(super) engine_reason: Option<String>,
}

impl Running {
    /// As every link begins: until a kernel program serves it.
    pub(super) const fn by_socket(ifindex: u32, local: IpAddr, on_link: bool) -> Self {
        Self { ifindex, local, on_link, verifier: Verifier::Socket, engine: "socket", engine_reason: None }
    }
}

impl Link {
    /// Its packets are good: nothing is suspected of them any more.
    pub(super) fn acquit(&mut self) {
        (self.judge, self.suspicion) = Default::default();
    }

    pub(super) fn new(id: LinkId, group: GroupId, peer: &PeerConfig, config: &PeerLinkConfig) -> Self {
        Self {
            id,
            group,
            config: config.clone(),
            port: peer.port,
            interval_ns: clock::nanoseconds(peer.interval),
            multiplier: peer.multiplier,
            limits: peer.limits,
            role: peer.role,
            shares_remote: peer.links.iter().filter(|other| other.remote == config.remote).count() > 1,
            roots: Arc::new(key_set(&peer.keys)),
            judge: suspicion::Judge::default(),
            suspicion: None,
            unbound: None,
            rival: None,
            device: None,
            running: None,
        }
    }

    /// Takes over what a reload may change without a new start; says whether the keys did.
    pub(super) fn take_over(&mut self, fresh: Self) -> bool {
        let rekeyed = fresh.roots.ids != self.roots.ids
            || fresh.roots.count != self.roots.count
            || fresh.roots.states.iter().zip(&self.roots.states).any(|(new, old)| new.inner != old.inner)
            || fresh.shares_remote != self.shares_remote;
        self.limits = fresh.limits;
        self.config = fresh.config;
        self.roots = fresh.roots;
        self.shares_remote = fresh.shares_remote;
        rekeyed
    }

    /// What its silence may come from: that it speaks from another address than the peer expects.
    pub(super) fn address_hint(&self) -> Option<String> {
        let (running, rival) = (self.running.as_ref()?, self.rival?);
        (self.device == Some(Device::Ready)).then(|| {
            format!(
                "it speaks from {}, and {} has {rival} in the same prefix: does the peer expect that one? `local` says which",
                running.local, self.config.interface
            )
        })
    }

    /// What makes it this link, where it runs.
    pub(super) fn identity(&self, running: &Running) -> LinkIdentity<'_> {
        LinkIdentity {
            role: self.role,
            port: self.port,
            local: running.local,
            remote: self.config.remote,
            name: &self.config.name,
            max_hops: self.config.max_hops,
            on_link: running.on_link,
            shares_remote: self.shares_remote,
        }
    }

    /// Its keys, where it runs.
    pub(super) fn keys(&self, running: &Running) -> Arc<KeySet> {
        Arc::new(self.identity(running).keys(&self.roots))
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
pub(super) fn engine_of_most<'a>(engines: impl Iterator<Item = &'a str>, choice: DatapathChoice) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for engine in engines {
        *counts.entry(engine.split('-').next().unwrap_or(engine)).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(engine, _)| engine);
    most.unwrap_or(match choice {
        DatapathChoice::Auto | DatapathChoice::Xdp => "xdp",
        DatapathChoice::Tc => "tc",
        DatapathChoice::Socket => "socket",
    })
    .to_owned()
}
