//! The socket engine: what the XDP program does, with the same checks, for packets that reach a socket.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::{
    hmac,
    maps::{Intent, KeySet, LinkState, Party},
    verify::{self, Outcome, Refusal},
    wire::{Header, MAX_PACKET_LEN, PACKET_LEN, Packet, Unreadable},
};
use sha2::{Digest as _, Sha256};

use super::tables::Accepted;

/// What a link's packets are judged by.
pub struct Judge<'a> {
    /// What is wanted of the link.
    pub intent: &'a Intent<AtomicU64>,
    /// What is known of it, which changes with each packet that counts.
    pub state: &'a LinkState<AtomicU64>,
    /// What signs its packets.
    pub keys: &'a KeySet,
    /// TTL or hop limit that it came with.
    pub hops: u8,
    /// Monotonic clock, ns.
    pub now_ns: u64,
}

/// What to do with a received packet.
pub enum Verdict {
    /// An echo was taken in.
    Alive {
        /// The peer says something new.
        changed: bool,
    },
    /// Send this back.
    Answer {
        /// What, signed.
        echo: Packet,
        /// The peer says something new.
        changed: bool,
        /// It is where this came from.
        newest: bool,
    },
    /// A control packet, with a body that is the sender's.
    Deliver {
        /// Its signed part.
        header: Header,
    },
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
///
/// # Errors
///
/// Why it is worth nothing.
pub fn judge(payload: &[u8], judge: &Judge<'_>) -> Result<Verdict, Refusal> {
    let (packet, header, body) = split(payload, judge)?;
    let candidate = verify::screen(&header, judge.hops, judge.intent, judge.state, || judge.now_ns)?;
    verify::authentic(header.key_id, judge.keys, |key| hmac::verify(packet, key))?;
    if header.kind.has_body() && body_digest(body) != header.body_digest() {
        return Err(Refusal::Forged);
    }
    Ok(match verify::commit(&header, candidate, judge.intent, judge.state, judge.now_ns)? {
        Outcome::Alive { changed } => Verdict::Alive { changed },
        Outcome::Deliver => Verdict::Deliver { header },
        Outcome::Answer { changed, newest } => {
            let mut echo = [0; PACKET_LEN];
            verify::echo(&header, judge.intent, judge.state, judge.keys, judge.now_ns).emit(&mut echo);
            hmac::sign(&mut echo, &judge.keys.states[0]);
            Verdict::Answer { echo, changed, newest }
        }
    })
}

/// Which control packets of a link have reached user space, where a kernel program verifies: it keeps a window of its own, but
/// not everything comes to a socket through it. Fragments, for one, are put together behind it.
#[derive(Default)]
pub(super) struct PassedWindow {
    /// Whose sequences they are, as [`LinkState::peer`] has it.
    peer: u64,
    window: AtomicU64,
}

/// Judges a packet that the kernel program has passed, in full. What is no control packet came in before the program was
/// attached or around it, and is left to the next one.
pub(super) fn judge_passed(
    payload: &[u8],
    judge: &Judge<'_>,
    passed: &mut PassedWindow,
) -> Result<Option<Header>, Refusal> {
    let (packet, header, body) = split(payload, judge)?;
    if !header.kind.is_control() {
        return Ok(None);
    }
    if u64::from(judge.hops) < judge.intent.min_hops.load(Relaxed) {
        return Err(Refusal::Distant);
    }
    let sender = Party { instance: header.instance, session: header.sender_session }.pack();
    let me = Party::unpack(judge.intent.me.load(Relaxed));
    if header.receiver_session != me.session || sender != judge.state.peer.load(Relaxed) {
        return Err(Refusal::Replayed);
    }
    verify::authentic(header.key_id, judge.keys, |key| hmac::verify(packet, key))?;
    if header.kind.has_body() && body_digest(body) != header.body_digest() {
        return Err(Refusal::Forged);
    }
    if passed.peer != sender {
        *passed = PassedWindow { peer: sender, ..PassedWindow::default() };
    }
    verify::take(&passed.window, header.sequence)?;
    Ok(Some(header))
}

/// The signed part, read, and the body.
fn split<'a>(payload: &'a [u8], judge: &Judge<'_>) -> Result<(&'a Packet, Header, &'a [u8]), Refusal> {
    if payload.len() > MAX_PACKET_LEN {
        return Err(Refusal::Malformed);
    }
    let (packet, body) = payload.split_first_chunk::<PACKET_LEN>().ok_or(Refusal::Malformed)?;
    let header = Header::parse(packet).map_err(|unreadable| match unreadable {
        Unreadable::Malformed => Refusal::Malformed,
        Unreadable::OtherVersion(version) => {
            judge.state.other_version.store(judge.now_ns & !0xff | u64::from(version), Relaxed);
            Refusal::Version
        }
    })?;
    if !header.kind.has_body() && !body.is_empty() {
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
