//! The benchmarks: what a packet costs in the kernel program, and how long a silent cut keeps traffic out.
//!
//! `cargo xtask bench`; as root, because it loads the program and builds routers in network namespaces. What is measured
//! runs in this one process, one after the other; medians stand between the least and the greatest value seen.

#[path = "link-watcher-bench/bench_routes.rs"]
mod bench_routes;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use link_watcher::bpf;
use link_watcher_tests::lab::{Lab, monotonic_ns, setup::Setup, sweep, trial::Trial};
use serde_json::{Value, json};

/// What the benchmarks can be told.
#[derive(Parser)]
struct Arguments {
    /// Prints one JSON document instead of tables
    #[arg(long)]
    json: bool,
    /// Silent cuts at each interval
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    cuts: u32,
    /// Only the cost of a packet in the kernel program
    #[arg(long)]
    packets_only: bool,
    /// Only the time that routes take to move
    #[arg(long)]
    routes_only: bool,
}

/// Intervals of the outage table, ms; the multiplier is 3.
const INTERVALS_MS: [u64; 3] = [100, 10, 1];
/// Packets of the meter a second, a direction: what an outage is measured in.
const METER_RATE: u32 = 2000;
/// Batches of the signature in user space.
const BATCHES: usize = 201;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    sweep();
    let mut record = json!({ "version": env!("CARGO_PKG_VERSION") });
    if arguments.routes_only {
        let rows = bench_routes::rows(!arguments.json)?;
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        return Ok(());
    }
    let packets = packet_costs()?;
    if !arguments.json {
        println!("A packet in the kernel program, ns (BPF_PROG_TEST_RUN)");
        println!("  {:<34} {:>7} {:>8} {:>8} {:>8} {:>7}", "", "target", "min", "median", "max", "ratio");
        packets.iter().for_each(print_row);
    }
    record["packets"] = Value::Array(packets);
    if !arguments.packets_only {
        if !arguments.json {
            println!(
                "\nOutage of a silent cut of the active link, ms, three cables, {} cuts, both directions",
                arguments.cuts
            );
            println!("  {:<34} {:>7} {:>8} {:>8} {:>8} {:>7}", "", "target", "min", "median", "max", "ratio");
        }
        let mut outages = Vec::new();
        for interval_ms in INTERVALS_MS {
            let row = outage(interval_ms, arguments.cuts)?;
            if !arguments.json {
                print_row(&row);
            }
            outages.push(row);
        }
        record["outages"] = Value::Array(outages);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&record)?);
    }
    Ok(())
}

fn packet_costs() -> Result<Vec<Value>> {
    let object =
        link_watcher::bpf_object().context("built without the kernel program; `cargo xtask bench` builds it")?;
    let directory = PathBuf::from(format!("/sys/fs/bpf/link-watcher/bench-{}", std::process::id()));
    let measured = bpf::measure(object, Path::new(&directory), 1)?;
    let mut rows: Vec<Value> = measured.iter().map(|case| row(case.name, f64::from(case.target_ns), case.ns)).collect();
    type Yardstick = (&'static str, fn() -> f64);
    let yardsticks: [Yardstick; 2] = [
        ("the signature alone, sha2 crate, portable code", bpf::measure_sha2_portable),
        ("the signature alone, sha2 crate, this processor's code", bpf::measure_sha2),
    ];
    for (name, measure) in yardsticks {
        let mut signature: Vec<f64> = (0..BATCHES).map(|_| measure()).collect();
        let [min, median, max] = spread(&mut signature);
        rows.push(json!({ "name": name, "min": min, "median": median, "max": max }));
    }
    Ok(rows)
}

/// Cuts the active link silently again and again, at phases spread evenly over the interval.
fn outage(interval_ms: u64, cuts: u32) -> Result<Value> {
    let mut setup = Setup::cables(3, Duration::from_millis(interval_ms), 3);
    setup.hold_up = Duration::from_millis(200);
    setup.failback = Duration::from_millis(300);
    let binary = std::env::current_exe()?.with_file_name("link-watcher");
    let trial = Trial::start(Lab::new()?, setup, &binary, METER_RATE)?;
    let mut outages_ms = Vec::new();
    for cut in 0..cuts {
        // Probes leave at multiples of the interval.
        let interval_ns = interval_ms * 1_000_000;
        let phase_ns = interval_ns * u64::from(cut) / u64::from(cuts);
        let into_ns = monotonic_ns() % interval_ns;
        trial.routers.lab.pause(Duration::from_nanos((phase_ns + interval_ns - into_ns) % interval_ns))?;
        for report in trial.cut_first()? {
            outages_ms.push(report.outage_ns as f64 / 1e6);
        }
        trial.repair()?;
    }
    let name = format!("{interval_ms} ms x 3");
    Ok(row(&name, interval_ms as f64 * 3.0, spread(&mut outages_ms)))
}

/// Least, median, greatest.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    match values {
        [] => [0.0; 3],
        [first, ..] => [*first, values[values.len() / 2], values[values.len() - 1]],
    }
}

fn row(name: &str, target: f64, [min, median, max]: [f64; 3]) -> Value {
    json!({ "name": name, "target": target, "min": min, "median": median, "max": max, "ratio": median / target })
}

fn print_row(row: &Value) {
    let number = |key: &str| row[key].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let ratio = row["ratio"].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    println!(
        "  {:<34} {:>7} {:>8} {:>8} {:>8} {:>7}",
        row["name"].as_str().unwrap_or(""),
        number("target"),
        number("min"),
        number("median"),
        number("max"),
        ratio
    );
}
