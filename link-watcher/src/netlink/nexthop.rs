//! Nexthop objects as rtnetlink messages (linux/nexthop.h, `struct nhmsg`). netlink-packet-route has none.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLA_F_NESTED, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, parse_ip};

use super::{
    PROTOCOL,
    message::{Batch, Body, attribute, attributes, family, half, nest, nla, octets, word},
};

/// Buckets of a group, each of which has one member: a link's share is a multiple of 0.8 %. More would need greater
/// weights than older kernels have for the last member to get none.
pub(crate) const BUCKETS: u16 = 128;
/// linux/rtnetlink.h, as the answers and events have it.
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
/// `struct nhmsg`: family, scope, protocol, reserved: a byte each; flags u32.
const NHMSG_LEN: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_RES_GROUP: u16 = 12;
const NHA_RES_GROUP_BUCKETS: u16 = 1;
const NHA_RES_GROUP_IDLE_TIMER: u16 = 2;
const NHA_RES_GROUP_UNBALANCED_TIMER: u16 = 3;
/// `NEXTHOP_GRP_TYPE_RES`.
const RESILIENT: u16 = 1;
/// `struct nexthop_grp`: id u32, weight − 1 u8, its high byte u8 (since Linux 6.12), reserved u16.
const MEMBER_LEN: usize = 8;
/// What has had no packet for so long is free to move to a member that lacks traffic, in 1/100 s (`clock_t`).
const IDLE_TIMER: u32 = 10 * 100;
/// After so long everything that is too much at one member moves, busy or not: without that a link that came back would
/// never get its share on a busy router. In 1/100 s.
const UNBALANCED_TIMER: u32 = 120 * 100;

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Id of the object that it is.
    pub id: u32,
    /// Its weight, 1 to 65,536; ours is at most 256, because older kernels have no more.
    pub weight: u32,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A next hop.
    Hop {
        /// Interface.
        ifindex: u32,
        /// The router there.
        gateway: IpAddr,
    },
    /// A group of next hops.
    Group {
        /// In the order that the kernel has.
        members: Vec<Member>,
        /// It is resilient, with as many buckets as ours have: a group can become neither while it exists.
        fit: bool,
    },
}

/// An object that the kernel has, anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundObject {
    /// Its id.
    pub id: u32,
    /// Who made it (`nh_protocol`).
    pub protocol: u8,
    /// What it is; nothing for what we would never make, such as a blackhole.
    pub object: Option<Object>,
}

/// Adds a request that creates the object; it fails with `EEXIST` where the id is taken.
pub(crate) fn create(batch: &mut Batch, id: u32, object: &Object) {
    write(batch, NLM_F_CREATE | NLM_F_EXCL, id, object);
}

/// Adds a request that replaces the object, whoever made it; it fails with `ENOENT` where there is none.
pub(crate) fn replace(batch: &mut Batch, id: u32, object: &Object) {
    write(batch, NLM_F_REPLACE, id, object);
}

fn write(batch: &mut Batch, flags: u16, id: u32, object: &Object) {
    let mut fixed = [0; NHMSG_LEN];
    fixed[2] = PROTOCOL;
    let mut attributes = vec![nla(NHA_ID, id.to_ne_bytes())];
    match object {
        Object::Hop { ifindex, gateway } => {
            fixed[0] = family(*gateway);
            attributes.extend([nla(NHA_OIF, ifindex.to_ne_bytes()), nla(NHA_GATEWAY, octets(*gateway))]);
        }
        Object::Group { members, .. } => attributes.extend([
            nla(NHA_GROUP, members.iter().flat_map(Member::bytes).collect::<Vec<u8>>()),
            nla(NHA_GROUP_TYPE, RESILIENT.to_ne_bytes()),
            nest(
                NHA_RES_GROUP | NLA_F_NESTED,
                &[
                    nla(NHA_RES_GROUP_BUCKETS, BUCKETS.to_ne_bytes()),
                    nla(NHA_RES_GROUP_IDLE_TIMER, IDLE_TIMER.to_ne_bytes()),
                    nla(NHA_RES_GROUP_UNBALANCED_TIMER, UNBALANCED_TIMER.to_ne_bytes()),
                ],
            ),
        ]),
    }
    batch.request(RTM_NEWNEXTHOP, flags, &Body { fixed: &fixed, attributes: &attributes });
}

impl Member {
    fn bytes(&self) -> [u8; MEMBER_LEN] {
        let ([a, b, c, d], [low, high, ..]) = (self.id.to_ne_bytes(), (self.weight - 1).to_le_bytes());
        [a, b, c, d, low, high, 0, 0]
    }
}

/// Adds a request that removes the object, whoever made it: the kernel compares nothing but the id. A group that has no
/// other member goes with it, and all routes that refer to what goes.
pub(crate) fn delete(batch: &mut Batch, id: u32) {
    named(batch, RTM_DELNEXTHOP, id);
}

/// Adds a request for the object; it fails with `ENOENT` where there is none.
pub(crate) fn get(batch: &mut Batch, id: u32) {
    named(batch, RTM_GETNEXTHOP, id);
}

fn named(batch: &mut Batch, kind: u16, id: u32) {
    batch.request(kind, 0, &Body { fixed: &[0; NHMSG_LEN], attributes: &[nla(NHA_ID, id.to_ne_bytes())] });
}

/// Adds a request for all objects.
pub(crate) fn dump(batch: &mut Batch) {
    batch.request(RTM_GETNEXTHOP, NLM_F_DUMP, &Body { fixed: &[0; NHMSG_LEN], attributes: &[] });
}

/// A nexthop message. Nothing for what is malformed.
pub(crate) fn parse(payload: &[u8]) -> Option<FoundObject> {
    let fixed = payload.get(..NHMSG_LEN)?;
    let (mut id, mut ifindex, mut gateway, mut plain) = (None, None, None, true);
    let (mut members, mut resilient, mut buckets) = (None, false, None);
    for (kind, value) in attributes(&payload[NHMSG_LEN..]) {
        match kind {
            NHA_ID => id = Some(word(value)?),
            NHA_GROUP => members = Some(parse_members(value)?),
            NHA_GROUP_TYPE => resilient = half(value)? == RESILIENT,
            NHA_OIF => ifindex = Some(word(value)?),
            NHA_GATEWAY => gateway = parse_ip(value).ok(),
            NHA_RES_GROUP => buckets = attribute(value, NHA_RES_GROUP_BUCKETS).and_then(half),
            _ => plain = false,
        }
    }
    let object = match (members, ifindex.zip(gateway)) {
        (Some(members), _) => Some(Object::Group { members, fit: resilient && buckets == Some(BUCKETS) }),
        (None, Some((ifindex, gateway))) if plain => Some(Object::Hop { ifindex, gateway }),
        _ => None,
    };
    Some(FoundObject { id: id?, protocol: fixed[2], object })
}

fn parse_members(value: &[u8]) -> Option<Vec<Member>> {
    value
        .chunks_exact(MEMBER_LEN)
        .map(|member| {
            let weight = u32::from(member[4]) + (u32::from(member[5]) << 8) + 1;
            Some(Member { id: word(member)?, weight })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rtnetlink::packet_core::DefaultNla;

    use super::*;
    use crate::netlink::message::{HEADER_LEN, messages};

    fn hop(ifindex: u32, gateway: &str) -> Object {
        Object::Hop { ifindex, gateway: gateway.parse().unwrap() }
    }

    fn group(members: &[(u32, u32)]) -> Object {
        Object::Group { members: members.iter().map(|&(id, weight)| Member { id, weight }).collect(), fit: true }
    }

    /// Type, flags and what follows the header, as the kernel gets it.
    fn sent(write: impl FnOnce(&mut Batch)) -> (u16, u16, Vec<u8>) {
        let mut batch = Batch::default();
        write(&mut batch);
        let message = messages(batch.bytes()).next().unwrap();
        assert_eq!(batch.bytes().len(), HEADER_LEN + message.payload().len());
        (message.message_type(), message.flags(), message.payload().to_vec())
    }

    /// The bytes are those of a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_next_hop_is_these_bytes() {
        let (kind, flags, bytes) = sent(|batch| create(batch, 0x0102_0304, &hop(7, "198.51.100.1")));
        // NLM_F_REQUEST, NLM_F_EXCL, NLM_F_CREATE.
        assert_eq!((kind, flags), (104, 0x601));
        #[rustfmt::skip]
        assert_eq!(bytes, [
            2, 0, 208, 0, 0, 0, 0, 0,
            8, 0, 1, 0, 4, 3, 2, 1,
            8, 0, 5, 0, 7, 0, 0, 0,
            8, 0, 6, 0, 198, 51, 100, 1,
        ]);
        let (_, _, bytes) = sent(|batch| create(batch, 9, &hop(7, "2001:db8::1")));
        #[rustfmt::skip]
        assert_eq!(bytes, [
            10, 0, 208, 0, 0, 0, 0, 0,
            8, 0, 1, 0, 9, 0, 0, 0,
            8, 0, 5, 0, 7, 0, 0, 0,
            20, 0, 6, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        ]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_group_is_these_bytes() {
        let (kind, flags, bytes) = sent(|batch| replace(batch, 9, &group(&[(3, 256), (4, 1)])));
        // NLM_F_REQUEST, NLM_F_REPLACE.
        assert_eq!((kind, flags), (104, 0x101));
        #[rustfmt::skip]
        assert_eq!(bytes, [
            0, 0, 208, 0, 0, 0, 0, 0,
            8, 0, 1, 0, 9, 0, 0, 0,
            20, 0, 2, 0, 3, 0, 0, 0, 255, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
            6, 0, 3, 0, 1, 0, 0, 0,
            28, 0, 12, 0x80,
            6, 0, 1, 0, 128, 0, 0, 0,
            8, 0, 2, 0, 0xe8, 3, 0, 0,
            8, 0, 3, 0, 0xe0, 0x2e, 0, 0,
        ]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn removals_and_questions_are_these_bytes() {
        let body = [0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 0, 9, 0, 0, 0];
        assert_eq!(sent(|batch| delete(batch, 9)), (105, 1, body.to_vec()));
        assert_eq!(sent(|batch| get(batch, 9)), (106, 1, body.to_vec()));
    }

    #[test]
    fn objects_read_back_as_written() {
        for object in [
            hop(3, "198.51.100.1"),
            hop(4, "fe80::1"),
            group(&[(1_000_002, 256), (1_000_005, 154), (1_000_003, 1)]),
            group(&[(1_000_002, 257)]),
        ] {
            let (_, _, bytes) = sent(|batch| create(batch, 77, &object));
            assert_eq!(parse(&bytes), Some(FoundObject { id: 77, protocol: PROTOCOL, object: Some(object) }));
        }
    }

    #[test]
    fn what_ours_never_are_is_seen() {
        const NHA_BLACKHOLE: u16 = 4;
        let found = |attributes: &[DefaultNla]| {
            let attributes = [&[nla(NHA_ID, 9u32.to_ne_bytes())], attributes].concat();
            let body = Body { fixed: &[0; NHMSG_LEN], attributes: &attributes };
            parse(&sent(|batch| batch.request(RTM_NEWNEXTHOP, 0, &body)).2).unwrap().object
        };
        assert_eq!(found(&[nla(NHA_BLACKHOLE, [])]), None);
        let plain = Object::Group { members: vec![Member { id: 3, weight: 10 }], fit: false };
        let members = [3, 0, 0, 0, 9, 0, 0, 0];
        assert_eq!(
            found(&[nla(NHA_GROUP, members), nla(NHA_GROUP_TYPE, 0u16.to_ne_bytes())]),
            cfg!(target_endian = "little").then_some(plain)
        );
    }
}
