//! Which engine verifies each link's packets: the best that works there, and why no better one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Weak,
};

use link_watcher_common::maps::{Counters, KeySet};
use tracing::{info, warn};

use super::{
    links::{Link, Running},
    packets::SlotNames,
};
use crate::{
    bpf::{Device, Exchange, Kernel, LinkLayer, Mode, TraceParts},
    config::DatapathChoice,
    error::chain,
    event::LinkId,
    probe::Verifier,
    system::Interfaces,
};

/// Attaches kernel programs where they can be, and falls back to sockets where not.
pub(super) struct Attacher {
    choice: DatapathChoice,
    /// The kernel's side; or why there is none.
    kernel: Result<Kernel, String>,
    /// How many links use what is attached, by interface index.
    attached: BTreeMap<u32, usize>,
    /// How many links use an endpoint: interface, address, port.
    endpoints: BTreeMap<(u32, IpAddr, u16), usize>,
    /// How many links use a port.
    ports: BTreeMap<u16, usize>,
    /// For whoever tells of packets.
    names: SlotNames,
    /// The trace that was begun last, and who began it.
    trace: Option<(Weak<Exchange>, String)>,
}

impl Attacher {
    pub(super) fn new(choice: DatapathChoice, kernel: Result<Kernel, String>, names: SlotNames) -> Self {
        let (attached, endpoints, ports) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { choice, kernel, attached, endpoints, ports, names, trace: None }
    }

    /// Makes the best engine serve a link.
    pub(super) fn start(&mut self, link: &Link, mut running: Running, interfaces: &Interfaces) -> Running {
        if self.choice == DatapathChoice::Socket {
            return running;
        }
        let who = format!("{} on {}", link.config.name, link.config.interface);
        match self.attach(link, &running, interfaces) {
            Ok(mode) => {
                running.verifier = Verifier::Kernel;
                running.engine = match mode {
                    Mode::XdpNative => "xdp-native",
                    Mode::XdpGeneric => "xdp-generic",
                    Mode::Tc => "tc",
                };
                info!("{who}: keepalives are verified by {}", running.engine);
                self.names.set(link.id.0, who);
            }
            Err(reason) => {
                warn!("{who}: keepalives are verified by a socket, not in the kernel: {reason}");
                running.engine_reason = Some(reason);
            }
        }
        running
    }

    fn attach(&mut self, link: &Link, running: &Running, interfaces: &Interfaces) -> Result<Mode, String> {
        let kernel = self.kernel.as_mut().map_err(|reason| reason.clone())?;
        let name = &link.config.interface;
        let interface = interfaces.get(name).ok_or_else(|| format!("{name} is gone"))?;
        let link_layer = LinkLayer::of(interface.link.link_type)
            .ok_or_else(|| format!("{name} has link layer {}, which XDP cannot parse", interface.link.link_type))?;
        let device = Device { ifindex: running.ifindex, name, link_layer, kind: interface.link.kind.as_deref() };
        let slot = link.id.0;
        let [exact, endpoint] = link.keys_in_map(running);
        kernel
            .set_keys(slot, &link.keys(running))
            .and_then(|()| kernel.clear_counters(slot))
            .and_then(|()| kernel.track_traffic(running.ifindex))
            .and_then(|()| kernel.set_port(link.port, true))
            .and_then(|()| kernel.insert_link(endpoint, slot))
            .and_then(|()| kernel.insert_link(exact, slot))
            .map_err(|error| chain(&error))?;
        // Last: where it replaces an earlier daemon's program, that one answers until this one can.
        let attached = match self.choice {
            DatapathChoice::Tc => kernel.attach_tc(&device),
            DatapathChoice::Xdp => kernel.attach(&device),
            DatapathChoice::Auto | DatapathChoice::Socket => kernel.attach(&device).or_else(|at_xdp| {
                let attached = kernel.attach_tc(&device);
                attached.inspect(|_| info!("{name}: at tc, because XDP is not to be had: {}", chain(&at_xdp)))
            }),
        };
        let mode = attached.map_err(|error| {
            // Without a program these serve nobody; that they stay would harm nobody either.
            let _ = kernel.remove_link(&exact).and_then(|()| kernel.remove_link(&endpoint));
            chain(&error)
        })?;
        *self.attached.entry(running.ifindex).or_default() += 1;
        *self.endpoints.entry((running.ifindex, running.local, link.port)).or_default() += 1;
        *self.ports.entry(link.port).or_default() += 1;
        Ok(mode)
    }

    /// Takes a link out; with the last one of an interface the program goes too.
    pub(super) fn stop(&mut self, link: &Link, running: &Running) {
        let Ok(kernel) = &mut self.kernel else { return };
        if running.verifier == Verifier::Socket {
            return;
        }
        self.names.remove(link.id.0);
        let [exact, endpoint] = link.keys_in_map(running);
        let mut errors = Vec::new();
        errors.extend(kernel.remove_link(&exact).err());
        if last_user(&mut self.ports, link.port) {
            errors.extend(kernel.set_port(link.port, false).err());
        }
        if last_user(&mut self.endpoints, (running.ifindex, running.local, link.port)) {
            errors.extend(kernel.remove_link(&endpoint).err());
        }
        if last_user(&mut self.attached, running.ifindex) {
            errors.extend(kernel.untrack_traffic(running.ifindex).err());
            errors.extend(kernel.detach(running.ifindex).err());
        }
        for error in errors {
            warn!("taking {} on {} out of the kernel: {}", link.config.name, link.config.interface, chain(&error));
        }
    }

    /// Gives a link's new keys to the kernel.
    pub(super) fn rekey(&mut self, link: &Link, keys: &KeySet) {
        if let Ok(kernel) = &mut self.kernel
            && let Err(error) = kernel.set_keys(link.id.0, keys)
        {
            warn!("new keys of {} are not in the kernel: {}", link.config.name, chain(&error));
        }
    }

    /// What the kernel counted of a link.
    pub(super) fn counters(&self, link: LinkId) -> Option<Counters> {
        self.kernel.as_ref().ok()?.counters(link.0).ok()
    }

    /// Detaches what an earlier daemon left on interfaces that are no link's any more.
    pub(super) fn drop_inherited(&mut self) {
        if let Ok(kernel) = &mut self.kernel
            && let Err(error) = kernel.drop_inherited()
        {
            warn!("an earlier daemon's program stays attached: {}", chain(&error));
        }
    }

    /// Prepares a trace of these slots on these interfaces, for `who`. There is one at a time.
    pub(super) fn trace(
        &mut self,
        ifindexes: &BTreeSet<u32>,
        only: BTreeSet<u32>,
        who: String,
    ) -> Result<TraceParts, String> {
        if let Some((running, by)) = &self.trace
            && running.upgrade().is_some_and(|exchange| !exchange.is_over())
        {
            return Err(format!(
                "there is one trace at a time, and one runs already ({by}): try again when it is over"
            ));
        }
        let kernel = self.kernel.as_mut().map_err(|reason| reason.clone())?;
        let parts = kernel.prepare_trace(ifindexes, only).map_err(|error| chain(&error))?;
        self.trace = Some((parts.exchange(), who));
        Ok(parts)
    }

    /// Ends. With `keep` the kernel goes on answering, by the quiet program.
    pub(super) fn release(self, keep: bool) {
        if let Some(exchange) = self.trace.and_then(|(trace, _)| trace.upgrade()) {
            exchange.end();
        }
        if let Ok(kernel) = self.kernel
            && let Err(error) = kernel.release(keep)
        {
            warn!("leaving the kernel: {}", chain(&error));
        }
    }
}

/// Counts one user less; says whether it was the last.
fn last_user<K: Ord>(users: &mut BTreeMap<K, usize>, key: K) -> bool {
    match users.get_mut(&key) {
        Some(1) | None => {
            users.remove(&key);
            true
        }
        Some(count) => {
            *count -= 1;
            false
        }
    }
}
