//! Cost of a packet in the kernel program, beside the same signature in user space.

mod cases;

use anyhow::{Context as _, Result};

pub(crate) use self::cases::REPEAT;
use crate::{
    rig::Rig,
    signature,
    table::{Table, spread},
};

const PART: &str = "A packet in the kernel program, ns";
/// Where the nanoseconds go: what two cases differ by.
const PARTS: [(&str, &str, &str); 4] = [
    ("which link", "malformed", "not ours"),
    ("the signature", "forged", "replayed"),
    ("clock, window and state", "valid echo", "forged"),
    ("second signature and reply", "valid probe, answered", "valid echo"),
];
/// Batches of the signature in user space.
const BATCHES: usize = 201;
/// What the kernel program may take of the time that the portable code takes for the signature alone.
const RATIO: f64 = 1.7;

pub(crate) fn run(rig: &Rig, table: &mut Table) -> Result<()> {
    let object =
        link_watcher::bpf_object().context("built without the kernel program; `cargo xtask bench` builds it")?;
    let cases = cases::measure(object, &rig.pins, 1)?;
    for case in &cases {
        table.add(PART, case.name, Some(f64::from(case.target_ns)), &mut case.ns.clone());
    }
    let batches_of = |name| cases.iter().find(|case| case.name == name).map_or(&[][..], |case| &case.ns);
    for (name, with, without) in PARTS {
        let mut differences: Vec<_> = batches_of(with).iter().zip(batches_of(without)).map(|(a, b)| a - b).collect();
        table.add(PART, format!("{name} ({with} - {without})"), None, &mut differences);
    }
    let forged_ns = spread(&mut batches_of("forged").to_vec())[1];
    let batches = |measure: fn() -> f64| spread(&mut (0..BATCHES).map(|_| measure()).collect::<Vec<_>>());
    let portable = batches(signature::measure_sha2_portable);
    table.add_spread(PART, "the signature alone, sha2 crate, portable code", None, portable);
    let native = batches(signature::measure_sha2);
    table.add_spread(PART, "the signature alone, sha2 crate, this processor's code", None, native);
    table.add(PART, "forged to the portable code's signature, ratio", Some(RATIO), &mut [forged_ns / portable[1]]);
    Ok(())
}
