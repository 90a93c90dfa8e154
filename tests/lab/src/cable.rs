//! A cable between two routers, with a namespace in the middle where it can be cut.
//!
//! In the middle two veth ends are the ports of a bridge that learns nothing and forwards everything. To cut a direction
//! silently the destination's port is taken out of the bridge's flooding: one netlink message, carrier stays at both ends,
//! and what comes the other way still passes. A mended cable carries the very next packet, since there is no learning and no
//! spanning tree that would have to settle first.

use std::sync::Arc;

use anyhow::{Context, Result};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoBridge, InfoBridgePort, InfoData, InfoKind, LinkMessage};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::netns::Namespace;
use super::{Direction, End, Moment};

/// A cable; its ends are interfaces in two routers' namespaces.
#[derive(Debug)]
pub struct Cable {
    name: String,
    middle: Arc<Namespace>,
    bridge_index: u32,
    /// Name and index of the bridge's port towards the client and towards the server.
    ports: [(String, u32); 2],
}

impl Cable {
    /// Prepares a namespace as the middle of any number of cables.
    ///
    /// # Errors
    /// Where the kernel lacks a setting that is needed.
    pub fn prepare_middle(middle: &Namespace) -> Result<()> {
        // The middle is to be a wire: it has no addresses and says nothing of its own.
        middle.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        middle.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        for key in ["arptables", "ip6tables", "iptables"] {
            // Absent without br_netfilter: then nothing filters bridged packets anyway.
            let _ = middle.sysctl(&format!("net/bridge/bridge-nf-call-{key}"), "0");
        }
        Ok(())
    }

    /// Lays a cable `name` (at most 11 characters) from `client` to `server`, through `middle`.
    ///
    /// # Errors
    /// The kernel's, with the step that failed.
    pub fn lay(
        name: &str,
        middle: &Arc<Namespace>,
        (client, client_interface): (&Namespace, &str),
        (server, server_interface): (&Namespace, &str),
    ) -> Result<Cable> {
        let bridge = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
            .name(name)
            // Ageing time 0: the bridge never learns (br_fdb_update of net/bridge/br_fdb.c), from the first packet on. What
            // it learnt while a port was plugged in, such as from a router solicitation, would pass every later cut.
            .set_info_data(InfoData::Bridge(vec![InfoBridge::AgeingTime(0), InfoBridge::MulticastSnooping(false)]))
            .up()
            .build();
        middle
            .create_link(bridge)
            .with_context(|| format!("cannot make the bridge {name} (CONFIG_BRIDGE in the kernel?)"))?;
        let bridge_index = middle.index(name)?;
        let to_client = plug(middle, bridge_index, &format!("{name}-c"), client, client_interface)?;
        let to_server = plug(middle, bridge_index, &format!("{name}-s"), server, server_interface)?;
        Ok(Cable { name: name.to_owned(), middle: Arc::clone(middle), bridge_index, ports: [to_client, to_server] })
    }

    /// Plugs one end in again after its interface was deleted: a fresh interface with an index of its own.
    ///
    /// # Errors
    /// The kernel's; the old interface must be gone.
    pub fn plug_in(&mut self, end: End, router: &Namespace, interface: &str) -> Result<()> {
        let port = self.port(end).to_owned();
        self.ports[end.index()] = plug(&self.middle, self.bridge_index, &port, router, interface)?;
        Ok(())
    }

    /// Joins a further station to the cable, which thereby becomes a hub: everybody hears everybody. Cuts do not concern
    /// what goes to the further station.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&self, port: &str, station: &Namespace, interface: &str) -> Result<()> {
        plug(&self.middle, self.bridge_index, port, station, interface).map(|_| ())
    }

    /// The cable's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace in the middle.
    pub fn middle(&self) -> &Namespace {
        &self.middle
    }

    /// The middle's interface towards one end: what is sent there arrives at that end.
    pub fn port(&self, end: End) -> &str {
        &self.ports[end.index()].0
    }

    /// Cuts the given directions silently: packets vanish, carrier stays.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut(&self, directions: &[Direction]) -> Result<Moment> {
        self.pass(directions, false)
    }

    /// Takes the carrier away at one end. Both directions are out until [`Cable::mend`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut_carrier(&self, end: End) -> Result<Moment> {
        Moment::of(|| self.middle.set_link(self.port_message(end, false)))
    }

    /// Mends the cable: both directions and the carrier at both ends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mend(&self) -> Result<Moment> {
        for end in [End::Client, End::Server] {
            self.middle.set_link(self.port_message(end, true))?;
        }
        self.pass(&Direction::BOTH, true)
    }

    fn port_message(&self, end: End, up: bool) -> LinkMessage {
        let message = LinkUnspec::new_with_index(self.ports[end.index()].1);
        if up { message.up() } else { message.down() }.build()
    }

    /// Lets the bridge forward to the directions' destinations, or not.
    fn pass(&self, directions: &[Direction], pass: bool) -> Result<Moment> {
        let messages = directions
            .iter()
            .map(|direction| {
                let (_, index) = self.ports[direction.destination().index()];
                let message = LinkBridgePort::new(index)
                    .append_info_data(InfoBridgePort::UnicastFlood(pass))
                    .append_info_data(InfoBridgePort::MulticastFlood(pass))
                    .append_info_data(InfoBridgePort::BroadcastFlood(pass))
                    .build();
                RouteNetlinkMessage::NewLink(message)
            })
            .collect();
        Moment::of(|| {
            self.middle
                .netlink()
                .request(messages, 0)
                .with_context(|| format!("cannot cut or mend the cable {}", self.name))
        })
    }
}

/// Makes a port of the bridge and joins it to a new interface in another namespace; returns its name and index.
fn plug(
    middle: &Namespace,
    bridge_index: u32,
    port: &str,
    router: &Namespace,
    interface: &str,
) -> Result<(String, u32)> {
    middle.connect(port, router, interface)?;
    let index = middle.index(port)?;
    middle
        .set_link(LinkUnspec::new_with_index(index).controller(bridge_index).build())
        .with_context(|| format!("cannot make {port} a port of a bridge in {}", middle.name()))?;
    Ok((port.to_owned(), index))
}
