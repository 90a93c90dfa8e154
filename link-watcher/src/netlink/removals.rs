//! Removals of nftables tables, as the kernel tells them (linux/netfilter/nf_tables.h).

use std::{collections::VecDeque, io};

use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_NETFILTER};

use super::{
    message::{Message, attribute, messages, string},
    netfilter::{INET, NFGENMSG_LEN, NFTABLES},
    socket::prepare,
};

/// Bytes read at a time: the kernel puts what one transaction has done into few datagrams.
const READ_BUFFER: usize = 32 << 10;
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_DELTABLE: u16 = NFTABLES | libc::NFT_MSG_DELTABLE as u16;
const NFTA_TABLE_NAME: u16 = 1;

/// Tables of family `inet` that anybody removes from now on, on a socket of its own.
pub(crate) struct TableRemovals {
    socket: TokioSocket,
    buffer: Vec<u8>,
    queue: VecDeque<Option<String>>,
}

impl TableRemovals {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// Without netlink, or without `CAP_NET_ADMIN` where the kernel asks for it.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        prepare(socket.socket_mut())?;
        socket.socket_mut().add_membership(NFNLGRP_NFTABLES)?;
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BUFFER), queue: VecDeque::new() })
    }

    /// The name of the next table that goes; nothing: some were lost, and any may have gone. May be dropped and called again.
    ///
    /// # Errors
    ///
    /// The kernel's, other than a lack of space.
    pub(crate) async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(removed) = self.queue.pop_front() {
                return Ok(removed);
            }
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) => self.queue.extend(messages(&self.buffer).filter_map(|message| removed(&message)).map(Some)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.queue.push_back(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn removed(message: &Message<'_>) -> Option<String> {
    let payload = message.payload();
    let ours = message.message_type() == NFT_MSG_DELTABLE && payload.first() == Some(&INET);
    attribute(payload.get(NFGENMSG_LEN..)?, NFTA_TABLE_NAME).filter(|_| ours).map(string)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::message::{Batch, Body, nla};

    #[test]
    fn a_removal_among_other_events_is_read() {
        let mut batch = Batch::default();
        let (other, ipv4) = (NFTABLES | libc::NFT_MSG_DELCHAIN as u16, libc::NFPROTO_IPV4 as u8);
        for (kind, family, name) in [
            (other, INET, &b"one\0"[..]),
            (NFT_MSG_DELTABLE, ipv4, b"two\0"),
            (NFT_MSG_DELTABLE, INET, b"three\0"),
            (NFT_MSG_DELTABLE, INET, b""),
        ] {
            let attributes = &[nla(NFTA_TABLE_NAME, name.to_vec())];
            batch.request(kind, 0, &Body { fixed: &[family, 0, 0, 0], attributes });
        }
        let found: Vec<String> = messages(batch.bytes()).filter_map(|message| removed(&message)).collect();
        assert_eq!(found, ["three", ""]);
        for length in 0..batch.bytes().len() {
            let _ = messages(&batch.bytes()[..length]).filter_map(|message| removed(&message)).count();
        }
    }
}
