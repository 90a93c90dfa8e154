//! The record on its way to the runtime directory and back.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::Claims;
use crate::{linger::until_released, state::StateFile};

/// Version of the format; another one is not read.
const VERSION: u32 = 1;
/// Longest record, bytes: some ten times what a thousand links need.
const MAX_LEN: u64 = 8 << 20;
const NAME: &str = "ledger.json";

/// The record as it is written.
#[derive(Serialize, Deserialize)]
struct Record<C> {
    stamp: Stamp,
    claims: C,
}

/// What a record belongs to: routes outlive neither the boot nor the network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// `/proc/sys/kernel/random/boot_id`.
    boot_id: String,
    /// Inode of `/proc/thread-self/ns/net`.
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
    file: StateFile,
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
        let failed = |what: &str, error: &dyn std::fmt::Display| NotKept::Failed(not_kept(what, error));
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(|error| failed("cannot be made", &error))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock"));
        let lock = lock.map_err(|error| failed("cannot be written to", &error))?;
        let locked = until_released(
            || flock(&lock, FlockOperation::NonBlockingLockExclusive),
            |errno| *errno == Errno::WOULDBLOCK,
        );
        locked.map_err(|errno| match errno {
            Errno::WOULDBLOCK => {
                let help = "give each its own `instance` in [daemon]";
                NotKept::InUse(not_kept("another link-watcher uses it", &help))
            }
            errno => failed("cannot be locked", &errno),
        })?;
        let stamp = Stamp::now().map_err(|error| failed("neither boot nor namespace has a name", &error))?;
        let read = read(directory, &stamp);
        Ok((Self { file: file(directory), stamp, _lock: lock }, read))
    }

    /// Replaces the record. The runtime directory is a `tmpfs`: what a process has renamed there survives its crash
    /// without being synchronised.
    pub(super) fn write(&self, claims: &Claims) -> Result<(), String> {
        self.file.write(&Record { stamp: self.stamp.clone(), claims }, false).map_err(|error| {
            format!("{error}. Should this daemon crash, the next one may not know all that it left in the kernel")
        })
    }

    /// Removes it.
    pub(super) fn remove(&self) {
        // Gone already is as good.
        let _ = fs::remove_file(self.file.path());
    }
}

fn file(directory: &Path) -> StateFile {
    StateFile::new(directory.join(NAME), VERSION, MAX_LEN)
}

/// Reads the record of a directory: nothing, where there is none, or it is of another boot or namespace.
pub(super) fn read(directory: &Path, stamp: &Stamp) -> Read {
    let unusable = |error: &dyn std::fmt::Display| {
        format!(
            "{error}. What an earlier run left is known only as far as this configuration names it; \
             `ip route show table all proto 208` and `ip rule` show the rest"
        )
    };
    // The stamp first: what is of another boot need not be understood.
    let record: Option<Record<serde_json::Value>> = file(directory).read().map_err(|error| unusable(&error))?;
    let Some(record) = record.filter(|record| record.stamp == *stamp) else { return Ok(None) };
    serde_json::from_value(record.claims).map(Some).map_err(|error| unusable(&error))
}
