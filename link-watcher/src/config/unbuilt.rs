//! Sections of the configuration that this version knows but does not run: they are refused, never ignored.

use super::{diagnostic::Findings, section::Section};

const LINK_KEYS: &[&str] = &["name", "interface", "gateway", "tier", "weight", "probe"];
const PROBE_KEYS: &[&str] = &[
    "kind",
    "targets",
    "required",
    "interval",
    "timeout",
    "fall",
    "rise",
    "max-loss",
    "max-rtt",
    "max-jitter",
    "window",
];
const UPLINKS_KEYS: &[&str] = &[
    "name",
    "routes",
    "lan",
    "sticky",
    "masquerade",
    "fwmark",
    "rule-priority",
    "table-base",
    "failback",
    "hold-up",
    "probe",
    "link",
];
const NOTIFY_KEYS: &[&str] =
    &["kind", "name", "from", "to", "smtp", "password-file", "url", "command", "on", "min-interval"];

pub(super) fn refuse(root: &Section<'_>) {
    let findings = root.findings;
    if let Some(metrics) = root.section("metrics", "[metrics]", &["listen"]) {
        metrics.string("listen", "\"127.0.0.1:9746\"");
        refuse_one(&metrics, findings);
    }
    for uplinks in root.sections("uplinks", "[[uplinks]]", UPLINKS_KEYS) {
        refuse_one(&uplinks, findings);
        check_probe(&uplinks, "[uplinks.probe]");
        for link in uplinks.sections("link", "[[uplinks.link]]", LINK_KEYS) {
            check_probe(&link, "[uplinks.link.probe]");
        }
    }
    for notify in root.sections("notify", "[[notify]]", NOTIFY_KEYS) {
        let kinds = ["email", "webhook", "exec"];
        notify.choice("kind", &kinds.map(|kind| (kind, ())));
        refuse_one(&notify, findings);
    }
}

fn check_probe(section: &Section<'_>, title: &'static str) {
    if let Some(probe) = section.section("probe", title, PROBE_KEYS) {
        let kinds = ["icmp", "tcp", "http", "dns", "arp"];
        probe.choice("kind", &kinds.map(|kind| (kind, ())));
    }
}

fn refuse_one(section: &Section<'_>, findings: &Findings<'_>) {
    let title = section.title;
    let line = findings.line_of(&section.span());
    findings.error(
        &section.span(),
        format!("this version does not run {title} yet"),
        format!("remove the section that begins at line {line}"),
    );
}
