//! The engine's border: what happens ([`Event`]), and what shall be done ([`Action`]). All of it serialises, so that a bug
//! report can be replayed.
//!
//! Times are nanoseconds of the monotonic clock (`CLOCK_MONOTONIC`, which is also what the kernel program stamps with).

use link_watcher_common::{
    maps::{Party, View},
    wire::flags,
};
use serde::{Deserialize, Serialize};

use std::collections::{BTreeMap, BTreeSet};

use crate::health::Degraded;

/// A link's number: its slot in the BPF maps. Stable from configuration to reload, as long as the link does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId(pub u32);

/// A group's number. Stable like a link's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u32);

/// Which end of a peer this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Chooses the link.
    Client,
    /// Follows.
    Server,
}

/// When a better tier takes the traffic back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failback {
    /// Once it has been usable for so long, in nanoseconds.
    After(u64),
    /// Never by itself.
    Manual,
}

/// A group, as the engine needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Number.
    pub id: GroupId,
    /// Name.
    pub name: String,
    /// Which end of a peer this is; nothing for uplinks, which have no other end that agrees.
    pub role: Option<Role>,
    /// When a better tier takes the traffic back.
    pub failback: Failback,
    /// How long a link that was down must answer before it is usable again, ns.
    pub hold_up_ns: u64,
    /// Detection time of a peer, interval × multiplier, ns.
    pub detection_ns: u64,
    /// Links that flap are left out until they are quiet (RFC 2439).
    pub dampening: bool,
    /// Its links, in the order of the file.
    pub links: Vec<LinkSpec>,
    /// What an operator has ordered and not taken back, whichever run of the daemon it was.
    pub orders: StandingOrders,
}

/// What an operator has ordered of a group. It holds until it is taken back, over every new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingOrders {
    /// Link that carries the traffic whatever the tiers say.
    pub pinned: Option<LinkId>,
    /// Nothing moves by itself.
    pub failover_off: bool,
    /// Links out of service.
    pub drained: BTreeSet<LinkId>,
    /// Weights instead of the configuration's, 1 to 256.
    pub weights: BTreeMap<LinkId, u32>,
}

/// A link, as the engine needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// Number.
    pub id: LinkId,
    /// Name, unique in the group.
    pub name: String,
    /// Preference, the lowest first; 0, for an uplink: never chosen.
    pub tier: u32,
    /// Share among the active links of one tier, 1 to 256.
    pub weight: u32,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// These are the groups from now on, with the orders that stand. Links and groups with a known id keep their state, but for
    /// what was ordered of them.
    Configure(Vec<GroupSpec>),
    /// The kernel's routes, found at start, send this group's traffic here: no reason to move it.
    Adopted {
        /// Group.
        group: GroupId,
        /// Links that carry its traffic.
        links: Vec<LinkId>,
    },
    /// The link answers: a fresh echo after silence.
    Alive {
        /// Link.
        link: LinkId,
    },
    /// The link has been silent for the detection time, or for reasons that the prober gives.
    Silent {
        /// Link.
        link: LinkId,
        /// Last good packet; 0: never.
        last_good_ns: u64,
    },
    /// A peer's link answers, but not as a working one does.
    Impaired {
        /// Link.
        link: LinkId,
        /// How.
        impairment: Impairment,
        /// Last good packet, ns; 0: never.
        last_good_ns: u64,
    },
    /// An uplink's probes have come to another verdict.
    Probed {
        /// Link.
        link: LinkId,
        /// Verdict.
        health: Health,
        /// Why, in words for the operator; nothing for [`Health::Up`].
        why: String,
        /// End of the last good round; 0: never.
        last_good_ns: u64,
    },
    /// Another verdict on an uplink may follow at once: what befalls several within one round is decided once, after all have been
    /// heard.
    VerdictPending {
        /// Link.
        link: LinkId,
        /// When it has come, or will not, ns.
        until_ns: u64,
    },
    /// What the peer says of the link has changed.
    RemoteState {
        /// Link.
        link: LinkId,
        /// What it says now.
        state: RemoteState,
    },
    /// The interface has changed.
    Device {
        /// Link.
        link: LinkId,
        /// What it is now.
        device: Device,
    },
    /// Somebody asks for something.
    Command(Command),
}

/// How a peer's link answers that is only better than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Impairment {
    /// Its echoes are too old to prove anything about now.
    Late {
        /// Round trip of the last one, ns.
        rtt_ns: u64,
        /// What is usual on this link, ns; 0: not known.
        usual_ns: u64,
    },
    /// The peer's kernel program answers, but nothing comes through its network stack.
    Beneath {
        /// Since how long, ns.
        for_ns: u64,
    },
    /// A measure is beyond its threshold.
    Beyond(Degraded),
}

/// What an uplink's probes say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It works.
    Up,
    /// It works, but not well enough: better than nothing.
    Degraded,
    /// It does not.
    Down,
}

/// What the peer says of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteState {
    /// Its daemon; changes when it restarts.
    pub instance: u32,
    /// Its session on this link; changes when the link starts anew there.
    pub session: u32,
    /// Its agreement epoch.
    pub epoch: u32,
    /// Its order of preference, 0 first.
    pub rank: u16,
    /// This link is its active one.
    pub active: bool,
    /// Its operator drained the link.
    pub drained: bool,
    /// It hears me: its verdict on the link is "up".
    pub hears: bool,
    /// It is about to stop for a moment.
    pub restarting: bool,
    /// Seconds for which its daemon has been silent, at most 255, while its kernel answers; 0: it lives.
    pub silence_seconds: u8,
}

impl RemoteState {
    /// What a packet of this sender said.
    pub const fn heard(sender: Party, view: View) -> Self {
        Self {
            instance: sender.instance,
            session: sender.session,
            epoch: view.epoch,
            rank: view.rank,
            active: view.flags & flags::ACTIVE != 0,
            drained: view.flags & flags::DRAINED != 0,
            hears: view.flags & flags::HEARS != 0,
            restarting: view.flags & flags::RESTARTING != 0,
            silence_seconds: view.silence_seconds,
        }
    }
}

/// What an interface is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// There, administratively up, with carrier and the link's address.
    Ready,
    /// There and up, but without carrier (RFC 2863: operational state down or lower layer down).
    NoCarrier,
    /// There, but the link's local address is not on it.
    NoAddress,
    /// There, with an address, but no gateway is known.
    NoGateway,
    /// There, but administratively down.
    Disabled,
    /// No such interface.
    Missing,
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Pins a group to a link.
    Pin {
        /// Group.
        group: GroupId,
        /// Link.
        link: LinkId,
        /// Even if it is not usable now.
        force: bool,
    },
    /// Lets a group choose again, and go to its best link at once.
    Unpin {
        /// Group.
        group: GroupId,
    },
    /// Moves a group to its next usable link (SIGUSR2): pins it there.
    Next {
        /// Group.
        group: GroupId,
    },
    /// Automatic failover on or off.
    Failover {
        /// Group.
        group: GroupId,
        /// On.
        on: bool,
    },
    /// Changes a link's share.
    Weight {
        /// Link.
        link: LinkId,
        /// Share among the active links of one tier, 1 to 256; nothing: the configuration's.
        weight: Option<u32>,
    },
    /// Takes a link out of service, or back in.
    Drain {
        /// Link.
        link: LinkId,
        /// Out of service.
        drained: bool,
    },
    /// The time for which a link was to be out of service is over.
    DrainOver {
        /// Link.
        link: LinkId,
    },
}

/// What shall be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Say this on the link, in every packet from now on.
    Advertise {
        /// Link.
        link: LinkId,
        /// What.
        state: LocalState,
    },
    /// Send the group's traffic there.
    Route {
        /// Group.
        group: GroupId,
        /// Where to.
        plan: Plan,
    },
    /// Tell people.
    Notify(Transition),
}

/// What we say of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalState {
    /// Agreement epoch.
    pub epoch: u32,
    /// Our order of preference, 0 first.
    pub rank: u16,
    /// It is our active one.
    pub active: bool,
    /// Our operator drained it.
    pub drained: bool,
    /// Our verdict is "up".
    pub hears: bool,
}

impl LocalState {
    /// As packets carry it.
    pub fn view(self, role: Role) -> View {
        let bits = [
            (flags::ACTIVE, self.active),
            (flags::DRAINED, self.drained),
            (flags::HEARS, self.hears),
            (flags::CLIENT, role == Role::Client),
        ];
        let flags = bits.iter().filter(|(_, set)| *set).fold(0, |flags, (bit, _)| flags | bit);
        View { epoch: self.epoch, rank: self.rank, silence_seconds: 0, flags }
    }
}

/// Where a group's traffic goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Links that carry it, with their weights, in the order of their ids.
    pub active: Vec<(LinkId, u32)>,
    /// Usable links that stand by, best first.
    pub backups: Vec<LinkId>,
    /// No link answers, nor may one do so any moment: `active` are those that answered last.
    pub all_down: bool,
}

/// Something that people want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When, ns.
    pub at_ns: u64,
    /// Group.
    pub group: GroupId,
    /// Link, where it is about one.
    pub link: Option<LinkId>,
    /// What.
    pub what: TransitionKind,
    /// Why, in words for the operator: "no echo for 30 ms", "carrier lost", "peer stopped hearing us".
    pub why: String,
    /// Last good packet before it; 0: does not apply. `at_ns` minus this is the time to detect.
    pub last_good_ns: u64,
}

/// Kinds of transition. The names are those of `on = [...]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransitionKind {
    /// A link answers.
    LinkUp,
    /// A link does not answer.
    LinkDown,
    /// A link answers, but outside of its thresholds or only beneath the network stack.
    LinkDegraded,
    /// A link flaps: until it is quiet it is not used, and what befalls it is only counted.
    LinkDampened,
    /// Traffic moved.
    ActiveChanged {
        /// Links that carried it.
        from: Vec<LinkId>,
        /// Links that carry it now.
        to: Vec<LinkId>,
    },
    /// No link of the group is usable; its routes stay where they were.
    NoUsableLink,
    /// An operator's order was carried out.
    Ordered,
    /// The peer has started anew.
    PeerRestarted,
    /// The peer's daemon gives no sign of life, while its kernel goes on answering.
    PeerSilent,
    /// It gives some again.
    PeerBack,
    /// The peer answers keepalives, but announcements do not get through.
    AnnouncementsUnanswered,
    /// They do again.
    AnnouncementsAnswered,
}

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkVerdict {
    /// No verdict yet.
    Starting,
    /// Answers.
    Up,
    /// Does not answer.
    Down,
    /// Answers, but outside of its thresholds or only beneath the network stack.
    Degraded,
    /// Answers, but has flapped too often to be used now.
    Dampened,
    /// Cannot be probed: no such interface, administratively down, or without an address or a gateway.
    Absent,
}

impl LinkVerdict {
    /// As the status prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Degraded => "degraded",
            Self::Dampened => "dampened",
            Self::Absent => "absent",
        }
    }
}
