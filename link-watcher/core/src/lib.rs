//! What link-watcher decides, and nothing else: no clock, no socket, no task, no thread.
//!
//! Everything here takes the time and what happened, and returns what shall be done. That it can do no other is held by
//! this crate's dependencies: none of them has a runtime, a socket or the C library.
//!
//! | module | what it decides |
//! |---|---|
//! | [`link`](mod@link) | whether a link is silent, and whether traffic may use it |
//! | [`health`] | from rounds of probes, how an uplink is |
//! | [`select`] | from usable links to active ones |
//! | [`engine`] | links, selection and the agreement with the peer, all groups together |
//! | [`announce`] | which prefixes two peers have told each other |
//! | [`slot`] | how a link begins in the tables that it shares with the verifier of packets |
//! | [`event`] | the engine's border: what goes in, what comes out |
//! | [`statistics`] | how links were, by day and over the last day |
//! | [`status`] | what people and scripts are shown |
//! | [`suspicion`] | why nothing good arrives on a link, from what was refused lately |

pub mod announce;
pub mod engine;
pub mod event;
pub mod health;
pub mod link;
pub mod select;
pub mod slot;
pub mod statistics;
pub mod status;
pub mod suspicion;
