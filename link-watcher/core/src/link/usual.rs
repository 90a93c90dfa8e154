//! The round trip that is usual on a link.

/// It is the least of one to two of these, ns.
pub(super) const USUAL_WINDOW_NS: u64 = 30_000_000_000;

/// The least round trip lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual {
    window: u64,
    /// In this window and in the one before; 0: none.
    least_ns: [u64; 2],
}

impl Usual {
    pub(super) fn turn(&mut self, now_ns: u64) {
        let window = now_ns / USUAL_WINDOW_NS;
        if window != self.window {
            let former_ns = if window == self.window + 1 { self.least_ns[0] } else { 0 };
            *self = Self { window, least_ns: [0, former_ns] };
        }
    }

    pub(super) fn take(&mut self, rtt_ns: u64) {
        let rtt_ns = rtt_ns.max(1);
        let [least_ns, _] = &mut self.least_ns;
        *least_ns = if *least_ns == 0 { rtt_ns } else { rtt_ns.min(*least_ns) };
    }

    /// Nothing: no round trip has been seen.
    pub(super) fn ns(&self) -> Option<u64> {
        self.least_ns.into_iter().filter(|ns| *ns != 0).min()
    }
}
