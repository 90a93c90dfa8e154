//! A packet at the socket engine.

use std::sync::atomic::AtomicU64;

use link_watcher_common::{
    hmac,
    maps::{Intent, KeySet, LinkState, Party},
    wire::{HEADER_LEN, HOPS, Header, PACKET_LEN},
};

use super::receive::{self, Judge};
use crate::slot;

/// Nobody guesses a signature, whatever else is right; and what is read is what is written.
pub(crate) fn wire(data: &[u8]) {
    let (intent, state) = (Intent::<AtomicU64>::default(), LinkState::<AtomicU64>::default());
    slot::begin(&intent, &state, Party { instance: 1, session: 2 });
    let mut keys = KeySet { count: 1, ..KeySet::default() };
    keys.states[0] = hmac::key_state(b"nobody knows it");
    let judge = Judge { intent: &intent, state: &state, keys: &keys, hops: HOPS, now_ns: 1_000_000_000 };
    assert!(receive::judge(data, &judge).is_err(), "taken without a signature");
    let Some((packet, _)) = data.split_first_chunk::<PACKET_LEN>() else { return };
    let Ok(header) = Header::parse(packet) else { return };
    let mut again = [0; PACKET_LEN];
    header.emit(&mut again);
    assert_eq!(again[..HEADER_LEN], packet[..HEADER_LEN], "{header:?}");
}
