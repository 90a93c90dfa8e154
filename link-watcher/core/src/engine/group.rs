//! One group: its links, its choice, its agreement with the peer.

mod choice;
mod orders;
mod restart;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use link_watcher_common::verify::older;

use crate::{
    event::{
        Action, Device, Failback, GroupId, GroupSpec, Health, Impairment, LinkId, LinkVerdict, LocalState, Plan,
        RemoteState, Role, StandingOrders, Transition, TransitionKind,
    },
    link::{LONGEST_RTT_NS, Link, StateChange},
    select::Choice,
};

use self::restart::{PLANNED_STOP_SECONDS, Stop};
pub use self::status::{GroupStatus, LinkStatus};

#[derive(Clone, Debug)]
pub(super) struct Group {
    spec: GroupSpec,
    links: Vec<Link>,
    /// What is chosen, by id.
    active: Vec<LinkId>,
    /// Where the traffic goes: the last choice that was carried out, or what was taken over.
    carried: Vec<LinkId>,
    since_ns: u64,
    reason: String,
    /// What an operator has ordered.
    orders: StandingOrders,
    /// An operator lets it choose again: the next choice goes to the best, without waiting for the failback time.
    back_now: bool,
    /// Client: grows with each choice. Server: the client's that it follows.
    epoch: u32,
    /// The peer's daemon that is in force: the newest learned.
    peer_instance: Option<u32>,
    /// Server: epoch of the client's choice that it had to leave because it was dead here.
    fell_at_epoch: Option<u32>,
    /// Server: the client's newest choice, as far as it has been heard: epoch and links.
    clients_choice: Option<(u32, Vec<LinkId>)>,
    /// Client: the server was seen to follow this epoch.
    followed_epoch: Option<u32>,
    /// Seconds for which the peer's daemon has been silent, as its kernel says; 0: it lives.
    peer_silence_seconds: u8,
    /// That has been told.
    told_silent: bool,
    /// What its silence is put down to where it has said that it stops.
    stop: Stop,
    /// It has been told that nothing is usable.
    told_none: bool,
    /// Uplinks whose verdict may change at once, and until when to wait for that, ns.
    doubted: BTreeMap<LinkId, u64>,
    /// The next choice is ready, and waits for these.
    waits: bool,
    /// What has happened since the last choice, for the log.
    why: Option<String>,
    plan: Option<Plan>,
    said: Vec<(LinkId, LocalState)>,
    /// When it was last brought up to now: what is due later is still to be done.
    settled_ns: u64,
}

impl Group {
    pub(super) fn new(mut spec: GroupSpec, epoch: u32, now_ns: u64) -> Self {
        let links = spec
            .links
            .iter()
            .map(|link| Link::new(link.clone(), spec.role.is_some(), spec.dampening, now_ns))
            .collect();
        let orders = std::mem::take(&mut spec.orders);
        let mut group = Self {
            links,
            active: Vec::new(),
            carried: Vec::new(),
            since_ns: now_ns,
            reason: "starting".to_owned(),
            orders: StandingOrders::default(),
            back_now: false,
            epoch: if spec.role == Some(Role::Client) { epoch } else { 0 },
            peer_instance: None,
            fell_at_epoch: None,
            clients_choice: None,
            followed_epoch: None,
            peer_silence_seconds: 0,
            told_silent: false,
            stop: Stop::default(),
            told_none: false,
            doubted: BTreeMap::new(),
            waits: false,
            why: None,
            plan: None,
            said: Vec::new(),
            settled_ns: now_ns,
            spec,
        };
        group.stand(orders);
        group
    }

    pub(super) const fn id(&self) -> GroupId {
        self.spec.id
    }

    fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.iter().find(|link| link.spec.id == id)
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.spec.id == id)
    }

    fn name(&self, id: LinkId) -> &str {
        self.link(id).map_or("?", |link| &link.spec.name)
    }

    fn names(&self, ids: &[LinkId]) -> String {
        ids.iter().map(|id| self.name(*id)).collect::<Vec<_>>().join(", ")
    }

    /// Takes a changed configuration over; links that it does not change keep their state.
    pub(super) fn reconfigure(&mut self, now_ns: u64, mut spec: GroupSpec, actions: &mut Vec<Action>) {
        let mut known = std::mem::take(&mut self.links);
        for link in &spec.links {
            let position = known.iter().position(|old| old.spec.id == link.id);
            let new = || Link::new(link.clone(), spec.role.is_some(), spec.dampening, now_ns);
            let mut kept = position.map_or_else(new, |at| known.swap_remove(at));
            kept.spec = link.clone();
            kept.dampen(spec.dampening);
            self.links.push(kept);
        }
        let orders = std::mem::take(&mut spec.orders);
        self.spec = spec;
        self.stand(orders);
        let links: BTreeSet<LinkId> = self.links.iter().map(|link| link.spec.id).collect();
        self.active.retain(|id| links.contains(id));
        self.carried.retain(|id| links.contains(id));
        self.said.retain(|(id, _)| links.contains(id));
        self.doubted.retain(|id, _| links.contains(id));
        self.stop.retain(|id| links.contains(&id));
        if let Some((_, chosen)) = &mut self.clients_choice {
            chosen.retain(|id| links.contains(id));
        }
        self.why = Some("the configuration has changed".to_owned());
        self.settle(now_ns, actions);
    }

    /// The kernel's routes send the traffic there already.
    pub(super) fn adopt(&mut self, links: Vec<LinkId>) {
        if self.active.is_empty() && self.plan.is_none() {
            self.active = links;
            self.active.sort_unstable();
            self.carried.clone_from(&self.active);
            "taken over from before the start".clone_into(&mut self.reason);
        }
    }

    pub(super) fn alive(&mut self, now_ns: u64, id: LinkId, actions: &mut Vec<Action>) {
        self.stop.forget(id);
        let hold_up_ns = self.spec.hold_up_ns;
        let turn = self.link_mut(id).and_then(|link| link.on_alive(now_ns, hold_up_ns));
        self.report_state_change(now_ns, id, turn, actions);
    }

    pub(super) fn probed(
        &mut self,
        now_ns: u64,
        id: LinkId,
        (health, why): (Health, String),
        last_good_ns: u64,
        actions: &mut Vec<Action>,
    ) {
        self.doubted.remove(&id);
        let hold_up_ns = self.spec.hold_up_ns;
        let turn = self.link_mut(id).and_then(|link| link.on_probed(now_ns, health, why, last_good_ns, hold_up_ns));
        self.report_state_change(now_ns, id, turn, actions);
    }

    pub(super) fn doubt(&mut self, id: LinkId, until_ns: u64) {
        self.doubted.insert(id, until_ns);
    }

    pub(super) fn impaired(
        &mut self,
        now_ns: u64,
        id: LinkId,
        impairment: Impairment,
        last_good_ns: u64,
        actions: &mut Vec<Action>,
    ) {
        self.stop.forget(id);
        let turn = self.link_mut(id).and_then(|link| link.on_impaired(now_ns, impairment, last_good_ns));
        self.report_state_change(now_ns, id, turn, actions);
    }

    pub(super) fn silent(&mut self, now_ns: u64, id: LinkId, last_good_ns: u64, actions: &mut Vec<Action>) {
        if !self.puts_off(now_ns, id, last_good_ns) {
            self.judge_silence(now_ns, id, last_good_ns, actions);
        }
    }

    fn judge_silence(&mut self, now_ns: u64, id: LinkId, last_good_ns: u64, actions: &mut Vec<Action>) {
        let detection_ns = self.spec.detection_ns;
        let turn = self.link_mut(id).and_then(|link| link.on_silent(now_ns, last_good_ns, detection_ns));
        self.report_state_change(now_ns, id, turn, actions);
    }

    pub(super) fn device(&mut self, now_ns: u64, id: LinkId, device: Device, actions: &mut Vec<Action>) {
        if matches!(device, Device::Missing | Device::NoAddress) {
            // It will be probed anew.
            self.stop.forget(id);
        }
        let hold_up_ns = self.spec.hold_up_ns;
        let turn = self.link_mut(id).and_then(|link| link.on_device(now_ns, device, hold_up_ns));
        self.report_state_change(now_ns, id, turn, actions);
    }

    fn report_state_change(&mut self, now_ns: u64, id: LinkId, turn: Option<StateChange>, actions: &mut Vec<Action>) {
        let last_good_ns = self.link(id).map_or(0, |link| link.last_good_ns);
        let (what, why, last_good_ns) = match turn {
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
    fn note_cause(&mut self, id: LinkId, why: String) {
        if self.why.is_none() || self.carried.contains(&id) {
            self.why = Some(why);
        }
    }

    pub(super) fn peer_said(&mut self, now_ns: u64, id: LinkId, said: RemoteState, actions: &mut Vec<Action>) {
        let hold_up_ns = self.spec.hold_up_ns;
        let Some((before, turn)) = self.link_mut(id).map(|link| link.on_peer(now_ns, said, hold_up_ns)) else { return };
        let is_another = self.peer_instance != Some(said.instance);
        self.hear_of_stop(now_ns, said, is_another);
        if is_another && before.map(|before| before.instance) != Some(said.instance) {
            // They are learned from fresh echoes only, so the newest is the one in force.
            if self.peer_instance.replace(said.instance).is_some() {
                self.tell(
                    now_ns,
                    None,
                    TransitionKind::PeerRestarted,
                    "its daemon has started anew".to_owned(),
                    0,
                    actions,
                );
            }
            (self.fell_at_epoch, self.followed_epoch, self.clients_choice) = (None, None, None);
        }
        self.hear_silence(now_ns, actions);
        self.report_state_change(now_ns, id, turn, actions);
        if before.is_some_and(|before| before.hears) && !said.hears {
            self.note_cause(id, format!("{}: the peer does not hear us on it any more", self.name(id)));
        } else if said.drained && !before.is_some_and(|before| before.drained) {
            self.note_cause(id, format!("{}: drained by the peer", self.name(id)));
        } else if self.spec.role == Some(Role::Server) && said.active {
            self.note_cause(id, "the client chose it".to_owned());
        }
        if self.spec.role == Some(Role::Client) && older(self.epoch, said.epoch) {
            // It still follows our life before the start, when the clock that our first epoch came from was ahead. Of a
            // session's words those with a lower epoch count as overtaken, so ours must be the highest again.
            self.epoch = said.epoch.wrapping_add(1);
            self.followed_epoch = None;
        }
        if self.spec.role == Some(Role::Client) && self.server_left(id, said) {
            let why = match self.active.is_empty() {
                true => format!("the server sends by {} already", self.name(id)),
                false => format!("the server has left {}", self.names(&self.active)),
            };
            self.note_cause(id, why);
            self.follow_server(now_ns, id);
        }
    }

    /// Whether the peer's daemon lives, by what its kernel says of it on the links that answer. A path whose far end has lost
    /// its daemon is no dead path; but people want to know.
    fn hear_silence(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let answering = self
            .links
            .iter()
            .filter(|link| matches!(link.verdict(), LinkVerdict::Up | LinkVerdict::Degraded | LinkVerdict::Starting));
        let said = answering.filter_map(|link| link.peer).filter(|peer| Some(peer.instance) == self.peer_instance);
        // One link on which it lives is enough.
        let (silence_seconds, restarting) = said
            .map(|peer| (peer.silence_seconds, peer.restarting))
            .min()
            .unwrap_or((self.peer_silence_seconds, false));
        self.peer_silence_seconds = silence_seconds;
        let missed = silence_seconds > if restarting { PLANNED_STOP_SECONDS } else { 0 };
        if missed == self.told_silent {
            return;
        }
        self.told_silent = missed;
        if missed {
            let why = format!(
                "its daemon has given no sign of life for {silence_seconds} s; its kernel still answers, so the paths are \
                 judged as ever, but nobody moves its routes"
            );
            self.tell(now_ns, None, TransitionKind::PeerSilent, why, 0, actions);
        } else if silence_seconds == 0 {
            self.tell(now_ns, None, TransitionKind::PeerBack, "its daemon lives again".to_owned(), 0, actions);
        }
    }

    /// Whether the server, which had followed the present choice, now sends its traffic elsewhere: it does so only
    /// when it finds all of the choice dead.
    fn server_left(&mut self, id: LinkId, said: RemoteState) -> bool {
        if !said.active || said.epoch != self.epoch || Some(said.instance) != self.peer_instance {
            return false;
        }
        if self.active.contains(&id) {
            self.followed_epoch = Some(said.epoch);
            return false;
        }
        self.followed_epoch == Some(said.epoch)
    }

    /// When a link without a verdict is not waited for any more: one that can be probed has its first within an interval and
    /// the detection time, unless its way is long; what cannot be probed may never have one. Rounds of probes end by themselves.
    fn verdict_due_ns(&self, link: &Link) -> u64 {
        if self.spec.role.is_none() { u64::MAX } else { link.since_ns.saturating_add(2 * self.spec.detection_ns) }
    }

    /// Whether it may turn out usable any moment.
    fn undecided(&self, link: &Link, now_ns: u64) -> bool {
        link.undecided() && now_ns < self.verdict_due_ns(link)
    }

    /// When the first echo of the longest way must have come, by the slowest prober.
    fn first_echo_due_ns(&self, link: &Link) -> u64 {
        let longest_ns = self.spec.detection_ns.max(LONGEST_RTT_NS) + 2 * self.spec.detection_ns;
        if self.spec.role.is_none() { u64::MAX } else { link.since_ns.saturating_add(longest_ns) }
    }

    /// No verdict yet, and one may still come: nothing is to be said of it.
    fn is_starting(&self, link: &Link, now_ns: u64) -> bool {
        link.verdict() == LinkVerdict::Starting && !link.drained && now_ns < self.first_echo_due_ns(link)
    }

    /// Leaves the links that the server has left, as if they had failed, in favour of the one that it took.
    fn follow_server(&mut self, now_ns: u64, to: LinkId) {
        let usable = !self.orders.failover_off
            && self.orders.pinned.is_none()
            && self.link(to).is_some_and(|link| link.usable(now_ns));
        if !usable {
            return;
        }
        for id in self.active.clone() {
            if let Some(link) = self.link_mut(id) {
                link.doubt(now_ns);
            }
        }
        // The next choice starts from there.
        self.active = vec![to];
    }
}

// Settling.
impl Group {
    /// Brings the group up to now: who is usable, what is chosen, what is said.
    pub(super) fn settle(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        self.settled_ns = now_ns;
        self.judge_silent(now_ns, actions);
        let turns: Vec<(LinkId, StateChange)> =
            self.links.iter_mut().filter_map(|link| Some((link.spec.id, link.settle(now_ns)?))).collect();
        for (id, turn) in turns {
            self.report_state_change(now_ns, id, Some(turn), actions);
        }
        let choice = self.choice(now_ns);
        if self.waits_for_others(now_ns, &choice) {
            return;
        }
        let why = self.why.take();
        self.back_now = false;
        self.active = choice.active;
        self.active.sort_unstable();
        choice.reason.clone_into(&mut self.reason);
        if self.active != self.carried && self.spec.role == Some(Role::Client) {
            self.epoch = self.epoch.wrapping_add(1);
            self.followed_epoch = None;
        }
        self.say(actions);
        self.plan(now_ns, actions);
        if self.active != self.carried {
            let from = std::mem::replace(&mut self.carried, self.active.clone());
            self.since_ns = now_ns;
            // One that is up, but that the peer complains of, was lost some other time, if ever.
            let lost = from.iter().filter_map(|id| self.link(*id)).filter(|link| link.verdict() != LinkVerdict::Up);
            let last_good_ns = lost.map(|link| link.last_good_ns).max().unwrap_or(0);
            let why = why.unwrap_or_else(|| self.reason.clone());
            let what = TransitionKind::ActiveChanged { from, to: self.active.clone() };
            self.tell(now_ns, None, what, why, last_good_ns, actions);
        }
        self.tell_if_none(now_ns, actions);
    }

    /// Whether what would move depends on a link whose verdict is about to change as well.
    fn waits_for_others(&mut self, now_ns: u64, choice: &Choice) -> bool {
        self.doubted.retain(|_, until_ns| *until_ns > now_ns);
        let mut chosen = choice.active.clone();
        chosen.sort_unstable();
        let concerns = |id: &LinkId| chosen.contains(id) || self.carried.contains(id);
        self.waits = !self.carried.is_empty() && chosen != self.carried && self.doubted.keys().any(concerns);
        self.waits
    }

    fn plan(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        if self.active.is_empty() {
            return;
        }
        let weight = |id: &LinkId| (*id, self.link(*id).map_or(1, |link| self.weight(link)));
        let usable = |id: &LinkId| self.link(*id).is_some_and(|link| link.usable(now_ns));
        let plan = Plan {
            active: self.active.iter().map(weight).collect(),
            backups: self.standing_by().into_iter().filter(|id| !self.active.contains(id) && usable(id)).collect(),
            all_down: !self.any_works(now_ns),
        };
        if self.plan.as_ref() != Some(&plan) {
            self.plan = Some(plan.clone());
            actions.push(Action::Route { group: self.spec.id, plan });
        }
    }

    /// Whether a link answers, or may do so any moment. One that answers will be usable in a moment, or its peer's complaint is
    /// in the log already.
    fn any_works(&self, now_ns: u64) -> bool {
        self.any_of_the_chosen(|link| {
            let answers = matches!(link.verdict(), LinkVerdict::Up | LinkVerdict::Degraded);
            answers || self.undecided(link, now_ns) || self.is_starting(link, now_ns)
        })
    }

    fn any_of_the_chosen(&self, test: impl Fn(&Link) -> bool) -> bool {
        self.links.iter().filter(|link| !self.never_chosen(link)).any(test)
    }

    fn tell_if_none(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
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

    fn tell(
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

    /// Says on each link what has changed.
    pub(super) fn say(&mut self, actions: &mut Vec<Action>) {
        if self.spec.role.is_none() {
            return;
        }
        for (rank, id) in self.preference().into_iter().enumerate() {
            let Some(link) = self.link(id) else { continue };
            let said = LocalState {
                epoch: self.epoch,
                rank: u16::try_from(rank).unwrap_or(u16::MAX),
                active: self.active.contains(&id),
                drained: link.drained,
                // No verdict yet is no complaint: a restart must not look like a deaf peer.
                hears: !matches!(link.verdict(), LinkVerdict::Down | LinkVerdict::Absent),
            };
            match self.said.iter_mut().find(|(known, _)| *known == id) {
                Some((_, before)) if *before == said => continue,
                Some((_, before)) => *before = said,
                None => self.said.push((id, said)),
            }
            actions.push(Action::Advertise { link: id, said });
        }
    }
}

// Looking.
impl Group {
    /// Whether the far end has a say in its links.
    pub(super) const fn has_peer(&self) -> bool {
        self.spec.role.is_some()
    }

    /// What the peer says of a link; of one that it has said nothing on, what its daemon says at its start.
    pub(super) fn said_by_peer(&self, id: LinkId) -> RemoteState {
        let elsewhere = || self.links.iter().find_map(|link| link.peer);
        let fresh = |said: RemoteState| RemoteState { active: false, drained: false, ..said };
        self.link(id).and_then(|link| link.peer).or_else(|| elsewhere().map(fresh)).unwrap_or_default()
    }

    pub(super) fn is_drained(&self, id: LinkId) -> bool {
        self.link(id).is_some_and(|link| link.drained)
    }

    /// Where its traffic goes; nothing before the first choice.
    pub(super) fn decided(&self) -> Option<Plan> {
        self.plan.clone()
    }

    /// It depends on what was done, not on the time of asking: a deadline that passes between deciding and asking is
    /// still to be met.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        let holds = self.links.iter().filter_map(|link| link.next_deadline_ns(self.settled_ns));
        let failbacks = self.links.iter().filter_map(|link| match self.spec.failback {
            Failback::After(ns) if !self.active.contains(&link.spec.id) => {
                link.usable_since_ns().map(|since| since + ns)
            }
            Failback::After(_) | Failback::Manual => None,
        });
        let starting = || self.links.iter().filter(|link| link.verdict() == LinkVerdict::Starting || link.undecided());
        let verdicts = starting().flat_map(|link| [self.verdict_due_ns(link), self.first_echo_due_ns(link)]);
        let doubts = self.doubted.values().copied().chain(self.stop.deadlines_ns());
        holds.chain(failbacks.chain(verdicts).chain(doubts).filter(|at_ns| *at_ns > self.settled_ns)).min()
    }
}
