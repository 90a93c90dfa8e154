//! What runs of each group: its prefixes, its announcements, where its traffic goes.

use std::sync::Arc;

use ipnet::IpNet;

use super::announcements::Told;
use crate::{
    announce::{self, Judged, Own, Policy},
    config::PeerConfig,
    event::{GroupId, LinkId, Plan},
};

/// One group at run time.
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) config: PeerConfig,
    /// Its links, in the order of the file.
    pub(super) links: Vec<LinkId>,
    pub(super) sender: announce::Sender,
    pub(super) receiver: announce::Receiver,
    /// What the peer announces.
    pub(super) list: Vec<IpNet>,
    /// What became of it.
    pub(super) judged: Judged,
    /// What it was judged by.
    judged_by: Option<(Vec<IpNet>, Own)>,
    /// The link over which it came.
    pub(super) announced_over: Option<LinkId>,
    pub(super) told: Told,
    /// What is configured and what is accepted, in order.
    prefixes: Arc<[IpNet]>,
    /// Of these, what another group carries while all links of this one are dead, in order, and which.
    conceded: Vec<(IpNet, GroupId)>,
    /// The rest: the same pointer as long as that is the same.
    served: Arc<[IpNet]>,
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
            links: Vec::new(),
            prefixes: Arc::default(),
            conceded: Vec::new(),
            served: Arc::default(),
            sender: announce::Sender::default(),
            receiver: announce::Receiver::default(),
            list: Vec::new(),
            judged: Judged::default(),
            judged_by: None,
            announced_over: None,
            told: Told::default(),
            plan: None,
            route_refusals: Vec::new(),
        };
        group.receiver.set_max_prefixes(group.config.max_prefixes);
        group.gather();
        group
    }

    /// Takes a new configuration.
    pub(super) fn configure(&mut self, config: PeerConfig) {
        self.config = config;
        self.receiver.set_max_prefixes(self.config.max_prefixes);
        self.gather();
    }

    /// Whether the peer's list is to be judged again: something has changed that it depends on.
    pub(super) fn to_be_judged(&self, own: &Own) -> bool {
        self.judged_by.as_ref().is_some_and(|(accept, known)| *accept != self.config.accept || known != own)
    }

    /// Judges the peer's list; gives the acknowledgement that tells the peer.
    pub(super) fn judge(&mut self, own: &Own) -> Option<Vec<u8>> {
        self.judged = Policy::new(&self.config.accept, own).judge(&self.list);
        self.judged_by = Some((self.config.accept.clone(), own.clone()));
        self.gather();
        self.receiver.judged(&self.judged)
    }

    /// What was announced, for the log; with the first of what is refused.
    pub(super) fn announced_in_words(&self, most: usize) -> String {
        let mut words = format!("the peer announces {} prefixes", self.list.len());
        if self.judged.refused > 0 {
            let refusals = self.judged.refusals.iter().take(most);
            let refusals: Vec<String> = refusals.map(|(prefix, why)| format!("{prefix}: {why}")).collect();
            words += &format!("; {} are refused, such as {}", self.judged.refused, refusals.join(", "));
        }
        words
    }

    /// Everything that goes through this group: configured and announced. The same pointer as long as that is the same.
    pub(super) fn prefixes(&self) -> Arc<[IpNet]> {
        Arc::clone(&self.prefixes)
    }

    /// What of it the group's routes are for now.
    pub(super) fn served(&self) -> Arc<[IpNet]> {
        Arc::clone(&self.served)
    }

    /// What another group carries while all links of this one are dead, and which.
    pub(super) fn conceded(&self) -> &[(IpNet, GroupId)] {
        &self.conceded
    }

    /// Leaves these of its prefixes, in order, to other groups. Gives whether that is something new.
    pub(super) fn concede(&mut self, conceded: Vec<(IpNet, GroupId)>) -> bool {
        let changed = self.conceded != conceded;
        if changed {
            self.conceded = conceded;
            self.leave();
        }
        changed
    }

    fn leave(&mut self) {
        let left = |prefix: &&IpNet| self.conceded.binary_search_by_key(*prefix, |(prefix, _)| *prefix).is_err();
        self.served = if self.conceded.is_empty() {
            Arc::clone(&self.prefixes)
        } else {
            self.prefixes.iter().filter(left).copied().collect()
        };
    }

    /// Whether the engine found that none of its links works.
    pub(super) fn is_dead(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.all_down)
    }

    /// Whether one of its links works.
    pub(super) fn is_alive(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| !plan.all_down)
    }

    fn gather(&mut self) {
        let mut prefixes: Vec<IpNet> =
            self.config.routes.iter().chain(&self.judged.accepted).map(|prefix| prefix.trunc()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        if self.prefixes[..] != prefixes[..] {
            self.prefixes = prefixes.into();
            self.leave();
        }
    }
}
