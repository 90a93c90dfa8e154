//! What happens in the kernel: links come, go and change with their interfaces.

use std::sync::{
    Arc,
    atomic::Ordering::{Relaxed, Release},
};

use tracing::{info, warn};

use super::{
    core::Core,
    links::{Link, Running},
    tell::Noticed,
};
use crate::{
    clock,
    config::PeerLinkConfig as LinkConfig,
    event::{Device, Event, LinkId},
    probe::{Order, ProbedLink},
    route::RouteSink as _,
    system::KernelEvent,
};

impl Core {
    pub(super) fn kernel_event(&mut self, event: &KernelEvent) {
        let now_ns = clock::now_ns();
        if let Some(notice) = self.routes.observe(now_ns, event) {
            warn!("routes: {notice}");
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
        self.gather_announcements();
    }

    fn follow_interface(&mut self, id: LinkId, changed_ns: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let LinkConfig { interface, local, remote, .. } = &link.config;
        let device = self.interfaces.device(interface, *local, *remote);
        let local = local.or_else(|| self.interfaces.local_for(interface, *remote));
        // Without its address a socket cannot be bound, and a kernel program cannot know what is ours.
        let wanted = match device {
            Device::Missing | Device::NoAddress => None,
            Device::Ready | Device::NoCarrier | Device::Disabled => self.interfaces.index(interface).zip(local),
        };
        let running = link.running.as_ref().map(|running| (running.ifindex, running.local));
        if running != wanted {
            if let Some(running) = link.running.take() {
                self.attacher.stop(link, &running);
                if let Some(prober) = &self.prober {
                    prober.order(Order::Remove(id));
                }
            }
            if let Some((ifindex, local)) = wanted {
                let intent = &self.tables.intents()[id.0 as usize];
                intent.key_slot.store(u64::from(id.0), Relaxed);
                intent.detection_ns.store(link.interval_ns * u64::from(link.multiplier), Relaxed);
                // Last: from now on the kernel program may answer for the link.
                intent.session.store(u64::from(self.session), Release);
                let running = self.attacher.start(link, ifindex, local, &self.interfaces);
                let probed = probed(link, &running);
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
        if link.device != Some(device) {
            link.device = Some(device);
            self.news.failed(id, Noticed { due_ns: None, woke_ns: None, received_ns: changed_ns });
            self.engine.handle(clock::now_ns(), Event::Device { link: id, device });
        }
    }
}

fn probed(link: &Link, running: &Running) -> ProbedLink {
    ProbedLink {
        id: link.id,
        ifindex: running.ifindex,
        interface: link.config.interface.clone(),
        local: running.local,
        remote: link.config.remote,
        port: link.port,
        interval_ns: link.interval_ns,
        multiplier: link.multiplier,
        keys: Arc::clone(&link.keys),
        verifier: running.verifier,
    }
}
