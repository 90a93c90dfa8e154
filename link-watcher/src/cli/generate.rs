//! `generate`: an example configuration, one that is converted, a fresh key.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{Exit, Failure, arguments::Example, migrate, output::print};
use crate::keys::{Key, KeyProblem, Secret};

/// The commented examples; a test validates them.
pub(super) const PEER_EXAMPLE: &str = include_str!("../../examples/link-watcher.toml");
pub(super) const UPLINKS_EXAMPLE: &str = include_str!("../../examples/uplinks.toml");
/// What `--from` can convert.
const FAULT_TOLERANT_ROUTER: &str = "fault-tolerant-router";

/// `generate config`: an example, or what another program's configuration comes to.
pub(super) fn config(example: Option<Example>, from: Option<&[PathBuf]>, output: Option<&Path>) -> Result<(), Failure> {
    let (text, refused) = match from {
        Some([format, file]) if format.as_os_str() == FAULT_TOLERANT_ROUTER => {
            let converted = migrate::fault_tolerant_router(file)?;
            for warning in converted.warnings {
                eprintln!("{warning}\n");
            }
            (converted.toml, converted.refused)
        }
        Some(words) => {
            let format = words.first().map_or_else(String::new, |format| format.display().to_string());
            let why = format!("link-watcher: cannot convert from {format}: FORMAT is {FAULT_TOLERANT_ROUTER}");
            return Err(Failure::new(Exit::Usage, why));
        }
        None => {
            let text = match example.unwrap_or(Example::Peer) {
                Example::Peer => PEER_EXAMPLE,
                Example::Uplinks => UPLINKS_EXAMPLE,
            };
            (text.to_owned(), None)
        }
    };
    match output {
        None => print(&text)?,
        Some(path) => {
            let written = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(|error| failed(path, &error))?;
            let what = if from.is_some() { "what it comes to" } else { "an example" };
            print(&format!("wrote {what} to {}; change it, then: link-watcher check {0}\n", path.display()))?;
        }
    }
    match refused {
        Some(refused) => {
            Err(Failure::new(Exit::Configuration, format!("{refused}: change it by hand where it says so")))
        }
        None => Ok(()),
    }
}

/// `generate key`.
pub(super) fn key(output: Option<&Path>) -> Result<(), Failure> {
    match output {
        None => print(&format!("{}\n", fresh_key()?.to_base64().as_str())),
        Some(path) => {
            fresh_key()?.write(path).map_err(|error| failed(path, &error))?;
            print(&format!("wrote a new key to {}, for its owner only; the peer needs the same one\n", path.display()))
        }
    }
}

/// `key fingerprint`.
pub(super) fn fingerprint(path: &Path) -> Result<(), Failure> {
    let key = Key::read(path).map_err(|error| {
        let denied = matches!(error.problem, KeyProblem::Denied);
        let why = format!("link-watcher: {error}; {}", error.remedy());
        Failure::new(if denied { Exit::Privilege } else { Exit::Failed }, why)
    })?;
    print(&format!("{}\n", key.fingerprint()))
}

fn fresh_key() -> Result<Secret, Failure> {
    Secret::generate()
        .map_err(|error| Failure::new(Exit::Failed, format!("link-watcher: the kernel gives no random bytes: {error}")))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    let message = match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{path} exists already and is left as it is; name another file"),
        io::ErrorKind::NotFound => format!("cannot write {path}: its directory does not exist; make it with mkdir -p"),
        io::ErrorKind::PermissionDenied => format!("cannot write {path}: permission denied; run this with sudo"),
        _ => format!("cannot write {path}: {error}"),
    };
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    Failure::new(if denied { Exit::Privilege } else { Exit::Failed }, format!("link-watcher: {message}"))
}
