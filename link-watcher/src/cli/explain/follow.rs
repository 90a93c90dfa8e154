//! One packet's way through this machine, step by step, as the kernel's own tables say.

use std::{io, net::IpAddr};

use rtnetlink::packet_route::route::RouteType;
use serde::Serialize;

use super::{
    kernel::Kernel,
    nft::{Loaded, Outcome, Packet},
};
use crate::netlink::{
    FoundTableRoute, KernelError, PROTOCOL, Way as RouteWay,
    any_rule::{AnyRule, Deed, Seen, table_name},
    fib,
};

/// One way that the packet may take.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Way {
    /// How often new connections take it, 0 to 1.
    pub(super) share: f64,
    /// Connections take turns, and this is one of them.
    pub(super) by_turns: bool,
    /// Of a connection that exists: which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connection: Option<String>,
    /// The packet's mark when its route is looked up.
    pub(super) mark: u32,
    /// The chains of our table that it goes through.
    pub(super) chains: Vec<String>,
    /// It goes no further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// Rules that it meets in vain: their tables have nothing for it.
    pub(super) rules_before: Vec<String>,
    /// The rule that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Decider>,
    /// The route that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<Route>,
    /// It is for this machine itself.
    pub(super) to_router: bool,
    /// Its next hops.
    pub(super) hops: Vec<Hop>,
    /// The source that this machine's own packet gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<IpAddr>,
    /// The source behind address translation, as far as our table decides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) translated: Option<String>,
}

/// A rule, for people.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Decider {
    pub(super) priority: u32,
    /// As ip-rule(8) writes it.
    pub(super) text: String,
    pub(super) table: Option<u32>,
    /// link-watcher made it.
    pub(super) ours: bool,
}

/// A route, for people.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) prefix: ipnet::IpNet,
    pub(super) metric: u32,
    /// `rtm_protocol`.
    pub(super) protocol: u8,
    /// link-watcher made it.
    pub(super) ours: bool,
    /// It leads out; else `local`, `unreachable` and the like.
    pub(super) kind: String,
}

/// A next hop of the route.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Hop {
    pub(super) interface: String,
    pub(super) gateway: Option<IpAddr>,
    /// Share among the next hops, 0 to 1.
    pub(super) share: f64,
    /// The kernel takes this one for these addresses.
    pub(super) taken: bool,
    /// The link that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) link: Option<super::LinkSaid>,
}

/// What is followed, and through what.
pub(super) struct Follower<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) table: Option<&'a Loaded>,
    /// Index of the interface that it comes in by.
    pub(super) incoming: Option<u32>,
    /// `IPPROTO_*`.
    pub(super) protocol: u8,
    /// What could not be told.
    pub(super) unseen: Vec<String>,
}

impl Follower<'_> {
    /// The ways that a packet may take.
    pub(super) fn follow(&mut self, mut packet: Packet) -> io::Result<Vec<Way>> {
        let own = self.incoming.is_none();
        if own {
            // It is routed before its mark is set, and once more after that.
            match self.kernel.choose(&self.question(&packet))? {
                Ok(chosen) => {
                    packet.outgoing = Some(self.kernel.name(chosen.ifindex)).filter(|_| chosen.ifindex != 0);
                    packet.source = packet.source.or(chosen.source);
                }
                Err(error) => return Ok(vec![self.stopped(&packet, Outcome::of(&packet), &error)?]),
            }
        }
        let mut ways = Vec::new();
        for outcome in self.hook(if own { "output" } else { "prerouting" }, &packet) {
            ways.extend(self.route(outcome, own)?);
        }
        Ok(ways)
    }

    fn question(&self, packet: &Packet) -> fib::Packet {
        fib::Packet {
            source: packet.source,
            destination: packet.destination,
            incoming: self.incoming,
            mark: packet.mark,
            protocol: self.protocol,
            port: packet.port,
        }
    }

    /// What our table does to it; nothing where there is no table, or one that is not understood.
    fn hook(&mut self, hook: &str, packet: &Packet) -> Vec<Outcome> {
        let Some(table) = self.table else { return vec![Outcome::of(packet)] };
        match table.run(hook, packet, self.kernel) {
            Ok(outcomes) => outcomes,
            Err(unknown) => {
                let said = format!("what our nftables table does at {hook}: it depends on {}", unknown.0);
                if !self.unseen.contains(&said) {
                    self.unseen.push(said);
                }
                vec![Outcome::of(packet)]
            }
        }
    }

    fn route(&mut self, outcome: Outcome, own: bool) -> io::Result<Vec<Way>> {
        let mut way = begun(&outcome);
        if outcome.refused.is_some() {
            return Ok(vec![way]);
        }
        let mut packet = outcome.packet.clone();
        let question = self.question(&packet);
        let (matched, chosen) = match (self.kernel.find(&question)?, self.kernel.choose(&question)?) {
            (Ok(matched), Ok(chosen)) => (matched, chosen),
            (Err(error), _) | (_, Err(error)) => return Ok(vec![self.stopped(&packet, outcome, &error)?]),
        };
        let route = &matched.route;
        way.route = Some(Route { kind: kind_name(matched.kind), ..Route::found(route) });
        self.rules(&packet, route, &mut way);
        way.to_router = matched.kind == RouteType::Local;
        if own {
            way.source = packet.source;
        }
        if way.to_router {
            return Ok(vec![way]);
        }
        way.hops = self.hops(&matched, &chosen)?;
        packet.outgoing = Some(self.kernel.name(chosen.ifindex));
        let mut packets = vec![(1.0, packet)];
        if !own {
            let outcomes = self.hook("forward", &packets[0].1.clone());
            if let Some(refused) = outcomes.iter().find_map(|outcome| outcome.refused.clone()) {
                way.refused = Some(refused);
                return Ok(vec![way]);
            }
            packets = outcomes.into_iter().map(|outcome| (outcome.share, outcome.packet)).collect();
        }
        let mut ways = Vec::new();
        for (share, packet) in packets {
            let new = packet.state == "new";
            for last in self.hook("postrouting", &packet) {
                let mut way = Way { share: way.share * share * last.share, ..way.clone() };
                way.chains.extend(last.trail);
                way.refused = last.refused;
                // Of a connection the first packet decides it.
                way.translated = last.translated.filter(|_| new).map(|to| self.translated(&to, &packet, &chosen));
                ways.push(way);
            }
        }
        Ok(ways)
    }

    fn translated(&self, to: &str, packet: &Packet, chosen: &fib::Chosen) -> String {
        if to != "masquerade" {
            return to.to_owned();
        }
        let interface = packet.outgoing.clone().unwrap_or_default();
        let near = chosen.gateway.unwrap_or(packet.destination);
        let first = || {
            let interface = self.kernel.interfaces.get(&interface)?;
            let same = |address: &&crate::netlink::Address| address.address.is_ipv4() == near.is_ipv4();
            interface.addresses.iter().find(same).map(|address| address.address)
        };
        let own = self.kernel.interfaces.local_for(&interface, near).or_else(first);
        own.map_or_else(|| format!("the address of {interface}"), |own| own.to_string())
    }

    /// What it met where the kernel has no way for it.
    fn stopped(&mut self, packet: &Packet, outcome: Outcome, error: &KernelError) -> io::Result<Way> {
        let mut way = begun(&outcome);
        let interface = packet.incoming.clone().unwrap_or_default();
        way.refused = Some(match error.errno {
            libc::EXDEV => format!(
                "the kernel drops it on {interface}, since answers would not leave there (reverse path filter): sysctl \
                 net.ipv4.conf.{interface}.rp_filter=2 lets it in"
            ),
            libc::EINVAL if self.incoming.is_some() => {
                format!("the kernel takes its source for impossible on {interface} (a martian), and drops it")
            }
            libc::EHOSTUNREACH if self.incoming.is_some() => format!(
                "the kernel does not forward it ({error}): no route, an unreachable one, or sysctl net.ipv4.ip_forward=0"
            ),
            _ => format!("the kernel has no way for it: {error}"),
        });
        // The first table that has an answer, and be it "unreachable".
        for (rule, sure) in self.met(packet) {
            let stops = match rule.deed {
                Deed::Refuse(_) => sure,
                Deed::Table(table) => {
                    let route = self.kernel.longest(table, packet.destination)?;
                    way.route = route.filter(|route| counts(&rule, route)).map(|route| Route::found(&route));
                    way.route.is_some()
                }
                _ => false,
            };
            if stops {
                way.rule = Some(decider(&rule));
                break;
            }
            if sure {
                way.rules_before.push(rule.to_string());
            }
        }
        Ok(way)
    }

    /// Rules that match, in the order in which the kernel asks them; with `false`, those of which it cannot be told.
    fn met(&self, packet: &Packet) -> Vec<(AnyRule, bool)> {
        let seen = Seen {
            source: packet.source,
            destination: packet.destination,
            incoming: packet.incoming.as_deref(),
            mark: packet.mark,
            protocol: self.protocol,
            port: packet.port,
        };
        let mut met = Vec::new();
        let mut from = 0;
        for rule in &self.kernel.rules {
            let matches = rule.matches(&seen);
            if rule.priority < from || matches == Some(false) {
                continue;
            }
            if let (Deed::Goto(priority), Some(true)) = (rule.deed, matches) {
                from = priority;
                continue;
            }
            met.push((rule.clone(), matches == Some(true)));
        }
        met
    }

    /// Notes the rules up to the one that decides: the first that leads to the table that the kernel names, unless it lets
    /// such short prefixes alone.
    fn rules(&self, packet: &Packet, route: &FoundTableRoute, way: &mut Way) {
        for (rule, sure) in self.met(packet) {
            if rule.deed == Deed::Table(route.key.table) && counts(&rule, route) {
                way.rule = Some(decider(&rule));
                return;
            }
            if sure {
                way.rules_before.push(rule.to_string());
            }
        }
    }

    fn hops(&mut self, matched: &fib::Matched, chosen: &fib::Chosen) -> io::Result<Vec<Hop>> {
        let mut hops: Vec<(u32, Option<IpAddr>, u32)> = match &matched.route.way {
            Some(RouteWay::Through { hops, .. }) => {
                hops.iter().map(|hop| (hop.ifindex, hop.gateway, hop.weight)).collect()
            }
            Some(RouteWay::Object(id)) => {
                let members = self.kernel.members(*id)?;
                members.iter().map(|hop| (hop.ifindex, Some(hop.gateway), hop.weight)).collect()
            }
            _ => Vec::new(),
        };
        if hops.is_empty() {
            hops.push((chosen.ifindex, chosen.gateway, 1));
        }
        let total: u32 = hops.iter().map(|(.., weight)| *weight).sum::<u32>().max(1);
        let hop = |(ifindex, gateway, weight): (u32, Option<IpAddr>, u32)| Hop {
            interface: self.kernel.name(ifindex),
            gateway,
            share: f64::from(weight) / f64::from(total),
            taken: ifindex == chosen.ifindex && (gateway == chosen.gateway || chosen.gateway.is_none()),
            link: None,
        };
        Ok(hops.into_iter().map(hop).collect())
    }
}

fn begun(outcome: &Outcome) -> Way {
    Way {
        share: outcome.share,
        by_turns: outcome.by_turns,
        mark: outcome.packet.mark,
        chains: outcome.trail.clone(),
        refused: outcome.refused.clone(),
        ..Way::default()
    }
}

fn decider(rule: &AnyRule) -> Decider {
    Decider {
        priority: rule.priority,
        text: rule.to_string(),
        table: if let Deed::Table(table) = rule.deed { Some(table) } else { None },
        ours: rule.protocol == PROTOCOL,
    }
}

fn kind_name(kind: RouteType) -> String {
    format!("{kind:?}").to_lowercase()
}

/// Whether a rule lets a route decide: it counts, and does not send back to the rules behind.
fn counts(rule: &AnyRule, route: &FoundTableRoute) -> bool {
    let length = u32::from(route.key.prefix.prefix_len());
    route.way != Some(RouteWay::Throw) && rule.suppress_prefix_len.is_none_or(|suppressed| length > suppressed)
}

impl Route {
    fn found(route: &FoundTableRoute) -> Self {
        let kind = match route.way {
            Some(RouteWay::Through { .. } | RouteWay::Object(_)) => "unicast",
            Some(RouteWay::Unreachable) => "unreachable",
            Some(RouteWay::Throw) => "throw",
            None => "of another kind",
        };
        Self {
            table: route.key.table,
            prefix: route.key.prefix,
            metric: route.key.metric,
            protocol: route.protocol,
            ours: route.protocol == PROTOCOL,
            kind: kind.to_owned(),
        }
    }

    /// Its table, as people call it.
    pub(super) fn table_name(&self) -> String {
        table_name(self.table)
    }

    /// Who made it, as ip-route(8) names it.
    pub(super) fn maker(&self) -> String {
        match self.protocol {
            PROTOCOL => "link-watcher".to_owned(),
            2 => "the kernel".to_owned(),
            3 => "somebody at start (proto boot)".to_owned(),
            4 => "an administrator (proto static)".to_owned(),
            9 => "a router advertisement".to_owned(),
            16 => "DHCP".to_owned(),
            12 => "BIRD".to_owned(),
            11 => "zebra".to_owned(),
            186 => "BGP".to_owned(),
            188 => "OSPF".to_owned(),
            other => format!("somebody else (proto {other})"),
        }
    }
}
