//! That two ends agree: the rules checked exhaustively, and the engine held against the rules.
//!
//! `LINK_WATCHER_MODEL_CHANGES=n` and `LINK_WATCHER_MODEL_RESTARTS=n` go further than every test run does;
//! `LINK_WATCHER_SEEDS=n` follows that many histories of real engines.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod rules;
#[path = "../sim/mod.rs"]
mod sim;
mod traces;
mod world;

use std::time::Instant;

use link_watcher_core::event::Failback;
use stateright::{Checker, HasDiscoveries, Model};

use self::rules::Rules;
use self::sim::{MS, Random, Setup, Sim};
use self::traces::{Followed, follow};
use self::world::Agreement;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Checks all that can come of so many changes of links and restarts of daemons, and prints how much that was.
fn check(model: Agreement, until: HasDiscoveries) -> impl Checker<Agreement> {
    let started = Instant::now();
    let what = format!("{:?}, {} changes of links, {} restarts", model.rules, model.changes, model.restarts);
    let checker = model.checker().finish_when(until).spawn_bfs().join();
    println!(
        "{what}: {} states, {} steps deep, calm after at most {} steps, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        checker.model().longest_way_to_calm(),
        started.elapsed().as_secs_f64()
    );
    checker
}

#[test]
fn two_ends_agree_whatever_befalls_two_links_and_two_daemons() {
    let changes = number("LINK_WATCHER_MODEL_CHANGES").unwrap_or(1) as u8;
    let restarts = number("LINK_WATCHER_MODEL_RESTARTS").unwrap_or(2) as u8;
    check(Agreement::new(Rules::All, changes, restarts), HasDiscoveries::All).assert_properties();
}

#[test]
fn two_ends_agree_from_their_first_start_on() {
    let checker = check(Agreement::new(Rules::All, 1, 0).with_a_start(), HasDiscoveries::All);
    let wrong: Vec<&str> =
        checker.discoveries().into_keys().filter(|name| !checker.model().is_expected(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Leaves a rule out, and sees what becomes of it.
fn fails(rules: Rules, changes: u8, restarts: u8, property: &'static str) {
    let checker = check(Agreement::new(rules, changes, restarts), HasDiscoveries::AnyFailures);
    let found = checker.discovery(property);
    let path = found.unwrap_or_else(|| panic!("{rules:?}: {property:?} holds all the same"));
    println!("{property:?} fails after {:#?}", path.into_actions());
}

#[test]
fn a_server_that_does_not_compare_epochs_follows_an_older_choice() {
    fails(Rules::WithoutComparingEpochs, 2, 0, "no older choice is followed");
}

#[test]
fn a_client_that_does_not_outrun_its_former_life_is_deaf_for_its_server() {
    fails(Rules::WithoutOutrunningTheFormerLife, 2, 1, "once calm both are on the best link");
}

#[test]
fn a_server_that_does_not_tell_lives_apart_follows_a_dead_one() {
    fails(Rules::WithoutTellingLivesApart, 1, 1, "no choice of a former life is followed");
}

#[test]
fn a_server_that_waits_for_its_client_keeps_a_dead_link() {
    fails(Rules::WithoutLeavingADeadChoice, 1, 0, "no dead link is kept while another is usable");
}

/// Two links and what befalls them: cuts of both ways and one, carriers, stalls, restarts.
fn history(seed: u64) -> Sim {
    let mut random = Random(seed ^ 0x7ace);
    let setup = Setup {
        failback: Failback::After(random.between(0, 3) * 100 * MS),
        hold_up_ns: random.between(0, 2) * 50 * MS,
        links: vec![(1, 1), (2, 1)],
        delay_ns: (0..2).map(|_| random.between(20_000, 3 * MS)).collect(),
        jitter_ns: random.below(MS),
        is_traced: true,
        ..Setup::plain()
    };
    let mut sim = Sim::new(seed, setup);
    let calm_ns = random.between(0, 500) * MS;
    sim.run_for(calm_ns);
    for _ in 0..random.between(1, 16) {
        let at = random.below(2) as usize;
        let link = random.below(2) as usize;
        match random.below(12) {
            0..=3 => sim.set_wire(link, [true; 2]),
            4..=6 => {
                let passes = [[false, false], [true, false], [false, true]];
                sim.set_wire(link, passes[random.below(3) as usize]);
            }
            7 if sim.sides[at].engine.is_some() => {
                let ns = random.between(1, 400) * MS;
                sim.stall(at, random.chance(60), true, ns);
            }
            8 | 9 if sim.sides[at].engine.is_some() => sim.stop(at, random.chance(60)),
            _ if sim.sides[at].engine.is_none() => sim.start(at),
            _ => {}
        }
        let ns = random.between(0, 250) * MS;
        sim.run_for(ns);
    }
    sim
}

#[test]
fn what_real_engines_do_is_what_the_rules_allow() {
    let mut followed = Followed::default();
    let mut failed = Vec::new();
    let seeds = match number("LINK_WATCHER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LINK_WATCHER_SEEDS").unwrap_or(300),
    };
    for seed in seeds.clone() {
        let sim = history(seed);
        if let Err(why) = follow(&sim, Rules::All, &mut followed) {
            failed.push(format!("seed {seed}: {why}"));
        }
    }
    println!("{seeds:?}: {followed:?}");
    assert!(failed.is_empty(), "{} of {seeds:?} failed; the first one, {}", failed.len(), failed[0]);
    assert!(followed.lives > seeds.end as usize - seeds.start as usize, "{followed:?}");
}

#[test]
fn rules_that_lack_one_do_not_allow_what_real_engines_do() {
    let lacking = [
        Rules::WithoutComparingEpochs,
        Rules::WithoutOutrunningTheFormerLife,
        Rules::WithoutTellingLivesApart,
        Rules::WithoutLeavingADeadChoice,
    ];
    for rules in lacking {
        let refused = (0..100).find(|seed| follow(&history(*seed), rules, &mut Followed::default()).is_err());
        println!("{rules:?}: refused with seed {refused:?}");
        assert!(refused.is_some(), "{rules:?} would do as well");
    }
}
