//! What the kernel program thinks of each keepalive, for a while (`trace-packets`).

use std::sync::{Arc, atomic::AtomicBool};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// The longest trace, milliseconds.
pub const MAX_TRACE_MS: u64 = 600_000;
/// Most lines of a trace a second; of the other packets the number is told.
pub const TRACE_LINES_A_SECOND: u32 = 400;

/// Which packets, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TraceRequest {
    /// Of this group; nothing: of every peer.
    #[serde(default)]
    pub group: Option<String>,
    /// Of this link; nothing: of every link of the group.
    #[serde(default)]
    pub link: Option<String>,
    /// For so many milliseconds, 1 to [`MAX_TRACE_MS`].
    pub for_ms: u64,
}

/// One packet: a line of `trace-packets --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRecord {
    /// When, RFC 3339 in UTC with milliseconds, as exactly as the lines are fetched: to 50 ms.
    pub time: String,
    /// Group.
    pub group: String,
    /// Link.
    pub link: String,
    /// `in`: the kernel program sees what arrives.
    pub direction: String,
    /// `answered`, `taken-in`, `passed-on` or `dropped`.
    pub what: String,
    /// The counter of `dropped` in `status --json`; nothing for a good packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Why, in words.
    pub why: String,
}

/// What a trace tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceLine {
    /// A packet.
    Packet(PacketRecord),
    /// So many more packets that are not told one by one, since the last time that this was said.
    LeftOut(u64),
}

/// A trace that has begun. It ends when `lines` is dropped.
#[derive(Debug)]
pub struct Traced {
    /// What is traced, for people.
    pub said: String,
    /// What it tells, until it is over.
    pub lines: mpsc::Receiver<TraceLine>,
    /// At the end of `lines`: it was ended before its time.
    pub cut_short: Arc<AtomicBool>,
}
