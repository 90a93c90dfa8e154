//! The nftables table of uplinks: which uplink each connection uses.
//!
//! **What is ours.** One table, `inet link_watcher`, or `inet link_watcher_INSTANCE`; in it everything follows from
//! [`Desired`], so [`render`] is all that `generate nft` needs. Other tables are never read or written. Of packet and
//! connection marks only the bits of the groups' masks are changed.
//!
//! **A connection has one uplink**, which its connection mark names, from its first packet on:
//!
//! * one from outside that by which it came, whatever address its destination is translated to;
//! * one whose source leaves untranslated (IPv6, a provider's own prefix) that to which the source belongs;
//! * a forced one that which the configuration says;
//! * any other, from the LAN or the router itself, the one whose turn it is by weight.
//!
//! Packets take the mark over from their connection, and are routed by it. What does not go to the group's routes through
//! an uplink (other networks of ours, the router itself, multicast, link-local) is left alone. A packet of the router's own
//! that already carries a mark, as probes do, keeps it, and its connection gets none: so answers to probes count as no evidence,
//! and releasing an uplink's connections leaves probes alone.
//!
//! **A limit.** Where sources are translated, a connection of the router's own that has bound an uplink's address cannot be
//! told from one to which the kernel has given that address: both are spread. What must leave by one uplink binds its
//! interface, carries its mark, or is forced.
//!
//! **Applying** is one transaction of `nft -f -`: the whole table first, later only the chains that differ, so that
//! counters go on and a failover costs little. Of a table that an earlier run left only the rules are written, where the rest
//! is the same: its hooks never miss a packet. A connection that begins in the moment of a transaction may see neither the
//! former rules nor these: it is caught behind routing. What somebody else does to the table is noticed by the kernel's
//! ruleset generation, its removal when it happens, and put right.

mod rules;
mod sink;
mod slots;
#[cfg(test)]
mod tests;
mod text;

use std::{collections::BTreeMap, fmt, io};

pub(crate) use self::sink::TIMEOUT;
pub use self::sink::{Nft, NftError, RulesetSink};
use self::text::{Flowtable, Table};
use super::Desired;
use crate::event::{GroupId, LinkId};

/// Time between two looks at the kernel's ruleset generation, ns.
const PERIOD_NS: u64 = 1_000_000_000;
/// The longest wait between two attempts, ns.
const BACKOFF_MAX_NS: u64 = 60_000_000_000;

/// The complete text of our table, for `nft -f`: one transaction that puts it in the place of an earlier one. Uplinks whose
/// path of a family is not known take no part in that family.
pub fn render(groups: &[Desired], instance: Option<&str>) -> String {
    rules::table(groups, instance).to_string()
}

/// The name of an instance's table.
pub(crate) fn table_name(instance: Option<&str>) -> String {
    rules::table_name(instance)
}

/// What a call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing: the table stands as wanted.
    Unchanged,
    /// Only rules were written; counters go on.
    Updated,
    /// The whole table was written; counters began at 0.
    Replaced,
}

/// Something the log should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesetNotice {
    /// Somebody else had changed or removed the table; it stands again.
    Repaired {
        /// Its name.
        table: String,
        /// It was gone.
        removed: bool,
        /// It is looked at again after this time, ns: ever longer where somebody keeps doing it.
        wait_ns: u64,
    },
    /// What could not be applied before now is.
    Applied,
    /// It cannot be written or read; another attempt follows.
    Failed(String),
}

impl fmt::Display for RulesetNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repaired { table, removed, wait_ns } => {
                let what = if *removed { "removed" } else { "changed" };
                write!(
                    f,
                    "somebody {what} our nftables table inet {table}; it stands again, and is looked at again in {} s. Scripts \
                     that load rules should not begin with `flush ruleset`, but delete their own tables",
                    wait_ns / 1_000_000_000
                )
            }
            Self::Applied => write!(f, "the nftables rules stand now"),
            Self::Failed(why) => write!(f, "{why}"),
        }
    }
}

/// How the table looked when it was ours for sure.
#[derive(Debug)]
struct Baseline {
    /// The kernel's ruleset generation.
    generation: u32,
    /// What `nft` listed.
    listing: String,
}

/// The table: written where it differs from what is wanted, watched, and put right.
#[derive(Debug)]
pub struct Ruleset<S> {
    sink: S,
    instance: Option<String>,
    wanted: Option<Table>,
    /// The fast path that the kernel has refused, and why: left out until another one is wanted.
    refused: Option<(Flowtable, String)>,
    /// What was applied last; nothing where that failed.
    installed: Option<Table>,
    baseline: Option<Baseline>,
    /// When [`tick`](Self::tick) looks next, ns.
    next_ns: u64,
    /// The wait before the next attempt after one that failed; grows with each.
    backoff_ns: u64,
    /// The wait after the next repair; doubles with each, until the table was found as it was left.
    repair_wait_ns: u64,
    /// The weights when there last were any.
    weights: BTreeMap<GroupId, BTreeMap<LinkId, u32>>,
    /// Whose the counters are.
    links: BTreeMap<String, LinkId>,
    /// The counters as last read, and the sums that outlive them.
    answers: BTreeMap<LinkId, Answers>,
}

/// A counter that begins again whenever the whole table is written, and the sum that does not.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    last: u64,
    sum: u64,
}

impl<S: RulesetSink> Ruleset<S> {
    /// Nothing is written before [`apply`](Self::apply).
    pub fn new(sink: S, instance: Option<&str>) -> Self {
        Self {
            sink,
            instance: instance.map(str::to_owned),
            wanted: None,
            refused: None,
            installed: None,
            baseline: None,
            next_ns: u64::MAX,
            backoff_ns: PERIOD_NS,
            repair_wait_ns: PERIOD_NS,
            weights: BTreeMap::new(),
            links: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    /// The table's name in family `inet`.
    pub fn table(&self) -> String {
        rules::table_name(self.instance.as_deref())
    }

    /// Makes the table what these groups want. Where no uplink of a group has a weight, the last ones count still: a
    /// connection that begins meanwhile is translated, and goes on when its uplink is back. Without groups the table is
    /// removed. Takes some 20 ms where something changes, most of it after the change has taken effect.
    ///
    /// # Errors
    /// Where `nft` is missing or refuses. The former table stands then; [`tick`](Self::tick) tries again.
    pub fn apply(&mut self, now_ns: u64, groups: &[Desired]) -> Result<Applied, NftError> {
        if groups.is_empty() {
            let had = self.wanted.is_some();
            self.remove()?;
            return Ok(if had { Applied::Replaced } else { Applied::Unchanged });
        }
        self.weights.retain(|group, _| groups.iter().any(|known| known.group == *group));
        let groups: Vec<Desired> = groups.iter().map(|group| self.weighted(group)).collect();
        let wanted = self.possible(rules::table(&groups, self.instance.as_deref()));
        self.links = rules::counters(&groups).into_iter().collect();
        let links = &self.links;
        self.answers.retain(|link, _| links.values().any(|known| known == link));
        if self.installed.as_ref() == Some(&wanted) {
            self.wanted = Some(wanted);
            return Ok(Applied::Unchanged);
        }
        self.wanted = Some(wanted);
        self.write(now_ns)
    }

    /// The group, with its last weights where it has none.
    fn weighted(&mut self, group: &Desired) -> Desired {
        let mut group = group.clone();
        if group.uplinks.iter().any(|uplink| uplink.weight > 0) {
            let weights = group.uplinks.iter().map(|uplink| (uplink.link, uplink.weight)).collect();
            self.weights.insert(group.group, weights);
        } else if let Some(weights) = self.weights.get(&group.group) {
            for uplink in &mut group.uplinks {
                uplink.weight = weights.get(&uplink.link).copied().unwrap_or(0);
            }
        }
        group
    }

    /// The table, without the fast path where the kernel has refused that one.
    fn possible(&mut self, wanted: Table) -> Table {
        match &self.refused {
            Some((refused, _)) if wanted.flowtable.as_ref() == Some(refused) => wanted.without_flowtable(),
            _ => {
                self.refused = None;
                wanted
            }
        }
    }

    /// Why there is no fast path, where one is wanted: all packets take the ordinary way then.
    pub fn fast_path_refused(&self) -> Option<&str> {
        self.refused.as_ref().map(|(_, why)| &why[..])
    }

    /// Writes what is wanted: the chains that differ, the rules of all chains, or everything where that is not enough.
    fn write(&mut self, now_ns: u64) -> Result<Applied, NftError> {
        let Some(wanted) = &self.wanted else { return Ok(Applied::Unchanged) };
        let update = match &self.installed {
            Some(installed) => wanted.update(installed),
            // What an earlier run left, or somebody has changed. What cannot be listed is written as a whole.
            None => {
                let listing = self.sink.list(&wanted.name).unwrap_or_default();
                listing.and_then(|listing| wanted.takeover(&listing))
            }
        };
        self.installed = None;
        self.baseline = None;
        self.next_ns = now_ns;
        // A table that somebody else has changed may not take the small transaction.
        if let Some(update) = update
            && self.sink.apply(&update).is_ok()
        {
            self.installed = Some(wanted.clone());
            return Ok(Applied::Updated);
        }
        let mut result = self.sink.apply(&wanted.to_string());
        if let (Err(NftError::Refused { complaint, .. }), Some(flowtable)) = (&result, &wanted.flowtable) {
            // Kernels may be built without it, and an interface may just have gone.
            let plain = wanted.without_flowtable();
            let refused = (flowtable.clone(), complaint.clone());
            result = self.sink.apply(&plain.to_string());
            if result.is_ok() {
                (self.refused, self.wanted) = (Some(refused), Some(plain));
            }
        }
        let Some(wanted) = &self.wanted else { return Ok(Applied::Unchanged) };
        match result {
            Ok(()) => {
                self.installed = Some(wanted.clone());
                self.backoff_ns = PERIOD_NS;
                Ok(Applied::Replaced)
            }
            Err(error) => {
                self.back_off(now_ns);
                Err(error)
            }
        }
    }

    fn back_off(&mut self, now_ns: u64) {
        self.next_ns = now_ns.saturating_add(self.backoff_ns);
        self.backoff_ns = (self.backoff_ns * 2).min(BACKOFF_MAX_NS);
    }

    /// When [`tick`](Self::tick) has something to do, ns.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.wanted.as_ref().map(|_| self.next_ns)
    }

    /// The table was removed, perhaps by ourselves while writing it: [`tick`](Self::tick) looks at once, unless somebody keeps
    /// doing that.
    pub fn was_removed(&mut self, now_ns: u64) {
        if self.installed.is_some() && self.repair_wait_ns == PERIOD_NS {
            self.next_ns = self.next_ns.min(now_ns);
        }
    }

    /// Looks whether the table still stands as it was written, and puts it right; tries again what failed. Costs a
    /// netlink message (some 10 µs) as long as nobody changes any nftables table.
    pub fn tick(&mut self, now_ns: u64) -> Option<RulesetNotice> {
        if now_ns < self.deadline_ns()? {
            return None;
        }
        self.next_ns = now_ns.saturating_add(PERIOD_NS);
        if self.installed.is_none() {
            return Some(match self.write(now_ns) {
                Ok(_) => RulesetNotice::Applied,
                Err(error) => RulesetNotice::Failed(error.to_string()),
            });
        }
        match self.look() {
            Ok(None) => {
                self.repair_wait_ns = PERIOD_NS;
                None
            }
            Ok(Some(removed)) => {
                self.installed = None;
                let wait_ns = self.repair_wait_ns;
                Some(match self.write(now_ns) {
                    Ok(_) => {
                        // How it looks now is learned at once, and whether it stays so a while later.
                        let learned = self.look();
                        self.next_ns = now_ns.saturating_add(wait_ns);
                        self.repair_wait_ns = (wait_ns * 2).min(BACKOFF_MAX_NS);
                        match learned {
                            Ok(_) => RulesetNotice::Repaired { table: self.table(), removed, wait_ns },
                            Err(error) => RulesetNotice::Failed(error.to_string()),
                        }
                    }
                    Err(error) => RulesetNotice::Failed(error.to_string()),
                })
            }
            Err(error) => {
                self.back_off(now_ns);
                Some(RulesetNotice::Failed(format!("the nftables rules could not be looked at: {error}")))
            }
        }
    }

    /// Whether the table is not as it was written; inside: whether it is gone.
    fn look(&mut self) -> Result<Option<bool>, NftError> {
        let generation = self.sink.generation()?;
        if self.baseline.as_ref().is_some_and(|baseline| baseline.generation == generation) {
            return Ok(None);
        }
        let Some(listing) = self.sink.list(&self.table())? else { return Ok(Some(true)) };
        match &mut self.baseline {
            // The first look after writing, which follows at once.
            None => self.baseline = Some(Baseline { generation, listing }),
            // Somebody changed another table.
            Some(baseline) if baseline.listing == listing => baseline.generation = generation,
            Some(_) => return Ok(Some(false)),
        }
        Ok(None)
    }

    /// For each uplink the packets that came in by it in answer to connections that use it, since the first reading; never
    /// decreases. Probes' answers, and what comes unasked, do not count. Costs two system calls.
    ///
    /// # Errors
    /// The kernel's, where the table is gone or reading it is not permitted.
    pub fn replies(&mut self) -> io::Result<Vec<(LinkId, u64)>> {
        for (name, packets) in self.sink.counters(&self.table())? {
            let Some(link) = self.links.get(&name) else { continue };
            let answers = self.answers.entry(*link).or_insert(Answers { last: packets, sum: 0 });
            // Below its last value it has begun again.
            answers.sum += packets.checked_sub(answers.last).unwrap_or(packets);
            answers.last = packets;
        }
        Ok(self.answers.iter().map(|(link, answers)| (*link, answers.sum)).collect())
    }

    /// Removes the table of an earlier run, where nothing is wanted now.
    ///
    /// # Errors
    /// Where `nft` is missing or refuses.
    pub fn remove_former(&mut self) -> Result<(), NftError> {
        if self.wanted.is_some() || !self.stands()? {
            return Ok(());
        }
        self.sink.apply(&Table::removal(&self.table()))
    }

    /// Whether there is a table of that name, whoever wrote it.
    ///
    /// # Errors
    /// Where `nft` is missing, or may not look.
    pub fn stands(&mut self) -> Result<bool, NftError> {
        Ok(self.sink.list(&self.table())?.is_some())
    }

    /// Removes the table.
    ///
    /// # Errors
    /// Where `nft` is missing or refuses.
    pub fn remove(&mut self) -> Result<(), NftError> {
        if self.wanted.take().is_none() {
            return Ok(());
        }
        self.installed = None;
        self.refused = None;
        self.baseline = None;
        self.links.clear();
        self.answers.clear();
        self.sink.apply(&Table::removal(&self.table()))
    }
}
