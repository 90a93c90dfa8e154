//! What this run claims in the kernel, and the end of what former runs claimed.
//!
//! A former claim that the configuration does not name any more is served as a group without any prefix: the back-ends
//! take over what stands there, and remove it as they remove any group. That waits until what is wanted now stands, so that
//! what is common to both runs loses no packet; where a peer may still have to announce what it wants, it waits as long as
//! routes of an earlier run wait for that.

use tracing::{info, warn};

use super::{core::Core, group::Group};
use crate::{
    clock,
    config::{Config, PeerConfig, UplinksConfig},
    event::GroupId,
    ledger::{PeerClaim, UplinksClaim, Way},
    route::{GroupRoutes, Nexthop, RouteBackend, RouteSink as _, TableRange},
};

/// How long a former claim waits for what is wanted now, ns: as long as routes of an earlier run wait to be wanted.
const GRACE_NS: u64 = 120_000_000_000;
/// Numbers of former groups: far from those of groups.
const FIRST_FORMER: u32 = 1 << 31;

/// A group that is wanted no more, as the back-ends still serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormerGroup {
    pub(super) id: GroupId,
    /// The peer's name then.
    pub(super) name: String,
    pub(super) range: TableRange,
}

impl FormerGroup {
    /// Whether this peer is it, come back, or writes where it did.
    pub(super) fn is(&self, peer: &PeerConfig) -> bool {
        self.name == peer.name || self.range == peer.range
    }
}

/// Former claims that nothing in the configuration stands for.
#[derive(Debug)]
pub(super) struct FormerPeers {
    /// Nothing was looked at yet: the daemon starts.
    pub(super) untouched: bool,
    waiting: Vec<FormerGroup>,
    /// Being removed, portion by portion.
    going: Vec<FormerGroup>,
    /// When they go at the latest, ns.
    until_ns: u64,
    /// Something was refused: the record keeps the claim for the next run.
    refused: bool,
    /// The record has only what this run claims.
    pub(super) struck_out: bool,
}

impl Default for FormerPeers {
    fn default() -> Self {
        Self {
            untouched: true,
            waiting: Vec::new(),
            going: Vec::new(),
            until_ns: u64::MAX,
            refused: false,
            struck_out: false,
        }
    }
}

impl FormerPeers {
    /// A reload has given a group up.
    pub(super) fn give_up(&mut self, now_ns: u64, group: FormerGroup) {
        if self.waiting.is_empty() {
            self.until_ns = now_ns + GRACE_NS;
        }
        self.waiting.push(group);
    }

    /// All of them: a peer that comes back is the group that it was, so that nobody removes what it wants again.
    pub(super) fn all(&self) -> Vec<FormerGroup> {
        self.waiting.iter().chain(&self.going).cloned().collect()
    }

    /// These are wanted, be they former ones or not.
    pub(super) fn take_back(&mut self, wanted: &[GroupId]) {
        self.waiting.retain(|group| !wanted.contains(&group.id));
        self.going.retain(|group| !wanted.contains(&group.id));
    }

    /// What a group was called that goes.
    pub(super) fn name(&self, group: GroupId) -> Option<&String> {
        self.waiting.iter().find(|former| former.id == group).map(|former| &former.name)
    }

    /// When something is to be done although nothing happens, ns.
    pub(super) fn next_deadline_ns(&self) -> u64 {
        if self.waiting.is_empty() { u64::MAX } else { self.until_ns }
    }
}

/// What a peer of the configuration claims.
pub(super) fn peer_claim(peer: &PeerConfig) -> PeerClaim {
    PeerClaim {
        name: peer.name.clone(),
        table: peer.table,
        metric: peer.metric,
        table_base: peer.range.table_base,
        rule_priority: peer.range.rule_priority,
        ways: Default::default(),
    }
}

/// The next hops that a claim names.
fn nexthops(claim: &PeerClaim) -> impl Iterator<Item = Nexthop> {
    claim.ways.iter().map(|way| Nexthop { ifindex: way.ifindex, gateway: way.gateway, weight: 1 })
}

/// The numbers of a group's uplinks, and those that former ones had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// In the order of the file.
    pub(super) numbers: Vec<u32>,
    /// Of uplinks that are no more.
    pub(super) retired: Vec<u32>,
}

impl Core {
    /// Writes down what a configuration claims, before anything of it is put into the kernel. Gives the numbers of each
    /// group's uplinks.
    pub(super) fn claim(&self, config: &Config) -> Vec<Numbers> {
        let mut ledger = self.ledger.lock();
        let (mut claims, mut all) = (Vec::new(), Vec::new());
        for group in &config.uplinks {
            let names: Vec<&str> = group.links.iter().map(|link| link.name.as_str()).collect();
            let (numbers, assigned) = ledger.numbers(&group.name, &names, group.room(config));
            let retired = assigned.iter().filter(|(name, _)| !names.contains(&name.as_str()));
            all.push(Numbers { numbers, retired: retired.map(|(_, number)| *number).collect() });
            claims.push(uplinks_claim(group, assigned));
        }
        ledger.claim(config.peers.iter().map(peer_claim).collect(), claims);
        ledger.save();
        all
    }

    /// Next hops that routes of the group may lead through since an earlier run.
    pub(super) fn former_ways(&self, group: &Group) -> Vec<Nexthop> {
        let ledger = self.ledger.lock();
        let own = peer_claim(&group.config);
        let claims = ledger.former().peers.iter().filter(|claim| claim.same_place(&own));
        claims.flat_map(nexthops).collect()
    }

    /// At the start, behind the groups of the configuration: takes over what former runs left for anything else.
    pub(super) async fn adopt_former(&mut self) {
        let now_ns = clock::now_ns();
        let wanted: Vec<PeerClaim> = self.config.peers.iter().map(peer_claim).collect();
        let ranges: Vec<TableRange> = self.config.peers.iter().map(|peer| peer.range).collect();
        let former = self.ledger.lock().former().peers.clone();
        let gone = former.iter().filter(|claim| !wanted.iter().any(|wanted| wanted.same_place(claim)));
        for (claim, id) in gone.zip(FIRST_FORMER..) {
            let range = TableRange { table_base: claim.table_base, rule_priority: claim.rule_priority };
            // What is another peer's now, that one takes over.
            let taken = ranges.iter().any(|other| other.overlaps(&range));
            let desired = GroupRoutes {
                table: claim.table,
                metric: claim.metric,
                links: nexthops(claim).collect(),
                choice: RouteBackend::Auto,
                range: if taken { TableRange::NOWHERE } else { range },
                ..GroupRoutes::default()
            };
            let adopted = self.routes.adopt(now_ns, GroupId(id), &desired).await;
            if adopted.routes > 0 {
                info!(
                    "{}: {} routes of an earlier run, which this configuration has nothing for, go when what it wants stands",
                    claim.name, adopted.routes
                );
            }
            self.former.waiting.push(FormerGroup { id: GroupId(id), name: claim.name.clone(), range: desired.range });
        }
        self.former.until_ns = now_ns + GRACE_NS;
    }

    /// Removes what former runs left as soon as what is wanted now stands; then strikes it out.
    pub(super) async fn end_former(&mut self) {
        let now_ns = clock::now_ns();
        if !self.former.waiting.is_empty() && (now_ns >= self.former.until_ns || self.all_stand()) {
            for group in std::mem::take(&mut self.former.waiting) {
                let report = self.routes.remove(now_ns, group.id).await;
                let name = &group.name;
                for refusal in &report.refused {
                    warn!("{name}: a route of an earlier run stays: {}", refusal.say(&|id| self.group_name(id)));
                }
                if let Some(error) = &report.error {
                    warn!("{name}: routes of an earlier run stay: {error}");
                }
                self.former.refused |= report.error.is_some() || !report.refused.is_empty();
                self.former.going.push(group);
            }
        }
        let routes = &self.routes;
        self.former.going.retain(|group| routes.serves(group.id));
        let FormerPeers { waiting, going, refused, struck_out, .. } = &self.former;
        // Of what a reload leaves out, too, nothing is left then.
        if !struck_out && !refused && waiting.is_empty() && going.is_empty() && self.all_stand() {
            let peers: Vec<PeerClaim> = self.groups.values().map(|group| self.claim_of(group)).collect();
            let mut ledger = self.ledger.lock();
            ledger.keep_only_peers(&peers);
            ledger.save();
            self.former.struck_out = true;
        }
    }

    fn claim_of(&self, group: &Group) -> PeerClaim {
        let links = group.links.iter().filter_map(|id| self.links.get(id));
        let way = |link: &super::links::Link| {
            let ifindex = link.running.as_ref()?.ifindex;
            Some(Way { interface: link.config.interface.clone(), ifindex, gateway: link.config.remote })
        };
        PeerClaim { ways: links.filter_map(way).collect(), ..peer_claim(&group.config) }
    }

    /// Whether every peer has what it wants, as far as it is known: what it announces, too.
    fn all_stand(&self) -> bool {
        self.groups.iter().all(|(id, group)| {
            let awaited = !group.config.accept.is_empty() && group.announced_over.is_none();
            group.plan.as_ref().is_some_and(|plan| !plan.active.is_empty()) && !awaited && self.routes.stands(*id)
        })
    }
}

/// What a group of uplinks claims.
fn uplinks_claim(group: &UplinksConfig, numbers: std::collections::BTreeMap<String, u32>) -> UplinksClaim {
    UplinksClaim {
        name: group.name.clone(),
        fwmark_mask: group.fwmark_mask,
        rule_priority: group.rule_priority,
        table_base: group.table_base,
        numbers,
    }
}
