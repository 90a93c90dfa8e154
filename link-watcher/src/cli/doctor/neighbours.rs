//! Other programs that change routes and policy rules.

use super::{Finding, Machine, Needs, checks::processes, ok, warning};
use crate::foreign_rules::judge;

/// Names of processes, cut at 15 bytes as the kernel does; what they do to us, and the remedy.
const NEIGHBOURS: &[(&str, &str, &str)] = &[
    (
        "NetworkManager",
        "NetworkManager puts default routes into the main table",
        "for the interfaces of peers: nmcli connection modify NAME ipv4.never-default yes ipv6.never-default yes",
    ),
    (
        "bird",
        "BIRD leaves routes of other protocols alone, but may export the same prefixes to the kernel",
        "keep our prefixes out of the export of its `protocol kernel`",
    ),
    ("bird6", "as bird, for IPv6", "keep our prefixes out of the export of its `protocol kernel`"),
    (
        "dhcpcd",
        "dhcpcd puts default routes into the main table",
        "for the interfaces of peers: `nogateway` in /etc/dhcpcd.conf",
    ),
    (
        "zebra",
        "FRR's zebra deletes nexthop objects that it did not make, and may install the same prefixes",
        "do not choose the nexthop back-end beside it, and keep our prefixes out of its routing protocols",
    ),
];
const NETWORKD: &str = "systemd-network";
const KEEP_ROUTES: &str = "ManageForeignRoutes=no";
const KEEP_RULES: &str = "ManageForeignRoutingPolicyRules=no";
/// Since systemd 256; older versions take no notice.
const KEEP_NEXTHOPS: &str = "ManageForeignNextHops=no";

pub(super) fn of_neighbours(machine: &dyn Machine, needs: &Needs) -> Vec<Finding> {
    let names: Vec<&str> = NEIGHBOURS.iter().map(|(name, ..)| *name).chain([NETWORKD]).collect();
    let running = processes(machine, &names);
    let mut findings: Vec<Finding> = NEIGHBOURS
        .iter()
        .filter(|(name, ..)| running.iter().any(|found| found == name))
        .map(|(name, what, remedy)| warning("neighbour", *what, *remedy).on(name))
        .collect();
    if running.iter().any(|found| found == NETWORKD) {
        findings.push(networkd(machine, needs).on("systemd-networkd"));
    }
    if findings.is_empty() {
        findings.push(ok("neighbour", "no other daemon that owns routes was found"));
    }
    findings
}

fn networkd(machine: &dyn Machine, needs: &Needs) -> Finding {
    let directory = "/etc/systemd/networkd.conf.d";
    let drop_ins = machine.list(directory).into_iter().map(|name| format!("{directory}/{name}"));
    let files = ["/etc/systemd/networkd.conf".to_owned()].into_iter().chain(drop_ins);
    let text: String = files.filter_map(|path| machine.read(&path).ok()).map(|text| text + "\n").collect();
    let says = |setting: &&&str| text.lines().any(|line| line.replace(' ', "").eq_ignore_ascii_case(setting));
    let wanted = [(true, KEEP_ROUTES), (needs.uplinks, KEEP_RULES), (needs.nexthop, KEEP_NEXTHOPS)];
    let wanted = wanted.iter().filter(|(needed, _)| *needed).map(|(_, setting)| setting);
    let lacking: Vec<&str> = wanted.filter(|setting| !says(setting)).copied().collect();
    if lacking.is_empty() {
        return ok("neighbour", "it leaves routes and rules of others alone");
    }
    warning(
        "neighbour",
        "when it reconfigures an interface it deletes routes, rules and nexthop objects that it did not make",
        format!("write [Network] {} into {directory}/link-watcher.conf", lacking.join(" ")),
    )
}

/// Policy rules of others beside ours.
pub(super) fn of_rules(machine: &dyn Machine, needs: &Needs) -> Vec<Finding> {
    if needs.claims.is_empty() {
        return Vec::new();
    }
    let troubles = match machine.policy() {
        Ok(policy) => judge(&policy, &needs.claims),
        Err(error) => {
            let message = format!("the kernel does not list policy rules: {error}");
            return vec![warning("rules", message, "a kernel with CONFIG_IP_MULTIPLE_TABLES")];
        }
    };
    if troubles.is_empty() {
        return vec![ok("rules", "no policy rule of others takes traffic that is ours")];
    }
    troubles.into_iter().map(|trouble| warning("rules", trouble.message(), trouble.remedy)).collect()
}
