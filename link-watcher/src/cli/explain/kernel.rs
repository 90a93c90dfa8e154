//! What the kernel says, asked as anybody may ask it; what only root may ask is asked too, and its lack is named.

use std::{collections::BTreeMap, io, net::IpAddr};

use link_watcher_programs::{NFT, RunError};
use rtnetlink::packet_route::route::RouteType;
use serde_json::Value;

use super::nft::{Fib, Loaded};
use crate::{
    netlink::{
        Batch, Family, FoundObject, Nexthop, Object, Requests,
        any_rule::{self, AnyRule},
        dump, fib,
        netfilter::{self, Flow},
        nexthop,
        route::{self, Filter, FoundTableRoute},
        rule,
    },
    system::Interfaces,
    uplink::nft::{TIMEOUT, table_name},
};

/// Of tables of others, so many are named.
const MAX_OTHERS: usize = 6;

/// This network namespace.
pub(in crate::cli) struct Kernel {
    requests: Requests,
    pub(super) interfaces: Interfaces,
    pub(super) rules: Vec<AnyRule>,
    /// Read when a route refers to one.
    objects: Option<BTreeMap<u32, FoundObject>>,
}

/// What nftables has.
pub(super) struct Nftables {
    /// Ours: name and what is loaded.
    pub(super) ours: Option<(String, Loaded)>,
    /// Chains of others on a packet's way, `family table chain`; the first of them.
    pub(super) others: Vec<String>,
}

impl Kernel {
    pub(in crate::cli) fn read(family: Family) -> io::Result<Self> {
        let interfaces = Interfaces::read()?;
        let (mut requests, mut batch) = (Requests::open()?, Batch::default());
        rule::dump(&mut batch, family);
        let mut rules = dump(&mut requests, &mut batch, |message| any_rule::parse(message.payload()))?;
        rules.sort_by_key(|rule: &AnyRule| rule.priority);
        Ok(Self { requests, interfaces, rules, objects: None })
    }

    /// An interface's name.
    pub(super) fn name(&self, ifindex: u32) -> String {
        let found = self.interfaces.iter().find(|interface| interface.link.ifindex == ifindex);
        found.map_or_else(|| format!("interface {ifindex}"), |interface| interface.link.name.clone())
    }

    pub(super) fn choose(&mut self, packet: &fib::Packet) -> io::Result<fib::Answer<fib::Chosen>> {
        fib::choose(&mut self.requests, packet)
    }

    pub(super) fn find(&mut self, packet: &fib::Packet) -> io::Result<fib::Answer<fib::Matched>> {
        fib::find(&mut self.requests, packet)
    }

    /// The route of the longest prefix that a table has for an address, whatever it does.
    pub(super) fn longest(&mut self, table: u32, to: IpAddr) -> io::Result<Option<FoundTableRoute>> {
        let mut batch = Batch::default();
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        route::dump(&mut batch, family.number(), Filter { table: Some(table), ..Filter::default() });
        let found = dump(&mut self.requests, &mut batch, |message| {
            let route = route::parse_table_route(message.payload())?;
            (route.key.table == table && route.key.prefix.contains(&to)).then_some(route)
        })?;
        Ok(found.into_iter().max_by_key(|route| (route.key.prefix.prefix_len(), std::cmp::Reverse(route.key.metric))))
    }

    /// The next hops that an object leads to, with their weights.
    pub(super) fn members(&mut self, id: u32) -> io::Result<Vec<Nexthop>> {
        if self.objects.is_none() {
            let mut batch = Batch::default();
            nexthop::dump(&mut batch);
            let found = dump(&mut self.requests, &mut batch, |message| nexthop::parse(message.payload()))?;
            self.objects = Some(found.into_iter().map(|object| (object.id, object)).collect());
        }
        let objects = self.objects.as_ref();
        let object = |id: u32| objects.and_then(|objects| objects.get(&id)).and_then(|found| found.object.clone());
        let hop = |id: u32, weight: u32| match object(id) {
            Some(Object::Hop { ifindex, gateway }) => Some(Nexthop { ifindex, gateway, weight }),
            _ => None,
        };
        Ok(match object(id) {
            Some(Object::Group { members, fit }) => {
                let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
                // Who has no bucket of a resilient group stands by.
                let shares = if fit { buckets(&weights) } else { weights };
                let shared = members.iter().zip(shares).filter(|(_, share)| *share > 0);
                shared.filter_map(|(member, share)| hop(member.id, share)).collect()
            }
            _ => hop(id, 1).into_iter().collect(),
        })
    }
}

impl Fib for Kernel {
    fn way_out(&mut self, address: IpAddr) -> Option<String> {
        let chosen = self.choose(&plain(address)).ok()?.ok()?;
        (chosen.kind == RouteType::Unicast).then(|| self.name(chosen.ifindex))
    }

    fn kind(&mut self, address: IpAddr, interface: Option<&str>) -> String {
        if let Some(interface) = interface {
            return if self.interfaces.has(interface, address) { "local" } else { "unicast" }.to_owned();
        }
        let kind = self.choose(&plain(address)).ok().and_then(Result::ok).map(|chosen| chosen.kind);
        match kind {
            Some(RouteType::Local) => "local",
            Some(RouteType::Broadcast) => "broadcast",
            Some(RouteType::Multicast) => "multicast",
            Some(RouteType::Anycast) => "anycast",
            _ => "unicast",
        }
        .to_owned()
    }
}

/// How many buckets of a resilient group of ours the kernel gives each member (`nh_res_group_rebalance` of
/// net/ipv4/nexthop.c).
fn buckets(weights: &[u32]) -> Vec<u32> {
    let total = u64::from(weights.iter().sum::<u32>().max(1));
    let (mut sum, mut given) = (0, 0);
    let mut share = |weight: &u32| {
        sum += u64::from(*weight);
        let upper = (u64::from(nexthop::BUCKETS) * sum + total / 2) / total;
        let more = upper - given;
        given = upper;
        // At most all of them.
        more as u32
    };
    weights.iter().map(&mut share).collect()
}

/// A packet that this machine sends there.
fn plain(destination: IpAddr) -> fib::Packet {
    let protocol = libc::IPPROTO_UDP as u8;
    fib::Packet { source: None, destination, incoming: None, mark: 0, protocol, port: None }
}

/// Connections from and to these addresses: how many, and the first ones.
pub(super) fn connections(test: impl Fn(&Flow) -> bool, most: usize) -> io::Result<(usize, Vec<Flow>)> {
    netfilter::flows(&mut netfilter::open()?, &mut Batch::default(), None, most, test)
}

/// A table of nftables, anybody's.
#[derive(Clone, Debug)]
pub(in crate::cli) struct NamedTable {
    /// `ip`, `ip6` or `inet`.
    pub(in crate::cli) family: String,
    pub(in crate::cli) name: String,
    pub(in crate::cli) loaded: Loaded,
}

/// Everybody's tables that IP packets go through.
pub(in crate::cli) fn tables() -> Result<Vec<NamedTable>, String> {
    let document: Value = serde_json::from_str(&nft(&["-j", "list", "ruleset"])?).map_err(|error| error.to_string())?;
    Ok(by_table(&document))
}

pub(in crate::cli) fn by_table(document: &Value) -> Vec<NamedTable> {
    let mut objects: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for object in document["nftables"].as_array().into_iter().flatten() {
        let Some(inner) = object.as_object().and_then(|object| object.values().next()) else { continue };
        if let (Some(family @ ("ip" | "ip6" | "inet")), Some(table)) =
            (inner["family"].as_str(), inner["table"].as_str())
        {
            objects.entry((family, table)).or_default().push(object);
        }
    }
    let named = |((family, name), objects): ((&str, &str), Vec<&Value>)| NamedTable {
        family: family.to_owned(),
        name: name.to_owned(),
        loaded: Loaded::of(objects),
    };
    objects.into_iter().map(named).collect()
}

/// A rule as nft(8) writes it.
pub(in crate::cli) fn rule_text(family: &str, table: &str, handle: u64) -> Option<String> {
    let text = nft(&["-a", "list", "table", family, table]).ok()?;
    let end = format!(" # handle {handle}");
    // Chains and sets have handles too, and begin a block.
    let mut rules = text.lines().filter_map(|line| line.strip_suffix(&end)).filter(|line| !line.ends_with('{'));
    rules.next().map(|rule| rule.trim().to_owned())
}

/// Reads our table and the names of others' chains. `name`: that of our table, where it is known.
pub(super) fn nftables(name: Option<&str>, hooks: &[&str]) -> Result<Nftables, String> {
    let text = nft(&["-j", "list", "chains"])?;
    let document: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    // The tables of all instances begin as that without one.
    let any_instance = table_name(None);
    let (mut ours, mut others) = (None, Vec::new());
    for chain in document["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("chain")) {
        let of = |key: &str| chain[key].as_str().unwrap_or_default();
        let is_ours = of("family") == "inet"
            && name.map_or_else(|| of("table").starts_with(&any_instance), |name| of("table") == name);
        if is_ours {
            ours.get_or_insert_with(|| of("table").to_owned());
        } else if hooks.contains(&of("hook")) {
            others.push(format!("{} {} {}", of("family"), of("table"), of("name")));
        }
    }
    let surplus = others.len().saturating_sub(MAX_OTHERS);
    others.truncate(MAX_OTHERS);
    if surplus > 0 {
        others.push(format!("{surplus} more"));
    }
    let ours = match ours {
        Some(name) => {
            let text = nft(&["-j", "list", "table", "inet", &name])?;
            Some((name, Loaded::parse(&text)?))
        }
        None => None,
    };
    Ok(Nftables { ours, others })
}

fn nft(arguments: &[&str]) -> Result<String, String> {
    let output = NFT.run(arguments, "", TIMEOUT).map_err(|error| match error {
        RunError::Missing(_) => "the program nft is not installed: apt install nftables".to_owned(),
        error => error.to_string(),
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = output.stderr.lines().next().unwrap_or("it failed").to_owned();
    Err(if said.contains("Operation not permitted") || said.contains("must be root") {
        "the kernel shows nftables to root alone (CAP_NET_ADMIN): run this with sudo".to_owned()
    } else {
        format!("nft: {said}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_members_get_no_bucket() {
        assert_eq!(buckets(&[1]), [128]);
        assert_eq!(buckets(&[256, 1]), [128, 0]);
        assert_eq!(buckets(&[3, 1]), [96, 32]);
        assert_eq!(buckets(&[1, 1, 1]).iter().sum::<u32>(), 128);
    }
}
