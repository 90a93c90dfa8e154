//! What is read of nftables by netlink (linux/netfilter/nf_tables.h): the ruleset's generation, and counters.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::system::netlink::{Batch, Requests, attributes, read_u32, string};

/// `NFNL_SUBSYS_NFTABLES`, in the upper octet of a message's type.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
/// `nfgenmsg`: family u8, version u8, resource id u16.
const NFGENMSG_LEN: usize = 4;
/// `NFPROTO_INET`.
const INET: u8 = libc::NFPROTO_INET as u8;
/// `NFTA_GEN_ID`.
const GEN_ID: u16 = 1;
/// `NFTA_OBJ_TABLE`.
const OBJ_TABLE: u16 = 1;
/// `NFTA_OBJ_NAME`.
const OBJ_NAME: u16 = 2;
/// `NFTA_OBJ_TYPE`.
const OBJ_TYPE: u16 = 3;
/// `NFTA_OBJ_DATA`.
const OBJ_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`.
const OBJECT_COUNTER: u32 = 1;
/// `NFTA_COUNTER_PACKETS`.
const COUNTER_PACKETS: u16 = 2;

/// Opens the socket that the functions here need.
pub(super) fn open() -> io::Result<Requests> {
    Requests::open_protocol(NETLINK_NETFILTER)
}

/// The ruleset's generation: every change of any table of this network namespace gives another.
pub(super) fn generation(requests: &mut Requests, batch: &mut Batch) -> io::Result<u32> {
    batch.clear();
    batch.request(SUBSYSTEM | libc::NFT_MSG_GETGEN as u16, 0, &[0; NFGENMSG_LEN]);
    requests.ask_one(batch, |message| {
        let (_, value) = attributes(message.payload.get(NFGENMSG_LEN..)?).find(|(kind, _)| *kind == GEN_ID)?;
        read_u32(value, 0).map(u32::from_be)
    })
}

/// The named counters of a table: name and packets.
pub(super) fn counters(requests: &mut Requests, batch: &mut Batch, table: &str) -> io::Result<Vec<(String, u64)>> {
    batch.clear();
    batch.request(SUBSYSTEM | libc::NFT_MSG_GETOBJ as u16, libc::NLM_F_DUMP as u16, &[INET, 0, 0, 0]);
    batch.attribute_with(OBJ_TABLE, |bytes| {
        bytes.extend_from_slice(table.as_bytes());
        bytes.push(0);
    });
    batch.attribute(OBJ_TYPE, &OBJECT_COUNTER.to_be_bytes());
    requests.dump(batch, |message| counter(message.payload, table))
}

/// A counter out of `NFT_MSG_NEWOBJ`; nothing for another table's, as a kernel may send that filters nothing.
fn counter(payload: &[u8], table: &str) -> Option<(String, u64)> {
    let (mut name, mut ours, mut packets) = (None, false, None);
    for (kind, value) in attributes(payload.get(NFGENMSG_LEN..)?) {
        match kind {
            OBJ_TABLE => ours = string(value) == table,
            OBJ_NAME => name = Some(string(value)),
            OBJ_DATA => {
                let (_, value) = attributes(value).find(|(kind, _)| *kind == COUNTER_PACKETS)?;
                packets = Some(u64::from_be_bytes(value.try_into().ok()?));
            }
            _ => {}
        }
    }
    Some((name.filter(|_| ours)?, packets?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::system::netlink::append_attribute;

    #[test]
    fn a_counter_is_read_and_anothers_is_not() {
        let mut payload = vec![INET, 0, 0, 0];
        append_attribute(&mut payload, OBJ_TABLE, |bytes| bytes.extend_from_slice(b"ours\0"));
        append_attribute(&mut payload, OBJ_NAME, |bytes| bytes.extend_from_slice(b"answers\0"));
        append_attribute(&mut payload, OBJ_DATA | libc::NLA_F_NESTED as u16, |bytes| {
            append_attribute(bytes, 1, |bytes| bytes.extend_from_slice(&99u64.to_be_bytes()));
            append_attribute(bytes, COUNTER_PACKETS, |bytes| bytes.extend_from_slice(&7u64.to_be_bytes()));
        });
        assert_eq!(counter(&payload, "ours"), Some(("answers".to_owned(), 7)));
        assert_eq!(counter(&payload, "theirs"), None);
        assert_eq!(counter(&payload[..20], "ours"), None);
        assert_eq!(counter(&[], "ours"), None);
    }
}
