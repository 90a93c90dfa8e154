//! The command line: arguments, dispatch, exit codes.
//!
//! What a command prints for people goes to standard output, complaints go to standard error.

mod arguments;
mod commands;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod events;
mod generate;
mod migrate;
mod nft;
mod output;
mod status;

use std::process::ExitCode;

use clap::Parser;

pub use self::{
    arguments::{Arguments, Command},
    events::render as render_event,
    output::Style,
    status::render as render_status,
};
use crate::{
    config::Refused,
    control::{BindError, ClientError},
};

/// Something failed.
pub const EXIT_FAILED: u8 = 1;
/// The command line makes no sense; the parser of arguments ends with the same.
pub const EXIT_USAGE: u8 = 2;
/// No daemon answers (`EX_UNAVAILABLE` of `sysexits.h`).
pub const EXIT_NO_DAEMON: u8 = 69;
/// A privilege is missing (`EX_NOPERM`).
pub const EXIT_PRIVILEGE: u8 = 77;
/// The configuration is wrong (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// Why a command failed: its exit code, and what to say.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<&Refused> for Failure {
    fn from(refused: &Refused) -> Self {
        Self::new(if refused.needs_privilege() { EXIT_PRIVILEGE } else { EXIT_CONFIG }, refused.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::NoDaemon { .. } | ClientError::Unavailable(_) => EXIT_NO_DAEMON,
            ClientError::Denied(_) => EXIT_PRIVILEGE,
            ClientError::Refused(_) | ClientError::Language { .. } => EXIT_FAILED,
        };
        Self::new(code, format!("link-watcher: {error}"))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return refused.into();
        }
        let denied = matches!(
            error.downcast_ref::<BindError>(),
            Some(BindError::Io { error, .. }) if error.kind() == std::io::ErrorKind::PermissionDenied
        );
        Self::new(if denied { EXIT_PRIVILEGE } else { EXIT_FAILED }, format!("link-watcher: {error:#}"))
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    match commands::run(Arguments::parse()) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("{}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}
