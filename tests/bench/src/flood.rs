//! Packets that are not what they say, as fast as one core of the lab makes them: what they cost, and what they break.

use anyhow::{Context as _, Result};

use crate::{
    compare::{Flooded, LinkWatcher, Program as _, Round, Timers, flood, flood_of_copies},
    rig::Rig,
    table::Table,
};

const PART: &str = "Forged packets at one end of three links, as fast as a core sends";
const COPIES: &str = "Keepalives of another link copied to the one with the traffic, as fast as a core sends";
const TIMERS: [Timers; 2] = [Timers::new(50, 3), Timers::new(10, 3)];

pub(crate) fn run(rig: &Rig, table: &mut Table) -> Result<()> {
    for timers in TIMERS {
        let round = Round::start(rig, &LinkWatcher, timers)?;
        let kind = LinkWatcher.flood().context("a program without a port")?;
        add(table, PART, timers, flood(&round, &kind)?);
        add(table, COPIES, timers, flood_of_copies(&round, kind.port)?);
    }
    Ok(())
}

fn add(table: &mut Table, part: &'static str, timers: Timers, flooded: Flooded) {
    for (what, target, value) in [
        ("packets a second", None, flooded.packets_per_s),
        ("the kernel program, ns a packet", None, flooded.kernel_ns),
        ("the kernel program, % of a core", None, flooded.kernel_percent),
        ("the server's daemon, % of a core", None, flooded.processes_percent),
        ("false downs", Some(0.0), flooded.false_downs),
        ("longest outage of the traffic, ms", Some(0.0), flooded.outage_ms),
    ] {
        table.add(part, format!("{timers}: {what}"), target, &mut [value]);
    }
}
