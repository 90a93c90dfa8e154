//! What one to a thousand links cost: peers on one hub, all in one daemon at each end.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use link_watcher_lab::Direction;
use link_watcher_lab::{Lab, cable::Cable, daemon::Daemon, monotonic_ns, netns::Namespace};
use serde_json::Value;

use crate::{rig::Rig, table::Table};

const PART: &str = "Links on one hub, one daemon an end";
/// So many links, and their interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    links: u32,
    interval_ms: u64,
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (links, interval_ms) = text.split_once('x').ok_or("links and interval in ms, such as 1000x100")?;
        let links = links.parse().ok().filter(|links| (1..=MOST_LINKS).contains(links));
        let interval_ms = interval_ms.parse().ok().filter(|interval_ms| (1..=60_000).contains(interval_ms));
        Ok(Self {
            links: links.ok_or_else(|| format!("1 to {MOST_LINKS} links"))?,
            interval_ms: interval_ms.ok_or("an interval of 1 to 60000 ms")?,
        })
    }
}

/// What is measured unless somebody says otherwise, and what an end may take of one core, %, where that was promised.
const LOADS: [(Load, Option<f64>); 10] = [
    (load(1, 100), None),
    (load(3, 100), Some(0.3)),
    (load(10, 100), None),
    (load(100, 100), None),
    (load(1000, 100), Some(10.0)),
    (load(3, 10), Some(1.5)),
    (load(10, 10), None),
    (load(100, 10), None),
    (load(500, 10), None),
    (load(1000, 10), Some(60.0)),
];
/// As many as the addresses of [`address`] are good for.
const MOST_LINKS: u32 = 2000;
/// Links that die at once, and their interval, ms.
const DYING: (u32, u64) = (1000, 100);
/// Spans over which the processor time is taken, each so long.
const SPANS: usize = 5;
const SPAN: Duration = Duration::from_secs(2);
/// Resident memory, MB, with so many links.
const MEMORY_MB: [(u32, f64); 2] = [(3, 20.0), (1000, 64.0)];
/// The daemon's file, MB.
const BINARY_MB: f64 = 15.0;
/// Beside three intervals, what a start may take until a link is usable, ms.
const START_MS: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(60);
/// Second byte of the addresses of the two ends; a peer has one at each, because its remote address is what tells it from
/// others.
const ENDS: [u8; 2] = [64, 65];

const fn load(links: u32, interval_ms: u64) -> Load {
    Load { links, interval_ms }
}

/// Measures these loads alone; with none of them all, the daemon's file, and links that die.
pub(crate) fn run(rig: &Rig, table: &mut Table, only: &[Load]) -> Result<()> {
    if !only.is_empty() {
        for wanted in only {
            let promised = LOADS.iter().find(|(known, _)| known == wanted);
            measure(rig, table, *wanted, promised.and_then(|(_, core_percent)| *core_percent))?;
        }
        return Ok(());
    }
    let size_mb = fs::metadata(&rig.daemon)?.len() as f64 / 1e6;
    table.add(PART, "the daemon's file, MB", Some(BINARY_MB), &mut [size_mb]);
    for (load, core_percent) in LOADS {
        measure(rig, table, load, core_percent)?;
    }
    let (links, interval_ms) = DYING;
    let pair = Pair::start(rig, links, interval_ms, true)?;
    die(&pair, table)
}

fn measure(rig: &Rig, table: &mut Table, load: Load, core_percent: Option<f64>) -> Result<()> {
    let Load { links, interval_ms } = load;
    match Pair::start(rig, links, interval_ms, false) {
        Ok(pair) => pair.measure(table, core_percent)?,
        // What a machine is too small for is a result as well.
        Err(error) => {
            let why = error.root_cause();
            table.miss(PART, format!("{links} links at {interval_ms} ms: {why}"), core_percent);
        }
    }
    Ok(())
}

/// Two daemons with so many links between them.
struct Pair {
    links: u32,
    interval_ms: u64,
    /// Where links are to die; elsewhere the ends are joined directly, because a cable's middle takes time of its own.
    cable: Option<Cable>,
    ends: [Daemon; 2],
    /// From the start of the second daemon until its first link was usable.
    started_ms: f64,
    /// Likewise until all links were usable at both.
    complete_ms: f64,
    lab: Lab,
}

impl Pair {
    fn start(rig: &Rig, links: u32, interval_ms: u64, mortal: bool) -> Result<Self> {
        let lab = rig.lab()?;
        let namespace = |role: &str| lab.namespace(role).map(Arc::new);
        let (one, other, middle) = (namespace("one")?, namespace("other")?, namespace("cables")?);
        let cable = if mortal {
            Cable::prepare_middle(&middle)?;
            Some(Cable::lay("hub", &middle, (&one, "hub0"), (&other, "hub0"))?)
        } else {
            one.connect("hub0", &other, "hub0")?;
            None
        };
        equip([&one, &other], links)?;
        let ends =
            [Daemon::prepare(&lab, &one, "one", &rig.daemon)?, Daemon::prepare(&lab, &other, "other", &rig.daemon)?];
        // A key a peer: two with one are refused.
        let mut keys = vec![[0; 32]; links as usize];
        for key in &mut keys {
            getrandom::fill(key).context("no randomness")?;
        }
        for (end, daemon) in ends.iter().enumerate() {
            let (role, routes) = [("server", "accept"), ("client", "routes")][end];
            let mut text = String::new();
            for (number, key) in (0..links).zip(&keys) {
                let key = daemon.write_key(&format!("p{number}.key"), &STANDARD.encode(key))?;
                let (local, remote) = (address(ENDS[end], number), address(ENDS[1 - end], number));
                // Writing to a string cannot fail.
                let _ = write!(
                    text,
                    "[[peer]]\nname = \"p{number}\"\nrole = \"{role}\"\nkey-files = [\"{}\"]\ninterval = \"{interval_ms}ms\"\n\
                     multiplier = 3\nhold-up = \"0s\"\n{routes} = [\"198.18.{}.{}/32\"]\n[[peer.link]]\nname = \"l\"\n\
                     interface = \"hub0\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n",
                    key.display(),
                    number / 250,
                    number % 250,
                );
            }
            daemon.write_config("", &text)?;
        }
        ends[0].start()?;
        let from_ns = monotonic_ns();
        ends[1].launch()?;
        ends[1].wait_ready()?;
        let first =
            lab.wait_until("the first link", PATIENCE, || Ok((usable(&ends[1].status()?) > 0).then(monotonic_ns)))?;
        let started_ms = (first - from_ns) as f64 / 1e6;
        for daemon in &ends {
            lab.wait_until(&format!("{links} links"), PATIENCE, || {
                Ok((usable(&daemon.status()?) == links).then_some(()))
            })?;
        }
        let complete_ms = (monotonic_ns() - from_ns) as f64 / 1e6;
        Ok(Self { links, interval_ms, cable, ends, started_ms, complete_ms, lab })
    }
}

/// Addresses, and neighbours that are known beforehand: the kernel's table of learned ones is smaller than this.
fn equip(ends: [&Namespace; 2], links: u32) -> Result<()> {
    let macs = [mac(ends[0])?, mac(ends[1])?];
    for (own, other) in [(0, 1), (1, 0)] {
        let mut lines = String::new();
        for number in 0..links {
            let (local, remote) = (address(ENDS[own], number), address(ENDS[other], number));
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "addr add {local}/15 dev hub0");
            let _ = writeln!(lines, "neigh add {remote} lladdr {} dev hub0 nud permanent", macs[other]);
        }
        ends[own].command(&["ip", "-batch", "/dev/stdin"], &lines)?;
    }
    Ok(())
}

fn mac(namespace: &Namespace) -> Result<String> {
    let text = namespace.command(&["ip", "-json", "link", "show", "dev", "hub0"], "")?;
    let links: Value = serde_json::from_str(&text)?;
    Ok(links[0]["address"].as_str().context("hub0 has no MAC address")?.to_owned())
}

fn address(end: u8, number: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, end, (1 + number / 250) as u8, (1 + number % 250) as u8)
}

fn links_of(status: &Value) -> impl Iterator<Item = &Value> {
    let groups = status["groups"].as_array().into_iter().flatten();
    groups.flat_map(|group| group["links"].as_array().into_iter().flatten())
}

fn usable(status: &Value) -> u32 {
    links_of(status).filter(|link| link["usable"] == true).count() as u32
}

/// Processor time of all threads of a process so far, ns (`schedstat`, Documentation/scheduler/sched-stats.rst), and how
/// often they went to sleep.
pub(crate) fn spent(pid: u32) -> Result<(f64, f64)> {
    let (mut ns, mut sleeps) = (0.0, 0.0);
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let (Ok(schedstat), Ok(status)) =
            (fs::read_to_string(path.join("schedstat")), fs::read_to_string(path.join("status")))
        else {
            continue; // The thread has just ended.
        };
        ns += schedstat.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        sleeps += field(&status, "voluntary_ctxt_switches:").unwrap_or(0.0);
    }
    Ok((ns, sleeps))
}

fn field(status: &str, name: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

impl Pair {
    /// What the ends take over some spans in service.
    fn measure(&self, table: &mut Table, core_percent: Option<f64>) -> Result<()> {
        let Self { links, interval_ms, .. } = *self;
        let what = format!("{links} links at {interval_ms} ms");
        let pids = self.ends.each_ref().map(Daemon::pid);
        let mut percent = Vec::new();
        let mut wakeups = Vec::new();
        for _ in 0..SPANS {
            let look = || -> Result<Vec<(f64, f64)>> { pids.iter().flatten().map(|pid| spent(*pid)).collect() };
            let (from_ns, before) = (monotonic_ns(), look()?);
            self.lab.pause(SPAN)?;
            let (after, ns) = (look()?, (monotonic_ns() - from_ns) as f64);
            for (before, after) in before.iter().zip(&after) {
                percent.push((after.0 - before.0) / ns * 100.0);
                wakeups.push((after.1 - before.1) / ns * 1e9);
            }
        }
        // Each probe, the answer to the other side's, and the echo.
        let keepalives_per_s = f64::from(links) * 1000.0 / interval_ms as f64;
        let mut each_us: Vec<f64> = percent.iter().map(|percent| percent / 100.0 / keepalives_per_s * 1e6).collect();
        table.add(PART, format!("{what}: an end, % of a core"), core_percent, &mut percent);
        table.add(PART, format!("{what}: an end, us a keepalive"), None, &mut each_us);
        let (mut lateness_ms, mut memory_mb, mut false_downs) = (Vec::new(), Vec::new(), 0.0);
        for (daemon, pid) in self.ends.iter().zip(pids) {
            let status = daemon.status()?;
            // Of the last seconds, so of the spans alone.
            lateness_ms.extend(links_of(&status).filter_map(|link| link["worst_lateness_ms"].as_f64()));
            false_downs += links_of(&status).filter_map(|link| link["flaps"].as_f64()).sum::<f64>();
            let status = fs::read_to_string(format!("/proc/{}/status", pid.context("the daemon has ended")?))?;
            memory_mb.extend(field(&status, "VmRSS:").map(|kb| kb / 1000.0));
        }
        table.add(PART, format!("{what}: worst lateness of the probing thread, ms"), None, &mut lateness_ms);
        table.add(PART, format!("{what}: false downs of both ends"), Some(0.0), &mut [false_downs]);
        table.add(PART, format!("{what}: start until all are usable, ms"), None, &mut [self.complete_ms]);
        if interval_ms == 100 {
            table.add(PART, format!("{what}: wake-ups a second"), None, &mut wakeups);
            let target = MEMORY_MB.iter().find(|(of, _)| *of == links).map(|(_, mb)| *mb);
            table.add(PART, format!("{what}: resident memory, MB"), target, &mut memory_mb);
            if links == 3 {
                let target = START_MS + 3.0 * interval_ms as f64;
                let name = format!("{what}: start until a link is usable, ms");
                table.add(PART, name, Some(target), &mut [self.started_ms]);
            }
        }
        Ok(())
    }
}

/// Cuts all links at one instant.
fn die(pair: &Pair, table: &mut Table) -> Result<()> {
    let Pair { links, interval_ms, .. } = *pair;
    let cut_at = SystemTime::now();
    pair.cable.as_ref().context("these links cannot be cut")?.cut(&Direction::BOTH)?;
    let mut noticed_ms = Vec::new();
    for daemon in &pair.ends {
        let status = pair.lab.wait_until("all links to be down", PATIENCE, || {
            let status = daemon.status()?;
            Ok((usable(&status) == 0).then_some(status))
        })?;
        for link in links_of(&status) {
            let since = humantime::parse_rfc3339(link["since"].as_str().context("a link without a time")?)?;
            noticed_ms.push(since.duration_since(cut_at).map_or(0.0, |passed| passed.as_secs_f64() * 1e3));
        }
    }
    let target = (interval_ms * 4) as f64;
    table.add(
        PART,
        format!("{links} links at {interval_ms} ms die at once: noticed after, ms"),
        Some(target),
        &mut noticed_ms,
    );
    Ok(())
}
