//! Which part of a status is asked for, and how good it looks to a script.

use crate::{
    cli::Exit,
    status::{GroupSnapshot, LinkSnapshot, Snapshot},
};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Scope {
    /// Nothing: every group.
    pub(in crate::cli) group: Option<String>,
    /// Nothing: every link of the group.
    pub(in crate::cli) link: Option<String>,
}

impl Scope {
    /// A status cut down to what is asked for: the same document with fewer groups and links.
    ///
    /// # Errors
    ///
    /// A name that there is not, with those that there are.
    pub(in crate::cli) fn cut(&self, mut snapshot: Snapshot) -> Result<Snapshot, String> {
        self.check_names(snapshot.groups.iter().map(|group| {
            let links = group.links.iter().map(|link| link.name.as_str());
            (group.name.as_str(), links.collect())
        }))?;
        let Some(name) = &self.group else { return Ok(snapshot) };
        snapshot.groups.retain(|group| group.name == *name);
        let Some(name) = &self.link else { return Ok(snapshot) };
        for group in &mut snapshot.groups {
            group.links.retain(|link| link.name == *name);
            group.orders.retain(|order| order.link.as_ref().is_none_or(|link| link == name));
        }
        Ok(snapshot)
    }

    /// Whether there is what is asked for, among groups with their links.
    ///
    /// # Errors
    ///
    /// A name that there is not, with those that there are.
    pub(in crate::cli) fn check_names<'a>(
        &self,
        known: impl Iterator<Item = (&'a str, Vec<&'a str>)> + Clone,
    ) -> Result<(), String> {
        let Some(name) = &self.group else { return Ok(()) };
        let groups = || known.clone().map(|(group, _)| group).collect::<Vec<_>>().join(", ");
        let group = known.clone().find(|(group, _)| group == name);
        let (group, links) = group.ok_or_else(|| format!("no group is called {name}; there is {}", groups()))?;
        match &self.link {
            Some(link) if !links.contains(&link.as_str()) => {
                Err(format!("{group} has no link {link}; it has {}", links.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// The exit code of a status that was cut down to this. Of one link it tells whether traffic may use it.
    pub(in crate::cli) fn exit(&self, snapshot: &Snapshot) -> Exit {
        let spares = if self.link.is_some() { 0 } else { 1 };
        let usable = |group: &GroupSnapshot| {
            // A link of tier 0 never takes what another one carried.
            let counts = |link: &&LinkSnapshot| link.usable && (link.tier > 0 || self.link.is_some());
            group.links.iter().filter(counts).count()
        };
        match snapshot.groups.iter().map(usable).min() {
            Some(0) => Exit::NO_LINK,
            Some(usable) if usable <= spares => Exit::NO_SPARE,
            _ => Exit::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn group(name: &str, links: &[(u32, bool)]) -> GroupSnapshot {
        let link = |(i, (tier, usable)): (usize, &(u32, bool))| LinkSnapshot {
            name: format!("{name}{i}"),
            tier: *tier,
            usable: *usable,
            ..LinkSnapshot::default()
        };
        let links = links.iter().enumerate().map(link).collect();
        GroupSnapshot { name: name.to_owned(), links, ..GroupSnapshot::default() }
    }

    fn scope(names: &[&str]) -> Scope {
        let name = |i: usize| names.get(i).map(|name| (*name).to_owned());
        Scope { group: name(0), link: name(1) }
    }

    #[test]
    fn the_worst_group_decides_the_exit_code() {
        let (good, bare, dead) =
            (group("a", &[(1, true), (2, true)]), group("b", &[(1, true), (2, false)]), group("c", &[(1, false)]));
        let of = |groups: &[&GroupSnapshot]| {
            let groups = groups.iter().map(|group| (*group).clone()).collect();
            Scope::default().exit(&Snapshot { groups, ..Snapshot::default() })
        };
        assert_eq!(of(&[&good]), Exit::Done);
        assert_eq!(of(&[&good, &bare]), Exit::NO_SPARE);
        assert_eq!(of(&[&good, &bare, &dead]), Exit::NO_LINK);
        assert_eq!(of(&[&group("d", &[(0, true), (1, true)])]), Exit::NO_SPARE, "tier 0 is no spare");
        assert_eq!((Exit::NO_SPARE as u8, Exit::NO_LINK as u8), (1, 2));
    }

    #[test]
    fn a_link_alone_is_usable_or_not() {
        let all = Snapshot { groups: vec![group("b", &[(1, true), (2, false)])], ..Snapshot::default() };
        let exit = |names: &[&str]| scope(names).exit(&scope(names).cut(all.clone()).unwrap());
        assert_eq!([exit(&["b"]), exit(&["b", "b0"]), exit(&["b", "b1"])], [Exit::NO_SPARE, Exit::Done, Exit::NO_LINK]);
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let all = Snapshot { groups: vec![group("a", &[(1, true); 2]), group("b", &[])], ..Snapshot::default() };
        let unknown = |names: &[&str]| scope(names).cut(all.clone()).unwrap_err();
        assert_eq!(unknown(&["c"]), "no group is called c; there is a, b");
        assert_eq!(unknown(&["a", "x"]), "a has no link x; it has a0, a1");
        assert_eq!(scope(&["a"]).cut(all.clone()).unwrap().groups.len(), 1);
        assert_eq!(scope(&["a", "a1"]).cut(all).unwrap().groups[0].links[0].name, "a1");
    }
}
