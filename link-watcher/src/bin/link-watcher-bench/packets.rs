//! Cost of a packet in the kernel program, beside the same signature in user space.

use anyhow::{Context as _, Result};
use link_watcher::bpf;

use crate::{
    rig::Rig,
    table::{Table, spread},
};

const PART: &str = "A packet in the kernel program, ns";
/// Batches of the signature in user space.
const BATCHES: usize = 201;
/// What the kernel program may take of the time that the portable code takes for the signature alone.
const RATIO: f64 = 1.7;

pub(crate) fn run(rig: &Rig, table: &mut Table) -> Result<()> {
    let object =
        link_watcher::bpf_object().context("built without the kernel program; `cargo xtask bench` builds it")?;
    let mut forged_ns = 0.0;
    for case in bpf::measure(object, &rig.pins, 1)? {
        if case.name == "forged" {
            forged_ns = case.ns[1];
        }
        table.add_spread(PART, case.name, Some(f64::from(case.target_ns)), case.ns);
    }
    let batches = |measure: fn() -> f64| spread(&mut (0..BATCHES).map(|_| measure()).collect::<Vec<_>>());
    let portable = batches(bpf::measure_sha2_portable);
    table.add_spread(PART, "the signature alone, sha2 crate, portable code", None, portable);
    let native = batches(bpf::measure_sha2);
    table.add_spread(PART, "the signature alone, sha2 crate, this processor's code", None, native);
    table.add(PART, "forged to the portable code's signature, ratio", Some(RATIO), &mut [forged_ns / portable[1]]);
    Ok(())
}
