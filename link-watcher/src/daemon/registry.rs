//! Which number each group and link has. A link that a reload does not change keeps its number, and with it everything
//! that is known about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::claims::FormerGroup;
use crate::{
    clock::nanoseconds,
    config::{Config, PeerConfig, PeerLinkConfig, UplinkConfig, UplinksConfig},
    event::{GroupId, GroupSpec, LinkId, LinkSpec, Role, StandingOrders},
};

/// Uplinks have no slots in the tables of peers' links: their numbers begin here.
const FIRST_UPLINK: u32 = 1 << 16;

/// What makes a link the same link: with any of these changed it starts anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    interface: String,
    local: Option<IpAddr>,
    remote: IpAddr,
    port: u16,
    role: Role,
    max_hops: Option<u8>,
    interval_ns: u64,
    multiplier: u32,
}

impl Identity {
    fn of(peer: &PeerConfig, link: &PeerLinkConfig) -> Self {
        Self {
            interface: link.interface.clone(),
            local: link.local,
            remote: link.remote,
            port: peer.port,
            role: peer.role,
            max_hops: link.max_hops,
            interval_ns: nanoseconds(peer.interval),
            multiplier: peer.multiplier,
        }
    }
}

/// What makes an uplink the same: behind another interface or gateway nothing is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UplinkIdentity {
    interface: String,
    gateways: Vec<IpAddr>,
    locals: Vec<IpAddr>,
}

impl UplinkIdentity {
    fn of(uplink: &UplinkConfig) -> Self {
        let UplinkConfig { interface, gateways, locals, .. } = uplink;
        Self { interface: interface.clone(), gateways: gateways.clone(), locals: locals.clone() }
    }
}

/// Numbers in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    peers: BTreeMap<String, GroupId>,
    uplink_groups: BTreeMap<String, GroupId>,
    links: BTreeMap<(String, String), (LinkId, Identity)>,
    uplinks: BTreeMap<(String, String), (LinkId, UplinkIdentity)>,
    /// Never given out before: what a group that is gone has left may still be removed by its number.
    next_group: u32,
}

/// What a configuration changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Numbered {
    /// Peers, in the order of the file.
    pub(super) peers: Vec<GroupSpec>,
    /// Groups of uplinks likewise.
    pub(super) uplinks: Vec<GroupSpec>,
    /// Links that are no more.
    pub(super) removed: Vec<LinkId>,
}

impl Registry {
    /// Links and uplinks of a configuration that are not those of today, though they may have their names: `GROUP LINK`
    /// each. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`number`](Self::number).
    pub(super) fn fresh(&self, config: &Config, slots: u32) -> Result<Vec<String>, String> {
        let mut after = self.clone();
        after.number(config, slots, Vec::new())?;
        let links = after.links.iter().map(|(name, (id, _))| (name, *id, self.links.get(name).map(|(id, _)| *id)));
        let uplinks =
            after.uplinks.iter().map(|(name, (id, _))| (name, *id, self.uplinks.get(name).map(|(id, _)| *id)));
        let fresh = links.chain(uplinks).filter(|(_, id, before)| *before != Some(*id));
        Ok(fresh.map(|((group, link), ..)| format!("{group} {link}")).collect())
    }

    /// Numbers a configuration. Peers that are `former` groups, come back, have their numbers.
    ///
    /// # Errors
    ///
    /// If it has more links than there are slots; nothing changes then.
    pub(super) fn number(
        &mut self,
        config: &Config,
        slots: u32,
        mut former: Vec<FormerGroup>,
    ) -> Result<Numbered, String> {
        let (mut peers, mut uplink_groups) = (BTreeMap::new(), BTreeMap::new());
        let mut links = BTreeMap::new();
        let mut fresh = Vec::new();
        for peer in &config.peers {
            for link in &peer.links {
                let name = (peer.name.clone(), link.name.clone());
                let identity = Identity::of(peer, link);
                match self.links.get(&name) {
                    Some((id, known)) if *known == identity => drop(links.insert(name, (*id, identity))),
                    _ => fresh.push((name, identity)),
                }
            }
        }
        // A number that is given up now is not given out in the same step: its old link must be gone first.
        let taken: BTreeSet<u32> = self.links.values().map(|(id, _)| id.0).collect();
        let mut free = (0..slots).filter(|id| !taken.contains(id));
        for (name, identity) in fresh {
            let id = free.next().ok_or_else(|| {
                format!(
                    "no room for link {} of {}: restart the daemon, it makes room for {slots} links only",
                    name.1, name.0
                )
            })?;
            links.insert(name, (LinkId(id), identity));
        }
        let mut specs = Vec::new();
        for peer in &config.peers {
            let known = self.peers.get(&peer.name).copied();
            let come_back = |former: &mut Vec<FormerGroup>| {
                let at = former.iter().position(|former| former.is(peer))?;
                Some(former.swap_remove(at).id)
            };
            let id = known.or_else(|| come_back(&mut former)).unwrap_or_else(|| Self::next(&mut self.next_group));
            peers.insert(peer.name.clone(), id);
            specs.push(spec(peer, id, &links));
        }
        let mut uplinks = BTreeMap::new();
        let mut next_uplink = self.uplinks.values().map(|(id, _)| id.0 + 1).max().unwrap_or(FIRST_UPLINK);
        let mut uplink_specs = Vec::new();
        for group in &config.uplinks {
            let known = self.uplink_groups.get(&group.name).copied();
            let id = known.unwrap_or_else(|| Self::next(&mut self.next_group));
            uplink_groups.insert(group.name.clone(), id);
            for link in &group.links {
                let name = (group.name.clone(), link.name.clone());
                let identity = UplinkIdentity::of(link);
                let known = self.uplinks.get(&name).filter(|(_, known)| *known == identity);
                let id = known.map(|(id, _)| *id).unwrap_or_else(|| {
                    next_uplink += 1;
                    LinkId(next_uplink - 1)
                });
                uplinks.insert(name, (id, identity));
            }
            uplink_specs.push(uplinks_spec(group, id, &uplinks));
        }
        let kept: BTreeSet<LinkId> = links.values().map(|(id, _)| *id).collect();
        let removed = self.links.values().map(|(id, _)| *id).filter(|id| !kept.contains(id)).collect();
        (self.peers, self.uplink_groups, self.links, self.uplinks) = (peers, uplink_groups, links, uplinks);
        Ok(Numbered { peers: specs, uplinks: uplink_specs, removed })
    }

    fn next(next_group: &mut u32) -> GroupId {
        *next_group += 1;
        GroupId(*next_group - 1)
    }
}

fn spec(peer: &PeerConfig, id: GroupId, links: &BTreeMap<(String, String), (LinkId, Identity)>) -> GroupSpec {
    let interval_ns = nanoseconds(peer.interval);
    GroupSpec {
        id,
        name: peer.name.clone(),
        role: Some(peer.role),
        failback: peer.failback,
        hold_up_ns: nanoseconds(peer.hold_up),
        detection_ns: interval_ns * u64::from(peer.multiplier),
        dampening: peer.dampening,
        links: peer
            .links
            .iter()
            .filter_map(|link| {
                let (id, _) = links.get(&(peer.name.clone(), link.name.clone()))?;
                Some(LinkSpec { id: *id, name: link.name.clone(), tier: link.tier, weight: link.weight })
            })
            .collect(),
        orders: StandingOrders::default(),
    }
}

fn uplinks_spec(
    group: &UplinksConfig,
    id: GroupId,
    uplinks: &BTreeMap<(String, String), (LinkId, UplinkIdentity)>,
) -> GroupSpec {
    let spec = |link: &UplinkConfig| {
        let (id, _) = uplinks.get(&(group.name.clone(), link.name.clone()))?;
        Some(LinkSpec { id: *id, name: link.name.clone(), tier: link.tier, weight: link.weight })
    };
    GroupSpec {
        id,
        name: group.name.clone(),
        role: None,
        failback: group.failback,
        hold_up_ns: nanoseconds(group.hold_up),
        detection_ns: 0,
        dampening: group.dampening,
        links: group.links.iter().filter_map(spec).collect(),
        orders: StandingOrders::default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::{
        config::{self, Host, Severity},
        keys::Secret,
    };

    /// Peers of these names, each with a link.
    fn config(names: &[&str]) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let peer = |(at, name): (usize, &&str)| {
            let key = directory.path().join(format!("{name}.key"));
            fs::write(&key, Secret::generate().unwrap().to_base64().as_str()).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            format!(
                "[[peer]]\nname = \"{name}\"\nrole = \"client\"\nkey-files = [\"{name}.key\"]\nroutes = [\"10.{at}.0.0/16\"]\n\
                 [[peer.link]]\nname = \"only\"\ninterface = \"eth{at}\"\nremote = \"10.248.{at}.1\"\n"
            )
        };
        let text: String = names.iter().enumerate().map(peer).collect();
        let path = directory.path().join("c.toml");
        config::parse(&path, &text, &Host::default(), Severity::Warning).unwrap().config
    }

    fn ids(registry: &mut Registry, names: &[&str], former: &[FormerGroup]) -> Vec<u32> {
        let numbered = registry.number(&config(names), 100, former.to_vec()).unwrap();
        numbered.peers.iter().map(|spec| spec.id.0).collect()
    }

    #[test]
    fn a_group_that_comes_back_is_the_one_that_it_was_and_no_other_gets_its_number() {
        let mut registry = Registry::default();
        assert_eq!(ids(&mut registry, &["a", "b"], &[]), [0, 1]);
        let range = config(&["a", "b"]).peers[1].range;
        let former = [FormerGroup { id: GroupId(1), name: "b".to_owned(), range }];
        assert_eq!(ids(&mut registry, &["a"], &[]), [0]);
        assert_eq!(ids(&mut registry, &["a", "c"], &former), [0, 2], "what b has left is still to be removed");
        assert_eq!(ids(&mut registry, &["a", "c", "b"], &former), [0, 2, 1]);
    }

    #[test]
    fn two_that_could_be_the_same_former_group_are_two() {
        let range = config(&["a"]).peers[0].range;
        let former = [FormerGroup { id: GroupId(1 << 31), name: "b".to_owned(), range }];
        assert_eq!(ids(&mut Registry::default(), &["a", "b"], &former), [1 << 31, 0]);
    }
}
