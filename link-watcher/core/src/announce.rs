//! The exchange of prefixes between two peers, pure: no clock, no socket.
//!
//! The sender's list has a generation. It goes out in numbered chunks, each one control packet, a few at a time; each is
//! acknowledged, and repeated until it is. The receiver takes a list over when it is complete: a half list never
//! reaches a route. Either side's new session starts the exchange again.
//!
//! Body of an announcement: generation (u16), chunk (u16), chunks (u16), prefixes here (u16), then each prefix as
//! family (u8: 4 or 6), length (u8), address (4 or 16 bytes). Body of an acknowledgement: generation (u16), chunk (u16).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use link_watcher_common::wire::MAX_BODY_LEN;

/// Most prefixes of one peer.
pub const MAX_PREFIXES: usize = 65_536;
/// Chunks on the way at one time: they leave room for keepalives in every queue between.
const CHUNKS_ON_THE_WAY: usize = 8;
/// Least time before a chunk is repeated, ns.
const MIN_REPEAT_NS: u64 = 50_000_000;
/// Most time, ns: reached by doubling while nobody answers.
const MAX_REPEAT_NS: u64 = 2_000_000_000;

const CHUNK_HEADER_LEN: usize = 8;

/// The sending side.
#[derive(Debug, Default)]
pub struct Sender {
    generation: u16,
    prefixes: Vec<IpNet>,
    chunks: Vec<Chunk>,
    peer_session: Option<u32>,
}

#[derive(Debug)]
struct Chunk {
    body: Vec<u8>,
    acknowledged: bool,
    /// When it is sent (again); `None`: not yet sent.
    due_ns: Option<u64>,
    repeat_ns: u64,
}

impl Sender {
    /// The generation that keepalives carry; 0: nothing announced yet.
    pub const fn generation(&self) -> u16 {
        self.generation
    }

    /// Sets what is announced. The same list again changes nothing. What exceeds [`MAX_PREFIXES`] is left out; the
    /// number left out is returned.
    pub fn set(&mut self, mut prefixes: Vec<IpNet>) -> usize {
        prefixes.sort_unstable();
        prefixes.dedup();
        let left_out = prefixes.len().saturating_sub(MAX_PREFIXES);
        prefixes.truncate(MAX_PREFIXES);
        if self.generation != 0 && prefixes == self.prefixes {
            return left_out;
        }
        // Zero means "nothing yet".
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.prefixes = prefixes;
        self.chunks = encode(self.generation, &self.prefixes);
        left_out
    }

    /// The peer's present session: a new one has none of our chunks.
    pub fn peer_session(&mut self, session: u32) {
        if self.peer_session == Some(session) {
            return;
        }
        self.peer_session = Some(session);
        for chunk in &mut self.chunks {
            (chunk.acknowledged, chunk.due_ns, chunk.repeat_ns) = (false, None, MIN_REPEAT_NS);
        }
    }

    /// Takes in the body of an acknowledgement.
    pub fn acknowledge(&mut self, body: &[u8]) {
        let Some((generation, rest)) = take_u16(body) else { return };
        let Some((index, _)) = take_u16(rest) else { return };
        if generation == self.generation
            && let Some(chunk) = self.chunks.get_mut(usize::from(index))
        {
            chunk.acknowledged = true;
        }
    }

    /// Bodies to be sent now.
    pub fn poll(&mut self, now_ns: u64) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        if self.peer_session.is_none() {
            return bodies;
        }
        for chunk in self.chunks.iter_mut().filter(|chunk| !chunk.acknowledged).take(CHUNKS_ON_THE_WAY) {
            if chunk.due_ns.is_none_or(|due_ns| due_ns <= now_ns) {
                chunk.due_ns = Some(now_ns + chunk.repeat_ns);
                chunk.repeat_ns = (chunk.repeat_ns * 2).min(MAX_REPEAT_NS);
                bodies.push(chunk.body.clone());
            }
        }
        bodies
    }

    /// When [`Sender::poll`] has something again, unless something happens before; `None`: all is acknowledged.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.peer_session?;
        let open = self.chunks.iter().filter(|chunk| !chunk.acknowledged).take(CHUNKS_ON_THE_WAY);
        open.map(|chunk| chunk.due_ns.unwrap_or(0)).min()
    }
}

/// The receiving side.
#[derive(Debug, Default)]
pub struct Receiver {
    session: u32,
    /// Generation that was taken over last, of this session.
    complete: Option<u16>,
    arriving: Option<Arriving>,
}

#[derive(Debug)]
struct Arriving {
    generation: u16,
    chunks: u16,
    parts: BTreeMap<u16, Vec<IpNet>>,
}

/// What a chunk led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Body of the acknowledgement to send.
    pub acknowledgement: Vec<u8>,
    /// The whole list, if this chunk completed a new one.
    pub complete: Option<Vec<IpNet>>,
}

impl Receiver {
    /// Takes in the body of an announcement of the peer's session.
    ///
    /// # Errors
    ///
    /// What is wrong with the body; nothing changes then.
    pub fn take(&mut self, session: u32, body: &[u8]) -> Result<Received, String> {
        let (generation, index, chunks, prefixes) = decode(body)?;
        if session != self.session {
            *self = Self { session, ..Self::default() };
        }
        let mut acknowledgement = generation.to_be_bytes().to_vec();
        acknowledgement.extend_from_slice(&index.to_be_bytes());
        if self.complete == Some(generation) {
            return Ok(Received { acknowledgement, complete: None });
        }
        if let Some(arriving) = &self.arriving {
            // Generations wrap: older is what lies behind by less than half (RFC 1982).
            let behind = arriving.generation.wrapping_sub(generation);
            if behind != 0 && behind < 0x8000 {
                return Ok(Received { acknowledgement, complete: None });
            }
            if arriving.generation == generation && arriving.chunks != chunks {
                return Err(format!("generation {generation} has {chunks} chunks now, {} before", arriving.chunks));
            }
        }
        if self.arriving.as_ref().is_none_or(|arriving| arriving.generation != generation) {
            self.arriving = Some(Arriving { generation, chunks, parts: BTreeMap::new() });
        }
        let Some(arriving) = &mut self.arriving else {
            return Err("no list arriving".to_owned());
        };
        arriving.parts.insert(index, prefixes);
        let complete = (arriving.parts.len() == usize::from(chunks)).then(|| {
            let mut whole: Vec<IpNet> = std::mem::take(&mut arriving.parts).into_values().flatten().collect();
            whole.sort_unstable();
            whole.dedup();
            whole
        });
        if complete.is_some() {
            self.complete = Some(generation);
            self.arriving = None;
        }
        Ok(Received { acknowledgement, complete })
    }
}

fn encode(generation: u16, prefixes: &[IpNet]) -> Vec<Chunk> {
    let mut parts: Vec<(u16, Vec<u8>)> = vec![(0, Vec::new())];
    for prefix in prefixes {
        let mut bytes = vec![if matches!(prefix, IpNet::V4(_)) { 4 } else { 6 }, prefix.prefix_len()];
        match prefix.network() {
            IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
        }
        if parts.last().is_some_and(|(_, part)| CHUNK_HEADER_LEN + part.len() + bytes.len() > MAX_BODY_LEN) {
            parts.push((0, Vec::new()));
        }
        if let Some((count, part)) = parts.last_mut() {
            *count += 1;
            part.extend_from_slice(&bytes);
        }
    }
    // At most MAX_PREFIXES prefixes of 18 bytes in parts of 1,016: below 1,200.
    let chunks = parts.len() as u16;
    parts
        .into_iter()
        .zip(0_u16..)
        .map(|((count, part), index)| {
            let mut body = Vec::with_capacity(CHUNK_HEADER_LEN + part.len());
            for field in [generation, index, chunks, count] {
                body.extend_from_slice(&field.to_be_bytes());
            }
            body.extend_from_slice(&part);
            Chunk { body, acknowledged: false, due_ns: None, repeat_ns: MIN_REPEAT_NS }
        })
        .collect()
}

fn decode(body: &[u8]) -> Result<(u16, u16, u16, Vec<IpNet>), String> {
    let short = || format!("an announcement of {} bytes ends too early", body.len());
    let (generation, rest) = take_u16(body).ok_or_else(short)?;
    let (index, rest) = take_u16(rest).ok_or_else(short)?;
    let (chunks, rest) = take_u16(rest).ok_or_else(short)?;
    let (count, mut rest) = take_u16(rest).ok_or_else(short)?;
    // What a full list can need, at most.
    let most = MAX_PREFIXES.div_ceil((MAX_BODY_LEN - CHUNK_HEADER_LEN) / 18);
    if generation == 0 || index >= chunks || usize::from(chunks) > most {
        return Err(format!("chunk {index} of {chunks}, generation {generation}, is impossible"));
    }
    let mut prefixes = Vec::with_capacity(usize::from(count).min(MAX_BODY_LEN / 6));
    for _ in 0..count {
        let [family, length, tail @ ..] = rest else { return Err(short()) };
        let (address, after) = match family {
            4 => {
                let (octets, after) = tail.split_first_chunk::<4>().ok_or_else(short)?;
                (IpAddr::V4(Ipv4Addr::from(*octets)), after)
            }
            6 => {
                let (octets, after) = tail.split_first_chunk::<16>().ok_or_else(short)?;
                (IpAddr::V6(Ipv6Addr::from(*octets)), after)
            }
            other => return Err(format!("address family {other}: 4 or 6 is known")),
        };
        let prefix = IpNet::new(address, *length).map_err(|_| format!("{address}/{length} is no prefix"))?;
        if prefix.network() != address {
            return Err(format!("{address}/{length} has host bits; {} would be right", prefix.trunc()));
        }
        prefixes.push(prefix);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes too many behind the last prefix", rest.len()));
    }
    Ok((generation, index, chunks, prefixes))
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn prefixes(count: u32) -> Vec<IpNet> {
        (0..count).map(|i| format!("10.{}.{}.0/24", i / 256 % 256, i % 256).parse().unwrap()).collect()
    }

    /// Exchanges with one packet in `loss` lost, by a generator with a fixed seed; gives the list taken over and the
    /// packets sent.
    fn exchange(
        sender: &mut Sender,
        receiver: &mut Receiver,
        session: u32,
        loss: usize,
    ) -> (Option<Vec<IpNet>>, usize) {
        let (mut taken, mut packets, mut now_ns, mut random) = (None, 0, 0, 1_u64);
        let mut lost = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            loss != 0 && ((random >> 33) as usize).is_multiple_of(loss)
        };
        for _ in 0..10_000 {
            for body in sender.poll(now_ns) {
                packets += 1;
                if lost() {
                    continue;
                }
                let received = receiver.take(session, &body).unwrap();
                if received.complete.is_some() {
                    assert!(taken.is_none(), "taken over twice");
                    taken = received.complete;
                }
                packets += 1;
                if !lost() {
                    sender.acknowledge(&received.acknowledgement);
                }
            }
            match sender.next_deadline_ns() {
                Some(next_ns) => now_ns = now_ns.max(next_ns),
                None => return (taken, packets),
            }
        }
        panic!("no end");
    }

    #[test]
    fn nothing_leaves_before_a_peer_is_there() {
        let mut sender = Sender::default();
        sender.set(prefixes(3));
        assert!(sender.poll(0).is_empty());
        assert_eq!(sender.next_deadline_ns(), None);
    }

    #[test]
    fn lists_of_every_size_arrive_whole() {
        for count in [0, 1, 169, 170, 10_000] {
            let (mut sender, mut receiver) = (Sender::default(), Receiver::default());
            sender.set(prefixes(count));
            sender.peer_session(7);
            let (taken, packets) = exchange(&mut sender, &mut receiver, 9, 0);
            assert_eq!(taken.unwrap(), prefixes(count), "{count} prefixes");
            assert!(packets <= 2 * (count as usize / 169 + 1), "{count} prefixes in {packets} packets");
        }
    }

    #[test]
    fn loss_delays_but_never_spoils() {
        for loss in [2, 3, 5, 7] {
            let (mut sender, mut receiver) = (Sender::default(), Receiver::default());
            sender.set(prefixes(5_000));
            sender.peer_session(7);
            assert_eq!(exchange(&mut sender, &mut receiver, 9, loss).0.unwrap(), prefixes(5_000));
        }
    }

    #[test]
    fn both_sides_survive_a_restart_of_the_other() {
        let (mut sender, mut receiver) = (Sender::default(), Receiver::default());
        sender.set(prefixes(2));
        sender.peer_session(7);
        assert!(exchange(&mut sender, &mut receiver, 9, 0).0.is_some());
        // The receiver restarts: it gets the list again.
        sender.peer_session(8);
        assert!(exchange(&mut sender, &mut Receiver::default(), 9, 0).0.is_some());
        // The sender restarts: the same generation, another list.
        let mut again = Sender::default();
        again.set(prefixes(4));
        again.peer_session(8);
        assert_eq!(exchange(&mut again, &mut receiver, 10, 0).0.unwrap().len(), 4);
    }

    #[test]
    fn an_unchanged_list_is_not_sent_again() {
        let mut sender = Sender::default();
        sender.set(prefixes(2));
        let generation = sender.generation();
        sender.set(prefixes(2));
        assert_eq!(sender.generation(), generation);
        sender.set(prefixes(3));
        assert_eq!(sender.generation(), generation + 1);
    }

    #[test]
    fn every_cut_and_every_defect_is_refused() {
        let mut sender = Sender::default();
        sender.set(vec!["10.20.20.0/22".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        sender.peer_session(7);
        let good = sender.poll(0).remove(0);
        for length in 0..good.len() {
            assert!(Receiver::default().take(9, &good[..length]).is_err(), "cut to {length}");
        }
        let mut long = good.clone();
        long.push(0);
        assert!(Receiver::default().take(9, &long).is_err());
        for (at, value) in [(1, 0), (3, 1), (8, 5), (9, 33), (13, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Receiver::default().take(9, &bad).is_err(), "byte {at} = {value}");
        }
    }
}
