//! Compares uplinks with the machine.

use super::read::{Uplink, Uplinks};
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
