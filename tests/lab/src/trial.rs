//! Two routers at work: daemons and traffic run, the first link carries it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::meter::{Meter, Report};
use super::routers::TwoRouters;
use super::setup::Setup;
use super::{Direction, Lab, Moment, monotonic_ns};

/// Traffic has recovered when every packet has passed for so long.
const STEADY: Duration = Duration::from_millis(150);
/// The longest that anything here may take: starting, failing back, adopting.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Two routers at work. Removed when dropped.
#[derive(Debug)]
pub struct Trial {
    /// The traffic. The first field: it ends before the namespaces that it is in.
    pub meter: Meter,
    /// The routers and their daemons.
    pub routers: TwoRouters,
}

impl Trial {
    /// Builds the routers, starts daemons and traffic (`rate_per_s` packets each way), and waits for the normal state.
    ///
    /// # Errors
    /// Where the lab cannot be built, a daemon does not start, or the links do not come up.
    pub fn start(lab: Lab, setup: Setup, binary: &Path, rate_per_s: u32) -> Result<Trial> {
        let routers = TwoRouters::build_in(lab, setup, binary)?;
        routers.start_daemons()?;
        let trial = Trial { meter: routers.meter(rate_per_s)?, routers };
        trial.wait_normal().context("the links did not come up")?;
        Ok(trial)
    }

    /// The name of the link that is preferred.
    pub fn first(&self) -> &str {
        &self.routers.setup.links[0].name
    }

    /// Waits for the normal state: all links usable, the first active at both ends, traffic steady.
    ///
    /// # Errors
    /// When it does not come about.
    pub fn wait_normal(&self) -> Result<()> {
        self.routers.wait_all_usable(PATIENCE)?;
        self.routers.wait_active(self.first(), PATIENCE)?;
        self.wait_steady(monotonic_ns())
    }

    /// Waits until traffic has passed both ways without a loss for a while, beginning after `since_ns`.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_steady(&self, since_ns: u64) -> Result<()> {
        self.meter.wait_steady(&self.routers.lab, since_ns, STEADY, PATIENCE)
    }

    /// What became of the packets sent since `since_ns`, to the server and to the client.
    pub fn reports(&self, since_ns: u64) -> [Report; 2] {
        Direction::BOTH.map(|direction| self.meter.report(direction, since_ns))
    }

    /// Carries out `change`, waits until `link` carries the traffic at both ends and traffic is steady, and says what it cost.
    ///
    /// # Errors
    /// Where the change fails, or traffic does not recover.
    pub fn measure(&self, link: &str, change: impl FnOnce(&TwoRouters) -> Result<()>) -> Result<[Report; 2]> {
        let since_ns = monotonic_ns();
        change(&self.routers)?;
        self.routers.wait_active(link, PATIENCE)?;
        self.wait_steady(monotonic_ns())?;
        Ok(self.reports(since_ns))
    }

    /// Cuts the first link silently and says what it cost until the second carried the traffic.
    ///
    /// # Errors
    /// As [`Trial::measure`].
    pub fn cut_first(&self) -> Result<[Report; 2]> {
        let second = &self.routers.setup.links[1].name;
        self.measure(second, |routers| routers.wires[0].cut().map(|_: Moment| ()))
    }

    /// Mends everything, and says what the return to the first link cost.
    ///
    /// # Errors
    /// As [`Trial::measure`].
    pub fn repair(&self) -> Result<[Report; 2]> {
        let since_ns = monotonic_ns();
        for wire in &self.routers.wires {
            wire.mend()?;
        }
        self.wait_normal()?;
        Ok(self.reports(since_ns))
    }
}
