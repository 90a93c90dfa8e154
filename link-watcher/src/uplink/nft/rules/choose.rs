//! Which uplink a new connection gets: that of its source, a forced one, or the one whose turn it is.

use ipnet::IpNet;

use super::{Family, Group, set};
use crate::{
    config::{ForceConfig, Nat, Protocol},
    uplink::{
        Uplink,
        nft::{slots::slots, text::Chain},
    },
};

impl Group<'_> {
    pub(super) fn spread(&self) -> Chain {
        let mut chain = self.chain("spread", "a new connection to an address that is not this router's own.");
        chain.rules.push("fib daddr type != unicast return".into());
        chain.rules.push("ip6 daddr fe80::/10 return".into());
        let families = Family::BOTH.into_iter().filter(|family| !self.routes(*family).is_empty());
        let verdicts = set(families.map(|f| format!("{} : goto choose{}_{}", f.nfproto(), f.digit(), self.n)));
        chain.rules.push(format!("meta nfproto vmap {verdicts}"));
        chain
    }

    /// Sources that belong to an uplink, then what is forced, then the rest.
    pub(super) fn choose(&self, family: Family) -> Chain {
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
    pub(super) fn sources(&self, family: Family) -> Vec<(IpNet, &Uplink)> {
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

    pub(super) fn pick(&self, family: Family) -> Chain {
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
pub(super) fn force_matches(force: &ForceConfig, family: Family) -> Option<String> {
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
