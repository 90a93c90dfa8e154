//! Beside others: programs for the same work, in the same lab, cut in the same way and measured by the same meter.

mod accounts;
mod bird;
mod flood;
mod frr;
mod keepalived;
mod link_watcher;
mod ping;
mod round;

use std::{net::IpAddr, process::Stdio};

use anyhow::Result;
use clap::ValueEnum;
use link_watcher_lab::{
    End,
    frame::Frame,
    routers::{TwoRouters, link_address},
    service::Service,
};
use link_watcher_programs::Program as Listed;

pub(crate) use self::{
    flood::{Flooded, flood, flood_of_copies},
    link_watcher::LinkWatcher,
    round::Round,
};
use crate::{rig::Rig, table::Table};

/// The shortest median outage that is promised, ms, however short the detection time: waking up counts there.
const FASTEST_MS: f64 = 4.0;

/// What may be compared.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// This one
    LinkWatcher,
    /// Static routes with BFD
    Bird,
    /// BGP with BFD
    Frr,
    /// VRRP instances that track BFD
    Keepalived,
    /// A shell loop around ping and ip
    Ping,
}

impl Name {
    fn program(self) -> &'static dyn Program {
        match self {
            Self::LinkWatcher => &LinkWatcher,
            Self::Bird => &bird::Bird,
            Self::Frr => &frr::Frr,
            Self::Keepalived => &keepalived::Keepalived,
            Self::Ping => &ping::Ping,
        }
    }
}

/// How often a link is probed, and how many unanswered probes make it dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timers {
    pub(crate) interval_ms: u64,
    pub(crate) multiplier: u32,
}

impl Timers {
    pub(crate) const fn new(interval_ms: u64, multiplier: u32) -> Self {
        Self { interval_ms, multiplier }
    }

    pub(crate) fn detection_ms(self) -> f64 {
        (self.interval_ms * u64::from(self.multiplier)) as f64
    }
}

impl std::fmt::Display for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms x {}", self.interval_ms, self.multiplier)
    }
}

/// Where a program comes from.
pub(crate) struct Package {
    pub(crate) program: Listed,
    /// The argument that makes it tell its version.
    pub(crate) version: &'static str,
}

impl Package {
    pub(crate) const fn new(program: Listed, version: &'static str) -> Self {
        Self { program, version }
    }

    /// The version; nothing where it does not tell.
    fn version(&self) -> Option<String> {
        let output = self.program.command().arg(self.version).stdin(Stdio::null()).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        version_in(&String::from_utf8_lossy(&text)).map(str::to_owned)
    }
}

/// What a line of a program's log says of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard<'a> {
    /// What the program calls the session; each has a name of its own at its end.
    pub(crate) session: &'a str,
    pub(crate) up: bool,
}

/// How to flood a program's port.
pub(crate) struct FloodKind {
    pub(crate) port: u16,
    /// What to make of a genuine packet, so that the receiver has as much work as possible to find that it is none.
    pub(crate) spoil: fn(&Frame) -> Option<Frame>,
}

/// A program that watches links and moves routes.
pub(crate) trait Program {
    /// Its name and how it moves traffic, as the heading of its results.
    fn part(&self) -> &'static str;

    /// What must be installed; nothing for this program itself, which was built with the benchmark.
    fn package(&self) -> Option<Package>;

    /// The timers to measure.
    fn timers(&self) -> Vec<Timers>;

    /// Which of them a configuration that says nothing has.
    fn default_timers(&self) -> Option<Timers>;

    /// Starts it at both ends of all cables.
    fn start(&self, routers: &TwoRouters, timers: Timers) -> Result<[Vec<Service>; 2]>;

    /// Reads a line of what it writes.
    fn heard<'a>(&self, line: &'a str) -> Option<Heard<'a>>;

    /// How to flood it; nothing where it has no port.
    fn flood(&self) -> Option<FloodKind>;
}

/// One link, as seen from one end.
pub(crate) struct Link<'a> {
    pub(crate) name: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
}

/// The links, in order of preference.
pub(crate) fn links(routers: &TwoRouters, end: End) -> impl Iterator<Item = Link<'_>> {
    let family = routers.setup.family;
    routers.setup.links.iter().enumerate().map(move |(number, link)| {
        let (interface, other) = match end {
            End::Client => (&link.client_interface, End::Server),
            End::Server => (&link.server_interface, End::Client),
        };
        let (local, remote) = (link_address(number, family, end), link_address(number, family, other));
        Link { name: &link.name, interface, local, remote }
    })
}

/// The two ends with their names, which are those of the files that belong to them.
pub(crate) const ENDS: [(End, &str); 2] = [(End::Client, "client"), (End::Server, "server")];

pub(crate) fn run(rig: &Rig, table: &mut Table, wanted: &[Name], cuts: u32) -> Result<()> {
    let wanted = if wanted.is_empty() { Name::value_variants() } else { wanted };
    for program in wanted.iter().map(|name| name.program()) {
        let version = match program.package() {
            None => Some(env!("CARGO_PKG_VERSION").to_owned()),
            Some(package) if package.program.path().is_some() => package.version(),
            Some(package) => {
                table.miss(
                    program.part(),
                    format!("not installed; Debian package {}", package.program.packages().join(" or ")),
                    None,
                );
                continue;
            }
        };
        for timers in program.timers() {
            let title = title(program, version.as_deref().unwrap_or("of unknown version"), timers);
            // One that cannot be brought to work at such timers is a result as well.
            if let Err(error) = measure(rig, table, program, timers, &title, cuts) {
                table.miss(program.part(), format!("{title}: {error:#}"), None);
            }
        }
    }
    Ok(())
}

fn title(program: &dyn Program, version: &str, timers: Timers) -> String {
    let default = if program.default_timers() == Some(timers) { " (default)" } else { "" };
    format!("{version}, {timers}{default}")
}

fn measure(
    rig: &Rig,
    table: &mut Table,
    program: &'static dyn Program,
    timers: Timers,
    title: &str,
    cuts: u32,
) -> Result<()> {
    // What is promised of this one; of others nothing is.
    let target = |value: f64| program.package().is_none().then_some(value);
    let part = program.part();
    let round = Round::start(rig, program, timers)?;
    table.add(part, format!("{title}: CPU of an end, a session, %"), None, &mut round.cost_percent()?);
    let mut outages = round.outages_ms(cuts)?;
    let at_most_ms = timers.detection_ms().max(FASTEST_MS);
    table.add(part, format!("{title}: outage, ms"), target(at_most_ms), &mut outages);
    let busy = format!("{title}: false downs, {} s of busy CPUs", round::BUSY.as_secs());
    table.add(part, busy, target(0.0), &mut [round.busy()?]);
    if let Some(kind) = program.flood() {
        let flooded = flood(&round, &kind)?;
        let at = format!("{title}: {:.0} k junk/s", flooded.packets_per_s / 1e3);
        table.add(part, format!("{at}: false downs"), target(0.0), &mut [flooded.false_downs]);
        table.add(part, format!("{at}: CPU, %"), None, &mut [flooded.percent()]);
        table.add(part, format!("{at}: outage, ms"), target(0.0), &mut [flooded.outage_ms]);
    }
    Ok(())
}

/// The first word that begins with a digit, or with a v before it.
fn version_in(text: &str) -> Option<&str> {
    let words = text.split_whitespace().map(|word| word.strip_prefix('v').unwrap_or(word));
    words.into_iter().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
}

/// A packet of BFD (RFC 5880, section 4.1) for a session that the receiver does not have.
pub(crate) fn bfd_junk(genuine: &Frame) -> Option<Frame> {
    /// "Your Discriminator".
    const YOURS: std::ops::Range<usize> = 8..12;
    let mut payload = genuine.payload()?.to_vec();
    payload.get_mut(YOURS)?.iter_mut().for_each(|byte| *byte ^= 0x5a);
    genuine.with_payload(&payload)
}

/// UDP port of single-hop BFD (RFC 5881, section 4).
pub(crate) const BFD_PORT: u16 = 3784;

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(program: &dyn Program, line: &str) -> Option<(String, bool)> {
        program.heard(line).map(|heard| (heard.session.to_owned(), heard.up))
    }

    #[test]
    fn every_program_is_understood() {
        let lines: [(&dyn Program, &str, &str, &str); 5] = [
            (
                &LinkWatcher,
                "link1",
                "WARN branch link1 is down: no echo for 300 ms",
                "INFO branch link1 is up: answers",
            ),
            (
                &bird::Bird,
                "10.248.248.1",
                "2026-11-21 14:54:45.150 <TRACE> bfd1: Session to 10.248.248.1 changed state from Up to Down",
                "2026-11-21 14:54:45.956 <TRACE> bfd1: Session to 10.248.248.1 changed state from Init to Up",
            ),
            (
                &frr::Frr,
                "10.248.248.1",
                "BFD: [SEY1D-NT8EQ] state-change: [mhop:no peer:10.248.248.1 local:10.248.248.2 vrf:default \
                 ifname:wan1] up -> down reason:control-expired",
                "BFD: [J1C6V-VMRW5] state-change: [mhop:no peer:10.248.248.1 local:10.248.248.2 vrf:default] init -> up",
            ),
            (
                &keepalived::Keepalived,
                "link1",
                "Sat Nov 21 14:55:55 2026: VRRP_Instance(link1) Tracked BFD instance link1 is DOWN",
                "Sat Nov 21 14:55:57 2026: VRRP_Instance(link1) Tracked BFD instance link1 is UP",
            ),
            (&ping::Ping, "link1", "link1 is down", "link1 is up"),
        ];
        for (program, session, down, up) in lines {
            assert_eq!(heard(program, down), Some((session.to_owned(), false)));
            assert_eq!(heard(program, up), Some((session.to_owned(), true)));
            assert_eq!(heard(program, "something else"), None);
            assert_eq!(heard(program, ""), None);
        }
    }

    #[test]
    fn versions_are_found() {
        assert_eq!(version_in("BIRD version 2.0.12\n"), Some("2.0.12"));
        assert_eq!(version_in("Keepalived v2.2.7 (01/16,2022)"), Some("2.2.7"));
        assert_eq!(version_in("bfdd version 8.4.4\nCopyright 1996-2005"), Some("8.4.4"));
        assert_eq!(version_in("none"), None);
    }
}
