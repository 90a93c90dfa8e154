//! Running the program on a packet of one's own (`BPF_PROG_TEST_RUN`): for the tests, which see every verdict, and for the
//! benchmark, which lets the kernel repeat one packet a million times and tell how long that took.

use std::{path::Path, time::Duration};

use aya::programs::{TestRun as _, TestRunOptions};

use super::{Error, Kernel, LinkLayer, load};

/// What the program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its verdict: `XDP_DROP` 1, `XDP_PASS` 2, `XDP_TX` 3 (linux/bpf.h).
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Time a run took, in the mean over the repetitions.
    pub duration: Duration,
}

impl Kernel {
    /// As [`Kernel::load`], with programs for benchmarks: they forget what they have seen of a link before each packet, and
    /// undo an answer at once, so that one packet can be repeated. Both cost a few nanoseconds, which the figures contain.
    ///
    /// # Errors
    ///
    /// As [`Kernel::load`].
    pub fn load_for_benchmark(object: &[u8], directory: &Path, links: u32) -> Result<Self, Error> {
        Self::load_as(object, directory, links, true)
    }

    /// Runs the program for such devices on a packet as if it came in by an existing interface that is up. The packet has at
    /// least 14 bytes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the packet or the interface.
    pub fn run(&mut self, layer: LinkLayer, ifindex: u32, packet: &[u8], repeat: u32) -> Result<Run, Error> {
        // `struct xdp_md` (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, packet.len() as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
        let mut after = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let program = load::program(&mut self.ebpf, layer)?;
        let result = program.test_run(options).map_err(|error| Error::Run(load::chain(&error)))?;
        Ok(Run { verdict: result.return_value, packet: after, duration: result.duration })
    }
}
