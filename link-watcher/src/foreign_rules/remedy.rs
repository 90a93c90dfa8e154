//! What to do about a rule of somebody else's, by the name of the key or of their setting.

use super::{Claim, Judge, is_tailscale, is_tunnel};
use crate::{config::RULE_PRIORITIES, route::MAIN_RULE_PRIORITY};

/// The last priority that `rule-priority` of uplinks may name.
const LAST_FIRST: u32 = MAIN_RULE_PRIORITY - RULE_PRIORITIES;

pub(super) fn before(judge: &Judge<'_>, lost: &[&Claim], first: u32) -> String {
    let priority = judge.rule.priority;
    if is_tunnel(judge.rule) {
        return tunnel(judge, first);
    }
    if is_tailscale(judge.rule) {
        return "that is its exit node: tailscale set --exit-node= ends it, if it is not meant".to_owned();
    }
    let behind = lost.iter().map(|claim| claim.last + 1).max().unwrap_or(first);
    let theirs = format!("let whoever makes it give it the priority {behind} or more, if it is not meant");
    // Room for all of ours before it.
    match lost.iter().all(|claim| !claim.main).then(|| priority.checked_sub(RULE_PRIORITIES)).flatten() {
        Some(ours) if ours > 0 => format!("{theirs}; or write `rule-priority` = {ours} or less"),
        _ => theirs,
    }
}

pub(super) fn behind(judge: &Judge<'_>, ours: &[&Claim]) -> String {
    let first = ours.iter().map(|claim| claim.first).min().unwrap_or(1);
    if is_tunnel(judge.rule) {
        return tunnel(judge, first);
    }
    let next = judge.rule.priority + 1;
    let theirs = format!("let whoever makes it give it a priority below {first}");
    if next > LAST_FIRST {
        return theirs;
    }
    let key = format!("write `rule-priority` = {next} or more for {}", super::listed(ours));
    if is_tailscale(judge.rule) { key } else { format!("{theirs}, or {key}") }
}

pub(super) fn among(judge: &Judge<'_>, claim: &Claim) -> String {
    let free = judge.rule.priority + 1;
    let key = match free {
        1..=LAST_FIRST if claim.marks.is_some() => format!("`rule-priority` = {free}"),
        _ => "another `rule-priority`".to_owned(),
    };
    format!("remove it, let whoever makes it choose another priority, or write {key} for {}", claim.whose)
}

pub(super) fn marks(judge: &Judge<'_>) -> String {
    if is_tunnel(judge.rule) {
        let first = judge.claims.iter().map(|claim| claim.first).min().unwrap_or(1);
        return tunnel(judge, first);
    }
    let Some(free) = judge.free_mask() else {
        return "choose bits for `fwmark` in [[uplinks]] that no rule compares: ip rule shows them".to_owned();
    };
    match judge.rule.mark {
        Some((mark, u32::MAX)) => format!(
            "write `fwmark` = \"{free:#x}\" in [[uplinks]], and let that rule compare the other bits alone: fwmark \
             {mark:#x}/{:#x}",
            !free
        ),
        _ => format!("write `fwmark` = \"{free:#x}\" in [[uplinks]]"),
    }
}

/// wg-quick(8) makes no rules where it is given a table; then rules of one's own say where they stand and which bits they
/// compare.
fn tunnel(judge: &Judge<'_>, first: u32) -> String {
    let (mark, _) = judge.rule.mark.unwrap_or_default();
    let free = judge.free_mask().unwrap_or(0xff00_0000);
    let (main, tunnel) = (first.saturating_sub(2).max(1), first.saturating_sub(1).max(2));
    let word = if judge.rule.family == crate::netlink::Family::V6 { "ip -6" } else { "ip" };
    format!(
        "wg-quick puts its rules before those that it finds, so the order at boot decides. In its [Interface] write Table = \
         {mark}, FwMark = {mark:#x}, and for all traffic into the tunnel PostUp = {word} rule add priority {main} lookup \
         main suppress_prefixlength 0; {word} rule add priority {tunnel} not fwmark {mark:#x}/{:#x} lookup {mark}; and in \
         [[uplinks]] `fwmark` = \"{free:#x}\"",
        !free
    )
}
