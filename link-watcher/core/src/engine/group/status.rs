//! How a group stands, for the status.

use super::Group;
use crate::{
    event::{Failback, GroupId, LinkId, LinkVerdict, Role},
    link::{Link, seconds},
};

/// How a group stands.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupStatus {
    /// Number.
    pub id: GroupId,
    /// Whether it fails over by itself.
    pub failover: bool,
    /// Link it is pinned to.
    pub pinned: Option<LinkId>,
    /// Links that carry its traffic.
    pub active: Vec<LinkId>,
    /// Since when.
    pub since_ns: u64,
    /// Why these.
    pub reason: String,
    /// Seconds for which the peer's daemon has been silent while its kernel answers, at most 255; 0: it lives.
    pub peer_silence_seconds: u8,
    /// The next choice waits for verdicts that are about to come: nothing is to be done meanwhile.
    pub waits: bool,
    /// Links, in the order of the file.
    pub links: Vec<LinkStatus>,
}

/// How a link stands.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkStatus {
    /// Number.
    pub id: LinkId,
    /// State.
    pub verdict: LinkVerdict,
    /// Whether traffic may use it.
    pub usable: bool,
    /// Whether our operator has taken it out of service.
    pub drained: bool,
    /// Whether the peer's operator has.
    pub drained_by_peer: bool,
    /// Whether the peer says that it sends its traffic over it.
    pub carries_for_peer: bool,
    /// Why traffic may not use it, or does not use it yet, in words for the operator.
    pub usable_reason: Option<String>,
    /// Share among the active links of one tier, 1 to 256.
    pub weight: u32,
    /// Share of the group's traffic, 0 to 1.
    pub share: f64,
    /// Since when in this state.
    pub since_ns: u64,
    /// How often it went down after having been up.
    pub flaps: u64,
    /// Penalty for its flaps, from 0 (RFC 2439); it is left out from 3,000 until below 750.
    pub penalty: f64,
    /// Why it went down the last time.
    pub last_down_reason: Option<String>,
}

impl Group {
    pub(in crate::engine) fn status(&self, now_ns: u64) -> GroupStatus {
        let total: u32 = self.active.iter().filter_map(|id| self.link(*id)).map(|link| self.weight(link)).sum();
        let status = |link: &Link| LinkStatus {
            id: link.spec.id,
            verdict: link.shown_verdict(),
            usable: link.usable(now_ns),
            weight: self.weight(link),
            drained: link.drained,
            drained_by_peer: link.drained_by_peer(),
            carries_for_peer: link.peer.is_some_and(|peer| peer.active),
            usable_reason: link.unusable_because(now_ns).or_else(|| self.waits_because(link, now_ns)),
            share: if self.active.contains(&link.spec.id) {
                f64::from(self.weight(link)) / f64::from(total)
            } else {
                0.0
            },
            since_ns: link.since_ns,
            flaps: link.flaps,
            penalty: link.penalty(now_ns),
            last_down_reason: link.last_down_reason.clone(),
        };
        GroupStatus {
            id: self.spec.id,
            failover: !self.orders.failover_off,
            pinned: self.orders.pinned,
            active: self.active.clone(),
            since_ns: self.since_ns,
            reason: self.reason.clone(),
            peer_silence_seconds: self.peer_silence_seconds,
            waits: self.waits,
            links: self.links.iter().map(status).collect(),
        }
    }

    pub(in crate::engine) fn verdicts(&self) -> impl Iterator<Item = (GroupId, LinkId, LinkVerdict)> {
        self.links.iter().map(|link| (self.spec.id, link.spec.id, link.shown_verdict()))
    }

    /// Why a usable link of a better tier does not carry the traffic yet.
    fn waits_because(&self, link: &Link, now_ns: u64) -> Option<String> {
        let chooses = self.spec.role != Some(Role::Server) && !self.orders.failover_off && self.orders.pinned.is_none();
        let tier = self.active.iter().filter_map(|id| self.link(*id)).map(|active| active.spec.tier).min()?;
        if !chooses || self.never_chosen(link) || link.spec.tier >= tier {
            return None;
        }
        match self.spec.failback {
            Failback::Manual => {
                Some(format!("failback is by hand: `link-watcher switch {} auto` goes back", self.spec.name))
            }
            Failback::After(ns) => {
                let due_ns = link.usable_since_ns()? + ns;
                (due_ns > now_ns).then(|| format!("failback in {}", seconds(due_ns - now_ns)))
            }
        }
    }
}
