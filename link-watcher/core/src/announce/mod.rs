//! The exchange of prefixes between two peers, pure: no clock, no socket.
//!
//! | module | what it does |
//! |---|---|
//! | `codec` | bodies of announcements, acknowledgements and notices, to bytes and back |
//! | `sender` | our list on its way to the peer: generations, chunks, repeats, other links, smaller chunks |
//! | `receiver` | the peer's list: the newest generation wins, a missing one is asked for, all of it bounded |
//! | `policy` | which of the peer's prefixes are used, and why the others are not |
//!
//! **Order.** Each list has a generation, never 0. Generations compare by serial number arithmetic (RFC 1982) within one life
//! of the sender's daemon, its *instance*: whatever order packets arrive in, an older list never follows a newer one. A
//! sender never gets so far ahead of what its peer has in use that the comparison could deceive.
//!
//! **Convergence.** Every keepalive carries the sender's generation. A receiver that lacks that one asks for it; a sender
//! repeats until its list is in use. What is only half there never reaches a route.
//!
//! **Bounds.** Prefixes of a list, chunks a second, takeovers a second, changes a second, refusals that are kept and told.

mod codec;
mod policy;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use self::{
    policy::{Judged, Own, Policy, Reason},
    receiver::{Due, Receiver, ReceiverStatus},
    sender::{Sender, SenderStatus, Way},
};

/// Most prefixes of one list, whatever the configuration says.
pub const MAX_PREFIXES: usize = 65_536;
/// Most prefixes of a peer's list unless the configuration says otherwise.
pub const DEFAULT_MAX_PREFIXES: usize = 4096;
/// Least time between two lists of one sender, and between two that a receiver takes over, ns: two a second. Of those in
/// between only the newest is sent, or used.
pub const CHANGE_GAP_NS: u64 = 500_000_000;
/// Silence about an announcement that people are told of, ns.
pub const UNANSWERED_NS: u64 = 5_000_000_000;
/// Refused prefixes that an acknowledgement names.
pub const MAX_REFUSALS_TOLD: usize = 8;
/// Refused prefixes that are kept with their reasons.
pub const MAX_REFUSALS_KEPT: usize = 32;
/// Former lives of a peer's daemon that are remembered, so that their late packets count for nothing.
const MAX_FORMER: usize = 4;

/// Whether generation `a` is newer than `b` (RFC 1982, section 3.2).
const fn newer(a: u16, b: u16) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 0x8000
}

/// The newest generation in keepalives, with its instance: of the life that was heard last. `heard`: for each link that works,
/// when its last good keepalive came, its instance and its generation.
pub fn newest(heard: impl Iterator<Item = (u64, u32, u16)> + Clone) -> Option<(u32, u16)> {
    let (_, instance, generation) =
        heard.clone().filter(|(_, instance, _)| *instance != 0).max_by_key(|(at, ..)| *at)?;
    let of_this_life = heard.filter(|(_, other, _)| *other == instance).map(|(_, _, generation)| generation);
    Some((instance, of_this_life.fold(generation, |best, other| if newer(other, best) { other } else { best })))
}

/// Which life of the peer's daemon its packets come from.
#[derive(Debug, Default)]
struct Life {
    current: Option<u32>,
    /// The newest last.
    former: VecDeque<u32>,
}

/// What an instance is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The one that we know.
    Current,
    /// A new one: everything begins anew.
    New,
    /// One that is over: a packet that was on its way for long.
    Former,
}

impl Life {
    fn see(&mut self, instance: u32) -> Seen {
        if self.current == Some(instance) {
            return Seen::Current;
        }
        if self.former.contains(&instance) {
            return Seen::Former;
        }
        if let Some(over) = self.current.replace(instance) {
            if self.former.len() == MAX_FORMER {
                self.former.pop_front();
            }
            self.former.push_back(over);
        }
        Seen::New
    }
}
