//! Which groups there are, and what former runs and former files left of others.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info, warn};

use super::Worker;
use crate::{
    clock,
    daemon::uplinks::{Configured, Decision, Report, group::Group, release::Releases},
    event::GroupId,
    ledger::UplinksClaim,
    uplink::{Desired, conntrack::ConntrackSink as _, sysctls},
};

impl Worker {
    pub(super) async fn configure(&mut self, groups: Vec<Configured>) {
        let now_ns = clock::now_ns();
        let kept: BTreeSet<GroupId> = groups.iter().map(|group| group.id).collect();
        let gone: Vec<GroupId> = self.groups.keys().copied().filter(|id| !kept.contains(id)).collect();
        for id in gone {
            self.groups.remove(&id);
            self.tables.remove(now_ns, id);
            self.standing().groups.remove(&id);
        }
        self.learner.follow(now_ns, groups.iter().map(|group| &group.config));
        self.learner.tick(now_ns, &self.interfaces);
        let mut fresh = Vec::new();
        for Configured { id, config, links, numbers } in groups {
            for said in sysctls::warnings(&self.sysctls, &config) {
                warn!("{said}");
            }
            let known = self.groups.remove(&id);
            if known.is_none() {
                fresh.push(id);
            }
            let nothing =
                Decision { group: id, active: Vec::new(), usable: Vec::new(), dead: Vec::new(), drained: Vec::new() };
            let mut group = Group {
                id,
                config,
                resolved: vec![None; links.len()],
                links,
                numbers: numbers.numbers,
                // Of an earlier run, as far as this one began with it.
                retired: numbers.retired.into_iter().collect(),
                decision: nothing,
                releases: Releases::default(),
                sources: BTreeSet::new(),
                losses: BTreeMap::new(),
                lapsing: BTreeMap::new(),
                fast_path: BTreeMap::new(),
            };
            if let Some(known) = known {
                let gone = known.links.iter().zip(&known.numbers).filter(|(link, _)| !group.links.contains(link));
                group.retired = gone.map(|(_, number)| *number).chain(known.retired).collect();
                (group.decision, group.releases, group.sources) = (known.decision, known.releases, known.sources);
                group.losses = known.losses;
            }
            self.groups.insert(id, group);
        }
        self.resolve().await;
        for id in fresh {
            self.adopt(id).await;
        }
        self.dirty.extend(self.groups.keys());
        if self.groups.is_empty() {
            self.apply(&BTreeSet::new());
        }
        if std::mem::take(&mut self.former) {
            self.carry_out().await;
            self.end_former();
        }
    }

    /// Removes what former runs left for groups that are no more, or have other numbers now: behind what is wanted, which
    /// stands already.
    fn end_former(&mut self) {
        let former = self.ledger.lock().former().uplinks.clone();
        let now: Vec<Desired> = self.groups.values().map(|group| group.desired(&self.excluded)).collect();
        if now.is_empty() && !former.is_empty() {
            let failed = self.ruleset.remove_former().err().map(|error| error.to_string());
            self.complain("former nft", failed);
        }
        for claim in former {
            let same = |desired: &&Desired| {
                desired.name == claim.name
                    && (desired.rule_priority, desired.table_base, desired.fwmark_mask)
                        == (claim.rule_priority, claim.table_base, claim.fwmark_mask)
            };
            if now.iter().any(|desired| same(&desired)) {
                continue;
            }
            match self.tables.remove_former(claim.table_base, claim.rule_priority, claim.numbers.values().copied()) {
                Ok(0) => {}
                Ok(count) => info!("{}: {count} routes and rules of an earlier run are removed", claim.name),
                Err(error) => {
                    error!("{}: routes and rules of an earlier run stay: {error}", claim.name);
                    continue;
                }
            }
            self.release_former(&claim, &now);
            let mut ledger = self.ledger.lock();
            ledger.strike_uplinks(&claim);
            ledger.save();
        }
    }

    /// Connections with marks that mean nothing any more find another way.
    fn release_former(&mut self, claim: &UplinksClaim, now: &[Desired]) {
        if now.iter().any(|desired| desired.fwmark_mask & claim.fwmark_mask != 0) {
            // These bits are another group's now: whose a connection is cannot be told.
            return;
        }
        for number in claim.numbers.values() {
            let mark = number << claim.fwmark_mask.trailing_zeros();
            if let Err(error) = self.conntrack.release(mark, claim.fwmark_mask) {
                warn!("{}: connections of its uplinks hang until they time out: {error}", claim.name);
            }
        }
    }

    /// Finds out where an earlier run left the group's traffic, and leaves it there.
    async fn adopt(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let found = self.tables.standing(&group.desired(&self.excluded));
        if found.is_empty() {
            return;
        }
        info!("{}: what an earlier run left is taken over", group.config.name);
        group.decision.active = found.into_iter().collect();
        group.decision.usable = group.decision.active.iter().map(|(link, _)| *link).collect();
        let links = group.decision.usable.clone();
        self.tell(Report::Adopted { group: id, links }).await;
    }
}
