//! What became of a keepalive, told to user space by aya-log as far as `AYA_LOG_LEVEL` asks for it. It is chosen at load: what
//! is not asked for is dead to the kernel's verifier, which takes it out.

use aya_log_ebpf::{
    debug, info,
    macro_support::{Level, level_enabled},
};

use link_watcher_common::verify::Refusal;

use crate::{Good, Stop};

/// Tells it: the number of the link's slot, then what.
#[inline(always)]
pub(crate) fn tell(outcome: &Result<Good, Stop>) {
    if !level_enabled(Level::Info) {
        return;
    }
    match outcome {
        Ok(Good::Probe(slot)) => good(*slot, 0),
        Ok(Good::Echo(slot)) => good(*slot, 1),
        Ok(Good::Control(slot)) => good(*slot, 2),
        Err(Stop::Refused(slot, refusal)) => refused(*slot, *refusal),
        Err(Stop::NotOurs) => {}
    }
}

/// A frame of its own: the stack of a program is 512 bytes.
#[inline(never)]
fn good(slot: u32, kind: u32) {
    if !level_enabled(Level::Debug) {
        return;
    }
    match kind {
        0 => debug!((), "{} probe answered", slot),
        1 => debug!((), "{} echo taken in", slot),
        _ => debug!((), "{} control packet passed on", slot),
    }
}

#[inline(never)]
fn refused(slot: u32, refusal: Refusal) {
    match refusal {
        Refusal::Malformed => info!((), "{} dropped: malformed", slot),
        Refusal::Unknown => info!((), "{} dropped: from an address that is no link's", slot),
        Refusal::Replayed => info!((), "{} dropped: replayed", slot),
        Refusal::Reflected => info!((), "{} dropped: reflected", slot),
        Refusal::Forged => info!((), "{} dropped: forged", slot),
        Refusal::Late => info!((), "{} dropped: late", slot),
        Refusal::Distant => info!((), "{} dropped: from too far away", slot),
        Refusal::Version => info!((), "{} dropped: another version", slot),
    }
}
