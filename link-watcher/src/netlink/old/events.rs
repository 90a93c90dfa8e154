use super::{
    nexthop,
    route::parse_route,
    rule, wire as netlink,
    wire::{Message, attributes, read_u16, read_u32, string},
};
use crate::netlink::{Address, KernelEvent, Link, RouteChange, RouteEvent};

const IFLA_INFO_KIND: u16 = 1;

/// Nothing for what does not concern us.
pub(crate) fn parse(message: &Message<'_>) -> Option<KernelEvent> {
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
