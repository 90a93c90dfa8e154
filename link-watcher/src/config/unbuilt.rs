//! Sections of the configuration that this version knows but does not run: they are refused, never ignored.

use super::{diagnostic::Findings, section::Section};

const NOTIFY_KEYS: &[&str] =
    &["kind", "name", "from", "to", "smtp", "password-file", "url", "command", "on", "min-interval"];

pub(super) fn refuse(root: &Section<'_>) {
    let findings = root.findings;
    for notify in root.sections("notify", "[[notify]]", NOTIFY_KEYS) {
        let kinds = ["email", "webhook", "exec"];
        notify.choice("kind", &kinds.map(|kind| (kind, ())));
        refuse_one(&notify, findings);
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
