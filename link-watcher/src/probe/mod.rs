//! Keepalives: the real-time thread that sends probes, takes in what the sockets bring and notices silence.
//!
//! It knows nothing of groups or routes: it gets [`Order`]s and gives [`Report`]s. What it measures stands in
//! [`Tables`], which anybody reads without asking it.

mod endpoint;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod junk;
mod prober;
pub mod receive;
mod tables;
mod thread;
mod timers;

use std::{net::IpAddr, sync::Arc};

use link_watcher_common::{maps::KeySet, wire::Kind};

pub use self::{
    prober::Prober,
    tables::{HeapTables, LinkStats, Stats, Tables},
    thread::{KernelNews, spawn},
};
use crate::{
    event::{Impairment, LinkId, RemoteState},
    health::Limits,
    progress::Progress,
    system::Ethernet,
};

/// What verifies a link's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verifier {
    /// A BPF program: the socket sees only control packets that it passed.
    Kernel,
    /// This thread.
    Socket,
}

/// How the threads get on that links depend on.
#[derive(Clone, Debug)]
pub struct Threads {
    /// The prober itself.
    pub own: Arc<Progress>,
    /// The core, without which probing serves nobody.
    pub core: Arc<Progress>,
}

/// A link, as the prober needs it.
#[derive(Clone)]
pub struct ProbedLink {
    /// Its slot.
    pub id: LinkId,
    /// Our session on it from now on: random, never zero.
    pub session: u32,
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub interface: String,
    /// Our address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// UDP port of both ends.
    pub port: u16,
    /// Time between two probes, ns.
    pub interval_ns: u64,
    /// Silence for so many intervals means down.
    pub multiplier: u32,
    /// Beyond these the link is degraded.
    pub limits: Limits,
    /// Keys; the first signs.
    pub keys: Arc<KeySet>,
    /// Who verifies.
    pub verifier: Verifier,
}

/// What the prober shall do.
pub enum Order {
    /// Probes a link from now on.
    Add(Box<ProbedLink>),
    /// Forgets a link.
    Remove(LinkId),
    /// Signs and verifies with these from now on.
    Keys {
        /// Link.
        link: LinkId,
        /// Keys; the first signs.
        keys: Arc<KeySet>,
    },
    /// Holds these against a link from now on.
    Limits {
        /// Link.
        link: LinkId,
        /// Beyond these it is degraded.
        limits: Limits,
    },
    /// Sends one probe at once: what we say of the link has changed.
    Kick(LinkId),
    /// Sends a control packet.
    Control {
        /// On which link.
        link: LinkId,
        /// What it is.
        kind: Kind,
        /// At most [`link_watcher_common::wire::MAX_BODY_LEN`] bytes.
        body: Vec<u8>,
    },
    /// Says on every link that this is a planned stop, and ends.
    Stop,
}

/// What the prober has noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The link cannot be probed yet; it is tried again.
    Unbound {
        /// Link.
        link: LinkId,
        /// Why, and what to do.
        why: String,
    },
    /// It is probed after all.
    Bound(LinkId),
    /// Echoes arrive.
    Alive(LinkId),
    /// The link answers, but not as a working one does.
    Impaired {
        /// Link.
        link: LinkId,
        /// How.
        impairment: Impairment,
        /// Last echo that counted, ns; 0: never.
        last_good_ns: u64,
        /// When the thread woke that noticed it.
        woke_ns: u64,
    },
    /// No echoes for the detection time.
    Silent {
        /// Link.
        link: LinkId,
        /// Last echo; 0: never.
        last_good_ns: u64,
        /// For when the timer was set that noticed it.
        due_ns: u64,
        /// When the thread woke.
        woke_ns: u64,
    },
    /// The peer says something new.
    RemoteState {
        /// Link.
        link: LinkId,
        /// What.
        state: RemoteState,
        /// When the thread woke that saw it.
        woke_ns: u64,
    },
    /// The peer's packets come from another Ethernet address than before, or come for the first time.
    Moved {
        /// Link.
        link: LinkId,
        /// From there.
        to: Ethernet,
    },
    /// A control packet, verified with its body.
    Control {
        /// Link.
        link: LinkId,
        /// The sender's daemon.
        instance: u32,
        /// What it is.
        kind: Kind,
        /// Its body.
        body: Vec<u8>,
    },
}
