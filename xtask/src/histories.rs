//! `cargo xtask histories`: random lives of routers on a real kernel, for as long as one likes.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
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
    setup::lab_tools(project)?;
    exec::run(
        project.cargo().args(["build", "--package", "link-watcher", "--bin", "link-watcher"]),
        "the compiler's message above says why; what the daemon embeds is built by `cargo xtask build-ebpf`",
    )?;
    let Some(privilege) = Privilege::acquire("for network namespaces and BPF") else {
        bail!("root is needed for network namespaces, and sudo does not work here; run it as root");
    };
    let search_path = test::search_path(project)?;
    let (count, limit) = wanted.bounds();
    let first = wanted.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64) % 1_000_000
    });
    let began = Instant::now();
    let mut lived = 0_u64;
    let mut failed = Vec::new();
    for seed in (first..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        for name in TESTS {
            lived += 1;
            let mut command = life(project, privilege, &search_path, name, seed);
            let output = command.output().with_context(|| format!("cannot run `{}`", exec::render(&command)))?;
            if output.status.success() {
                println!("{name}, seed {seed}: well, {} s since the start", began.elapsed().as_secs());
            } else {
                failed.push(format!("{name}: cargo xtask histories --seed {seed}"));
                println!("{name}, seed {seed}: BADLY");
                print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            }
        }
    }
    println!("{lived} lives, of which {} ended badly", failed.len());
    for line in &failed {
        println!("{line}");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The command that lives one seed, with its output in pipes.
fn life(project: &Project, privilege: Privilege, search_path: &Path, name: &str, seed: u64) -> Command {
    let mut command = project.cargo();
    command.args(["test", "--quiet", "--package", "link-watcher-tests", "--test", name]);
    command.args(test::runner(Some(privilege), search_path)).args(["--", "--ignored", "--nocapture"]);
    // A list would go before the seed.
    command.env_remove("LINK_WATCHER_HISTORY").env("LINK_WATCHER_SEED", seed.to_string());
    command.env("LINK_WATCHER_BIN", project.target.join("debug").join("link-watcher"));
    command.stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_ends_it() {
        let bounds = |count, seed, minutes| Wanted { count, seed, minutes }.bounds();
        let minute = Some(Duration::from_secs(60));
        assert_eq!(bounds(None, None, None), (COUNT, None));
        assert_eq!(bounds(None, Some(7), None), (1, None), "one seed is one seed");
        assert_eq!(bounds(Some(3), Some(7), None), (3, None));
        assert_eq!(bounds(None, None, Some(1)), (u64::MAX, minute));
        assert_eq!(bounds(Some(3), None, Some(1)), (3, minute));
    }
}
