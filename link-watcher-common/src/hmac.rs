//! HMAC-SHA256 (RFC 2104) over one header, from precomputed key states: two compressions a signature, by the processor's own
//! SHA-256 instructions where it has them.
//!
//! The kernel program has the same in instructions of its own (`link-watcher-ebpf/src/hmac.rs`).

use sha2::{Digest as _, Sha256, block_api::compress256};

use crate::{
    maps::KeyState,
    wire::{HEADER_LEN, Header, PACKET_LEN, Packet, TAG_LEN},
};

/// Bytes of SHA-256's block, and of the key that HMAC uses as it is.
pub const BLOCK_LEN: usize = 64;
/// Bytes of SHA-256's digest.
pub const DIGEST_LEN: usize = 32;
/// Initial state (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The tag of a header: its HMAC-SHA256, cut to its first bytes.
#[must_use]
pub fn tag(header: &[u8; HEADER_LEN], key: &KeyState) -> [u8; TAG_LEN] {
    let whole = finish(key.outer, &finish(key.inner, header));
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(&whole[..TAG_LEN]);
    tag
}

/// HMAC-SHA256 of a message of any length: what keys of links are derived by.
#[must_use]
pub fn derive(key: &KeyState, message: &[u8]) -> [u8; DIGEST_LEN] {
    let mut state = key.inner;
    let (blocks, rest) = message.as_chunks::<BLOCK_LEN>();
    compress256(&mut state, blocks);
    // Padding (FIPS 180-4, section 5.1.1): a bit, zeros, the whole length in bits; one block more where it does not fit.
    let mut last = [[0; BLOCK_LEN]; 2];
    let flat = last.as_flattened_mut();
    flat[..rest.len()].copy_from_slice(rest);
    flat[rest.len()] = 0x80;
    let used = if rest.len() + 1 + size_of::<u64>() <= BLOCK_LEN { 1 } else { 2 };
    let bits = 8 * (BLOCK_LEN + message.len()) as u64;
    flat[used * BLOCK_LEN - 8..used * BLOCK_LEN].copy_from_slice(&bits.to_be_bytes());
    compress256(&mut state, &last[..used]);
    finish(key.outer, &bytes(state))
}

/// Signs a packet in place.
pub fn sign(packet: &mut Packet, key: &KeyState) {
    let (header, place) = packet.split_at_mut(HEADER_LEN);
    // Always: a packet is a header and a tag long.
    if let (Some(header), Some(place)) = (header.first_chunk(), place.first_chunk_mut()) {
        *place = tag(header, key);
    }
}

/// A header as a signed packet.
#[must_use]
pub fn signed(header: &Header, key: &KeyState) -> Packet {
    let mut packet = [0; PACKET_LEN];
    header.emit(&mut packet);
    sign(&mut packet, key);
    packet
}

/// Whether a packet's tag is right. Takes the same time wherever the first wrong byte is.
#[must_use]
pub fn verify(packet: &Packet, key: &KeyState) -> bool {
    let (header, theirs) = packet.split_at(HEADER_LEN);
    let Some(header) = header.first_chunk() else {
        return false; // Never: a packet is a header and a tag long.
    };
    let differences = tag(header, key).into_iter().zip(theirs).map(|(ours, theirs)| ours ^ theirs);
    // Unseen by the compiler, which else might stop at the first difference.
    core::hint::black_box(differences.fold(0, |all, one| core::hint::black_box(all | one))) == 0
}

/// A key's states, which are all that signing needs. A key longer than a block is hashed first (RFC 2104, section 2).
#[must_use]
pub fn key_state(key: &[u8]) -> KeyState {
    let mut block = [0; BLOCK_LEN];
    if key.len() > BLOCK_LEN {
        block[..DIGEST_LEN].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| {
        let mut state = INITIAL;
        compress256(&mut state, &[block.map(|byte| byte ^ pad)]);
        state
    };
    KeyState { inner: padded(0x36), outer: padded(0x5c) }
}

/// The digest of a message whose first block led to `state`; the rest and its padding fit one block.
fn finish<const REST: usize>(mut state: [u32; 8], rest: &[u8; REST]) -> [u8; DIGEST_LEN] {
    const { assert!(REST + 1 + size_of::<u64>() <= BLOCK_LEN) };
    let mut block = [0; BLOCK_LEN];
    block[..REST].copy_from_slice(rest);
    // Padding (FIPS 180-4, section 5.1.1): a bit, zeros, the whole length in bits.
    block[REST] = 0x80;
    block[BLOCK_LEN - 8..].copy_from_slice(&(8 * (BLOCK_LEN + REST) as u64).to_be_bytes());
    compress256(&mut state, &[block]);
    bytes(state)
}

/// A state as the digest that it is at the end.
fn bytes(state: [u32; 8]) -> [u8; DIGEST_LEN] {
    let mut digest = [0; DIGEST_LEN];
    for (place, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *place = word.to_be_bytes();
    }
    digest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::PACKET_LEN;
    use hmac::{Hmac, KeyInit, Mac};

    /// A small generator with a fixed seed: the same cases at every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 32
        }
        fn bytes(&mut self, len: usize) -> Vec<u8> {
            (0..len).map(|_| self.next() as u8).collect()
        }
    }

    #[test]
    fn tag_agrees_with_the_hmac_crate() {
        let mut random = Random(2);
        for round in 0..5000 {
            let key_len = random.next() as usize % 140;
            let key = random.bytes(key_len);
            let header: [u8; HEADER_LEN] = random.bytes(HEADER_LEN).try_into().unwrap();
            let mut other = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            other.update(&header);
            let expected = other.finalize().into_bytes();
            let ours = tag(&header, &key_state(&key));
            assert_eq!(ours[..], expected[..TAG_LEN], "round {round}, key of {key_len} bytes");
        }
    }

    #[test]
    fn derivation_agrees_with_the_hmac_crate() {
        let mut random = Random(4);
        for len in 0..300 {
            let (key, message) = (random.bytes(32), random.bytes(len));
            let mut other = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            other.update(&message);
            assert_eq!(derive(&key_state(&key), &message)[..], other.finalize().into_bytes()[..], "{len} bytes");
        }
    }

    #[test]
    fn a_signed_packet_verifies_and_no_changed_one_does() {
        let mut random = Random(3);
        let key = key_state(&random.bytes(32));
        let other_key = key_state(&random.bytes(32));
        for _ in 0..50 {
            let mut packet: Packet = random.bytes(PACKET_LEN).try_into().unwrap();
            sign(&mut packet, &key);
            assert!(verify(&packet, &key));
            assert!(!verify(&packet, &other_key));
            for bit in 0..PACKET_LEN * 8 {
                let mut changed = packet;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(!verify(&changed, &key), "bit {bit}");
            }
        }
    }
}
