use std::net::IpAddr;

use super::{
    route::append_address,
    wire::{Batch, append_attribute, attributes, read_u16, read_u32},
};
use crate::netlink::link::XdpHook;

const NDMSG_LEN: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_UNKNOWN: u16 = 0x01 | 0x20;

pub(crate) fn about(batch: &mut Batch, message: u16, flags: i32, ndm_flags: u8, ifindex: u32, neighbour: IpAddr) {
    let mut fixed = [0; NDMSG_LEN];
    fixed[0] = (if neighbour.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8;
    fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    fixed[10] = ndm_flags;
    batch.request(message, flags as u16, &fixed);
    batch.attribute_with(NDA_DST, |bytes| append_address(bytes, neighbour));
}

pub(crate) fn parse_neighbour(payload: &[u8]) -> Option<[u8; 6]> {
    let fixed = payload.get(..NDMSG_LEN)?;
    if read_u16(fixed, 8)? & NUD_UNKNOWN != 0 {
        return None;
    }
    attributes(&payload[NDMSG_LEN..]).find(|(kind, _)| *kind == NDA_LLADDR).and_then(|(_, value)| value.try_into().ok())
}
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

pub(crate) fn forget(batch: &mut Batch, family: i32, mark: u32, mask: u32) {
    batch.request(SUBSYSTEM | CT_DELETE, 0, &[family as u8, NFGENMSG_OF_FAMILY, 0, 0]);
    batch.attribute(MARK, &(mark & mask).to_be_bytes());
    batch.attribute(MARK_MASK, &mask.to_be_bytes());
}

pub(crate) fn answered_to(batch: &mut Batch, source: IpAddr) {
    batch.attribute_with(TUPLE_REPLY, |tuple| {
        append_attribute(tuple, TUPLE_IP, |ip| match source {
            IpAddr::V4(source) => {
                append_attribute(ip, IP_V4_DESTINATION, |value| value.extend(source.octets()));
            }
            IpAddr::V6(source) => {
                append_attribute(ip, IP_V6_DESTINATION, |value| value.extend(source.octets()));
            }
        });
    });
    batch.attribute_with(FILTER, |filter| {
        append_attribute(filter, FILTER_REPLY_FLAGS, |flags| flags.extend(FILTER_DESTINATION.to_ne_bytes()));
    });
}

/// `struct ifinfomsg` (linux/rtnetlink.h): the index is at byte 4.
const IFINFOMSG_LEN: usize = 16;

pub(crate) fn hook(payload: &[u8]) -> Option<(u32, XdpHook)> {
    // linux/if_link.h
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_ATTACHED: u16 = 2;
    const IFLA_XDP_PROG_ID: u16 = 4;
    const XDP_ATTACHED_SKB: u8 = 2;
    let ifindex = read_u32(payload, 4)?;
    let (_, xdp) = attributes(payload.get(IFINFOMSG_LEN..)?).find(|(kind, _)| *kind == IFLA_XDP)?;
    let value = |wanted| attributes(xdp).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let generic = value(IFLA_XDP_ATTACHED)?.first() == Some(&XDP_ATTACHED_SKB);
    Some((ifindex, XdpHook { generic, program_id: read_u32(value(IFLA_XDP_PROG_ID)?, 0)? }))
}
