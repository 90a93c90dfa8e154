//! One group: its links, its choice, its agreement with the peer.

mod choice;
mod notify;
mod orders;
mod peer;
mod restart;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    event::{
        Action, Device, Failback, GroupId, GroupSpec, Health, Impairment, LinkId, LinkVerdict, LocalState, Plan, Role,
        StandingOrders, TransitionKind,
    },
    link::{LONGEST_RTT_NS, Link, StateChange},
    select::Choice,
};

use self::restart::Stop;
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
    pending_verdicts: BTreeMap<LinkId, u64>,
    /// The next choice is ready, and waits for these.
    waits: bool,
    /// What has happened since the last choice, for the log.
    why: Option<String>,
    plan: Option<Plan>,
    advertised: Vec<(LinkId, LocalState)>,
    /// When it was last brought up to now: what is due later is still to be done.
    decided_ns: u64,
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
            pending_verdicts: BTreeMap::new(),
            waits: false,
            why: None,
            plan: None,
            advertised: Vec::new(),
            decided_ns: now_ns,
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
        self.advertised.retain(|(id, _)| links.contains(id));
        self.pending_verdicts.retain(|id, _| links.contains(id));
        self.stop.retain(|id| links.contains(&id));
        if let Some((_, chosen)) = &mut self.clients_choice {
            chosen.retain(|id| links.contains(id));
        }
        self.why = Some("the configuration has changed".to_owned());
        self.decide(now_ns, actions);
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
        let change = self.link_mut(id).and_then(|link| link.on_alive(now_ns, hold_up_ns));
        self.report_state_change(now_ns, id, change, actions);
    }

    pub(super) fn probed(
        &mut self,
        now_ns: u64,
        id: LinkId,
        (health, why): (Health, String),
        last_good_ns: u64,
        actions: &mut Vec<Action>,
    ) {
        self.pending_verdicts.remove(&id);
        let hold_up_ns = self.spec.hold_up_ns;
        let change = self.link_mut(id).and_then(|link| link.on_probed(now_ns, health, why, last_good_ns, hold_up_ns));
        self.report_state_change(now_ns, id, change, actions);
    }

    pub(super) fn await_verdict(&mut self, id: LinkId, until_ns: u64) {
        self.pending_verdicts.insert(id, until_ns);
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
        let change = self.link_mut(id).and_then(|link| link.on_impaired(now_ns, impairment, last_good_ns));
        self.report_state_change(now_ns, id, change, actions);
    }

    pub(super) fn silent(&mut self, now_ns: u64, id: LinkId, last_good_ns: u64, actions: &mut Vec<Action>) {
        if !self.puts_off(now_ns, id, last_good_ns) {
            self.judge_silence(now_ns, id, last_good_ns, actions);
        }
    }

    fn judge_silence(&mut self, now_ns: u64, id: LinkId, last_good_ns: u64, actions: &mut Vec<Action>) {
        let detection_ns = self.spec.detection_ns;
        let change = self.link_mut(id).and_then(|link| link.on_silent(now_ns, last_good_ns, detection_ns));
        self.report_state_change(now_ns, id, change, actions);
    }

    pub(super) fn device(&mut self, now_ns: u64, id: LinkId, device: Device, actions: &mut Vec<Action>) {
        if matches!(device, Device::Missing | Device::NoAddress) {
            // It will be probed anew.
            self.stop.forget(id);
        }
        let hold_up_ns = self.spec.hold_up_ns;
        let change = self.link_mut(id).and_then(|link| link.on_device(now_ns, device, hold_up_ns));
        self.report_state_change(now_ns, id, change, actions);
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
}

// Deciding.
impl Group {
    /// Brings the group up to now: who is usable, what is chosen, what is said.
    pub(super) fn decide(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        self.decided_ns = now_ns;
        self.judge_silent(now_ns, actions);
        let changes: Vec<(LinkId, StateChange)> =
            self.links.iter_mut().filter_map(|link| Some((link.spec.id, link.advance(now_ns)?))).collect();
        for (id, change) in changes {
            self.report_state_change(now_ns, id, Some(change), actions);
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
        self.advertise(actions);
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
        self.pending_verdicts.retain(|_, until_ns| *until_ns > now_ns);
        let mut chosen = choice.active.clone();
        chosen.sort_unstable();
        let concerns = |id: &LinkId| chosen.contains(id) || self.carried.contains(id);
        self.waits = !self.carried.is_empty() && chosen != self.carried && self.pending_verdicts.keys().any(concerns);
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
}

// Looking.
impl Group {
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
        let holds = self.links.iter().filter_map(|link| link.next_deadline_ns(self.decided_ns));
        let failbacks = self.links.iter().filter_map(|link| match self.spec.failback {
            Failback::After(ns) if !self.active.contains(&link.spec.id) => {
                link.usable_since_ns().map(|since| since + ns)
            }
            Failback::After(_) | Failback::Manual => None,
        });
        let starting = || self.links.iter().filter(|link| link.verdict() == LinkVerdict::Starting || link.undecided());
        let verdicts = starting().flat_map(|link| [self.verdict_due_ns(link), self.first_echo_due_ns(link)]);
        let pending = self.pending_verdicts.values().copied().chain(self.stop.deadlines_ns());
        holds.chain(failbacks.chain(verdicts).chain(pending).filter(|at_ns| *at_ns > self.decided_ns)).min()
    }
}
