//! Whose connections are to be released, and when.
//!
//! Connections of a dead uplink are released as soon as another one takes them. Where all were dead, it may have been the targets,
//! or the way to all of them: then the others get a round of their own to answer as well, after the first one does.

use std::collections::BTreeSet;

use super::Decision;
use crate::event::LinkId;

/// What becomes of the connections of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// They are to be released, as soon as another uplink takes them.
    Released,
    /// They stay, also where it was meant to release them.
    Kept,
    /// What was meant for them holds.
    AsBefore,
}

/// What becomes of the connections of an uplink where `now` comes after `before`. `moves`: they follow new ones.
fn fate(before: &Decision, now: &Decision, link: LinkId, moves: bool) -> Fate {
    let died = now.dead.contains(&link) && !before.dead.contains(&link);
    let left = before.weight(link) > 0 && now.weight(link) == 0;
    // Its connections work again, though it may have to hold before new ones use it.
    let revived = before.dead.contains(&link) && !now.dead.contains(&link);
    // One that carries new connections for want of another, and lives again, is not usable before its hold-up is over.
    let carries = now.usable.contains(&link) || (now.weight(link) > 0 && !now.dead.contains(&link));
    if died || (left && moves) {
        Fate::Released
    } else if revived || (carries && !left) {
        Fate::Kept
    } else {
        Fate::AsBefore
    }
}

/// Whether a living uplink could take connections that are released; without one they are better left alone.
fn can_take(decision: &Decision) -> bool {
    decision.active.iter().any(|(link, _)| !decision.dead.contains(link))
}

/// Whether an uplink's connections are released where `now` comes after `before`.
pub(super) fn follows(before: &Decision, now: &Decision, link: LinkId, moves: bool) -> bool {
    can_take(now) && fate(before, now, link, moves) == Fate::Released
}

/// The uplinks of a group whose connections are to be released.
#[derive(Clone, Debug, Default)]
pub(super) struct Releases {
    links: BTreeSet<LinkId>,
    /// Since when a living uplink takes connections after a time when none did, monotonic ns; 0: there was no such time; nothing:
    /// none does.
    taken_since_ns: Option<u64>,
}

impl Releases {
    /// Takes in what was decided about the group of `links`.
    pub(super) fn decided(&mut self, now_ns: u64, before: &Decision, now: &Decision, links: &[LinkId], moves: bool) {
        for link in links {
            match fate(before, now, *link, moves) {
                Fate::Released => drop(self.links.insert(*link)),
                // It came back before anything else could take its connections.
                Fate::Kept => drop(self.links.remove(link)),
                Fate::AsBefore => {}
            }
        }
        let nobody_took = !can_take(before) && !before.dead.is_empty();
        let since_ns = self.taken_since_ns.unwrap_or(if nobody_took { now_ns } else { 0 });
        self.taken_since_ns = can_take(now).then_some(since_ns);
    }

    /// Takes out those whose time has come. `round_ns`: from the begin of one of its rounds to the end of the next.
    pub(super) fn due(&mut self, now_ns: u64, round_ns: impl Fn(LinkId) -> u64) -> Vec<LinkId> {
        let Some(since_ns) = self.taken_since_ns else { return Vec::new() };
        let is_due = |link: &LinkId| since_ns == 0 || now_ns >= since_ns + round_ns(*link);
        let (due, later): (BTreeSet<_>, _) = std::mem::take(&mut self.links).into_iter().partition(is_due);
        self.links = later;
        due.into_iter().collect()
    }

    /// When to ask [`Releases::due`] again, monotonic ns; nothing: not before the next decision.
    pub(super) fn deadline_ns(&self, round_ns: impl Fn(LinkId) -> u64) -> Option<u64> {
        let since_ns = self.taken_since_ns?;
        self.links.iter().map(|link| since_ns + round_ns(*link)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::GroupId;

    const ONLY: LinkId = LinkId(1);
    const OTHER: LinkId = LinkId(2);
    const ROUND_NS: u64 = 100;

    fn decision(active: LinkId, usable: &[LinkId], dead: &[LinkId]) -> Decision {
        let active = vec![(active, 1)];
        Decision { group: GroupId(1), active, usable: usable.to_vec(), dead: dead.to_vec(), drained: Vec::new() }
    }

    /// It dies, has no substitute, and lives again: first in its hold-up, then usable.
    #[test]
    fn who_lives_again_without_a_substitute_keeps_its_connections_from_the_first_moment() {
        let well = decision(ONLY, &[ONLY], &[]);
        let dead = decision(ONLY, &[], &[ONLY]);
        let held = decision(ONLY, &[], &[]);
        assert_eq!(fate(&well, &dead, ONLY, false), Fate::Released);
        assert!(!can_take(&dead), "to nobody yet");
        assert_eq!(fate(&dead, &held, ONLY, false), Fate::Kept);
        assert_eq!(fate(&held, &well, ONLY, false), Fate::Kept);
        let substituted = decision(OTHER, &[OTHER], &[ONLY]);
        assert_eq!(fate(&dead, &substituted, ONLY, false), Fate::AsBefore, "what was meant for them is due");
        assert!(can_take(&substituted));
    }

    /// A group of two, and what was decided about it, each with its time.
    fn after(decisions: &[(u64, Decision)]) -> Releases {
        let mut releases = Releases::default();
        let nothing = Decision { active: Vec::new(), ..decision(ONLY, &[], &[]) };
        let mut before = &nothing;
        for (now_ns, now) in decisions {
            releases.decided(*now_ns, before, now, &[ONLY, OTHER], false);
            before = now;
        }
        releases
    }

    fn due(releases: &mut Releases, now_ns: u64) -> Vec<LinkId> {
        releases.due(now_ns, |_| ROUND_NS)
    }

    #[test]
    fn one_that_dies_while_another_lives_is_released_at_once() {
        let well = decision(ONLY, &[ONLY, OTHER], &[]);
        let mut releases = after(&[(1_000, well), (1_010, decision(OTHER, &[OTHER], &[ONLY]))]);
        assert_eq!(due(&mut releases, 1_010), [ONLY]);
        assert_eq!(due(&mut releases, 2_000), []);
        assert_eq!(releases.deadline_ns(|_| ROUND_NS), None);
    }

    #[test]
    fn after_a_common_silence_each_gets_a_round_to_answer_before_its_connections_are_released() {
        let story = [
            (1_000, decision(ONLY, &[ONLY, OTHER], &[])),
            (1_500, decision(ONLY, &[], &[ONLY, OTHER])),
            (2_000, decision(OTHER, &[OTHER], &[ONLY])),
        ];
        let mut silent = after(&story[..2]);
        assert_eq!(due(&mut silent, 9_000), [], "nobody could take them");
        let mut first = after(&story);
        assert_eq!(first.deadline_ns(|_| ROUND_NS), Some(2_100));
        assert_eq!(due(&mut first, 2_099), []);
        let mut both = first.clone();
        assert_eq!(due(&mut first, 2_100), [ONLY], "its round is over");

        both.decided(2_050, &story[2].1, &story[0].1, &[ONLY, OTHER], false);
        assert_eq!(due(&mut both, 9_000), [], "it has answered, too");
        both.decided(9_000, &story[0].1, &story[2].1, &[ONLY, OTHER], false);
        assert_eq!(due(&mut both, 9_100), [ONLY], "that time is over");
    }
}
