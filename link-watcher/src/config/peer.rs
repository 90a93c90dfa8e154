//! `[[peer]]` and `[[peer.link]]` as they stand in the file, each value checked by itself, with its place.

use std::{
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use link_watcher_common::{maps::MAX_KEYS, wire::DEFAULT_PORT};
use toml::Spanned;

use super::{
    PeerConfig, PeerLinkConfig, WhenAllDown,
    actuation::{self, Actuation},
    diagnostic::Severity,
    group::{self, DAY, values},
    protocol,
    reference::{Key, Otherwise, Schema, Takes, words},
    section::Section,
};
use crate::{
    announce::{DEFAULT_MAX_PREFIXES, MAX_PREFIXES},
    clock::nanoseconds,
    event::{Failback, Role},
    health::Limits,
    keys::{self, KeyProblem},
    route::MAIN_TABLE,
};

const MIN_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_secs(60);
const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);
const DEFAULT_MULTIPLIER: u32 = 3;
const DEFAULT_HOLD_UP: Duration = Duration::from_secs(3);
/// `RT_TABLE_LOCAL`: the kernel's own.
const TABLE_LOCAL: u32 = 255;
/// Standbys stand at higher metrics than the active route: there must be room above it.
const MAX_METRIC: u32 = 4_000_000_000;

const ROLES: [(&str, Role); 2] = [("client", Role::Client), ("server", Role::Server)];
const WHEN_ALL_DOWN: [(&str, WhenAllDown); 2] = [("keep", WhenAllDown::Keep), ("withdraw", WhenAllDown::Withdraw)];
const MAX_TABLE: u32 = u32::MAX;
const DEFAULT_METRIC: u32 = 0;

/// `[[peer]]`.
pub(super) static PEER: Schema = Schema::new(
    "[[peer]]",
    "One router at the far end of several links, which runs link-watcher too. One of the two is the client, the other the server.",
    &[
        Key::new(
            "name",
            group::NAME,
            Otherwise::Demanded,
            "unique among all groups; need not be the same at both ends",
        ),
        Key::new(
            "role",
            Takes::Words(&words(&ROLES)),
            Otherwise::Demanded,
            "`client`: chooses the link; `server`: follows. One of each",
        ),
        Key::new(
            "port",
            Takes::Number(1..=65_535),
            Otherwise::Number(DEFAULT_PORT as u32),
            "UDP port of both ends, source and destination",
        ),
        Key::new(
            "key-files",
            Takes::List("1 to 4 paths"),
            Otherwise::Demanded,
            "files of one line of base64, the same secret at both ends, mode 0600: the first signs, all verify",
        ),
        Key::new(
            "interval",
            Takes::Duration(MIN_INTERVAL..=MAX_INTERVAL),
            Otherwise::Duration(DEFAULT_INTERVAL),
            "from one probe of a link to the next",
        ),
        Key::new(
            "multiplier",
            Takes::Number(1..=255),
            Otherwise::Number(DEFAULT_MULTIPLIER),
            "silence for `interval` times this is down",
        ),
        Key::new(
            "routes",
            Takes::List("prefixes"),
            Otherwise::Words("none"),
            "what this router sends through the peer, whatever that announces",
        ),
        Key::new("announce", Takes::List("prefixes"), Otherwise::Words("none"), "what the peer shall send through us"),
        Key::new(
            "announce-interfaces",
            Takes::List("interfaces"),
            Otherwise::Words("none"),
            "and the connected prefixes of these, followed as they change",
        ),
        Key::new(
            "announce-routes",
            Takes::List("routing protocols by name or number"),
            Otherwise::Words("none"),
            "and routes of these protocols that leave by those interfaces, followed as they change; never ours, never a default route",
        ),
        Key::new(
            "accept",
            Takes::List("prefixes"),
            Otherwise::Words("nothing is accepted"),
            "announced prefixes outside of these are refused and reported",
        ),
        Key::new(
            "max-prefixes",
            Takes::Number(1..=MAX_PREFIXES as u32),
            Otherwise::Number(DEFAULT_MAX_PREFIXES as u32),
            "most prefixes of the peer's announcements; a longer list is refused whole",
        ),
        group::FAILBACK,
        Key::new(
            "hold-up",
            Takes::Duration(Duration::ZERO..=DAY),
            Otherwise::Duration(DEFAULT_HOLD_UP),
            "how long a link that was down must stay good before it is usable again",
        ),
        Key::new(
            "when-all-down",
            Takes::Words(&words(&WHEN_ALL_DOWN)),
            Otherwise::Text("keep"),
            "our routes while no link is usable; `withdraw`: they go, so that a route of somebody else carries the traffic",
        ),
        group::max_loss_key(
            "beyond this share of lost keepalives a link is `degraded`: used only where nothing else is up",
        ),
        Key::new(
            "max-rtt",
            Takes::Duration(MIN_INTERVAL..=MAX_INTERVAL),
            Otherwise::Words("no limit"),
            "likewise, beyond this median round trip",
        ),
        Key::new(
            "max-jitter",
            Takes::Duration(MIN_INTERVAL..=MAX_INTERVAL),
            Otherwise::Words("no limit"),
            "likewise, beyond this mean difference of successive round trips",
        ),
        group::DAMPENING,
        Key::new(
            "table",
            Takes::Number(1..=MAX_TABLE),
            Otherwise::Number(MAIN_TABLE),
            "routing table of the routes; 254 is the main one, 255 is refused",
        ),
        Key::new(
            "metric",
            Takes::Number(0..=MAX_METRIC),
            Otherwise::Number(DEFAULT_METRIC),
            "of the active routes; 0: before all others",
        ),
        actuation::ACTUATION,
        actuation::TABLE_BASE,
        actuation::RULE_PRIORITY,
        Key::section("link", "[[peer.link]]", "its links, at least one"),
    ],
);
/// `[[peer.link]]`.
pub(super) static LINK: Schema = Schema::new(
    "[[peer.link]]",
    "One link to that peer: an interface, and the peer's address behind it.",
    &[
        Key::new("name", group::NAME, Otherwise::Demanded, "unique in the group; not `auto`"),
        Key::new("interface", group::INTERFACE, Otherwise::Demanded, "where it leaves"),
        Key::new(
            "local",
            Takes::Text("address"),
            Otherwise::Words("the interface's own in the prefix of `remote`"),
            "this router's address on the link",
        ),
        Key::new("remote", Takes::Text("address"), Otherwise::Demanded, "the peer's address on the link"),
        Key::new(
            "tier",
            Takes::Number(1..=group::MAX_TIER),
            Otherwise::Words("its place in the file"),
            "the lowest tier that has a usable link carries the traffic",
        ),
        Key::new(
            "weight",
            Takes::Number(group::WEIGHT),
            Otherwise::Number(group::DEFAULT_WEIGHT),
            "share among the active links of a tier",
        ),
        Key::new(
            "max-hops",
            Takes::Number(1..=255),
            Otherwise::Words("1 where `remote` is on the link, else no demand"),
            "routers and NAT between, plus one (RFC 5082)",
        ),
    ],
);

/// `[[peer]]` with the places of what is compared with other values.
pub(super) struct Peer<'a> {
    pub(super) section: Section<'a>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) role: Option<Role>,
    pub(super) port: u16,
    pub(super) keys: Vec<KeyFile>,
    interval: Duration,
    multiplier: u32,
    pub(super) routes: Vec<Spanned<IpNet>>,
    pub(super) announce: Vec<Spanned<IpNet>>,
    pub(super) announce_interfaces: Vec<Spanned<String>>,
    announce_routes: Vec<Spanned<u8>>,
    pub(super) accept: Vec<Spanned<IpNet>>,
    max_prefixes: usize,
    failback: Failback,
    hold_up: Duration,
    when_all_down: WhenAllDown,
    limits: Limits,
    dampening: bool,
    pub(super) table: u32,
    metric: u32,
    pub(super) actuation: Actuation,
    pub(super) links: Vec<Link<'a>>,
}

/// A key with where it came from.
pub(super) struct KeyFile {
    pub(super) span: Range<usize>,
    pub(super) path: PathBuf,
    pub(super) key: keys::Key,
}

/// `[[peer.link]]`, likewise.
pub(super) struct Link<'a> {
    pub(super) section: Section<'a>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) interface: Option<Spanned<String>>,
    pub(super) local: Option<Spanned<IpAddr>>,
    pub(super) remote: Option<Spanned<IpAddr>>,
    tier: u32,
    weight: u32,
    max_hops: Option<u8>,
}

impl<'a> Peer<'a> {
    pub(super) fn read(section: Section<'a>, directory: &Path) -> Self {
        let name = group::name(&section, "hq");
        let role = section.choice("role", &ROLES);
        if section.get("role").is_none() {
            section.missing("role", "\"client\" (chooses the link), and \"server\" (follows) at the other end");
        }
        let multiplier = section.integer("multiplier");
        if let Some(multiplier) = &multiplier
            && *multiplier.get_ref() == 1
        {
            section.findings.warning(
                &multiplier.span(),
                "with multiplier = 1 a single lost packet takes the link down",
                "3 is a good value",
            );
        }
        let table = section.integer("table");
        if let Some(table) = &table
            && *table.get_ref() == TABLE_LOCAL
        {
            section.findings.error(
                &table.span(),
                "table 255 is the kernel's table of local addresses",
                "254 is the main table; any other number from 1 is a table of its own",
            );
        }
        let links: Vec<_> = section
            .sections("link", &LINK)
            .into_iter()
            .zip(1..)
            .map(|(section, position)| Link::read(section, position))
            .collect();
        if section.get("link").is_none() && !section.excused("link") {
            section.findings.error(
                &section.span(),
                "[[peer]] has no link",
                "add a section [[peer.link]] with name, interface and remote",
            );
        }
        let mut announce_interfaces = section.strings("announce-interfaces", "[\"eth0\"]");
        announce_interfaces.retain(|interface| section.is_interface(interface));
        let announce_routes = protocol::read(&section, "announce-routes");
        if let Some(first) = announce_routes.first()
            && section.is_empty("announce-interfaces")
        {
            section.findings.error(
                &first.span(),
                "`announce-routes` without `announce-interfaces` announces nothing",
                "say by which interfaces these routes leave, such as announce-interfaces = [\"eth0\"]",
            );
        }
        Self {
            name,
            role,
            port: section.integer("port").map_or(DEFAULT_PORT, |port| port.into_inner() as u16),
            keys: read_keys(&section, directory),
            interval: section.duration("interval", "100ms").unwrap_or(DEFAULT_INTERVAL),
            multiplier: multiplier.map_or(DEFAULT_MULTIPLIER, Spanned::into_inner),
            routes: section.prefixes("routes"),
            announce: section.prefixes("announce"),
            announce_interfaces,
            announce_routes,
            accept: section.prefixes("accept"),
            max_prefixes: section
                .integer("max-prefixes")
                .map_or(DEFAULT_MAX_PREFIXES, |most| most.into_inner() as usize),
            failback: group::failback(&section),
            hold_up: section.duration("hold-up", "3s").unwrap_or(DEFAULT_HOLD_UP),
            when_all_down: section.choice("when-all-down", &WHEN_ALL_DOWN).unwrap_or(WhenAllDown::Keep),
            limits: Limits {
                loss: group::max_loss(&section),
                rtt_ns: section.duration("max-rtt", "400ms").map(nanoseconds),
                jitter_ns: section.duration("max-jitter", "100ms").map(nanoseconds),
            },
            dampening: section.boolean("dampening").unwrap_or(group::DEFAULT_DAMPENING),
            table: table.map_or(MAIN_TABLE, Spanned::into_inner),
            metric: section.integer("metric").map_or(DEFAULT_METRIC, Spanned::into_inner),
            actuation: Actuation::read(&section),
            links,
            section,
        }
    }

    pub(super) fn called(&self) -> &str {
        self.name.as_ref().map_or("?", |name| name.get_ref())
    }

    /// What the daemon runs; nothing where something is missing, which was reported then.
    pub(super) fn build(self) -> Option<PeerConfig> {
        Some(PeerConfig {
            name: self.name?.into_inner(),
            role: self.role?,
            port: self.port,
            keys: self.keys.into_iter().map(|file| file.key).collect(),
            interval: self.interval,
            multiplier: self.multiplier,
            routes: values(self.routes),
            announce: values(self.announce),
            announce_interfaces: values(self.announce_interfaces),
            announce_routes: values(self.announce_routes),
            accept: values(self.accept),
            max_prefixes: self.max_prefixes,
            failback: self.failback,
            hold_up: self.hold_up,
            when_all_down: self.when_all_down,
            limits: self.limits,
            dampening: self.dampening,
            table: self.table,
            metric: self.metric,
            actuation: self.actuation.choice,
            range: self.actuation.range,
            links: self.links.into_iter().map(Link::build).collect::<Option<_>>()?,
        })
    }
}

impl<'a> Link<'a> {
    fn read(section: Section<'a>, position: u32) -> Self {
        let name = group::link_name(&section, "optic");
        let interface = section.string("interface", "\"eth1\"").filter(|interface| section.is_interface(interface));
        if section.get("interface").is_none() {
            section.missing("interface", "\"eth1\"");
        }
        if section.get("remote").is_none() {
            section.missing("remote", "\"10.248.248.1\" (the peer's address on this link)");
        }
        Self {
            name,
            interface,
            local: section.address("local", "10.248.248.2"),
            remote: section.address("remote", "10.248.248.1"),
            tier: section.integer("tier").map_or(position, Spanned::into_inner),
            weight: section.integer("weight").map_or(group::DEFAULT_WEIGHT, Spanned::into_inner),
            max_hops: section.integer("max-hops").and_then(|hops| u8::try_from(hops.into_inner()).ok()),
            section,
        }
    }

    fn build(self) -> Option<PeerLinkConfig> {
        Some(PeerLinkConfig {
            name: self.name?.into_inner(),
            interface: self.interface?.into_inner(),
            local: self.local.map(Spanned::into_inner),
            remote: self.remote?.into_inner(),
            tier: self.tier,
            weight: self.weight,
            max_hops: self.max_hops,
        })
    }
}

fn read_keys(section: &Section<'_>, directory: &Path) -> Vec<KeyFile> {
    let findings = section.findings;
    let files = section.strings("key-files", "[\"/etc/link-watcher/hq.key\"]");
    match section.get("key-files") {
        None => section.missing("key-files", "[\"hq.key\"]; link-watcher generate key --output hq.key makes one"),
        Some(value) if section.is_empty("key-files") => {
            findings.error(
                &value.span(),
                "`key-files` is empty",
                "name at least one file; link-watcher generate key --output hq.key makes one",
            );
        }
        Some(value) if files.len() > MAX_KEYS => findings.error(
            &value.span(),
            format!("`key-files` names {} files", files.len()),
            format!("a peer has at most {MAX_KEYS} keys"),
        ),
        Some(_) => {}
    }
    let mut keys: Vec<KeyFile> = Vec::new();
    for file in files {
        let path = directory.join(file.get_ref());
        let key = match keys::Key::read(&path) {
            Ok(key) => key,
            Err(error) => {
                let denied = matches!(error.problem, KeyProblem::Denied);
                findings.add(Severity::Error, &file.span(), error.to_string(), error.remedy(), denied);
                continue;
            }
        };
        if let Some(KeyFile { path: other, key: same, .. }) = keys.iter().find(|other| other.key.id() == key.id()) {
            let message = if *same == key {
                format!("key file {} holds the same key as {}", path.display(), other.display())
            } else {
                // One pair of random keys in 256.
                format!(
                    "key file {} and {} cannot be told apart: both have the id {}",
                    path.display(),
                    other.display(),
                    key.id()
                )
            };
            findings.error(&file.span(), message, "leave one of them out, or make another key");
        }
        keys.push(KeyFile { span: file.span(), path, key });
    }
    keys
}
