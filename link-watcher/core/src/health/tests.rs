//! An uplink with its targets in simulated time.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, ops::Range};

use super::{round::ASKS_A_ROUND, *};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
/// When the simulation begins: no clock starts at 0.
const START: u64 = 1_000 * S;

/// The example of the documentation: four targets, two required, 1 s.
fn spec() -> Spec {
    Spec {
        targets: 4,
        required: 2,
        interval_ns: S,
        timeout_ns: S,
        fall: 3,
        rise: 5,
        limits: Limits { loss: Some(Share(200_000)), rtt_ns: Some(400 * MS), jitter_ns: Some(100 * MS) },
        window: 60,
    }
}

/// What a target does with a probe that leaves then: its round trip in ns, or nothing.
type Answers = Box<dyn FnMut(usize, u64) -> Option<u64>>;

struct Sim {
    health: Health,
    now_ns: u64,
    answers: Answers,
    /// Answers on their way, by arrival.
    coming: BTreeMap<(u64, ProbeId), Event>,
    /// While it is in one of these the prober does not run, and answers wait.
    stalls: Vec<Range<u64>>,
    replies: Box<dyn Fn(u64) -> u64>,
    told: Vec<(u64, Verdict)>,
    sent: Vec<(u64, usize)>,
    /// Targets are compared with each other.
    compares: bool,
}

impl Sim {
    /// Times given to `answers` are ns since the start.
    fn new(spec: Spec, seed: u64, answers: impl FnMut(usize, u64) -> Option<u64> + 'static) -> Self {
        Self {
            health: Health::new(spec, seed, START),
            now_ns: START,
            answers: Box::new(answers),
            coming: BTreeMap::new(),
            stalls: Vec::new(),
            replies: Box::new(|_| 0),
            told: Vec::new(),
            sent: Vec::new(),
            compares: false,
        }
    }

    /// Runs until so long after the start, ns.
    fn run(&mut self, until_ns: u64) -> &mut Self {
        loop {
            let next = self.coming.keys().next().map_or(u64::MAX, |key| key.0).min(self.health.next_deadline());
            let next = self.awake(next.max(self.now_ns));
            if next > START + until_ns {
                return self;
            }
            assert!(self.sent.len() < 1_000_000, "it sends without end");
            self.now_ns = next;
            // The timer goes off before what waits in the sockets is read: the harder order.
            self.poll();
            while let Some(entry) = self.coming.first_entry().filter(|entry| entry.key().0 <= next) {
                let event = entry.remove();
                self.health.handle(next, event);
                self.poll();
            }
        }
    }

    /// The first instant from this on at which the prober runs.
    fn awake(&self, at_ns: u64) -> u64 {
        let stall = self.stalls.iter().find(|stall| (START + stall.start..START + stall.end).contains(&at_ns));
        stall.map_or(at_ns, |stall| START + stall.end)
    }

    fn poll(&mut self) {
        if self.health.wants_replies() {
            self.health.handle(self.now_ns, Event::Replies((self.replies)(self.now_ns - START)));
        }
        if self.compares {
            let known: Vec<_> = self.health.targets().collect();
            let others =
                |at: usize| known.iter().enumerate().filter(move |(other, _)| *other != at).map(|(_, known)| known);
            self.health.set_flaky((0..known.len()).map(|at| is_flaky([(known[at], others(at))])));
        }
        for action in self.health.poll(self.now_ns) {
            match action {
                Action::Send { probe, target } => {
                    self.sent.push((self.now_ns - START, target));
                    if let Some(rtt_ns) = (self.answers)(target, self.now_ns - START) {
                        let at_ns = self.now_ns + rtt_ns;
                        let at_wake_ns = self.awake(at_ns);
                        let event = Event::Answered { probe, rtt_ns: rtt_ns + (at_wake_ns - at_ns) };
                        self.coming.insert((at_ns, probe), event);
                    }
                }
                Action::Tell { verdict, .. } => self.told.push((self.now_ns - START, verdict)),
            }
        }
        assert!(self.health.next_deadline() > self.now_ns, "it would spin");
        assert!(self.health.in_flight.len() <= 2 * ASKS_A_ROUND as usize * self.health.spec.targets);
    }

    /// The verdicts so far, without times.
    fn kinds(&self) -> Vec<&'static str> {
        self.told.iter().map(|(_, verdict)| kind(verdict)).collect()
    }
}

fn kind(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Up => "up",
        Verdict::Degraded(Degraded::Loss { .. }) => "loss",
        Verdict::Degraded(Degraded::Rtt { .. }) => "rtt",
        Verdict::Degraded(Degraded::Jitter { .. }) => "jitter",
        Verdict::Degraded(Degraded::OnlyReplies) => "only-replies",
        Verdict::Down(_) => "down",
    }
}

/// Answers of a network in which each packet is lost with this probability.
fn lossy(seed: u64, probability: f64) -> impl FnMut(usize, u64) -> Option<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    move |_, _| (random.f64() >= probability).then_some(20 * MS)
}

#[test]
fn a_good_uplink_is_up_with_its_first_round_and_stays() {
    let mut sim = Sim::new(spec(), 1, |_, _| Some(20 * MS));
    sim.run(600 * S);
    assert_eq!(sim.told, [(20 * MS, Verdict::Up)]);
    let figures = sim.health.figures();
    assert_eq!((figures.rtt_ns, figures.jitter_ns, figures.loss), (Some(20 * MS), Some(0), Share(0)));
    assert_eq!((figures.sent, figures.received), (1202, 1200), "two each round, and the last two are on their way");
    assert_eq!(figures.last_good_ns, START + 599 * S + 20 * MS);
    let mut asked = [0; 4];
    sim.sent.iter().for_each(|(_, target)| asked[*target] += 1);
    assert!(asked.iter().all(|&asked| (250..350).contains(&asked)), "each in its turn: {asked:?}");
}

#[test]
fn a_dead_uplink_is_down_after_fall_rounds() {
    let mut sim = Sim::new(spec(), 1, |_, _| None);
    sim.run(60 * S);
    assert_eq!(sim.kinds(), ["down"]);
    assert_eq!(sim.told[0].0, 3 * S);
    let figures = sim.health.figures();
    assert_eq!((figures.loss, figures.received, figures.rtt_ns), (Share(1_000_000), 0, None));
}

#[test]
fn silent_death_is_noticed_within_fall_intervals_and_a_timeout() {
    for timeout_ms in [100, 400, 1000] {
        let spec = Spec { timeout_ns: timeout_ms * MS, ..spec() };
        for phase in 0..50 {
            let cut = 100 * S + phase * S / 50;
            let mut sim = Sim::new(spec.clone(), phase, move |_, at| (at < cut).then_some(20 * MS));
            sim.run(110 * S);
            let (at, Verdict::Down(down)) = *sim.told.last().unwrap() else { panic!("{:?}", sim.told) };
            assert_eq!(down, Down { answered: 0, required: 2, rounds: 3 });
            assert!(at - cut <= 3 * S + timeout_ms * MS, "phase {phase}: {} ms", (at - cut) / MS);
            assert!(at - cut >= 2 * S, "fewer rounds than asked for");
        }
    }
}

#[test]
fn it_is_up_again_after_rise_good_rounds() {
    let mut sim = Sim::new(spec(), 1, |_, at| (!(10 * S..300 * S).contains(&at)).then_some(20 * MS));
    sim.run(900 * S);
    assert_eq!(sim.kinds(), ["up", "down", "up"], "the outage is not held against it as loss");
    assert_eq!(sim.told[2].0, 304 * S + 20 * MS);
}

#[test]
fn one_dead_target_of_four_changes_nothing() {
    for rtt_ms in [1, 20, 200, 390, 500, 600, 900] {
        for seed in 0..20 {
            let spec = Spec { limits: Limits { rtt_ns: None, ..spec().limits }, ..spec() };
            let mut sim = Sim::new(spec, seed, move |target, _| (target != 2).then_some(rtt_ms * MS));
            sim.run(600 * S);
            assert_eq!(sim.kinds(), ["up"], "round trip {rtt_ms} ms, seed {seed}: {:?}", sim.told);
            assert_eq!(sim.health.figures().loss, Share(0));
        }
    }
}

#[test]
fn two_dead_targets_of_four_change_nothing_where_two_are_required() {
    for seed in 0..50 {
        let mut sim = Sim::new(spec(), seed, |target, at| (target < 2 || at < 50 * S).then_some(300 * MS));
        sim.run(600 * S);
        assert_eq!(sim.kinds(), ["up"], "seed {seed}");
        let mut sim = Sim::new(spec(), seed, |target, at| (target < 1 || at < 50 * S).then_some(20 * MS));
        sim.run(600 * S);
        let (at, last) = sim.told.last().unwrap();
        assert_eq!(*last, Verdict::Down(Down { answered: 1, required: 2, rounds: 3 }), "three dead: too few are left");
        assert!(*at <= 55 * S);
    }
}

#[test]
fn a_target_that_answers_only_sometimes_makes_no_loss() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut sim = Sim::new(spec(), 1, move |target, _| (target != 0 || random.f64() < 0.4).then_some(20 * MS));
    sim.run(1800 * S);
    assert_eq!(sim.kinds(), ["up"]);
}

#[test]
fn a_target_that_is_flaky_by_itself_takes_no_threshold_though_all_are_required() {
    for compares in [false, true] {
        let mut random = fastrand::Rng::with_seed(7);
        let answers = move |target, _| (target != 0 || random.f64() < 0.7).then_some(20 * MS);
        let mut sim = Sim::new(Spec { targets: 2, ..spec() }, 1, answers);
        sim.compares = compares;
        sim.run(900 * S);
        assert_eq!(sim.kinds().contains(&"loss"), !compares, "{:?}", sim.told);
        let flaky: Vec<bool> = sim.health.targets().map(|known| known.flaky).collect();
        assert_eq!(flaky, [compares, false]);
    }
}

#[test]
fn a_far_target_makes_no_delay_and_no_jitter() {
    let mut sim =
        Sim::new(spec(), 1, |target, at| Some(if target == 3 { 450 * MS + at % (300 * MS) } else { 20 * MS }));
    sim.run(1800 * S);
    assert_eq!(sim.kinds(), ["up"]);
    assert_eq!(sim.health.figures().rtt_ns, Some(20 * MS));
}

#[test]
fn thirty_percent_loss_is_degraded_and_does_not_flap() {
    for seed in 0..20 {
        let mut sim = Sim::new(spec(), seed, lossy(seed, 0.3));
        sim.run(3600 * S);
        assert!(sim.kinds().starts_with(&["up", "loss"]), "seed {seed}: {:?}", sim.told);
        assert!(sim.told[1].0 < 120 * S, "seed {seed}: {:?}", sim.told);
        assert!(sim.told.len() <= 4, "seed {seed}: {:?}", sim.told);
        assert!(!sim.kinds().contains(&"down"), "seed {seed}: retries keep rounds good");
        // And back when it is over.
        sim.answers = Box::new(|_, _| Some(20 * MS));
        sim.run(3900 * S);
        assert_eq!(sim.kinds().last(), Some(&"up"));
    }
}

#[test]
fn thirty_percent_loss_of_a_single_target_is_degraded_too() {
    for seed in 0..20 {
        let mut sim = Sim::new(Spec { targets: 1, ..spec() }, seed, lossy(seed, 0.3));
        sim.run(3600 * S);
        assert!(sim.kinds().starts_with(&["up", "loss"]), "seed {seed}: {:?}", sim.told);
        let degraded = sim.told.windows(2).filter(|pair| kind(&pair[0].1) != "up");
        let usable_ns: u64 = sim.told.windows(2).filter(|pair| kind(&pair[0].1) == "up").map(|p| p[1].0 - p[0].0).sum();
        assert!(usable_ns < 300 * S, "seed {seed}: {:?} {:?}", sim.told, degraded.count());
    }
}

#[test]
fn little_loss_is_no_reason() {
    for seed in 0..20 {
        let mut sim = Sim::new(spec(), seed, lossy(seed, 0.05));
        sim.run(3600 * S);
        assert_eq!(sim.kinds(), ["up"], "seed {seed}: {:?}", sim.told);
    }
}

#[test]
fn half_a_second_of_delay_is_degraded_until_it_is_over() {
    let mut sim = Sim::new(spec(), 1, |_, at| Some(if (100 * S..400 * S).contains(&at) { 500 * MS } else { 20 * MS }));
    sim.run(900 * S);
    assert_eq!(sim.kinds(), ["up", "rtt", "up"]);
    let Verdict::Degraded(reason) = sim.told[1].1 else { unreachable!() };
    assert_eq!(reason.to_string(), "round trip 500.0 ms, allowed are 400 ms");
    assert!((100 * S..160 * S).contains(&sim.told[1].0), "{:?}", sim.told);
    assert!((400 * S..470 * S).contains(&sim.told[2].0), "{:?}", sim.told);
}

#[test]
fn wavering_delay_is_jitter() {
    let mut sim = Sim::new(spec(), 1, |_, at| Some((20 + 250 * (at / S % 2)) * MS));
    sim.run(300 * S);
    assert_eq!(sim.kinds(), ["up", "jitter"]);
}

#[test]
fn what_wavers_about_its_threshold_does_not_flap() {
    // Ten seconds a little above, ten a little below.
    let spec = Spec { window: 10, limits: Limits { jitter_ns: None, ..spec().limits }, ..spec() };
    let mut sim = Sim::new(spec, 1, |_, at| Some(if (at / (10 * S)).is_multiple_of(2) { 380 * MS } else { 420 * MS }));
    sim.run(1000 * S);
    assert_eq!(sim.kinds(), ["up", "rtt"]);
}

#[test]
fn flapping_is_slowed_down_to_rise_and_fall() {
    let mut sim = Sim::new(spec(), 1, |_, at| (at / (2 * S)).is_multiple_of(2).then_some(20 * MS));
    sim.run(600 * S);
    // Two bad rounds in a row are no outage, but half of the probes lost are a reason.
    assert_eq!(sim.kinds(), ["up", "loss"]);
    let mut sim = Sim::new(spec(), 1, |_, at| (at / (4 * S)).is_multiple_of(2).then_some(20 * MS));
    sim.run(600 * S);
    assert_eq!(sim.kinds(), ["up", "down"], "four good rounds are fewer than rise");
}

#[test]
fn own_stalls_are_not_the_uplinks_failure() {
    for length in 1..60 {
        for phase in 0..10 {
            let mut sim = Sim::new(spec(), length, |_, _| Some(20 * MS));
            let from = 50 * S + phase * S / 10;
            sim.stalls.push(from..from + length * S / 8);
            sim.run(120 * S);
            assert_eq!(sim.kinds(), ["up"], "stall of {length}/8 s at {phase}/10: {:?}", sim.told);
            assert_eq!(sim.health.figures().loss, Share(0), "stall of {length}/8 s at {phase}/10");
        }
    }
}

#[test]
fn a_prober_that_stalls_again_and_again_neither_alarms_nor_misses_a_death() {
    for period_ms in [700, 1100, 1900, 3100] {
        let stalls: Vec<_> = (1..1000).map(|i| i * period_ms * MS..i * period_ms * MS + period_ms * MS / 2).collect();
        let mut sim = Sim::new(spec(), period_ms, |_, at| (at < 300 * S).then_some(20 * MS));
        sim.stalls = stalls;
        sim.run(299 * S);
        assert_eq!(sim.kinds(), ["up"], "every {period_ms} ms: {:?}", sim.told);
        sim.run(360 * S);
        assert_eq!(sim.kinds().last(), Some(&"down"), "every {period_ms} ms: {:?}", sim.told);
    }
}

#[test]
fn a_death_during_a_stall_is_noticed_after_it() {
    let mut sim = Sim::new(spec(), 1, |_, at| (at < 50 * S).then_some(20 * MS));
    sim.stalls.push(50 * S + 500 * MS..80 * S);
    sim.run(90 * S);
    assert_eq!(sim.kinds(), ["up", "down"]);
    assert_eq!(sim.told[1].0, 83 * S);
}

#[test]
fn replies_to_connections_make_it_degraded_until_they_stop() {
    let mut sim = Sim::new(spec(), 1, |_, at| (at < 50 * S).then_some(20 * MS));
    sim.replies = Box::new(|at| at.min(100 * S) / MS);
    sim.run(200 * S);
    assert_eq!(sim.kinds(), ["up", "only-replies", "down"]);
    assert!(sim.told[1].0 <= 54 * S, "{:?}", sim.told);
    assert!((102 * S..=105 * S).contains(&sim.told[2].0), "{:?}", sim.told);
}

#[test]
fn silent_targets_that_come_back_make_it_up_again() {
    let mut sim = Sim::new(spec(), 1, |_, at| (!(50 * S..80 * S).contains(&at)).then_some(20 * MS));
    sim.replies = Box::new(|at| at);
    sim.run(400 * S);
    let kinds = sim.kinds();
    assert!(kinds.starts_with(&["up", "only-replies"]), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"up"));
    assert!(!kinds.contains(&"down"));
}

#[test]
fn replies_before_the_death_do_not_count() {
    let mut sim = Sim::new(spec(), 1, |_, at| (at < 50 * S).then_some(20 * MS));
    sim.replies = Box::new(|at| at.min(50 * S));
    sim.run(100 * S);
    assert_eq!(sim.kinds(), ["up", "down"]);
}

#[test]
fn replies_are_only_wanted_in_doubt() {
    let mut health = Health::new(spec(), 1, START);
    assert!(!health.wants_replies());
    let Action::Send { probe: first, .. } = health.poll(START)[0] else { panic!("it asks at once") };
    assert!(!health.wants_replies());
    let next = health.next_deadline();
    health.handle(next, Event::Answered { probe: first, rtt_ns: MS });
    health.poll(next);
    assert!(health.wants_replies(), "one was too slow");
}

#[test]
fn a_failure_is_replaced_at_once_and_no_answer_counts_twice() {
    let mut health = Health::new(spec(), 1, START);
    let actions = health.poll(START);
    let [Action::Send { probe: a, target: first }, Action::Send { probe: b, target: second }] = actions[..] else {
        panic!("{actions:?}")
    };
    health.handle(START + MS, Event::Failed(a));
    let actions = health.poll(START + MS);
    let [Action::Send { probe: c, target: third }] = actions[..] else { panic!("{actions:?}") };
    assert!(first != second && second != third && first != third);
    for _ in 0..3 {
        health.handle(START + 2 * MS, Event::Answered { probe: b, rtt_ns: 2 * MS });
        assert_eq!(health.poll(START + 2 * MS), []);
    }
    health.handle(START + 3 * MS, Event::Answered { probe: c, rtt_ns: MS });
    let tell = Action::Tell { verdict: Verdict::Up, last_good_ns: START + 3 * MS };
    assert_eq!(health.poll(START + 3 * MS), [tell]);
    assert_eq!((health.figures().sent, health.figures().received), (3, 2));
}

#[test]
fn probes_that_cannot_leave_are_no_loss() {
    let mut health = Health::new(spec(), 1, START);
    let (mut now, mut told) = (START, Vec::new());
    while now < START + 10 * S {
        let mut actions = health.poll(now);
        while !actions.is_empty() {
            for action in actions {
                match action {
                    Action::Send { probe, .. } => health.handle(now, Event::Unsent(probe)),
                    Action::Tell { verdict, .. } => told.push((now - START, kind(&verdict))),
                }
            }
            actions = health.poll(now);
        }
        now = health.next_deadline();
    }
    assert_eq!(told, [(3 * S, "down")]);
    assert_eq!((health.figures().sent, health.figures().received), (0, 0));
}

#[test]
fn a_new_address_costs_nothing() {
    let mut sim = Sim::new(spec(), 1, |_, _| Some(20 * MS));
    sim.run(50 * S + 10 * MS);
    sim.coming.clear();
    sim.now_ns = START + 50 * S + 10 * MS;
    sim.health.handle(sim.now_ns, Event::Moved);
    sim.poll();
    sim.run(100 * S);
    assert_eq!(sim.kinds(), ["up"]);
    assert_eq!(sim.health.figures().loss, Share(0));
    // But moving all the time proves nothing good.
    let mut health = Health::new(spec(), 1, START);
    let mut told = Vec::new();
    for step in 0..100 {
        let now = START + step * S / 10;
        health.handle(now, Event::Moved);
        told.extend(health.poll(now).into_iter().filter(|action| matches!(action, Action::Tell { .. })));
    }
    assert_eq!(told.len(), 1);
}

#[test]
fn what_was_lost_rises_again_from_then_on() {
    let mut sim = Sim::new(spec(), 1, |_, _| Some(20 * MS));
    sim.run(50 * S + 10 * MS);
    sim.coming.clear();
    sim.now_ns = START + 50 * S + 10 * MS;
    sim.health.handle(sim.now_ns, Event::Lost);
    sim.poll();
    sim.run(100 * S);
    let [(_, Verdict::Up), (again_ns, Verdict::Up)] = sim.told[..] else { panic!("{:?}", sim.told) };
    assert!((54 * S..=55 * S).contains(&again_ns), "five good rounds: {again_ns}");
    // Before the first verdict there is nothing to lose.
    let mut fresh = Sim::new(spec(), 1, |_, _| Some(20 * MS));
    fresh.health.handle(START, Event::Lost);
    fresh.run(2 * S);
    assert_eq!(fresh.kinds(), ["up"]);
}

#[test]
fn lateness_costs_its_own_length_and_no_multiple() {
    for (tenths, fall) in [(26, 10), (26, 3), (60, 3), (99, 4), (150, 3)] {
        let spec = Spec { fall, limits: Limits::default(), ..spec() };
        // The prober sleeps through so many tenths of a timeout at each of its deadlines.
        let late_ns = tenths * S / 100;
        let mut health = Health::new(spec, 1, START);
        let (mut now_ns, mut told) = (START, Vec::new());
        while told.is_empty() {
            let mut actions = health.poll(now_ns);
            for action in actions.drain(..) {
                match action {
                    Action::Send { .. } => {}
                    Action::Tell { verdict, .. } => told.push(verdict),
                }
            }
            now_ns = health.next_deadline() + late_ns;
            assert!(now_ns < START + 1_000 * S);
        }
        // Each round may be late by two turns, and asks for others meanwhile; one is forgotten.
        let bound_ns = u64::from(fall + 1) * (S + 4 * late_ns);
        assert!(now_ns - START <= bound_ns, "late by {tenths}/100, fall {fall}: {} ms", (now_ns - START) / MS);
    }
}

#[test]
fn random_networks_never_break_the_bounds() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let targets = random.usize(1..6);
        let interval_ms = random.u64(10..3000);
        let spec = Spec {
            targets,
            required: random.usize(1..=targets),
            interval_ns: interval_ms * MS,
            timeout_ns: random.u64(5..=interval_ms.max(6)) * MS,
            fall: random.u32(1..6),
            rise: random.u32(1..6),
            window: random.usize(1..100),
            ..spec()
        };
        let mut sim =
            Sim::new(spec, seed, move |_, _| (random.f64() < 0.7).then(|| random.u64(0..2 * interval_ms * MS)));
        sim.stalls = (0..20).map(|i| i * 10 * S + 5 * S..i * 10 * S + 7 * S).collect();
        // The simulation asserts that it neither spins nor grows.
        sim.run(200 * S);
        for pair in sim.told.windows(2) {
            assert_ne!(pair[0].1, pair[1].1, "only changes are told");
        }
    }
}

#[test]
fn after_a_repair_the_outage_is_not_held_against_it() {
    // Short windows, so that each lost probe weighs much; the repair comes at every phase of a round.
    let spec = Spec {
        required: 1,
        interval_ns: 100 * MS,
        timeout_ns: 100 * MS,
        rise: 3,
        limits: Limits { loss: Some(Share(150_000)), ..spec().limits },
        window: 20,
        ..spec()
    };
    for phase in 0..50 {
        let repaired_ns = 10 * S + phase * 2 * MS;
        let dead = move |at_ns: u64| (8 * S..repaired_ns).contains(&at_ns);
        let mut sim = Sim::new(spec.clone(), phase, move |_, at_ns| (!dead(at_ns)).then_some(MS));
        sim.run(30 * S);
        let after: Vec<&str> =
            sim.told.iter().filter(|(at_ns, _)| *at_ns > repaired_ns).map(|(_, v)| kind(v)).collect();
        assert_eq!(after, ["up"], "phase {phase}: {:?}", sim.told);
    }
}

#[test]
fn each_target_is_known_by_itself() {
    let mut sim = Sim::new(spec(), 1, |target, _| (target != 2).then_some((target as u64 + 1) * 10 * MS));
    sim.run(60 * S);
    let known: Vec<TargetFigures> = sim.health.targets().collect();
    assert_eq!(known.len(), 4);
    for (target, figures) in known.iter().enumerate().filter(|(target, _)| *target != 2) {
        assert_eq!((figures.answers, figures.loss), (Some(true), Some(Share(0))), "{target}");
        assert_eq!(figures.rtt_ns, Some((target as u64 + 1) * 10 * MS));
    }
    assert_eq!((known[2].answers, known[2].rtt_ns), (Some(false), None));
    let fresh = Health::new(spec(), 1, START);
    assert!(fresh.targets().all(|known| known.answers.is_none() && known.loss.is_none()));
}
