//! Transport: a batch of requests is one `sendmsg`, and answers are matched by sequence number.
//!
//! The kernel carries requests out inside `sendmsg` and has queued every answer before it returns, so nothing here ever
//! waits for the network: the calls are plain functions that take as long as the kernel takes.

use std::{fmt, fs, io, ops::ControlFlow};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::packet_core::{
    ErrorBuffer, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
};

use super::message::{Batch, HEADER_LEN, Message, attribute, messages, string};

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
        let count = batch.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        self.drain();
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count as u32);
        batch.number(first);
        self.send(batch.bytes())?;
        let mut results = vec![Ok(()); count];
        loop {
            self.receive().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other("the kernel's answers to a batch of requests were lost"),
                _ => error,
            })?;
            for message in messages(&self.buffer) {
                let at = message.sequence_number().wrapping_sub(first) as usize;
                if at >= count {
                    continue;
                }
                if message.message_type() != NLMSG_ERROR {
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
            self.send(batch.bytes())?;
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
        self.send(batch.bytes())?;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                match message.message_type() {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
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
        self.send(batch.bytes())
    }

    /// One datagram of a dump, at most some [`DUMP_BUFFER`] bytes, which is what the kernel prepares at a time. Gives
    /// whether more follows.
    pub(crate) fn dump_portion(&mut self, mut each: impl FnMut(&Message<'_>)) -> io::Result<bool> {
        self.receive()?;
        for message in messages(&self.buffer).filter(|message| message.sequence_number() == self.sequence) {
            match message.message_type() {
                NLMSG_DONE => return Ok(false),
                NLMSG_ERROR => {
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
                if message.sequence_number() != self.sequence {
                    continue;
                }
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE => return Ok(consistent),
                    NLMSG_ERROR => {
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
    /// Of the attributes that no crate reads (`enum nlmsgerr_attrs`, linux/netlink.h), the one with the kernel's words.
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let error = ErrorBuffer::new_checked(message.payload()).ok()?;
    let errno = error.code()?.get().saturating_neg();
    // Behind the code stands the request, or only its header.
    let words = || {
        let request = error.payload();
        let copied = match message.flags() & NLM_F_CAPPED {
            0 => NetlinkBuffer::new(request.get(..HEADER_LEN)?).length() as usize,
            _ => HEADER_LEN,
        };
        attribute(request.get(copied..)?, NLMSGERR_ATTR_MSG).map(string)
    };
    let text = if message.flags() & NLM_F_ACK_TLVS == 0 { None } else { words() };
    Some(KernelError { errno, text })
}

/// Who uses a netlink port id, in words.
pub(crate) fn process(port_id: u32) -> String {
    // A process's first netlink socket has the process id as its port id, further ones have something negative.
    match fs::read_to_string(format!("/proc/{port_id}/comm")) {
        Ok(name) => format!("{} (process {port_id})", name.trim_end()),
        Err(_) => format!("a program that has ended (netlink port {port_id})"),
    }
}

/// What a dump finds; nothing where there is nothing to dump.
pub(crate) fn dump<T>(
    requests: &mut Requests,
    batch: &mut Batch,
    parse: impl Fn(&Message<'_>) -> Option<T>,
) -> io::Result<Vec<T>> {
    match requests.dump(batch, parse) {
        Err(error) if nothing_there(&error) => Ok(Vec::new()),
        found => found,
    }
}

/// Whether a dump failed only because it is of a table that nobody has used yet, or of IPv6 in a kernel without.
pub(crate) fn nothing_there(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rtnetlink::packet_core::{DefaultNla, Emitable as _, NetlinkHeader};

    use super::*;
    use crate::netlink::message::nla;

    /// An answer: the error, the request's header that it names and copies, then these attributes.
    fn answer(errno: i32, flags: u16, request_len: u32, attributes: &[DefaultNla]) -> Vec<u8> {
        let mut payload = vec![0; 4 + HEADER_LEN + attributes.buffer_len()];
        payload[..4].copy_from_slice(&errno.to_ne_bytes());
        let mut request = NetlinkHeader::default();
        request.length = request_len;
        request.emit(&mut payload[4..]);
        attributes.emit(&mut payload[4 + HEADER_LEN..]);
        let mut header = NetlinkHeader::default();
        header.length = (HEADER_LEN + payload.len()) as u32;
        header.message_type = NLMSG_ERROR;
        header.flags = flags;
        let mut bytes = vec![0; HEADER_LEN];
        header.emit(&mut bytes);
        bytes.extend(payload);
        bytes
    }

    fn error(bytes: &[u8]) -> Option<KernelError> {
        parse_error(&messages(bytes).next().unwrap())
    }

    #[test]
    fn errors_carry_the_kernels_words() {
        let words = [nla(1, *b"Nope\0")];
        let refused = Some(KernelError { errno: 17, text: Some("Nope".to_owned()) });
        assert_eq!(error(&answer(-17, NLM_F_ACK_TLVS | NLM_F_CAPPED, 999, &words)), refused);
        assert_eq!(error(&answer(-17, NLM_F_ACK_TLVS, HEADER_LEN as u32, &words)), refused);
        // Without the flag, and with a length beyond the end, there are no words, but the error stays one.
        assert_eq!(error(&answer(-17, NLM_F_CAPPED, 999, &words)), Some(KernelError::new(17)));
        assert_eq!(error(&answer(-17, NLM_F_ACK_TLVS, u32::MAX, &words)), Some(KernelError::new(17)));
        assert_eq!(error(&answer(0, 0, 16, &[])), None);
        for length in 0..answer(-17, NLM_F_ACK_TLVS, 16, &words).len() {
            let bytes = answer(-17, NLM_F_ACK_TLVS, 16, &words);
            messages(&bytes[..length]).for_each(|message| drop(parse_error(&message)));
        }
    }
}
