//! Comparing what the kernel has with what is wanted, and repairing the difference: on events, and now and then.

use super::{PERIOD_NS, TableKernel, TableNotice, Tables};
use crate::{
    event::GroupId,
    route::{BACKOFF_MAX_NS, GAP_NS, backoff_ns},
    system::KernelEvent,
};

/// Somebody keeps changing what is ours.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fight {
    /// Repairs so far.
    repairs: u32,
    /// Earliest time of the next one, ns.
    next_ns: u64,
    /// Who last did it since the last repair: netlink port id.
    by: Option<u32>,
    /// That a repair waits was said.
    said: bool,
}

impl<K: TableKernel> Tables<K> {
    /// Takes notice of what happens in the kernel; every event belongs here. Work that follows from it is due at
    /// [`next_deadline_ns`](Self::next_deadline_ns).
    pub fn observe(&mut self, now_ns: u64, event: &KernelEvent) {
        let own = self.kernel.port_id();
        let mut due_ns = u64::MAX;
        for group in self.groups.values_mut() {
            let (concerned, by) = match event {
                KernelEvent::Route(event) if event.port_id != own => {
                    (group.tables.contains(&event.route.key.table), event.port_id)
                }
                KernelEvent::Rule { port_id, rule, .. } if *port_id != own => {
                    (group.owns_priority(rule.priority), *port_id)
                }
                // The kernel drops routes with the interface or an address, and says nothing (IPv4); what could not be
                // written before may be possible now.
                KernelEvent::Link(link) => (group.concerned(link.ifindex), 0),
                KernelEvent::LinkRemoved { ifindex, .. }
                | KernelEvent::AddressAdded { ifindex, .. }
                | KernelEvent::AddressRemoved { ifindex, .. } => (group.concerned(*ifindex), 0),
                KernelEvent::Resync => (true, 0),
                KernelEvent::Route(_) | KernelEvent::Rule { .. } | KernelEvent::Nexthop { .. } => (false, 0),
            };
            if !concerned {
                continue;
            }
            group.found = None;
            // The kernel's own doing is no fight.
            let wait_ns = if by == 0 {
                0
            } else {
                group.fight.by = Some(by);
                group.fight.next_ns
            };
            due_ns = due_ns.min(now_ns.max(self.compared_ns + GAP_NS).max(wait_ns));
        }
        self.due(due_ns);
    }

    /// When [`reconcile`](Self::reconcile) has something to do; it may be in the past.
    pub fn next_deadline_ns(&self) -> u64 {
        self.due_ns
    }

    /// Does what is due: reads what the kernel has, and repairs what differs.
    pub fn reconcile(&mut self, now_ns: u64) -> Vec<TableNotice> {
        let mut notices = Vec::new();
        if now_ns < self.due_ns {
            return notices;
        }
        self.compared_ns = now_ns;
        self.due_ns = if self.groups.is_empty() { u64::MAX } else { now_ns + PERIOD_NS };
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            notices.extend(self.compare(now_ns, id));
        }
        notices
    }

    fn compare(&mut self, now_ns: u64, id: GroupId) -> Vec<TableNotice> {
        let mut notices = Vec::new();
        let Some(group) = self.groups.get_mut(&id) else { return notices };
        if group.fight.next_ns > now_ns
            && let Some(port_id) = group.fight.by
        {
            let next_ns = group.fight.next_ns;
            if !std::mem::replace(&mut group.fight.said, true) {
                let by = self.kernel.process(port_id);
                notices.push(TableNotice::BackingOff { group: id, by, wait_ms: (next_ns - now_ns) / 1_000_000 });
            }
            self.due(next_ns);
            return notices;
        }
        group.found = None;
        let before = group.report.clone();
        let done = self.sync(now_ns, id);
        let Some(group) = self.groups.get_mut(&id) else { return notices };
        let mut repaired = done.iter().filter(|(_, good)| *good).map(|(change, _)| change);
        let by = group.fight.by.take();
        group.fight.said = false;
        if let Some(example) = repaired.next() {
            if by.is_some() {
                group.fight.repairs += 1;
                group.fight.next_ns = now_ns + backoff_ns(group.fight.repairs);
            }
            notices.push(TableNotice::Repaired {
                group: id,
                count: 1 + repaired.count(),
                example: example.to_string(),
                by: by.map(|port_id| self.kernel.process(port_id)),
            });
        } else if group.fight.next_ns + BACKOFF_MAX_NS <= now_ns {
            group.fight = Fight::default();
        }
        // What was said before need not be said every time.
        let report = &group.report;
        let new = report.problems.iter().filter(|problem| !before.problems.contains(problem)).map(ToString::to_string);
        let failed = report.error.iter().filter(|_| report.error != before.error).cloned();
        let said: Vec<String> = new.chain(failed).collect();
        if !said.is_empty() {
            notices.push(TableNotice::Trouble { group: id, said });
        }
        notices
    }
}
