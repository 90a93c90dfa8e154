//! A link's slot in the tables that the verifier of packets and its prober share: how it begins, and how it is forgotten.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::{
    maps::{Intent, LinkState},
    window,
};

/// Life of a daemon in which a link can use one sequence, ns: half of the least interval, so that orders, which send
/// probes out of turn, have their share. 2^40 of these are 18 years.
const SEQUENCE_NS: u64 = 1 << 19;

/// Prepares a slot for a link that is probed from now on, whose first probe has the sequence behind `sequence`.
///
/// Whatever the peer or somebody in between has kept of earlier packets stays worthless: sequences never start again
/// within a session, answers to earlier ones do not count, and the peer's session and sequences stay known.
pub fn begin(intent: &Intent<AtomicU64>, state: &LinkState<AtomicU64>, sequence: u64) {
    forget(state);
    state.echo_window.store(window::all_until(sequence), Relaxed);
    intent.sent_sequence.store(sequence, Relaxed);
}

/// Forgets what was measured of a link.
pub fn forget(state: &LinkState<AtomicU64>) {
    let LinkState {
        last_echo_ns,
        rtt_ns,
        srtt_ns,
        jitter_ns,
        echoes,
        last_probe_ns,
        probes,
        peer_view,
        peer_generation,
        peer_received,
        echo_window: _,
        probe_window: _,
        peer_session: _,
        control_window: _,
        neighbour,
        reserved: _,
    } = state;
    for word in [
        last_echo_ns,
        rtt_ns,
        srtt_ns,
        jitter_ns,
        echoes,
        last_probe_ns,
        probes,
        peer_view,
        peer_generation,
        peer_received,
        neighbour,
    ] {
        word.store(0, Relaxed);
    }
}

/// The sequence behind which a link that starts now begins: one for each half millisecond of the daemon's life, more than
/// any link can have used meanwhile.
pub fn first_sequence(since_start_ns: u64) -> u64 {
    (since_start_ns / SEQUENCE_NS).min(window::MAX_SEQUENCE)
}
