//! A peer's links in simulated time: what a group does with links that never come to a verdict.

#![allow(clippy::unwrap_used)]

mod clock;

use link_watcher_core::{
    engine::Engine,
    event::{
        Action, Device, Event, Failback, GroupId, GroupSpec, LinkId, LinkSpec, Plan, RemoteState, Role, StandingOrders,
    },
};

use self::clock::Clocked;

const MS: u64 = 1_000_000;
const DETECTION_NS: u64 = 300 * MS;
const START_NS: u64 = 1_000 * MS;
const A: LinkId = LinkId(0);
const B: LinkId = LinkId(1);

struct World {
    engine: Engine,
    now_ns: u64,
    plan: Option<Plan>,
}

impl Clocked for World {
    fn parts(&mut self) -> (&mut Engine, &mut u64) {
        (&mut self.engine, &mut self.now_ns)
    }

    fn carry_out(&mut self, action: Action) {
        if let Action::Route { plan, .. } = action {
            self.plan = Some(plan);
        }
    }
}

impl World {
    /// A client with two links, a before b, with their interfaces.
    fn new() -> Self {
        Self::of(Role::Client)
    }

    fn of(role: Role) -> Self {
        let link =
            |(id, name): (u32, &str)| LinkSpec { id: LinkId(id), name: name.to_owned(), tier: id + 1, weight: 1 };
        let spec = GroupSpec {
            id: GroupId(0),
            name: "hq".to_owned(),
            role: Some(role),
            failback: Failback::After(30_000 * MS),
            hold_up_ns: 3_000 * MS,
            detection_ns: DETECTION_NS,
            dampening: false,
            links: [(0, "a"), (1, "b")].map(link).into(),
            orders: StandingOrders::default(),
        };
        let mut world = Self { engine: Engine::new(1), now_ns: START_NS, plan: None };
        world.event(Event::Configure(vec![spec]));
        for link in [A, B] {
            world.event(Event::Device { link, device: Device::Ready });
        }
        world
    }

    /// The peer answers on a link, and hears us there.
    fn alive(&mut self, link: LinkId) {
        self.event(Event::Alive { link });
        let remote = RemoteState { instance: 7, hears: true, ..RemoteState::default() };
        self.event(Event::RemoteState { link, state: remote });
    }

    fn active(&self) -> Vec<LinkId> {
        self.plan.iter().flat_map(|plan| &plan.active).map(|(link, _)| *link).collect()
    }
}

#[test]
fn a_better_link_that_never_comes_to_a_verdict_is_waited_for_twice_the_detection_time_at_most() {
    let mut world = World::new();
    world.pass_until(START_NS + 50 * MS);
    world.alive(B);
    assert_eq!(world.active(), [], "a may answer any moment");
    world.pass_until(START_NS + 2 * DETECTION_NS - 1);
    assert_eq!(world.active(), []);
    world.pass_until(START_NS + 2 * DETECTION_NS);
    assert_eq!(world.active(), [B]);
}

#[test]
fn a_link_that_carries_since_before_the_start_and_never_comes_to_a_verdict_is_left_for_one_that_works() {
    let mut world = World::new();
    world.engine.handle(world.now_ns, Event::Adopted { group: GroupId(0), links: vec![A] });
    world.run_engine();
    world.alive(B);
    assert_eq!(world.active(), [A], "it gets the time to show that it works");
    world.pass_until(START_NS + 2 * DETECTION_NS);
    assert_eq!(world.active(), [B]);
}

#[test]
fn a_server_too_waits_for_a_better_link_that_may_answer_any_moment() {
    let mut world = World::of(Role::Server);
    world.event(Event::Alive { link: B });
    let remote = RemoteState { instance: 7, hears: true, rank: 1, ..RemoteState::default() };
    world.event(Event::RemoteState { link: B, state: remote });
    assert_eq!(world.active(), [], "a may answer any moment, and its client waits for it as well");
    world.pass_until(START_NS + 2 * DETECTION_NS);
    assert_eq!(world.active(), [B]);
}
