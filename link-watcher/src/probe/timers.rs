//! Which link wants attention when, and how late it got it.

use std::collections::BTreeMap;

use crate::event::LinkId;

/// Emptied lists that are kept for the next instants.
const MAX_SPARE: usize = 64;
/// What is said of lateness is about as much time as this, up to twice of it, ns: it shall be about service, and not about
/// the start, where a thousand links are a second's work.
const LATENESS_WINDOW_NS: u64 = 5_000_000_000;

/// Links by the instant at which they are due. Links of one interval and phase share their instants, so there are few of
/// them, and what a link costs does not grow with the number of links.
#[derive(Default)]
pub(super) struct TimerQueue {
    instants: BTreeMap<u64, Vec<LinkId>>,
    /// So that in service nothing is allocated.
    spare: Vec<Vec<LinkId>>,
}

impl TimerQueue {
    pub(super) fn push(&mut self, at_ns: u64, id: LinkId) {
        let Self { instants, spare } = self;
        instants.entry(at_ns).or_insert_with(|| spare.pop().unwrap_or_default()).push(id);
    }

    /// The earliest instant that is not after `now_ns`, and its links; to be given back by [`TimerQueue::recycle`].
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<(u64, Vec<LinkId>)> {
        let first = self.instants.first_entry()?;
        (*first.key() <= now_ns).then(|| first.remove_entry())
    }

    pub(super) fn recycle(&mut self, mut list: Vec<LinkId>) {
        if self.spare.len() < MAX_SPARE {
            list.clear();
            self.spare.push(list);
        }
    }

    /// The earliest instant.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.instants.first_key_value().map(|(at_ns, _)| *at_ns)
    }
}

/// The greatest lateness of the last one to two [`LATENESS_WINDOW_NS`].
#[derive(Default)]
pub(super) struct Lateness {
    window: u64,
    worst_ns: u64,
    former_ns: u64,
}

impl Lateness {
    /// Takes one in, and gives the worst.
    pub(super) fn worst(&mut self, now_ns: u64, late_ns: u64) -> u64 {
        let window = now_ns / LATENESS_WINDOW_NS;
        if window != self.window {
            self.former_ns = if window == self.window + 1 { self.worst_ns } else { 0 };
            (self.window, self.worst_ns) = (window, 0);
        }
        self.worst_ns = self.worst_ns.max(late_ns);
        self.worst_ns.max(self.former_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_at_their_instant_in_order() {
        let mut due = TimerQueue::default();
        for (at_ns, id) in [(20, 1), (10, 2), (20, 0), (30, 3)] {
            due.push(at_ns, LinkId(id));
        }
        assert_eq!(due.next_ns(), Some(10));
        assert_eq!(due.pop(9), None);
        assert_eq!(due.pop(25), Some((10, vec![LinkId(2)])));
        let second = due.pop(25);
        assert_eq!(second, Some((20, vec![LinkId(1), LinkId(0)])));
        assert_eq!(due.pop(25), None);
        assert_eq!(due.next_ns(), Some(30));
        second.into_iter().for_each(|(_, list)| due.recycle(list));
        due.push(40, LinkId(4));
        assert_eq!((due.pop(40), due.pop(40)), (Some((30, vec![LinkId(3)])), Some((40, vec![LinkId(4)]))));
    }

    #[test]
    fn lateness_is_forgotten_after_two_windows_at_most() {
        const W: u64 = LATENESS_WINDOW_NS;
        let mut lateness = Lateness::default();
        for (now_ns, late_ns, worst_ns) in
            [(1, 900, 900), (W - 1, 5, 900), (W, 7, 900), (2 * W - 1, 3, 900), (2 * W, 1, 7), (4 * W, 2, 2)]
        {
            assert_eq!(lateness.worst(now_ns, late_ns), worst_ns, "at {now_ns}");
        }
    }
}
