//! What can happen to a router with several uplinks, what is known of it afterwards, and the dice.

use fastrand::Rng;
use link_watcher_lab::history::{self, History};
use serde::{Deserialize, Serialize};

/// Steps of a life.
const STEPS: usize = 14;
/// The uplinks, as the lab's default setup has them; they are called so here even while the file calls them otherwise.
pub(crate) const UPLINKS: [&str; 3] = ["fibre", "dsl", "lte"];
/// Those of the uplinks, in this order.
const TIERS: [&str; 4] = ["1 1 1", "1 1 2", "1 2 2", "1 2 3"];

/// What the router's administrator has besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firewall {
    None,
    /// Drops what belongs to no connection.
    Invalid,
    /// Drops what begins a connection without SYN.
    NewNotSyn,
    /// Connections that it has not seen begin are none (`nf_conntrack_tcp_loose = 0`).
    Strict,
    /// Lets pass what comes from the LAN, and its answers.
    Policy,
    /// Masquerades by itself, as a distribution's firewall does.
    Masquerade,
}

impl Firewall {
    const ALL: [(&str, Self); 6] = [
        ("none", Self::None),
        ("invalid", Self::Invalid),
        ("new-not-syn", Self::NewNotSyn),
        ("strict", Self::Strict),
        ("policy", Self::Policy),
        ("masquerade", Self::Masquerade),
    ];

    /// Its chains.
    pub(crate) const fn chains(self) -> &'static str {
        match self {
            Self::None | Self::Strict => "",
            Self::Invalid => "chain forward { type filter hook forward priority filter; ct state invalid drop; }",
            Self::NewNotSyn => {
                "chain forward { type filter hook forward priority filter;\n\
                 tcp flags & (fin|syn|rst|ack) != syn ct state new drop; }"
            }
            Self::Policy => {
                "chain forward { type filter hook forward priority filter; policy drop;\n\
                 ct state established,related accept; iifname eth0 accept; }"
            }
            Self::Masquerade => {
                "chain out { type nat hook postrouting priority srcnat; oifname != eth0 oifname != lo masquerade; }"
            }
        }
    }
}

/// With which configuration a life begins: the tiers, then the firewall's word, then `udp` or `tcp`, as far as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) tiers: [u32; 3],
    pub(crate) firewall: Firewall,
    pub(crate) udp: bool,
}

impl Start {
    pub(crate) fn parse(text: &str) -> Self {
        let words: Vec<_> = text.split(' ').collect();
        let tier = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(1);
        let firewall = Firewall::ALL.iter().find(|(word, _)| words.get(3) == Some(word));
        Self {
            tiers: [tier(0), tier(1), tier(2)],
            firewall: firewall.map_or(Firewall::None, |(_, firewall)| *firewall),
            udp: words.get(4) == Some(&"udp"),
        }
    }

    fn draw(rng: &mut Rng) -> String {
        let tiers = rng.choice(&TIERS).unwrap();
        let (firewall, _) = rng.choice(&Firewall::ALL).unwrap();
        format!("{tiers} {firewall} {}", if rng.bool() { "udp" } else { "tcp" })
    }
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Silently; with `gateway`, the gateway goes on to answer.
    Die {
        uplink: String,
        gateway: bool,
    },
    Mend(String),
    Down(String),
    Up(String),
    /// The interface loses its address.
    Unaddress(String),
    Address(String),
    /// The file is edited, and taken.
    File(Edit, How),
    Drain(String),
    Undrain(String),
    /// To that uplink, and back to auto.
    Switch(String),
    /// An order; 0 takes the file's again.
    Weight(String, u32),
    Kill,
    /// The daemon ends as for an upgrade, and is started.
    Upgrade,
    /// The daemon gets no processor for so many milliseconds.
    Pause(u64),
    /// Somebody deletes what is ours.
    Delete(Ours),
    /// All targets fall silent for so many rounds of probes, and nothing else does.
    Silence(u32),
    /// Somebody else sets `rp_filter` of the uplink's interface.
    RpFilter(String, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ours {
    Nftables,
    Rules,
    Routes,
}

/// A change of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Edit {
    LeaveOut(String),
    PutIn(String),
    Order(Vec<String>),
    /// It is called otherwise, or as at first.
    Rename(String),
    /// These two change their names.
    Swap(String, String),
    Weight(String, u32),
}

/// How the daemon comes to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    Reload,
    Restart,
    Kill,
}

/// One uplink, as this story has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uplink {
    /// The provider's name.
    pub(crate) name: String,
    /// What the file calls it.
    pub(crate) called: String,
    pub(crate) tier: u32,
    pub(crate) weight: u32,
    pub(crate) in_file: bool,
    pub(crate) dead: bool,
    pub(crate) down: bool,
    pub(crate) unaddressed: bool,
}

impl Uplink {
    pub(crate) const fn good(&self) -> bool {
        self.in_file && !self.dead && !self.down && !self.unaddressed
    }
}

/// What the file says, and what became of the uplinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// In the file's order.
    pub(crate) uplinks: Vec<Uplink>,
}

impl Known {
    pub(crate) fn begin(start: Start) -> Self {
        let uplink = |((name, weight), tier): ((&&str, u32), u32)| Uplink {
            name: (*name).to_owned(),
            called: (*name).to_owned(),
            tier,
            weight,
            in_file: true,
            dead: false,
            down: false,
            unaddressed: false,
        };
        Self { uplinks: UPLINKS.iter().zip([5, 3, 2]).zip(start.tiers).map(uplink).collect() }
    }

    pub(crate) fn uplink(&self, name: &str) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| uplink.name == name)
    }

    fn with(&mut self, name: &str, change: impl FnOnce(&mut Uplink)) {
        if let Some(uplink) = self.uplinks.iter_mut().find(|uplink| uplink.name == name) {
            change(uplink);
        }
    }

    /// Whether it can happen now, and leaves a good uplink.
    pub(crate) fn can(&self, step: &Step) -> bool {
        let spare = |name: &str| self.uplinks.iter().any(|uplink| uplink.name != name && uplink.good());
        let is = |name: &str, wanted: fn(&Uplink) -> bool| self.uplink(name).is_some_and(wanted);
        match step {
            Step::Die { uplink, .. } => spare(uplink) && is(uplink, |uplink| !uplink.dead),
            Step::Mend(name) => is(name, |uplink| uplink.dead),
            Step::Down(name) => spare(name) && is(name, |uplink| !uplink.down),
            Step::Up(name) => is(name, |uplink| uplink.down),
            Step::Unaddress(name) => spare(name) && is(name, |uplink| !uplink.unaddressed),
            Step::Address(name) => is(name, |uplink| uplink.unaddressed),
            Step::File(Edit::LeaveOut(name), _) => spare(name) && is(name, |uplink| uplink.in_file),
            Step::File(Edit::PutIn(name), _) => is(name, |uplink| !uplink.in_file),
            Step::File(Edit::Swap(one, other), _) => one != other,
            _ => true,
        }
    }

    /// What is known after it.
    pub(crate) fn note(&mut self, step: &Step) {
        match step {
            Step::Die { uplink: name, .. } | Step::Mend(name) => {
                self.with(name, |uplink| uplink.dead = matches!(step, Step::Die { .. }));
            }
            Step::Down(name) | Step::Up(name) => {
                self.with(name, |uplink| uplink.down = matches!(step, Step::Down(_)));
            }
            Step::Unaddress(name) | Step::Address(name) => {
                self.with(name, |uplink| uplink.unaddressed = matches!(step, Step::Unaddress(_)));
            }
            Step::File(edit, _) => self.edit(edit),
            _ => {}
        }
    }

    fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::LeaveOut(name) | Edit::PutIn(name) => {
                self.with(name, |uplink| uplink.in_file = matches!(edit, Edit::PutIn(_)));
            }
            Edit::Order(names) => {
                self.uplinks.sort_by_key(|uplink| names.iter().position(|name| *name == uplink.name));
            }
            Edit::Rename(name) => self.with(name, |uplink| {
                uplink.called = match uplink.called.strip_suffix("-b") {
                    Some(former) => former.to_owned(),
                    None => format!("{}-b", uplink.called),
                };
            }),
            Edit::Swap(one, other) => {
                let called = |name: &str| self.uplink(name).map(|uplink| uplink.called.clone()).unwrap_or_default();
                let (former, latter) = (called(one), called(other));
                self.with(one, |uplink| uplink.called = latter);
                self.with(other, |uplink| uplink.called = former);
            }
            Edit::Weight(name, weight) => self.with(name, |uplink| uplink.weight = *weight),
        }
    }

    /// Whether a step may cost the connections of this uplink. What begins anew (another name) may; what only changes its
    /// weight, its place or its orders, or stands by while others change, may not.
    pub(crate) fn touched(step: &Step, name: &str) -> bool {
        match step {
            Step::Die { uplink, .. } => uplink == name,
            Step::Down(touched) | Step::Unaddress(touched) => touched == name,
            Step::File(Edit::LeaveOut(touched) | Edit::Rename(touched), _) => touched == name,
            Step::File(Edit::Swap(one, other), _) => one == name || other == name,
            _ => false,
        }
    }

    fn throw(&self, rng: &mut Rng) -> Step {
        let Uplink { name, in_file, dead, down, unaddressed, .. } =
            self.uplinks[rng.usize(..self.uplinks.len())].clone();
        match rng.u32(..19) {
            0..3 => {
                if dead {
                    Step::Mend(name)
                } else {
                    Step::Die { uplink: name, gateway: rng.bool() }
                }
            }
            3 => {
                if down {
                    Step::Up(name)
                } else {
                    Step::Down(name)
                }
            }
            4 => {
                if unaddressed {
                    Step::Address(name)
                } else {
                    Step::Unaddress(name)
                }
            }
            5..10 => {
                let how = *rng.choice(&[How::Reload, How::Restart, How::Kill]).unwrap();
                Step::File(self.throw_edit(name, in_file, rng), how)
            }
            10 => Step::Drain(name),
            11 => Step::Undrain(name),
            12 => Step::Switch(name),
            13 => Step::Weight(name, rng.u32(..=9)),
            14 => {
                if rng.bool() {
                    Step::Kill
                } else {
                    Step::Upgrade
                }
            }
            15 => Step::Pause(rng.u64(..=2000)),
            16 => Step::Delete(*rng.choice(&[Ours::Nftables, Ours::Rules, Ours::Routes]).unwrap()),
            17 => Step::Silence(rng.u32(2..=10)),
            _ => Step::RpFilter(name, rng.u8(..=2)),
        }
    }

    fn throw_edit(&self, name: String, in_file: bool, rng: &mut Rng) -> Edit {
        match rng.u32(..6) {
            0 | 1 => {
                if in_file {
                    Edit::LeaveOut(name)
                } else {
                    Edit::PutIn(name)
                }
            }
            2 => {
                let mut names: Vec<_> = self.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
                rng.shuffle(&mut names);
                Edit::Order(names)
            }
            3 => Edit::Rename(name),
            4 => Edit::Swap(name, self.uplinks[rng.usize(..self.uplinks.len())].name.clone()),
            _ => Edit::Weight(name, rng.u32(1..=9)),
        }
    }
}

/// The life of this seed.
pub(crate) fn draw(seed: u64) -> History<Step> {
    let mut rng = Rng::with_seed(seed);
    let start = Start::draw(&mut rng);
    let throw = |known: &Known| known.throw(&mut rng);
    let steps = history::draw(&mut Known::begin(Start::parse(&start)), STEPS, throw, Known::can, Known::note);
    History { start, steps }
}
