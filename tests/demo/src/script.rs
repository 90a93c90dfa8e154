//! The demo without anybody at the keys: one step after another, a line for each, and a verdict.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use link_watcher_common::window::WINDOW;
use link_watcher_lab::meter::Report;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::PATIENCE;
use link_watcher_lab::{Direction, End, Lab, monotonic_ns};

use super::Verdict;
use super::attack::{self, Attack};
use super::paint::{Paint, outage};
use super::stage::Stage;

/// What a cut may take beyond interval × multiplier and one interval: changing the routes, the meter's precision at both
/// ends of an outage, and being woken late on a busy machine.
const ALLOWANCE: Duration = Duration::from_millis(20);

/// What a step may cost.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// No outage longer than this in either direction.
    Outage(Duration),
    /// Not a single packet.
    NothingLost,
}

/// Goes through all steps.
pub(super) fn run(lab: Lab, setup: Setup, binary: &Path, paint: Paint) -> Result<Verdict> {
    let detection = setup.detection();
    let bound = detection + setup.interval + ALLOWANCE;
    println!("{}", paint.strong("link-watcher demo: two routers, three links, real packets"));
    println!();
    println!(
        "  hosts ── client ══ optic, wifi, tunnel ══ server ── hosts     1000 packets/s each way between the hosts"
    );
    println!(
        "  keepalives every {:?}, down after {} missed: a cut may cost {:?} + {:?} + {ALLOWANCE:?} = {:?};",
        setup.interval, setup.multiplier, detection, setup.interval, bound
    );
    println!("  a planned move may cost no packet.");
    println!();
    let stage = match Stage::set(lab, setup, binary) {
        Ok(stage) => stage,
        Err(error) => {
            println!("{} {error:#}", paint.bad("The demo could not begin:"));
            return Ok(Verdict::Failed);
        }
    };
    let engine = stage.snapshot(End::Client)?.engine;
    println!("  {} carries the traffic; engine: {engine}", stage.trial.first());
    println!();
    println!("{}", paint.strong(&line("what happens", "out to server", "to client", "lost", "", "link-watcher")));
    let mut script = Script { stage, paint, bound: Bound::Outage(bound), worst_ns: 0, steps: 0, failed: 0 };
    script.cuts()?;
    script.orders()?;
    script.attacks()?;
    script.crash()?;
    Ok(script.verdict())
}

/// A line of the table.
fn line(what: &str, to_server: &str, to_client: &str, lost: &str, mark: &str, decision: &str) -> String {
    format!("  {what:<44} {to_server:>13} {to_client:>10} {lost:>6}  {mark:<4}  {decision}").trim_end().to_owned()
}

struct Script {
    stage: Stage,
    paint: Paint,
    /// What a cut may cost.
    bound: Bound,
    /// Longest outage of a step that may have one, ns.
    worst_ns: u64,
    steps: u32,
    failed: u32,
}

impl Script {
    /// Cuts of every kind, each followed by a repair.
    fn cuts(&mut self) -> Result<()> {
        let names: Vec<_> = self.stage.routers().setup.links.iter().map(|link| link.name.clone()).collect();
        let [optic, wifi, tunnel] = [&names[0], &names[1], &names[2]];
        self.cut(&format!("{optic} cut silently"), wifi, |stage| stage.routers().wire(optic)?.cut().map(|_| ()))?;
        self.cut(&format!("{wifi} cut silently as well"), tunnel, |stage| {
            stage.routers().wire(wifi)?.cut().map(|_| ())
        })?;
        self.repair("both repaired")?;
        for (direction, words) in [(Direction::ToServer, "client to server"), (Direction::ToClient, "server to client")]
        {
            self.cut(&format!("{optic} cut from {words} only"), wifi, |stage| {
                stage.routers().wire(optic)?.cut_one_way(direction).map(|_| ())
            })?;
            self.repair(&format!("{optic} repaired"))?;
        }
        for (end, words) in [(End::Client, "client"), (End::Server, "server")] {
            self.cut(&format!("{optic} loses its carrier at the {words}"), wifi, |stage| {
                stage.routers().wire(optic)?.cut_carrier(end).map(|_| ())
            })?;
            self.repair(&format!("{optic} repaired"))?;
        }
        Ok(())
    }

    /// What an operator asks for.
    fn orders(&mut self) -> Result<()> {
        let names: Vec<_> = self.stage.routers().setup.links.iter().map(|link| link.name.clone()).collect();
        let [optic, wifi, tunnel] = [&names[0], &names[1], &names[2]];
        self.planned(&format!("{optic} drained"), wifi, |stage| stage.order("drain", optic))?;
        self.planned(&format!("{optic} back in service"), optic, |stage| stage.order("undrain", optic))?;
        self.planned(&format!("switched to {tunnel} by hand"), tunnel, |stage| stage.order("switch", tunnel))?;
        self.planned("switched to automatic", optic, |stage| stage.order("switch", "auto"))
    }

    /// Packets that are not what they seem.
    fn attacks(&mut self) -> Result<()> {
        let optic = self.stage.trial.first().to_owned();
        let loot = attack::capture(&self.stage, &optic)?;
        for attack in Attack::ALL {
            self.ignored(&format!("{} {} keepalives to each router", attack::PACKETS, attack.name()), |stage| {
                attack::launch(stage, &optic, attack, &loot)
            })?;
        }
        Ok(())
    }

    /// A daemon dies and comes back.
    fn crash(&mut self) -> Result<()> {
        let optic = self.stage.trial.first().to_owned();
        let loot = attack::capture(&self.stage, &optic)?;
        self.unmoved("the server's daemon dies (kill -9)", |stage| {
            stage.routers().server_daemon.kill();
            stage.routers().lab.wait_until("the client to notice", PATIENCE, || {
                let group = stage.group(End::Client)?;
                let links = group.links.iter().filter(|link| link.usable).count();
                let noticed = group.peer_silence_s.filter(|_| links == group.links.len());
                Ok(noticed.map(|seconds| {
                    format!("the client notices: a silent daemon ({seconds} s) behind {links} good links")
                }))
            })
        })?;
        self.unmoved("it is started again", |stage| {
            // It runs where the step before failed and the normal state was had again.
            if stage.routers().server_daemon.pid().is_none() {
                stage.routers().server_daemon.start()?;
            }
            stage.trial.wait_normal()?;
            let group = stage.group(End::Server)?;
            Ok(format!("the server adopts its routes, {} installed", group.routes.installed))
        })?;
        self.ignored("packets from before the crash, replayed", |stage| {
            // A daemon that has just started answers a probe that it has not seen, once, as long as it is among the last few; that
            // says nothing to anybody, but it is not counted as a replay.
            stage.routers().lab.pause(stage.routers().setup.interval * (WINDOW as u32 + 1))?;
            attack::launch(stage, &optic, Attack::Replayed, &loot)
        })?;
        self.unmoved("the client's daemon stops and starts", |stage| {
            stage.routers().client_daemon.stop()?;
            stage.routers().client_daemon.start()?;
            stage.trial.wait_normal()?;
            Ok(format!("the client adopts its routes, {} installed", stage.group(End::Client)?.routes.installed))
        })
    }

    /// A step that breaks the active link.
    fn cut(&mut self, what: &str, expected: &str, action: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
        self.moving(what, expected, self.bound, action)
    }

    /// A step after which traffic moves without a loss.
    fn planned(&mut self, what: &str, expected: &str, action: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
        self.moving(what, expected, Bound::NothingLost, action)
    }

    fn moving(
        &mut self,
        what: &str,
        expected: &str,
        bound: Bound,
        action: impl FnOnce(&Stage) -> Result<()>,
    ) -> Result<()> {
        self.step(what, bound, |stage| {
            let from = stage.group(End::Client)?.active.join(" + ");
            action(stage)?;
            stage.routers().wait_active(expected, PATIENCE)?;
            stage.decision(&from)
        })
    }

    /// Mends everything, and waits until traffic has come back to the first link.
    fn repair(&mut self, what: &str) -> Result<()> {
        self.step(what, Bound::NothingLost, |stage| {
            let from = stage.group(End::Client)?.active.join(" + ");
            for wire in &stage.routers().wires {
                wire.mend()?;
            }
            stage.trial.wait_normal()?;
            stage.decision(&from)
        })
    }

    /// A step that is to leave the traffic where it is.
    fn unmoved(&mut self, what: &str, action: impl FnOnce(&Stage) -> Result<String>) -> Result<()> {
        self.step(what, Bound::NothingLost, |stage| {
            let before = stage.group(End::Client)?.active;
            let decision = action(stage)?;
            let after = stage.group(End::Client)?.active;
            ensure!(before == after, "traffic moved from {} to {}", before.join(" + "), after.join(" + "));
            Ok(format!("{decision}; stays on {}", after.join(" + ")))
        })
    }

    /// A step that is to change nothing: no link goes down at either end, and traffic stays where it is.
    fn ignored(&mut self, what: &str, action: impl FnOnce(&Stage) -> Result<String>) -> Result<()> {
        self.unmoved(what, |stage| {
            let flaps = || -> Result<u64> {
                let groups = [stage.group(End::Client)?, stage.group(End::Server)?];
                Ok(groups.iter().flat_map(|group| &group.links).map(|link| link.flaps).sum())
            };
            let before = flaps()?;
            let decision = action(stage)?;
            let after = flaps()?;
            ensure!(before == after, "links went down {} times", after - before);
            Ok(decision)
        })
    }

    /// Runs one step, prints its line, and notes whether it went as it should. A failed step does not end the script as long
    /// as the normal state can be had again.
    fn step(&mut self, what: &str, bound: Bound, action: impl FnOnce(&Stage) -> Result<String>) -> Result<()> {
        self.steps += 1;
        // The step is named while it happens, and its line completed when it is over.
        print!("  {what:<44} ");
        let _ = std::io::stdout().flush();
        let since_ns = monotonic_ns();
        let result = action(&self.stage).and_then(|decision| {
            self.stage.trial.wait_steady(monotonic_ns())?;
            Ok(decision)
        });
        let reports = self.stage.trial.reports(since_ns);
        let complaint = match &result {
            Err(error) => Some(format!("{error:#}")),
            Ok(_) => complaint(bound, &reports),
        };
        if let Bound::Outage(_) = bound {
            self.worst_ns = reports.iter().map(|report| report.outage_ns).max().unwrap_or(0).max(self.worst_ns);
        }
        let mark = if complaint.is_none() { self.paint.good("ok  ") } else { self.paint.bad("FAIL") };
        println!(
            "{:>13} {:>10} {:>6}  {mark}  {}",
            outage(reports[0].outage_ns),
            outage(reports[1].outage_ns),
            reports[0].lost + reports[1].lost,
            result.as_deref().unwrap_or("")
        );
        let Some(complaint) = complaint else {
            return Ok(());
        };
        self.failed += 1;
        println!("      {}", self.paint.bad(&complaint));
        self.recover().with_context(|| format!("the normal state could not be had again after \"{what}\""))
    }

    /// Brings everything back to the normal state after a step that failed.
    fn recover(&self) -> Result<()> {
        for wire in &self.stage.routers().wires {
            wire.mend()?;
        }
        for end in [End::Client, End::Server] {
            let daemon = self.stage.routers().daemon(end);
            if daemon.pid().is_none() {
                daemon.start()?;
            }
        }
        for link in &self.stage.routers().setup.links {
            self.stage.order("undrain", &link.name)?;
        }
        self.stage.order("switch", "auto")?;
        self.stage.trial.wait_normal()
    }

    fn verdict(&self) -> Verdict {
        println!();
        if self.failed > 0 {
            for end in [End::Client, End::Server] {
                println!("{}", self.paint.faint(&self.stage.routers().daemon(end).log_tail()));
            }
            println!("{}", self.paint.bad(&format!("{} of {} steps failed.", self.failed, self.steps)));
            return Verdict::Failed;
        }
        println!(
            "{} The longest outage of a cut was {}.",
            self.paint.good(&format!("All {} steps recovered.", self.steps)),
            outage(self.worst_ns)
        );
        Verdict::Passed
    }
}

/// What is wrong with a step's losses, if anything.
fn complaint(bound: Bound, reports: &[Report; 2]) -> Option<String> {
    match bound {
        Bound::Outage(limit) => {
            let worst_ns = reports.iter().map(|report| report.outage_ns).max()?;
            (u128::from(worst_ns) > limit.as_nanos())
                .then(|| format!("traffic was out for {}, more than {limit:?}", outage(worst_ns)))
        }
        Bound::NothingLost => {
            let lost: u64 = reports.iter().map(|report| report.lost).sum();
            (lost > 0).then(|| format!("{lost} packets were lost where none may be"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_measured_by_its_outage_and_a_planned_move_by_its_losses() {
        let lost = Report { lost: 300, outage_ns: 300_000_000, ..Report::default() };
        let limit = Bound::Outage(Duration::from_millis(310));
        assert_eq!(complaint(limit, &[lost, Report::default()]), None);
        let long = Report { outage_ns: 310_000_001, ..lost };
        assert!(complaint(limit, &[Report::default(), long]).is_some());
        assert!(complaint(Bound::NothingLost, &[Report::default(), Report { lost: 1, ..lost }]).is_some());
        assert_eq!(complaint(Bound::NothingLost, &[Report::default(); 2]), None);
    }

    #[test]
    fn the_table_is_aligned() {
        let header = line("what happens", "out to server", "to client", "lost", "", "link-watcher");
        let row = line("optic cut silently", "312.0 ms", "311.0 ms", "623", "ok", "optic -> wifi");
        assert_eq!(header.find("link-watcher"), row.find("optic -> wifi"));
    }
}
