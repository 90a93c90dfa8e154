//! The machine's interfaces and their addresses: read once, then kept by events.

use std::{collections::BTreeMap, io, net::IpAddr};

use ipnet::IpNet;
use tracing::warn;

use crate::{
    address::is_link_local,
    event::Device,
    netlink::{Address, Batch, KernelEvent, Link, Requests, link, parse},
};

/// `RT_SCOPE_UNIVERSE` (linux/rtnetlink.h): valid everywhere, as opposed to on this link or host only.
const SCOPE_GLOBAL: u8 = libc::RT_SCOPE_UNIVERSE;

/// An interface with its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The link.
    pub link: Link,
    /// Its addresses, in order.
    pub addresses: Vec<Address>,
}

/// All interfaces of the network namespace, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    by_index: BTreeMap<u32, Interface>,
}

impl Interfaces {
    /// Reads them from the kernel: at start, and after [`KernelEvent::Resync`]. Open
    /// [`KernelEvents`](super::KernelEvents) before, so that nothing is missed between the two.
    pub fn read() -> io::Result<Self> {
        let mut requests = Requests::open()?;
        let mut interfaces = Self::default();
        for dump in [link::dump_links, link::dump_addresses] {
            let mut batch = Batch::default();
            dump(&mut batch);
            for event in requests.dump(&mut batch, parse)? {
                interfaces.update(&event);
            }
        }
        Ok(interfaces)
    }

    /// Takes an event in, and reads everything again where events were lost. Gives whether something changed.
    pub fn follow(&mut self, event: &KernelEvent) -> bool {
        if *event != KernelEvent::Resync {
            return self.update(event);
        }
        match Self::read() {
            Ok(interfaces) => std::mem::replace(self, interfaces) != *self,
            Err(error) => {
                warn!("the interfaces could not be read, they stay as they were known: {error}");
                false
            }
        }
    }

    /// Takes what an event says of one interface in. Gives whether something changed.
    pub fn update(&mut self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Link(link) => {
                // An index is unique, but a name is too: who else had it was renamed or is gone.
                self.by_index.retain(|index, other| *index == link.ifindex || other.link.name != link.name);
                let interface = self.by_index.entry(link.ifindex).or_default();
                let changed = interface.link != *link;
                interface.link = link.clone();
                changed
            }
            KernelEvent::LinkRemoved { ifindex, .. } => self.by_index.remove(ifindex).is_some(),
            KernelEvent::AddressAdded { ifindex, address } => {
                let Some(interface) = self.by_index.get_mut(ifindex) else { return false };
                if interface.addresses.contains(address) {
                    return false;
                }
                interface.addresses.retain(|other| !same(other, address));
                interface.addresses.push(*address);
                interface.addresses.sort_unstable();
                true
            }
            KernelEvent::AddressRemoved { ifindex, address } => {
                let Some(interface) = self.by_index.get_mut(ifindex) else { return false };
                let before = interface.addresses.len();
                interface.addresses.retain(|other| !same(other, address));
                interface.addresses.len() != before
            }
            KernelEvent::Route(_) | KernelEvent::Rule { .. } | KernelEvent::Nexthop { .. } | KernelEvent::Resync => {
                false
            }
        }
    }

    /// All of them, by index.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.by_index.values()
    }

    /// An interface by its name.
    pub fn get(&self, name: &str) -> Option<&Interface> {
        self.by_index.values().find(|interface| interface.link.name == name)
    }

    /// The index of an interface.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.get(name).map(|interface| interface.link.ifindex)
    }

    /// Whether the address is ours, on whatever interface.
    pub fn have(&self, address: IpAddr) -> bool {
        self.iter().any(|interface| interface.addresses.iter().any(|own| own.address == address))
    }

    /// What the interface is now for a link that needs the address `local` on it; without `local`, one that reaches
    /// `remote` ([`local_for`](Self::local_for)).
    pub fn device(&self, name: &str, local: Option<IpAddr>, remote: IpAddr) -> Device {
        let Some(interface) = self.get(name) else { return Device::Missing };
        if !interface.link.admin_up {
            return Device::Disabled;
        }
        if !interface.link.carrier {
            return Device::NoCarrier;
        }
        let there = match local {
            Some(local) => interface.addresses.iter().any(|address| address.address == local && !address.tentative),
            None => self.local_for(name, remote).is_some(),
        };
        if there { Device::Ready } else { Device::NoAddress }
    }

    /// The interface's own address with which `remote` is reached: it lies in the same prefix (the longest, if in
    /// several), or `remote` is its point-to-point peer; for a link-local `remote`, the interface's link-local address.
    pub fn local_for(&self, name: &str, remote: IpAddr) -> Option<IpAddr> {
        self.locals_for(name, remote)
            .into_iter()
            .max_by_key(|address| address.prefix_len)
            .map(|address| address.address)
    }

    /// Another address than `local` with which `remote` could be reached as well.
    pub fn rival_of(&self, name: &str, local: IpAddr, remote: IpAddr) -> Option<IpAddr> {
        self.locals_for(name, remote).into_iter().map(|address| address.address).find(|other| *other != local)
    }

    /// The interface's own addresses that lie in the same prefix as `remote`.
    fn locals_for(&self, name: &str, remote: IpAddr) -> Vec<&Address> {
        let reaches = |address: &&Address| {
            address.address != remote
                && !address.tentative
                && IpNet::new(address.peer.unwrap_or(address.address), address.prefix_len)
                    .is_ok_and(|prefix| prefix.contains(&remote))
        };
        let addresses = self.get(name).into_iter().flat_map(|interface| &interface.addresses);
        addresses.filter(reaches).collect()
    }

    /// Whether the interface has the address, in whatever state.
    pub fn has(&self, name: &str, address: IpAddr) -> bool {
        self.get(name).is_some_and(|interface| interface.addresses.iter().any(|known| known.address == address))
    }

    /// Whether `remote` is reached from the interface's address `local` without a router: it lies in that one's prefix, or is
    /// its point-to-point peer.
    pub fn is_on_link(&self, name: &str, local: IpAddr, remote: IpAddr) -> bool {
        self.get(name).is_some_and(|interface| {
            interface.addresses.iter().filter(|address| address.address == local).any(|address| {
                IpNet::new(address.peer.unwrap_or(address.address), address.prefix_len)
                    .is_ok_and(|prefix| prefix.contains(&remote))
            })
        })
    }

    /// The connected prefixes of an interface that others can be told of: of global scope, usable, and not those of a
    /// single address (they connect nothing), in order. Nothing while the interface is administratively down.
    pub fn connected(&self, name: &str) -> Vec<IpNet> {
        let Some(interface) = self.get(name).filter(|interface| interface.link.admin_up) else { return Vec::new() };
        let mut prefixes: Vec<IpNet> = interface
            .addresses
            .iter()
            .filter(|address| address.scope == SCOPE_GLOBAL && !address.tentative && !is_link_local(address.address))
            .filter_map(|address| IpNet::new(address.peer.unwrap_or(address.address), address.prefix_len).ok())
            .filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len())
            .map(|prefix| prefix.trunc())
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }
}

/// The same address, whatever its flags say now.
fn same(a: &Address, b: &Address) -> bool {
    (a.address, a.prefix_len, a.peer) == (b.address, b.prefix_len, b.peer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn link(ifindex: u32, name: &str) -> KernelEvent {
        let link = Link { ifindex, name: name.to_owned(), admin_up: true, carrier: true, ..Link::default() };
        KernelEvent::Link(link)
    }

    fn address(text: &str) -> Address {
        let net: IpNet = text.parse().unwrap();
        let (address, prefix_len) = (net.addr(), net.prefix_len());
        Address { address, prefix_len, peer: None, scope: 0, tentative: false, secondary: false }
    }

    fn added(ifindex: u32, text: &str) -> KernelEvent {
        KernelEvent::AddressAdded { ifindex, address: address(text) }
    }

    fn table(events: &[KernelEvent]) -> Interfaces {
        let mut interfaces = Interfaces::default();
        for event in events {
            assert!(interfaces.update(event), "{event:?} changes something");
            assert!(!interfaces.update(event), "{event:?} changes nothing the second time");
        }
        interfaces
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_device_goes_through_its_states() {
        let mut interfaces = table(&[link(1, "lo")]);
        let remote = ip("10.248.248.1");
        assert_eq!(interfaces.device("eth1", None, remote), Device::Missing);
        let mut eth1 = Link { ifindex: 2, name: "eth1".to_owned(), ..Link::default() };
        interfaces.update(&KernelEvent::Link(eth1.clone()));
        assert_eq!(interfaces.device("eth1", None, remote), Device::Disabled);
        eth1.admin_up = true;
        interfaces.update(&KernelEvent::Link(eth1.clone()));
        assert_eq!(interfaces.device("eth1", None, remote), Device::NoCarrier);
        eth1.carrier = true;
        interfaces.update(&KernelEvent::Link(eth1));
        assert_eq!(interfaces.device("eth1", None, remote), Device::NoAddress);
        interfaces.update(&added(2, "10.248.248.2/24"));
        assert_eq!(interfaces.device("eth1", None, remote), Device::Ready);
        assert_eq!(interfaces.device("eth1", Some(ip("10.248.248.3")), remote), Device::NoAddress);
        assert_eq!(interfaces.device("eth1", Some(ip("10.248.248.2")), remote), Device::Ready);
        interfaces.update(&KernelEvent::AddressRemoved { ifindex: 2, address: address("10.248.248.2/24") });
        assert_eq!(interfaces.device("eth1", None, remote), Device::NoAddress);
        interfaces.update(&KernelEvent::LinkRemoved { ifindex: 2, name: "eth1".to_owned() });
        assert_eq!((interfaces.device("eth1", None, remote), interfaces.index("eth1")), (Device::Missing, None));
    }

    #[test]
    fn an_address_in_doubt_is_none_yet() {
        let mut interfaces = table(&[link(2, "eth1")]);
        let tentative = Address { tentative: true, ..address("2001:db8:1::2/64") };
        interfaces.update(&KernelEvent::AddressAdded { ifindex: 2, address: tentative });
        assert_eq!(interfaces.device("eth1", None, ip("2001:db8:1::1")), Device::NoAddress);
        assert_eq!(interfaces.device("eth1", Some(ip("2001:db8:1::2")), ip("2001:db8:1::1")), Device::NoAddress);
        // The same address comes again when duplicate address detection is over.
        assert!(interfaces.update(&added(2, "2001:db8:1::2/64")));
        assert_eq!(interfaces.device("eth1", None, ip("2001:db8:1::1")), Device::Ready);
        assert_eq!(interfaces.get("eth1").unwrap().addresses.len(), 1);
    }

    #[test]
    fn the_local_address_is_that_of_the_remotes_prefix() {
        let point_to_point = Address { peer: Some(ip("198.51.100.9")), ..address("198.51.100.3/32") };
        let interfaces = table(&[
            link(2, "eth1"),
            added(2, "10.0.0.2/8"),
            added(2, "10.248.248.2/24"),
            added(2, "fe80::2/64"),
            added(2, "2001:db8:1::2/64"),
            KernelEvent::AddressAdded { ifindex: 2, address: point_to_point },
        ]);
        for (remote, local) in [
            ("10.248.248.1", Some("10.248.248.2")),
            ("10.1.1.1", Some("10.0.0.2")),
            ("fe80::1", Some("fe80::2")),
            ("2001:db8:1::1", Some("2001:db8:1::2")),
            ("2001:db8:2::1", None),
            ("198.51.100.9", Some("198.51.100.3")),
            ("198.51.100.8", None),
            ("203.0.113.1", None),
        ] {
            assert_eq!(interfaces.local_for("eth1", ip(remote)), local.map(ip), "{remote}");
        }
        assert_eq!(interfaces.local_for("eth2", ip("10.1.1.1")), None);
    }

    #[test]
    fn connected_prefixes_are_those_worth_telling() {
        let scope_link = Address { scope: 253, ..address("203.0.113.1/24") };
        let mut interfaces = table(&[
            link(2, "eth0"),
            added(2, "172.31.13.1/24"),
            added(2, "10.20.20.1/22"),
            added(2, "10.20.20.2/22"),
            added(2, "192.168.12.1/32"),
            added(2, "169.254.7.7/16"),
            added(2, "fe80::2/64"),
            added(2, "2001:db8:5::1/64"),
            KernelEvent::AddressAdded { ifindex: 2, address: scope_link },
        ]);
        let told: Vec<String> = interfaces.connected("eth0").iter().map(IpNet::to_string).collect();
        assert_eq!(told, ["10.20.20.0/22", "172.31.13.0/24", "2001:db8:5::/64"]);
        interfaces.update(&KernelEvent::Link(Link { ifindex: 2, name: "eth0".to_owned(), ..Link::default() }));
        assert_eq!(interfaces.connected("eth0"), []);
    }

    #[test]
    fn a_new_interface_takes_the_name_over() {
        let interfaces = table(&[link(2, "eth1"), added(2, "10.248.248.2/24"), link(7, "eth1")]);
        assert_eq!((interfaces.index("eth1"), interfaces.iter().count()), (Some(7), 1));
        let renamed = table(&[link(2, "eth1"), added(2, "10.248.248.2/24"), link(2, "uplink")]);
        assert_eq!(renamed.local_for("uplink", ip("10.248.248.1")), Some(ip("10.248.248.2")));
        assert_eq!(renamed.index("eth1"), None);
    }
}
