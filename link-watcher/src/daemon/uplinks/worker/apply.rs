//! From what was decided to the kernel: rules, tables, and whose connections are released.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tracing::{info, warn};

use super::{COUNT_NS, Worker};
use crate::{
    clock,
    daemon::uplinks::{Decision, WayOut},
    event::{GroupId, LinkId},
    uplink::{Desired, conntrack::ConntrackSink as _},
};

impl Worker {
    pub(super) fn decided(&mut self, decision: Decision) {
        let Some(group) = self.groups.get_mut(&decision.group) else { return };
        let before = std::mem::replace(&mut group.decision, decision);
        let moves = group.config.moves_connections();
        group.releases.decided(clock::now_ns(), &before, &group.decision, &group.links, moves);
        self.dirty.insert(group.id);
    }

    /// Makes the kernel have what is wanted: which uplink new connections take, then routes, then the release of
    /// connections that would hang.
    pub(super) fn apply(&mut self, changed: &BTreeSet<GroupId>) {
        let now_ns = clock::now_ns();
        let desired: Vec<Desired> = self.groups.values().map(|group| group.desired(&self.excluded)).collect();
        let failed = self.ruleset.apply(now_ns, &desired).err().map(|error| error.to_string());
        self.complain("nft", failed.clone());
        let slow = self.ruleset.fast_path_refused().map(|why| {
            format!(
                "`flowtable` has no effect, all packets take the ordinary way: the kernel refuses it ({why}). It needs the \
                 modules nf_flow_table_inet and nft_flow_offload: install the complete kernel package, or leave `flowtable` out"
            )
        });
        self.complain("fast path", slow);
        let changed = |desired: &&Desired| changed.contains(&desired.group);
        for desired in desired.iter().filter(changed) {
            let report = self.tables.apply(now_ns, desired);
            let mut problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
            problems.extend(report.error);
            problems.extend(failed.clone());
            let said = (!problems.is_empty()).then(|| format!("{}: {}", desired.name, problems.join("; ")));
            self.complain(&format!("tables {}", desired.name), said);
            let mut standing = self.standing();
            standing.groups.insert(desired.group, problems);
            standing.ways.extend(desired.uplinks.iter().map(|uplink| (uplink.link, WayOut::of(desired, uplink))));
        }
        let groups = self.groups.values().zip(&desired);
        self.prober.set(groups.flat_map(|(group, desired)| group.probed(desired)).collect());
        for desired in desired.iter().filter(changed) {
            self.release(desired);
        }
    }

    /// Releases connections that had to wait for their uplink's word.
    pub(super) fn release_late(&mut self) {
        let now_ns = clock::now_ns();
        let due = self.groups.values().filter(|group| group.release_ns().is_some_and(|at_ns| at_ns <= now_ns));
        let desired: Vec<Desired> = due.map(|group| group.desired(&self.excluded)).collect();
        for desired in &desired {
            self.release(desired);
        }
    }

    fn release(&mut self, desired: &Desired) {
        let Some(group) = self.groups.get_mut(&desired.group) else { return };
        let (has, lost): (BTreeSet<_>, _) = std::mem::take(&mut group.sources)
            .into_iter()
            .partition(|(link, source)| group.lapsing.contains_key(link) || self.interfaces.have(*source));
        group.sources = has;
        let mut due: Vec<(LinkId, Option<IpAddr>)> =
            lost.into_iter().map(|(link, source)| (link, Some(source))).collect();
        let mut releases = std::mem::take(&mut group.releases);
        let of_dead = releases.due(clock::now_ns(), |link| group.round_ns(link).unwrap_or(0));
        group.releases = releases;
        due.extend(of_dead.into_iter().map(|link| (link, None)));
        let mut complaints = Vec::new();
        for number in std::mem::take(&mut group.retired) {
            let mark = number << desired.fwmark_mask.trailing_zeros();
            if let Err(error) = self.conntrack.release(mark, desired.fwmark_mask) {
                complaints.push(format!("{}: connections of a removed uplink hang: {error}", desired.name));
            }
        }
        for (link, source) in due {
            let Some(uplink) = desired.uplink(link) else { continue };
            let (mark, mask) = (desired.mark(uplink), desired.fwmark_mask);
            let (released, from) = match source {
                Some(source) => (self.conntrack.release_source(mark, mask, source), format!(" from {source}")),
                None => (self.conntrack.release(mark, mask), String::new()),
            };
            match released {
                Ok(0) => {}
                Ok(count) => {
                    info!("{}: about {count} connections of {}{from} are released", desired.name, uplink.name);
                }
                Err(error) => complaints.push(format!(
                    "{}: connections of {}{from} hang until they time out: {error}",
                    desired.name, uplink.name
                )),
            }
        }
        let complaint = (!complaints.is_empty()).then(|| complaints.join("; "));
        self.complain("release", complaint);
    }

    /// Counts the connections of uplinks that are out of service.
    pub(super) fn count_drained(&mut self) {
        let mut connections = BTreeMap::new();
        for group in self.groups.values().filter(|group| !group.decision.drained.is_empty()) {
            let desired = group.desired(&self.excluded);
            for uplink in desired.uplinks.iter().filter(|uplink| group.decision.drained.contains(&uplink.link)) {
                // A count that cannot be had is none: it is shown, and nothing depends on it.
                if let Ok(count) = self.conntrack.connections(desired.mark(uplink), desired.fwmark_mask) {
                    connections.insert(uplink.link, count);
                }
            }
        }
        self.count_ns = if connections.is_empty() { u64::MAX } else { clock::now_ns() + COUNT_NS };
        self.standing().connections = connections;
    }

    /// Puts right what others have changed.
    pub(super) fn repair(&mut self) {
        let now_ns = clock::now_ns();
        if self.tables.next_deadline_ns() <= now_ns {
            for notice in self.tables.reconcile(now_ns) {
                let name = |id: GroupId| {
                    let group = self.groups.get(&id);
                    group.map_or_else(|| "a group that is gone".to_owned(), |group| group.config.name.clone())
                };
                warn!("uplinks: {}", notice.say(&name));
            }
        }
        if self.ruleset.deadline_ns().is_some_and(|due_ns| due_ns <= now_ns)
            && let Some(notice) = self.ruleset.tick(now_ns)
        {
            // Repairs become rarer by themselves where somebody keeps undoing them.
            warn!("uplinks: {notice}");
        }
    }

    pub(super) fn remove(&mut self) {
        if let Err(error) = self.ruleset.remove() {
            warn!("the nftables table stays: {error}");
        }
        for (_, report) in self.tables.remove_all(clock::now_ns()) {
            for problem in report.problems {
                warn!("tables of uplinks: {problem}");
            }
        }
        for said in self.sysctls.restore() {
            warn!("{said}");
        }
    }
}
