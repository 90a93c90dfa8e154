//! Compares uplinks with the machine.

use super::{
    kind::Kind,
    read::{Uplink, Uplinks},
};
use crate::config::{
    diagnostic::{Findings, Severity},
    host::{Address, Host, known_interface},
};

/// What is absent now may come later, so whoever asks says how bad it is. An interface that comes and goes by its nature
/// is never an error.
pub(in crate::config) fn check(groups: &[Uplinks<'_>], host: &Host, absent: Severity, findings: &Findings<'_>) {
    for group in groups {
        for lan in &group.lan {
            known_interface(lan, host, absent, findings);
        }
        targets_that_tell_nothing(group, host, absent, findings);
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
