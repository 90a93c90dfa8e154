//! A program that is not ours, run inside a namespace: everything that it starts ends with it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::netns::Namespace;
use super::{Lab, POLL_INTERVAL, lock, monotonic_ns};

/// How long a program may take to end after SIGTERM; then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// How much of its log an error message shows, lines.
const LOG_TAIL_LINES: usize = 10;

/// A process with all that it has started and that stayed in its process group.
#[derive(Debug, Default)]
pub(crate) struct ProcessGroup {
    leader: Option<Child>,
}

impl ProcessGroup {
    /// Ends it: SIGTERM for the leader, so that it reaps its own children, and SIGKILL for whatever is still there then.
    pub(crate) fn end(&mut self) {
        let Some(mut leader) = self.leader.take() else {
            return;
        };
        let pid = Pid::from_raw(leader.id() as i32);
        let _ = kill(pid, Signal::SIGTERM);
        let deadline_ns = monotonic_ns() + STOP_LIMIT.as_nanos() as u64;
        while matches!(ended(&leader), Ok(false)) && monotonic_ns() < deadline_ns {
            thread::sleep(POLL_INTERVAL);
        }
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = leader.wait();
    }
}

/// Whether a process has ended. It is not reaped: until then nobody else gets its number, nor its group's.
fn ended(process: &Child) -> Result<bool> {
    // Never 0, as a child's number.
    let pid = rustix::process::Pid::from_raw(process.id() as i32).context("a process without a number")?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options).context("cannot look after a process")?.is_some())
}

/// A foreign program in a namespace. Ends when dropped, and at the latest with its lab.
#[derive(Debug)]
pub struct Service {
    name: String,
    pid: u32,
    log: PathBuf,
    group: Arc<Mutex<ProcessGroup>>,
}

impl Service {
    /// Starts `command` in a namespace, in a process group of its own. It must stay in the foreground. What it writes goes to
    /// the file `NAME.log` of the lab's directory.
    ///
    /// # Errors
    /// Where its log cannot be made, or the program cannot be started.
    pub fn start(lab: &Lab, namespace: &Namespace, name: &str, command: &mut Command) -> Result<Service> {
        let log = lab.directory().join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let group = Arc::new(Mutex::new(ProcessGroup::default()));
        // Registered first, and locked until it runs: a lab that is closed meanwhile waits, and then ends it.
        lab.adopt_group(Arc::clone(&group));
        let mut running = lock(&group);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share a log")?)
            .stderr(file)
            .process_group(0);
        let leader = namespace.spawn(command)?;
        let pid = leader.id();
        running.leader = Some(leader);
        drop(running);
        Ok(Service { name: name.to_owned(), pid, log, group })
    }

    /// The process id of the program, which is also the number of its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// That it still runs.
    ///
    /// # Errors
    /// Where it has ended; the message carries the end of its log.
    pub fn check(&self) -> Result<()> {
        let group = lock(&self.group);
        if group.leader.as_ref().map_or(Ok(true), ended)? {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            bail!("{} has ended: {}", self.name, tail.join(" / "));
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        lock(&self.group).end();
    }
}
