//! Messages (`struct nlmsghdr`, linux/netlink.h) and the attributes in them, on netlink-packet-core.

use std::net::IpAddr;

use rtnetlink::packet_core::{
    DefaultNla, Emitable, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NlaBuffer,
    NlasIterator, parse_u16, parse_u32,
};

/// `nlmsghdr`: length u32, type u16, flags u16, sequence u32, port id u32 (linux/netlink.h).
pub(crate) const HEADER_LEN: usize = 16;

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

    /// How many requests it has.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds a request of type `kind`; flags are `NLM_F_*` beyond `NLM_F_REQUEST`.
    pub(crate) fn request(&mut self, kind: u16, flags: u16, payload: &impl Emitable) {
        let start = self.bytes.len();
        let length = HEADER_LEN + payload.buffer_len();
        self.starts.push(start);
        self.bytes.resize(start + length.next_multiple_of(4), 0);
        let mut header = NetlinkHeader::default();
        header.length = length as u32;
        header.message_type = kind;
        header.flags = flags | NLM_F_REQUEST;
        header.emit(&mut self.bytes[start..]);
        payload.emit(&mut self.bytes[start + HEADER_LEN..start + length]);
    }

    /// Numbers the requests from `first`; the last one is to be acknowledged. An acknowledgement for each would fill
    /// the receive buffer, and errors are answered anyway.
    pub(super) fn number(&mut self, first: u32) {
        for (i, &start) in self.starts.iter().enumerate() {
            let mut request = NetlinkBuffer::new(&mut self.bytes[start..]);
            request.set_sequence_number(first.wrapping_add(i as u32));
            if i + 1 == self.starts.len() {
                request.set_flags(request.flags() | NLM_F_ACK);
            }
        }
    }
}

/// What follows a request's header, for messages that no crate has: a fixed part, then attributes.
pub(crate) struct Body<'a> {
    /// The struct of the message's type; its length is a multiple of four.
    pub(crate) fixed: &'a [u8],
    /// In their order.
    pub(crate) attributes: &'a [DefaultNla],
}

impl Emitable for Body<'_> {
    fn buffer_len(&self) -> usize {
        self.fixed.len() + self.attributes.buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let (fixed, attributes) = buffer.split_at_mut(self.fixed.len());
        fixed.copy_from_slice(self.fixed);
        self.attributes.emit(attributes);
    }
}

/// An attribute.
pub(crate) fn nla(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
    DefaultNla::new(kind, value.into())
}

/// An attribute of attributes.
pub(crate) fn nest(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind, value)
}

/// An address as attributes have it.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// `AF_*` of an address.
pub(crate) fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// A received message. Its port id says whose request caused it; 0: the kernel's own doing.
pub(crate) type Message<'a> = NetlinkBuffer<&'a [u8]>;

/// The messages of a datagram. Ends at the first malformed one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        bytes = bytes.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, for a decoder of one attribute. Ends at the first malformed one.
pub(crate) fn nlas(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

/// The attributes in `bytes`: type without its flag bits, and value. Ends at the first malformed one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    nlas(bytes).map(|nla| {
        let (kind, length) = (nla.kind(), usize::from(nla.length()));
        (kind, &nla.into_inner()[NLA_HEADER_SIZE..length])
    })
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A number of four bytes.
pub(crate) fn word(value: &[u8]) -> Option<u32> {
    parse_u32(value.get(..4)?).ok()
}

/// A number of two bytes.
pub(crate) fn half(value: &[u8]) -> Option<u16> {
    parse_u16(value.get(..2)?).ok()
}

/// A string attribute's text, up to its NUL.
pub(crate) fn string(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut batch = Batch::default();
        let inner = nest(9, &[nla(5, [9])]);
        batch.request(24, 0, &Body { fixed: &[7; 12], attributes: &[nla(1, [1, 2, 3]), inner] });
        batch.request(25, 0, &Body { fixed: &[8; 12], attributes: &[] });
        batch.number(100);
        let found: Vec<_> = messages(&batch.bytes).collect();
        let names: Vec<_> = found.iter().map(|message| (message.message_type(), message.sequence_number())).collect();
        assert_eq!(names, [(24, 100), (25, 101)]);
        assert_eq!((found[0].flags(), found[1].flags()), (NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_ACK));
        let attributes_found: Vec<_> = attributes(&found[0].payload()[12..]).collect();
        assert_eq!(attributes_found[0], (1, &[1, 2, 3][..]));
        assert_eq!(attributes(attributes_found[1].1).collect::<Vec<_>>(), [(5, &[9][..])]);
        assert_eq!(attribute(&found[0].payload()[12..], 2), None);
    }

    #[test]
    fn malformed_bytes_end_the_iteration() {
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        // A length below the header's, and one beyond the end.
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(messages(&[255; 64]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0]).count(), 0);
    }
}
