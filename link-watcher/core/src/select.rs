//! From usable links to active ones. No time in here, no state: the same question always has the same answer.

use crate::event::LinkId;

/// A link, as far as the choice depends on it. The slice given to [`choose`] is in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: LinkId,
    /// Its tier, the lowest first.
    pub tier: u32,
    /// Traffic may use it.
    pub usable: bool,
    /// An operator, here or there, has taken it out of service.
    pub drained: bool,
    /// It is good, though it must go on being so for a while.
    pub holds: bool,
    /// It answers, though not well enough, or it flaps: better than nothing.
    pub answers: bool,
    /// No verdict yet: it may turn out usable any moment.
    pub undecided: bool,
    /// It has been usable long enough to take traffic back.
    pub may_take_back: bool,
}

/// What is chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The links that carry the traffic.
    pub active: Vec<LinkId>,
    /// Why, for the operator.
    pub reason: &'static str,
}

/// The rule: the lowest tier that has a usable link is active. What is active stays while it works, until a better
/// tier may take the traffic back; with nothing usable, what answers is better than nothing, and else everything stays.
pub fn choose(links: &[Candidate], current: &[LinkId], pinned: Option<LinkId>, failover: bool) -> Choice {
    let of = |id: LinkId| links.iter().find(|link| link.id == id);
    let choice = |active: Vec<LinkId>, reason| Choice { active, reason };
    let pinned = pinned.and_then(of);
    if let Some(link) = pinned
        && (link.usable || (!failover && !link.drained))
    {
        return choice(vec![link.id], "pinned by hand");
    }
    let current: Vec<&Candidate> = current.iter().filter_map(|id| of(*id)).collect();
    let stay = |reason| choice(current.iter().map(|link| link.id).collect(), reason);
    // To take a link out of service is an order, and no failover.
    let in_service: Vec<LinkId> = current.iter().filter(|link| !link.drained).map(|link| link.id).collect();
    if !failover && !in_service.is_empty() {
        return choice(in_service, "automatic failover is off");
    }
    // At the start nobody looks for another one before it is known how the pinned one is.
    if current.is_empty() && pinned.is_some_and(|link| link.undecided) {
        return stay("waiting for the verdict on the pinned link");
    }
    // What carries traffic already, after a restart, gets the time to show that it works; and where all had failed, what is back
    // does not leave because another was the first to have held for long enough.
    let carries =
        |link: &Candidate| (link.undecided || link.holds) && current.iter().any(|carrying| carrying.id == link.id);
    let in_tier = |tier: u32| -> Vec<LinkId> {
        let chosen = links.iter().filter(|link| link.tier == tier && (link.usable || carries(link)));
        chosen.map(|link| link.id).collect()
    };
    let lowest = |test: &dyn Fn(&Candidate) -> bool| links.iter().filter(|link| test(link)).map(|link| link.tier).min();
    let best = lowest(&|link| link.usable);
    let current_tier = current.iter().filter(|link| link.usable).map(|link| link.tier).min();
    if let Some(tier) = current_tier {
        let better = lowest(&|link| link.usable && link.may_take_back && link.tier < tier);
        return match better {
            Some(better) => choice(in_tier(better), "lowest tier with a usable link"),
            None if best.is_some_and(|best| best < tier) => {
                choice(in_tier(tier), "a better tier is usable, but has not proved itself for the failback time yet")
            }
            None => choice(in_tier(tier), "lowest tier with a usable link"),
        };
    }
    if current.iter().any(|link| link.undecided) {
        return stay("taken over from before the start, no verdict yet");
    }
    if let Some(best) = best {
        // At the start a better link may be about to answer. Losing the active link, nobody waits for that.
        if current.is_empty() && links.iter().any(|link| link.undecided && link.tier < best) {
            return stay("waiting for the verdict on a better link");
        }
        return choice(in_tier(best), "lowest tier with a usable link");
    }
    if let Some(tier) = lowest(&|link| link.holds) {
        // Between two that both still hold nothing moves.
        let still: Vec<LinkId> = current.iter().filter(|link| link.holds).map(|link| link.id).collect();
        if !still.is_empty() {
            return choice(still, "nothing else answers");
        }
        let holding = links.iter().filter(|link| link.holds && link.tier == tier).map(|link| link.id).collect();
        return choice(holding, "the only link that answers");
    }
    // Equally bad ones share, whichever was the first to be so.
    if let Some(tier) = lowest(&|link| link.answers) {
        let answering = links.iter().filter(|link| link.answers && link.tier == tier).map(|link| link.id).collect();
        return choice(answering, "no link is good: those of the lowest tier that answer at all");
    }
    stay(if current.is_empty() { "no usable link" } else { "no usable link: the routes stay where they were" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(id: u32, tier: u32, usable: bool) -> Candidate {
        Candidate {
            id: LinkId(id),
            tier,
            usable,
            holds: usable,
            answers: usable,
            drained: false,
            undecided: false,
            may_take_back: usable,
        }
    }

    fn chosen(links: &[Candidate], current: &[u32], pinned: Option<u32>, failover: bool) -> Vec<u32> {
        let current: Vec<LinkId> = current.iter().map(|id| LinkId(*id)).collect();
        choose(links, &current, pinned.map(LinkId), failover).active.iter().map(|id| id.0).collect()
    }

    #[test]
    fn every_combination_of_three_links_in_tiers_1_1_2() {
        for bits in 0..8_u32 {
            let links = [link(0, 1, bits & 1 != 0), link(1, 1, bits & 2 != 0), link(2, 2, bits & 4 != 0)];
            let expected: Vec<u32> = match bits & 3 {
                0 if bits & 4 != 0 => vec![2],
                0 => vec![],
                1 => vec![0],
                2 => vec![1],
                _ => vec![0, 1],
            };
            assert_eq!(chosen(&links, &[], None, true), expected, "{bits:03b}");
            // From whatever was active before: the same, or what was active where nothing is usable.
            for current in 0..3 {
                let expected = if bits == 0 { vec![current] } else { expected.clone() };
                assert_eq!(chosen(&links, &[current], None, true), expected, "{bits:03b} from {current}");
            }
        }
    }

    #[test]
    fn a_better_tier_waits_for_its_time() {
        let mut links = [link(0, 1, true), link(1, 2, true)];
        links[0].may_take_back = false;
        assert_eq!(chosen(&links, &[1], None, true), [1]);
        links[0].may_take_back = true;
        assert_eq!(chosen(&links, &[1], None, true), [0]);
    }

    #[test]
    fn a_pin_holds_while_its_link_works_and_without_failover_always() {
        let links = [link(0, 1, true), link(1, 2, true), link(2, 3, false)];
        assert_eq!(chosen(&links, &[0], Some(1), true), [1]);
        assert_eq!(chosen(&links, &[0], Some(2), true), [0]);
        assert_eq!(chosen(&links, &[0], Some(2), false), [2]);
    }

    #[test]
    fn without_failover_nothing_moves() {
        let links = [link(0, 1, false), link(1, 2, true)];
        assert_eq!(chosen(&links, &[0], None, false), [0]);
        assert_eq!(chosen(&links, &[], None, false), [1], "but it starts");
    }

    #[test]
    fn what_is_drained_is_left_also_without_failover() {
        let mut links = [link(0, 1, true), link(1, 2, true), link(2, 1, true)];
        (links[0].usable, links[0].holds, links[0].answers, links[0].drained) = (false, false, false, true);
        assert_eq!(chosen(&links, &[0], None, false), [2], "the best of the others");
        assert_eq!(chosen(&links, &[0, 2], None, false), [2]);
        assert_eq!(chosen(&links, &[1], None, false), [1], "it is not what carries the traffic");
        assert_eq!(chosen(&links, &[0], Some(0), false), [2], "nor does a pin hold it");
        let alone = [links[0], link(1, 2, false)];
        assert_eq!(chosen(&alone, &[0], None, false), [0], "with nothing else it stays");
    }

    #[test]
    fn the_start_waits_for_the_pinned_link() {
        let mut links = [link(0, 1, true), link(1, 2, false)];
        links[1].undecided = true;
        assert_eq!(chosen(&links, &[], Some(1), true), Vec::<u32>::new());
        assert_eq!(chosen(&links, &[0], Some(1), true), [0], "what carries traffic goes on");
        links[1].undecided = false;
        assert_eq!(chosen(&links, &[], Some(1), true), [0], "a dead one is not waited for");
    }

    #[test]
    fn the_last_resort_is_a_link_that_still_holds() {
        let mut links = [link(0, 1, false), link(1, 2, false)];
        links[1].holds = true;
        assert_eq!(chosen(&links, &[0], None, true), [1]);
        links[0].holds = true;
        assert_eq!(chosen(&links, &[1], None, true), [1], "no move between two that both still hold");
        links[1].holds = false;
        assert_eq!(chosen(&links, &[0, 1], None, true), [0], "a dead one is left, though the other still holds");
    }

    #[test]
    fn what_carries_and_holds_stays_beside_the_first_of_its_tier_that_is_usable_again() {
        let mut links = [link(0, 1, true), link(1, 1, false), link(2, 1, false)];
        links[1].holds = true;
        assert_eq!(chosen(&links, &[0, 1], None, true), [0, 1]);
        assert_eq!(chosen(&links, &[0], None, true), [0], "one that was left must hold first");
        assert_eq!(chosen(&links, &[0, 1, 2], None, true), [0, 1], "a dead one is left");
    }

    #[test]
    fn equally_bad_links_of_the_lowest_tier_share_and_a_good_one_goes_before() {
        let bad = |id, tier| Candidate { answers: true, ..link(id, tier, false) };
        let mut links = [bad(0, 1), bad(1, 1), bad(2, 2)];
        assert_eq!(chosen(&links, &[0, 1], None, true), [0, 1]);
        assert_eq!(chosen(&links, &[1], None, true), [0, 1], "also when one was the first to be bad");
        assert_eq!(chosen(&links, &[2], None, true), [0, 1]);
        links[2].holds = true;
        assert_eq!(chosen(&links, &[0, 1], None, true), [2], "one that only must hold is better than a bad one");
    }

    #[test]
    fn the_start_waits_for_better_links_but_a_failure_does_not() {
        let mut links = [link(0, 1, false), link(1, 2, true)];
        links[0].undecided = true;
        assert_eq!(chosen(&links, &[], None, true), Vec::<u32>::new());
        assert_eq!(chosen(&links, &[1], None, true), [1]);
        let third = [links[0], link(1, 2, false), link(2, 3, true)];
        assert_eq!(chosen(&third, &[1], None, true), [2]);
    }
}
