//! `cargo xtask histories`: random lives of routers on a real kernel, for as long as one likes; and `cargo xtask soak`.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::privilege::Privilege;
use crate::project::Project;
use crate::{exec, setup, test};

/// The tests that live what `LINK_WATCHER_SEED` says: of a router with a peer, and of one with uplinks.
const TESTS: [&str; 2] = ["histories", "histories_uplinks"];
/// How many seeds where neither `--count` nor `--minutes` says.
const COUNT: u64 = 10;

/// What is to be lived.
pub(crate) struct Wanted {
    /// So many seeds.
    pub(crate) count: Option<u64>,
    /// The first of them; the next ones follow it. Without: one that the clock gives.
    pub(crate) seed: Option<u64>,
    /// No further one begins after so many minutes.
    pub(crate) minutes: Option<u64>,
    /// So many at one time.
    pub(crate) jobs: usize,
}

impl Wanted {
    /// How many seeds, and until when: what comes first ends it.
    fn bounds(&self) -> (u64, Option<Duration>) {
        let limit = self.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
        let count = match (self.count, self.seed, limit) {
            (Some(count), _, _) => count,
            (None, _, Some(_)) => u64::MAX,
            (None, Some(_), None) => 1,
            (None, None, None) => COUNT,
        };
        (count, limit)
    }
}

/// Builds, lives each seed in each of the tests, and shows those that ended badly with the shortest list that does.
///
/// # Errors
///
/// As the set-up and the build, and where nobody here may be root.
pub(crate) fn histories(project: &Project, wanted: &Wanted) -> Result<ExitCode> {
    let (privilege, search_path) = prepare(project, &["build", "--package", "link-watcher", "--bin", "link-watcher"])?;
    let (count, limit) = wanted.bounds();
    let first = wanted.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64) % 1_000_000
    });
    let began = Instant::now();
    let seeds = (first..).take(usize::try_from(count).unwrap_or(usize::MAX));
    let lives = Mutex::new(seeds.flat_map(|seed| TESTS.map(|name| (name, seed))));
    let outcome = Mutex::new((0_u64, Vec::new()));
    let next = || lock(&lives).next().filter(|_| limit.is_none_or(|limit| began.elapsed() < limit));
    let live_on = || -> Result<()> {
        while let Some((name, seed)) = next() {
            let mut command =
                lab_test(project, privilege, &search_path, name, &project.target.join("debug/link-watcher"));
            // A list would go before the seed.
            command.env_remove("LINK_WATCHER_HISTORY").env("LINK_WATCHER_SEED", seed.to_string());
            let output = command.output().with_context(|| format!("cannot run `{}`", exec::render(&command)))?;
            let (lived, failed) = &mut *lock(&outcome);
            *lived += 1;
            if output.status.success() {
                println!("{name}, seed {seed}: well, {} s since the start", began.elapsed().as_secs());
            } else {
                failed.push(format!("{name}: cargo xtask histories --seed {seed}"));
                println!("{name}, seed {seed}: BADLY");
                print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..wanted.jobs).map(|_| scope.spawn(live_on)).collect();
        // A panic in there is a mistake in here.
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    let (lived, failed) = &*lock(&outcome);
    println!("{lived} lives, of which {} ended badly", failed.len());
    for line in failed {
        println!("{line}");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What another thread left there when it panicked is still right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds optimized, as it is about times, and lets two routers live so long.
///
/// # Errors
///
/// As the set-up and the build, and where nobody here may be root.
pub(crate) fn soak(project: &Project, minutes: u32, seed: Option<u64>) -> Result<ExitCode> {
    let (privilege, search_path) =
        prepare(project, &["build", "--release", "--package", "link-watcher", "--bin", "link-watcher"])?;
    let mut command = lab_test(project, privilege, &search_path, "soak", &project.release("link-watcher"));
    command.env("LINK_WATCHER_SOAK_MINUTES", minutes.to_string());
    command.envs(seed.map(|seed| ("LINK_WATCHER_SEED", seed.to_string())));
    let status = command.status().with_context(|| format!("cannot run `{}`", exec::render(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sets up what the lab needs, and builds the daemon; gives how to be root, and where programs are found.
fn prepare(project: &Project, build: &[&str]) -> Result<(Privilege, PathBuf)> {
    setup::lab_tools(project)?;
    exec::run(
        project.cargo().args(build),
        "the compiler's message above says why; what the daemon embeds is built by `cargo xtask build-ebpf`",
    )?;
    let Some(privilege) = Privilege::acquire("for network namespaces and BPF") else {
        bail!("root is needed for network namespaces, and sudo does not work here; run it as root");
    };
    Ok((privilege, test::search_path(project)?))
}

/// Runs the tests of this file with this daemon, its output in pipes unless somebody says otherwise.
fn lab_test(project: &Project, privilege: Privilege, search_path: &Path, name: &str, daemon: &Path) -> Command {
    let mut command = project.cargo();
    command.args(["test", "--quiet", "--package", "link-watcher-tests", "--test", name]);
    command.args(test::runner(Some(privilege), search_path)).args(["--", "--ignored", "--nocapture"]);
    command.env("LINK_WATCHER_BIN", daemon).stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_ends_it() {
        let bounds = |count, seed, minutes| Wanted { count, seed, minutes, jobs: 1 }.bounds();
        let minute = Some(Duration::from_secs(60));
        assert_eq!(bounds(None, None, None), (COUNT, None));
        assert_eq!(bounds(None, Some(7), None), (1, None), "one seed is one seed");
        assert_eq!(bounds(Some(3), Some(7), None), (3, None));
        assert_eq!(bounds(None, None, Some(1)), (u64::MAX, minute));
        assert_eq!(bounds(Some(3), None, Some(1)), (3, minute));
    }
}
