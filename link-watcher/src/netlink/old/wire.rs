//! rtnetlink(7) over raw sockets: a batch of requests is one `sendmsg`, and answers are matched by sequence number.
//!
//! The kernel carries requests out inside `sendmsg` and has queued every answer before it returns, so nothing here ever
//! waits for the network: the calls are plain functions that take as long as the kernel takes.

use std::{collections::BTreeMap, net::IpAddr};

use crate::netlink::KernelError;

/// `nlmsghdr`: length u32, type u16, flags u16, sequence u32, port id u32 (linux/netlink.h).
pub(crate) const HEADER_LEN: usize = 16;
/// Room for the errors of a whole batch, and for events while the daemon is busy, bytes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel fills a dump's datagrams up to this size if the reader offers it, bytes.
const DUMP_BUFFER: usize = 32 << 10;
/// How often a dump that changed under our hands is taken again.
const DUMP_ATTEMPTS: u32 = 5;

/// Requests, one behind the other, as one `sendmsg` carries them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each request starts.
    starts: Vec<usize>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Starts a request of type `kind` whose fixed part is `fixed`.
    pub(crate) fn request(&mut self, kind: u16, flags: u16, fixed: &[u8]) {
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(fixed);
        self.close();
    }

    /// Adds an attribute to the request.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.attribute_with(kind, |bytes| bytes.extend_from_slice(value));
    }

    /// Adds an attribute whose value `write` appends.
    pub(crate) fn attribute_with(&mut self, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
        append_attribute(&mut self.bytes, kind, write);
        self.close();
    }

    /// Sets bits in the flags of the last request, whose fixed part is a `struct rtmsg`: they are its last four bytes.
    pub(crate) fn route_flags(&mut self, flags: u8) {
        if let Some(&start) = self.starts.last() {
            let at = start + HEADER_LEN + 8;
            self.bytes[at..at + 4].copy_from_slice(&u32::from(flags).to_ne_bytes());
        }
    }

    /// Writes the length of the last request.
    fn close(&mut self) {
        if let Some(&start) = self.starts.last() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Numbers the requests from `first`; the last one is to be acknowledged. An acknowledgement for each would fill
    /// the receive buffer, and errors are answered anyway.
    pub(crate) fn number(&mut self, first: u32) {
        for (i, &start) in self.starts.iter().enumerate() {
            self.bytes[start + 8..start + 12].copy_from_slice(&first.wrapping_add(i as u32).to_ne_bytes());
        }
        if let Some(&start) = self.starts.last() {
            self.bytes[start + 6] |= (libc::NLM_F_ACK as u16).to_ne_bytes()[0];
            self.bytes[start + 7] |= (libc::NLM_F_ACK as u16).to_ne_bytes()[1];
        }
    }
}

/// Appends a netlink attribute, padded to four bytes.
pub(crate) fn append_attribute(bytes: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    write(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Whose request caused it; 0: the kernel's own doing.
    pub(crate) port_id: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram. Ends at the first malformed one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = read_u32(bytes, 0)? as usize;
        if length < HEADER_LEN {
            return None;
        }
        let message = Message {
            kind: read_u16(bytes, 4)?,
            flags: read_u16(bytes, 6)?,
            sequence: read_u32(bytes, 8)?,
            port_id: read_u32(bytes, 12)?,
            payload: bytes.get(HEADER_LEN..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`: type without its flag bits, and value. Ends at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = read_u16(bytes, 0)? as usize;
        let kind = read_u16(bytes, 2)? & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An address of 4 or 16 bytes.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

/// Nothing for an acknowledgement.
pub(crate) fn parse_error(message: &Message<'_>) -> Option<KernelError> {
    let errno = read_u32(message.payload, 0)? as i32;
    if errno == 0 {
        return None;
    }
    let mut text = None;
    if message.flags & libc::NLM_F_ACK_TLVS as u16 != 0 {
        let copied = if message.flags & libc::NLM_F_CAPPED as u16 != 0 {
            HEADER_LEN
        } else {
            read_u32(message.payload, 4)? as usize
        };
        let found: BTreeMap<u16, &[u8]> = attributes(message.payload.get(4 + copied..)?).collect();
        // NLMSGERR_ATTR_MSG
        text = found.get(&1).map(|text| string(text));
    }
    Some(KernelError { errno: -errno, text })
}

/// A string attribute's text, up to its NUL.
pub(crate) fn string(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}
