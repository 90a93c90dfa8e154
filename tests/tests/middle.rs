//! Somebody in the middle of all links, without a key: copies of keepalives at once and late, on their own link and on others, to
//! their receiver and back to their sender, while links die and live and the client's list changes. What the two routers
//! believe of their links follows the truth all the while. `LINK_WATCHER_SECONDS` says for how
//! long in all, `LINK_WATCHER_SEED` how.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::forge::Forge;
use link_watcher_lab::frame::Frame;
use link_watcher_lab::routers::{CLIENT_GROUP, SERVER_GROUP, TwoRouters};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::group;
use link_watcher_lab::{Direction, End};
use link_watcher_programs::IP;

const INTERVAL: Duration = Duration::from_millis(50);
/// Intervals after which everybody must know what became of a link: three, a round trip, and what a busy machine takes.
const KNOWN: u32 = 10;
/// What a link that comes back may take on top: the kernel, which had given the neighbour up, asks for its Ethernet address once a
/// second.
const ASKED: Duration = Duration::from_secs(1);
/// What is older is no keepalive that was merely passed on: not even of a link whose round trip nobody knows yet (2 s).
const OLD: Duration = Duration::from_secs(3);
/// Packets that are remembered, of all links together.
const MEMORY: usize = 2_000;
/// A list of the client's is the server's after this time: a second, two changes a second, and what a busy machine takes.
const AGREED: Duration = Duration::from_secs(3);
struct Seen {
    wire: usize,
    direction: Direction,
    frame: Frame,
    at: Instant,
}

/// Since when a link is as it is.
#[derive(Clone, Copy)]
struct Truth {
    good: bool,
    since: Instant,
}

struct Middle<'a> {
    routers: &'a TwoRouters,
    truth: Mutex<Vec<Truth>>,
    memory: Mutex<VecDeque<Seen>>,
    /// A keepalive of each wire and direction: its headers are put before what others carried.
    templates: Vec<[Frame; 2]>,
    done: AtomicBool,
    injected: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// Puts another list of prefixes into a daemon's file.
fn set_list(daemon: &Daemon, key: &str, list: &[String]) {
    let text = fs::read_to_string(daemon.config_path()).unwrap();
    let quoted: Vec<String> = list.iter().map(|prefix| format!("\"{prefix}\"")).collect();
    let (begin, line) = (format!("{key} = "), format!("{key} = [{}]", quoted.join(", ")));
    let lines: Vec<&str> = text.lines().map(|old| if old.starts_with(&begin) { line.as_str() } else { old }).collect();
    fs::write(daemon.config_path(), lines.join("\n")).unwrap();
}

impl<'a> Middle<'a> {
    fn enter(routers: &'a TwoRouters) -> Self {
        let template = |wire, direction| {
            let forge = Forge::on(wire).unwrap();
            forge.capture(direction, 1, Duration::from_secs(5), Frame::is_keepalive).unwrap().remove(0)
        };
        let templates =
            routers.wires.iter().map(|wire| Direction::BOTH.map(|direction| template(wire, direction))).collect();
        let truth = vec![Truth { good: true, since: Instant::now() }; routers.wires.len()];
        Self {
            routers,
            truth: Mutex::new(truth),
            memory: Mutex::default(),
            templates,
            done: AtomicBool::new(false),
            injected: AtomicU64::new(0),
            wrong: Mutex::default(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.done.load(Ordering::Relaxed)
    }

    fn listen(&self, wire: usize) {
        let forge = Forge::on(&self.routers.wires[wire]).unwrap();
        while self.goes_on() {
            for direction in Direction::BOTH {
                let frames = forge.capture(direction, 8, Duration::from_millis(30), Frame::is_keepalive).unwrap();
                let mut memory = self.memory.lock().unwrap();
                for frame in frames {
                    if memory.len() == MEMORY {
                        memory.pop_front();
                    }
                    memory.push_back(Seen { wire, direction, frame, at: Instant::now() });
                }
            }
        }
    }

    /// A packet of theirs, and where it shall go; nothing where that would only make a link of a dead one's ends.
    fn choose(&self, random: &mut Rng) -> Option<(usize, Direction, Frame)> {
        let memory = self.memory.lock().unwrap();
        let newest = random.bool().then_some(6);
        let back = random.usize(..newest.unwrap_or(MEMORY).min(memory.len()).max(1));
        let seen = memory.get(memory.len().checked_sub(1 + back)?)?;
        let wire = if random.bool() { seen.wire } else { random.usize(..self.templates.len()) };
        let reversed = random.u8(..10) == 0;
        let alive = self.truth.lock().unwrap()[wire].good;
        if wire == seen.wire && !alive && seen.at.elapsed() < OLD {
            return None;
        }
        let direction = match (seen.direction, reversed) {
            (Direction::ToServer, false) | (Direction::ToClient, true) => Direction::ToServer,
            _ => Direction::ToClient,
        };
        let frame = if wire == seen.wire && direction == seen.direction {
            seen.frame.clone()
        } else {
            let at = Direction::BOTH.iter().position(|other| *other == direction)?;
            self.templates[wire][at].with_payload(seen.frame.payload()?)?
        };
        Some((wire, direction, frame))
    }

    fn attack(&self, seed: u64) {
        let mut random = Rng::with_seed(seed);
        let forges: Vec<Forge<'_>> = self.routers.wires.iter().map(|wire| Forge::on(wire).unwrap()).collect();
        while self.goes_on() {
            if let Some((wire, direction, frame)) = self.choose(&mut random) {
                for _ in 0..random.usize(1..3) {
                    forges[wire].inject(direction, &frame).unwrap();
                    self.injected.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Some hundreds a second, ten times as many as the routers send themselves.
            thread::sleep(Duration::from_micros(random.u64(200..3_000)));
        }
    }

    /// Holds what an end says of its links against the truth.
    fn watch(&self, end: End) {
        let name = if end == End::Client { CLIENT_GROUP } else { SERVER_GROUP };
        while self.goes_on() {
            let asked = Instant::now();
            let before = self.truth.lock().unwrap().clone();
            let status = self.routers.daemon(end).status().unwrap();
            let after = self.truth.lock().unwrap().clone();
            for ((link, truth), later) in
                group(&status, name).unwrap()["links"].as_array().unwrap().iter().zip(before).zip(after)
            {
                let up = link["state"] == "up" || link["state"] == "degraded";
                let known = INTERVAL * KNOWN + if truth.good { ASKED } else { Duration::ZERO };
                let settled = asked.duration_since(truth.since) > known && later.since == truth.since;
                if settled && up != truth.good {
                    let since = asked.duration_since(truth.since);
                    let text = format!("{end:?}: good is {} for {since:?}, but: {link:#}", truth.good);
                    self.wrong.lock().unwrap().push(text);
                    self.done.store(true, Ordering::Relaxed);
                }
            }
            thread::sleep(INTERVAL / 2);
        }
    }

    /// What befalls a link: `passes` for packets to the server, to the client.
    fn set(&self, at: usize, passes: [bool; 2]) {
        let wire = &self.routers.wires[at];
        let good = passes == [true; 2];
        // Between two states nobody can tell which one holds: a dead link is dead from before on, a good one from after.
        let truth = |good| {
            let mut all = self.truth.lock().unwrap();
            if all[at].good != good {
                all[at] = Truth { good, since: Instant::now() };
            }
        };
        if !good {
            truth(false);
        }
        wire.mend().unwrap();
        match passes {
            [true, true] => {}
            [false, false] => drop(wire.cut().unwrap()),
            [true, false] => drop(wire.cut_one_way(Direction::ToClient).unwrap()),
            [false, true] => drop(wire.cut_one_way(Direction::ToServer).unwrap()),
        }
        if good {
            truth(true);
        } else {
            // It worked for a moment.
            self.truth.lock().unwrap()[at].since = Instant::now();
        }
    }

    fn announce(&self, list: &[String]) {
        let daemon = &self.routers.client_daemon;
        let text = fs::read_to_string(daemon.config_path()).unwrap();
        let line =
            format!("announce = [{}]", list.iter().map(|net| format!("\"{net}\"")).collect::<Vec<_>>().join(", "));
        let lines: Vec<&str> =
            text.lines().map(|old| if old.starts_with("announce = ") { line.as_str() } else { old }).collect();
        fs::write(daemon.config_path(), lines.join("\n")).unwrap();
        daemon.command(&["reload"]).unwrap();
    }

    fn wait_agreed(&self, list: &[String]) {
        let mut wanted = list.to_vec();
        wanted.sort_unstable();
        let mut found = Vec::new();
        let agreed = || {
            let mut command = IP.command();
            command.args(["route", "show", "proto", "208", "table", "all", "type", "unicast"]);
            let output = self.routers.server.spawn(command.stdout(std::process::Stdio::piped())).unwrap();
            let text = String::from_utf8(output.wait_with_output().unwrap().stdout).unwrap();
            found = text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
            found.sort_unstable();
            found.dedup();
            Ok((found == wanted).then_some(()))
        };
        let result = self.routers.lab.wait_until("the server to have the client's list", AGREED, agreed);
        assert!(result.is_ok(), "{wanted:?}, but the server has {found:?}");
    }

    fn live(&self, random: &mut Rng, seconds: u64) -> usize {
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut steps = 0;
        while Instant::now() < until && self.goes_on() {
            for _ in 0..random.usize(1..8) {
                let at = random.usize(..self.templates.len());
                self.set(
                    at,
                    *random.choice(&[[true; 2], [true; 2], [false; 2], [true, false], [false, true]]).unwrap(),
                );
                thread::sleep(Duration::from_millis(random.u64(0..1_200)));
                steps += 1;
            }
            if random.u8(..3) == 0 {
                let list: Vec<String> = (0..random.usize(1..30))
                    .map(|_| format!("10.{}.{}.0/24", random.u8(1..3), random.u8(..)))
                    .collect();
                let list: Vec<String> =
                    list.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
                self.announce(&list);
                (0..self.templates.len()).for_each(|at| self.set(at, [true; 2]));
                self.wait_agreed(&list);
            }
        }
        steps
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_believed_of_links_is_true_whatever_is_copied() {
    let seed = number("LINK_WATCHER_SEED", 1);
    println!("LINK_WATCHER_SEED={seed}");
    for (at, engine) in ["auto", "tc", "socket"].into_iter().enumerate() {
        life(engine, seed.wrapping_add(at as u64), number("LINK_WATCHER_SECONDS", 24) / 3);
    }
}

fn life(engine: &str, seed: u64, seconds: u64) {
    let setup = Setup {
        engine: engine.to_owned(),
        interval: INTERVAL,
        failback: Duration::from_millis(200),
        hold_up: Duration::from_millis(100),
        ..Setup::default()
    };
    let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
    set_list(&routers.server_daemon, "accept", &["10.0.0.0/8".to_owned()]);
    routers.start_daemons().unwrap();
    routers.wait_all_usable(Duration::from_secs(20)).unwrap();
    let middle = Middle::enter(&routers);
    let steps = thread::scope(|scope| {
        for wire in 0..routers.wires.len() {
            let middle = &middle;
            scope.spawn(move || middle.listen(wire));
        }
        scope.spawn(|| middle.attack(seed));
        scope.spawn(|| middle.watch(End::Client));
        scope.spawn(|| middle.watch(End::Server));
        let lived =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| middle.live(&mut Rng::with_seed(seed), seconds)));
        middle.done.store(true, Ordering::Relaxed);
        lived
    });
    let wrong = middle.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{engine}, seed {seed}: {}", wrong.join("\n"));
    let steps = steps.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let injected = middle.injected.load(Ordering::Relaxed);
    println!("{engine}: {steps} steps, {injected} packets injected");
    assert!(injected > 1_000, "{injected} packets injected: that is nobody");
}
