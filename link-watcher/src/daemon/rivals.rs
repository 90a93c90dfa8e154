//! Peers with the same prefixes: what one whose links are all dead leaves to those that are alive.

use ipnet::IpNet;
use tracing::warn;

use super::core::Core;
use crate::event::GroupId;

/// A group, as far as others with the same prefixes are concerned.
#[derive(Clone, Copy)]
struct Claimant<'a> {
    id: GroupId,
    /// Its routing table.
    table: u32,
    /// Lowest is first.
    metric: u32,
    /// In order.
    prefixes: &'a [IpNet],
    /// One of its links works.
    alive: bool,
}

/// What a dead group leaves, in order, and to which: of several the one that is first by metric.
fn conceded(dead: &Claimant<'_>, others: &[Claimant<'_>]) -> Vec<(IpNet, GroupId)> {
    let mut heirs: Vec<&Claimant<'_>> =
        others.iter().filter(|other| other.alive && other.id != dead.id && other.table == dead.table).collect();
    heirs.sort_by_key(|heir| (heir.metric, heir.id));
    if heirs.is_empty() {
        return Vec::new();
    }
    let heir = |prefix: &IpNet| heirs.iter().find(|heir| heir.prefixes.binary_search(prefix).is_ok());
    dead.prefixes.iter().filter_map(|prefix| Some((*prefix, heir(prefix)?.id))).collect()
}

impl Core {
    /// Has each group whose links are all dead leave what living ones have as well, and take it back behind them. Routes follow
    /// in this round.
    pub(super) fn concede(&mut self) {
        if !std::mem::take(&mut self.contested) && self.rerouted.is_empty() {
            return;
        }
        let dead = self.groups.values().any(|group| group.is_dead() || !group.conceded().is_empty());
        if !dead {
            return;
        }
        let lists: Vec<_> = self.groups.values().map(|group| (group, group.prefixes())).collect();
        let claimants: Vec<Claimant<'_>> = lists
            .iter()
            .map(|(group, prefixes)| Claimant {
                id: group.id,
                table: group.config.table,
                metric: group.config.metric,
                prefixes,
                alive: group.is_alive(),
            })
            .collect();
        let found: Vec<_> = lists
            .iter()
            .zip(&claimants)
            .map(|((group, _), claimant)| {
                let left = if group.is_dead() { conceded(claimant, &claimants) } else { Vec::new() };
                (claimant.id, left)
            })
            .collect();
        drop(claimants);
        drop(lists);
        for (id, left) in found {
            let first = left.first().map(|(prefix, heir)| (*prefix, self.group_name(*heir), left.len()));
            let heirs: Vec<GroupId> = left.iter().map(|(_, heir)| *heir).collect();
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if !group.concede(left) {
                continue;
            }
            if let Some((prefix, heir, count)) = first {
                let more = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
                warn!("{}: no link works: {prefix} is left to {heir}{more}", group.config.name);
            }
            self.rerouted.insert(id);
            self.rerouted.extend(heirs);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const DEAD: GroupId = GroupId(0);

    fn left(dead: &[&str], others: &[(u32, u32, bool, &[&str])]) -> Vec<(String, u32)> {
        let nets = |list: &[&str]| -> Vec<IpNet> { list.iter().map(|net| net.parse().unwrap()).collect() };
        let lists: Vec<Vec<IpNet>> = others.iter().map(|(.., list)| nets(list)).collect();
        let mut claimants: Vec<Claimant<'_>> = (1..)
            .zip(others.iter().zip(&lists))
            .map(|(id, ((table, metric, alive, _), prefixes))| Claimant {
                id: GroupId(id),
                table: *table,
                metric: *metric,
                prefixes,
                alive: *alive,
            })
            .collect();
        let own = nets(dead);
        let dead = Claimant { id: DEAD, table: 254, metric: 0, prefixes: &own, alive: false };
        claimants.push(dead);
        conceded(&dead, &claimants).into_iter().map(|(net, heir)| (net.to_string(), heir.0)).collect()
    }

    #[test]
    fn what_a_living_group_has_as_well_is_left_to_the_first_by_metric() {
        let own = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"];
        let both: &[&str] = &["10.1.0.0/16", "10.2.0.0/16"];
        let left = left(&own, &[(254, 10, true, both), (254, 5, true, &["10.2.0.0/16", "10.9.0.0/16"])]);
        assert_eq!(left, [("10.1.0.0/16".to_owned(), 1), ("10.2.0.0/16".to_owned(), 2)]);
    }

    #[test]
    fn nothing_is_left_to_the_dead_to_another_table_or_to_what_only_lies_around_it() {
        let own = ["10.1.0.0/16"];
        let same: &[&str] = &["10.1.0.0/16"];
        assert_eq!(left(&own, &[(254, 0, false, same), (77, 0, true, same), (254, 0, true, &["10.0.0.0/8"])]), []);
    }
}
