#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::{Nat, ProbeKind, UplinksConfig};

/// Everything that the program knows, once with strings and once with symbols as keys.
const COMPLETE: &str = "\
uplinks:
- interface: eth1
  type: static
  ip: 192.0.2.2
  gateway: 192.0.2.1
  description: Example Provider 1
  weight: 1
  default_route: true
- interface: eth2
  ip: 198.51.100.2
  gateway: 198.51.100.1
  description: Example Provider 1
  weight: 2
- interface: ppp0
  type: ppp
  description: \"\u{dc}bersee \\\"3\\\"\"
  default_route: false
downlinks:
  lan: eth0
  dmz:
tests:
  ips:
  - 9.9.9.9
  - 1.1.1.1
  - 203.0.113.53
  required_successful: 2
  ping_retries: 1
  interval: 60
log:
  file: \"/var/log/fault_tolerant_router.log\"
  max_size: 1024000
  old_files: 10
email:
  send: true
  sender: router@example.com
  recipients:
  - user1@example.com
  - user2@example.com
  smtp_parameters:
    address: smtp.example.com
    port: 587
    domain: example.com
    authentication: :login
    enable_starttls_auto: true
    user_name: user@example.com
    password: secret-password
base_table: 1
base_priority: 40000
base_fwmark: 1
";

fn converted(text: &str) -> Converted {
    convert(Path::new("ftr.conf"), text).unwrap_or_else(|refused| panic!("{refused}"))
}

fn group(toml: &str) -> UplinksConfig {
    let loaded = config::parse(Path::new("c.toml"), toml, &Host::default(), Severity::Warning);
    loaded.unwrap_or_else(|refused| panic!("{toml}\n{refused}")).config.uplinks.remove(0)
}

fn refused(text: &str) -> Vec<String> {
    let refused = convert(Path::new("ftr.conf"), text).err().unwrap();
    refused.diagnostics.iter().map(Diagnostic::summary).collect()
}

#[test]
fn the_complete_configuration_is_converted() {
    let converted = converted(COMPLETE);
    assert_eq!((converted.warnings, converted.refused), (vec![], None));
    let wan = group(&converted.toml);
    assert_eq!((wan.lan, wan.table_base, wan.rule_priority), (vec!["eth0".to_owned()], 1, 20_000));
    let link = |i: usize| &wan.links[i];
    let names: Vec<_> = wan.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["example-provider-1", "example-provider-1-2", "\u{fc}bersee-3"]);
    assert_eq!(link(0).gateways, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(link(0).nat, Nat::Source("192.0.2.2".parse().unwrap()));
    assert_eq!((link(2).nat, link(2).gateways.len()), (Nat::Masquerade, 0));
    let tiers: Vec<_> = wan.links.iter().map(|link| (link.tier, link.weight)).collect();
    assert_eq!(tiers, [(1, 1), (1, 2), (0, 1)]);
    let probe = &link(0).probe;
    assert!(matches!(&probe.kind, ProbeKind::Icmp { targets } if targets.len() == 3));
    assert_eq!((probe.required, probe.fall, probe.rise), (2, 1, 1));
    assert_eq!((probe.interval, probe.timeout), (Duration::from_secs(60), Duration::from_secs(2)));
}

/// What the reader of the result must do by hand is said in it, and no secret is.
#[test]
fn what_has_no_counterpart_is_named() {
    let toml = converted(COMPLETE).toml;
    for named in [
        "base_priority 40000",
        "1 is 0x100, 2 is 0x200, 3 is 0x300",
        "log.file, log.max_size, log.old_files",
        "# to = [\"user1@example.com\", \"user2@example.com\"]",
        "# smtp = \"smtp://user%40example.com@smtp.example.com:587\"",
        "email.smtp_parameters.domain, email.smtp_parameters.authentication, email.smtp_parameters.enable_starttls_auto",
        "# \u{dc}bersee \"3\"",
    ] {
        assert!(toml.contains(named), "{named} in\n{toml}");
    }
    assert!(!toml.contains("secret-password"));
}

#[test]
fn keys_may_be_symbols() {
    let symbols: String = COMPLETE
        .lines()
        .map(|line| match line.split_once(": ").or_else(|| line.strip_suffix(':').map(|key| (key, ""))) {
            Some((key, value)) => {
                let at = key.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                format!("{}:{}: {value}\n", &key[..at], &key[at..])
            }
            None => format!("{line}\n"),
        })
        .collect();
    assert!(symbols.contains("- :interface: eth1"));
    assert_eq!(converted(&symbols).toml, converted(COMPLETE).toml);
}

#[test]
fn priority_groups_are_tiers() {
    let text =
        COMPLETE.replace("  default_route: true\n", "  priority_group: 2\n").replace("weight: 2", "priority_group: 1");
    let tiers: Vec<_> = group(&converted(&text).toml).links.iter().map(|link| link.tier).collect();
    assert_eq!(tiers, [2, 1, 0]);
    // Without one it is no default route, if others have one.
    let text = text.replace("  default_route: false\n", "");
    assert_eq!(group(&converted(&text).toml).links[2].tier, 0);
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    let text = COMPLETE.replace("  dmz:", "  guests: eth9") + "downtime: 3\n";
    let converted = converted(&text);
    let warnings: Vec<_> = converted.warnings.iter().map(Diagnostic::summary).collect();
    assert_eq!(
        warnings,
        [
            "ftr.conf:20:3: `downlinks.guests` is not known and was not converted",
            "ftr.conf:50:1: `downtime` is not known and was not converted",
        ]
    );
    assert!(converted.toml.ends_with("\n# downlinks.guests (line 20)\n# downtime (line 50)\n"));
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    assert_eq!(
        refused("uplinks:\n- interface: eth1\n  type: dhcp\n  weight: much\n- type: static\n  interface: eth2\n"),
        [
            "ftr.conf:1:1: `downlinks` is missing",
            "ftr.conf:1:1: `tests` is missing",
            "ftr.conf:3:9: `type` cannot be \"dhcp\" (it is static or ppp)",
            "ftr.conf:4:11: `uplinks[0].weight` must be a whole number, 0 or more",
            "ftr.conf:5:3: `uplinks[1].gateway` is missing",
            "ftr.conf:5:3: `uplinks[1].ip` is missing",
        ]
    );
    assert_eq!(
        refused("nonsense"),
        [
            "ftr.conf:1:1: this is no configuration of Fault Tolerant Router (it begins with uplinks:)",
            "ftr.conf:1:1: `uplinks` is missing",
            "ftr.conf:1:1: `downlinks` is missing",
            "ftr.conf:1:1: `tests` is missing",
        ]
    );
    assert_eq!(refused(""), ["ftr.conf:1:1: the file is empty (name the configuration of Fault Tolerant Router)"]);
    assert!(refused("uplinks: [").remove(0).contains("this is not YAML: "));
}

/// Hostile descriptions stay inside their comment and their quotes.
#[test]
fn a_description_is_only_a_description() {
    let text = COMPLETE.replace("Example Provider 1", "\"a\\nb = 1\\n[[x]] \\\" auto\"");
    assert_eq!(group(&converted(&text).toml).links[0].name, "a-b-1-x-auto");
}

#[test]
fn what_our_own_reader_refuses_is_said() {
    let converted = converted(&COMPLETE.replace("required_successful: 2", "required_successful: 4"));
    let refused = converted.refused.unwrap().to_string();
    assert!(refused.contains("`required` is 4, but there are only 3 targets"), "{refused}");
}
