//! Probes that nothing has answered so far: each is judged by the time at which it left.

use std::collections::VecDeque;

/// When probes left whose sequences are above the highest one answered, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Outstanding {
    /// Sequence, and when it left, ns.
    probes: VecDeque<(u64, u64)>,
    /// More are not remembered; the oldest are forgotten first.
    most: usize,
    /// The highest sequence that has been answered, or has had its time: it and all before it are accounted for.
    accounted: u64,
}

impl Outstanding {
    /// Of a link with at most so many probes on their way.
    pub(super) fn new(most: usize) -> Self {
        Self { probes: VecDeque::new(), most: most.max(1), accounted: 0 }
    }

    /// One has left.
    pub(super) fn sent(&mut self, now_ns: u64, sequence: u64) {
        if self.probes.len() == self.most {
            self.probes.pop_front();
        }
        self.probes.push_back((sequence, now_ns));
    }

    /// This sequence has been answered: what left before it will hardly be any more.
    pub(super) fn answered(&mut self, sequence: u64) {
        while self.probes.front().is_some_and(|(oldest, _)| *oldest <= sequence) {
            self.probes.pop_front();
        }
        self.accounted = self.accounted.max(sequence);
    }

    /// The link is known to be silent, and what is on its way is no evidence any more.
    pub(super) fn forget(&mut self) {
        self.probes.clear();
    }

    /// When the `number`th of them left, ns, counted from 1.
    pub(super) fn nth_sent_ns(&self, number: usize) -> Option<u64> {
        self.probes.get(number.checked_sub(1)?).map(|(_, sent_ns)| *sent_ns)
    }

    /// Counts those as accounted for that have had their time; gives the highest sequence that is.
    pub(super) fn account(&mut self, now_ns: u64, time_ns: u64) -> u64 {
        let had_theirs = self.probes.partition_point(|(_, sent_ns)| sent_ns + time_ns <= now_ns);
        if let Some((sequence, _)) = had_theirs.checked_sub(1).and_then(|last| self.probes.get(last)) {
            self.accounted = self.accounted.max(*sequence);
        }
        self.accounted
    }
}
