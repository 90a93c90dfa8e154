//! A pretended kernel with nexthop objects for tests.

use std::{
    cell::{RefCell, RefMut},
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use super::{FoundObject, KernelError, KernelEvent, Member, Object, ObjectChange, ObjectKernel, PROTOCOL};
use crate::{netlink::nexthop::BUCKETS, route::fake::FakeKernel as FakeRoutes, system::Link};

/// The port id of the back-end under test.
const OWN_PORT: u32 = 5000;
/// That of whoever else changes something.
const FOREIGN_PORT: u32 = 17;

/// Objects, shared between a back-end and its test.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeObjects(Rc<RefCell<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<u32, (u8, Object)>,
    /// Who has each bucket of a group. All are busy all the time.
    pub(crate) buckets: BTreeMap<u32, Vec<u32>>,
    /// Every system call's changes.
    pub(crate) calls: Vec<Vec<ObjectChange>>,
    /// How often ids were looked at.
    pub(crate) looks: usize,
    /// Interfaces that have no carrier.
    pub(crate) down: BTreeSet<u32>,
    /// The answers to the next call get lost, though it is carried out.
    pub(crate) lose_answers: bool,
    /// What creating a group fails with, and what looking fails with.
    pub(crate) refuses_groups: Option<i32>,
    pub(crate) refuses_all: Option<i32>,
    /// Routes that go with the object to which they refer.
    pub(crate) routes: FakeRoutes,
}

impl FakeObjects {
    pub(crate) fn with(routes: &FakeRoutes) -> Self {
        Self(Rc::new(RefCell::new(State { routes: routes.clone(), ..State::default() })))
    }

    pub(crate) fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// Somebody else removes an object; gives the event.
    pub(crate) fn foreign_delete(&self, id: u32) -> KernelEvent {
        self.state().remove(id);
        KernelEvent::Nexthop { id, port_id: FOREIGN_PORT }
    }

    /// A link loses its carrier, or has it again; gives the event.
    pub(crate) fn carrier(&self, ifindex: u32, carrier: bool) -> KernelEvent {
        let mut state = self.state();
        if carrier {
            state.down.remove(&ifindex);
        } else {
            state.down.insert(ifindex);
            let through = |object: &Object| matches!(object, Object::Hop { ifindex: own, .. } if *own == ifindex);
            let gone: Vec<u32> =
                state.objects.iter().filter(|(_, (_, object))| through(object)).map(|(id, _)| *id).collect();
            gone.into_iter().for_each(|id| state.remove(id));
        }
        KernelEvent::Link(Link { ifindex, admin_up: true, carrier, ..Link::default() })
    }

    /// How many buckets each interface has in a group.
    pub(crate) fn shares(&self, group: u32) -> BTreeMap<u32, usize> {
        let state = self.state();
        let mut shares = BTreeMap::new();
        for id in state.buckets.get(&group).into_iter().flatten() {
            if let Some((_, Object::Hop { ifindex, .. })) = state.objects.get(id) {
                *shares.entry(*ifindex).or_default() += 1;
            }
        }
        shares
    }
}

impl State {
    fn remove(&mut self, id: u32) {
        self.objects.remove(&id);
        if self.buckets.remove(&id).is_some() {
            self.routes.drop_referring(id);
        }
        let groups: Vec<u32> = self.buckets.keys().copied().collect();
        for group in groups {
            let Some((_, Object::Group { members, .. })) = self.objects.get_mut(&group) else { continue };
            members.retain(|member| member.id != id);
            if members.is_empty() {
                self.remove(group);
            } else {
                self.rebalance(group);
            }
        }
    }

    /// Buckets whose member has gone are given to those that have too few.
    fn rebalance(&mut self, group: u32) {
        let Some((_, Object::Group { members, .. })) = self.objects.get(&group) else { return };
        let total: u32 = members.iter().map(|member| member.weight).sum();
        let (mut sum, mut before) = (0, 0);
        let mut wants = BTreeMap::new();
        for Member { id, weight } in members {
            sum += weight;
            let bound = (u32::from(BUCKETS) * sum + total / 2) / total;
            wants.insert(*id, bound - std::mem::replace(&mut before, bound));
        }
        let buckets = self.buckets.entry(group).or_insert_with(|| vec![0; usize::from(BUCKETS)]);
        for id in buckets.iter() {
            wants.entry(*id).and_modify(|want| *want = want.saturating_sub(1));
        }
        let members: BTreeSet<u32> = members.iter().map(|member| member.id).collect();
        for id in buckets.iter_mut().filter(|id| !members.contains(id)) {
            if let Some((lacking, want)) = wants.iter_mut().find(|(_, want)| **want > 0) {
                *id = *lacking;
                *want -= 1;
            }
        }
    }

    fn carry_out(&mut self, change: &ObjectChange) -> Result<(), i32> {
        let (id, object) = match change {
            ObjectChange::Delete(id) => {
                let (protocol, _) = self.objects.get(id).ok_or(libc::ENOENT)?;
                assert_eq!(*protocol, PROTOCOL, "a foreign object is removed");
                self.remove(*id);
                return Ok(());
            }
            ObjectChange::Create(id, object) | ObjectChange::Replace(id, object) => (*id, object),
        };
        match (change, self.objects.get(&id)) {
            (ObjectChange::Create(..), Some(_)) => return Err(libc::EEXIST),
            (ObjectChange::Replace(..), None) => return Err(libc::ENOENT),
            (ObjectChange::Replace(..), Some((protocol, _))) => {
                assert_eq!(*protocol, PROTOCOL, "a foreign object is replaced");
            }
            _ => {}
        }
        match object {
            Object::Hop { ifindex, .. } if self.down.contains(ifindex) => return Err(libc::ENETDOWN),
            Object::Group { members, .. } => {
                if let Some(errno) = self.refuses_groups {
                    return Err(errno);
                }
                let known = |member: &Member| matches!(self.objects.get(&member.id), Some((_, Object::Hop { .. })));
                if !members.iter().all(known) {
                    return Err(libc::EINVAL);
                }
            }
            Object::Hop { .. } => {}
        }
        self.objects.insert(id, (PROTOCOL, object.clone()));
        self.rebalance(id);
        Ok(())
    }
}

impl ObjectKernel for FakeObjects {
    fn port_id(&self) -> u32 {
        OWN_PORT
    }

    fn execute(&mut self, changes: &[ObjectChange]) -> io::Result<Vec<Result<(), KernelError>>> {
        let mut state = self.state();
        state.calls.push(changes.to_vec());
        let results = changes.iter().map(|change| state.carry_out(change).map_err(KernelError::new)).collect();
        if std::mem::take(&mut state.lose_answers) {
            return Err(io::Error::other("lost"));
        }
        Ok(results)
    }

    fn look(&mut self, ids: &BTreeSet<u32>) -> io::Result<Vec<FoundObject>> {
        let mut state = self.state();
        state.looks += 1;
        if let Some(errno) = state.refuses_all {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let found = state.objects.iter().filter(|(id, _)| ids.contains(id));
        Ok(found
            .map(|(id, (protocol, object))| FoundObject { id: *id, protocol: *protocol, object: Some(object.clone()) })
            .collect())
    }

    fn process(&self, port_id: u32) -> String {
        format!("port {port_id}")
    }

    fn precautions(&self) -> Vec<String> {
        Vec::new()
    }
}
