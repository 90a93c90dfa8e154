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

use crate::netlink::{Batch, Family, KernelError, Requests, message::family, netfilter};

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

    /// How many connections there are whose mark within `mask` is `mark`.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    fn connections(&mut self, mark: u32, mask: u32) -> io::Result<u32>;
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
        Ok(Self { requests: netfilter::open()?, batch: Batch::default() })
    }

    fn entries(&mut self) -> io::Result<u32> {
        netfilter::connections(&mut self.requests, &mut self.batch)
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

/// Whether conntrack takes the middle of a TCP connection that it does not know for the begin of one, in the network
/// namespace of this thread. The kernel's default, too, where it has no conntrack yet.
pub fn takes_up_tcp() -> bool {
    // Documentation/networking/nf_conntrack-sysctl.rst: 0 is no, anything else yes.
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_loose").map_or(true, |value| value.trim() != "0")
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
            for family in [Family::V4, Family::V6] {
                netfilter::forget(&mut kernel.batch, family.number(), mark, mask, None);
            }
            kernel.send()
        })
    }

    fn release_source(&mut self, mark: u32, mask: u32, source: IpAddr) -> io::Result<u32> {
        check(mark, mask)?;
        let family = family(source);
        self.counted(|kernel| {
            kernel.batch.clear();
            netfilter::forget(&mut kernel.batch, family, mark, mask, Some(source));
            match kernel.send()? {
                Some(error) if error.errno == libc::EOPNOTSUPP => {
                    kernel.batch.clear();
                    netfilter::forget(&mut kernel.batch, family, mark, mask, None);
                    kernel.send()
                }
                outcome => Ok(outcome),
            }
        })
    }

    fn connections(&mut self, mark: u32, mask: u32) -> io::Result<u32> {
        check(mark, mask)?;
        netfilter::marked(&mut self.requests, &mut self.batch, mark, mask)
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

    fn connections(&mut self, _mark: u32, _mask: u32) -> io::Result<u32> {
        Ok(0)
    }
}
