//! The fuzzer of one target, which the environment names: `cargo xtask fuzz` runs it.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use link_watcher::fuzzing::{TARGETS, Target};

/// Names the target.
const VARIABLE: &str = "LINK_WATCHER_FUZZ_TARGET";

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let known = TARGETS.map(|target| target.name).join(", ");
            panic!("{VARIABLE}={name} is no target: {known}")
        })
    })
}

fuzz_target!(|data: &[u8]| (target().run)(data));
