//! `[[uplinks]]` and `[[uplinks.link]]` as they stand in the file, each value checked by itself, with its place.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use toml::{Spanned, de::DeValue};

use super::{
    FailbackConnections, ForceConfig, Nat, RULE_PRIORITIES, UplinkConfig, UplinksConfig,
    force::{self, Force},
    probe::{self, Probe},
};
use crate::{
    config::{
        group::{self, DAY, values},
        meant,
        reference::{Key, Otherwise, Schema, Takes, words},
        section::Section,
    },
    event::Failback,
    route::MAIN_RULE_PRIORITY,
};

const DEFAULT_ROUTE: &str = "0.0.0.0/0";
const DEFAULT_FWMARK: u32 = 0xff00;
const DEFAULT_RULE_PRIORITY: u32 = 20_000;
const DEFAULT_TABLE_BASE: u32 = 7000;
/// Our rules stand before the one of the main table.
pub(super) const MAX_RULE_PRIORITY: u32 = MAIN_RULE_PRIORITY - RULE_PRIORITIES;
/// Most uplinks of a group: each has a rule for its mark, and some for its addresses, among the group's priorities.
pub(super) const MAX_UPLINKS: usize = 255;

const MOVES: [(&str, FailbackConnections); 2] =
    [("stay", FailbackConnections::Stay), ("move", FailbackConnections::Move)];
const DEFAULT_STICKY: bool = true;
const DEFAULT_FLOWTABLE: bool = false;
const DEFAULT_MASQUERADE: bool = true;
/// `rise` good rounds are a hold time already.
const DEFAULT_HOLD_UP: Duration = Duration::ZERO;
const DEFAULT_TIER: u32 = 1;

/// `[[uplinks]]`.
pub(in crate::config) static UPLINKS: Schema = Schema::new(
    "[[uplinks]]",
    "Several ways to the internet, of which each is probed by itself.",
    &[
        Key::new("name", group::NAME, Otherwise::Demanded, "unique among all groups"),
        Key::new(
            "routes",
            Takes::List("prefixes"),
            Otherwise::Words("`[\"0.0.0.0/0\"]`"),
            "what goes through the uplinks; add `::/0` where they have IPv6",
        ),
        Key::new(
            "lan",
            Takes::List("interfaces"),
            Otherwise::Words("none, with a warning"),
            "whose new connections are spread; `[]`: only this machine's own",
        ),
        Key::new(
            "sticky",
            Takes::Flag,
            Otherwise::Flag(DEFAULT_STICKY),
            "a connection stays on its uplink; replies leave where requests came in",
        ),
        Key::new(
            "flowtable",
            Takes::Flag,
            Otherwise::Flag(DEFAULT_FLOWTABLE),
            "established TCP and UDP that is forwarded takes the kernel's fast path, past most rules of any firewall",
        ),
        Key::new(
            "masquerade",
            Takes::Flag,
            Otherwise::Flag(DEFAULT_MASQUERADE),
            "what `nat` of a link is unless it says otherwise",
        ),
        Key::new(
            "fwmark",
            Takes::Text("mask of neighbouring bits"),
            Otherwise::Text("0xff00"),
            "the bits of the packet mark that are ours; eight of them hold 255 uplinks",
        ),
        Key::new(
            "rule-priority",
            Takes::Number(1..=MAX_RULE_PRIORITY),
            Otherwise::Number(DEFAULT_RULE_PRIORITY),
            "the first of 1000 policy rules",
        ),
        Key::new(
            "table-base",
            Takes::Number(1..=u32::MAX - MAX_UPLINKS as u32),
            Otherwise::Number(DEFAULT_TABLE_BASE),
            "the table that spreads; each link has one of its own behind it",
        ),
        group::FAILBACK,
        Key::new(
            "failback-connections",
            Takes::Words(&words(&MOVES)),
            Otherwise::Text("stay"),
            "what connections on the worse tier do when a better one takes over",
        ),
        Key::new(
            "hold-up",
            Takes::Duration(Duration::ZERO..=DAY),
            Otherwise::Duration(DEFAULT_HOLD_UP),
            "how long an uplink must stay good, beyond `rise`, before it is usable again",
        ),
        group::DAMPENING,
        Key::section("probe", "[uplinks.probe]", "how every uplink is probed"),
        Key::section("force", "[[uplinks.force]]", "connections that shall use one uplink"),
        Key::section("link", "[[uplinks.link]]", "the uplinks, 1 to 255"),
    ],
);
/// `[[uplinks.link]]`.
pub(in crate::config) static LINK: Schema = Schema::new(
    "[[uplinks.link]]",
    "One uplink: an interface, and the provider's router behind it.",
    &[
        Key::new("name", group::NAME, Otherwise::Demanded, "unique in the group; not `auto`"),
        Key::new("interface", group::INTERFACE, Otherwise::Demanded, "where it leaves"),
        Key::new(
            "gateway",
            Takes::Text("address, or list of one of each family"),
            Otherwise::Words("learned (PPP, DHCP, router advertisement)"),
            "the provider's router",
        ),
        Key::new(
            "local",
            Takes::Text("address, or list of one of each family"),
            Otherwise::Words("the interface's own"),
            "this router's address there",
        ),
        Key::new(
            "prefixes",
            Takes::List("prefixes"),
            Otherwise::Words("none"),
            "what the provider routes to us: sources in them leave by this uplink, untranslated",
        ),
        Key::new(
            "nat",
            Takes::Text("\"none\", \"masquerade\", or an IPv4 address"),
            Otherwise::Words("by `masquerade`"),
            "what becomes of sources; IPv6 is never translated",
        ),
        Key::new(
            "tier",
            Takes::Number(0..=group::MAX_TIER),
            Otherwise::Number(DEFAULT_TIER),
            "the lowest tier that has a usable link carries new connections; 0: only what is forced to it and what comes in by it",
        ),
        Key::new(
            "weight",
            Takes::Number(group::WEIGHT),
            Otherwise::Number(group::DEFAULT_WEIGHT),
            "share of new connections among the active links of a tier",
        ),
        Key::section("probe", "[uplinks.link.probe]", "keys of its own probe"),
    ],
);

/// `[[uplinks]]` with the places of what is compared with other values; of what is left out, that of the section.
pub(in crate::config) struct Uplinks<'a> {
    pub(in crate::config) name: Option<Spanned<String>>,
    pub(super) routes: Vec<Spanned<IpNet>>,
    pub(super) lan: Vec<Spanned<String>>,
    sticky: bool,
    flowtable: bool,
    pub(super) fwmark: Spanned<u32>,
    pub(in crate::config) rule_priority: Spanned<u32>,
    pub(in crate::config) table_base: Spanned<u32>,
    failback: Failback,
    failback_connections: FailbackConnections,
    hold_up: Duration,
    dampening: bool,
    pub(super) force: Vec<Force>,
    pub(super) probe: Option<Probe<'a>>,
    pub(in crate::config) links: Vec<Uplink<'a>>,
}

/// `[[uplinks.link]]`, likewise.
pub(in crate::config) struct Uplink<'a> {
    pub(in crate::config) section: Section<'a>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) interface: Option<Spanned<String>>,
    pub(super) gateways: Vec<Spanned<IpAddr>>,
    pub(super) locals: Vec<Spanned<IpAddr>>,
    pub(super) prefixes: Vec<Spanned<IpNet>>,
    nat: Nat,
    pub(super) tier: u32,
    weight: u32,
    pub(super) probe: Option<Probe<'a>>,
}

impl<'a> Uplinks<'a> {
    pub(in crate::config) fn read(section: Section<'a>) -> Self {
        let name = group::name(&section, "wan");
        let masquerade = section.boolean("masquerade").unwrap_or(DEFAULT_MASQUERADE);
        let probe = section.section("probe", &probe::SCHEMA).map(|section| Probe::read(section, None));
        let links: Vec<_> = section
            .sections("link", &LINK)
            .into_iter()
            .map(|section| Uplink::read(section, masquerade, probe.as_ref()))
            .collect();
        if section.get("link").is_none() && !section.excused("link") {
            section.findings.error(
                &section.span(),
                "[[uplinks]] has no link",
                "add a section [[uplinks.link]] with name and interface",
            );
        }
        if section.get("lan").is_none() && !section.excused("lan") {
            section.findings.warning(
                &section.span(),
                "these uplinks have no `lan`: only this machine's own connections are spread",
                "name the interfaces that others come in by, such as lan = [\"eth0\"]; lan = [] if there are none",
            );
        }
        let mut lan = section.strings("lan", "[\"eth0\"]");
        lan.retain(|interface| is_interface(&section, interface));
        Self {
            name,
            routes: routes(&section),
            lan,
            sticky: section.boolean("sticky").unwrap_or(DEFAULT_STICKY),
            flowtable: section.boolean("flowtable").unwrap_or(DEFAULT_FLOWTABLE),
            fwmark: fwmark(&section),
            rule_priority: or_default(&section, "rule-priority", DEFAULT_RULE_PRIORITY),
            table_base: or_default(&section, "table-base", DEFAULT_TABLE_BASE),
            failback: group::failback(&section),
            failback_connections: section.choice("failback-connections", &MOVES).unwrap_or(FailbackConnections::Stay),
            hold_up: section.duration("hold-up", "10s").unwrap_or(DEFAULT_HOLD_UP),
            dampening: section.boolean("dampening").unwrap_or(group::DEFAULT_DAMPENING),
            force: section.sections("force", &force::SCHEMA).into_iter().map(Force::read).collect(),
            probe,
            links,
        }
    }

    /// What the daemon runs; nothing where something is missing, which was reported then.
    pub(in crate::config) fn build(self) -> Option<UplinksConfig> {
        let force: Option<Vec<Vec<ForceConfig>>> = self.force.into_iter().map(Force::build).collect();
        let links = self.links.into_iter().map(|link| {
            let probe = probe::resolve(self.probe.as_ref(), link.probe.as_ref(), &link.section, link.gateways.len());
            link.build(probe?)
        });
        // All of them are looked at, so that each says what is wrong with it.
        let links: Vec<Option<UplinkConfig>> = links.collect();
        Some(UplinksConfig {
            name: self.name?.into_inner(),
            routes: values(self.routes),
            lan: values(self.lan),
            sticky: self.sticky,
            flowtable: self.flowtable,
            fwmark_mask: self.fwmark.into_inner(),
            rule_priority: self.rule_priority.into_inner(),
            table_base: self.table_base.into_inner(),
            failback: self.failback,
            failback_connections: self.failback_connections,
            hold_up: self.hold_up,
            dampening: self.dampening,
            force: force?.into_iter().flatten().collect(),
            links: links.into_iter().collect::<Option<_>>()?,
        })
    }
}

impl<'a> Uplink<'a> {
    /// Whether IPv4 sources become its own on their way out.
    pub(super) fn translates(&self) -> bool {
        self.nat != Nat::None
    }

    pub(super) const fn interface(&self) -> Option<&Spanned<String>> {
        self.interface.as_ref()
    }

    fn read(section: Section<'a>, masquerade: bool, group_probe: Option<&Probe<'a>>) -> Self {
        let name = group::link_name(&section, "provider1");
        let interface = section.string("interface", "\"eth1\"").filter(|interface| is_interface(&section, interface));
        if section.get("interface").is_none() {
            section.missing("interface", "\"eth1\"");
        }
        let weight = match section.get("weight").map(Spanned::get_ref) {
            Some(DeValue::Integer(integer)) if integer.as_str() == "0" => {
                section.findings.error(
                    &section.get("weight").map_or(section.span(), Spanned::span),
                    "`weight` is out of range: 0",
                    "it goes from 1 to 256; tier = 0 keeps an uplink for what is forced to it and for what comes in by it",
                );
                None
            }
            _ => section.integer("weight"),
        };
        Self {
            name,
            interface,
            gateways: one_per_family(&section, "gateway", "192.0.2.1"),
            locals: one_per_family(&section, "local", "192.0.2.2"),
            prefixes: section.prefixes("prefixes"),
            nat: nat(&section).unwrap_or(if masquerade { Nat::Masquerade } else { Nat::None }),
            tier: section.integer("tier").map_or(DEFAULT_TIER, Spanned::into_inner),
            weight: weight.map_or(group::DEFAULT_WEIGHT, Spanned::into_inner),
            probe: section.section("probe", &probe::LINK_PROBE).map(|section| Probe::read(section, group_probe)),
            section,
        }
    }

    fn build(self, probe: super::ProbeConfig) -> Option<UplinkConfig> {
        Some(UplinkConfig {
            name: self.name?.into_inner(),
            interface: self.interface?.into_inner(),
            gateways: values(self.gateways),
            locals: values(self.locals),
            prefixes: values(self.prefixes),
            nat: self.nat,
            tier: self.tier,
            weight: self.weight,
            probe,
        })
    }
}

fn routes(section: &Section<'_>) -> Vec<Spanned<IpNet>> {
    if section.get("routes").is_none() {
        // The text is a prefix.
        return DEFAULT_ROUTE.parse().map(|route| Spanned::new(section.span(), route)).into_iter().collect();
    }
    if section.is_empty("routes") {
        section.findings.error(
            &section.get("routes").map_or(section.span(), Spanned::span),
            "`routes` is empty: nothing would go through these uplinks",
            "write routes = [\"0.0.0.0/0\"] for the internet, with \"::/0\" as well where the uplinks have IPv6",
        );
    }
    section.prefixes("routes")
}

/// A number that has a default: the default stands where the section begins.
fn or_default(section: &Section<'_>, key: &str, default: u32) -> Spanned<u32> {
    section.integer(key).unwrap_or_else(|| Spanned::new(section.span(), default))
}

/// A mask of bits without a gap, in quotes or not.
fn fwmark(section: &Section<'_>) -> Spanned<u32> {
    let default = Spanned::new(section.span(), DEFAULT_FWMARK);
    let Some(value) = section.get("fwmark") else { return default };
    let mask = match value.get_ref() {
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix()).ok(),
        DeValue::String(text) => match text.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
        _ => {
            section.wrong_type("fwmark", value, "a mask", "\"0xff00\"");
            return default;
        }
    };
    let mask = mask.and_then(|mask| u32::try_from(mask).ok());
    // Without a gap: the ones of the mask, moved down to bit 0, are one less than a power of two.
    match mask {
        Some(mask)
            if mask != 0
                && (mask >> mask.trailing_zeros()) & ((mask >> mask.trailing_zeros()).wrapping_add(1)) == 0 =>
        {
            Spanned::new(value.span(), mask)
        }
        _ => {
            section.findings.error(
                &value.span(),
                "`fwmark` is not a mask of neighbouring bits",
                "write the bits of the packet mark that are ours, such as \"0xff00\" for eight of them: up to 255 uplinks",
            );
            default
        }
    }
}

fn nat(section: &Section<'_>) -> Option<Nat> {
    let text = section.string("nat", "\"masquerade\"")?;
    match text.get_ref().as_str() {
        "none" => return Some(Nat::None),
        "masquerade" => return Some(Nat::Masquerade),
        _ => {}
    }
    if let Some(word) = meant::choice(text.get_ref(), &["none", "masquerade"]) {
        section.findings.error(
            &text.span(),
            format!("`nat` cannot be \"{}\"", text.get_ref()),
            format!("did you mean \"{word}\"? It is none, masquerade or an address"),
        );
        return None;
    }
    let address = section.checked_address("nat", text, "192.0.2.2")?;
    if address.get_ref().is_ipv6() {
        section.findings.error(
            &address.span(),
            "`nat` is an IPv6 address: IPv6 is never translated",
            "give the uplink its own IPv6 addresses with `prefixes`",
        );
        return None;
    }
    Some(Nat::Source(address.into_inner()))
}

/// Addresses of which there is at most one of each family.
fn one_per_family(section: &Section<'_>, key: &str, example: &str) -> Vec<Spanned<IpAddr>> {
    let mut kept: Vec<Spanned<IpAddr>> = Vec::new();
    for address in section.addresses(key, example) {
        let family = if address.get_ref().is_ipv4() { "IPv4" } else { "IPv6" };
        match kept.iter().find(|other| other.get_ref().is_ipv4() == address.get_ref().is_ipv4()) {
            Some(first) => section.findings.error(
                &address.span(),
                format!("`{key}` has two {family} addresses: {} and {}", first.get_ref(), address.get_ref()),
                "an uplink has one of each family; another provider's router is another [[uplinks.link]]",
            ),
            None => kept.push(address),
        }
    }
    kept
}

/// Whether this can be the name of an interface in a ruleset as well; if not, that is reported.
fn is_interface(section: &Section<'_>, name: &Spanned<String>) -> bool {
    if !section.is_interface(name) {
        return false;
    }
    // A text of nft(8) has no way to write a quote, and takes a star at the end for any characters.
    if name.get_ref().contains(['"', '*', '\\']) {
        section.findings.error(
            &name.span(),
            format!("\"{}\" cannot be an interface of uplinks: nftables has no way to write it", name.get_ref()),
            "name one interface, without quote, star or backslash",
        );
        return false;
    }
    true
}
