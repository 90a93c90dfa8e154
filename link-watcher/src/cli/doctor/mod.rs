//! `doctor`: what this machine offers and lacks, each with its remedy.

mod checks;
mod interfaces;
mod machine;
mod neighbours;
mod netlink;
mod ports;

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;

use self::{
    machine::{Machine, ThisMachine},
    ports::Port,
};
use super::{
    Exit, Failure,
    output::{Style, document, print},
};
use crate::{
    config::{self, Config, DatapathChoice, PeerConfig},
    foreign_rules::Claim,
    route::RouteBackend,
};

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or it may surprise.
    Warning,
    /// The daemon cannot do its work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at: a word for scripts.
    check: &'static str,
    /// On which interface or daemon, if on one.
    subject: Option<String>,
    message: String,
    remedy: Option<String>,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    missing: usize,
    warnings: usize,
    checks: Vec<Finding>,
}

/// What a machine is examined for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Needs {
    /// Whether keepalives are exchanged with peers.
    peers: bool,
    /// Whether programs are to be loaded for them.
    bpf: bool,
    realtime: bool,
    uplinks: bool,
    /// Whether a peer is to be served by nexthop groups.
    nexthop: bool,
    ipv4: bool,
    ipv6: bool,
    interfaces: BTreeMap<String, Use>,
    /// Rule priorities and marks that are ours.
    claims: Vec<Claim>,
    /// What peers' announcements come in by.
    ports: Vec<Port>,
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    peer: bool,
    uplink: bool,
    /// Whether an IPv6 gateway is to be learned there.
    learns_ipv6: bool,
}

impl Needs {
    fn of(config: &Config) -> Self {
        let mut interfaces: BTreeMap<String, Use> = BTreeMap::new();
        for link in config.peers.iter().flat_map(|peer| &peer.links) {
            interfaces.entry(link.interface.clone()).or_default().peer = true;
        }
        for group in &config.uplinks {
            let ipv6 = group.routes.iter().any(|route| route.addr().is_ipv6());
            for link in &group.links {
                let use_ = interfaces.entry(link.interface.clone()).or_default();
                use_.uplink = true;
                use_.learns_ipv6 |= ipv6 && !link.gateways.iter().any(|gateway| gateway.is_ipv6());
            }
            for lan in &group.lan {
                interfaces.entry(lan.clone()).or_default();
            }
        }
        let peers = config.peers.iter().flat_map(|peer| peer.routes.iter().chain(&peer.announce).chain(&peer.accept));
        let routes: Vec<bool> = peers
            .chain(config.uplinks.iter().flat_map(|group| &group.routes))
            .map(|prefix| prefix.addr().is_ipv4())
            .collect();
        Self {
            peers: !config.peers.is_empty(),
            bpf: !config.peers.is_empty() && config.daemon.engine != DatapathChoice::Socket,
            realtime: config.daemon.realtime,
            uplinks: !config.uplinks.is_empty(),
            nexthop: config.peers.iter().any(|peer| peer.actuation == RouteBackend::Nexthop),
            ipv4: routes.contains(&true),
            ipv6: routes.contains(&false),
            interfaces,
            claims: Claim::all(config),
            ports: config.peers.iter().flat_map(ports).collect(),
        }
    }

    /// Of a machine that has no configuration yet: all that could be needed, on every interface that is switched on, but
    /// for the loopback one.
    fn anything(machine: &dyn Machine) -> Self {
        let interfaces = machine.interfaces().unwrap_or_default();
        let on = interfaces.iter().filter(|interface| interface.link.admin_up && interface.link.name != "lo");
        let any = Use { peer: true, uplink: true, learns_ipv6: false };
        Self {
            peers: true,
            bpf: true,
            realtime: true,
            uplinks: true,
            nexthop: false,
            ipv4: true,
            ipv6: false,
            interfaces: on.map(|interface| (interface.link.name.clone(), any)).collect(),
            claims: Vec::new(),
            ports: Vec::new(),
        }
    }
}

fn ports(peer: &PeerConfig) -> impl Iterator<Item = Port> {
    peer.links.iter().map(|link| Port {
        interface: link.interface.clone(),
        local: link.local,
        remote: link.remote,
        port: peer.port,
        asks: !(peer.announce.is_empty() && peer.announce_interfaces.is_empty()),
    })
}

pub(super) fn run(path: &Path, named: bool, json: bool) -> Result<Exit, Failure> {
    let machine = ThisMachine;
    let (needs, configuration) = if named || path.exists() {
        match config::load(path) {
            Ok(loaded) => (Needs::of(&loaded.config), configuration_is_good(path, loaded.warnings.len())),
            Err(refused) => (Needs::anything(&machine), configuration_is_bad(path, &refused)),
        }
    } else {
        (Needs::anything(&machine), no_configuration(path))
    };
    let report = examine(&machine, &needs, configuration);
    if json {
        print(&document(&report)?)?;
    } else {
        print(&render(&report, Style::for_stdout()))?;
    }
    Ok(if report.missing == 0 { Exit::Done } else { Exit::Failed })
}

fn examine(machine: &dyn Machine, needs: &Needs, configuration: Finding) -> Report {
    let mut checks = vec![configuration];
    checks.extend(checks::of_machine(machine, needs));
    checks.extend(interfaces::of_interfaces(machine, needs));
    checks.extend(ports::of_ports(machine, needs));
    checks.extend(neighbours::of_neighbours(machine, needs));
    checks.extend(neighbours::of_rules(machine, needs));
    let count = |level| checks.iter().filter(|finding| finding.level == level).count();
    Report { missing: count(Level::Missing), warnings: count(Level::Warning), checks }
}

fn configuration_is_good(path: &Path, warnings: usize) -> Finding {
    if warnings == 0 {
        return ok("configuration", format!("{} is good", path.display()));
    }
    let message =
        format!("{} can be run, with {warnings} warning{}", path.display(), if warnings == 1 { "" } else { "s" });
    warning("configuration", message, format!("link-watcher check {} shows them", path.display()))
}

fn configuration_is_bad(path: &Path, refused: &config::Refused) -> Finding {
    let errors = refused.errors();
    let message = format!("{} is refused: {errors} error{}", path.display(), if errors == 1 { "" } else { "s" });
    missing("configuration", message, format!("link-watcher check {} shows what is wrong", path.display()))
}

fn no_configuration(path: &Path) -> Finding {
    warning(
        "configuration",
        format!("there is no {}: what follows is for every interface", path.display()),
        format!("link-watcher generate config --output {} writes one to begin with", path.display()),
    )
}

fn ok(check: &'static str, message: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, check, subject: None, message: message.into(), remedy: None }
}

fn warning(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, remedy: Some(remedy.into()), ..ok(check, message) }
}

fn missing(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { level: Level::Missing, remedy: Some(remedy.into()), ..ok(check, message) }
}

impl Finding {
    /// About one interface or daemon.
    fn on(self, subject: &str) -> Self {
        Self { subject: Some(subject.to_owned()), ..self }
    }
}

fn render(report: &Report, style: Style) -> String {
    let title = |finding: &Finding| match &finding.subject {
        Some(subject) => format!("{} {subject}", finding.check),
        None => finding.check.to_owned(),
    };
    let width = report.checks.iter().map(|finding| title(finding).chars().count()).max().unwrap_or_default();
    let mut out = String::new();
    for finding in &report.checks {
        // Padded before it is painted: colours have no width.
        let level = match finding.level {
            Level::Ok => style.good("ok     "),
            Level::Warning => style.warning("warning"),
            Level::Missing => style.bad("missing"),
        };
        out += &format!("{level}  {:width$}  {}\n", title(finding), finding.message);
        if let Some(remedy) = &finding.remedy {
            out += &format!("{:9}{:width$}  -> {remedy}\n", "", "");
        }
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    out += &match (report.missing, report.warnings) {
        (0, 0) => "\nNothing is missing.\n".to_owned(),
        (0, warnings) => format!("\nNothing essential is missing; {}.\n", count(warnings, "warning")),
        (1, warnings) => format!("\n1 essential thing is missing; {}.\n", count(warnings, "warning")),
        (missing, warnings) => format!("\n{missing} essential things are missing; {}.\n", count(warnings, "warning")),
    };
    out
}

#[cfg(test)]
mod tests;
