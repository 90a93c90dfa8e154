//! What the lab shall build, and how its daemons shall be configured.

use std::time::Duration;

/// What a link is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A veth cable: Ethernet.
    Cable,
    /// Two tun devices: no link header.
    Tunnel,
}

/// One link between the two routers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSetup {
    /// Its name in the configuration, at most 11 characters.
    pub name: String,
    /// What it is made of.
    pub medium: Medium,
    /// The client's interface.
    pub client_interface: String,
    /// The server's interface.
    pub server_interface: String,
}

impl LinkSetup {
    fn new(name: &str, medium: Medium, client_interface: &str, server_interface: &str) -> LinkSetup {
        LinkSetup {
            name: name.to_owned(),
            medium,
            client_interface: client_interface.to_owned(),
            server_interface: server_interface.to_owned(),
        }
    }
}

/// The address family of the links and of what is routed over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What to build, and how the daemons are configured. The default is the picture above at 100 ms × 3.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The links, in order of preference: tier 1, 2, …
    pub links: Vec<LinkSetup>,
    /// `interval` of both peers.
    pub interval: Duration,
    /// `multiplier` of both peers.
    pub multiplier: u32,
    /// `engine` of both daemons.
    pub engine: String,
    /// `failback` of the client.
    pub failback: Duration,
    /// `hold-up` of both.
    pub hold_up: Duration,
    /// `realtime` of both daemons.
    pub realtime: bool,
    /// Address family of links and routes.
    pub family: Family,
    /// Further TOML lines of both daemons' `[daemon]` sections.
    pub daemon_settings: String,
    /// Further TOML lines of the client's `[[peer]]`.
    pub client_settings: String,
    /// Further TOML lines of the server's `[[peer]]`.
    pub server_settings: String,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            links: vec![
                LinkSetup::new("optic", Medium::Cable, "eth1", "eth2"),
                LinkSetup::new("wifi", Medium::Cable, "vlan10", "eth3"),
                LinkSetup::new("tunnel", Medium::Tunnel, "tun1", "tun1"),
            ],
            interval: Duration::from_millis(100),
            multiplier: 3,
            engine: "auto".to_owned(),
            failback: Duration::from_secs(2),
            hold_up: Duration::from_secs(1),
            realtime: true,
            family: Family::V4,
            daemon_settings: String::new(),
            client_settings: String::new(),
            server_settings: String::new(),
        }
    }
}

impl Setup {
    /// `count` cables (1 to 8) named link1, link2, …, at the given interval.
    pub fn cables(count: usize, interval: Duration, multiplier: u32) -> Setup {
        Setup {
            links: (1..=count)
                .map(|number| {
                    LinkSetup::new(
                        &format!("link{number}"),
                        Medium::Cable,
                        &format!("wan{number}"),
                        &format!("wan{number}"),
                    )
                })
                .collect(),
            interval,
            multiplier,
            ..Setup::default()
        }
    }

    /// Silence on a link for longer than this means that it is down.
    pub fn detection(&self) -> Duration {
        self.interval * self.multiplier
    }
}
