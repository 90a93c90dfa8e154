//! The recent transitions, in words.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{
    clock,
    event::{GroupId, LinkId, Transition, TransitionKind},
    trace::Trace,
};

/// Events that are kept, and how far a follower may fall behind.
pub const HISTORY_LEN: usize = 256;

/// One transition, in words: a line of `events --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// When, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// Group.
    pub group: String,
    /// Link, where it is about one.
    pub link: Option<String>,
    /// What: `link-up`, `link-down`, `link-degraded`, `link-dampened`, `active-changed`, `no-usable-link`, `ordered`, `peer-restarted`,
    /// `announcements-unanswered`, `announcements-answered`.
    pub what: String,
    /// Links that carried the traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// Links that carry it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Why.
    pub why: String,
    /// From the last good packet to the decision, ms.
    pub detect_ms: Option<f64>,
    /// From the decision until the kernel had the new routes, ms.
    pub took_ms: Option<f64>,
    /// Of traffic that moved: where the time went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

impl EventRecord {
    /// In words. What was done took as long as the trace says.
    fn new(
        transition: &Transition,
        trace: Option<Trace>,
        names: impl Fn(GroupId, Option<LinkId>) -> (String, Option<String>),
    ) -> Self {
        let milliseconds = |from_ns: u64, to_ns: u64| to_ns.saturating_sub(from_ns) as f64 / 1e6;
        let (group, link) = names(transition.group, transition.link);
        let named = |links: &[LinkId]| links.iter().filter_map(|link| names(transition.group, Some(*link)).1).collect();
        let (from, to) = match &transition.what {
            TransitionKind::ActiveChanged { from, to } => (named(from), named(to)),
            _ => (Vec::new(), Vec::new()),
        };
        let last_good_ns = match trace {
            Some(trace) => trace.last_good_ns,
            None => (transition.last_good_ns != 0).then_some(transition.last_good_ns),
        };
        Self {
            time: clock::rfc3339(transition.at_ns),
            group,
            link,
            what: event_name(&transition.what).to_owned(),
            from,
            to,
            why: transition.why.clone(),
            detect_ms: last_good_ns.map(|last_good_ns| milliseconds(last_good_ns, transition.at_ns)),
            // Only traffic that moves takes time after the decision.
            took_ms: trace.map(|trace| milliseconds(transition.at_ns, trace.routed_ns)),
            trace,
        }
    }
}

/// What happened, as `events --json` and the journal have it.
pub(crate) fn event_name(what: &TransitionKind) -> &'static str {
    match what {
        TransitionKind::LinkUp => "link-up",
        TransitionKind::LinkDown => "link-down",
        TransitionKind::LinkDegraded => "link-degraded",
        TransitionKind::LinkDampened => "link-dampened",
        TransitionKind::ActiveChanged { .. } => "active-changed",
        TransitionKind::NoUsableLink => "no-usable-link",
        TransitionKind::Ordered => "ordered",
        TransitionKind::PeerRestarted => "peer-restarted",
        TransitionKind::PeerSilent => "peer-silent",
        TransitionKind::PeerBack => "peer-back",
        TransitionKind::AnnouncementsUnanswered => "announcements-unanswered",
        TransitionKind::AnnouncementsAnswered => "announcements-answered",
    }
}

/// The last [`HISTORY_LEN`] events, and whoever follows them.
#[derive(Debug)]
pub struct History {
    recent: Mutex<VecDeque<Arc<EventRecord>>>,
    /// How many there were, those that are forgotten too.
    count: AtomicU64,
    followers: broadcast::Sender<Arc<EventRecord>>,
}

impl Default for History {
    fn default() -> Self {
        Self { recent: Mutex::default(), count: AtomicU64::new(0), followers: broadcast::channel(HISTORY_LEN).0 }
    }
}

impl History {
    /// Adds a transition that was carried out, in words, a move of traffic with its trace; `names` knows the groups' and the
    /// links'.
    pub fn record(
        &self,
        transition: &Transition,
        trace: Option<Trace>,
        names: impl Fn(GroupId, Option<LinkId>) -> (String, Option<String>),
    ) {
        self.push(EventRecord::new(transition, trace, names));
    }

    /// Adds an event. Never waits for a follower: who does not read in time loses events, and learns how many.
    pub fn push(&self, record: EventRecord) {
        let record = Arc::new(record);
        let mut recent = self.lock();
        if recent.len() == HISTORY_LEN {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&record));
        self.count.fetch_add(1, Relaxed);
        // Nobody follows: that is fine. Under the lock, so that a new follower gets each event exactly once.
        let _ = self.followers.send(record);
    }

    /// How many events there were, those that are forgotten too.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// The recent events, the oldest first.
    pub fn recent(&self) -> Vec<Arc<EventRecord>> {
        self.lock().iter().cloned().collect()
    }

    /// The recent events, and all that come after them.
    pub fn follow(&self) -> (Vec<Arc<EventRecord>>, broadcast::Receiver<Arc<EventRecord>>) {
        let recent = self.lock();
        (recent.iter().cloned().collect(), self.followers.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<EventRecord>>> {
        // Whoever panicked with the lock held left a whole queue behind: no operation on it stops half way.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(n: usize) -> EventRecord {
        EventRecord { why: n.to_string(), ..EventRecord::default() }
    }

    #[test]
    fn only_the_last_are_kept() {
        let history = History::default();
        (0..HISTORY_LEN + 3).for_each(|n| history.push(record(n)));
        let recent = history.recent();
        assert_eq!((recent.len(), recent[0].why.as_str()), (HISTORY_LEN, "3"));
    }

    #[test]
    fn a_follower_gets_each_event_once() {
        let history = History::default();
        history.push(record(0));
        let (recent, mut coming) = history.follow();
        history.push(record(1));
        assert_eq!((recent.len(), recent[0].why.as_str()), (1, "0"));
        assert_eq!(coming.try_recv().unwrap().why, "1");
        assert!(coming.try_recv().is_err());
    }

    #[test]
    fn a_transition_in_words() {
        let transition = Transition {
            at_ns: 5_031_000_000,
            group: GroupId(0),
            link: None,
            what: TransitionKind::ActiveChanged { from: vec![LinkId(0)], to: vec![LinkId(1)] },
            why: "no echo for 30 ms".to_owned(),
            last_good_ns: 5_000_000_000,
        };
        let names = |_, link: Option<LinkId>| ("hq".to_owned(), link.map(|link| format!("link{}", link.0)));
        let trace = Trace {
            last_good_ns: Some(5_000_000_000),
            due_ns: Some(5_030_900_000),
            woke_ns: Some(5_030_950_000),
            received_ns: Some(5_030_960_000),
            decided_ns: 5_031_010_000,
            routed_ns: 5_031_040_000,
        };
        let record = EventRecord::new(&transition, Some(trace), names);
        let json = serde_json::to_string(&EventRecord { time: "T".to_owned(), ..record }).unwrap();
        assert_eq!(
            json,
            r#"{"time":"T","group":"hq","link":null,"what":"active-changed","from":["link0"],"to":["link1"],"why":"no echo for 30 ms","detect_ms":31.0,"took_ms":0.04,"trace":{"last_good_ns":5000000000,"due_ns":5030900000,"woke_ns":5030950000,"received_ns":5030960000,"decided_ns":5031010000,"routed_ns":5031040000}}"#
        );
    }
}
