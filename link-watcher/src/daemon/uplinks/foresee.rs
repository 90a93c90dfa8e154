//! What would become of a group of uplinks, and what is meant for an address.

use super::{UplinkGroup, core::decision, release};
use crate::{
    config::{ForceConfig, Protocol},
    control::{Forced, LinkMark, Marked},
    engine::{self, GroupStatus},
    event::{LinkId, Plan},
};

impl UplinkGroup {
    /// What would become of connections where the group stood as in `then`, by the rule that the worker follows: uplinks whose
    /// connections would be released, and `link`.
    pub(in crate::daemon) fn fates(&self, link: LinkId, now: &engine::Step, then: &engine::Step) -> Vec<Marked> {
        let decided = |status: &GroupStatus, plan: &Option<Plan>| plan.as_ref().map(|plan| decision(status, plan));
        let (Some(before), Some(after)) = (decided(&now.status, &now.plan), decided(&then.status, &then.plan)) else {
            return Vec::new();
        };
        let moves = self.config.moves_connections();
        let mut fates = Vec::new();
        for mark in self.marks() {
            let Some((id, _)) = self.uplinks().find(|(_, config)| config.name == mark.link) else { continue };
            let released = release::follows(&before, &after, id, moves);
            if released || id == link {
                fates.push(Marked { link: mark.link, mark: mark.mark, mask: mark.mask, released });
            }
        }
        fates
    }

    /// What the configuration forces to a link that then stands as in `then`; nothing where it may go there.
    pub(in crate::daemon) fn forced(&self, link: LinkId, then: &engine::Step) -> Vec<Forced> {
        let usable = then.plan.as_ref().is_some_and(|plan| decision(&then.status, plan).takes_forced(link));
        let name = self.uplinks().find(|(id, _)| *id == link).map(|(_, config)| config.name.as_str());
        let forces = self.config.force.iter().filter(|force| !usable && Some(force.link.as_str()) == name);
        forces.map(|force| Forced { what: in_words(force), others_take_it: force.or_others }).collect()
    }

    /// What names each uplink in the kernel.
    pub(in crate::daemon) fn marks(&self) -> Vec<LinkMark> {
        let desired = self.desired();
        let mark = |uplink: &crate::uplink::Uplink| LinkMark {
            link: uplink.name.clone(),
            mark: desired.mark(uplink),
            mask: desired.fwmark_mask,
            table: desired.table(uplink),
            sources: uplink.sources().collect(),
        };
        desired.uplinks.iter().map(mark).collect()
    }
}

/// Which connections a rule is about, as the configuration says it.
fn in_words(force: &ForceConfig) -> String {
    let protocol = force.protocol.map(|protocol| match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
    });
    let mut words: Vec<String> = protocol.map(str::to_owned).into_iter().collect();
    words.extend(force.ports.as_ref().map(|ports| match (ports.start(), ports.end()) {
        (first, last) if first == last => format!("port {first}"),
        (first, last) => format!("ports {first}-{last}"),
    }));
    words.extend(force.source.map(|source| format!("from {source}")));
    words.extend(force.destination.map(|destination| format!("to {destination}")));
    if words.is_empty() { "every connection".to_owned() } else { words.join(" ") }
}
