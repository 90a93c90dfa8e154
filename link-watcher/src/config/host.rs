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
use crate::{address::is_link_local, system::Interfaces};

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

impl Address {
    fn ip(&self) -> IpAddr {
        self.network.addr()
    }
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
            let mut locals = peers.iter().flat_map(|peer| &peer.links).filter_map(|link| link.local.as_ref());
            // That it is ours by the file's own words is reported already.
            if let Some(remote) = &link.remote
                && !locals.any(|local| local.get_ref() == remote.get_ref())
                && let Some((message, help)) = no_router(*remote.get_ref(), name, addresses, host)
            {
                say(&remote.span(), message, help);
                continue;
            }
            routes_of_the_link_itself(peer, name, addresses, &link.remote, severity, findings);
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
                    let own: BTreeSet<IpAddr> = addresses.iter().filter(|has| reaches(has)).map(Address::ip).collect();
                    if let [first, second, ..] = own.iter().collect::<Vec<_>>()[..] {
                        findings.warning(
                            &remote.span(),
                            format!("{name} has several addresses in the same prefix as {remote_ip}: {}", listed(&own)),
                            format!(
                                "name the one that the peer has as `remote`: local = \"{first}\" or local = \"{second}\"; with \
                                 the other one the peer takes our keepalives for a stranger's"
                            ),
                        );
                    }
                    if own.is_empty() {
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

/// Of addresses, the first ones.
fn listed(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Why nobody else can have this address behind this interface.
fn no_router(address: IpAddr, name: &str, addresses: &[Address], host: &Host) -> Option<(String, String)> {
    let same = |has: &&Address| has.network.addr() == address;
    // The loopback interface has all of its prefix; a link-local address means another machine on another interface.
    let mut others = host.interfaces.iter().filter(|(other, _)| *other == name || !is_link_local(address));
    if let Some((interface, _)) = others.find(|(_, addresses)| addresses.iter().any(|has| same(&has))) {
        let message = format!("`remote` {address} is this machine's own address, on {interface}");
        return Some((message, "`remote` is the peer's address, `local` this router's".to_owned()));
    }
    for has in addresses {
        // RFC 3021: with a length of 31 both are hosts.
        let IpNet::V4(network) = has.network else { continue };
        let what = match address {
            _ if network.prefix_len() >= 31 => continue,
            IpAddr::V4(address) if address == network.network() => "the network address",
            IpAddr::V4(address) if address == network.broadcast() => "the broadcast address",
            _ => continue,
        };
        let message = format!("`remote` {address} is {what} of {}, which no router has", network.trunc());
        return Some((message, format!("{name} has {network}: name the other router's address there")));
    }
    None
}

/// A link's own prefix must stay reachable by that link. A wider route does no harm: the kernel takes the narrower one of the
/// interface.
fn routes_of_the_link_itself(
    peer: &Peer<'_>,
    name: &str,
    addresses: &[Address],
    remote: &Option<Spanned<IpAddr>>,
    severity: Severity,
    findings: &Findings<'_>,
) {
    let Some(remote) = remote.as_ref().map(|remote| *remote.get_ref()) else { return };
    let own =
        addresses.iter().map(|has| has.network.trunc()).filter(|own| own.contains(&remote) && own.prefix_len() > 0);
    for own in own {
        for route in peer.routes.iter().filter(|route| own.contains(route.get_ref())) {
            findings.add(
                severity,
                &route.span(),
                format!("{} is the link's own prefix, on {name} ({own}): it is there without a route", route.get_ref()),
                "leave it out: sent through the peer, the way to the peer would lead through the peer".to_owned(),
                false,
            );
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
            // As `ip address` shows one end of a pair: eth0@if3.
            let bare = name.get_ref().split('@').next().unwrap_or_default();
            let help = match nearest(bare, names.iter().copied()) {
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
