//! What the kernel's verifier goes through until it takes a program, within a budget.
#![allow(missing_docs, clippy::unwrap_used)]

mod bpf;

use bpf::*;
use link_watcher::bpf::{Hook, Kernel, LinkLayer};

/// Instructions at most: half as many again as Linux 6.18 goes through (53,320 and 24,392), since kernels differ; it gives up at
/// a million.
const ETHERNET: u32 = 80_000;
const NO_HEADER: u32 = 36_000;
/// With all that it can tell of packets.
const TALKATIVE: u32 = 300_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_program_is_verified_within_its_budget() {
    let bench = Bench::new(v4());
    within(bench, [ETHERNET, NO_HEADER]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_talkative_programs_are_verified_within_theirs() {
    let kernel = Kernel::load_talkative(&object(), &directory(), 8, aya_log::Level::Debug).unwrap();
    within(Bench::with(kernel, v4()), [TALKATIVE; 2]);
}

fn within(mut bench: Bench, [ethernet, no_header]: [u32; 2]) {
    for (hook, layer, budget) in [
        (Hook::Xdp, LinkLayer::Ethernet, ethernet),
        (Hook::Xdp, LinkLayer::None, no_header),
        (Hook::Tc, LinkLayer::Ethernet, ethernet),
        (Hook::Tc, LinkLayer::None, no_header),
    ] {
        let verified = bench.kernel().verified_instructions(hook, layer).unwrap();
        println!("{hook:?} {layer:?}: {verified:?} of {budget} instructions");
        // Nothing: a kernel before Linux 5.16, which does not tell.
        if let Some(verified) = verified {
            assert!(verified <= budget, "{hook:?} {layer:?}: {verified} instructions, and the budget is {budget}");
        }
    }
}
