//! Pure: from what groups of uplinks want to the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    slots::slots,
    text::{Chain, Flowtable, TO_FAST, Table},
};
use crate::{
    config::{ForceConfig, Nat, Protocol},
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

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `ip` or `ip6`.
    fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn nfproto(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    fn has(self, prefix: &IpNet) -> bool {
        matches!((self, prefix), (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_)))
    }

    /// The uplink's own address of this family; nothing in the inner option where it is not known.
    fn path(self, uplink: &Uplink) -> Option<Option<IpAddr>> {
        match self {
            Self::V4 => uplink.ipv4,
            Self::V6 => uplink.ipv6,
        }
        .map(|path| path.source)
    }
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

    /// Nearly every packet belongs to a connection that has its mark: it is looked up once, and first.
    fn arriving(&self) -> Chain {
        let mut chain = self.chain(
            "arriving",
            "what has a mark keeps it, also what belongs to it, such as errors and FTP's transfers; only the first packet\n\
             of a connection gets one.",
        );
        chain.rules.push(self.known.clone());
        chain.rules.push("ct state established,related,untracked return".into());
        chain.rules.extend(self.lan_side().map(|lan_side| format!("{lan_side} goto outbound_{}", self.n)));
        chain.rules.push(format!("ct state new iifname {} goto inbound_{}", self.interfaces, self.n));
        chain
    }

    fn inbound(&self) -> Chain {
        let mut chain = self.chain("inbound", "a connection from outside is answered by the uplink that it came by.");
        chain.rules.push("ip6 saddr fe80::/10 return".into());
        chain.rules.extend(self.excluded("saddr"));
        chain.rules.extend(Family::BOTH.into_iter().filter_map(|family| self.only_routes("saddr", family)));
        for uplink in &self.desired.uplinks {
            chain.rules.push(format!("{} goto {}", self.comes_by(uplink), self.chain_of("take", uplink)));
        }
        chain
    }

    fn outbound(&self) -> Chain {
        let mut chain = self.chain(
            "outbound",
            "a connection from the LAN, where its way leads to an uplink and not to another network of ours. A mark that\n\
             somebody else's rule has given it is a choice.",
        );
        chain.rules.extend(self.excluded("daddr"));
        // A destination without any route may have one in an uplink's table.
        chain.rules.push(format!("fib daddr oif exists fib daddr oifname != {} return", self.interfaces));
        if self.translates() {
            chain.rules.push(format!("ct state invalid meta nfproto ipv4 goto unknown_{}", self.n));
            chain
                .rules
                .push(format!("meta nfproto ipv4 tcp flags & (fin | syn | rst | ack) != syn goto unknown_{}", self.n));
        }
        chain.rules.push("ct state != new return".into());
        chain.rules.push(format!("meta mark {} vmap {}", self.mask, self.verdicts("take")));
        chain.rules.push(format!("goto spread_{}", self.n));
        chain
    }

    /// Whether sources of IPv4 are translated by any of the uplinks.
    fn translates(&self) -> bool {
        let translated = |uplink: &Uplink| match uplink.nat {
            Nat::None | Nat::Source(IpAddr::V6(_)) => false,
            Nat::Masquerade | Nat::Source(IpAddr::V4(_)) => true,
        };
        !self.routes(Family::V4).is_empty() && self.desired.uplinks.iter().any(translated)
    }

    /// Nobody knows which address such a connection had outside. What the router's own connections send is left alone: they
    /// may be older than conntrack, and the administrator's.
    fn unknown(&self) -> Chain {
        let mut chain = self.chain(
            "unknown",
            "the middle of a connection that conntrack does not know, such as one of a dead uplink: whoever uses it learns\n\
             at once that it is over, and no private source leaves.",
        );
        chain.rules.extend(self.only_routes("daddr", Family::V4));
        chain.rules.push("fib daddr type != unicast return".into());
        let sources = self.sources(Family::V4);
        if !sources.is_empty() {
            // Overlapping prefixes are no set to nft.
            let prefixes = IpNet::aggregate(&sources.into_iter().map(|(source, _)| source).collect::<Vec<_>>());
            chain.rules.push(format!("ip saddr {} return", set(prefixes.iter().map(ToString::to_string))));
        }
        // Where conntrack takes the middle of a connection for a new one, what it calls invalid belongs to a connection that
        // lives, but does not fit its window: a reset would end it.
        let reset = if self.desired.tcp_loose { "ct state new " } else { "" };
        chain.rules.push(format!("{reset}meta l4proto tcp reject with tcp reset"));
        chain.rules.push("drop".into());
        chain
    }

    fn forwarded(&self) -> Chain {
        let mut chain = self.chain("forwarded", "what has its uplink.");
        chain.rules.push(format!("ct mark {} == 0 goto adopt_{}", self.mask, self.n));
        if !self.desired.fast_path.is_empty() {
            chain.rules.push(TO_FAST.to_owned());
        }
        chain
    }

    fn adopt(&self) -> Chain {
        let mut chain =
            self.chain("adopt", "a connection from before these rules belongs to the uplink that its answers come by.");
        chain.rules.push("ct direction original return".into());
        chain.rules.extend(self.excluded("saddr"));
        for uplink in &self.desired.uplinks {
            let comes_by = self.comes_by(uplink);
            chain.rules.push(format!("ct state established {comes_by} goto {}", self.chain_of("take", uplink)));
        }
        chain
    }

    fn own(&self) -> Chain {
        let mut chain = self.chain(
            "own",
            "a packet that carries a mark has been sent to one uplink on purpose, as probes are; its connection gets none.",
        );
        chain.rules.push("ct state invalid,untracked return".into());
        chain.rules.push(format!("meta mark {} != 0 return", self.mask));
        chain.rules.push(self.known.clone());
        chain.rules.push("ct state != new return".into());
        chain.rules.push(format!("oifname != {} return", self.interfaces));
        chain.rules.extend(self.excluded("daddr"));
        chain.rules.push(format!("goto spread_{}", self.n));
        chain
    }

    fn spread(&self) -> Chain {
        let mut chain = self.chain("spread", "a new connection to an address that is not this router's own.");
        chain.rules.push("fib daddr type != unicast return".into());
        chain.rules.push("ip6 daddr fe80::/10 return".into());
        let families = Family::BOTH.into_iter().filter(|family| !self.routes(*family).is_empty());
        let verdicts = set(families.map(|f| format!("{} : goto choose{}_{}", f.nfproto(), f.digit(), self.n)));
        chain.rules.push(format!("meta nfproto vmap {verdicts}"));
        chain
    }

    /// Sources that belong to an uplink, then what is forced, then the rest.
    fn choose(&self, family: Family) -> Chain {
        let mut chain = self.chain(
            &format!("choose{}", family.digit()),
            "sources that leave untranslated belong to their uplink; then what is forced, the first that matches.",
        );
        chain.rules.extend(self.only_routes("daddr", family));
        for (source, uplink) in self.sources(family) {
            let source = if source.prefix_len() == source.max_prefix_len() {
                source.addr().to_string()
            } else {
                source.to_string()
            };
            chain.rules.push(format!("{} saddr {source} goto {}", family.word(), self.chain_of("take", uplink)));
        }
        let pick = format!("pick{}_{}", family.digit(), self.n);
        for (force, uplink) in self.forced() {
            let Some(matches) = force_matches(force, family) else { continue };
            if uplink.usable && family.path(uplink).is_some() {
                chain.rules.push(format!("{matches}goto {}", self.chain_of("take", uplink)));
            } else if force.or_others {
                chain.rules.push(format!("{matches}goto {pick}"));
            } else {
                chain.rules.extend(rejects(force, &matches));
            }
        }
        chain.rules.push(format!("goto {pick}"));
        chain
    }

    /// Sources that belong to an uplink, the longest prefix first: what the provider routes to us, and our own address
    /// there unless it is translated. Where it is, a connection that has none chosen yet cannot be told from one that has.
    fn sources(&self, family: Family) -> Vec<(IpNet, &Uplink)> {
        let mut sources = Vec::new();
        for uplink in &self.desired.uplinks {
            sources.extend(uplink.prefixes.iter().filter(|p| family.has(p)).map(|prefix| (prefix.trunc(), uplink)));
            if family == Family::V6 || uplink.nat == Nat::None {
                sources.extend(family.path(uplink).flatten().map(|own| (IpNet::from(own), uplink)));
            }
        }
        sources.sort_by_key(|(source, uplink)| (std::cmp::Reverse(source.prefix_len()), *source, uplink.number));
        sources.dedup_by_key(|(source, _)| *source);
        sources
    }

    fn pick(&self, family: Family) -> Chain {
        let mut chain = self.chain(&format!("pick{}", family.digit()), "everything else, by weight.");
        let usable = self.desired.uplinks.iter().filter(|uplink| family.path(uplink).is_some());
        let slots = slots(&usable.map(|uplink| (uplink.number, uplink.weight)).collect::<Vec<_>>());
        let take = |number: u32| format!("goto take_{}_{number}", self.n);
        match &slots[..] {
            [] => {}
            [only] => chain.rules.push(take(*only)),
            slots => {
                chain.rules.push(format!("numgen inc mod {} vmap {{", slots.len()));
                let runs = runs(slots).into_iter().map(|(first, last, number)| {
                    let slots = if first == last { first.to_string() } else { format!("{first}-{last}") };
                    format!("{slots} : {}", take(number))
                });
                let runs: Vec<String> = runs.collect();
                chain.rules.extend(runs.chunks(5).map(|line| format!("    {},", line.join(", "))));
                chain.rules.push("}".into());
            }
        }
        chain
    }

    fn departing(&self) -> Chain {
        let mut chain = self.chain(
            "departing",
            "a more specific route than the default one may lead to the network of another uplink than the picked one:\n\
             then that one has the connection.",
        );
        let late = format!("goto late_{}", self.n);
        let first = format!("ct mark {} == 0 meta mark {} == 0 fib daddr type unicast", self.mask, self.mask);
        chain.rules.extend(self.lan_side().map(|lan_side| format!("{first} {lan_side} {late}")));
        chain.rules.push(format!("{first} fib saddr type local {late}"));
        chain.rules.push(format!("ct mark {} == 0 return", self.mask));
        chain.rules.push(format!("iifname {} return", self.interfaces));
        let mut seen = BTreeSet::new();
        for uplink in self.desired.uplinks.iter().filter(|uplink| seen.insert(&uplink.interface)) {
            let marks = std::iter::once(uplink).chain(self.sharers(uplink)).map(|uplink| self.mark(uplink));
            chain.rules.push(format!(
                "oifname {} ct mark {} != {} goto {}",
                quoted(&uplink.interface),
                self.mask,
                set(marks),
                self.chain_of("take", uplink)
            ));
        }
        chain
    }

    /// A packet sees one generation of a chain's rules to its end, but of a set that they ask the newest: while rules are
    /// written, the elements that it is looked for may be gone already (`nft_genmask_cur` in `net/netfilter/nf_tables_api.c`).
    /// Such a connection would have no uplink, and its private source would leave.
    fn late(&self) -> Chain {
        let mut chain = self.chain(
            "late",
            "a connection that began while these rules were being written, and got no uplink: it has the one that it leaves\n\
             by, as if it had been picked.",
        );
        chain.rules.push("ip6 daddr fe80::/10 return".into());
        chain.rules.extend(self.excluded("daddr"));
        chain.rules.extend(Family::BOTH.into_iter().filter_map(|family| self.only_routes("daddr", family)));
        // It is begun again by whoever waits for an answer, and then goes where it is forced to.
        for (force, uplink) in self.forced().filter(|(force, _)| !force.or_others) {
            // What names neither addresses nor ICMP matches both families alike.
            let matches: BTreeSet<_> =
                Family::BOTH.into_iter().filter_map(|family| force_matches(force, family)).collect();
            for matches in matches {
                chain.rules.push(format!("{matches}oifname != {} drop", quoted(&uplink.interface)));
            }
        }
        for uplink in &self.desired.uplinks {
            let verdict = match self.sharers(uplink).next() {
                None => format!("goto {}", self.chain_of("take", uplink)),
                // Only its mark tells to which provider's router a connection goes.
                Some(_) => "drop".to_owned(),
            };
            chain.rules.push(format!("oifname {} {verdict}", quoted(&uplink.interface)));
        }
        chain
    }

    fn translate(&self) -> Chain {
        let mut chain = self.chain(
            "translate",
            "to the uplink's own address, unless the source is one that its interface has or its provider routes to us.\n\
             IPv6 is never translated.",
        );
        let prefixes = self.desired.uplinks.iter().flat_map(|uplink| &uplink.prefixes);
        let prefixes: Vec<String> = prefixes.filter(|p| Family::V4.has(p)).map(|p| p.trunc().to_string()).collect();
        if !prefixes.is_empty() {
            chain.rules.push(format!("ip saddr {} return", set(prefixes)));
        }
        for uplink in &self.desired.uplinks {
            let leaves = format!(
                "meta nfproto ipv4 oifname {} meta mark {} == {}",
                quoted(&uplink.interface),
                self.mask,
                self.mark(uplink)
            );
            match uplink.nat {
                Nat::None | Nat::Source(IpAddr::V6(_)) => {}
                Nat::Source(IpAddr::V4(to)) => {
                    chain.rules.push(format!("{leaves} ip saddr != {to} snat ip to {to}"));
                }
                Nat::Masquerade => {
                    let others = self.sharers(uplink).filter_map(|other| Family::V4.path(other).flatten());
                    let others: Vec<String> = others.map(|address| address.to_string()).collect();
                    // The kernel forgets what it masquerades as soon as the address is gone, also where a renewal adds it again at
                    // once; what is translated to a named address it leaves to us. Point to point, where addresses change most,
                    // it forgets nothing (`masq_inet_event` in net/netfilter/nf_nat_masquerade.c).
                    let point_to_point = uplink.ipv4.is_some_and(|path| path.gateway.is_none());
                    // On a shared interface its first address may be another uplink's.
                    let named = !point_to_point || self.sharers(uplink).next().is_some();
                    let own = Family::V4.path(uplink).flatten().filter(|_| named);
                    let translate = own.map_or_else(|| "masquerade".to_owned(), |own| format!("snat ip to {own}"));
                    if !others.is_empty() {
                        chain.rules.push(format!("{leaves} ip saddr {} {translate}", set(others)));
                    }
                    chain.rules.push(format!("{leaves} fib saddr . oif type local return"));
                    chain.rules.push(format!("{leaves} {translate}"));
                }
            }
        }
        chain
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

/// Whoever cannot have the only uplink that it may use learns it at once. Established TCP would wait on in spite of an ICMP
/// error, so it is reset; and datagram sockets only hear of errors that are final, which "host unreachable" is not.
fn rejects(force: &ForceConfig, matches: &str) -> Vec<String> {
    let others = format!("{matches}reject with icmpx admin-prohibited");
    match force.protocol {
        Some(Protocol::Tcp) => vec![format!("{matches}reject with tcp reset")],
        Some(Protocol::Udp | Protocol::Icmp) => vec![others],
        None => vec![format!("{matches}meta l4proto tcp reject with tcp reset"), others],
    }
}

/// What a rule must match, with a space behind it; nothing where no packet of the family does.
fn force_matches(force: &ForceConfig, family: Family) -> Option<String> {
    let mut matches = String::new();
    for (side, prefix) in [("saddr", force.source), ("daddr", force.destination)] {
        if let Some(prefix) = prefix {
            if !family.has(&prefix) {
                return None;
            }
            matches += &format!("{} {side} {} ", family.word(), prefix.trunc());
        }
    }
    // A range of one port is none to nft.
    let ports = force.ports.as_ref().map(|ports| match (ports.start(), ports.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    matches += &match (force.protocol, family, ports) {
        (Some(Protocol::Tcp), _, Some(ports)) => format!("tcp dport {ports} "),
        (Some(Protocol::Udp), _, Some(ports)) => format!("udp dport {ports} "),
        (Some(Protocol::Tcp), ..) => "meta l4proto tcp ".to_owned(),
        (Some(Protocol::Udp), ..) => "meta l4proto udp ".to_owned(),
        (Some(Protocol::Icmp), Family::V4, _) => "meta l4proto icmp ".to_owned(),
        (Some(Protocol::Icmp), Family::V6, _) => "meta l4proto ipv6-icmp ".to_owned(),
        (None, ..) => String::new(),
    };
    Some(matches)
}

/// Equal neighbours put together: first and last index, and value.
fn runs(slots: &[u32]) -> Vec<(usize, usize, u32)> {
    let mut runs: Vec<(usize, usize, u32)> = Vec::new();
    for (at, number) in slots.iter().enumerate() {
        match runs.last_mut() {
            Some((_, last, same)) if same == number => *last = at,
            _ => runs.push((at, at, *number)),
        }
    }
    runs
}
