//! Compares uplinks with the machine.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};

use super::{
    kind::Kind,
    read::{Uplink, Uplinks},
};
use crate::config::{
    diagnostic::{Findings, Severity},
    host::{Address, Host, known_interface},
    peer::Peer,
};

/// How the names of interfaces begin whose makers translate what comes from there: containers and virtual machines.
const TRANSLATED: &[&str] =
    &["docker", "br-", "veth", "virbr", "lxcbr", "lxdbr", "incusbr", "podman", "cni", "flannel", "cali"];

/// What is absent now may come later, so whoever asks says how bad it is. An interface that comes and goes by its nature
/// is never an error.
pub(in crate::config) fn check(
    groups: &[Uplinks<'_>],
    peers: &[Peer<'_>],
    host: &Host,
    absent: Severity,
    findings: &Findings<'_>,
) {
    for group in groups {
        for lan in &group.lan {
            known_interface(lan, host, absent, findings);
        }
        targets_that_tell_nothing(group, host, absent, findings);
        networks_left_out(group, groups, peers, host, findings);
        for link in &group.links {
            gateways_of_others(link, host, absent, findings);
            let Some(interface) = &link.interface else { continue };
            if let Some(addresses) = known_interface(interface, host, absent, findings) {
                let absent = host.severity(interface.get_ref(), absent);
                on_interface(link, interface.get_ref(), addresses, absent, findings);
            }
        }
    }
}

/// A connected network that this machine seems to be the router of, while its interface is not in `lan`: what it sends is neither
/// spread nor translated.
fn networks_left_out(
    group: &Uplinks<'_>,
    groups: &[Uplinks<'_>],
    peers: &[Peer<'_>],
    host: &Host,
    findings: &Findings<'_>,
) {
    // Without `lan` nobody's connections are spread, which was said or is meant.
    let Some(last) = group.lan.last() else { return };
    let names = |interface: &str| group.lan.iter().any(|lan| lan.get_ref() == interface);
    // A list that names an uplink is wrong, which was said.
    let wrong = group.links.iter().filter_map(Uplink::interface).any(|interface| names(interface.get_ref()));
    if wrong || !group.links.iter().any(Uplink::translates) {
        return;
    }
    let of_groups =
        groups.iter().flat_map(|group| group.lan.iter().chain(group.links.iter().filter_map(Uplink::interface)));
    let of_peers = peers.iter().flat_map(|peer| peer.links.iter().filter_map(|link| link.interface.as_ref()));
    let used: BTreeSet<&str> = of_groups.chain(of_peers).map(|interface| interface.get_ref().as_str()).collect();
    let others = host
        .interfaces
        .iter()
        .filter(|(name, _)| !used.contains(name.as_str()) && !TRANSLATED.iter().any(|prefix| name.starts_with(prefix)));
    for (name, addresses) in others {
        let Some(network) = addresses.iter().find_map(routed_network) else { continue };
        findings.warning(
            &last.span(),
            format!("{name} has {network}, and is not in `lan`: what comes from there leaves with its private source"),
            format!("add \"{name}\" to `lan`, if hosts there use this router for the internet"),
        );
    }
}

/// A private network in which our address is the first or the last one, as routers have.
fn routed_network(has: &Address) -> Option<Ipv4Net> {
    let IpNet::V4(own) = has.network else { return None };
    let private = own.addr().is_private() && has.peer.is_none() && own.prefix_len() <= 30;
    let mut hosts = own.hosts();
    let ours = hosts.next() == Some(own.addr()) || u32::from(own.addr()) + 1 == u32::from(own.broadcast());
    (private && ours).then(|| own.trunc())
}

/// A target shows that an uplink works if its answer comes through it from beyond the provider's router.
fn targets_that_tell_nothing(group: &Uplinks<'_>, host: &Host, absent: Severity, findings: &Findings<'_>) {
    let probes = group.links.iter().map(|link| &link.probe).chain([&group.probe]).flatten();
    for target in probes.filter_map(|probe| probe.targets.as_ref()).flat_map(|targets| &targets.list) {
        let address = target.at.ip();
        let has = |addresses: &[Address]| addresses.iter().any(|has| has.network.addr() == address);
        let mut lans = group.lan.iter().map(|lan| lan.get_ref().as_str());
        let lan = lans.find_map(|lan| {
            let has = host.interfaces.get(lan)?.iter().find(|has| has.network.contains(&address))?;
            Some((lan, has.network.trunc()))
        });
        let (severity, why) = if address.is_loopback() {
            (Severity::Error, "a loopback address: it answers whatever the uplink does".to_owned())
        } else if let Some((interface, _)) = host.interfaces.iter().find(|(_, addresses)| has(addresses)) {
            (absent, format!("this machine's own address, on {interface}: it answers whatever the uplink does"))
        } else if let Some((lan, network)) = lan {
            (absent, format!("in the LAN {network} on {lan}: its answer does not come through the uplink"))
        } else {
            continue;
        };
        let help = "name something in the internet that answers everybody, such as \"9.9.9.9\"".to_owned();
        findings.add(severity, &target.span, format!("target {address} is {why}"), help, false);
    }
    for link in &group.links {
        let probe = link.probe.as_ref().filter(|probe| probe.targets.is_some()).or(group.probe.as_ref());
        let Some(probe) = probe.filter(|probe| probe.kind == Some(Kind::Icmp)) else { continue };
        let Some(targets) = probe.targets.as_ref().filter(|targets| !targets.list.is_empty()) else { continue };
        let gateway = |address| link.gateways.iter().any(|gateway| *gateway.get_ref() == address);
        if targets.list.iter().all(|target| gateway(target.at.ip())) {
            findings.warning(
                &targets.span,
                "only the provider's router is asked: it answers as well when the internet behind it is gone",
                "name something behind it, such as \"9.9.9.9\"; kind = \"arp\" says that only the router is meant",
            );
        }
    }
}

/// A gateway is another router.
fn gateways_of_others(link: &Uplink<'_>, host: &Host, absent: Severity, findings: &Findings<'_>) {
    for gateway in &link.gateways {
        let own = host
            .interfaces
            .iter()
            .find(|(_, addresses)| addresses.iter().any(|has| has.network.addr() == *gateway.get_ref()));
        if let Some((interface, _)) = own {
            findings.add(
                absent,
                &gateway.span(),
                format!("`gateway` {} is this machine's own address, on {interface}", gateway.get_ref()),
                "name the provider's router; `ip route` shows it where it was learned".to_owned(),
                false,
            );
        }
    }
}

fn on_interface(link: &Uplink<'_>, interface: &str, addresses: &[Address], absent: Severity, findings: &Findings<'_>) {
    let list = |ipv4: bool| {
        let family = addresses.iter().filter(|has| has.network.addr().is_ipv4() == ipv4);
        family.map(|has| has.network.to_string()).collect::<Vec<_>>()
    };
    for local in &link.locals {
        if addresses.iter().any(|has| has.network.addr() == *local.get_ref()) {
            continue;
        }
        let list = list(local.get_ref().is_ipv4());
        let has = if list.is_empty() { "none of this family".to_owned() } else { list.join(", ") };
        findings.add(
            absent,
            &local.span(),
            format!("{} is no address of {interface}", local.get_ref()),
            format!("{interface} has {has}; `ip address add` gives it another"),
            false,
        );
    }
    for gateway in &link.gateways {
        let reaches = |has: &Address| has.network.contains(gateway.get_ref()) || has.peer == Some(*gateway.get_ref());
        let list = list(gateway.get_ref().is_ipv4());
        // An interface that has no address yet may get the right one.
        if list.is_empty() || addresses.iter().any(reaches) {
            continue;
        }
        findings.warning(
            &gateway.span(),
            format!("{interface} has no address in the same prefix as its gateway {}", gateway.get_ref()),
            format!("it has {}; the gateway must answer on this interface all the same", list.join(", ")),
        );
    }
}
