//! Random lives: a list of steps is drawn from a seed and lived; one that ends badly is lived again with steps left out, until
//! the shortest that still does is found.
//!
//! | variable | what is lived |
//! |---|---|
//! | none | the lists that once ended badly |
//! | `LINK_WATCHER_HISTORIES=20` | these, and so many with fresh seeds |
//! | `LINK_WATCHER_SEED=7` | the list of this seed alone |
//! | `LINK_WATCHER_HISTORY='{"start": …, "steps": …}'` | this list alone, as a failure prints it |

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::netns::Namespace;

/// How often a list that failed is lived again, at most, to find a shorter one.
const SHRINK_RUNS: usize = 12;

/// What is lived: how it begins, and what happens then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History<S> {
    /// With which configuration, in the test's own words.
    pub start: String,
    /// In this order. One that cannot happen after those before it (mending what is not cut) is passed over: so each part of a
    /// list can be lived, too.
    pub steps: Vec<S>,
}

/// Rules and routes of a router that are neither ours nor the kernel's, as text: those marked static, and all of table 100.
///
/// # Errors
/// The commands'.
pub fn foreign_routing(router: &Namespace) -> Result<String> {
    let rules = router.command(&["ip", "-N", "-d", "rule"], "")?;
    let rules: Vec<_> = rules.lines().filter(|line| !line.contains("proto 208")).collect();
    let routes = router.ip("route show table all proto static")? + &router.ip("route show table 100")?;
    Ok(format!("{}\n{routes}", rules.join("\n")))
}

/// Draws steps: what is thrown, as far as it can happen after those before it, which `known` knows of.
pub fn draw<K, S>(
    known: &mut K,
    count: usize,
    mut throw: impl FnMut(&K) -> S,
    can: impl Fn(&K, &S) -> bool,
    note: impl Fn(&mut K, &S),
) -> Vec<S> {
    let mut steps = Vec::new();
    while steps.len() < count {
        let step = throw(known);
        if can(known, &step) {
            note(known, &step);
            steps.push(step);
        }
    }
    steps
}

/// Lives what the environment asks for, as the table above has it; `past` are lists as JSON, one a line.
///
/// # Errors
/// Where a list ends badly: its seed, its steps, and the shortest list found that ends badly, too, with the way to live it.
pub fn live_all<S>(past: &str, draw: impl Fn(u64) -> History<S>, live: impl Fn(&History<S>) -> Result<()>) -> Result<()>
where
    S: Clone + Debug + Serialize + DeserializeOwned,
{
    if let Ok(text) = std::env::var("LINK_WATCHER_HISTORY") {
        let history = serde_json::from_str(&text).context("LINK_WATCHER_HISTORY is no list of this test")?;
        return live_one("the list", &history, &live);
    }
    if let Some(seed) = number("LINK_WATCHER_SEED") {
        return live_one(&format!("seed {seed}"), &draw(seed), &live);
    }
    for (number, line) in past.lines().enumerate() {
        let history = serde_json::from_str(line).with_context(|| format!("line {} of the kept lists", number + 1))?;
        live_one(&format!("kept list {}", number + 1), &history, &live)?;
    }
    let clock_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let fresh = number("LINK_WATCHER_HISTORIES").unwrap_or_default();
    (0..fresh)
        .map(|turn| clock_ns % 1_000_000 + turn)
        .try_for_each(|seed| live_one(&format!("seed {seed}"), &draw(seed), &live))
}

/// The number that a variable of the environment gives; nothing where it gives none.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn live_one<S: Clone + Debug + Serialize>(
    what: &str,
    history: &History<S>,
    live: &impl Fn(&History<S>) -> Result<()>,
) -> Result<()> {
    println!("{what}: {}", serde_json::to_string(history)?);
    let Err(error) = survive(history, live) else {
        println!("{what}: ended well");
        return Ok(());
    };
    println!("{what}: ENDED BADLY, and is lived again with steps left out: {error:#}");
    let mut last = error;
    let (steps, runs) = shrink(&history.steps, SHRINK_RUNS, |steps| {
        let shorter = History { start: history.start.clone(), steps: steps.to_vec() };
        match survive(&shorter, live) {
            Ok(()) => false,
            Err(error) => {
                last = error;
                true
            }
        }
    });
    let shortest = History { start: history.start.clone(), steps };
    Err(anyhow!(
        "{what} ends badly\nall {} steps: {}\nthe shortest that fails, found in {runs} runs, has {}: {:?}\n\
         live it again: LINK_WATCHER_HISTORY='{}'\n{last:#}",
        history.steps.len(),
        serde_json::to_string(history)?,
        shortest.steps.len(),
        shortest.steps,
        serde_json::to_string(&shortest)?,
    ))
}

/// A panic is an error, too: what it said stands in the test's output already.
fn survive<S>(history: &History<S>, live: &impl Fn(&History<S>) -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| live(history))).unwrap_or_else(|_| Err(anyhow!("a panic, whose words are above")))
}

/// Leaves out parts of a list that fails as long as what is left does: first halves, then quarters, and so on (delta
/// debugging, A. Zeller). Asks at most `limit` times. Returns the shortest that failed, and how often was asked.
fn shrink<S: Clone>(failing: &[S], limit: usize, mut fails: impl FnMut(&[S]) -> bool) -> (Vec<S>, usize) {
    let mut left = failing.to_vec();
    let mut runs = 0;
    let mut part = left.len().div_ceil(2);
    while part > 0 {
        // From the end: what came after the fault goes first.
        let mut end = left.len();
        let mut shorter = false;
        while end > 0 {
            if runs == limit {
                return (left, runs);
            }
            let begin = end.saturating_sub(part);
            let rest = [&left[..begin], &left[end..]].concat();
            runs += 1;
            if fails(&rest) {
                left = rest;
                shorter = true;
            }
            end = begin;
        }
        part = if part == 1 && !shorter { 0 } else { part.div_ceil(2).min(left.len()) };
        if part == 1 && left.len() <= 1 {
            break;
        }
    }
    (left, runs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_steps_that_matter_are_left() {
        let all: Vec<u32> = (0..16).collect();
        let fails = |steps: &[u32]| steps.contains(&3) && steps.contains(&11);
        let (left, runs) = shrink(&all, 1000, fails);
        assert_eq!(left, [3, 11], "after {runs}");
        assert!(runs < 60, "{runs}");
    }

    #[test]
    fn it_is_bounded_and_never_longer_than_what_is_known_to_fail() {
        let all: Vec<u32> = (0..15).collect();
        let mut asked = 0;
        let (left, runs) = shrink(&all, 5, |steps| {
            asked += 1;
            steps.contains(&14)
        });
        assert_eq!((asked, runs), (5, 5));
        assert!(left.contains(&14) && left.len() < 15, "{left:?}");
        assert_eq!(shrink(&all, 12, |_| false).0, all);
        assert!(shrink(&all, 12, |_| true).0.len() <= 1);
        assert_eq!(shrink::<u32>(&[], 12, |_| true), (Vec::new(), 0));
    }

    #[test]
    fn a_list_is_read_as_it_is_printed_and_a_failure_says_how_to_live_it_again() {
        let history = History { start: "x".to_owned(), steps: vec![1_u32, 2, 3, 4] };
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History<u32>>(&text).unwrap(), history);
        let said = live_one("seed 9", &history, &|history: &History<u32>| {
            anyhow::ensure!(!history.steps.contains(&3), "three is bad");
            Ok(())
        });
        let said = format!("{:#}", said.unwrap_err());
        for part in ["seed 9", "[3]", r#"LINK_WATCHER_HISTORY='{"start":"x","steps":[3]}'"#, "three is bad"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
