//! The benchmarks: what a packet costs in the kernel program, how long an outage keeps traffic out, and what many links take.
//!
//! `cargo xtask bench`; as root, because it loads the program and builds routers in network namespaces. Medians stand
//! between the least and the greatest value seen. Nothing is left behind, also when it is interrupted.

mod compare;
mod flood;
mod forward;
mod outage;
mod packets;
mod record;
mod rig;
mod routes;
mod scale;
mod signature;
mod sink;
mod stack;
mod table;
mod watched;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use link_watcher_lab::sweep;
use rig::Rig;
use scale::Load;
use table::Table;

/// What the benchmarks can be told.
#[derive(Parser)]
struct Arguments {
    /// Prints one JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Cuts of each kind
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    cuts: u32,
    /// Seconds in which nothing is cut, at 1 ms × 3: is a link taken for dead?
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    quiet: u64,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these numbers of links at these intervals in ms, such as 1000x100 (`--only scale`)
    #[arg(long, value_name = "LINKSxMS", value_delimiter = ',')]
    load: Vec<Load>,
    /// Only the cost of a packet in the kernel program (`--only packets`)
    #[arg(long)]
    packets_only: bool,
    /// The comparison with other programs, or with these of them; other parts only where `--only` names them
    #[arg(long, value_enum, value_name = "PROGRAM", num_args = 0.., require_equals = true, value_delimiter = ',')]
    compare: Option<Vec<compare::Name>>,
    /// Adds the results to the history in performance.md of this directory, and draws its chart if every part was run
    #[arg(long, value_name = "DIRECTORY")]
    record: Option<PathBuf>,
}

/// A part of the benchmarks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Cost of a packet in the kernel program
    Packets,
    /// Forged packets by the hundred thousand
    Flood,
    /// Forwarded packets: through the table of an uplinks group
    Forward,
    /// Outages
    Outage,
    /// Moving one to a million prefixes in the kernel
    Routes,
    /// One to a thousand links, start, memory
    Scale,
    /// Packets that come in by a peer's link
    Watched,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    sweep();
    let rig = Rig::new()?;
    let mut table = Table::new(!arguments.json);
    let wanted = |part: Part| match (arguments.packets_only, arguments.only.as_slice()) {
        (true, _) => part == Part::Packets,
        (false, []) => arguments.compare.is_none() && (arguments.load.is_empty() || part == Part::Scale),
        (false, only) => only.contains(&part),
    };
    let whole = Part::value_variants().iter().all(|part| wanted(*part));
    if wanted(Part::Packets) {
        packets::run(&rig, &mut table)?;
    }
    if wanted(Part::Flood) {
        flood::run(&rig, &mut table)?;
    }
    if wanted(Part::Forward) {
        forward::run(&rig, &mut table)?;
    }
    if wanted(Part::Watched) {
        watched::run(&rig, &mut table)?;
    }
    if wanted(Part::Outage) {
        outage::run(&rig, &mut table, arguments.cuts, arguments.quiet)?;
    }
    if wanted(Part::Routes) {
        routes::run(&rig, &mut table)?;
    }
    if wanted(Part::Scale) {
        scale::run(&rig, &mut table, &arguments.load)?;
    }
    if let Some(programs) = &arguments.compare {
        compare::run(&rig, &mut table, programs, arguments.cuts)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&table.record())?);
    }
    match arguments.record {
        Some(directory) => record::write(&directory, &table, whole),
        None => Ok(()),
    }
}
