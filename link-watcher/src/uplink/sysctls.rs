//! Kernel settings that uplinks need: what is ours is set, what is the machine's is named.
//!
//! | setting | whose | what is done |
//! |---|---|---|
//! | `rp_filter`, `src_valid_mark`, `ignore_routes_with_linkdown` of an uplink's interface | ours | set when strict or off, put back at `on-exit = "remove"` |
//! | `ip_forward`, `ipv6.conf.all.forwarding` | the administrator's: they make a router of the machine | warned of |
//! | `accept_ra` of an uplink's interface | whoever handles router advertisements | warned of |
//! | `fib_multipath_hash_policy` | the administrator's | nothing: connections are spread by marks, and the routes' own hash only concerns packets without one |

use std::collections::BTreeSet;

use crate::{
    config::UplinksConfig,
    route::Family,
    system::{FormerValues, LinkSysctls, SysctlSink},
};

/// What the log, and `doctor`, should say of settings that are not ours, for a group of uplinks.
pub fn warnings<S: SysctlSink, F: FormerValues>(sysctls: &LinkSysctls<S, F>, group: &UplinksConfig) -> Vec<String> {
    let families: BTreeSet<Family> = group.routes.iter().map(Family::of).collect();
    let mut said = sysctls.forwarding(families.contains(&Family::V4), families.contains(&Family::V6));
    if families.contains(&Family::V6) {
        let learning = group.links.iter().filter(|link| !link.gateways.iter().any(|gateway| gateway.is_ipv6()));
        let interfaces: BTreeSet<&String> = learning.map(|link| &link.interface).collect();
        said.extend(interfaces.into_iter().filter_map(|interface| sysctls.advertisements(interface)));
    }
    said
}
