//! What befalls interfaces, addresses and gateways, and what follows from it.

use tracing::info;

use super::{RENEWAL_NS, Worker};
use crate::{clock, daemon::uplinks::Report, event::Device, system::KernelEvent, uplink::learn::Resolved};

impl Worker {
    pub(super) fn event(&mut self, event: &KernelEvent) {
        let now_ns = clock::now_ns();
        self.learner.observe(now_ns, event);
        self.tables.observe(now_ns, event);
        self.changed |= self.interfaces.follow(event);
    }

    /// Looks how the uplinks' interfaces, addresses and gateways are now, and does what follows.
    pub(super) async fn follow(&mut self) {
        let now_ns = clock::now_ns();
        if self.learner.next_deadline_ns() <= now_ns {
            let tick = self.learner.tick(now_ns, &self.interfaces);
            self.changed |= tick.changed;
            self.complain("learn", tick.trouble);
        }
        let lapsed = self.lapse_ns().is_some_and(|at_ns| at_ns <= now_ns);
        if std::mem::take(&mut self.changed) || lapsed {
            self.resolve().await;
        }
    }

    pub(super) async fn resolve(&mut self) {
        let now_ns = clock::now_ns();
        let mut reports = Vec::new();
        for group in self.groups.values_mut() {
            let index = |name: &str| Some((name.to_owned(), self.interfaces.index(name)?));
            let fast_path = group.config.fast_path().filter_map(index).collect();
            if group.fast_path != fast_path {
                group.fast_path = fast_path;
                self.dirty.insert(group.id);
            }
            for ((link, config), known) in group.links.iter().zip(&group.config.links).zip(&mut group.resolved) {
                let resolved = self.learner.resolve(&group.config.routes, config, &self.interfaces);
                if lapses(known.as_ref(), &resolved) {
                    let since_ns = *group.lapsing.entry(*link).or_insert(now_ns);
                    if now_ns < since_ns + RENEWAL_NS {
                        continue;
                    }
                }
                group.lapsing.remove(link);
                if known.as_ref() == Some(&resolved) {
                    continue;
                }
                if resolved.device != Device::Ready && known.as_ref().is_some_and(|known| known.device == Device::Ready)
                {
                    *group.losses.entry(*link).or_default() += 1;
                }
                let before = known.replace(resolved.clone());
                let has = [resolved.ipv4, resolved.ipv6].into_iter().flatten().filter_map(|path| path.source);
                group.sources.extend(has.map(|source| (*link, source)));
                self.dirty.insert(group.id);
                if resolved.ifindex != 0 && before.as_ref().is_none_or(|before| before.ifindex != resolved.ifindex) {
                    for said in self.sysctls.prepare_uplink(&config.interface) {
                        info!("{said}");
                    }
                }
                let lack = resolved.lacks.map(|lack| lack.to_string());
                if before.is_none_or(|before| before.device != resolved.device || before.lacks != resolved.lacks) {
                    reports.push(Report::Device { link: *link, device: resolved.device, lack });
                }
            }
            let lapsing = |link| group.lapsing.contains_key(link);
            if group.sources.iter().any(|(link, source)| !lapsing(link) && !self.interfaces.have(*source)) {
                self.dirty.insert(group.id);
            }
        }
        for report in reports {
            self.tell(report).await;
        }
    }
}

/// Whether an uplink that was ready lacks no more than what a renewal takes away for a moment.
fn lapses(known: Option<&Resolved>, now: &Resolved) -> bool {
    known.is_some_and(|known| known.device == Device::Ready && known.ifindex == now.ifindex)
        && matches!(now.device, Device::NoAddress | Device::NoGateway)
}
