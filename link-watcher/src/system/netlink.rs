//! rtnetlink(7) over raw sockets: a batch of requests is one `sendmsg`, and answers are matched by sequence number.
//!
//! The kernel carries requests out inside `sendmsg` and has queued every answer before it returns, so nothing here ever
//! waits for the network: the calls are plain functions that take as long as the kernel takes.

use std::{collections::BTreeMap, fmt, io, net::IpAddr, ops::ControlFlow};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `nlmsghdr`: length u32, type u16, flags u16, sequence u32, port id u32 (linux/netlink.h).
pub(crate) const HEADER_LEN: usize = 16;
/// Room for the errors of a whole batch, and for events while the daemon is busy, bytes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel fills a dump's datagrams up to this size if the reader offers it, bytes.
const DUMP_BUFFER: usize = 32 << 10;
/// How often a dump that changed under our hands is taken again.
const DUMP_ATTEMPTS: u32 = 5;

/// Why the kernel refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// errno(3), positive.
    pub errno: i32,
    /// The kernel's own words, where it has some (extended acknowledgement).
    pub text: Option<String>,
}

#[cfg(test)]
impl KernelError {
    pub(crate) fn new(errno: i32) -> Self {
        Self { errno, text: None }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        match &self.text {
            Some(text) => write!(f, "{text} ({error})"),
            None => write!(f, "{error}"),
        }
    }
}

/// Binds the socket to a port id of its own, which it gives, and makes its receive buffer large.
pub(crate) fn prepare(socket: &mut Socket) -> io::Result<u32> {
    let address = socket.bind_auto()?;
    // Beyond the system's limit with CAP_NET_ADMIN, else up to it; both are only a matter of headroom.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&*socket, RECEIVE_BUFFER).is_err() {
        socket.set_rx_buf_sz(RECEIVE_BUFFER as libc::c_int)?;
    }
    Ok(address.port_number())
}

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

    #[cfg(test)]
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
    fn number(&mut self, first: u32) {
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

/// A socket for requests and dumps.
pub(crate) struct Requests {
    socket: Socket,
    port_id: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// For routes, rules, interfaces. Fails without netlink; permission is only checked request by request.
    pub(crate) fn open() -> io::Result<Self> {
        Self::open_protocol(NETLINK_ROUTE)
    }

    /// For another netlink family, such as `NETLINK_NETFILTER`.
    pub(crate) fn open_protocol(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port_id = prepare(&mut socket)?;
        socket.set_ext_ack(true)?;
        // Answers without a copy of the request: a batch full of errors must fit the receive buffer.
        socket.set_cap_ack(true)?;
        // Without it the kernel ignores a dump's filter and sends every route of the machine.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, port_id, sequence: 0, buffer: Vec::with_capacity(DUMP_BUFFER) })
    }

    /// The port id that the events of our own requests carry.
    pub(crate) fn port_id(&self) -> u32 {
        self.port_id
    }

    /// Carries out a batch. The answer has an entry for each request, in order. A request that fails does not keep
    /// those behind it from being carried out.
    pub(crate) fn transact(&mut self, batch: &mut Batch) -> io::Result<Vec<Result<(), KernelError>>> {
        self.ask(batch, |_| {})
    }

    /// Carries out a batch in which requests are answered by more than success: `each` gets the messages.
    pub(crate) fn ask(
        &mut self,
        batch: &mut Batch,
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<Vec<Result<(), KernelError>>> {
        let count = batch.starts.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        self.drain();
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count as u32);
        batch.number(first);
        self.send(&batch.bytes)?;
        let mut results = vec![Ok(()); count];
        loop {
            self.receive().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other("the kernel's answers to a batch of requests were lost"),
                _ => error,
            })?;
            for message in messages(&self.buffer) {
                let at = message.sequence.wrapping_sub(first) as usize;
                if at >= count {
                    continue;
                }
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    each(&message);
                    continue;
                }
                if let Some(error) = parse_error(&message) {
                    results[at] = Err(error);
                }
                if at == count - 1 {
                    return Ok(results);
                }
            }
        }
    }

    /// Carries out one request that is answered by a message, and gives what `parse` makes of it.
    pub(crate) fn ask_one<T>(&mut self, batch: &mut Batch, parse: impl Fn(&Message<'_>) -> Option<T>) -> io::Result<T> {
        let mut found = None;
        for result in self.ask(batch, |message| found = parse(message))? {
            result.map_err(|error| io::Error::from_raw_os_error(error.errno))?;
        }
        found.ok_or_else(|| io::Error::other("the kernel's answer is not understood"))
    }

    /// Dumps: sends a request with `NLM_F_DUMP`, and gives what `each` makes of the messages of the answer. A dump that
    /// the kernel marks as inconsistent is taken again; the last attempt counts even so, because whoever reads tables
    /// follows their events too.
    pub(crate) fn dump<T>(
        &mut self,
        batch: &mut Batch,
        mut each: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            self.drain();
            self.sequence = self.sequence.wrapping_add(1);
            batch.number(self.sequence);
            self.send(&batch.bytes)?;
            found.clear();
            if self.dump_answer(|message| found.extend(each(message)))? {
                break;
            }
        }
        Ok(found)
    }

    /// Dumps until `each` has seen enough. What is left of the dump stays unread, so the socket is of no more use.
    pub(crate) fn dump_until(
        mut self,
        batch: &mut Batch,
        mut each: impl FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        batch.number(self.sequence);
        self.send(&batch.bytes)?;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        if let Some(error) = parse_error(&message) {
                            return Err(io::Error::from_raw_os_error(error.errno));
                        }
                    }
                    _ if each(&message).is_break() => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Starts a dump that is taken in portions, with [`dump_portion`](Self::dump_portion); one that was going on before
    /// is given up. The socket serves nothing else until the end.
    pub(crate) fn dump_start(&mut self, batch: &mut Batch) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        batch.number(self.sequence);
        self.send(&batch.bytes)
    }

    /// One datagram of a dump, at most some [`DUMP_BUFFER`] bytes, which is what the kernel prepares at a time. Gives
    /// whether more follows.
    pub(crate) fn dump_portion(&mut self, mut each: impl FnMut(&Message<'_>)) -> io::Result<bool> {
        self.receive()?;
        for message in messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok(false),
                libc::NLMSG_ERROR => {
                    if let Some(error) = parse_error(&message) {
                        return Err(io::Error::from_raw_os_error(error.errno));
                    }
                }
                _ => each(&message),
            }
        }
        Ok(true)
    }

    /// Whether the dump was consistent.
    fn dump_answer(&mut self, mut each: impl FnMut(&Message<'_>)) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= message.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(consistent),
                    libc::NLMSG_ERROR => {
                        if let Some(error) = parse_error(&message) {
                            return Err(io::Error::from_raw_os_error(error.errno));
                        }
                    }
                    _ => each(&message),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// One datagram into the buffer, without waiting.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Throws away what a failed exchange left behind. Bounded by the receive buffer.
    fn drain(&mut self) {
        loop {
            match self.receive() {
                Ok(()) => {}
                // The overrun is reported once, then reading goes on.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

/// Nothing for an acknowledgement.
fn parse_error(message: &Message<'_>) -> Option<KernelError> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut batch = Batch::default();
        batch.request(24, 0, &[7; 12]);
        batch.attribute(1, &[1, 2, 3]);
        batch.attribute_with(9, |bytes| append_attribute(bytes, 5, |bytes| bytes.push(9)));
        batch.request(25, 0, &[8; 12]);
        batch.number(100);
        let found: Vec<_> = messages(&batch.bytes).collect();
        assert_eq!(found.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(), [(24, 100), (25, 101)]);
        assert_eq!(found[0].flags, libc::NLM_F_REQUEST as u16);
        assert_eq!(found[1].flags, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16);
        let attributes_found: Vec<_> = attributes(&found[0].payload[12..]).collect();
        assert_eq!(attributes_found[0], (1, &[1, 2, 3][..]));
        assert_eq!(attributes(attributes_found[1].1).collect::<Vec<_>>(), [(5, &[9][..])]);
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

    #[test]
    fn errors_carry_the_kernels_words() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; HEADER_LEN]);
        append_attribute(&mut payload, 1, |bytes| bytes.extend_from_slice(b"Nope\0"));
        let flags = (libc::NLM_F_ACK_TLVS | libc::NLM_F_CAPPED) as u16;
        let message = Message { kind: 2, flags, sequence: 1, port_id: 0, payload: &payload };
        let error = parse_error(&message).unwrap();
        assert_eq!((error.errno, error.text.as_deref()), (17, Some("Nope")));
        assert_eq!(parse_error(&Message { payload: &[0; 20], flags: 0, ..message }), None);
    }
}
