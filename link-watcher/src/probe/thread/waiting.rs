//! Links that cannot be probed yet: their socket cannot be bound. An address that is tentative (RFC 4862, section 5.4), or
//! on an interface that is down, is there for who looks and not for who binds; a port may be taken for a moment. Nothing
//! says when that ends, so it is tried again.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::Thread;
use crate::{
    clock,
    event::LinkId,
    health::Limits,
    probe::{ProbedLink, Report},
};

/// The first wait, ns; each next one is twice as long.
const FIRST_WAIT_NS: u64 = 20_000_000;
/// The longest: a link that could work is probed within a second of being able to.
const LONGEST_WAIT_NS: u64 = 500_000_000;

/// Links that wait, by id: at most as many as there are slots.
#[derive(Default)]
pub(super) struct Waiting(BTreeMap<LinkId, One>);

struct One {
    link: ProbedLink,
    /// When it is tried next, ns.
    next_ns: u64,
    wait_ns: u64,
    why: String,
}

impl Waiting {
    pub(super) fn remove(&mut self, id: LinkId) {
        self.0.remove(&id);
    }

    /// Thresholds that came meanwhile.
    pub(super) fn limit(&mut self, id: LinkId, limits: Limits) {
        if let Some(one) = self.0.get_mut(&id) {
            one.link.limits = limits;
        }
    }
}

impl Thread {
    /// Begins to probe a link; where that cannot be, it is tried again until the link is removed.
    pub(super) fn add_or_wait(&mut self, link: ProbedLink) {
        let id = link.id;
        self.remove(id);
        let before = self.waiting.0.remove(&id);
        let Err(error) = self.add(link.clone()) else {
            if before.is_some() {
                info!("{} on {} is probed now", link.remote, link.interface);
                self.outbox.push(Report::Bound(id));
            }
            return;
        };
        let now_ns = clock::now_ns();
        let why = format!("{error:#}");
        let wait_ns = before.as_ref().map_or(FIRST_WAIT_NS, |before| (before.wait_ns * 2).min(LONGEST_WAIT_NS));
        if before.is_none_or(|before| before.why != why) {
            warn!("cannot probe {} on {} yet: {why}. It is tried again", link.remote, link.interface);
            self.outbox.push(Report::Unbound { link: id, why: why.clone() });
        }
        let next_ns = now_ns + wait_ns;
        self.due.push(next_ns, id);
        self.waiting.0.insert(id, One { link, next_ns, wait_ns, why });
    }

    /// Tries a link again whose time has come.
    pub(super) fn try_again(&mut self, id: LinkId, now_ns: u64) {
        let due = self.waiting.0.get(&id).filter(|one| one.next_ns <= now_ns).map(|one| one.link.clone());
        if let Some(link) = due {
            self.add_or_wait(link);
        }
    }

    /// Keys that came meanwhile.
    pub(super) fn rekey_waiting(&mut self, id: LinkId, keys: &std::sync::Arc<link_watcher_common::maps::KeySet>) {
        if let Some(one) = self.waiting.0.get_mut(&id) {
            one.link.keys = std::sync::Arc::clone(keys);
        }
    }
}
