//! HMAC-SHA256 (RFC 2104, FIPS 180-4) over a packet's header in BPF instructions: what `link_watcher_common::hmac` does on
//! the host. A compiler cannot be brought to it: SHA-256 has more variables than BPF has registers, and each one that it
//! moves costs time in every one of 128 rounds.
//!
//! Every register and every word of the frame has its place here. Of the eight variables a, b, e, f and g are in registers.
//! The others are what a and e were two to four rounds ago, so the last four of both are kept in the frame. A round leaves
//! each variable where it stands and only gives it its next name, until after four rounds all names are back.
//!
//! The kernel's x86 compiler emits no rotate instruction. So a word is doubled, `x | x << 32`: then a right shift rotates it,
//! as far as its lower half is concerned. Σ and σ are three such shifts within one another.

use link_watcher_common::{maps::KeyState, wire::Packet};

/// Round constants (FIPS 180-4, section 4.2.2), sixteen by sixteen.
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

/// Signs a packet, and says whether it was signed so before. Takes the same time for any packet.
#[inline(always)]
pub(crate) fn sign(packet: &mut Packet, key: &KeyState) -> bool {
    lw_hmac(packet, key) == 0
}

/// [`sign`] as a function that the kernel verifies by itself: it takes any memory of the right sizes, or null. Returns 0 if
/// the tag was right.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lw_hmac(packet: *mut Packet, key: *const KeyState) -> u32 {
    if packet.is_null() || key.is_null() {
        return 1;
    }
    #[cfg(target_arch = "bpf")]
    // SAFETY: reads and writes the packet, reads the key and the constants, and uses this function's own frame. There is
    // nothing of the compiler's in the frame: the arguments come in registers, and nothing but the result outlives the code.
    // The kernel's verifier checks every access.
    unsafe {
        let wrong;
        core::arch::asm!(
            r"
            # The frame, from r10 down: 128: sixteen message words, doubled. 160: e, then a, of the last four rounds. 168: 2^32 + 1.
            # 176: state to start from, in the key. 184: packet. 192: sixteens of rounds done.

            # Three rotations of a word, the shorter first; each shift works on what the one before left.
            .macro NESTED to, x, y, from, short, middle, long
            r\x = r\from
            r\x <<= 32
            r\x |= r\from
            r\to = r\x
            r\to >>= \long - \middle
            r\to ^= r\x
            r\to >>= \middle - \short
            r\to ^= r\x
            r\to >>= \short
            .endm
            # The same with one instruction more, but side by side: the result is there sooner.
            .macro ABREAST to, x, y, from, short, middle, long
            r\x = r\from
            r\x <<= 32
            r\x |= r\from
            r\to = r\x
            r\y = r\x
            r\to >>= \short
            r\y >>= \middle
            r\x >>= \long
            w\to ^= w\y
            w\to ^= w\x
            .endm

            # The last shift of a small sigma does not rotate: its operand's upper half is cleared first.
            .macro SMALL_SIGMA to, x, t, first, second, third
            r\x = *(u64 *)(r10 - 128 + 8 * ((\t) % 16))
            r\to = r\x
            r\to >>= \first
            r\to ^= r\x
            r\to >>= \second
            w\x = w\x
            r\to ^= r\x
            r\to >>= \third
            .endm

            # Puts a word in its place, doubled.
            .macro KEEP t, x, y
            r\y = *(u64 *)(r10 - 168)
            r\y *= r\x
            *(u64 *)(r10 - 128 + 8 * (\t)) = r\y
            .endm

            # h plus the message word into sum; the word that is needed sixteen rounds on takes its place.
            .macro SCHEDULED t, sum, x, y
            SMALL_SIGMA \x, \sum, \t + 1, 11, 4, 3
            SMALL_SIGMA \y, \sum, \t + 14, 2, 7, 10
            w\x += w\y
            w\y = *(u32 *)(r10 - 128 + 8 * ((\t + 9) % 16))
            w\x += w\y
            w\y = *(u32 *)(r10 - 128 + 8 * (\t))
            w\x += w\y
            w\sum = *(u32 *)(r10 - 160 + 4 * ((\t) % 4))
            w\sum += w\y
            KEEP \t, \x, \y
            .endm

            # The same in the last sixteen rounds.
            .macro LAST t, sum, x, y
            w\sum = *(u32 *)(r10 - 160 + 4 * ((\t) % 4))
            w\x = *(u32 *)(r10 - 128 + 8 * (\t))
            w\sum += w\x
            .endm

            # p is b ^ c, which the round before computed. Afterwards: a in p, e in x, b ^ c in y; b, g, z are free.
            .macro ROUND word, sigma, t, a, b, p, y, e, f, g, x, z
            \word \t, \y, \x, \z
            w\x = *(u32 *)(r9 + 4 * (\t))
            w\y += w\x
            # choice
            w\x = w\f
            w\x ^= w\g
            w\x &= w\e
            w\g ^= w\x
            w\g += w\y
            \sigma \y, \x, \z, \e, 6, 11, 25
            w\g += w\y
            w\x = *(u32 *)(r10 - 144 + 4 * ((\t) % 4))
            w\x += w\g
            *(u32 *)(r10 - 160 + 4 * ((\t) % 4)) = w\x
            # majority: where a and b agree it is theirs, else it is c's
            w\y = w\a
            w\y ^= w\b
            w\p &= w\y
            w\p ^= w\b
            w\p += w\g
            \sigma \b, \g, \z, \a, 2, 13, 22
            w\p += w\b
            *(u32 *)(r10 - 144 + 4 * ((\t) % 4)) = w\p
            .endm

            .macro FOUR word, sigma, t
            ROUND \word, \sigma, \t + 0, 3, 2, 1, 0, 7, 6, 5, 4, 8
            ROUND \word, \sigma, \t + 1, 1, 3, 0, 2, 4, 7, 6, 5, 8
            ROUND \word, \sigma, \t + 2, 0, 1, 2, 3, 5, 4, 7, 6, 8
            ROUND \word, \sigma, \t + 3, 2, 0, 3, 1, 6, 5, 4, 7, 8
            .endm
            .macro SIXTEEN word, sigma
            FOUR \word, \sigma, 0
            FOUR \word, \sigma, 4
            FOUR \word, \sigma, 8
            FOUR \word, \sigma, 12
            .endm

            .macro HEADER t
            w3 = *(u32 *)(r1 + 4 * \t)
            r3 = be32 r3
            KEEP \t, 3, 4
            .endm
            .macro CONSTANT t, word
            w3 = \word
            KEEP \t, 3, 4
            .endm
            .macro FORMER i
            w3 = *(u32 *)(r1 + 4 * \i)
            *(u32 *)(r10 - 144 + 4 * (3 - \i)) = w3
            w3 = *(u32 *)(r1 + 16 + 4 * \i)
            *(u32 *)(r10 - 160 + 4 * (3 - \i)) = w3
            .endm
            # One word of the new state.
            .macro STATE to, i, offset, x
            w\to = *(u32 *)(r10 - \offset + 4 * (3 - (\i) % 4))
            w\x = *(u32 *)(r1 + 4 * (\i))
            w\to += w\x
            .endm
            .macro INNER i, offset
            STATE 3, \i, \offset, 4
            KEEP \i, 3, 4
            .endm
            # Two words of the tag, and how those of the packet differ.
            .macro TAG i, offset
            STATE 3, \i, \offset, 4
            r3 <<= 32
            STATE 4, \i + 1, \offset, 5
            r3 |= r4
            r3 = be64 r3
            r4 = *(u64 *)(r2 + 52 + 4 * \i)
            r4 ^= r3
            r0 |= r4
            *(u64 *)(r2 + 52 + 4 * \i) = r3
            .endm
            # The last word: the eighth is cut off.
            .macro TAG_END i, offset
            STATE 3, \i, \offset, 4
            r3 = be32 r3
            w4 = *(u32 *)(r2 + 52 + 4 * \i)
            w4 ^= w3
            r0 |= r4
            *(u32 *)(r2 + 52 + 4 * \i) = w3
            .endm

            r3 = 0x100000001 ll
            *(u64 *)(r10 - 168) = r3
            *(u64 *)(r10 - 176) = r2
            *(u64 *)(r10 - 184) = r1
            r3 = 0
            *(u64 *)(r10 - 192) = r3
            HEADER 0
            HEADER 1
            HEADER 2
            HEADER 3
            HEADER 4
            HEADER 5
            HEADER 6
            HEADER 7
            HEADER 8
            HEADER 9
            HEADER 10
            HEADER 11
            HEADER 12
            # Padding, and the length of key and header in bits.
            CONSTANT 13, 0x80000000
            CONSTANT 14, 0
            CONSTANT 15, 8 * (64 + 52)

            2: # The inner hash, then the outer one.
            r1 = *(u64 *)(r10 - 176)
            FORMER 0
            FORMER 1
            FORMER 2
            FORMER 3
            w3 = *(u32 *)(r1 + 0)
            w2 = *(u32 *)(r1 + 4)
            w0 = *(u32 *)(r1 + 8)
            w7 = *(u32 *)(r1 + 16)
            w6 = *(u32 *)(r1 + 20)
            w5 = *(u32 *)(r1 + 24)
            w1 = w2
            w1 ^= w0

            3: # 48 rounds.
            SIXTEEN SCHEDULED, NESTED
            r9 += 64
            r8 = *(u64 *)(r10 - 192)
            r8 += 1
            *(u64 *)(r10 - 192) = r8
            if r8 == 3 goto 4f
            if r8 != 6 goto 3b

            4:
            SIXTEEN LAST, ABREAST
            r9 += -192
            r1 = *(u64 *)(r10 - 176)
            r8 = *(u64 *)(r10 - 192)
            if r8 == 6 goto 5f
            INNER 0, 144
            INNER 1, 144
            INNER 2, 144
            INNER 3, 144
            INNER 4, 160
            INNER 5, 160
            INNER 6, 160
            INNER 7, 160
            CONSTANT 8, 0x80000000
            CONSTANT 9, 0
            CONSTANT 10, 0
            CONSTANT 11, 0
            CONSTANT 12, 0
            CONSTANT 13, 0
            CONSTANT 14, 0
            CONSTANT 15, 8 * (64 + 32)
            r1 += 32
            *(u64 *)(r10 - 176) = r1
            goto 2b

            5:
            r2 = *(u64 *)(r10 - 184)
            r0 = 0
            TAG 0, 144
            TAG 2, 144
            TAG 4, 160
            TAG_END 6, 160
            if r0 == 0 goto 6f
            r0 = 1
            6:
            ",
            inout("r1") packet => _,
            inout("r2") key => _,
            inout("r9") ROUND_CONSTANTS.as_ptr() => _,
            out("r0") wrong,
            out("r3") _, out("r4") _, out("r5") _, out("r6") _, out("r7") _, out("r8") _,
        );
        wrong
    }
    #[cfg(not(target_arch = "bpf"))]
    1
}
