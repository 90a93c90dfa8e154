//! One router: its kernel program, its probing thread, its daemon.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::{
    maps::{Intent, LinkState, Party, View},
    window,
    wire::{Header, Kind, flags},
};
use link_watcher_core::{
    engine::{Engine, GroupStatus},
    event::{Action, Command, Device, Event, LinkId, RemoteState, Role, Transition, TransitionKind},
    health::Limits,
    link::{Detector, Echoes, Edge},
    slot::{begin, end},
};

use super::{CLIENT, GROUP, MS, Random, Setup};

/// Lease of a running daemon, ns.
const LEASE_NS: u64 = 300 * MS;
const GRID_NS: u64 = 250_000;

/// What befell an engine, and what it made of it.
#[derive(Clone, Debug)]
pub enum Step {
    /// Its daemon started, with traffic on these links.
    Started { instance: u32, epoch: u32, adopted: Vec<usize> },
    /// It was told something.
    Told(Event, GroupStatus),
    /// It has decided; what it says on each link.
    Decided(GroupStatus, Vec<View>),
}

pub struct Prober {
    detector: Detector,
    sequence: u64,
    next_probe_ns: u64,
    look_ns: u64,
    told: Option<RemoteState>,
}

pub struct Side {
    pub at: usize,
    pub engine: Option<Engine>,
    /// Its daemon's life; grows with each start.
    pub instance: u32,
    sessions: u32,
    /// When its prober last ran.
    renewed_ns: u64,
    pub kernel: Vec<(Intent<AtomicU64>, LinkState<AtomicU64>)>,
    pub device: Vec<Device>,
    pub prober_stalled_until_ns: u64,
    pub core_stalled_until_ns: u64,
    /// Links that carry its traffic, as the kernel's routes have it.
    pub routes: Vec<usize>,
    pub drained: Vec<bool>,
    pub changes: Vec<Transition>,
    /// Each step of its engines with its time, ns, where somebody wants to know.
    pub trace: Option<Vec<(u64, Step)>>,
    probers: Vec<Option<Prober>>,
    inbox: Vec<(u64, Event)>,
    /// The core runs then though nothing is in its inbox.
    core_wanted_ns: u64,
    interval_ns: u64,
    late_ns: u64,
}

impl Side {
    pub fn new(at: usize, setup: &Setup) -> Self {
        let links = setup.links.len();
        Self {
            at,
            engine: None,
            instance: 100_000 * (at as u32 + 1),
            sessions: 0,
            renewed_ns: 0,
            kernel: (0..links).map(|_| Default::default()).collect(),
            device: vec![Device::Ready; links],
            prober_stalled_until_ns: 0,
            core_stalled_until_ns: 0,
            routes: Vec::new(),
            drained: vec![false; links],
            changes: Vec::new(),
            trace: setup.is_traced.then(Vec::new),
            probers: (0..links).map(|_| None).collect(),
            inbox: Vec::new(),
            core_wanted_ns: u64::MAX,
            interval_ns: setup.interval_ns,
            late_ns: 0,
        }
    }

    /// Whether its daemon is dead, or was stalled until now: its kernel alone is there.
    pub fn is_silent(&self, now_ns: u64) -> bool {
        self.renewed_ns + LEASE_NS <= now_ns
    }

    fn role(&self) -> Role {
        if self.at == CLIENT { Role::Client } else { Role::Server }
    }

    pub fn name(&self) -> &'static str {
        if self.at == CLIENT { "client" } else { "server" }
    }

    pub fn status(&self, now_ns: u64) -> Option<GroupStatus> {
        self.engine.as_ref()?.status(now_ns).pop()
    }

    pub fn start(&mut self, now_ns: u64, setup: &Setup) {
        self.instance += 1;
        let epoch = 1_000_000 + (now_ns / 1_000_000_000) as u32;
        let mut engine = Engine::new(epoch);
        if let Some(trace) = &mut self.trace {
            trace.push((now_ns, Step::Started { instance: self.instance, epoch, adopted: self.routes.clone() }));
        }
        engine.handle(now_ns, Event::Configure(vec![setup.spec(self.role())]));
        self.drained.fill(false);
        self.inbox.clear();
        for link in 0..self.kernel.len() {
            self.kernel[link].0.view.store(0, Relaxed);
        }
        self.engine = Some(engine);
        self.carry_out(now_ns, &mut Vec::new());
        let engine = self.engine.as_mut().unwrap();
        for (link, device) in self.device.iter().enumerate() {
            engine.handle(now_ns, Event::Device { link: LinkId(link as u32), device: *device });
        }
        if !self.routes.is_empty() {
            let links = self.routes.iter().map(|link| LinkId(*link as u32)).collect();
            engine.handle(now_ns, Event::Adopted { group: GROUP, links });
        }
        for link in 0..self.kernel.len() {
            self.probers[link] = None;
            self.kernel[link].1 = LinkState::default();
            self.probe_if_there(now_ns, link, setup.interval_ns, setup.multiplier);
        }
        self.renewed_ns = now_ns;
        self.core_wanted_ns = now_ns;
    }

    fn probe_if_there(&mut self, now_ns: u64, link: usize, interval_ns: u64, multiplier: u32) {
        if matches!(self.device[link], Device::Missing | Device::NoAddress) {
            return;
        }
        let (intent, state) = &self.kernel[link];
        self.sessions += 1;
        begin(intent, state, Party { instance: self.instance, session: self.sessions });
        let detector = Detector::new(interval_ns, multiplier, Limits::default(), now_ns);
        intent.detection_ns.store(interval_ns * u64::from(multiplier), Relaxed);
        intent.max_age_ns.store(detector.max_age_ns(), Relaxed);
        intent.max_lag.store(detector.max_lag(), Relaxed);
        intent.renewed_ns.store(now_ns, Relaxed);
        intent.lease_ns.store(LEASE_NS, Relaxed);
        self.probers[link] =
            Some(Prober { detector, sequence: 0, next_probe_ns: now_ns, look_ns: u64::MAX, told: None });
    }

    pub fn stop(&mut self, now_ns: u64, planned: bool, sent: &mut Vec<(usize, Header)>) {
        if planned {
            for link in 0..self.kernel.len() {
                let view = &self.kernel[link].0.view;
                let mut said = View::unpack(view.load(Relaxed));
                said.flags |= flags::RESTARTING;
                view.store(said.pack(), Relaxed);
                self.probe(now_ns, link, sent);
            }
        }
        self.engine = None;
        self.inbox.clear();
        self.probers.fill_with(|| None);
    }

    pub fn set_device(&mut self, now_ns: u64, link: usize, device: Device) {
        let before = std::mem::replace(&mut self.device[link], device);
        if self.engine.is_none() || before == device {
            return;
        }
        let gone = |device| matches!(device, Device::Missing | Device::NoAddress);
        if gone(device) {
            self.probers[link] = None;
            end(&self.kernel[link].0, &self.kernel[link].1);
        } else if gone(before) {
            let multiplier = self.kernel[link].0.detection_ns.load(Relaxed) / self.interval_ns;
            self.probe_if_there(now_ns, link, self.interval_ns, multiplier as u32);
        }
        self.inbox.push((now_ns + MS / 2, Event::Device { link: LinkId(link as u32), device }));
    }

    pub fn command(&mut self, now_ns: u64, command: Command) -> Option<Result<String, String>> {
        let drain = if let Command::Drain { link, drained } = &command { Some((link.0, *drained)) } else { None };
        let answer = self.engine.as_mut()?.command(now_ns, command);
        if let (Some((link, drained)), Ok(_)) = (drain, &answer) {
            self.drained[link as usize] = drained;
        }
        self.core_wanted_ns = now_ns;
        Some(answer)
    }

    /// The kernel program has news of a link.
    pub fn news(&mut self, link: usize, changed: bool, now_ns: u64) {
        if let Some(prober) = &mut self.probers[link]
            && changed
        {
            prober.look_ns = prober.look_ns.min(now_ns + MS / 50);
        }
    }

    /// When its daemon wants to run.
    pub fn due_ns(&self) -> u64 {
        let Some(engine) = &self.engine else { return u64::MAX };
        self.prober_due_ns().min(self.core_due_ns(engine))
    }

    fn prober_due_ns(&self) -> u64 {
        let due = |prober: &Prober| {
            let deadline_ns = prober.detector.deadline_ns();
            let deadline_ns = deadline_ns.checked_next_multiple_of(GRID_NS).unwrap_or(deadline_ns);
            prober.next_probe_ns.min(prober.look_ns).min(deadline_ns).saturating_add(self.late_ns)
        };
        self.probers.iter().flatten().map(due).min().unwrap_or(u64::MAX).max(self.prober_stalled_until_ns)
    }

    fn core_due_ns(&self, engine: &Engine) -> u64 {
        let inbox = self.inbox.iter().map(|(ready_ns, _)| *ready_ns);
        inbox
            .chain(engine.next_deadline())
            .min()
            .unwrap_or(u64::MAX)
            .min(self.core_wanted_ns)
            .max(self.core_stalled_until_ns)
    }

    /// Runs whatever of the daemon is due; gives what is worth a line in the log.
    pub fn wake(&mut self, now_ns: u64, random: &mut Random, sent: &mut Vec<(usize, Header)>) -> Vec<String> {
        if self.prober_due_ns() <= now_ns {
            self.wake_prober(now_ns, sent);
            self.late_ns = random.below(MS / 10);
        }
        let mut lines = Vec::new();
        if self.engine.as_ref().is_some_and(|engine| self.core_due_ns(engine) <= now_ns) {
            let ready: Vec<Event> =
                self.inbox.extract_if(.., |(ready_ns, _)| *ready_ns <= now_ns).map(|(_, event)| event).collect();
            self.core_wanted_ns = u64::MAX;
            let engine = self.engine.as_mut().unwrap();
            for event in ready {
                lines.push(format!("{} hears {event:?}", if self.at == CLIENT { "client" } else { "server" }));
                engine.handle(now_ns, event.clone());
                if let Some(trace) = &mut self.trace {
                    trace.push((now_ns, Step::Told(event, engine.status(now_ns).remove(0))));
                }
            }
            engine.tick(now_ns);
            lines.extend(self.carry_out(now_ns, sent));
            if let (Some(trace), Some(engine)) = (&mut self.trace, &self.engine) {
                let says = self.kernel.iter().map(|(intent, _)| View::unpack(intent.view.load(Relaxed)));
                trace.push((now_ns, Step::Decided(engine.status(now_ns).remove(0), says.collect())));
            }
        }
        lines
    }

    fn carry_out(&mut self, now_ns: u64, sent: &mut Vec<(usize, Header)>) -> Vec<String> {
        let mut lines = Vec::new();
        for action in self.engine.as_mut().unwrap().actions() {
            lines.push(format!("{} does {action:?}", self.name()));
            match action {
                Action::Advertise { link, state } => {
                    let view = state.view(self.role()).pack();
                    let link = link.0 as usize;
                    if self.kernel[link].0.view.swap(view, Relaxed) != view {
                        self.probe(now_ns, link, sent);
                    }
                }
                Action::Route { plan, .. } => {
                    self.routes = plan.active.iter().map(|(link, _)| link.0 as usize).collect();
                }
                Action::Notify(transition) => {
                    if matches!(transition.what, TransitionKind::ActiveChanged { .. } | TransitionKind::LinkDown) {
                        self.changes.push(transition);
                    }
                }
            }
        }
        lines
    }

    fn probe(&mut self, now_ns: u64, link: usize, sent: &mut Vec<(usize, Header)>) {
        let Some(prober) = &mut self.probers[link] else { return };
        let (intent, state) = &self.kernel[link];
        prober.sequence += 1;
        intent.sent_sequence.store(prober.sequence, Relaxed);
        intent.renewed_ns.store(now_ns, Relaxed);
        prober.detector.on_sent(now_ns, prober.sequence);
        let mine = View::unpack(intent.view.load(Relaxed));
        let me = Party::unpack(intent.me.load(Relaxed));
        sent.push((
            link,
            Header {
                kind: Kind::Probe,
                flags: mine.flags,
                key_id: 0,
                silence_seconds: 0,
                sender_session: me.session,
                receiver_session: Party::unpack(state.peer.load(Relaxed)).session,
                rank: mine.rank,
                generation: 0,
                epoch: mine.epoch,
                sequence: prober.sequence,
                sent_ns: now_ns,
                received: window::highest(state.probe_window.load(Relaxed)),
                instance: me.instance,
            },
        ));
    }

    fn wake_prober(&mut self, now_ns: u64, sent: &mut Vec<(usize, Header)>) {
        let mut lost_one = false;
        for link in 0..self.probers.len() {
            let Some(prober) = &mut self.probers[link] else { continue };
            prober.look_ns = u64::MAX;
            if prober.next_probe_ns <= now_ns {
                prober.next_probe_ns = now_ns / self.interval_ns * self.interval_ns + self.interval_ns;
                self.renewed_ns = now_ns;
                self.probe(now_ns, link, sent);
            }
            lost_one |= self.look(now_ns, link);
        }
        if lost_one {
            for (link, prober) in self.probers.iter_mut().enumerate() {
                if let Some(edge) = prober.as_mut().and_then(|prober| prober.detector.join(now_ns)) {
                    self.inbox.push((now_ns, report(link, edge)));
                }
            }
        }
    }

    fn look(&mut self, now_ns: u64, link: usize) -> bool {
        let Some(prober) = &mut self.probers[link] else { return false };
        let state = &self.kernel[link].1;
        let echoes = Echoes::of(state);
        let edge = prober.detector.poll(now_ns, echoes);
        self.kernel[link].0.max_age_ns.store(prober.detector.max_age_ns(), Relaxed);
        self.kernel[link].0.max_lag.store(prober.detector.max_lag(), Relaxed);
        if state.last_echo_ns.load(Relaxed) != 0 {
            let peer = Party::unpack(state.peer.load(Relaxed));
            let remote = RemoteState::heard(peer, View::unpack(state.peer_view.load(Relaxed)));
            if prober.told.replace(remote) != Some(remote) {
                self.inbox.push((now_ns, Event::RemoteState { link: LinkId(link as u32), state: remote }));
            }
        }
        let Some(edge) = edge else { return false };
        self.inbox.push((now_ns, report(link, edge)));
        matches!(edge, Edge::Silent { .. })
    }
}

fn report(link: usize, edge: Edge) -> Event {
    let link = LinkId(link as u32);
    match edge {
        Edge::Alive => Event::Alive { link },
        Edge::Impaired(impairment) => Event::Impaired { link, impairment, last_good_ns: 0 },
        Edge::Silent { last_good_ns, .. } => Event::Silent { link, last_good_ns },
    }
}
