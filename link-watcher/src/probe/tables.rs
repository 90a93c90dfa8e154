//! What the verifier, the prober and the status share: the per-link words of the BPF maps, wherever they are, and
//! what only user space counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link_watcher_common::{
    maps::{Counters, Intent, LinkState},
    verify::Refusal,
};

use crate::link::EachWay;

/// The per-link arrays, by slot. In the kernel's maps where there is a BPF program, so that it, this process and
/// `bpftool` see the same words; else on the heap.
pub trait Tables: Send + Sync {
    /// What is known of each link from its packets.
    fn states(&self) -> &[LinkState<AtomicU64>];
    /// What we say on each link.
    fn intents(&self) -> &[Intent<AtomicU64>];
}

/// [`Tables`] of a daemon without BPF.
pub struct HeapTables {
    states: Vec<LinkState<AtomicU64>>,
    intents: Vec<Intent<AtomicU64>>,
}

impl HeapTables {
    /// For so many slots.
    pub fn new(slots: usize) -> Self {
        Self {
            states: std::iter::repeat_with(LinkState::default).take(slots).collect(),
            intents: std::iter::repeat_with(Intent::default).take(slots).collect(),
        }
    }
}

impl Tables for HeapTables {
    fn states(&self) -> &[LinkState<AtomicU64>] {
        &self.states
    }
    fn intents(&self) -> &[Intent<AtomicU64>] {
        &self.intents
    }
}

impl Tables for crate::bpf::SharedTables {
    fn states(&self) -> &[LinkState<AtomicU64>] {
        self.states()
    }
    fn intents(&self) -> &[Intent<AtomicU64>] {
        self.intents()
    }
}

/// Set where what is lost each way is known.
const KNOWN: u64 = 1 << 63;

/// What user space counts of one link.
#[derive(Default)]
pub struct LinkStats {
    /// Probes sent.
    pub sent: AtomicU64,
    /// Probes that the socket refused to send.
    pub send_errors: AtomicU64,
    /// Probes without an echo among the last ones, millionths.
    pub loss_ppm: AtomicU64,
    loss_each_way: AtomicU64,
    /// Worst lateness of the probing thread at this link in the last 5 to 10 s, ns.
    pub worst_lateness_ns: AtomicU64,
    probes: AtomicU64,
    echoes: AtomicU64,
    control: AtomicU64,
    malformed: AtomicU64,
    unknown: AtomicU64,
    replayed: AtomicU64,
    reflected: AtomicU64,
    forged: AtomicU64,
    late: AtomicU64,
    distant: AtomicU64,
    version: AtomicU64,
    /// Datagrams to the port that came to nothing before anybody could say what they are.
    pub junk: AtomicU64,
}

impl LinkStats {
    /// Notes what is lost on the way there and back.
    pub fn note_loss_each_way(&self, loss: Option<EachWay>) {
        let ppm = |share: f64| (share * 1e6) as u64;
        let packed = loss.map_or(0, |EachWay { there, back }| KNOWN | (ppm(there) << 32) | ppm(back));
        self.loss_each_way.store(packed, Relaxed);
    }

    /// What was last noted.
    pub fn loss_each_way(&self) -> Option<EachWay> {
        let packed = self.loss_each_way.load(Relaxed);
        let share = |ppm: u64| (ppm & 0x7fff_ffff) as f64 / 1e6;
        (packed & KNOWN != 0).then(|| EachWay { there: share(packed >> 32), back: share(packed) })
    }

    /// Counts a dropped packet.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Malformed => &self.malformed,
            Refusal::Unknown => &self.unknown,
            Refusal::Replayed => &self.replayed,
            Refusal::Reflected => &self.reflected,
            Refusal::Forged => &self.forged,
            Refusal::Late => &self.late,
            Refusal::Distant => &self.distant,
            Refusal::Version => &self.version,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a good packet.
    pub(super) fn accept(&self, what: Accepted) {
        let counter = match what {
            Accepted::Probe => &self.probes,
            Accepted::Echo => &self.echoes,
            Accepted::Control => &self.control,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// What the socket engine counted: to be added to what the kernel program counted.
    pub fn counters(&self) -> Counters {
        Counters {
            probes: self.probes.load(Relaxed),
            echoes: self.echoes.load(Relaxed),
            control: self.control.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            replayed: self.replayed.load(Relaxed),
            reflected: self.reflected.load(Relaxed),
            forged: self.forged.load(Relaxed),
            late: self.late.load(Relaxed),
            distant: self.distant.load(Relaxed),
            version: self.version.load(Relaxed),
        }
    }
}

/// A good packet.
#[derive(Clone, Copy)]
pub(super) enum Accepted {
    /// Answered.
    Probe,
    /// An answer.
    Echo,
    /// Handed on.
    Control,
}

/// [`LinkStats`] by slot.
pub struct Stats(Vec<LinkStats>);

impl Stats {
    /// For so many slots.
    pub fn new(slots: usize) -> Self {
        Self(std::iter::repeat_with(LinkStats::default).take(slots).collect())
    }

    /// Of one slot. A slot is always below the number given to [`Stats::new`].
    pub fn of(&self, slot: u32) -> &LinkStats {
        &self.0[slot as usize]
    }
}
