//! What runs of each group: its prefixes, its announcements, where its traffic goes.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    announce,
    config::PeerConfig,
    event::{GroupId, Plan},
};

/// Refusals that are kept for the status.
const MAX_REFUSALS_KEPT: usize = 32;

/// One group at run time.
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) config: PeerConfig,
    pub(super) sender: announce::Sender,
    pub(super) receiver: announce::Receiver,
    /// What the peer announced and we accept.
    pub(super) accepted: Vec<IpNet>,
    /// What is configured and what is accepted, in order.
    prefixes: Arc<[IpNet]>,
    /// What we do not accept, with the reason.
    pub(super) refused: Vec<String>,
    pub(super) refused_count: usize,
    /// What the engine wants.
    pub(super) plan: Option<Plan>,
    /// Prefixes that the kernel or another's route refuses.
    pub(super) route_refusals: Vec<String>,
}

impl Group {
    pub(super) fn new(id: GroupId, config: PeerConfig) -> Self {
        let mut group = Self {
            id,
            config,
            prefixes: Arc::default(),
            sender: announce::Sender::default(),
            receiver: announce::Receiver::default(),
            accepted: Vec::new(),
            refused: Vec::new(),
            refused_count: 0,
            plan: None,
            route_refusals: Vec::new(),
        };
        group.gather();
        group
    }

    /// Takes a new configuration.
    pub(super) fn configure(&mut self, config: PeerConfig) {
        self.config = config;
        self.gather();
    }

    /// Takes over a complete list; says in words what was refused.
    pub(super) fn take_announced(&mut self, announced: Vec<IpNet>) {
        let accept = &self.config.accept;
        let (accepted, refused): (Vec<_>, Vec<_>) =
            announced.into_iter().partition(|prefix| accept.iter().any(|range| range.contains(prefix)));
        let reason = if accept.is_empty() {
            format!("{} has no `accept`; list there what the peer may announce", self.config.name)
        } else {
            "it is outside of `accept`".to_owned()
        };
        self.accepted = accepted;
        self.gather();
        self.refused_count = refused.len();
        self.refused =
            refused.iter().take(MAX_REFUSALS_KEPT).map(|prefix| format!("{prefix}: announced, but {reason}")).collect();
    }

    /// What was announced, for the log.
    pub(super) fn announced_in_words(&self) -> String {
        let mut words = format!("the peer announces {} prefixes", self.accepted.len() + self.refused_count);
        if self.refused_count > 0 {
            words += &format!("; {} are refused, such as {}", self.refused_count, self.refused.join(", "));
        }
        words
    }

    /// Everything that goes through this group: configured and announced. The same pointer as long as that is the same.
    pub(super) fn prefixes(&self) -> Arc<[IpNet]> {
        Arc::clone(&self.prefixes)
    }

    fn gather(&mut self) {
        let mut prefixes: Vec<IpNet> =
            self.config.routes.iter().chain(&self.accepted).map(|prefix| prefix.trunc()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        if self.prefixes[..] != prefixes[..] {
            self.prefixes = prefixes.into();
        }
    }
}
