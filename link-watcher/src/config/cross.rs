//! Checks of values against each other: names, addresses, prefixes.

use std::{collections::BTreeMap, net::IpAddr, ops::Range};

use ipnet::IpNet;
use link_watcher_common::maps::MAX_LINKS;
use toml::Spanned;

use super::{
    diagnostic::Findings,
    peer::{Link, Peer},
    uplinks::{self, Uplinks},
};
use crate::address::is_link_local;

pub(super) fn check(peers: &[Peer<'_>], uplinks: &[Uplinks<'_>], findings: &Findings<'_>) {
    let names = peers.iter().map(|peer| peer.name.as_ref()).chain(uplinks.iter().map(|group| group.name.as_ref()));
    unique_names(names, "groups", findings);
    uplinks::check_cross(uplinks, peers, findings);
    for peer in peers {
        unique_names(peer.links.iter().map(|link| link.name.as_ref()), "links of this peer", findings);
        peer.links.iter().for_each(|link| ends_of_link(link, findings));
        for (list, prefixes) in [("routes", &peer.routes), ("announce", &peer.announce), ("accept", &peer.accept)] {
            overlaps_in_list(list, prefixes, findings);
        }
        routed_and_announced(peer, findings);
        let lists = ["routes", "announce", "announce-interfaces", "accept"];
        // As they stand in the file: entries that were refused are entries.
        if lists.iter().all(|list| peer.section.is_empty(list)) {
            findings.warning(
                &peer.section.span(),
                "this peer has no routes, announce or accept: its links are watched, but no traffic ever moves",
                "say with `routes` what goes through the peer, or with `accept` what it may announce",
            );
        }
    }
    if let Some(excess) = peers.iter().flat_map(|peer| &peer.links).nth(MAX_LINKS as usize) {
        findings.error(&excess.section.span(), format!("there are more than {MAX_LINKS} links"), "");
    }
    shared_addresses(peers, findings);
    shared_secrets(peers, findings);
    overlaps_between_peers(peers, findings);
}

pub(super) fn unique_names<'n>(
    names: impl Iterator<Item = Option<&'n Spanned<String>>>,
    what: &str,
    findings: &Findings<'_>,
) {
    let mut seen: BTreeMap<&str, Range<usize>> = BTreeMap::new();
    for name in names.flatten() {
        match seen.get(name.get_ref().as_str()) {
            Some(first) => findings.error(
                &name.span(),
                format!(
                    "two {what} are called \"{}\"; the other is at line {}",
                    name.get_ref(),
                    findings.line_of(first)
                ),
                "give each a name of its own",
            ),
            None => drop(seen.insert(name.get_ref(), name.span())),
        }
    }
}

/// Both ends of one link: of one family, and different.
fn ends_of_link(link: &Link<'_>, findings: &Findings<'_>) {
    let (Some(local), Some(remote)) = (&link.local, &link.remote) else { return };
    if local.get_ref() == remote.get_ref() {
        findings.error(
            &remote.span(),
            format!("both ends of this link have the address {}", remote.get_ref()),
            "`local` is this router's address, `remote` the peer's",
        );
    } else if local.get_ref().is_ipv4() != remote.get_ref().is_ipv4() {
        let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        findings.error(
            &local.span(),
            format!("`local` is {}, `remote` is {}", family(local.get_ref()), family(remote.get_ref())),
            "a link's ends have one family; for both families make two links",
        );
    }
}

/// Two peers with one secret: what one of them signs, the other would believe. Compared are the secrets, so that a copy
/// of a file is found out too.
fn shared_secrets(peers: &[Peer<'_>], findings: &Findings<'_>) {
    for (i, peer) in peers.iter().enumerate() {
        for file in &peer.keys {
            let earlier = peers[..i].iter().flat_map(|first| first.keys.iter().map(move |other| (first, other)));
            let Some((first, other)) = earlier.into_iter().find(|(_, other)| other.key == file.key) else { continue };
            findings.error(
                &file.span,
                format!(
                    "peers \"{}\" and \"{}\" have one secret: key files {} and {} hold the same",
                    first.called(),
                    peer.called(),
                    other.path.display(),
                    file.path.display()
                ),
                "each peer needs a key of its own: link-watcher key generate FILE, at both ends of one of the two",
            );
        }
    }
}

/// A link in the list of all.
#[derive(Clone, Copy)]
struct Known<'a> {
    peer: usize,
    port: u16,
    name: &'a str,
    interface: Option<&'a str>,
}

/// Where an address was first seen, and as what.
struct Used<'a> {
    link: Known<'a>,
    span: Range<usize>,
}

/// Addresses of different links: a packet's addresses must say which link it belongs to, and two links with one address
/// are one link.
fn shared_addresses(peers: &[Peer<'_>], findings: &Findings<'_>) {
    let mut remotes: BTreeMap<IpAddr, Vec<Used<'_>>> = BTreeMap::new();
    let mut locals: BTreeMap<IpAddr, Vec<Used<'_>>> = BTreeMap::new();
    for (peer_index, peer) in peers.iter().enumerate() {
        for link in &peer.links {
            let known = Known {
                peer: peer_index,
                port: peer.port,
                name: link.name.as_ref().map_or("?", |name| name.get_ref()),
                interface: link.interface.as_ref().map(|interface| interface.get_ref().as_str()),
            };
            for (map, address) in [(&mut remotes, &link.remote), (&mut locals, &link.local)] {
                if let Some(address) = address {
                    let used = Used { link: known, span: address.span() };
                    map.entry(*address.get_ref()).or_default().push(used);
                }
            }
        }
    }
    for (address, users) in &remotes {
        each_with_earlier(users, |used, first| {
            let help = if !scoped_apart(address, used.link, first.link) && used.link.peer == first.link.peer {
                "each link of a peer needs its own next hop"
            } else if used.link.interface == first.link.interface && used.link.port == first.link.port {
                "give one of the two peers another `port`"
            } else if used.link.interface != first.link.interface && !is_link_local(*address) {
                "one address lies behind one interface"
            } else {
                return false;
            };
            report_shared(address, "remote", used, first, help, findings);
            true
        });
    }
    for (address, users) in &locals {
        each_with_earlier(users, |used, first| {
            // Several peers on one interface share this router's address there; that is what a hub looks like.
            let same_interface = used.link.interface == first.link.interface;
            let help = if !scoped_apart(address, used.link, first.link) && used.link.peer == first.link.peer {
                "each link of a peer needs its own address"
            } else if !same_interface && !is_link_local(*address) {
                "one address belongs to one interface"
            } else {
                return false;
            };
            report_shared(address, "local", used, first, help, findings);
            true
        });
        for remote in remotes.get(address).into_iter().flatten() {
            if let Some(local) = users.iter().find(|local| {
                // Of one and the same link this was reported already.
                let same_link = local.link.peer == remote.link.peer && local.link.name == remote.link.name;
                !same_link && !scoped_apart(address, local.link, remote.link)
            }) {
                findings.error(
                    &remote.span,
                    format!(
                        "{address} is the peer's address here, and this router's own for link \"{}\" at line {}",
                        local.link.name,
                        findings.line_of(&local.span)
                    ),
                    "`local` is this router's address, `remote` the peer's",
                );
            }
        }
    }
}

/// Calls `reported(one, earlier one)` for each until it says that this one is reported.
fn each_with_earlier<'u>(users: &'u [Used<'u>], reported: impl Fn(&Used<'u>, &Used<'u>) -> bool) {
    for (i, used) in users.iter().enumerate() {
        // One report for each is enough, however many there are.
        let _ = users[..i].iter().any(|first| reported(used, first));
    }
}

fn report_shared(address: &IpAddr, what: &str, used: &Used<'_>, first: &Used<'_>, help: &str, findings: &Findings<'_>) {
    findings.error(
        &used.span,
        format!(
            "two links with one address: {address} is `{what}` of \"{}\", and of \"{}\" at line {}",
            used.link.name,
            first.link.name,
            findings.line_of(&first.span)
        ),
        help,
    );
}

/// Link-local addresses mean something on their own interface only (RFC 4007, section 6).
fn scoped_apart(address: &IpAddr, one: Known<'_>, other: Known<'_>) -> bool {
    is_link_local(*address) && one.interface != other.interface
}

/// A prefix, where it stands, and whose it is.
pub(super) type Placed = (IpNet, Range<usize>, usize);

/// Pairs (outer, inner) of prefixes where one is inside the other or equals it. A default route contains everything by
/// its nature, so it counts only against its equal.
pub(super) fn overlaps(mut prefixes: Vec<Placed>) -> Vec<(Placed, Placed)> {
    // Whoever contains another sorts before it: the same address or a lower one, and the shorter length first.
    prefixes.sort_by(|(a, a_span, _), (b, b_span, _)| {
        (a.network(), a.prefix_len(), a_span.start).cmp(&(b.network(), b.prefix_len(), b_span.start))
    });
    let mut pairs = Vec::new();
    let mut open: Vec<Placed> = Vec::new();
    for prefix in prefixes {
        while open.last().is_some_and(|outer| !outer.0.contains(&prefix.0)) {
            open.pop();
        }
        if let Some(outer) = open.last()
            && (outer.0 == prefix.0 || outer.0.prefix_len() > 0)
        {
            pairs.push((outer.clone(), prefix.clone()));
        }
        open.push(prefix);
    }
    pairs
}

pub(super) fn overlaps_in_list(list: &str, prefixes: &[Spanned<IpNet>], findings: &Findings<'_>) {
    let placed = prefixes.iter().map(|prefix| (*prefix.get_ref(), prefix.span(), 0)).collect();
    for ((outer, outer_span, _), (inner, inner_span, _)) in overlaps(placed) {
        let line = findings.line_of(&outer_span);
        if outer == inner {
            let message = format!("{inner} stands twice in `{list}`, the first time at line {line}");
            findings.error(&inner_span, message, "leave it out");
        } else {
            let message = format!("overlapping prefixes in `{list}`: {inner} is inside of {outer} at line {line}");
            findings.error(&inner_span, message, "leave it out: the longer list changes nothing");
        }
    }
}

fn overlaps_between_peers(peers: &[Peer<'_>], findings: &Findings<'_>) {
    let mut tables: BTreeMap<u32, Vec<Placed>> = BTreeMap::new();
    for (i, peer) in peers.iter().enumerate() {
        let routes = peer.routes.iter().map(|route| (*route.get_ref(), route.span(), i));
        tables.entry(peer.table).or_default().extend(routes);
    }
    for (table, routes) in tables {
        for (one, other) in overlaps(routes) {
            if one.2 == other.2 {
                continue;
            }
            let (first, second) = if one.1.start < other.1.start { (one, other) } else { (other, one) };
            let name = peers[first.2].name.as_ref().map_or("?", |name| name.get_ref());
            let line = findings.line_of(&first.1);
            let message = if first.0 == second.0 {
                format!("{} goes through peer \"{name}\" already, at line {line}", second.0)
            } else {
                format!(
                    "overlapping prefixes: {} here, and {} through peer \"{name}\" at line {line}",
                    second.0, first.0
                )
            };
            let help = format!(
                "one table has one way for each prefix: change one, or give a peer another `table` than {table}"
            );
            findings.error(&second.1, message, help);
        }
    }
}

/// What we send through the peer and ask it to send through us would go round in circles.
fn routed_and_announced(peer: &Peer<'_>, findings: &Findings<'_>) {
    let routes: BTreeMap<&IpNet, Range<usize>> =
        peer.routes.iter().map(|route| (route.get_ref(), route.span())).collect();
    for announced in &peer.announce {
        if let Some(route) = routes.get(announced.get_ref()) {
            findings.error(
                &announced.span(),
                format!(
                    "{} is announced to the peer, and routed through it at line {}",
                    announced.get_ref(),
                    findings.line_of(route)
                ),
                "it would go round in circles: it is behind one of the two routers, not behind both",
            );
        }
    }
}
