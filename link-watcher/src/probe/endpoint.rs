//! UDP sockets, one for each (interface, local address, port), shared by all links that have it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result};
use link_watcher_common::wire::{HOPS, MAX_PACKET_LEN};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::junk::{self, Budget};
use crate::{bpf, event::LinkId};

/// Class selector 6, "network control" (RFC 2474, section 4.2.2): keepalives do not queue behind bulk traffic.
pub(super) const TOS_NETWORK_CONTROL: u32 = 0xc0;
/// Linux's `TC_PRIO_CONTROL` (include/uapi/linux/pkt_sched.h).
pub(super) const PRIORITY_CONTROL: u32 = 7;
/// Enough for a few hundred packets while the thread is late, and a bound for what a flood can take, bytes.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;

/// What makes an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndpointKey {
    pub(super) ifindex: u32,
    pub(super) local: IpAddr,
    pub(super) port: u16,
}

/// The open endpoints, by a small number for each.
#[derive(Default)]
pub(super) struct Endpoints {
    numbers: BTreeMap<EndpointKey, usize>,
    open: Vec<Option<Endpoint>>,
}

impl Endpoints {
    /// The endpoint's number, and whether it is new.
    pub(super) fn open(&mut self, key: EndpointKey, interface: &str) -> Result<(usize, bool)> {
        if let Some(&number) = self.numbers.get(&key) {
            return Ok((number, false));
        }
        let endpoint = Endpoint::open(key, interface)?;
        let number = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if number == self.open.len() {
            self.open.push(None);
        }
        self.open[number] = Some(endpoint);
        self.numbers.insert(key, number);
        Ok((number, true))
    }

    pub(super) fn close(&mut self, number: usize) {
        if let Some(endpoint) = self.open.get_mut(number).and_then(Option::take) {
            self.numbers.remove(&endpoint.key);
        }
    }

    pub(super) fn get(&self, number: usize) -> Option<&Endpoint> {
        self.open.get(number)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut Endpoint> {
        self.open.get_mut(number)?.as_mut()
    }

    /// All of them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Endpoint> {
        self.open.iter_mut().flatten()
    }
}

/// One socket, and whose packets arrive there.
pub(super) struct Endpoint {
    pub(super) key: EndpointKey,
    socket: Socket,
    /// Links by the peer's address.
    pub(super) links: BTreeMap<IpAddr, LinkId>,
    /// For packets that are no good.
    pub(super) budget: Budget,
    /// The kernel lets control packets in and nothing else.
    filtered: bool,
    /// The socket's drops that are counted, as the kernel has them.
    drops: u32,
}

impl Endpoint {
    /// Opens the socket, bound to the interface: what it sends leaves there whatever the routes say, and what it
    /// receives came in there.
    pub(super) fn open(key: EndpointKey, interface: &str) -> Result<Self> {
        let what = || format!("UDP socket for {} port {} on {interface}", key.local, key.port);
        let domain = if key.local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket =
            Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP)).with_context(what)?;
        socket.bind_device(Some(interface.as_bytes())).with_context(|| {
            format!("{}: binding it to the interface needs CAP_NET_RAW: run as root, or grant it in the unit", what())
        })?;
        if key.local.is_ipv4() {
            socket.set_tos_v4(TOS_NETWORK_CONTROL).with_context(what)?;
            socket.set_ttl_v4(u32::from(HOPS)).with_context(what)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true).with_context(what)?;
        } else {
            socket.set_only_v6(true).with_context(what)?;
            socket.set_tclass_v6(TOS_NETWORK_CONTROL).with_context(what)?;
            socket.set_unicast_hops_v6(u32::from(HOPS)).with_context(what)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true).with_context(what)?;
        }
        // Only a wish: it needs CAP_NET_ADMIN, without which the type of service still does most.
        let _ = socket.set_priority(PRIORITY_CONTROL);
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).with_context(what)?;
        socket
            .bind(&SockAddr::from(SocketAddr::new(key.local, key.port)))
            .with_context(|| format!("{}: is the address on the interface, and the port free (`ss -lunp`)?", what()))?;
        let budget = Budget::new(std::iter::empty());
        Ok(Self { key, socket, links: BTreeMap::new(), budget, filtered: false, drops: 0 })
    }

    /// Makes the kernel drop what is no control packet, or let everything in.
    pub(super) fn filter(&mut self, control_only: bool) -> io::Result<()> {
        if control_only != self.filtered {
            if control_only {
                self.socket.attach_filter(&junk::control_only())?;
            } else {
                self.socket.detach_filter()?;
            }
            self.filtered = control_only;
        }
        Ok(())
    }

    /// Datagrams that the kernel has dropped at the socket since the last call.
    pub(super) fn new_drops(&mut self) -> u64 {
        // Of an open socket it is always known.
        let drops = bpf::socket::drops(&self.socket).unwrap_or(self.drops);
        let new = drops.wrapping_sub(self.drops);
        self.drops = drops;
        u64::from(new)
    }

    /// The link that stands for the endpoint where nobody knows whose a packet is, as in the kernel program.
    pub(super) fn first_link(&self) -> Option<LinkId> {
        self.links.values().min().copied()
    }

    /// Sends one packet to a peer, without waiting.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(packet, &SockAddr::from(to)).map(drop)
    }

    /// Takes one packet out. `None`: nothing there.
    pub(super) fn receive(&self, buffer: &mut [u8; MAX_PACKET_LEN + 1]) -> io::Result<Option<Arrived>> {
        let mut parts = [io::IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!(i32);
        let fd = self.socket.as_raw_fd();
        let message = match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let hops = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => u8::try_from(hops).ok(),
            _ => None,
        });
        let from = message.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
        });
        // Always there: a datagram has a sender and a TTL. What had none would be refused as coming from afar.
        Ok(from.map(|from| Arrived { length: message.bytes, from, hops: hops.unwrap_or(0) }))
    }
}

/// A packet that a socket had.
pub(super) struct Arrived {
    /// Bytes of it in the buffer; more than `MAX_PACKET_LEN` for one that is too long.
    pub(super) length: usize,
    pub(super) from: SocketAddr,
    /// TTL or hop limit that it came with.
    pub(super) hops: u8,
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
