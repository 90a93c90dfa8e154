//! Routing rules as rtnetlink messages (linux/fib_rules.h, `struct fib_rule_hdr`).

use std::fmt;

use ipnet::IpNet;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Parseable as _},
    packet_route::{
        AddressFamily,
        route::RouteProtocol,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage},
    },
};

use super::{
    PROTOCOL,
    message::{Batch, nlas, string, word},
};

/// Length of `struct fib_rule_hdr`.
const HEADER_LEN: usize = 12;
/// Attributes by number (`enum` of linux/fib_rules.h).
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
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
    batch.request(libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &message(rule));
}

/// Adds a request that removes the rule. The kernel compares everything that ours say, the protocol too.
pub(crate) fn delete(batch: &mut Batch, rule: &Rule) {
    batch.request(libc::RTM_DELRULE, 0, &message(rule));
}

/// `rtnetlink`'s builder has neither mask, nor protocol, nor suppressed prefix lengths.
fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::from(rule.family.number());
    message.header.src_len = rule.from.map_or(0, |from| from.prefix_len());
    // Tables beyond 255 are named by the attribute alone.
    message.header.table = u8::try_from(rule.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    // A rule without an action is accepted, and then fails lookups.
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message.attributes.extend(rule.from.map(|from| RuleAttribute::Source(from.addr())));
    if let Some((mark, mask)) = rule.mark {
        message.attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
    }
    message.attributes.extend(rule.bound_to.map(|interface| RuleAttribute::Oifname(interface.to_string())));
    message.attributes.extend(rule.suppress_prefix_len.map(RuleAttribute::SuppressPrefixLen));
    message
}

/// Adds a request for all rules of a family; strict checking allows no filter.
pub(crate) fn dump(batch: &mut Batch, family: Family) {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::from(family.number());
    batch.request(libc::RTM_GETRULE, NLM_F_DUMP, &message);
}

/// A rule message. Nothing for other families, and where what ours are told apart by is malformed. Attributes are
/// decoded one by one: one that is not understood makes the rule one that is not ours, but it is seen.
pub(crate) fn parse(payload: &[u8]) -> Option<FoundRule> {
    let header = RuleHeader::parse(payload).ok()?;
    let family = match header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    // Any flag, such as that of an inverted rule, is more than ours say; except the kernel's word that there is no such
    // interface now.
    let flags = header.flags.difference(RuleFlags::OifDetached);
    let to_table = header.action == RuleAction::ToTable;
    let mut plain = header.dst_len == 0 && header.tos == 0 && to_table && flags.is_empty();
    let mut rule = Rule {
        family,
        priority: 0,
        mark: None,
        from: None,
        bound_to: None,
        table: u32::from(header.table),
        suppress_prefix_len: None,
    };
    let (mut protocol, mut mark, mut mask) = (0, 0, 0);
    for nla in nlas(payload.get(HEADER_LEN..)?) {
        match nla.kind() {
            // What tells rules apart is read from the bytes, so that nothing else can hide a rule.
            FRA_PRIORITY => rule.priority = word(nla.value())?,
            FRA_TABLE => rule.table = word(nla.value())?,
            FRA_PROTOCOL => protocol = *nla.value().first()?,
            FRA_PAD => {}
            _ => match RuleAttribute::parse(&nla) {
                Ok(RuleAttribute::Source(address)) => {
                    // A length that the family has not: nothing of ours.
                    rule.from = IpNet::new(address, header.src_len).ok();
                    plain &= rule.from.is_some();
                }
                Ok(RuleAttribute::FwMark(value)) => mark = value,
                Ok(RuleAttribute::FwMask(value)) => mask = value,
                Ok(RuleAttribute::Oifname(name)) => {
                    rule.bound_to = InterfaceName::new(name.trim_end_matches('\0'));
                    plain &= rule.bound_to.is_some();
                }
                // Minus one: none.
                Ok(RuleAttribute::SuppressPrefixLen(length)) => {
                    rule.suppress_prefix_len = Some(length).filter(|length| *length != u32::MAX);
                }
                _ => plain = false,
            },
        }
    }
    rule.mark = (mask != 0).then_some((mark, mask));
    Some(FoundRule {
        family,
        priority: rule.priority,
        protocol,
        table: if to_table { rule.table } else { 0 },
        rule: plain.then_some(rule),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::message::messages;

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
            let found = parse(messages(batch.bytes()).next().unwrap().payload()).unwrap();
            let FoundRule { family, priority, protocol, table, rule: read } = found;
            assert_eq!((family, priority, protocol, table), (rule.family, 20_000, PROTOCOL, rule.table));
            assert_eq!(read, Some(rule));
        }
    }

    #[test]
    fn what_ours_never_say_is_seen() {
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
        let mut other = message(&rule);
        other.attributes.push(RuleAttribute::Iifname("eth1".to_owned()));
        batch.request(libc::RTM_NEWRULE, 0, &other);
        let found = parse(messages(batch.bytes()).next().unwrap().payload()).unwrap();
        assert_eq!((found.priority, found.table, found.rule), (7, 7001, None));
    }
}
