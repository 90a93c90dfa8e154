//! Releasing the connections of one uplink, so that they find another one.
//!
//! Conntrack forgets them, with their mark and their translated source. The next packet of each is the first of a new
//! connection, and gets an uplink as any other: datagrams go on there with another source; TCP is answered with a reset
//! by its server, which does not know that source. Without this, packets would keep the mark and the source of the dead
//! uplink, and their senders would wait for answers until they give up.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::system::netlink::{Batch, Requests, attributes, read_u32};

/// `NFNL_SUBSYS_CTNETLINK`, in the upper octet of a message's type.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
/// `IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink_conntrack.h).
const CT_DELETE: u16 = 2;
/// `IPCTNL_MSG_CT_GET_STATS`.
const CT_GET_STATS: u16 = 5;
/// `CTA_MARK`.
const MARK: u16 = 8;
/// `CTA_MARK_MASK`.
const MARK_MASK: u16 = 21;
/// `CTA_STATS_GLOBAL_ENTRIES`.
const STATS_ENTRIES: u16 = 1;
/// `nfgenmsg`: family u8, version u8, resource id u16.
const NFGENMSG_LEN: usize = 4;

/// Where connections are released.
pub trait ConntrackSink {
    /// Forgets every connection whose mark within `mask` is `mark`; other bits do not matter. Gives how many
    /// fewer the kernel knows afterwards: about as many as were released, since others come and go.
    ///
    /// # Errors
    /// The kernel's: without `CAP_NET_ADMIN`, or without conntrack.
    fn release(&mut self, mark: u32, mask: u32) -> io::Result<u32>;
}

/// The kernel, over a netlink socket in the network namespace of the thread that opens it.
pub struct Conntrack {
    requests: Requests,
    batch: Batch,
}

impl Conntrack {
    /// Opens the socket. Needs no privilege; releasing needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// Without netlink.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open_protocol(NETLINK_NETFILTER)?, batch: Batch::default() })
    }

    /// All connections that the kernel knows in this network namespace.
    fn entries(&mut self) -> io::Result<u32> {
        self.batch.clear();
        self.batch.request(SUBSYSTEM | CT_GET_STATS, 0, &[0; NFGENMSG_LEN]);
        self.requests.ask_one(&mut self.batch, |message| {
            let (_, value) =
                attributes(message.payload.get(NFGENMSG_LEN..)?).find(|(kind, _)| *kind == STATS_ENTRIES)?;
            read_u32(value, 0).map(u32::from_be)
        })
    }
}

impl ConntrackSink for Conntrack {
    fn release(&mut self, mark: u32, mask: u32) -> io::Result<u32> {
        // Mark 0 is every connection that is nobody's.
        if mark & mask == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no uplink has the mark 0"));
        }
        let before = self.entries()?;
        self.batch.clear();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.batch.request(SUBSYSTEM | CT_DELETE, 0, &[family as u8, 0, 0, 0]);
            self.batch.attribute(MARK, &(mark & mask).to_be_bytes());
            self.batch.attribute(MARK_MASK, &mask.to_be_bytes());
        }
        for result in self.requests.transact(&mut self.batch)? {
            match result {
                // Nothing there to forget.
                Err(error) if error.errno == libc::ENOENT => {}
                Err(error) => {
                    let why = io::Error::from_raw_os_error(error.errno);
                    return Err(io::Error::new(why.kind(), format!("connections could not be released: {error}")));
                }
                Ok(()) => {}
            }
        }
        Ok(before.saturating_sub(self.entries()?))
    }
}

/// Remembers what it is told.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct FakeConntrack {
    /// Mark and mask of each call.
    pub(crate) released: Vec<(u32, u32)>,
}

#[cfg(test)]
impl ConntrackSink for FakeConntrack {
    fn release(&mut self, mark: u32, mask: u32) -> io::Result<u32> {
        self.released.push((mark, mask));
        Ok(0)
    }
}
