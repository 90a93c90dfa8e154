//! What this machine has: interfaces and their addresses, to compare a configuration with.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    ops::Range,
};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    diagnostic::{Findings, Severity, nearest},
    peer::Peer,
};
use crate::system::Interfaces;

/// How the names of interfaces begin that a daemon or driver makes when a line comes up, and removes when it goes.
const COME_AND_GO: &[&str] = &["ppp", "wwan", "tun", "tap", "wg", "usb", "l2tp"];

/// Interfaces of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// By name.
    pub interfaces: BTreeMap<String, Vec<Address>>,
    /// Interfaces that the running configuration has: they have been right once, and may be away for a while.
    pub expected: BTreeSet<String>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// With its prefix length.
    pub network: IpNet,
    /// The other end (`ip address add … peer …`), on whatever kind of interface.
    pub peer: Option<IpAddr>,
}

impl Host {
    /// Asks the kernel, as the daemon does when it runs: what one of them takes for right, the other does.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read() -> io::Result<Self> {
        let mut host = Self::default();
        for interface in Interfaces::read()?.iter() {
            // A prefix is never longer than its address: the kernel has checked it.
            let address = |known: &crate::system::Address| {
                Some(Address { network: IpNet::new(known.address, known.prefix_len).ok()?, peer: known.peer })
            };
            let addresses = interface.addresses.iter().filter_map(address).collect();
            host.interfaces.insert(interface.link.name.clone(), addresses);
        }
        Ok(host)
    }

    /// How bad it is that something of an interface is missing: what comes and goes by its nature, or was there before, is
    /// never an error.
    pub(super) fn severity(&self, interface: &str, absent: Severity) -> Severity {
        let comes_and_goes = COME_AND_GO.iter().any(|prefix| interface.starts_with(prefix));
        if comes_and_goes || self.expected.contains(interface) { Severity::Warning } else { absent }
    }
}

/// Compares a configuration with the machine. What is absent now may come later, so whoever asks says how bad it is.
pub(super) fn check(peers: &[Peer<'_>], host: &Host, absent: Severity, findings: &Findings<'_>) {
    for peer in peers {
        for interface in &peer.announce_interfaces {
            known_interface(interface, host, absent, findings);
        }
        for link in &peer.links {
            let Some(interface) = &link.interface else { continue };
            let Some(addresses) = known_interface(interface, host, absent, findings) else { continue };
            let name = interface.get_ref();
            let severity = host.severity(name, absent);
            let say =
                |span: &Range<usize>, message: String, help: String| findings.add(severity, span, message, help, false);
            match (&link.local, &link.remote) {
                (Some(local), _) if !addresses.iter().any(|has| has.network.addr() == *local.get_ref()) => {
                    let family =
                        addresses.iter().filter(|has| has.network.addr().is_ipv4() == local.get_ref().is_ipv4());
                    let list: Vec<_> = family.map(|has| has.network.to_string()).collect();
                    let has = if list.is_empty() { "none of this family".to_owned() } else { list.join(", ") };
                    let help = format!("{name} has {has}; `ip address add` gives it another");
                    say(&local.span(), format!("{} is no address of {name}", local.get_ref()), help);
                }
                (None, Some(remote)) => {
                    let remote_ip = *remote.get_ref();
                    let reaches = |has: &Address| has.network.contains(&remote_ip) || has.peer == Some(remote_ip);
                    if !addresses.iter().any(reaches) {
                        let list: Vec<_> = addresses.iter().map(|has| has.network.to_string()).collect();
                        let has = if list.is_empty() { "no address".to_owned() } else { list.join(", ") };
                        say(
                            &remote.span(),
                            format!("{name} has no address in the same prefix as {remote_ip}"),
                            format!("it has {has}; name one with `local`, or give the interface one"),
                        );
                    }
                }
                _ => {}
            }
        }
    }
}

/// The addresses of an interface; reports one that is not there.
pub(super) fn known_interface<'h>(
    name: &Spanned<String>,
    host: &'h Host,
    absent: Severity,
    findings: &Findings<'_>,
) -> Option<&'h [Address]> {
    let found = host.interfaces.get(name.get_ref());
    if found.is_none() {
        let severity = host.severity(name.get_ref(), absent);
        let (message, help) = if severity == absent {
            let names: Vec<&str> = host.interfaces.keys().map(String::as_str).collect();
            let list = match names.as_slice() {
                [] => "there are none".to_owned(),
                names => format!("there are {}", names.join(", ")),
            };
            let help = match nearest(name.get_ref(), names.iter().copied()) {
                Some(close) => format!("did you mean \"{close}\"? {list}"),
                None => list,
            };
            (format!("there is no interface {} here", name.get_ref()), help)
        } else {
            // It is of a kind that comes and goes, or was there before.
            let help = "it is used from the moment that it appears";
            (format!("there is no interface {} here now", name.get_ref()), help.to_owned())
        };
        findings.add(severity, &name.span(), message, help, false);
    }
    found.map(Vec::as_slice)
}
