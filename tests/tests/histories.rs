//! Random lives of a client router on a real kernel: its file is edited, its daemon killed, links are cut, interfaces go and
//! come, orders are given, routes are taken away. After each step, and a while for what follows from it, the invariants hold.
//!
//! Those that once found a fault are lived again each time; `link_watcher_lab::history` says how to live others, and
//! `cargo xtask histories` does it for long.

#![allow(clippy::unwrap_used)]

#[path = "histories/steps.rs"]
mod steps;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::history::{History, foreign_routing, live_all};
use link_watcher_lab::meter::Meter;
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::routers::{SERVER_GROUP, TwoRouters};
use link_watcher_lab::setup::Setup;
use link_watcher_lab::status::group;
use link_watcher_lab::{Direction, End};
use nix::sys::signal::Signal;
use serde_json::Value;
use steps::{Edit, How, Known, ServerHow, Step, Whose, draw};

/// Lives that once ended badly.
const PAST_FAILURES: &str = include_str!("histories/past.jsonl");
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

/// Packets a second, each way, between hosts behind both routers.
const RATE_PER_S: u32 = 50;
/// A daemon's log over a life.
const LOG_MAX_LINES: u64 = 1000;
/// Somebody's, who comes and goes.
const SOMEBODY: [&str; 2] = [
    "rule REPLACE from 198.51.100.78 lookup 100 priority 9998",
    "route REPLACE 192.0.2.0/24 via 10.20.20.10 dev eth0 proto static",
];

/// What a link is in the lab and in the files.
struct Place {
    name: String,
    interface: String,
    server_interface: String,
    address: String,
    section: String,
    server_section: String,
}

struct Life {
    routers: TwoRouters,
    meter: Meter,
    places: Vec<Place>,
    /// The files but for their links.
    head: String,
    server_head: String,
    known: Known,
    /// What is somebody else's in the client's kernel, as it prints it.
    foreign: String,
}

/// The part of a file before its links, and one part for each.
fn parts(daemon: &Daemon) -> Result<(String, Vec<String>)> {
    let text = fs::read_to_string(daemon.config_path())?;
    let mut parts = text.split("[[peer.link]]");
    let head = parts.next().unwrap_or_default().to_owned();
    Ok((head, parts.map(|section| format!("[[peer.link]]{section}\n")).collect()))
}

impl Life {
    fn begin(backend: &str) -> Result<Self> {
        let setup = Setup {
            interval: Duration::from_millis(50),
            failback: Duration::from_millis(300),
            hold_up: Duration::from_millis(200),
            client_settings: "actuation = \"routes\"\nmetric = 0".to_owned(),
            ..Setup::default()
        };
        let routers = TwoRouters::build(setup, &binary()?)?;
        let (head, sections) = parts(&routers.client_daemon)?;
        let (server_head, server_sections) = parts(&routers.server_daemon)?;
        let places = sections
            .into_iter()
            .zip(server_sections)
            .zip(&routers.setup.links)
            .map(|((section, server_section), link)| {
                let shown = routers.client.ip(&format!("-4 -br addr show dev {}", link.client_interface))?;
                Ok(Place {
                    name: link.name.clone(),
                    interface: link.client_interface.clone(),
                    server_interface: link.server_interface.clone(),
                    address: shown.split_whitespace().nth(2).context("a link without address")?.to_owned(),
                    section,
                    server_section,
                })
            })
            .collect::<Result<_>>()?;
        for line in FOREIGN {
            routers.client.ip(line)?;
        }
        let meter = routers.meter(RATE_PER_S)?;
        let foreign = foreign_routing(&routers.client)?;
        let life = Self { routers, meter, places, head, server_head, known: Known::begin(backend), foreign };
        life.write(&life.known)?;
        life.routers.start_daemons()?;
        life.wait_for_invariants(true)?;
        Ok(life)
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.places.iter().find(|place| place.name == name).with_context(|| format!("no link {name} in the lab"))
    }

    fn daemon(&self, whose: Whose) -> &Daemon {
        self.routers.daemon(end(whose))
    }

    /// The file as it shall be now.
    fn write(&self, known: &Known) -> Result<()> {
        let mut text = self
            .head
            .replace("name = \"hq\"", &format!("name = \"{}\"", known.group))
            .replace("actuation = \"routes\"", &format!("actuation = \"{}\"", known.backend))
            .replace("engine = \"auto\"", &format!("engine = \"{}\"", known.engine))
            .replace("metric = 0", &format!("metric = {}", known.metric))
            .replace("interval = \"50ms\"", &format!("interval = \"{}ms\"", known.interval_ms));
        for link in known.links.iter().filter(|link| link.in_file) {
            text += &self.place(&link.name)?.section;
        }
        Ok(fs::write(self.routers.client_daemon.config_path(), text)?)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let client = &self.routers.client;
        match step {
            Step::Cut(name) => drop(self.routers.wire(name)?.cut()?),
            Step::OneWay { link, to } => {
                let direction = if *to == Whose::Client { Direction::ToClient } else { Direction::ToServer };
                self.routers.wire(link)?.cut_one_way(direction)?;
            }
            Step::Unplug { link, at } => drop(self.routers.wire(link)?.cut_carrier(end(*at))?),
            Step::Mend(name) => drop(self.routers.wire(name)?.mend()?),
            Step::Down(name) => {
                let interface = &self.place(name)?.interface;
                client.ip(&format!("addr flush dev {interface}"))?;
                client.ip(&format!("link set {interface} down"))?;
            }
            Step::Up(name) => {
                let Place { interface, address, .. } = self.place(name)?;
                client.ip(&format!("addr add {address} dev {interface}"))?;
                client.ip(&format!("link set {interface} up"))?;
            }
            Step::Unaddress(name) => drop(client.ip(&format!("-4 addr flush dev {}", self.place(name)?.interface))?),
            Step::Address(name) => {
                let Place { interface, address, .. } = self.place(name)?;
                client.ip(&format!("addr add {address} dev {interface}"))?;
            }
            Step::Mac { link, last } => {
                client.ip(&format!("link set {} address 02:00:5e:10:00:{last:02x}", self.place(link)?.interface))?;
            }
            Step::File(edit, how) => self.take_file(edit, *how)?,
            Step::ServerFile { how, .. } => {
                let mut edited = self.known.clone();
                edited.note(step);
                self.take_server_file(&edited, *how)?;
            }
            Step::Drain(name) => self.ask(&["drain", &self.known.group, name])?,
            Step::Undrain(name) => self.ask(&["undrain", &self.known.group, name])?,
            Step::Switch(name) => {
                self.ask(&["switch", &self.known.group, name])?;
                self.ask(&["switch", &self.known.group, "auto"])?;
            }
            // Some tables may be empty, which is an error to this program.
            Step::Flush => drop(client.ip("route flush proto 208")),
            Step::Strip => {
                let rules =
                    "for pref in $(ip -N -d rule | grep 'proto 208' | cut -d: -f1); do ip rule del pref $pref; done";
                client.command(&["sh", "-c", &format!("{rules}; ip nexthop flush proto 208 || true")], "")?;
            }
            Step::Somebody(there) => {
                for line in SOMEBODY {
                    client.ip(&line.replace("REPLACE", if *there { "add" } else { "del" }))?;
                }
            }
            Step::Take => {
                let metric = self.known.metric;
                client.ip(&format!("route replace default via {NEAR} dev eth0 proto static metric {metric}"))?;
            }
            Step::GiveBack => {
                let metric = self.known.theirs.unwrap_or_default();
                client.ip(&format!("route del default via {NEAR} dev eth0 proto static metric {metric}"))?;
            }
            Step::Kill(whose) => self.daemon(*whose).crash()?,
            Step::Upgrade(whose) => {
                let before = self.ways();
                self.daemon(*whose).stop()?;
                let between = self.ways();
                ensure!(before == between, "a daemon that ends takes its routes along: {before:?}, then {between:?}");
                self.daemon(*whose).start()?;
            }
            Step::Pause { whose, ms } => {
                self.daemon(*whose).signal(Signal::SIGSTOP)?;
                self.routers.lab.pause(Duration::from_millis(*ms))?;
                self.daemon(*whose).signal(Signal::SIGCONT)?;
            }
            Step::Mtu { link, octets } => {
                client.ip(&format!("link set {} mtu {octets}", self.place(link)?.interface))?;
            }
            Step::RpFilter { link, value } => {
                client
                    .sysctl(&format!("net/ipv4/conf/{}/rp_filter", self.place(link)?.interface), &value.to_string())?;
            }
        }
        if matches!(step, Step::Take | Step::GiveBack | Step::Somebody(_)) {
            self.foreign = foreign_routing(&self.routers.client)?;
        }
        self.known.note(step);
        self.wait_for_invariants(true)
    }

    fn take_server_file(&self, known: &Known, how: ServerHow) -> Result<()> {
        let mut text = self.server_head.clone();
        for place in &self.places {
            if known.link(&place.name).is_some_and(|link| link.at_server) {
                text += &place.server_section;
            }
        }
        let daemon = &self.routers.server_daemon;
        fs::write(daemon.config_path(), text)?;
        match how {
            ServerHow::Reload => drop(daemon.command(&["reload", "--force"])?),
            ServerHow::Restart => daemon.restart()?,
            ServerHow::Kill => daemon.crash()?,
        }
        Ok(())
    }

    /// An order, which the daemon may refuse: of a link that the file has not, or of the last one.
    fn ask(&self, arguments: &[&str]) -> Result<()> {
        self.routers.client_daemon.output(arguments).map(drop)
    }

    fn take_file(&self, edit: &Edit, how: How) -> Result<()> {
        let mut edited = self.known.clone();
        edited.edit(edit);
        self.write(&edited)?;
        let daemon = &self.routers.client_daemon;
        match how {
            How::Reload => drop(daemon.command(&["reload", "--force"])?),
            How::Restart => daemon.restart()?,
            How::Kill => daemon.crash()?,
            How::Confirmed => {
                daemon.command(&["reload", "--force", "--confirm-within", "30s"])?;
                daemon.command(&["confirm"])?;
            }
            How::Unconfirmed | How::UnconfirmedKilled => {
                daemon.command(&["reload", "--force", "--confirm-within", "1s"])?;
                if how == How::UnconfirmedKilled {
                    daemon.crash()?;
                }
                let back = || Ok(daemon.status()?["config"]["unconfirmed_until"].is_null().then_some(()));
                self.routers.lab.wait_until("the former configuration to return", QUIET, back)?;
                self.wait_for_invariants(false)?;
                self.write(&self.known)?;
                daemon.command(&["reload", "--force"])?;
            }
        }
        Ok(())
    }

    /// Waits until the invariants hold. `file`: the file is what runs.
    fn wait_for_invariants(&self, file: bool) -> Result<()> {
        let mut broken = String::new();
        let holds = self.routers.lab.wait_until("the invariants to hold", QUIET, || {
            broken = self.broken(file)?;
            Ok(broken.is_empty().then_some(()))
        });
        holds.with_context(|| {
            format!(
                "{broken}\n{}{}{}",
                self.routers.client.ip("rule show").unwrap_or_default(),
                self.routers.client.ip("route show table all proto 208").unwrap_or_default(),
                self.routers.client_daemon.log_tail()
            )
        })
    }

    /// Where both kernels lead what the other side shall get, whatever any daemon says.
    fn ways(&self) -> [String; 2] {
        // Without any route the program fails.
        let way = |namespace: &Namespace, to: &str| namespace.ip(&format!("route get {to}")).unwrap_or_default();
        [way(&self.routers.client, FAR), way(&self.routers.server, NEAR)]
    }

    /// What does not hold.
    fn broken(&self, file: bool) -> Result<String> {
        let status = self.routers.client_daemon.status()?;
        let known = &self.known;
        let Some(peer) = group(&status, &known.group) else {
            return Ok(format!("no group {} in the status", known.group));
        };
        let drained = |name: &str| {
            let links = peer["links"].as_array().into_iter().flatten();
            links.into_iter().any(|link| link["name"] == name && link["drained"] == true)
        };
        // What is out of service is no way, however well it works.
        let way = known.links.iter().any(|link| link.good() && !drained(&link.name));
        for complaint in [self.installed(peer, way)?, self.foreign()?, self.bounded()] {
            if !complaint.is_empty() {
                return Ok(complaint);
            }
        }
        if file {
            let complaint = self.file(&status)?;
            if !complaint.is_empty() {
                return Ok(complaint);
            }
        }
        if !way {
            return Ok(String::new());
        }
        let active: Vec<&str> = peer["active"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let carrying = known.links.iter().find(|link| active == [link.name.as_str()]);
        let Some(carrying) = carrying.filter(|link| link.good()) else {
            return Ok(format!("{active:?} is active, which is no good link: {:?}", known.links));
        };
        if drained(&carrying.name) {
            return Ok(format!("{} is active, which is drained", carrying.name));
        }
        let routes = &peer["routes"];
        let refused = u64::from(known.kept_out());
        if routes["refused"] != refused || routes["installed"] != 1 - refused {
            return Ok(format!("routes, of which {refused} should be refused: {routes}"));
        }
        let place = self.place(&carrying.name)?;
        let [there, back] = self.ways();
        let wanted = if known.theirs_leads() { "eth0" } else { &place.interface };
        if !there.contains(&format!("dev {wanted} ")) {
            return Ok(format!("{} is active, and the kernel does not say {wanted}: {there}", carrying.name));
        }
        if !back.contains(&format!("dev {} ", place.server_interface)) {
            return Ok(format!("{} is active, and the server's kernel says {back}", carrying.name));
        }
        let silence_ns = Direction::BOTH.map(|direction| self.meter.silence_ns(direction));
        if !known.theirs_leads() && silence_ns != [0, 0] {
            return Ok(format!("{} is active, and hosts hear nothing for so long: {silence_ns:?} ns", carrying.name));
        }
        let ours = self.routers.client.ip("route show table all proto 208")?;
        for link in known.links.iter().filter(|link| !link.in_file) {
            if ours.contains(&format!("dev {} ", self.place(&link.name)?.interface)) {
                return Ok(format!("{} is not in the file, and there is {ours}", link.name));
            }
        }
        Ok(String::new())
    }

    /// What a daemon says is installed, and is not in the kernel; or the other way round, where there is a way: without one the
    /// last state stays, also where it is of a link that the file has no more.
    fn installed(&self, peer: &Value, way: bool) -> Result<String> {
        let ours = |namespace: &Namespace| namespace.ip("route show table all proto 208");
        let client = ours(&self.routers.client)?;
        if peer["routes"]["installed"] != 0 && !client.lines().any(|line| line.starts_with("default ")) {
            return Ok(format!("the client says {}, and there is: {client}", peer["routes"]));
        }
        let status = self.routers.server_daemon.status()?;
        let routes = &group(&status, SERVER_GROUP).context("the server has no group")?["routes"];
        let server = ours(&self.routers.server)?;
        let announced = self.routers.beyond(End::Server)?;
        let there = announced.iter().filter(|prefix| server.contains(&prefix.to_string())).count() as u64;
        if routes["installed"].as_u64().is_none_or(|said| said > there || way && said < there) {
            return Ok(format!("the server says {routes}, and there is: {server}"));
        }
        Ok(String::new())
    }

    /// Whether `check` thinks of the file what the daemon thinks of it.
    fn file(&self, status: &Value) -> Result<String> {
        let problem = &status["config"]["problem"];
        if !problem.is_null() {
            return Ok(format!("the file is not what runs: {problem}"));
        }
        // An address that is not there is a mistake to `check`, and none to who had it before.
        if self.known.links.iter().any(|link| link.in_file && (link.down || link.unaddressed)) {
            return Ok(String::new());
        }
        let daemon = &self.routers.client_daemon;
        let path = daemon.config_path();
        let output = daemon.output(&["check", path.to_str().context("a path that is no text")?])?;
        if output.status.success() {
            return Ok(String::new());
        }
        Ok(format!("the daemon took what `check` refuses: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Whether anything of others is not as they left it.
    fn foreign(&self) -> Result<String> {
        let now = foreign_routing(&self.routers.client)?;
        let same = now == self.foreign;
        Ok(if same { String::new() } else { format!("others had {}and now there is {now}", self.foreign) })
    }

    /// What grows without bound.
    fn bounded(&self) -> String {
        [&self.routers.client_daemon, &self.routers.server_daemon]
            .into_iter()
            .map(|daemon| daemon.beyond_bounds(LOG_MAX_LINES))
            .collect()
    }

    /// After all of it nothing is left of us, and all of others.
    fn end(&self) -> Result<()> {
        let daemon = &self.routers.client_daemon;
        daemon.stop()?;
        daemon.command(&["cleanup", "--instance", daemon.instance()])?;
        let client = &self.routers.client;
        let left = client.ip("route show table all proto 208")? + &client.ip("nexthop show proto 208")?;
        let rules = client.ip("rule show")?;
        ensure!(left.is_empty() && !rules.contains("proto 208"), "after `cleanup` there is {left}{rules}");
        let gone = self.foreign()?;
        ensure!(gone.is_empty(), "after `cleanup` {gone}");
        Ok(())
    }
}

const fn end(whose: Whose) -> End {
    match whose {
        Whose::Client => End::Client,
        Whose::Server => End::Server,
    }
}

fn live(history: &History<Step>) -> Result<()> {
    let mut life = Life::begin(&history.start)?;
    for (number, step) in history.steps.iter().enumerate() {
        if life.known.can(step) {
            life.step(step).with_context(|| format!("after step {}, {step:?}", number + 1))?;
        }
    }
    life.end()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whatever_happens_traffic_goes_by_a_good_link_and_nothing_of_others_is_touched() {
    if let Err(error) = live_all(PAST_FAILURES, draw, live) {
        panic!("{error:#}");
    }
}
