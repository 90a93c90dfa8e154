//! The engine, pure: what happens goes in, what shall be done comes out. It owns the groups and their links, and has no
//! clock, socket or task: every call takes `now_ns`, nanoseconds of one monotonic clock.
//!
//! What is said on the wire goes out before the routes move, because the peer needs at least the time of the wire to
//! follow, and both directions heal together.

mod group;
mod what_if;

use std::collections::{BTreeMap, BTreeSet};

use self::group::Group;
pub use self::{
    group::{GroupStatus, LinkStatus},
    what_if::{Forecast, Step, Supposed},
};
use crate::event::{Action, Command, Event, GroupId, GroupSpec, LinkId, LinkVerdict};

/// All groups.
#[derive(Clone, Debug)]
pub struct Engine {
    groups: BTreeMap<GroupId, Group>,
    /// Which group each link is of.
    links: BTreeMap<LinkId, GroupId>,
    /// Groups to which something has happened since they last decided.
    touched: BTreeSet<GroupId>,
    /// When each of the others has something to do by itself, soonest first, and the same by group.
    deadlines: BTreeSet<(u64, GroupId)>,
    deadline_of: BTreeMap<GroupId, u64>,
    /// Order of the file.
    order: Vec<GroupId>,
    /// Where epochs start.
    epoch: u32,
    actions: Vec<Action>,
}

impl Engine {
    /// An engine without groups. `epoch`: where agreement epochs start; seconds since 1970, so that they grow from run to
    /// run.
    pub const fn new(epoch: u32) -> Self {
        Self {
            groups: BTreeMap::new(),
            links: BTreeMap::new(),
            touched: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            deadline_of: BTreeMap::new(),
            order: Vec::new(),
            epoch,
            actions: Vec::new(),
        }
    }

    /// Takes in what happened; what follows from it is decided by [`Engine::tick`], so that links that die at one
    /// instant lead to one decision. A command that cannot be carried out changes nothing; [`Engine::command`] says why.
    pub fn handle(&mut self, now_ns: u64, event: Event) {
        match event {
            Event::Configure(specs) => self.configure(now_ns, specs),
            Event::Adopted { group, links } => {
                self.touch(group);
                if let Some(group) = self.groups.get_mut(&group) {
                    group.adopt(links);
                }
            }
            Event::Command(command) => drop(self.command(now_ns, command)),
            Event::Alive { link } => self.with(link, |group, actions| group.alive(now_ns, link, actions)),
            Event::Impaired { link, impairment, last_good_ns } => {
                self.with(link, |group, actions| group.impaired(now_ns, link, impairment, last_good_ns, actions));
            }
            Event::Silent { link, last_good_ns } => {
                self.with(link, |group, actions| group.silent(now_ns, link, last_good_ns, actions));
            }
            Event::Probed { link, health, why, last_good_ns } => {
                let verdict = (health, why);
                self.with(link, |group, actions| group.probed(now_ns, link, verdict, last_good_ns, actions));
            }
            Event::VerdictPending { link, until_ns } => self.with(link, |group, _| group.await_verdict(link, until_ns)),
            Event::RemoteState { link, state } => {
                self.with(link, |group, actions| group.on_remote_state(now_ns, link, state, actions))
            }
            Event::Device { link, device } => {
                self.with(link, |group, actions| group.device(now_ns, link, device, actions));
            }
        }
    }

    /// Carries out what somebody asked for; the answer is for him.
    ///
    /// # Errors
    ///
    /// Why it is not done, and what would be right.
    pub fn command(&mut self, now_ns: u64, command: Command) -> Result<String, String> {
        let group = match &command {
            Command::Pin { group, .. } | Command::Unpin { group } | Command::Next { group } => Some(*group),
            Command::Failover { group, .. } => Some(*group),
            Command::Drain { link, .. } | Command::DrainOver { link } | Command::Weight { link, .. } => {
                self.links.get(link).copied()
            }
        };
        let id = group.filter(|id| self.groups.contains_key(id)).ok_or("no such group or link")?;
        self.touch(id);
        let group = self.groups.get_mut(&id).ok_or("no such group or link")?;
        group.command(now_ns, command, &mut self.actions)
    }

    /// Decides, on everything that has happened and become due. Call it after every batch of events. Costs nothing for
    /// groups that neither concerns.
    pub fn tick(&mut self, now_ns: u64) {
        while let Some(&(at_ns, id)) = self.deadlines.first()
            && at_ns <= now_ns
        {
            self.touch(id);
        }
        for id in std::mem::take(&mut self.touched) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.decide(now_ns, &mut self.actions);
            if let Some(at_ns) = group.next_deadline_ns() {
                self.deadlines.insert((at_ns, id));
                self.deadline_of.insert(id, at_ns);
            }
        }
    }

    /// What happens to a group is decided by the next [`Engine::tick`], and its deadline anew.
    fn touch(&mut self, id: GroupId) {
        self.touched.insert(id);
        if let Some(at_ns) = self.deadline_of.remove(&id) {
            self.deadlines.remove(&(at_ns, id));
        }
    }

    /// What shall be done, in order.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// When [`Engine::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        let touched = self.touched.iter().filter_map(|id| self.groups.get(id)?.next_deadline_ns());
        touched.chain(self.deadlines.first().map(|(at_ns, _)| *at_ns)).min()
    }

    /// How everything stands, in the order of the file.
    pub fn status(&self, now_ns: u64) -> Vec<GroupStatus> {
        self.order.iter().filter_map(|id| self.groups.get(id)).map(|group| group.status(now_ns)).collect()
    }

    /// The state of every link, in the order of the file.
    pub fn verdicts(&self) -> impl Iterator<Item = (GroupId, LinkId, LinkVerdict)> {
        self.order.iter().filter_map(|id| self.groups.get(id)).flat_map(Group::verdicts)
    }

    fn configure(&mut self, now_ns: u64, specs: Vec<GroupSpec>) {
        self.order = specs.iter().map(|spec| spec.id).collect();
        let kept: BTreeSet<GroupId> = self.order.iter().copied().collect();
        for gone in self.groups.keys().copied().filter(|id| !kept.contains(id)).collect::<Vec<_>>() {
            self.groups.remove(&gone);
            self.touch(gone);
        }
        let links = specs.iter().flat_map(|spec| spec.links.iter().map(|link| (link.id, spec.id)));
        self.links = links.collect();
        for spec in specs {
            self.touch(spec.id);
            match self.groups.get_mut(&spec.id) {
                Some(group) => group.reconfigure(now_ns, spec, &mut self.actions),
                None => {
                    let mut group = Group::new(spec, self.epoch, now_ns);
                    group.advertise(&mut self.actions);
                    self.groups.insert(group.id(), group);
                }
            }
        }
    }

    fn with(&mut self, link: LinkId, act: impl FnOnce(&mut Group, &mut Vec<Action>)) {
        let Some(&id) = self.links.get(&link) else { return };
        self.touch(id);
        if let Some(group) = self.groups.get_mut(&id) {
            act(group, &mut self.actions);
        }
    }
}
