//! What happens in the kernel: links come, go and change with their interfaces.

use std::sync::atomic::Ordering::{Relaxed, Release};

use link_watcher_common::maps::Party;
use tracing::{info, warn};

use super::{
    claims::peer_claim,
    core::Core,
    links::{Link, Running},
    publish::Cause,
};
use crate::{
    clock,
    config::PeerLinkConfig as LinkConfig,
    event::{Device, Event, LinkId},
    ledger::Way,
    probe::{Order, ProbedLink},
    random,
    route::RouteSink as _,
    system::{Interfaces, KernelEvent},
};

/// Least time without a sign of life of ours until the kernel's answers say that we are silent, ns: a daemon stalled for a
/// moment is none.
const MIN_LEASE_NS: u64 = 1_000_000_000;

impl Core {
    pub(super) fn kernel_event(&mut self, event: &KernelEvent) {
        let now_ns = clock::now_ns();
        if let Some(notice) = self.routes.observe(now_ns, event) {
            warn!("routes: {}", notice.say(&|id| self.group_name(id)));
        }
        let changed = self.interfaces.follow(event);
        if changed {
            self.interfaces_changed_ns.get_or_insert(now_ns);
        }
    }

    /// Starts, stops and judges links by their interfaces as they are now; they became so at `changed_ns`.
    pub(super) fn follow_interfaces(&mut self, changed_ns: u64) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.follow_interface(id, changed_ns);
        }
        // Before a route leads through any of them.
        self.ledger.lock().save();
        self.gather_announcements();
    }

    fn follow_interface(&mut self, id: LinkId, changed_ns: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let LinkConfig { interface, local, remote, .. } = &link.config;
        let device = self.interfaces.device(interface, *local, *remote);
        let local = match local {
            Some(local) => self.interfaces.has(interface, *local).then_some(*local),
            None => self.interfaces.local_for(interface, *remote),
        };
        link.rival = match link.config.local {
            Some(_) => None,
            None => local.and_then(|local| self.interfaces.rival_of(interface, local, *remote)),
        };
        // Without its address a socket cannot be bound, and a kernel program cannot know what is ours. An interface that is
        // down may have none yet.
        let wanted = match device {
            Device::Missing | Device::NoAddress | Device::NoGateway => None,
            Device::Ready | Device::NoCarrier | Device::Disabled => self.interfaces.index(interface).zip(local),
        };
        let wanted =
            wanted.map(|(ifindex, local)| (ifindex, local, self.interfaces.is_on_link(interface, local, *remote)));
        // Whether the peer is on the link is part of the keys.
        let running = link.running.as_ref().map(|running| (running.ifindex, running.local, running.on_link));
        // What goes to another Ethernet address is not for us, and a new one holds from now on.
        self.tables.intents()[id.0 as usize].mac.store(mac_word(&self.interfaces, interface), Relaxed);
        if running != wanted {
            link.unbound = None;
            if let Some(running) = link.running.take() {
                // What was known is of an interface or address that is no more, also where the next one is there already.
                let device = if self.interfaces.index(&link.config.interface) == Some(running.ifindex) {
                    Device::NoAddress
                } else {
                    Device::Missing
                };
                if link.device.replace(device) != Some(device) {
                    self.causes.failed(id, Cause { due_ns: None, woke_ns: None, received_ns: changed_ns });
                    self.engine.handle(clock::now_ns(), Event::Device { link: id, device });
                }
                self.attacher.stop(link, &running);
                if let Some(prober) = &self.prober {
                    prober.order(Order::Remove(id));
                }
            }
            if let Some((ifindex, local, on_link)) = wanted {
                let running = Running::by_socket(ifindex, local, on_link);
                let intent = &self.tables.intents()[id.0 as usize];
                let detection_ns = link.interval_ns * u64::from(link.multiplier);
                let session = random::nonzero();
                intent.detection_ns.store(detection_ns, Relaxed);
                intent.min_hops.store(u64::from(link.identity(&running).min_hops()), Relaxed);
                intent.renewed_ns.store(clock::now_ns(), Relaxed);
                intent.lease_ns.store(detection_ns.max(MIN_LEASE_NS), Relaxed);
                // Last: from now on the kernel program may answer for the link. Where it was probed until now, the prober
                // changes over by itself, for it may be sending under the former session at this moment.
                let me = Party { instance: self.instance, session }.pack();
                let _ = intent.me.compare_exchange(0, me, Release, Relaxed);
                let running = self.attacher.start(link, running, &self.interfaces);
                let probed = probed(link, &running, session);
                link.running = Some(running);
                if let Some(prober) = &self.prober {
                    prober.order(Order::Add(Box::new(probed)));
                }
                for said in self.sysctls.prepare(&link.config.interface) {
                    info!("{said}");
                }
            }
            let group = link.group;
            self.rerouted.insert(group);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        // Also of a link that goes on as it was: what its peer claims may have changed.
        if let (Some(running), Some(group)) = (&link.running, self.groups.get(&link.group)) {
            let interface = link.config.interface.clone();
            let way = Way { interface, ifindex: running.ifindex, gateway: link.config.remote };
            self.ledger.lock().add_way(&peer_claim(&group.config), way);
        }
        if link.device != Some(device) {
            link.device = Some(device);
            self.causes.failed(id, Cause { due_ns: None, woke_ns: None, received_ns: changed_ns });
            self.engine.handle(clock::now_ns(), Event::Device { link: id, device });
        }
    }
}

/// An interface's Ethernet address as [`link_watcher_common::maps::Intent::mac`] has it; 0: it has none.
fn mac_word(interfaces: &Interfaces, name: &str) -> u64 {
    interfaces
        .get(name)
        .and_then(|interface| interface.link.mac)
        .map_or(0, |[a, b, c, d, e, f]| u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
}

fn probed(link: &Link, running: &Running, session: u32) -> ProbedLink {
    ProbedLink {
        id: link.id,
        session,
        ifindex: running.ifindex,
        interface: link.config.interface.clone(),
        local: running.local,
        remote: link.config.remote,
        port: link.port,
        interval_ns: link.interval_ns,
        multiplier: link.multiplier,
        limits: link.limits,
        keys: link.keys(running),
        verifier: running.verifier,
    }
}
