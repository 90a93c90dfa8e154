//! The signature of a packet in user space: the yardstick of the kernel program.

use std::time::Instant;

use ::hmac::{Hmac, KeyInit, Mac as _};
use link_watcher_common::{hmac, maps::KeyState, wire::HEADER_LEN};
use sha2::Sha256;

use crate::packets::REPEAT;

const KEY: [u8; 32] = [7; 32];

/// The same signature in user space by the `sha2` crate, with the code that it chooses for this processor: ns, in the mean of
/// one batch.
pub(crate) fn measure_sha2() -> f64 {
    // HMAC fills a key up with zeros.
    let mut block = [0; hmac::BLOCK_LEN];
    block[..KEY.len()].copy_from_slice(&KEY);
    let mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    batch_ns(|header| {
        let mut mac = mac.clone();
        mac.update(header);
        std::hint::black_box(mac.finalize());
    })
}

/// The same with the crate's portable code, which is what the kernel program can be compared with.
pub(crate) fn measure_sha2_portable() -> f64 {
    let key = hmac::key_state(&KEY);
    batch_ns(|header| {
        std::hint::black_box(tag_by_portable_code(header, &key));
    })
}

fn batch_ns(mut sign: impl FnMut(&[u8; HEADER_LEN])) -> f64 {
    let mut header = [0_u8; HEADER_LEN];
    let started = Instant::now();
    for i in 0..REPEAT {
        header[..4].copy_from_slice(&i.to_ne_bytes());
        sign(&header);
    }
    started.elapsed().as_nanos() as f64 / f64::from(REPEAT)
}

/// Two compressions from precomputed states, as the kernel program does them.
fn tag_by_portable_code(header: &[u8; HEADER_LEN], key: &KeyState) -> [u32; 8] {
    use sha2_portable::{compress256, digest::generic_array::GenericArray};
    let padded = |message: &[u8]| {
        let mut block = [0_u8; hmac::BLOCK_LEN];
        block[..message.len()].copy_from_slice(message);
        block[message.len()] = 0x80;
        let bits = 8 * (hmac::BLOCK_LEN + message.len()) as u64;
        block[hmac::BLOCK_LEN - 8..].copy_from_slice(&bits.to_be_bytes());
        GenericArray::from(block)
    };
    let mut inner = key.inner;
    compress256(&mut inner, &[padded(header)]);
    let mut digest = [0; hmac::DIGEST_LEN];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(inner) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    let mut outer = key.outer;
    compress256(&mut outer, &[padded(&digest)]);
    outer
}

#[cfg(test)]
mod tests {
    use link_watcher_common::wire::TAG_LEN;

    use super::*;

    #[test]
    fn the_yardstick_measures_the_same_signature() {
        let header = [0xa5; HEADER_LEN];
        let key = hmac::key_state(&KEY);
        let ours = hmac::tag(&header, &key);
        assert_eq!(tag_by_portable_code(&header, &key).map(u32::to_be_bytes).concat()[..TAG_LEN], ours);
    }
}
