//! Before a new connection's uplink is chosen: what has one keeps it, what comes in by one is answered by it, and what needs
//! none is left alone.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Family, Group, set};
use crate::{
    config::Nat,
    uplink::{
        Uplink,
        nft::text::{Chain, TO_FAST},
    },
};

impl Group<'_> {
    /// Nearly every packet belongs to a connection that has its mark: it is looked up once, and first.
    pub(super) fn arriving(&self) -> Chain {
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

    pub(super) fn inbound(&self) -> Chain {
        let mut chain = self.chain("inbound", "a connection from outside is answered by the uplink that it came by.");
        chain.rules.push("ip6 saddr fe80::/10 return".into());
        chain.rules.extend(self.excluded("saddr"));
        chain.rules.extend(Family::BOTH.into_iter().filter_map(|family| self.only_routes("saddr", family)));
        for uplink in &self.desired.uplinks {
            chain.rules.push(format!("{} goto {}", self.comes_by(uplink), self.chain_of("take", uplink)));
        }
        chain
    }

    pub(super) fn outbound(&self) -> Chain {
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
    pub(super) fn translates(&self) -> bool {
        let translated = |uplink: &Uplink| match uplink.nat {
            Nat::None | Nat::Source(IpAddr::V6(_)) => false,
            Nat::Masquerade | Nat::Source(IpAddr::V4(_)) => true,
        };
        !self.routes(Family::V4).is_empty() && self.desired.uplinks.iter().any(translated)
    }

    /// Nobody knows which address such a connection had outside. What the router's own connections send is left alone: they
    /// may be older than conntrack, and the administrator's.
    pub(super) fn unknown(&self) -> Chain {
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

    pub(super) fn forwarded(&self) -> Chain {
        let mut chain = self.chain("forwarded", "what has its uplink.");
        chain.rules.push(format!("ct mark {} == 0 goto adopt_{}", self.mask, self.n));
        if !self.desired.fast_path.is_empty() {
            chain.rules.push(TO_FAST.to_owned());
        }
        chain
    }

    pub(super) fn adopt(&self) -> Chain {
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

    pub(super) fn own(&self) -> Chain {
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
}
