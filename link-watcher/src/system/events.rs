//! The kernel's events: links, addresses, and routes as far as they concern us.
//!
//! A router with a full routing table must not pay for it here: a filter in the kernel drops the routes of others
//! unless they take a place that was occupied, because that place may have been ours, or are default routes, from
//! which gateways are learned.

use std::{collections::VecDeque, io, net::IpAddr};

use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE};
use socket2::{SockFilter, SockRef};

use super::netlink::{self, Message, attributes, messages, read_u16, read_u32, string};
use crate::route::{FoundRoute, FoundRule, PROTOCOL, nexthop, parse_route, rule};

/// Bytes read at a time: a netlink event is far smaller, and the largest (a link with all its attributes) is some 2 KiB.
const READ_BUFFER: usize = 32 << 10;
/// `RTNLGRP_NEXTHOP` (linux/rtnetlink.h).
const RTNLGRP_NEXTHOP: u32 = 32;
/// `IFLA_INFO_KIND` (linux/if_link.h).
const IFLA_INFO_KIND: u16 = 1;

/// Something that happened in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A link appeared or changed, or was renamed.
    Link(Link),
    /// A link went.
    LinkRemoved {
        /// Its index.
        ifindex: u32,
        /// Its last name.
        name: String,
    },
    /// An address appeared or changed.
    AddressAdded {
        /// Interface.
        ifindex: u32,
        /// Address.
        address: Address,
    },
    /// An address went.
    AddressRemoved {
        /// Interface.
        ifindex: u32,
        /// Address.
        address: Address,
    },
    /// One of our routes, or a place that one of them may have had.
    Route(RouteEvent),
    /// A rule appeared or went, anybody's.
    Rule {
        /// It went.
        removed: bool,
        /// The netlink port id of who did it; 0: the kernel itself.
        port_id: u32,
        /// The rule.
        rule: FoundRule,
    },
    /// A nexthop object appeared, changed or went, anybody's. The kernel says nothing of those that it deletes itself.
    Nexthop {
        /// Its id.
        id: u32,
        /// The netlink port id of who did it.
        port_id: u32,
    },
    /// Events were lost: everything known is to be read again.
    Resync,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index; never the same for two links of a namespace's life, as a rule.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Administratively up (`IFF_UP`).
    pub admin_up: bool,
    /// Able to carry packets: it has carrier, and its operational state (RFC 2863) is neither down nor lower layer down.
    pub carrier: bool,
    /// Kind as `ip link` names it (`veth`, `vlan`, `tun`); nothing for hardware.
    pub kind: Option<String>,
    /// Link layer (`ARPHRD_*`, linux/if_arp.h): 1 is Ethernet, 65534 no header at all.
    pub link_type: u16,
    /// Length of its link-layer address, bytes; 0: none.
    pub address_len: u8,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// It has only one other end (`IFF_POINTOPOINT`), so that packets need no gateway there.
    pub point_to_point: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The interface's own address.
    pub address: IpAddr,
    /// Its prefix length. On a point-to-point link it belongs to `peer`.
    pub prefix_len: u8,
    /// The other end's address of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Scope (`rtm_scope`): 0 global, 253 link, 254 host.
    pub scope: u8,
    /// Not usable yet: duplicate address detection is not over, or has found one.
    pub tentative: bool,
    /// Not the first choice for new connections: an IPv6 address that is deprecated or temporary (RFC 4862, RFC 8981),
    /// an IPv4 one that came second in its prefix (`IFA_F_SECONDARY`).
    pub secondary: bool,
}

/// What happened to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// It stands in a place that was empty, or behind what stood there.
    Added,
    /// It took a place, or joined what stood there.
    Replaced,
    /// It went.
    Removed,
}

/// Something happened to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEvent {
    /// What.
    pub change: RouteChange,
    /// The netlink port id of who did it; 0: the kernel itself.
    pub port_id: u32,
    /// The route.
    pub route: FoundRoute,
}

/// The kernel's events from now on, on a socket of their own: on the one that requests use they would come between the
/// answers.
pub struct KernelEvents {
    socket: TokioSocket,
    buffer: Vec<u8>,
    queue: VecDeque<KernelEvent>,
    filtered: Filtered,
}

/// What is wanted beyond what always is, and not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Everybody's routes in the main table.
    pub main_table: bool,
    /// Everybody's nexthop objects.
    pub nexthops: bool,
    /// No routes written by requests from these netlink port ids: one's own, which may be very many.
    pub without: Vec<u32>,
}

impl KernelEvents {
    /// Opens the socket in the network namespace of the calling thread. To miss nothing, open it before the first dump.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let raw = socket.socket_mut();
        netlink::prepare(raw)?;
        SockRef::from(&*raw).attach_filter(&filter(&Filtered::default()))?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ] {
            raw.add_membership(group)?;
        }
        let buffer = Vec::with_capacity(READ_BUFFER);
        Ok(Self { socket, buffer, queue: VecDeque::new(), filtered: Filtered::default() })
    }

    /// Changes which routes' events come from now on. The same again costs nothing.
    pub fn filter(&mut self, filtered: Filtered) -> io::Result<()> {
        if filtered != self.filtered {
            SockRef::from(self.socket.socket_ref()).attach_filter(&filter(&filtered))?;
            let socket = self.socket.socket_mut();
            if filtered.nexthops && !self.filtered.nexthops {
                // A kernel without such objects has no such events: whoever wants them learns that from the objects.
                let _ = socket.add_membership(RTNLGRP_NEXTHOP);
            } else if self.filtered.nexthops && !filtered.nexthops {
                let _ = socket.drop_membership(RTNLGRP_NEXTHOP);
            }
            self.filtered = filtered;
        }
        Ok(())
    }

    /// The next event. May be dropped and called again without losing one. Never fails for lack of space: that is
    /// [`KernelEvent::Resync`].
    pub async fn next(&mut self) -> io::Result<KernelEvent> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            self.buffer.clear();
            let received = self.socket.recv(&mut self.buffer).await;
            self.take(received)?;
        }
    }

    /// An event that has already arrived, if there is one: to be emptied before routes are written, so that the writer
    /// knows whatever the kernel has told.
    pub fn try_next(&mut self) -> Option<KernelEvent> {
        while self.queue.is_empty() {
            self.buffer.clear();
            let received = self.socket.socket_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT);
            self.take(received.map(drop)).ok()?;
        }
        self.queue.pop_front()
    }

    fn take(&mut self, received: io::Result<()>) -> io::Result<()> {
        match received {
            Ok(()) => self.queue.extend(messages(&self.buffer).filter_map(|message| parse(&message))),
            // What is still queued in the kernel is older than what was lost; reading anew covers both.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.queue.push_back(KernelEvent::Resync),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A classic BPF program (linux/filter.h) that drops foreign routes, except default routes, and where one took or joined
/// an occupied place, and what `filtered` says. It reads bytes in network order.
fn filter(filtered: &Filtered) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const DROP: SockFilter = SockFilter::new(RETURN, 0, 0, 0);
    const PASS: SockFilter = SockFilter::new(RETURN, 0, 0, u32::MAX);
    let network = |value: u16| u32::from(value.to_be());
    // `struct rtmsg`, see route/codec.rs.
    let rtmsg = netlink::HEADER_LEN as u32;
    let (prefix_len_at, table_at, protocol_at) = (rtmsg + 1, rtmsg + 4, rtmsg + 5);
    let mut program = vec![
        SockFilter::new(LOAD_HALF, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, 2, 0, network(libc::RTM_NEWROUTE)),
        SockFilter::new(JUMP_EQUAL, 1, 0, network(libc::RTM_DELROUTE)),
        PASS,
        // The port id that the message carries.
        SockFilter::new(LOAD_WORD, 0, 0, 12),
    ];
    for port_id in &filtered.without {
        program.extend([SockFilter::new(JUMP_EQUAL, 0, 1, port_id.to_be()), DROP]);
    }
    if filtered.main_table {
        program.push(SockFilter::new(LOAD_BYTE, 0, 0, table_at));
        program.extend([SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(libc::RT_TABLE_MAIN)), PASS]);
    }
    program.extend([
        SockFilter::new(LOAD_BYTE, 0, 0, prefix_len_at),
        SockFilter::new(JUMP_EQUAL, 0, 1, 0),
        PASS,
        SockFilter::new(LOAD_BYTE, 0, 0, protocol_at),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(PROTOCOL)),
        PASS,
        SockFilter::new(LOAD_HALF, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, 0, 1, network(libc::RTM_DELROUTE)),
        DROP,
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        // Without NLM_F_EXCL the place was occupied.
        SockFilter::new(JUMP_SET, 0, 1, network(libc::NLM_F_EXCL as u16)),
        DROP,
        PASS,
    ]);
    program
}

/// Nothing for what does not concern us.
pub(super) fn parse(message: &Message<'_>) -> Option<KernelEvent> {
    match message.kind {
        libc::RTM_NEWLINK => Some(KernelEvent::Link(parse_link(message.payload)?)),
        libc::RTM_DELLINK => {
            let link = parse_link(message.payload)?;
            Some(KernelEvent::LinkRemoved { ifindex: link.ifindex, name: link.name })
        }
        libc::RTM_NEWADDR => {
            parse_address(message.payload).map(|(ifindex, address)| KernelEvent::AddressAdded { ifindex, address })
        }
        libc::RTM_DELADDR => {
            parse_address(message.payload).map(|(ifindex, address)| KernelEvent::AddressRemoved { ifindex, address })
        }
        libc::RTM_NEWROUTE => {
            let route = parse_route(message.payload)?;
            let has = |flag: i32| message.flags & flag as u16 != 0;
            // An appended IPv4 route stands behind; an appended IPv6 route becomes one with what stands there.
            let behind = has(libc::NLM_F_APPEND) && route.key.prefix.addr().is_ipv4();
            let change = if has(libc::NLM_F_EXCL) || behind { RouteChange::Added } else { RouteChange::Replaced };
            Some(KernelEvent::Route(RouteEvent { change, port_id: message.port_id, route }))
        }
        libc::RTM_DELROUTE => {
            let route = parse_route(message.payload)?;
            Some(KernelEvent::Route(RouteEvent { change: RouteChange::Removed, port_id: message.port_id, route }))
        }
        nexthop::RTM_NEWNEXTHOP | nexthop::RTM_DELNEXTHOP => {
            Some(KernelEvent::Nexthop { id: nexthop::parse(message.payload)?.id, port_id: message.port_id })
        }
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(KernelEvent::Rule {
            removed: message.kind == libc::RTM_DELRULE,
            port_id: message.port_id,
            rule: rule::parse(message.payload)?,
        }),
        _ => None,
    }
}

/// `struct ifinfomsg`: family u8, pad u8, type u16, index i32, flags u32, change u32 (linux/rtnetlink.h).
fn parse_link(payload: &[u8]) -> Option<Link> {
    const IFINFOMSG_LEN: usize = 16;
    // Operational states of RFC 2863 as the kernel numbers them (linux/if.h): not present 1, down 2, lower layer down 3.
    const OPER_DOWN: std::ops::RangeInclusive<u8> = 1..=3;
    // Bridges tell of their ports in the same messages, with less in them.
    if i32::from(*payload.first()?) != libc::AF_UNSPEC {
        return None;
    }
    let flags = read_u32(payload, 8)?;
    let mut link = Link {
        ifindex: read_u32(payload, 4)?,
        admin_up: flags & libc::IFF_UP as u32 != 0,
        carrier: true,
        link_type: read_u16(payload, 2)?,
        point_to_point: flags & libc::IFF_POINTOPOINT as u32 != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(payload.get(IFINFOMSG_LEN..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = string(value),
            libc::IFLA_ADDRESS => link.address_len = value.len() as u8,
            libc::IFLA_MTU => link.mtu = read_u32(value, 0)?,
            libc::IFLA_OPERSTATE => link.carrier &= !OPER_DOWN.contains(value.first()?),
            libc::IFLA_CARRIER => link.carrier &= *value.first()? != 0,
            libc::IFLA_LINKINFO => {
                link.kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, value)| string(value));
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope: a byte each; index u32 (linux/if_addr.h).
fn parse_address(payload: &[u8]) -> Option<(u32, Address)> {
    const IFADDRMSG_LEN: usize = 8;
    let fixed = payload.get(..IFADDRMSG_LEN)?;
    let mut flags = u32::from(fixed[2]);
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(&payload[IFADDRMSG_LEN..]) {
        match kind {
            libc::IFA_LOCAL => local = netlink::address(value),
            libc::IFA_ADDRESS => address = netlink::address(value),
            libc::IFA_FLAGS => flags = read_u32(value, 0)?,
            _ => {}
        }
    }
    let own = local.or(address)?;
    let optimistic = flags & libc::IFA_F_OPTIMISTIC != 0;
    let address = Address {
        address: own,
        prefix_len: fixed[1],
        peer: address.filter(|peer| *peer != own),
        scope: fixed[3],
        tentative: (flags & libc::IFA_F_TENTATIVE != 0 && !optimistic) || flags & libc::IFA_F_DADFAILED != 0,
        secondary: flags & (libc::IFA_F_SECONDARY | libc::IFA_F_DEPRECATED) != 0,
    };
    Some((read_u32(fixed, 4)?, address))
}
