//! A Debian that has booted: systemd is process 1 of a container, whose network is a namespace of the lab.
//!
//! | of its own | how |
//! |---|---|
//! | files | an overlay in memory above a root directory that is only read |
//! | processes, mounts, host name, IPC | namespaces |
//! | control groups | a directory of the unified hierarchy, as the root of a cgroup namespace |
//! | `/sys/fs/bpf` | an instance of its own |
//! | `/proc/sys` | only `net` can be written |
//!
//! Nothing of it is left when it is dropped; what a killed test has left is removed by the next machine.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use link_watcher_lab::Lab;
use link_watcher_lab::netns::Namespace;
use link_watcher_programs::{NSENTER, Output, SH};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// Longest time for a command in a machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// Longest time until it has booted.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Longest time for something to come about in it.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long its processes may take to be gone once they are killed.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Control groups of all machines begin with this, followed by the test's process id and a number.
const CGROUP_PREFIX: &str = "link-watcher-machine-";
/// Where the unified hierarchy is, alone or beside older ones.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// What an administrator's commands are found by.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// From the new root, still with the machine's processes and control groups in sight, to systemd: `$1` is the control group.
const BOOT: &str = r#"
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
exec unshare --cgroup --pid --fork --kill-child sh -ec '
    mount -t proc proc /proc
    mount --bind /proc/sys /proc/sys
    mount --bind /proc/sys/net /proc/sys/net
    mount -o remount,bind,ro /proc/sys
    if [ -e /proc/sysrq-trigger ]; then mount --bind /dev/null /proc/sysrq-trigger; fi
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # As on every machine with systemd: what is mounted for a service, such as its credentials, is seen there.
    mount --make-rshared /
    exec env -i container=link-watcher-lab /sbin/init
'
"#;

/// A machine that runs. Ends when dropped.
#[derive(Debug)]
pub struct Machine {
    name: String,
    lab: Lab,
    namespace: Arc<Namespace>,
    child: Child,
    /// Dropped after the processes that are in it.
    cgroup: Cgroup,
    _memory: tempfile::TempDir,
}

impl Machine {
    /// Boots one from the root directory `base` in a namespace of the lab, and waits until systemd is done.
    pub fn boot(lab: &Lab, namespace: &Arc<Namespace>, base: &Path, name: &str) -> Result<Machine> {
        let memory = tempfile::tempdir().context("no directory for a machine")?;
        let cgroup = Cgroup::new()?;
        // A thread of its own, for it ends in the machine.
        let started =
            thread::scope(|scope| scope.spawn(|| start(namespace, base, memory.path(), &cgroup, name)).join());
        let child = started.map_err(|_| anyhow::anyhow!("the thread that starts {name} panicked"))??;
        let mut machine = Machine {
            name: name.to_owned(),
            lab: lab.clone(),
            namespace: Arc::clone(namespace),
            child,
            cgroup,
            _memory: memory,
        };
        // It says `degraded` where a unit has failed, such as one that wants hardware.
        lab.wait_until(&format!("{name} to boot"), BOOT_LIMIT, || {
            let ended = machine.child.try_wait().context("cannot look after a machine")?;
            ensure!(ended.is_none(), "{name} did not boot: see above");
            let state = machine.run("systemctl is-system-running 2>&1").map(|output| output.stdout).unwrap_or_default();
            Ok(matches!(state.trim(), "running" | "degraded").then_some(()))
        })?;
        Ok(machine)
    }

    /// Runs a line as root's shell does, in root's home directory.
    pub fn run(&self, line: &str) -> Result<Output> {
        let (pid, pids) = (self.child.id().to_string(), format!("--pid=/proc/{}/ns/pid_for_children", self.child.id()));
        let enter = ["--target", &pid, &pids, "--mount", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd"];
        let line = format!("cd /root && {{ {line}\n}}");
        let begin = [
            "/usr/bin/env",
            "-i",
            PATH,
            "HOME=/root",
            "DEBIAN_FRONTEND=noninteractive",
            "LC_ALL=C.UTF-8",
            "sh",
            "-c",
            &line,
        ];
        Ok(NSENTER.run(&[&enter[..], &begin[..]].concat(), "", COMMAND_LIMIT)?)
    }

    /// As [`Machine::run`], and shows what was typed and what was said. Whether it succeeded, and both outputs.
    pub fn says(&self, line: &str) -> Result<(bool, String)> {
        let output = self.run(line)?;
        let said = output.stdout + &output.stderr;
        println!("{}# {line}\n{said}", self.name);
        Ok((output.status.success(), said))
    }

    /// Runs what has to succeed; both outputs.
    pub fn done(&self, line: &str) -> Result<String> {
        let (good, said) = self.says(line)?;
        ensure!(good, "{}: {line} failed: {said}", self.name);
        Ok(said)
    }

    /// Waits until the standard output of a command says something.
    pub fn wait_for(&self, line: &str, what: &str) -> Result<String> {
        let waited = self.lab.wait_until(&format!("`{line}` on {} to say {what}", self.name), PATIENCE, || {
            Ok(Some(self.run(line)?.stdout).filter(|said| said.contains(what)))
        });
        waited.with_context(|| self.journal())
    }

    /// Waits until the daemon's status is as wanted.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let waited = self.lab.wait_until(&format!("{} to have {what}", self.name), PATIENCE, || {
            let status = serde_json::from_str::<Value>(&self.run("link-watcher status --json")?.stdout).ok();
            Ok(status.filter(|status| wanted(status)))
        });
        waited.with_context(|| self.journal())
    }

    /// The daemon's last words.
    fn journal(&self) -> String {
        let said = self.run("link-watcher status; journalctl --no-pager --lines 30 -u link-watcher");
        said.map(|output| output.stdout + &output.stderr).unwrap_or_default()
    }

    /// One of its files, from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.child.id()))
    }

    /// Brings a file in.
    pub fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        fs::copy(from, self.path(to)).map(drop).with_context(|| format!("{} to {to} of {}", from.display(), self.name))
    }

    /// Its network.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Those that were started by hand are not in the control group; they are in the namespace of systemd's, whose end is
        // theirs.
        self.cgroup.kill();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts systemd; what it returns is the process that waits for it, and has all namespaces but that of processes.
fn start(namespace: &Namespace, base: &Path, memory: &Path, cgroup: &Cgroup, name: &str) -> Result<Child> {
    let none = None::<&str>;
    namespace.enter()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
        .context("no namespaces of its own")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("mounts of its own")?;
    let root = super::overlay(base, memory).context("a root directory in memory")?;
    for (kind, at) in [("sysfs", "sys"), ("bpf", "sys/fs/bpf"), ("cgroup2", "sys/fs/cgroup")] {
        mount(Some(kind), &root.join(at), Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount {kind}"))?;
    }
    for at in ["run", "dev"] {
        mount(Some("tmpfs"), &root.join(at), Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .with_context(|| format!("cannot mount /{at}"))?;
    }
    devices(&root.join("dev")).context("cannot make /dev")?;
    rustix::system::sethostname(name.as_bytes()).context("a name of its own")?;
    fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
    // Else it takes itself for a machine that boots for the first time, and asks who is there.
    fs::write(root.join("etc/machine-id"), format!("{:032x}\n", machine_id()))?;
    rustix::process::chdir(&root)?;
    rustix::process::pivot_root(".", ".").context("cannot change the root directory")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the old root directory")?;
    rustix::process::chdir("/")?;
    let mut command = SH.command();
    command.args(["-ec", BOOT, "sh", &cgroup.name]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    command.spawn().context("cannot start systemd")
}

/// A number that no other machine has.
fn machine_id() -> u128 {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    (u128::from(std::process::id()) << 64) | u128::from(COUNT.fetch_add(1, Ordering::Relaxed))
}

fn devices(dev: &Path) -> io::Result<()> {
    let none = None::<&str>;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let node = dev.join(name);
        fs::write(&node, "")?;
        mount(Some(&Path::new("/dev").join(name)), &node, none, MsFlags::MS_BIND, none)?;
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(to, dev.join(name))?;
    }
    for (name, kind, options) in [("pts", "devpts", "newinstance,ptmxmode=666"), ("shm", "tmpfs", "mode=1777")] {
        fs::create_dir(dev.join(name))?;
        mount(Some(kind), &dev.join(name), Some(kind), MsFlags::empty(), Some(options))?;
    }
    Ok(())
}

/// A directory of the unified hierarchy.
#[derive(Debug)]
struct Cgroup {
    name: String,
    path: PathBuf,
}

impl Cgroup {
    fn new() -> Result<Cgroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let is_unified = |path: &&&str| Path::new(path).join("cgroup.procs").exists();
        let root = UNIFIED.iter().find(is_unified).context("no unified hierarchy of control groups (cgroup2)")?;
        sweep(Path::new(root));
        let name = format!("{CGROUP_PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(root).join(&name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Cgroup { name, path })
    }

    /// Kills all that is in it.
    fn kill(&self) {
        // Before Linux 5.14 there is no such file; what waits for systemd takes it along then.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let until = Instant::now() + END_LIMIT;
        // Whoever was killed stays in it until reaped.
        while remove(&self.path).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes what machines of tests that no longer live have left.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(CGROUP_PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let left = Cgroup { name, path: entry.path() };
            left.kill();
        }
    }
}

/// Removes a control group with all below; those that are in use cannot be removed.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
