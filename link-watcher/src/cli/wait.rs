//! `drain --wait`: until nothing of a link's traffic remains, as far as both ends and the kernel know.

use std::{path::Path, time::Duration};

use super::{Exit, Failure, output::print};
use crate::{
    control::Client,
    log,
    status::{LinkSnapshot, Snapshot},
};

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Waits until nothing of the link's traffic remains; whenever that changes, says on stderr what does.
pub(super) fn until_empty(socket: &Path, group: &str, link: &str) -> Result<(), Failure> {
    let mut said = None;
    loop {
        match remaining(&Client::connect(socket)?.status()?, group, link)? {
            None => return print(&format!("nothing of the traffic of {group} remains on {link}\n")),
            Some(remaining) if said.as_ref() == Some(&remaining) => {}
            Some(remaining) => {
                let hint = if said.is_none() { " (Ctrl-C leaves it drained)" } else { "" };
                log::say(&format!("link-watcher: waiting: {remaining}{hint}"));
                said = Some(remaining);
            }
        }
        std::thread::sleep(INTERVAL);
    }
}

/// What remains on a link that is out of service.
fn remaining(snapshot: &Snapshot, group: &str, link: &str) -> Result<Option<String>, Failure> {
    let failed = |why: &str| Failure::new(Exit::Failed, format!("link-watcher: {link} of {group} {why}"));
    let found = snapshot.groups.iter().find(|known| known.name == group);
    let found = found.and_then(|group| group.links.iter().find(|known| known.name == link));
    let LinkSnapshot { drained_by, carried_by, connections, .. } = found.ok_or_else(|| failed("is gone"))?;
    if !drained_by.iter().any(|end| end == "here") {
        return Err(failed("is in service again: its time is over, or somebody has put it back"));
    }
    let by = |end: &str| carried_by.iter().any(|carried| carried == end);
    Ok(match (by("here"), by("peer"), connections.unwrap_or_default()) {
        (true, ..) => Some("this router still sends traffic over it".to_owned()),
        (_, true, _) => Some("the peer still sends traffic over it".to_owned()),
        (.., 0) => None,
        (.., 1) => Some("1 connection still uses it".to_owned()),
        (.., count) => Some(format!("{count} connections still use it")),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::status::GroupSnapshot;

    fn asked(drained_by: &[&str], carried_by: &[&str], connections: Option<u32>) -> Result<Option<String>, String> {
        let owned = |ends: &[&str]| ends.iter().map(|end| (*end).to_owned()).collect();
        let link = LinkSnapshot {
            name: "a".to_owned(),
            drained_by: owned(drained_by),
            carried_by: owned(carried_by),
            connections,
            ..LinkSnapshot::default()
        };
        let group = GroupSnapshot { name: "hq".to_owned(), links: vec![link], ..GroupSnapshot::default() };
        let snapshot = Snapshot { groups: vec![group], ..Snapshot::default() };
        remaining(&snapshot, "hq", "a").map_err(|failure| failure.message)
    }

    #[test]
    fn what_remains_is_said_until_nothing_does() {
        let words = |carried: &[&str], connections| asked(&["here"], carried, connections).unwrap().unwrap_or_default();
        assert_eq!(words(&["here", "peer"], None), "this router still sends traffic over it");
        assert_eq!(words(&["peer"], None), "the peer still sends traffic over it");
        assert_eq!(words(&[], Some(40)), "40 connections still use it");
        assert_eq!(words(&[], Some(1)), "1 connection still uses it");
        assert_eq!((words(&[], Some(0)), words(&[], None)), (String::new(), String::new()));
        assert!(asked(&["peer"], &[], None).unwrap_err().contains("is in service again"));
    }
}
