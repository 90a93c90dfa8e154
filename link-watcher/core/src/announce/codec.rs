//! Bodies of control packets about announcements. All integers are big-endian.
//!
//! | announcement | |
//! |---|---|
//! | 0–1 | generation, not 0 |
//! | 2–3 | number of this chunk, from 0 |
//! | 4–5 | chunks of the list, at least 1 |
//! | 6–7 | prefixes in this chunk |
//! | 8–11 | prefixes of the whole list |
//! | from 12 | each prefix: family (4 or 6), length, address of 4 or 16 bytes without bits behind the length |
//!
//! | acknowledgement | |
//! |---|---|
//! | 0–1 | generation |
//! | 2–3 | number of the chunk |
//! | 4 | state: 0 this chunk is here, 1 all of the list is, 2 the list is too long, 3 it is in use |
//! | 5 | refused prefixes that follow, at most 8; only in state 3 |
//! | 6–9 | state 2: most prefixes that are taken; state 3: how many are refused |
//! | from 10 | each: reason, then the prefix as above |
//!
//! | notice | |
//! |---|---|
//! | 0 | 1: send me this generation again |
//! | 1–2 | generation |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{MAX_PREFIXES, MAX_REFUSALS_TOLD, Reason};

pub(super) const CHUNK_HEADER_LEN: usize = 12;
/// Kind, length and address of an IPv4 prefix: the shortest.
const MIN_PREFIX_LEN: usize = 6;
const ACK_HEADER_LEN: usize = 10;
const SEND_AGAIN: u8 = 1;

/// What a chunk says before its prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHead {
    pub(super) generation: u16,
    pub(super) index: u16,
    pub(super) chunks: u16,
    pub(super) count: u16,
    /// Prefixes of the whole list.
    pub(super) total: u32,
}

/// How a list stands with the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AckState {
    /// This chunk has arrived.
    Part,
    /// All chunks have.
    Whole,
    /// The list is refused whole.
    TooLong { limit: u32 },
    /// The list is in use, without these.
    InUse { refused: u32, examples: Vec<(IpNet, Reason)> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) generation: u16,
    pub(super) index: u16,
    pub(super) state: AckState,
}

/// The chunks of a list, each at most `body_len` bytes long.
pub(super) fn encode_list(generation: u16, prefixes: &[IpNet], body_len: usize) -> Vec<Vec<u8>> {
    let mut parts: Vec<(u16, Vec<u8>)> = vec![(0, Vec::new())];
    for prefix in prefixes {
        let mut bytes = Vec::with_capacity(18);
        put_prefix(&mut bytes, prefix);
        if parts.last().is_some_and(|(_, part)| CHUNK_HEADER_LEN + part.len() + bytes.len() > body_len) {
            parts.push((0, Vec::new()));
        }
        if let Some((count, part)) = parts.last_mut() {
            *count += 1;
            part.extend_from_slice(&bytes);
        }
    }
    // MAX_PREFIXES prefixes of 18 bytes in parts of 244: some 5,000.
    let chunks = parts.len() as u16;
    let total = prefixes.len() as u32;
    let encode = |((count, part), index): ((u16, Vec<u8>), u16)| {
        let mut body = Vec::with_capacity(CHUNK_HEADER_LEN + part.len());
        for field in [generation, index, chunks, count] {
            body.extend_from_slice(&field.to_be_bytes());
        }
        body.extend_from_slice(&total.to_be_bytes());
        body.extend_from_slice(&part);
        body
    };
    parts.into_iter().zip(0_u16..).map(encode).collect()
}

/// Reads what a chunk says before its prefixes: enough to refuse a list before any memory is spent on it.
pub(super) fn decode_head(body: &[u8]) -> Result<ChunkHead, String> {
    let short = || format!("an announcement of {} bytes ends too early", body.len());
    let (head, rest) = body.split_first_chunk::<CHUNK_HEADER_LEN>().ok_or_else(short)?;
    let [a, b, c, d, e, f, g, h, total @ ..] = *head;
    let [generation, index, chunks, count] = [[a, b], [c, d], [e, f], [g, h]].map(u16::from_be_bytes);
    let total = u32::from_be_bytes(total);
    if generation == 0 {
        return Err("an announcement has generation 0, which stands for nothing".to_owned());
    }
    // Each chunk has a prefix at least, but for the only one of an empty list.
    let possible = index < chunks
        && u32::from(chunks) <= total.max(1)
        && u32::from(count) <= total
        && (count > 0 || total == 0)
        && (chunks > 1 || u32::from(count) == total);
    if !possible {
        return Err(format!("chunk {index} of {chunks} with {count} of {total} prefixes is impossible"));
    }
    if usize::from(count) > rest.len() / MIN_PREFIX_LEN {
        return Err(short());
    }
    Ok(ChunkHead { generation, index, chunks, count, total })
}

/// Reads the prefixes of a chunk whose head was read.
pub(super) fn decode_prefixes(head: &ChunkHead, body: &[u8]) -> Result<Vec<IpNet>, String> {
    let mut rest = body.get(CHUNK_HEADER_LEN..).unwrap_or_default();
    // The head was checked against the bytes that are there.
    let mut prefixes = Vec::with_capacity(usize::from(head.count).min(MAX_PREFIXES));
    for _ in 0..head.count {
        let (prefix, after) = take_prefix(rest)?;
        prefixes.push(prefix);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes too many behind the last prefix", rest.len()));
    }
    Ok(prefixes)
}

pub(super) fn encode_ack(ack: &Ack) -> Vec<u8> {
    let none = [].as_slice();
    let (state, number, examples) = match &ack.state {
        AckState::Part => (0, 0, none),
        AckState::Whole => (1, 0, none),
        AckState::TooLong { limit } => (2, *limit, none),
        AckState::InUse { refused, examples } => (3, *refused, examples.get(..MAX_REFUSALS_TOLD).unwrap_or(examples)),
    };
    let mut body = ack.generation.to_be_bytes().to_vec();
    body.extend_from_slice(&ack.index.to_be_bytes());
    body.extend_from_slice(&[state, examples.len() as u8]);
    body.extend_from_slice(&number.to_be_bytes());
    for (prefix, reason) in examples {
        body.push(reason.code());
        put_prefix(&mut body, prefix);
    }
    body
}

pub(super) fn decode_ack(body: &[u8]) -> Result<Ack, String> {
    let short = || format!("an acknowledgement of {} bytes ends too early", body.len());
    let (head, mut rest) = body.split_first_chunk::<ACK_HEADER_LEN>().ok_or_else(short)?;
    let [a, b, c, d, state, listed, number @ ..] = *head;
    let number = u32::from_be_bytes(number);
    if usize::from(listed) > MAX_REFUSALS_TOLD || (listed > 0 && state != 3) {
        return Err(format!("an acknowledgement in state {state} names {listed} refused prefixes"));
    }
    let mut examples = Vec::with_capacity(usize::from(listed));
    for _ in 0..listed {
        let (code, after) = rest.split_first().ok_or_else(short)?;
        let (prefix, after) = take_prefix(after)?;
        examples.push((prefix, Reason::from_code(*code)));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes too many behind an acknowledgement", rest.len()));
    }
    let state = match state {
        0 => AckState::Part,
        1 => AckState::Whole,
        2 => AckState::TooLong { limit: number },
        3 => AckState::InUse { refused: number, examples },
        other => return Err(format!("an acknowledgement has state {other}; 0 to 3 are known")),
    };
    Ok(Ack { generation: u16::from_be_bytes([a, b]), index: u16::from_be_bytes([c, d]), state })
}

pub(super) fn encode_ask(generation: u16) -> Vec<u8> {
    let [high, low] = generation.to_be_bytes();
    vec![SEND_AGAIN, high, low]
}

/// The generation that a notice asks for; nothing for notices that this version does not know.
pub(super) fn decode_ask(body: &[u8]) -> Option<u16> {
    match *body {
        [SEND_AGAIN, high, low] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

fn put_prefix(bytes: &mut Vec<u8>, prefix: &IpNet) {
    bytes.push(if matches!(prefix, IpNet::V4(_)) { 4 } else { 6 });
    bytes.push(prefix.prefix_len());
    match prefix.network() {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
}

fn take_prefix(bytes: &[u8]) -> Result<(IpNet, &[u8]), String> {
    let short = || "a prefix ends too early".to_owned();
    let [family, length, tail @ ..] = bytes else { return Err(short()) };
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
    Ok((prefix, after))
}
