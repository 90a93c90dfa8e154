//! What can be run, but does less than somebody may think.

use super::{diagnostic::Findings, peer::Peer, uplinks::Uplinks};
use crate::event::Role;

/// Looks at all groups.
pub(super) fn check(peers: &[Peer<'_>], uplinks: &[Uplinks<'_>], findings: &Findings<'_>) {
    for peer in peers {
        // Where there is no announcement either it is said in other words that nothing ever moves.
        let announces = !peer.announce.is_empty() || !peer.announce_interfaces.is_empty();
        if peer.role == Some(Role::Server) && peer.accept.is_empty() && peer.routes.is_empty() && announces {
            findings.advice(
                &peer.section.span(),
                "this server has no `accept`: whatever the client announces is refused, and nothing goes to it",
                "say what the client may announce, such as accept = [\"10.20.20.0/22\"]; or what is behind it, with `routes`",
            );
        }
        ipv6_without_a_link(peer, findings);
        if let [only] = peer.links.as_slice() {
            findings.advice(
                &only.section.span(),
                "this peer has one link, and so no spare: its failure is an outage",
                "another [[peer.link]], by another way, takes over in its place",
            );
        }
    }
    for group in uplinks {
        if let [only] = group.links.as_slice() {
            findings.advice(
                &only.section.span(),
                "these uplinks are one, and so without a spare: its failure is an outage",
                "another [[uplinks.link]] takes over in its place",
            );
        }
    }
}

/// IPv4 goes through IPv6 links as well (`RTA_VIA`), but not the reverse.
fn ipv6_without_a_link(peer: &Peer<'_>, findings: &Findings<'_>) {
    let mut remotes = peer.links.iter().filter_map(|link| link.remote.as_ref());
    let Some(route) = peer.routes.iter().find(|route| route.get_ref().addr().is_ipv6()) else { return };
    if remotes.all(|remote| remote.get_ref().is_ipv4()) {
        findings.advice(
            &route.span(),
            format!("{} is IPv6, and no link of this peer is: it gets no route", route.get_ref()),
            "leave it out, or add a [[peer.link]] whose `remote` is an IPv6 address",
        );
    }
}
