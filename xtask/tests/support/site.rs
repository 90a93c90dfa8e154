//! Two machines that are routers, joined by two cables, with hosts behind both.
//!
//! ```text
//!  hosts ──── eth0 client eth1 ───── optic ───── eth1 server eth0 ──── hosts
//!  10.20.20.0/22          eth2 ───── wifi  ───── eth2                  203.0.113.0/24
//! ```
//!
//! Interfaces and addresses are those of `link-watcher generate config pair`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use link_watcher_lab::Lab;
use link_watcher_lab::cable::Cable;
use link_watcher_lab::meter::Meter;
use link_watcher_lab::netns::Namespace;

use super::machine::Machine;

/// Hosts behind the client, and behind the server.
const HOSTS: [&str; 2] = ["10.20.20.10:7000", "203.0.113.10:7000"];

/// The routers, which have booted and know nothing of link-watcher yet.
#[derive(Debug)]
pub struct Site {
    pub client: Machine,
    pub server: Machine,
    /// `optic` and `wifi`.
    pub cables: [Cable; 2],
    hosts: [Arc<Namespace>; 2],
    /// The last field: dropped after all that uses it.
    pub lab: Lab,
}

impl Site {
    /// Lays the cables, and boots both machines from the root directory `base`.
    pub fn build(base: &Path) -> Result<Site> {
        let lab = Lab::new()?;
        let namespace = |role: &str| lab.namespace(role).map(Arc::new);
        let (client, server, middle) = (namespace("client")?, namespace("server")?, namespace("cables")?);
        Cable::prepare_middle(&middle)?;
        let lay = |name: &str, interface: &str| Cable::lay(name, &middle, (&client, interface), (&server, interface));
        let cables = [lay("optic", "eth1")?, lay("wifi", "eth2")?];
        for (router, interface, address) in [
            (&client, "eth1", "10.248.248.2/30"),
            (&client, "eth2", "10.248.249.2/30"),
            (&server, "eth1", "10.248.248.1/30"),
            (&server, "eth2", "10.248.249.1/30"),
        ] {
            router.add_address(interface, address.parse()?)?;
        }
        let hosts = [
            attach(&lab, "lan", &client, "10.20.20.1/22", "10.20.20.10/22")?,
            attach(&lab, "internet", &server, "203.0.113.1/24", "203.0.113.10/24")?,
        ];
        let client = Machine::boot(&lab, &client, base, "client")?;
        let server = Machine::boot(&lab, &server, base, "server")?;
        Ok(Site { client, server, cables, hosts, lab })
    }

    /// Begins to send 1,000 packets a second each way between the hosts.
    pub fn traffic(&self) -> Result<Meter> {
        let [client, server] = HOSTS.map(|address| address.parse::<SocketAddr>().context("a host's address"));
        Meter::start((&self.hosts[0], client?), (&self.hosts[1], server?), 1000)
    }
}

/// A host behind a router's eth0.
fn attach(lab: &Lab, role: &str, router: &Namespace, address: &str, host_address: &str) -> Result<Arc<Namespace>> {
    let host = Arc::new(lab.namespace(role)?);
    router.connect("eth0", &host, "eth0")?;
    let address: ipnet::IpNet = address.parse()?;
    router.add_address("eth0", address)?;
    host.add_address("eth0", host_address.parse()?)?;
    host.add_route("0.0.0.0/0".parse()?, address.addr())?;
    Ok(host)
}
