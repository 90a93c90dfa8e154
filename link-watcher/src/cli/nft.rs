//! `generate nft`: the nftables table that the daemon would write.

use std::{collections::BTreeSet, path::Path};

use ipnet::IpNet;

use super::{Exit, Failure, output::say_all};
use crate::{
    config,
    event::GroupId,
    log,
    uplink::{Desired, nft},
};

/// The table for a configuration as if all uplinks were up, for those who load rules themselves.
pub(super) fn rendered(path: &Path) -> Result<String, Failure> {
    let loaded = config::load(path).map_err(|refused| Failure::from(&refused))?;
    say_all(&loaded.warnings);
    let config = loaded.config;
    if config.uplinks.is_empty() {
        let why = format!(
            "link-watcher: {} has no [[uplinks]], and nothing else needs nftables; see link-watcher generate config uplinks",
            path.display()
        );
        return Err(Failure::new(Exit::Failed, why));
    }
    for uplinks in &config.uplinks {
        let mut seen = BTreeSet::new();
        for link in uplinks.links.iter().filter(|link| !seen.insert(&link.interface)) {
            log::say(&format!(
                "link-watcher: several uplinks of \"{}\" use {}: the daemon tells them apart by the Ethernet addresses of \
                 their gateways, which are not in the configuration; here the first one gets what comes from outside",
                uplinks.name, link.interface
            ));
        }
    }
    // What peers announce is not known here.
    let served = config.peers.iter().flat_map(|peer| &peer.routes).filter(|prefix| prefix.prefix_len() > 0);
    let excluded: Vec<IpNet> = served.copied().collect();
    let group =
        |(uplinks, number)| Desired { excluded: excluded.clone(), ..Desired::with_all_up(GroupId(number), uplinks) };
    let groups: Vec<Desired> = config.uplinks.iter().zip(0..).map(group).collect();
    Ok(nft::render(&groups, config.daemon.instance.as_deref()))
}
