//! Two daemons in a simulated network with a virtual clock: real engines, real detectors, the real checks of received
//! packets. Only signatures, sockets and routes are left out. Everything random comes from one seed.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

pub mod oracle;
pub mod side;

use std::collections::{BTreeMap, VecDeque};

use link_watcher_common::{
    maps::KeySet,
    verify,
    wire::{Header, Kind},
};
use link_watcher_core::event::{Command, Device, Failback, GroupId, GroupSpec, LinkId, LinkSpec, Role, StandingOrders};

use self::{oracle::Oracle, side::Side};

pub const MS: u64 = 1_000_000;
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;
pub const GROUP: GroupId = GroupId(0);

/// A small generator (Steele, Lea, Flood: splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    pub interval_ns: u64,
    pub multiplier: u32,
    pub hold_up_ns: u64,
    pub failback: Failback,
    /// Tier and weight of each link.
    pub links: Vec<(u32, u32)>,
    /// Least one-way delay of each link, ns.
    pub delay_ns: Vec<u64>,
    /// Most that one packet may take longer, ns.
    pub jitter_ns: u64,
    /// Share of probes that stay unanswered, percent; never `multiplier` in a row.
    pub loss_percent: u64,
    /// Whether each step of the engines is kept.
    pub is_traced: bool,
}

impl Setup {
    /// Three links, 10 ms × 3, one tier each.
    pub fn plain() -> Self {
        Self {
            interval_ns: 10 * MS,
            multiplier: 3,
            hold_up_ns: 100 * MS,
            failback: Failback::After(300 * MS),
            links: vec![(1, 1), (2, 1), (3, 1)],
            delay_ns: vec![MS / 10; 3],
            jitter_ns: MS / 20,
            loss_percent: 0,
            is_traced: false,
        }
    }

    pub fn detection_ns(&self) -> u64 {
        self.interval_ns * u64::from(self.multiplier)
    }

    pub fn rtt_ns(&self) -> u64 {
        2 * (self.delay_ns.iter().max().unwrap() + self.jitter_ns)
    }

    pub fn spec(&self, role: Role) -> GroupSpec {
        let link = |(id, (tier, weight)): (usize, &(u32, u32))| LinkSpec {
            id: LinkId(id as u32),
            name: format!("link{id}"),
            tier: *tier,
            weight: *weight,
        };
        GroupSpec {
            id: GROUP,
            name: "peer".to_owned(),
            role: Some(role),
            failback: self.failback,
            hold_up_ns: self.hold_up_ns,
            detection_ns: self.detection_ns(),
            dampening: false,
            links: self.links.iter().enumerate().map(link).collect(),
            orders: StandingOrders::default(),
        }
    }
}

/// One link's medium.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Whether it lets packets through, by sender.
    pub passes: [bool; 2],
    /// Probes that stayed unanswered in a row, by sender.
    lost: [u32; 2],
    /// When the last packet of each sender arrives: packets of one flow do not overtake each other.
    last_ns: [u64; 2],
    /// Since when it works in both directions without a break.
    pub good_since_ns: Option<u64>,
    /// When it last stopped to.
    pub broke_ns: u64,
    /// Since when packets of this sender get lost.
    pub dead_since_ns: [Option<u64>; 2],
    /// Both ends know its usual round trip.
    rtt_known: bool,
}

#[derive(Clone, Debug)]
struct InFlight {
    to: usize,
    link: usize,
    header: Header,
    /// The link by whose keys it is signed.
    signed_for: usize,
    /// The attacker sent it: a cut does not stop it.
    by_hand: bool,
}

/// Somebody between the two ends, on all links, without a key: what they have seen, and how much of it they have sent again.
#[derive(Debug, Default)]
pub struct Attacker {
    seen: VecDeque<InFlight>,
    /// What was sent into links that are cut.
    held: VecDeque<InFlight>,
    pub injected: u64,
    pub delayed: u64,
}

/// What an attacker remembers.
const MEMORY: usize = 400;

pub struct Sim {
    pub now_ns: u64,
    pub setup: Setup,
    pub random: Random,
    pub sides: [Side; 2],
    pub wires: Vec<Wire>,
    pub oracle: Oracle,
    pub log: Vec<String>,
    /// Nothing: nobody is in between.
    pub attacker: Option<Attacker>,
    packets: BTreeMap<(u64, u64), InFlight>,
    serial: u64,
}

impl Sim {
    /// Both daemons start now.
    pub fn new(seed: u64, setup: Setup) -> Self {
        let wire = Wire {
            passes: [true; 2],
            lost: [0; 2],
            last_ns: [0; 2],
            good_since_ns: Some(0),
            broke_ns: 0,
            dead_since_ns: [None; 2],
            rtt_known: false,
        };
        let mut sim = Self {
            now_ns: 1_000 * MS,
            wires: vec![wire; setup.links.len()],
            sides: [Side::new(CLIENT, &setup), Side::new(SERVER, &setup)],
            oracle: Oracle::default(),
            setup,
            random: Random(seed),
            log: Vec::new(),
            attacker: None,
            packets: BTreeMap::new(),
            serial: 0,
        };
        sim.start(CLIENT);
        sim.start(SERVER);
        sim
    }

    pub fn note(&mut self, what: impl std::fmt::Display) {
        let at = self.now_ns as f64 / 1e6;
        self.log.push(format!("{at:10.3}  {what}"));
    }

    pub fn run_for(&mut self, ns: u64) {
        self.run_until(self.now_ns + ns);
    }

    pub fn run_until(&mut self, until_ns: u64) {
        loop {
            let packet_ns = self.packets.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let wake_ns = self.sides.iter().map(|side| side.due_ns()).min().unwrap();
            let next_ns = packet_ns.min(wake_ns).min(self.oracle.next_look_ns);
            if next_ns > until_ns {
                self.now_ns = until_ns;
                return;
            }
            self.now_ns = self.now_ns.max(next_ns);
            if packet_ns <= next_ns {
                let (_, packet) = self.packets.pop_first().unwrap();
                self.arrive(packet);
            } else if wake_ns <= next_ns {
                for side in 0..2 {
                    if self.sides[side].due_ns() <= self.now_ns {
                        self.wake(side);
                    }
                }
            } else {
                self.look();
            }
        }
    }

    fn wake(&mut self, at: usize) {
        let mut sent = Vec::new();
        let lines = self.sides[at].wake(self.now_ns, &mut self.random, &mut sent);
        for line in lines {
            self.note(line);
        }
        for (link, header) in sent {
            self.send(at, link, header);
        }
        self.oracle.changes(at, self.now_ns, &mut self.sides[at].changes);
    }

    pub fn send(&mut self, from: usize, link: usize, header: Header) {
        let packet = InFlight { to: 1 - from, link, header, signed_for: link, by_hand: false };
        let passes = self.passes(from, link);
        if let Some(attacker) = &mut self.attacker {
            let memory = if passes { &mut attacker.seen } else { &mut attacker.held };
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back(packet.clone());
        }
        if !passes {
            return;
        }
        let wire = &mut self.wires[link];
        // Loss is decided once for each probe and its answer, so that it can be bounded.
        if header.kind == Kind::Probe && self.setup.loss_percent > 0 {
            if wire.lost[from] + 1 < self.setup.multiplier && self.random.chance(self.setup.loss_percent) {
                wire.lost[from] += 1;
                return;
            }
            wire.lost[from] = 0;
        }
        let at_ns = self.now_ns + self.setup.delay_ns[link] + self.random.below(self.setup.jitter_ns + 1);
        // An attacker makes some of them late, so that others overtake them, but not so late that it is an outage.
        let at_ns = match &mut self.attacker {
            Some(attacker) if self.random.chance(5) => {
                attacker.delayed += 1;
                at_ns + self.random.below(self.setup.interval_ns / 4)
            }
            Some(_) => at_ns,
            None => at_ns.max(wire.last_ns[from]),
        };
        wire.last_ns[from] = at_ns;
        self.deliver(at_ns, packet);
    }

    fn deliver(&mut self, at_ns: u64, packet: InFlight) {
        self.serial += 1;
        self.packets.insert((at_ns, self.serial), packet);
    }

    /// The attacker sends some of what they know: the same packet again, on this link or another, to its receiver or back to
    /// its sender, of now or of long ago, and what never arrived.
    pub fn attack(&mut self, packets: u64) {
        let links = self.wires.len() as u64;
        for _ in 0..packets {
            let Some(attacker) = &mut self.attacker else { return };
            let from_held = self.random.chance(40) && !attacker.held.is_empty();
            let memory = if from_held { &mut attacker.held } else { &mut attacker.seen };
            let newest = self.random.chance(50);
            let at = if newest { 3_u64.min(memory.len() as u64) } else { memory.len() as u64 };
            let at = memory.len().saturating_sub(1 + self.random.below(at) as usize);
            let Some(mut packet) = memory.get(at).cloned() else { continue };
            if from_held && self.random.chance(30) {
                memory.remove(at);
            }
            if self.random.chance(50) {
                packet.link = self.random.below(links) as usize;
            }
            if self.random.chance(10) {
                packet.to = 1 - packet.to;
            }
            // Who passes every keepalive on at once, and nothing else, is a link that works as far as keepalives can tell; and
            // a slow one, where nobody knows how fast it was.
            let own_place = packet.link == packet.signed_for && from_held;
            let known = self.wires[packet.link].rtt_known;
            let least_ns = self.setup.detection_ns() + self.setup.interval_ns + self.setup.rtt_ns();
            let promptly_ns = if known { least_ns } else { least_ns + 2_000 * MS };
            if own_place && self.now_ns.saturating_sub(packet.header.sent_ns) < promptly_ns {
                continue;
            }
            attacker.injected += 1;
            let at_ns = self.now_ns + self.random.below(MS);
            self.deliver(at_ns, InFlight { by_hand: true, ..packet });
        }
    }

    /// Whether what a side sends gets to the other one.
    pub fn passes(&self, from: usize, link: usize) -> bool {
        self.wires[link].passes[from] && self.sides.iter().all(|side| side.device[link] == Device::Ready)
    }

    fn arrive(&mut self, packet: InFlight) {
        let InFlight { to, link, header, signed_for, by_hand } = packet;
        let arrives = if by_hand { self.sides[to].device[link] == Device::Ready } else { self.passes(1 - to, link) };
        if !arrives {
            return;
        }
        let side = &mut self.sides[to];
        let (intent, state) = &side.kernel[link];
        let Ok(candidate) = verify::screen(&header, 255, intent, state, || self.now_ns) else {
            return;
        };
        // Each link has keys of its own: what was signed for another one is forged here.
        if signed_for != link {
            return;
        }
        match verify::commit(&header, candidate, intent, state, self.now_ns) {
            Ok(verify::Outcome::Alive { changed }) => side.news(link, changed, self.now_ns),
            Ok(verify::Outcome::Answer { changed, .. }) => {
                let echo = verify::echo(&header, intent, state, &KeySet::default(), self.now_ns);
                side.news(link, changed, self.now_ns);
                self.send(to, link, echo);
            }
            Ok(verify::Outcome::Deliver) | Err(_) => {}
        }
    }

    fn look(&mut self) {
        self.oracle.next_look_ns = self.now_ns + MS;
        let known_ns = self.now_ns.saturating_sub(3 * self.setup.detection_ns());
        for wire in &mut self.wires {
            wire.rtt_known |= wire.good_since_ns.is_some_and(|since_ns| since_ns <= known_ns);
        }
        let mut oracle = std::mem::take(&mut self.oracle);
        oracle.look(self);
        self.oracle = oracle;
    }
}

// What befalls the world.
impl Sim {
    fn media_changed(&mut self) {
        for link in 0..self.wires.len() {
            let passes = [self.passes(0, link), self.passes(1, link)];
            let wire = &mut self.wires[link];
            for (dead, passes) in wire.dead_since_ns.iter_mut().zip(passes) {
                *dead = if passes { None } else { dead.or(Some(self.now_ns)) };
            }
            if wire.good_since_ns.is_some() && passes != [true; 2] {
                wire.broke_ns = self.now_ns;
            }
            wire.good_since_ns = (passes == [true; 2]).then(|| wire.good_since_ns.unwrap_or(self.now_ns));
        }
    }

    pub fn set_wire(&mut self, link: usize, passes: [bool; 2]) {
        self.note(format_args!("link{link}: packets of client, server pass: {passes:?}"));
        self.wires[link].passes = passes;
        self.media_changed();
    }

    pub fn set_device(&mut self, at: usize, link: usize, device: Device) {
        self.note(format_args!("{}: link{link} is {device:?}", self.sides[at].name()));
        self.sides[at].set_device(self.now_ns, link, device);
        self.wires[link].rtt_known = false;
        self.media_changed();
    }

    pub fn start(&mut self, at: usize) {
        self.note(format_args!("{} starts", self.sides[at].name()));
        self.oracle.disturbed(at, self.now_ns);
        let setup = self.setup.clone();
        self.sides[at].start(self.now_ns, &setup);
        self.wires.iter_mut().for_each(|wire| wire.rtt_known = false);
    }

    /// `planned`: as by SIGTERM; else as by SIGKILL.
    pub fn stop(&mut self, at: usize, planned: bool) {
        self.note(format_args!("{} stops, planned: {planned}", self.sides[at].name()));
        let mut sent = Vec::new();
        self.sides[at].stop(self.now_ns, planned, &mut sent);
        for (link, header) in sent {
            self.send(at, link, header);
        }
    }

    pub fn stall(&mut self, at: usize, prober: bool, core: bool, ns: u64) {
        self.note(format_args!("{} stalls for {} ms: prober {prober}, core {core}", self.sides[at].name(), ns / MS));
        let until_ns = self.now_ns + ns;
        if prober {
            self.sides[at].prober_stalled_until_ns = until_ns;
        }
        if core {
            self.sides[at].core_stalled_until_ns = until_ns;
        }
        self.oracle.disturbed(at, until_ns);
    }

    pub fn command(&mut self, at: usize, command: Command) -> Option<Result<String, String>> {
        let answer = self.sides[at].command(self.now_ns, command.clone());
        self.note(format_args!("{}: {command:?}: {answer:?}", self.sides[at].name()));
        if matches!(answer, Some(Ok(_))) {
            self.oracle.ordered(self.now_ns);
        }
        answer
    }
}
