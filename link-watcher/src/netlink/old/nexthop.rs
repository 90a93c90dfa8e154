//! Nexthop objects as rtnetlink messages (linux/nexthop.h, `struct nhmsg`).

use super::{
    route::append_address,
    wire::{Batch, address, append_attribute, attributes, read_u16, read_u32},
};
use crate::netlink::{FoundObject, Member, Object, PROTOCOL, nexthop::BUCKETS};

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

/// Adds a request that creates the object; it fails with `EEXIST` where the id is taken.
pub(crate) fn create(batch: &mut Batch, id: u32, object: &Object) {
    write(batch, libc::NLM_F_CREATE | libc::NLM_F_EXCL, id, object);
}

/// Adds a request that replaces the object, whoever made it; it fails with `ENOENT` where there is none.
pub(crate) fn replace(batch: &mut Batch, id: u32, object: &Object) {
    write(batch, libc::NLM_F_REPLACE, id, object);
}

fn write(batch: &mut Batch, flags: i32, id: u32, object: &Object) {
    let mut fixed = [0; NHMSG_LEN];
    fixed[2] = PROTOCOL;
    if let Object::Hop { gateway, .. } = object {
        fixed[0] = (if gateway.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8;
    }
    batch.request(RTM_NEWNEXTHOP, flags as u16, &fixed);
    batch.attribute(NHA_ID, &id.to_ne_bytes());
    match object {
        Object::Hop { ifindex, gateway } => {
            batch.attribute(NHA_OIF, &ifindex.to_ne_bytes());
            batch.attribute_with(NHA_GATEWAY, |bytes| append_address(bytes, *gateway));
        }
        Object::Group { members, .. } => {
            batch.attribute_with(NHA_GROUP, |bytes| {
                for member in members {
                    bytes.extend_from_slice(&member.id.to_ne_bytes());
                    let [low, high, ..] = (member.weight - 1).to_le_bytes();
                    bytes.extend_from_slice(&[low, high, 0, 0]);
                }
            });
            batch.attribute(NHA_GROUP_TYPE, &RESILIENT.to_ne_bytes());
            batch.attribute_with(NHA_RES_GROUP | libc::NLA_F_NESTED as u16, |bytes| {
                append_attribute(bytes, NHA_RES_GROUP_BUCKETS, |bytes| bytes.extend(BUCKETS.to_ne_bytes()));
                append_attribute(bytes, NHA_RES_GROUP_IDLE_TIMER, |bytes| bytes.extend(IDLE_TIMER.to_ne_bytes()));
                append_attribute(bytes, NHA_RES_GROUP_UNBALANCED_TIMER, |bytes| {
                    bytes.extend(UNBALANCED_TIMER.to_ne_bytes());
                });
            });
        }
    }
}

/// Adds a request that removes the object, whoever made it: the kernel compares nothing but the id. A group that has no
/// other member goes with it, and all routes that refer to what goes.
pub(crate) fn delete(batch: &mut Batch, id: u32) {
    batch.request(RTM_DELNEXTHOP, 0, &[0; NHMSG_LEN]);
    batch.attribute(NHA_ID, &id.to_ne_bytes());
}

/// Adds a request for the object; it fails with `ENOENT` where there is none.
pub(crate) fn get(batch: &mut Batch, id: u32) {
    batch.request(RTM_GETNEXTHOP, 0, &[0; NHMSG_LEN]);
    batch.attribute(NHA_ID, &id.to_ne_bytes());
}

/// A nexthop message. Nothing for what is malformed.
pub(crate) fn parse(payload: &[u8]) -> Option<FoundObject> {
    let fixed = payload.get(..NHMSG_LEN)?;
    let (mut id, mut ifindex, mut gateway, mut plain) = (None, None, None, true);
    let (mut members, mut resilient, mut buckets) = (None, false, None);
    for (kind, value) in attributes(&payload[NHMSG_LEN..]) {
        match kind {
            NHA_ID => id = Some(read_u32(value, 0)?),
            NHA_GROUP => members = Some(parse_members(value)?),
            NHA_GROUP_TYPE => resilient = read_u16(value, 0)? == RESILIENT,
            NHA_OIF => ifindex = Some(read_u32(value, 0)?),
            NHA_GATEWAY => gateway = address(value),
            NHA_RES_GROUP => {
                buckets = attributes(value)
                    .find(|(kind, _)| *kind == NHA_RES_GROUP_BUCKETS)
                    .and_then(|(_, value)| read_u16(value, 0));
            }
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
            Some(Member { id: read_u32(member, 0)?, weight })
        })
        .collect()
}
