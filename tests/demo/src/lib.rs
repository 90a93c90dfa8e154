//! `link-watcher demo`: routers, real daemons and real packets on this machine. The command is a thin door to it.
//!
//! `peer` is two routers and three links; `uplinks` a LAN with three providers (`uplinks`). Everything happens in network
//! namespaces that are removed at the end, however it ends. `peer` is live with a terminal, and keys break the links
//! (`live`); otherwise, or with `--script`, a demo goes through its steps by itself (`script`) and its verdict says whether
//! traffic recovered each time as it should.

mod attack;
mod live;
mod paint;
mod script;
mod stage;
mod uplinks;

use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::{Lab, NeedsRoot};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use paint::Paint;
use stage::Stage;

/// What the demo shall do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Go through the steps even where there is a terminal.
    pub script: bool,
    /// Interval of the keepalives, 1 ms to 60 s, or of the uplinks' probes.
    pub interval: Duration,
    /// Silence for interval × multiplier means that a link is down; an uplink after so many rounds without an answer.
    pub multiplier: u32,
    /// Engine of the daemons: `auto`, `xdp`, `tc` or `socket`.
    pub engine: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { script: false, interval: Duration::from_millis(100), multiplier: 3, engine: "auto".to_owned() }
    }
}

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Traffic recovered each time, within what was promised; or somebody played and quit.
    Passed,
    /// Some step did not recover, or not as promised. The output says which.
    Failed,
}

/// Why a demo did not come to its verdict.
#[derive(Debug)]
pub struct Error(anyhow::Error);

impl Error {
    /// Who runs it lacks the privilege for it.
    pub fn needs_root(&self) -> bool {
        self.0.downcast_ref::<NeedsRoot>().is_some()
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Error {}

/// Runs the demo of two peers with the running program as the daemon's binary.
///
/// # Errors
///
/// Without privilege ([`Error::needs_root`]), where the lab cannot be built, the daemons do not start, or the demo is
/// interrupted.
pub fn run_peer(options: &Options) -> Result<Verdict, Error> {
    let (lab, binary) = prepare()?;
    let paint = Paint::for_stdout();
    let setup = Setup {
        interval: options.interval,
        multiplier: options.multiplier,
        engine: options.engine.clone(),
        ..Setup::default()
    };
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if options.script || !terminal {
        return Ok(script::run(lab, setup, &binary, paint)?);
    }
    println!("Building two routers, three links and hosts behind both …");
    let stage = Stage::set(lab, setup, &binary)?;
    Ok(live::run(&stage, paint)?)
}

/// Runs the demo of uplinks likewise.
///
/// # Errors
///
/// As [`run_peer`].
pub fn run_uplinks(options: &Options) -> Result<Verdict, Error> {
    let (lab, binary) = prepare()?;
    Ok(uplinks::run(lab, options, &binary, Paint::for_stdout())?)
}

/// An empty lab that signals interrupt, and the daemon's binary.
fn prepare() -> Result<(Lab, PathBuf)> {
    let binary = std::env::current_exe().context("cannot find the running program")?;
    let lab = Lab::new()?;
    // From here on a signal makes whatever the lab waits for fail, and everything is dropped on the way out.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&lab.interrupt())).context("cannot handle signals")?;
    }
    Ok((lab, binary))
}
