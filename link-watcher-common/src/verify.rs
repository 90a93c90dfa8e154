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
//! * An **echo** counts if it carries my session of this link, answers a probe that I sent and that was not answered yet, and
//!   is no older than what is plausible here. It alone proves to be fresh, so it alone teaches who the peer is, and only the
//!   newest answer does.
//! * A **probe** of the peer's session with a new sequence is answered; if it carries my session too, the peer is heard.
//! * A probe of another session is answered only while nobody is alive on the link: so a peer that restarts learns my
//!   session, and what was captured before a restart gets nowhere. It changes nothing.
//! * What the peer **says** of the link is believed from the newest echo, and from the newest probe that was not held up: its
//!   acknowledgement shows how far behind it is.
//! * A **control** packet needs both sessions and a new sequence.
//! * A packet that carries my own role is my own, mirrored.

use crate::{
    maps::{Intent, KeySet, KeyState, LinkState, MAX_KEYS, Party, View, Word},
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
    /// An echo that is older than what is plausible on this link.
    Late,
    /// From further away than this link allows.
    Distant,
    /// Of another version of the protocol.
    Version,
}

/// A packet that passed [`screen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// Answers a probe of mine.
    Echo,
    /// Of the peer's session; `heard`: the peer knows my session.
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
    /// Send [`echo`] back.
    Answer {
        /// Whether user space wants to look before its next tick.
        changed: bool,
        /// Whether it is the peer's newest word: the peer is where it came from.
        newest: bool,
    },
    /// Hand it to user space.
    Deliver,
}

/// Who sent a packet.
#[inline(always)]
const fn sender(header: &Header) -> u64 {
    Party { instance: header.instance, session: header.sender_session }.pack()
}

/// Checks everything that needs no signature, and asks for nothing before it decides: in BPF a look at the clock costs as much
/// as the rest. `hops` is the TTL or hop limit that the packet came with.
///
/// # Errors
///
/// [`Refusal::Distant`], [`Refusal::Reflected`] or [`Refusal::Replayed`]; see the module. [`Refusal::Unknown`] where this slot
/// is not in use.
#[inline(always)]
pub fn screen<W: Word>(
    header: &Header,
    hops: u8,
    intent: &Intent<W>,
    state: &LinkState<W>,
    now_ns: impl FnOnce() -> u64,
) -> Result<Candidate, Refusal> {
    if u64::from(hops) < intent.min_hops.load() {
        return Err(Refusal::Distant);
    }
    let me = intent.me.load();
    if me == 0 {
        return Err(Refusal::Unknown);
    }
    let mine = View::unpack(intent.view.load());
    if (header.flags ^ mine.flags) & flags::CLIENT == 0 {
        return Err(Refusal::Reflected);
    }
    let addressed_to_me = header.receiver_session == Party::unpack(me).session;
    let known = || sender(header) == state.peer.load();
    match header.kind {
        Kind::Echo => {
            let window = state.echo_window.load();
            let unanswered = addressed_to_me
                && header.sequence <= intent.sent_sequence.load()
                && window::accept(window, header.sequence).is_some();
            // Another peer than before speaks by the newest answer only: what somebody held back of a former life of it
            // does not bring that back.
            let plausible = unanswered && (known() || header.sequence > window::highest(window));
            if plausible { Ok(Candidate::Echo) } else { Err(Refusal::Replayed) }
        }
        Kind::Probe => {
            if known() {
                return match window::accept(state.probe_window.load(), header.sequence) {
                    Some(_) => Ok(Candidate::Probe { heard: addressed_to_me }),
                    None => Err(Refusal::Replayed),
                };
            }
            if alive(intent, state, now_ns()) { Err(Refusal::Replayed) } else { Ok(Candidate::Stranger) }
        }
        Kind::Announce | Kind::AnnounceAck | Kind::Notice | Kind::StackProbe | Kind::StackEcho => {
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
/// different ones; [`Refusal::Late`].
#[inline(always)]
pub fn commit<W: Word>(
    header: &Header,
    candidate: Candidate,
    intent: &Intent<W>,
    state: &LinkState<W>,
    now_ns: u64,
) -> Result<Outcome, Refusal> {
    match candidate {
        Candidate::Echo => {
            let newest = take(&state.echo_window, header.sequence)?;
            let rtt_ns = now_ns.saturating_sub(header.sent_ns);
            if rtt_ns > intent.max_age_ns.load() {
                state.late_rtt_ns.store(rtt_ns);
                state.last_late_ns.store(now_ns);
                state.late_echoes.store(state.late_echoes.load().wrapping_add(1));
                return Err(Refusal::Late);
            }
            let new_peer = state.peer.load() != sender(header);
            if new_peer {
                state.probe_window.store(window::EMPTY);
                state.control_window.store(window::EMPTY);
                state.probes.store(0);
                state.peer.store(sender(header));
            }
            state.last_echo_ns.store(now_ns);
            state.echoes.store(state.echoes.load().wrapping_add(1));
            measure(state, rtt_ns);
            let mut changed = new_peer;
            if newest {
                state.newest_sent_ns.store(header.sent_ns);
                state.newest_answered.store(header.sequence);
                state.peer_received.store(header.received);
                changed |= learn(header, state, new_peer);
            }
            Ok(Outcome::Alive { changed })
        }
        Candidate::Probe { heard } => {
            let newest = take(&state.probe_window, header.sequence)? && heard;
            state.probes.store(state.probes.load().wrapping_add(1));
            if heard {
                state.last_probe_ns.store(now_ns);
            }
            // A probe has no echo's proof of its age, but it says which of my probes its sender had seen.
            let lag = intent.sent_sequence.load().wrapping_sub(header.received);
            let changed = newest && lag <= intent.max_lag.load() && learn(header, state, false);
            Ok(Outcome::Answer { changed, newest })
        }
        // Who has heard this session of mine is where it comes from, though nothing more is believed: behind a NAT that chooses
        // another port than mine no probe of mine arrives before.
        Candidate::Stranger => {
            let hears_me = header.receiver_session == Party::unpack(intent.me.load()).session;
            Ok(Outcome::Answer { changed: false, newest: hears_me })
        }
        Candidate::Control => {
            take(&state.control_window, header.sequence)?;
            Ok(Outcome::Deliver)
        }
    }
}

/// Marks a sequence as seen; says whether it is the highest so far.
///
/// # Errors
///
/// [`Refusal::Replayed`], see [`commit`].
#[inline(always)]
pub fn take<W: Word>(word: &W, sequence: u64) -> Result<bool, Refusal> {
    let mut tries = 0;
    while tries < 4 {
        let current = word.load();
        let Some(moved) = window::accept(current, sequence) else {
            return Err(Refusal::Replayed);
        };
        if word.compare_exchange(current, moved) {
            return Ok(sequence > window::highest(current));
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
fn learn<W: Word>(header: &Header, state: &LinkState<W>, new_peer: bool) -> bool {
    let Header { epoch, rank, silence_seconds, flags, .. } = *header;
    let said = View { epoch, rank, silence_seconds, flags }.pack();
    let before = state.peer_view.load();
    let generation = u64::from(header.generation);
    let overtaken = !new_peer && older(epoch, View::unpack(before).epoch);
    if overtaken || (said == before && generation == state.peer_generation.load()) {
        return false;
    }
    state.peer_view.store(said);
    state.peer_generation.store(generation);
    true
}

/// Whether one epoch comes before another, though they wrap (RFC 1982, section 3.2).
#[inline(always)]
#[must_use]
pub const fn older(epoch: u32, than: u32) -> bool {
    (epoch.wrapping_sub(than) as i32) < 0
}

/// The answer to a valid probe, without its tag: sign it with the first key.
#[inline(always)]
pub fn echo<W: Word>(probe: &Header, intent: &Intent<W>, state: &LinkState<W>, keys: &KeySet, now_ns: u64) -> Header {
    let mine = View::unpack(intent.view.load());
    let me = Party::unpack(intent.me.load());
    Header {
        kind: Kind::Echo,
        flags: mine.flags,
        key_id: keys.ids[0],
        silence_seconds: silence_seconds(intent, now_ns),
        sender_session: me.session,
        receiver_session: probe.sender_session,
        rank: mine.rank,
        generation: intent.generation.load() as u16,
        epoch: mine.epoch,
        sequence: probe.sequence,
        sent_ns: probe.sent_ns,
        received: state.probes.load(),
        instance: me.instance,
    }
}

/// For how long my daemon has been silent, as packets say it: 0 within its lease.
#[inline(always)]
fn silence_seconds<W: Word>(intent: &Intent<W>, now_ns: u64) -> u8 {
    let silent_ns = now_ns.saturating_sub(intent.renewed_ns.load());
    if silent_ns <= intent.lease_ns.load() {
        return 0;
    }
    let seconds = silent_ns / 1_000_000_000;
    if seconds < 1 {
        1
    } else if seconds > 255 {
        255
    } else {
        seconds as u8
    }
}

#[cfg(test)]
mod tests;
