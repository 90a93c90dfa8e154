//! Why nothing good arrives on a link: named from what was refused lately, and only for as long as it is so.

use std::{collections::VecDeque, fmt, net::IpAddr};

/// How long packets are put together to say something of them.
pub const WINDOW_NS: u64 = 3_000_000_000;
/// A cause that was not seen for so long accuses nobody any more.
pub const HOLD_NS: u64 = 10_000_000_000;
/// Most samples kept, one a second: those of [`HOLD_NS`] and some more where the caller is early.
const MAX_SAMPLES: usize = 16;
/// Fewest refused packets that say something.
const MIN_REFUSED: u64 = 2;
/// A cause is named if it is at least so many of five refused packets.
const MOST_OF_FIVE: u64 = 4;

/// A link's counters since its start, as they stand at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Echoes and probes that were believed.
    pub good: u64,
    /// Wrong signature.
    pub forged: u64,
    /// The peer has our role.
    pub reflected: u64,
    /// From no address that we know.
    pub unknown: u64,
    /// Of another version of the protocol.
    pub version: u64,
    /// Over more hops than allowed.
    pub distant: u64,
    /// Seen before.
    pub replayed: u64,
    /// No keepalive at all.
    pub malformed: u64,
}

impl Counts {
    /// Since `earlier`; a counter that went back, as after a new start, counts as nothing.
    fn since(&self, earlier: &Self) -> Self {
        Self {
            good: self.good.saturating_sub(earlier.good),
            forged: self.forged.saturating_sub(earlier.forged),
            reflected: self.reflected.saturating_sub(earlier.reflected),
            unknown: self.unknown.saturating_sub(earlier.unknown),
            version: self.version.saturating_sub(earlier.version),
            distant: self.distant.saturating_sub(earlier.distant),
            replayed: self.replayed.saturating_sub(earlier.replayed),
            malformed: self.malformed.saturating_sub(earlier.malformed),
        }
    }

    fn causes(&self) -> [(Cause, u64); 7] {
        [
            (Cause::Forged, self.forged),
            (Cause::Reflected, self.reflected),
            (Cause::Unknown, self.unknown),
            (Cause::Version, self.version),
            (Cause::Distant, self.distant),
            (Cause::Replayed, self.replayed),
            (Cause::Malformed, self.malformed),
        ]
    }
}

/// Why packets are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Wrong signature.
    Forged,
    /// The peer has our role.
    Reflected,
    /// From no address that we know.
    Unknown,
    /// Of another version of the protocol.
    Version,
    /// Over more hops than allowed.
    Distant,
    /// Seen before.
    Replayed,
    /// No keepalive at all.
    Malformed,
}

/// What is known beside the counters; each is said where it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Where the packets of an unknown sender came from.
    pub from: Option<IpAddr>,
    /// The version that the peer speaks.
    pub version: Option<u8>,
    /// Hops that the last distant packet came over.
    pub hops: Option<u8>,
}

/// What is wrong with all or most of what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Why it is refused.
    pub cause: Cause,
    /// Packets refused for it in the window.
    pub count: u64,
    /// Packets refused in the window, for all causes.
    pub refused: u64,
    /// More about it.
    pub details: Details,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == self.refused {
            write!(f, "all {} packets of the last 3 s ", self.count)?;
        } else {
            write!(f, "{} of {} packets of the last 3 s ", self.count, self.refused)?;
        }
        match (self.cause, self.details) {
            (Cause::Forged, _) => f.write_str(
                "were forged: do the key files (`link-watcher key fingerprint`) or the names of the link differ, or is \
                 there a router or NAT between (max-hops)?",
            ),
            (Cause::Reflected, _) => f.write_str("came from our own role: do both ends have the same `role`?"),
            (Cause::Unknown, Details { from: Some(from), .. }) => {
                write!(f, "came from {from}, which is no `remote`: is `remote` right here, and `local` at the peer?")
            }
            (Cause::Unknown, _) => f.write_str("came from another address than `remote`"),
            (Cause::Version, Details { version: Some(version), .. }) => {
                write!(f, "were of another version: the peer speaks version {version}; upgrade the older end")
            }
            (Cause::Version, _) => f.write_str("were of another version of the protocol; upgrade the older end"),
            (Cause::Distant, Details { hops: Some(hops), .. }) => {
                write!(f, "came over {hops} hops: if that is so on purpose, set max-hops = {hops} at both ends")
            }
            (Cause::Distant, _) => f.write_str("came over more hops than max-hops allows"),
            (Cause::Replayed, _) => f.write_str("were replayed: does something on the way copy or hold back packets?"),
            (Cause::Malformed, _) => f.write_str("were malformed: does another program send to this port?"),
        }
    }
}

/// Judges one link from its counters. The caller samples about once a second.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    samples: VecDeque<(u64, Counts)>,
    last: Option<(u64, Suspicion)>,
}

impl Judge {
    /// Takes what the counters say at `now_ns` (a clock that never goes back), and says what is suspected now. A good
    /// packet ends a suspicion at once; silence ends it [`HOLD_NS`] after the last
    /// refused one.
    pub fn sample(&mut self, now_ns: u64, counts: Counts, details: Details) -> Option<Suspicion> {
        // The newest sample that is a whole window old is where the window begins.
        let begin = now_ns.saturating_sub(WINDOW_NS);
        while self.samples.len() > 1 && self.samples[1].0 <= begin || self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        let newest = self.samples.back().map_or(Counts::default(), |(_, newest)| counts.since(newest));
        let arrived = newest.causes().iter().any(|(_, count)| *count > 0);
        if let Some((at, earlier)) = self.samples.front().copied() {
            let fresh = counts.since(&earlier);
            // A sample that is older than it should be, as after a suspended machine, says nothing of the last 3 s.
            if arrived
                && now_ns.saturating_sub(at) <= 2 * WINDOW_NS
                && let Some(suspicion) = judge(&fresh, details)
            {
                self.last = Some((now_ns, suspicion));
            }
        }
        self.samples.push_back((now_ns, counts));
        if newest.good > 0 {
            self.last = None;
        }
        self.last = self.last.filter(|(at, _)| now_ns.saturating_sub(*at) < HOLD_NS);
        self.last.map(|(_, suspicion)| suspicion)
    }
}

fn judge(fresh: &Counts, details: Details) -> Option<Suspicion> {
    let causes = fresh.causes();
    let refused: u64 = causes.iter().map(|(_, count)| count).sum();
    let (cause, count) = causes.into_iter().max_by_key(|(_, count)| *count)?;
    let named = fresh.good == 0 && refused >= MIN_REFUSED && count * 5 >= refused * MOST_OF_FIVE;
    named.then_some(Suspicion { cause, count, refused, details })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn run(judge: &mut Judge, seconds: std::ops::RangeInclusive<u64>, at: impl Fn(u64) -> Counts) -> Option<Suspicion> {
        let mut said = None;
        for second in seconds {
            said = judge.sample(second * SECOND, at(second), Details::default());
        }
        said
    }

    #[test]
    fn a_wrong_key_is_named_with_its_count() {
        let said = run(&mut Judge::default(), 0..=5, |s| Counts { forged: s * 10, ..Counts::default() }).unwrap();
        assert!(said.to_string().starts_with("all 30 packets of the last 3 s were forged: do the key files"), "{said}");
    }

    #[test]
    fn a_good_packet_ends_it_at_once() {
        let mut judge = Judge::default();
        assert!(run(&mut judge, 0..=5, |s| Counts { forged: s * 10, ..Counts::default() }).is_some());
        assert_eq!(run(&mut judge, 6..=6, |_| Counts { forged: 60, good: 1, ..Counts::default() }), None);
    }

    #[test]
    fn what_was_an_hour_ago_accuses_nobody() {
        let mut judge = Judge::default();
        let counts = |s: u64| Counts { forged: s.min(5) * 10, ..Counts::default() };
        assert!(run(&mut judge, 0..=8, counts).is_some());
        // The last forged packet came at 5 s.
        assert!(run(&mut judge, 9..=14, counts).is_some());
        assert_eq!(run(&mut judge, 15..=15, counts), None);
    }

    #[test]
    fn a_key_and_a_role_that_were_wrong_for_an_hour_are_forgotten_ten_seconds_later() {
        for wrong in [|n| Counts { forged: n, ..Counts::default() }, |n| Counts { reflected: n, ..Counts::default() }] {
            let mut judge = Judge::default();
            let hour = 3600;
            assert!(run(&mut judge, 0..=hour, |s| wrong(s * 10)).is_some());
            // Mended, but nothing arrives yet: what was counted stays counted.
            assert!(run(&mut judge, hour + 1..=hour + 9, |_| wrong(hour * 10)).is_some());
            assert_eq!(run(&mut judge, hour + 10..=hour + 10, |_| wrong(hour * 10)), None);
            assert_eq!(run(&mut judge, hour + 11..=2 * hour, |_| wrong(hour * 10)), None);
        }
    }

    #[test]
    fn a_link_that_works_is_never_suspected_however_much_is_injected() {
        let counts = |s: u64| Counts { forged: s * 200_000, good: s * 10, ..Counts::default() };
        assert_eq!(run(&mut Judge::default(), 0..=30, counts), None);
    }

    #[test]
    fn a_mixture_names_nothing_and_most_is_said_as_most() {
        let even = |s: u64| Counts { forged: s * 10, malformed: s * 10, ..Counts::default() };
        assert_eq!(run(&mut Judge::default(), 0..=5, even), None);
        let most = |s: u64| Counts { version: s * 9, malformed: s, ..Counts::default() };
        let said = run(&mut Judge::default(), 0..=5, most).unwrap();
        assert!(said.to_string().starts_with("27 of 30 packets of the last 3 s were of another version"), "{said}");
    }

    #[test]
    fn counters_that_begin_again_and_a_machine_that_slept_are_harmless() {
        let mut judge = Judge::default();
        assert!(run(&mut judge, 0..=5, |s| Counts { forged: s * 10, ..Counts::default() }).is_some());
        assert_eq!(run(&mut judge, 3600..=3600, |_| Counts { forged: 1000, ..Counts::default() }), None);
        assert_eq!(run(&mut judge, 3601..=3602, |_| Counts::default()), None);
        assert!(judge.samples.len() <= MAX_SAMPLES);
    }

    #[test]
    fn details_are_said_where_known() {
        let details = Details { from: "192.0.2.7".parse().ok(), version: Some(1), hops: Some(3) };
        let said = |cause| Suspicion { cause, count: 2, refused: 2, details }.to_string();
        assert!(said(Cause::Unknown).contains("came from 192.0.2.7"));
        assert!(said(Cause::Version).contains("the peer speaks version 1"));
        assert!(said(Cause::Distant).contains("set max-hops = 3 at both ends"));
    }
}
