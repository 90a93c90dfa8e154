//! Pure: from what groups of uplinks want to the table. Here is what all chains need; the chains follow a packet's way:
//! [`arrive`], [`choose`], [`depart`].

mod arrive;
mod choose;
mod depart;
mod family;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use self::family::Family;
use super::text::{Chain, Flowtable, Table};
use crate::{
    config::ForceConfig,
    event::LinkId,
    uplink::{Desired, Uplink},
};

/// Between conntrack (-200), which tells connections apart, and translation of destinations (dstnat, -100), before which
/// both the address that a visitor called and the interface are those of the uplink; and before routing.
const PREROUTING: &str = "type filter hook prerouting priority mangle";
/// The interface is known, and the packet is somebody else's.
const FORWARD: &str = "type filter hook forward priority mangle";
/// A chain of type route: the packet is routed again when its mark changes here. After conntrack (-200).
const OUTPUT: &str = "type route hook output priority mangle";
/// Just before sources are translated (srcnat, 100), which wants to know the uplink. Chains of type nat only see the first
/// packet of each connection: the others do without (`nf_nat_inet_fn` in net/netfilter/nf_nat_core.c).
const POSTROUTING: &str = "type nat hook postrouting priority srcnat - 1";
/// Sources are translated last, once for each connection.
const SRCNAT: &str = "type nat hook postrouting priority srcnat";

/// Octets of somebody's name in a comment.
const NAME_LEN_MAX: usize = 64;

/// The name of an instance's table.
pub(super) fn table_name(instance: Option<&str>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    instance.map_or_else(
        || "link_watcher".to_owned(),
        |instance| format!("link_watcher_{}", instance.chars().map(plain).collect::<String>()),
    )
}

/// The counters of answers, and whose they are.
pub(super) fn counters(groups: &[Desired]) -> Vec<(String, LinkId)> {
    let of_group = |group: &Desired| {
        group.uplinks.iter().map(|uplink| (chain_of("answers", group, uplink), uplink.link)).collect()
    };
    groups.iter().flat_map::<Vec<_>, _>(of_group).collect()
}

/// The table of all groups.
pub(super) fn table(groups: &[Desired], instance: Option<&str>) -> Table {
    let mut bases = [
        ("prerouting", PREROUTING, "arriving", "Before routing, after conntrack, before destinations are translated."),
        ("forward", FORWARD, "forwarded", "What is forwarded."),
        ("output", OUTPUT, "own", "What this router sends itself: routed again where the mark changes."),
        (
            "postrouting",
            POSTROUTING,
            "departing",
            "Behind routing, before sources are translated: the first packet of a connection.",
        ),
        ("srcnat", SRCNAT, "translate", "Sources are translated: the first packet of a connection decides."),
    ]
    .map(|(name, hook, part, note)| {
        let rules = groups.iter().map(|group| format!("jump {part}_{}", number(group))).collect();
        Chain { hook: Some(hook), rules, ..Chain::new(name, note) }
    })
    .to_vec();
    let mut counters = Vec::new();
    for group in groups {
        for uplink in &group.uplinks {
            let note = format!("{}: what came in by it in answer to connections that use it", title(group, uplink));
            counters.push((chain_of("answers", group, uplink), note));
        }
        bases.extend(Group::new(group).chains());
    }
    Table {
        name: table_name(instance),
        note: "link-watcher: which uplink each connection uses. Only the bits of the marks below are ever changed."
            .into(),
        flowtable: flowtable(groups),
        counters,
        chains: bases,
    }
}

/// The fast path of all groups: an interface can be in one flowtable of a table only. Nothing where none of them exists.
fn flowtable(groups: &[Desired]) -> Option<Flowtable> {
    let interfaces = groups.iter().flat_map(|group| &group.fast_path);
    let interfaces: BTreeMap<String, u32> = interfaces.map(|(name, index)| (quoted(name), *index)).collect();
    (!interfaces.is_empty()).then_some(Flowtable { interfaces })
}

/// The number by which a group's chains are told from another's.
fn number(group: &Desired) -> u32 {
    group.group.0 + 1
}

fn chain_of(what: &str, group: &Desired, uplink: &Uplink) -> String {
    format!("{what}_{}_{}", number(group), uplink.number)
}

/// Names as comments have them: on one line.
fn title(group: &Desired, uplink: &Uplink) -> String {
    format!("{}, uplink {}", plain(&group.name), plain(&uplink.name))
}

fn plain(name: &str) -> String {
    name.chars().take(NAME_LEN_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// An interface's name in quotes; what nft would take for the end of it becomes what no interface is called.
fn quoted(interface: &str) -> String {
    format!("\"{}\"", interface.replace(['"', '\\', '*'], "/").replace(char::is_control, "/"))
}

fn set(elements: impl IntoIterator<Item = String>) -> String {
    format!("{{ {} }}", elements.into_iter().collect::<Vec<_>>().join(", "))
}

/// A group, with what all of its chains need.
struct Group<'a> {
    desired: &'a Desired,
    /// Number of its chains.
    n: u32,
    /// The interfaces of its uplinks, as a set.
    interfaces: String,
    /// `& mask`.
    mask: String,
    /// The connection's mark to the packet.
    known: String,
}

impl<'a> Group<'a> {
    fn new(desired: &'a Desired) -> Self {
        let interfaces: BTreeSet<String> = desired.uplinks.iter().map(|uplink| quoted(&uplink.interface)).collect();
        let mask = format!("& {:#010x}", desired.fwmark_mask);
        let mut group = Self { desired, n: number(desired), interfaces: set(interfaces), mask, known: String::new() };
        group.known = format!("ct mark {} vmap {}", group.mask, group.verdicts("known"));
        group
    }

    fn mark(&self, uplink: &Uplink) -> String {
        format!("{:#010x}", self.desired.mark(uplink))
    }

    fn chain_of(&self, what: &str, uplink: &Uplink) -> String {
        chain_of(what, self.desired, uplink)
    }

    /// By mark, to that uplink's chain of a kind.
    fn verdicts(&self, what: &str) -> String {
        set(self.desired.uplinks.iter().map(|u| format!("{} : goto {}", self.mark(u), self.chain_of(what, u))))
    }

    /// What comes from the LAN; nothing where there is none.
    fn lan_side(&self) -> Option<String> {
        let lan = &self.desired.lan;
        (!lan.is_empty()).then(|| format!("iifname {}", set(lan.iter().map(|interface| quoted(interface)))))
    }

    /// What is forced, with its uplink. Validation has found that; without it nothing is forced.
    fn forced(&self) -> impl Iterator<Item = (&ForceConfig, &Uplink)> {
        let uplink = |force: &ForceConfig| self.desired.uplinks.iter().find(|uplink| uplink.name == force.link);
        self.desired.force.iter().filter_map(move |force| Some((force, uplink(force)?)))
    }

    /// Other uplinks on the same interface.
    fn sharers(&self, uplink: &'a Uplink) -> impl Iterator<Item = &'a Uplink> {
        self.desired.uplinks.iter().filter(|o| o.interface == uplink.interface && o.number != uplink.number)
    }

    /// What comes in by an uplink: its interface, and its router's address where others use the interface too.
    fn comes_by(&self, uplink: &Uplink) -> String {
        let interface = quoted(&uplink.interface);
        match uplink.gateway_mac {
            Some(mac) => {
                let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
                format!("iifname {interface} ether saddr {mac}")
            }
            None => format!("iifname {interface}"),
        }
    }

    fn routes(&self, family: Family) -> Vec<&IpNet> {
        self.desired.routes.iter().filter(|prefix| family.has(prefix)).collect()
    }

    /// Rules that return for whatever is not of the group's routes; `side` is `saddr` or `daddr`.
    fn only_routes(&self, side: &str, family: Family) -> Option<String> {
        let routes = self.routes(family);
        if routes.is_empty() {
            return Some(format!("meta nfproto {} return", family.nfproto()));
        }
        // Everything is in a default route.
        let all = routes.iter().any(|prefix| prefix.prefix_len() == 0);
        (!all).then(|| {
            let routes = set(routes.iter().map(|prefix| prefix.trunc().to_string()));
            format!("{} {side} != {routes} return", family.word())
        })
    }

    /// Rules that return for what peers serve; `side` is `saddr` or `daddr`.
    fn excluded(&self, side: &str) -> Vec<String> {
        // Overlapping prefixes are no set to nft.
        let excluded = IpNet::aggregate(&self.desired.excluded);
        let of_family = |family: Family| {
            let prefixes: Vec<String> =
                excluded.iter().filter(|prefix| family.has(prefix)).map(ToString::to_string).collect();
            (!prefixes.is_empty()).then(|| format!("{} {side} {} return", family.word(), set(prefixes)))
        };
        Family::BOTH.into_iter().filter_map(of_family).collect()
    }

    fn chains(&self) -> Vec<Chain> {
        let mut chains = vec![
            self.arriving(),
            self.inbound(),
            self.outbound(),
            self.forwarded(),
            self.adopt(),
            self.own(),
            self.spread(),
        ];
        if self.translates() {
            chains.push(self.unknown());
        }
        for family in Family::BOTH.into_iter().filter(|family| !self.routes(*family).is_empty()) {
            chains.push(self.choose(family));
            chains.push(self.pick(family));
        }
        chains.push(self.departing());
        chains.push(self.late());
        chains.push(self.translate());
        for uplink in &self.desired.uplinks {
            chains.extend(self.marks(uplink));
        }
        chains
    }

    fn chain(&self, name: &str, note: &str) -> Chain {
        Chain::new(format!("{name}_{}", self.n), format!("{}: {note}", plain(&self.desired.name)))
    }

    fn marks(&self, uplink: &Uplink) -> [Chain; 2] {
        let rest = !self.desired.fwmark_mask;
        let mark = self.mark(uplink);
        let title = title(self.desired, uplink);
        let mut take = Chain::new(
            self.chain_of("take", uplink),
            format!("{title}: this packet and its connection are its own (table {}).", self.desired.table(uplink)),
        );
        let mut known = Chain::new(
            self.chain_of("known", uplink),
            format!("{title}: this packet is its own; answers to connections that use it are counted."),
        );
        let packet = format!("meta mark set meta mark & {rest:#010x} | {mark}");
        take.rules = vec![packet.clone(), format!("ct mark set ct mark & {rest:#010x} | {mark}")];
        known.rules = vec![
            packet,
            // Probes carry their mark on packets only: their answers are no evidence.
            "ct direction original return".to_owned(),
            format!("ct state established {} counter name {}", self.comes_by(uplink), self.chain_of("answers", uplink)),
        ];
        [take, known]
    }
}
