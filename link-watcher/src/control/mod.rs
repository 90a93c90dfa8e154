//! Commands to a running daemon: a Unix stream socket of root's. Where a group may use it too (`[daemon] control-group`), its
//! members may ask, and order nothing.
//!
//! A client sends one JSON [`Request`] a line, and gets one JSON [`Reply`] a line: one for each request, except that
//! [`Request::Events`] is answered by any number of [`Reply::Event`] and then, unless it follows, [`Reply::End`], and
//! [`Request::TracePackets`] by [`Reply::Tracing`], any number of [`Reply::Packet`] and [`Reply::LeftOut`], and [`Reply::End`].
//! [`Request::Days`] as events are.
//!
//! The server never touches the daemon's state: it sends an [`Order`] to the core through a bounded queue and waits
//! with a deadline; the core never waits for the server.

mod author;
mod client;
mod history;
mod packets;
mod question;
mod server;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub(crate) use self::history::event_name;
pub use self::{
    author::{Author, MAX_REASON_LEN},
    client::{Client, ClientError},
    history::{EventRecord, HISTORY_LEN, History},
    packets::{MAX_TRACE_MS, PacketRecord, TRACE_LINES_A_SECOND, TraceLine, TraceRequest, Traced},
    question::{Becomes, Course, Forced, Forecast, Intent, Knowledge, LinkMark, Marked, Question, Share},
    server::{BindError, Server},
};
use crate::{
    statistics::{Day, DayRecord},
    status::Snapshot,
};

/// Longest line of a request, bytes.
const MAX_REQUEST_LEN: u64 = 4096;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What is so.
    Status,
    /// What would be, or is meant.
    Ask(Question),
    /// What happened.
    Events {
        /// And what happens from now on.
        follow: bool,
    },
    /// What the kernel program thinks of each packet.
    TracePackets {
        /// Of which, and for how long.
        trace: TraceRequest,
        /// As in [`Request::Change`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sudo_user: Option<String>,
    },
    /// How links were on each day.
    Days {
        /// From this one on.
        since: Day,
    },
    /// Something shall change.
    Change {
        /// What.
        change: Change,
        /// Why, in the operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Who is behind `sudo`, as the client says; that it is root is known for sure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sudo_user: Option<String>,
    },
}

/// What an operator wants changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Pins a group to a link, or lets it choose again.
    Switch {
        /// Group.
        group: String,
        /// Link; nothing: it chooses again.
        link: Option<String>,
        /// Even if the link is not usable.
        #[serde(default)]
        force: bool,
    },
    /// Automatic failover on or off.
    Failover {
        /// Group; nothing: all of them.
        group: Option<String>,
        /// On.
        on: bool,
    },
    /// Takes a link out of service.
    Drain {
        /// Group.
        group: String,
        /// Link.
        link: String,
        /// For so many seconds; nothing: until it is put back.
        #[serde(default)]
        for_seconds: Option<u64>,
    },
    /// Puts a link back into service.
    Undrain {
        /// Group.
        group: String,
        /// Link.
        link: String,
    },
    /// Changes a link's share.
    Weight {
        /// Group.
        group: String,
        /// Link.
        link: String,
        /// Share among the active links of one tier, 1 to 256; nothing: what the configuration says.
        weight: Option<u32>,
    },
    /// Reads the configuration again.
    Reload(ReloadOptions),
    /// Stands for the configuration that was read with a time to confirm it in.
    Confirm,
}

/// How the configuration is read again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReloadOptions {
    /// Only say what would change.
    pub dry_run: bool,
    /// Take what this machine does not have for what will come.
    pub force: bool,
    /// The former configuration returns after so many seconds, unless somebody confirms.
    pub confirm_within_seconds: Option<u64>,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Snapshot),
    /// To [`Request::Ask`].
    Known(Knowledge),
    /// To [`Request::Events`], one each, the oldest first.
    Event(EventRecord),
    /// So many events were lost, because the client did not read.
    Lost(u64),
    /// To [`Request::TracePackets`]: what is traced, for people.
    Tracing(String),
    /// Then one for each packet,
    Packet(PacketRecord),
    /// and how many more there were.
    LeftOut(u64),
    /// To [`Request::Days`], one each, the oldest first.
    Day(Day, DayRecord),
    /// These were all events, packets or days.
    End,
    /// It is done: a sentence for the operator.
    Done(String),
    /// It is not done: why, and what to do.
    Refused(String),
    /// It is not done, for whoever asks may not order it.
    Denied(String),
    /// The daemon's core does not answer: why.
    Unavailable(String),
}

/// What the server asks of the daemon's core.
#[derive(Debug)]
pub enum Order {
    /// What is so, now.
    Status(oneshot::Sender<Snapshot>),
    /// What would be, or is meant; or why that cannot be said.
    Ask(Question, oneshot::Sender<Result<Knowledge, String>>),
    /// What the kernel program thinks of each packet, for somebody; or why that cannot be told.
    Trace(TraceRequest, Author, oneshot::Sender<Result<Traced, String>>),
    /// Something shall change, at somebody's order. The answer is a sentence for the operator: what was done, or why not.
    Change(Change, Author, oneshot::Sender<Result<String, String>>),
}
