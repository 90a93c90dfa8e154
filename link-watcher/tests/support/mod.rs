//! A directory with a good key, a machine with a few interfaces, and what is wrong with a configuration on it.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

pub mod daemon;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use link_watcher::{
    config::{self, Address, Host, Loaded, Refused, Severity},
    keys::Secret,
};
use tempfile::TempDir;

/// A place to write configurations and keys into.
pub struct Desk {
    directory: TempDir,
}

impl Desk {
    /// With two good keys, `hq.key` and `b.key`: a second peer needs one of its own.
    pub fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["hq.key", "b.key"] {
            desk.write_key(name, 0o600, Secret::generate().unwrap().to_base64().as_str());
        }
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    pub fn write_key(&self, name: &str, mode: u32, text: &str) {
        let path = self.write(name, text);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Without what is said where there is no spare, which tests of its own ask for: most of what is tried here has one link.
    pub fn parse(&self, text: &str) -> Result<Loaded, Refused> {
        let mut loaded = self.parse_whole(text)?;
        loaded.warnings.retain(|warning| !is_no_spare(warning));
        Ok(loaded)
    }

    pub fn parse_whole(&self, text: &str) -> Result<Loaded, Refused> {
        config::parse(&self.path("c.toml"), text, &host(), Severity::Error)
    }

    /// Each finding as `severity line:column: message | help`; `DIR` stands for the desk's directory.
    pub fn findings(&self, text: &str) -> Vec<String> {
        let diagnostics = match self.parse(text) {
            Ok(loaded) => loaded.warnings,
            Err(refused) => refused.diagnostics,
        };
        let line = |diagnostic: &config::Diagnostic| {
            let severity = if diagnostic.severity == Severity::Error { "error" } else { "warning" };
            let place = diagnostic.place.as_ref().map(|p| format!("{}:{}", p.line, p.column)).unwrap_or_default();
            let help = diagnostic.help.as_deref().unwrap_or_default();
            let text = format!("{severity} {place}: {} | {help}", diagnostic.message);
            text.replace(&self.directory.path().display().to_string(), "DIR")
        };
        diagnostics.iter().map(line).collect()
    }

    /// The findings of a good peer with one link and these further lines, the first of which is line 5 of the file.
    pub fn peer_findings(&self, lines: &str) -> Vec<String> {
        self.findings(&peer(lines))
    }
}

/// Whether it says that there is one link only.
pub fn is_no_spare(diagnostic: &config::Diagnostic) -> bool {
    diagnostic.message.contains("spare: its failure is an outage")
}

/// A good peer with further lines from line 5, and one good link behind them.
pub fn peer(lines: &str) -> String {
    let routes = if lines.contains("routes =") { "" } else { "routes = [\"0.0.0.0/0\"]" };
    format!(
        "[[peer]]\nname = \"hq\"\nrole = \"client\"\nkey-files = [\"hq.key\"]\n{lines}\n{routes}\n\
         [[peer.link]]\nname = \"optic\"\ninterface = \"eth1\"\nlocal = \"10.248.248.2\"\nremote = \"10.248.248.1\"\n"
    )
}

/// A good group of uplinks with further lines from line 4, and one good link behind them.
pub fn uplinks(lines: &str) -> String {
    format!(
        "[[uplinks]]\nname = \"wan\"\nlan = [\"eth0\"]\n{lines}\n[uplinks.probe]\ntargets = [\"192.0.2.53\"]\n\
         [[uplinks.link]]\nname = \"a\"\ninterface = \"eth1\"\ngateway = \"10.248.248.1\"\n"
    )
}

/// eth0 with a LAN, eth1 and eth2 with links, and a point-to-point link ppp0.
pub fn host() -> Host {
    let address = |network: &str| Address { network: network.parse().unwrap(), peer: None };
    let point_to_point = Address { peer: Some("203.0.113.1".parse().unwrap()), ..address("203.0.113.2/32") };
    let interfaces = [
        ("lo", vec![address("127.0.0.1/8"), address("::1/128")]),
        ("eth0", vec![address("10.20.20.1/22")]),
        ("eth1", vec![address("10.248.248.2/24"), address("2001:db8:1::2/64"), address("fe80::1/64")]),
        ("eth2", vec![address("10.248.249.2/24"), address("fe80::1/64")]),
        ("ppp0", vec![point_to_point]),
    ];
    Host { interfaces: interfaces.into_iter().map(|(name, list)| (name.to_owned(), list)).collect(), ..Host::default() }
}

/// A machine with these interfaces, each with one address, and the loopback interface.
pub fn host_with(interfaces: &[(&str, &str)]) -> Host {
    let address = |network: &str| Address { network: network.parse().unwrap(), peer: None };
    let all = interfaces.iter().chain(&[("lo", "127.0.0.1/8")]);
    Host {
        interfaces: all.map(|(name, network)| ((*name).to_owned(), vec![address(network)])).collect(),
        ..Host::default()
    }
}

/// Reads a file of the repository, from the crate's directory.
pub fn repository_file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}
