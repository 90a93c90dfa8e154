//! `[[uplinks.force]]`: connections that shall use one uplink.

use std::ops::{Range, RangeInclusive};

use ipnet::IpNet;
use toml::{Spanned, de::DeValue};

use super::{ForceConfig, Protocol};
use crate::config::{
    reference::{Key, Otherwise, Schema, Takes, words},
    section::Section,
};

const PROTOCOLS: [(&str, Protocol); 3] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("icmp", Protocol::Icmp)];
const DEFAULT_OR_OTHERS: bool = false;
/// `[[uplinks.force]]`.
pub(in crate::config) static SCHEMA: Schema = Schema::new(
    "[[uplinks.force]]",
    "Connections that shall use one uplink. The first that matches counts; what is left out matches everything.",
    &[
        Key::new("link", Takes::Text("name of an uplink of this group"), Otherwise::Demanded, "which"),
        Key::new("source", Takes::Text("prefix"), Otherwise::Words("any"), "where a connection comes from"),
        Key::new("destination", Takes::Text("prefix"), Otherwise::Words("any"), "where it goes"),
        Key::new("protocol", Takes::Words(&words(&PROTOCOLS)), Otherwise::Words("any"), "`icmp` is ICMPv6 for IPv6"),
        Key::new(
            "port",
            Takes::Text("number, range such as \"8000-8080\", or list of at most 64 of both"),
            Otherwise::Words("any"),
            "destination port; with `tcp` or `udp`",
        ),
        Key::new(
            "or-others",
            Takes::Flag,
            Otherwise::Flag(DEFAULT_OR_OTHERS),
            "while the uplink is not usable such connections may use the others; else they are rejected",
        ),
    ],
);
/// Most entries of one `port`.
const MAX_PORTS: usize = 64;
const PORT_EXAMPLE: &str = "25";

/// As it stands in the file.
pub(super) struct Force {
    pub(super) span: Range<usize>,
    pub(super) link: Option<Spanned<String>>,
    pub(super) source: Option<Spanned<IpNet>>,
    pub(super) destination: Option<Spanned<IpNet>>,
    protocol: Option<Protocol>,
    ports: Vec<RangeInclusive<u16>>,
    or_others: bool,
}

impl Force {
    pub(super) fn read(section: Section<'_>) -> Self {
        let link = section.string("link", "\"provider1\"");
        if section.get("link").is_none() {
            section.missing("link", "\"provider1\" (the uplink that they shall use)");
        }
        let protocol = section.choice("protocol", &PROTOCOLS);
        if let Some(port) = section.get("port")
            && (section.get("protocol").is_none() || protocol == Some(Protocol::Icmp))
        {
            section.findings.error(
                &port.span(),
                "`port` needs a protocol that has ports",
                "add protocol = \"tcp\" or \"udp\"; for both write two [[uplinks.force]]",
            );
        }
        if ["source", "destination", "protocol", "port"].iter().all(|key| section.get(key).is_none()) {
            section.findings.warning(
                &section.span(),
                "this [[uplinks.force]] matches every connection: nothing is spread, and no later one is reached",
                "say which with source, destination, protocol or port",
            );
        }
        Self {
            span: section.span(),
            link,
            source: section.prefix("source"),
            destination: section.prefix("destination"),
            protocol,
            ports: ports(&section),
            or_others: section.boolean("or-others").unwrap_or(DEFAULT_OR_OTHERS),
        }
    }

    /// Whether it takes every connection that `later` would: that one is never reached.
    pub(super) fn shadows(&self, later: &Self) -> bool {
        let within = |mine: &Option<Spanned<IpNet>>, theirs: &Option<Spanned<IpNet>>| match (mine, theirs) {
            (None, _) => true,
            (Some(mine), Some(theirs)) => mine.get_ref().contains(theirs.get_ref()),
            (Some(_), None) => false,
        };
        // Where its uplink is not usable it lets connections pass on.
        !self.or_others
            && within(&self.source, &later.source)
            && within(&self.destination, &later.destination)
            && (self.protocol.is_none() || self.protocol == later.protocol)
            && (self.ports.is_empty() || !later.ports.is_empty() && later.ports.iter().all(|ports| self.takes(ports)))
    }

    /// Whether it takes each of these ports.
    fn takes(&self, ports: &RangeInclusive<u16>) -> bool {
        let mut mine: Vec<_> =
            self.ports.iter().map(|ports| (u32::from(*ports.start()), u32::from(*ports.end()))).collect();
        mine.sort_unstable();
        let first = u32::from(*ports.start());
        // The first port that none of those so far takes.
        let open = mine.into_iter().fold(first, |open, (from, to)| if from <= open { open.max(to + 1) } else { open });
        open > u32::from(*ports.end())
    }

    /// Whether it says which connections.
    pub(super) fn chooses(&self) -> bool {
        self.source.is_some() || self.destination.is_some() || self.protocol.is_some()
    }

    /// One for each range of ports.
    pub(super) fn build(self) -> Option<Vec<ForceConfig>> {
        let link = self.link?.into_inner();
        let ports: Vec<_> = if self.ports.is_empty() { vec![None] } else { self.ports.into_iter().map(Some).collect() };
        let force = |ports| ForceConfig {
            link: link.clone(),
            source: self.source.as_ref().map(|source| *source.get_ref()),
            destination: self.destination.as_ref().map(|destination| *destination.get_ref()),
            protocol: self.protocol,
            ports,
            or_others: self.or_others,
        };
        Some(ports.into_iter().map(force).collect())
    }
}

/// A port, a range such as "8000-8080", or a list of them.
fn ports(section: &Section<'_>) -> Vec<RangeInclusive<u16>> {
    let Some(value) = section.get("port") else { return Vec::new() };
    let DeValue::Array(array) = value.get_ref() else { return port(section, value).into_iter().collect() };
    let (mut items, mut count) = (Vec::new(), 0);
    for item in array.iter() {
        count += 1;
        items.extend(port(section, item));
    }
    if count == 0 || count > MAX_PORTS {
        section.findings.error(
            &value.span(),
            format!("`port` has {count} entries"),
            format!("a list of ports has 1 to {MAX_PORTS}; leave `port` out for all"),
        );
    }
    items
}

fn port(section: &Section<'_>, value: &Spanned<DeValue<'_>>) -> Option<RangeInclusive<u16>> {
    match numbers(value.get_ref()) {
        Numbers::WrongType => section.wrong_type("port", value, "a port, or a range in quotes", PORT_EXAMPLE),
        Numbers::Range(first, last) => match (u16::try_from(first), u16::try_from(last)) {
            (Ok(first), Ok(last)) if first > 0 && first <= last => return Some(first..=last),
            _ => section.findings.error(
                &value.span(),
                format!(
                    "`port` is out of range: {}",
                    if first == last { first.to_string() } else { format!("{first}-{last}") }
                ),
                "ports go from 1 to 65535, and ranges from the lower to the higher",
            ),
        },
        Numbers::Neither => section.findings.error(
            &value.span(),
            "`port` is neither a port nor a range",
            "write port = 25, port = \"8000-8080\", or a list of both: port = [25, \"8000-8080\"]",
        ),
    }
    None
}

/// What a value says about a range of numbers.
pub(super) enum Numbers {
    /// From the first to the last.
    Range(u64, u64),
    /// Text of another kind.
    Neither,
    /// Neither number nor text.
    WrongType,
}

/// A number, or a text such as "200-399".
pub(super) fn numbers(value: &DeValue<'_>) -> Numbers {
    let range = match value {
        DeValue::Integer(integer) => {
            let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
            number.map(|number| (number, number))
        }
        DeValue::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            first.trim().parse().ok().zip(last.trim().parse().ok())
        }
        _ => return Numbers::WrongType,
    };
    range.map_or(Numbers::Neither, |(first, last)| Numbers::Range(first, last))
}
