//! Our list on its way to the peer.
//!
//! A list goes out in chunks, a few at a time, over the first of the links that work, and each is repeated until it is
//! acknowledged: a few times there, then over the next link. What no link acknowledges is cut smaller, under a new
//! generation, because some path may be too narrow for it. When that does not help either, one chunk goes over every link
//! again and again, until one answers.

use ipnet::IpNet;
use link_watcher_common::wire::MAX_BODY_LEN;

use super::{
    CHANGE_GAP_NS, Life, MAX_PREFIXES, Reason, Seen, UNANSWERED_NS,
    codec::{self, AckState},
};
use crate::event::LinkId;

/// Chunks on the way at one time: they leave room for keepalives in every queue between.
const CHUNKS_ON_THE_WAY: usize = 8;
/// How often a chunk goes over a link before it goes over the next one.
const TRIES_A_LINK: u32 = 3;
/// Least time before a chunk is repeated, ns; twice the link's round trip where that is longer.
const MIN_REPEAT_NS: u64 = 50_000_000;
/// Time between two attempts on every link, when none has answered, ns: a path that works again is found within a second.
const KNOCK_NS: u64 = 800_000_000;
/// Links that are knocked at.
const MAX_KNOCKED: usize = 8;
/// How often the peer is asked how a list stands that it has taken, ns: what it refuses may change with its configuration.
const REFRESH_NS: u64 = 30_000_000_000;
/// Least time between two answers to "send it again", ns.
const ASKED_GAP_NS: u64 = 200_000_000;
/// Lengths of a chunk's body to which it is cut when nobody acknowledges a longer one.
const SMALLER: [usize; 2] = [512, 256];
/// How far the generation may be ahead of what the peer has in use: far below half of all, where older looks newer.
const MAX_AHEAD: u16 = 0x4000;

/// A link that works, as far as keepalives say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Link.
    pub link: LinkId,
    /// Its round-trip time, ns; 0: not known.
    pub rtt_ns: u64,
}

/// How our list stands with the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderStatus {
    /// Prefixes of the list.
    pub sent: usize,
    /// The peer has it in use, but for what it refuses.
    pub acknowledged: bool,
    /// Since when it is so, ns.
    pub since_ns: u64,
    /// Nobody has answered for [`UNANSWERED_NS`].
    pub unanswered: bool,
    /// The peer refuses lists longer than this.
    pub too_long: Option<u32>,
    /// Prefixes that the peer refuses.
    pub refused: u32,
    /// The first of these.
    pub refusals: Vec<(IpNet, Reason)>,
}

/// The sending side.
#[derive(Debug)]
pub struct Sender {
    generation: u16,
    prefixes: Vec<IpNet>,
    /// The newest list, while it waits for its turn.
    pending: Option<Vec<IpNet>>,
    changed_ns: u64,
    chunks: Vec<Chunk>,
    body_len: usize,
    /// The longest body of this generation that was acknowledged.
    acknowledged_len: usize,
    peer: Life,
    /// Generation that the peer had in use last, or may have had when its life began.
    base: u16,
    in_use: bool,
    too_long: Option<u32>,
    refused: u32,
    refusals: Vec<(IpNet, Reason)>,
    acknowledged: bool,
    since_ns: u64,
    unanswered_since_ns: Option<u64>,
    unanswered: bool,
    refresh_ns: u64,
    asked_ns: u64,
    ways: Vec<LinkId>,
    /// The link that answered after others had not: it comes first until the links change.
    good: Option<LinkId>,
}

#[derive(Debug)]
struct Chunk {
    body: Vec<u8>,
    acknowledged: bool,
    /// How often it was sent since it began anew.
    tries: u32,
    /// When it is sent (again); 0: at once.
    due_ns: u64,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            generation: 0,
            prefixes: Vec::new(),
            pending: None,
            changed_ns: 0,
            chunks: Vec::new(),
            body_len: MAX_BODY_LEN,
            acknowledged_len: 0,
            peer: Life::default(),
            base: 0,
            in_use: false,
            too_long: None,
            refused: 0,
            refusals: Vec::new(),
            acknowledged: false,
            since_ns: 0,
            unanswered_since_ns: None,
            unanswered: false,
            refresh_ns: 0,
            asked_ns: 0,
            ways: Vec::new(),
            good: None,
        }
    }
}

impl Sender {
    /// The generation that keepalives carry; 0: nothing announced yet.
    pub const fn generation(&self) -> u16 {
        self.generation
    }

    /// Sets what is announced. The same list again changes nothing. What exceeds [`MAX_PREFIXES`] is left out; the
    /// number left out is returned. A list that comes within [`CHANGE_GAP_NS`] of the former one waits; of several that wait
    /// the newest is sent.
    pub fn set(&mut self, now_ns: u64, mut prefixes: Vec<IpNet>) -> usize {
        prefixes.sort_unstable();
        prefixes.dedup();
        let left_out = prefixes.len().saturating_sub(MAX_PREFIXES);
        prefixes.truncate(MAX_PREFIXES);
        self.pending = (self.generation == 0 || prefixes != self.prefixes).then_some(prefixes);
        self.take_pending(now_ns);
        self.note(now_ns);
        left_out
    }

    /// The peer's present instance: a new one has none of our chunks.
    pub fn peer(&mut self, now_ns: u64, instance: u32) {
        if self.peer.see(instance) == Seen::New {
            self.base = self.generation;
            self.begin();
            self.note(now_ns);
        }
    }

    /// Takes in an acknowledgement that came over `link`. What is not about the present list changes nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with the body; nothing changes then.
    pub fn acknowledge(&mut self, now_ns: u64, link: LinkId, instance: u32, body: &[u8]) -> Result<(), String> {
        let ack = codec::decode_ack(body)?;
        let known = self.chunks.get(usize::from(ack.index)).is_some();
        if self.peer.current != Some(instance) || ack.generation != self.generation || !known {
            return Ok(());
        }
        self.unanswered_since_ns = None;
        let chunk = &mut self.chunks[usize::from(ack.index)];
        if chunk.tries > TRIES_A_LINK {
            self.good = Some(link);
        }
        self.acknowledged_len = self.acknowledged_len.max(chunk.body.len());
        // The way works (again): what had been given up is tried at once.
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.tries > TRIES_A_LINK) {
            (chunk.tries, chunk.due_ns) = (0, 0);
        }
        match ack.state {
            // The peer asked for what it should have, and has only this of it: it has the rest no more.
            AckState::Part if self.in_use => {
                if now_ns < self.asked_ns + CHANGE_GAP_NS && self.asked_ns != 0 {
                    self.begin();
                }
            }
            AckState::Part => {
                // It takes longer lists now.
                if self.too_long.is_some() {
                    self.begin();
                }
                self.chunks[usize::from(ack.index)].acknowledged = true;
            }
            AckState::Whole => {
                self.too_long = None;
                self.chunks.iter_mut().for_each(|chunk| chunk.acknowledged = true);
            }
            AckState::TooLong { limit } => {
                self.too_long = Some(limit);
                (self.in_use, self.refresh_ns) = (false, now_ns + REFRESH_NS);
            }
            AckState::InUse { refused, examples } => {
                self.chunks.iter_mut().for_each(|chunk| chunk.acknowledged = true);
                if !self.in_use {
                    self.refresh_ns = now_ns + REFRESH_NS;
                }
                (self.in_use, self.too_long, self.base) = (true, None, self.generation);
                (self.refused, self.refusals) = (refused, examples);
            }
        }
        self.note(now_ns);
        Ok(())
    }

    /// Takes in a notice: the peer lacks a generation that our keepalives name. Gives whether this version knows the notice.
    pub fn asked(&mut self, now_ns: u64, instance: u32, body: &[u8]) -> bool {
        let Some(generation) = codec::decode_ask(body) else { return false };
        let early = self.asked_ns != 0 && now_ns < self.asked_ns + ASKED_GAP_NS;
        if self.peer.current != Some(instance) || generation != self.generation || early {
            return true;
        }
        self.asked_ns = now_ns;
        if self.is_answered() {
            self.refresh_ns = now_ns;
        }
        // What is still tried link by link goes on so; what had been given up is tried at once.
        let tries = Self::tries_on_all_links(self.ways.len());
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.tries > tries) {
            chunk.due_ns = now_ns;
        }
        true
    }

    /// Bodies to be sent now, each with its link. `ways`: links that work, the best first.
    pub fn poll(&mut self, now_ns: u64, ways: &[Way]) -> Vec<(LinkId, Vec<u8>)> {
        self.take_pending(now_ns);
        let mut bodies = Vec::new();
        if self.generation == 0 || self.peer.current.is_none() {
            return bodies;
        }
        if !ways.iter().map(|way| way.link).eq(self.ways.iter().copied()) {
            self.ways = ways.iter().map(|way| way.link).collect();
            self.good = None;
            for chunk in &mut self.chunks {
                (chunk.tries, chunk.due_ns) = (0, 0);
            }
        }
        if ways.is_empty() {
            // Nobody could answer.
            self.unanswered_since_ns = None;
            self.note(now_ns);
            return bodies;
        }
        let mut ways = ways.to_vec();
        if let Some(at) = ways.iter().position(|way| Some(way.link) == self.good) {
            ways[..=at].rotate_right(1);
        }
        if self.is_answered() {
            if self.refresh_ns <= now_ns {
                self.refresh_ns = now_ns + REFRESH_NS;
                bodies.extend(self.chunks.first().map(|chunk| (ways[0].link, chunk.body.clone())));
            }
            self.note(now_ns);
            return bodies;
        }
        if self.is_too_wide(now_ns, ways.len()) {
            self.cut_smaller(now_ns);
        }
        let knock_ns = KNOCK_NS.max(ways.iter().map(|way| way.rtt_ns * 2).max().unwrap_or(0));
        for (first, chunk) in open(&mut self.chunks).filter(|(_, chunk)| chunk.due_ns <= now_ns) {
            match ways.get((chunk.tries / TRIES_A_LINK) as usize) {
                Some(way) => {
                    let repeat_ns = MIN_REPEAT_NS.max(way.rtt_ns * 2) << (chunk.tries % TRIES_A_LINK);
                    chunk.due_ns = now_ns + repeat_ns;
                    bodies.push((way.link, chunk.body.clone()));
                }
                None => {
                    chunk.due_ns = now_ns + knock_ns;
                    if first {
                        bodies.extend(ways.iter().take(MAX_KNOCKED).map(|way| (way.link, chunk.body.clone())));
                    }
                }
            }
            chunk.tries = chunk.tries.saturating_add(1);
        }
        if !bodies.is_empty() {
            self.unanswered_since_ns.get_or_insert(now_ns);
        }
        self.note(now_ns);
        bodies
    }

    /// When [`Sender::poll`] has something again, unless something happens before.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let held = self.generation.wrapping_sub(self.base) >= MAX_AHEAD;
        let pending_ns = (self.pending.is_some() && !held).then_some(self.changed_ns + CHANGE_GAP_NS);
        let told_ns = self.unanswered_since_ns.filter(|_| !self.unanswered).map(|since_ns| since_ns + UNANSWERED_NS);
        let due_ns = match self.peer.current {
            Some(_) if self.generation != 0 && !self.ways.is_empty() => {
                if self.is_answered() {
                    Some(self.refresh_ns)
                } else {
                    let open = self.chunks.iter().filter(|chunk| !chunk.acknowledged).take(CHUNKS_ON_THE_WAY);
                    open.map(|chunk| chunk.due_ns).min().or(self.chunks.first().map(|chunk| chunk.due_ns))
                }
            }
            _ => None,
        };
        [pending_ns, told_ns, due_ns].into_iter().flatten().min()
    }

    /// How the list stands.
    pub fn status(&self) -> SenderStatus {
        SenderStatus {
            sent: self.prefixes.len(),
            acknowledged: self.acknowledged,
            since_ns: self.since_ns,
            unanswered: self.unanswered,
            too_long: self.too_long,
            refused: self.refused,
            refusals: self.refusals.clone(),
        }
    }

    /// The peer has said all that it has to say of the list.
    const fn is_answered(&self) -> bool {
        self.in_use || self.too_long.is_some()
    }

    fn take_pending(&mut self, now_ns: u64) {
        let early = self.generation != 0 && now_ns < self.changed_ns + CHANGE_GAP_NS;
        if early || self.generation.wrapping_sub(self.base) >= MAX_AHEAD {
            return;
        }
        let Some(prefixes) = self.pending.take() else { return };
        self.prefixes = prefixes;
        self.renew(now_ns);
    }

    /// Cuts the list anew, under a new generation.
    fn renew(&mut self, now_ns: u64) {
        // Zero means "nothing yet".
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.changed_ns = now_ns;
        let bodies = codec::encode_list(self.generation, &self.prefixes, self.body_len);
        let chunk = |body| Chunk { body, acknowledged: false, tries: 0, due_ns: 0 };
        self.chunks = bodies.into_iter().map(chunk).collect();
        self.begin();
    }

    /// Sends everything from the beginning.
    fn begin(&mut self) {
        for chunk in &mut self.chunks {
            (chunk.acknowledged, chunk.tries, chunk.due_ns) = (false, 0, 0);
        }
        (self.in_use, self.too_long, self.acknowledged_len) = (false, None, 0);
    }

    /// Whether a chunk went over every link in vain, and none as long as it was acknowledged: some path may be too narrow.
    fn is_too_wide(&self, now_ns: u64, ways: usize) -> bool {
        let tries = Self::tries_on_all_links(ways);
        let mut open = self.chunks.iter().filter(|chunk| !chunk.acknowledged).take(CHUNKS_ON_THE_WAY);
        let smallest = SMALLER[SMALLER.len() - 1];
        self.generation.wrapping_sub(self.base) < MAX_AHEAD
            && open.any(|chunk| {
                let len = chunk.body.len();
                chunk.tries >= tries && chunk.due_ns <= now_ns && len > self.acknowledged_len && len > smallest
            })
    }

    const fn tries_on_all_links(ways: usize) -> u32 {
        TRIES_A_LINK.saturating_mul(ways as u32)
    }

    fn cut_smaller(&mut self, now_ns: u64) {
        let longest = self.chunks.iter().map(|chunk| chunk.body.len()).max().unwrap_or(0);
        if let Some(smaller) = SMALLER.into_iter().find(|smaller| *smaller < longest.min(self.body_len)) {
            self.body_len = smaller;
            self.renew(now_ns);
        }
    }

    /// Notes since when it is as it is.
    fn note(&mut self, now_ns: u64) {
        let acknowledged = self.in_use && self.pending.is_none();
        if self.acknowledged != acknowledged || self.since_ns == 0 {
            (self.acknowledged, self.since_ns) = (acknowledged, now_ns);
        }
        if acknowledged {
            self.unanswered_since_ns = None;
        }
        self.unanswered = self.unanswered_since_ns.is_some_and(|since_ns| now_ns >= since_ns + UNANSWERED_NS);
    }
}

/// Chunks that are to be acknowledged, with whether it is the first one. When all are, but the list is not in use, the
/// first asks how it stands.
fn open(chunks: &mut [Chunk]) -> impl Iterator<Item = (bool, &mut Chunk)> {
    let all = chunks.iter().all(|chunk| chunk.acknowledged);
    let open = chunks.iter_mut().enumerate().filter(move |(index, chunk)| !chunk.acknowledged || (all && *index == 0));
    open.take(CHUNKS_ON_THE_WAY).enumerate().map(|(position, (_, chunk))| (position == 0, chunk))
}
