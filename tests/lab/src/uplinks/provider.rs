//! A provider: a router of its own between the site and the internet, and all the ways in which it can fail.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::{
    TARGETS_PREFIX, core4, core6, gateway4, gateway6, lan6, prefix4, prefix6, router4, router6, single,
};
use super::setup::UplinkSetup;
use crate::cable::Cable;
use crate::netns::Namespace;
use crate::setup::Medium;
use crate::tunnel::{Impairment, Tunnel};
use crate::wire::Wire;
use crate::{Direction, End, Moment};

/// The provider's interface towards the site.
const ACCESS: &str = "access";
/// The provider's interface towards the internet.
const CORE: &str = "core";

/// A provider with its two legs.
#[derive(Debug)]
pub struct Provider {
    name: String,
    number: usize,
    interface: String,
    namespace: Arc<Namespace>,
    /// From the site (client) to the provider (server). Nothing where it is a further provider on another's wire.
    access: Option<Wire>,
    /// From the provider (client) to the internet (server).
    core: Tunnel,
    /// The router's address and the provider's, while they are joined as by PPP.
    pair: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// What a provider is joined to.
pub(super) struct Places<'a> {
    pub(super) middle: &'a Arc<Namespace>,
    pub(super) router: &'a Arc<Namespace>,
    pub(super) internet: &'a Arc<Namespace>,
}

impl Provider {
    /// Builds provider `number` in a fresh namespace. With `shared` it is a further one on that cable.
    pub(super) fn build(
        number: usize,
        setup: &UplinkSetup,
        ipv6: bool,
        namespace: Arc<Namespace>,
        places: &Places<'_>,
        shared: Option<&Cable>,
    ) -> Result<Provider> {
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // As a provider should (BCP 38): what does not have an address of this provider's is dropped.
        namespace.sysctl("net/ipv4/conf/default/rp_filter", "1")?;
        let (name, interface) = (setup.name.as_str(), setup.interface.as_str());
        let access = match (setup.medium, shared) {
            (Medium::Cable, None) => {
                Some(Wire::Cable(Cable::lay(name, places.middle, (places.router, interface), (&namespace, ACCESS))?))
            }
            (Medium::Cable, Some(cable)) => {
                cable.join(&format!("{name}-s"), &namespace, ACCESS)?;
                None
            }
            (Medium::Tunnel, _) => {
                Some(Wire::Tunnel(Tunnel::dig(name, (places.router, interface), (&namespace, ACCESS))?))
            }
        };
        let internet_interface = format!("{CORE}{}", number + 1);
        let core = Tunnel::dig(&internet_interface, (&namespace, CORE), (places.internet, &internet_interface))?;
        let mut provider = Provider {
            name: name.to_owned(),
            number,
            interface: interface.to_owned(),
            namespace,
            access,
            core,
            pair: None,
        };
        provider.namespace.sysctl(&format!("net/ipv4/conf/{ACCESS}/rp_filter"), "1")?;
        provider.address_core(places.internet, &internet_interface)?;
        match setup.medium {
            Medium::Cable => {
                provider.namespace.add_address(ACCESS, v4(gateway4(number), prefix4(number)))?;
                provider.address_router(places.router, ipv6)?;
                if ipv6 {
                    provider.namespace.add_address(ACCESS, v6(gateway6(number)))?;
                    provider.namespace.add_route(lan6(number).into(), router6(number).into())?;
                }
            }
            Medium::Tunnel => provider.renumber(places.router, router4(number), gateway4(number))?,
        }
        Ok(provider)
    }

    fn address_core(&self, internet: &Namespace, internet_interface: &str) -> Result<()> {
        let number = self.number;
        for (namespace, interface, host) in [(&*self.namespace, CORE, 1), (internet, internet_interface, 2)] {
            let prefix = Ipv4Net::new_assert(core4(number, host), 30);
            namespace.add_address(interface, prefix.into())?;
            let prefix = Ipv6Net::new_assert(core6(number, host.into()), 64);
            namespace.add_address(interface, prefix.into())?;
        }
        self.namespace.add_route(IpNet::new_assert([0; 4].into(), 0), core4(number, 2).into())?;
        self.namespace.add_route(IpNet::new_assert([0; 16].into(), 0), core6(number, 2).into())?;
        internet.add_route(prefix6(number).into(), core6(number, 1).into())?;
        self.answer_honestly(internet)
    }

    /// Gives the router's interface its addresses at this provider, as a DHCP client would.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address_router(&self, router: &Namespace, ipv6: bool) -> Result<()> {
        router.add_address(&self.interface, v4(router4(self.number), prefix4(self.number)))?;
        if ipv6 {
            router.add_address(&self.interface, v6(router6(self.number)))?;
        }
        Ok(())
    }

    /// From now on it takes from the router only what has a source of its own IPv6 prefix (BCP 38).
    ///
    /// # Errors
    /// What `nft` says.
    pub fn refuse_foreign_sources6(&self) -> Result<()> {
        // There is no strict filter for IPv6 among the sysctls.
        let rule = format!("iifname access ip6 saddr != {} drop", prefix6(self.number));
        let text =
            format!("table ip6 bcp38 {{\nchain forward {{\ntype filter hook forward priority 0;\n{rule}\n}}\n}}\n");
        self.namespace.command(&["nft", "-f", "-"], &text).map(drop)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The router's interface towards it.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The router's address there.
    pub fn router_address(&self) -> IpAddr {
        self.pair.map_or_else(|| router4(self.number), |(own, _)| own).into()
    }

    /// The wire between site and provider.
    ///
    /// # Errors
    /// Where it is another provider's wire.
    pub fn access(&self) -> Result<&Wire> {
        self.access.as_ref().with_context(|| format!("{} is on another provider's wire", self.name))
    }

    /// The leg between provider and internet.
    pub fn core(&self) -> &Tunnel {
        &self.core
    }

    /// Dies silently: nothing passes between site and provider, carrier stays. On another's wire, or with `gateway_lives`, the
    /// gateway goes on to answer, and nothing passes behind it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn die(&self, gateway_lives: bool) -> Result<Moment> {
        match &self.access {
            Some(access) if !gateway_lives => access.cut(),
            _ => self.core.cut(&Direction::BOTH),
        }
    }

    /// The gateway answers ARP and pings, and forwards nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop_forwarding(&self) -> Result<()> {
        self.namespace.sysctl("net/ipv4/ip_forward", "0")
    }

    /// Loses or delays packets from now on, each direction by itself.
    pub fn impair(&self, impairment: Impairment) {
        self.core.impair(impairment);
    }

    /// The probes' targets, and nothing else, fall silent behind this provider.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hide_targets(&self) -> Result<()> {
        self.namespace.add_blackhole(TARGETS_PREFIX.parse().context("a constant that is a prefix")?)
    }

    /// The internet answers what comes from this provider through another one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn answer_through(&self, other: &Provider, internet: &Namespace) -> Result<()> {
        let prefix = prefix4(self.number).into();
        internet.add_route(prefix, core4(other.number, 1).into())?;
        other.namespace.add_route(prefix, other.router_address())
    }

    /// The internet answers through this provider what comes from it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn answer_honestly(&self, internet: &Namespace) -> Result<()> {
        internet.add_route(prefix4(self.number).into(), core4(self.number, 1).into())
    }

    /// Gives both ends of a point-to-point uplink new addresses in the provider's prefix, the old ones being taken away first.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renumber(&mut self, router: &Namespace, own: Ipv4Addr, peer: Ipv4Addr) -> Result<()> {
        self.forget_pair(router)?;
        self.give_pair(router, own, peer)
    }

    /// The same with the new address there before the old one goes: the router is never without.
    ///
    /// # Errors
    /// As [`Provider::renumber`].
    pub fn renumber_without_gap(&mut self, router: &Namespace, own: Ipv4Addr, peer: Ipv4Addr) -> Result<()> {
        let before = self.pair;
        self.give_pair(router, own, peer)?;
        let after = std::mem::replace(&mut self.pair, before);
        self.forget_pair(router)?;
        self.pair = after;
        Ok(())
    }

    fn give_pair(&mut self, router: &Namespace, own: Ipv4Addr, peer: Ipv4Addr) -> Result<()> {
        self.namespace.add_peer_address(ACCESS, peer, own)?;
        router.add_peer_address(&self.interface, own, peer)?;
        self.pair = Some((own, peer));
        Ok(())
    }

    fn forget_pair(&mut self, router: &Namespace) -> Result<()> {
        if let Some((own, peer)) = self.pair.take() {
            router.delete_peer_address(&self.interface, own, peer)?;
            self.namespace.delete_peer_address(ACCESS, peer, own)?;
        }
        Ok(())
    }

    /// Plugs the router's interface in again after it was deleted: it has a new index. Addresses are given as the picture has
    /// them.
    ///
    /// # Errors
    /// The kernel's; where the uplink is not a cable of its own.
    pub fn plug_in(&mut self, router: &Namespace, ipv6: bool) -> Result<()> {
        match &mut self.access {
            Some(Wire::Cable(cable)) => cable.plug_in(End::Client, router, &self.interface)?,
            _ => anyhow::bail!("{} is no cable that could be plugged in", self.name),
        }
        self.address_router(router, ipv6)
    }

    /// Repairs everything but the internet's routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mend(&self) -> Result<()> {
        if let Some(access) = &self.access {
            access.mend()?;
        }
        self.core.mend()?;
        self.namespace.sysctl("net/ipv4/ip_forward", "1")?;
        // It is only there after hide_targets.
        let _ = self.namespace.delete_blackhole(TARGETS_PREFIX.parse().context("a constant that is a prefix")?);
        Ok(())
    }
}

fn v4(address: Ipv4Addr, prefix: Ipv4Net) -> IpNet {
    IpNet::new_assert(address.into(), prefix.prefix_len())
}

fn v6(address: std::net::Ipv6Addr) -> IpNet {
    IpNet::new_assert(address.into(), 64)
}

/// Gives the internet its addresses.
pub(super) fn address_internet(internet: &Namespace, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        internet.add_address("lo", single(address.parse().context("a constant that is an address")?))?;
    }
    Ok(())
}
