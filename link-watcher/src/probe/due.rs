//! Which link wants attention when.

use std::collections::BTreeMap;

use crate::event::LinkId;

/// Emptied lists that are kept for the next instants.
const MAX_SPARE: usize = 64;

/// Links by the instant at which they are due. Links of one interval and phase share their instants, so there are few of
/// them, and what a link costs does not grow with the number of links.
#[derive(Default)]
pub(super) struct Due {
    instants: BTreeMap<u64, Vec<LinkId>>,
    /// So that in service nothing is allocated.
    spare: Vec<Vec<LinkId>>,
}

impl Due {
    pub(super) fn push(&mut self, at_ns: u64, id: LinkId) {
        let Self { instants, spare } = self;
        instants.entry(at_ns).or_insert_with(|| spare.pop().unwrap_or_default()).push(id);
    }

    /// The earliest instant that is not after `now_ns`, and its links; to be given back by [`Due::recycle`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_at_their_instant_in_order() {
        let mut due = Due::default();
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
}
