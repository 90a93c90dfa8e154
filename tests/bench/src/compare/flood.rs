//! One program flooded with packets that are not what they say.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use link_watcher::bpf::RunTimes;
use link_watcher_lab::{Direction, End, forge::Forge, frame::Frame, monotonic_ns};

use super::{FloodKind, Round};

/// How long it lasts.
const SPAN: Duration = Duration::from_secs(5);
/// More packets a second than a core can send.
const RATE: u64 = 10_000_000;
/// Different packets of another link that are copied.
const COPIES: usize = 100;
/// How long a genuine packet is waited for: a hundred come within five seconds at the slowest interval.
const CAPTURE_LIMIT: Duration = Duration::from_secs(5);

/// What a flood did.
pub(crate) struct Flooded {
    pub(crate) packets_per_s: f64,
    /// Time of the server's processes and of its kernel program, % of a core.
    pub(crate) processes_percent: f64,
    pub(crate) kernel_percent: f64,
    /// Time of the kernel program for a packet, ns; 0 where there is none.
    pub(crate) kernel_ns: f64,
    pub(crate) false_downs: f64,
    pub(crate) outage_ms: f64,
}

impl Flooded {
    pub(crate) fn percent(&self) -> f64 {
        self.processes_percent + self.kernel_percent
    }
}

/// Floods the server on the first link, on which the traffic is as well, with one spoiled packet.
pub(crate) fn flood(round: &Round, kind: &FloodKind) -> Result<Flooded> {
    let genuine = genuine(round, 0, 1, kind.port)?;
    let junk = genuine.first().and_then(kind.spoil).context("no genuine packet was seen")?;
    flood_with(round, &[junk])
}

/// The same with copies of what another link carries, with the first link's addresses.
pub(crate) fn flood_of_copies(round: &Round, port: u16) -> Result<Flooded> {
    let template = genuine(round, 0, 1, port)?;
    let template = template.first().context("no genuine packet was seen on the first link")?;
    let others = genuine(round, 1, COPIES, port)?;
    let copies: Vec<Frame> = others.iter().filter_map(|frame| template.with_payload(frame.payload()?)).collect();
    ensure!(!copies.is_empty(), "no genuine packet was seen on the second link");
    flood_with(round, &copies)
}

/// Packets to the server on a link.
fn genuine(round: &Round, wire: usize, count: usize, port: u16) -> Result<Vec<Frame>> {
    let forge = Forge::on(&round.routers.wires[wire])?;
    forge.capture(Direction::ToServer, count, CAPTURE_LIMIT, |frame| frame.ports().is_some_and(|(_, to)| to == port))
}

fn flood_with(round: &Round, frames: &[Frame]) -> Result<Flooded> {
    let forge = Forge::on(&round.routers.wires[0])?;
    let clock = RunTimes::start().context("cannot start the kernel's clock for BPF programs")?;
    let (before, from_ns) = (round.spent(End::Server, &clock)?, monotonic_ns());
    let (false_downs, sent) = round.false_downs(|| forge.flood(Direction::ToServer, frames, RATE, SPAN))?;
    let ns = (monotonic_ns() - from_ns) as f64;
    let spent = round.spent(End::Server, &clock)?.since(before);
    ensure!(sent > 0, "not one packet was sent in {SPAN:?}");
    Ok(Flooded {
        packets_per_s: sent as f64 / ns * 1e9,
        processes_percent: spent.processes_ns / ns * 100.0,
        kernel_percent: spent.kernel_ns / ns * 100.0,
        kernel_ns: if spent.runs == 0 { 0.0 } else { spent.kernel_ns / spent.runs as f64 },
        false_downs,
        outage_ms: round.longest_outage_ms(from_ns),
    })
}
