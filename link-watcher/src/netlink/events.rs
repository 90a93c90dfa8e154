//! The kernel's events: links, addresses, and routes as far as they concern us.
//!
//! A router with a full routing table must not pay for it here: a filter in the kernel drops the routes of others
//! unless they take a place that was occupied, because that place may have been ours, or are default routes, from
//! which gateways are learned. Of their removals it lets through those that may free a place that is waited for.

use std::{collections::VecDeque, io};

use ipnet::IpNet;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_EXCL};
use socket2::{SockFilter, SockRef};

use super::{
    PROTOCOL,
    link::{Address, Link, parse_address, parse_link},
    message::{HEADER_LEN, Message, messages},
    nexthop,
    route::{FoundRoute, parse_route},
    rule::{self, FoundRule},
    socket::prepare,
};

/// Bytes read at a time: a netlink event is far smaller, and the largest (a link with all its attributes) is some 2 KiB.
const READ_BUFFER: usize = 32 << 10;
/// Prefixes whose foreign routes' removals the filter can tell from others; with more of them all removals are let
/// through.
pub const MAX_VACANCIES: usize = 64;
/// `SKF_AD_OFF + SKF_AD_NLATTR` (linux/filter.h): finds the attribute of type X, from offset A on.
const FIND_ATTRIBUTE: u32 = (-0x1000_i32 + 12) as u32;
/// `struct rtmsg` and `struct nlattr`.
const RTMSG_LEN: u32 = 12;
const ATTRIBUTE_HEADER_LEN: u32 = 4;
/// `RTNLGRP_NEXTHOP` (linux/rtnetlink.h).
const RTNLGRP_NEXTHOP: u32 = 32;

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
    /// Everybody's routes of these protocols.
    pub protocols: Vec<u8>,
    /// Everybody's nexthop objects.
    pub nexthops: bool,
    /// Whoever's route of these prefixes goes is told: its place is waited for. At most [`MAX_VACANCIES`]; with more,
    /// every removal is told.
    pub vacancies: Vec<IpNet>,
    /// No routes written by requests from these netlink port ids: one's own, which may be very many.
    pub without: Vec<u32>,
}

impl KernelEvents {
    /// Opens the socket in the network namespace of the calling thread. To miss nothing, open it before the first dump.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let raw = socket.socket_mut();
        prepare(raw)?;
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
/// an occupied place or left one that is waited for, and what `filtered` says. It reads bytes in network order.
fn filter(filtered: &Filtered) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD_AT_X: u16 = 0x40;
    const LOAD_VALUE: u16 = 0x00;
    const X_IS_VALUE: u16 = 0x01;
    const X_IS_A: u16 = 0x07;
    const STORE: u16 = 0x02;
    const LOAD_STORED: u16 = 0x60;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_SET: u16 = 0x45;
    const JUMP_ALWAYS: u16 = 0x05;
    const RETURN: u16 = 0x06;
    const DROP: SockFilter = SockFilter::new(RETURN, 0, 0, 0);
    const PASS: SockFilter = SockFilter::new(RETURN, 0, 0, u32::MAX);
    let network = |value: u16| u32::from(value.to_be());
    // `struct rtmsg`, see route.rs.
    let rtmsg = HEADER_LEN as u32;
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
    // A foreign route went: does somebody wait for its place? The first word of the destination says enough.
    let mut removed = Vec::new();
    if filtered.vacancies.len() > MAX_VACANCIES {
        removed.push(PASS);
    } else if !filtered.vacancies.is_empty() {
        removed.extend([
            SockFilter::new(X_IS_VALUE, 0, 0, u32::from(libc::RTA_DST)),
            SockFilter::new(LOAD_VALUE, 0, 0, rtmsg + RTMSG_LEN),
            SockFilter::new(LOAD_BYTE, 0, 0, FIND_ATTRIBUTE),
            SockFilter::new(X_IS_A, 0, 0, 0),
            SockFilter::new(LOAD_WORD_AT_X, 0, 0, ATTRIBUTE_HEADER_LEN),
            SockFilter::new(STORE, 0, 0, 0),
        ]);
        for prefix in &filtered.vacancies {
            removed.extend([
                SockFilter::new(LOAD_BYTE, 0, 0, prefix_len_at),
                SockFilter::new(JUMP_EQUAL, 0, 3, u32::from(prefix.prefix_len())),
                SockFilter::new(LOAD_STORED, 0, 0, 0),
                SockFilter::new(JUMP_EQUAL, 0, 1, first_word(prefix)),
                PASS,
            ]);
        }
    }
    removed.push(DROP);
    program.extend([
        SockFilter::new(LOAD_BYTE, 0, 0, prefix_len_at),
        SockFilter::new(JUMP_EQUAL, 0, 1, 0),
        PASS,
        SockFilter::new(LOAD_BYTE, 0, 0, protocol_at),
    ]);
    for protocol in filtered.protocols.iter().chain([&PROTOCOL]) {
        program.extend([SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(*protocol)), PASS]);
    }
    program.extend([
        SockFilter::new(LOAD_HALF, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, 1, 0, network(libc::RTM_DELROUTE)),
        SockFilter::new(JUMP_ALWAYS, 0, 0, removed.len() as u32),
    ]);
    program.extend(removed);
    program.extend([
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        // Without NLM_F_EXCL the place was occupied.
        SockFilter::new(JUMP_SET, 0, 1, network(NLM_F_EXCL)),
        DROP,
        PASS,
    ]);
    program
}

/// The first 32 bits of a prefix's address.
fn first_word(prefix: &IpNet) -> u32 {
    match prefix {
        IpNet::V4(prefix) => prefix.addr().to_bits(),
        IpNet::V6(prefix) => (prefix.addr().to_bits() >> 96) as u32,
    }
}

/// Nothing for what does not concern us.
pub(crate) fn parse(message: &Message<'_>) -> Option<KernelEvent> {
    let (kind, port_id, payload) = (message.message_type(), message.port_number(), message.payload());
    match kind {
        libc::RTM_NEWLINK => Some(KernelEvent::Link(parse_link(payload)?)),
        libc::RTM_DELLINK => {
            let link = parse_link(payload)?;
            Some(KernelEvent::LinkRemoved { ifindex: link.ifindex, name: link.name })
        }
        libc::RTM_NEWADDR => {
            parse_address(payload).map(|(ifindex, address)| KernelEvent::AddressAdded { ifindex, address })
        }
        libc::RTM_DELADDR => {
            parse_address(payload).map(|(ifindex, address)| KernelEvent::AddressRemoved { ifindex, address })
        }
        libc::RTM_NEWROUTE => {
            let route = parse_route(payload)?;
            let has = |flag| message.flags() & flag != 0;
            // An appended IPv4 route stands behind; an appended IPv6 route becomes one with what stands there.
            let behind = has(NLM_F_APPEND) && route.key.prefix.addr().is_ipv4();
            let change = if has(NLM_F_EXCL) || behind { RouteChange::Added } else { RouteChange::Replaced };
            Some(KernelEvent::Route(RouteEvent { change, port_id, route }))
        }
        libc::RTM_DELROUTE => {
            let route = parse_route(payload)?;
            Some(KernelEvent::Route(RouteEvent { change: RouteChange::Removed, port_id, route }))
        }
        nexthop::RTM_NEWNEXTHOP | nexthop::RTM_DELNEXTHOP => {
            Some(KernelEvent::Nexthop { id: nexthop::parse(payload)?.id, port_id })
        }
        libc::RTM_NEWRULE | libc::RTM_DELRULE => {
            Some(KernelEvent::Rule { removed: kind == libc::RTM_DELRULE, port_id, rule: rule::parse(payload)? })
        }
        _ => None,
    }
}
