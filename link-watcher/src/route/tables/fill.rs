//! Filling tables, a portion at a time.

use ipnet::IpNet;

use super::{
    BulkKernel, CHUNK, Group, PeerTables, RETRY_NS, SCAN,
    slot::{EntryState, Progress, Slot},
};
use crate::{
    event::GroupId,
    route::{Hop, RouteKey, TableChange, TableRoute, Way, serves},
};

/// One message of a portion.
#[derive(Clone, Copy, Debug)]
enum Step {
    Throw(IpNet),
    Write(usize),
    Remove(usize),
    Unthrow(IpNet),
}

impl Group {
    /// The next steps of a table, and where filling then stands.
    fn steps(&self, slot: &Slot, from: usize) -> (Vec<Step>, Progress) {
        let mut steps: Vec<Step> = Vec::new();
        if !slot.unwanted {
            steps.extend(self.throws.difference(&slot.throws).take(CHUNK).copied().map(Step::Throw));
        }
        let count = self.list.len();
        let mut at = from;
        let end = (2 * count).min(from + SCAN);
        while steps.len() < CHUNK && at < end {
            let entry = at % count;
            let wanted = self.wants(slot, entry);
            match (at < count, slot.standing[entry]) {
                (true, EntryState::Nothing | EntryState::Other) if wanted => steps.push(Step::Write(entry)),
                // What an earlier run left waits for its time.
                (false, EntryState::Ours | EntryState::Other)
                    if !wanted && (self.orphans_until_ns == 0 || slot.unwanted) =>
                {
                    steps.push(Step::Remove(entry));
                }
                _ => {}
            }
            at += 1;
        }
        if at < 2 * count || steps.len() >= CHUNK {
            return (steps, Progress::Filling(at));
        }
        let keeps = |prefix: &&IpNet| !slot.unwanted && self.throws.contains(prefix);
        // Behind the routes that they kept from catching too much.
        if steps.is_empty() {
            steps.extend(slot.throws.iter().filter(|prefix| !keeps(prefix)).take(CHUNK).copied().map(Step::Unthrow));
        }
        let progress = if steps.is_empty() { Progress::Complete } else { Progress::Filling(at) };
        (steps, progress)
    }

    fn change(&self, table: u32, slot: &Slot, step: Step) -> TableChange {
        let place = |at: usize| Self::place(table, self.list[at], false);
        match step {
            Step::Throw(prefix) => TableChange::CreateRoute(throw(table, prefix)),
            Step::Unthrow(prefix) => TableChange::DeleteRoute(throw(table, prefix)),
            Step::Write(at) => {
                let hops = slot.way.iter().filter(|nexthop| serves(nexthop.gateway, &self.list[at]));
                let mut hops: Vec<Hop> = hops.map(Hop::from).collect();
                if let [only] = &mut hops[..] {
                    only.weight = 1;
                }
                let route = TableRoute { key: place(at), way: Way::Through { hops, source: None } };
                match slot.standing[at] {
                    EntryState::Other => TableChange::ReplaceRoute(route),
                    _ => TableChange::CreateRoute(route),
                }
            }
            // Whatever its next hops: the place is ours, and the kernel compares the protocol.
            Step::Remove(at) => TableChange::DeleteRoute(TableRoute {
                key: place(at),
                way: Way::Through { hops: Vec::new(), source: None },
            }),
        }
    }
}

fn throw(table: u32, prefix: IpNet) -> TableRoute {
    TableRoute { key: Group::place(table, prefix, true), way: Way::Throw }
}

/// Errors that concern the way, and so every route of the table.
const fn of_way(errno: i32) -> bool {
    matches!(errno, libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTUNREACH | libc::ENODEV | libc::EPERM)
}

impl<K: BulkKernel> PeerTables<K> {
    /// The table to fill next, of those that carry traffic or of all.
    pub(super) fn next_fill(&self, now_ns: u64, ids: &[GroupId], carrying: bool) -> Option<(GroupId, u32)> {
        if !carrying && self.pause_until_ns > now_ns {
            return None;
        }
        ids.iter().filter_map(|id| Some((id, self.groups.get(id)?))).find_map(|(id, group)| {
            // Without knowing what others have, nothing may be caught.
            let ready = !group.retarget || group.leaving();
            group
                .slots
                .iter()
                .filter(|(table, _)| ready && !group.keeps(**table))
                .filter(|(table, _)| !carrying || group.carries(**table))
                .find(|(_, slot)| matches!(slot.progress, Progress::Filling(_)) && slot.retry_ns <= now_ns)
                .map(|(table, _)| (*id, *table))
        })
    }

    /// One portion of a table. Gives the messages sent.
    pub(super) fn fill(&mut self, now_ns: u64, id: GroupId, table: u32) -> usize {
        let Some(group) = self.groups.get_mut(&id) else { return 0 };
        let Some(slot) = group.slots.get(&table) else { return 0 };
        let Progress::Filling(from) = slot.progress else { return 0 };
        let (steps, mut progress) = group.steps(slot, from);
        let changes: Vec<TableChange> = steps.iter().map(|step| group.change(table, slot, *step)).collect();
        let results = if changes.is_empty() { Ok(Vec::new()) } else { self.kernel.execute(&changes) };
        let Group { slots, throws, .. } = group;
        let Some(slot) = slots.get_mut(&table) else { return 0 };
        let Ok(results) = results else {
            // What was carried out is unknown.
            slot.progress = Progress::Unread;
            slot.retry_ns = now_ns + RETRY_NS / 10;
            return 0;
        };
        slot.error = None;
        for (step, result) in steps.into_iter().zip(results) {
            let result = result.map_err(|error| (error.errno, error));
            match (step, result) {
                (Step::Throw(prefix), Ok(())) => drop(slot.throws.insert(prefix)),
                (Step::Write(at), Ok(())) => slot.set(at, EntryState::Ours),
                (Step::Unthrow(prefix), Ok(()) | Err((libc::ESRCH, _))) => drop(slot.throws.remove(&prefix)),
                (Step::Remove(at), Ok(()) | Err((libc::ESRCH, _))) => slot.set(at, EntryState::Nothing),
                (Step::Throw(_) | Step::Write(_), Err((libc::EEXIST, _))) => {
                    progress = Progress::Unread;
                    slot.retry_ns = now_ns + RETRY_NS / 10;
                }
                (Step::Write(at), Err((errno, error))) if !of_way(errno) => {
                    slot.set(at, EntryState::Refused);
                    slot.error = Some(error);
                }
                (_, Err((_, error))) => {
                    slot.error = Some(error);
                    slot.retry_ns = now_ns + RETRY_NS;
                    progress = Progress::Filling(0);
                }
            }
        }
        slot.progress = progress;
        slot.full |= progress == Progress::Complete && !slot.unwanted;
        slot.guarded = !slot.unwanted && throws.is_subset(&slot.throws);
        changes.len().max(1)
    }
}

/// What a found route is, among ours.
pub(super) fn classify(slot: &Slot, key: &RouteKey, way: Option<&Way>, ours: bool) -> EntryState {
    let Some(Way::Through { hops, .. }) = way.filter(|_| ours) else { return EntryState::Foreign };
    let wanted = slot.way.iter().filter(|nexthop| serves(nexthop.gateway, &key.prefix));
    let mut wanted: Vec<(u32, _, u32)> =
        wanted.map(|nexthop| (nexthop.ifindex, Some(nexthop.gateway), nexthop.weight)).collect();
    if let [only] = &mut wanted[..] {
        only.2 = 1;
    }
    let mut found: Vec<(u32, _, u32)> = hops.iter().map(|hop| (hop.ifindex, hop.gateway, hop.weight)).collect();
    wanted.sort_unstable();
    found.sort_unstable();
    if found == wanted { EntryState::Ours } else { EntryState::Other }
}
