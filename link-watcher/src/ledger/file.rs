//! The record on its way to the runtime directory and back.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::Claims;

/// Version of the format; another one is not read.
const VERSION: u32 = 1;
/// Longest record that is read, bytes: some ten times what a thousand links need.
const MAX_LEN: u64 = 8 << 20;
const NAME: &str = "ledger.json";

/// The record as it is written.
#[derive(Serialize, Deserialize)]
struct Record<C> {
    version: u32,
    /// `/proc/sys/kernel/random/boot_id`: routes do not outlive the boot.
    boot_id: String,
    /// Inode of the network namespace (`/proc/thread-self/ns/net`): nor that.
    network_namespace: u64,
    claims: C,
}

/// What a record belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    boot_id: String,
    network_namespace: u64,
}

impl Stamp {
    /// That of this boot, and of the namespace of the calling thread.
    pub(super) fn now() -> io::Result<Self> {
        Ok(Self {
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            network_namespace: fs::metadata("/proc/thread-self/ns/net")?.ino(),
        })
    }
}

/// Where the record is kept.
#[derive(Debug)]
pub(super) struct Stored {
    path: PathBuf,
    stamp: Stamp,
    /// Held as long as this process lives: who else has the same name keeps away.
    _lock: File,
}

pub(super) type Read = Result<Option<Claims>, String>;

/// Why a record is not kept.
#[derive(Debug)]
pub(super) enum NotKept {
    /// Another process has it.
    InUse(String),
    /// Anything else.
    Failed(String),
}

impl Stored {
    /// Opens the directory, and reads what is there: nothing, where it is of another boot or namespace.
    pub(super) fn open(directory: &Path) -> Result<(Self, Read), NotKept> {
        let not_kept = |what: &str, error: &dyn std::fmt::Display| {
            format!(
                "{}: {what}: {error}. What this run puts into the kernel is not written down: should it crash, the next one \
                 knows only what its own configuration names",
                directory.display()
            )
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|error| NotKept::Failed(not_kept("cannot be made", &error)))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock"));
        let lock = lock.map_err(|error| NotKept::Failed(not_kept("cannot be written to", &error)))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => {
                let help = "give each its own `instance` in [daemon]";
                NotKept::InUse(not_kept("another link-watcher uses it", &help))
            }
            errno => NotKept::Failed(not_kept("cannot be locked", &errno)),
        })?;
        let stamp = Stamp::now();
        let stamp =
            stamp.map_err(|error| NotKept::Failed(not_kept("neither boot nor namespace has a name", &error)))?;
        let stored = Self { path: directory.join(NAME), stamp, _lock: lock };
        let read = read(directory, &stored.stamp);
        Ok((stored, read))
    }

    /// Replaces the record. The runtime directory is a `tmpfs`: what a process has renamed there survives its crash
    /// without being synchronised.
    pub(super) fn write(&self, claims: &Claims) -> Result<(), String> {
        let record = Record {
            version: VERSION,
            boot_id: self.stamp.boot_id.clone(),
            network_namespace: self.stamp.network_namespace,
            claims,
        };
        let new = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            let text = serde_json::to_string(&record)?;
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| {
            // A half-written file would take the room that lacks.
            let _ = fs::remove_file(&new);
            format!(
                "{} cannot be written: {error}. Should this daemon crash, the next one may not know all that it left in the \
                 kernel",
                self.path.display()
            )
        })
    }

    /// Removes it.
    pub(super) fn remove(&self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads the record of a directory: nothing, where there is none, or it is of another boot or namespace.
pub(super) fn read(directory: &Path, stamp: &Stamp) -> Read {
    let path = directory.join(NAME);
    let unusable = |why: &dyn std::fmt::Display| {
        format!(
            "{}: {why}. What an earlier run left is known only as far as this configuration names it; \
             `ip route show table all proto 208` and `ip rule` show the rest",
            path.display()
        )
    };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| unusable(&error))?,
    };
    let mut text = String::new();
    file.take(MAX_LEN + 1).read_to_string(&mut text).map_err(|error| unusable(&error))?;
    if text.len() as u64 > MAX_LEN {
        return Err(unusable(&"it is too long to be a record of ours"));
    }
    // The version first: what follows it may be of another shape.
    let record: Record<serde_json::Value> = serde_json::from_str(&text).map_err(|error| unusable(&error))?;
    if record.version != VERSION {
        return Err(unusable(&format!("it has version {}, and this program writes {VERSION}", record.version)));
    }
    if (&record.boot_id, record.network_namespace) != (&stamp.boot_id, stamp.network_namespace) {
        return Ok(None);
    }
    serde_json::from_value(record.claims).map(Some).map_err(|error| unusable(&error))
}
