//! What is foretold is what then happens, and asking changes nothing.

#![allow(clippy::unwrap_used)]

use link_watcher_core::{
    engine::{Engine, Forecast, Supposed},
    event::{
        Action, Command, Device, Event, Failback, GroupId, GroupSpec, Health, LinkId, LinkSpec, LinkVerdict,
        RemoteState, Role, StandingOrders, TransitionKind,
    },
};

const GROUP: GroupId = GroupId(3);
const S: u64 = 1_000_000_000;
const A: LinkId = LinkId(0);
const B: LinkId = LinkId(1);

fn engine(role: Option<Role>, tiers: &[u32], failback: Failback) -> Engine {
    let link = |(id, tier): (usize, &u32)| LinkSpec {
        id: LinkId(id as u32),
        name: format!("link{id}"),
        tier: *tier,
        weight: id as u32 + 1,
    };
    let spec = GroupSpec {
        id: GROUP,
        name: "hq".to_owned(),
        dampening: false,
        role,
        failback,
        hold_up_ns: 3 * S,
        detection_ns: S,
        links: tiers.iter().enumerate().map(link).collect(),
        orders: StandingOrders::default(),
    };
    let mut engine = Engine::new(1);
    engine.handle(S, Event::Configure(vec![spec]));
    engine
}

fn probed(engine: &mut Engine, now_ns: u64, link: LinkId, health: Health) {
    engine.handle(now_ns, Event::Probed { link, health, why: "a test".to_owned(), last_good_ns: now_ns });
    engine.tick(now_ns);
}

/// Links that carry the traffic from each step on, with the time.
fn course(forecast: &Forecast) -> Vec<(u64, Vec<u32>)> {
    let active = |step: &link_watcher_core::engine::Step| step.status.active.iter().map(|id| id.0).collect();
    forecast.steps.iter().map(|step| (step.after_ns / S, active(step))).collect()
}

#[test]
fn a_loss_is_foretold_and_changes_nothing() {
    let mut engine = engine(None, &[1, 1, 2], Failback::After(30 * S));
    (0..3).for_each(|id| probed(&mut engine, 2 * S, LinkId(id), Health::Up));
    let before = format!("{engine:?}");
    let forecast = engine.what_if(3 * S, A, Supposed::Down).unwrap();
    assert_eq!(forecast.now.status.active, [A, B]);
    assert_eq!(course(&forecast), [(0, vec![1])]);
    let lost = &forecast.steps[0].status.links[0];
    assert_eq!((lost.verdict, lost.share), (LinkVerdict::Down, 0.0));
    assert!(forecast.told.iter().any(|told| matches!(told.what, TransitionKind::ActiveChanged { .. })));
    assert_eq!(format!("{engine:?}"), before);
}

#[test]
fn the_last_one_leaves_nothing() {
    let mut engine = engine(None, &[1, 2], Failback::After(0));
    probed(&mut engine, 2 * S, A, Health::Up);
    probed(&mut engine, 2 * S, B, Health::Down);
    let forecast = engine.what_if(3 * S, A, Supposed::Down).unwrap();
    assert!(forecast.steps[0].plan.as_ref().unwrap().all_down);
    assert_eq!(course(&forecast), [(0, vec![0])], "the routes stay where they are");
    assert!(forecast.told.iter().any(|told| told.what == TransitionKind::NoUsableLink));
    let refused = engine.what_if(3 * S, A, Supposed::Drained).unwrap_err();
    assert!(refused.contains("nothing would be left"), "{refused}");
}

#[test]
fn what_comes_back_waits_for_hold_up_and_failback() {
    let mut engine = engine(Some(Role::Client), &[1, 2], Failback::After(30 * S));
    for link in [A, B] {
        engine.handle(2 * S, Event::Alive { link });
        engine.handle(2 * S, Event::RemoteState { link, state: RemoteState { hears: true, ..RemoteState::default() } });
    }
    engine.tick(2 * S);
    engine.handle(3 * S, Event::Silent { link: A, last_good_ns: 2 * S });
    engine.tick(3 * S);
    let forecast = engine.what_if(4 * S, A, Supposed::Up).unwrap();
    assert_eq!(forecast.now.status.active, [B]);
    assert_eq!(course(&forecast), [(0, vec![1]), (33, vec![0])]);
    assert!(engine.what_if(4 * S, LinkId(9), Supposed::Up).is_err());
}

/// A random life; at any moment what is foretold of a link is what the engine does when it happens.
#[test]
fn what_is_foretold_comes_about() {
    let mut moved = 0;
    for seed in 0..300_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let tiers: Vec<u32> = (0..4).map(|_| below(3) as u32).collect();
        let failback = if below(4) == 0 { Failback::Manual } else { Failback::After(below(3) * 5 * S) };
        let mut engine = engine(None, &tiers, failback);
        let mut now_ns = 2 * S;
        for _ in 0..12 {
            let link = LinkId(below(4) as u32);
            match below(6) {
                0 => drop(engine.command(now_ns, Command::Drain { link, drained: below(2) == 0 })),
                1 => drop(engine.command(now_ns, Command::Pin { group: GROUP, link, force: true })),
                2 => drop(engine.command(now_ns, Command::Failover { group: GROUP, on: below(3) > 0 })),
                3 => engine.handle(
                    now_ns,
                    Event::Device { link, device: [Device::Ready, Device::Disabled][below(2) as usize] },
                ),
                _ => probed(&mut engine, now_ns, link, [Health::Up, Health::Down, Health::Degraded][below(3) as usize]),
            }
            engine.tick(now_ns);
            now_ns += below(4) * S;
        }
        engine.tick(now_ns);
        engine.actions();
        let active = engine.status(now_ns).remove(0).active;
        let link = active.first().copied().unwrap_or(LinkId(below(4) as u32));
        let forecast = engine.what_if(now_ns, link, Supposed::Down).unwrap();
        assert_eq!(forecast.now.status, engine.status(now_ns).remove(0), "seed {seed}");
        let why = "it is supposed to be down".to_owned();
        engine.handle(now_ns, Event::Probed { link, health: Health::Down, why, last_good_ns: now_ns });
        engine.tick(now_ns);
        for step in &forecast.steps {
            while let Some(at_ns) = engine.next_deadline().filter(|at_ns| *at_ns <= now_ns + step.after_ns) {
                engine.tick(at_ns);
            }
            assert_eq!(engine.status(now_ns + step.after_ns).remove(0), step.status, "seed {seed}");
        }
        let plans = engine.actions().into_iter().filter(|action| matches!(action, Action::Route { .. }));
        moved += usize::from(plans.count() > 0 && forecast.steps[0].status.active != forecast.now.status.active);
    }
    assert!(moved > 30, "{moved} of 300 lives had something to move");
}
