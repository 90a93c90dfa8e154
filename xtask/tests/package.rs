//! The package in a clean root: installed, tried, upgraded, removed, purged.
//!
//! `cargo xtask test` makes the root and the package, and runs this with `LINK_WATCHER_ROOT` and `LINK_WATCHER_DEB`. The root
//! is only read: what is written goes to memory above it. All runs in a mount and a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use link_watcher_programs::CHROOT;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use support::given;

/// A machine that has just been installed.
struct Machine {
    root: PathBuf,
    _memory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let base = given("LINK_WATCHER_ROOT");
        let none = None::<&str>;
        // This thread's alone, and its children's; with it they go.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let memory = tempfile::tempdir().unwrap();
        let root = support::overlay(&base, memory.path()).unwrap();
        mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none).unwrap();
        Self { root, _memory: memory }
    }

    /// Runs it there; whether it was content, and all that it said.
    fn run(&self, line: &[&str]) -> (bool, String) {
        let mut command = CHROOT.command();
        command.arg(&self.root).args(line).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        println!("# {}\n{said}", line.join(" "));
        (output.status.success(), said)
    }

    /// Runs what has to succeed.
    fn done(&self, line: &[&str]) -> String {
        let (good, said) = self.run(line);
        assert!(good, "{line:?}: {said}");
        said
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Everything there is, but for what package managers keep for themselves.
    fn files(&self) -> BTreeSet<PathBuf> {
        const THEIRS: [&str; 5] = ["proc", "tmp", "var/cache", "var/lib/dpkg", "var/log"];
        let mut found = BTreeSet::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let path = entry.path().strip_prefix(&self.root).unwrap().to_path_buf();
                if THEIRS.iter().any(|theirs| path == Path::new(theirs)) {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                found.insert(path);
            }
        }
        found
    }

    /// Puts something in systemctl's place that writes down what it is told, and says that the service runs. What concerns
    /// files alone, the true one does.
    fn pretend_systemd(&self) {
        fs::create_dir_all(self.path("/run/systemd/system")).unwrap();
        let program = self.path("/usr/local/bin/systemctl");
        let script = "#!/bin/sh\necho \"$*\" >>/tmp/systemctl\n\
                      case \"$*\" in *preset*) exec /usr/bin/systemctl --root=/ \"$@\";; esac\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What it was told since the last call about the service.
    fn told(&self) -> Vec<String> {
        let log = self.path("/tmp/systemctl");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        let orders = ["start", "stop", "restart"];
        text.lines()
            .filter_map(|line| {
                let words: Vec<_> = line.split_whitespace().filter(|word| !word.starts_with('-')).collect();
                orders.contains(words.first()?).then(|| words.join(" "))
            })
            .collect()
    }
}

#[test]
#[ignore = "needs root and a clean root: cargo xtask test"]
fn a_package_comes_and_goes() {
    let machine = Machine::new();
    fs::copy(given("LINK_WATCHER_DEB"), machine.path("/tmp/link-watcher.deb")).unwrap();
    machine.pretend_systemd();
    let before = machine.files();
    let install = ["dpkg", "--install", "/tmp/link-watcher.deb"];

    let said = machine.done(&install);
    assert!(said.contains("link-watcher is not started: /etc/link-watcher/link-watcher.toml does not exist"), "{said}");
    assert_eq!(machine.told(), [""; 0], "nothing is started without a configuration");
    assert!(machine.exists("/etc/systemd/system/multi-user.target.wants/link-watcher.service"));
    let version = concat!("link-watcher ", env!("CARGO_PKG_VERSION"));
    assert_eq!(machine.done(&["link-watcher", "--version"]).trim(), version);
    assert!(machine.done(&["man", "8", "link-watcher"]).contains("link-watcher check [PATH]"));
    assert!(machine.done(&["man", "5", "link-watcher.toml"]).contains("[[peer.link]]"));
    assert!(machine.done(&["dpkg", "--verify", "link-watcher"]).is_empty());

    // The example, on a machine that has what it names.
    machine.done(&["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2"]);
    machine.done(&["ip", "address", "add", "10.248.248.2/30", "dev", "eth1"]);
    machine.done(&["ip", "address", "add", "10.248.249.2/30", "dev", "eth2"]);
    machine.done(&["cp", "/usr/share/doc/link-watcher/examples/link-watcher.toml", "/etc/link-watcher/"]);
    machine.done(&["link-watcher", "key", "generate", "/etc/link-watcher/hq.key"]);
    assert!(machine.done(&["link-watcher", "check"]).contains("is good: 1 peer, 2 links"));

    machine.done(&install);
    assert_eq!(machine.told(), ["restart link-watcher.service"], "an upgrade, and the configuration is good");
    machine.done(&["ip", "link", "delete", "eth2"]);
    let said = machine.done(&install);
    assert!(said.contains("link-watcher is not started again"), "{said}");
    assert_eq!(machine.told(), [""; 0], "an upgrade does not end what runs for something that would not start");

    fs::create_dir_all(machine.path("/var/lib/link-watcher/main")).unwrap();
    machine.done(&["dpkg", "--remove", "link-watcher"]);
    assert_eq!(machine.told(), ["stop link-watcher.service"]);
    assert!(!machine.exists("/usr/sbin/link-watcher") && !machine.exists("/usr/share/doc/link-watcher"));
    assert!(machine.exists("/etc/iproute2/rt_protos.d/link-watcher.conf"), "a removed package keeps its configuration");
    assert!(machine.exists("/var/lib/link-watcher/main"));

    machine.done(&["dpkg", "--purge", "link-watcher"]);
    let mut left = machine.files();
    for own in ["", "/hq.key", "/link-watcher.toml"] {
        assert!(left.remove(Path::new(&format!("etc/link-watcher{own}"))), "what the administrator made stays: {own}");
    }
    assert_eq!(&left - &before, BTreeSet::new());
    assert_eq!(&before - &left, BTreeSet::new());
}
