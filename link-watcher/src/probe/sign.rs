//! Signing with the processor's own SHA-256 instructions, where it has them: a third of the portable code's time.

use link_watcher_common::{
    hmac::BLOCK_LEN,
    maps::KeyState,
    wire::{HEADER_LEN, Packet, TAG_LEN},
};
use sha2::block_api::compress256;

/// Signs a packet in place: what [`link_watcher_common::hmac::sign`] does.
pub(super) fn sign(packet: &mut Packet, key: &KeyState) {
    let (header, tag) = packet.split_at_mut(HEADER_LEN);
    let inner = compress(key.inner, header);
    let outer = compress(key.outer, &inner);
    tag.copy_from_slice(&outer);
}

/// The digest of a message whose first block led to `state`; the rest and its padding fit one block.
fn compress(mut state: [u32; 8], rest: &[u8]) -> [u8; TAG_LEN] {
    let mut block = [0; BLOCK_LEN];
    block[..rest.len()].copy_from_slice(rest);
    // Padding (FIPS 180-4, section 5.1.1): a bit, zeros, the whole length in bits.
    block[rest.len()] = 0x80;
    let bits = 8 * (BLOCK_LEN + rest.len()) as u64;
    block[BLOCK_LEN - 8..].copy_from_slice(&bits.to_be_bytes());
    compress256(&mut state, &[block]);
    let mut digest = [0; TAG_LEN];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use link_watcher_common::hmac;

    use super::*;

    #[test]
    fn signatures_are_those_of_the_kernel_program() {
        for seed in 0..50_u8 {
            let key = hmac::key_state(&[seed; 40]);
            let mut packet: Packet = std::array::from_fn(|at| (at as u8).wrapping_mul(seed).wrapping_add(7));
            let mut expected = packet;
            hmac::sign(&mut expected, &key);
            sign(&mut packet, &key);
            assert_eq!(packet, expected);
        }
    }
}
