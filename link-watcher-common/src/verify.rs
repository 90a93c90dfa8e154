//! The checks of a received packet in order of cost, what a good one changes, and the echo. XDP, tc and the socket
//! engine all run this code.
//!
//! Three steps, so that a caller can count and time them apart:
//!
//! 1. [`screen`]: everything that needs no signature. A replay ends here, at a few nanoseconds.
//! 2. [`authentic`]: the signature.
//! 3. [`commit`]: the windows move, once for each packet even where two CPUs hold copies, and the state is written.
//!
//! # What counts as what
//!
//! * An **echo** counts if it carries my session and a sequence that I sent and that was not answered yet. It alone
//!   proves to be fresh, so it alone teaches the peer's session.
//! * A **probe** of the learned session with a new sequence is answered; if it carries my session too, the peer is heard.
//! * A probe of another session is answered only while nobody is alive on the link: so a peer that restarts learns my
//!   session, and what was captured before a restart gets nowhere. It changes nothing.
//! * A **control** packet needs both sessions and a new sequence.
//! * A packet that carries my own role is my own, mirrored.

use crate::{
    maps::{Intent, KeySet, KeyState, LinkState, MAX_KEYS, View, Word},
    window,
    wire::{Header, Kind, flags},
};

/// Why a packet to our port is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No packet of ours, by length or content.
    Malformed,
    /// From an address that is no link's.
    Unknown,
    /// Seen before, too old, or of a session that is over.
    Replayed,
    /// My own, mirrored; or both ends have the same role.
    Reflected,
    /// The signature is wrong, or its key unknown.
    Forged,
    /// A valid probe while the daemon's lease has run out.
    Unleased,
}

/// A packet that passed [`screen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Answers a probe of mine.
    Echo,
    /// Of the learned session; `heard`: the peer knows my session.
    Probe {
        /// Whether it carries my session.
        heard: bool,
    },
    /// Of a session that I do not know, while nobody is alive: answered, counted for nothing.
    Stranger,
    /// For user space.
    Control,
}

/// What a good packet did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A probe of mine was answered. `changed`: the peer says something new of this link, or is a new session.
    Alive {
        /// Whether user space wants to look before its next tick.
        changed: bool,
    },
    /// Send [`echo`] back. `changed` as above.
    Answer {
        /// Whether user space wants to look before its next tick.
        changed: bool,
    },
    /// Hand it to user space.
    Deliver,
}

/// Checks everything that needs no signature, and asks for nothing before it decides: in BPF a look at the clock costs as much
/// as the rest, and the lease is in a map of its own.
///
/// # Errors
///
/// [`Refusal::Reflected`], [`Refusal::Replayed`] or [`Refusal::Unleased`]; see the module.
#[inline(always)]
pub fn screen<W: Word>(
    header: &Header,
    intent: &Intent<W>,
    state: &LinkState<W>,
    lease_until_ns: impl FnOnce() -> u64,
    now_ns: impl FnOnce() -> u64,
) -> Result<Candidate, Refusal> {
    let mine = View::unpack(intent.view.load());
    if (header.flags ^ mine.flags) & flags::CLIENT == 0 {
        return Err(Refusal::Reflected);
    }
    let addressed_to_me = u64::from(header.receiver_session) == intent.session.load();
    let known = || u64::from(header.sender_session) == state.peer_session.load();
    match header.kind {
        Kind::Echo => {
            let unanswered = addressed_to_me
                && header.sequence <= intent.sent_sequence.load()
                && window::accept(state.echo_window.load(), header.sequence).is_some();
            if unanswered { Ok(Candidate::Echo) } else { Err(Refusal::Replayed) }
        }
        Kind::Probe => {
            let known = known();
            if known && window::accept(state.probe_window.load(), header.sequence).is_none() {
                return Err(Refusal::Replayed);
            }
            let now_ns = now_ns();
            if !known && alive(intent, state, now_ns) {
                return Err(Refusal::Replayed);
            }
            if now_ns >= lease_until_ns() {
                return Err(Refusal::Unleased);
            }
            if known { Ok(Candidate::Probe { heard: addressed_to_me }) } else { Ok(Candidate::Stranger) }
        }
        Kind::Announce | Kind::AnnounceAck | Kind::Notice => {
            let new =
                addressed_to_me && known() && window::accept(state.control_window.load(), header.sequence).is_some();
            if new { Ok(Candidate::Control) } else { Err(Refusal::Replayed) }
        }
    }
}

/// Whether the learned peer has answered within the detection time.
#[inline(always)]
fn alive<W: Word>(intent: &Intent<W>, state: &LinkState<W>, now_ns: u64) -> bool {
    let last_echo_ns = state.last_echo_ns.load();
    last_echo_ns != 0 && now_ns.wrapping_sub(last_echo_ns) < intent.detection_ns.load()
}

/// Checks the signature: `signed` says whether the packet is signed with a key.
///
/// # Errors
///
/// [`Refusal::Forged`].
#[inline(always)]
pub fn authentic(key_id: u8, keys: &KeySet, signed: impl FnOnce(&KeyState) -> bool) -> Result<(), Refusal> {
    // Found first and used once, so that the kernel's verifier walks through one signature and not through four.
    let mut found = MAX_KEYS;
    let mut i = MAX_KEYS;
    while i > 0 {
        i -= 1;
        if i < keys.count as usize && keys.ids[i] == key_id {
            found = i;
        }
    }
    if found < MAX_KEYS && signed(&keys.states[found % MAX_KEYS]) { Ok(()) } else { Err(Refusal::Forged) }
}

/// Moves the window and writes the state.
///
/// # Errors
///
/// [`Refusal::Replayed`] if another CPU was faster with the same sequence, or if three others were faster with
/// different ones.
#[inline(always)]
pub fn commit<W: Word>(
    header: &Header,
    candidate: Candidate,
    state: &LinkState<W>,
    now_ns: u64,
) -> Result<Outcome, Refusal> {
    match candidate {
        Candidate::Echo => {
            take(&state.echo_window, header.sequence)?;
            let new_session = state.peer_session.load() != u64::from(header.sender_session);
            if new_session {
                state.probe_window.store(window::EMPTY);
                state.control_window.store(window::EMPTY);
                state.probes.store(0);
                state.peer_session.store(u64::from(header.sender_session));
            }
            state.last_echo_ns.store(now_ns);
            state.echoes.store(state.echoes.load().wrapping_add(1));
            state.peer_received.store(header.received);
            measure(state, now_ns.saturating_sub(header.sent_ns));
            Ok(Outcome::Alive { changed: learn(header, state, new_session) | new_session })
        }
        Candidate::Probe { heard } => {
            take(&state.probe_window, header.sequence)?;
            state.probes.store(state.probes.load().wrapping_add(1));
            let changed = if heard {
                state.last_probe_ns.store(now_ns);
                learn(header, state, false)
            } else {
                false
            };
            Ok(Outcome::Answer { changed })
        }
        Candidate::Stranger => Ok(Outcome::Answer { changed: false }),
        Candidate::Control => {
            take(&state.control_window, header.sequence)?;
            Ok(Outcome::Deliver)
        }
    }
}

/// Marks a sequence as seen.
#[inline(always)]
fn take<W: Word>(word: &W, sequence: u64) -> Result<(), Refusal> {
    let mut tries = 0;
    while tries < 4 {
        let current = word.load();
        let Some(moved) = window::accept(current, sequence) else {
            return Err(Refusal::Replayed);
        };
        if word.compare_exchange(current, moved) {
            return Ok(());
        }
        tries += 1;
    }
    Err(Refusal::Replayed)
}

/// Takes in one round-trip time.
#[inline(always)]
fn measure<W: Word>(state: &LinkState<W>, rtt_ns: u64) {
    let previous_ns = state.rtt_ns.load();
    state.rtt_ns.store(rtt_ns);
    let smoothed_ns = state.srtt_ns.load();
    if smoothed_ns == 0 {
        state.srtt_ns.store(rtt_ns);
        return;
    }
    state.srtt_ns.store(smoothed_ns - (smoothed_ns >> 3) + (rtt_ns >> 3));
    let jitter_ns = state.jitter_ns.load();
    state.jitter_ns.store(jitter_ns - (jitter_ns >> 4) + (rtt_ns.abs_diff(previous_ns) >> 4));
}

/// Takes in what the peer says of the link; says whether it is new. Within a session an older epoch is a packet that
/// was overtaken.
#[inline(always)]
fn learn<W: Word>(header: &Header, state: &LinkState<W>, new_session: bool) -> bool {
    let said = View { epoch: header.epoch, rank: header.rank, flags: header.flags }.pack();
    let before = state.peer_view.load();
    let generation = u64::from(header.generation);
    let overtaken = !new_session && View::unpack(before).epoch > header.epoch;
    if overtaken || (said == before && generation == state.peer_generation.load()) {
        return false;
    }
    state.peer_view.store(said);
    state.peer_generation.store(generation);
    true
}

/// The answer to a valid probe, without its tag: sign it with the first key.
#[inline(always)]
pub fn echo<W: Word>(probe: &Header, intent: &Intent<W>, state: &LinkState<W>, keys: &KeySet) -> Header {
    let mine = View::unpack(intent.view.load());
    Header {
        kind: Kind::Echo,
        flags: mine.flags,
        key_id: keys.ids[0],
        sender_session: intent.session.load() as u32,
        receiver_session: probe.sender_session,
        rank: mine.rank,
        generation: intent.generation.load() as u16,
        epoch: mine.epoch,
        sequence: probe.sequence,
        sent_ns: probe.sent_ns,
        received: state.probes.load(),
    }
}

#[cfg(test)]
mod tests;
