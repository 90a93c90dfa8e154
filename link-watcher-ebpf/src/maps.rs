//! The maps, and typed access to them. User space sets the lengths of the per-link ones when it loads the program.

use core::{cell::UnsafeCell, ptr};

use aya_ebpf::{
    Global,
    btf_maps::{Array, PerCpuArray, RingBuf},
    macros::btf_map,
};
use link_watcher_common::{
    maps::{
        Changed, Counters, Intent, KeySet, LinkEntry, LinkState, LinkWords, MAX_INTERFACES, MAX_LINKS, PORT_WORDS,
        PROBES, Traffic, Word, home,
    },
    verify::Refusal,
    wire::Packet,
};

use crate::{
    Verdict,
    parse::{self, Ethernet, Frame},
};

const LINKS_LEN: usize = MAX_LINKS as usize;
/// `BPF_F_MMAPABLE` (linux/bpf.h): user space reads and writes it without a system call.
const MMAPABLE: usize = 1 << 10;

/// What is known of each link.
#[btf_map]
static LINKS: Array<LinkState<u64>, LINKS_LEN, MMAPABLE> = Array::new();
/// What we say on each link.
#[btf_map]
static INTENTS: Array<Intent<u64>, LINKS_LEN, MMAPABLE> = Array::new();
/// Key states of each link. Only the program and its loader see it.
#[btf_map]
static KEYS: Array<KeySet, LINKS_LEN> = Array::new();
/// Which link a packet belongs to.
#[btf_map]
static LINK_IDS: Array<LinkEntry, { 8 * LINKS_LEN }> = Array::new();
/// One bit for each UDP port that is ours.
#[btf_map]
static PORTS: Array<u64, { PORT_WORDS as usize }> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<Counters, LINKS_LEN> = PerCpuArray::new();
/// Of the interfaces that user space entered.
#[btf_map]
static TRAFFIC: PerCpuArray<Traffic, { MAX_INTERFACES as usize }> = PerCpuArray::new();
/// No value type: programs that chain several XDP programs refuse a ring buffer with one.
#[btf_map]
static EVENTS: RingBuf<(), { 64 * 1024 }> = RingBuf::new();
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Set by the loader for benchmarks: one packet is repeated, so what it changed is undone each time. The kernel knows its
/// value when it verifies the program, and removes what depends on it.
#[unsafe(no_mangle)]
static BENCHMARK: Global<u8> = Global::new(0);

/// Lengths of the tables, minus one: the loader sets them along with the maps' lengths.
#[unsafe(no_mangle)]
static LINK_IDS_MASK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TRAFFIC_MASK: Global<u32> = Global::new(0);

/// Whether this is a benchmark.
#[inline(always)]
pub(crate) fn is_benchmark() -> bool {
    BENCHMARK.load() != 0
}

/// Working memory of one packet. Both hooks run with bottom halves off, so one a CPU is enough.
#[repr(C)]
pub(crate) struct Scratch {
    /// Aligned, so that the compiler reads and writes whole words.
    pub(crate) packet: Aligned,
    /// In benchmarks: the packet as it came.
    pub(crate) original: Aligned,
}

/// A packet where 64-bit access is possible.
#[repr(C, align(8))]
pub(crate) struct Aligned(pub(crate) Packet);

/// One word of a map that other CPUs and user space access too.
#[repr(transparent)]
pub(crate) struct Shared(UnsafeCell<u64>);

impl Word for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: points to an aligned word of a map value; volatile, because others write it.
        unsafe { ptr::read_volatile(self.0.get()) }
    }
    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.0.get(), value) }
    }
    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        let found: u64;
        // SAFETY: one atomic access to an aligned word of a map value.
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.0.get(),
                new = in(reg) new,
                inout("r0") current => found,
            );
        }
        found == current
    }
    /// For the lints, which see the crate as the host's.
    #[cfg(not(target_arch = "bpf"))]
    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
        // SAFETY: an aligned word of a map value.
        unsafe { AtomicU64::from_ptr(self.0.get()) }.compare_exchange(current, new, Relaxed, Relaxed).is_ok()
    }
}

/// A link's state.
#[inline(always)]
pub(crate) fn state(slot: u32) -> Option<&'static LinkState<Shared>> {
    // SAFETY: a value of an array map lives as long as the program; `Shared` is a transparent u64.
    LINKS.get_ptr(slot).map(|state| unsafe { &*state.cast() })
}

/// What we say on a link.
#[inline(always)]
pub(crate) fn intent(slot: u32) -> Option<&'static Intent<Shared>> {
    // SAFETY: as above.
    INTENTS.get_ptr(slot).map(|intent| unsafe { &*intent.cast() })
}

/// A link's keys.
#[inline(always)]
pub(crate) fn keys(slot: u32) -> Option<&'static KeySet> {
    KEYS.get(slot)
}

/// This CPU's working memory.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the kernel aligns map values to eight bytes; nothing else on this CPU uses this one until the program
    // ends. Saying the first aloud lets the compiler read and write whole words.
    unsafe {
        core::hint::assert_unchecked(scratch.addr() % 8 == 0);
        Some(&mut *scratch)
    }
}

/// Whether a UDP port is one of ours.
#[inline(always)]
pub(crate) fn is_our_port(port: u16) -> bool {
    PORTS.get(u32::from(port) / 64).is_some_and(|word| word >> (port % 64) & 1 != 0)
}

/// The slot of a link or endpoint.
#[inline(always)]
pub(crate) fn link_id(words: &LinkWords) -> Option<u32> {
    let home = home(words);
    let mut probe = 0;
    while probe < PROBES {
        let entry = LINK_IDS.get_ptr(home.wrapping_add(probe) & LINK_IDS_MASK.load())?;
        // SAFETY: an array's value, aligned to eight bytes and six words long. User space may be changing it: then the link
        // is not found, or the packet is checked with another link's keys, and either is over at the next packet.
        let found = unsafe { &*entry.cast::<LinkWords>() };
        // The last word holds the port, 16 zero bits and, on this target, above them the slot plus one.
        const { assert!(cfg!(target_endian = "little")) }
        let slot_plus_one = (found[5] >> 32) as u32;
        if slot_plus_one == 0 {
            return None;
        }
        let difference = (found[0] ^ words[0])
            | (found[1] ^ words[1])
            | (found[2] ^ words[2])
            | (found[3] ^ words[3])
            | (found[4] ^ words[4])
            | u64::from(found[5] as u32 ^ words[5] as u32);
        if difference == 0 {
            return Some(slot_plus_one - 1);
        }
        probe += 1;
    }
    None
}

/// Wakes user space. A full ring is no loss: it will look anyway.
#[inline(always)]
pub(crate) fn notify(slot: u32) {
    let _ = EVENTS.output_untyped::<Changed>(Changed { slot, reserved: 0 }, 0);
}

/// Counts a packet of a link, and hands the verdict through.
#[inline(always)]
pub(crate) fn counted(slot: u32, verdict: Verdict, counter: impl FnOnce(&mut Counters) -> Option<&mut u64>) -> Verdict {
    // SAFETY: this CPU's own copy.
    if let Some(counters) = COUNTERS.get_ptr_mut(slot)
        && let Some(counter) = counter(unsafe { &mut *counters })
    {
        *counter += 1;
    }
    verdict
}

/// The counter of packets that are refused for this reason.
///
/// LLVM makes the choice a multiplication, and leaves out the comparison that bounds it, for it knows how many reasons there are. The
/// verifier of Linux 6.1 does not, and refuses the access. Of a number that comes from nowhere LLVM knows no more than the verifier.
#[inline(always)]
pub(crate) fn refused(counters: &mut Counters, refusal: Refusal) -> Option<&mut u64> {
    const MALFORMED: u64 = Refusal::Malformed as u64;
    const UNKNOWN: u64 = Refusal::Unknown as u64;
    const REPLAYED: u64 = Refusal::Replayed as u64;
    const REFLECTED: u64 = Refusal::Reflected as u64;
    const FORGED: u64 = Refusal::Forged as u64;
    const LATE: u64 = Refusal::Late as u64;
    const DISTANT: u64 = Refusal::Distant as u64;
    const VERSION: u64 = Refusal::Version as u64;
    match from_nowhere(refusal as u64) {
        MALFORMED => Some(&mut counters.malformed),
        UNKNOWN => Some(&mut counters.unknown),
        REPLAYED => Some(&mut counters.replayed),
        REFLECTED => Some(&mut counters.reflected),
        FORGED => Some(&mut counters.forged),
        LATE => Some(&mut counters.late),
        DISTANT => Some(&mut counters.distant),
        VERSION => Some(&mut counters.version),
        _ => None,
    }
}

/// The same number, of which the compiler knows nothing any more.
#[inline(always)]
fn from_nowhere(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let number = {
        let copy: u64;
        // SAFETY: copies a register. (Without any instruction the kernel would refuse the line numbers.)
        unsafe {
            core::arch::asm!("{copy} = {number}", number = in(reg) number, copy = lateout(reg) copy, options(pure, nomem, nostack));
        }
        copy
    };
    number
}

/// Counts a packet of an interface, if it is one that user space entered.
#[inline(always)]
pub(crate) fn count_traffic(frame: &impl Frame) {
    let ifindex = frame.ifindex();
    let mut probe = 0;
    while probe < PROBES {
        let Some(traffic) = TRAFFIC.get_ptr_mut(ifindex.wrapping_add(probe) & TRAFFIC_MASK.load()) else { return };
        // SAFETY: this CPU's own copy.
        let traffic = unsafe { &mut *traffic };
        if traffic.ifindex == ifindex {
            traffic.packets += 1;
            traffic.bytes += frame.len() as u64;
            return;
        }
        if traffic.ifindex == 0 {
            return;
        }
        probe += 1;
    }
}

/// Notes where the peer's newest probe came from: ours may go there without asking for the way. (An echo only comes from
/// where its probe went to.)
#[inline(always)]
pub(crate) fn note_neighbour<F: Frame>(frame: &F, slot: u32, [g, h]: [u8; 2]) {
    let Some(state) = state(slot) else { return };
    let mut ethernet = [0; 6];
    if F::ETHERNET
        && let Some(header) = parse::at::<Ethernet>(frame, 0)
    {
        // SAFETY: bounds-checked by `at`, packed.
        ethernet = unsafe { (*header).source };
    }
    let [a, b, c, d, e, f] = ethernet;
    state.neighbour.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
}
