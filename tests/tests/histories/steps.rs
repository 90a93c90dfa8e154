//! What can happen to a router with a peer, what is known of it afterwards, and the dice.

use fastrand::Rng;
use link_watcher_lab::history::{self, History};
use serde::{Deserialize, Serialize};

/// Steps of a life.
const STEPS: usize = 18;
/// The ways to put routes into the kernel.
const BACKENDS: [&str; 3] = ["routes", "tables", "nexthop"];
/// The links, as the lab's default setup has them.
const LINKS: [&str; 3] = ["optic", "wifi", "tunnel"];

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    Cut(String),
    Mend(String),
    /// The interface goes down, and its address with it.
    Down(String),
    Up(String),
    /// The file is edited, and taken.
    File(Edit, How),
    Drain(String),
    Undrain(String),
    /// To that link, and back to auto.
    Switch(String),
    /// Somebody flushes our routes.
    Flush,
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
    pub(crate) cut: bool,
    pub(crate) down: bool,
}

impl Link {
    pub(crate) const fn good(&self) -> bool {
        self.in_file && !self.cut && !self.down
    }
}

/// What the file says, and what became of the links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// In the file's order.
    pub(crate) links: Vec<Link>,
    pub(crate) group: String,
    pub(crate) backend: String,
    pub(crate) interval_ms: u32,
    pub(crate) metric: u32,
    /// The metric of somebody else's default route, while there is one.
    pub(crate) theirs: Option<u32>,
}

impl Known {
    pub(crate) fn begin(backend: &str) -> Self {
        let link = |name: &&str| Link { name: (*name).to_owned(), in_file: true, cut: false, down: false };
        Self {
            links: LINKS.iter().map(link).collect(),
            group: "hq".to_owned(),
            backend: backend.to_owned(),
            interval_ms: 50,
            metric: 0,
            theirs: None,
        }
    }

    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn link_mut(&mut self, name: &str) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.name == name)
    }

    /// Whether it can happen now, and leaves a good link.
    pub(crate) fn can(&self, step: &Step) -> bool {
        let spare = |name: &str| self.links.iter().any(|link| link.name != name && link.good());
        let is = |name: &str, wanted: fn(&Link) -> bool| self.link(name).is_some_and(wanted);
        match step {
            Step::Cut(name) => spare(name) && is(name, |link| !link.cut),
            Step::Mend(name) => is(name, |link| link.cut),
            Step::Down(name) => spare(name) && is(name, |link| !link.down),
            Step::Up(name) => is(name, |link| link.down),
            Step::File(Edit::LeaveOut(name), _) => spare(name) && is(name, |link| link.in_file),
            Step::File(Edit::PutIn(name), _) => is(name, |link| !link.in_file),
            // Ours would stay where it was, before theirs: a prefix keeps its route where the new one is refused.
            Step::File(Edit::Metric(metric), _) => self.theirs != Some(*metric),
            Step::Take => self.theirs.is_none(),
            Step::GiveBack => self.theirs.is_some(),
            _ => true,
        }
    }

    /// What is known after it.
    pub(crate) fn note(&mut self, step: &Step) {
        match step {
            Step::Cut(name) | Step::Mend(name) => {
                if let Some(link) = self.link_mut(name) {
                    link.cut = matches!(step, Step::Cut(_));
                }
            }
            Step::Down(name) | Step::Up(name) => {
                if let Some(link) = self.link_mut(name) {
                    link.down = matches!(step, Step::Down(_));
                }
            }
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
                if let Some(link) = self.link_mut(name) {
                    link.in_file = matches!(edit, Edit::PutIn(_));
                }
            }
            Edit::Order(names) => {
                self.links.sort_by_key(|link| names.iter().position(|name| *name == link.name));
            }
            Edit::Rename(group) => self.group.clone_from(group),
            Edit::Backend(backend) => self.backend.clone_from(backend),
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
        let Link { name, in_file, cut, down } = self.links[rng.usize(..self.links.len())].clone();
        let whose = if rng.bool() { Whose::Client } else { Whose::Server };
        match rng.u32(..20) {
            0 => {
                if cut {
                    Step::Mend(name)
                } else {
                    Step::Cut(name)
                }
            }
            1 => {
                if down {
                    Step::Up(name)
                } else {
                    Step::Down(name)
                }
            }
            2..8 => Step::File(self.throw_edit(name, in_file, rng), throw_how(rng)),
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
        match rng.u32(..6) {
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
            4 => Edit::IntervalMs(if self.interval_ms == 50 { 60 } else { 50 }),
            _ => Edit::Metric(if self.metric == 0 { 100 } else { 0 }),
        }
    }
}

fn throw_how(rng: &mut Rng) -> How {
    let all = [How::Reload, How::Restart, How::Kill, How::Confirmed, How::Unconfirmed, How::UnconfirmedKilled];
    *rng.choice(&all).unwrap()
}

/// The life of this seed.
pub(crate) fn draw(seed: u64) -> History<Step> {
    let mut rng = Rng::with_seed(seed);
    let start = (*rng.choice(&BACKENDS).unwrap()).to_owned();
    let throw = |known: &Known| known.throw(&mut rng);
    let steps = history::draw(&mut Known::begin(&start), STEPS, throw, Known::can, Known::note);
    History { start, steps }
}
