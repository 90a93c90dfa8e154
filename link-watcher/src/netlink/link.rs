//! Interfaces, their addresses and their neighbours as rtnetlink messages (linux/if_link.h, linux/if_addr.h,
//! linux/neighbour.h).
//!
//! As with routes, attributes are decoded one by one, and only those that are wanted: an interface has some fifty of them,
//! and one that a newer kernel has changed must not hide the interface.

use std::net::IpAddr;

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_DUMP, Parseable as _, ParseableParametrized as _},
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkHeader, LinkMessage, LinkXdp, State, XdpAttached},
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage},
    },
};

use super::message::{Batch, attribute, family, half, nlas, string};

/// Lengths of `struct ifinfomsg`, `struct ifaddrmsg` and `struct ndmsg`.
const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
const NDMSG_LEN: usize = 12;
/// `IFLA_INFO_KIND`, `IFLA_XDP` (linux/if_link.h) and `NDA_LLADDR` (linux/neighbour.h).
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP: u16 = 43;
const NDA_LLADDR: u16 = 2;
/// `NUD_INCOMPLETE | NUD_FAILED`: it does not answer.
const NUD_UNKNOWN: u16 = 0x01 | 0x20;
/// `NUD_NOARP | NUD_PERMANENT`: the kernel did not learn it.
const NUD_GIVEN: u16 = 0x40 | 0x80;

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
    /// That address, where it is one of Ethernet's.
    pub mac: Option<[u8; 6]>,
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

/// What stands on an interface's XDP hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpHook {
    /// It runs on socket buffers, in whatever driver; else in the driver or in the hardware.
    pub(crate) generic: bool,
    /// Id of the loaded program.
    pub(crate) program_id: u32,
}

/// Adds a request for all interfaces.
pub(crate) fn dump_links(batch: &mut Batch) {
    batch.request(libc::RTM_GETLINK, NLM_F_DUMP, &LinkMessage::default());
}

/// Adds a request for all addresses.
pub(crate) fn dump_addresses(batch: &mut Batch) {
    batch.request(libc::RTM_GETADDR, NLM_F_DUMP, &AddressMessage::default());
}

/// A link message. Nothing for what is malformed.
pub(crate) fn parse_link(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    // Bridges tell of their ports in the same messages, with less in them.
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        ifindex: header.index,
        admin_up: header.flags.contains(LinkFlags::Up),
        carrier: true,
        // The crate keeps no type that it does not know.
        link_type: half(payload.get(2..)?)?,
        point_to_point: header.flags.contains(LinkFlags::Pointopoint),
        ..Link::default()
    };
    for nla in nlas(payload.get(IFINFOMSG_LEN..)?) {
        match nla.kind() {
            libc::IFLA_ADDRESS | libc::IFLA_MTU | libc::IFLA_OPERSTATE | libc::IFLA_CARRIER => {}
            libc::IFLA_IFNAME => {
                // The kernel takes names that are no UTF-8, which the crate refuses.
                link.name = string(nla.value());
                continue;
            }
            libc::IFLA_LINKINFO => {
                // The crate would also decode what each kind has of its own.
                link.kind = attribute(nla.value(), IFLA_INFO_KIND).map(string);
                continue;
            }
            _ => continue,
        }
        match LinkAttribute::parse_with_param(&nla, header.interface_family) {
            Ok(LinkAttribute::Address(address)) => {
                link.address_len = address.len() as u8;
                link.mac = address.as_slice().try_into().ok();
            }
            Ok(LinkAttribute::Mtu(mtu)) => link.mtu = mtu,
            Ok(
                LinkAttribute::OperState(State::NotPresent | State::Down | State::LowerLayerDown)
                | LinkAttribute::Carrier(0),
            ) => link.carrier = false,
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// The XDP program in a link message, by the interface's index. Nothing where there is none.
pub(crate) fn parse_xdp(payload: &[u8]) -> Option<(u32, XdpHook)> {
    let header = LinkHeader::parse(payload).ok()?;
    let (mut generic, mut program_id) = (None, None);
    for nla in nlas(attribute(payload.get(IFINFOMSG_LEN..)?, IFLA_XDP)?) {
        match LinkXdp::parse(&nla) {
            Ok(LinkXdp::Attached(attached)) => generic = Some(attached == XdpAttached::SocketBuffer),
            Ok(LinkXdp::ProgId(id)) => program_id = Some(id),
            _ => {}
        }
    }
    Some((header.index, XdpHook { generic: generic?, program_id: program_id? }))
}

/// An address message, with the interface's index. Nothing for what is malformed.
pub(crate) fn parse_address(payload: &[u8]) -> Option<(u32, Address)> {
    let header = AddressHeader::parse(payload).ok()?;
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    let (mut local, mut address) = (None, None);
    for nla in nlas(payload.get(IFADDRMSG_LEN..)?) {
        match AddressAttribute::parse(&nla) {
            Ok(AddressAttribute::Local(value)) => local = Some(value),
            Ok(AddressAttribute::Address(value)) => address = Some(value),
            Ok(AddressAttribute::Flags(value)) => flags = value,
            _ => {}
        }
    }
    let own = local.or(address)?;
    let in_doubt = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    let address = Address {
        address: own,
        prefix_len: header.prefix_len,
        peer: address.filter(|peer| *peer != own),
        scope: header.scope.into(),
        tentative: in_doubt || flags.contains(AddressFlags::Dadfailed),
        secondary: flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
    };
    Some((header.index, address))
}

/// Adds a question for a neighbour.
pub(crate) fn get_neighbour(batch: &mut Batch, ifindex: u32, address: IpAddr) {
    batch.request(libc::RTM_GETNEIGH, 0, &neighbour(ifindex, address, NeighbourFlags::empty()));
}

/// Adds a request to resolve a neighbour, as if somebody wanted to send to it.
pub(crate) fn use_neighbour(batch: &mut Batch, ifindex: u32, address: IpAddr) {
    batch.request(libc::RTM_NEWNEIGH, NLM_F_CREATE, &neighbour(ifindex, address, NeighbourFlags::Use));
}

/// Adds a request to forget a neighbour: the next packet to it asks for its address.
pub(crate) fn forget_neighbour(batch: &mut Batch, ifindex: u32, address: IpAddr) {
    batch.request(libc::RTM_DELNEIGH, 0, &neighbour(ifindex, address, NeighbourFlags::empty()));
}

/// `rtnetlink`'s requests for neighbours either dump, or make permanent ones.
fn neighbour(ifindex: u32, address: IpAddr, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::from(family(address));
    message.header.ifindex = ifindex;
    message.header.flags = flags;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// The Ethernet address in a neighbour message, where it is known.
pub(crate) fn parse_neighbour(payload: &[u8]) -> Option<[u8; 6]> {
    parse_neighbour_unless(payload, NUD_UNKNOWN)
}

/// As [`parse_neighbour`], where the kernel learned it by asking, and nobody wrote it down.
pub(crate) fn parse_learned_neighbour(payload: &[u8]) -> Option<[u8; 6]> {
    parse_neighbour_unless(payload, NUD_UNKNOWN | NUD_GIVEN)
}

/// The Ethernet address, unless the entry is in one of these states.
fn parse_neighbour_unless(payload: &[u8], states: u16) -> Option<[u8; 6]> {
    let header = NeighbourHeader::parse(payload).ok()?;
    if u16::from(header.state) & states != 0 {
        return None;
    }
    attribute(payload.get(NDMSG_LEN..)?, NDA_LLADDR)?.try_into().ok()
}
