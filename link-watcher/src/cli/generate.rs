//! `generate`: an example configuration, a fresh key.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use super::{EXIT_FAILED, EXIT_PRIVILEGE, Failure, arguments::Generated, output::print};
use crate::keys::Key;

/// The commented example; a test validates it.
const EXAMPLE: &str = include_str!("../../examples/link-watcher.toml");

pub(super) fn run(what: Generated, output: Option<&Path>) -> Result<(), Failure> {
    match (what, output) {
        (Generated::Config, None) => print(EXAMPLE),
        (Generated::Config, Some(path)) => {
            let written = File::create_new(path).and_then(|mut file| file.write_all(EXAMPLE.as_bytes()));
            written.map_err(|error| failed(path, &error))?;
            print(&format!("wrote an example to {}; change it, then: link-watcher check {0}\n", path.display()))
        }
        (Generated::Key, None) => print(&format!("{}\n", fresh_key()?.to_base64().as_str())),
        (Generated::Key, Some(path)) => {
            fresh_key()?.write(path).map_err(|error| failed(path, &error))?;
            print(&format!("wrote a new key to {}, for its owner only; the peer needs the same one\n", path.display()))
        }
    }
}

fn fresh_key() -> Result<Key, Failure> {
    Key::generate()
        .map_err(|error| Failure::new(EXIT_FAILED, format!("link-watcher: the kernel gives no random bytes: {error}")))
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
    Failure::new(if denied { EXIT_PRIVILEGE } else { EXIT_FAILED }, format!("link-watcher: {message}"))
}
