//! An uplink's addresses and gateways, as the configuration or the kernel says, followed as they change.
//!
//! **Address**: the configured one, where the interface has it; else the source that the default route names, else the
//! interface's own global address, best in the gateway's prefix.
//! **Gateway**: the configured one; else that of the interface's default route, whoever made it (DHCP client, router
//! advertisement, administrator), in the main table or another one that rules lead to, except routes of ours; else none on
//! a point-to-point link, and the peer where an address has one.
//!
//! Default routes are read anew when an event says that one changed, not with each event; reading is cheap beside a full
//! routing table. A router advertisement that runs out is the kernel's to notice (at most 30 s later,
//! `net.ipv6.route.gc_interval`).

mod kernel;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

pub use self::kernel::{LearnKernel, NetlinkLearn};
use super::Path;
use crate::{
    address::is_link_local,
    config::{UplinkConfig, UplinksConfig},
    event::Device,
    route::{Family, FoundTableRoute, MAIN_TABLE, PROTOCOL, Way},
    system::{Address, Interface, Interfaces, KernelEvent},
};

/// Least time between two readings, ns: however many events there are, the daemon does other things too.
const GAP_NS: u64 = 20_000_000;
/// Time between two readings without any other reason, ns.
const PERIOD_NS: u64 = 60_000_000_000;
/// The same after one that failed, ns.
const RETRY_NS: u64 = 5_000_000_000;
/// How often a neighbour is looked at, ns: while it is not known, when it may have changed.
const UNKNOWN_NS: u64 = 100_000_000;
const KNOWN_NS: u64 = 5_000_000_000;

/// An uplink as its interface is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The interface's index; 0: there is none.
    pub ifindex: u32,
    /// What it is.
    pub device: Device,
    /// IPv4, where it is routed and complete.
    pub ipv4: Option<Path>,
    /// IPv6 likewise.
    pub ipv6: Option<Path>,
    /// The gateway's Ethernet address, where another uplink uses the same interface.
    pub gateway_mac: Option<[u8; 6]>,
    /// What lacks, where neither family is complete, or the gateway cannot be told from another.
    pub lacks: Option<Lack>,
}

/// Why an uplink has no way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// It has no address.
    Address,
    /// It lacks the configured address.
    Local(IpAddr),
    /// There is neither a configured gateway nor a default route of others through the interface.
    Gateway,
    /// The gateway's Ethernet address is not known, by which it is told from another uplink's on the same interface.
    Neighbour(IpAddr),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => write!(f, "the interface has no address yet"),
            Self::Local(local) => write!(f, "the interface does not have the address {local} (`local`)"),
            Self::Gateway => write!(
                f,
                "no gateway is known: give `gateway`, or have a DHCP client or router advertisement make a default route \
                 through the interface"
            ),
            Self::Neighbour(gateway) => write!(
                f,
                "the gateway {gateway} does not say its Ethernet address yet, by which it is told from the other one on \
                 this interface"
            ),
        }
    }
}

/// What was learned from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Default routes of others, the best of an interface first.
    defaults: Vec<FoundTableRoute>,
    /// Ethernet addresses of gateways, by interface and address.
    neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
    /// Interfaces that several uplinks use.
    shared: BTreeSet<String>,
}

impl Learned {
    /// What is known of the gateway behind an interface: the gateway, if it needs one, and the preferred source.
    fn default_route(&self, ifindex: u32, family: Family) -> Option<(Option<IpAddr>, Option<IpAddr>)> {
        let routes = self.defaults.iter().filter(|route| Family::of(&route.key.prefix) == family);
        routes.filter_map(|route| route.way.as_ref()).find_map(|way| match way {
            Way::Through { hops, source } => {
                hops.iter().find(|hop| hop.ifindex == ifindex).map(|hop| (hop.gateway, *source))
            }
            Way::Unreachable | Way::Throw | Way::Object(_) => None,
        })
    }
}

/// Finds out an uplink's addresses and gateways. `routes`: the group's, which say what families matter.
pub fn resolve(routes: &[IpNet], config: &UplinkConfig, interfaces: &Interfaces, learned: &Learned) -> Resolved {
    let mut resolved =
        Resolved { ifindex: 0, device: Device::Missing, ipv4: None, ipv6: None, gateway_mac: None, lacks: None };
    let Some(interface) = interfaces.get(&config.interface) else { return resolved };
    resolved.ifindex = interface.link.ifindex;
    if !interface.link.admin_up {
        resolved.device = Device::Disabled;
        return resolved;
    }
    let families: BTreeSet<Family> = routes.iter().map(Family::of).collect();
    let path = |family| match families.contains(&family) {
        true => path(config, interface, learned, family).map(Some),
        false => Ok(None),
    };
    let (ipv4, ipv6) = (path(Family::V4), path(Family::V6));
    // What is nearest to being complete says what lacks.
    resolved.lacks = [&ipv4, &ipv6].into_iter().filter_map(|path| path.as_ref().err().copied()).max();
    resolved.ipv4 = ipv4.ok().flatten();
    resolved.ipv6 = ipv6.ok().flatten();
    if resolved.ipv4.is_some() || resolved.ipv6.is_some() {
        resolved.lacks = None;
    }
    let gateway = [resolved.ipv4, resolved.ipv6].into_iter().flatten().find_map(|path| path.gateway);
    resolved.gateway_mac = gateway.and_then(|gateway| learned.neighbours.get(&(resolved.ifindex, gateway)).copied());
    if let Some(gateway) = gateway
        && resolved.gateway_mac.is_none()
        && learned.shared.contains(&config.interface)
    {
        resolved.lacks = Some(Lack::Neighbour(gateway));
    }
    resolved.device = match resolved.lacks {
        _ if !interface.link.carrier => Device::NoCarrier,
        Some(Lack::Gateway | Lack::Neighbour(_)) => Device::NoGateway,
        Some(_) => Device::NoAddress,
        None => Device::Ready,
    };
    resolved
}

/// The way of one family.
fn path(config: &UplinkConfig, interface: &Interface, learned: &Learned, family: Family) -> Result<Path, Lack> {
    let of_family = |address: &IpAddr| address.is_ipv4() == (family == Family::V4);
    let addresses: Vec<&Address> =
        interface.addresses.iter().filter(|address| of_family(&address.address) && !address.tentative).collect();
    let configured = config.gateways.iter().copied().find(of_family);
    let learned = learned.default_route(interface.link.ifindex, family);
    let peer = addresses.iter().find_map(|address| address.peer);
    let gateway: Option<Option<IpAddr>> = match (configured, learned) {
        (Some(gateway), _) => Some(Some(gateway)),
        (None, Some((gateway, _))) => Some(gateway),
        (None, None) if interface.link.point_to_point => Some(None),
        // An Ethernet with one other end: that is whom to send to.
        (None, None) => peer.map(Some),
    };
    if let Some(local) = config.locals.iter().copied().find(of_family) {
        if !addresses.iter().any(|address| address.address == local) {
            return Err(Lack::Local(local));
        }
        return Ok(Path { gateway: gateway.ok_or(Lack::Gateway)?, source: Some(local) });
    }
    let told = configured.is_some() || learned.is_some();
    let preferred = learned.and_then(|(_, source)| source);
    let rank = |address: &&&Address| {
        let prefix = IpNet::new(address.peer.unwrap_or(address.address), address.prefix_len);
        let near = gateway.flatten().is_some_and(|gateway| prefix.is_ok_and(|prefix| prefix.contains(&gateway)));
        // The greatest counts, and of equal ones the first.
        (Some(address.address) == preferred, near, !address.secondary, std::cmp::Reverse(address.address))
    };
    let source = addresses.iter().filter(|address| is_global(address)).max_by_key(rank).map(|address| address.address);
    match (source, gateway) {
        (Some(_), Some(gateway)) => Ok(Path { gateway, source }),
        // A provider may route a prefix to us without giving the interface an address of its own.
        (None, Some(gateway)) if family == Family::V6 && told && !addresses.is_empty() => {
            Ok(Path { gateway, source: None })
        }
        (None, _) => Err(Lack::Address),
        (Some(_), None) => Err(Lack::Gateway),
    }
}

/// Whether it can be the source of packets to the internet's side of the link.
fn is_global(address: &Address) -> bool {
    address.scope == libc::RT_SCOPE_UNIVERSE && !is_link_local(address.address)
}

/// What a look at the kernel gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Something changed: uplinks are to be resolved again.
    pub changed: bool,
    /// What went wrong, for the log; it is tried again by itself.
    pub trouble: Option<String>,
}

/// Keeps [`Learned`] up to date. All times are nanoseconds of the monotonic clock.
pub struct Learner<K> {
    kernel: K,
    learned: Learned,
    /// All uplinks, with their groups' routes.
    uplinks: Vec<(Vec<IpNet>, UplinkConfig)>,
    /// Indices of the interfaces when they were last looked at.
    indices: BTreeSet<u32>,
    routes_due_ns: u64,
    routes_read_ns: u64,
    neighbours_due_ns: u64,
}

impl<K: LearnKernel> Learner<K> {
    /// Knows nothing yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            learned: Learned::default(),
            uplinks: Vec::new(),
            indices: BTreeSet::new(),
            routes_due_ns: u64::MAX,
            routes_read_ns: 0,
            neighbours_due_ns: u64::MAX,
        }
    }

    /// From now on these are all groups of uplinks: at start and after a reload. [`tick`](Self::tick) is due at once.
    pub fn follow<'a>(&mut self, now_ns: u64, groups: impl IntoIterator<Item = &'a UplinksConfig>) {
        self.uplinks.clear();
        for group in groups {
            self.uplinks.extend(group.links.iter().map(|link| (group.routes.clone(), link.clone())));
        }
        let mut names = BTreeSet::new();
        let interfaces = self.uplinks.iter().map(|(_, config)| &config.interface);
        self.learned.shared = interfaces.filter(|name| !names.insert(*name)).cloned().collect();
        (self.routes_due_ns, self.neighbours_due_ns) = match self.uplinks.is_empty() {
            true => (u64::MAX, u64::MAX),
            false => (now_ns, now_ns),
        };
    }

    /// Takes notice of what happens in the kernel; every event belongs here.
    pub fn observe(&mut self, now_ns: u64, event: &KernelEvent) {
        let ours = |name: &str| self.uplinks.iter().any(|(_, config)| config.interface == name);
        let concerned = match event {
            KernelEvent::Route(event) => event.route.key.prefix.prefix_len() == 0 && event.route.protocol != PROTOCOL,
            // Another table may be looked up from now on.
            KernelEvent::Rule { rule, .. } => rule.protocol != PROTOCOL,
            // The kernel drops IPv4 routes with the interface or its last address, and says nothing.
            KernelEvent::Link(link) => ours(&link.name),
            KernelEvent::LinkRemoved { name, .. } => ours(name),
            KernelEvent::AddressAdded { ifindex, .. } | KernelEvent::AddressRemoved { ifindex, .. } => {
                self.indices.contains(ifindex)
            }
            KernelEvent::Nexthop { .. } => false,
            KernelEvent::Resync => true,
        };
        if concerned && !self.uplinks.is_empty() {
            self.routes_due_ns = self.routes_due_ns.min(now_ns.max(self.routes_read_ns + GAP_NS));
            self.neighbours_due_ns = self.neighbours_due_ns.min(self.routes_due_ns);
        }
    }

    /// When [`tick`](Self::tick) has something to do; it may be in the past.
    pub fn next_deadline_ns(&self) -> u64 {
        self.routes_due_ns.min(self.neighbours_due_ns)
    }

    /// Reads what is due.
    pub fn tick(&mut self, now_ns: u64, interfaces: &Interfaces) -> Tick {
        let before = self.learned.clone();
        let mut result = Ok(());
        if self.routes_due_ns <= now_ns {
            result = self.read_routes(now_ns, interfaces);
        }
        if self.neighbours_due_ns <= now_ns {
            result = self.read_neighbours(now_ns, interfaces).and(result);
        }
        Tick { changed: before != self.learned, trouble: result.err() }
    }

    /// An uplink as its interface is now. To be asked again when [`Interfaces`] or what is learned changed.
    pub fn resolve(&self, routes: &[IpNet], config: &UplinkConfig, interfaces: &Interfaces) -> Resolved {
        resolve(routes, config, interfaces, &self.learned)
    }

    fn read_routes(&mut self, now_ns: u64, interfaces: &Interfaces) -> Result<(), String> {
        self.routes_read_ns = now_ns;
        self.routes_due_ns = now_ns + PERIOD_NS;
        self.indices = self.uplinks.iter().filter_map(|(_, config)| interfaces.index(&config.interface)).collect();
        match self.kernel.default_routes(&self.indices) {
            Ok(mut found) => {
                found.sort_by_key(|route| (route.key.table != MAIN_TABLE, route.key.metric, route.key.table));
                self.learned.defaults = found;
                Ok(())
            }
            Err(error) => {
                self.routes_due_ns = now_ns + RETRY_NS;
                Err(format!("default routes could not be read, what was known stays: {error}"))
            }
        }
    }

    /// Looks the gateways up that must be told apart on one interface, and has unknown ones resolved. What was known of one
    /// that has fallen silent stays.
    fn read_neighbours(&mut self, now_ns: u64, interfaces: &Interfaces) -> Result<(), String> {
        self.neighbours_due_ns = u64::MAX;
        let gateways: BTreeSet<(u32, IpAddr)> = self
            .uplinks
            .iter()
            .filter(|(_, config)| self.learned.shared.contains(&config.interface))
            .map(|(routes, config)| self.resolve(routes, config, interfaces))
            .flat_map(|resolved| {
                let paths = [resolved.ipv4, resolved.ipv6].into_iter().flatten();
                paths.filter_map(move |path| path.gateway.map(|gateway| (resolved.ifindex, gateway)))
            })
            .collect();
        self.learned.neighbours.retain(|key, _| gateways.contains(key));
        let mut result = Ok(());
        for (ifindex, gateway) in gateways {
            let described = |error| format!("the neighbour {gateway} could not be looked up: {error}");
            match self.kernel.neighbour(ifindex, gateway) {
                Ok(Some(mac)) => {
                    self.learned.neighbours.insert((ifindex, gateway), mac);
                    self.neighbours_due_ns = self.neighbours_due_ns.min(now_ns + KNOWN_NS);
                }
                Ok(None) => {
                    self.neighbours_due_ns = self.neighbours_due_ns.min(now_ns + UNKNOWN_NS);
                    result = result.and(self.kernel.solicit(ifindex, gateway).map_err(described));
                }
                Err(error) => {
                    self.neighbours_due_ns = self.neighbours_due_ns.min(now_ns + RETRY_NS);
                    result = Err(described(error));
                }
            }
        }
        result
    }
}
