//! The kernel program: loading, attaching, pinning, and typed access to its maps. The only user of the eBPF library and of
//! `unsafe`; it decides nothing.
//!
//! Maps are made afresh at each start, and the programs that an earlier daemon left attached go on answering with the old
//! ones until [`Kernel::attach`] replaces them, interface by interface, between two packets.
#![allow(unsafe_code)] // bpf(2), mapped maps and the library's markers for plain data: each use says why it is sound.

mod attach;
mod exchange;
mod load;
mod maps;
pub mod packet;
mod packet_log;
mod pin;
pub mod socket;
mod stats;
mod sys;
mod test_run;

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya_log::Level;
use link_watcher_common::maps::{Counters, KeySet, LinkKey, Traffic};

use self::{
    attach::Attachments,
    exchange::{KeysPin, Place},
    maps::Maps,
    pin::Pins,
};
pub use self::{
    exchange::{Exchange, Trace, TraceParts},
    maps::{Events, SharedTables},
    packet_log::{DROPPED, LINES_A_READING, PacketLine, PacketLog, Reading},
    stats::RunTimes,
    test_run::Run,
};
use crate::error::chain;

/// What a device's packets start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: tun, WireGuard, PPP.
    None,
}

impl LinkLayer {
    /// From the interface's type (`ARPHRD_*`, linux/if_arp.h); nothing for a type that there is no program for.
    #[must_use]
    pub fn of(link_type: u16) -> Option<Self> {
        /// Mobile broadband (linux/if_arp.h).
        const ARPHRD_RAWIP: u16 = 519;
        match link_type {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Self::Ethernet),
            libc::ARPHRD_NONE | libc::ARPHRD_PPP | ARPHRD_RAWIP => Some(Self::None),
            _ => None,
        }
    }
}

/// An interface, as far as attaching is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// Its index.
    pub ifindex: u32,
    /// Its name, for messages.
    pub name: &'a str,
    /// What its packets start with.
    pub link_layer: LinkLayer,
    /// Kind as `ip link` names it (`veth`, `tun`); nothing for hardware.
    pub kind: Option<&'a str>,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    XdpNative,
    /// In the network stack, before everything else.
    XdpGeneric,
    /// In the network stack, where traffic control begins.
    Tc,
}

/// A program on an interface's XDP hook, whoever put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// Where it runs.
    pub mode: Mode,
    /// Its id.
    pub id: u32,
    /// Its name, where we may ask.
    pub name: Option<String>,
}

impl XdpProgram {
    /// Whether it is one of ours, of this daemon or another.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name.as_deref().is_some_and(|name| name.starts_with("lw_xdp"))
    }
}

/// The XDP programs of this network namespace, by interface index.
///
/// # Errors
///
/// The kernel's.
pub fn xdp_programs() -> io::Result<std::collections::BTreeMap<u32, XdpProgram>> {
    attach::xdp_programs()
}

/// Detaches what is pinned in an instance's directory, and takes the names away; gives how many there were. With
/// `look_only` nothing is changed.
///
/// # Errors
///
/// If a name cannot be taken away.
pub fn clear_pins(directory: &Path, look_only: bool) -> Result<usize, Error> {
    pin::clear(directory, look_only)
}

/// The directory of an instance in the BPF file system.
#[must_use]
pub fn pin_directory(instance: Option<&str>) -> PathBuf {
    let root = Path::new("/sys/fs/bpf/link-watcher");
    instance.map_or_else(|| root.to_owned(), |instance| root.join(instance))
}

/// Whether the native mode is tried on this device before the generic one.
#[must_use]
pub fn may_run_native(device: &Device<'_>) -> bool {
    attach::may_run_native(device)
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before the network stack has made anything of a packet.
    Xdp,
    /// Where the stack takes it in.
    Tc,
}

/// Why the kernel's side does not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no BPF file system and none can be mounted.
    #[error("cannot mount the BPF file system on /sys/fs/bpf: {0}; run `mount -t bpf bpf /sys/fs/bpf` as root")]
    Mount(#[source] io::Error),
    /// The directory for pins is elsewhere.
    #[error("{0} is not on a BPF file system; put it below /sys/fs/bpf")]
    NotBpffs(PathBuf),
    /// Somebody else's directory is where ours belongs.
    #[error("{0}; what is pinned there could be taken away. Run `{remedy}`, or remove it with `rm -r`", remedy = .0.remedy())]
    Untrusted(#[from] crate::trust::Untrusted),
    /// Something cannot be pinned or unpinned.
    #[error("cannot change {path}: {source}; it takes root, and nobody else's files there")]
    Pin {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses maps or programs.
    #[error(
        "the kernel does not load the eBPF program: {0}; it takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and Linux 5.15 \
         or later"
    )]
    Load(String),
    /// The object is not the one that belongs to this daemon.
    #[error("the eBPF object {0}; build it again with `cargo xtask build-ebpf`")]
    Object(String),
    /// A map refuses.
    #[error("BPF map {name}: {text}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        text: String,
    },
    /// The hook is taken.
    #[error(
        "{interface}: another XDP program is attached there{}; detach it (`ip link set dev {interface} xdp off`), or leave \
         this link to the socket engine", program.as_ref().map(|(id, name)| format!(" (id {id}, {name})")).unwrap_or_default()
    )]
    Occupied {
        /// Where.
        interface: String,
        /// Its id and name, if they could be found out.
        program: Option<(u32, String)>,
    },
    /// The interface takes no program.
    #[error("{interface}: XDP cannot be attached: {source}")]
    Attach {
        /// Where.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The interface takes no tc program.
    #[error("{interface}: no program can be attached at tc: {source}; it takes Linux 6.6 or later")]
    AttachTc {
        /// Where.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// A program does not take the place of another one.
    #[error("the kernel does not exchange the program: {0}")]
    Exchange(#[source] io::Error),
    /// The program cannot be run on a packet.
    #[error("the kernel does not run the eBPF program on a packet: {0}")]
    Run(String),
    /// The interfaces cannot be listed.
    #[error("cannot ask the kernel which XDP programs are attached: {0}")]
    Netlink(#[source] io::Error),
}

impl Error {
    fn map(name: &'static str, source: impl std::error::Error + 'static) -> Self {
        Self::Map { name, text: chain(&source) }
    }
}

/// The loaded programs, where they are attached, and their maps.
pub struct Kernel {
    ebpf: aya::Ebpf,
    maps: Maps,
    pins: Pins,
    attachments: Attachments,
    slots: u32,
    /// What the programs tell, until somebody reads it.
    packet_log: Option<PacketLog>,
    /// The map that is not pinned, for programs that share it.
    keys: OwnedFd,
    /// Ids of the maps, by name.
    map_ids: Vec<(&'static str, u32)>,
}

impl Kernel {
    /// Loads the object with room for at least `links` links, and pins its maps in `directory`, which is this daemon's
    /// alone, below `/sys/fs/bpf`. The BPF file system is mounted if it is missing.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the object is another version's.
    pub fn load(object: &[u8], directory: &Path, links: u32) -> Result<Self, Error> {
        Self::load_as(object, directory, links, None, false)
    }

    /// As [`Kernel::load`], with programs that tell of packets: see [`Kernel::packet_log`].
    ///
    /// # Errors
    ///
    /// As [`Kernel::load`].
    pub fn load_talkative(object: &[u8], directory: &Path, links: u32, log: Level) -> Result<Self, Error> {
        Self::load_as(object, directory, links, Some(log), false)
    }

    fn load_as(
        object: &[u8],
        directory: &Path,
        links: u32,
        log: Option<Level>,
        benchmark: bool,
    ) -> Result<Self, Error> {
        let slots = load::slots_for(links);
        let mut ebpf = load::load(object, slots, log, benchmark)?;
        let packet_log = log.map(|_| PacketLog::open(&mut ebpf, None)).transpose()?;
        // At once, so that a kernel that refuses it is known now and not at the first link.
        load::program(&mut ebpf, Hook::Xdp, LinkLayer::Ethernet)?;
        let mut pins = Pins::create(directory)?;
        let attachments = Attachments::new(&pins)?;
        for name in load::PINNED_MAPS {
            let map = ebpf.map(name).ok_or_else(|| Error::Object(format!("has no map {name}")))?;
            pins.map(name, map)?;
        }
        let map_ids = load::PINNED_MAPS.iter().chain(&["KEYS"]);
        let map_ids = map_ids.filter_map(|name| Some((*name, exchange::id_of(ebpf.map(name)?)?))).collect();
        let Some(aya::maps::Map::Array(keys)) = ebpf.map("KEYS") else {
            return Err(Error::Object("has no map KEYS".to_owned()));
        };
        let keys = keys.fd().as_fd().try_clone_to_owned().map_err(|source| Error::map("KEYS", source))?;
        let maps = Maps::take(&mut ebpf, slots)?;
        Ok(Self { ebpf, maps, pins, attachments, slots, packet_log, keys, map_ids })
    }

    /// Prepares a trace: programs that tell of each packet of these slots, in place of those on these interfaces.
    ///
    /// # Errors
    ///
    /// If there are no more file descriptors, or the map of keys cannot be pinned for a moment.
    pub fn prepare_trace(&mut self, ifindexes: &BTreeSet<u32>, only: BTreeSet<u32>) -> Result<TraceParts, Error> {
        let mut places = Vec::new();
        for (hook, layer, link) in self.attachments.places(ifindexes) {
            let quiet = load::program(&mut self.ebpf, hook, layer)?;
            let copies = link.try_clone_to_owned().and_then(|link| Ok((link, quiet.as_fd().try_clone_to_owned()?)));
            let (link, quiet) = copies.map_err(Error::Exchange)?;
            places.push(Place { hook, layer, link, quiet });
        }
        Ok(TraceParts {
            slots: self.slots,
            directory: self.pins.directory().to_owned(),
            map_ids: self.map_ids.clone(),
            keys: KeysPin::new(self.pins.directory(), &self.keys)?,
            places,
            only,
            exchange: Arc::default(),
        })
    }

    /// How many slots the per-link maps have. A reload that needs more takes a new [`Kernel`].
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Attaches to an interface: native where the driver runs it and its answers arrive, else generic. Does nothing where
    /// this daemon is attached already, and replaces the program of an earlier one.
    ///
    /// # Errors
    ///
    /// If another program is there, or the interface takes none: the reason why this link needs another engine.
    pub fn attach(&mut self, device: &Device<'_>) -> Result<Mode, Error> {
        self.attach_at(Hook::Xdp, device)
    }

    /// As [`Kernel::attach`], at tc: where XDP's hook is occupied. Other programs there go on working.
    ///
    /// # Errors
    ///
    /// If the kernel is older than Linux 6.6, or the interface is gone.
    pub fn attach_tc(&mut self, device: &Device<'_>) -> Result<Mode, Error> {
        self.attach_at(Hook::Tc, device)
    }

    fn attach_at(&mut self, hook: Hook, device: &Device<'_>) -> Result<Mode, Error> {
        let program = load::program(&mut self.ebpf, hook, device.link_layer)?;
        self.attachments.attach(&self.pins, hook, device, program.as_fd())
    }

    /// Detaches from an interface. Nothing happens if it is gone or was never attached to.
    ///
    /// # Errors
    ///
    /// If the pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attachments.detach(ifindex)
    }

    /// Detaches what an earlier daemon left on interfaces that this one has not attached to. To be called once all
    /// configured links were tried.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn drop_inherited(&mut self) -> Result<(), Error> {
        self.attachments.drop_inherited()
    }

    /// The maps that every keepalive touches, mapped.
    #[must_use]
    pub fn tables(&self) -> Arc<SharedTables> {
        Arc::clone(&self.maps.tables)
    }

    /// What the programs tell of packets; once, and nothing unless that was asked for. As long as it lives further programs can be
    /// loaded.
    pub fn packet_log(&mut self) -> Option<PacketLog> {
        self.packet_log.take()
    }

    /// What wakes user space; once.
    pub fn events(&mut self) -> Option<Events> {
        self.maps.events.take()
    }

    /// Sets a link's keys.
    ///
    /// # Errors
    ///
    /// If the slot is out of range.
    pub fn set_keys(&mut self, slot: u32, keys: &KeySet) -> Result<(), Error> {
        self.maps.set_keys(slot, keys)
    }

    /// Makes packets that arrive like this a link's. Its slot's intent and keys are to be written before.
    ///
    /// # Errors
    ///
    /// If the map is full.
    pub fn insert_link(&mut self, key: LinkKey, slot: u32) -> Result<(), Error> {
        self.maps.insert_link(key, slot)
    }

    /// Undoes [`Kernel::insert_link`].
    ///
    /// # Errors
    ///
    /// None that an absent link would be.
    pub fn remove_link(&mut self, key: &LinkKey) -> Result<(), Error> {
        self.maps.remove_link(key)
    }

    /// Says whether packets to a UDP port are looked at.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn set_port(&mut self, port: u16, ours: bool) -> Result<(), Error> {
        self.maps.set_port(port, ours)
    }

    /// A link's packets by outcome, of all CPUs.
    ///
    /// # Errors
    ///
    /// If the slot is out of range.
    pub fn counters(&self, slot: u32) -> Result<Counters, Error> {
        self.maps.counters(slot)
    }

    /// Starts a slot's counters from zero.
    ///
    /// # Errors
    ///
    /// If the slot is out of range.
    pub fn clear_counters(&mut self, slot: u32) -> Result<(), Error> {
        self.maps.clear_counters(slot)
    }

    /// Counts all packets received on an interface from now on; it has to be attached to as well.
    ///
    /// # Errors
    ///
    /// If the map is full.
    pub fn track_traffic(&mut self, ifindex: u32) -> Result<(), Error> {
        self.maps.track_traffic(ifindex)
    }

    /// Stops counting.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn untrack_traffic(&mut self, ifindex: u32) -> Result<(), Error> {
        self.maps.untrack_traffic(ifindex)
    }

    /// All packets received on an interface; nothing if they are not counted.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn traffic(&self, ifindex: u32) -> Result<Option<Traffic>, Error> {
        self.maps.traffic(ifindex)
    }

    /// Ends. With `keep` programs and maps stay where they are, for the next daemon to take over; else everything is
    /// detached and removed.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub fn release(mut self, keep: bool) -> Result<(), Error> {
        if keep {
            return Ok(());
        }
        self.attachments.detach_all()?;
        self.pins.remove()
    }
}
