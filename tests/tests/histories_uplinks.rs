//! Random lives of a router with several uplinks on a real kernel: uplinks die and come back, the file is edited, the daemon
//! killed, what is ours deleted. After each step, and a while for what follows from it, the invariants hold: new connections
//! leave by usable uplinks only, those of uplinks that nothing happened to live, nothing of what is not configured remains, and
//! others keep what is theirs.
//!
//! `link_watcher_lab::history` says how to live which lists, and `cargo xtask histories` does it for long.

#![allow(clippy::unwrap_used)]

#[path = "histories_uplinks/steps.rs"]
mod steps;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use link_watcher_lab::Lab;
use link_watcher_lab::daemon::binary;
use link_watcher_lab::history::{History, foreign_routing, live_all};
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::setup::Medium;
use link_watcher_lab::status::group;
use link_watcher_lab::uplinks::Site;
use link_watcher_lab::uplinks::address::gateway4;
use link_watcher_lab::uplinks::flow::{Crowd, Fate, Transport};
use link_watcher_lab::uplinks::setup::{GROUP, SiteSetup, UplinkSetup};
use nix::sys::signal::Signal;
use serde_json::Value;
use steps::{Firewall, How, Known, Ours, Start, Step, UPLINKS, draw};

/// Lives that once ended badly.
const PAST_FAILURES: &str = include_str!("histories_uplinks/past.jsonl");
/// What follows from a step is over within this time.
const QUIET: Duration = Duration::from_secs(20);
/// Connections that are opened after each step: several turns of all weights.
const CROWD: usize = 40;
/// Somebody else's, which nobody may touch.
const FOREIGN: [&str; 3] = [
    "route add 10.98.0.0/16 via 10.20.20.10 dev eth0 proto static",
    "route add default via 10.20.20.10 dev eth0 table 100 proto 12",
    "rule add from 10.99.0.0/16 lookup 100 priority 15000",
];
const FOREIGN_CHAIN: &str =
    "chain first { type filter hook prerouting priority -300; iifname eth0 meta mark set meta mark or 0x1; }";
/// The daemon's log over a life.
const LOG_MAX_LINES: u64 = 1000;
/// The targets answer nobody.
const SILENT: &str = "table inet silent {\nchain input { type filter hook input priority filter;\n\
                      ip daddr 192.0.2.200/29 drop\n}\n}\n";
/// How often the uplinks are probed.
const ROUND: Duration = Duration::from_millis(100);

struct Life {
    site: Site,
    transport: Transport,
    known: Known,
    /// Connections that were opened after the last step.
    crowd: Option<Crowd>,
    /// What is somebody else's in the router's kernel, as it prints it.
    foreign: String,
}

impl Life {
    fn begin(start: Start) -> Result<Self> {
        let mut setup = SiteSetup { interval: ROUND, ..SiteSetup::default() };
        setup.group_settings += "dampening = false\n";
        let site = Site::build(Lab::new()?, setup, &binary()?)?;
        let router = site.router.namespace();
        for line in FOREIGN {
            router.ip(line)?;
        }
        let chains = start.firewall.chains();
        router.command(&["nft", "-f", "-"], &format!("table inet somebody {{\n{FOREIGN_CHAIN}\n{chains}\n}}\n"))?;
        if start.firewall == Firewall::Strict {
            router.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
        }
        let foreign = foreign(router)?;
        let transport = if start.udp { Transport::Udp } else { Transport::Tcp };
        let mut life = Self { site, transport, known: Known::begin(start), crowd: None, foreign };
        life.write()?;
        life.site.daemon.start()?;
        life.wait_for_invariants()?;
        Ok(life)
    }

    fn router(&self) -> &Arc<Namespace> {
        self.site.router.namespace()
    }

    /// The file as it shall be now.
    fn write(&mut self) -> Result<()> {
        self.site.setup.uplinks = self
            .known
            .uplinks
            .iter()
            .filter(|uplink| uplink.in_file)
            .map(|uplink| {
                let provider = self.site.provider(&uplink.name)?;
                let number = provider.number();
                let mut setup = UplinkSetup::new(&uplink.called, Medium::Cable, provider.interface(), uplink.weight);
                setup.tier = uplink.tier;
                // Where it stands in the file says nothing of its gateway.
                setup.learned = true;
                setup.settings = format!("gateway = \"{}\"\n", gateway4(number));
                Ok(setup)
            })
            .collect::<Result<_>>()?;
        self.site.configure()
    }

    fn called<'a>(&'a self, name: &'a str) -> &'a str {
        self.known.uplink(name).map_or(name, |uplink| uplink.called.as_str())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let router = Arc::clone(self.router());
        let daemon = &self.site.daemon;
        match step {
            Step::Die { uplink, gateway } => drop(self.site.provider(uplink)?.die(*gateway)?),
            Step::Mend(name) => self.site.provider(name)?.mend()?,
            Step::Down(name) => router.set_up(self.site.provider(name)?.interface(), false)?,
            Step::Up(name) => router.set_up(self.site.provider(name)?.interface(), true)?,
            Step::Unaddress(name) => {
                drop(router.ip(&format!("-4 addr flush dev {}", self.site.provider(name)?.interface()))?);
            }
            Step::Address(name) => self.site.provider(name)?.address_router(&router, false)?,
            Step::File(_, how) => {
                self.known.note(step);
                self.write()?;
                self.take_file(*how)?;
            }
            Step::Drain(name) => self.ask(&["drain", GROUP, self.called(name)])?,
            Step::Undrain(name) => self.ask(&["undrain", GROUP, self.called(name)])?,
            Step::Switch(name) => {
                self.ask(&["switch", GROUP, self.called(name)])?;
                self.ask(&["switch", GROUP, "auto"])?;
            }
            Step::Weight(name, 0) => self.ask(&["weight", GROUP, self.called(name), "file"])?,
            Step::Weight(name, weight) => self.ask(&["weight", GROUP, self.called(name), &weight.to_string()])?,
            Step::Kill => daemon.crash()?,
            Step::Upgrade => {
                let before = self.rested()?;
                daemon.stop()?;
                let after = ours(&router)?;
                ensure!(before == after, "a daemon that ends changes what it had: {before}\nand after its end {after}");
                daemon.start()?;
            }
            Step::Pause(ms) => {
                daemon.signal(Signal::SIGSTOP)?;
                self.site.lab.pause(Duration::from_millis(*ms))?;
                daemon.signal(Signal::SIGCONT)?;
            }
            Step::Delete(what) => delete(&router, *what)?,
            Step::Silence(rounds) => {
                let internet = self.site.internet.namespace();
                internet.command(&["nft", "-f", "-"], SILENT)?;
                self.site.lab.pause(ROUND * *rounds)?;
                internet.command(&["nft", "delete", "table", "inet", "silent"], "")?;
            }
            Step::RpFilter(name, value) => {
                let interface = self.site.provider(name)?.interface();
                router.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), &value.to_string())?;
            }
        }
        // Twice would rename back what was renamed.
        if !matches!(step, Step::File(..)) {
            self.known.note(step);
        }
        self.wait_for_invariants()?;
        Ok(())
    }

    /// An order, which the daemon may refuse: of an uplink that the file has not, or of the last one.
    fn ask(&self, arguments: &[&str]) -> Result<()> {
        self.site.daemon.output(arguments).map(drop)
    }

    fn take_file(&self, how: How) -> Result<()> {
        let daemon = &self.site.daemon;
        match how {
            How::Reload => drop(daemon.command(&["reload", "--force"])?),
            How::Restart => daemon.restart()?,
            How::Kill => daemon.crash()?,
        }
        Ok(())
    }

    /// What we have in the kernel, as soon as it has not changed for longer than a lost address is waited for.
    fn rested(&self) -> Result<String> {
        const UNCHANGED: Duration = Duration::from_secs(1);
        let (mut last, mut since) = (String::new(), Instant::now());
        self.site.lab.wait_until("what is ours in the kernel to stay", QUIET, || {
            let now = ours(self.router())?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok((since.elapsed() >= UNCHANGED).then(|| last.clone()))
        })
    }

    /// Waits until the invariants hold, and opens the connections of the next step.
    fn wait_for_invariants(&mut self) -> Result<()> {
        let mut broken = String::new();
        let mut crowd = None;
        let holds = self.site.lab.wait_until("the invariants to hold", QUIET, || {
            (broken, crowd) = self.broken()?;
            Ok(broken.is_empty().then_some(()))
        });
        holds.with_context(|| {
            format!(
                "{broken}\n{:?}\n{}\n{}",
                self.known,
                ours(self.router()).unwrap_or_default(),
                self.site.daemon.log_tail()
            )
        })?;
        self.crowd = crowd;
        Ok(())
    }

    /// What does not hold; else new connections, where there is an uplink for them.
    fn broken(&self) -> Result<(String, Option<Crowd>)> {
        let no = |why: String| Ok((why, None));
        let status = self.site.daemon.status()?;
        let Some(wan) = group(&status, GROUP) else { return no("no uplinks in the status".to_owned()) };
        for complaint in [self.foreign()?, self.file(&status)?, self.site.daemon.beyond_bounds(LOG_MAX_LINES)] {
            if !complaint.is_empty() {
                return no(complaint);
            }
        }
        let of = |called: &str| wan["links"].as_array().into_iter().flatten().find(|link| link["name"] == called);
        let drained = |called: &str| of(called).is_some_and(|link| link["drained"] == true);
        let mut usable: Vec<_> =
            self.known.uplinks.iter().filter(|uplink| uplink.good() && !drained(&uplink.called)).collect();
        let best = usable.iter().map(|uplink| uplink.tier).min();
        usable.retain(|uplink| Some(uplink.tier) == best);
        // With none left the last state stays, also where it is of one that the file has no more.
        if usable.is_empty() {
            return no(String::new());
        }
        let left = self.left()?;
        if !left.is_empty() {
            return no(left);
        }
        let active: Vec<&str> = wan["active"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if active.len() != usable.len() || !usable.iter().all(|uplink| active.contains(&uplink.called.as_str())) {
            let usable: Vec<_> = usable.iter().map(|uplink| uplink.called.as_str()).collect();
            return no(format!("{active:?} are active, and usable are {usable:?}"));
        }
        if wan["routes"]["refused"] != 0 {
            return no(format!("routes: {}", wan["routes"]));
        }
        let crowd = Crowd::open(&self.site.lan, self.site.call(self.transport), CROWD)?;
        if let Some(failure) = crowd.failures.first() {
            return no(format!("{} of {CROWD} new connections failed, the first: {failure}", crowd.failures.len()));
        }
        for (name, count) in UPLINKS.iter().zip(self.site.by_uplink(&crowd.by_source())) {
            let wanted = usable.iter().any(|uplink| uplink.name == *name);
            if wanted != (count > 0) {
                return no(format!("{count} of {CROWD} new connections took {name}, and usable are {usable:?}"));
            }
        }
        Ok((String::new(), Some(crowd)))
    }

    /// What is in the kernel of an uplink that the file has not, or that our rules are not there.
    fn left(&self) -> Result<String> {
        let ours = ours(self.router())?;
        if !ours.contains("table inet link_watcher") {
            return Ok("our nftables table is not there".to_owned());
        }
        for uplink in self.known.uplinks.iter().filter(|uplink| !uplink.in_file) {
            let provider = self.site.provider(&uplink.name)?;
            let (interface, own) = (provider.interface(), provider.router_address().to_string());
            let left = ours.split([' ', '"', '\n', ',', ';']).any(|word| word == interface || word == own);
            if left {
                return Ok(format!("{} is not in the file, and there is {ours}", uplink.name));
            }
        }
        Ok(String::new())
    }

    /// Whether `check` thinks of the file what the daemon thinks of it.
    fn file(&self, status: &Value) -> Result<String> {
        let problem = &status["config"]["problem"];
        if !problem.is_null() {
            return Ok(format!("the file is not what runs: {problem}"));
        }
        // What is not there is a mistake to `check`, and none to who had it before.
        if self.known.uplinks.iter().any(|uplink| uplink.in_file && (uplink.down || uplink.unaddressed)) {
            return Ok(String::new());
        }
        let path = self.site.daemon.config_path();
        let output = self.site.daemon.output(&["check", path.to_str().context("a path that is no text")?])?;
        if output.status.success() {
            return Ok(String::new());
        }
        Ok(format!("the daemon took what `check` refuses: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Whether anything of others is not as they left it.
    fn foreign(&self) -> Result<String> {
        let now = foreign(self.router())?;
        let same = now == self.foreign;
        Ok(if same { String::new() } else { format!("others had {}and now there is {now}", self.foreign) })
    }

    /// Connections of uplinks that nothing happened to are answered on the uplink that they had.
    fn recheck(&self, crowd: Option<Crowd>, step: &Step) -> Result<()> {
        let Some(mut crowd) = crowd else { return Ok(()) };
        for (name, fate) in self.site.fates(crowd.recheck()?) {
            ensure!(
                Known::touched(step, &name) || fate == Fate { same: fate.total(), ..Fate::default() },
                "connections by {name}, to which nothing happened: {fate:?}\n{}",
                self.site.daemon.log_tail()
            );
        }
        Ok(())
    }

    /// After all of it nothing is left of us, and all of others.
    fn end(&self) -> Result<()> {
        let daemon = &self.site.daemon;
        daemon.stop()?;
        daemon.command(&["cleanup", "--instance", daemon.instance()])?;
        let left = ours(self.router())?;
        ensure!(left.is_empty(), "after `cleanup` there is {left}");
        let gone = self.foreign()?;
        ensure!(gone.is_empty(), "after `cleanup` {gone}");
        Ok(())
    }
}

/// Rules, routes and tables that are neither ours nor the kernel's.
fn foreign(router: &Namespace) -> Result<String> {
    Ok(foreign_routing(router)? + &router.command(&["nft", "-s", "list", "table", "inet", "somebody"], "")?)
}

/// Everything of ours in the kernel: rules, routes, the nftables table; empty where there is nothing.
fn ours(router: &Namespace) -> Result<String> {
    let mut text = String::new();
    for arguments in [&["ip", "-N", "-d", "rule"][..], &["ip", "-N", "-d", "-o", "route", "show", "table", "all"]] {
        let lines = router.command(arguments, "")?;
        for line in lines.lines().filter(|line| line.contains("proto 208")) {
            text += line;
            text.push('\n');
        }
    }
    let tables = router.command(&["nft", "list", "tables"], "")?;
    for table in tables.lines().filter(|table| table.starts_with("table inet link_watcher")) {
        // Stateless: counters go on.
        let arguments: Vec<_> = ["nft", "-s", "list"].into_iter().chain(table.split_whitespace()).collect();
        text += &router.command(&arguments, "")?;
    }
    Ok(text)
}

/// Somebody deletes what is ours of this kind.
fn delete(router: &Namespace, what: Ours) -> Result<()> {
    let script = match what {
        Ours::Nftables => "nft list tables | grep 'inet link_watcher' | while read line; do nft delete $line; done",
        Ours::Rules => "for pref in $(ip -N -d rule | grep 'proto 208' | cut -d: -f1); do ip rule del pref $pref; done",
        // Some tables may be empty, which is an error to this program.
        Ours::Routes => "ip route flush table all proto 208 || true",
    };
    router.command(&["sh", "-c", script], "").map(drop)
}

fn live(history: &History<Step>) -> Result<()> {
    let mut life = Life::begin(Start::parse(&history.start))?;
    for (number, step) in history.steps.iter().enumerate() {
        if life.known.can(step) {
            let crowd = life.crowd.take();
            let told = || format!("after step {}, {step:?}", number + 1);
            life.step(step).with_context(told)?;
            life.recheck(crowd, step).with_context(told)?;
        }
    }
    life.end()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whatever_happens_new_connections_leave_by_usable_uplinks_and_untouched_ones_live() {
    if let Err(error) = live_all(PAST_FAILURES, draw, live) {
        panic!("{error:#}");
    }
}
