//! Routing rules as rtnetlink messages (linux/fib_rules.h, `struct fib_rule_hdr`).

use std::fmt;

use ipnet::IpNet;

use super::{PROTOCOL, codec::append_address};
use crate::system::netlink::{Batch, address, attributes, read_u32, string};

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

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        if prefix.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As `AF_*`.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }
}

/// An interface's name as rules have it (`IFNAMSIZ`, linux/if.h), ended by NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName([u8; libc::IFNAMSIZ]);

impl InterfaceName {
    /// Nothing for what is no interface's name: empty, or longer than 15 octets.
    pub fn new(name: &str) -> Option<Self> {
        let mut octets = [0; libc::IFNAMSIZ];
        let fits = !name.is_empty() && name.len() < octets.len() && !name.contains('\0');
        fits.then(|| {
            octets[..name.len()].copy_from_slice(name.as_bytes());
            Self(octets)
        })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&string(&self.0))
    }
}

/// A rule of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Whose packets.
    pub family: Family,
    /// When it is asked, the lowest first.
    pub priority: u32,
    /// Mark and mask that a packet must match.
    pub mark: Option<(u32, u32)>,
    /// Where a packet must come from.
    pub from: Option<IpNet>,
    /// The interface that a packet's socket must be bound to.
    pub bound_to: Option<InterfaceName>,
    /// The table that is looked up.
    pub table: u32,
    /// Routes with a prefix of this length or a shorter one do not count.
    pub suppress_prefix_len: Option<u32>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        write!(f, "{family} rule {}:", self.priority)?;
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(interface) = self.bound_to {
            write!(f, " oif {interface}")?;
        }
        if let Some((mark, mask)) = self.mark {
            write!(f, " fwmark {mark:#x}/{mask:#x}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

/// A rule that the kernel has, anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRule {
    /// Whose packets.
    pub family: Family,
    /// When it is asked.
    pub priority: u32,
    /// Who made it (`FRA_PROTOCOL`); 0: unknown.
    pub protocol: u8,
    /// The table that it names, 0: none.
    pub table: u32,
    /// The rule; nothing if it says something that ours never do.
    pub rule: Option<Rule>,
}

impl FoundRule {
    /// How a rule of ours is found.
    pub const fn ours(rule: &Rule) -> Self {
        Self { family: rule.family, priority: rule.priority, protocol: PROTOCOL, table: rule.table, rule: Some(*rule) }
    }
}

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
        batch.attribute(FRA_OIFNAME, &interface.0);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::system::netlink::messages;

    #[test]
    fn rules_read_back_as_written() {
        let plain = Rule {
            family: Family::V4,
            priority: 20_000,
            mark: None,
            from: None,
            bound_to: None,
            table: 254,
            suppress_prefix_len: Some(0),
        };
        let other = Rule { suppress_prefix_len: None, table: 7001, ..plain };
        for rule in [
            plain,
            Rule { mark: Some((0x100, 0xff00)), ..other },
            Rule { from: Some("198.51.100.2/32".parse().unwrap()), ..other },
            Rule { bound_to: InterfaceName::new("eth1.100"), ..other },
            Rule { family: Family::V6, from: Some("2001:db8::/48".parse().unwrap()), ..other },
        ] {
            let mut batch = Batch::default();
            create(&mut batch, &rule);
            let found = parse(messages(batch.bytes()).next().unwrap().payload).unwrap();
            let FoundRule { family, priority, protocol, table, rule: read } = found;
            assert_eq!((family, priority, protocol, table), (rule.family, 20_000, PROTOCOL, rule.table));
            assert_eq!(read, Some(rule));
        }
    }

    #[test]
    fn what_ours_never_say_is_seen() {
        const FRA_IIFNAME: u16 = 3;
        let rule = Rule {
            family: Family::V4,
            priority: 7,
            mark: Some((0x100, 0xff00)),
            from: None,
            bound_to: None,
            table: 7001,
            suppress_prefix_len: None,
        };
        let mut batch = Batch::default();
        create(&mut batch, &rule);
        batch.attribute(FRA_IIFNAME, b"eth1\0");
        let found = parse(messages(batch.bytes()).next().unwrap().payload).unwrap();
        assert_eq!((found.priority, found.table, found.rule), (7, 7001, None));
    }
}
