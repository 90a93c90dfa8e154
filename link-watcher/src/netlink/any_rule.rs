//! Routing rules of anybody, with all that they can say: for people, and to find which of them a packet meets.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use rtnetlink::{
    packet_core::Parseable as _,
    packet_route::{
        AddressFamily,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleHeader},
    },
};

use super::{Family, message::nlas};

/// Length of `struct fib_rule_hdr`.
const HEADER_LEN: usize = 12;
/// Attributes by number (`enum` of linux/fib_rules.h).
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Looks this table up.
    Table(u32),
    /// Goes on at the rule of this priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Drops silently, or with an answer to the sender.
    Refuse(&'static str),
    /// Something that we do not know.
    Other,
}

/// A rule that the kernel has, anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnyRule {
    pub(crate) family: Family,
    pub(crate) priority: u32,
    /// Who made it (`FRA_PROTOCOL`): 2 the kernel, 0 unknown.
    pub(crate) protocol: u8,
    pub(crate) deed: Deed,
    /// It is for what does not match.
    pub(crate) inverted: bool,
    pub(crate) from: Option<IpNet>,
    pub(crate) to: Option<IpNet>,
    /// Interface that a packet comes in by; `lo`: of this machine.
    pub(crate) incoming: Option<String>,
    /// Interface that a packet's socket is bound to.
    pub(crate) bound_to: Option<String>,
    /// Mark and mask.
    pub(crate) mark: Option<(u32, u32)>,
    /// `IPPROTO_*`.
    pub(crate) ip_protocol: Option<u8>,
    pub(crate) source_ports: Option<RangeInclusive<u16>>,
    pub(crate) ports: Option<RangeInclusive<u16>>,
    pub(crate) users: Option<RangeInclusive<u32>>,
    /// Routes with a prefix of this length or a shorter one do not count.
    pub(crate) suppress_prefix_len: Option<u32>,
    /// It says more than is known here: whether it matches cannot be told.
    pub(crate) obscure: bool,
}

/// A packet, as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: IpAddr,
    /// Nothing: this machine sends it.
    pub(crate) incoming: Option<&'a str>,
    pub(crate) mark: u32,
    pub(crate) protocol: u8,
    pub(crate) port: Option<u16>,
}

impl AnyRule {
    /// One that all packets of the family match.
    pub(crate) const fn for_all(family: Family, priority: u32, deed: Deed) -> Self {
        Self {
            family,
            priority,
            protocol: 0,
            deed,
            inverted: false,
            from: None,
            to: None,
            incoming: None,
            bound_to: None,
            mark: None,
            ip_protocol: None,
            source_ports: None,
            ports: None,
            users: None,
            suppress_prefix_len: None,
            obscure: false,
        }
    }
}

/// A rule message. Nothing for other families, and for what is malformed.
pub(crate) fn parse(payload: &[u8]) -> Option<AnyRule> {
    let header = RuleHeader::parse(payload).ok()?;
    let family = match header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let mut rule = AnyRule {
        inverted: header.flags.contains(RuleFlags::Invert),
        obscure: header.tos != 0,
        ..AnyRule::for_all(family, 0, Deed::Other)
    };
    let (mut mark, mut mask, mut table, mut goto) = (0, None, u32::from(header.table), 0);
    for nla in nlas(payload.get(HEADER_LEN..)?) {
        match nla.kind() {
            FRA_PROTOCOL => {
                rule.protocol = *nla.value().first()?;
                continue;
            }
            FRA_IP_PROTO => {
                rule.ip_protocol = nla.value().first().copied();
                continue;
            }
            FRA_PAD => continue,
            _ => {}
        }
        match RuleAttribute::parse(&nla) {
            Ok(RuleAttribute::Priority(priority)) => rule.priority = priority,
            Ok(RuleAttribute::Table(of)) => table = of,
            Ok(RuleAttribute::Goto(to)) => goto = to,
            Ok(RuleAttribute::Source(address)) => rule.from = Some(IpNet::new(address, header.src_len).ok()?),
            Ok(RuleAttribute::Destination(address)) => rule.to = Some(IpNet::new(address, header.dst_len).ok()?),
            Ok(RuleAttribute::Iifname(name)) => rule.incoming = Some(name.trim_end_matches('\0').to_owned()),
            Ok(RuleAttribute::Oifname(name)) => rule.bound_to = Some(name.trim_end_matches('\0').to_owned()),
            Ok(RuleAttribute::FwMark(value)) => mark = value,
            Ok(RuleAttribute::FwMask(value)) => mask = Some(value),
            Ok(RuleAttribute::SourcePortRange(range)) => rule.source_ports = Some(range.start..=range.end),
            Ok(RuleAttribute::DestinationPortRange(range)) => rule.ports = Some(range.start..=range.end),
            Ok(RuleAttribute::UidRange(range)) => rule.users = Some(range.start..=range.end),
            Ok(RuleAttribute::SuppressPrefixLen(length)) => {
                rule.suppress_prefix_len = Some(length).filter(|length| *length != u32::MAX);
            }
            // Realms decide nothing, and -1 is no group.
            Ok(RuleAttribute::Realm(_)) => {}
            Ok(RuleAttribute::SuppressIfGroup(group)) if group == u32::MAX => {}
            _ => rule.obscure = true,
        }
    }
    rule.mark = match (mark, mask) {
        (0, None | Some(0)) => None,
        (mark, mask) => Some((mark, mask.unwrap_or(u32::MAX))),
    };
    rule.deed = match header.action {
        RuleAction::ToTable => Deed::Table(table),
        RuleAction::Goto => Deed::Goto(goto),
        RuleAction::Nop => Deed::Nop,
        RuleAction::Blackhole => Deed::Refuse("blackhole"),
        RuleAction::Unreachable => Deed::Refuse("unreachable"),
        RuleAction::Prohibit => Deed::Refuse("prohibit"),
        _ => Deed::Other,
    };
    Some(rule)
}

impl AnyRule {
    /// Whether a packet meets it; nothing where that cannot be told.
    pub(crate) fn matches(&self, packet: &Seen<'_>) -> Option<bool> {
        let within = |prefix: &Option<IpNet>, address: Option<IpAddr>| match (prefix, address) {
            (None, _) => Some(true),
            (Some(prefix), Some(address)) => Some(prefix.contains(&address)),
            // No address yet is the unspecified one, which only everything contains.
            (Some(prefix), None) => Some(prefix.prefix_len() == 0),
        };
        let port = match (&self.ports, packet.port) {
            (None, _) => Some(true),
            (Some(ports), Some(port)) => Some(ports.contains(&port)),
            (Some(_), None) => None,
        };
        let tests = [
            within(&self.from, packet.source),
            within(&self.to, Some(packet.destination)),
            Some(self.incoming.as_deref().is_none_or(|name| name == packet.incoming.unwrap_or("lo"))),
            // Nobody here asks for a socket that is bound.
            Some(self.bound_to.is_none()),
            Some(self.mark.is_none_or(|(mark, mask)| packet.mark & mask == mark & mask)),
            Some(self.ip_protocol.is_none_or(|protocol| protocol == packet.protocol)),
            port,
            self.source_ports.is_none().then_some(true),
            // What is forwarded has no user; what this machine sends may be anybody's.
            if self.users.is_some() && packet.incoming.is_none() { None } else { Some(self.users.is_none()) },
            (!self.obscure).then_some(true),
        ];
        if tests.contains(&Some(false)) {
            return Some(self.inverted);
        }
        if tests.contains(&None) { None } else { Some(!self.inverted) }
    }
}

impl fmt::Display for AnyRule {
    /// As ip-rule(8) writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        if self.inverted {
            write!(f, " not")?;
        }
        match self.from {
            Some(from) => write!(f, " from {from}")?,
            None => write!(f, " from all")?,
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some(name) = &self.incoming {
            write!(f, " iif {name}")?;
        }
        if let Some(name) = &self.bound_to {
            write!(f, " oif {name}")?;
        }
        match self.mark {
            Some((mark, u32::MAX)) => write!(f, " fwmark {mark:#x}")?,
            Some((mark, mask)) => write!(f, " fwmark {mark:#x}/{mask:#x}")?,
            None => {}
        }
        if let Some(users) = &self.users {
            write!(f, " uidrange {}-{}", users.start(), users.end())?;
        }
        if let Some(protocol) = self.ip_protocol {
            write!(f, " ipproto {protocol}")?;
        }
        for (name, ports) in [("sport", &self.source_ports), ("dport", &self.ports)] {
            if let Some(ports) = ports {
                write!(f, " {name} {}-{}", ports.start(), ports.end())?;
            }
        }
        if self.obscure {
            write!(f, " (and more)")?;
        }
        match self.deed {
            Deed::Table(table) => write!(f, " lookup {}", table_name(table))?,
            Deed::Goto(priority) => write!(f, " goto {priority}")?,
            Deed::Nop => write!(f, " nop")?,
            Deed::Refuse(word) => write!(f, " {word}")?,
            Deed::Other => write!(f, " (another action)")?,
        }
        match self.suppress_prefix_len {
            Some(length) => write!(f, " suppress_prefixlength {length}"),
            None => Ok(()),
        }
    }
}

/// A table's name, where the kernel itself knows it by one.
pub(crate) fn table_name(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rtnetlink::packet_route::rule::{RuleMessage, RulePortRange};

    use super::*;
    use crate::netlink::{Batch, message::messages};

    fn read(change: impl FnOnce(&mut RuleMessage)) -> AnyRule {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![RuleAttribute::Priority(5), RuleAttribute::Table(51820)];
        change(&mut message);
        let mut batch = Batch::default();
        batch.request(libc::RTM_NEWRULE, 0, &message);
        parse(messages(batch.bytes()).next().unwrap().payload()).unwrap()
    }

    fn packet() -> Seen<'static> {
        Seen {
            source: Some("10.20.20.10".parse().unwrap()),
            destination: "192.0.2.129".parse().unwrap(),
            incoming: Some("eth0"),
            mark: 0,
            protocol: libc::IPPROTO_TCP as u8,
            port: Some(443),
        }
    }

    #[test]
    fn the_full_tunnel_of_wg_quick_is_understood() {
        let rule = read(|message| {
            message.header.flags = RuleFlags::Invert;
            message.attributes.push(RuleAttribute::FwMark(0xca6c));
            message.attributes.push(RuleAttribute::FwMask(u32::MAX));
        });
        assert_eq!(rule.to_string(), "5: not from all fwmark 0xca6c lookup 51820");
        assert_eq!(rule.matches(&packet()), Some(true));
        assert_eq!(rule.matches(&Seen { mark: 0xca6c, ..packet() }), Some(false));
        let main = read(|message| {
            message.attributes = vec![RuleAttribute::Table(254), RuleAttribute::SuppressPrefixLen(0)];
        });
        assert_eq!(main.to_string(), "0: from all lookup main suppress_prefixlength 0");
    }

    #[test]
    fn each_selector_matches_what_it_names() {
        let from = read(|message| {
            message.header.src_len = 22;
            message.attributes.push(RuleAttribute::Source("10.20.20.0".parse().unwrap()));
        });
        assert_eq!(from.matches(&packet()), Some(true));
        assert_eq!(from.matches(&Seen { source: None, ..packet() }), Some(false));
        let port = read(|message| {
            message.attributes.push(RuleAttribute::DestinationPortRange(RulePortRange { start: 400, end: 500 }));
        });
        assert_eq!(port.matches(&packet()), Some(true));
        assert_eq!(port.matches(&Seen { port: Some(25), ..packet() }), Some(false));
        assert_eq!(port.matches(&Seen { port: None, ..packet() }), None, "who knows");
        let own = read(|message| message.attributes.push(RuleAttribute::Iifname("lo".to_owned())));
        assert_eq!(own.matches(&packet()), Some(false));
        assert_eq!(own.matches(&Seen { incoming: None, ..packet() }), Some(true));
        let bound = read(|message| message.attributes.push(RuleAttribute::Oifname("eth1".to_owned())));
        assert_eq!(bound.matches(&packet()), Some(false));
        let vrf = read(|message| message.attributes.push(RuleAttribute::L3MDev(true)));
        assert_eq!(vrf.matches(&packet()), None);
    }
}
