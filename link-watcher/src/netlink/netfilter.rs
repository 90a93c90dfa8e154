//! What is asked of netfilter (linux/netfilter/nfnetlink_conntrack.h, nf_tables.h): which connections conntrack shall
//! forget, the ruleset's generation, and counters. No crate of ours has these messages.

use std::{io, net::IpAddr};

use netlink_sys::protocols::NETLINK_NETFILTER;
use rtnetlink::packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_DUMP, parse_ip};

use super::{
    message::{Batch, Body, Message, attribute, attributes, half, nest, nla, octets, string, word},
    socket::Requests,
};

/// `struct nfgenmsg`: family u8, version u8, resource id u16.
pub(super) const NFGENMSG_LEN: usize = 4;

/// Subsystems, in the upper octet of a message's type.
const CONNTRACK: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
pub(super) const NFTABLES: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;

/// `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE` and `IPCTNL_MSG_CT_GET_STATS`.
const CT_GET: u16 = 1;
const CT_DELETE: u16 = 2;
const CT_GET_STATS: u16 = 5;
/// With version 0 the kernel takes every family for meant (`ctnetlink_del_conntrack`).
const CT_OF_FAMILY: u8 = 1;
/// `CTA_TUPLE_REPLY`: `CTA_TUPLE_IP`, and in it `CTA_IP_V4_DST` or `CTA_IP_V6_DST`.
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;
/// In it `CTA_FILTER_REPLY_FLAGS`, and of these the one for the destination
/// (net/netfilter/nf_conntrack_netlink.c, `CTA_FILTER_F_CTA_IP_DST`).
const CTA_FILTER: u16 = 25;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_DESTINATION: u32 = 1 << 1;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

/// `NFPROTO_INET`.
pub(super) const INET: u8 = libc::NFPROTO_INET as u8;
const NFTA_GEN_ID: u16 = 1;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// Opens the socket that the functions here need. Needs no privilege; releasing connections needs `CAP_NET_ADMIN`.
pub(crate) fn open() -> io::Result<Requests> {
    Requests::open_protocol(NETLINK_NETFILTER)
}

/// All connections that the kernel knows in this network namespace.
pub(crate) fn connections(requests: &mut Requests, batch: &mut Batch) -> io::Result<u32> {
    ask(requests, batch, CONNTRACK | CT_GET_STATS, CTA_STATS_GLOBAL_ENTRIES)
}

/// How many of them have this mark. The kernel goes through all, and tells of these alone.
pub(crate) fn marked(requests: &mut Requests, batch: &mut Batch, mark: u32, mask: u32) -> io::Result<u32> {
    batch.clear();
    let attributes = [nla(CTA_MARK, (mark & mask).to_be_bytes()), nla(CTA_MARK_MASK, mask.to_be_bytes())];
    batch.request(CONNTRACK | CT_GET, NLM_F_DUMP, &Body { fixed: &[0; NFGENMSG_LEN], attributes: &attributes });
    let found = requests.dump(batch, |message| has_mark(message.payload(), mark, mask).then_some(()))?;
    Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
}

/// Whether a connection out of `IPCTNL_MSG_CT_NEW` has this mark; a kernel without it tells of all.
fn has_mark(payload: &[u8], mark: u32, mask: u32) -> bool {
    let attributes = payload.get(NFGENMSG_LEN..).unwrap_or_default();
    let found = attribute(attributes, CTA_MARK).and_then(word).map(u32::from_be);
    found.is_some_and(|found| found & mask == mark & mask)
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// `IPPROTO_*`.
    pub(crate) protocol: u8,
    /// Ports; 0 where the protocol has none.
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

/// A connection that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// As its first packet was.
    pub(crate) original: Tuple,
    /// As its answers are: what differs from the reverse of `original` is translated.
    pub(crate) reply: Tuple,
    pub(crate) mark: u32,
}

/// How many connections pass `test`, and the first `most` of them; with `marked`, mark and mask, the kernel tells of those alone.
pub(crate) fn flows(
    requests: &mut Requests,
    batch: &mut Batch,
    marked: Option<(u32, u32)>,
    most: usize,
    test: impl Fn(&Flow) -> bool,
) -> io::Result<(usize, Vec<Flow>)> {
    batch.clear();
    let attributes: Vec<DefaultNla> = marked.map_or_else(Vec::new, |(mark, mask)| {
        vec![nla(CTA_MARK, (mark & mask).to_be_bytes()), nla(CTA_MARK_MASK, mask.to_be_bytes())]
    });
    batch.request(CONNTRACK | CT_GET, NLM_F_DUMP, &Body { fixed: &[0; NFGENMSG_LEN], attributes: &attributes });
    let same = |flow: &Flow| marked.is_none_or(|(mark, mask)| flow.mark & mask == mark & mask);
    let mut count = 0;
    let first = requests.dump(batch, |message| {
        let flow = flow(message.payload()).filter(|flow| same(flow) && test(flow))?;
        count += 1;
        (count <= most).then_some(flow)
    })?;
    Ok((count, first))
}

/// A connection out of `IPCTNL_MSG_CT_NEW`.
fn flow(payload: &[u8]) -> Option<Flow> {
    let attributes = payload.get(NFGENMSG_LEN..)?;
    Some(Flow {
        original: tuple(attribute(attributes, CTA_TUPLE_ORIG)?)?,
        reply: tuple(attribute(attributes, CTA_TUPLE_REPLY)?)?,
        mark: attribute(attributes, CTA_MARK).and_then(word).map_or(0, u32::from_be),
    })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (addresses, protocol) = (attribute(bytes, CTA_TUPLE_IP)?, attribute(bytes, CTA_TUPLE_PROTO)?);
    let address = |v4, v6| parse_ip(attribute(addresses, v4).or_else(|| attribute(addresses, v6))?).ok();
    let port = |kind| attribute(protocol, kind).and_then(half).map_or(0, u16::from_be);
    Some(Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: *attribute(protocol, CTA_PROTO_NUM)?.first()?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    })
}

/// Adds a request to forget the connections with this mark; with a source, of these those alone that are answered to it,
/// which a kernel before Linux 6.10 refuses with `EOPNOTSUPP`.
pub(crate) fn forget(batch: &mut Batch, family: u8, mark: u32, mask: u32, source: Option<IpAddr>) {
    let mut attributes = vec![nla(CTA_MARK, (mark & mask).to_be_bytes()), nla(CTA_MARK_MASK, mask.to_be_bytes())];
    attributes.extend(source.into_iter().flat_map(answered_to));
    batch.request(CONNTRACK | CT_DELETE, 0, &Body { fixed: &[family, CT_OF_FAMILY, 0, 0], attributes: &attributes });
}

fn answered_to(source: IpAddr) -> [DefaultNla; 2] {
    let destination = if source.is_ipv4() { CTA_IP_V4_DST } else { CTA_IP_V6_DST };
    [
        nest(CTA_TUPLE_REPLY, &[nest(CTA_TUPLE_IP, &[nla(destination, octets(source))])]),
        nest(CTA_FILTER | NLA_F_NESTED, &[nla(CTA_FILTER_REPLY_FLAGS, FILTER_DESTINATION.to_ne_bytes())]),
    ]
}

/// The ruleset's generation: every change of any table of this network namespace gives another.
pub(crate) fn generation(requests: &mut Requests, batch: &mut Batch) -> io::Result<u32> {
    ask(requests, batch, NFTABLES | libc::NFT_MSG_GETGEN as u16, NFTA_GEN_ID)
}

/// Asks for a number in network byte order.
fn ask(requests: &mut Requests, batch: &mut Batch, kind: u16, wanted: u16) -> io::Result<u32> {
    batch.clear();
    batch.request(kind, 0, &Body { fixed: &[0; NFGENMSG_LEN], attributes: &[] });
    requests.ask_one(batch, |message: &Message<'_>| {
        word(attribute(message.payload().get(NFGENMSG_LEN..)?, wanted)?).map(u32::from_be)
    })
}

/// The named counters of a table: name and packets.
pub(crate) fn counters(requests: &mut Requests, batch: &mut Batch, table: &str) -> io::Result<Vec<(String, u64)>> {
    batch.clear();
    let attributes =
        [nla(NFTA_OBJ_TABLE, [table.as_bytes(), &[0]].concat()), nla(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_be_bytes())];
    let body = Body { fixed: &[INET, 0, 0, 0], attributes: &attributes };
    batch.request(NFTABLES | libc::NFT_MSG_GETOBJ as u16, NLM_F_DUMP, &body);
    requests.dump(batch, |message| counter(message.payload(), table))
}

/// A counter out of `NFT_MSG_NEWOBJ`; nothing for another table's, as a kernel may send that filters nothing.
fn counter(payload: &[u8], table: &str) -> Option<(String, u64)> {
    let (mut name, mut ours, mut packets) = (None, false, None);
    for (kind, value) in attributes(payload.get(NFGENMSG_LEN..)?) {
        match kind {
            NFTA_OBJ_TABLE => ours = string(value) == table,
            NFTA_OBJ_NAME => name = Some(string(value)),
            NFTA_OBJ_DATA => {
                packets = Some(u64::from_be_bytes(attribute(value, NFTA_COUNTER_PACKETS)?.try_into().ok()?));
            }
            _ => {}
        }
    }
    Some((name.filter(|_| ours)?, packets?))
}

/// A connection or a counter.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(payload: &[u8]) {
    let _ = (has_mark(payload, 0x100, 0xff00), flow(payload), counter(payload, "link_watcher"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rtnetlink::packet_core::Emitable as _;

    use super::*;

    #[test]
    fn a_mark_is_read_within_its_mask() {
        let body = Body { fixed: &[0; NFGENMSG_LEN], attributes: &[nla(CTA_MARK, 0x1234_u32.to_be_bytes())] };
        let mut payload = vec![0; body.buffer_len()];
        body.emit(&mut payload);
        assert!(has_mark(&payload, 0x1200, 0xff00) && !has_mark(&payload, 0x1100, 0xff00));
        assert!(!has_mark(&payload[..4], 0, 0xff00) && !has_mark(&[], 0, 0xff00), "no mark is no uplink's");
    }

    #[test]
    fn a_connection_is_read_with_its_translation() {
        let tuple = |source: [u8; 4], destination: [u8; 4], ports: [u16; 2]| {
            [
                nest(CTA_TUPLE_IP, &[nla(CTA_IP_V4_SRC, source), nla(CTA_IP_V4_DST, destination)]),
                nest(
                    CTA_TUPLE_PROTO,
                    &[
                        nla(CTA_PROTO_NUM, [6]),
                        nla(CTA_PROTO_SRC_PORT, ports[0].to_be_bytes()),
                        nla(CTA_PROTO_DST_PORT, ports[1].to_be_bytes()),
                    ],
                ),
            ]
        };
        let (host, server, ours) = ([10, 20, 20, 10], [192, 0, 2, 129], [198, 51, 100, 2]);
        let body = Body {
            fixed: &[0; NFGENMSG_LEN],
            attributes: &[
                nest(CTA_TUPLE_ORIG, &tuple(host, server, [40_000, 443])),
                nest(CTA_TUPLE_REPLY, &tuple(server, ours, [443, 1024])),
                nla(CTA_MARK, 0x100_u32.to_be_bytes()),
            ],
        };
        let mut payload = vec![0; body.buffer_len()];
        body.emit(&mut payload);
        let found = flow(&payload).unwrap();
        assert_eq!((found.original.source, found.original.source_port), (host.into(), 40_000));
        assert_eq!((found.original.destination, found.original.destination_port), (server.into(), 443));
        assert_eq!((found.reply.destination, found.reply.destination_port), (ours.into(), 1024));
        assert_eq!((found.original.protocol, found.mark), (6, 0x100));
        for length in 0..payload.len() {
            let _ = flow(&payload[..length]);
        }
        assert_eq!(flow(&[]), None);
    }

    #[test]
    fn a_counter_is_read_and_anothers_is_not() {
        let data = [nla(1, 99u64.to_be_bytes()), nla(NFTA_COUNTER_PACKETS, 7u64.to_be_bytes())];
        let body = Body {
            fixed: &[INET, 0, 0, 0],
            attributes: &[
                nla(NFTA_OBJ_TABLE, *b"ours\0"),
                nla(NFTA_OBJ_NAME, *b"answers\0"),
                nest(NFTA_OBJ_DATA | NLA_F_NESTED, &data),
            ],
        };
        let mut payload = vec![0; body.buffer_len()];
        body.emit(&mut payload);
        assert_eq!(counter(&payload, "ours"), Some(("answers".to_owned(), 7)));
        assert_eq!(counter(&payload, "theirs"), None);
        assert_eq!(counter(&payload[..20], "ours"), None);
        assert_eq!(counter(&[], "ours"), None);
    }
}
