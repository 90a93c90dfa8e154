//! Random scenarios of two daemons in a simulated network. `LINK_WATCHER_SEED=n` replays one with its log,
//! `LINK_WATCHER_SEEDS=n` runs that many of each kind.

#![allow(clippy::unwrap_used)]

mod sim;

use link_watcher_core::event::{Command, Device, Failback, LinkId};

use self::sim::{Attacker, CLIENT, GROUP, MS, Random, SERVER, Setup, Sim};

/// Scenarios of each kind unless told otherwise.
const SEEDS: u64 = 150;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one kind of scenario for many seeds; a violation prints the seed.
fn many(kind: &str, scenario: impl Fn(u64) -> Sim) {
    if let Some(seed) = number("LINK_WATCHER_SEED") {
        let sim = scenario(seed);
        println!("{}", sim.log.join("\n"));
        assert_eq!(sim.oracle.violations, Vec::<String>::new(), "{kind}, seed {seed}, {:?}", sim.setup);
        return;
    }
    let mut failed = Vec::new();
    let seeds = number("LINK_WATCHER_SEEDS").unwrap_or(SEEDS);
    let (mut worst_ns, mut moves) = (0, 0);
    for seed in 0..seeds {
        let sim = scenario(seed);
        worst_ns = worst_ns.max(sim.oracle.worst_outage_ns);
        moves += sim.oracle.moves.len();
        if let Some(first) = sim.oracle.violations.first() {
            failed.push(format!("seed {seed}: {first}"));
        }
    }
    println!("{kind}: {seeds} scenarios, {moves} moves, worst outage {:.1} ms", worst_ns as f64 / 1e6);
    assert!(
        failed.is_empty(),
        "{kind}: {} of {seeds} scenarios failed; replay with LINK_WATCHER_SEED=n:\n{}",
        failed.len(),
        failed.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
    );
}

fn random_setup(random: &mut Random) -> Setup {
    let count = random.between(2, 4) as usize;
    let tiers = random.chance(30);
    Setup {
        multiplier: *[2, 3, 3, 3, 5].get(random.below(5) as usize).unwrap(),
        failback: if random.chance(15) { Failback::Manual } else { Failback::After(random.between(0, 3) * 100 * MS) },
        hold_up_ns: random.between(0, 2) * 50 * MS,
        links: (0..count as u32).map(|at| (if tiers { at / 2 + 1 } else { at + 1 }, at % 3 + 1)).collect(),
        delay_ns: (0..count).map(|_| random.between(20_000, 6 * MS)).collect(),
        jitter_ns: random.below(MS),
        ..Setup::plain()
    }
}

fn link(random: &mut Random, sim: &Sim) -> usize {
    random.below(sim.wires.len() as u64) as usize
}

/// Cuts, one-way or not, and mends; carrier and devices of either side.
fn break_something(sim: &mut Sim, random: &mut Random) {
    let at = random.below(2) as usize;
    let chosen = link(random, sim);
    match random.below(10) {
        0..=3 => {
            sim.set_wire(chosen, *[[false, false], [true, false], [false, true]].get(random.below(3) as usize).unwrap())
        }
        4..=6 => sim.set_wire(chosen, [true; 2]),
        7 => {
            let device = [Device::NoCarrier, Device::NoAddress, Device::Disabled, Device::Missing];
            sim.set_device(at, chosen, device[random.below(4) as usize]);
        }
        _ => sim.set_device(at, chosen, Device::Ready),
    }
}

fn mend_everything(sim: &mut Sim, random: &mut Random) {
    for link in 0..sim.wires.len() {
        for at in [CLIENT, SERVER] {
            if sim.sides[at].device[link] != Device::Ready {
                sim.set_device(at, link, Device::Ready);
            }
        }
        // Now and then a link stays dead, but never all.
        if link == 0 || random.chance(80) {
            sim.set_wire(link, [true; 2]);
        }
    }
}

fn run_and_judge(mut sim: Sim, quiet_ns: u64) -> Sim {
    sim.run_for(quiet_ns);
    let mut oracle = std::mem::take(&mut sim.oracle);
    oracle.agreed(&sim);
    sim.oracle = oracle;
    sim
}

#[test]
fn nothing_happens_while_nothing_is_wrong() {
    many("calm", |seed| {
        let mut random = Random(seed ^ 0xca11);
        let mut setup = random_setup(&mut random);
        setup.loss_percent = random.below(3) * 15;
        // Before the first echo nobody knows that a round trip takes longer than an interval.
        setup.delay_ns.iter_mut().for_each(|delay_ns| *delay_ns = (*delay_ns).min(3 * MS));
        let mut sim = Sim::new(seed, setup);
        sim.run_for(1000 * MS);
        let before = sim.oracle.moves.len();
        sim.run_for(3000 * MS);
        if sim.oracle.moves.len() != before {
            let moves = format!("{:?}", sim.oracle.moves);
            sim.oracle.violations.push(format!("traffic moved: {moves}"));
        }
        run_and_judge(sim, 0)
    });
}

#[test]
fn links_break_and_mend() {
    many("links", |seed| {
        let mut random = Random(seed ^ 0x11f7);
        let setup = random_setup(&mut random);
        let mut sim = Sim::new(seed, setup);
        sim.run_for(500 * MS);
        for _ in 0..random.between(1, 20) {
            break_something(&mut sim, &mut random);
            sim.run_for(random.between(0, 200) * MS);
        }
        mend_everything(&mut sim, &mut random);
        run_and_judge(sim, 2500 * MS)
    });
}

#[test]
fn daemons_stall_and_restart() {
    many("daemons", |seed| {
        let mut random = Random(seed ^ 0xdae0);
        let setup = random_setup(&mut random);
        let mut sim = Sim::new(seed, setup);
        sim.run_for(500 * MS);
        for _ in 0..random.between(1, 10) {
            let at = random.below(2) as usize;
            match random.below(6) {
                0 | 1 => {
                    let (prober, core) =
                        *[(true, true), (true, false), (false, true)].get(random.below(3) as usize).unwrap();
                    let ns = random.between(1, 400) * MS;
                    sim.stall(at, prober, core, ns);
                }
                2 | 3 => break_something(&mut sim, &mut random),
                _ => {
                    if sim.sides[at].engine.is_some() {
                        let planned = random.chance(60);
                        sim.stop(at, planned);
                    } else {
                        sim.start(at);
                    }
                }
            }
            sim.run_for(random.between(0, 300) * MS);
        }
        for at in [CLIENT, SERVER] {
            if sim.sides[at].engine.is_none() {
                sim.start(at);
            }
        }
        mend_everything(&mut sim, &mut random);
        run_and_judge(sim, 3000 * MS)
    });
}

#[test]
fn operators_meddle() {
    many("operators", |seed| {
        let mut random = Random(seed ^ 0x09e8);
        let setup = random_setup(&mut random);
        let mut sim = Sim::new(seed, setup);
        sim.run_for(500 * MS);
        for _ in 0..random.between(1, 12) {
            let at = random.below(2) as usize;
            let chosen = LinkId(link(&mut random, &sim) as u32);
            let command = match random.below(8) {
                0 => Some(Command::Pin { group: GROUP, link: chosen, force: false }),
                1 => Some(Command::Unpin { group: GROUP }),
                2 => Some(Command::Next { group: GROUP }),
                3 | 4 => Some(Command::Drain { link: chosen, drained: random.chance(50) }),
                5 => Some(Command::Failover { group: GROUP, on: random.chance(70) }),
                _ => None,
            };
            match command {
                Some(command) => drop(sim.command(at, command)),
                None => break_something(&mut sim, &mut random),
            }
            sim.run_for(random.between(0, 250) * MS);
        }
        mend_everything(&mut sim, &mut random);
        run_and_judge(sim, 2500 * MS)
    });
}

/// Lets time pass under the eyes of an attacker who sends as many packets as the daemons, or more.
fn run_attacked(sim: &mut Sim, random: &mut Random, ns: u64) {
    let until_ns = sim.now_ns + ns;
    while sim.now_ns < until_ns {
        let packets = random.below(12);
        sim.attack(packets);
        sim.run_for(random.between(MS / 2, 5 * MS));
    }
}

/// Nobody without a key makes a dead link look alive, a live one dead, or moves traffic: the promises are the same as without
/// them. Links that are cut one way or both, daemons that restart, and packets that are copied, moved to other links, sent
/// back, held, doubled and reordered all the while.
#[test]
fn somebody_in_between_copies_moves_holds_and_reorders() {
    let injected = std::cell::Cell::new((0, 0));
    many("attacker", |seed| {
        let mut random = Random(seed ^ 0xa77a);
        let mut setup = random_setup(&mut random);
        setup.multiplier = setup.multiplier.max(3);
        setup.delay_ns.iter_mut().for_each(|delay_ns| *delay_ns = (*delay_ns).min(3 * MS));
        let mut sim = Sim::new(seed, setup);
        sim.attacker = Some(Attacker::default());
        run_attacked(&mut sim, &mut random, 500 * MS);
        for _ in 0..random.between(1, 12) {
            let at = random.below(2) as usize;
            match random.below(8) {
                0 if sim.sides[at].engine.is_some() => sim.stop(at, random.chance(60)),
                0 | 1 if sim.sides[at].engine.is_none() => sim.start(at),
                _ => break_something(&mut sim, &mut random),
            }
            let ns = random.between(0, 300) * MS;
            run_attacked(&mut sim, &mut random, ns);
        }
        for at in [CLIENT, SERVER] {
            if sim.sides[at].engine.is_none() {
                sim.start(at);
            }
        }
        mend_everything(&mut sim, &mut random);
        run_attacked(&mut sim, &mut random, 3000 * MS);
        let attacker = sim.attacker.as_ref().unwrap();
        let (packets, delayed) = injected.get();
        injected.set((packets + attacker.injected, delayed + attacker.delayed));
        run_and_judge(sim, 0)
    });
    let (packets, delayed) = injected.get();
    println!("attacker: {packets} packets sent again, {delayed} delayed");
    assert!(packets > 10_000 && delayed > 1_000, "the attacker hardly did anything: {packets}, {delayed}");
}
