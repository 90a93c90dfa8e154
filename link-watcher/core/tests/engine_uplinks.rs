//! The engine and a group of uplinks, in simulated time.

#![allow(clippy::unwrap_used)]

mod clock;

use link_watcher_core::{
    engine::Engine,
    event::{
        Action, Command, Device, Event, Failback, GroupId, GroupSpec, Health, LinkId, LinkSpec, LinkVerdict, Plan,
        StandingOrders, TransitionKind,
    },
};

use self::clock::Clocked;

const GROUP: GroupId = GroupId(7);
const S: u64 = 1_000_000_000;

struct World {
    engine: Engine,
    now_ns: u64,
    plan: Option<Plan>,
    told: Vec<TransitionKind>,
}

impl Clocked for World {
    fn parts(&mut self) -> (&mut Engine, &mut u64) {
        (&mut self.engine, &mut self.now_ns)
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Advertise { .. } => panic!("there is nobody to say anything to"),
            Action::Route { plan, .. } => self.plan = Some(plan),
            Action::Notify(transition) => self.told.push(transition.what),
        }
    }
}

impl World {
    /// Uplinks with these tiers and weights, of which nothing is known yet.
    fn new(uplinks: &[(u32, u32)], failback: Failback) -> Self {
        let mut engine = Engine::new(1);
        let link = |(id, (tier, weight)): (usize, &(u32, u32))| LinkSpec {
            id: LinkId(id as u32),
            name: format!("provider{id}"),
            tier: *tier,
            weight: *weight,
        };
        let spec = GroupSpec {
            id: GROUP,
            name: "wan".to_owned(),
            role: None,
            failback,
            hold_up_ns: 0,
            detection_ns: 0,
            dampening: false,
            links: uplinks.iter().enumerate().map(link).collect(),
            orders: StandingOrders::default(),
        };
        engine.handle(S, Event::Configure(vec![spec]));
        let mut world = Self { engine, now_ns: S, plan: None, told: Vec::new() };
        for id in 0..uplinks.len() {
            world.engine.handle(S, Event::Device { link: LinkId(id as u32), device: Device::Ready });
        }
        world.run_engine();
        world
    }

    fn probed(&mut self, link: u32, health: Health) {
        self.now_ns += S;
        let event = Event::Probed { link: LinkId(link), health, why: "it was said so".to_owned(), last_good_ns: 0 };
        self.engine.handle(self.now_ns, event);
        self.run_engine();
    }

    fn active(&self) -> Vec<(u32, u32)> {
        self.plan.iter().flat_map(|plan| &plan.active).map(|(link, weight)| (link.0, *weight)).collect()
    }

    fn verdict(&self, link: usize) -> LinkVerdict {
        self.engine.status(self.now_ns)[0].links[link].verdict
    }
}

#[test]
fn all_ways_through_all_combinations_of_three_in_tiers_1_1_2() {
    // From every combination one uplink changes at a time: all 8 × 3 steps, and back.
    for start in 0..8_u32 {
        for changed in 0..3_u32 {
            let mut world = World::new(&[(1, 5), (1, 3), (2, 2)], Failback::After(0));
            let health = |up| if up { Health::Up } else { Health::Down };
            (0..3).for_each(|link| world.probed(link, health(start & (1 << link) != 0)));
            let mut expected = Vec::new();
            for bits in [start, start ^ (1 << changed), start] {
                world.probed(changed, health(bits & (1 << changed) != 0));
                expected = match bits {
                    // With none left the last state stays.
                    0 => expected,
                    4 => vec![(2, 2)],
                    _ => [(0, 5), (1, 3)].into_iter().filter(|(link, _)| bits & (1 << link) != 0).collect(),
                };
                assert_eq!(world.active(), expected, "from {start:03b}, {changed} changes, at {bits:03b}");
            }
        }
    }
}

#[test]
fn tier_0_is_never_chosen_and_yet_usable() {
    let mut world = World::new(&[(0, 1), (1, 1)], Failback::After(0));
    world.probed(0, Health::Up);
    assert_eq!(world.active(), []);
    world.probed(1, Health::Up);
    assert_eq!(world.active(), [(1, 1)]);
    assert_eq!(world.plan.as_ref().unwrap().backups, [LinkId(0)]);
    world.probed(1, Health::Down);
    assert_eq!(world.active(), [(1, 1)], "the last state stays");
    assert_eq!(world.told.last(), Some(&TransitionKind::NoUsableLink));
    let refused = world.command(Command::Pin { group: GROUP, link: LinkId(0), force: true });
    assert!(refused.unwrap_err().contains("tier 0"));
}

#[test]
fn a_degraded_uplink_is_left_for_a_good_one_and_better_than_none() {
    let mut world = World::new(&[(1, 1), (2, 1)], Failback::After(10 * S));
    world.probed(0, Health::Up);
    world.probed(1, Health::Up);
    assert_eq!(world.active(), [(0, 1)]);
    world.probed(0, Health::Degraded);
    assert_eq!((world.active(), world.verdict(0)), (vec![(1, 1)], LinkVerdict::Degraded));
    world.probed(1, Health::Down);
    assert_eq!(world.active(), [(0, 1)], "badly is better than not at all");
    world.probed(1, Health::Up);
    assert_eq!(world.active(), [(1, 1)]);
    world.probed(0, Health::Up);
    assert_eq!(world.active(), [(1, 1)], "it must prove itself");
    world.pass(10 * S);
    assert_eq!(world.active(), [(0, 1)]);
}

#[test]
fn weights_change_at_run_time() {
    let mut world = World::new(&[(1, 1), (1, 1)], Failback::After(0));
    world.probed(0, Health::Up);
    world.probed(1, Health::Up);
    world.command(Command::Weight { link: LinkId(1), weight: Some(200) }).unwrap();
    assert_eq!(world.active(), [(0, 1), (1, 200)]);
    for weight in [0, 257] {
        assert!(
            world.command(Command::Weight { link: LinkId(1), weight: Some(weight) }).unwrap_err().contains("1 to 256")
        );
    }
    world.command(Command::Drain { link: LinkId(1), drained: true }).unwrap();
    assert_eq!(world.active(), [(0, 1)]);
    let refused = world.command(Command::Drain { link: LinkId(0), drained: true });
    assert!(refused.unwrap_err().contains("nothing would be left"));
}

#[test]
fn an_interface_that_comes_back_has_to_prove_itself() {
    let mut world = World::new(&[(1, 1), (1, 1)], Failback::After(0));
    world.probed(0, Health::Up);
    world.probed(1, Health::Up);
    for (device, verdict) in [
        (Device::Missing, LinkVerdict::Absent),
        (Device::NoAddress, LinkVerdict::Absent),
        (Device::NoGateway, LinkVerdict::Absent),
        (Device::NoCarrier, LinkVerdict::Down),
    ] {
        world.engine.handle(world.now_ns, Event::Device { link: LinkId(0), device });
        world.run_engine();
        assert_eq!((world.active(), world.verdict(0)), (vec![(1, 1)], verdict));
        world.engine.handle(world.now_ns, Event::Device { link: LinkId(0), device: Device::Ready });
        world.run_engine();
        assert_eq!(world.active(), [(1, 1)], "its probes have not risen again");
        world.probed(0, Health::Up);
        assert_eq!(world.active(), [(0, 1), (1, 1)]);
    }
}

#[test]
fn what_befalls_several_within_one_round_is_decided_once() {
    const ROUND_NS: u64 = 10 * S;
    let mut world = World::new(&[(1, 1), (1, 1), (1, 1)], Failback::After(0));
    (0..3).for_each(|link| world.probed(link, Health::Up));
    let all = vec![(0, 1), (1, 1), (2, 1)];
    assert_eq!(world.active(), all);
    // One falls while the others are about to: nothing moves on the way, in either direction.
    for health in [Health::Down, Health::Up] {
        for link in 0..3 {
            for other in link + 1..3 {
                let pending = Event::VerdictPending { link: LinkId(other), until_ns: world.now_ns + ROUND_NS };
                world.engine.handle(world.now_ns, pending);
            }
            world.now_ns += ROUND_NS / 4;
            world.probed(link, health);
            assert_eq!(world.active(), all, "{health:?} of {link}");
        }
    }
    // One that falls alone is left at the end of the round that the others might have lost.
    world.engine.handle(world.now_ns, Event::VerdictPending { link: LinkId(1), until_ns: world.now_ns + ROUND_NS });
    world.probed(0, Health::Down);
    assert_eq!(world.active(), all);
    assert_eq!(world.engine.next_deadline(), Some(world.now_ns - S + ROUND_NS));
    world.pass(ROUND_NS);
    assert_eq!(world.active(), [(1, 1), (2, 1)]);
    // And an order waits for nothing.
    world.probed(0, Health::Up);
    world.engine.handle(world.now_ns, Event::VerdictPending { link: LinkId(1), until_ns: world.now_ns + ROUND_NS });
    world.command(Command::Drain { link: LinkId(2), drained: true }).unwrap();
    assert_eq!(world.active(), [(0, 1), (1, 1)]);
}

#[test]
fn equally_bad_uplinks_share_in_whichever_order_they_became_so() {
    let mut world = World::new(&[(1, 1), (1, 1)], Failback::After(0));
    (0..2).for_each(|link| world.probed(link, Health::Up));
    world.probed(0, Health::Degraded);
    assert_eq!(world.active(), [(1, 1)]);
    world.probed(1, Health::Degraded);
    assert_eq!(world.active(), [(0, 1), (1, 1)]);
}

#[test]
fn what_an_earlier_run_left_stays_until_there_are_verdicts() {
    let mut world = World::new(&[(1, 1), (1, 1)], Failback::After(0));
    let mut fresh = World::new(&[(1, 1), (1, 1)], Failback::After(0));
    world.engine.handle(world.now_ns, Event::Adopted { group: GROUP, links: vec![LinkId(0), LinkId(1)] });
    world.run_engine();
    assert_eq!(world.active(), [(0, 1), (1, 1)]);
    world.probed(1, Health::Up);
    assert_eq!(world.active(), [(0, 1), (1, 1)], "the other has had no time to answer");
    world.probed(0, Health::Down);
    assert_eq!(world.active(), [(1, 1)]);
    fresh.probed(1, Health::Up);
    assert_eq!(fresh.active(), [(1, 1)]);
}
