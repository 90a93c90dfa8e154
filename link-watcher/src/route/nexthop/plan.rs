//! Pure: who is in a group, and with which weight.
//!
//! **The last member stands by.** Beside the active links a group has one more with the least weight there is, so
//! little that it gets none of the buckets ([`members`]), and so no packet. But when the active links lose their carrier,
//! the kernel takes them out of the group and gives the buckets to whoever is left: the router survives that even when the
//! daemon is dead. Without such a member the group would go, and every route with it.

use crate::netlink::Member;

/// Weight of the active link with the greatest share.
const HEAVIEST: u32 = 256;
/// Weight of a member that stands by: 1/257 of all at most, which is less than half a bucket.
const STANDS_BY: u32 = 1;

/// The members of a group in canonical order: the active ones with their weights, then the one that stands by. The
/// kernel hands buckets out by rounded running sums, so that only the first and the last of all can be sure to get none.
pub(super) fn members(active: &[(u32, u32)], stands_by: Option<u32>) -> Vec<Member> {
    let greatest = active.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
    let scaled = |weight: u32| ((weight * HEAVIEST + greatest / 2) / greatest).max(1);
    let mut members: Vec<Member> = active.iter().map(|&(id, weight)| Member { id, weight: scaled(weight) }).collect();
    members.sort_unstable_by_key(|member| member.id);
    members.dedup_by_key(|member| member.id);
    members.extend(stands_by.map(|id| Member { id, weight: STANDS_BY }));
    members
}

/// Whether a member of this group may have traffic. One that does must leave the group for its traffic to move at once;
/// while it stays, the kernel leaves it everything that is not idle.
pub(super) fn carries(members: &[Member], id: u32) -> bool {
    // Where the kernel has taken the active ones out, the last one has it all.
    let abandoned = members.iter().all(|member| member.weight == STANDS_BY);
    members.iter().any(|member| member.id == id && (member.weight > STANDS_BY || abandoned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nexthop::BUCKETS;

    /// Buckets that each member gets, as `nh_res_group_rebalance` (net/ipv4/nexthop.c) counts them.
    fn buckets(members: &[Member]) -> Vec<u32> {
        let total: u32 = members.iter().map(|member| member.weight).sum();
        let (mut sum, mut before) = (0, 0);
        let share = |member: &Member| {
            sum += member.weight;
            let bound = (u32::from(BUCKETS) * sum + total / 2) / total;
            bound - std::mem::replace(&mut before, bound)
        };
        members.iter().map(share).collect()
    }

    #[test]
    fn the_one_that_stands_by_gets_nothing_whatever_the_weights() {
        for first in 1..=256 {
            for second in (1..=256).step_by(5) {
                let both = buckets(&members(&[(2, first), (3, second)], Some(4)));
                assert_eq!(both[2], 0, "{first}:{second}");
                assert_eq!(both.iter().sum::<u32>(), 128);
                let wanted = 128.0 * f64::from(first) / f64::from(first + second);
                // 0.9 points.
                assert!((f64::from(both[0]) - wanted).abs() < 1.2, "{first}:{second} gives {both:?}");
            }
            assert_eq!(buckets(&members(&[(2, first)], Some(4))), [128, 0]);
        }
    }

    #[test]
    fn the_order_is_that_of_the_ids_and_the_last_stands_by() {
        let order = |active: &[(u32, u32)], stands_by| {
            members(active, stands_by).iter().map(|member| (member.id, member.weight)).collect::<Vec<_>>()
        };
        assert_eq!(order(&[(9, 1), (4, 3), (7, 2)], Some(5)), [(4, 256), (7, 171), (9, 85), (5, 1)]);
        assert_eq!(order(&[(4, 1)], None), [(4, 256)]);
    }

    #[test]
    fn who_is_left_alone_has_everything() {
        let pair = members(&[(4, 1)], Some(5));
        assert_eq!((carries(&pair, 4), carries(&pair, 5), carries(&pair, 6)), (true, false, false));
        assert!(carries(&pair[1..], 5));
    }
}
