//! Pure: from what a group wants to the routes that shall stand, and from there to the messages.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Egress, GroupRoutes, MAX_BACKUPS, Nexthop, Route, RouteKey, canonical, effective_metric, serves};

/// The routes of a group as they shall stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Place to where it leads.
    pub(super) routes: BTreeMap<RouteKey, Egress>,
    /// For each prefix the place that carries its traffic, where it has one: the lowest metric.
    pub(super) leads: BTreeMap<IpNet, Option<RouteKey>>,
}

impl Wanted {
    pub(super) fn of(desired: &GroupRoutes) -> Self {
        let mut wanted = Self::default();
        for prefix in desired.prefixes.iter() {
            let prefix = prefix.trunc();
            let base = effective_metric(&prefix, desired.metric);
            if let Some(objects) = &desired.objects {
                let key = RouteKey { table: desired.table, prefix, metric: base };
                let object = objects.serving(&prefix);
                wanted.leads.insert(prefix, object.map(|_| key));
                wanted.routes.extend(object.map(|id| (key, Egress::Object(id))));
                continue;
            }
            let usable = |nexthop: &Nexthop| nexthop.ifindex != 0 && serves(nexthop.gateway, &prefix);
            let active = canonical(desired.active.iter().copied().filter(usable));
            let backups = desired.backups.iter().copied().filter(usable).map(|nexthop| canonical([nexthop]));
            // Backups keep their distance from the configured metric also where no active link can serve the prefix.
            let ranks = (0u32..).zip(std::iter::once(active).chain(backups.take(MAX_BACKUPS as usize)));
            let mut lead = None;
            for (rank, nexthops) in ranks {
                let Some(metric) = base.checked_add(rank).filter(|_| !nexthops.is_empty()) else { continue };
                let key = RouteKey { table: desired.table, prefix, metric };
                lead.get_or_insert(key);
                wanted.routes.insert(key, Egress::Nexthops(nexthops));
            }
            wanted.leads.insert(prefix, lead);
        }
        wanted
    }

    /// Whether the place carries its prefix's traffic.
    pub(super) fn is_lead(&self, key: &RouteKey) -> bool {
        self.leads.get(&key.prefix).is_some_and(|lead| lead.as_ref() == Some(key))
    }

    /// Routes to write, those that carry traffic first. `skip`: places to leave alone.
    pub(super) fn writes<'a>(
        &'a self,
        standing: impl Fn(&RouteKey) -> Option<&'a Egress>,
        skip: impl Fn(&RouteKey) -> bool,
    ) -> Vec<(Route, bool)> {
        let differing = self.routes.iter().filter_map(|(key, egress)| {
            let now = standing(key);
            let differs = now != Some(egress) && !skip(key);
            differs.then(|| (Route { key: *key, egress: egress.clone() }, now.is_some()))
        });
        let (mut leads, backups): (Vec<_>, Vec<_>) = differing.partition(|(route, _)| self.is_lead(&route.key));
        leads.extend(backups);
        leads
    }

    /// Of the places that the group holds, those that it holds in vain. A prefix that is still wanted keeps everything
    /// until one of its wanted routes stands; but for what is behind a place that is `refused`, where somebody else's route
    /// carries its traffic.
    pub(super) fn stale(&self, held: &BTreeMap<RouteKey, Egress>, refused: impl Fn(&RouteKey) -> bool) -> Vec<Route> {
        let served: BTreeSet<IpNet> = self
            .routes
            .iter()
            .filter(|(key, egress)| held.get(key) == Some(egress))
            .map(|(key, _)| key.prefix)
            .collect();
        let behind = |key: &RouteKey| {
            let lead = self.leads.get(&key.prefix).and_then(Option::as_ref);
            lead.is_some_and(|lead| lead.table == key.table && lead.metric < key.metric && refused(lead))
        };
        held.iter()
            .filter(|(key, _)| !self.routes.contains_key(key))
            .filter(|(key, _)| !self.leads.contains_key(&key.prefix) || served.contains(&key.prefix) || behind(key))
            .map(|(key, egress)| Route { key: *key, egress: egress.clone() })
            .collect()
    }
}
