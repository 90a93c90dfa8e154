//! New connections, one after another without end: for how long did they fail?

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{MissedTickBehavior, interval};

use super::flow::{Call, Failure, Flow};
use super::host::Host;
use crate::{Lab, lock, monotonic_ns};

/// Attempts remembered: 80 s at 200 a second.
const REMEMBERED: usize = 16_384;

#[derive(Debug, Clone)]
struct Attempt {
    started_ns: u64,
    /// Nothing while it goes on.
    outcome: Option<Result<IpAddr, Failure>>,
}

/// What became of the attempts that were begun within a span of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialReport {
    /// Attempts that are over.
    pub attempts: usize,
    /// How many failed.
    pub failed: usize,
    /// From the first that failed to the first begun after the last that failed: for so long new connections were not
    /// sure to succeed, ns. 0 if none failed.
    pub failing_ns: u64,
    /// How many succeeded from each address, as the server saw it.
    pub by_source: BTreeMap<IpAddr, usize>,
    /// How often each failure came.
    pub failures: BTreeMap<String, usize>,
}

/// Opens connections at a steady rate, each to be closed again when it was answered. Ends when dropped.
#[derive(Debug)]
pub struct Dialer {
    attempts: Arc<Mutex<VecDeque<Attempt>>>,
    stop: Arc<AtomicBool>,
    limit: Duration,
    /// Kept alive as long as it dials.
    _host: Arc<Host>,
}

impl Dialer {
    /// Begins to open `rate_per_s` connections a second (1 to 1,000), whether or not earlier ones have been answered.
    ///
    /// # Errors
    /// Where the rate is out of its range.
    pub fn start(host: &Arc<Host>, call: Call, rate_per_s: u32) -> Result<Dialer> {
        ensure!((1..=1000).contains(&rate_per_s), "a dialer opens 1 to 1,000 connections a second, not {rate_per_s}");
        let attempts = Arc::new(Mutex::new(VecDeque::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let dialer = Dialer {
            attempts: Arc::clone(&attempts),
            stop: Arc::clone(&stop),
            limit: call.limit,
            _host: Arc::clone(host),
        };
        host.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / rate_per_s);
            // A machine that stood still for a while is not to be flooded afterwards.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let started_ns = monotonic_ns();
                {
                    let mut attempts = lock(&attempts);
                    if attempts.len() == REMEMBERED {
                        attempts.pop_front();
                    }
                    attempts.push_back(Attempt { started_ns, outcome: None });
                }
                let attempts = Arc::clone(&attempts);
                tokio::spawn(async move {
                    let outcome = Flow::open(call).await.map(|flow| flow.source());
                    let mut attempts = lock(&attempts);
                    if let Ok(index) = attempts.binary_search_by_key(&started_ns, |attempt| attempt.started_ns) {
                        attempts[index].outcome = Some(outcome);
                    }
                });
            }
        });
        Ok(dialer)
    }

    /// What became of the attempts that were begun at or after `since_ns` (monotonic clock).
    pub fn report(&self, since_ns: u64) -> DialReport {
        report(lock(&self.attempts).iter().filter(|attempt| attempt.started_ns >= since_ns))
    }

    /// Whether every attempt that was begun at or after `since_ns` and is over has succeeded, and these reach over `steady`.
    fn is_steady(&self, since_ns: u64, steady: Duration) -> bool {
        let attempts = lock(&self.attempts);
        let mut from_ns = None;
        let mut to_ns = 0;
        for attempt in attempts.iter().rev().skip_while(|attempt| attempt.outcome.is_none()) {
            if attempt.started_ns < since_ns || !matches!(attempt.outcome, Some(Ok(_))) {
                break;
            }
            to_ns = to_ns.max(attempt.started_ns);
            from_ns = Some(attempt.started_ns);
        }
        from_ns.is_some_and(|from_ns| u128::from(to_ns - from_ns) >= steady.as_nanos())
    }

    /// Waits until new connections have succeeded without exception for `steady`, beginning after `since_ns`.
    ///
    /// # Errors
    /// When `limit` has passed before; the message says what failed last.
    pub fn wait_steady(&self, lab: &Lab, since_ns: u64, steady: Duration, limit: Duration) -> Result<()> {
        // What fails takes the call's limit to do so: only what is that old is known to have succeeded.
        let steady = steady.max(self.limit);
        lab.wait_until("new connections to succeed steadily", limit, || {
            Ok(self.is_steady(since_ns, steady).then_some(()))
        })
        .with_context(|| {
            let report = self.report(since_ns);
            format!("of {} new connections {} failed: {:?}", report.attempts, report.failed, report.failures)
        })
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn report<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> DialReport {
    let mut report = DialReport::default();
    let mut first_failed_ns = None;
    let mut failing = false;
    for attempt in attempts {
        if failing && let Some(first_ns) = first_failed_ns {
            report.failing_ns = attempt.started_ns - first_ns;
            failing = false;
        }
        match &attempt.outcome {
            None => {}
            Some(Ok(source)) => {
                report.attempts += 1;
                *report.by_source.entry(*source).or_default() += 1;
            }
            Some(Err(failure)) => {
                report.attempts += 1;
                report.failed += 1;
                *report.failures.entry(failure.to_string()).or_default() += 1;
                first_failed_ns.get_or_insert(attempt.started_ns);
                failing = true;
            }
        }
    }
    report
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn failing_lasts_from_the_first_failure_to_the_first_attempt_after_the_last() {
        let source: IpAddr = "192.0.2.2".parse().unwrap();
        let good = Some(Ok(source));
        let bad = Some(Err(Failure::Silence));
        let outcomes = [good.clone(), bad.clone(), good.clone(), bad.clone(), good.clone(), None, good];
        let attempts: Vec<_> =
            (0..).zip(outcomes).map(|(number, outcome)| Attempt { started_ns: 100 + number * 10, outcome }).collect();
        let all = report(attempts.iter());
        assert_eq!((all.attempts, all.failed, all.failing_ns), (6, 2, 30));
        assert_eq!(all.by_source[&source], 4);
        assert_eq!(all.failures["no answer"], 2);
        assert_eq!(report(attempts[..1].iter()).failing_ns, 0);
    }
}
