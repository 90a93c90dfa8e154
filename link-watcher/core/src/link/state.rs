//! What follows for one link from its echoes, its interface, its peer and its operator.

use super::dampening::Dampening;
use crate::event::{Device, Health, Impairment, LinkSpec, LinkVerdict, RemoteState};

/// One link's state. Times are nanoseconds of one monotonic clock.
#[derive(Clone, Debug)]
pub struct Link {
    /// What the configuration says.
    pub spec: LinkSpec,
    /// There is a peer at the other end that has a say in it.
    has_peer: bool,
    /// What probes say; nothing: no verdict yet.
    health: Option<Health>,
    device: Device,
    /// What the peer says; nothing before its first word.
    pub peer: Option<RemoteState>,
    /// Our operator has taken it out of service.
    pub drained: bool,
    verdict: LinkVerdict,
    /// Since when this verdict.
    pub since_ns: u64,
    /// Until when a link that came back must go on answering.
    hold_until_ns: u64,
    /// It was down, so it must hold when it comes back.
    must_hold: bool,
    /// The peer said that it does not hear us: when it does again, the link must hold.
    unheard: bool,
    /// Since when it has been usable without a break.
    usable_since_ns: Option<u64>,
    /// It has been up since it is known: that it may answer any moment is no reason to wait for it any more.
    was_up: bool,
    /// Nothing: whatever it does, it is used when it answers.
    dampening: Option<Dampening>,
    /// This break is counted as a flap already.
    flapped: bool,
    /// Flaps that were not told because it is dampened.
    unreported_flaps: u64,
    /// Last good packet before it went down; 0: never.
    pub last_good_ns: u64,
    /// How often it went down after having been up.
    pub flaps: u64,
    /// Why it went down the last time.
    pub last_down_reason: Option<String>,
}

/// A change of the verdict that people want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// It answers now.
    Up,
    /// It does not answer any more, or never did; why.
    Down(String),
    /// It answers, but not well enough; why.
    Degraded(String),
    /// It flaps, and is left out until it is quiet; why.
    Dampened(String),
    /// It has been quiet, is heard of again, and answers.
    Quiet(String),
}

impl Link {
    /// A link of which nothing is known.
    pub fn new(spec: LinkSpec, has_peer: bool, dampening: bool, now_ns: u64) -> Self {
        Self {
            spec,
            has_peer,
            health: None,
            device: Device::Ready,
            peer: None,
            drained: false,
            verdict: LinkVerdict::Starting,
            since_ns: now_ns,
            hold_until_ns: 0,
            must_hold: false,
            unheard: false,
            usable_since_ns: None,
            was_up: false,
            dampening: dampening.then(Dampening::default),
            flapped: false,
            unreported_flaps: 0,
            last_good_ns: 0,
            flaps: 0,
            last_down_reason: None,
        }
    }

    /// What it is, dampened or not.
    pub const fn verdict(&self) -> LinkVerdict {
        self.verdict
    }

    /// What people are shown: a link that would be up but for its flaps is dampened.
    pub fn shown_verdict(&self) -> LinkVerdict {
        if self.verdict == LinkVerdict::Up && self.is_dampened() { LinkVerdict::Dampened } else { self.verdict }
    }

    /// Whether it is left out because it flaps.
    pub fn is_dampened(&self) -> bool {
        self.dampening.is_some_and(|dampening| dampening.is_suppressed())
    }

    /// Whether flaps are held against it, from now on.
    pub fn dampen(&mut self, on: bool) {
        self.dampening = on.then(|| self.dampening.unwrap_or_default());
    }

    /// Echoes arrive.
    pub fn on_alive(&mut self, now_ns: u64, hold_up_ns: u64) -> Option<StateChange> {
        self.health = Some(Health::Up);
        self.judge(now_ns, hold_up_ns, String::new)
    }

    /// The probes of an uplink have come to a verdict.
    pub fn on_probed(
        &mut self,
        now_ns: u64,
        health: Health,
        why: String,
        last_good_ns: u64,
        hold_up_ns: u64,
    ) -> Option<StateChange> {
        self.health = Some(health);
        if self.verdict == LinkVerdict::Up {
            self.last_good_ns = last_good_ns;
        }
        self.judge(now_ns, hold_up_ns, || why)
    }

    /// It answers, but not as a working link does.
    pub fn on_impaired(&mut self, now_ns: u64, impairment: Impairment, last_good_ns: u64) -> Option<StateChange> {
        self.health = Some(Health::Degraded);
        if self.verdict == LinkVerdict::Up {
            self.last_good_ns = last_good_ns;
        }
        self.judge(now_ns, 0, || match impairment {
            Impairment::Late { rtt_ns, usual_ns: 0 } => format!("its answers come {} late", milliseconds(rtt_ns)),
            Impairment::Late { rtt_ns, usual_ns } => {
                format!("its answers take {}; {} is usual here", milliseconds(rtt_ns), milliseconds(usual_ns))
            }
            Impairment::Beyond(measure) => measure.to_string(),
            Impairment::Beneath { for_ns } => format!(
                "keepalives are answered by the peer's kernel, but for {:.1} s nothing came through its network stack: does a \
                 firewall there or here drop UDP packets of this port?",
                for_ns as f64 / 1e9
            ),
        })
    }

    /// No echo for the detection time.
    pub fn on_silent(&mut self, now_ns: u64, last_good_ns: u64, detection_ns: u64) -> Option<StateChange> {
        self.health = Some(Health::Down);
        if self.verdict == LinkVerdict::Up {
            self.last_good_ns = last_good_ns;
        }
        self.judge(now_ns, 0, || match last_good_ns {
            0 => "no echo since the start".to_owned(),
            _ => format!("no echo for {}", milliseconds(detection_ns)),
        })
    }

    /// The interface has changed.
    pub fn on_device(&mut self, now_ns: u64, device: Device, hold_up_ns: u64) -> Option<StateChange> {
        self.device = device;
        let why = match device {
            Device::Ready => "",
            Device::NoCarrier => "carrier lost",
            Device::NoAddress => "the interface has no address for it",
            Device::NoGateway => "no gateway is known on the interface",
            Device::Disabled => "the interface is administratively down",
            Device::Missing => "there is no such interface",
        };
        // Without interface or address a peer is not probed: what was known is worth nothing. An uplink's prober begins anew, and
        // says when it has come to a verdict.
        if self.has_peer && matches!(device, Device::Missing | Device::NoAddress) {
            self.health = None;
            self.peer = None;
        } else if !self.has_peer && device != Device::Ready {
            self.health = self.health.map(|_| Health::Down);
        }
        if self.verdict == LinkVerdict::Up && device != Device::Ready {
            self.last_good_ns = now_ns;
        }
        self.judge(now_ns, hold_up_ns, || why.to_owned())
    }

    /// The peer says something of it; gives what it said before. That it does not hear us is as bad as silence: when it does
    /// again, the link must go on being good.
    pub fn on_peer(
        &mut self,
        now_ns: u64,
        remote: RemoteState,
        hold_up_ns: u64,
    ) -> (Option<RemoteState>, Option<StateChange>) {
        let before = self.peer.replace(remote);
        let complains = !remote.hears && before.is_some_and(|before| before.hears);
        self.unheard |= complains;
        if remote.hears && std::mem::take(&mut self.unheard) {
            self.hold_until_ns = self.hold_until_ns.max(now_ns + hold_up_ns);
        }
        let flaps = complains && self.verdict == LinkVerdict::Up && self.flap(now_ns);
        (before, flaps.then(|| self.turn_dampened(now_ns, "the peer does not hear us")))
    }

    fn judge(&mut self, now_ns: u64, hold_up_ns: u64, why: impl FnOnce() -> String) -> Option<StateChange> {
        let verdict = match (self.device, self.health) {
            (Device::Missing | Device::Disabled | Device::NoAddress | Device::NoGateway, _) => LinkVerdict::Absent,
            (Device::NoCarrier, _) | (Device::Ready, Some(Health::Down)) => LinkVerdict::Down,
            (Device::Ready, None) => LinkVerdict::Starting,
            (Device::Ready, Some(Health::Degraded)) => LinkVerdict::Degraded,
            (Device::Ready, Some(Health::Up)) => LinkVerdict::Up,
        };
        if verdict == self.verdict {
            return None;
        }
        let before = std::mem::replace(&mut self.verdict, verdict);
        self.since_ns = now_ns;
        if verdict == LinkVerdict::Up {
            self.hold_until_ns = if self.must_hold { now_ns + hold_up_ns } else { now_ns };
            self.must_hold = false;
            self.was_up = true;
            return (!self.is_dampened()).then_some(StateChange::Up);
        }
        if verdict == LinkVerdict::Starting {
            return None;
        }
        self.must_hold = true;
        let why = why();
        self.last_down_reason = Some(why.clone());
        // Somebody who takes the interface away does not make the link a bad one.
        let newly_dampened = before == LinkVerdict::Up && verdict != LinkVerdict::Absent && self.flap(now_ns);
        if before == LinkVerdict::Up {
            self.flaps += 1;
        }
        if newly_dampened {
            return Some(self.turn_dampened(now_ns, &why));
        }
        if self.is_dampened() {
            self.unreported_flaps += u64::from(before == LinkVerdict::Up);
            return None;
        }
        if verdict == LinkVerdict::Degraded {
            return Some(StateChange::Degraded(why));
        }
        // From absent to down and back is no news.
        matches!(before, LinkVerdict::Up | LinkVerdict::Degraded | LinkVerdict::Starting)
            .then_some(StateChange::Down(why))
    }

    /// Counts a break as a flap, once; true: from now on the link is dampened.
    fn flap(&mut self, now_ns: u64) -> bool {
        let first = !std::mem::replace(&mut self.flapped, true);
        first && self.dampening.as_mut().is_some_and(|dampening| dampening.flapped(now_ns))
    }

    fn turn_dampened(&mut self, now_ns: u64, why: &str) -> StateChange {
        self.unreported_flaps = 0;
        StateChange::Dampened(format!("{why}; {}", self.dampened_because(now_ns)))
    }

    fn dampened_because(&self, now_ns: u64) -> String {
        let dampening = self.dampening.unwrap_or_default();
        let left_ns = dampening.reuse_at_ns().map_or(0, |at_ns| at_ns.saturating_sub(now_ns));
        format!("it flaps: not used before it has been quiet for {}", seconds(left_ns))
    }

    /// It answers, the peer (where there is one) hears us on it, and nobody drained it; perhaps it must still hold.
    pub fn answers_both_ways(&self) -> bool {
        let agreed = !self.has_peer || self.peer.is_some_and(|peer| peer.hears && !peer.drained);
        self.verdict == LinkVerdict::Up && !self.drained && agreed
    }

    /// Traffic on it gets through, and it only must go on being good for a while.
    pub fn only_holds(&self) -> bool {
        self.answers_both_ways() && !self.is_dampened()
    }

    /// Traffic on it gets through, though perhaps badly: a last resort.
    pub fn usable_as_last_resort(&self) -> bool {
        self.answers_both_ways() || (self.verdict == LinkVerdict::Degraded && !self.drained)
    }

    /// Whether it must still hold.
    pub const fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.hold_until_ns
    }

    /// Whether traffic may use it.
    pub fn usable(&self, now_ns: u64) -> bool {
        self.only_holds() && !self.holds(now_ns)
    }

    /// It may turn out usable any moment, for the first time: no verdict yet, or up and the peer has said nothing so far.
    pub fn undecided(&self) -> bool {
        !self.drained
            && match self.verdict {
                LinkVerdict::Starting if self.was_up => false,
                LinkVerdict::Starting => true,
                LinkVerdict::Up => self.has_peer && self.peer.is_none(),
                LinkVerdict::Down | LinkVerdict::Degraded | LinkVerdict::Dampened | LinkVerdict::Absent => false,
            }
    }

    /// Brings it up to now: since when it has been usable, and whether it has been quiet for long enough. Call it after every
    /// change and at every deadline.
    pub fn advance(&mut self, now_ns: u64) -> Option<StateChange> {
        self.flapped &= !self.answers_both_ways();
        let released = self.dampening.as_mut().is_some_and(|dampening| dampening.release(now_ns));
        self.note_usable(now_ns);
        if !released {
            return None;
        }
        let meanwhile = format!("it has been quiet ({} more flaps while it was left out)", self.unreported_flaps);
        match self.verdict {
            LinkVerdict::Up => Some(StateChange::Quiet(meanwhile)),
            LinkVerdict::Degraded => Some(StateChange::Degraded(self.last_down_reason.clone().unwrap_or(meanwhile))),
            LinkVerdict::Down | LinkVerdict::Absent => {
                Some(StateChange::Down(self.last_down_reason.clone().unwrap_or(meanwhile)))
            }
            LinkVerdict::Starting | LinkVerdict::Dampened => None,
        }
    }

    fn note_usable(&mut self, now_ns: u64) {
        self.usable_since_ns = self.usable(now_ns).then(|| self.usable_since_ns.unwrap_or(now_ns));
    }

    /// Since when it has been usable without a break.
    pub const fn usable_since_ns(&self) -> Option<u64> {
        self.usable_since_ns
    }

    /// The peer has left it for a reason that we do not see: its time counts anew.
    pub const fn restart_failback_timer(&mut self, now_ns: u64) {
        if self.usable_since_ns.is_some() {
            self.usable_since_ns = Some(now_ns);
        }
    }

    /// The peer's operator has taken it out of service.
    pub fn drained_by_peer(&self) -> bool {
        self.peer.is_some_and(|peer| peer.drained)
    }

    /// Why traffic may not use it, in words for the operator; nothing where it may.
    pub fn unusable_because(&self, now_ns: u64) -> Option<String> {
        let is = |state: &str| match &self.last_down_reason {
            Some(why) => format!("it is {state}: {why}"),
            None => format!("it is {state}"),
        };
        let peer = self.peer.filter(|_| self.has_peer);
        Some(match self.verdict {
            LinkVerdict::Starting => "no verdict yet".to_owned(),
            LinkVerdict::Down => is("down"),
            LinkVerdict::Absent => is("absent"),
            LinkVerdict::Degraded => is("degraded"),
            LinkVerdict::Up if self.drained && self.drained_by_peer() => "it is drained at both ends".to_owned(),
            LinkVerdict::Up if self.drained => "it is drained".to_owned(),
            LinkVerdict::Up if self.drained_by_peer() => "it is drained by the peer".to_owned(),
            LinkVerdict::Up if self.has_peer && peer.is_none() => "the peer has said nothing on it yet".to_owned(),
            LinkVerdict::Up if peer.is_some_and(|peer| !peer.hears) => "the peer does not hear us".to_owned(),
            LinkVerdict::Dampened => self.dampened_because(now_ns),
            LinkVerdict::Up if self.is_dampened() => self.dampened_because(now_ns),
            LinkVerdict::Up if self.holds(now_ns) => {
                format!("{} of hold-up left", seconds(self.hold_until_ns.saturating_sub(now_ns)))
            }
            LinkVerdict::Up => return None,
        })
    }

    /// When it stops holding, if it did at `decided_ns`, or being dampened.
    pub fn next_deadline_ns(&self, decided_ns: u64) -> Option<u64> {
        let holds = (self.verdict == LinkVerdict::Up && self.holds(decided_ns)).then_some(self.hold_until_ns);
        holds.into_iter().chain(self.dampening.and_then(|dampening| dampening.reuse_at_ns())).min()
    }

    /// Penalty for its flaps, from 0; it is left out from 3,000 until below 750.
    pub fn penalty(&self, now_ns: u64) -> f64 {
        self.dampening.map_or(0.0, |dampening| dampening.penalty_at(now_ns))
    }
}

/// A time for people, rounded up: what is left is never nothing.
pub(crate) fn seconds(ns: u64) -> String {
    let tenths = ns.div_ceil(100_000_000);
    if tenths < 100 { format!("{}.{} s", tenths / 10, tenths % 10) } else { format!("{} s", tenths.div_ceil(10)) }
}

/// A time for people.
pub(super) fn milliseconds(ns: u64) -> String {
    if ns.is_multiple_of(1_000_000) { format!("{} ms", ns / 1_000_000) } else { format!("{:.1} ms", ns as f64 / 1e6) }
}
