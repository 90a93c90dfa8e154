//! The packet: one fixed header of [`HEADER_LEN`] bytes, all integers big-endian, and [`TAG_LEN`] bytes of HMAC-SHA256,
//! which is cut to them (RFC 2104, section 5). The header and SHA-256's padding fit one block, so a signature costs two
//! compressions once the key's inner and outer states are known.
//!
//! | bytes | field |
//! |---|---|
//! | 0–3 | [`LETTERS`] and [`VERSION`] |
//! | 4 | [`Kind`] |
//! | 5 | [`flags`] |
//! | 6 | key id |
//! | 7 | silence: seconds for which the sender's daemon has not been heard of by its own kernel; 0: it lives |
//! | 8–11 | sender's session: random for each link, end and start of probing it, never zero |
//! | 12–15 | receiver's session as the sender last learned it, else zero |
//! | 16–17 | rank: the sender's order of preference of this link, 0 first |
//! | 18–19 | generation of the sender's announcement |
//! | 20–23 | agreement epoch: grows with each choice of the client, compared by RFC 1982 |
//! | 24–31 | sequence, increasing within a session, below 2^40 |
//! | 32–39 | probes and echoes: the probe's send time (prober's monotonic ns); else: digest of the body, first half |
//! | 40–47 | echo: probes received in this session; probe: the receiver's highest sequence that the sender has accepted; else: digest of the body, second half |
//! | 48–51 | instance: random at each start of the sender's daemon, never zero, the same on all its links |
//! | 52–79 | tag: the first 28 bytes of HMAC-SHA256 over bytes 0–51 |
//!
//! Probes and echoes end there. Announcements, their acknowledgements and notices carry a body of at most [`MAX_BODY_LEN`]
//! bytes behind the tag; the signed digest covers it, so that the kernel checks the same 80 bytes for every kind.
//!
//! Nothing here can panic: every offset is a constant inside an array of constant length.

/// Bytes that are signed.
pub const HEADER_LEN: usize = 52;
/// Bytes of the signature.
pub const TAG_LEN: usize = 28;
/// Bytes of a probe or an echo, as UDP payload; the prefix of a packet with a body.
pub const PACKET_LEN: usize = HEADER_LEN + TAG_LEN;
/// Most bytes of a body: with the headers below it, it fits IPv6's minimum MTU of 1280 bytes
/// (RFC 8200, section 5) with room for a tunnel.
pub const MAX_BODY_LEN: usize = 1024;
/// Most bytes of any packet of ours, as UDP payload.
pub const MAX_PACKET_LEN: usize = PACKET_LEN + MAX_BODY_LEN;
/// What every version begins with.
pub const LETTERS: [u8; 3] = *b"LWK";
/// The version that this program speaks.
pub const VERSION: u8 = 2;
/// UDP port unless the configuration says otherwise.
pub const DEFAULT_PORT: u16 = 46721;
/// TTL (IPv4) or hop limit (IPv6) that everything leaves with, so that the receiver can tell how far it came (RFC 5082).
pub const HOPS: u8 = 255;

/// The bytes of one packet, without a control packet's body.
pub type Packet = [u8; PACKET_LEN];

/// Bits of the flags byte.
pub mod flags {
    /// This link is the sender's active one.
    pub const ACTIVE: u8 = 1 << 0;
    /// The sender's operator has taken this link out of service.
    pub const DRAINED: u8 = 1 << 1;
    /// The sender receives my echoes on this link and its verdict is "up".
    pub const HEARS: u8 = 1 << 2;
    /// The sender is the client of this peer. It makes my own packets, mirrored, recognisable.
    pub const CLIENT: u8 = 1 << 3;
    /// The sender is about to stop for a moment.
    pub const RESTARTING: u8 = 1 << 4;
    /// Every bit that has a meaning; others are zero.
    pub const ALL: u8 = ACTIVE | DRAINED | HEARS | CLIENT | RESTARTING;
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks for an echo.
    Probe = 1,
    /// Answers a probe, and is never answered.
    Echo = 2,
    /// Carries prefixes that the sender wants routed to it.
    Announce = 3,
    /// Acknowledges an announcement.
    AnnounceAck = 4,
    /// Asks for something: see `announce`.
    Notice = 5,
    /// A probe that takes the whole way of a data packet: the receiver's kernel program checks it and lets it go up, and
    /// the daemon answers.
    StackProbe = 6,
    /// The answer to one, by the same way.
    StackEcho = 7,
}

impl Kind {
    /// The kind a byte stands for.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Probe),
            2 => Some(Self::Echo),
            3 => Some(Self::Announce),
            4 => Some(Self::AnnounceAck),
            5 => Some(Self::Notice),
            6 => Some(Self::StackProbe),
            7 => Some(Self::StackEcho),
            _ => None,
        }
    }

    /// Whether the kernel hands it to user space.
    #[inline(always)]
    pub const fn is_control(self) -> bool {
        !matches!(self, Self::Probe | Self::Echo)
    }

    /// Whether a body may follow.
    #[inline(always)]
    pub const fn has_body(self) -> bool {
        matches!(self, Self::Announce | Self::AnnounceAck | Self::Notice)
    }
}

/// Every field of the header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the packet is.
    pub kind: Kind,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Which of the shared keys signed it.
    pub key_id: u8,
    /// Seconds for which the sender's daemon has given no sign of life to its own kernel, at most 255; 0: it lives.
    pub silence_seconds: u8,
    /// Sender's session on this link, not zero.
    pub sender_session: u32,
    /// Receiver's session id as the sender knows it; zero: not yet.
    pub receiver_session: u32,
    /// Sender's order of preference of this link, 0 first.
    pub rank: u16,
    /// Generation of the sender's announcement.
    pub generation: u16,
    /// Agreement epoch.
    pub epoch: u32,
    /// Sequence, 1 to 2^40 − 1.
    pub sequence: u64,
    /// Probes and echoes: the prober's monotonic clock when it sent, in nanoseconds. With a body: its digest, first half.
    pub sent_ns: u64,
    /// Echoes: probes received in this session. Probes: the highest sequence of the receiver's probes that the sender has
    /// accepted. With a body: its digest, second half.
    pub received: u64,
    /// The sender's daemon since its start, not zero.
    pub instance: u32,
}

/// Why bytes are no packet that this version understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// No packet of ours.
    Malformed,
    /// One of another version.
    OtherVersion(u8),
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    ///
    /// [`Unreadable::OtherVersion`] behind the right letters; [`Unreadable::Malformed`] if letters, kind, a flag, a session,
    /// the instance or the sequence is not one that [`Header::emit`] writes.
    #[inline(always)]
    pub fn parse(packet: &Packet) -> Result<Self, Unreadable> {
        let p = packet;
        let [letters @ .., version] = take::<4>(p, 0);
        if letters != LETTERS {
            return Err(Unreadable::Malformed);
        }
        if version != VERSION {
            return Err(Unreadable::OtherVersion(version));
        }
        let Some(kind) = Kind::from_byte(p[4]) else {
            return Err(Unreadable::Malformed);
        };
        let header = Self {
            kind,
            flags: p[5],
            key_id: p[6],
            silence_seconds: p[7],
            sender_session: u32::from_be_bytes(take(p, 8)),
            receiver_session: u32::from_be_bytes(take(p, 12)),
            rank: u16::from_be_bytes(take(p, 16)),
            generation: u16::from_be_bytes(take(p, 18)),
            epoch: u32::from_be_bytes(take(p, 20)),
            sequence: u64::from_be_bytes(take(p, 24)),
            sent_ns: u64::from_be_bytes(take(p, 32)),
            received: u64::from_be_bytes(take(p, 40)),
            instance: u32::from_be_bytes(take(p, 48)),
        };
        if header.flags & !flags::ALL != 0
            || header.sender_session == 0
            || header.instance == 0
            || header.sequence == 0
            || header.sequence > crate::window::MAX_SEQUENCE
        {
            return Err(Unreadable::Malformed);
        }
        Ok(header)
    }

    /// Writes the header, and leaves the tag alone.
    #[inline(always)]
    pub fn emit(&self, packet: &mut Packet) {
        let p = packet;
        let [l, w, k] = LETTERS;
        put(p, 0, [l, w, k, VERSION]);
        p[4] = self.kind as u8;
        p[5] = self.flags;
        p[6] = self.key_id;
        p[7] = self.silence_seconds;
        put(p, 8, self.sender_session.to_be_bytes());
        put(p, 12, self.receiver_session.to_be_bytes());
        put(p, 16, self.rank.to_be_bytes());
        put(p, 18, self.generation.to_be_bytes());
        put(p, 20, self.epoch.to_be_bytes());
        put(p, 24, self.sequence.to_be_bytes());
        put(p, 32, self.sent_ns.to_be_bytes());
        put(p, 40, self.received.to_be_bytes());
        put(p, 48, self.instance.to_be_bytes());
    }

    /// A body's digest, as it stands where probes have their send time and count.
    pub const fn body_digest(&self) -> [u8; 16] {
        (((self.sent_ns as u128) << 64) | self.received as u128).to_be_bytes()
    }

    /// Puts a body's digest in.
    pub const fn set_body_digest(&mut self, digest: [u8; 16]) {
        let both = u128::from_be_bytes(digest);
        self.sent_ns = (both >> 64) as u64;
        self.received = both as u64;
    }
}

/// The `N` bytes at a constant offset, as one load: byte by byte, the compiler would keep them on the kernel's small
/// stack.
#[inline(always)]
fn take<const N: usize>(packet: &Packet, at: usize) -> [u8; N] {
    match packet.get(at..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => *bytes,
        None => [0; N], // Never: every field lies inside.
    }
}

/// Writes `N` bytes at a constant offset, likewise.
#[inline(always)]
fn put<const N: usize>(packet: &mut Packet, at: usize, bytes: [u8; N]) {
    if let Some(place) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = bytes;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Header {
        Header {
            kind: Kind::Echo,
            flags: flags::ACTIVE | flags::CLIENT,
            key_id: 7,
            silence_seconds: 9,
            sender_session: 0x0102_0304,
            receiver_session: 0x0506_0708,
            rank: 0x090a,
            generation: 0x0b0c,
            epoch: 0x0d0e_0f10,
            sequence: 0x11_1213_1415,
            sent_ns: 0x1617_1819_1a1b_1c1d,
            received: 0x1e1f_2021_2223_2425,
            instance: 0x2627_2829,
        }
    }

    #[test]
    fn header_survives_the_round_trip() {
        let mut packet = [0xa5; PACKET_LEN];
        sample().emit(&mut packet);
        assert_eq!(Header::parse(&packet), Ok(sample()));
        assert_eq!(packet[HEADER_LEN..], [0xa5; TAG_LEN], "the tag is not ours to write");
    }

    #[test]
    fn bytes_stand_where_the_table_says() {
        let mut packet = [0; PACKET_LEN];
        sample().emit(&mut packet);
        let expected: [u8; HEADER_LEN] = [
            b'L', b'W', b'K', 2, 2, 0b1001, 7, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, 0, 0, 0x11,
            0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23,
            0x24, 0x25, 0x26, 0x27, 0x28, 0x29,
        ];
        assert_eq!(packet[..HEADER_LEN], expected);
    }

    #[test]
    fn every_single_defect_is_malformed() {
        let mut good = [0; PACKET_LEN];
        sample().emit(&mut good);
        for (at, value) in [(0, b'X'), (1, b'X'), (2, b'X'), (4, 0), (4, 8), (5, 0x20), (26, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Header::parse(&bad), Err(Unreadable::Malformed), "byte {at} = {value}");
        }
        let mut no_instance = good;
        no_instance[48..52].fill(0);
        assert_eq!(Header::parse(&no_instance), Err(Unreadable::Malformed));
        let mut no_session = good;
        no_session[8..12].fill(0);
        assert_eq!(Header::parse(&no_session), Err(Unreadable::Malformed));
        let mut no_sequence = good;
        no_sequence[24..32].fill(0);
        assert_eq!(Header::parse(&no_sequence), Err(Unreadable::Malformed));
    }

    #[test]
    fn another_version_is_recognised_and_not_malformed() {
        for version in [0, 1, 3, 255] {
            let mut packet = [0; PACKET_LEN];
            sample().emit(&mut packet);
            packet[3] = version;
            assert_eq!(Header::parse(&packet), Err(Unreadable::OtherVersion(version)));
        }
    }

    #[test]
    fn body_digest_survives_the_round_trip() {
        let mut header = sample();
        let digest = core::array::from_fn(|i| i as u8);
        header.set_body_digest(digest);
        assert_eq!(header.body_digest(), digest);
    }
}
