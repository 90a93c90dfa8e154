//! What a group wants of its nexthop objects, and what stands.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Change, Extent, Family, FoundObject, GroupRoutes, KernelError, Member, Object, Objects, PROTOCOL,
    plan::{carries, members},
};
use crate::route::{Nexthop, TableRange, canonical};

/// A link's next hop: interface and router.
type Key = (u32, IpAddr);

/// Who is to be in a group.
struct Wanted {
    /// Ids and weights.
    active: Vec<(u32, u32)>,
    stands_by: Option<u32>,
}

/// A group.
pub(super) struct Group {
    pub(super) range: TableRange,
    prefixes: Arc<[IpNet]>,
    /// Families of the prefixes.
    families: BTreeSet<Family>,
    active: Vec<Nexthop>,
    backups: Vec<Nexthop>,
    /// Those of all links with an interface, in canonical order.
    links: Vec<Nexthop>,
    /// Which object is which link's, whether it stands or not.
    ids: BTreeMap<Key, u32>,
    /// Objects of ours that stand.
    pub(super) standing: BTreeMap<u32, Object>,
    /// Ids that somebody else has.
    foreign: BTreeSet<u32>,
    /// Links whose object the kernel does not want now: mostly because there is no carrier.
    pub(super) blocked: BTreeMap<Key, KernelError>,
    /// The kernel did not want a group.
    pub(super) group_error: Option<KernelError>,
    /// It is to be brought about; else what stands waits for its routes to go.
    pub(super) serving: bool,
    /// What stands is to be looked at before anything is written.
    pub(super) unverified: bool,
    /// Every id of the range has been looked at.
    explored: bool,
    pub(super) unfit: Option<&'static str>,
    /// When there is something to do, and when ids were last looked at, ns.
    pub(super) due_ns: u64,
    pub(super) looked_ns: u64,
    /// Something that was gone when it was last looked at, in words.
    pub(super) gone: Option<String>,
    /// Who last changed something of ours: netlink port id.
    pub(super) by: Option<u32>,
    /// Repairs of what others did, and the earliest time of the next one, ns.
    pub(super) repairs: u32,
    pub(super) next_repair_ns: u64,
}

impl Group {
    pub(super) fn new(range: TableRange) -> Self {
        Self {
            range,
            prefixes: Arc::default(),
            families: BTreeSet::new(),
            active: Vec::new(),
            backups: Vec::new(),
            links: Vec::new(),
            ids: BTreeMap::new(),
            standing: BTreeMap::new(),
            foreign: BTreeSet::new(),
            blocked: BTreeMap::new(),
            group_error: None,
            serving: false,
            unverified: true,
            explored: false,
            unfit: None,
            due_ns: u64::MAX,
            looked_ns: 0,
            gone: None,
            by: None,
            repairs: 0,
            next_repair_ns: 0,
        }
    }

    /// The id of the group that serves a family.
    const fn group_id(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.range.table_base,
            Family::V6 => self.range.table_base + 1,
        }
    }

    /// Whether it is the id of a group.
    pub(super) fn is_group(&self, id: u32) -> bool {
        [Family::V4, Family::V6].into_iter().any(|family| self.group_id(family) == id)
    }

    /// Takes in what is wanted from now on.
    pub(super) fn want(&mut self, desired: &GroupRoutes) {
        if !Arc::ptr_eq(&self.prefixes, &desired.prefixes) {
            self.prefixes = Arc::clone(&desired.prefixes);
            self.families = self.prefixes.iter().map(Family::of).collect();
        }
        let there = |nexthops: &[Nexthop]| -> Vec<Nexthop> {
            nexthops.iter().filter(|nexthop| nexthop.ifindex != 0).copied().collect()
        };
        (self.active, self.backups) = (canonical(there(&desired.active)), there(&desired.backups));
        let all = [&desired.links, &desired.active, &desired.backups].into_iter().flatten().copied();
        self.links = canonical(all.filter(|nexthop| nexthop.ifindex != 0));
        let keys: BTreeSet<Key> = self.links.iter().map(key).collect();
        self.ids.retain(|key, _| keys.contains(key));
        self.blocked.retain(|key, _| keys.contains(key));
        self.number();
    }

    /// Gives every link an id.
    fn number(&mut self) {
        let mut used: BTreeSet<u32> = self.foreign.iter().chain(self.standing.keys()).copied().collect();
        used.extend(self.ids.values());
        let mut free = self.range.tables().skip(2).filter(|id| !used.contains(id));
        let mut short = false;
        for link in &self.links {
            if let Entry::Vacant(entry) = self.ids.entry(key(link)) {
                match free.next() {
                    Some(id) => drop(entry.insert(id)),
                    None => short = true,
                }
            }
        }
        if self.foreign.iter().any(|id| self.is_group(*id)) {
            self.unfit =
                Some("another program has nexthop objects with the ids of its groups: give it another `table-base`");
        } else if short {
            self.unfit = Some("it has more links than there are ids of nexthop objects for");
        } else if self.explored {
            self.unfit = self.unfit.filter(|_| self.group_error.is_some());
        }
    }

    /// Whether a link goes through the interface.
    pub(super) fn uses(&self, ifindex: u32) -> bool {
        self.links.iter().any(|link| link.ifindex == ifindex)
    }

    /// What was refused for a link through the interface is tried again.
    pub(super) fn unblock(&mut self, ifindex: u32) {
        self.blocked.retain(|(blocked, _), _| *blocked != ifindex);
    }

    /// To be looked at, at `at_ns` or with the next write.
    pub(super) fn mark_unverified(&mut self, at_ns: u64) {
        self.unverified = true;
        self.due_ns = self.due_ns.min(at_ns);
    }

    /// What the kernel said against the group, or else against one of its links.
    pub(super) fn error(&self) -> Option<&KernelError> {
        self.group_error.as_ref().or_else(|| self.blocked.values().next())
    }

    fn members_of(&self, family: Family) -> &[Member] {
        match self.standing.get(&self.group_id(family)) {
            Some(Object::Group { members, .. }) => members,
            _ => &[],
        }
    }

    pub(super) fn objects(&self) -> Objects {
        let of = |family| Some(self.group_id(family)).filter(|id| self.standing.contains_key(id));
        Objects { v4: of(Family::V4), v6: of(Family::V6) }
    }

    /// Next hops that have traffic now, by the group for IPv4, else by the other.
    pub(super) fn carrying(&self) -> Vec<Nexthop> {
        let of = |family| {
            let members = self.members_of(family);
            let carrying = members.iter().filter(|member| carries(members, member.id));
            canonical(carrying.filter_map(|member| match self.standing.get(&member.id)? {
                Object::Hop { ifindex, gateway } => {
                    Some(Nexthop { ifindex: *ifindex, gateway: *gateway, weight: member.weight })
                }
                Object::Group { .. } => None,
            }))
        };
        let v4 = of(Family::V4);
        if v4.is_empty() { of(Family::V6) } else { v4 }
    }

    /// The links of these that can be members of a family's group.
    fn able<'a>(&'a self, family: Family, nexthops: &'a [Nexthop]) -> impl Iterator<Item = (&'a Nexthop, u32)> {
        let fits = move |nexthop: &&Nexthop| family == Family::V4 || nexthop.gateway.is_ipv6();
        let able = nexthops.iter().filter(fits).filter(|nexthop| !self.blocked.contains_key(&key(nexthop)));
        able.filter_map(|nexthop| Some((nexthop, *self.ids.get(&key(nexthop))?)))
    }

    /// Who is to be in a family's group. Nothing where no active link can serve it: what stands is left.
    fn wanted(&self, family: Family) -> Option<Wanted> {
        if !self.families.contains(&family) {
            return None;
        }
        let active: Vec<(u32, u32)> =
            self.able(family, &self.active).map(|(nexthop, id)| (id, nexthop.weight)).collect();
        if active.is_empty() {
            return None;
        }
        // The best backup, else who stands by already, else any.
        let links: Vec<u32> = self.able(family, &self.links).map(|(_, id)| id).collect();
        let present = self.members_of(family).last().map(|member| member.id).filter(|id| links.contains(id));
        let candidates = self.able(family, &self.backups).map(|(_, id)| id).chain(present).chain(links.iter().copied());
        let mut others = candidates.filter(|id| active.iter().all(|(active, _)| active != id));
        // What does not stand yet is nothing to wait for.
        let stands_by = others.find(|id| self.standing.contains_key(id));
        Some(Wanted { active, stands_by })
    }

    /// The messages that bring about what is wanted, next hops before groups, and removals last.
    pub(super) fn changes(&self, extent: Extent) -> Vec<Change> {
        if self.unfit.is_some() {
            return Vec::new();
        }
        let mut groups = Vec::new();
        let mut needed: BTreeSet<u32> = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            let id = self.group_id(family);
            let Some(Wanted { active, stands_by }) = self.wanted(family) else {
                needed.extend(self.members_of(family).iter().map(|member| member.id));
                continue;
            };
            let standing = self.members_of(family);
            let last = stands_by.filter(|last| !carries(standing, *last));
            let object = Object::Group { members: members(&active, last), fit: true };
            // What leaves now comes back with the next message.
            needed.extend(active.iter().map(|(id, _)| *id).chain(stands_by));
            match self.standing.get(&id) {
                Some(standing) if *standing == object => {}
                Some(Object::Group { fit: true, .. }) => groups.push(Change::Replace(id, object)),
                Some(_) => groups.extend([Change::Delete(id), Change::Create(id, object)]),
                None => groups.push(Change::Create(id, object)),
            }
        }
        if extent == Extent::All {
            needed.extend(self.able(Family::V4, &self.links).map(|(_, id)| id));
        }
        let hops = self.ids.iter().filter(|(_, id)| needed.contains(id)).filter_map(|(&(ifindex, gateway), &id)| {
            let object = Object::Hop { ifindex, gateway };
            let missing = !self.standing.contains_key(&id) && !self.blocked.contains_key(&(ifindex, gateway));
            missing.then_some(Change::Create(id, object))
        });
        let mut changes: Vec<Change> = hops.chain(groups).collect();
        // In a batch of its own: what a group lets go of is certain only when it has.
        if extent == Extent::All && changes.is_empty() {
            let hops = self.standing.iter().filter(|(_, object)| matches!(object, Object::Hop { .. }));
            let stale = hops.filter(|(id, _)| !needed.contains(id) && !self.ids.values().any(|known| known == *id));
            changes.extend(stale.map(|(id, _)| Change::Delete(*id)));
        }
        changes
    }

    /// The messages that remove everything, groups first.
    pub(super) fn removals(&self) -> Vec<Change> {
        let is_group = |object: &Object| matches!(object, Object::Group { .. });
        let groups = self.standing.iter().filter(|(_, object)| is_group(object));
        let hops = self.standing.iter().filter(|(_, object)| !is_group(object));
        groups.chain(hops).map(|(id, _)| Change::Delete(*id)).collect()
    }

    /// Enters what the kernel did. Gives whether it did everything.
    pub(super) fn enter(&mut self, changes: &[Change], results: Vec<Result<(), KernelError>>) -> bool {
        let mut complete = true;
        for (change, result) in changes.iter().zip(results) {
            match (change, result) {
                (Change::Create(id, object) | Change::Replace(id, object), Ok(())) => {
                    if matches!(object, Object::Group { .. }) {
                        self.group_error = None;
                    }
                    self.standing.insert(*id, object.clone());
                }
                (Change::Delete(id), Ok(())) => drop(self.standing.remove(id)),
                (change, Err(error)) => {
                    complete = false;
                    // Whatever was thought to stand is to be looked at.
                    self.unverified = true;
                    self.refuse(change, error);
                }
            }
        }
        complete
    }

    fn refuse(&mut self, change: &Change, error: KernelError) {
        match change {
            // Taken: the look will show by whom.
            Change::Create(_, Object::Hop { .. }) if error.errno == libc::EEXIST => {}
            Change::Create(_, Object::Hop { ifindex, gateway }) => {
                self.blocked.insert((*ifindex, *gateway), error);
            }
            Change::Create(_, Object::Group { members, .. }) => {
                if !members.iter().all(|member| self.standing.contains_key(&member.id)) {
                    return;
                }
                // Once may be because a member has just gone.
                let again = self.group_error.as_ref().is_some_and(|before| before.errno == error.errno);
                if again && matches!(error.errno, libc::EINVAL | libc::EOPNOTSUPP) {
                    self.unfit = Some("this kernel refuses resilient nexthop groups; they came with Linux 5.13");
                }
                self.group_error = Some(error);
            }
            _ => {}
        }
    }

    /// What is to be looked at: at first all ids.
    pub(super) fn ids_in_question(&self) -> BTreeSet<u32> {
        if !self.explored {
            return self.range.tables().collect();
        }
        let groups = [self.group_id(Family::V4), self.group_id(Family::V6)];
        self.standing.keys().chain(self.ids.values()).chain(&self.foreign).chain(&groups).copied().collect()
    }

    /// Corrects what is believed to stand at these ids. Gives whether a group has gone, and routes with it.
    pub(super) fn take_stock(&mut self, ids: &BTreeSet<u32>, found: Vec<FoundObject>) -> bool {
        let before = std::mem::take(&mut self.standing);
        self.foreign.retain(|id| !ids.contains(id));
        // Next hops that members of ours may be, though no link has them any more.
        let mut others = BTreeMap::new();
        let mut groups = Vec::new();
        for FoundObject { id, protocol, object } in found {
            match object {
                Some(object @ Object::Group { .. }) if protocol == PROTOCOL => groups.push((id, object)),
                Some(object @ Object::Hop { ifindex, gateway }) if protocol == PROTOCOL => {
                    let known = self.links.iter().any(|link| key(link) == (ifindex, gateway));
                    if known || before.contains_key(&id) {
                        self.standing.insert(id, object);
                    } else {
                        others.insert(id, object);
                    }
                }
                _ => drop(self.foreign.insert(id)),
            }
        }
        for (id, group) in groups {
            let Object::Group { members, .. } = &group else { continue };
            // Another instance's has none of our links in it.
            if before.contains_key(&id) || members.iter().any(|member| self.standing.contains_key(&member.id)) {
                let strays = members.iter().filter_map(|member| others.remove_entry(&member.id));
                self.standing.extend(strays);
                self.standing.insert(id, group);
            } else {
                self.foreign.insert(id);
            }
        }
        self.foreign.extend(others.into_keys());
        for (id, object) in &self.standing {
            if let Object::Hop { ifindex, gateway } = object
                && let Some(known) = self.ids.get_mut(&(*ifindex, *gateway))
                && !self.standing.contains_key(known)
            {
                *known = *id;
            }
        }
        let Self { standing, foreign, ids: numbers, .. } = self;
        numbers.retain(|&(ifindex, gateway), id| {
            let own = standing.get(id).is_none_or(|object| *object == Object::Hop { ifindex, gateway });
            own && !foreign.contains(id)
        });
        (self.unverified, self.explored) = (false, true);
        self.number();
        let gone = before.iter().find(|(id, object)| self.standing.get(id) != Some(object));
        if let Some((id, object)) = gone {
            let kind = if matches!(object, Object::Group { .. }) { "nexthop group" } else { "nexthop object" };
            self.gone.get_or_insert_with(|| format!("{kind} {id}"));
        }
        let is_group = |object: &Object| matches!(object, Object::Group { .. });
        before.iter().any(|(id, object)| is_group(object) && !self.standing.contains_key(id))
    }
}

const fn key(nexthop: &Nexthop) -> Key {
    (nexthop.ifindex, nexthop.gateway)
}
