//! What people hear of transitions, and what is known of where the time of each went.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use tracing::Level;

use super::{core::Core, uplinks::UplinkGroup};
use crate::{
    control::event_name,
    event::{GroupId, LinkId, Transition, TransitionKind},
    log,
    metrics::To,
    trace::Trace,
};

/// News of links since the last decision: what the next one comes from.
#[derive(Debug, Default)]
pub(super) struct Causes {
    by_link: BTreeMap<LinkId, Cause>,
}

/// How news of a link came; instants in ns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause {
    /// For when the timer was set that noticed its silence.
    pub(super) due_ns: Option<u64>,
    /// When the probing thread woke.
    pub(super) woke_ns: Option<u64>,
    /// When the core had it.
    pub(super) received_ns: u64,
}

impl Causes {
    /// A link has failed.
    pub(super) fn failed(&mut self, link: LinkId, cause: Cause) {
        self.by_link.insert(link, cause);
    }

    /// The peer has said something of a link; its own failure, if there is one, says more.
    pub(super) fn remote_changed(&mut self, link: LinkId, cause: Cause) {
        self.by_link.entry(link).or_insert(cause);
    }

    /// They are decided upon.
    pub(super) fn clear(&mut self) {
        self.by_link.clear();
    }

    /// What made the traffic leave these links for those: the first failure of one that was left, else the first word
    /// of the peer's.
    fn cause(&self, from: &[LinkId], to: &[LinkId]) -> Option<Cause> {
        let first = |links: &mut dyn Iterator<Item = &LinkId>| {
            links.filter_map(|link| self.by_link.get(link)).min_by_key(|cause| cause.received_ns).copied()
        };
        let left = &mut from.iter().filter(|link| !to.contains(link));
        first(left).or_else(|| first(&mut to.iter()))
    }
}

impl Core {
    /// Where the time of a move of traffic has gone so far.
    pub(super) fn trace(&self, transition: &Transition, from: &[LinkId], to: &[LinkId], decided_ns: u64) -> Trace {
        let cause = self.causes.cause(from, to);
        let known = (transition.last_good_ns != 0).then_some(transition.last_good_ns);
        // Of a lost interface the engine knows only when it was told.
        let known = known.map(|known_ns| cause.map_or(known_ns, |cause| known_ns.min(cause.received_ns)));
        // The peer may know of a failure first. It does not say what its word comes from, but echoes that stay away do.
        let silent_since = || {
            let left = from.iter().filter(|link| !to.contains(link));
            left.filter_map(|link| self.silent_since_ns(*link, cause?.received_ns)).max()
        };
        Trace {
            last_good_ns: known.or_else(silent_since),
            due_ns: cause.and_then(|cause| cause.due_ns),
            woke_ns: cause.and_then(|cause| cause.woke_ns),
            received_ns: cause.map(|cause| cause.received_ns),
            decided_ns,
            routed_ns: decided_ns,
        }
    }

    /// The last echo of a peer's link, if at least one has stayed away since: it is later than an interval and a half.
    fn silent_since_ns(&self, id: LinkId, now_ns: u64) -> Option<u64> {
        let link = self.links.get(&id)?;
        let last_ns = self.tables.states()[id.0 as usize].last_echo_ns.load(Relaxed);
        (last_ns != 0 && now_ns.saturating_sub(last_ns) > link.interval_ns + link.interval_ns / 2).then_some(last_ns)
    }

    /// Tells people of a transition that was carried out; of a move of traffic with its trace.
    pub(super) fn publish(&mut self, transition: &Transition, trace: Option<Trace>) {
        let hinted = self.with_address_hint(transition);
        let transition = hinted.as_ref().unwrap_or(transition);
        self.log(transition, trace);
        self.count(transition, trace);
        self.history.record(transition, trace, |group, link| self.names(group, link));
    }

    /// With what a silent link's own address has to do with it.
    fn with_address_hint(&self, transition: &Transition) -> Option<Transition> {
        let silent = transition.what == TransitionKind::LinkDown;
        let hint = self.address_hint(transition.link.filter(|_| silent)?, transition.at_ns)?;
        Some(Transition { why: format!("{}; {hint}", transition.why), ..transition.clone() })
    }

    /// What the silence of a link may come from, while it is silent.
    pub(super) fn address_hint(&self, id: LinkId, now_ns: u64) -> Option<String> {
        let link = self.links.get(&id)?;
        let last_ns = self.tables.states()[id.0 as usize].last_echo_ns.load(Relaxed);
        let silent = last_ns == 0 || now_ns.saturating_sub(last_ns) > link.interval_ns;
        link.address_hint().filter(|_| silent)
    }

    fn count(&mut self, transition: &Transition, trace: Option<Trace>) {
        let (group, link) = self.names(transition.group, transition.link);
        let to = match transition.what {
            TransitionKind::LinkUp => Some(To::Up),
            TransitionKind::LinkDown => Some(To::Down),
            TransitionKind::LinkDegraded => Some(To::Degraded),
            TransitionKind::LinkDampened => Some(To::Dampened),
            _ => None,
        };
        if let (Some(link), Some(to)) = (link, to) {
            self.counters.transition(group.clone(), link, to);
        }
        if let Some(outage_ns) = trace.and_then(|trace| trace.outage_ns()) {
            self.counters.failover(group, outage_ns);
        }
    }

    /// Writes a transition to the log, with what machines look for.
    fn log(&self, transition: &Transition, trace: Option<Trace>) {
        let (group, link) = self.names(transition.group, transition.link);
        let (level, text) = self.words(transition, trace, &group, link.as_deref());
        let event = event_name(&transition.what);
        macro_rules! say {
            ($level:ident) => {
                tracing::$level!(
                    message_id = log::message_id(event),
                    lw_group = group,
                    lw_link = link,
                    lw_event = event,
                    "{text}"
                )
            };
        }
        match level {
            Level::ERROR => say!(error),
            Level::WARN => say!(warn),
            _ => say!(info),
        }
    }

    /// What a transition is for people, and how bad it is.
    fn words(&self, transition: &Transition, trace: Option<Trace>, group: &str, link: Option<&str>) -> (Level, String) {
        let link = link.map(|link| format!(" {link}")).unwrap_or_default();
        let why = &transition.why;
        match &transition.what {
            TransitionKind::LinkUp => (Level::INFO, format!("{group}{link} is up: {why}")),
            TransitionKind::LinkDown => (Level::WARN, format!("{group}{link} is down: {why}")),
            TransitionKind::LinkDegraded => (Level::WARN, format!("{group}{link} is degraded: {why}")),
            TransitionKind::LinkDampened => (Level::WARN, format!("{group}{link} is dampened: {why}")),
            TransitionKind::NoUsableLink => (Level::ERROR, format!("{group}: {why}")),
            TransitionKind::Ordered => (Level::INFO, why.clone()),
            TransitionKind::AnnouncementsUnanswered => (Level::WARN, format!("{group}: {why}")),
            TransitionKind::AnnouncementsAnswered => (Level::INFO, format!("{group}: {why}")),
            TransitionKind::PeerRestarted => (Level::INFO, format!("{group}: the peer has started anew: {why}")),
            TransitionKind::PeerSilent => (Level::WARN, format!("{group}: the peer is silent: {why}")),
            TransitionKind::PeerBack => (Level::INFO, format!("{group}: {why}")),
            TransitionKind::ActiveChanged { from, to } => {
                let names = |links: &[LinkId]| {
                    let names: Vec<String> = links.iter().map(|link| self.link_name(*link)).collect();
                    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
                };
                let took_ns = trace.map_or(0, |trace| trace.routed_ns.saturating_sub(transition.at_ns));
                let took_ms = took_ns as f64 / 1e6;
                let (from, to) = (names(from), names(to));
                (Level::WARN, format!("{group}: traffic moved from {from} to {to} in {took_ms:.2} ms: {why}"))
            }
        }
    }

    /// Names, for people.
    pub(super) fn names(&self, group: GroupId, link: Option<LinkId>) -> (String, Option<String>) {
        (self.group_name(group), link.map(|link| self.link_name(link)))
    }

    /// A group's name, for people; also of one that a reload or an earlier run has left behind.
    pub(super) fn group_name(&self, group: GroupId) -> String {
        let peer = self.groups.get(&group).map(|group| &group.config.name);
        let name = peer.or_else(|| self.uplink_groups.get(&group).map(|group| &group.config.name));
        let name = name.or_else(|| self.former.name(group));
        name.map_or_else(|| "a group that is gone".to_owned(), String::clone)
    }

    pub(super) fn link_name(&self, link: LinkId) -> String {
        let of_peer = self.links.get(&link).map(|link| &link.config.name);
        let mut uplinks = self.uplink_groups.values().flat_map(UplinkGroup::uplinks);
        let name = of_peer.or_else(|| uplinks.find(|(id, _)| *id == link).map(|(_, config)| &config.name));
        name.map_or_else(|| format!("link {}", link.0), String::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(received_ns: u64) -> Cause {
        Cause { due_ns: None, woke_ns: None, received_ns }
    }

    #[test]
    fn a_failure_of_the_link_that_was_left_is_the_cause() {
        let mut causes = Causes::default();
        causes.remote_changed(LinkId(1), at(10));
        causes.failed(LinkId(0), at(20));
        causes.remote_changed(LinkId(0), at(30));
        let cause = |from: &[u32], to: &[u32]| {
            let links = |ids: &[u32]| ids.iter().map(|id| LinkId(*id)).collect::<Vec<_>>();
            causes.cause(&links(from), &links(to)).map(|cause| cause.received_ns)
        };
        assert_eq!(cause(&[0], &[1]), Some(20), "its failure, not what was said of it or elsewhere");
        assert_eq!(cause(&[2], &[1]), Some(10), "else the peer's word");
        assert_eq!(cause(&[0, 2], &[0, 1]), Some(10), "link 0 was not left");
        assert_eq!(cause(&[2], &[3]), None);
        causes.clear();
        assert!(causes.by_link.is_empty());
    }
}
