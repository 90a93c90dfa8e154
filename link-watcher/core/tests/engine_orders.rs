//! What an operator orders, in simulated time: it stands over new configurations and new runs, and what he is told is so.

#![allow(clippy::unwrap_used)]

mod clock;

use link_watcher_core::{
    engine::{Engine, LinkStatus},
    event::{
        Action, Command, Event, Failback, GroupId, GroupSpec, Health, LinkId, LinkSpec, Plan, RemoteState, Role,
        StandingOrders,
    },
};

use self::clock::Clocked;

const GROUP: GroupId = GroupId(3);
const S: u64 = 1_000_000_000;
const A: LinkId = LinkId(0);
const B: LinkId = LinkId(1);
const C: LinkId = LinkId(2);

fn spec(role: Option<Role>, failback: Failback, orders: StandingOrders) -> GroupSpec {
    let link = |(id, name): (u32, &str)| LinkSpec { id: LinkId(id), name: name.to_owned(), tier: id + 1, weight: 1 };
    GroupSpec {
        id: GROUP,
        name: "hq".to_owned(),
        role,
        failback,
        hold_up_ns: 3 * S,
        detection_ns: S,
        dampening: false,
        links: [(0, "a"), (1, "b"), (2, "c")].map(link).into(),
        orders,
    }
}

struct World {
    engine: Engine,
    now_ns: u64,
    failback: Failback,
    role: Option<Role>,
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
    /// Links a, b and c, one a tier, of which nothing is known.
    fn new(role: Option<Role>, failback: Failback, orders: StandingOrders) -> Self {
        let mut engine = Engine::new(1);
        engine.handle(S, Event::Configure(vec![spec(role, failback, orders)]));
        let mut world = Self { engine, now_ns: S, failback, role, plan: None };
        world.run_engine();
        world
    }

    /// The same, all up and a active.
    fn up(failback: Failback) -> Self {
        let mut world = Self::new(None, failback, StandingOrders::default());
        [A, B, C].into_iter().for_each(|link| world.probed(link, Health::Up));
        assert_eq!(world.active(), [A]);
        world
    }

    fn probed(&mut self, link: LinkId, health: Health) {
        self.event(Event::Probed { link, health, why: "nobody answers".to_owned(), last_good_ns: 0 });
    }

    fn peer(&mut self, link: LinkId, remote: RemoteState) {
        self.event(Event::RemoteState { link, state: RemoteState { instance: 9, ..remote } });
    }

    fn configure(&mut self, orders: StandingOrders) {
        self.event(Event::Configure(vec![spec(self.role, self.failback, orders)]));
    }

    fn active(&self) -> Vec<LinkId> {
        self.plan.iter().flat_map(|plan| &plan.active).map(|(link, _)| *link).collect()
    }

    fn link(&self, link: LinkId) -> LinkStatus {
        self.engine.status(self.now_ns)[0].links[link.0 as usize].clone()
    }
}

const fn pin(link: LinkId, force: bool) -> Command {
    Command::Pin { group: GROUP, link, force }
}

const fn drain(link: LinkId, drained: bool) -> Command {
    Command::Drain { link, drained }
}

const fn failover(on: bool) -> Command {
    Command::Failover { group: GROUP, on }
}

#[test]
fn orders_of_an_earlier_run_stand_before_the_first_decision() {
    let orders = StandingOrders { drained: [A].into(), weights: [(B, 7)].into(), ..StandingOrders::default() };
    let mut world = World::new(None, Failback::After(0), orders);
    [A, B].into_iter().for_each(|link| world.probed(link, Health::Up));
    assert_eq!(world.plan.as_ref().unwrap().active, [(B, 7)]);
    assert!(world.link(A).drained && !world.link(A).usable);
    world.command(drain(A, false)).unwrap();
    assert_eq!(world.active(), [A]);

    let pinned = StandingOrders { pinned: Some(C), ..StandingOrders::default() };
    let mut world = World::new(None, Failback::After(0), pinned.clone());
    world.probed(A, Health::Up);
    assert_eq!(world.active(), [], "the pinned link may answer any moment");
    world.probed(C, Health::Up);
    assert_eq!(world.active(), [C]);
    let mut world = World::new(None, Failback::After(0), pinned);
    world.probed(C, Health::Down);
    world.probed(A, Health::Up);
    assert_eq!(world.active(), [A], "a pin to a dead link cuts nobody off");

    let off = StandingOrders { failover_off: true, ..StandingOrders::default() };
    let mut world = World::new(None, Failback::After(0), off);
    world.event(Event::Adopted { group: GROUP, links: vec![B] });
    [A, B].into_iter().for_each(|link| world.probed(link, Health::Up));
    world.probed(B, Health::Down);
    assert_eq!(world.active(), [B]);
}

#[test]
fn a_new_configuration_brings_the_orders_that_stand_and_takes_back_the_others() {
    let mut world = World::up(Failback::After(0));
    let orders = StandingOrders { drained: [A].into(), pinned: Some(C), ..StandingOrders::default() };
    world.configure(orders);
    assert_eq!(world.active(), [C]);
    assert!(world.link(A).drained);
    world.configure(StandingOrders::default());
    assert_eq!(world.active(), [A]);
    assert!(!world.link(A).drained);
}

#[test]
fn a_drain_moves_the_traffic_also_with_failover_off() {
    let mut world = World::up(Failback::After(0));
    world.command(failover(false)).unwrap();
    let answer = world.command(drain(A, true)).unwrap();
    assert_eq!((world.active(), answer.as_str()), (vec![B], "hq: a is out of service; traffic is on b"));
    world.command(drain(A, false)).unwrap();
    assert_eq!(world.active(), [B], "nothing moves by itself");
    world.command(pin(A, false)).unwrap();
    world.command(drain(A, true)).unwrap();
    assert_eq!(world.active(), [B], "nor does a pin hold what is drained");

    let mut world = World::up(Failback::After(0));
    world.command(failover(false)).unwrap();
    [B, C].into_iter().for_each(|link| world.probed(link, Health::Down));
    let refused = world.command(drain(A, true)).unwrap_err();
    assert_eq!(refused, "a carries the traffic of hq and no other link is usable: nothing would be left");
    assert!(!world.link(A).drained);
}

#[test]
fn a_switch_to_a_dead_link_is_refused_with_and_without_failover() {
    for on in [true, false] {
        let mut world = World::up(Failback::After(0));
        world.probed(B, Health::Down);
        world.command(failover(on)).unwrap();
        let refused = world.command(pin(B, false)).unwrap_err();
        assert!(refused.starts_with("b is not usable (it is down: nobody answers): "), "{refused}");
        assert_eq!(world.active(), [A]);
        let forced = world.command(pin(B, true)).unwrap();
        if on {
            assert!(forced.contains("traffic stays on a until b is usable"), "{forced}");
            assert_eq!(world.active(), [A]);
            world.probed(B, Health::Up);
            world.pass(3 * S);
            assert_eq!(world.active(), [B]);
        } else {
            assert_eq!((world.active(), forced.as_str()), (vec![B], "hq is pinned to b; traffic is on b"));
        }
    }
}

#[test]
fn what_is_drained_is_not_switched_to_even_by_force() {
    let mut world = World::up(Failback::After(0));
    world.command(drain(B, true)).unwrap();
    let refused = world.command(pin(B, true)).unwrap_err();
    assert_eq!(refused, "b is out of service: `link-watcher undrain hq b` first");
}

#[test]
fn whoever_lets_it_choose_again_gets_the_best_at_once() {
    for failback in [Failback::Manual, Failback::After(60 * S)] {
        let mut world = World::up(failback);
        world.command(pin(C, false)).unwrap();
        assert_eq!(world.active(), [C]);
        world.command(Command::Unpin { group: GROUP }).unwrap();
        assert_eq!(world.active(), [A], "{failback:?}");
        // Only once: what comes back later waits again.
        world.probed(A, Health::Down);
        assert_eq!(world.active(), [B]);
        world.probed(A, Health::Up);
        world.pass(30 * S);
        assert_eq!(world.active(), [B], "{failback:?}");
    }
}

#[test]
fn a_weight_holds_until_it_is_the_files_again() {
    let mut world = World::up(Failback::After(0));
    let weigh = |weight| Command::Weight { link: A, weight };
    assert!(world.command(weigh(Some(5))).unwrap().starts_with("hq: a has weight 5; "));
    world.configure(StandingOrders { weights: [(A, 5)].into(), ..StandingOrders::default() });
    assert_eq!((world.plan.as_ref().unwrap().active.clone(), world.link(A).weight), (vec![(A, 5)], 5));
    assert!(world.command(weigh(None)).unwrap().starts_with("hq: a has weight 1, as the configuration says; "));
    assert_eq!(world.plan.as_ref().unwrap().active, [(A, 1)]);
}

#[test]
fn the_time_of_a_drain_is_over() {
    let mut world = World::up(Failback::After(0));
    world.command(drain(A, true)).unwrap();
    let answer = world.command(Command::DrainOver { link: A }).unwrap();
    assert!(answer.starts_with("hq: a is in service again, for its time is over"), "{answer}");
    assert_eq!(world.active(), [A]);
}

#[test]
fn why_a_link_is_not_used_is_said_with_the_time_left() {
    let mut world = World::up(Failback::After(30 * S));
    let reason = |world: &World, link| world.link(link).usable_reason;
    assert_eq!(reason(&world, B), None, "it stands by, as it should");
    world.probed(A, Health::Down);
    assert_eq!(reason(&world, A).unwrap(), "it is down: nobody answers");
    world.probed(A, Health::Up);
    world.pass(900_000_000);
    assert_eq!(reason(&world, A).unwrap(), "2.1 s of hold-up left");
    world.pass(2_100_000_000 + 4 * S);
    assert!(world.link(A).usable);
    assert_eq!(reason(&world, A).unwrap(), "failback in 26 s");
    world.pass(26 * S);
    assert_eq!((world.active(), reason(&world, A)), (vec![A], None));

    let mut world = World::up(Failback::Manual);
    world.probed(A, Health::Down);
    world.probed(A, Health::Up);
    world.pass(3 * S);
    assert_eq!(reason(&world, A).unwrap(), "failback is by hand: `link-watcher switch hq auto` goes back");
}

#[test]
fn what_the_peer_has_to_do_with_it_is_said() {
    let mut world = World::new(Some(Role::Client), Failback::After(0), StandingOrders::default());
    let reason = |world: &World| world.link(A).usable_reason;
    world.event(Event::Alive { link: A });
    assert_eq!(reason(&world).unwrap(), "the peer has said nothing on it yet");
    world.peer(A, RemoteState::default());
    assert_eq!(reason(&world).unwrap(), "the peer does not hear us");
    world.peer(A, RemoteState { hears: true, ..RemoteState::default() });
    assert_eq!(reason(&world), None);
    world.event(Event::Alive { link: B });
    world.peer(B, RemoteState { hears: true, ..RemoteState::default() });
    // The other end's order counts like ours, also with failover off.
    world.command(failover(false)).unwrap();
    world.peer(A, RemoteState { hears: true, drained: true, ..RemoteState::default() });
    assert_eq!((world.active(), reason(&world).unwrap().as_str()), (vec![B], "it is drained by the peer"));
    let status = world.link(A);
    assert!(status.drained_by_peer && !status.drained);
    let refused = world.command(pin(A, true)).unwrap_err();
    assert!(refused.contains("the peer's operator drained it"), "{refused}");
    world.command(drain(A, true)).unwrap();
    assert_eq!(reason(&world).unwrap(), "it is drained at both ends");
}

#[test]
fn a_server_that_drains_says_that_its_client_moves_the_traffic() {
    let mut world = World::new(Some(Role::Server), Failback::After(0), StandingOrders::default());
    for link in [A, B] {
        world.event(Event::Alive { link });
        world.peer(link, RemoteState { hears: true, active: link == A, epoch: 5, ..RemoteState::default() });
    }
    assert_eq!(world.active(), [A]);
    let answer = world.command(drain(A, true)).unwrap();
    assert_eq!(answer, "hq: a is out of service; traffic is still on a, until the client has moved it");
    assert!(world.link(A).carries_for_peer);
}
