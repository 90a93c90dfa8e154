//! A link's slot in the tables that the verifier of packets and its prober share: how it begins, and how it ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::{
    maps::{Intent, LinkState, Party},
    window,
};

/// Prepares a slot for a link that is probed from now on, as `me`; its first probe has sequence 1.
///
/// Whatever the peer or somebody in between has kept of earlier packets stays worthless: the session is a new one, and who
/// the peer is, and which of its packets were seen, stays known.
pub fn begin(intent: &Intent<AtomicU64>, state: &LinkState<AtomicU64>, me: Party) {
    forget(state);
    intent.me.store(me.pack(), Relaxed);
    state.echo_window.store(window::EMPTY, Relaxed);
    intent.sent_sequence.store(0, Relaxed);
}

/// Ends a slot's link: from now on nothing is answered or believed in its name.
pub fn end(intent: &Intent<AtomicU64>, state: &LinkState<AtomicU64>) {
    intent.me.store(0, Relaxed);
    forget(state);
}

/// Forgets what was measured of a link.
fn forget(state: &LinkState<AtomicU64>) {
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
        neighbour,
        newest_sent_ns,
        newest_answered,
        late_echoes,
        last_late_ns,
        late_rtt_ns,
        other_version,
        echo_window: _,
        probe_window: _,
        peer: _,
        control_window: _,
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
        newest_sent_ns,
        newest_answered,
        late_echoes,
        last_late_ns,
        late_rtt_ns,
        other_version,
    ] {
        word.store(0, Relaxed);
    }
}
