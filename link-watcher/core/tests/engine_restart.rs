//! A peer says that it stops for a moment, and nobody answers for it meanwhile.

#![allow(clippy::unwrap_used)]

mod clock;

use link_watcher_core::{
    engine::Engine,
    event::{
        Action, Event, Failback, GroupId, GroupSpec, LinkId, LinkSpec, Plan, RemoteState, Role, StandingOrders,
        TransitionKind,
    },
};

use self::clock::Clocked;

const GROUP: GroupId = GroupId(3);
const S: u64 = 1_000_000_000;
const A: LinkId = LinkId(0);
const B: LinkId = LinkId(1);
/// Silence for longer than this means that a link is down.
const DETECTION: u64 = S / 10;
/// For so long a stop that was announced is waited for.
const HELD: u64 = 30 * S;

struct World {
    engine: Engine,
    now_ns: u64,
    plan: Option<Plan>,
    /// What was told of links that went down, and when.
    downs: Vec<(LinkId, u64)>,
}

impl Clocked for World {
    fn parts(&mut self) -> (&mut Engine, &mut u64) {
        (&mut self.engine, &mut self.now_ns)
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Route { plan, .. } => self.plan = Some(plan),
            Action::Notify(told) if told.what == TransitionKind::LinkDown => {
                self.downs.push((told.link.unwrap(), self.now_ns))
            }
            Action::Notify(_) | Action::Advertise { .. } => {}
        }
    }
}

impl World {
    /// Links a and b, both up, a active.
    fn new() -> Self {
        let link =
            |(id, name): (u32, &str)| LinkSpec { id: LinkId(id), name: name.to_owned(), tier: id + 1, weight: 1 };
        let spec = GroupSpec {
            id: GROUP,
            name: "hq".to_owned(),
            role: Some(Role::Client),
            failback: Failback::After(S),
            hold_up_ns: 3 * S,
            detection_ns: DETECTION,
            dampening: false,
            links: [(0, "a"), (1, "b")].map(link).into(),
            orders: StandingOrders::default(),
        };
        let mut engine = Engine::new(1);
        engine.handle(S, Event::Configure(vec![spec]));
        let mut world = Self { engine, now_ns: S, plan: None, downs: Vec::new() };
        world.says(9, false, 0);
        [A, B].into_iter().for_each(|link| world.event(Event::Alive { link }));
        world.pass(5 * S);
        assert_eq!(world.active(), [A]);
        world
    }

    /// The peer's daemon of this instance says on both links whether it stops, or its kernel for how long it has been silent.
    fn says(&mut self, instance: u32, restarting: bool, silence_seconds: u8) {
        for link in [A, B] {
            let remote = RemoteState {
                instance,
                session: instance,
                hears: true,
                restarting,
                silence_seconds,
                ..RemoteState::default()
            };
            self.event(Event::RemoteState { link, state: remote });
        }
    }

    fn silent(&mut self, link: LinkId) {
        self.event(Event::Silent { link, last_good_ns: self.now_ns - DETECTION });
    }

    fn active(&self) -> Vec<LinkId> {
        self.plan.iter().flat_map(|plan| &plan.active).map(|(link, _)| *link).collect()
    }

    fn all_down(&self) -> bool {
        self.plan.as_ref().unwrap().all_down
    }
}

#[test]
fn the_silence_of_a_peer_that_stops_is_no_dead_path() {
    // One behind the other, in either order.
    for (first, second) in [(A, B), (B, A)] {
        let mut world = World::new();
        world.says(9, true, 0);
        world.pass(DETECTION);
        world.silent(first);
        world.pass(DETECTION / 2);
        world.silent(second);
        world.pass(5 * S);
        assert_eq!((world.active(), world.all_down(), world.downs.len()), (vec![A], false, 0));
        // It is back, and answers on both.
        world.says(10, false, 0);
        [A, B].into_iter().for_each(|link| world.event(Event::Alive { link }));
        world.pass(60 * S);
        assert_eq!((world.active(), world.all_down(), world.downs.len()), (vec![A], false, 0));
        // From then on silence is judged as ever.
        world.silent(A);
        assert_eq!(world.active(), [B]);
    }
}

#[test]
fn a_peer_that_stays_away_is_silent_after_the_time_it_may_take() {
    let mut world = World::new();
    let said_ns = world.now_ns;
    world.says(9, true, 0);
    world.pass(DETECTION);
    [A, B].into_iter().for_each(|link| world.silent(link));
    world.pass(HELD - 2 * DETECTION);
    assert!(!world.all_down());
    world.pass(2 * DETECTION);
    assert!(world.all_down());
    assert_eq!(world.downs, [(A, said_ns + HELD), (B, said_ns + HELD)]);
}

#[test]
fn a_link_that_does_not_come_back_with_the_others_is_dead() {
    let mut world = World::new();
    world.says(9, true, 0);
    world.pass(DETECTION);
    [A, B].into_iter().for_each(|link| world.silent(link));
    world.pass(S);
    world.says(10, false, 0);
    world.event(Event::Alive { link: B });
    assert_eq!(world.active(), [A]);
    world.pass(2 * DETECTION);
    assert_eq!((world.active(), world.downs.len()), (vec![B], 1));
}

#[test]
fn where_the_kernel_answers_for_the_peer_a_silent_path_is_a_dead_one() {
    let mut world = World::new();
    world.says(9, true, 0);
    // In the first second it is not known yet; a link that goes on answering shows it.
    world.silent(A);
    assert_eq!(world.active(), [A]);
    world.pass(DETECTION);
    assert_eq!(world.active(), [B]);
    // Later it is said.
    let mut world = World::new();
    world.says(9, true, 0);
    world.pass(S);
    world.says(9, true, 1);
    world.silent(A);
    assert_eq!(world.active(), [B]);
}
