//! From a configuration to what runs: at the start and at each reload.

use tracing::{info, warn};

use super::{
    claims::{FormerGroup, Numbers},
    core::Core,
    group::Group,
    links::Link,
    registry::Numbered,
    uplinks::{self, UplinkGroup, Uplinks},
};
use crate::{
    clock,
    config::{Config, UplinksConfig},
    event::{Event, GroupId, GroupSpec, LinkId},
    probe::Order,
    route::{Nexthop, RouteSink as _},
};

impl Core {
    /// Makes a configuration the running one. Links that it does not change go on as they are.
    pub(super) async fn configure(&mut self, config: Config) -> Result<(), String> {
        let Numbered { peers: mut specs, uplinks, removed } =
            self.registry.number(&config, self.slots, self.former.all())?;
        for id in removed {
            if let Some(mut link) = self.links.remove(&id) {
                if let Some(running) = link.running.take() {
                    self.attacher.stop(&link, &running);
                }
                self.order(Order::Remove(id));
            }
        }
        let kept: Vec<GroupId> = specs.iter().map(|spec| spec.id).collect();
        self.former.take_back(&kept);
        let gone: Vec<GroupId> = self.groups.keys().copied().filter(|id| !kept.contains(id)).collect();
        for id in gone {
            // Its routes carry what another group may have from now on, until that one's stand.
            if let Some(group) = self.groups.remove(&id) {
                self.routes.give_up(clock::now_ns(), id);
                let former = FormerGroup { id, name: group.config.name, range: group.config.range };
                self.former.give_up(clock::now_ns(), former);
            }
        }
        let numbers = self.claim(&config);
        self.former.struck_out = false;
        for (spec, peer) in specs.iter().zip(&config.peers) {
            match self.groups.get_mut(&spec.id) {
                Some(group) => group.configure(peer.clone()),
                None => drop(self.groups.insert(spec.id, Group::new(spec.id, peer.clone()))),
            }
            if let Some(group) = self.groups.get_mut(&spec.id) {
                group.links = spec.links.iter().map(|link| link.id).collect();
            }
            for (link_spec, link_config) in spec.links.iter().zip(&peer.links) {
                let fresh = Link::new(link_spec.id, spec.id, peer, link_config);
                match self.links.get_mut(&link_spec.id) {
                    None => drop(self.links.insert(link_spec.id, fresh)),
                    Some(link) => {
                        let limits = (link.limits != fresh.limits).then_some(fresh.limits);
                        let rekeyed = link.take_over(fresh);
                        if rekeyed && let Some(running) = &link.running {
                            let keys = link.keys(running);
                            self.attacher.rekey(link, &keys);
                            self.order(Order::Keys { link: link_spec.id, keys });
                        }
                        if let Some(limits) = limits {
                            self.order(Order::Limits { link: link_spec.id, limits });
                        }
                    }
                }
            }
            self.rerouted.insert(spec.id);
        }
        self.configure_uplinks(&config.uplinks, &uplinks, numbers).await?;
        self.uplinks_touched = true;
        specs.extend(uplinks);
        self.orders.stand(&mut specs);
        self.config = config;
        let listen = self.config.metrics.map(|metrics| metrics.listen);
        self.metrics_at.send_if_modified(|known| std::mem::replace(known, listen) != listen);
        // Whoever serves them looks what has changed.
        self.notifiers.send_replace(self.config.notifiers.as_slice().into());
        self.counters.retain(&specs.iter().flat_map(names).collect());
        self.engine.handle(clock::now_ns(), Event::Configure(specs));
        // What is to be said of each link stands in the tables before its first packet leaves.
        self.carry_out().await;
        self.follow_interfaces(clock::now_ns());
        self.attacher.drop_inherited();
        self.adopt().await;
        self.restore_unused();
        self.step().await;
        Ok(())
    }

    /// Settings of interfaces that no link uses any more are as they were before us.
    fn restore_unused(&mut self) {
        let peers = self.config.peers.iter().flat_map(|peer| &peer.links).map(|link| link.interface.as_str());
        let uplinks = self.config.uplinks.iter().flat_map(|group| &group.links).map(|link| link.interface.as_str());
        for said in self.sysctls.restore_except(&peers.chain(uplinks).collect()) {
            warn!("{said}");
        }
    }

    /// Makes these the running groups of uplinks. Their threads start with the first group, and stay.
    async fn configure_uplinks(
        &mut self,
        configs: &[UplinksConfig],
        specs: &[GroupSpec],
        numbers: Vec<Numbers>,
    ) -> Result<(), String> {
        if self.uplinks.is_none() {
            // What a former run with uplinks left is removed by the same thread.
            if configs.is_empty() && self.ledger.lock().former().uplinks.is_empty() {
                return Ok(());
            }
            let instance = self.config.daemon.instance.as_deref();
            let started = Uplinks::start(instance, self.ledger.clone(), &self.watch, self.uplink_reports.clone());
            self.uplinks = Some(started.map_err(|error| format!("{error:#}"))?);
        }
        let mut groups = Vec::new();
        for ((spec, config), numbers) in specs.iter().zip(configs).zip(numbers) {
            let links: Vec<LinkId> = spec.links.iter().map(|link| link.id).collect();
            let known = numbers.numbers.clone();
            groups.push(uplinks::Configured { id: spec.id, config: config.clone(), links: links.clone(), numbers });
            match self.uplink_groups.get_mut(&spec.id) {
                Some(group) => (group.config, group.links, group.numbers) = (config.clone(), links, known),
                None => {
                    let group = UplinkGroup::new(spec.id, config.clone(), links, known);
                    self.uplink_groups.insert(spec.id, group);
                }
            }
        }
        self.uplink_groups.retain(|id, _| specs.iter().any(|spec| spec.id == *id));
        if let Some(uplinks) = &self.uplinks {
            uplinks.order(uplinks::Order::Configure(groups)).await;
        }
        Ok(())
    }

    /// Tells the engine where the kernel's routes send each group's traffic already.
    async fn adopt(&mut self) {
        let now_ns = clock::now_ns();
        for (id, group) in self.groups.iter().filter(|(_, group)| group.plan.is_none()) {
            // What is served already is known better than the kernel could tell it: that of a group that has come back.
            if self.routes.serves(*id) {
                continue;
            }
            let links = group.links.iter().filter_map(|link| Some((*link, self.nexthop(*link, 1)?)));
            let links: Vec<(LinkId, Nexthop)> = links.collect();
            let mut base = self.base_routes(group);
            base.links.extend(self.former_ways(group));
            let adopted = self.routes.adopt(now_ns, *id, &base).await;
            let same = |a: &Nexthop, b: &Nexthop| (a.ifindex, a.gateway) == (b.ifindex, b.gateway);
            let carrying: Vec<LinkId> = links
                .iter()
                .filter(|(_, nexthop)| adopted.active.iter().any(|active| same(active, nexthop)))
                .map(|(link, _)| *link)
                .collect();
            if !carrying.is_empty() {
                info!("{}: {} routes of an earlier run are taken over", group.config.name, adopted.routes);
                self.engine.handle(now_ns, Event::Adopted { group: *id, links: carrying });
            }
        }
        if std::mem::take(&mut self.former.untouched) {
            self.adopt_former().await;
        }
    }
}

/// A group's links, by name.
fn names(group: &GroupSpec) -> impl Iterator<Item = (String, String)> {
    group.links.iter().map(|link| (group.name.clone(), link.name.clone()))
}
