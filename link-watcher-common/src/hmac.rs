//! HMAC-SHA256 (RFC 2104, FIPS 180-4) over one header, from precomputed key states: two compressions a signature.
//!
//! The kernel program has the same in instructions of its own (`link-watcher-ebpf/src/hmac.rs`), for it runs where registers
//! are few and the compiler knows little of them.
//!
//! Nothing here panics: every index is a constant or masked.

use crate::{
    maps::KeyState,
    wire::{HEADER_LEN, Packet, TAG_LEN},
};

/// Bytes of SHA-256's block, and of the key that HMAC uses as it is.
pub const BLOCK_LEN: usize = 64;

/// The words of a block, first the message, then what pads it.
type Block = [u32; 16];

/// The tag of a header.
#[must_use]
pub fn tag(header: &[u8; HEADER_LEN], key: &KeyState) -> [u8; TAG_LEN] {
    let mut block: Block = core::array::from_fn(|i| word_at(header, i));
    block[HEADER_LEN / 4] = END;
    block[15] = ((BLOCK_LEN + HEADER_LEN) * 8) as u32;
    let inner = compress(&key.inner, block);
    let mut block: Block = core::array::from_fn(|i| if i < 8 { inner[i] } else { 0 });
    block[TAG_LEN / 4] = END;
    block[15] = ((BLOCK_LEN + TAG_LEN) * 8) as u32;
    bytes_of(&compress(&key.outer, block))
}

/// Signs a packet in place.
pub fn sign(packet: &mut Packet, key: &KeyState) {
    let (header, place) = packet.split_at_mut(HEADER_LEN);
    // Always: a packet is a header and a tag long.
    if let (Some(header), Some(place)) = (header.first_chunk(), place.first_chunk_mut()) {
        *place = tag(header, key);
    }
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
        block[..TAG_LEN].copy_from_slice(&digest(key));
    } else {
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
    }
    let padded = |pad: u8| compress(&INITIAL, load(&block).map(|word| word ^ u32::from_ne_bytes([pad; 4])));
    KeyState { inner: padded(0x36), outer: padded(0x5c) }
}

/// SHA-256 of a message of any length, for keys and for the bodies of control packets.
#[must_use]
pub fn digest(message: &[u8]) -> [u8; TAG_LEN] {
    let mut state = INITIAL;
    let mut blocks = message.chunks_exact(BLOCK_LEN);
    for block in &mut blocks {
        state = compress(&state, load(block));
    }
    let rest = blocks.remainder();
    let mut last = [0; 2 * BLOCK_LEN];
    for (to, from) in last.iter_mut().zip(rest.iter().chain(&[0x80])) {
        *to = *from;
    }
    // The mark and the 64-bit length need nine bytes behind the message.
    let end = if rest.len() < BLOCK_LEN - 8 { BLOCK_LEN } else { 2 * BLOCK_LEN };
    last[end - 8..end].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for block in last[..end].chunks_exact(BLOCK_LEN) {
        state = compress(&state, load(block));
    }
    bytes_of(&state)
}

fn load(block: &[u8]) -> Block {
    core::array::from_fn(|i| word_at(block, i))
}

/// The word at an index, zero behind the end.
fn word_at(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks().0.get(index).map_or(0, |word| u32::from_be_bytes(*word))
}

fn bytes_of(state: &[u32; 8]) -> [u8; TAG_LEN] {
    let mut bytes = [0; TAG_LEN];
    for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
        *place = word.to_be_bytes();
    }
    bytes
}

/// The bit that ends a message (FIPS 180-4, section 5.1.1).
const END: u32 = 0x8000_0000;

/// Initial state (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Round constants (FIPS 180-4, section 4.2.2), sixteen by sixteen.
pub static ROUND_CONSTANTS: [[u32; 16]; 4] = [
    [
        0x428a_2f98,
        0x7137_4491,
        0xb5c0_fbcf,
        0xe9b5_dba5,
        0x3956_c25b,
        0x59f1_11f1,
        0x923f_82a4,
        0xab1c_5ed5,
        0xd807_aa98,
        0x1283_5b01,
        0x2431_85be,
        0x550c_7dc3,
        0x72be_5d74,
        0x80de_b1fe,
        0x9bdc_06a7,
        0xc19b_f174,
    ],
    [
        0xe49b_69c1,
        0xefbe_4786,
        0x0fc1_9dc6,
        0x240c_a1cc,
        0x2de9_2c6f,
        0x4a74_84aa,
        0x5cb0_a9dc,
        0x76f9_88da,
        0x983e_5152,
        0xa831_c66d,
        0xb003_27c8,
        0xbf59_7fc7,
        0xc6e0_0bf3,
        0xd5a7_9147,
        0x06ca_6351,
        0x1429_2967,
    ],
    [
        0x27b7_0a85,
        0x2e1b_2138,
        0x4d2c_6dfc,
        0x5338_0d13,
        0x650a_7354,
        0x766a_0abb,
        0x81c2_c92e,
        0x9272_2c85,
        0xa2bf_e8a1,
        0xa81a_664b,
        0xc24b_8b70,
        0xc76c_51a3,
        0xd192_e819,
        0xd699_0624,
        0xf40e_3585,
        0x106a_a070,
    ],
    [
        0x19a4_c116,
        0x1e37_6c08,
        0x2748_774c,
        0x34b0_bcb5,
        0x391c_0cb3,
        0x4ed8_aa4a,
        0x5b9c_ca4f,
        0x682e_6ff3,
        0x748f_82ee,
        0x78a5_636f,
        0x84c8_7814,
        0x8cc7_0208,
        0x90be_fffa,
        0xa450_6ceb,
        0xbef9_a3f7,
        0xc671_78f2,
    ],
];

/// One compression (FIPS 180-4, section 6.2.2) of a block, starting from a state.
fn compress(from: &[u32; 8], mut words: Block) -> [u32; 8] {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *from;
    for (sixteen, constants) in ROUND_CONSTANTS.iter().enumerate() {
        for (i, constant) in constants.iter().enumerate() {
            if sixteen > 0 {
                let (early, late) = (words[(i + 1) % 16], words[(i + 14) % 16]);
                let small_sigma_0 = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
                let small_sigma_1 = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
                words[i] =
                    words[i].wrapping_add(small_sigma_0).wrapping_add(words[(i + 9) % 16]).wrapping_add(small_sigma_1);
            }
            let big_sigma_1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & (f ^ g)) ^ g;
            let sum = h.wrapping_add(big_sigma_1).wrapping_add(choice).wrapping_add(*constant).wrapping_add(words[i]);
            let big_sigma_0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let majority = (a & b) | (c & (a | b));
            (h, g, f, e) = (g, f, e, d.wrapping_add(sum));
            (d, c, b, a) = (c, b, a, sum.wrapping_add(big_sigma_0).wrapping_add(majority));
        }
    }
    let mut state = [a, b, c, d, e, f, g, h];
    for (word, before) in state.iter_mut().zip(from) {
        *word = word.wrapping_add(*before);
    }
    state
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::PACKET_LEN;
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    /// HMAC of a message of any length from the same states: the header's path is the case of 48 bytes.
    fn mac(key: &[u8], message: &[u8]) -> [u8; TAG_LEN] {
        let state = key_state(key);
        let mut inner = state.inner;
        let mut padded = message.to_vec();
        padded.push(0x80);
        padded.resize(padded.len().next_multiple_of(BLOCK_LEN), 0);
        if padded.len() - message.len() < 9 {
            padded.resize(padded.len() + BLOCK_LEN, 0);
        }
        let end = padded.len();
        padded[end - 8..].copy_from_slice(&((BLOCK_LEN + message.len()) as u64 * 8).to_be_bytes());
        for block in padded.chunks_exact(BLOCK_LEN) {
            inner = compress(&inner, load(block));
        }
        let mut last: Block = [0; 16];
        last[..8].copy_from_slice(&inner);
        last[8] = END;
        last[15] = ((BLOCK_LEN + TAG_LEN) * 8) as u32;
        bytes_of(&compress(&state.outer, last))
    }

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

    /// FIPS 180-2, appendix B, and the empty and the two-block messages of NIST's examples.
    #[test]
    fn sha256_of_nist_examples() {
        for (message, expected) in [
            (&b""[..], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
                "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
            ),
        ] {
            assert_eq!(digest(message)[..], bytes(expected));
        }
        let million = vec![b'a'; 1_000_000];
        assert_eq!(digest(&million)[..], bytes("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
    }

    /// RFC 4231, section 4: test cases 1 to 4, 6 and 7 (5 is about truncation).
    #[test]
    fn hmac_of_rfc_4231() {
        for (key, message, expected) in [
            (vec![0x0b; 20], b"Hi There".to_vec(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?".to_vec(),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (vec![0xaa; 20], vec![0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            ((1..=25).collect(), vec![0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                vec![0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size data. The key needs \
                  to be hashed before being used by the HMAC algorithm."
                    .to_vec(),
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ] {
            assert_eq!(mac(&key, &message)[..], bytes(expected));
        }
    }

    #[test]
    fn digest_agrees_with_the_sha2_crate() {
        let mut random = Random(1);
        for len in 0..300 {
            let message = random.bytes(len);
            assert_eq!(digest(&message)[..], Sha256::digest(&message)[..], "{len} bytes");
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
            assert_eq!(ours[..], expected[..], "round {round}, key of {key_len} bytes");
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
