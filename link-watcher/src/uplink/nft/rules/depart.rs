//! Behind routing: connections that leave by another uplink than theirs, or have none yet, and the source that they leave with.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Family, Group, choose::force_matches, quoted, set};
use crate::{config::Nat, uplink::nft::text::Chain};

impl Group<'_> {
    pub(super) fn departing(&self) -> Chain {
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
    pub(super) fn late(&self) -> Chain {
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

    pub(super) fn translate(&self) -> Chain {
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
}
