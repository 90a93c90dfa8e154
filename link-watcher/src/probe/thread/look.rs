//! What is due for a link: its next probe, a look at whether it still answers, and what the daemon is told of that.

use std::sync::atomic::Ordering::Relaxed;

use link_watcher_common::maps::{Party, View};

use super::{Thread, links::probed, origin};
use crate::{
    clock,
    event::{LinkId, RemoteState},
    link::{Echoes, Edge},
    probe::Report,
};

/// Deadlines are rounded up to multiples of this, so that links that die together are noticed together, ns.
const DEADLINE_GRID_NS: u64 = 250_000;

/// Between two reports that a peer's Ethernet address is another one, ns: somebody in between could change it with each packet.
const MOVE_GAP_NS: u64 = 1_000_000_000;

impl Thread {
    /// Serves every link whose time has come.
    pub(super) fn serve_due(&mut self) {
        let now_ns = clock::now_ns();
        while let Some((due_ns, ids)) = self.due.pop(now_ns) {
            for &id in &ids {
                self.try_again(id, now_ns);
                let Some(probed) = probed(&mut self.links, id) else { continue };
                if probed.due_ns != due_ns {
                    continue;
                }
                let worst_ns = probed.lateness.worst(now_ns, now_ns - due_ns);
                self.stats.of(id.0).worst_lateness_ns.store(worst_ns, Relaxed);
                // Each packet bears its own time: those before it have taken theirs.
                let now_ns = clock::now_ns();
                if probed.next_probe_ns <= now_ns {
                    // Missed instants are not made up for: a burst of probes proves nothing.
                    let interval_ns = probed.link.interval_ns;
                    probed.next_probe_ns =
                        (now_ns - probed.phase_ns) / interval_ns * interval_ns + interval_ns + probed.phase_ns;
                    self.probe(id, now_ns);
                }
                self.look(id, now_ns);
                self.schedule(id, now_ns);
            }
            self.due.recycle(ids);
        }
    }

    /// Enters when a link wants attention next: strictly later than now, or serving would not end.
    fn schedule(&mut self, id: LinkId, now_ns: u64) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        let deadline_ns = on_grid(probed.detector.deadline_ns());
        probed.due_ns = probed.next_probe_ns.min(deadline_ns).max(now_ns + 1);
        self.due.push(probed.due_ns, id);
    }

    /// Looks at a link: does it answer, and does the peer say something new?
    pub(super) fn look(&mut self, id: LinkId, now_ns: u64) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        let state = &self.tables.states()[id.0 as usize];
        let echoes = Echoes::of(state);
        let edge = probed.detector.poll(now_ns, echoes);
        let intent = &self.tables.intents()[id.0 as usize];
        intent.max_age_ns.store(probed.detector.max_age_ns(), Relaxed);
        intent.max_lag.store(probed.detector.max_lag(), Relaxed);
        if let Some(edge) = edge {
            self.lost_one |= matches!(edge, Edge::Silent { .. });
            probed.pending = Some(edge);
        }
        let stats = self.stats.of(id.0);
        stats.loss_ppm.store((probed.detector.loss() * 1e6) as u64, Relaxed);
        stats.note_loss_each_way(probed.detector.loss_each_way());
        self.report(id);
    }

    /// Looks whether other links are about to follow one that has just turned silent.
    pub(super) fn join(&mut self) {
        let now_ns = clock::now_ns();
        let joined: Vec<LinkId> = self
            .links
            .iter_mut()
            .flatten()
            .filter_map(|probed| {
                probed.pending = Some(probed.detector.join(now_ns)?);
                Some(probed.link.id)
            })
            .collect();
        for id in joined {
            self.report(id);
        }
    }

    /// Puts what the daemon does not know yet about a link into the outbox.
    fn report(&mut self, id: LinkId) {
        let Some(probed) = probed(&mut self.links, id) else { return };
        let state = &self.tables.states()[id.0 as usize];
        // Before an echo its session and view are those of an earlier time.
        if state.last_echo_ns.load(Relaxed) != 0 {
            let peer = Party::unpack(state.peer.load(Relaxed));
            let remote = RemoteState::heard(peer, View::unpack(state.peer_view.load(Relaxed)));
            if probed.told.replace(remote) != Some(remote) {
                self.outbox.push(Report::RemoteState { link: id, state: remote, woke_ns: self.woke_ns });
            }
        }
        let ethernet = origin(state).0;
        if ethernet.is_some() && ethernet != probed.neighbour && self.woke_ns >= probed.next_move_ns {
            // The first one is no move, and delays none.
            if probed.neighbour.is_some() {
                probed.next_move_ns = self.woke_ns + MOVE_GAP_NS;
            }
            probed.neighbour = ethernet;
            self.outbox.extend(ethernet.map(|to| Report::Moved { link: id, to }));
        }
        self.outbox.extend(probed.pending.take().map(|edge| match edge {
            Edge::Alive => Report::Alive(id),
            Edge::Impaired(impairment) => Report::Impaired {
                link: id,
                impairment,
                last_good_ns: state.last_echo_ns.load(Relaxed),
                woke_ns: self.woke_ns,
            },
            Edge::Silent { last_good_ns, due_ns } => Report::Silent {
                link: id,
                last_good_ns,
                due_ns: on_grid(due_ns).min(self.woke_ns),
                woke_ns: self.woke_ns,
            },
        }));
    }

    /// Hands the outbox to the daemon. With its queue full the reports stay, and go with the next round's: a link
    /// adds at most a few a round, and only when something changes.
    pub(super) fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        if let Ok(permit) = self.reports.try_reserve() {
            permit.send(std::mem::take(&mut self.outbox));
        }
    }
}

/// A deadline as the timer is set for it.
fn on_grid(deadline_ns: u64) -> u64 {
    deadline_ns.checked_next_multiple_of(DEADLINE_GRID_NS).unwrap_or(deadline_ns)
}
