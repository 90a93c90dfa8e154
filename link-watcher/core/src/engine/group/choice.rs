//! Which links carry a group's traffic: by its own rule, or a server by its client's word.

use link_watcher_common::verify::older;

use super::Group;
use crate::{
    event::{Failback, LinkId, LinkVerdict, Role},
    link::Link,
    select::{Candidate, Choice, choose},
};

impl Group {
    /// An uplink that is only answered, and used by rule.
    pub(super) const fn never_chosen(&self, link: &Link) -> bool {
        self.spec.role.is_none() && link.spec.tier == 0
    }

    /// A link's place in the order of preference, the lowest first: our tier; at a server its client's rank, and where that is
    /// not known yet its place in our own file.
    fn order_of(&self, link: &Link) -> u32 {
        if self.spec.role != Some(Role::Server) {
            return link.spec.tier;
        }
        let rank = link.peer.map(|peer| u32::from(peer.rank));
        let place = || self.links.iter().position(|other| other.spec.id == link.spec.id);
        rank.or_else(|| u32::try_from(place()?).ok()).unwrap_or(u32::MAX)
    }

    /// Links in order of preference, and where that is the same in the file's order.
    pub(super) fn preference(&self) -> Vec<LinkId> {
        let links = self.links.iter().filter(|link| !self.never_chosen(link)).enumerate();
        let mut links: Vec<(u32, usize, LinkId)> =
            links.map(|(position, link)| (self.order_of(link), position, link.spec.id)).collect();
        links.sort_unstable();
        links.into_iter().map(|(.., id)| id).collect()
    }

    /// Links that may be used beside the chosen ones: uplinks that are never chosen are used by rule.
    pub(super) fn standing_by(&self) -> Vec<LinkId> {
        let mut links = self.preference();
        links.extend(self.links.iter().filter(|link| self.never_chosen(link)).map(|link| link.spec.id));
        links
    }

    pub(super) fn choice(&mut self, now_ns: u64) -> Choice {
        let failover = !self.orders.failover_off;
        let order = self.preference();
        let candidates: Vec<Candidate> =
            order.iter().filter_map(|id| self.link(*id)).map(|link| self.candidate(link, now_ns)).collect();
        if self.spec.role != Some(Role::Server) {
            return choose(&candidates, &self.active, self.orders.pinned, failover);
        }
        self.adopt_client_choice();
        if let Some((epoch, chosen)) = self.clients_choice.clone() {
            self.epoch = epoch;
            let fresh = self.fell_at_epoch.is_none_or(|fell| fell != epoch);
            // The client's word goes before our hold time, unless we had to leave that very choice.
            // Where it says meanwhile that it has left a link, we do not return there, whatever it has taken instead.
            let works = |link: &&Link| {
                let meant = self.active.contains(&link.spec.id)
                    || link.peer.is_some_and(|peer| peer.active && peer.epoch == epoch);
                matches!(link.verdict(), LinkVerdict::Up | LinkVerdict::Degraded)
                    && meant
                    && (fresh || !link.holds(now_ns))
            };
            let alive: Vec<LinkId> =
                chosen.iter().filter_map(|id| self.link(*id)).filter(works).map(|link| link.spec.id).collect();
            if !alive.is_empty() || !failover {
                return Choice { active: if alive.is_empty() { chosen } else { alive }, reason: "the client chose it" };
            }
            if chosen.iter().filter_map(|id| self.link(*id)).any(|link| link.verdict() == LinkVerdict::Down) {
                self.fell_at_epoch = Some(epoch);
            }
            let working: Vec<LinkId> = candidates
                .iter()
                .filter(|candidate| candidate.usable && self.active.contains(&candidate.id))
                .map(|candidate| candidate.id)
                .collect();
            if !working.is_empty() {
                return Choice { active: working, reason: "the client's choice is dead here: as before" };
            }
            let choice = choose(&candidates, &self.active, None, failover);
            return Choice { reason: "the client's choice is dead here: the next usable link", ..choice };
        }
        // Until a client that has started anew has chosen, what is there stays; with nothing there, the best.
        let works =
            |link: &Link| matches!(link.verdict(), LinkVerdict::Up | LinkVerdict::Degraded | LinkVerdict::Starting);
        if self.active.iter().filter_map(|id| self.link(*id)).any(works) {
            return Choice { active: self.active.clone(), reason: "as before, until the client has chosen" };
        }
        choose(&candidates, &self.active, None, failover)
    }

    fn candidate(&self, link: &Link, now_ns: u64) -> Candidate {
        let may_take_back = match self.spec.failback {
            Failback::Manual => false,
            Failback::After(ns) => link.usable_since_ns().is_some_and(|since_ns| now_ns >= since_ns + ns),
        };
        Candidate {
            id: link.spec.id,
            // The server falls back in the client's order, link by link.
            tier: self.order_of(link),
            usable: link.usable(now_ns),
            holds: link.only_holds(),
            answers: link.usable_as_last_resort(),
            drained: link.drained || link.drained_by_peer(),
            undecided: self.undecided(link, now_ns),
            // A server waits for its client, not for time.
            may_take_back: (may_take_back || self.back_now) && self.spec.role != Some(Role::Server),
        }
    }

    /// Takes in what the client has said of its choice on each link. Its word comes link by link: that a link is left counts
    /// only once it is heard which one was taken instead.
    fn adopt_client_choice(&mut self) {
        let stamped = || {
            self.links.iter().filter_map(|link| {
                let peer = link.peer.filter(|peer| peer.active && Some(peer.instance) == self.peer_instance)?;
                Some((peer.epoch, link.spec.id))
            })
        };
        let newer = |a: u32, b: u32| if older(a, b) { b } else { a };
        let Some(newest) = stamped().map(|(epoch, _)| epoch).reduce(newer) else { return };
        let mut chosen: Vec<LinkId> = stamped().filter(|(epoch, _)| *epoch == newest).map(|(_, id)| id).collect();
        match &mut self.clients_choice {
            Some((known, _)) if older(newest, *known) => {}
            Some((known, links)) if *known == newest => {
                chosen.retain(|id| !links.contains(id));
                links.extend(chosen);
            }
            _ => self.clients_choice = Some((newest, chosen)),
        }
    }
}
