//! Loading the object: maps of the right lengths, and programs as they are needed.

use std::path::{Path, PathBuf};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError, ProgramFd},
};
use aya_log::Level;
use link_watcher_common::maps::MAX_LINKS;

use super::{Error, Hook, LinkLayer, pin::PINNED_FOR_A_MOMENT};
use crate::error::chain;

/// Maps that exist for reading and for whoever looks from outside; those with secrets and scratch are not among them.
pub(super) const PINNED_MAPS: [&str; 7] = ["LINKS", "INTENTS", "LINK_IDS", "PORTS", "COUNTERS", "TRAFFIC", "EVENTS"];
/// Least number of slots: a reload with a few more links needs no new maps.
const MIN_SLOTS: u32 = 64;

/// How many slots there will be for so many links: headroom for reloads, within [`MAX_LINKS`].
pub(super) fn slots_for(links: u32) -> u32 {
    links.saturating_mul(2).clamp(MIN_SLOTS, MAX_LINKS).next_power_of_two()
}

/// Length of the table of links: each link and its endpoint, in a table that is at most a quarter full.
pub(super) fn link_ids_len(slots: u32) -> u32 {
    8 * slots
}

/// Makes the maps and prepares the programs. `benchmark` makes the programs forget what they have seen before each packet, and undo
/// their answers, so that one packet can be repeated. `log`: what they tell of packets; the kernel's verifier takes the rest out.
pub(super) fn load(object: &[u8], slots: u32, log: Option<Level>, benchmark: bool) -> Result<Ebpf, Error> {
    load_with(object, slots, log, benchmark, &[])
}

/// Prepares programs that share the maps of others, which are pinned in a directory.
pub(super) fn load_beside(object: &[u8], slots: u32, log: Level, directory: &Path) -> Result<Ebpf, Error> {
    let pinned = PINNED_MAPS.map(|name| (name, directory.join(name)));
    let keys = ("KEYS", directory.join(PINNED_FOR_A_MOMENT));
    let shared: Vec<(&str, PathBuf)> = pinned.into_iter().chain([keys]).collect();
    load_with(object, slots, Some(log), false, &shared)
}

fn load_with(
    object: &[u8],
    slots: u32,
    log: Option<Level>,
    benchmark: bool,
    shared: &[(&str, PathBuf)],
) -> Result<Ebpf, Error> {
    let benchmark = u8::from(benchmark);
    let mut loader = EbpfLoader::new();
    for (name, path) in shared {
        loader.map_pin_path(name, path.as_path());
    }
    // The kernel's own types would only be needed to relocate accesses to them: reading them takes time and memory.
    loader.btf(None).verifier_log_level(VerifierLogLevel::DEBUG | VerifierLogLevel::STATS);
    for name in ["LINKS", "INTENTS", "KEYS", "COUNTERS", "TRAFFIC"] {
        loader.map_max_entries(name, slots);
    }
    let link_ids = link_ids_len(slots);
    loader.map_max_entries("LINK_IDS", link_ids);
    let (link_ids_mask, traffic_mask) = (link_ids - 1, slots - 1);
    loader.override_global("LINK_IDS_MASK", &link_ids_mask, true);
    loader.override_global("TRAFFIC_MASK", &traffic_mask, true);
    loader.override_global("BENCHMARK", &benchmark, true);
    let level = log.map_or(0, |level| level as u8);
    loader.override_global(aya_log::LEVEL, &level, true);
    if log.is_none() {
        // It cannot be left out; aya makes a page of it, the least that the kernel takes.
        loader.map_max_entries("AYA_LOGS", 1);
    }
    loader.load(object).map_err(|error| Error::Load(chain(&error)))
}

/// The name of the program for devices of this kind at this hook.
pub(super) fn name(hook: Hook, layer: LinkLayer) -> &'static str {
    match (hook, layer) {
        (Hook::Xdp, LinkLayer::Ethernet) => "lw_xdp_ethernet",
        (Hook::Xdp, LinkLayer::None) => "lw_xdp_ip",
        (Hook::Tc, LinkLayer::Ethernet) => "lw_tc_ethernet",
        (Hook::Tc, LinkLayer::None) => "lw_tc_ip",
    }
}

/// The program for devices of this kind at this hook, loaded at its first use: verifying one takes the kernel a while.
pub(super) fn program(ebpf: &mut Ebpf, hook: Hook, layer: LinkLayer) -> Result<&ProgramFd, Error> {
    let name = name(hook, layer);
    let program = ebpf.program_mut(name).ok_or_else(|| Error::Object(format!("has no program {name}")))?;
    if matches!(program.fd(), Err(ProgramError::NotLoaded)) {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => return Err(Error::Object(format!("has a program {name} of another type"))),
        };
        loaded.map_err(|error| Error::Load(explain(&error)))?;
    }
    program.fd().map_err(|error| Error::Load(chain(&error)))
}

/// The verifier's log is long; its last lines say what is wrong.
fn explain(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().filter(|line| !line.is_empty()).collect();
    format!("{io_error}; the kernel's verifier: {}", lines[lines.len().saturating_sub(4)..].join(" / "))
}
