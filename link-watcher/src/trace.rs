//! Where the time of a move of traffic went: instants taken on its way from the last good packet to the new routes.
//!
//! They are always taken: each costs one reading of a clock, and only a move keeps them.

use serde::{Deserialize, Serialize};

/// When a move of traffic came to which point; all instants are nanoseconds of `CLOCK_MONOTONIC`. What does not apply
/// is missing: an operator's order has no last good packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The last good packet on the links that were left, as the kernel program stamped it; the event itself where an
    /// interface was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good_ns: Option<u64>,
    /// Silence became a verdict: the timer was set for this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_ns: Option<u64>,
    /// The probing thread was awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub woke_ns: Option<u64>,
    /// The daemon's core had the news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_ns: Option<u64>,
    /// The engine had decided.
    pub decided_ns: u64,
    /// The kernel had acknowledged the new routes.
    pub routed_ns: u64,
}

impl Trace {
    /// From the last good packet to the new routes, ns; nothing where no packet was missed.
    pub fn outage_ns(&self) -> Option<u64> {
        self.last_good_ns.map(|last_good_ns| self.routed_ns.saturating_sub(last_good_ns))
    }

    /// The parts in order, each with its name and its length in ns; together they are all of it.
    pub fn parts(&self) -> Vec<(&'static str, u64)> {
        let detected_ns = self.due_ns.or(self.woke_ns).or(self.received_ns).unwrap_or(self.decided_ns);
        let steps = [
            ("silence", Some(detected_ns)),
            ("wake", self.woke_ns.filter(|_| self.due_ns.is_some())),
            ("decide", Some(self.decided_ns)),
            ("routes", Some(self.routed_ns)),
        ];
        let mut from_ns = self.last_good_ns;
        let mut parts = Vec::new();
        for (name, until_ns) in steps {
            let Some(until_ns) = until_ns else { continue };
            parts.extend(from_ns.map(|from_ns| (name, until_ns.saturating_sub(from_ns))));
            from_ns = Some(until_ns);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Trace = Trace {
        last_good_ns: Some(1_000),
        due_ns: Some(31_000),
        woke_ns: Some(31_100),
        received_ns: Some(31_120),
        decided_ns: 31_150,
        routed_ns: 31_350,
    };

    #[test]
    fn the_parts_are_all_of_it() {
        assert_eq!(WHOLE.parts(), [("silence", 30_000), ("wake", 100), ("decide", 50), ("routes", 200)]);
        assert_eq!(WHOLE.parts().iter().map(|(_, ns)| ns).sum::<u64>(), 30_350);
        assert_eq!(WHOLE.outage_ns(), Some(30_350));
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let interface = Trace { last_good_ns: Some(31_120), due_ns: None, woke_ns: None, ..WHOLE };
        assert_eq!(interface.parts(), [("silence", 0), ("decide", 30), ("routes", 200)]);
        let peer = Trace { due_ns: None, ..WHOLE };
        assert_eq!(peer.parts(), [("silence", 30_100), ("decide", 50), ("routes", 200)]);
        let order = Trace { decided_ns: 5, routed_ns: 7, ..Trace::default() };
        assert_eq!((order.parts(), order.outage_ns()), (vec![("decide", 0), ("routes", 2)], None));
        let held = Trace { last_good_ns: Some(1), ..order };
        assert_eq!(held.parts(), [("silence", 4), ("decide", 0), ("routes", 2)]);
    }

    #[test]
    fn only_what_there_is_is_written() {
        let order = Trace { decided_ns: 5, routed_ns: 7, ..Trace::default() };
        assert_eq!(serde_json::to_value(order).ok(), Some(serde_json::json!({ "decided_ns": 5, "routed_ns": 7 })));
    }
}
