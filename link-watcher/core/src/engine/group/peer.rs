//! Between the two ends of a group: what the peer says of its links and of itself, and what it is told of ours.

use link_watcher_common::verify::older;

use super::{Group, restart::PLANNED_STOP_SECONDS};
use crate::event::{Action, LinkId, LinkVerdict, LocalState, RemoteState, Role, TransitionKind};

impl Group {
    pub(in crate::engine) fn on_remote_state(
        &mut self,
        now_ns: u64,
        id: LinkId,
        remote: RemoteState,
        actions: &mut Vec<Action>,
    ) {
        let hold_up_ns = self.spec.hold_up_ns;
        let Some((before, change)) = self.link_mut(id).map(|link| link.on_peer(now_ns, remote, hold_up_ns)) else {
            return;
        };
        let is_another = self.peer_instance != Some(remote.instance);
        self.hear_of_stop(now_ns, remote, is_another);
        if is_another && before.map(|before| before.instance) != Some(remote.instance) {
            // They are learned from fresh echoes only, so the newest is the one in force.
            if self.peer_instance.replace(remote.instance).is_some() {
                self.tell(
                    now_ns,
                    None,
                    TransitionKind::PeerRestarted,
                    "its daemon has started anew".to_owned(),
                    0,
                    actions,
                );
            }
            (self.fell_at_epoch, self.followed_epoch, self.clients_choice) = (None, None, None);
        }
        self.hear_silence(now_ns, actions);
        self.report_state_change(now_ns, id, change, actions);
        if before.is_some_and(|before| before.hears) && !remote.hears {
            self.note_cause(id, format!("{}: the peer does not hear us on it any more", self.name(id)));
        } else if remote.drained && !before.is_some_and(|before| before.drained) {
            self.note_cause(id, format!("{}: drained by the peer", self.name(id)));
        } else if self.spec.role == Some(Role::Server) && remote.active {
            self.note_cause(id, "the client chose it".to_owned());
        }
        if self.spec.role == Some(Role::Client) && older(self.epoch, remote.epoch) {
            // It still follows our life before the start, when the clock that our first epoch came from was ahead. Of a
            // session's words those with a lower epoch count as overtaken, so ours must be the highest again.
            self.epoch = remote.epoch.wrapping_add(1);
            self.followed_epoch = None;
        }
        if self.spec.role == Some(Role::Client) && self.server_left(id, remote) {
            let why = match self.active.is_empty() {
                true => format!("the server sends by {} already", self.name(id)),
                false => format!("the server has left {}", self.names(&self.active)),
            };
            self.note_cause(id, why);
            self.follow_server(now_ns, id);
        }
    }

    /// Whether the peer's daemon lives, by what its kernel says of it on the links that answer. A path whose far end has lost
    /// its daemon is no dead path; but people want to know.
    fn hear_silence(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let answering = self
            .links
            .iter()
            .filter(|link| matches!(link.verdict(), LinkVerdict::Up | LinkVerdict::Degraded | LinkVerdict::Starting));
        let remotes = answering.filter_map(|link| link.peer).filter(|peer| Some(peer.instance) == self.peer_instance);
        // One link on which it lives is enough.
        let (silence_seconds, restarting) = remotes
            .map(|peer| (peer.silence_seconds, peer.restarting))
            .min()
            .unwrap_or((self.peer_silence_seconds, false));
        self.peer_silence_seconds = silence_seconds;
        let missed = silence_seconds > if restarting { PLANNED_STOP_SECONDS } else { 0 };
        if missed == self.told_silent {
            return;
        }
        self.told_silent = missed;
        if missed {
            let why = format!(
                "its daemon has given no sign of life for {silence_seconds} s; its kernel still answers, so the paths are \
                 judged as ever, but nobody moves its routes"
            );
            self.tell(now_ns, None, TransitionKind::PeerSilent, why, 0, actions);
        } else if silence_seconds == 0 {
            self.tell(now_ns, None, TransitionKind::PeerBack, "its daemon lives again".to_owned(), 0, actions);
        }
    }

    /// Whether the server, which had followed the present choice, now sends its traffic elsewhere: it does so only
    /// when it finds all of the choice dead.
    fn server_left(&mut self, id: LinkId, remote: RemoteState) -> bool {
        if !remote.active || remote.epoch != self.epoch || Some(remote.instance) != self.peer_instance {
            return false;
        }
        if self.active.contains(&id) {
            self.followed_epoch = Some(remote.epoch);
            return false;
        }
        self.followed_epoch == Some(remote.epoch)
    }

    /// Leaves the links that the server has left, as if they had failed, in favour of the one that it took.
    fn follow_server(&mut self, now_ns: u64, to: LinkId) {
        let usable = !self.orders.failover_off
            && self.orders.pinned.is_none()
            && self.link(to).is_some_and(|link| link.usable(now_ns));
        if !usable {
            return;
        }
        for id in self.active.clone() {
            if let Some(link) = self.link_mut(id) {
                link.restart_failback_timer(now_ns);
            }
        }
        // The next choice starts from there.
        self.active = vec![to];
    }

    /// Says on each link what has changed.
    pub(in crate::engine) fn advertise(&mut self, actions: &mut Vec<Action>) {
        if self.spec.role.is_none() {
            return;
        }
        for (rank, id) in self.preference().into_iter().enumerate() {
            let Some(link) = self.link(id) else { continue };
            let state = LocalState {
                epoch: self.epoch,
                rank: u16::try_from(rank).unwrap_or(u16::MAX),
                active: self.active.contains(&id),
                drained: link.drained,
                // No verdict yet is no complaint: a restart must not look like a deaf peer.
                hears: !matches!(link.verdict(), LinkVerdict::Down | LinkVerdict::Absent),
            };
            match self.advertised.iter_mut().find(|(known, _)| *known == id) {
                Some((_, before)) if *before == state => continue,
                Some((_, before)) => *before = state,
                None => self.advertised.push((id, state)),
            }
            actions.push(Action::Advertise { link: id, state });
        }
    }

    /// Whether the far end has a say in its links.
    pub(in crate::engine) const fn has_peer(&self) -> bool {
        self.spec.role.is_some()
    }

    /// What the peer says of a link; of one that it has said nothing on, what its daemon says at its start.
    pub(in crate::engine) fn remote_state(&self, id: LinkId) -> RemoteState {
        let elsewhere = || self.links.iter().find_map(|link| link.peer);
        let fresh = |remote: RemoteState| RemoteState { active: false, drained: false, ..remote };
        self.link(id).and_then(|link| link.peer).or_else(|| elsewhere().map(fresh)).unwrap_or_default()
    }
}
