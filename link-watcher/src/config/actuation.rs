//! How a peer's routes are carried out: `actuation`, `table-base`, `rule-priority`. What is not given is chosen so that
//! nothing of this configuration is claimed twice.

use std::ops::Range;

use toml::Spanned;

use super::{
    diagnostic::Findings,
    peer::Peer,
    reference::{Key, Otherwise, Takes, words},
    section::Section,
    uplinks::{self, Uplinks},
};
use crate::route::{MAIN_RULE_PRIORITY, MAIN_TABLE, PRIORITIES, RouteBackend, TABLES, TableRange};

/// Where the peers' tables begin that are given by name, and how many blocks of [`TABLES`] there are.
const FIRST_BLOCK: u32 = 1_000_000;
const BLOCKS: u32 = 100_000;
/// First of the rules, where there are no uplinks: close before that of the main table, so that an
/// administrator's own come first.
const DEFAULT_RULE_PRIORITY: u32 = 32_600;
/// The rules of the main table and of the default table follow.
const MAX_RULE_PRIORITY: u32 = MAIN_RULE_PRIORITY - PRIORITIES;
/// `RT_TABLE_DEFAULT` to `RT_TABLE_LOCAL`.
const KERNELS_TABLES: Range<u32> = 253..256;

const CHOICES: [(&str, RouteBackend); 4] = [
    ("auto", RouteBackend::Auto),
    ("routes", RouteBackend::Routes),
    ("tables", RouteBackend::Tables),
    ("nexthop", RouteBackend::Nexthop),
];
/// Its keys in `[[peer]]`.
pub(super) const ACTUATION: Key = Key::new(
    "actuation",
    Takes::Words(&words(&CHOICES)),
    Otherwise::Text("auto"),
    "how routes are carried out: one by one, by a table a link and one rule, or by a nexthop object a link; `auto`: tables above 1,000 prefixes, routes \
     below 500",
);
pub(super) const TABLE_BASE: Key = Key::new(
    "table-base",
    Takes::Number(1..=u32::MAX - TABLES),
    Otherwise::Words("by the peer's name"),
    "the first of the 64 tables, and of as many nexthop objects, that are this peer's",
);
pub(super) const RULE_PRIORITY: Key = Key::new(
    "rule-priority",
    Takes::Number(1..=MAX_RULE_PRIORITY),
    Otherwise::Words("32600; with uplinks 100 before their first"),
    "the first of 100 policy rules, which peers may share",
);

/// What the file says.
pub(super) struct Actuation {
    pub(super) choice: RouteBackend,
    choice_at: Range<usize>,
    table_base: Option<Spanned<u32>>,
    rule_priority: Option<Spanned<u32>>,
    /// What it means; set by [`resolve`].
    pub(super) range: TableRange,
}

impl Actuation {
    pub(super) fn read(section: &Section<'_>) -> Self {
        Self {
            choice: section.choice("actuation", &CHOICES).unwrap_or_default(),
            choice_at: section.get("actuation").map_or_else(|| section.span(), Spanned::span),
            table_base: section.integer("table-base"),
            rule_priority: section.integer("rule-priority"),
            range: TableRange::default(),
        }
    }
}

/// Gives each peer its tables and rules, and reports what is claimed twice.
pub(super) fn resolve(peers: &mut [Peer<'_>], groups: &[Uplinks<'_>], findings: &Findings<'_>) {
    let mut claimed: Vec<(Range<u32>, String)> = vec![(KERNELS_TABLES, "the kernel's own".to_owned())];
    for group in groups {
        let name = group.name.as_ref().map_or("?", |name| name.get_ref());
        let (first, last) = uplinks::tables(group);
        claimed.push((first..last.saturating_add(1), format!("those of the uplinks \"{name}\"")));
    }
    for peer in peers.iter().filter(|peer| peer.table != MAIN_TABLE) {
        claimed.push((peer.table..peer.table.saturating_add(1), format!("`table` of peer \"{}\"", peer.called())));
    }
    let overlapping = |claimed: &[(Range<u32>, String)], base: u32| {
        let hit = claimed.iter().find(|(range, _)| base < range.end && range.start < base + TABLES);
        hit.map(|(range, whose)| (range.clone(), whose.clone()))
    };
    for peer in peers.iter_mut() {
        let Some(table_base) = &peer.actuation.table_base else { continue };
        let base = *table_base.get_ref();
        if let Some((range, whose)) = overlapping(&claimed, base) {
            findings.error(
                &table_base.span(),
                format!(
                    "tables {base} to {} are this peer's, and {} to {} are {whose}",
                    base + TABLES - 1,
                    range.start,
                    range.end - 1
                ),
                format!("a peer has {TABLES} tables: leave `table-base` out, or take other numbers"),
            );
        }
        claimed.push((base..base + TABLES, format!("those of peer \"{}\"", peer.called())));
        peer.actuation.range.table_base = base;
    }
    // By name, so that they stay the same where peers come, go or change places. In the order of the names, so that
    // two that meet are told apart the same way each time.
    let mut unnamed: Vec<&mut Peer<'_>> = peers.iter_mut().filter(|peer| peer.actuation.table_base.is_none()).collect();
    unnamed.sort_by(|a, b| a.called().cmp(b.called()));
    let mut taken: std::collections::BTreeSet<u32> = std::collections::BTreeSet::new();
    for peer in unnamed {
        let mut block = hash(peer.called()) % BLOCKS;
        // More peers than blocks there cannot be: a link has a slot in a map.
        while taken.contains(&block) || overlapping(&claimed, FIRST_BLOCK + block * TABLES).is_some() {
            block = (block + 1) % BLOCKS;
        }
        taken.insert(block);
        peer.actuation.range.table_base = FIRST_BLOCK + block * TABLES;
    }
    priorities(peers, groups, findings);
    for peer in peers.iter().filter(|peer| peer.actuation.choice == RouteBackend::Nexthop) {
        if let Some(priority) = &peer.actuation.rule_priority {
            findings.error(
                &priority.span(),
                "`rule-priority` means nothing with `actuation` = \"nexthop\", which makes no rules".to_owned(),
                "leave one of the two out",
            );
        }
    }
    for peer in peers.iter().filter(|peer| peer.actuation.choice == RouteBackend::Tables && peer.table != MAIN_TABLE) {
        findings.error(
            &peer.actuation.choice_at,
            format!("`actuation` cannot be \"tables\" with table = {}", peer.table),
            "rules lead everybody's packets to the tables, not only what is looked up there: leave one of the two out",
        );
    }
}

/// The uplinks' last rule catches everything, so that ours come before their first.
fn priorities(peers: &mut [Peer<'_>], uplinks: &[Uplinks<'_>], findings: &Findings<'_>) {
    let first_uplinks = uplinks.iter().map(|group| *group.rule_priority.get_ref()).min();
    for peer in peers {
        let default = first_uplinks.map_or(DEFAULT_RULE_PRIORITY, |first| first.saturating_sub(PRIORITIES).max(1));
        let priority = peer.actuation.rule_priority.as_ref();
        let first = priority.map_or(default, |priority| *priority.get_ref());
        peer.actuation.range.rule_priority = first;
        let serves = matches!(peer.actuation.choice, RouteBackend::Auto | RouteBackend::Tables);
        if let Some(theirs) = first_uplinks.filter(|theirs| serves && first + PRIORITIES > *theirs) {
            let at = priority.map_or_else(|| peer.section.span(), Spanned::span);
            findings.error(
                &at,
                format!(
                    "rules {first} to {} are this peer's, and those of the uplinks begin at {theirs}: they would catch \
                     the peer's packets",
                    first + PRIORITIES - 1
                ),
                format!("give the uplinks a `rule-priority` of {} or more", first + PRIORITIES),
            );
        }
    }
}

/// FNV-1a, 32 bits: the same in every version.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
