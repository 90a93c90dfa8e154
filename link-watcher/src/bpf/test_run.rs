//! Running the program on a packet of one's own (`BPF_PROG_TEST_RUN`): for the tests, which see every verdict, and for the
//! benchmark, which lets the kernel repeat one packet a million times and tell how long that took.

use std::{path::Path, time::Duration};

use aya::programs::{Program, TestRun as _, TestRunOptions};

use super::{Error, Hook, Kernel, LinkLayer, load};
use crate::error::chain;

/// What the program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its verdict: `XDP_DROP` 1, `XDP_PASS` 2, `XDP_TX` 3 (linux/bpf.h); at tc `TC_ACT_UNSPEC` -1, `TC_ACT_SHOT` 2,
    /// `TC_ACT_REDIRECT` 7 (linux/pkt_cls.h).
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
        Self::load_as(object, directory, links, None, true)
    }

    /// Runs the program of a hook for such devices on a packet as if it came in by an existing interface that is up. The packet
    /// has at least 14 bytes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the packet or the interface.
    pub fn run(
        &mut self,
        hook: Hook,
        layer: LinkLayer,
        ifindex: u32,
        packet: &[u8],
        repeat: u32,
    ) -> Result<Run, Error> {
        // Both in linux/bpf.h.
        let context = match hook {
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            Hook::Xdp => [0, packet.len() as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat(),
            // `struct __sk_buff` up to its 11th word, `ifindex`. The others are the kernel's to say.
            Hook::Tc => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ifindex].map(u32::to_ne_bytes).concat(),
        };
        let mut after = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let name = load::name(hook, layer);
        load::program(&mut self.ebpf, hook, layer)?;
        let result = match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => program.test_run(options),
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            _ => return Err(Error::Object(format!("has a program {name} of another type"))),
        };
        let result = result.map_err(|error| Error::Run(chain(&error)))?;
        Ok(Run { verdict: result.return_value, packet: after, duration: result.duration })
    }

    /// How many instructions the kernel's verifier went through until it took the program of a hook for such devices: it gives
    /// up at a million (`BPF_COMPLEXITY_LIMIT_INSNS`). Nothing before Linux 5.16, which does not tell.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program, or tells nothing of it.
    pub fn verified_instructions(&mut self, hook: Hook, layer: LinkLayer) -> Result<Option<u32>, Error> {
        let name = load::name(hook, layer);
        load::program(&mut self.ebpf, hook, layer)?;
        let info = match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => program.info(),
            Some(Program::SchedClassifier(program)) => program.info(),
            _ => return Err(Error::Object(format!("has a program {name} of another type"))),
        };
        info.map(|info| info.verified_instruction_count()).map_err(|error| Error::Run(chain(&error)))
    }
}
