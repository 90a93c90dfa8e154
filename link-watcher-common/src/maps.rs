//! Keys and values of the BPF maps. `repr(C)`, sizes and offsets asserted when compiled, all of 64-bit words
//! where both sides write, so that no reader ever sees half a value.
//!
//! Who writes what: [`LinkState`] the verifier of packets (XDP, tc or the socket engine), [`Intent`],
//! [`KeySet`] and [`LinkKey`] user space, [`Counters`] and [`Traffic`] the kernel, one copy a CPU.

use core::mem::{offset_of, size_of};

/// Most links of one daemon: the length of the per-link arrays.
pub const MAX_LINKS: u32 = 4096;
/// Most keys of one peer: the first signs, all verify.
pub const MAX_KEYS: usize = 4;
/// Most interfaces whose traffic is counted.
pub const MAX_INTERFACES: u32 = 4096;

/// One 64-bit word that the kernel program and user space both see. On the host an `AtomicU64`, in BPF a volatile
/// access; `compare_exchange` is one instruction in both.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u64;
    /// Writes it.
    fn store(&self, value: u64);
    /// Writes `new` if it still holds `current`; says whether it did.
    fn compare_exchange(&self, current: u64, new: u64) -> bool;
}

#[cfg(not(target_arch = "bpf"))]
impl Word for core::sync::atomic::AtomicU64 {
    fn load(&self) -> u64 {
        self.load(core::sync::atomic::Ordering::Acquire)
    }
    fn store(&self, value: u64) {
        self.store(value, core::sync::atomic::Ordering::Release);
    }
    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        use core::sync::atomic::Ordering::{AcqRel, Acquire};
        self.compare_exchange(current, new, AcqRel, Acquire).is_ok()
    }
}

/// One end of a link in one life of its daemon and of the link: what [`LinkState::peer`] and [`Intent::me`] hold, packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// The daemon since its start: the same on all its links.
    pub instance: u32,
    /// The link since it was last begun.
    pub session: u32,
}

impl Party {
    /// As one word; 0: nobody.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        ((self.instance as u64) << 32) | self.session as u64
    }

    /// From one word.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self { instance: (word >> 32) as u32, session: word as u32 }
    }
}

/// What is known of a link from its packets: value of the map `LINKS`, by link slot. `W` is `u64` where it is only a
/// layout, and a [`Word`] where it is accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LinkState<W> {
    /// When the last valid echo of a probe of mine arrived, monotonic ns; 0: never.
    pub last_echo_ns: W,
    /// [`crate::window`] of the sequences whose echo arrived.
    pub echo_window: W,
    /// Round-trip time of the last echo, ns.
    pub rtt_ns: W,
    /// Smoothed round-trip time, ns (RFC 6298, section 2: gain 1/8).
    pub srtt_ns: W,
    /// Smoothed variation of the round-trip time, ns (RFC 3550, section 6.4.1: gain 1/16).
    pub jitter_ns: W,
    /// Valid echoes so far.
    pub echoes: W,
    /// When the peer's last valid probe that carried my session arrived, monotonic ns; 0: never.
    pub last_probe_ns: W,
    /// [`crate::window`] of the peer's probes.
    pub probe_window: W,
    /// Valid probes of the peer's present session so far.
    pub probes: W,
    /// Whose packets count: [`Party`], learned from a valid echo only, because only an echo proves to be fresh; 0: nobody's.
    pub peer: W,
    /// What the peer says of the link: [`View`], packed.
    pub peer_view: W,
    /// Generation of the peer's announcement.
    pub peer_generation: W,
    /// How many probes of mine the peer has received, by its last echo.
    pub peer_received: W,
    /// [`crate::window`] of the peer's control packets.
    pub control_window: W,
    /// Ethernet address that the peer's newest probe came from, as it stands in the frame (zeros where the interface has no such
    /// addresses, or a socket took it in), and its UDP source port, as it stands in the packet; 0: none yet.
    pub neighbour: W,
    /// When the probe left whose echo has the highest sequence of all that counted, monotonic ns; 0: none.
    pub newest_sent_ns: W,
    /// That sequence; 0: none.
    pub newest_answered: W,
    /// Echoes that came later than [`Intent::max_age_ns`] allows.
    pub late_echoes: W,
    /// When the last of them arrived, monotonic ns; 0: never.
    pub last_late_ns: W,
    /// Its round-trip time, ns.
    pub late_rtt_ns: W,
    /// When the last packet of another version came, monotonic ns, with that version in place of the lowest eight bits; 0: never.
    pub other_version: W,
    /// Zero.
    pub reserved: [W; 3],
}

const _: () = {
    assert!(size_of::<LinkState<u64>>() == 192);
    assert!(offset_of!(LinkState<u64>, last_probe_ns) == 48);
    assert!(offset_of!(LinkState<u64>, peer) == 72);
    assert!(offset_of!(LinkState<u64>, neighbour) == 112);
    assert!(offset_of!(LinkState<u64>, newest_sent_ns) == 120);
};

/// What we say on a link, and what we demand there: value of the map `INTENTS`, by link slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Intent<W> {
    /// Me on this link: [`Party`], packed; 0: this slot is not in use.
    pub me: W,
    /// My [`View`], packed.
    pub view: W,
    /// Generation of my announcement.
    pub generation: W,
    /// Highest sequence sent on this link: a higher one in an echo is not an answer.
    pub sent_sequence: W,
    /// Detection time, ns: silence for this long means down. A peer heard within it is alive, and no other session
    /// can take its place.
    pub detection_ns: W,
    /// Most time from a probe to its echo, ns: a later one is counted as late, and proves nothing.
    pub max_age_ns: W,
    /// How far behind my `sent_sequence` the acknowledgement in a probe of the peer's may be, sequences: one that lies further
    /// back was held up on its way, and what it says of the link is old.
    pub max_lag: W,
    /// When the daemon last gave a sign of life on this link, monotonic ns.
    pub renewed_ns: W,
    /// How long it may give none, ns: from then on the kernel's answers say that it is silent.
    pub lease_ns: W,
    /// My Ethernet address as it stands in a frame, and two zeros: a frame to another one is not for me. 0: not looked at.
    pub mac: W,
    /// Least TTL or hop limit of what the peer sends, 1 to 255 (RFC 5082); 0: not looked at.
    pub min_hops: W,
    /// Zero.
    pub reserved: [W; 5],
}

const _: () = {
    assert!(size_of::<Intent<u64>>() == 128);
    assert!(offset_of!(Intent<u64>, mac) == 72);
};

/// What one side says of a link in every packet; one word, so that flags and epoch always belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Agreement epoch.
    pub epoch: u32,
    /// Order of preference, 0 first.
    pub rank: u16,
    /// Seconds for which its daemon has been silent, at most 255; 0: it lives. Of what we say ourselves it is always 0: only
    /// the kernel, which answers for a silent daemon, says otherwise.
    pub silence_seconds: u8,
    /// Bits of [`crate::wire::flags`].
    pub flags: u8,
}

impl View {
    /// As one word.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        ((self.epoch as u64) << 32)
            | ((self.rank as u64) << 16)
            | ((self.silence_seconds as u64) << 8)
            | self.flags as u64
    }

    /// From one word.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            epoch: (word >> 32) as u32,
            rank: (word >> 16) as u16,
            silence_seconds: (word >> 8) as u8,
            flags: word as u8,
        }
    }
}

/// A key's two states after its first block: all that signing needs, and not the key itself.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct KeyState {
    /// SHA-256 state after the block key ⊕ ipad (RFC 2104).
    pub inner: [u32; 8],
    /// SHA-256 state after the block key ⊕ opad.
    pub outer: [u32; 8],
}

/// The keys of one link, derived from its peer's: value of the map `KEYS`, by link slot.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct KeySet {
    /// How many of the keys are in use, 1 to [`MAX_KEYS`].
    pub count: u32,
    /// Their ids, as the packet names them.
    pub ids: [u8; MAX_KEYS],
    /// Their states; the first signs.
    pub states: [KeyState; MAX_KEYS],
}

const _: () = assert!(size_of::<KeySet>() == 8 + MAX_KEYS * 64);

/// Where a link's packets arrive. With `remote` all zero it
/// stands for the endpoint itself: packets to it that no link explains are ours all the same, and are counted for
/// that slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct LinkKey {
    /// Interface index.
    pub ifindex: u32,
    /// VLAN ids if the packet carries tags: `outer << 16 | inner`, or the only one; 0: untagged or priority-tagged.
    pub vlan: u32,
    /// Our address, IPv4 as IPv4-mapped (RFC 4291, section 2.5.5.2).
    pub local: [u8; 16],
    /// The peer's address, likewise.
    pub remote: [u8; 16],
    /// Our UDP port, host order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<LinkKey>() == 44);

/// Value of the map `LINK_IDS`: a hash table with open addressing in an array, because the kernel's own hash map takes
/// longer to find a link than everything else before the signature together. An entry is found at [`home`] or within the
/// [`PROBES`] places from there on, before the first empty one; the length is a power of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct LinkEntry {
    /// Whose.
    pub key: LinkKey,
    /// The link slot plus one; 0: this place is empty.
    pub slot_plus_one: u32,
}

const _: () = {
    assert!(size_of::<LinkEntry>() == 48);
    assert!(offset_of!(LinkEntry, slot_plus_one) == 44);
};

/// [`LinkKey`] as words in the host's byte order, as they stand in [`LinkEntry`]: interface and VLAN, our address, the
/// peer's address, port.
pub type LinkWords = [u64; 6];

/// How many places of a table are looked at for one entry.
pub const PROBES: u32 = 16;

impl LinkKey {
    /// Its words.
    #[must_use]
    pub fn words(&self) -> LinkWords {
        let half = |address: &[u8; 16], at: usize| {
            address.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        [
            u64::from(self.ifindex) | (u64::from(self.vlan) << 32),
            half(&self.local, 0),
            half(&self.local, 8),
            half(&self.remote, 0),
            half(&self.remote, 8),
            u64::from(self.port),
        ]
    }
}

/// Where to begin to look for an entry, before the table's length is applied: a multiplicative hash. What is entered comes
/// from the configuration, so nobody can choose it to be slow.
///
/// A product after the other takes half of the time of finding a link. A plain sum of products would take less, and does not
/// do: addresses that count up alike at both ends cancel each other out in it, and pile up.
#[inline(always)]
#[must_use]
pub const fn home(words: &LinkWords) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = words[0];
    let mut i = 1;
    while i < 6 {
        hash = (hash ^ words[i]).wrapping_mul(FACTOR);
        hash ^= hash >> 32;
        i += 1;
    }
    hash as u32
}

/// Words of the map `PORTS`: one bit for each UDP port that is ours.
pub const PORT_WORDS: u32 = 65536 / 64;

/// Packets of one link by outcome: per-CPU value of the map `COUNTERS`, by link slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Valid probes, answered.
    pub probes: u64,
    /// Valid echoes.
    pub echoes: u64,
    /// Valid control packets.
    pub control: u64,
    /// To our port and address, but no packet of ours.
    pub malformed: u64,
    /// From an address that is no link's.
    pub unknown: u64,
    /// A sequence seen before, or a session that is over.
    pub replayed: u64,
    /// My own packets, mirrored; or both sides have the same role.
    pub reflected: u64,
    /// The signature is wrong, or the key is not one of ours.
    pub forged: u64,
    /// Valid echoes that came too late to prove anything.
    pub late: u64,
    /// From further away than the link allows, by TTL or hop limit.
    pub distant: u64,
    /// Of another version of the protocol.
    pub version: u64,
}

impl Counters {
    /// Adds another CPU's counts.
    pub const fn add(&mut self, other: &Self) {
        self.probes += other.probes;
        self.echoes += other.echoes;
        self.control += other.control;
        self.malformed += other.malformed;
        self.unknown += other.unknown;
        self.replayed += other.replayed;
        self.reflected += other.reflected;
        self.forged += other.forged;
        self.late += other.late;
        self.distant += other.distant;
        self.version += other.version;
    }

    /// All packets that were ours.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let good = self.probes + self.echoes + self.control;
        let shape = self.malformed + self.unknown + self.version + self.distant;
        good + shape + self.replayed + self.reflected + self.forged + self.late
    }
}

/// All traffic received on an interface: per-CPU value of the map `TRAFFIC`, a table as [`LinkEntry`] describes, whose
/// home is the interface index itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Interface index; 0: this place is empty, [`Traffic::FORMER`]: it was taken once.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes, with the link header.
    pub bytes: u64,
}

impl Traffic {
    /// In place of an interface that is not counted any more, so that those behind it are still found.
    pub const FORMER: u32 = u32::MAX;
}

/// What wakes user space before its next tick: entry of the ring buffer `EVENTS`. It only says where to look: the
/// values stand in [`LinkState`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Changed {
    /// Link slot.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}
