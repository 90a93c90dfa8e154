//! What programs take while they run, by the kernel's own account.

use std::{io, os::fd::OwnedFd, time::Duration};

use aya::sys::{Stats, enable_stats};

/// The kernel's clock for BPF programs (`BPF_ENABLE_STATS`, bpf(2); Linux 5.8): it runs from [`RunTimes::start`] on and as
/// long as this exists, and costs each run of any program some 20 ns.
#[derive(Debug)]
pub struct RunTimes {
    _clock: OwnedFd,
}

impl RunTimes {
    /// Starts the clock.
    ///
    /// # Errors
    ///
    /// The kernel's: it takes CAP_SYS_ADMIN.
    pub fn start() -> io::Result<Self> {
        Ok(Self { _clock: enable_stats(Stats::RunTime).map_err(|error| error.io_error)? })
    }

    /// How often these programs have run, and for how long, since they were loaded and while such a clock ran. Ids that no
    /// program has count for nothing.
    #[must_use]
    pub fn of(&self, ids: &[u32]) -> (u64, Duration) {
        let programs = aya::programs::loaded_programs().flatten().filter(|info| ids.contains(&info.id()));
        programs.fold((0, Duration::ZERO), |(runs, time), info| (runs + info.run_count(), time + info.run_time()))
    }
}
