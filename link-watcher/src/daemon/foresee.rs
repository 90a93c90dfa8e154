//! Questions whose answers change nothing: what would be, and what is meant. What decides answers them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{core::Core, group::Group};
use crate::{
    address::longest_match,
    clock,
    config::WhenAllDown,
    control::{Becomes, Course, Forecast, Intent, Knowledge, Question, Share},
    engine::{GroupStatus, LinkStatus, Step, Supposed},
    event::{GroupId, LinkVerdict, Plan},
};

/// Prefixes of a group that an answer lists.
const MAX_PREFIXES_SHOWN: usize = 8;

impl Core {
    pub(super) fn answer(&self, question: &Question) -> Result<Knowledge, String> {
        match question {
            Question::WhatIf { group, link, becomes } => {
                self.what_if(group, link, *becomes).map(|forecast| Knowledge::WhatIf(Box::new(forecast)))
            }
            Question::Intent { to } => Ok(Knowledge::Intent(self.intents(*to))),
        }
    }

    fn what_if(&self, group: &str, link: &str, becomes: Becomes) -> Result<Forecast, String> {
        let (id, link_id) = self.find_link(group, link)?;
        let supposed = match becomes {
            Becomes::Down => Supposed::Down,
            Becomes::Drained => Supposed::Drained,
            Becomes::Up => Supposed::Up,
        };
        let peer = self.groups.get(&id);
        // A peer may have a million of them: the list is shared, not copied.
        let of_peer = peer.map(Group::prefixes);
        let of_uplinks = || self.uplink_groups.get(&id).map_or(&[][..], |uplinks| uplinks.config.routes.as_slice());
        let prefixes = of_peer.as_deref().unwrap_or_else(of_uplinks);
        let mut forecast = Forecast {
            group: group.to_owned(),
            kind: if peer.is_some() { "peer" } else { "uplinks" }.to_owned(),
            link: link.to_owned(),
            prefixes: prefixes.len(),
            first_prefixes: prefixes.iter().take(MAX_PREFIXES_SHOWN).copied().collect(),
            ..Forecast::default()
        };
        let now_ns = clock::now_ns();
        let foreseen = match self.engine.what_if(now_ns, link_id, supposed) {
            Ok(foreseen) => foreseen,
            Err(why) => {
                let status = self.engine.status(now_ns).into_iter().find(|status| status.id == id);
                if let Some(status) = status {
                    let plan = self.groups.get(&id).and_then(|group| group.plan.clone());
                    forecast.now = self.course(id, &Step { after_ns: 0, status, plan });
                }
                forecast.refused = Some(why);
                return Ok(forecast);
            }
        };
        forecast.now = self.course(id, &foreseen.now);
        forecast.then = foreseen.steps.iter().map(|step| self.course(id, step)).collect();
        if let (Some(uplinks), Some(last)) = (self.uplink_groups.get(&id), foreseen.steps.last()) {
            forecast.connections = uplinks.fates(link_id, &foreseen.now, last);
            forecast.forced = uplinks.forced(link_id, last);
        }
        Ok(forecast)
    }

    fn course(&self, id: GroupId, step: &Step) -> Course {
        let all_down = step.plan.as_ref().is_none_or(|plan| plan.all_down);
        // A link that is out of service may answer, but carries nothing.
        let carries = |link: &LinkStatus| {
            step.status.active.contains(&link.id) && !matches!(link.verdict, LinkVerdict::Down | LinkVerdict::Absent)
        };
        let without_a_way = !step.status.links.iter().any(carries);
        let withdraws = self.groups.get(&id).is_some_and(|group| group.config.when_all_down == WhenAllDown::Withdraw);
        let spares = step.plan.iter().flat_map(|plan: &Plan| &plan.backups);
        Course {
            after_s: step.after_ns as f64 / 1e9,
            active: self.shares(&step.status),
            reason: step.status.reason.clone(),
            without_a_way,
            withdrawn: all_down && withdraws,
            spares: spares.map(|link| self.link_name(*link)).collect(),
        }
    }

    fn shares(&self, status: &GroupStatus) -> Vec<Share> {
        let active = status.links.iter().filter(|link| status.active.contains(&link.id));
        active.map(|link| Share { link: self.link_name(link.id), share: link.share }).collect()
    }

    /// Each group that routes the address.
    fn intents(&self, to: IpAddr) -> Vec<Intent> {
        let serves = |prefix: &IpNet| prefix.prefix_len() > 0 && prefix.contains(&to);
        let left_to_peers = self.groups.values().any(|group| group.prefixes().iter().any(serves));
        let mut intents = Vec::new();
        for status in self.engine.status(clock::now_ns()) {
            let active = self.shares(&status);
            if let Some(group) = self.groups.get(&status.id) {
                let Some(prefix) = longest_match(&group.prefixes(), to) else { continue };
                let all_down = group.plan.as_ref().is_some_and(|plan| plan.all_down);
                intents.push(Intent {
                    group: group.config.name.clone(),
                    kind: "peer".to_owned(),
                    prefix,
                    withdrawn: all_down && group.config.when_all_down == WhenAllDown::Withdraw,
                    active,
                    ..Intent::default()
                });
            } else if let Some(group) = self.uplink_groups.get(&status.id)
                && let Some(prefix) = longest_match(&group.config.routes, to)
            {
                intents.push(Intent {
                    group: group.config.name.clone(),
                    kind: "uplinks".to_owned(),
                    prefix,
                    left_to_peers,
                    lan: group.config.lan.clone(),
                    rule_priority: Some(group.config.rule_priority),
                    active,
                    marks: group.marks(),
                    ..Intent::default()
                });
            }
        }
        intents
    }
}
