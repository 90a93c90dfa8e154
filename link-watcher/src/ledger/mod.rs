//! What this instance owns in the kernel, written down: so that the next run knows it, whatever its configuration says.
//!
//! The kernel's state dies with the boot or with the network namespace, and so does this record: it lies in the runtime
//! directory and carries a stamp of both. It names *claims*, never single routes: where routes, rules and objects of ours
//! may stand, and through which next hops they may lead. It is written before the first use of what it records, and never
//! within a failover.
//!
//! Two mistakes are possible, and they are not alike: what is taken for somebody else's though it is ours stays behind;
//! what is taken for ours though it is somebody else's cuts him off. So a claim alone proves nothing: whatever is changed or
//! removed by it has our protocol number, stands where the claim says, and leads where the claim says.
//!
//! A record that is missing, of another boot, or not readable is survived: then only what the configuration names is known
//! to be ours, as the kernel shows it. It is said once.

mod file;
mod numbers;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use self::file::{NotKept, Stamp, Stored};
use crate::system::FormerValues;

/// Where the records of all instances are.
pub const RUNTIME_ROOT: &str = "/run/link-watcher";
/// What an instance without a name is called there.
pub const DEFAULT_INSTANCE: &str = "main";
/// Next hops recorded of a peer; beyond it only those of this run count.
const MAX_WAYS: usize = 1024;
/// Settings recorded.
const MAX_SYSCTLS: usize = 16_384;
/// Claims of one kind.
const MAX_CLAIMS: usize = 4096;

/// A next hop that routes of ours may lead through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Way {
    /// Interface.
    pub interface: String,
    /// Its index then.
    pub ifindex: u32,
    /// Gateway.
    pub gateway: IpAddr,
}

/// Where routes, rules and nexthop objects of a peer may stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerClaim {
    /// The peer.
    pub name: String,
    /// `table` of the configuration.
    pub table: u32,
    /// `metric` of the configuration.
    pub metric: u32,
    /// First of the peer's own tables, and of its nexthop objects.
    pub table_base: u32,
    /// Priority of the first of its rules.
    pub rule_priority: u32,
    /// Through what its routes may lead.
    pub ways: BTreeSet<Way>,
}

impl PeerClaim {
    /// Whether both claim the same places for the same peer.
    pub fn same_place(&self, other: &Self) -> bool {
        let place = |claim: &Self| (claim.table, claim.metric, claim.table_base, claim.rule_priority);
        self.name == other.name && place(self) == place(other)
    }
}

/// Where tables, rules and marks of a group of uplinks may stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinksClaim {
    /// The group.
    pub name: String,
    /// Bits of the marks.
    pub fwmark_mask: u32,
    /// Priority of the first rule.
    pub rule_priority: u32,
    /// The table that spreads; those of the uplinks are behind it.
    pub table_base: u32,
    /// The number of each uplink, which is in its connections' marks; of those that are no more, too, as long as there is
    /// room.
    pub numbers: BTreeMap<String, u32>,
}

impl UplinksClaim {
    fn same_place(&self, other: &Self) -> bool {
        let place = |claim: &Self| (claim.fwmark_mask, claim.rule_priority, claim.table_base);
        self.name == other.name && place(self) == place(other)
    }
}

/// What the record says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Peers, those of former runs too until nothing of them is left.
    pub peers: Vec<PeerClaim>,
    /// Groups of uplinks likewise.
    pub uplinks: Vec<UplinksClaim>,
    /// Kernel settings below `/proc/sys/net`: what each was before us, and what we made it.
    pub sysctls: BTreeMap<String, (String, String)>,
}

impl Claims {
    /// Whether nothing is claimed.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.uplinks.is_empty() && self.sysctls.is_empty()
    }
}

/// The record, and where it is kept.
#[derive(Debug)]
pub struct Ledger {
    /// Nothing: it is not kept.
    stored: Option<Stored>,
    claims: Claims,
    /// What former runs left, as it was read.
    former: Claims,
    dirty: bool,
    /// What is wrong with the record, in words.
    problem: Option<String>,
    /// Another process has it.
    in_use: bool,
}

impl Ledger {
    /// The record of an instance in this network namespace; never fails, see [`problem`](Self::problem).
    pub fn open(instance: Option<&str>) -> Self {
        Self::open_in(&directory(instance))
    }

    fn open_in(directory: &Path) -> Self {
        let nothing = Self {
            stored: None,
            claims: Claims::default(),
            former: Claims::default(),
            dirty: false,
            problem: None,
            in_use: false,
        };
        match Stored::open(directory) {
            Ok((stored, read)) => {
                let (claims, problem) = match read {
                    Ok(claims) => (claims.unwrap_or_default(), None),
                    Err(problem) => (Claims::default(), Some(problem)),
                };
                Self { stored: Some(stored), former: claims.clone(), claims, problem, ..nothing }
            }
            Err(NotKept::InUse(problem)) => Self { problem: Some(problem), in_use: true, ..nothing },
            Err(NotKept::Failed(problem)) => Self { problem: Some(problem), ..nothing },
        }
    }

    /// Why it is not kept, or could not be read: what, where, and what follows.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether another process has the record: a daemon of this name runs.
    pub const fn in_use(&self) -> bool {
        self.in_use
    }

    /// What former runs had claimed when this one began.
    pub const fn former(&self) -> &Claims {
        &self.former
    }

    /// What is claimed now.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The numbers of a group's uplinks, in the order of `names`: the one that each had, else the lowest that nobody has
    /// had, from 1 to `room`. Also gives those whose uplink is no more.
    pub fn numbers(&mut self, group: &str, names: &[&str], room: u32) -> (Vec<u32>, BTreeMap<String, u32>) {
        let known = self.claims.uplinks.iter().rev().find(|claim| claim.name == group);
        let known = known.map(|claim| claim.numbers.clone()).unwrap_or_default();
        let assigned = numbers::assign(&known, names, room);
        let of = |name: &&str| assigned.get(*name).copied().unwrap_or_default();
        (names.iter().map(of).collect(), assigned)
    }

    /// Adds claims to those that there are.
    pub fn claim(&mut self, peers: Vec<PeerClaim>, uplinks: Vec<UplinksClaim>) {
        let before = self.claims.clone();
        for claim in peers {
            match self.claims.peers.iter_mut().find(|known| known.same_place(&claim)) {
                Some(known) => known.ways.extend(claim.ways),
                None => self.claims.peers.push(claim),
            }
        }
        for claim in uplinks {
            self.claims.uplinks.retain(|known| !known.same_place(&claim));
            self.claims.uplinks.push(claim);
        }
        bound(&mut self.claims.peers);
        bound(&mut self.claims.uplinks);
        self.dirty |= self.claims != before;
    }

    /// Routes of what is claimed there may lead through there from now on.
    pub fn add_way(&mut self, place: &PeerClaim, way: Way) {
        let Some(claim) = self.claims.peers.iter_mut().find(|claim| claim.same_place(place)) else { return };
        if claim.ways.len() >= MAX_WAYS {
            claim.ways.clear();
        }
        self.dirty |= claim.ways.insert(way);
    }

    /// Strikes out peers of which nothing is left: only these, with these next hops, stay.
    pub fn keep_only_peers(&mut self, wanted: &[PeerClaim]) {
        let before = self.claims.peers.clone();
        self.claims.peers.retain(|claim| wanted.iter().any(|wanted| wanted.same_place(claim)));
        for claim in &mut self.claims.peers {
            if let Some(wanted) = wanted.iter().find(|wanted| wanted.same_place(claim)) {
                claim.ways.retain(|way| wanted.ways.contains(way));
            }
        }
        self.dirty |= self.claims.peers != before;
    }

    /// Strikes out a group of uplinks of which nothing is left.
    pub fn strike_uplinks(&mut self, gone: &UplinksClaim) {
        let before = self.claims.uplinks.len();
        self.claims.uplinks.retain(|claim| !claim.same_place(gone));
        self.dirty |= self.claims.uplinks.len() != before;
    }

    /// Writes it, where something has changed: to be called before the effect of what it records.
    pub fn save(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let Some(stored) = &self.stored else { return };
        match stored.write(&self.claims) {
            Ok(()) => self.problem = None,
            Err(error) => {
                if self.problem.is_none() {
                    tracing::warn!("{error}");
                }
                (self.problem, self.dirty) = (Some(error), true);
            }
        }
    }

    /// Removes the record: nothing of ours is left.
    pub fn clear(&mut self) {
        self.claims = Claims::default();
        self.dirty = false;
        if let Some(stored) = &self.stored {
            stored.remove();
        }
    }
}

/// The newest stay.
fn bound<T>(claims: &mut Vec<T>) {
    let excess = claims.len().saturating_sub(MAX_CLAIMS);
    claims.drain(..excess);
}

/// Where the record of an instance is.
pub fn directory(instance: Option<&str>) -> PathBuf {
    Path::new(RUNTIME_ROOT).join(instance.unwrap_or(DEFAULT_INSTANCE))
}

/// Instances other than this one that have something in this network namespace, by name.
pub fn others(instance: Option<&str>) -> Vec<String> {
    let Ok(stamp) = Stamp::now() else { return Vec::new() };
    let own = instance.unwrap_or(DEFAULT_INSTANCE);
    let entries = std::fs::read_dir(RUNTIME_ROOT).into_iter().flatten().flatten();
    let others = entries.filter(|entry| entry.file_name() != own);
    let claims = others.filter(|entry| {
        // One that cannot be read may claim anything.
        file::read(&entry.path(), &stamp).map_or(true, |claims| claims.is_some_and(|claims| !claims.is_empty()))
    });
    claims.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The record, for the threads that use it.
#[derive(Clone, Debug)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Shares it.
    pub fn new(ledger: Ledger) -> Self {
        Self(Arc::new(Mutex::new(ledger)))
    }

    /// Nobody holds it longer than a write to the runtime directory takes (some 50 µs).
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FormerValues for SharedLedger {
    fn all(&self) -> BTreeMap<String, (String, String)> {
        self.lock().claims.sysctls.clone()
    }

    fn record(&mut self, name: &str, former: &str, ours: &str) {
        let mut ledger = self.lock();
        if ledger.claims.sysctls.len() < MAX_SYSCTLS && !ledger.claims.sysctls.contains_key(name) {
            ledger.claims.sysctls.insert(name.to_owned(), (former.to_owned(), ours.to_owned()));
            ledger.dirty = true;
        }
        ledger.save();
    }

    fn forget(&mut self, name: &str) {
        let mut ledger = self.lock();
        ledger.dirty |= ledger.claims.sysctls.remove(name).is_some();
        ledger.save();
    }
}
