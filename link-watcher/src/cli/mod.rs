//! The command line: arguments, dispatch, exit codes.
//!
//! What a command prints for people goes to standard output, complaints go to standard error.

mod arguments;
mod cleanup;
mod commands;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod events;
mod exit;
mod explain;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod generate;
mod man;
mod migrate;
mod nft;
mod notify_test;
mod output;
mod report;
mod status;
mod text;
mod top;
mod trace;
mod wait;
mod what_if;

use std::process::ExitCode;

use clap::Parser;

pub use self::{
    arguments::{Arguments, Command, PacketProtocol},
    events::render as render_event,
    exit::Exit,
    output::Style,
    status::render as render_status,
};
use crate::{
    config::Refused,
    control::{BindError, ClientError},
    error::{MissingPrivilege, chain},
    log,
};

/// Why a command failed: its exit code, and what to say.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<&Refused> for Failure {
    fn from(refused: &Refused) -> Self {
        Self::new(if refused.needs_privilege() { Exit::Privilege } else { Exit::Configuration }, refused.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error {
            ClientError::NoDaemon { .. } | ClientError::Unavailable(_) => Exit::NoDaemon,
            ClientError::Denied(_) | ClientError::NotAllowed(_) => Exit::Privilege,
            ClientError::Refused(_) | ClientError::Language { .. } => Exit::Failed,
        };
        Self::new(exit, format!("link-watcher: {error}"))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return refused.into();
        }
        let denied = match error.downcast_ref::<BindError>() {
            Some(BindError::Io { error, .. }) => error.kind() == std::io::ErrorKind::PermissionDenied,
            _ => error.is::<MissingPrivilege>(),
        };
        let exit = if denied { Exit::Privilege } else { Exit::Failed };
        Self::new(exit, format!("link-watcher: {}", chain(error.as_ref())))
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    match commands::run(Arguments::parse()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.message.is_empty() {
                log::say(&log::complaint(&failure.message));
            }
            failure.exit.into()
        }
    }
}
