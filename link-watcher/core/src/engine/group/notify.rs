//! What people hear of a group, and why its next choice may differ from the last.

use super::Group;
use crate::{
    event::{Action, LinkId, LinkVerdict, Transition, TransitionKind},
    link::StateChange,
};

impl Group {
    pub(super) fn report_state_change(
        &mut self,
        now_ns: u64,
        id: LinkId,
        change: Option<StateChange>,
        actions: &mut Vec<Action>,
    ) {
        let last_good_ns = self.link(id).map_or(0, |link| link.last_good_ns);
        let (what, why, last_good_ns) = match change {
            None => return,
            Some(StateChange::Up) if self.spec.role.is_none() => {
                (TransitionKind::LinkUp, "its targets answer".to_owned(), 0)
            }
            Some(StateChange::Up) => (TransitionKind::LinkUp, "echoes arrive".to_owned(), 0),
            Some(StateChange::Down(why)) => (TransitionKind::LinkDown, why, last_good_ns),
            Some(StateChange::Degraded(why)) => (TransitionKind::LinkDegraded, why, last_good_ns),
            Some(StateChange::Dampened(why)) => (TransitionKind::LinkDampened, why, last_good_ns),
            Some(StateChange::Quiet(why)) => (TransitionKind::LinkUp, why, 0),
        };
        let name = self.name(id);
        let because = if what == TransitionKind::LinkUp { format!("{name} answers") } else { format!("{name}: {why}") };
        self.note_cause(id, because);
        self.tell(now_ns, Some(id), what, why, last_good_ns, actions);
    }

    /// Notes why the next choice may differ; what befell an active link says more than anything else.
    pub(super) fn note_cause(&mut self, id: LinkId, why: String) {
        if self.why.is_none() || self.carried.contains(&id) {
            self.why = Some(why);
        }
    }

    pub(super) fn tell_if_none(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let works = self.any_works(now_ns);
        // That a link which flaps is there again for a moment is no news.
        let any = works
            && (!self.told_none
                || self
                    .any_of_the_chosen(|link| matches!(link.shown_verdict(), LinkVerdict::Up | LinkVerdict::Degraded)));
        if !any && !self.told_none {
            let why = match self.spec.role {
                Some(_) => "no link is usable; the routes stay where they are".to_owned(),
                None => "no uplink is usable; nothing moves. Where all fall silent at once, look at the targets of their probes \
                         first"
                    .to_owned(),
            };
            self.tell(now_ns, None, TransitionKind::NoUsableLink, why, 0, actions);
        }
        self.told_none = !any;
    }

    pub(super) fn tell(
        &self,
        at_ns: u64,
        link: Option<LinkId>,
        what: TransitionKind,
        why: String,
        last_good_ns: u64,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Notify(Transition { at_ns, group: self.spec.id, link, what, why, last_good_ns }));
    }
}
