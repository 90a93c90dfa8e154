//! What must hold at every instant, whatever befalls the world. It sees the media, which the daemons do not.

use link_watcher_core::event::{Failback, Transition, TransitionKind};

use super::{CLIENT, MS, SERVER, Sim};

#[derive(Debug, Default)]
pub struct Oracle {
    pub next_look_ns: u64,
    /// Until when each side is excused for being late: it was stalled, or has just started.
    disturbed_until_ns: [u64; 2],
    ordered_ns: u64,
    /// When each side's daemon was last seen dead or stalled, its kernel alone answering.
    lapsed_ns: [u64; 2],
    fresh: Vec<(usize, Transition)>,
    /// Every move of traffic: side, time, from, to.
    pub moves: Vec<(usize, u64, Vec<usize>, Vec<usize>)>,
    pub false_downs: usize,
    pub violations: Vec<String>,
    /// Longest time that traffic of either side went into a dead link while another one worked, ns.
    pub worst_outage_ns: u64,
}

impl Oracle {
    pub fn disturbed(&mut self, at: usize, until_ns: u64) {
        self.disturbed_until_ns[at] = self.disturbed_until_ns[at].max(until_ns);
    }

    pub fn ordered(&mut self, now_ns: u64) {
        self.ordered_ns = now_ns;
    }

    pub fn changes(&mut self, at: usize, _now_ns: u64, changes: &mut Vec<Transition>) {
        if !changes.is_empty() {
            self.fresh.extend(changes.drain(..).map(|change| (at, change)));
            // The media are as they were when it was decided.
            self.next_look_ns = 0;
        }
    }

    fn violated(&mut self, sim: &Sim, what: String) {
        if self.violations.len() < 20 {
            self.violations.push(format!("at {:.3} ms: {what}", sim.now_ns as f64 / 1e6));
        }
    }

    pub fn look(&mut self, sim: &Sim) {
        for side in &sim.sides {
            if side.is_silent(sim.now_ns) {
                self.lapsed_ns[side.at] = sim.now_ns;
            }
        }
        for (at, change) in std::mem::take(&mut self.fresh) {
            match &change.what {
                TransitionKind::ActiveChanged { from, to } => {
                    let plain = |ids: &[link_watcher_core::event::LinkId]| ids.iter().map(|id| id.0 as usize).collect();
                    self.moved(sim, at, plain(from), plain(to), &change.why);
                }
                TransitionKind::LinkDown => self.down(sim, at, change.link.unwrap().0 as usize, &change.why),
                _ => {}
            }
        }
        for at in [CLIENT, SERVER] {
            self.outage(sim, at);
        }
    }

    fn known_after_ns(sim: &Sim) -> u64 {
        sim.setup.detection_ns() + 2 * sim.setup.interval_ns + sim.setup.rtt_ns() + 3 * MS
    }

    /// Works, and has for long enough that everybody knows.
    fn good(sim: &Sim, link: usize, for_ns: u64) -> bool {
        sim.wires[link].good_since_ns.is_some_and(|since_ns| since_ns + for_ns <= sim.now_ns)
    }

    fn calm(&self, sim: &Sim, for_ns: u64) -> bool {
        sim.sides.iter().all(|side| {
            side.engine.is_some()
                && self.disturbed_until_ns[side.at] + for_ns <= sim.now_ns
                && self.lapsed_ns[side.at] + for_ns <= sim.now_ns
        })
    }

    fn drained(sim: &Sim, link: usize) -> bool {
        sim.sides.iter().any(|side| side.drained[link])
    }

    /// Traffic never stays on a dead link for longer than the detection time while another one works.
    fn outage(&mut self, sim: &Sim, at: usize) {
        let side = &sim.sides[at];
        let Some(status) = side.status(sim.now_ns) else { return };
        if !status.failover || !sim.sides[1 - at].status(sim.now_ns).is_some_and(|other| other.failover) {
            return;
        }
        let known_after_ns = Self::known_after_ns(sim);
        let dead_since_ns = side.routes.iter().filter_map(|link| sim.wires[*link].dead_since_ns[at]).min();
        let Some(dead_since_ns) = dead_since_ns else { return };
        let other = (0..sim.wires.len())
            .filter(|link| !side.routes.contains(link))
            .filter(|link| !Self::drained(sim, *link))
            .filter_map(|link| sim.wires[link].good_since_ns)
            .min();
        let Some(good_since_ns) = other else { return };
        let excused_ns = self.disturbed_until_ns.iter().chain(&self.lapsed_ns).max().unwrap();
        // Both sides run: a daemon that is not there cannot say that it hears us.
        if !self.calm(sim, 0) {
            return;
        }
        let from_ns =
            dead_since_ns.max(*excused_ns + known_after_ns).max(good_since_ns + known_after_ns).max(self.ordered_ns);
        let outage_ns = sim.now_ns.saturating_sub(from_ns);
        self.worst_outage_ns = self.worst_outage_ns.max(outage_ns);
        let most_ns = sim.setup.detection_ns() + sim.setup.interval_ns + sim.setup.rtt_ns() + MS;
        if outage_ns > most_ns {
            let text = format!("{} sends into dead {:?} for {} ms", side.name(), side.routes, outage_ns / MS);
            self.violated(sim, text);
        }
    }

    /// No link goes down that works.
    fn down(&mut self, sim: &Sim, at: usize, link: usize, why: &str) {
        let known_after_ns = Self::known_after_ns(sim);
        // A core that was stalled tells old news.
        let on_time = sim.sides[at].core_stalled_until_ns + known_after_ns <= sim.now_ns;
        // A new session is learned from the peer's own probes, or when those have stayed away for the detection time.
        let peer_probes =
            sim.sides[1 - at].engine.is_some() && self.disturbed_until_ns[1 - at] + known_after_ns <= sim.now_ns;
        let starting = self.disturbed_until_ns[at] + known_after_ns > sim.now_ns;
        // Sessions are exchanged in two round trips, and where these last an interval each, that is the detection time.
        let peer_probes = peer_probes && 2 * sim.setup.rtt_ns() < sim.setup.detection_ns();
        if Self::good(sim, link, known_after_ns) && on_time && (peer_probes || !starting) {
            self.false_downs += 1;
            let text = format!("{} takes link{link} down, which works: {why}", sim.sides[at].name());
            self.violated(sim, text);
        }
    }

    /// No traffic leaves a link that works, but for a better one that has proved itself, or by order.
    fn moved(&mut self, sim: &Sim, at: usize, from: Vec<usize>, to: Vec<usize>, why: &str) {
        let known_after_ns = Self::known_after_ns(sim);
        let known_and_held_ns = known_after_ns + sim.setup.hold_up_ns;
        let calm = self.calm(sim, known_and_held_ns) && self.ordered_ns + known_and_held_ns <= sim.now_ns;
        let left: Vec<usize> = from.iter().filter(|link| !to.contains(link)).copied().collect();
        let works = |link: &usize| Self::good(sim, *link, known_and_held_ns) && !Self::drained(sim, *link);
        let needless = !left.is_empty() && left.iter().all(works);
        if calm && needless {
            // The client's word comes link by link, and takes its time.
            let lately_ns = sim.now_ns.saturating_sub(sim.setup.interval_ns + sim.setup.rtt_ns());
            let chosen = self.moves.iter().filter(|(side, at_ns, ..)| *side == CLIENT && *at_ns >= lately_ns);
            let chosen: Vec<usize> = chosen.flat_map(|(.., to)| to).chain(&sim.sides[CLIENT].routes).copied().collect();
            let followed = at == SERVER && to.iter().all(|link| chosen.contains(link));
            // A pin waits for its link.
            let pinned = sim.sides[at].status(sim.now_ns).and_then(|status| status.pinned);
            let pinned = pinned.is_some_and(|link| to == [link.0 as usize]);
            let tier = |links: &[usize]| links.iter().map(|link| sim.setup.links[*link].0).min().unwrap_or(u32::MAX);
            let proved = match sim.setup.failback {
                Failback::Manual => false,
                // That it has just died is not known yet, and a break that is shorter than a detection is noticed by nobody.
                Failback::After(ns) => to.iter().any(|link| {
                    Self::good(sim, *link, ns.saturating_sub(sim.setup.detection_ns()))
                        || sim.wires[*link].broke_ns + known_after_ns > sim.now_ns
                }),
            };
            let failed_back = at == CLIENT && tier(&to) < tier(&from) && proved;
            if !followed && !failed_back && !pinned {
                let text = format!("{} moves from {from:?}, which works, to {to:?}: {why}", sim.sides[at].name());
                self.violated(sim, text);
            }
        }
        self.moves.push((at, sim.now_ns, from, to));
    }

    /// After quiet both sides agree, on the right links.
    pub fn agreed(&mut self, sim: &Sim) {
        let (Some(client), Some(server)) = (sim.sides[CLIENT].status(sim.now_ns), sim.sides[SERVER].status(sim.now_ns))
        else {
            return;
        };
        let healthy: Vec<usize> = (0..sim.wires.len())
            .filter(|link| sim.wires[*link].good_since_ns.is_some() && !Self::drained(sim, *link))
            .collect();
        if healthy.is_empty() || !client.failover || !server.failover {
            return;
        }
        let routes = [&sim.sides[CLIENT].routes, &sim.sides[SERVER].routes];
        let best = healthy.iter().map(|link| sim.setup.links[*link].0).min();
        let lowest: Vec<usize> =
            healthy.iter().filter(|link| Some(sim.setup.links[**link].0) == best).copied().collect();
        let pinned = client.pinned.map(|link| link.0 as usize).filter(|link| healthy.contains(link));
        let expected = match (pinned, sim.setup.failback) {
            (Some(pinned), _) => vec![pinned],
            (None, Failback::After(_)) => lowest,
            (None, Failback::Manual) => routes[CLIENT].clone(),
        };
        if *routes[CLIENT] != expected || *routes[SERVER] != expected || expected.iter().any(|l| !healthy.contains(l)) {
            let text = format!(
                "after quiet: client {:?} ({}), server {:?} ({}), expected {expected:?} of {healthy:?}",
                routes[CLIENT], client.reason, routes[SERVER], server.reason
            );
            self.violated(sim, text);
        }
    }
}
