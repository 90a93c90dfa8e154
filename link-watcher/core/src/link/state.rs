//! What follows for one link from its echoes, its interface, its peer and its operator.

use crate::event::{Device, Health, Impairment, LinkSpec, LinkVerdict, PeerSaid};

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
    pub peer: Option<PeerSaid>,
    /// Our operator has taken it out of service.
    pub drained: bool,
    verdict: LinkVerdict,
    /// Since when this verdict.
    pub since_ns: u64,
    /// Until when a link that came back must go on answering.
    hold_until_ns: u64,
    /// It was down, so it must hold when it comes back.
    must_hold: bool,
    /// Since when it has been usable without a break.
    usable_since_ns: Option<u64>,
    /// Last good packet before it went down; 0: never.
    pub last_good_ns: u64,
    /// How often it went down after having been up.
    pub flaps: u64,
    /// Why it went down the last time.
    pub last_down_reason: Option<String>,
}

/// A change of the verdict that people want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It answers now.
    Up,
    /// It does not answer any more, or never did; why.
    Down(String),
    /// It answers, but not well enough; why.
    Degraded(String),
}

impl Link {
    /// A link of which nothing is known.
    pub const fn new(spec: LinkSpec, has_peer: bool, now_ns: u64) -> Self {
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
            usable_since_ns: None,
            last_good_ns: 0,
            flaps: 0,
            last_down_reason: None,
        }
    }

    /// What it is.
    pub const fn verdict(&self) -> LinkVerdict {
        self.verdict
    }

    /// Echoes arrive.
    pub fn on_alive(&mut self, now_ns: u64, hold_up_ns: u64) -> Option<Turn> {
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
    ) -> Option<Turn> {
        self.health = Some(health);
        if self.verdict == LinkVerdict::Up {
            self.last_good_ns = last_good_ns;
        }
        self.judge(now_ns, hold_up_ns, || why)
    }

    /// It answers, but not as a working link does.
    pub fn on_impaired(&mut self, now_ns: u64, impairment: Impairment, last_good_ns: u64) -> Option<Turn> {
        self.health = Some(Health::Degraded);
        if self.verdict == LinkVerdict::Up {
            self.last_good_ns = last_good_ns;
        }
        self.judge(now_ns, 0, || match impairment {
            Impairment::Late { rtt_ns, usual_ns: 0 } => format!("its answers come {} late", milliseconds(rtt_ns)),
            Impairment::Late { rtt_ns, usual_ns } => {
                format!("its answers take {}; {} is usual here", milliseconds(rtt_ns), milliseconds(usual_ns))
            }
            Impairment::Beneath { for_ns } => format!(
                "keepalives are answered by the peer's kernel, but for {:.1} s nothing came through its network stack: does a \
                 firewall there or here drop UDP packets of this port?",
                for_ns as f64 / 1e9
            ),
        })
    }

    /// No echo for the detection time.
    pub fn on_silent(&mut self, now_ns: u64, last_good_ns: u64, detection_ns: u64) -> Option<Turn> {
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
    pub fn on_device(&mut self, now_ns: u64, device: Device, hold_up_ns: u64) -> Option<Turn> {
        self.device = device;
        let why = match device {
            Device::Ready => "",
            Device::NoCarrier => "carrier lost",
            Device::NoAddress => "its address is gone from the interface",
            Device::Disabled => "the interface is administratively down",
            Device::Missing => "the interface is gone",
        };
        // Without interface or address a peer is not probed: what was known is worth nothing. An uplink's prober goes on,
        // and says when its verdict changes.
        if self.has_peer && matches!(device, Device::Missing | Device::NoAddress) {
            self.health = None;
            self.peer = None;
        }
        if self.verdict == LinkVerdict::Up && device != Device::Ready {
            self.last_good_ns = now_ns;
        }
        self.judge(now_ns, hold_up_ns, || why.to_owned())
    }

    fn judge(&mut self, now_ns: u64, hold_up_ns: u64, why: impl FnOnce() -> String) -> Option<Turn> {
        let verdict = match (self.device, self.health) {
            (Device::Missing | Device::Disabled, _) => LinkVerdict::Absent,
            (Device::NoCarrier | Device::NoAddress, _) | (Device::Ready, Some(Health::Down)) => LinkVerdict::Down,
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
            return Some(Turn::Up);
        }
        if verdict == LinkVerdict::Starting {
            return None;
        }
        self.must_hold = true;
        let why = why();
        self.last_down_reason = Some(why.clone());
        if before == LinkVerdict::Up {
            self.flaps += 1;
        }
        if verdict == LinkVerdict::Degraded {
            return Some(Turn::Degraded(why));
        }
        // From absent to down and back is no news.
        matches!(before, LinkVerdict::Up | LinkVerdict::Degraded | LinkVerdict::Starting).then_some(Turn::Down(why))
    }

    /// It answers, the peer (where there is one) hears us on it, and nobody drained it; perhaps it must still hold.
    pub fn answers_both_ways(&self) -> bool {
        let agreed = !self.has_peer || self.peer.is_some_and(|peer| peer.hears && !peer.drained);
        self.verdict == LinkVerdict::Up && !self.drained && agreed
    }

    /// Traffic on it gets through, though perhaps badly: a last resort.
    pub fn better_than_nothing(&self) -> bool {
        self.answers_both_ways() || (self.verdict == LinkVerdict::Degraded && !self.drained)
    }

    /// Whether it must still hold.
    pub const fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.hold_until_ns
    }

    /// Whether traffic may use it.
    pub fn usable(&self, now_ns: u64) -> bool {
        self.answers_both_ways() && !self.holds(now_ns)
    }

    /// It may turn out usable any moment: no verdict yet, or up and the peer has said nothing so far.
    pub fn promising(&self) -> bool {
        !self.drained
            && match self.verdict {
                LinkVerdict::Starting => true,
                LinkVerdict::Up => self.has_peer && self.peer.is_none(),
                LinkVerdict::Down | LinkVerdict::Degraded | LinkVerdict::Absent => false,
            }
    }

    /// Keeps the time since when it has been usable. Call it after every change and at every deadline.
    pub fn note_usable(&mut self, now_ns: u64) {
        self.usable_since_ns = self.usable(now_ns).then(|| self.usable_since_ns.unwrap_or(now_ns));
    }

    /// Since when it has been usable without a break.
    pub const fn usable_since_ns(&self) -> Option<u64> {
        self.usable_since_ns
    }

    /// The peer has left it for a reason that we do not see: its time counts anew.
    pub const fn doubt(&mut self, now_ns: u64) {
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
            LinkVerdict::Up if self.holds(now_ns) => {
                format!("{} of hold-up left", seconds(self.hold_until_ns.saturating_sub(now_ns)))
            }
            LinkVerdict::Up => return None,
        })
    }

    /// When it stops holding, if it did at `settled_ns`.
    pub fn next_deadline_ns(&self, settled_ns: u64) -> Option<u64> {
        (self.verdict == LinkVerdict::Up && self.holds(settled_ns)).then_some(self.hold_until_ns)
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
