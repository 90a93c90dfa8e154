//! The steps, one after another, a line for each, and a verdict.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use link_watcher_lab::monotonic_ns;
use link_watcher_lab::tunnel::Impairment;
use link_watcher_lab::uplinks::address::{WHO_PORT, host4};
use link_watcher_lab::uplinks::flow::{Crowd, Transport};
use link_watcher_lab::uplinks::{PATIENCE, open_all};

use super::row::{Expected, head, what};
use super::stage::{ALLOWANCE, Stage};
use super::{MAX_LOSS_PERCENT, WINDOW};
use crate::Verdict;
use crate::paint::{Paint, outage};

/// Connections of which the shares are compared with the weights.
const COMPARED: usize = 1000;
/// Points by which the shares of so many may be off.
const COMPARED_POINTS: f64 = 2.0;
/// How often connections are asked again to see whether they stay.
const RECHECKS: usize = 5;
/// Visitors by each uplink.
const VISITORS: usize = 100;
/// Loss of the step that shows loss, each way, percent: 30 % of the round trips.
const LOSS_PERCENT: u32 = 16;

/// All uplinks work: their weights.
const ALL: Expected = Expected { failing: None, ended: &[], shares: [50, 30, 20] };

pub(super) struct Script {
    stage: Stage,
    paint: Paint,
    /// What a death may cost.
    bound: Duration,
    /// Longest time for which new connections failed after a death, ns.
    worst_ns: u64,
    steps: u32,
    failed: u32,
}

/// The delay of the step that shows delay, each way: beyond the threshold there and back, and within the timeout.
pub(super) fn delay(interval: Duration) -> Duration {
    interval * 3 / 10
}

impl Script {
    pub(super) fn new(stage: Stage, paint: Paint) -> Self {
        let bound = stage.site.setup.detection() + ALLOWANCE;
        Self { stage, paint, bound, worst_ns: 0, steps: 0, failed: 0 }
    }

    /// Goes through all steps.
    pub(super) fn run(mut self) -> Result<Verdict> {
        println!("{}", self.paint.strong(&head()));
        self.all_well()?;
        self.deaths()?;
        self.poor_quality()?;
        self.changes()?;
        Ok(self.verdict())
    }

    /// While all providers work.
    fn all_well(&mut self) -> Result<()> {
        let mut crowd: Option<Crowd> = None;
        self.step(&format!("{COMPARED} connections by weights 5, 3, 2"), ALL, |stage| {
            let opened = open_all(&stage.site.lan, stage.site.call(Transport::Tcp), COMPARED)?;
            let counts = stage.site.by_uplink(&opened.by_source());
            for (count, percent) in counts.iter().zip(ALL.shares) {
                let off = *count as f64 * 100.0 / COMPARED as f64 - percent as f64;
                ensure!(off.abs() <= COMPARED_POINTS, "{counts:?} of {COMPARED} are not {:?} %", ALL.shares);
            }
            crowd = Some(opened);
            Ok(format!("spread them {counts:?}"))
        })?;
        self.step(&format!("they are asked again, {RECHECKS} times"), ALL, |_| {
            let mut asked = 0;
            if let Some(crowd) = &mut crowd {
                for _ in 0..RECHECKS {
                    let held = crowd.len();
                    let same: usize = crowd.recheck()?.values().map(|fate| fate.same).sum();
                    ensure!(same == held, "{} of {held} changed their uplink or ended", held - same);
                    asked += held;
                }
            }
            Ok(format!("not one of {asked} answers came by another uplink"))
        })?;
        drop(crowd);
        self.step(&format!("{VISITORS} visitors by each provider"), ALL, |stage| {
            for provider in &stage.site.providers {
                let mut visitors = stage.site.visit(provider, Transport::Tcp, WHO_PORT, VISITORS)?;
                let same: usize = visitors.recheck()?.values().map(|fate| fate.same).sum();
                ensure!(same == VISITORS, "{same} of {VISITORS} by {} were answered", provider.name());
            }
            Ok("each answered by the provider that he came by".to_owned())
        })
    }

    /// Providers that die, in the ways in which they do.
    fn deaths(&mut self) -> Result<()> {
        let fibre = Expected { failing: Some(self.bound), ended: &["fibre"], shares: [0, 60, 40] };
        self.death("fibre dies silently", fibre, &["dsl", "lte"], |stage| {
            stage.site.provider("fibre")?.die(false).map(|_| ())
        })?;
        self.repair("fibre is repaired")?;
        let dsl = Expected { failing: Some(self.bound), ended: &["dsl"], shares: [71, 0, 29] };
        self.death("dsl's gateway answers and forwards nothing", dsl, &["fibre", "lte"], |stage| {
            stage.site.provider("dsl")?.stop_forwarding()
        })?;
        self.repair("dsl is repaired")?;
        // Connections by fibre work until it is found out, and are moved as those of a dead uplink.
        let lie = Expected { failing: Some(self.bound), ..fibre };
        self.death("fibre's targets answer by way of dsl", lie, &["dsl", "lte"], |stage| {
            let site = &stage.site;
            site.provider("fibre")?.answer_through(site.provider("dsl")?, site.internet.namespace())
        })?;
        self.repair("they answer honestly")?;
        let both = Expected { failing: Some(self.bound), ended: &["fibre", "dsl"], shares: [0, 0, 100] };
        self.death("fibre and dsl die", both, &["lte"], |stage| {
            stage.site.provider("fibre")?.die(false)?;
            stage.site.provider("dsl")?.die(true).map(|_| ())
        })?;
        self.repair("both are repaired")
    }

    /// Providers that work, but badly.
    fn poor_quality(&mut self) -> Result<()> {
        let interval = self.stage.site.setup.interval;
        // It takes its time until a window has enough losses in it.
        let failing = Some(interval * WINDOW * 2 + self.bound);
        let without_dsl = Expected { failing, ended: &[], shares: [71, 0, 29] };
        self.degraded(&format!("dsl loses 30 % (allowed: {MAX_LOSS_PERCENT} %)"), "dsl", without_dsl, |_| {
            Impairment { loss_percent: LOSS_PERCENT, delay: Duration::ZERO }
        })?;
        self.repair("dsl is repaired")?;
        let without_lte = Expected { failing: None, ended: &[], shares: [63, 37, 0] };
        self.degraded(&format!("lte takes {:?} longer", delay(interval) * 2), "lte", without_lte, |stage| {
            Impairment { loss_percent: 0, delay: delay(stage.site.setup.interval) }
        })?;
        self.repair("lte is repaired")
    }

    /// Changes that are no failures.
    fn changes(&mut self) -> Result<()> {
        let renumbered = Expected { failing: Some(self.bound), ended: &["lte"], ..ALL };
        self.changing("lte gets another address, as by PPP", renumbered, |stage| {
            let (own, peer) = (host4(2, 5), host4(2, 9));
            let router = stage.router();
            let lte = stage.site.providers.get_mut(2).context("the third provider")?;
            lte.renumber(&router, own, peer)?;
            let site = &stage.site;
            site.lab.wait_until("connections by the new address", PATIENCE, || {
                let crowd = Crowd::open(&site.lan, site.call(Transport::Tcp), 20)?;
                Ok((crowd.len() == 20 && crowd.by_source().contains_key(&own.into())).then_some(()))
            })?;
            site.wait_all_up()?;
            site.wait_active(&site.names(), PATIENCE)?;
            Ok(format!("follows: {own}"))
        })?;
        self.step("the daemon dies (kill -9)", ALL, |stage| {
            stage.site.daemon.kill();
            Ok("is not there, and all goes on".to_owned())
        })?;
        self.step("it is started again", ALL, |stage| {
            stage.site.daemon.start()?;
            stage.site.wait_all_up()?;
            stage.decision()
        })
    }

    /// A step after which exactly these uplinks are active.
    fn death(
        &mut self,
        text: &str,
        expected: Expected,
        active: &[&str],
        action: impl FnOnce(&Stage) -> Result<()>,
    ) -> Result<()> {
        self.step(text, expected, |stage| {
            action(stage)?;
            stage.site.wait_active(active, PATIENCE)?;
            stage.decision()
        })
    }

    /// A step that makes an uplink poor, but not dead.
    fn degraded(
        &mut self,
        text: &str,
        name: &str,
        expected: Expected,
        impairment: impl FnOnce(&Stage) -> Impairment,
    ) -> Result<()> {
        self.step(text, expected, |stage| {
            stage.site.provider(name)?.impair(impairment(stage));
            stage.site.wait_state(name, "degraded", PATIENCE)?;
            stage.decision()
        })
    }

    /// Mends everything, and waits until all uplinks are active again.
    fn repair(&mut self, text: &str) -> Result<()> {
        self.step(text, ALL, |stage| {
            stage.repair()?;
            stage.decision()
        })
    }

    fn step(&mut self, text: &str, expected: Expected, action: impl FnOnce(&Stage) -> Result<String>) -> Result<()> {
        self.changing(text, expected, |stage| action(stage))
    }

    /// Runs one step, prints its line, and notes whether it went as it should. A failed step does not end the script as long
    /// as the normal state can be had again.
    fn changing(
        &mut self,
        text: &str,
        expected: Expected,
        action: impl FnOnce(&mut Stage) -> Result<String>,
    ) -> Result<()> {
        self.steps += 1;
        // The step is named while it happens, and its line completed when it is over.
        print!("{}", what(text));
        let _ = std::io::stdout().flush();
        let outcome = self.stage.hold().and_then(|mut held| {
            let since_ns = monotonic_ns();
            let decision = action(&mut self.stage)?;
            Ok((decision, self.stage.cost(since_ns, &mut held)?))
        });
        let complaint = match &outcome {
            Err(error) => Some(format!("{error:#}")),
            Ok((_, cost)) => cost.complaint(&expected),
        };
        let mark = if complaint.is_none() { self.paint.good("ok  ") } else { self.paint.bad("FAIL") };
        match &outcome {
            Ok((decision, cost)) => {
                println!("{}  {mark}  {decision}", cost.columns());
                if expected.failing == Some(self.bound) {
                    self.worst_ns = self.worst_ns.max(cost.dialed.failing_ns);
                }
            }
            Err(_) => println!("{mark}"),
        }
        let Some(complaint) = complaint else {
            return Ok(());
        };
        self.failed += 1;
        println!("      {}", self.paint.bad(&complaint));
        self.stage.repair().with_context(|| format!("the normal state could not be had again after \"{text}\""))
    }

    fn verdict(&self) -> Verdict {
        println!();
        if self.failed > 0 {
            println!("{}", self.paint.faint(&self.stage.site.daemon.log_tail()));
            println!("{}", self.paint.bad(&format!("{} of {} steps failed.", self.failed, self.steps)));
            return Verdict::Failed;
        }
        println!(
            "{} After a death new connections failed for at most {}.",
            self.paint.good(&format!("All {} steps went as promised.", self.steps)),
            outage(self.worst_ns)
        );
        Verdict::Passed
    }
}
