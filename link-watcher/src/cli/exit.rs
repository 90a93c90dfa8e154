//! Exit codes.

use std::process::ExitCode;

/// How a command ends. The numbers are a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Done = 0,
    /// Something failed.
    Failed = 1,
    /// The command line makes no sense; the parser of arguments ends with the same.
    Usage = 2,
    /// No daemon answers (`EX_UNAVAILABLE` of `sysexits.h`).
    NoDaemon = 69,
    /// A privilege is missing (`EX_NOPERM`).
    Privilege = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Configuration = 78,
}

impl Exit {
    /// `status --exit-code`: a group has a usable link, and none that could take its place.
    pub const NO_SPARE: Self = Self::Failed;
    /// `status --exit-code`: a group has no usable link.
    pub const NO_LINK: Self = Self::Usage;
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
