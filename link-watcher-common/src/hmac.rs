//! HMAC-SHA256 (RFC 2104, FIPS 180-4) over one header, from precomputed key states: two compressions a signature.
//!
//! The shape of the code is the kernel verifier's doing. The compression is sixteen rounds in a loop, each with its part of
//! the message schedule: the two wait for different results, so a processor runs them side by side. The message
//! words, and those variables that only wait for their turn, live in a [`Words`] handed in, because registers are few
//! there and the stack is small.
//!
//! Nothing here panics: every index is a constant or masked.

use crate::{
    maps::KeyState,
    wire::{HEADER_LEN, Packet, TAG_LEN},
};

/// Bytes of SHA-256's block, and of the key that HMAC uses as it is.
pub const BLOCK_LEN: usize = 64;

/// How many words the computation needs: a block's message words, by index 0 to 15, and behind them what two of its
/// variables were.
pub const WORDS: usize = 32;
const FORMER_A: usize = 16;
const FORMER_E: usize = 20;

/// Those words, by index 0 to [`WORDS`] − 1. On the host a [`Scratch`]; in BPF a per-CPU map value
/// with volatile access, so that the compiler does not keep copies on the stack.
pub trait Words {
    /// Reads a word.
    fn get(&self, index: usize) -> u32;
    /// Writes a word.
    fn set(&mut self, index: usize, word: u32);
    /// Σ0 (FIPS 180-4, section 4.1.2). In BPF, the four are written out: the compiler, left alone, takes longer ways, and
    /// computes them where their results wait on the stack.
    #[inline(always)]
    fn big_sigma_0(x: u32) -> u32 {
        x.rotate_right(2) ^ x.rotate_right(13) ^ x.rotate_right(22)
    }
    /// Σ1.
    #[inline(always)]
    fn big_sigma_1(x: u32) -> u32 {
        x.rotate_right(6) ^ x.rotate_right(11) ^ x.rotate_right(25)
    }
    /// σ0.
    #[inline(always)]
    fn small_sigma_0(x: u32) -> u32 {
        x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3)
    }
    /// σ1.
    #[inline(always)]
    fn small_sigma_1(x: u32) -> u32 {
        x.rotate_right(17) ^ x.rotate_right(19) ^ (x >> 10)
    }
    /// Calls [`compute`]. BPF does so through a function of its own, which the kernel verifies once and not for each
    /// way to get there.
    #[inline(always)]
    fn compute(&mut self, header: &[u8; HEADER_LEN], key: &KeyState)
    where
        Self: Sized,
    {
        compute(header, key, self);
    }
    /// Calls [`rounds`]; as above.
    #[inline(always)]
    fn rounds(&mut self, from: &[u32; 8])
    where
        Self: Sized,
    {
        rounds(from, self);
    }
}

/// Message words as plain memory: `&mut Scratch::default()` wherever [`Words`] are asked for.
pub type Scratch = [u32; WORDS];

impl Words for Scratch {
    #[inline(always)]
    fn get(&self, index: usize) -> u32 {
        self[index % WORDS]
    }
    #[inline(always)]
    fn set(&mut self, index: usize, word: u32) {
        self[index % WORDS] = word;
    }
}

/// The tag of a header.
#[inline(always)]
pub fn tag(header: &[u8; HEADER_LEN], key: &KeyState, words: &mut impl Words) -> [u8; TAG_LEN] {
    words.compute(header, key);
    let mut tag = [0; TAG_LEN];
    let mut i = 0;
    while i < 8 {
        put_word(&mut tag, i, words.get(i));
        i += 1;
    }
    tag
}

/// Signs a packet in place.
#[inline(always)]
pub fn sign(packet: &mut Packet, key: &KeyState, words: &mut impl Words) {
    let (header, tag) = packet.split_at_mut(HEADER_LEN);
    let (Some(header), Some(tag)) = (header.first_chunk(), tag.first_chunk_mut::<TAG_LEN>()) else {
        return; // Never: a packet is a header and a tag long.
    };
    words.compute(header, key);
    let mut i = 0;
    while i < 8 {
        put_word(tag, i, words.get(i));
        i += 1;
    }
}

/// Whether a packet's tag is right. Takes the same time wherever the first wrong byte is.
#[inline(always)]
pub fn verify(packet: &Packet, key: &KeyState, words: &mut impl Words) -> bool {
    let (header, tag) = packet.split_at(HEADER_LEN);
    let (Some(header), Some(tag)) = (header.first_chunk(), tag.first_chunk::<TAG_LEN>()) else {
        return false; // Never: a packet is a header and a tag long.
    };
    words.compute(header, key);
    let mut difference = 0;
    let mut i = 0;
    while i < 8 {
        difference |= words.get(i) ^ word_at(tag, i);
        i += 1;
    }
    difference == 0
}

/// A key's states, which are all that signing needs. A key longer than a block is hashed first (RFC 2104, section 2).
pub fn key_state(key: &[u8]) -> KeyState {
    let mut block = [0; BLOCK_LEN];
    if key.len() > BLOCK_LEN {
        block[..TAG_LEN].copy_from_slice(&digest(key));
    } else {
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
    }
    let padded = |pad: u8| {
        let mut words = [0; WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            *word = word_at(&block, i) ^ u32::from_ne_bytes([pad; 4]);
        }
        after(&INITIAL, &mut words)
    };
    KeyState { inner: padded(0x36), outer: padded(0x5c) }
}

/// SHA-256 of a message of any length, for keys and for the bodies of control packets; not for the kernel.
pub fn digest(message: &[u8]) -> [u8; TAG_LEN] {
    let mut state = INITIAL;
    let mut blocks = message.chunks_exact(BLOCK_LEN);
    for block in &mut blocks {
        state = after(&state, &mut load(block));
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
        state = after(&state, &mut load(block));
    }
    let mut digest = [0; TAG_LEN];
    for (i, word) in state.into_iter().enumerate() {
        put_word(&mut digest, i, word);
    }
    digest
}

fn load(block: &[u8]) -> Scratch {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}

fn after(state: &[u32; 8], words: &mut Scratch) -> [u32; 8] {
    compress(state, words);
    core::array::from_fn(|i| words[i])
}

/// Both compressions; the tag is in the first eight words afterwards.
#[inline(always)]
pub fn compute(header: &[u8; HEADER_LEN], key: &KeyState, words: &mut impl Words) {
    let mut i = 0;
    while i < HEADER_LEN / 4 {
        words.set(i, word_at(header, i));
        i += 1;
    }
    words.set(12, 0x8000_0000);
    words.set(13, 0);
    words.set(14, 0);
    words.set(15, ((BLOCK_LEN + HEADER_LEN) * 8) as u32);
    compress(&key.inner, words);
    words.set(8, 0x8000_0000);
    i = 9;
    while i < 15 {
        words.set(i, 0);
        i += 1;
    }
    words.set(15, ((BLOCK_LEN + TAG_LEN) * 8) as u32);
    compress(&key.outer, words);
}

#[inline(always)]
fn word_at(bytes: &[u8], index: usize) -> u32 {
    match bytes.as_chunks().0.get(index) {
        Some(word) => u32::from_be_bytes(*word),
        None => 0, // Never: callers count within the length.
    }
}

#[inline(always)]
fn put_word(bytes: &mut [u8], index: usize, word: u32) {
    if let Some(place) = bytes.as_chunks_mut().0.get_mut(index) {
        *place = word.to_be_bytes();
    }
}

/// Initial state (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Round constants (FIPS 180-4, section 4.2.2), sixteen an iteration.
static ROUND_CONSTANTS: [[u32; 16]; 4] = [
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

/// One compression (FIPS 180-4, section 6.2.2) of the block in `words`, starting from state `from`. The new state
/// is in the first eight words afterwards: for HMAC they are the next block's first words already.
#[inline(always)]
fn compress<W: Words>(from: &[u32; 8], words: &mut W) {
    words.rounds(from);
    let mut i = 0;
    while i < 8 {
        words.set(i, words.get(i).wrapping_add(from[i]));
        i += 1;
    }
}

/// The 64 rounds; leaves the working variables in the first eight words.
#[inline(always)]
pub fn rounds<W: Words>(from: &[u32; 8], words: &mut W) {
    let [mut a, mut b, c, _, mut e, mut f, mut g, _] = *from;
    // What a and e were in the last four rounds: the others of the eight are these, later on.
    let mut i = 0;
    while i < 4 {
        words.set(FORMER_A + i, from[3 - i]);
        words.set(FORMER_E + i, from[7 - i]);
        i += 1;
    }
    let mut before = b ^ c;
    // `$next` puts the word that is needed sixteen rounds on in place of the one that has just served: done here, it runs
    // beside the round, which waits for its own results.
    macro_rules! round {
        ($constants:ident $next:ident $i:literal) => {
            let word = words.get($i);
            $next!($i, word);
            let choice = (e & (f ^ g)) ^ g;
            // Majority: where a and b agree it is theirs, else it is c's. The next round's b and c are these.
            let differ = a ^ b;
            let majority = (differ & before) ^ b;
            before = differ;
            let sum = words
                .get(FORMER_E + $i % 4)
                .wrapping_add(word)
                .wrapping_add($constants[$i])
                .wrapping_add(choice)
                .wrapping_add(W::big_sigma_1(e));
            (e, f, g) = (words.get(FORMER_A + $i % 4).wrapping_add(sum), e, f);
            (a, b) = (sum.wrapping_add(majority).wrapping_add(W::big_sigma_0(a)), a);
            words.set(FORMER_E + $i % 4, e);
            words.set(FORMER_A + $i % 4, a);
        };
    }
    macro_rules! sixteen {
        ($constants:ident $next:ident $($i:literal)*) => { $( round!($constants $next $i); )* };
    }
    macro_rules! schedule {
        ($i:literal, $word:ident) => {
            let word = $word
                .wrapping_add(W::small_sigma_0(words.get(($i + 1) % 16)))
                .wrapping_add(words.get(($i + 9) % 16))
                .wrapping_add(W::small_sigma_1(words.get(($i + 14) % 16)));
            words.set($i, word);
        };
    }
    macro_rules! nothing {
        ($i:literal, $word:ident) => {};
    }
    let mut sixteen = 0;
    while sixteen < 3 {
        let constants = &ROUND_CONSTANTS[sixteen & 3];
        sixteen!(constants schedule 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        sixteen += 1;
    }
    let constants = &ROUND_CONSTANTS[3];
    sixteen!(constants nothing 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    let _ = (before, f, g, b); // The last round leaves them for nobody.
    i = 0;
    while i < 4 {
        words.set(i, words.get(FORMER_A + 3 - i));
        words.set(4 + i, words.get(FORMER_E + 3 - i));
        i += 1;
    }
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
            inner = after(&inner, &mut load(block));
        }
        let mut words = [0; WORDS];
        words[..8].copy_from_slice(&inner);
        words[8] = 0x8000_0000;
        words[15] = ((BLOCK_LEN + TAG_LEN) * 8) as u32;
        let outer = after(&state.outer, &mut words);
        let mut tag = [0; TAG_LEN];
        outer.iter().enumerate().for_each(|(i, word)| put_word(&mut tag, i, *word));
        tag
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
            let ours = tag(&header, &key_state(&key), &mut Scratch::default());
            assert_eq!(ours[..], expected[..], "round {round}, key of {key_len} bytes");
        }
    }

    #[test]
    fn a_signed_packet_verifies_and_no_changed_one_does() {
        let mut random = Random(3);
        let key = key_state(&random.bytes(32));
        let other_key = key_state(&random.bytes(32));
        // Words left over from another packet must not matter.
        let mut words: Scratch = [0xdead_beef; WORDS];
        for _ in 0..50 {
            let mut packet: Packet = random.bytes(PACKET_LEN).try_into().unwrap();
            sign(&mut packet, &key, &mut words);
            assert!(verify(&packet, &key, &mut words));
            assert!(!verify(&packet, &other_key, &mut words));
            for bit in 0..PACKET_LEN * 8 {
                let mut changed = packet;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(!verify(&changed, &key, &mut words), "bit {bit}");
            }
        }
    }
}
