//! Other programs' policy rules beside ours: what they do to the traffic, and the remedy by name. `doctor` and the start of the
//! daemon ask here.
//!
//! The kernel asks rules by priority, so a rule of somebody else's matters in four ways:
//!
//! | where it stands | what it does |
//! |---|---|
//! | before ours, and takes everything | our links never see the traffic |
//! | before ours, and keeps one program's packets | these stay on a link that is down |
//! | behind ours, and ours take everything | it is never asked |
//! | anywhere, on bits of the mark that are ours | each takes the other's marks for its own |
//!
//! [`judge`] is pure; what the kernel has is read by [`Policy::read`].

mod read;
mod remedy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::read::Policy;
use crate::{
    config::{Config, RULE_PRIORITIES},
    netlink::{
        Family, PROTOCOL,
        any_rule::{AnyRule, Deed, table_name},
    },
    route::{MAIN_RULE_PRIORITY, MAIN_TABLE, PRIORITIES, RouteBackend},
};

/// Of troubles, so many are named.
const MAX_TROUBLES: usize = 8;
/// `RTPROT_KERNEL`: a rule that stands by itself.
const KERNEL: u8 = 2;
/// Tables that stand by themselves; a rule to one of them loses nothing where it is not asked.
const STANDARD_TABLES: std::ops::RangeInclusive<u32> = 253..=255;
/// Where Tailscale puts its rules, and the mark of its own packets (`util/linuxfw`, `wgengine/router`).
const TAILSCALE_PRIORITIES: std::ops::RangeInclusive<u32> = 5_210..=5_270;
const TAILSCALE_MARK: (u32, u32) = (0x8_0000, 0xff_0000);

/// Rule priorities that are ours, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// For people: `uplinks wan`, `peer dc1`.
    whose: String,
    /// The first and the last priority.
    first: u32,
    last: u32,
    /// Families that it routes.
    families: BTreeSet<Family>,
    /// Families of which it takes everything: its routes have the default one.
    everything: BTreeSet<Family>,
    /// It has no rules, and its routes stand in the main table.
    main: bool,
    marks: Option<Marks>,
}

/// Marks that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks {
    mask: u32,
    /// Names of the uplinks, the first one's number being 1.
    uplinks: Vec<String>,
}

/// What a rule of somebody else's does to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    rule: String,
    families: BTreeSet<Family>,
    effect: String,
    pub(crate) remedy: String,
    /// It stands among ours: the daemon says that by itself, and again when it changes.
    pub(crate) among: bool,
}

impl Trouble {
    pub(crate) fn message(&self) -> String {
        let families: Vec<&str> = self.families.iter().map(|family| name_of(*family)).collect();
        format!("the rule \"{}\" ({}) is not ours: {}", self.rule, families.join(", "), self.effect)
    }
}

impl Claim {
    /// What a configuration claims.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let families = |routes: &[ipnet::IpNet]| routes.iter().map(Family::of).collect();
        let everything =
            |routes: &[ipnet::IpNet]| routes.iter().filter(|prefix| prefix.prefix_len() == 0).map(Family::of).collect();
        let uplinks = config.uplinks.iter().map(|group| Self {
            whose: format!("uplinks {}", group.name),
            first: group.rule_priority,
            last: group.rule_priority + RULE_PRIORITIES - 1,
            families: families(&group.routes),
            everything: everything(&group.routes),
            main: false,
            marks: Some(Marks {
                mask: group.fwmark_mask,
                uplinks: group.links.iter().map(|link| link.name.clone()).collect(),
            }),
        });
        // Nobody's packets are led to a table of another number, unless somebody says so.
        let peers = config.peers.iter().filter(|peer| peer.table == MAIN_TABLE).map(|peer| {
            let main = matches!(peer.actuation, RouteBackend::Routes | RouteBackend::Nexthop);
            let first = if main { MAIN_RULE_PRIORITY } else { peer.range.rule_priority };
            Self {
                whose: format!("peer {}", peer.name),
                first,
                last: if main { first } else { first + PRIORITIES - 1 },
                families: families(&peer.routes),
                everything: everything(&peer.routes),
                main,
                marks: None,
            }
        });
        uplinks.chain(peers).collect()
    }
}

/// What rules of others do to what is ours: one trouble for each rule and each thing that it does, the first of them.
pub(crate) fn judge(policy: &Policy, claims: &[Claim]) -> Vec<Trouble> {
    let judged = policy.rules.iter().filter(|rule| !matches!(rule.protocol, PROTOCOL | KERNEL));
    // The same rule in both families is one.
    let mut troubles: BTreeMap<(u32, String, String), Trouble> = BTreeMap::new();
    for rule in judged {
        let of_family: Vec<&Claim> = claims.iter().filter(|claim| claim.families.contains(&rule.family)).collect();
        let found = Judge { policy, claims: &of_family, rule }.all();
        for (effect, remedy, among) in found {
            let key = (rule.priority, rule.to_string(), effect.clone());
            let families = BTreeSet::new();
            let trouble = Trouble { rule: rule.to_string(), families, effect, remedy, among };
            troubles.entry(key).or_insert(trouble).families.insert(rule.family);
        }
    }
    troubles.into_values().take(MAX_TROUBLES).collect()
}

/// One rule of somebody else's.
struct Judge<'a> {
    policy: &'a Policy,
    /// Those of the rule's family.
    claims: &'a [&'a Claim],
    rule: &'a AnyRule,
}

/// What it does, the remedy, and whether it stands among ours.
type Found = (String, String, bool);

impl Judge<'_> {
    fn all(&self) -> Vec<Found> {
        let places = [self.before(), self.keeps(), self.behind(), self.among()];
        places.into_iter().flatten().chain(self.marks()).collect()
    }

    /// Claims that it stands before.
    fn ahead(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().copied().filter(|claim| self.rule.priority < claim.first)
    }

    /// It takes everything that ours were to route.
    fn before(&self) -> Option<Found> {
        let rule = self.rule;
        if !takes_everything(rule) {
            return None;
        }
        let lost = self.ahead().filter(|claim| match rule.deed {
            Deed::Table(table) => self.policy.leads(rule.family, table) && !self.passes(claim),
            Deed::Goto(priority) => priority > claim.last,
            Deed::Refuse(_) => true,
            Deed::Nop | Deed::Other => false,
        });
        let lost: Vec<&Claim> = lost.collect();
        let first = lost.iter().map(|claim| claim.first).min()?;
        let what = match rule.mark {
            Some((mark, _)) => format!("all traffic without the mark {mark:#x}, the LAN's too,"),
            None => "all traffic".to_owned(),
        };
        let goes = match rule.deed {
            Deed::Table(table) => format!("is routed by table {}", table_name(table)),
            Deed::Goto(priority) => format!("goes on at priority {priority}"),
            _ => "is refused there".to_owned(),
        };
        let effect = format!("{what} {goes}, before it comes to {}", listed(&lost));
        Some((effect, remedy::before(self, &lost, first), false))
    }

    /// Routes of the main table that are not the default one are asked before it.
    fn passes(&self, claim: &Claim) -> bool {
        let asked = |other: &AnyRule| {
            other.family == self.rule.family
                && other.priority < self.rule.priority
                && other.deed == Deed::Table(MAIN_TABLE)
                && selects_nothing(other)
                && other.mark.is_none()
                && other.suppress_prefix_len.is_none_or(|length| length == 0)
        };
        claim.main && !claim.everything.contains(&self.rule.family) && self.policy.rules.iter().any(asked)
    }

    /// It keeps one program's packets on the main table's default route, whichever link carries that.
    fn keeps(&self) -> Option<Found> {
        let rule = self.rule;
        if !is_tailscale(rule) || rule.deed != Deed::Table(MAIN_TABLE) || rule.mark != Some(TAILSCALE_MARK) {
            return None;
        }
        let uplinks = |claim: &&Claim| claim.marks.is_some() && claim.everything.contains(&rule.family);
        let first = self.ahead().filter(uplinks).map(|claim| claim.first).min()?;
        if self.policy.rules.iter().any(|other| sends_back(other, rule, first)) {
            return None;
        }
        let effect = if self.policy.leads(rule.family, MAIN_TABLE) {
            "Tailscale's own packets follow the default route of the main table: when that uplink is down they stay on it"
        } else {
            "Tailscale's own packets follow the main table, which has no default route: they reach nobody"
        };
        let (mark, mask) = TAILSCALE_MARK;
        let word = if rule.family == Family::V6 { "ip -6" } else { "ip" };
        let at = TAILSCALE_PRIORITIES.start() - 10;
        let remedy = format!(
            "{word} rule add priority {at} fwmark {mark:#x}/{mask:#x} goto {first}, at each boot: they go by the uplinks as \
             everything does (`rule-priority`)"
        );
        Some((effect.to_owned(), remedy, false))
    }

    /// It is never asked: ours take everything.
    fn behind(&self) -> Option<Found> {
        let rule = self.rule;
        let standard = matches!(rule.deed, Deed::Table(table) if STANDARD_TABLES.contains(&table));
        if standard || matches!(rule.deed, Deed::Nop | Deed::Other | Deed::Goto(_)) {
            return None;
        }
        let taking =
            |claim: &&Claim| !claim.main && claim.everything.contains(&rule.family) && rule.priority > claim.last;
        let ours: Vec<&Claim> = self.claims.iter().copied().filter(taking).collect();
        if ours.is_empty() {
            return None;
        }
        let lost = match rule.deed {
            Deed::Table(table) if is_tunnel(rule) => {
                format!("what table {table} was to lead into a tunnel leaves in the clear")
            }
            Deed::Table(table) => format!("table {} is never asked", table_name(table)),
            _ => "it refuses nothing".to_owned(),
        };
        let effect = format!("{} take all traffic before it, and {lost}", listed(&ours));
        Some((effect, remedy::behind(self, &ours), false))
    }

    fn among(&self) -> Option<Found> {
        let inside = |claim: &&&Claim| !claim.main && (claim.first..=claim.last).contains(&self.rule.priority);
        let claim = self.claims.iter().find(inside)?;
        let effect = format!(
            "it stands among ours ({} to {}, {}), and is asked between them",
            claim.first, claim.last, claim.whose
        );
        Some((effect, remedy::among(self, claim), true))
    }

    /// Its mark and ours share bits.
    fn marks(&self) -> Vec<Found> {
        let Some((mark, mask)) = self.rule.mark else { return Vec::new() };
        let claims = self.claims.iter().filter_map(|claim| Some((*claim, claim.marks.as_ref()?)));
        let overlapping = claims.filter(|(_, ours)| ours.mask & mask != 0);
        let found = overlapping.filter_map(|(claim, ours)| {
            let theirs = mark & mask & ours.mask;
            let effect = if theirs != 0 {
                let number = theirs >> ours.mask.trailing_zeros();
                let uplink = usize::try_from(number - 1).ok().and_then(|at| ours.uplinks.get(at));
                let packets = format!("packets that carry its mark {mark:#x} have bits of ours ({:#x})", ours.mask);
                match uplink {
                    Some(name) => format!(
                        "{packets}: they are taken for uplink {name}'s ({}), and what is marked for that one for its",
                        claim.whose
                    ),
                    None => format!(
                        "{packets}: they count as sent by choice, so {} neither translate them nor move them when an \
                         uplink dies",
                        claim.whose
                    ),
                }
            } else if self.rule.priority < claim.first {
                let then =
                    if self.rule.inverted { "matches every packet, its own too" } else { "matches none of them" };
                format!(
                    "it compares bits of the mark that are ours ({:#x}): once {} have chosen an uplink, it {then}",
                    ours.mask, claim.whose
                )
            } else {
                // It is not asked before our bits have decided.
                return None;
            };
            Some((effect, remedy::marks(self), false))
        });
        found.collect()
    }

    /// Bits for our marks that no rule of others compares to something of its own.
    fn free_mask(&self) -> Option<u32> {
        let foreign = self.policy.rules.iter().filter(|rule| rule.protocol != PROTOCOL);
        let marks: Vec<(u32, u32)> = foreign.filter_map(|rule| rule.mark).collect();
        let taken = marks.iter().fold(0, |taken, (mark, mask)| taken | if *mask == u32::MAX { *mark } else { *mask });
        [0xff00, 0xff_0000, 0xff00_0000, 0xff, 0xf_0000, 0xf00].into_iter().find(|mask| mask & taken == 0)
    }
}

/// Whose these are, for people.
fn listed(claims: &[&Claim]) -> String {
    let names: Vec<&str> = claims.iter().map(|claim| claim.whose.as_str()).take(MAX_TROUBLES).collect();
    names.join(", ")
}

/// No selector, marks aside.
fn selects_nothing(rule: &AnyRule) -> bool {
    let any = |prefix: &Option<ipnet::IpNet>| prefix.is_none_or(|prefix| prefix.prefix_len() == 0);
    any(&rule.from)
        && any(&rule.to)
        && rule.incoming.is_none()
        && rule.bound_to.is_none()
        && rule.ip_protocol.is_none()
        && rule.source_ports.is_none()
        && rule.ports.is_none()
        && rule.users.is_none()
        && !rule.obscure
}

/// Whether what has no mark meets it, and nothing is suppressed.
fn takes_everything(rule: &AnyRule) -> bool {
    let unmarked = match rule.mark {
        None => !rule.inverted,
        Some((mark, mask)) => (mark & mask == 0) != rule.inverted,
    };
    selects_nothing(rule) && unmarked && rule.suppress_prefix_len.is_none()
}

/// The shape of wg-quick(8) for a tunnel that takes everything: what does not carry the tunnel's mark goes to the table of
/// that number.
fn is_tunnel(rule: &AnyRule) -> bool {
    rule.inverted && matches!((rule.mark, rule.deed), (Some((mark, u32::MAX)), Deed::Table(table)) if mark == table)
}

fn is_tailscale(rule: &AnyRule) -> bool {
    TAILSCALE_PRIORITIES.contains(&rule.priority) && (rule.mark == Some(TAILSCALE_MARK) || rule.deed == Deed::Table(52))
}

/// Whether `other` sends what `rule` would keep on to our first rule.
fn sends_back(other: &AnyRule, rule: &AnyRule, first: u32) -> bool {
    other.family == rule.family
        && other.priority < rule.priority
        && other.deed == Deed::Goto(first)
        && other.mark == rule.mark
        && other.inverted == rule.inverted
        && selects_nothing(other)
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
