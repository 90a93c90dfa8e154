//! Random lives of a client router on a real kernel: its file is edited, its daemon killed, links are cut, interfaces go and
//! come, orders are given, routes are taken away. After each step, and a while for what follows from it, the invariants hold.
//!
//! Those that once found a fault are lived again each time. `LINK_WATCHER_SEED` replays another one; `LINK_WATCHER_HISTORIES` says
//! how many there are with fresh seeds. A failure prints its seed and all its steps.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use fastrand::Rng;
use link_watcher_lab::End;
use link_watcher_lab::daemon::binary;
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::routers::TwoRouters;
use link_watcher_lab::setup::Setup;
use serde_json::Value;

/// Lives that once ended badly.
const PAST_FAILURES: [u64; 4] = [10, 12, 15, 57];
/// Steps of a life.
const STEPS: usize = 15;
/// What follows from a step is over within this time.
const QUIET: Duration = Duration::from_secs(20);
/// Behind the server, and behind the client.
const FAR: &str = "203.0.113.10";
const NEAR: &str = "10.20.20.10";
/// Somebody else's, which nobody may touch.
const FOREIGN: [&str; 3] = [
    "route add 198.51.100.0/24 via 10.20.20.10 dev eth0 proto static",
    "route add 203.0.113.0/25 via 10.20.20.10 dev eth0 table 100 proto 12",
    "rule add from 198.51.100.77 lookup 100 priority 9999",
];

/// One link, as this story has it.
#[derive(Debug, Clone)]
struct Link {
    name: String,
    interface: String,
    address: String,
    section: String,
    in_file: bool,
    cut: bool,
    down: bool,
}

struct Life {
    routers: TwoRouters,
    links: Vec<Link>,
    /// The file but for its links.
    head: String,
    group: String,
    backend: &'static str,
    interval_ms: u64,
    metric: u32,
    seed: u64,
    told: Vec<String>,
}

impl Life {
    fn begin(seed: u64, rng: &mut Rng) -> Self {
        let backend = *rng.choice(&["routes", "tables", "nexthop"]).unwrap();
        let setup = Setup {
            interval: Duration::from_millis(50),
            failback: Duration::from_millis(300),
            hold_up: Duration::from_millis(200),
            client_settings: "actuation = \"routes\"\nmetric = 0".to_owned(),
            ..Setup::default()
        };
        let routers = TwoRouters::build(setup, &binary().unwrap()).unwrap();
        let text = fs::read_to_string(routers.client_daemon.config_path()).unwrap();
        let mut parts = text.split("[[peer.link]]");
        let head = parts.next().unwrap().to_owned();
        let links: Vec<Link> = parts
            .zip(&routers.setup.links)
            .map(|(section, link)| {
                let shown = ip(&routers, &format!("-4 -br addr show dev {}", link.client_interface));
                Link {
                    name: link.name.clone(),
                    interface: link.client_interface.clone(),
                    address: shown.split_whitespace().nth(2).unwrap().to_owned(),
                    section: format!("[[peer.link]]{section}"),
                    in_file: true,
                    cut: false,
                    down: false,
                }
            })
            .collect();
        for line in FOREIGN {
            ip(&routers, line);
        }
        let life = Self {
            routers,
            links,
            head,
            group: "hq".to_owned(),
            backend,
            interval_ms: 50,
            metric: 0,
            seed,
            told: vec![format!("by {backend}")],
        };
        life.write();
        life.routers.start_daemons().unwrap();
        life.settle();
        life
    }

    /// The file as it shall be now.
    fn write(&self) {
        let head = self
            .head
            .replace("name = \"hq\"", &format!("name = \"{}\"", self.group))
            .replace("actuation = \"routes\"", &format!("actuation = \"{}\"", self.backend))
            .replace("metric = 0", &format!("metric = {}", self.metric))
            .replace("interval = \"50ms\"", &format!("interval = \"{}ms\"", self.interval_ms));
        let links: String =
            self.links.iter().filter(|link| link.in_file).map(|link| link.section.clone() + "\n").collect();
        fs::write(self.routers.client_daemon.config_path(), head + &links).unwrap();
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.told.push(what.into());
    }

    /// One step that leaves a good link, by the dice.
    fn step(&mut self, rng: &mut Rng) {
        let at = rng.usize(..self.links.len());
        let name = self.links[at].name.clone();
        let others_good = self.links.iter().enumerate().any(|(i, link)| i != at && good(link));
        match rng.u32(..14) {
            0 if others_good || self.links[at].cut => {
                let cut = !self.links[at].cut;
                self.links[at].cut = cut;
                self.tell(format!("{} {name}", if cut { "cut" } else { "mend" }));
                let wire = self.routers.wire(&name).unwrap();
                if cut { wire.cut() } else { wire.mend() }.unwrap();
            }
            1 if others_good || self.links[at].down => {
                let Link { interface, address, down, .. } = self.links[at].clone();
                self.links[at].down = !down;
                self.tell(format!("{interface} {}", if down { "up" } else { "down, its address gone" }));
                if down {
                    ip(&self.routers, &format!("addr add {address} dev {interface}"));
                    ip(&self.routers, &format!("link set {interface} up"));
                } else {
                    ip(&self.routers, &format!("addr flush dev {interface}"));
                    ip(&self.routers, &format!("link set {interface} down"));
                }
            }
            2 if others_good || !self.links[at].in_file => {
                self.links[at].in_file = !self.links[at].in_file;
                self.tell(format!("the file {} {name}", if self.links[at].in_file { "has" } else { "leaves out" }));
                self.take_file(rng);
            }
            3 => {
                rng.shuffle(&mut self.links);
                self.tell("the file has its links in another order");
                self.take_file(rng);
            }
            4 => {
                self.group = if self.group == "hq" { "other".to_owned() } else { "hq".to_owned() };
                self.tell(format!("the file calls the peer {}", self.group));
                self.take_file(rng);
            }
            5 => {
                self.backend = *rng.choice(&["routes", "tables", "nexthop"]).unwrap();
                self.tell(format!("the file says {}", self.backend));
                self.take_file(rng);
            }
            6 => {
                self.interval_ms = if self.interval_ms == 50 { 60 } else { 50 };
                self.tell(format!("the file says {} ms", self.interval_ms));
                self.take_file(rng);
            }
            7 => {
                self.metric = if self.metric == 0 { 100 } else { 0 };
                self.tell(format!("the file says metric {}", self.metric));
                self.take_file(rng);
            }
            8 => {
                self.tell(format!("drain {name}"));
                self.ask(&["drain", &self.group, &name]);
            }
            9 => {
                self.tell(format!("undrain {name}"));
                self.ask(&["undrain", &self.group, &name]);
            }
            10 => {
                self.tell(format!("switch to {name}, and back to auto"));
                self.ask(&["switch", &self.group, &name]);
                self.ask(&["switch", &self.group, "auto"]);
            }
            11 => {
                self.tell("somebody flushes our routes");
                // Some tables may be empty, which is an error to this program.
                let _ = self.routers.client.command(&["ip", "route", "flush", "proto", "208"], "");
            }
            12 => {
                self.tell("the server's daemon is killed, and started");
                self.routers.daemon(End::Server).kill();
                self.routers.daemon(End::Server).start().unwrap();
            }
            _ => {
                self.tell("the client's daemon is killed, and started");
                self.routers.client_daemon.kill();
                self.routers.client_daemon.start().unwrap();
            }
        }
    }

    /// An order, which the daemon may refuse: of a link that the file has not, or of the last one.
    fn ask(&self, arguments: &[&str]) {
        self.routers.client_daemon.output(arguments).unwrap();
    }

    fn take_file(&mut self, rng: &mut Rng) {
        self.write();
        let daemon = &self.routers.client_daemon;
        let how = match rng.u32(..3) {
            0 => {
                daemon.command(&["reload", "--force"]).unwrap();
                "reload"
            }
            1 => {
                daemon.stop().unwrap();
                daemon.start().unwrap();
                "restart"
            }
            _ => {
                daemon.kill();
                daemon.start().unwrap();
                "kill -9"
            }
        };
        self.tell(how);
    }

    /// Waits until the invariants hold.
    fn settle(&self) {
        let mut broken = String::new();
        let holds = self.routers.lab.wait_until("the invariants to hold", QUIET, || {
            broken = self.broken()?;
            Ok(broken.is_empty().then_some(()))
        });
        assert!(
            holds.is_ok(),
            "{broken} {holds:?}\n{}LINK_WATCHER_SEED={}: {}\n{}",
            ip(&self.routers, "rule show"),
            self.seed,
            self.told.join("; "),
            self.routers.client_daemon.log_tail()
        );
    }

    /// What does not hold.
    fn broken(&self) -> Result<String> {
        let status = self.routers.client_daemon.status()?;
        let Some(group) =
            status["groups"].as_array().and_then(|groups| groups.iter().find(|g| g["name"] == self.group.as_str()))
        else {
            return Ok(format!("no group {} in the status", self.group));
        };
        let names = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let drained = |name: &str| {
            let links = group["links"].as_array().into_iter().flatten();
            links.into_iter().any(|link| link["name"] == name && link["drained"] == true)
        };
        // What is out of service is no way, however well it works.
        if !self.links.iter().any(|link| good(link) && !drained(&link.name)) {
            return Ok(self.foreign());
        }
        let active = names(&group["active"]);
        let carrying = self.links.iter().find(|link| active == [link.name.as_str()]);
        let Some(carrying) = carrying.filter(|link| good(link)) else {
            return Ok(format!("{active:?} is active, which is no good link: {:?}", self.links));
        };
        if drained(&carrying.name) {
            return Ok(format!("{} is active, which is drained", carrying.name));
        }
        if group["routes"]["refused"] != 0 || group["routes"]["installed"] != 1 {
            return Ok(format!("routes: {}", group["routes"]));
        }
        // What the kernel does, on both ends, whatever any daemon says.
        // Without any route the program fails.
        let way =
            |namespace: &Namespace, to: &str| namespace.command(&["ip", "route", "get", to], "").unwrap_or_default();
        let there = way(&self.routers.client, FAR);
        if !there.contains(&format!("dev {} ", carrying.interface)) {
            return Ok(format!("{} is active, and the kernel says {there}", carrying.name));
        }
        let back = way(&self.routers.server, NEAR);
        let server_interface = self.routers.setup.links.iter().find(|link| link.name == carrying.name);
        if !server_interface.is_some_and(|link| back.contains(&format!("dev {} ", link.server_interface))) {
            return Ok(format!("{} is active, and the server's kernel says {back}", carrying.name));
        }
        let ours = ip(&self.routers, "route show table all proto 208");
        for link in self.links.iter().filter(|link| !link.in_file) {
            if ours.contains(&format!("dev {} ", link.interface)) {
                return Ok(format!("{} is not in the file, and there is {ours}", link.name));
            }
        }
        Ok(self.foreign())
    }

    /// What somebody else has, and has not any more.
    fn foreign(&self) -> String {
        let routes = ip(&self.routers, "route show 198.51.100.0/24") + &ip(&self.routers, "route show table 100");
        let rules = ip(&self.routers, "rule show priority 9999");
        let all =
            routes.contains("198.51.100.0/24") && routes.contains("203.0.113.0/25") && rules.contains("198.51.100.77");
        if all { String::new() } else { format!("somebody else's is gone: {routes}{rules}") }
    }

    /// After all of it nothing is left of us, and all of others.
    fn end(&mut self) {
        let daemon = &self.routers.client_daemon;
        daemon.stop().unwrap();
        daemon.command(&["cleanup", "--instance", daemon.instance()]).unwrap();
        let left = ip(&self.routers, "route show table all proto 208") + &ip(&self.routers, "nexthop show proto 208");
        let rules = ip(&self.routers, "rule show");
        assert!(
            left.is_empty() && !rules.contains("proto 208"),
            "{left}{rules}\n{}: {}",
            self.seed,
            self.told.join("; ")
        );
        assert_eq!(self.foreign(), "");
    }
}

const fn good(link: &Link) -> bool {
    link.in_file && !link.cut && !link.down
}

fn ip(routers: &TwoRouters, line: &str) -> String {
    let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
    routers.client.command(&words, "").unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whatever_happens_traffic_goes_by_a_good_link_and_nothing_of_others_is_touched() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seeds: Vec<u64> = match number("LINK_WATCHER_SEED") {
        Some(seed) => vec![seed],
        None => {
            let fresh = number("LINK_WATCHER_HISTORIES").unwrap_or_default();
            PAST_FAILURES.into_iter().chain((clock % 1_000_000..).take(fresh as usize)).collect()
        }
    };
    for seed in seeds {
        let mut rng = Rng::with_seed(seed);
        let mut life = Life::begin(seed, &mut rng);
        for _ in 0..STEPS {
            life.step(&mut rng);
            life.settle();
        }
        life.end();
        println!("seed {seed}: {}", life.told.join("; "));
    }
}
