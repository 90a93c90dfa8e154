//! One file of the daemon's own: JSON, with a version, of bounded length, replaced as a whole or not at all.
//!
//! The file is `{"version": N, "content": …}`. A new content goes to a second file beside it, which then takes its name
//! (rename(2)): whoever reads, and whatever a crash leaves, sees the former content or the new one. After a power
//! failure that holds only for what was written as durable.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::trust::{self, Untrusted};

/// Why a file was not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system's word.
    #[error("{}: {error}", path.display())]
    Io {
        /// What could not be opened, read, written or renamed.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Others could have written it.
    #[error("{}: {untrusted}: {}", path.display(), untrusted.remedy())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// What they can change.
        untrusted: Untrusted,
    },
    /// It is longer than such a file may be, or would be.
    #[error("{}: it is longer than {max_len} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Most bytes.
        max_len: u64,
    },
    /// Another version of this program wrote it.
    #[error("{}: it is of version {found}, this program knows version {known} only", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It is broken.
    #[error("{}: it is broken: {error}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where and how.
        error: serde_json::Error,
    },
}

/// Where such a file is, its version, and how long it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    path: PathBuf,
    version: u32,
    max_len: u64,
}

/// Read first: what is of another version need not have a content that we understand.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    content: T,
}

impl StateFile {
    /// A file at `path` of at most `max_len` bytes, whose content this program knows in `version`. Nothing is touched yet.
    pub fn new(path: impl Into<PathBuf>, version: u32, max_len: u64) -> Self {
        Self { path: path.into(), version, max_len }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its content; nothing where there is no such file.
    ///
    /// # Errors
    ///
    /// Where it cannot be read or understood, or others could have written it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, FileError> {
        trust::check(&self.path).map_err(|untrusted| FileError::Untrusted { path: self.path.clone(), untrusted })?;
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| io_error(&self.path, error))?,
        };
        let mut bytes = Vec::new();
        file.take(self.max_len + 1).read_to_end(&mut bytes).map_err(|error| io_error(&self.path, error))?;
        self.check_len(&bytes)?;
        let broken = |error| FileError::Broken { path: self.path.clone(), error };
        let Head { version: found } = serde_json::from_slice(&bytes).map_err(broken)?;
        if found != self.version {
            return Err(FileError::Version { path: self.path.clone(), found, known: self.version });
        }
        serde_json::from_slice(&bytes).map(|envelope: Envelope<T>| Some(envelope.content)).map_err(broken)
    }

    /// Replaces it by this content, and makes its directory where there is none (mode 0755; the file has 0600). `durable`:
    /// returns only when it would survive a power failure, which takes the disk's time; for a file in `/run` that is
    /// never needed.
    ///
    /// # Errors
    ///
    /// Where it cannot be written; the former content is still there then.
    pub fn write<T: Serialize>(&self, content: &T, durable: bool) -> Result<(), FileError> {
        self.write_by(content, durable, &|path| {
            // Never through a link that somebody has put there.
            let options = OFlags::NOFOLLOW.bits().cast_signed();
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(options).open(path)
        })
    }

    fn write_by<T: Serialize>(
        &self,
        content: &T,
        durable: bool,
        open: &dyn Fn(&Path) -> io::Result<File>,
    ) -> Result<(), FileError> {
        let broken = |error| FileError::Broken { path: self.path.clone(), error };
        let mut bytes = serde_json::to_vec(&Envelope { version: self.version, content }).map_err(broken)?;
        bytes.push(b'\n');
        self.check_len(&bytes)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(|error| io_error(directory, error))?;
        // One name for all times: what a crash leaves there is overwritten, and does not pile up.
        let fresh = self.beside(".new");
        let written = open(&fresh).and_then(|mut file| {
            file.write_all(&bytes)?;
            if durable { file.sync_all() } else { Ok(()) }
        });
        if let Err(error) = written {
            // It holds nothing that is wanted, and on a full disk its blocks are.
            let _ = fs::remove_file(&fresh);
            return Err(io_error(&fresh, error));
        }
        fs::rename(&fresh, &self.path).map_err(|error| io_error(&self.path, error))?;
        if durable {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| io_error(directory, error))?;
        }
        Ok(())
    }

    /// Puts a file that was not understood out of the way, for people to look at: beside it, with `.unreadable` at the end
    /// of its name; says where. The next one takes its place there.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn set_aside(&self) -> Result<PathBuf, FileError> {
        let aside = self.beside(".unreadable");
        fs::rename(&self.path, &aside).map_err(|error| io_error(&aside, error))?;
        Ok(aside)
    }

    /// Says what follows from a file that cannot be read, and puts one that nobody will understand aside, before it is overwritten.
    pub fn give_up(&self, consequence: &str, error: &FileError) -> String {
        let said = format!("{consequence}: {error}");
        if matches!(error, FileError::Io { .. } | FileError::Untrusted { .. }) {
            return said;
        }
        match self.set_aside() {
            Ok(aside) => format!("{said}; the file is now {}", aside.display()),
            Err(_) => said,
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    fn check_len(&self, bytes: &[u8]) -> Result<(), FileError> {
        if bytes.len() as u64 > self.max_len {
            return Err(FileError::TooLong { path: self.path.clone(), max_len: self.max_len });
        }
        Ok(())
    }
}

fn io_error(path: &Path, error: io::Error) -> FileError {
    FileError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    fn desk() -> (TempDir, StateFile) {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path().join("state/main/list.json"), 3, 200);
        (directory, file)
    }

    fn list(numbers: &[u32]) -> Vec<u32> {
        numbers.to_vec()
    }

    fn read(file: &StateFile) -> Result<Option<Vec<u32>>, FileError> {
        file.read()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (_directory, file) = desk();
        assert_eq!(read(&file).unwrap(), None, "no file is no fault");
        for durable in [true, false] {
            file.write(&list(&[1, 2]), durable).unwrap();
            assert_eq!(read(&file).unwrap().unwrap(), [1, 2]);
            file.write(&list(&[3]), durable).unwrap();
            assert_eq!(read(&file).unwrap().unwrap(), [3]);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.path()), mode(file.path().parent().unwrap())), (0o600, 0o755));
        assert_eq!(fs::read_dir(file.path().parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_not_ours_is_not_understood_and_can_be_set_aside() {
        let (_directory, file) = desk();
        file.write(&list(&[1]), false).unwrap();
        let cases = [
            ("", "it is broken"),
            ("{\"version\":3,\"content\":[1", "it is broken"),
            ("{\"version\":3,\"content\":{\"a\":1}}", "it is broken"),
            ("{\"version\":4,\"content\":{\"a\":1}}", "it is of version 4, this program knows version 3 only"),
            (&"9".repeat(201), "it is longer than 200 bytes"),
        ];
        for (text, complaint) in cases {
            fs::write(file.path(), text).unwrap();
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(complaint) && error.contains("list.json"), "{text}: {error}");
        }
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(read(&file), Err(FileError::Untrusted { .. })));
        let aside = file.set_aside().unwrap();
        assert!(aside.ends_with("list.json.unreadable") && aside.exists());
        assert_eq!(read(&file).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_former_content() {
        let (_directory, file) = desk();
        file.write(&list(&[1]), true).unwrap();
        let too_long = file.write(&list(&[1_000_000; 40]), true).unwrap_err();
        assert!(matches!(too_long, FileError::TooLong { .. }));
        // A disk that takes nothing.
        let full = |_: &Path| OpenOptions::new().write(true).open("/dev/full");
        let error = file.write_by(&list(&[2]), true, &full).unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
        let read_only = |_: &Path| Err(rustix::io::Errno::ROFS.into());
        let error = file.write_by(&list(&[2]), true, &read_only).unwrap_err();
        assert!(error.to_string().contains("Read-only file system"), "{error}");
        assert_eq!(read(&file).unwrap().unwrap(), [1]);
    }

    #[test]
    fn what_a_crash_left_is_overwritten_and_no_link_is_followed() {
        let (directory, file) = desk();
        file.write(&list(&[1]), false).unwrap();
        let fresh = file.beside(".new");
        fs::write(&fresh, "half of a fi").unwrap();
        file.write(&list(&[2]), false).unwrap();
        assert_eq!((read(&file).unwrap().unwrap(), fresh.exists()), (list(&[2]), false));
        let precious = directory.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, &fresh).unwrap();
        assert!(file.write(&list(&[3]), false).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }

    #[test]
    fn a_place_that_cannot_be_is_said() {
        let (directory, _) = desk();
        fs::write(directory.path().join("plain"), "").unwrap();
        let file = StateFile::new(directory.path().join("plain/main/list.json"), 1, 100);
        let error = file.write(&list(&[1]), true).unwrap_err().to_string();
        assert!(error.contains("plain"), "{error}");
    }
}
