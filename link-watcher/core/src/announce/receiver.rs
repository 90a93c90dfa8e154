//! The peer's list.
//!
//! Chunks of the newest generation are put together; a whole list is used when its turn comes. The keepalives say which
//! generation the peer is at: one that stays away is asked for.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{
    CHANGE_GAP_NS, DEFAULT_MAX_PREFIXES, Judged, Life, MAX_REFUSALS_TOLD, Reason, Seen, UNANSWERED_NS,
    codec::{self, Ack, AckState},
    newer,
};

/// Chunks a second that are looked at, and as many at once: beyond these they are lost, and their sender repeats them.
const CHUNKS_A_SECOND: u64 = 2_000;
/// Time between two demands for one generation, ns; doubled up to [`MAX_ASK_NS`].
const MIN_ASK_NS: u64 = 250_000_000;
const MAX_ASK_NS: u64 = 1_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// The receiving side.
#[derive(Debug)]
pub struct Receiver {
    peer: Life,
    max_prefixes: usize,
    /// The newest generation that is whole.
    complete: Option<u16>,
    /// The whole list, while it waits for its turn.
    waiting: Option<Vec<IpNet>>,
    taken_ns: Option<u64>,
    /// What became of the list in use, once it is judged.
    outcome: Option<(u32, Vec<(IpNet, Reason)>)>,
    arriving: Option<Arriving>,
    /// A generation that was refused whole, and its length.
    too_long: Option<(u16, u32)>,
    /// What may be looked at now, ns: a chunk costs a second divided by [`CHUNKS_A_SECOND`].
    credit_ns: u64,
    credited_ns: u64,
    /// The newest generation in keepalives.
    heard: Option<u16>,
    missing_since_ns: Option<u64>,
    missing: bool,
    ask_ns: u64,
    ask_gap_ns: u64,
}

#[derive(Debug)]
struct Arriving {
    generation: u16,
    chunks: u16,
    total: u32,
    count: u32,
    parts: BTreeMap<u16, Vec<IpNet>>,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Use this list from now on, and say by [`Receiver::judged`] what became of it.
    pub list: Option<Vec<IpNet>>,
    /// Send this notice.
    pub ask: Option<Vec<u8>>,
}

/// How the peer's list stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverStatus {
    /// Keepalives have named a list for [`UNANSWERED_NS`] that does not arrive.
    pub missing: bool,
    /// Length of a list that was refused whole.
    pub too_long: Option<u32>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            peer: Life::default(),
            max_prefixes: DEFAULT_MAX_PREFIXES,
            complete: None,
            waiting: None,
            taken_ns: None,
            outcome: None,
            arriving: None,
            too_long: None,
            credit_ns: SECOND_NS,
            credited_ns: 0,
            heard: None,
            missing_since_ns: None,
            missing: false,
            ask_ns: 0,
            ask_gap_ns: MIN_ASK_NS,
        }
    }
}

impl Receiver {
    /// Sets the most prefixes of a list. One that was refused is asked for again if it is short enough now.
    pub fn set_max_prefixes(&mut self, most: usize) {
        self.max_prefixes = most;
        self.too_long = self.too_long.filter(|(_, total)| *total as usize > most);
    }

    /// Takes in the body of an announcement of the peer's instance; gives the acknowledgement to send, if there is one.
    ///
    /// # Errors
    ///
    /// What is wrong with the body; no list changes then.
    pub fn take(&mut self, now_ns: u64, instance: u32, body: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if !self.may_look(now_ns) {
            return Ok(None);
        }
        let head = codec::decode_head(body)?;
        let (generation, index) = (head.generation, head.index);
        if !self.meet(instance) {
            return Ok(None);
        }
        let acknowledged = |state| Ok(Some(codec::encode_ack(&Ack { generation, index, state })));
        if self.complete == Some(generation) {
            return acknowledged(self.state());
        }
        let arriving = self.arriving.as_ref().map(|arriving| arriving.generation);
        let refused = self.too_long.map(|(generation, _)| generation);
        let known = [self.complete, arriving, refused].into_iter().flatten();
        // Older than what is here, arrives, or was refused: it has come late.
        if known.into_iter().any(|known| known != generation && !newer(generation, known)) {
            return Ok(None);
        }
        if head.total as usize > self.max_prefixes {
            (self.too_long, self.arriving) = (Some((generation, head.total)), None);
            return acknowledged(AckState::TooLong { limit: self.max_prefixes as u32 });
        }
        let prefixes = codec::decode_prefixes(&head, body)?;
        let fresh =
            || Arriving { generation, chunks: head.chunks, total: head.total, count: 0, parts: BTreeMap::new() };
        let mut list = self.arriving.take().filter(|list| list.generation == generation).unwrap_or_else(fresh);
        if (list.chunks, list.total) != (head.chunks, head.total) {
            let message = format!(
                "generation {generation} has {} prefixes in {} chunks now, {} in {} before",
                head.total, head.chunks, list.total, list.chunks
            );
            self.arriving = Some(list);
            return Err(message);
        }
        if let std::collections::btree_map::Entry::Vacant(place) = list.parts.entry(index) {
            list.count += u32::from(head.count);
            if list.count > head.total {
                return Err(format!("generation {generation} has more prefixes than the {} it names", head.total));
            }
            place.insert(prefixes);
            // It is on its way: no need to ask.
            (self.ask_ns, self.ask_gap_ns) = (now_ns + MIN_ASK_NS, MIN_ASK_NS);
        }
        if list.parts.len() < usize::from(list.chunks) {
            self.arriving = Some(list);
            return acknowledged(AckState::Part);
        }
        if list.count != list.total {
            return Err(format!("generation {generation} has {} of its {} prefixes", list.count, list.total));
        }
        let mut whole: Vec<IpNet> = list.parts.into_values().flatten().collect();
        whole.sort_unstable();
        whole.dedup();
        (self.complete, self.waiting, self.outcome, self.too_long) = (Some(generation), Some(whole), None, None);
        acknowledged(AckState::Whole)
    }

    /// The keepalives' newest generation, with the sender's instance; nothing where no link works.
    pub fn hear(&mut self, now_ns: u64, keepalive: Option<(u32, u16)>) {
        self.heard = match keepalive {
            Some((instance, generation)) if self.meet(instance) => {
                Some(generation).filter(|generation| *generation != 0)
            }
            _ => None,
        };
        if !self.lacks() {
            (self.missing_since_ns, self.missing) = (None, false);
        } else if self.missing_since_ns.is_none() {
            self.missing_since_ns = Some(now_ns);
            (self.ask_ns, self.ask_gap_ns) = (now_ns + MIN_ASK_NS, MIN_ASK_NS);
        }
    }

    /// What is to be done now.
    pub fn poll(&mut self, now_ns: u64) -> Due {
        let mut due = Due::default();
        if self.taken_ns.is_none_or(|taken_ns| now_ns >= taken_ns + CHANGE_GAP_NS)
            && let Some(list) = self.waiting.take()
        {
            (self.taken_ns, due.list) = (Some(now_ns), Some(list));
        }
        if self.lacks() && self.ask_ns <= now_ns {
            due.ask = self.heard.map(codec::encode_ask);
            self.ask_ns = now_ns + self.ask_gap_ns;
            self.ask_gap_ns = (self.ask_gap_ns * 2).min(MAX_ASK_NS);
        }
        self.missing = self.missing_since_ns.is_some_and(|since_ns| now_ns >= since_ns + UNANSWERED_NS);
        due
    }

    /// What became of the list in use; gives the acknowledgement that tells the sender.
    pub fn judged(&mut self, judged: &Judged) -> Option<Vec<u8>> {
        let told = judged.refusals.iter().take(MAX_REFUSALS_TOLD).copied().collect();
        self.outcome = Some((u32::try_from(judged.refused).unwrap_or(u32::MAX), told));
        let generation = self.complete.filter(|_| self.waiting.is_none())?;
        Some(codec::encode_ack(&Ack { generation, index: 0, state: self.state() }))
    }

    /// When [`Receiver::poll`] has something again, unless something happens before.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let turn_ns = self.waiting.as_ref().map(|_| self.taken_ns.map_or(0, |taken_ns| taken_ns + CHANGE_GAP_NS));
        let ask_ns = self.lacks().then_some(self.ask_ns);
        let told_ns = self.missing_since_ns.filter(|_| !self.missing).map(|since_ns| since_ns + UNANSWERED_NS);
        [turn_ns, ask_ns, told_ns].into_iter().flatten().min()
    }

    /// How the list stands.
    pub fn status(&self) -> ReceiverStatus {
        ReceiverStatus { missing: self.missing, too_long: self.too_long.map(|(_, total)| total) }
    }

    /// Whether keepalives name a list that is neither here nor refused. One that is older than ours is an older keepalive.
    fn lacks(&self) -> bool {
        self.heard.is_some_and(|heard| {
            self.complete.is_none_or(|complete| newer(heard, complete))
                && self.too_long.is_none_or(|(refused, _)| newer(heard, refused))
        })
    }

    fn state(&self) -> AckState {
        match &self.outcome {
            Some((refused, examples)) if self.waiting.is_none() => {
                AckState::InUse { refused: *refused, examples: examples.clone() }
            }
            _ => AckState::Whole,
        }
    }

    /// Gives whether the instance is the present one; a new one begins anew, and the list in use stays in use.
    fn meet(&mut self, instance: u32) -> bool {
        match self.peer.see(instance) {
            Seen::Current => true,
            Seen::Former => false,
            Seen::New => {
                (self.complete, self.waiting, self.outcome) = (None, None, None);
                (self.arriving, self.too_long, self.heard) = (None, None, None);
                (self.missing_since_ns, self.missing) = (None, false);
                true
            }
        }
    }

    fn may_look(&mut self, now_ns: u64) -> bool {
        let cost_ns = SECOND_NS / CHUNKS_A_SECOND;
        self.credit_ns = (self.credit_ns + now_ns.saturating_sub(self.credited_ns)).min(SECOND_NS);
        self.credited_ns = now_ns;
        let paid = self.credit_ns >= cost_ns;
        self.credit_ns -= if paid { cost_ns } else { 0 };
        paid
    }

    /// Prefixes that are held for a list that is not whole yet.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.arriving.iter().flat_map(|arriving| arriving.parts.values()).map(Vec::len).sum()
    }
}
