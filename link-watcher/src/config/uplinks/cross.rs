//! Checks of uplinks against each other and against peers: what is shared must not be claimed twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

use toml::Spanned;

use super::{
    RULE_PRIORITIES,
    read::{MAX_RULE_PRIORITY, MAX_UPLINKS, Uplink, Uplinks},
};
use crate::{
    address::is_link_local,
    config::{
        cross::{overlaps, overlaps_in_list, unique_names},
        diagnostic::{Findings, either, nearest},
        peer::Peer,
    },
};

/// `RT_TABLE_DEFAULT` to `RT_TABLE_LOCAL` of the kernel's `rtnetlink.h`, with `RT_TABLE_MAIN` between them.
pub(in crate::config) const KERNELS_TABLES: (u32, u32) = (253, 255);

/// Most `[[uplinks.force]]` of a group: each is a rule, or several, that a new connection goes through.
const MAX_FORCED: usize = 256;
/// Of so many groups two overlap in their rules.
const MAX_GROUPS: usize = (MAX_RULE_PRIORITY / RULE_PRIORITIES) as usize + 2;

/// Checks all groups of uplinks.
pub(in crate::config) fn check(groups: &[Uplinks<'_>], peers: &[Peer<'_>], findings: &Findings<'_>) {
    for group in groups {
        unique_names(group.links.iter().map(|link| link.name.as_ref()), "of these uplinks", findings);
        overlaps_in_list("routes", &group.routes, findings);
        families(group, findings);
        enough_marks(group, findings);
        forced(group, findings);
        own_lan(group, findings);
        somebody_chosen(group, findings);
        tables_of_others(group, peers, findings);
    }
    // More groups than there are rules for, and more uplinks than a group can have, are reported in any case: they are not
    // compared each with each as well.
    let groups = &groups[..groups.len().min(MAX_GROUPS)];
    for (i, group) in groups.iter().enumerate() {
        for earlier in &groups[..i] {
            claimed_twice(group, earlier, findings);
        }
    }
    let links: Vec<&Uplink<'_>> = groups.iter().flat_map(|group| group.links.iter().take(MAX_UPLINKS)).collect();
    told_apart(&links, findings);
    prefixes(&links, findings);
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

/// Whatever has a family of which the group routes nothing would be ignored.
fn families(group: &Uplinks<'_>, findings: &Findings<'_>) {
    if group.routes.is_empty() {
        return;
    }
    let routed = |ipv4: bool| group.routes.iter().any(|route| route.get_ref().addr().is_ipv4() == ipv4);
    let say = |span: &Range<usize>, what: String, ipv4: bool| {
        if !routed(ipv4) {
            let default = if ipv4 { "0.0.0.0/0" } else { "::/0" };
            findings.error(
                span,
                format!("{what} is {}, but `routes` of these uplinks has only {}", family(ipv4), family(!ipv4)),
                format!("add \"{default}\" to `routes`, or leave this out"),
            );
        }
    };
    for link in &group.links {
        for (key, addresses) in [("gateway", &link.gateways), ("local", &link.locals)] {
            for address in addresses {
                say(&address.span(), format!("`{key}` {}", address.get_ref()), address.get_ref().is_ipv4());
            }
        }
        for prefix in &link.prefixes {
            say(&prefix.span(), prefix.get_ref().to_string(), prefix.get_ref().addr().is_ipv4());
        }
    }
    let probes = group.links.iter().map(|link| &link.probe).chain([&group.probe]).flatten();
    for target in probes.flat_map(|probe| &probe.targets).flat_map(|targets| &targets.list) {
        say(&target.span, format!("target {}", target.at.ip()), target.at.is_ipv4());
    }
    for prefix in group.force.iter().flat_map(|force| [&force.source, &force.destination]).flatten() {
        say(&prefix.span(), prefix.get_ref().to_string(), prefix.get_ref().addr().is_ipv4());
    }
}

/// The mask must have room for the number of each uplink; the number 0 is no uplink.
fn enough_marks(group: &Uplinks<'_>, findings: &Findings<'_>) {
    let mask = *group.fwmark.get_ref();
    let most = (mask >> mask.trailing_zeros()) as usize;
    if group.links.len() > most.min(MAX_UPLINKS) {
        let bits = mask.count_ones();
        let help = if most < MAX_UPLINKS {
            format!("{bits} bits have room for {most}: give `fwmark` more of them")
        } else {
            format!("a group has at most {MAX_UPLINKS}")
        };
        findings.error(
            &group.fwmark.span(),
            format!("these are {} uplinks, too many for their marks", group.links.len()),
            help,
        );
    }
}

/// An uplink of tier 0 is for what is forced to it, and for answers: with nothing else new connections go nowhere.
fn somebody_chosen(group: &Uplinks<'_>, findings: &Findings<'_>) {
    if let Some(first) = group.links.first().filter(|_| group.links.iter().all(|link| link.tier == 0)) {
        findings.error(
            &first.section.get("tier").map_or(first.section.span(), Spanned::span),
            "all of these uplinks have tier = 0: none is ever chosen for a new connection",
            "give at least one of them tier = 1",
        );
    }
}

fn forced(group: &Uplinks<'_>, findings: &Findings<'_>) {
    let names: Vec<&str> =
        group.links.iter().filter_map(|link| link.name.as_ref()).map(|name| name.get_ref().as_str()).collect();
    let known: BTreeSet<&str> = names.iter().copied().collect();
    if let Some(excess) = group.force.get(MAX_FORCED) {
        findings.error(&excess.span, format!("there are more than {MAX_FORCED} [[uplinks.force]]"), "");
    }
    for force in &group.force {
        if let Some(link) = &force.link
            && !known.contains(link.get_ref().as_str())
            && !known.is_empty()
        {
            let help = match nearest(link.get_ref(), names.iter().copied()) {
                Some(close) => format!("did you mean \"{close}\"? There is {}", either(&names)),
                None => format!("there is {}", either(&names)),
            };
            findings.error(&link.span(), format!("there is no uplink \"{}\" in this group", link.get_ref()), help);
        }
        if let (Some(source), Some(destination)) = (&force.source, &force.destination)
            && source.get_ref().addr().is_ipv4() != destination.get_ref().addr().is_ipv4()
        {
            findings.error(
                &destination.span(),
                format!(
                    "`destination` is {}, `source` is {}: no connection matches",
                    family(destination.get_ref().addr().is_ipv4()),
                    family(source.get_ref().addr().is_ipv4())
                ),
                "for both families write two [[uplinks.force]]",
            );
        }
    }
    for (at, later) in group.force.iter().enumerate() {
        // What takes everything is told where it stands.
        let mut before = group.force[..at].iter().filter(|earlier| earlier.chooses());
        if let Some(earlier) = before.find(|earlier| earlier.shadows(later)) {
            findings.warning(
                &later.span,
                format!(
                    "this [[uplinks.force]] is never reached: the one at line {} takes every connection that it would",
                    findings.line_of(&earlier.span)
                ),
                "put this one before that one, or leave it out",
            );
        }
    }
}

/// What comes in by an uplink is answered by it; what comes in by the LAN is spread: an interface is one of the two.
fn own_lan(group: &Uplinks<'_>, findings: &Findings<'_>) {
    let uplinks: BTreeMap<&str, &Uplink<'_>> =
        group.links.iter().filter_map(|link| Some((link.interface.as_ref()?.get_ref().as_str(), link))).collect();
    let mut seen: BTreeMap<&str, Range<usize>> = BTreeMap::new();
    for lan in &group.lan {
        let name = lan.get_ref().as_str();
        match seen.get(name) {
            Some(first) => findings.error(
                &lan.span(),
                format!("{name} stands twice in `lan`, the first time at line {}", findings.line_of(first)),
                "leave it out",
            ),
            None => drop(seen.insert(name, lan.span())),
        }
        if let Some(link) = uplinks.get(name) {
            findings.error(
                &lan.span(),
                format!("{name} is in `lan`, and it is the interface of the uplink \"{}\"", name_of(link)),
                "`lan` is where connections come from that are spread: name the other side",
            );
        }
    }
}

fn name_of<'l>(link: &'l Uplink<'_>) -> &'l str {
    link.name.as_ref().map_or("?", |name| name.get_ref())
}

fn name_of_group<'g>(group: &'g Uplinks<'_>) -> &'g str {
    group.name.as_ref().map_or("?", |name| name.get_ref())
}

/// The first and last table of a group.
pub(in crate::config) fn tables(group: &Uplinks<'_>) -> (u32, u32) {
    let base = *group.table_base.get_ref();
    // A group without any link is reported elsewhere.
    (base, base.saturating_add(group.links.len() as u32))
}

fn tables_of_others(group: &Uplinks<'_>, peers: &[Peer<'_>], findings: &Findings<'_>) {
    let (first, last) = tables(group);
    if first <= KERNELS_TABLES.1 && last >= KERNELS_TABLES.0 {
        findings.error(
            &group.table_base.span(),
            format!("tables {first} to {last} are these uplinks', and 253 to 255 are the kernel's own"),
            "let them end before or begin behind those, such as table-base = 7000",
        );
        return;
    }
    for peer in peers {
        if (first..=last).contains(&peer.table) {
            findings.error(
                &group.table_base.span(),
                format!(
                    "tables {first} to {last} are these uplinks', and table {} is the one of peer \"{}\"",
                    peer.table,
                    peer.name.as_ref().map_or("?", |name| name.get_ref())
                ),
                "give one of the two another: `table-base` here, or the peer's `table`",
            );
        }
    }
}

/// Marks, rules, tables and routes of two groups.
fn claimed_twice(group: &Uplinks<'_>, earlier: &Uplinks<'_>, findings: &Findings<'_>) {
    let other = name_of_group(earlier);
    let (mask, other_mask) = (*group.fwmark.get_ref(), *earlier.fwmark.get_ref());
    if mask & other_mask != 0 {
        findings.error(
            &group.fwmark.span(),
            format!("the mark bits {mask:#x} of these uplinks overlap with {other_mask:#x} of \"{other}\""),
            "give each group bits of its own, such as fwmark = \"0xff0000\"",
        );
    }
    let (priority, other_priority) = (*group.rule_priority.get_ref(), *earlier.rule_priority.get_ref());
    if priority.abs_diff(other_priority) < RULE_PRIORITIES {
        let last = |first: u32| first + RULE_PRIORITIES - 1;
        findings.error(
            &group.rule_priority.span(),
            format!(
                "the rules {priority} to {} of these uplinks overlap with {other_priority} to {} of \"{other}\"",
                last(priority),
                last(other_priority)
            ),
            format!("a group has {RULE_PRIORITIES} of them: write rule-priority = {}", last(other_priority) + 1),
        );
    }
    let ((first, last), (other_first, other_last)) = (tables(group), tables(earlier));
    if first <= other_last && other_first <= last {
        findings.error(
            &group.table_base.span(),
            format!(
                "the tables {first} to {last} of these uplinks overlap with {other_first} to {other_last} of \"{other}\""
            ),
            "a group has one for all, and one for each uplink: give them another `table-base`",
        );
    }
    for route in &group.routes {
        if let Some(same) = earlier.routes.iter().find(|same| same.get_ref() == route.get_ref()) {
            findings.error(
                &route.span(),
                format!(
                    "{} goes through the uplinks \"{other}\" already, at line {}",
                    route.get_ref(),
                    findings.line_of(&same.span())
                ),
                "make all of them one group, or give each other routes",
            );
        }
    }
}

/// Uplinks on one interface are told apart by their gateways, and what comes from one of our addresses leaves by one
/// uplink.
fn told_apart(links: &[&Uplink<'_>], findings: &Findings<'_>) {
    for (i, link) in links.iter().enumerate() {
        let Some(interface) = &link.interface else { continue };
        let shared =
            |other: &&&Uplink<'_>| other.interface.as_ref().is_some_and(|name| name.get_ref() == interface.get_ref());
        if let Some(other) = links[..i].iter().find(shared) {
            same_interface(link, other, interface, findings);
        }
        for local in &link.locals {
            let same = |other: &&&Uplink<'_>| has(&other.locals, local) && !is_link_local(*local.get_ref());
            if let Some(other) = links[..i].iter().find(same) {
                findings.error(
                    &local.span(),
                    format!(
                        "two uplinks with one address: {} is `local` of \"{}\" and of \"{}\"",
                        local.get_ref(),
                        name_of(link),
                        name_of(other)
                    ),
                    "what comes from an address leaves by one uplink: each needs its own",
                );
            }
        }
    }
    // However far apart they are in the file.
    for (i, link) in links.iter().enumerate() {
        for gateway in &link.gateways {
            let same = |other: &&&Uplink<'_>| {
                let interfaces = (other.interface.as_ref(), link.interface.as_ref());
                interfaces.0.zip(interfaces.1).is_some_and(|(a, b)| a.get_ref() == b.get_ref())
                    && has(&other.gateways, gateway)
            };
            if let Some(other) = links[..i].iter().find(same) {
                findings.error(
                    &gateway.span(),
                    format!(
                        "\"{}\" and \"{}\" are one uplink: the same interface and the same gateway {}",
                        name_of(link),
                        name_of(other),
                        gateway.get_ref()
                    ),
                    "leave one of them out, or give it its own gateway",
                );
            }
        }
    }
}

fn has(addresses: &[Spanned<IpAddr>], address: &Spanned<IpAddr>) -> bool {
    addresses.iter().any(|other| other.get_ref() == address.get_ref())
}

/// On a shared interface each uplink must say what its gateway is: nothing can be learned for one of them.
fn same_interface(link: &Uplink<'_>, other: &Uplink<'_>, interface: &Spanned<String>, findings: &Findings<'_>) {
    for bare in [other, link].into_iter().filter(|bare| bare.gateways.is_empty()) {
        findings.error(
            &bare.section.span(),
            format!(
                "several uplinks use the interface {}, and \"{}\" has no `gateway`",
                interface.get_ref(),
                name_of(bare)
            ),
            "uplinks on one interface are told apart by their gateways: name one for each",
        );
    }
}

/// A source address leads to one uplink.
fn prefixes(links: &[&Uplink<'_>], findings: &Findings<'_>) {
    let mut all = Vec::new();
    for (i, link) in links.iter().enumerate() {
        overlaps_in_list("prefixes", &link.prefixes, findings);
        for prefix in &link.prefixes {
            if prefix.get_ref().prefix_len() == 0 {
                findings.error(
                    &prefix.span(),
                    format!("{} in `prefixes` is every address there is", prefix.get_ref()),
                    "name what the provider routes to you, such as prefixes = [\"2001:db8:1::/48\"]",
                );
            }
            all.push((*prefix.get_ref(), prefix.span(), i));
        }
    }
    for (one, other) in overlaps(all) {
        if one.2 == other.2 {
            continue;
        }
        let (first, second) = if one.1.start < other.1.start { (one, other) } else { (other, one) };
        findings.error(
            &second.1,
            format!(
                "overlapping prefixes: {} here, and {} of uplink \"{}\" at line {}",
                second.0,
                first.0,
                name_of(links[first.2]),
                findings.line_of(&first.1)
            ),
            "a source address leads to one uplink",
        );
    }
}
