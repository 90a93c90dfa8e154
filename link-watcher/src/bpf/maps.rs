//! Typed access to the maps: the ones that are mapped into this process as slices of atomics, the others by system call.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU64},
};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use link_watcher_common::maps::{
    Changed, Counters, Intent, KeySet, LinkEntry, LinkKey, LinkState, MAX_LINKS, PORT_WORDS, PROBES, Traffic, home,
};
use zeroize::Zeroize as _;

use super::{Error, load};

/// A type of ours as a map's key or value.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: `repr(C)`, of integers only, without padding (their sizes are asserted where they are defined).
unsafe impl aya::Pod for Plain<LinkEntry> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<KeySet> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Counters> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Traffic> {}

/// Types whose values may be shared with the kernel through mapped memory.
///
/// # Safety
///
/// Every bit pattern is a value, and all of it is atomics.
pub(super) unsafe trait Mappable {}
// SAFETY: 64-bit atomics only.
unsafe impl Mappable for LinkState<AtomicU64> {}
// SAFETY: as above.
unsafe impl Mappable for Intent<AtomicU64> {}

/// The values of a map, in this process's memory. They stay valid without the map's descriptor.
#[derive(Debug)]
struct Mapping<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it is memory of atomics; no thread owns it.
unsafe impl<T: Mappable> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Mappable> Sync for Mapping<T> {}

impl<T: Mappable> Mapping<T> {
    /// Maps the first `len` values of a loaded object's array map.
    fn new(ebpf: &aya::Ebpf, name: &'static str, len: u32) -> Result<Self, Error> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let Some(Map::Array(map)) = ebpf.map(name) else {
            return Err(Error::Object(format!("has no array map {name}")));
        };
        let info = map.info().map_err(|source| Error::map(name, source))?;
        if info.value_size() as usize != size_of::<T>() || info.max_entries() < len {
            return Err(Error::Object(format!("has a map {name} of another layout")));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = len as usize * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, map.fd(), 0) };
        let start = start.map_err(|errno| Error::map(name, io::Error::from(errno)))?;
        let start = NonNull::new(start.cast()).ok_or(Error::Object(format!("has a map {name} at address zero")))?;
        Ok(Self { start, len: len as usize })
    }

    fn values(&self) -> &[T] {
        // SAFETY: `len` values are mapped until drop, page-aligned; any bits are a `T`, and others change them
        // only atomically.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no reference outlives `self`. Failing would only leak.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}

/// The maps that every keepalive touches, mapped: the program, this process and bpftool see the same words.
#[derive(Debug)]
pub struct SharedTables {
    states: Mapping<LinkState<AtomicU64>>,
    intents: Mapping<Intent<AtomicU64>>,
}

impl SharedTables {
    /// What is known of each link from its packets, by slot.
    #[must_use]
    pub fn states(&self) -> &[LinkState<AtomicU64>] {
        self.states.values()
    }

    /// What we say on each link, by slot.
    #[must_use]
    pub fn intents(&self) -> &[Intent<AtomicU64>] {
        self.intents.values()
    }
}

/// Tells which links the kernel program has news of. Its descriptor is readable while there are some.
pub struct Events(RingBuf<MapData>);

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Events {
    /// Appends the slots that have news; at most [`MAX_LINKS`] at a time, oldest first, with repetitions.
    pub fn drain(&mut self, slots: &mut Vec<u32>) {
        for _ in 0..MAX_LINKS {
            let Some(item) = self.0.next() else { return };
            // `Changed` begins with the slot.
            const { assert!(std::mem::offset_of!(Changed, slot) == 0) }
            if let Some(slot) = item.first_chunk() {
                slots.push(u32::from_ne_bytes(*slot));
            }
        }
    }
}

/// Packets by outcome.
pub(super) struct SlotCounters(PerCpuArray<MapData, Plain<Counters>>);

impl SlotCounters {
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        take(ebpf, "COUNTERS").map(Self)
    }

    /// A link's, of all CPUs.
    pub(super) fn get(&self, slot: u32) -> Result<Counters, Error> {
        let values = self.0.get(&slot, 0).map_err(|source| Error::map("COUNTERS", source))?;
        let mut sum = Counters::default();
        values.iter().for_each(|Plain(counters)| sum.add(counters));
        Ok(sum)
    }
}

/// The maps of one loaded object.
pub(super) struct Maps {
    pub(super) tables: Arc<SharedTables>,
    pub(super) events: Option<Events>,
    keys: Array<MapData, Plain<KeySet>>,
    link_ids: LinkIds,
    ports: Array<MapData, u64>,
    counters: SlotCounters,
    traffic: PerCpuArray<MapData, Plain<Traffic>>,
}

/// Takes a map out of a loaded object.
fn take<M>(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| Error::Object(format!("has no map {name}")))?;
    M::try_from(map).map_err(|source| Error::map(name, source))
}

impl Maps {
    /// Takes the maps over from an object that was loaded with so many slots.
    pub(super) fn take(ebpf: &mut aya::Ebpf, slots: u32) -> Result<Self, Error> {
        Ok(Self {
            tables: Arc::new(SharedTables {
                states: Mapping::new(ebpf, "LINKS", slots)?,
                intents: Mapping::new(ebpf, "INTENTS", slots)?,
            }),
            events: Some(Events(take(ebpf, "EVENTS")?)),
            keys: take(ebpf, "KEYS")?,
            link_ids: LinkIds {
                map: take(ebpf, "LINK_IDS")?,
                table: LinkTable(vec![LinkEntry::default(); load::link_ids_len(slots) as usize]),
            },
            ports: take(ebpf, "PORTS")?,
            counters: SlotCounters::take(ebpf)?,
            traffic: take(ebpf, "TRAFFIC")?,
        })
    }

    pub(super) fn set_keys(&mut self, slot: u32, keys: &KeySet) -> Result<(), Error> {
        let mut copy = Plain(*keys);
        let result = self.keys.set(slot, copy, 0);
        for state in &mut copy.0.states {
            state.inner.zeroize();
            state.outer.zeroize();
        }
        result.map_err(|source| Error::map("KEYS", source))
    }

    pub(super) fn insert_link(&mut self, key: LinkKey, slot: u32) -> Result<(), Error> {
        self.link_ids.insert(key, slot)
    }

    pub(super) fn remove_link(&mut self, key: &LinkKey) -> Result<(), Error> {
        self.link_ids.remove(key)
    }

    pub(super) fn set_port(&mut self, port: u16, ours: bool) -> Result<(), Error> {
        const { assert!(PORT_WORDS * 64 == 1 << 16) }
        let index = u32::from(port) / 64;
        let bit = 1_u64 << (port % 64);
        let word = self.ports.get(&index, 0).map_err(|source| Error::map("PORTS", source))?;
        let word = if ours { word | bit } else { word & !bit };
        self.ports.set(index, word, 0).map_err(|source| Error::map("PORTS", source))
    }

    pub(super) fn counters(&self, slot: u32) -> Result<Counters, Error> {
        self.counters.get(slot)
    }

    pub(super) fn clear_counters(&mut self, slot: u32) -> Result<(), Error> {
        let zero = on_every_cpu(Counters::default()).map_err(|source| Error::map("COUNTERS", source))?;
        self.counters.0.set(slot, zero, 0).map_err(|source| Error::map("COUNTERS", source))
    }

    pub(super) fn track_traffic(&mut self, ifindex: u32) -> Result<(), Error> {
        if self.find_traffic(ifindex)?.is_some() {
            return Ok(());
        }
        for place in self.traffic_places(ifindex) {
            if matches!(self.traffic_at(place)?.ifindex, 0 | Traffic::FORMER) {
                return self.set_traffic(place, Traffic { ifindex, ..Traffic::default() });
            }
        }
        Err(Error::map("TRAFFIC", io::Error::other("too many interfaces for the map's length")))
    }

    pub(super) fn untrack_traffic(&mut self, ifindex: u32) -> Result<(), Error> {
        let Some((place, _)) = self.find_traffic(ifindex)? else { return Ok(()) };
        self.set_traffic(place, Traffic { ifindex: Traffic::FORMER, ..Traffic::default() })
    }

    pub(super) fn traffic(&self, ifindex: u32) -> Result<Option<Traffic>, Error> {
        Ok(self.find_traffic(ifindex)?.map(|(_, traffic)| traffic))
    }

    fn traffic_places(&self, ifindex: u32) -> impl Iterator<Item = u32> + use<> {
        let mask = self.traffic.len() - 1;
        (0..PROBES).map(move |probe| ifindex.wrapping_add(probe) & mask)
    }

    fn find_traffic(&self, ifindex: u32) -> Result<Option<(u32, Traffic)>, Error> {
        for place in self.traffic_places(ifindex) {
            let traffic = self.traffic_at(place)?;
            if traffic.ifindex == ifindex {
                return Ok(Some((place, traffic)));
            }
        }
        Ok(None)
    }

    /// The sum over all CPUs.
    fn traffic_at(&self, place: u32) -> Result<Traffic, Error> {
        let values = self.traffic.get(&place, 0).map_err(|source| Error::map("TRAFFIC", source))?;
        let mut sum = Traffic::default();
        for Plain(traffic) in values.iter() {
            sum.ifindex = traffic.ifindex;
            sum.packets += traffic.packets;
            sum.bytes += traffic.bytes;
        }
        Ok(sum)
    }

    fn set_traffic(&mut self, place: u32, traffic: Traffic) -> Result<(), Error> {
        let values = on_every_cpu(traffic).map_err(|source| Error::map("TRAFFIC", source))?;
        self.traffic.set(place, values, 0).map_err(|source| Error::map("TRAFFIC", source))
    }
}

/// The table that finds a packet's link, as [`LinkEntry`] describes it.
struct LinkIds {
    map: Array<MapData, Plain<LinkEntry>>,
    table: LinkTable,
}

impl LinkIds {
    fn insert(&mut self, key: LinkKey, slot: u32) -> Result<(), Error> {
        let place = self.table.place_for(&key);
        let place =
            place.ok_or_else(|| Error::map("LINK_IDS", io::Error::other("too many links for the map's length")))?;
        self.set(place, LinkEntry { key, slot_plus_one: slot + 1 })
    }

    fn remove(&mut self, key: &LinkKey) -> Result<(), Error> {
        let Some(place) = self.table.find(key) else { return Ok(()) };
        if !self.table.is_empty(place + 1) {
            return self.set(place, FORMER);
        }
        // Nothing is behind it, so nothing has to be found across it, nor across former ones before it.
        self.set(place, LinkEntry::default())?;
        let mut before = place;
        for _ in 0..PROBES {
            before = before.wrapping_sub(1);
            if self.table.at(before) != FORMER {
                break;
            }
            self.set(before, LinkEntry::default())?;
        }
        Ok(())
    }

    fn set(&mut self, place: usize, entry: LinkEntry) -> Result<(), Error> {
        let place = place & self.table.mask();
        self.map.set(place as u32, Plain(entry), 0).map_err(|source| Error::map("LINK_IDS", source))?;
        self.table.0[place] = entry;
        Ok(())
    }
}

/// In place of a link that is gone, so that those behind it are still found. No packet has interface 0.
const FORMER: LinkEntry = LinkEntry {
    key: LinkKey { ifindex: 0, vlan: 0, local: [0; 16], remote: [0; 16], port: 0, reserved: 0 },
    slot_plus_one: u32::MAX,
};

/// What stands in the map; its length is a power of two.
struct LinkTable(Vec<LinkEntry>);

impl LinkTable {
    fn mask(&self) -> usize {
        self.0.len() - 1
    }

    fn at(&self, place: usize) -> LinkEntry {
        self.0[place & self.mask()]
    }

    fn is_empty(&self, place: usize) -> bool {
        self.at(place).slot_plus_one == 0
    }

    /// Where a key may be.
    fn places(&self, key: &LinkKey) -> impl Iterator<Item = usize> + use<> {
        let home = home(&key.words());
        let mask = self.mask();
        (0..PROBES).map(move |probe| home.wrapping_add(probe) as usize & mask)
    }

    /// Where it is, found as the kernel program finds it.
    fn find(&self, key: &LinkKey) -> Option<usize> {
        self.places(key).take_while(|place| !self.is_empty(*place)).find(|place| self.at(*place).key == *key)
    }

    /// Where it is or can be put.
    fn place_for(&self, key: &LinkKey) -> Option<usize> {
        let free = || self.places(key).find(|place| self.is_empty(*place) || self.at(*place) == FORMER);
        self.find(key).or_else(free)
    }
}

fn on_every_cpu<T>(value: T) -> io::Result<PerCpuValues<Plain<T>>>
where
    Plain<T>: aya::Pod,
{
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    PerCpuValues::try_from(vec![Plain(value); cpus])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        collections::BTreeMap,
        net::{IpAddr, Ipv6Addr},
    };

    use link_watcher_common::wire::DEFAULT_PORT;

    use super::*;

    fn key(ifindex: u32, vlan: u32, local: impl Into<IpAddr>, remote: impl Into<IpAddr>) -> LinkKey {
        let mapped = |address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        LinkKey {
            ifindex,
            vlan,
            local: mapped(local.into()),
            remote: mapped(remote.into()),
            port: DEFAULT_PORT,
            reserved: 0,
        }
    }

    fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, a, b, 0, 0, 0, c)
    }

    /// A link by the first interface's number, and by its own number in two octets and in one word.
    type Pattern = fn(u32, [u8; 2], u16) -> LinkKey;

    /// As configurations have them: links that differ in a few bits somewhere.
    const PATTERNS: [Pattern; 8] = [
        |first, [high, low], i| key(first + u32::from(i) % 100, 0, [10, high, low, 1], [10, high, low, 2]),
        |first, [high, low], _| key(first, 0, [10, 64, high, low], [10, 65, high, low]),
        |first, [high, low], _| key(first, 0, [10, 248, 0, 1], [10, 248, high, low]),
        |first, _, i| key(first + u32::from(i), 0, [192, 0, 2, 1], [192, 0, 2, 2]),
        |first, _, i| key(first, u32::from(i), [192, 0, 2, 1], [192, 0, 2, 2]),
        |first, _, i| key(first, 0, v6(0, i, 1), v6(0, i, 2)),
        |first, _, i| key(first, 0, v6(0, 0, 1), v6(0, 0, i)),
        |first, _, i| key(first, 0, v6(i, 0, 1), v6(i, 0, 2)),
    ];

    #[test]
    fn every_link_is_found_at_any_number_of_links() {
        let cases = (0..PATTERNS.len()).flat_map(|pattern| [2, 7, 40, 1022].map(|first| (pattern, first)));
        for (pattern, first) in cases {
            for links in [1, 3, 32, 100, 128, 1000, MAX_LINKS as u16] {
                let len = load::link_ids_len(load::slots_for(links.into()));
                let mut table = LinkTable(vec![LinkEntry::default(); len as usize]);
                let entries = (0..links).flat_map(|i| {
                    let key = PATTERNS[pattern](first, i.to_be_bytes(), i);
                    // A link, and its endpoint, which links may share: then it stands for the last of them.
                    [key, LinkKey { remote: [0; 16], ..key }].map(|key| (key, u32::from(i) + 1))
                });
                for (key, slot_plus_one) in entries.clone() {
                    let Some(place) = table.place_for(&key) else {
                        panic!("pattern {pattern}, {links} links: no place for {key:?}");
                    };
                    table.0[place] = LinkEntry { key, slot_plus_one };
                }
                for (key, slot_plus_one) in entries.collect::<BTreeMap<_, _>>() {
                    assert_eq!(table.find(&key).map(|place| table.at(place).slot_plus_one), Some(slot_plus_one));
                    assert_eq!(table.find(&LinkKey { port: 1, ..key }), None);
                }
            }
        }
    }
}
