//! Two routers with several links between them, and hosts behind both.
//!
//! ```text
//!  hosts ──── eth0 client eth1   ───── optic  ───── eth2 server eth0 ──── hosts
//!  10.20.20.0/22          vlan10 ───── wifi   ───── eth3                  203.0.113.0/24
//!  172.31.13.0/24         tun1   ═════ tunnel ═════ tun1
//!  192.168.12.0/24
//! ```
//!
//! Link number i (from 0) has the prefixes 10.248.(248+i).0/24 and 2001:db8:(248+i)::/64; the server is .1, the client .2.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;

use super::cable::Cable;
use super::daemon::Daemon;
use super::meter::Meter;
use super::netns::Namespace;
use super::setup::{Family, Medium, Setup};
use super::status::{active, usable};
use super::tunnel::Tunnel;
use super::wire::Wire;
use super::{End, Lab};

/// UDP port of both daemons' keepalives: the default.
pub const PORT: u16 = 46721;
/// The client's peer group: the server.
pub const CLIENT_GROUP: &str = "hq";
/// The server's peer group: the client.
pub const SERVER_GROUP: &str = "branch";

/// The prefixes behind the client and its address in each; the host is .10 there, or ::10.
const CLIENT_LANS: [&str; 4] = ["10.20.20.1/22", "172.31.13.1/24", "192.168.12.1/24", "2001:db8:20::1/64"];
/// The prefixes behind the server and its address in each.
const SERVER_LANS: [&str; 2] = ["203.0.113.1/24", "2001:db8:113::1/64"];
/// Last part of every host's address.
const HOST: u8 = 10;
/// UDP port of the meter at both ends.
const METER_PORT: u16 = 7000;
/// Links of a setup at most: as many as there are prefixes above 10.248.248.0/24.
const LINKS_MAX: usize = 8;

/// The two routers with everything around them. Removed when dropped.
#[derive(Debug)]
pub struct TwoRouters {
    /// How it was built.
    pub setup: Setup,
    /// The hosts behind the client.
    pub client_hosts: Arc<Namespace>,
    /// The client router.
    pub client: Arc<Namespace>,
    /// The server router.
    pub server: Arc<Namespace>,
    /// The hosts behind the server.
    pub server_hosts: Arc<Namespace>,
    /// The links, in the setup's order.
    pub wires: Vec<Wire>,
    /// The client's daemon.
    pub client_daemon: Daemon,
    /// The server's daemon.
    pub server_daemon: Daemon,
    /// What all of it belongs to. The last field: dropped after all that uses it.
    pub lab: Lab,
}

impl TwoRouters {
    /// Builds everything and writes the daemons' configurations; starts no daemon.
    ///
    /// # Errors
    /// Without root, and where the kernel lacks what the lab needs; nothing is left then.
    pub fn build(setup: Setup, binary: &Path) -> Result<TwoRouters> {
        TwoRouters::build_in(Lab::new()?, setup, binary)
    }

    /// As [`TwoRouters::build`], in a lab that exists already: for those who must be able to interrupt the building.
    ///
    /// # Errors
    /// As [`TwoRouters::build`].
    pub fn build_in(lab: Lab, setup: Setup, binary: &Path) -> Result<TwoRouters> {
        ensure!(
            (1..=LINKS_MAX).contains(&setup.links.len()),
            "two routers are joined by 1 to {LINKS_MAX} links, not {}",
            setup.links.len()
        );
        let namespace = |role: &str| lab.namespace(role).map(Arc::new);
        let client_hosts = namespace("lan")?;
        let client = namespace("client")?;
        let server = namespace("server")?;
        let server_hosts = namespace("internet")?;
        let middle = namespace("cables")?;
        Cable::prepare_middle(&middle)?;
        for router in [&client, &server] {
            router.sysctl("net/ipv4/ip_forward", "1")?;
            router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        attach_hosts(&client_hosts, &client, &CLIENT_LANS)?;
        attach_hosts(&server_hosts, &server, &SERVER_LANS)?;
        let mut wires = Vec::new();
        for (number, link) in setup.links.iter().enumerate() {
            let (client_interface, server_interface) = (link.client_interface.as_str(), link.server_interface.as_str());
            wires.push(match link.medium {
                Medium::Cable => Wire::Cable(Cable::lay(
                    &link.name,
                    &middle,
                    (&client, client_interface),
                    (&server, server_interface),
                )?),
                Medium::Tunnel => {
                    Wire::Tunnel(Tunnel::dig(&link.name, (&client, client_interface), (&server, server_interface))?)
                }
            });
            for family in [Family::V4, Family::V6] {
                let prefix_len = if family == Family::V4 { 24 } else { 64 };
                for (router, interface, end) in
                    [(&client, client_interface, End::Client), (&server, server_interface, End::Server)]
                {
                    let address = IpNet::new(link_address(number, family, end), prefix_len)
                        .context("a prefix length within its family")?;
                    router.add_address(interface, address)?;
                }
            }
        }
        let routers = TwoRouters {
            client_daemon: Daemon::prepare(&lab, &client, "client", binary)?,
            server_daemon: Daemon::prepare(&lab, &server, "server", binary)?,
            setup,
            client_hosts,
            client,
            server,
            server_hosts,
            wires,
            lab,
        };
        routers.write_configs(&fresh_key()?)?;
        Ok(routers)
    }

    /// Writes both daemons' configurations and one key for both.
    fn write_configs(&self, key: &str) -> Result<()> {
        let quoted = |end: End| -> Result<String> {
            let prefixes = self.beyond(end)?;
            Ok(prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect::<Vec<_>>().join(", "))
        };
        let (routes, lans) = (quoted(End::Client)?, quoted(End::Server)?);
        for (daemon, end) in [(&self.client_daemon, End::Client), (&self.server_daemon, End::Server)] {
            let key_path = daemon.write_key("peer.key", key)?;
            let (group, role, own) = match end {
                End::Client => (
                    CLIENT_GROUP,
                    "client",
                    format!("routes = [{routes}]\nannounce = [{lans}]\n{}", self.setup.client_settings),
                ),
                End::Server => (SERVER_GROUP, "server", format!("accept = [{lans}]\n{}", self.setup.server_settings)),
            };
            let mut text = format!(
                "[[peer]]\nname = \"{group}\"\nrole = \"{role}\"\nport = {PORT}\nkey-files = [\"{}\"]\ninterval = \"{}\"\n\
                 multiplier = {}\nfailback = \"{}\"\nhold-up = \"{}\"\ndampening = false\n{own}\n",
                key_path.display(),
                duration(self.setup.interval),
                self.setup.multiplier,
                duration(self.setup.failback),
                duration(self.setup.hold_up),
            );
            for (number, link) in self.setup.links.iter().enumerate() {
                let (interface, other) = match end {
                    End::Client => (&link.client_interface, End::Server),
                    End::Server => (&link.server_interface, End::Client),
                };
                // Writing to a string cannot fail.
                let _ = write!(
                    text,
                    "\n[[peer.link]]\nname = \"{}\"\ninterface = \"{interface}\"\nlocal = \"{}\"\nremote = \"{}\"\n",
                    link.name,
                    link_address(number, self.setup.family, end),
                    link_address(number, self.setup.family, other),
                );
            }
            let settings = format!(
                "engine = \"{}\"\nrealtime = {}\n{}",
                self.setup.engine, self.setup.realtime, self.setup.daemon_settings
            );
            daemon.write_config(&settings, &text)?;
        }
        Ok(())
    }

    /// Starts both daemons and waits until they answer.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_daemons(&self) -> Result<()> {
        self.server_daemon.launch()?;
        self.client_daemon.launch()?;
        self.server_daemon.wait_ready()?;
        self.client_daemon.wait_ready()
    }

    /// The daemon at one end.
    pub fn daemon(&self, end: End) -> &Daemon {
        match end {
            End::Client => &self.client_daemon,
            End::Server => &self.server_daemon,
        }
    }

    /// What the router at one end sends through the links: all that is behind the other.
    ///
    /// # Errors
    /// None that a lab as it is built here can cause.
    pub fn beyond(&self, end: End) -> Result<Vec<IpNet>> {
        let prefixes: &[&str] = match (end, self.setup.family) {
            (End::Client, Family::V4) => &["0.0.0.0/0"],
            (End::Client, Family::V6) => &["::/0"],
            (End::Server, Family::V4) => &CLIENT_LANS[..3],
            (End::Server, Family::V6) => &CLIENT_LANS[3..],
        };
        prefixes.iter().map(|prefix| Ok(prefix.parse::<IpNet>().context("a prefix of the lab")?.trunc())).collect()
    }

    /// The link of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn wire(&self, name: &str) -> Result<&Wire> {
        self.wires.iter().find(|wire| wire.name() == name).with_context(|| format!("no link {name} in this lab"))
    }

    /// Starts a packet stream both ways between the hosts, `rate_per_s` a direction.
    ///
    /// # Errors
    /// As [`Meter::start`].
    pub fn meter(&self, rate_per_s: u32) -> Result<Meter> {
        let (client, server) = match self.setup.family {
            Family::V4 => (CLIENT_LANS[0], SERVER_LANS[0]),
            Family::V6 => (CLIENT_LANS[3], SERVER_LANS[1]),
        };
        Meter::start(
            (&self.client_hosts, SocketAddr::new(host(client.parse()?).addr(), METER_PORT)),
            (&self.server_hosts, SocketAddr::new(host(server.parse()?).addr(), METER_PORT)),
            rate_per_s,
        )
    }

    /// Waits until both daemons have exactly this link active.
    ///
    /// # Errors
    /// When `limit` has passed before; the message says what is active.
    pub fn wait_active(&self, link: &str, limit: Duration) -> Result<()> {
        let mut seen = (Vec::new(), Vec::new());
        let waited = self.lab.wait_until(&format!("{link} to carry the traffic"), limit, || {
            seen = (
                active(&self.client_daemon.status()?, CLIENT_GROUP),
                active(&self.server_daemon.status()?, SERVER_GROUP),
            );
            Ok((seen.0 == [link] && seen.1 == [link]).then_some(()))
        });
        waited.with_context(|| {
            format!("active: [{}] at the client, [{}] at the server", seen.0.join(", "), seen.1.join(", "))
        })
    }

    /// Waits until both daemons have every link up.
    ///
    /// # Errors
    /// When `limit` has passed before.
    pub fn wait_all_usable(&self, limit: Duration) -> Result<()> {
        self.lab.wait_until("every link to be usable at both ends", limit, || {
            let client = self.client_daemon.status()?;
            let server = self.server_daemon.status()?;
            let all = usable(&client, CLIENT_GROUP).len() == self.setup.links.len()
                && usable(&server, SERVER_GROUP).len() == self.setup.links.len();
            Ok(all.then_some(()))
        })
    }
}

/// The address of one end of link number `number` (from 0).
pub fn link_address(number: usize, family: Family, end: End) -> IpAddr {
    let last = if end == End::Server { 1 } else { 2 };
    // Bounded by LINKS_MAX.
    let third = 248 + number as u8;
    match family {
        Family::V4 => Ipv4Addr::new(10, 248, third, last).into(),
        Family::V6 => {
            // 2001:db8:248::1, read as if the digits were decimal: easier to recognise.
            let group = u16::from(third / 100) << 8 | u16::from(third / 10 % 10) << 4 | u16::from(third % 10);
            Ipv6Addr::new(0x2001, 0xdb8, group, 0, 0, 0, 0, u16::from(last)).into()
        }
    }
}

/// The host's address in a LAN, given the router's.
fn host(router: IpNet) -> IpNet {
    let address = match router.addr() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, HOST])
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[15] = HOST;
            IpAddr::from(octets)
        }
    };
    IpNet::new_assert(address, router.prefix_len())
}

/// Joins hosts to a router's eth0, with an address in each LAN and default routes through the router.
fn attach_hosts(hosts: &Namespace, router: &Namespace, lans: &[&str]) -> Result<()> {
    router.connect("eth0", hosts, "eth0")?;
    let mut routed = [false; 2];
    for lan in lans {
        let lan: IpNet = lan.parse().context("a LAN's prefix")?;
        router.add_address("eth0", lan)?;
        hosts.add_address("eth0", host(lan))?;
        let default = match lan {
            IpNet::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            IpNet::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let routed = &mut routed[usize::from(lan.addr().is_ipv6())];
        if !*routed {
            hosts.add_route(default, lan.addr())?;
            *routed = true;
        }
    }
    Ok(())
}

/// A duration as the configuration wants it.
fn duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// 32 random octets in base64.
///
/// # Errors
/// The file system's.
pub fn fresh_key() -> Result<String> {
    let mut key = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut key))
        .context("cannot read /dev/urandom")?;
    Ok(STANDARD.encode(key))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses_are_those_of_the_picture() {
        assert_eq!(link_address(0, Family::V4, End::Client).to_string(), "10.248.248.2");
        assert_eq!(link_address(2, Family::V4, End::Server).to_string(), "10.248.250.1");
        assert_eq!(link_address(2, Family::V6, End::Server).to_string(), "2001:db8:250::1");
        assert_eq!(host("10.20.20.1/22".parse().unwrap()).to_string(), "10.20.20.10/22");
    }
}
