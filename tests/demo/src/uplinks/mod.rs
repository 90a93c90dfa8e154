//! `link-watcher demo uplinks`: a LAN, a router with three providers, the internet behind them, and real connections.
//!
//! The daemon spreads new connections by weight; the demo breaks providers in the ways in which providers break, and shows
//! for how long new connections failed, what became of those that were open, and how new ones are spread since.

mod row;
mod script;
mod stage;

use std::path::Path;

use anyhow::Result;
use link_watcher_lab::Lab;
use link_watcher_lab::uplinks::address::TARGETS;
use link_watcher_lab::uplinks::setup::{SiteSetup, icmp};

use super::paint::Paint;
use super::{Options, Verdict};
use script::Script;
use stage::Stage;

/// Rounds of probes over which loss and delay are measured.
const WINDOW: u32 = 60;
/// Of the four targets so many must answer: chance does not make two of them look good at a time.
const REQUIRED: usize = 2;
/// Beyond this an uplink is degraded, percent of the probes.
const MAX_LOSS_PERCENT: u32 = 15;

/// Builds everything, goes through all steps, and says how it went.
pub(super) fn run(lab: Lab, options: &Options, binary: &Path, paint: Paint) -> Result<Verdict> {
    let setup = setup(options);
    println!("{}", paint.strong("link-watcher demo: one LAN, three providers, real connections"));
    println!();
    println!("                  ┌── fibre (weight 5) ──┐");
    println!("  host ── router ─┼── dsl   (weight 3) ──┼── internet     200 new connections/s, and 200 held open");
    println!("                  └── lte   (weight 2) ──┘");
    println!(
        "  {} targets asked every {:?}, down after {} rounds in vain: a death may be felt for {:?} + {:?};",
        TARGETS.len(),
        setup.interval,
        setup.fall,
        setup.detection(),
        stage::ALLOWANCE
    );
    println!("  open connections: those of a dead provider are reset, all others stay where they are.");
    println!();
    let stage = match Stage::set(lab, setup, binary) {
        Ok(stage) => stage,
        Err(error) => {
            println!("{} {error:#}", paint.bad("The demo could not begin:"));
            return Ok(Verdict::Failed);
        }
    };
    Script::new(stage, paint).run()
}

/// Three providers, the third one point-to-point with an address that changes. Thresholds are in proportion to the interval,
/// so that the demo can be run faster or slower.
fn setup(options: &Options) -> SiteSetup {
    SiteSetup {
        interval: options.interval,
        fall: options.multiplier,
        probe: format!(
            "{}max-loss = \"{MAX_LOSS_PERCENT}%\"\nmax-rtt = \"{}us\"\nwindow = {WINDOW}\n",
            icmp(&TARGETS, REQUIRED),
            max_rtt(options).as_micros()
        ),
        daemon_settings: format!("engine = \"{}\"\n", options.engine),
        ..SiteSetup::with_ppp()
    }
}

/// Beyond this an uplink is degraded. The probes' timeout is the interval, so what is delayed by more is lost.
fn max_rtt(options: &Options) -> std::time::Duration {
    options.interval * 2 / 5
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_delay_that_is_shown_lies_between_the_threshold_and_the_timeout() {
        for interval_ms in [50, 100, 1000] {
            let options = Options { interval: Duration::from_millis(interval_ms), ..Options::default() };
            let delay = script::delay(options.interval) * 2;
            assert!(max_rtt(&options) < delay && delay < options.interval);
        }
    }
}
