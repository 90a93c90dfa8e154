//! What outlives a run: files that the daemon keeps for itself.

mod file;

pub use self::file::{FileError, StateFile};
