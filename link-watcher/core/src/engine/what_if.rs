//! What would follow if a link changed: asked of a copy of the engine, so that whatever decides also foretells.

use super::{Engine, GroupStatus};
use crate::event::{Action, Command, Device, Event, GroupId, Health, LinkId, Plan, RemoteState, Transition};

/// Deadlines of the group that are lived through at most: hold-up and failback of each link, with room to spare.
const MAX_STEPS: usize = 256;

/// What a link is supposed to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supposed {
    /// It does not answer any more.
    Down,
    /// An operator takes it out of service.
    Drained,
    /// It answers, the peer hears us on it, and nobody has it out of service.
    Up,
}

/// How a group would stand from some time on.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// After so long, ns; 0: at once.
    pub after_ns: u64,
    /// How it would stand then.
    pub status: GroupStatus,
    /// Where its traffic would go; nothing: no link has ever been chosen.
    pub plan: Option<Plan>,
}

impl Step {
    /// Whether traffic goes elsewhere in the other one.
    fn moves_to(&self, other: &Self) -> bool {
        let goes = |step: &Self| step.plan.as_ref().map(|plan| (plan.active.clone(), plan.all_down));
        goes(self) != goes(other)
    }
}

/// What would follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// How it stands now.
    pub now: Step,
    /// How it would stand at once, and then each time that its traffic would move, as long as nothing else happens.
    pub steps: Vec<Step>,
    /// What people would be told.
    pub told: Vec<Transition>,
}

impl Engine {
    /// Foretells what follows from a change of a link, if nothing else happens. It is decided by a copy of this engine, which
    /// lives through the change and all that becomes due after it; this engine stays as it is.
    ///
    /// # Errors
    ///
    /// Why an operator's order would be refused.
    pub fn what_if(&self, now_ns: u64, link: LinkId, supposed: Supposed) -> Result<Forecast, String> {
        let id = *self.links.get(&link).ok_or("no such link")?;
        let mut copy = self.clone();
        // What is due already is no consequence.
        copy.tick(now_ns);
        copy.actions.clear();
        let now = copy.step(now_ns, now_ns, id).ok_or("no such group")?;
        copy.suppose(now_ns, link, supposed)?;
        copy.tick(now_ns);
        let mut steps: Vec<Step> = copy.step(now_ns, now_ns, id).into_iter().collect();
        for _ in 0..MAX_STEPS {
            // The others' lives go on too, but are not asked for.
            let Some(&at_ns) = copy.deadline_of.get(&id) else { break };
            copy.touch(id);
            copy.tick(at_ns);
            let Some(step) = copy.step(now_ns, at_ns, id) else { break };
            if steps.last().is_none_or(|last| last.moves_to(&step)) {
                steps.push(step);
            }
        }
        let told = copy.actions.into_iter().filter_map(|action| match action {
            Action::Notify(transition) if transition.group == id => Some(transition),
            _ => None,
        });
        Ok(Forecast { now, steps, told: told.collect() })
    }

    fn suppose(&mut self, now_ns: u64, link: LinkId, supposed: Supposed) -> Result<(), String> {
        let group = self.links.get(&link).and_then(|id| self.groups.get(id)).ok_or("no such link")?;
        let peer = group.has_peer();
        let last_good_ns = now_ns;
        match supposed {
            Supposed::Drained => drop(self.command(now_ns, Command::Drain { link, drained: true })?),
            Supposed::Down if peer => self.handle(now_ns, Event::Silent { link, last_good_ns }),
            Supposed::Down => {
                let why = "it is supposed to be down".to_owned();
                self.handle(now_ns, Event::Probed { link, health: Health::Down, why, last_good_ns });
            }
            Supposed::Up => {
                let remote = group.remote_state(link);
                let drained = group.is_drained(link);
                self.handle(now_ns, Event::Device { link, device: Device::Ready });
                if peer {
                    self.handle(now_ns, Event::Alive { link });
                    let remote = RemoteState { hears: true, drained: false, ..remote };
                    self.handle(now_ns, Event::RemoteState { link, state: remote });
                } else {
                    let why = String::new();
                    self.handle(now_ns, Event::Probed { link, health: Health::Up, why, last_good_ns });
                }
                if drained {
                    self.command(now_ns, Command::Drain { link, drained: false })?;
                }
            }
        }
        Ok(())
    }

    fn step(&self, since_ns: u64, now_ns: u64, id: GroupId) -> Option<Step> {
        let group = self.groups.get(&id)?;
        Some(Step { after_ns: now_ns.saturating_sub(since_ns), status: group.status(now_ns), plan: group.decided() })
    }
}
