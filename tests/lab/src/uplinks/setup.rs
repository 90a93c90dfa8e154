//! What the site shall look like, and how its daemon shall be configured.

use std::fmt::Write as _;
use std::time::Duration;

use super::address::{TARGETS, gateway4, gateway6, lan6};
use crate::setup::Medium;

/// The daemon's group of uplinks.
pub const GROUP: &str = "wan";

/// One uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkSetup {
    /// Its name in the configuration, at most 11 characters.
    pub name: String,
    /// What it is made of: [`Medium::Cable`] is Ethernet with a gateway; [`Medium::Tunnel`] is as PPP is: no link header,
    /// one address at either end, no gateway in the configuration.
    pub medium: Medium,
    /// The router's interface. A cable whose interface is an earlier cable's is a further provider on that wire.
    pub interface: String,
    /// `tier`.
    pub tier: u32,
    /// `weight`.
    pub weight: u32,
    /// Whether a cable's gateway is left out of the configuration, for the daemon to learn.
    pub learned: bool,
    /// Further TOML lines of its `[[uplinks.link]]`.
    pub settings: String,
}

impl UplinkSetup {
    /// An uplink of tier 1.
    pub fn new(name: &str, medium: Medium, interface: &str, weight: u32) -> UplinkSetup {
        UplinkSetup {
            name: name.to_owned(),
            medium,
            interface: interface.to_owned(),
            tier: 1,
            weight,
            learned: false,
            settings: String::new(),
        }
    }
}

/// What to build. The default is three Ethernet uplinks of one tier with the weights 5, 3 and 2, all of IPv4.
#[derive(Debug, Clone)]
pub struct SiteSetup {
    /// The uplinks, 1 to [`UPLINKS_MAX`](super::address::UPLINKS_MAX).
    pub uplinks: Vec<UplinkSetup>,
    /// `interval` and `timeout` of the probes.
    pub interval: Duration,
    /// `fall`: failed rounds until an uplink is down.
    pub fall: u32,
    /// `rise`: good rounds until it is up again.
    pub rise: u32,
    /// TOML lines of `[uplinks.probe]`: kind, targets and what belongs to them.
    pub probe: String,
    /// Whether the uplinks have IPv6 as well, with a prefix of each provider's in the LAN.
    pub ipv6: bool,
    /// Further TOML lines of `[[uplinks]]`.
    pub group_settings: String,
    /// Further TOML lines of `[daemon]`.
    pub daemon_settings: String,
    /// TOML behind all of it: `[[uplinks.force]]`, or other groups.
    pub further: String,
}

impl Default for SiteSetup {
    fn default() -> Self {
        SiteSetup {
            uplinks: vec![
                UplinkSetup::new("fibre", Medium::Cable, "eth1", 5),
                UplinkSetup::new("dsl", Medium::Cable, "eth2", 3),
                UplinkSetup::new("lte", Medium::Cable, "eth3", 2),
            ],
            interval: Duration::from_millis(200),
            fall: 3,
            rise: 3,
            probe: icmp(&TARGETS, 2),
            ipv6: false,
            group_settings: "failback = \"200ms\"\nhold-up = \"100ms\"\n".to_owned(),
            daemon_settings: String::new(),
            further: String::new(),
        }
    }
}

/// TOML lines of a probe by ICMP echo.
pub fn icmp(targets: &[&str], required: usize) -> String {
    format!("kind = \"icmp\"\ntargets = {targets:?}\nrequired = {required}\n")
}

impl SiteSetup {
    /// The default picture with these tiers.
    pub fn tiers(tiers: [u32; 3]) -> SiteSetup {
        let mut setup = SiteSetup::default();
        for (uplink, tier) in setup.uplinks.iter_mut().zip(tiers) {
            uplink.tier = tier;
        }
        setup
    }

    /// The default picture with a point-to-point uplink in the third place.
    pub fn with_ppp() -> SiteSetup {
        let mut setup = SiteSetup::default();
        setup.uplinks[2] = UplinkSetup::new("lte", Medium::Tunnel, "ppp0", 2);
        setup
    }

    /// The longest time from an uplink's silent death to the verdict: a round may just have begun, `fall` rounds must fail,
    /// and the last is over when its time is up.
    pub fn detection(&self) -> Duration {
        self.interval * (self.fall + 1)
    }

    /// The `[[uplinks]]` of the configuration, and what follows it.
    pub(super) fn groups(&self) -> String {
        let routes = if self.ipv6 { "\"0.0.0.0/0\", \"::/0\"" } else { "\"0.0.0.0/0\"" };
        let interval_ms = self.interval.as_millis();
        let mut text = format!(
            "[[uplinks]]\nname = \"{GROUP}\"\nroutes = [{routes}]\nlan = [\"eth0\"]\n{}\n[uplinks.probe]\n{}\
             interval = \"{interval_ms}ms\"\ntimeout = \"{interval_ms}ms\"\nfall = {}\nrise = {}\n",
            self.group_settings, self.probe, self.fall, self.rise
        );
        for (number, uplink) in self.uplinks.iter().enumerate() {
            let gateway = match (uplink.medium == Medium::Tunnel || uplink.learned, self.ipv6) {
                (true, _) => String::new(),
                (false, false) => format!("gateway = \"{}\"\n", gateway4(number)),
                (false, true) => format!(
                    "gateway = [\"{}\", \"{}\"]\nprefixes = [\"{}\"]\n",
                    gateway4(number),
                    gateway6(number),
                    lan6(number)
                ),
            };
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "\n[[uplinks.link]]\nname = \"{}\"\ninterface = \"{}\"\n{gateway}tier = {}\nweight = {}\n{}",
                uplink.name, uplink.interface, uplink.tier, uplink.weight, uplink.settings
            );
        }
        text.push('\n');
        text.push_str(&self.further);
        text
    }
}
