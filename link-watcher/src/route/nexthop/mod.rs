//! Actuation through the kernel's nexthop objects: every link is a nexthop, every group of links a nexthop *group* for
//! each family, and routes refer to the group. Failing over replaces the group: one message for any number of prefixes.
//!
//! **What is ours.** Objects with protocol number [`PROTOCOL`] and an id of the group's range
//! ([`TableRange`](super::TableRange)): the first id is the group's for IPv4 prefixes, the second that for IPv6 ones, the
//! others are links'. Because a replacement and a removal check no owner, ids are looked at before they are first used, and
//! again whenever somebody may have changed them. What is somebody else's stays.
//!
//! **Groups are resilient**, with one active link as with several, because a group cannot become it later: a flow
//! stays where it is when other links come and go. A link that joins is given what is idle at once, and the rest of its
//! share after two minutes. Who shall lose all traffic leaves the group; if it is to stand by, it comes back
//! with the next message ([`plan`]).
//!
//! **Carrier loss** makes the kernel delete a nexthop without telling, and a group that has no other member, with all its
//! routes; neither comes back by itself. So a group has a member that stands by wherever a second link has carrier, and
//! events of interfaces make us look. Where the last link of a group loses its carrier, group and routes go, and are
//! made again when a link is back.

#[cfg(test)]
pub(crate) mod fake;
mod group;
mod kernel;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

pub use self::kernel::{NetlinkObjects, ObjectChange, ObjectKernel};
use self::{group::Group, kernel::ObjectChange as Change};
use super::{
    Adopted, Family, GroupRoutes, Notice, Objects, PROTOCOL,
    reconcile::{BACKOFF_MAX_NS, backoff_ns},
    routes::{PERIOD_NS, RETRY_NS},
};
use crate::{
    event::GroupId,
    netlink::{FoundObject, Member, Object},
    system::{KernelError, KernelEvent, Link},
};

/// Whether the kernel tells of every route when a group changes.
pub const COMPAT_MODE: &str = "/proc/sys/net/ipv4/nexthop_compat_mode";
/// What that means.
pub(crate) const COMPAT_WARNING: &str = "net.ipv4.nexthop_compat_mode is 1: with each failover the kernel tells of every IPv4 route that refers to a nexthop \
     object, which takes 0.8 ms for 1,000";
/// What ends it. It concerns everybody's routes, so that nobody but the administrator may decide that.
pub(crate) const COMPAT_REMEDY: &str = "sysctl -w net.ipv4.nexthop_compat_mode=0, unless a program reads routes without knowing such objects, as BIRD 2 does: \
     it then no longer sees where these lead";
/// Processes, and what they do to objects.
const NEIGHBOURS: [(&str, &str); 2] = [
    (
        "zebra",
        "FRR's zebra is running, which deletes or changes nexthop objects that it did not make: they are put back, but \
         traffic is out until then. `actuation = \"routes\"` and \"tables\" need none",
    ),
    (
        "systemd-network",
        "systemd-networkd is running, which deletes nexthop objects that it did not make when it reconfigures an \
         interface: they are put back, but traffic is out until then. Write [Network] ManageForeignNextHops=no (systemd \
         256 and later) into /etc/systemd/networkd.conf, or KeepConfiguration=yes into the files of our interfaces",
    ),
];
/// How often a batch is corrected by what the kernel says: for a member that has no carrier, and for what had changed.
const ATTEMPTS: u32 = 4;

/// The back-end over a kernel. All times are nanoseconds of the monotonic clock. It serves objects; who calls it writes
/// the routes that refer to them.
pub struct NexthopGroups<K> {
    kernel: K,
    groups: BTreeMap<GroupId, Group>,
    notices: Vec<Notice>,
    /// Precautions have been said.
    warned: bool,
    /// Groups whose routes may have gone with an object.
    lost: BTreeSet<GroupId>,
}

/// How much of a group is brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// What moves traffic.
    Lead,
    /// Everything.
    All,
}

impl<K: ObjectKernel> NexthopGroups<K> {
    /// Holds nothing yet.
    pub fn new(kernel: K) -> Self {
        Self { kernel, groups: BTreeMap::new(), notices: Vec::new(), warned: false, lost: BTreeSet::new() }
    }

    /// The port id that events caused by our own requests carry.
    pub fn port_id(&self) -> u32 {
        self.kernel.port_id()
    }

    /// Whether events of nexthop objects are needed: while any group is served.
    pub fn follows(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Whether there are, or may be, objects of this group.
    pub fn serves(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// Why the group cannot be served, in words.
    pub fn unfit(&self, group: GroupId) -> Option<&'static str> {
        self.groups.get(&group)?.unfit
    }

    /// The groups that routes may refer to now.
    pub fn objects(&self, group: GroupId) -> Objects {
        self.groups.get(&group).map(Group::objects).unwrap_or_default()
    }

    /// What the kernel said against the last thing that it did not want of this group.
    pub fn error(&self, group: GroupId) -> Option<&KernelError> {
        self.groups.get(&group)?.error()
    }

    /// Groups whose routes may have gone with their object since this was last asked.
    pub fn take_lost(&mut self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.lost)
    }

    /// To be called at start, before the first [`apply`](Self::apply): takes over what an earlier run left.
    pub fn adopt(&mut self, now_ns: u64, id: GroupId, desired: &GroupRoutes) -> Adopted {
        let mut group = Group::new(desired.range);
        group.want(desired);
        self.groups.insert(id, group);
        let found = self.look(now_ns, id);
        let Some(group) = self.groups.get_mut(&id) else { return Adopted::default() };
        if found.is_err() || group.standing.is_empty() {
            self.groups.remove(&id);
            return Adopted::default();
        }
        group.due_ns = now_ns + PERIOD_NS;
        Adopted { active: group.carrying(), routes: 0 }
    }

    /// Makes the kernel's groups what is wanted from now on: traffic moves in this call, the rest follows in
    /// [`tick`](Self::tick). Gives the messages sent.
    ///
    /// # Errors
    ///
    /// Why the group cannot be served at all, in words.
    pub fn apply(&mut self, now_ns: u64, id: GroupId, desired: &GroupRoutes) -> Result<usize, &'static str> {
        if self.groups.get(&id).is_some_and(|group| group.range != desired.range) {
            // A reload has given it other numbers. Routes that refer to the old ones go with them.
            self.release(id);
            self.lost.insert(id);
        }
        if let Entry::Vacant(entry) = self.groups.entry(id) {
            entry.insert(Group::new(desired.range));
            if !std::mem::replace(&mut self.warned, true) {
                self.notices.extend(self.kernel.precautions().into_iter().map(Notice::Precaution));
            }
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.serving = true;
            group.want(desired);
        }
        let written = self.sync(now_ns, id, Extent::Lead);
        match self.groups.get_mut(&id) {
            Some(group) => {
                let rest = !group.changes(Extent::All).is_empty();
                group.due_ns = group.due_ns.min(if rest { now_ns } else { now_ns + PERIOD_NS });
                group.unfit.map_or(Ok(written), Err)
            }
            None => Ok(written),
        }
    }

    /// Removes everything of the group, and with it every route that still refers to it. Gives the messages sent.
    pub fn release(&mut self, id: GroupId) -> usize {
        let Some(group) = self.groups.remove(&id) else { return 0 };
        let changes = group.removals();
        if !changes.is_empty() && self.kernel.execute(&changes).is_err() {
            self.notices.push(Notice::Failed("the answers to removing nexthop objects were lost".to_owned()));
        }
        changes.len()
    }

    /// Takes notice of what happens in the kernel.
    pub fn observe(&mut self, now_ns: u64, event: &KernelEvent) {
        for group in self.groups.values_mut() {
            match event {
                KernelEvent::Nexthop { id, port_id } => {
                    if *port_id != self.kernel.port_id() && group.range.has(*id) {
                        group.by = Some(*port_id);
                        group.mark_unverified(now_ns.max(group.next_repair_ns));
                    }
                }
                KernelEvent::Link(Link { ifindex, .. })
                | KernelEvent::LinkRemoved { ifindex, .. }
                | KernelEvent::AddressAdded { ifindex, .. }
                | KernelEvent::AddressRemoved { ifindex, .. } => {
                    // The kernel deletes a nexthop with its carrier and says nothing; what was refused may work now.
                    if group.uses(*ifindex) {
                        group.unblock(*ifindex);
                        group.mark_unverified(now_ns);
                    }
                }
                KernelEvent::Resync => group.mark_unverified(now_ns),
                KernelEvent::Route(_) | KernelEvent::Rule { .. } => {}
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do; it may be in the past.
    pub fn next_deadline_ns(&self) -> u64 {
        self.groups.values().map(|group| group.due_ns).min().unwrap_or(u64::MAX)
    }

    /// Does what is due: looks where somebody may have changed something, and now and then, and repairs the difference.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Notice> {
        let due: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| group.due_ns <= now_ns).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(group) = self.groups.get_mut(&id) {
                if group.looked_ns + PERIOD_NS <= now_ns {
                    group.unverified = true;
                    group.blocked.clear();
                }
                group.due_ns = now_ns + PERIOD_NS;
                if !group.serving {
                    continue;
                }
            }
            self.sync(now_ns, id, Extent::All);
            self.report_repairs(now_ns, id);
        }
        std::mem::take(&mut self.notices)
    }

    /// Says what was repaired, and sets the time of the next look.
    fn report_repairs(&mut self, now_ns: u64, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.group_error.is_some() {
            group.due_ns = now_ns + RETRY_NS;
        }
        if group.unfit.is_some() || group.unverified {
            return;
        }
        if !group.changes(Extent::All).is_empty() {
            // What left a group to come back as the one that stands by.
            group.due_ns = now_ns;
            return;
        }
        let by = group.by.take().filter(|port_id| *port_id != 0);
        if let Some((what, by)) = group.gone.take().zip(by) {
            group.repairs += 1;
            group.next_repair_ns = now_ns + backoff_ns(group.repairs);
            self.notices.push(Notice::ObjectGone { what, by: self.kernel.process(by) });
        } else if group.repairs > 0 && group.next_repair_ns + BACKOFF_MAX_NS <= now_ns {
            group.repairs = 0;
        }
    }

    /// Writes what differs. Gives the messages sent.
    fn sync(&mut self, now_ns: u64, id: GroupId, extent: Extent) -> usize {
        let mut written = 0;
        for _ in 0..ATTEMPTS {
            if self.groups.get(&id).is_some_and(|group| group.unverified)
                && let Err(error) = self.look(now_ns, id)
            {
                self.notices.push(Notice::Failed(format!("nexthop objects: {error}")));
                break;
            }
            let Some(group) = self.groups.get_mut(&id) else { break };
            let changes = group.changes(extent);
            if changes.is_empty() {
                break;
            }
            written += changes.len();
            if changes.iter().any(|change| matches!(change, Change::Delete(id) if group.is_group(*id))) {
                self.lost.insert(id);
            }
            match self.kernel.execute(&changes) {
                Ok(results) => {
                    if group.enter(&changes, results) {
                        break;
                    }
                }
                Err(_) => group.unverified = true,
            }
            group.due_ns = group.due_ns.min(now_ns + RETRY_NS / 10);
        }
        written
    }

    /// Reads what stands at the group's ids.
    fn look(&mut self, now_ns: u64, id: GroupId) -> Result<(), std::io::Error> {
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        let ids = group.ids_in_question();
        match self.kernel.look(&ids) {
            Ok(found) => {
                if group.take_stock(&ids, found) {
                    self.lost.insert(id);
                }
                group.looked_ns = now_ns;
                Ok(())
            }
            Err(error) => {
                group.due_ns = group.due_ns.min(now_ns + RETRY_NS);
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP)) {
                    group.unfit = Some("this kernel has no nexthop objects; they came with Linux 5.3");
                    group.unverified = false;
                    return Ok(());
                }
                Err(error)
            }
        }
    }
}
