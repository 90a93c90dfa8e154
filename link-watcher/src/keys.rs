//! Secrets: files and their permissions, derivation; redacted in Debug, wiped on drop.
//!
//! A key file is one line of base64 (RFC 4648, section 4), at least [`MIN_KEY_LEN`] bytes once decoded, mode 0600 or
//! stricter, owned by root or by whoever runs this.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use link_watcher_common::{hmac as keepalive_hmac, maps::KeyState};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Shortest secret, bytes: the length of the tag it makes (RFC 2104, section 3).
pub const MIN_KEY_LEN: usize = 32;
/// Longest key file, bytes.
const MAX_FILE_LEN: u64 = 8192;
/// Fewest distinct byte values. 32 random bytes have fewer than 16 in less than one of 10^12 keys.
const MIN_DISTINCT_BYTES: usize = 16;
/// What keepalives are signed with is derived for that purpose alone.
const DERIVATION_LABEL: &[u8] = b"link-watcher keepalive v2";

/// A shared secret, at least 32 bytes.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<Vec<u8>>,
}

impl Key {
    /// From its bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Zeroizing::new(bytes) }
    }

    /// A fresh one from the kernel's random number generator.
    ///
    /// # Errors
    ///
    /// Where the kernel has none (`getrandom(2)`).
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; MIN_KEY_LEN]);
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self { bytes })
    }

    /// Reads a key file.
    ///
    /// # Errors
    ///
    /// See [`KeyProblem`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        read(path).map_err(|problem| KeyError { path: path.to_owned(), problem })
    }

    /// Writes a new key file with mode 0600.
    ///
    /// # Errors
    ///
    /// The file system's; [`io::ErrorKind::AlreadyExists`] where there is a file already, which is left as it is.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        let written = writeln!(file, "{}", self.to_base64().as_str()).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a key is worth nothing; what went wrong first is what matters.
            let _ = std::fs::remove_file(path);
        }
        written
    }

    /// As a key file has it, without the line's end.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.bytes.as_slice()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How a packet names it: the first byte of the derived key's SHA-256. Says nothing useful about the secret.
    pub fn id(&self) -> u8 {
        Sha256::digest(self.derived().as_slice())[0]
    }

    /// What the keys of links are derived from ([`crate::link_identity`]): the HMAC states of the derived key,
    /// HMAC-SHA256(secret, label).
    pub fn signing_state(&self) -> KeyState {
        keepalive_hmac::key_state(self.derived().as_slice())
    }

    fn derived(&self) -> Zeroizing<[u8; 32]> {
        // HMAC takes keys of every length (RFC 2104, section 2), so this cannot fail.
        #[allow(clippy::unwrap_used)]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).unwrap();
        mac.update(DERIVATION_LABEL);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

/// In constant time for secrets of one length.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.len() == other.bytes.len()
            && self.bytes.iter().zip(other.bytes.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl Eq for Key {}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("key file {} {problem}", path.display())]
pub struct KeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: KeyProblem,
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// No such file.
    #[error("does not exist")]
    Missing,
    /// We may not read it.
    #[error("cannot be read: permission denied")]
    Denied,
    /// The file system's error.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// A directory, a pipe, a device.
    #[error("is not a regular file")]
    NotRegular,
    /// Others may read or change it.
    #[error("has mode {0:04o}: others than its owner can use it, or it can be executed")]
    Open(u32),
    /// Its owner is neither root nor us.
    #[error("belongs to user {0}, who can read it")]
    Owner(u32),
    /// Longer than any key.
    #[error("is longer than {MAX_FILE_LEN} bytes")]
    TooLong,
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// More than one line.
    #[error("has more than one line")]
    Lines,
    /// Not base64.
    #[error("is not base64")]
    NotBase64,
    /// Fewer bytes than [`MIN_KEY_LEN`].
    #[error("holds {0} bytes, which is too short: {MIN_KEY_LEN} are the least")]
    Short(usize),
    /// A pattern instead of random bytes.
    #[error("is weak: {0}")]
    Weak(&'static str),
}

impl KeyError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        let path = self.path.display();
        match self.problem {
            KeyProblem::Missing => format!("make one: link-watcher generate key --output {path}"),
            KeyProblem::Denied => "run this as root, as the daemon does".to_owned(),
            KeyProblem::Io(_) | KeyProblem::NotRegular | KeyProblem::TooLong => {
                "name a file with one line of base64".to_owned()
            }
            KeyProblem::Open(_) => format!("chmod 600 {path}"),
            KeyProblem::Owner(_) => format!("chown root {path}"),
            KeyProblem::Empty
            | KeyProblem::Lines
            | KeyProblem::NotBase64
            | KeyProblem::Short(_)
            | KeyProblem::Weak(_) => {
                format!(
                    "remove it and make a random one: link-watcher generate key --output {path}; the peer needs the same"
                )
            }
        }
    }
}

fn read(path: &Path) -> Result<Key, KeyProblem> {
    // Without NONBLOCK a pipe in its place would hold us up for good.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path).map_err(|error| match error
        .kind()
    {
        io::ErrorKind::NotFound => KeyProblem::Missing,
        io::ErrorKind::PermissionDenied => KeyProblem::Denied,
        _ => KeyProblem::Io(error),
    })?;
    // Of the open file, not of its name: nobody can swap it in between.
    let metadata = file.metadata().map_err(KeyProblem::Io)?;
    if !metadata.is_file() {
        return Err(KeyProblem::NotRegular);
    }
    if metadata.mode() & 0o7777 & !0o600 != 0 {
        return Err(KeyProblem::Open(metadata.mode() & 0o7777));
    }
    if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyProblem::Owner(metadata.uid()));
    }
    if metadata.len() > MAX_FILE_LEN {
        return Err(KeyProblem::TooLong);
    }
    // All of it at once: a buffer that grows leaves copies of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN as usize));
    file.take(MAX_FILE_LEN).read_to_end(&mut text).map_err(KeyProblem::Io)?;
    parse(&text)
}

/// What a key file holds.
fn parse(text: &[u8]) -> Result<Key, KeyProblem> {
    let line = text.trim_ascii();
    if line.is_empty() {
        return Err(KeyProblem::Empty);
    }
    if line.contains(&b'\n') {
        return Err(KeyProblem::Lines);
    }
    let bytes = Zeroizing::new(BASE64.decode(line).map_err(|_| KeyProblem::NotBase64)?);
    if bytes.len() < MIN_KEY_LEN {
        return Err(KeyProblem::Short(bytes.len()));
    }
    if let Some(weakness) = weakness(&bytes) {
        return Err(KeyProblem::Weak(weakness));
    }
    Ok(Key { bytes })
}

/// Why these cannot be random bytes, if that is obvious.
fn weakness(bytes: &[u8]) -> Option<&'static str> {
    if bytes.windows(2).all(|pair| pair[0] == pair[1]) {
        return Some("all its bytes are equal");
    }
    if bytes.windows(3).all(|run| run[1].wrapping_sub(run[0]) == run[2].wrapping_sub(run[1])) {
        return Some("its bytes count up or down");
    }
    if (1..=bytes.len() / 2).any(|period| bytes.iter().zip(&bytes[period..]).all(|(a, b)| a == b)) {
        return Some("its bytes repeat");
    }
    let mut seen = [false; 256];
    bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    if seen.iter().filter(|seen| **seen).count() < MIN_DISTINCT_BYTES {
        return Some("it has too few different bytes to be random");
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn problem(bytes: &[u8]) -> String {
        parse(BASE64.encode(bytes).as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_generated_key_survives_its_file() {
        let key = Key::generate().unwrap();
        let line = format!("{}\n", key.to_base64().as_str());
        assert_eq!(parse(line.as_bytes()).unwrap(), key);
        assert_eq!(key.bytes().len(), MIN_KEY_LEN);
    }

    #[test]
    fn weak_and_short_keys_are_refused() {
        assert_eq!(problem(&[7; 31]), "holds 31 bytes, which is too short: 32 are the least");
        assert_eq!(problem(&[7; 32]), "is weak: all its bytes are equal");
        let counting: Vec<u8> = (0..32).collect();
        assert_eq!(problem(&counting), "is weak: its bytes count up or down");
        let repeated: Vec<u8> = (0..64).map(|i: u32| (i % 20 * 37 % 251) as u8).collect();
        assert_eq!(problem(&repeated), "is weak: its bytes repeat");
        assert_eq!(
            problem(b"aaaabbbbccccddddeeeeffffgggghhhh"),
            "is weak: it has too few different bytes to be random"
        );
    }

    #[test]
    fn only_one_line_of_base64_is_a_key() {
        assert_eq!(parse(b"").unwrap_err().to_string(), "is empty");
        assert_eq!(parse(b"\n \n").unwrap_err().to_string(), "is empty");
        assert_eq!(parse(b"YWJj\nZGVm\n").unwrap_err().to_string(), "has more than one line");
        assert_eq!(parse(b"not base64!").unwrap_err().to_string(), "is not base64");
    }

    #[test]
    fn debug_tells_nothing() {
        assert_eq!(format!("{:?}", Key::new(vec![1; 32])), "Key(redacted)");
    }

    #[test]
    fn the_signing_key_is_derived() {
        let key = Key::new((0..32).map(|i| i * 7).collect());
        let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).unwrap();
        mac.update(b"link-watcher keepalive v2");
        let derived = mac.finalize().into_bytes();
        let expected = keepalive_hmac::key_state(&derived);
        assert_eq!(key.signing_state().inner, expected.inner);
        assert_eq!(key.signing_state().outer, expected.outer);
        assert_eq!(key.id(), Sha256::digest(derived)[0]);
    }
}
