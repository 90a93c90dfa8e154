//! What the kernel's verifier goes through until it takes a program, beside what it went through when it was last looked at.
#![allow(missing_docs, clippy::unwrap_used)]

mod bpf;

use bpf::*;
use link_watcher::bpf::{Hook, Kernel, LinkLayer};

/// The programs, in the order of the record.
const PROGRAMS: [(Hook, LinkLayer); 4] = [
    (Hook::Xdp, LinkLayer::Ethernet),
    (Hook::Xdp, LinkLayer::None),
    (Hook::Tc, LinkLayer::Ethernet),
    (Hook::Tc, LinkLayer::None),
];

/// Instructions that a series of kernels goes through.
struct Record {
    series: &'static str,
    quiet: [u32; 4],
    /// With all that it can tell of packets.
    talkative: [u32; 4],
}

/// A tenth more fails: what a change of the program costs shall be seen. Kernels give up at a million.
const RECORDS: [Record; 3] = [
    Record { series: "6.12", quiet: [45_336, 22_573, 44_019, 22_455], talkative: [72_197, 49_444, 70_831, 49_271] },
    Record { series: "6.18", quiet: [49_408, 23_366, 47_617, 23_018], talkative: [76_207, 52_952, 74_575, 52_391] },
    Record { series: "7.2", quiet: [55_721, 24_508, 54_941, 24_482], talkative: [82_963, 51_768, 82_059, 51_567] },
];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_program_is_verified_within_its_budget() {
    let bench = Bench::new(v4());
    within(bench, |record| record.quiet);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_talkative_programs_are_verified_within_theirs() {
    let kernel = Kernel::load_talkative(&object(), &directory(), 8, aya_log::Level::Debug).unwrap();
    within(Bench::with(kernel, v4()), |record| record.talkative);
}

fn within(mut bench: Bench, which: impl Fn(&Record) -> [u32; 4]) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let series = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let known = RECORDS.iter().find(|record| record.series == series);
    for (number, (hook, layer)) in PROGRAMS.into_iter().enumerate() {
        let budget = match known {
            Some(record) => which(record)[number] / 10 * 11,
            // Half as many again as the most: kernels differ by less.
            None => RECORDS.iter().map(|record| which(record)[number]).max().unwrap() / 2 * 3,
        };
        let verified = bench.kernel().verified_instructions(hook, layer).unwrap();
        println!("Linux {release}, {hook:?} {layer:?}: {verified:?} of {budget} instructions");
        // Nothing: a kernel before Linux 5.16, which does not tell.
        if let Some(verified) = verified {
            assert!(verified <= budget, "{hook:?} {layer:?}: {verified} instructions, and the budget is {budget}");
        }
    }
}
