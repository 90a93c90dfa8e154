//! A talkative copy of the programs in place of the quiet ones, for a while. It has the same maps, so that each packet finds the same
//! state whichever of the two takes it in; the programs are exchanged between two packets, interface by interface.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aya::{Ebpf, maps::Map};
use aya_log::Level;

use super::{
    Error, Hook, LinkLayer, PacketLog, Reading, load,
    maps::SlotCounters,
    pin::{self, PINNED_FOR_A_MOMENT},
    sys,
};

/// One interface's hook.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) hook: Hook,
    pub(super) layer: LinkLayer,
    /// What keeps a program there.
    pub(super) link: OwnedFd,
    /// The program that belongs there.
    pub(super) quiet: OwnedFd,
}

impl Place {
    fn put_back(self) {
        if let Err(error) = sys::replace(self.link.as_fd(), self.quiet.as_fd()) {
            // Where the link is detached there is nothing to put back.
            if sys::link_info(&self.link).is_ok_and(|info| info.ifindex != 0) {
                tracing::error!(
                    "a program that tells of each packet stays attached until the daemon starts again: {error}"
                );
            }
        }
    }
}

/// What is exchanged. Whoever ends it or drops it last puts the quiet programs back.
#[derive(Debug, Default)]
pub struct Exchange(Mutex<Exchanged>);

#[derive(Debug, Default)]
struct Exchanged {
    over: bool,
    places: Vec<Place>,
}

impl Exchange {
    /// Puts the quiet programs back, and lets nothing be exchanged any more.
    pub fn end(&self) {
        let mut exchanged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        exchanged.over = true;
        exchanged.places.drain(..).for_each(Place::put_back);
    }

    /// Whether it was ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).over
    }

    fn begin(&self, ebpf: &mut Ebpf, places: Vec<Place>) -> Result<(), Error> {
        // Before the lock is held: the kernel's verifier takes its time.
        for place in &places {
            load::program(ebpf, place.hook, place.layer)?;
        }
        let mut exchanged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if exchanged.over {
            return Ok(());
        }
        for place in places {
            let program = load::program(ebpf, place.hook, place.layer)?;
            sys::replace(place.link.as_fd(), program.as_fd()).map_err(Error::Exchange)?;
            exchanged.places.push(place);
        }
        Ok(())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end();
    }
}

/// What it takes to begin a trace, for a thread that may take its time.
#[derive(Debug)]
pub struct TraceParts {
    pub(super) slots: u32,
    /// Where the maps are pinned that are shared.
    pub(super) directory: PathBuf,
    /// Their ids, by name: another daemon's may lie there by mistake.
    pub(super) map_ids: Vec<(&'static str, u32)>,
    pub(super) keys: KeysPin,
    pub(super) places: Vec<Place>,
    pub(super) only: BTreeSet<u32>,
    pub(super) exchange: Arc<Exchange>,
}

impl TraceParts {
    /// For whoever has to end it, or to know whether it runs.
    #[must_use]
    pub fn exchange(&self) -> Weak<Exchange> {
        Arc::downgrade(&self.exchange)
    }

    /// Loads the talkative programs and puts them in place. It takes some tens of milliseconds.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. Then the quiet programs are where they were.
    pub fn begin(self, object: &[u8]) -> Result<Trace, Error> {
        let mut ebpf = load::load_beside(object, self.slots, Level::Debug, &self.directory)?;
        drop(self.keys);
        for (name, id) in &self.map_ids {
            if ebpf.map(name).and_then(id_of) != Some(*id) {
                return Err(Error::map(
                    name,
                    std::io::Error::other("another program's map is pinned in place of ours"),
                ));
            }
        }
        let log = PacketLog::open(&mut ebpf, Some(self.only.clone()))?;
        let counters = SlotCounters::take(&mut ebpf)?;
        self.exchange.begin(&mut ebpf, self.places)?;
        let mut trace = Trace { exchange: self.exchange, log, counters, only: self.only, begun_at: 0, told: 0 };
        trace.begun_at = trace.counted();
        Ok(trace)
    }
}

/// The programs tell of each packet for as long as this lives.
pub struct Trace {
    exchange: Arc<Exchange>,
    log: PacketLog,
    counters: SlotCounters,
    only: BTreeSet<u32>,
    /// What the counters said then.
    begun_at: u64,
    told: u64,
}

impl Trace {
    /// The first lines since the last reading, and how many packets there were in all that no reading has told: also those for which
    /// the programs found no room.
    pub fn read(&mut self) -> Reading {
        // Before the lines: a packet is counted after it was told.
        let counted = self.counted().saturating_sub(self.begun_at);
        let lines = self.log.read().lines;
        self.told += lines.len() as u64;
        Reading { lines, left_out: counted.saturating_sub(self.told) }
    }

    /// Whether somebody else has ended it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.exchange.is_over()
    }

    fn counted(&self) -> u64 {
        self.only.iter().filter_map(|slot| self.counters.get(*slot).ok()).map(|counters| counters.total()).sum()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.exchange.end();
    }
}

/// The id of one of our maps.
pub(super) fn id_of(map: &Map) -> Option<u32> {
    match map {
        Map::Array(map) | Map::PerCpuArray(map) | Map::RingBuf(map) => Some(map.info().ok()?.id()),
        _ => None,
    }
}

/// The name that the map of keys has while a second program is loaded. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct KeysPin(PathBuf);

impl KeysPin {
    pub(super) fn new(directory: &Path, keys: &OwnedFd) -> Result<Self, Error> {
        let path = directory.join(PINNED_FOR_A_MOMENT);
        pin::remove(&path)?;
        sys::pin(keys.as_fd(), &path).map_err(|source| Error::Pin { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for KeysPin {
    fn drop(&mut self) {
        if let Err(error) = pin::remove(&self.0) {
            tracing::warn!("{error}");
        }
    }
}
