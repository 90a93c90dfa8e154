//! A site with several uplinks: a host in its LAN, a router, providers, and the internet behind them.
//!
//! ```text
//!                             ┌─ access ─ provider 1 ─ core ─┐
//!  host ──── eth0 router eth1 ┘                              │
//!                        eth2 ─── access ─ provider 2 ─ core ── internet: servers, targets, a visitor
//!                        eth3 ┐                              │
//!                             └─ access ─ provider 3 ─ core ─┘
//! ```
//!
//! [`address`] says who has which address. The access legs are cables or, for uplinks as by PPP, tunnels; they can be cut
//! silently, one way, or by carrier. The core legs are tunnels that can lose and delay. Providers drop what does not have
//! an address of theirs, as they should. Servers answer with the address that they see, which tells the uplink.

pub mod address;
pub mod dialer;
pub mod flow;
pub mod host;
pub mod provider;
pub mod setup;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use address::{
    LAN_HOST, LAN_ROUTER, SERVER, SERVER6, SMTP_PORT, SUBMISSION_PORT, TARGETS, UPLINKS_MAX, VISITOR, WHO_PORT,
    lan_host6, provider_of, socket,
};
use dialer::Dialer;
use flow::{Call, Crowd, Fate, Transport};
use host::Host;
use provider::{Places, Provider};
use setup::{GROUP, SiteSetup};

use super::cable::Cable;
use super::daemon::Daemon;
use super::netns::Namespace;
use super::status::{active, link};
use super::wire::Wire;
use super::{Lab, monotonic_ns};

/// How far a count may be off where connections begin or end within a block of turns.
const MOST_OFF: usize = 4;
/// How long a new connection or an answer may take unless the test says otherwise.
pub const ANSWER_LIMIT: Duration = Duration::from_millis(900);
/// The longest that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The site, its providers and the internet. Removed when dropped.
#[derive(Debug)]
pub struct Site {
    /// How it was built.
    pub setup: SiteSetup,
    /// The host in the LAN.
    pub lan: Arc<Host>,
    /// The router.
    pub router: Arc<Host>,
    /// The internet.
    pub internet: Arc<Host>,
    /// The providers, in the setup's order.
    pub providers: Vec<Provider>,
    /// The router's daemon.
    pub daemon: Daemon,
    /// What all of it belongs to. The last field: dropped after all that uses it.
    pub lab: Lab,
}

/// Checks that connections are split like this. Turns are dealt in small blocks, and a crowd may begin and end within one,
/// so each count may be a few off; nothing goes where nothing should.
///
/// # Panics
/// Where they are not.
pub fn assert_split(counts: &[usize], expected: &[usize]) {
    let near = |(count, wanted): (&usize, &usize)| {
        if *wanted == 0 { *count == 0 } else { count.abs_diff(*wanted) <= MOST_OFF }
    };
    assert!(
        counts.len() == expected.len() && counts.iter().zip(expected).all(near),
        "{counts:?}, and not about {expected:?}"
    );
}

impl Site {
    /// Builds everything and writes the daemon's configuration; starts no daemon.
    ///
    /// # Errors
    /// Without root, and where the kernel lacks what the lab needs; nothing is left then.
    pub fn build(lab: Lab, setup: SiteSetup, binary: &Path) -> Result<Site> {
        ensure!(
            (1..=UPLINKS_MAX).contains(&setup.uplinks.len()),
            "a site has 1 to {UPLINKS_MAX} uplinks, not {}",
            setup.uplinks.len()
        );
        let namespace = |role: &str| lab.namespace(role).map(Arc::new);
        let (lan, router, internet) = (namespace("lan")?, namespace("router")?, namespace("internet")?);
        let middle = namespace("cables")?;
        Cable::prepare_middle(&middle)?;
        for forwarder in [&router, &internet] {
            forwarder.sysctl("net/ipv4/ip_forward", "1")?;
            forwarder.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        build_lan(&lan, &router, &setup)?;
        let internet_addresses: Vec<_> = TARGETS.into_iter().chain([SERVER, VISITOR, SERVER6]).collect();
        provider::address_internet(&internet, &internet_addresses)?;
        let places = Places { middle: &middle, router: &router, internet: &internet };
        let mut providers: Vec<Provider> = Vec::new();
        for (number, uplink) in setup.uplinks.iter().enumerate() {
            let shared = providers.iter().find(|earlier| earlier.interface() == uplink.interface);
            let shared = match shared.map(Provider::access).transpose()? {
                Some(Wire::Cable(cable)) => Some(cable),
                _ => None,
            };
            let own = namespace(&format!("provider{}", number + 1))?;
            providers.push(Provider::build(number, uplink, setup.ipv6, own, &places, shared)?);
        }
        let site = Site {
            daemon: Daemon::prepare(&lab, &router, "router", binary)?,
            lan: Arc::new(Host::start(&lan)?),
            router: Arc::new(Host::start(&router)?),
            internet: Arc::new(Host::start(&internet)?),
            setup,
            providers,
            lab,
        };
        site.serve()?;
        site.configure()?;
        Ok(site)
    }

    /// Builds everything, starts the daemon and waits until all uplinks are up.
    ///
    /// # Errors
    /// As [`Site::build`] and [`Daemon::start`], and where uplinks do not come up.
    pub fn start(lab: Lab, setup: SiteSetup, binary: &Path) -> Result<Site> {
        let site = Site::build(lab, setup, binary)?;
        site.daemon.start()?;
        site.wait_all_up()?;
        Ok(site)
    }

    fn serve(&self) -> Result<()> {
        for port in [WHO_PORT, SMTP_PORT, SUBMISSION_PORT] {
            self.internet.serve_tcp(port)?;
        }
        self.internet.serve_http(80)?;
        for address in TARGETS.into_iter().chain([SERVER, SERVER6]) {
            self.internet.serve_udp(socket(address, WHO_PORT))?;
            self.internet.serve_dns(socket(address, 53))?;
        }
        // What the visitor connects to.
        self.router.serve_tcp(WHO_PORT)?;
        self.lan.serve_tcp(WHO_PORT)?;
        self.lan.serve_udp("0.0.0.0:7007".parse().context("a constant that is a socket address")?)
    }

    /// Writes the daemon's configuration as the setup now says; a running daemon must be told to `reload`.
    ///
    /// # Errors
    /// The file system's.
    pub fn configure(&self) -> Result<()> {
        self.daemon.write_config(&self.setup.daemon_settings, &self.setup.groups())
    }

    /// The provider of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn provider(&self, name: &str) -> Result<&Provider> {
        self.providers.iter().find(|provider| provider.name() == name).with_context(|| format!("no provider {name}"))
    }

    /// The names of all uplinks.
    pub fn names(&self) -> Vec<&str> {
        self.providers.iter().map(Provider::name).collect()
    }

    /// The name of the uplink whose address a server saw; `?` for what is nobody's.
    pub fn uplink_of(&self, source: IpAddr) -> &str {
        provider_of(source).and_then(|number| self.providers.get(number)).map_or("?", Provider::name)
    }

    /// Counts by uplink instead of by address, in no other order than the setup's.
    pub fn by_uplink(&self, by_source: &BTreeMap<IpAddr, usize>) -> Vec<usize> {
        let mut counts = vec![0; self.providers.len()];
        for (source, count) in by_source {
            if let Some(number) = provider_of(*source).filter(|number| *number < counts.len()) {
                counts[number] += count;
            }
        }
        counts
    }

    /// The fates of connections by the name of their uplink.
    pub fn fates(&self, by_source: BTreeMap<IpAddr, Fate>) -> BTreeMap<String, Fate> {
        by_source.into_iter().map(|(source, fate)| (self.uplink_of(source).to_owned(), fate)).collect()
    }

    /// A connection to the internet's server, the way it is usually made here.
    pub fn call(&self, transport: Transport) -> Call {
        Call { transport, source: None, destination: socket(SERVER, WHO_PORT), limit: ANSWER_LIMIT }
    }

    /// Opens `count` connections from the LAN to the internet's server.
    ///
    /// # Errors
    /// Where any of them fails.
    pub fn open(&self, transport: Transport, count: usize) -> Result<Crowd> {
        open_all(&self.lan, self.call(transport), count)
    }

    /// Opens `count` connections from the visitor to the router's address at a provider.
    ///
    /// # Errors
    /// Where the host fails; connections that fail are counted.
    pub fn visit(&self, provider: &Provider, transport: Transport, port: u16, count: usize) -> Result<Crowd> {
        let call = Call {
            transport,
            source: Some(VISITOR.parse().context("a constant that is an address")?),
            destination: (provider.router_address(), port).into(),
            limit: ANSWER_LIMIT,
        };
        Crowd::open(&self.internet, call, count)
    }

    /// Begins to dial from the LAN to the internet's server.
    ///
    /// # Errors
    /// As [`Dialer::start`].
    pub fn dial(&self, rate_per_s: u32) -> Result<Dialer> {
        Dialer::start(&self.lan, self.call(Transport::Tcp), rate_per_s)
    }

    /// What the daemon says of an uplink.
    ///
    /// # Errors
    /// Where the daemon does not answer or does not know it.
    pub fn uplink(&self, name: &str) -> Result<Value> {
        let status = self.daemon.status()?;
        link(&status, GROUP, name).cloned().with_context(|| format!("status --json has no uplink {name}"))
    }

    /// Waits until the daemon gives an uplink this state.
    ///
    /// # Errors
    /// When `limit` has passed before; the message says what the daemon says instead.
    pub fn wait_state(&self, name: &str, state: &str, limit: Duration) -> Result<()> {
        let mut said = Value::Null;
        let waited = self.lab.wait_until(&format!("{name} to be {state}"), limit, || {
            said = self.uplink(name)?;
            Ok((said["state"] == state).then_some(()))
        });
        waited.with_context(|| format!("the daemon says: {said}\n{}", self.daemon.log_tail()))
    }

    /// Waits until exactly these uplinks are active, in the setup's order.
    ///
    /// # Errors
    /// When `limit` has passed before; the message says which are.
    pub fn wait_active(&self, names: &[&str], limit: Duration) -> Result<()> {
        let mut seen = Vec::new();
        let waited = self.lab.wait_until(&format!("[{}] to be active", names.join(", ")), limit, || {
            seen = active(&self.daemon.status()?, GROUP);
            // The order of a set of uplinks means nothing.
            let all = seen.len() == names.len() && names.iter().all(|name| seen.iter().any(|one| one == name));
            Ok(all.then_some(()))
        });
        waited.with_context(|| format!("active: [{}]\n{}", seen.join(", "), self.daemon.log_tail()))
    }

    /// Waits until every uplink is up.
    ///
    /// # Errors
    /// When one is not in time.
    pub fn wait_all_up(&self) -> Result<()> {
        self.names().iter().try_for_each(|name| {
            self.wait_state(name, "up", PATIENCE)?;
            self.lab.wait_until(&format!("{name} to be usable"), PATIENCE, || {
                Ok((self.uplink(name)?["usable"] == true).then_some(()))
            })
        })
    }

    /// Repairs all providers and the internet's routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mend(&self) -> Result<()> {
        for provider in &self.providers {
            provider.mend()?;
            provider.answer_honestly(self.internet.namespace())?;
        }
        Ok(())
    }

    /// Waits until new connections succeed without exception, from now on.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_steady(&self, dialer: &Dialer) -> Result<()> {
        dialer.wait_steady(&self.lab, monotonic_ns(), Duration::from_millis(300), PATIENCE)
    }
}

/// Opens connections that must all succeed.
///
/// # Errors
/// Where any of them fails; the message says how many and why.
pub fn open_all(host: &Arc<Host>, call: Call, count: usize) -> Result<Crowd> {
    let crowd = Crowd::open(host, call, count)?;
    let failures = &crowd.failures;
    ensure!(
        failures.is_empty(),
        "{} of {count} connections to {} failed, the first: {}",
        failures.len(),
        call.destination,
        failures.first().map(ToString::to_string).unwrap_or_default()
    );
    Ok(crowd)
}

/// Joins the host to the router's eth0.
fn build_lan(lan: &Namespace, router: &Namespace, setup: &SiteSetup) -> Result<()> {
    router.connect("eth0", lan, "eth0")?;
    let own: ipnet::IpNet = LAN_ROUTER.parse().context("a constant that is an address")?;
    router.add_address("eth0", own)?;
    lan.add_address("eth0", LAN_HOST.parse().context("a constant that is an address")?)?;
    lan.add_route(ipnet::IpNet::new_assert([0; 4].into(), 0), own.addr())?;
    if setup.ipv6 {
        for number in 0..setup.uplinks.len() {
            router.add_address("eth0", ipnet::IpNet::new_assert(lan_host6(number, 1).into(), 64))?;
            lan.add_address("eth0", ipnet::IpNet::new_assert(lan_host6(number, 16).into(), 64))?;
        }
        lan.add_route(ipnet::IpNet::new_assert([0; 16].into(), 0), lan_host6(0, 1).into())?;
    }
    Ok(())
}
