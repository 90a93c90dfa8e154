//! Whether packet filters let in what peers announce.
//!
//! Where XDP or tc answers keepalives they never come to a packet filter, but announcements do: a filter that drops their
//! port leaves every link up, and no route.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Finding, Machine, Needs, ok, warning};
use crate::cli::explain::{
    kernel::NamedTable,
    nft::{Fib, Packet, Refuser},
};

/// Hooks on the way to a socket, in their order.
const HOOKS: [&str; 2] = ["prerouting", "input"];
/// Octets of somebody's rule that are shown.
const MAX_RULE_LEN: usize = 160;

/// A link's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) interface: String,
    /// Ours; nothing: the interface's own in the remote's prefix.
    pub(super) local: Option<IpAddr>,
    pub(super) remote: IpAddr,
    /// UDP, the same at both ends.
    pub(super) port: u16,
    /// We announce too, from the same port: to conntrack the peer's packets are answers.
    pub(super) asks: bool,
}

pub(super) fn of_ports(machine: &dyn Machine, needs: &Needs) -> Vec<Finding> {
    if needs.ports.is_empty() {
        return Vec::new();
    }
    let what = "whether packet filters let in the announcements of peers";
    let (tables, mut fib) = match machine.filters() {
        Ok(filters) => filters,
        Err(why) => return vec![ok("announcements", format!("{what} cannot be seen: {why}"))],
    };
    let Ok(interfaces) = machine.interfaces() else { return Vec::new() };
    // One for each interface and outcome: links often differ in addresses alone.
    let mut findings: BTreeMap<(String, u16), Finding> = BTreeMap::new();
    for port in &needs.ports {
        let Some(local) = port.local.or_else(|| interfaces.local_for(&port.interface, port.remote)) else { continue };
        let finding = of_port(machine, port, local, &tables, fib.as_mut());
        findings.entry((port.interface.clone(), port.port)).or_insert(finding.on(&port.interface));
    }
    findings.into_values().collect()
}

fn of_port(machine: &dyn Machine, port: &Port, local: IpAddr, tables: &[NamedTable], fib: &mut dyn Fib) -> Finding {
    let number = port.port;
    let mut packet = Packet {
        source: Some(port.remote),
        destination: local,
        protocol: "udp",
        port: Some(number),
        source_port: Some(number),
        incoming: Some(port.interface.clone()),
        outgoing: None,
        mark: 0,
        connection_mark: 0,
        state: if port.asks { "established" } else { "new" },
    };
    let family = if local.is_ipv4() { "ip" } else { "ip6" };
    let mut unknown = None;
    for hook in HOOKS {
        for table in tables.iter().filter(|table| table.family == "inet" || table.family == family) {
            let outcomes = match table.loaded.run(hook, &packet, fib) {
                Ok(outcomes) => outcomes,
                Err(what) => {
                    unknown.get_or_insert(format!("{} {}, hook {hook}, says {}", table.family, table.name, what.0));
                    continue;
                }
            };
            if let Some(by) = outcomes.iter().find_map(|outcome| outcome.refused_by.as_ref()) {
                return refused(machine, port, table, hook, by);
            }
            if let [outcome] = outcomes.as_slice() {
                packet = outcome.packet.clone();
            }
        }
    }
    match unknown {
        None => ok("announcements", format!("UDP {number} is let in from {}", port.remote)),
        Some(what) => ok(
            "announcements",
            format!("whether UDP {number} is let in from {} cannot be told: the nftables table {what}", port.remote),
        ),
    }
}

fn refused(machine: &dyn Machine, port: &Port, table: &NamedTable, hook: &str, by: &Refuser) -> Finding {
    let (family, name, number) = (&table.family, &table.name, port.port);
    let rule = match by.rule {
        None => format!("the policy of chain {}", by.chain),
        Some(handle) => {
            let text = machine.rule_text(family, name, handle).unwrap_or_default();
            let short: String = text.chars().take(MAX_RULE_LEN).collect();
            format!("chain {}, rule {handle}: {short}", by.chain)
        }
    };
    warning(
        "announcements",
        format!(
            "nftables drops UDP {number} from {} here (table {family} {name}, hook {hook}, {rule}): announcements are lost, \
             although the link is up where XDP answers keepalives beneath it",
            port.remote
        ),
        format!(
            "nft insert rule {family} {name} {} iifname \"{}\" udp dport {number} accept, and likewise in the file that makes \
             the table",
            by.base, port.interface
        ),
    )
}
