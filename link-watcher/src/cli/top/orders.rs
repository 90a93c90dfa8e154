//! What keys order, and what is asked before.

use crate::{
    control::Change,
    status::{GroupSnapshot, LinkSnapshot},
};

/// An order that may cut traffic: it is given when somebody has said yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// What would be done, and what comes of it.
    pub(super) text: String,
    /// The order.
    pub(super) change: Change,
}

/// Pins the group to the link.
pub(super) fn switch(group: &GroupSnapshot, link: &LinkSnapshot) -> Question {
    let (group_name, name) = (&group.name, &link.name);
    // What is out of service is refused with the way out of it, which force would not change.
    let force = !link.usable && !link.drained;
    let from = names(&group.active);
    let text = if force {
        let why = link.usable_reason.as_ref().or(link.last_down_reason.as_ref()).unwrap_or(&link.state);
        let then = if group.failover {
            format!("Its traffic stays on {from} until {name} is usable.")
        } else {
            "Automatic failover is off: its traffic goes there at once AND IS CUT.".to_owned()
        };
        format!("{name} is not usable ({why}). Pin {group_name} to it all the same? {then}")
    } else if group.active == [name.as_str()] {
        format!("Pin {group_name} to {name}, which carries its traffic already?")
    } else {
        format!("Pin {group_name} to {name}? Its traffic moves there from {from}.")
    };
    Question { text, change: Change::Switch { group: group_name.clone(), link: Some(name.clone()), force } }
}

/// Takes the link out of service.
pub(super) fn drain(group: &GroupSnapshot, link: &LinkSnapshot) -> Question {
    let (group_name, name) = (&group.name, &link.name);
    let others: Vec<String> = group
        .links
        .iter()
        .filter(|other| other.name != *name && other.usable && !other.drained && other.tier != 0)
        .map(|other| other.name.clone())
        .collect();
    let then = match (group.active.contains(name), others.as_slice()) {
        (false, []) => "No other link is usable: what dies then leaves nothing.".to_owned(),
        (true, []) => "NO OTHER LINK IS USABLE.".to_owned(),
        (false, _) => "It carries no traffic now.".to_owned(),
        (true, others) => format!("Its traffic moves; usable besides: {}.", names(others)),
    };
    Question {
        text: format!("Take {name} of {group_name} out of service, until it is put back? {then}"),
        change: Change::Drain { group: group_name.clone(), link: name.clone(), for_seconds: None },
    }
}

/// Turns automatic failover off.
pub(super) fn failover_off(group: &GroupSnapshot) -> Question {
    let name = &group.name;
    let text = format!(
        "Turn automatic failover of {name} off? Nothing moves by itself then: if {} dies, its traffic is cut.",
        names(&group.active)
    );
    Question { text, change: Change::Failover { group: Some(name.clone()), on: false } }
}

/// Links by name.
pub(super) fn names(links: &[String]) -> String {
    if links.is_empty() { "no link".to_owned() } else { links.join(" + ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> GroupSnapshot {
        let link = |name: &str, usable| LinkSnapshot {
            name: name.to_owned(),
            state: if usable { "up" } else { "down" }.to_owned(),
            tier: 1,
            usable,
            ..LinkSnapshot::default()
        };
        GroupSnapshot {
            name: "hq".to_owned(),
            failover: true,
            active: vec!["optic".to_owned()],
            links: vec![link("optic", true), link("wifi", true), link("tunnel", false)],
            ..GroupSnapshot::default()
        }
    }

    #[test]
    fn force_is_for_what_is_not_usable_and_says_so() {
        let mut group = group();
        let forced = |group: &GroupSnapshot, at: usize| match switch(group, &group.links[at]) {
            Question { change: Change::Switch { force, .. }, text } => (force, text),
            other => panic!("{other:?}"),
        };
        assert_eq!(forced(&group, 1), (false, "Pin hq to wifi? Its traffic moves there from optic.".to_owned()));
        assert!(forced(&group, 0).1.contains("carries its traffic already"));
        let (force, text) = forced(&group, 2);
        assert!(force && text.contains("tunnel is not usable (down)") && text.contains("stays on optic"), "{text}");
        group.failover = false;
        assert!(forced(&group, 2).1.contains("AND IS CUT"));
        group.links[2].drained = true;
        assert!(!forced(&group, 2).0, "the daemon says what is to be done first");
    }

    #[test]
    fn a_drain_says_what_is_left() {
        let mut group = group();
        assert!(drain(&group, &group.links[0]).text.contains("usable besides: wifi"));
        assert!(drain(&group, &group.links[1]).text.contains("no traffic now"));
        group.links[1].usable = false;
        assert!(drain(&group, &group.links[0]).text.contains("NO OTHER LINK IS USABLE"));
    }
}
