//! From what a group wants to messages: who else has the place, what the kernel says to each message, and who is there where it
//! refuses.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Cause, Group, RETRY_NS, Routes};
use crate::{
    event::GroupId,
    route::{Change, FoundRoute, Route, RouteKernel, RouteKey},
};

/// Messages in one system call: the errors of all of them fit the receive buffer, and between two calls other tasks of
/// the thread get their turn (some 0.7 ms).
const CHUNK: usize = 200;

impl<K: RouteKernel> Routes<K> {
    /// Takes over places that the group wants and another one has in vain: what stands there is replaced, and never
    /// removed before.
    fn take_over(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(&id).filter(|_| self.groups.len() > 1) else { return };
        let missing: Vec<RouteKey> =
            group.wanted.routes.keys().filter(|key| !group.held.contains_key(*key)).copied().collect();
        for key in missing {
            let giver = self.groups.iter_mut().find(|(other, group)| {
                **other != id && group.held.contains_key(&key) && !group.wanted.routes.contains_key(&key)
            });
            let Some((_, giver)) = giver else { continue };
            let (egress, unverified) = (giver.held.get(&key).cloned(), giver.unverified.contains(&key));
            forget(giver, &key);
            let (Some(egress), Some(group)) = (egress, self.groups.get_mut(&id)) else { continue };
            group.held.insert(key, egress);
            if unverified {
                group.unverified.insert(key);
            }
        }
    }

    /// The other group that has this place.
    pub(super) fn other_holder(&self, id: GroupId, key: &RouteKey) -> Option<GroupId> {
        self.groups.iter().find(|(other, group)| **other != id && group.held.contains_key(key)).map(|(other, _)| *other)
    }

    /// Makes the kernel agree with what the group wants. Gives the number of messages sent.
    pub(in crate::route) async fn sync(&mut self, now_ns: u64, id: GroupId, cause: Cause) -> Result<usize, String> {
        let mut written = 0;
        self.take_over(id);
        // The second round is for places that turned out to be ours, or empty again.
        for _ in 0..2 {
            let changes = self.writes(now_ns, id, cause);
            written += changes.len();
            let occupied = self.execute(now_ns, id, &changes).await?;
            if occupied.is_empty() || !self.inspect(id, occupied)? {
                break;
            }
        }
        let Some(group) = self.groups.get(&id) else { return Ok(written) };
        let mut stale = group.wanted.stale(&group.held, |key| self.refused.contains_key(key));
        stale.retain(|route| !group.orphans.contains(&route.key) || group.wanted.leads.contains_key(&route.key.prefix));
        let deletes: Vec<Change> = stale.into_iter().map(Change::Delete).collect();
        written += deletes.len();
        self.execute(now_ns, id, &deletes).await?;
        Ok(written)
    }

    /// The messages that write what is wanted and does not stand.
    fn writes(&self, now_ns: u64, id: GroupId, cause: Cause) -> Vec<Change> {
        let Some(group) = self.groups.get(&id) else { return Vec::new() };
        // Of two IPv4 routes in one place each can be changed without the other; IPv6 may make one of them.
        let beside =
            |key: &RouteKey| self.refused.contains_key(key) && group.held.contains_key(key) && is_v4(&key.prefix);
        let skip = |key: &RouteKey| {
            (self.refused.contains_key(key) && !beside(key))
                || self.failed.contains_key(key)
                || (cause == Cause::Repair && self.fights.get(key).is_some_and(|fight| fight.next_ns > now_ns))
                || (!group.held.contains_key(key) && self.other_holder(id, key).is_some())
        };
        let writes = group.wanted.writes(|key| group.held.get(key), skip);
        let mut changes = Vec::with_capacity(writes.len());
        for (route, held) in writes {
            if let Some(former) = group.held.get(&route.key).filter(|_| beside(&route.key)) {
                // Replacing would change the first one, which is not ours.
                let former = Route { key: route.key, egress: former.clone() };
                changes.extend([Change::Append(route), Change::Delete(former)]);
            } else if held && !group.unverified.contains(&route.key) {
                changes.push(Change::Replace(route));
            } else {
                changes.push(Change::Create(route));
            }
        }
        changes
    }

    /// Carries the changes out. Gives the places that somebody has already.
    pub(in crate::route) async fn execute(
        &mut self,
        now_ns: u64,
        id: GroupId,
        changes: &[Change],
    ) -> Result<BTreeSet<RouteKey>, String> {
        let mut occupied = BTreeSet::new();
        for (i, chunk) in changes.chunks(CHUNK).enumerate() {
            if i > 0 {
                tokio::task::yield_now().await;
            }
            let results = match self.kernel.execute(chunk) {
                Ok(results) => results,
                Err(error) => {
                    // What was carried out is unknown: look, soon.
                    if let Some(group) = self.groups.get_mut(&id) {
                        group.unsure.extend(chunk.iter().map(|change| change.route().key));
                        group.unverified.extend(chunk.iter().map(|change| change.route().key));
                    }
                    self.due(now_ns + RETRY_NS / 10);
                    return Err(format!("{} route messages: {error}", chunk.len()));
                }
            };
            let Some(group) = self.groups.get_mut(&id) else { return Ok(occupied) };
            for (change, result) in chunk.iter().zip(results) {
                let route = change.route();
                match (change, result) {
                    (Change::Create(_) | Change::Replace(_) | Change::Append(_), Ok(())) => {
                        group.held.insert(route.key, route.egress.clone());
                        group.orphans.remove(&route.key);
                        group.unverified.remove(&route.key);
                    }
                    (Change::Create(_), Err(error)) if error.errno == libc::EEXIST => {
                        occupied.insert(route.key);
                    }
                    // It stands there already.
                    (Change::Append(_), Err(error)) if error.errno == libc::EEXIST => {
                        group.held.insert(route.key, route.egress.clone());
                    }
                    (Change::Create(_) | Change::Replace(_) | Change::Append(_), Err(error)) => {
                        self.failed.insert(route.key, error);
                    }
                    // Gone already counts as removed. What was moved behind somebody else's is another route by now.
                    (Change::Delete(_), Ok(())) => forget_this(group, route),
                    (Change::Delete(_), Err(error)) if matches!(error.errno, libc::ESRCH | libc::ENODEV) => {
                        forget_this(group, route);
                    }
                    (Change::Delete(_), Err(error)) => {
                        self.failed.insert(route.key, error);
                    }
                }
            }
        }
        Ok(occupied)
    }

    /// Looks who is in these places. Gives whether another attempt is worth while.
    fn inspect(&mut self, id: GroupId, occupied: BTreeSet<RouteKey>) -> Result<bool, String> {
        // Nobody new is expected where somebody was before.
        let (before, unknown): (BTreeSet<_>, BTreeSet<_>) =
            occupied.into_iter().partition(|key| self.suspects.contains_key(key));
        for key in before {
            self.refused.insert(key, self.suspects.get(&key).copied().flatten());
        }
        if unknown.is_empty() {
            return Ok(false);
        }
        let describe = |error| format!("reading the routing tables: {error}");
        // Our own are quickly found; only for the rest whole tables are read.
        let mut found: Vec<FoundRoute> = self.kernel.ours().map_err(describe)?;
        let Some(group) = self.groups.get_mut(&id) else { return Ok(false) };
        // The first of several in a place is the one that replacing would change.
        let mut seen = BTreeSet::new();
        found.retain(|route| unknown.contains(&route.key) && seen.insert(route.key) && group.recognises(route));
        let mut others = unknown.clone();
        for route in &found {
            others.remove(&route.key);
        }
        if !others.is_empty() {
            found.extend(self.kernel.occupants(&others).map_err(describe)?);
        }
        let mut again = found.len() < unknown.len();
        for route in found {
            group.unverified.remove(&route.key);
            if group.recognises(&route) {
                group.held.remove(&route.key);
                group.hold(&route);
                again = true;
            } else {
                forget(group, &route.key);
                self.refused.insert(route.key, Some(route.protocol));
            }
        }
        Ok(again)
    }
}

fn is_v4(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V4(_))
}

fn forget_this(group: &mut Group, route: &Route) {
    if group.held.get(&route.key).is_none_or(|egress| *egress == route.egress) {
        forget(group, &route.key);
    }
}

fn forget(group: &mut Group, key: &RouteKey) {
    group.held.remove(key);
    group.orphans.remove(key);
    group.unverified.remove(key);
}
