//! What packets that are no good may cost the real-time thread: a filter in the kernel where a kernel program verifies, and a
//! budget for what comes to the daemon all the same.

use link_watcher_common::wire::{Kind, LETTERS, VERSION};
use socket2::SockFilter;

/// Datagrams that an endpoint looks at in vain, a second, before it looks at nothing for a moment: a bound for what
/// they cost, and above what keepalives on a socket engine need beside a flood.
const DATAGRAMS_A_SECOND: u64 = 100_000;
/// What waking up costs, in datagrams. So a flood is soon looked at in lots, which is cheap, and only a heavy one is cut.
const WAKE_COST: u64 = 4;
/// Good packets of one link in one of its intervals: a probe and an echo. Where they are refused, for a wrong key say, there is
/// room for each to wake the thread, on top of the above.
const PACKETS_AN_INTERVAL: u64 = 2;
/// How much may be spent at once after a quiet time, ns of the rate.
const BURST_NS: u64 = 5_000_000;
/// How long an endpoint that has spent everything is left alone, ns. Short against what keepalives are measured by, and its
/// receive buffer holds what arrives meanwhile, up to 100,000 datagrams a second.
const PAUSE_NS: u64 = 2_000_000;

/// An endpoint's budget: a bucket of datagrams that refills all the time.
#[derive(Debug)]
pub(super) struct Budget {
    /// Datagrams a second.
    rate: u64,
    /// Until when everything so far is paid for; in the past: the bucket is full.
    paid_ns: u64,
}

impl Budget {
    /// For links with these intervals, ns.
    pub(super) fn new(intervals_ns: impl Iterator<Item = u64>) -> Self {
        let mut budget = Self { rate: 0, paid_ns: 0 };
        budget.fit(intervals_ns);
        budget
    }

    /// For other links from now on; what is spent stays spent.
    pub(super) fn fit(&mut self, intervals_ns: impl Iterator<Item = u64>) {
        let good: u64 = intervals_ns.map(|interval_ns| PACKETS_AN_INTERVAL * 1_000_000_000 / interval_ns.max(1)).sum();
        self.rate = DATAGRAMS_A_SECOND + (1 + WAKE_COST) * good;
    }

    /// Pays for one wake-up and the datagrams that it brought in vain. With the bucket empty: until when the endpoint is to be
    /// left alone.
    pub(super) fn spend(&mut self, now_ns: u64, datagrams: u64) -> Option<u64> {
        if datagrams == 0 {
            return None;
        }
        let cost_ns = (WAKE_COST + datagrams) * 1_000_000_000 / self.rate;
        self.paid_ns = self.paid_ns.max(now_ns) + cost_ns;
        // One call may overdraw the bucket; it is left alone until that is paid back.
        let over_ns = (self.paid_ns - now_ns).checked_sub(BURST_NS)?;
        Some(now_ns + over_ns + PAUSE_NS)
    }
}

/// Operations of classic BPF (linux/bpf_common.h).
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Where the payload begins: a UDP socket's filter sees the datagram with its UDP header.
const PAYLOAD: u32 = 8;
/// The whole datagram is let in.
const EVERYTHING: u32 = u32::MAX;

/// Lets in control packets of our version alone: what else a kernel program leaves for the socket of its links is nobody's.
/// A datagram that is too short for what is looked at is dropped as well (a load beyond the end returns 0).
pub(super) fn control_only() -> [SockFilter; 7] {
    let [l, w, k] = LETTERS;
    let beginning = u32::from_be_bytes([l, w, k, VERSION]);
    // Jumps count the instructions to skip: where the condition holds, where not.
    [
        SockFilter::new(LOAD_WORD, 0, 0, PAYLOAD),
        SockFilter::new(IF_EQUAL, 0, 4, beginning),
        SockFilter::new(LOAD_BYTE, 0, 0, PAYLOAD + 4),
        SockFilter::new(IF_AT_LEAST, 0, 2, Kind::Announce as u32),
        SockFilter::new(IF_ABOVE, 1, 0, Kind::StackEcho as u32),
        SockFilter::new(RETURN, 0, 0, EVERYTHING),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::UdpSocket;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// Datagrams looked at in a second of a flood that fills the buffer in each pause, and wake-ups.
    fn flooded(budget: &mut Budget, lot: u64) -> (u64, u64) {
        let (mut now_ns, mut datagrams, mut wakes) = (7 * SECOND_NS, 0, 0);
        while now_ns < 8 * SECOND_NS {
            datagrams += lot;
            wakes += 1;
            now_ns = budget.spend(now_ns, lot).unwrap_or(now_ns + 1000);
        }
        (datagrams, wakes)
    }

    #[test]
    fn a_flood_is_looked_at_as_often_as_the_budget_allows_and_no_more() {
        let (datagrams, wakes) = flooded(&mut Budget::new([100_000_000].into_iter()), 64);
        assert!((80_000..105_000).contains(&datagrams), "{datagrams}");
        assert!(wakes < 2_000, "{wakes}");
        // One at a time, each waking the thread.
        let (datagrams, wakes) = flooded(&mut Budget::new([100_000_000].into_iter()), 1);
        assert!((10_000..22_000).contains(&wakes), "{wakes}, {datagrams}");
    }

    #[test]
    fn good_packets_cost_nothing_and_refused_ones_at_the_configured_intervals_never_pause() {
        // A thousand links on one endpoint at 1 ms, and all keys wrong.
        let mut budget = Budget::new(std::iter::repeat_n(1_000_000, 1000));
        for packet in 0..2_000_000 {
            assert_eq!(budget.spend(packet * SECOND_NS / 2_000_000, 1), None);
        }
        assert_eq!(Budget::new([1].into_iter()).spend(5, 0), None);
    }

    #[test]
    fn after_a_pause_there_is_something_to_spend() {
        let mut budget = Budget::new([100_000_000].into_iter());
        let until_ns = budget.spend(SECOND_NS, 100_000).unwrap();
        assert!(until_ns > 2 * SECOND_NS - BURST_NS, "what was overdrawn is paid back: {until_ns}");
        assert_eq!(budget.spend(until_ns, 64), None);
    }

    #[test]
    fn the_filter_lets_control_packets_in_and_nothing_else() {
        let [socket, sender] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        socket2::SockRef::from(&socket).attach_filter(&control_only()).unwrap();
        let send = |payload: &[u8]| sender.send_to(payload, socket.local_addr().unwrap()).map(drop).unwrap();
        let packet = |kind: u8| [&LETTERS[..], &[VERSION, kind], &[0; 75]].concat();
        for kind in [0, 1, 2, 8, 255] {
            send(&packet(kind));
        }
        for junk in [&b""[..], b"LWK", b"LWK\x02", b"LWK\x03\x03", b"LWX\x02\x03", &[0; 2000]] {
            send(junk);
        }
        let long = [packet(3), vec![1; 1024]].concat();
        let good: Vec<_> = (3..=7).map(packet).chain([long]).collect();
        good.iter().for_each(|packet| send(packet));
        // The loopback interface delivers before a send returns.
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        for packet in &good {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], packet, "the whole of it");
        }
        socket.recv(&mut buffer).unwrap_err();
        assert_eq!(crate::bpf::socket::drops(&socket).unwrap(), 11);
    }
}
