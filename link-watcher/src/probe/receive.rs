//! The socket engine: what the XDP program does, with the same checks, for packets that reach a socket.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::{
    hmac,
    maps::{Intent, KeySet, LinkState},
    verify::{self, Outcome, Refusal},
    wire::{Header, MAX_PACKET_LEN, PACKET_LEN, Packet},
};
use sha2::{Digest as _, Sha256};

use super::tables::Accepted;

/// What a link's packets are judged by.
pub(super) struct Judge<'a> {
    pub(super) intent: &'a Intent<AtomicU64>,
    pub(super) state: &'a LinkState<AtomicU64>,
    pub(super) keys: &'a KeySet,
    pub(super) lease_until_ns: u64,
    pub(super) now_ns: u64,
}

/// What to do with a received packet.
pub(super) enum Verdict {
    /// An echo was taken in; whether the peer says something new.
    Alive { changed: bool },
    /// Send this back; whether the peer says something new.
    Answer { echo: Packet, changed: bool },
    /// A control packet, with a body that is the sender's.
    Deliver { header: Header },
}

impl Verdict {
    pub(super) const fn counted_as(&self) -> Accepted {
        match self {
            Self::Alive { .. } => Accepted::Echo,
            Self::Answer { .. } => Accepted::Probe,
            Self::Deliver { .. } => Accepted::Control,
        }
    }
}

/// Judges a whole UDP payload as the socket engine.
pub(super) fn judge(payload: &[u8], judge: &Judge<'_>) -> Result<Verdict, Refusal> {
    let (packet, header, body) = split(payload)?;
    let candidate = verify::screen(&header, judge.intent, judge.state, || judge.lease_until_ns, || judge.now_ns)?;
    verify::authentic(header.key_id, judge.keys, |key| hmac::verify(packet, key))?;
    if header.kind.is_control() && body_digest(body) != header.body_digest() {
        return Err(Refusal::Forged);
    }
    Ok(match verify::commit(&header, candidate, judge.state, judge.now_ns)? {
        Outcome::Alive { changed } => Verdict::Alive { changed },
        Outcome::Deliver => Verdict::Deliver { header },
        Outcome::Answer { changed } => {
            let mut echo = [0; PACKET_LEN];
            verify::echo(&header, judge.intent, judge.state, judge.keys).emit(&mut echo);
            hmac::sign(&mut echo, &judge.keys.states[0]);
            Verdict::Answer { echo, changed }
        }
    })
}

/// Judges a packet that the kernel program has passed: it checked and moved the windows already, but not the body. What
/// is no control packet came in before the program was attached, and is left to the next one.
pub(super) fn judge_passed(payload: &[u8], judge: &Judge<'_>) -> Result<Option<Header>, Refusal> {
    let (packet, header, body) = split(payload)?;
    if !header.kind.is_control() {
        return Ok(None);
    }
    let sessions_match = u64::from(header.receiver_session) == judge.intent.session.load(Relaxed)
        && u64::from(header.sender_session) == judge.state.peer_session.load(Relaxed);
    if !sessions_match {
        return Err(Refusal::Replayed);
    }
    verify::authentic(header.key_id, judge.keys, |key| hmac::verify(packet, key))?;
    if body_digest(body) == header.body_digest() { Ok(Some(header)) } else { Err(Refusal::Forged) }
}

/// The signed part, read, and the body.
fn split(payload: &[u8]) -> Result<(&Packet, Header, &[u8]), Refusal> {
    if payload.len() > MAX_PACKET_LEN {
        return Err(Refusal::Malformed);
    }
    let (packet, body) = payload.split_first_chunk::<PACKET_LEN>().ok_or(Refusal::Malformed)?;
    let header = Header::parse(packet).map_err(|_| Refusal::Malformed)?;
    if !header.kind.is_control() && !body.is_empty() {
        return Err(Refusal::Malformed);
    }
    Ok((packet, header, body))
}

/// Digest of a body, as it stands in the signed header: SHA-256 cut to 128 bits. The header's signature covers it, so
/// a forger would need a second body for a given digest, not two of his own choice.
pub(super) fn body_digest(body: &[u8]) -> [u8; 16] {
    let whole = Sha256::digest(body);
    let mut digest = [0; 16];
    digest.copy_from_slice(&whole[..16]);
    digest
}
