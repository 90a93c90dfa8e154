//! The lab in which link-watcher is tried: routers in network namespaces, links that can be cut, a traffic meter; and a
//! registry of everything that was made, so that all of it is removed again.
//!
//! It has no policy of its own and knows nothing of the daemon's code: the scenario tests, the benchmarks and
//! `link-watcher demo` build the same picture from it. Everything it makes carries the process's id in its name.
//!
//! | module | what it gives |
//! |---|---|
//! | [`netns`] | network namespaces: run closures and processes inside, interfaces, addresses, routes |
//! | [`cable`] | a link between two routers that can be cut silently, one way, or by carrier |
//! | [`tunnel`] | the same between two real tun devices |
//! | [`wire`] | the two of them behind one name |
//! | [`frame`], [`forge`] | captured, mutated, replayed and made-up packets on a wire |
//! | [`meter`] | a numbered packet stream both ways, and how long it was out |
//! | [`daemon`] | `link-watcher run` inside a namespace, and the commands that talk to it |
//! | [`service`] | any other program inside a namespace |
//! | [`setup`], [`routers`] | two routers, three links, hosts behind both |
//! | [`trial`] | the two of them at work, with traffic: break something, see what it costs |
//! | [`history`] | random lives, and the shortest that ends badly |
//! | [`announcement`] | very many prefixes announced by one router to the other |
//! | [`status`] | reading `status --json` |
//! | `terminal` | a terminal with somebody at its keys (only with the feature of that name) |
//! | [`uplinks`] | a site with several providers, the internet behind them, and connections by the thousand |
//!
//! The lab needs root (CAP_SYS_ADMIN for namespaces, CAP_NET_ADMIN and CAP_NET_RAW inside them).

pub mod announcement;
#[cfg(feature = "browser")]
pub mod browser;
pub mod cable;
pub mod daemon;
pub mod forge;
pub mod frame;
pub mod history;
pub mod meter;
pub mod metrics;
pub mod netlink;
pub mod netns;
pub mod outside;
pub mod routers;
pub mod service;
pub mod setup;
pub mod status;
#[cfg(feature = "terminal")]
pub mod terminal;
pub mod trial;
pub mod tunnel;
pub mod uplinks;
pub mod wire;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::time::{ClockId, clock_gettime};

use daemon::Process;
use netns::Namespace;
use service::ProcessGroup;

/// Namespaces of all labs begin with this, followed by the process id and a number: `lw-1234-0-client`.
const NAMESPACE_PREFIX: &str = "lw-";
/// Scratch directories of all labs begin with this below the system's temporary directory.
const DIRECTORY_PREFIX: &str = "link-watcher-lab-";
/// `[daemon] instance` of all daemons in labs begins with this.
const INSTANCE_PREFIX: &str = "lab-";
/// Where a daemon has a directory for its instance: its pins, what it owns in the kernel, what it was told.
const INSTANCE_ROOTS: [&str; 3] = ["/sys/fs/bpf/link-watcher", "/run/link-watcher", "/var/lib/link-watcher"];

/// How many names are tried for a lab.
const NAME_ATTEMPTS: u32 = 16;

/// How often a condition is looked at by [`Lab::wait_until`] and its like. Most conditions cost a process that asks a daemon:
/// more often than this would disturb what is being measured on a small machine.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The direction of a packet between the two routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client's side to the server's.
    ToServer,
    /// From the server's side to the client's.
    ToClient,
}

impl Direction {
    /// Both directions, in the order in which everything here reports them.
    pub const BOTH: [Direction; 2] = [Direction::ToServer, Direction::ToClient];

    /// The end where packets of this direction arrive.
    pub fn destination(self) -> End {
        match self {
            Direction::ToServer => End::Server,
            Direction::ToClient => End::Client,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Direction::ToServer => 0,
            Direction::ToClient => 1,
        }
    }
}

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client router's interface.
    Client,
    /// The server router's interface.
    Server,
}

impl End {
    pub(crate) fn index(self) -> usize {
        match self {
            End::Client => 0,
            End::Server => 1,
        }
    }
}

/// When a change of a link took effect: not before `before_ns`, not after `after_ns` (monotonic clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Taken just before the change was requested, ns.
    pub before_ns: u64,
    /// Taken just after the change was in force, ns.
    pub after_ns: u64,
}

impl Moment {
    /// Runs `change` between two looks at the clock.
    pub(crate) fn of(change: impl FnOnce() -> Result<()>) -> Result<Moment> {
        let before_ns = monotonic_ns();
        change()?;
        Ok(Moment { before_ns, after_ns: monotonic_ns() })
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of all instants in this library, and of the packets' time stamps.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither part of the monotonic clock is ever negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Locks a mutex even if a thread panicked while it held it: the lab must still be taken down then.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who runs the lab lacks the privilege for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsRoot;

impl std::fmt::Display for NeedsRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("network namespaces and routers in them need root: run it with sudo")
    }
}

impl std::error::Error for NeedsRoot {}

/// A set of namespaces, processes, pins and files that are removed together.
///
/// Clones refer to the same lab. [`Lab::close`] removes everything; dropping the last clone does so too.
#[derive(Debug, Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `PID-NUMBER`: what tells this lab's names from another's.
    id: String,
    directory: PathBuf,
    interrupted: Arc<AtomicBool>,
    belongings: Mutex<Belongings>,
}

#[derive(Debug, Default)]
struct Belongings {
    namespaces: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    processes: Vec<Arc<Mutex<Process>>>,
    groups: Vec<Arc<Mutex<ProcessGroup>>>,
}

impl Lab {
    /// An empty lab with a scratch directory of its own. Leftovers of dead processes' labs are swept first.
    ///
    /// # Errors
    /// [`NeedsRoot`] without root, and where the scratch directory cannot be made.
    pub fn new() -> Result<Lab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err(NeedsRoot.into());
        }
        sweep();
        let mut made = Err(io::ErrorKind::AlreadyExists.into());
        let mut id = String::new();
        let mut directory = PathBuf::new();
        // A name that is taken was left by an earlier process of the same id, or laid out by somebody: never used.
        for _ in 0..NAME_ATTEMPTS {
            id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            directory = std::env::temp_dir().join(format!("{DIRECTORY_PREFIX}{id}"));
            made = DirBuilder::new().mode(0o700).create(&directory);
            if made.is_ok() {
                break;
            }
        }
        made.with_context(|| format!("cannot make the lab's directory {}", directory.display()))?;
        Ok(Lab {
            inner: Arc::new(Inner {
                id,
                directory,
                interrupted: Arc::new(AtomicBool::new(false)),
                belongings: Mutex::default(),
            }),
        })
    }

    /// A new network namespace `lw-PID-NUMBER-ROLE` below `/run/netns`, with loopback up.
    ///
    /// # Errors
    /// Where the kernel refuses it; the message says what is missing.
    pub fn namespace(&self, role: &str) -> Result<Namespace> {
        let name = format!("{NAMESPACE_PREFIX}{}-{role}", self.inner.id);
        let path = Path::new(netns::DIRECTORY).join(&name);
        // Registered first: whatever of it exists when creation fails half-way is removed with the lab.
        lock(&self.inner.belongings).namespaces.push(path);
        Namespace::create(&name)
    }

    /// The lab's scratch directory (removed with it).
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// A name for `[daemon] instance` that no other lab uses.
    pub fn instance(&self, role: &str) -> String {
        format!("{INSTANCE_PREFIX}{}-{role}", self.inner.id)
    }

    /// A flag that makes every wait in this lab fail soon: for a handler of Ctrl-C to set.
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.inner.interrupted)
    }

    /// Looks at `probe` again and again until it gives something.
    ///
    /// # Errors
    /// When `limit` has passed (the message names `what`), when the lab is interrupted, or with the probe's own error.
    pub fn wait_until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline_ns = monotonic_ns() + limit.as_nanos() as u64;
        loop {
            if self.inner.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted while waiting for {what}");
            }
            if let Some(value) = probe()? {
                return Ok(value);
            }
            if monotonic_ns() >= deadline_ns {
                bail!("waited {limit:?} in vain for {what}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Lets `duration` pass, as a step of an experiment (a failback time that must elapse, say).
    ///
    /// # Errors
    /// When the lab is interrupted meanwhile.
    pub fn pause(&self, duration: Duration) -> Result<()> {
        let until_ns = monotonic_ns() + duration.as_nanos() as u64;
        while let Some(left_ns) = until_ns.checked_sub(monotonic_ns()) {
            if self.inner.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            std::thread::sleep(POLL_INTERVAL.min(Duration::from_nanos(left_ns)));
        }
        Ok(())
    }

    pub(crate) fn adopt_process(&self, process: Arc<Mutex<Process>>, instance: &str) {
        let mut belongings = lock(&self.inner.belongings);
        belongings.processes.push(process);
        belongings.directories.extend(INSTANCE_ROOTS.map(|root| Path::new(root).join(instance)));
    }

    pub(crate) fn adopt_group(&self, group: Arc<Mutex<ProcessGroup>>) {
        lock(&self.inner.belongings).groups.push(group);
    }

    /// Removes everything: processes, pins, namespaces with all their interfaces, files. Does nothing the second time.
    /// Failures do not stop it; what could not be removed is left to the next lab's sweep.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn close(&self) {
        let belongings = std::mem::take(&mut *lock(&self.belongings));
        for process in &belongings.processes {
            lock(process).kill();
        }
        for group in &belongings.groups {
            lock(group).end();
        }
        for directory in &belongings.directories {
            let _ = fs::remove_dir_all(directory);
        }
        for namespace in &belongings.namespaces {
            netns::remove(namespace);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Removes what labs of processes that no longer live have left: daemons, pins, namespaces, files.
pub fn sweep() {
    for path in leftovers(&std::env::temp_dir(), DIRECTORY_PREFIX) {
        kill_users_of(&path);
        let _ = fs::remove_dir_all(&path);
    }
    for path in INSTANCE_ROOTS.iter().flat_map(|root| leftovers(Path::new(root), INSTANCE_PREFIX)) {
        let _ = fs::remove_dir_all(&path);
    }
    for path in leftovers(Path::new(netns::DIRECTORY), NAMESPACE_PREFIX) {
        netns::remove(&path);
    }
}

/// Entries of `directory` named `PREFIX PID-…` whose process is gone.
fn leftovers(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let pid = name.to_str()?.strip_prefix(prefix)?.split('-').next()?;
            let pid: u32 = pid.parse().ok()?;
            // What somebody else put there under such a name is not ours to remove.
            if entry.metadata().ok()?.uid() != rustix::process::geteuid().as_raw() {
                return None;
            }
            (!Path::new("/proc").join(pid.to_string()).exists()).then(|| entry.path())
        })
        .collect()
}

/// Kills the processes that were started with a file of `directory` among their arguments: a dead lab's daemons.
fn kill_users_of(directory: &Path) {
    let Some(directory) = directory.to_str() else {
        return;
    };
    // With the slash, so that lab 1 is not taken for lab 12.
    let needle = format!("{directory}/");
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).any(|argument| argument.starts_with(needle.as_bytes())) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn leftovers_are_those_of_dead_processes_only() {
        let directory = std::env::temp_dir().join(format!("lw-sweep-test-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        // Above the kernel's largest process id (PID_MAX_LIMIT, 4194304): certainly dead.
        let dead = directory.join("lw-4194305-0-client");
        let alive = directory.join(format!("lw-{}-0-client", std::process::id()));
        for path in [&dead, &alive, &directory.join("lw-other"), &directory.join("x-4194305-0")] {
            fs::write(path, "").unwrap();
        }
        let found = leftovers(&directory, NAMESPACE_PREFIX);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found, [dead]);
    }
}
