//! A peer that has said that it is about to stop for a moment, and that nobody answers for meanwhile: its silence says nothing of
//! the paths. With a kernel program the kernel answers, and a silent path is a dead one as ever.

use std::collections::BTreeMap;

use super::Group;
use crate::event::{Action, LinkId, LinkVerdict, RemoteState};

/// A peer that has said that it is about to stop for a moment may be silent for so long, s.
pub(super) const PLANNED_STOP_SECONDS: u8 = 30;
const PLANNED_STOP_NS: u64 = PLANNED_STOP_SECONDS as u64 * 1_000_000_000;

/// Links whose silence is put down to the peer's stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    /// When the peer said so, ns; nothing: it did not, or it is back, or its kernel answers for it.
    since_ns: Option<u64>,
    /// Each silent link, at most one entry a link, with its last good packet and when it is judged, ns.
    silent: BTreeMap<LinkId, Silence>,
}

#[derive(Clone, Copy, Debug)]
struct Silence {
    last_good_ns: u64,
    until_ns: u64,
}

impl Stop {
    /// The link answers, or begins anew.
    pub(super) fn forget(&mut self, id: LinkId) {
        self.silent.remove(&id);
    }

    pub(super) fn retain(&mut self, is_there: impl Fn(LinkId) -> bool) {
        self.silent.retain(|id, _| is_there(*id));
    }

    /// When silent links are judged, ns.
    pub(super) fn deadlines_ns(&self) -> impl Iterator<Item = u64> {
        self.silent.values().map(|silence| silence.until_ns)
    }
}

impl Group {
    /// Takes what the peer says of itself.
    pub(super) fn hear_of_stop(&mut self, now_ns: u64, remote: RemoteState, is_another: bool) {
        if remote.restarting && remote.silence_seconds == 0 {
            self.stop.since_ns.get_or_insert(now_ns);
        } else if is_another || remote.silence_seconds > 0 {
            // It is back, or its kernel answers: what is silent now has as long as a link that starts.
            self.stop.since_ns = None;
            let until_ns = now_ns.saturating_add(2 * self.spec.detection_ns);
            self.stop.silent.values_mut().for_each(|silence| silence.until_ns = silence.until_ns.min(until_ns));
        }
    }

    /// Whether a link's silence is the peer's stop, as far as is known: it is judged later then.
    pub(super) fn puts_off(&mut self, now_ns: u64, id: LinkId, last_good_ns: u64) -> bool {
        let Some(end_ns) = self.stop.since_ns.map(|since_ns| since_ns.saturating_add(PLANNED_STOP_NS)) else {
            return false;
        };
        if now_ns >= end_ns || self.link(id).is_none_or(|link| !answers(link.verdict())) {
            return false;
        }
        // Links fall silent one behind the other; one that goes on answering has somebody at the other end, so the path is dead.
        let until_ns = if self.another_answers(id) { now_ns.saturating_add(self.spec.detection_ns) } else { end_ns };
        self.stop.silent.insert(id, Silence { last_good_ns, until_ns: until_ns.min(end_ns) });
        true
    }

    /// Judges silent links whose time is over.
    pub(super) fn judge_silent(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let due: Vec<(LinkId, Silence)> = self
            .stop
            .silent
            .iter()
            .filter(|(_, silence)| silence.until_ns <= now_ns)
            .map(|(id, s)| (*id, *s))
            .collect();
        for (id, silence) in due {
            let end_ns = self.stop.since_ns.map_or(0, |since_ns| since_ns.saturating_add(PLANNED_STOP_NS));
            if now_ns < end_ns && !self.another_answers(id) {
                self.stop.silent.insert(id, Silence { until_ns: end_ns, ..silence });
                continue;
            }
            self.stop.silent.remove(&id);
            self.judge_silence(now_ns, id, silence.last_good_ns, actions);
        }
    }

    fn another_answers(&self, id: LinkId) -> bool {
        self.links
            .iter()
            .any(|link| link.spec.id != id && answers(link.verdict()) && !self.stop.silent.contains_key(&link.spec.id))
    }
}

const fn answers(verdict: LinkVerdict) -> bool {
    matches!(verdict, LinkVerdict::Up | LinkVerdict::Degraded)
}
