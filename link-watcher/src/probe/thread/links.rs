//! The links that are probed: how they come and go, and the phase of an interval in which their probes leave.

use anyhow::Result;
use link_watcher_common::maps::{KeyState, Party};

use super::Thread;
use crate::{
    clock,
    event::{LinkId, RemoteState},
    link::{Detector, Edge},
    probe::{ProbedLink, endpoint::EndpointKey, frame::Head, receive::PassedWindow, timers::Lateness},
    slot::{begin, end},
    system::Ethernet,
};

/// Links whose probes leave at one instant; the next ones leave a little later, so that a thousand links do not overrun
/// a queue of a thousand packets.
const LINKS_A_PHASE: u32 = 32;
/// Parts of an interval over which the links are spread.
const PHASES: u32 = 16;

/// One probed link.
pub(super) struct Probed {
    pub(super) link: ProbedLink,
    /// Its signing key and that one's id, here because each probe needs them at once.
    pub(super) key: KeyState,
    pub(super) key_id: u8,
    /// Index of its endpoint.
    pub(super) endpoint: usize,
    /// Headers of its probes as frames.
    pub(super) head: Option<Head>,
    /// Which control packets have come by the socket.
    pub(super) passed: PassedWindow,
    pub(super) detector: Detector,
    pub(super) sequence: u64,
    pub(super) control_sequence: u64,
    pub(super) next_probe_ns: u64,
    /// Where in an interval its probes leave.
    pub(super) phase_ns: u64,
    /// Entry in `due` that counts; older ones are void.
    pub(super) due_ns: u64,
    /// Verdict of the detector that the daemon does not know yet.
    pub(super) pending: Option<Edge>,
    /// What the daemon knows the peer to say.
    pub(super) told: Option<RemoteState>,
    /// The Ethernet address that the daemon knows the peer's packets to come from.
    pub(super) neighbour: Option<Ethernet>,
    /// When another one is told next, ns.
    pub(super) next_move_ns: u64,
    pub(super) last_error: Option<std::io::ErrorKind>,
    pub(super) lateness: Lateness,
}

impl Thread {
    pub(super) fn add(&mut self, link: ProbedLink) -> Result<()> {
        let id = link.id;
        let key = EndpointKey { ifindex: link.ifindex, local: link.local, port: link.port };
        let (endpoint, fresh) = self.endpoints.open(key, &link.interface)?;
        if fresh && let Err(error) = self.watch(endpoint) {
            self.endpoints.close(endpoint);
            return Err(error);
        }
        if let Some(endpoint) = self.endpoints.get_mut(endpoint) {
            endpoint.links.insert(link.remote, id);
        }
        let intent = &self.tables.intents()[id.0 as usize];
        // The first probe leaves at once; from then on all links of one interval and phase share their instants, so that
        // one wake-up serves them, and links that die together are noticed together.
        let now_ns = clock::now_ns();
        let phase_ns = u64::from(phase(id)) * link.interval_ns / u64::from(PHASES);
        let first_ns = now_ns;
        begin(intent, &self.tables.states()[id.0 as usize], Party { instance: self.instance, session: link.session });
        let probed = Probed {
            key: link.keys.states[0],
            key_id: link.keys.ids[0],
            endpoint,
            head: Head::new(link.local, link.remote, link.port),
            passed: PassedWindow::default(),
            detector: Detector::new(link.interval_ns, link.multiplier, link.limits, now_ns),
            sequence: 0,
            control_sequence: 0,
            next_probe_ns: first_ns,
            phase_ns,
            due_ns: first_ns,
            pending: None,
            told: None,
            neighbour: None,
            next_move_ns: 0,
            last_error: None,
            lateness: Lateness::default(),
            link,
        };
        self.links[id.0 as usize] = Some(probed);
        self.share_stack_probes();
        self.fit(endpoint);
        self.due.push(first_ns, id);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: LinkId) {
        let Some(probed) = self.links.get_mut(id.0 as usize).and_then(Option::take) else { return };
        end(&self.tables.intents()[id.0 as usize], &self.tables.states()[id.0 as usize]);
        self.share_stack_probes();
        let Some(endpoint) = self.endpoints.get_mut(probed.endpoint) else { return };
        endpoint.links.remove(&probed.link.remote);
        if endpoint.links.is_empty() {
            // Closing the socket takes it out of epoll.
            self.endpoints.close(probed.endpoint);
        } else {
            self.fit(probed.endpoint);
        }
    }

    /// Tells every link how many share the time for stack-probes.
    fn share_stack_probes(&mut self) {
        let links = u32::try_from(self.links.iter().flatten().count()).unwrap_or(u32::MAX);
        for probed in self.links.iter_mut().flatten() {
            probed.detector.stack.share(links, phase(probed.link.id), PHASES);
        }
    }
}

/// Which of the phases a link's packets leave in.
const fn phase(id: LinkId) -> u32 {
    (id.0 / LINKS_A_PHASE) % PHASES
}

/// A link, if it is probed.
pub(super) fn probed(links: &mut [Option<Probed>], id: LinkId) -> Option<&mut Probed> {
    links.get_mut(id.0 as usize)?.as_mut()
}
