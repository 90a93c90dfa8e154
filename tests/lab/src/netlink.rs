//! One blocking route netlink socket: a request, its acknowledgement.
//!
//! The lab sets up a few dozen objects and later changes one of them at a precise instant. A blocking socket that stays
//! in its namespace does both without a runtime, and a request has taken effect when it returns.

use std::fmt;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::lock;

/// Answers that are not the awaited acknowledgement are skipped, but not without end.
const SKIPPED_ANSWERS_MAX: usize = 64;

/// A route netlink socket, bound to the network namespace of the thread that opened it.
pub struct Netlink {
    state: Mutex<State>,
}

struct State {
    socket: Socket,
    sequence: u32,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Netlink")
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("cannot connect a netlink socket to the kernel")?;
        Ok(Netlink { state: Mutex::new(State { socket, sequence: 0 }) })
    }

    /// Sends `messages` in one datagram and waits until the kernel has carried out all of them. `flags` (`NLM_F_CREATE` and
    /// its like) are added to request and acknowledge.
    ///
    /// # Errors
    /// The kernel's, for the first message that it refused.
    pub fn request(&self, messages: Vec<RouteNetlinkMessage>, flags: u16) -> Result<()> {
        let mut state = lock(&self.state);
        let first = state.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for message in messages {
            state.sequence = state.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            header.sequence_number = state.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
            message.finalize();
            let start = datagram.len();
            datagram.resize(start + message.buffer_len(), 0);
            message.serialize(&mut datagram[start..]);
        }
        state.socket.send(&datagram, 0).context("cannot send to netlink")?;
        let mut refusal = None;
        for sequence in first..=state.sequence {
            if let Err(error) = acknowledgement(&state.socket, sequence) {
                // The remaining acknowledgements are read nevertheless: the next request must not find them.
                refusal.get_or_insert(error);
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// Reads until the acknowledgement of `sequence` is there.
fn acknowledgement(socket: &Socket, sequence: u32) -> Result<()> {
    for _ in 0..SKIPPED_ANSWERS_MAX {
        // An acknowledgement fills a datagram of its own.
        let (answer, _) = socket.recv_from_full().context("cannot read from netlink")?;
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).context("cannot decode netlink's answer")?;
        if message.header.sequence_number != sequence {
            continue;
        }
        if let NetlinkPayload::Error(error) = message.payload {
            return match error.code {
                None => Ok(()),
                Some(_) => Err(error.to_io().into()),
            };
        }
    }
    bail!("netlink did not acknowledge a request")
}
