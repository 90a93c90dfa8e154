//! Releasing the connections of one uplink, so that they find another one.
//!
//! Conntrack forgets them, with their mark and their translated source. The next packet of each is the first of a new
//! connection, and gets an uplink as any other: datagrams go on there with another source; TCP is answered with a reset
//! by its server, which does not know that source. Without this, packets would keep the mark and the source of the dead
//! uplink, and their senders would wait for answers until they give up.
//!
//! The same is due to connections from an address that an uplink has lost. The kernel does so by itself for those that it
//! masquerades, but not on a point-to-point interface: there it looks for the peer's address
//! (`masq_inet_event` in net/netfilter/nf_nat_masquerade.c).

use std::{io, net::IpAddr};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::system::{
    KernelError,
    netlink::{Batch, Requests, append_attribute, attributes, read_u32},
};

/// `NFNL_SUBSYS_CTNETLINK`, in the upper octet of a message's type.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
/// `IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink_conntrack.h).
const CT_DELETE: u16 = 2;
/// `IPCTNL_MSG_CT_GET_STATS`.
const CT_GET_STATS: u16 = 5;
/// `CTA_TUPLE_REPLY`: `CTA_TUPLE_IP`, and in it `CTA_IP_V4_DST` or `CTA_IP_V6_DST`.
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_DESTINATION: u16 = 4;
/// `CTA_FILTER`: `CTA_FILTER_REPLY_FLAGS`, and of these the one for the destination
/// (net/netfilter/nf_conntrack_netlink.c, `CTA_FILTER_F_CTA_IP_DST`).
const FILTER: u16 = 25 | libc::NLA_F_NESTED as u16;
const FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_DESTINATION: u32 = 1 << 1;
/// `CTA_MARK`.
const MARK: u16 = 8;
/// `CTA_MARK_MASK`.
const MARK_MASK: u16 = 21;
/// `CTA_STATS_GLOBAL_ENTRIES`.
const STATS_ENTRIES: u16 = 1;
/// `nfgenmsg`: family u8, version u8, resource id u16.
const NFGENMSG_LEN: usize = 4;
/// With version 0 the kernel takes every family for meant (`ctnetlink_del_conntrack`).
const NFGENMSG_OF_FAMILY: u8 = 1;

/// Where connections are released.
pub trait ConntrackSink {
    /// Forgets every connection whose mark within `mask` is `mark`; other bits do not matter. Gives how many
    /// fewer the kernel knows afterwards: about as many as were released, since others come and go.
    ///
    /// # Errors
    /// The kernel's: without `CAP_NET_ADMIN`, or without conntrack.
    fn release(&mut self, mark: u32, mask: u32) -> io::Result<u32>;

    /// The same for those of them alone that are answered to `source`, an address that is not ours any more. Before
    /// Linux 6.10 all of its family are released: the kernel cannot choose by address.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    fn release_source(&mut self, mark: u32, mask: u32, source: IpAddr) -> io::Result<u32>;
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

impl Conntrack {
    /// Begins a request to forget what has the mark.
    fn forget(&mut self, family: i32, mark: u32, mask: u32) {
        self.batch.request(SUBSYSTEM | CT_DELETE, 0, &[family as u8, NFGENMSG_OF_FAMILY, 0, 0]);
        self.batch.attribute(MARK, &(mark & mask).to_be_bytes());
        self.batch.attribute(MARK_MASK, &mask.to_be_bytes());
    }

    /// Restricts the request to connections that are answered to `source`.
    fn answered_to(&mut self, source: IpAddr) {
        self.batch.attribute_with(TUPLE_REPLY, |tuple| {
            append_attribute(tuple, TUPLE_IP, |ip| match source {
                IpAddr::V4(source) => {
                    append_attribute(ip, IP_V4_DESTINATION, |value| value.extend(source.octets()));
                }
                IpAddr::V6(source) => {
                    append_attribute(ip, IP_V6_DESTINATION, |value| value.extend(source.octets()));
                }
            });
        });
        self.batch.attribute_with(FILTER, |filter| {
            append_attribute(filter, FILTER_REPLY_FLAGS, |flags| flags.extend(FILTER_DESTINATION.to_ne_bytes()));
        });
    }

    /// Sends what was begun. Gives the first thing that the kernel refused.
    fn send(&mut self) -> io::Result<Option<KernelError>> {
        let results = self.requests.transact(&mut self.batch)?;
        // ENOENT: nothing there to forget.
        Ok(results.into_iter().find_map(|result| result.err().filter(|error| error.errno != libc::ENOENT)))
    }

    fn counted(&mut self, work: impl FnOnce(&mut Self) -> io::Result<Option<KernelError>>) -> io::Result<u32> {
        let before = self.entries()?;
        if let Some(error) = work(self)? {
            let why = io::Error::from_raw_os_error(error.errno);
            return Err(io::Error::new(why.kind(), format!("connections could not be released: {error}")));
        }
        Ok(before.saturating_sub(self.entries()?))
    }
}

/// Mark 0 is every connection that is nobody's.
fn check(mark: u32, mask: u32) -> io::Result<()> {
    match mark & mask {
        0 => Err(io::Error::new(io::ErrorKind::InvalidInput, "no uplink has the mark 0")),
        _ => Ok(()),
    }
}

impl ConntrackSink for Conntrack {
    fn release(&mut self, mark: u32, mask: u32) -> io::Result<u32> {
        check(mark, mask)?;
        self.counted(|kernel| {
            kernel.batch.clear();
            kernel.forget(libc::AF_INET, mark, mask);
            kernel.forget(libc::AF_INET6, mark, mask);
            kernel.send()
        })
    }

    fn release_source(&mut self, mark: u32, mask: u32, source: IpAddr) -> io::Result<u32> {
        check(mark, mask)?;
        let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        self.counted(|kernel| {
            kernel.batch.clear();
            kernel.forget(family, mark, mask);
            kernel.answered_to(source);
            match kernel.send()? {
                Some(error) if error.errno == libc::EOPNOTSUPP => {
                    kernel.batch.clear();
                    kernel.forget(family, mark, mask);
                    kernel.send()
                }
                outcome => Ok(outcome),
            }
        })
    }
}

/// Remembers what it is told.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct FakeConntrack {
    /// Mark, mask and source of each call.
    pub released: Vec<(u32, u32, Option<IpAddr>)>,
}

#[cfg(test)]
impl ConntrackSink for FakeConntrack {
    fn release(&mut self, mark: u32, mask: u32) -> io::Result<u32> {
        self.released.push((mark, mask, None));
        Ok(0)
    }

    fn release_source(&mut self, mark: u32, mask: u32, source: IpAddr) -> io::Result<u32> {
        self.released.push((mark, mask, Some(source)));
        Ok(0)
    }
}
