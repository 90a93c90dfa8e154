//! A real link-watcher daemon inside a namespace.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use link_watcher_programs::own;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::netns::Namespace;
use super::{INSTANCE_ROOTS, Lab, lock};

/// How long a daemon may take until it answers on its control socket: it loads its BPF program meanwhile.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a daemon may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What a daemon of a few links may have open.
const DESCRIPTORS_MAX: u64 = 80;
/// Its memory: unoptimized, with its symbols.
const RESIDENT_MAX_KB: u64 = 64_000;
/// Its files in the runtime and the state directory together.
const STATE_MAX_OCTETS: u64 = 256_000;
/// How much of its log an error message shows, lines.
const LOG_TAIL_LINES: usize = 20;

/// A child process that is reaped or killed at the latest with its lab.
#[derive(Debug, Default)]
pub struct Process {
    child: Option<Child>,
}

impl Process {
    /// Kills the process with SIGKILL and reaps it, if there is one.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let status = child.try_wait().context("cannot wait for the daemon")?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }
}

/// A daemon with its configuration, its control socket and its log, all in the lab's directory.
#[derive(Debug)]
pub struct Daemon {
    lab: Lab,
    namespace: Arc<Namespace>,
    role: String,
    binary: PathBuf,
    directory: PathBuf,
    instance: String,
    process: Arc<Mutex<Process>>,
}

impl Daemon {
    /// Prepares a daemon for a namespace; nothing runs yet. `role` names its files, its instance and its log.
    ///
    /// # Errors
    /// Where its directory cannot be made.
    pub fn prepare(lab: &Lab, namespace: &Arc<Namespace>, role: &str, binary: &Path) -> Result<Daemon> {
        let directory = lab.directory().join(role);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let process = Arc::default();
        let instance = lab.instance(role);
        lab.adopt_process(Arc::clone(&process), &instance);
        Ok(Daemon {
            lab: lab.clone(),
            namespace: Arc::clone(namespace),
            role: role.to_owned(),
            binary: binary.to_owned(),
            directory,
            instance,
            process,
        })
    }

    /// `[daemon] instance`: the daemon's directory below `/sys/fs/bpf/link-watcher`.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The program that it is.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("link-watcher.toml")
    }

    /// Its control socket.
    pub fn socket_path(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// What it keeps over its runs.
    pub fn orders_path(&self) -> PathBuf {
        self.directory.join("state").join(&self.instance).join("orders.json")
    }

    /// Where its standard output and error go, from every start.
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.process).child.as_ref().map(Child::id)
    }

    /// Writes a file that only root can read into its directory; returns its path.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_key(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(file, "{text}").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes its configuration: a `[daemon]` section with the lab's own paths and `daemon_settings` (TOML lines), then
    /// `groups` (TOML).
    ///
    /// # Errors
    /// The file system's.
    pub fn write_config(&self, daemon_settings: &str, groups: &str) -> Result<()> {
        let text = format!(
            "[daemon]\ncontrol-socket = \"{}\"\ninstance = \"{}\"\nstate-directory = \"{}\"\n{daemon_settings}\n{groups}",
            self.socket_path().display(),
            self.instance,
            self.directory.join("state").display(),
        );
        let path = self.config_path();
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Changes its configuration.
    ///
    /// # Errors
    /// The file system's; a change that changes nothing, which proves nothing.
    pub fn edit_config(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.config_path();
        let before = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let after = change(before.clone());
        ensure!(after != before, "nothing to change in {}:\n{before}", path.display());
        fs::write(&path, after).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// Where it ends or does not answer in time; the message carries the end of its log.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// Where it runs already, or the program cannot be started.
    pub fn launch(&self) -> Result<()> {
        let mut process = lock(&self.process);
        ensure!(process.child.is_none(), "the {} daemon runs already", self.role);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .with_context(|| format!("cannot open {}", self.log_path().display()))?;
        let mut command = own(&self.binary);
        command
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share a log")?)
            .stderr(log)
            // A process group of its own: Ctrl-C at the terminal is for whoever runs the lab to handle.
            .process_group(0);
        process.child = Some(self.namespace.spawn(&mut command)?);
        Ok(())
    }

    /// Waits until it answers on its control socket.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn wait_ready(&self) -> Result<()> {
        let waited = self.lab.wait_until(&format!("the {} daemon to answer", self.role), START_LIMIT, || {
            if let Some(status) = lock(&self.process).exit_status()? {
                bail!("the {} daemon ended: {status}", self.role);
            }
            // The socket's file is there before it is worth a process to ask.
            if !self.socket_path().exists() {
                return Ok(None);
            }
            Ok(self.status().ok())
        });
        waited.map(|_| ()).with_context(|| self.log_tail())
    }

    /// The last lines of its log, with its path.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL_LINES);
        format!("the end of {}:\n{}", self.log_path().display(), lines[from..].join("\n"))
    }

    /// Its memory, kB; 0 while it does not run.
    pub fn resident_kb(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().unwrap_or_default());
        let status = fs::read_to_string(path).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        resident.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
    }

    /// What has grown beyond what a daemon of a few links may have, however long its life was; empty where nothing has. Its log
    /// may have so many lines from all its starts.
    pub fn beyond_bounds(&self, log_lines_max: u64) -> String {
        let process = PathBuf::from(format!("/proc/{}", self.pid().unwrap_or_default()));
        let descriptors = fs::read_dir(process.join("fd")).map_or(0, |entries| entries.count() as u64);
        let resident_kb = self.resident_kb();
        let written = INSTANCE_ROOTS[1..].iter().map(|root| Path::new(root).join(&self.instance));
        let written = written.chain(self.orders_path().parent().map(Path::to_owned));
        let files = written.filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
        let octets = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        let lines = self.log().lines().count() as u64;
        let mut told = String::new();
        for (what, is, may_be) in [
            ("descriptors", descriptors, DESCRIPTORS_MAX),
            ("kB of memory", resident_kb, RESIDENT_MAX_KB),
            ("octets of state", octets, STATE_MAX_OCTETS),
            ("lines of log", lines, log_lines_max),
        ] {
            if is > may_be {
                told += &format!("{}: {is} {what}, and {may_be} is the most that makes sense; ", self.role);
            }
        }
        told
    }

    /// Runs `link-watcher ARGUMENTS --socket …` inside the namespace.
    ///
    /// # Errors
    /// Where the program cannot be started; its own failure is in the output.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.spawn(arguments)?.wait_with_output().context("cannot read a command's output")
    }

    /// As [`Daemon::output`], and does not wait.
    ///
    /// # Errors
    /// Where the program cannot be started.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = own(&self.binary);
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.socket_path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.namespace.spawn(&mut command)
    }

    /// Runs `link-watcher ARGUMENTS --socket …` and returns what it wrote to standard output.
    ///
    /// # Errors
    /// Where it exits with anything but 0; the message carries what it complained about.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        ensure!(
            output.status.success(),
            "link-watcher {} for the {} daemon: {}: {}",
            arguments.join(" "),
            self.role,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `status --json`.
    ///
    /// # Errors
    /// Where the daemon does not answer, or not in JSON.
    pub fn status(&self) -> Result<Value> {
        let text = self.command(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("status --json is no JSON: {text}"))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("the {} daemon does not run", self.role))?;
        kill(Pid::from_raw(pid as i32), signal)
            .with_context(|| format!("cannot send {signal} to the {} daemon", self.role))
    }

    /// Ends it at once with SIGKILL, as a crash would.
    pub fn kill(&self) {
        lock(&self.process).kill();
    }

    /// Ends it as for an upgrade, and starts it.
    ///
    /// # Errors
    /// As [`Daemon::stop`] and [`Daemon::start`].
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Kills it, and starts it.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn crash(&self) -> Result<()> {
        self.kill();
        self.start()
    }

    /// Ends it with SIGTERM and waits for it.
    ///
    /// # Errors
    /// Where it does not end in time, or does not run.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.lab
            .wait_until(&format!("the {} daemon to end", self.role), STOP_LIMIT, || lock(&self.process).exit_status())
            .with_context(|| self.log_tail())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        for root in INSTANCE_ROOTS {
            let _ = fs::remove_dir_all(Path::new(root).join(&self.instance));
        }
    }
}

/// The link-watcher binary to try: `LINK_WATCHER_BIN`, or the one built into the same target directory as the running
/// program.
///
/// # Errors
/// Where there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LINK_WATCHER_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "LINK_WATCHER_BIN is {}, which is no file", path.display());
        return Ok(path);
    }
    let own = std::env::current_exe().context("cannot find the running program")?;
    // target/debug/deps/lab-… or target/debug/xtask: the binary is in the first or the second directory above.
    own.ancestors().skip(1).take(2).map(|directory| directory.join("link-watcher")).find(|path| path.is_file()).context(
        "no link-watcher binary beside the running program: build it (cargo xtask build-ebpf), or set LINK_WATCHER_BIN",
    )
}
