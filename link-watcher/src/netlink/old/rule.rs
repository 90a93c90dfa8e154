//! Routing rules as rtnetlink messages (linux/fib_rules.h, `struct fib_rule_hdr`).

use ipnet::IpNet;

use super::{
    route::append_address,
    wire::{Batch, address, attributes, read_u32, string},
};
use crate::netlink::{Family, FoundRule, InterfaceName, PROTOCOL, Rule};

/// `struct fib_rule_hdr`: family, destination length, source length, tos, table, two reserved, action: a byte each;
/// flags u32.
const HEADER_LEN: usize = 12;
/// `FR_ACT_TO_TBL`: look the destination up in a table. A rule without an action is accepted, and then fails lookups.
const ACTION_TABLE: u8 = 1;
/// `FIB_RULE_OIF_DETACHED`: the kernel's word that there is no such interface now.
const OIF_DETACHED: u32 = 0x10;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;

/// Adds a request that creates the rule; it fails with `EEXIST` where the same stands already.
pub(crate) fn create(batch: &mut Batch, rule: &Rule) {
    write(batch, libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, rule);
}

/// Adds a request that removes the rule. The kernel compares everything that ours say, the protocol too.
pub(crate) fn delete(batch: &mut Batch, rule: &Rule) {
    write(batch, libc::RTM_DELRULE, 0, rule);
}

fn write(batch: &mut Batch, message: u16, flags: i32, rule: &Rule) {
    let mut fixed = [0; HEADER_LEN];
    fixed[0] = rule.family.number();
    fixed[2] = rule.from.map_or(0, |from| from.prefix_len());
    // Tables beyond 255 are named by the attribute alone.
    fixed[4] = u8::try_from(rule.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    fixed[7] = ACTION_TABLE;
    batch.request(message, flags as u16, &fixed);
    batch.attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes());
    batch.attribute(FRA_TABLE, &rule.table.to_ne_bytes());
    batch.attribute(FRA_PROTOCOL, &[PROTOCOL]);
    if let Some(from) = rule.from {
        batch.attribute_with(FRA_SRC, |bytes| append_address(bytes, from.addr()));
    }
    if let Some((mark, mask)) = rule.mark {
        batch.attribute(FRA_FWMARK, &mark.to_ne_bytes());
        batch.attribute(FRA_FWMASK, &mask.to_ne_bytes());
    }
    if let Some(interface) = rule.bound_to {
        batch.attribute(FRA_OIFNAME, &interface.octets());
    }
    if let Some(length) = rule.suppress_prefix_len {
        batch.attribute(FRA_SUPPRESS_PREFIXLEN, &length.to_ne_bytes());
    }
}

/// Adds a request for all rules of a family; strict checking allows no filter.
pub(crate) fn dump(batch: &mut Batch, family: Family) {
    let mut fixed = [0; HEADER_LEN];
    fixed[0] = family.number();
    batch.request(libc::RTM_GETRULE, libc::NLM_F_DUMP as u16, &fixed);
}

/// A rule message. Nothing for other families, and what is malformed.
pub(crate) fn parse(payload: &[u8]) -> Option<FoundRule> {
    let fixed = payload.get(..HEADER_LEN)?;
    let family = match i32::from(fixed[0]) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let (destination_len, source_len, tos, action) = (fixed[1], fixed[2], fixed[3], fixed[7]);
    // Any flag, such as that of an inverted rule, is more than ours say.
    let flags = read_u32(fixed, 8)? & !OIF_DETACHED;
    let mut plain = destination_len == 0 && tos == 0 && action == ACTION_TABLE && flags == 0;
    let mut rule = Rule {
        family,
        priority: 0,
        mark: None,
        from: None,
        bound_to: None,
        table: u32::from(fixed[4]),
        suppress_prefix_len: None,
    };
    let (mut protocol, mut mark, mut mask) = (0, 0, 0);
    for (kind, value) in attributes(&payload[HEADER_LEN..]) {
        match kind {
            FRA_SRC => rule.from = Some(IpNet::new(address(value)?, source_len).ok()?),
            FRA_PRIORITY => rule.priority = read_u32(value, 0)?,
            FRA_FWMARK => mark = read_u32(value, 0)?,
            FRA_FWMASK => mask = read_u32(value, 0)?,
            FRA_OIFNAME => rule.bound_to = Some(InterfaceName::new(&string(value))?),
            FRA_TABLE => rule.table = read_u32(value, 0)?,
            // Minus one: none.
            FRA_SUPPRESS_PREFIXLEN => {
                rule.suppress_prefix_len = Some(read_u32(value, 0)?).filter(|length| *length != u32::MAX);
            }
            FRA_PROTOCOL => protocol = *value.first()?,
            FRA_PAD => {}
            _ => plain = false,
        }
    }
    rule.mark = (mask != 0).then_some((mark, mask));
    Some(FoundRule {
        family,
        priority: rule.priority,
        protocol,
        table: if action == ACTION_TABLE { rule.table } else { 0 },
        rule: plain.then_some(rule),
    })
}
