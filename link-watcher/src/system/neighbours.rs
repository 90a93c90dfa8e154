//! The kernel's neighbour entries, held against where peers' signed packets come from.
//!
//! A peer's interface may get another Ethernet address, and what it tells of that may be lost. Keepalives go on, for they are
//! answered to where they came from, while data goes to where nobody is until the kernel doubts its entry, which takes
//! seconds. So the entry is forgotten, and the kernel asks. What a packet shows is never written into the entry: the
//! signature does not cover the Ethernet header.

use std::{fmt, io, net::IpAddr};

use crate::netlink::{
    Batch, KernelError, Requests,
    link::{forget_neighbour, get_neighbour, parse_learned_neighbour},
};

/// An Ethernet address, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet(pub [u8; 6]);

impl fmt::Display for Ethernet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What is asked of the kernel.
pub trait NeighbourSink {
    /// The Ethernet address that the kernel learned of a neighbour; nothing if it has none, or somebody wrote it down.
    fn learned(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Option<Ethernet>>;

    /// Forgets it: the next packet asks. That there is none any more is no error.
    fn forget(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()>;
}

/// Forgets what the kernel has of a neighbour where its packets come from another address; gives the old one.
///
/// # Errors
///
/// The kernel's.
pub fn refresh(
    sink: &mut impl NeighbourSink,
    ifindex: u32,
    address: IpAddr,
    seen: Ethernet,
) -> io::Result<Option<Ethernet>> {
    let old = sink.learned(ifindex, address)?.filter(|old| *old != seen);
    if old.is_some() {
        sink.forget(ifindex, address)?;
    }
    Ok(old)
}

/// The kernel, over netlink in the network namespace of the thread that opens it.
pub struct NetlinkNeighbours {
    requests: Requests,
    batch: Batch,
}

impl NetlinkNeighbours {
    /// Opens the socket. [`forget`](NeighbourSink::forget) needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()?, batch: Batch::default() })
    }
}

impl NeighbourSink for NetlinkNeighbours {
    fn learned(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Option<Ethernet>> {
        self.batch.clear();
        get_neighbour(&mut self.batch, ifindex, address);
        let mut found = None;
        let results =
            self.requests.ask(&mut self.batch, |message| found = parse_learned_neighbour(message.payload()))?;
        tolerate(results).map(|()| found.map(Ethernet))
    }

    fn forget(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.batch.clear();
        forget_neighbour(&mut self.batch, ifindex, address);
        tolerate(self.requests.transact(&mut self.batch)?)
    }
}

/// An entry or an interface that has just gone is no error.
fn tolerate(results: Vec<Result<(), KernelError>>) -> io::Result<()> {
    match results.into_iter().next() {
        Some(Err(error)) if !matches!(error.errno, libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            Err(io::Error::other(error.to_string()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Knows one neighbour, and records what is forgotten.
    struct Fake(Option<Ethernet>, Vec<(u32, IpAddr)>);

    impl NeighbourSink for Fake {
        fn learned(&mut self, _: u32, _: IpAddr) -> io::Result<Option<Ethernet>> {
            Ok(self.0)
        }

        fn forget(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
            self.1.push((ifindex, address));
            Ok(())
        }
    }

    #[test]
    fn only_an_entry_that_differs_is_forgotten() {
        let (old, new) = (Ethernet([2, 0, 0, 0, 0, 1]), Ethernet([2, 0, 0, 0, 0, 0x99]));
        let address: IpAddr = "198.51.100.1".parse().unwrap();
        for (known, gives, forgotten) in [(None, None, 0), (Some(new), None, 0), (Some(old), Some(old), 1)] {
            let mut fake = Fake(known, Vec::new());
            assert_eq!(refresh(&mut fake, 7, address, new).unwrap(), gives);
            assert_eq!(fake.1, vec![(7, address); forgotten], "{known:?}");
        }
        assert_eq!(new.to_string(), "02:00:00:00:00:99");
    }
}
