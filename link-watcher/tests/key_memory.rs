//! A running daemon's memory, read by root: the secret is not in it, and it leaves no core dump.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use link_watcher_programs::UNSHARE;
use support::Desk;

const CONFIG: &str = "[daemon]\ncontrol-socket = \"s\"\nengine = \"socket\"\ninstance = \"key-memory\"\n\
    state-directory = \"state\"\n\
    [[peer]]\nname = \"hq\"\nrole = \"client\"\nkey-files = [\"hq.key\"]\nroutes = [\"192.0.2.0/24\"]\n\
    [[peer.link]]\nname = \"a\"\ninterface = \"lo\"\nlocal = \"127.0.0.1\"\nremote = \"127.0.0.2\"\n";

/// Ended whatever the test comes to.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir_all("/run/link-watcher/key-memory");
    }
}

fn holds(memory: &[u8], needle: &[u8]) -> bool {
    memory.windows(needle.len()).any(|window| window == needle)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_secret_is_not_in_a_running_daemons_memory() {
    let desk = Desk::new();
    let config = desk.write("c.toml", CONFIG);
    let line = fs::read_to_string(desk.path("hq.key")).unwrap();
    let secret = STANDARD.decode(line.trim()).unwrap();
    // In a network namespace of its own: it changes sysctls and routes.
    let script = "ip link set lo up && exec \"$0\" --config \"$1\"";
    let program = std::env::var("LINK_WATCHER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_link-watcher").to_owned());
    let mut command = UNSHARE.command();
    command.args(["-n", "sh", "-c", script, &program]).arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon(command.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !desk.path("s").exists() {
        assert!(Instant::now() < deadline, "the daemon does not start");
        thread::sleep(Duration::from_millis(20));
    }
    // It signs by now, too: all threads have been through their start.
    thread::sleep(Duration::from_secs(1));
    let proc = format!("/proc/{}", daemon.0.id());
    let memory = File::open(format!("{proc}/mem")).unwrap();
    let (mut seen, mut stack) = (0, false);
    for mapping in fs::read_to_string(format!("{proc}/maps")).unwrap().lines() {
        // What can be written: nothing else can hold a secret.
        let (range, rest) = mapping.split_once(' ').unwrap();
        if !rest.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        seen += bytes.len();
        stack |= rest.ends_with("[stack]");
        for (what, needle) in
            [("the secret", &secret[..]), ("half of it", &secret[..16]), ("its base64", line.trim().as_bytes())]
        {
            assert!(!holds(&bytes, needle), "{what} is in {mapping}");
        }
    }
    assert!(stack && seen > 1 << 20, "only {seen} bytes were read");
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
}
