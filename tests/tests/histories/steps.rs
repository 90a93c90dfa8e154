//! What can happen to a router with a peer, what is known of it afterwards, and the dice.

use fastrand::Rng;
use link_watcher_lab::history::{self, History};
use serde::{Deserialize, Serialize};

/// Steps of a life.
const STEPS: usize = 18;
/// The ways to put routes into the kernel.
const BACKENDS: [&str; 3] = ["routes", "tables", "nexthop"];
/// What verifies keepalives.
const ENGINES: [&str; 3] = ["auto", "tc", "socket"];
/// The links, as the lab's default setup has them.
const LINKS: [&str; 3] = ["optic", "wifi", TUNNEL];
/// The one that is no Ethernet.
const TUNNEL: &str = "tunnel";

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    Cut(String),
    /// Only one direction is lost.
    OneWay {
        link: String,
        to: Whose,
    },
    /// The cable is pulled at this end.
    Unplug {
        link: String,
        at: Whose,
    },
    /// Whatever was cut.
    Mend(String),
    /// The interface goes down, and its address with it.
    Down(String),
    Up(String),
    /// The interface loses its address, and nothing else.
    Unaddress(String),
    Address(String),
    /// The interface gets another hardware address, which ends so.
    Mac {
        link: String,
        last: u8,
    },
    /// The file is edited, and taken.
    File(Edit, How),
    /// The link is left out of the server's file, or put in again.
    ServerFile {
        link: String,
        there: bool,
        how: ServerHow,
    },
    Drain(String),
    Undrain(String),
    /// To that link, and back to auto.
    Switch(String),
    /// Somebody flushes our routes.
    Flush,
    /// Somebody deletes our rules and nexthop objects.
    Strip,
    /// Somebody adds a rule and a route of theirs, or takes them away.
    Somebody(bool),
    /// Somebody replaces our default route by one of theirs.
    Take,
    /// That one goes.
    GiveBack,
    /// The daemon is killed, and started.
    Kill(Whose),
    /// The daemon ends as for an upgrade, and is started.
    Upgrade(Whose),
    /// The daemon gets no processor for so long.
    Pause {
        whose: Whose,
        ms: u64,
    },
    Mtu {
        link: String,
        octets: u32,
    },
    /// Somebody else sets it.
    RpFilter {
        link: String,
        value: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Whose {
    Client,
    Server,
}

/// A change of the client's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Edit {
    LeaveOut(String),
    PutIn(String),
    Order(Vec<String>),
    Rename(String),
    Backend(String),
    /// Which takes a restart.
    Engine(String),
    IntervalMs(u32),
    Metric(u32),
}

/// How the daemon comes to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    Reload,
    Restart,
    Kill,
    /// `reload --confirm-within`, and `confirm`.
    Confirmed,
    /// Nobody confirms; then the former file is taken again.
    Unconfirmed,
    /// The daemon is killed while it waits to be confirmed, and started; then as before.
    UnconfirmedKilled,
}

/// How the server's daemon comes to know of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ServerHow {
    Reload,
    Restart,
    Kill,
}

impl How {
    pub(crate) const fn lasts(self) -> bool {
        !matches!(self, Self::Unconfirmed | Self::UnconfirmedKilled)
    }
}

/// One link, as this story has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) in_file: bool,
    pub(crate) at_server: bool,
    pub(crate) cut: bool,
    pub(crate) down: bool,
    pub(crate) unaddressed: bool,
}

impl Link {
    pub(crate) const fn good(&self) -> bool {
        self.in_file && self.at_server && !self.cut && !self.down && !self.unaddressed
    }
}

/// What the file says, and what became of the links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// In the file's order.
    pub(crate) links: Vec<Link>,
    pub(crate) group: String,
    pub(crate) backend: String,
    pub(crate) engine: String,
    pub(crate) interval_ms: u32,
    pub(crate) metric: u32,
    /// The metric of somebody else's default route, while there is one.
    pub(crate) theirs: Option<u32>,
    /// Whether somebody has a further rule and route.
    pub(crate) somebody: bool,
}

impl Known {
    pub(crate) fn begin(backend: &str) -> Self {
        let link = |name: &&str| Link {
            name: (*name).to_owned(),
            in_file: true,
            at_server: true,
            cut: false,
            down: false,
            unaddressed: false,
        };
        Self {
            links: LINKS.iter().map(link).collect(),
            group: "hq".to_owned(),
            backend: backend.to_owned(),
            engine: "auto".to_owned(),
            interval_ms: 50,
            metric: 0,
            theirs: None,
            somebody: false,
        }
    }

    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn with(&mut self, name: &str, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.iter_mut().find(|link| link.name == name) {
            change(link);
        }
    }

    /// Whether it can happen now, and leaves a good link.
    pub(crate) fn can(&self, step: &Step) -> bool {
        let spare = |name: &str| self.links.iter().any(|link| link.name != name && link.good());
        let is = |name: &str, wanted: fn(&Link) -> bool| self.link(name).is_some_and(wanted);
        match step {
            Step::Cut(name) | Step::OneWay { link: name, .. } | Step::Unplug { link: name, .. } => {
                spare(name) && is(name, |link| !link.cut)
            }
            Step::Mend(name) => is(name, |link| link.cut),
            Step::Down(name) | Step::Unaddress(name) => spare(name) && is(name, |link| !link.down && !link.unaddressed),
            Step::Up(name) => is(name, |link| link.down),
            Step::Address(name) => is(name, |link| link.unaddressed),
            // It has none.
            Step::Mac { link, .. } => link != TUNNEL,
            Step::ServerFile { link, there: false, .. } => spare(link) && is(link, |link| link.at_server),
            Step::ServerFile { link, there: true, .. } => is(link, |link| !link.at_server),
            Step::Somebody(there) => self.somebody != *there,
            Step::File(Edit::LeaveOut(name), _) => spare(name) && is(name, |link| link.in_file),
            Step::File(Edit::PutIn(name), _) => is(name, |link| !link.in_file),
            // Ours would stay where it was, before theirs: a prefix keeps its route where the new one is refused.
            // What comes back to a place that is taken keeps the one that it had, which is no leading route of somebody else.
            Step::File(Edit::Metric(metric), how) => {
                self.theirs != Some(*metric) && (how.lasts() || self.theirs != Some(self.metric))
            }
            Step::Take => self.theirs.is_none(),
            Step::GiveBack => self.theirs.is_some(),
            _ => true,
        }
    }

    /// What is known after it.
    pub(crate) fn note(&mut self, step: &Step) {
        match step {
            Step::Cut(name) | Step::OneWay { link: name, .. } | Step::Unplug { link: name, .. } => {
                self.with(name, |link| link.cut = true);
            }
            Step::Mend(name) => self.with(name, |link| link.cut = false),
            Step::Down(name) | Step::Up(name) => self.with(name, |link| link.down = matches!(step, Step::Down(_))),
            Step::Unaddress(name) | Step::Address(name) => {
                self.with(name, |link| link.unaddressed = matches!(step, Step::Unaddress(_)));
            }
            Step::ServerFile { link: name, there, .. } => self.with(name, |link| link.at_server = *there),
            Step::Somebody(there) => self.somebody = *there,
            Step::File(edit, how) if how.lasts() => self.edit(edit),
            Step::Take => self.theirs = Some(self.metric),
            Step::GiveBack => self.theirs = None,
            _ => {}
        }
    }

    /// The file after this change.
    pub(crate) fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::LeaveOut(name) | Edit::PutIn(name) => {
                self.with(name, |link| link.in_file = matches!(edit, Edit::PutIn(_)));
            }
            Edit::Order(names) => {
                self.links.sort_by_key(|link| names.iter().position(|name| *name == link.name));
            }
            Edit::Rename(group) => self.group.clone_from(group),
            Edit::Backend(backend) => self.backend.clone_from(backend),
            Edit::Engine(engine) => self.engine.clone_from(engine),
            Edit::IntervalMs(interval_ms) => self.interval_ms = *interval_ms,
            Edit::Metric(metric) => self.metric = *metric,
        }
    }

    /// Whether somebody else's default route keeps ours out. Tables, which come before the main one, give way to what would
    /// lead there; in the main table ours stands behind it.
    pub(crate) fn kept_out(&self) -> bool {
        if self.backend == "tables" { self.theirs_leads() } else { self.theirs == Some(self.metric) }
    }

    /// Whether the kernel follows somebody else's default route instead of ours.
    pub(crate) fn theirs_leads(&self) -> bool {
        self.theirs.is_some_and(|metric| metric <= self.metric)
    }

    fn throw(&self, rng: &mut Rng) -> Step {
        let Link { name, in_file, at_server, cut, down, unaddressed } =
            self.links[rng.usize(..self.links.len())].clone();
        let whose = if rng.bool() { Whose::Client } else { Whose::Server };
        match rng.u32(..26) {
            0 | 20 if cut => Step::Mend(name),
            0 => Step::Cut(name),
            20 if rng.bool() => Step::OneWay { link: name, to: whose },
            20 => Step::Unplug { link: name, at: whose },
            1 | 21 if down => Step::Up(name),
            1 | 21 if unaddressed => Step::Address(name),
            1 => Step::Down(name),
            21 => Step::Unaddress(name),
            22 => {
                let how = *rng.choice(&[ServerHow::Reload, ServerHow::Restart, ServerHow::Kill]).unwrap();
                Step::ServerFile { link: name, there: !at_server, how }
            }
            23 => Step::Mac { link: name, last: rng.u8(1..) },
            24 => Step::Strip,
            25 => Step::Somebody(!self.somebody),
            2..8 => {
                let edit = self.throw_edit(name, in_file, rng);
                let how = throw_how(matches!(edit, Edit::Engine(_)), rng);
                Step::File(edit, how)
            }
            8 => Step::Drain(name),
            9 => Step::Undrain(name),
            10 => Step::Switch(name),
            11 => Step::Flush,
            12 => {
                if self.theirs.is_some() {
                    Step::GiveBack
                } else {
                    Step::Take
                }
            }
            13 => Step::GiveBack,
            14 => Step::Kill(whose),
            15 => Step::Kill(Whose::Client),
            16 => Step::Upgrade(whose),
            17 => Step::Pause { whose, ms: rng.u64(..=2000) },
            18 => Step::Mtu { link: name, octets: *rng.choice(&[1280, 1400, 1500]).unwrap() },
            _ => Step::RpFilter { link: name, value: rng.u8(..=2) },
        }
    }

    fn throw_edit(&self, name: String, in_file: bool, rng: &mut Rng) -> Edit {
        match rng.u32(..7) {
            0 => {
                if in_file {
                    Edit::LeaveOut(name)
                } else {
                    Edit::PutIn(name)
                }
            }
            1 => {
                let mut names: Vec<_> = self.links.iter().map(|link| link.name.clone()).collect();
                rng.shuffle(&mut names);
                Edit::Order(names)
            }
            2 => Edit::Rename(if self.group == "hq" { "other" } else { "hq" }.to_owned()),
            3 => Edit::Backend((*rng.choice(&BACKENDS).unwrap()).to_owned()),
            6 => Edit::Engine((*rng.choice(&ENGINES).unwrap()).to_owned()),
            4 => Edit::IntervalMs(if self.interval_ms == 50 { 60 } else { 50 }),
            _ => Edit::Metric(if self.metric == 0 { 100 } else { 0 }),
        }
    }
}

fn throw_how(takes_a_restart: bool, rng: &mut Rng) -> How {
    let all = [How::Restart, How::Kill, How::Reload, How::Confirmed, How::Unconfirmed, How::UnconfirmedKilled];
    *rng.choice(if takes_a_restart { &all[..2] } else { &all }).unwrap()
}

/// The life of this seed.
pub(crate) fn draw(seed: u64) -> History<Step> {
    let mut rng = Rng::with_seed(seed);
    let start = (*rng.choice(&BACKENDS).unwrap()).to_owned();
    let throw = |known: &Known| known.throw(&mut rng);
    let steps = history::draw(&mut Known::begin(&start), STEPS, throw, Known::can, Known::note);
    History { start, steps }
}
