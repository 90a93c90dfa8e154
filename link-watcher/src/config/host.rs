//! What this machine has: interfaces and their addresses, to compare a configuration with.

use std::{collections::BTreeMap, io, net::IpAddr, ops::Range};

use ipnet::IpNet;
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    sys::socket::SockaddrStorage,
};
use toml::Spanned;

use super::{
    diagnostic::{Findings, Severity, nearest},
    peer::Peer,
};

/// Interfaces of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// By name.
    pub interfaces: BTreeMap<String, Vec<Address>>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// With its prefix length.
    pub network: IpNet,
    /// The other end of a point-to-point interface.
    pub peer: Option<IpAddr>,
}

impl Host {
    /// Asks the kernel (`getifaddrs(3)`).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read() -> io::Result<Self> {
        let mut host = Self::default();
        for found in getifaddrs()? {
            let address = address(&found);
            host.interfaces.entry(found.interface_name).or_default().extend(address);
        }
        Ok(host)
    }
}

fn address(found: &InterfaceAddress) -> Option<Address> {
    let ip = ip(found.address.as_ref()?)?;
    let prefix_len = ipnet::ip_mask_to_prefix(self::ip(found.netmask.as_ref()?)?).ok()?;
    let peer = found.destination.as_ref().and_then(self::ip).filter(|peer| *peer != ip);
    Some(Address { network: IpNet::new(ip, prefix_len).ok()?, peer })
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Compares a configuration with the machine. What is absent now may come later, so whoever asks says how bad it is.
pub(super) fn check(peers: &[Peer<'_>], host: &Host, severity: Severity, findings: &Findings<'_>) {
    let say = |span: &Range<usize>, message: String, help: String| findings.add(severity, span, message, help, false);
    for peer in peers {
        for interface in &peer.announce_interfaces {
            known_interface(interface, host, &say);
        }
        for link in &peer.links {
            let Some(interface) = &link.interface else { continue };
            let Some(addresses) = known_interface(interface, host, &say) else { continue };
            let name = interface.get_ref();
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

pub(super) fn known_interface<'h>(
    name: &Spanned<String>,
    host: &'h Host,
    say: &impl Fn(&Range<usize>, String, String),
) -> Option<&'h [Address]> {
    let found = host.interfaces.get(name.get_ref());
    if found.is_none() {
        let names: Vec<&str> = host.interfaces.keys().map(String::as_str).collect();
        let list =
            if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
        let help = match nearest(name.get_ref(), names.iter().copied()) {
            Some(close) => format!("did you mean \"{close}\"? {list}"),
            None => list,
        };
        say(&name.span(), format!("there is no interface {} here", name.get_ref()), help);
    }
    found.map(Vec::as_slice)
}
