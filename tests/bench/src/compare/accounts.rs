//! Processor time of programs that start others, and of the kernel programs that they attach.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use link_watcher::bpf::{self, RunTimes};
use link_watcher_lab::{netns::Namespace, service::Service};

use crate::scale::spent;

/// Length of a tick in `/proc/PID/stat`, ns: USER_HZ is 100 on every architecture that we build for.
const TICK_NS: f64 = 1e7;

/// Processor time so far, ns.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// Of the processes, with those that have ended meanwhile.
    pub(crate) processes_ns: f64,
    /// Of the XDP programs on the namespace's interfaces: no process is charged with their time.
    pub(crate) kernel_ns: f64,
    /// How often these have run.
    pub(crate) runs: u64,
}

impl Spent {
    /// Of these services and of the namespace that they are in, while the clock runs.
    pub(crate) fn look(services: &[Service], namespace: &Namespace, clock: &RunTimes) -> Result<Self> {
        let ids: Vec<u32> = namespace
            .run(bpf::xdp_programs)?
            .context("cannot list the XDP programs")?
            .values()
            .map(|program| program.id)
            .collect();
        let (runs, kernel): (u64, Duration) = clock.of(&ids);
        Ok(Self { processes_ns: processes_ns(services)?, kernel_ns: kernel.as_nanos() as f64, runs })
    }

    /// What has been spent since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            processes_ns: self.processes_ns - before.processes_ns,
            kernel_ns: self.kernel_ns - before.kernel_ns,
            runs: self.runs - before.runs,
        }
    }
}

fn processes_ns(services: &[Service]) -> Result<f64> {
    let mut sum_ns = 0.0;
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue }; // It has just ended.
        let Some((group, reaped_ns)) = group_and_reaped_ns(&stat) else { continue };
        if services.iter().any(|service| service.pid() == group) {
            sum_ns += reaped_ns + spent(pid).map_or(0.0, |(ns, _)| ns);
        }
    }
    Ok(sum_ns)
}

/// From `/proc/PID/stat` (proc_pid_stat(5)): the process group, and the processor time of the children that have been
/// waited for, ns.
fn group_and_reaped_ns(stat: &str) -> Option<(u32, f64)> {
    // The name, in parentheses, may hold anything. Behind it the third field follows.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((u32::try_from(field(5)?).ok()?, (field(16)? + field(17)?) as f64 * TICK_NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_children_are_read() {
        let stat = "42 (a) b) S 1 7 7 0 -1 4194560 100 200 0 0 3 4 50 60 20 0 1 0 100";
        assert_eq!(group_and_reaped_ns(stat), Some((7, 110.0 * TICK_NS)));
        assert_eq!(group_and_reaped_ns("42 (a"), None);
        assert_eq!(group_and_reaped_ns(""), None);
    }
}
