//! Secrets: files and their permissions, derivation; redacted in Debug, wiped on drop.
//!
//! A key file is one line of base64 (RFC 4648, section 4), at least [`MIN_KEY_LEN`] bytes once decoded, mode 0600 or
//! stricter, owned by root or by whoever runs this.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use link_watcher_common::{hmac as keepalive_hmac, maps::KeyState};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::trust::{self, Untrusted};

/// Shortest secret, bytes: the length of the tag it makes (RFC 2104, section 3).
pub const MIN_KEY_LEN: usize = 32;
/// Longest key file, bytes.
const MAX_FILE_LEN: u64 = 8192;
/// Fewest distinct byte values. 32 random bytes have fewer than 16 in less than one of 10^12 keys.
const MIN_DISTINCT_BYTES: usize = 16;
/// What keepalives are signed with is derived for that purpose alone.
const DERIVATION_LABEL: &[u8] = b"link-watcher keepalive v2";

/// What two people read to each other is derived for that purpose alone, so that it says nothing about the secret.
const FINGERPRINT_LABEL: &[u8] = b"link-watcher key fingerprint";
/// Bytes of a fingerprint: nobody finds two random keys with the same, and four groups can be read aloud.
const FINGERPRINT_LEN: usize = 8;
/// Bytes of stack below a derivation that are overwritten after it; the compression of SHA-256 takes less than half.
const STACK_USED: usize = 8192;

/// A shared secret, at least 32 bytes: what a file holds. Whoever signs has a [`Key`] instead.
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
}

/// What remains of a secret once it is read: the HMAC states that sign, and two names. Wiped on drop.
#[derive(Clone)]
pub struct Key {
    id: u8,
    fingerprint: [u8; FINGERPRINT_LEN],
    state: KeyState,
}

impl Secret {
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

    /// As a key file has it, without the line's end.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.bytes.as_slice()))
    }

    /// What is kept of it.
    pub fn into_key(self) -> Key {
        let key = self.derive_key();
        drop(self);
        wipe_stack();
        key
    }

    // Not inlined: what it leaves on the stack must lie where `wipe_stack` overwrites it.
    #[inline(never)]
    fn derive_key(&self) -> Key {
        let derived = self.derived(DERIVATION_LABEL);
        let mut fingerprint = [0; FINGERPRINT_LEN];
        fingerprint.copy_from_slice(&self.derived(FINGERPRINT_LABEL)[..FINGERPRINT_LEN]);
        Key {
            id: Sha256::digest(derived.as_slice())[0],
            fingerprint,
            state: keepalive_hmac::key_state(derived.as_slice()),
        }
    }

    fn derived(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        // HMAC takes keys of every length (RFC 2104, section 2), so this cannot fail.
        #[allow(clippy::unwrap_used)]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).unwrap();
        mac.update(label);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

/// HMAC pads the secret on the stack, and does not clean up.
#[inline(never)]
fn wipe_stack() {
    let mut used = [0_u8; STACK_USED];
    used.zeroize();
}

impl Key {
    /// Reads a key file. The secret itself is gone from memory when this returns.
    ///
    /// # Errors
    ///
    /// See [`KeyProblem`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        read(path).map(Secret::into_key).map_err(|problem| KeyError { path: path.to_owned(), problem })
    }

    /// How a packet names it: the first byte of the derived key's SHA-256. Says nothing useful about the secret.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// What the keys of links are derived from ([`crate::link_identity`]): the HMAC states of the derived key,
    /// HMAC-SHA256(secret, label).
    pub fn signing_state(&self) -> KeyState {
        self.state
    }

    /// What people compare: four groups of four hexadecimal digits, the same for the same secret however its file is
    /// written.
    pub fn fingerprint(&self) -> String {
        let group = |pair: &[u8]| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.fingerprint.chunks(2).map(group).collect::<Vec<_>>().join("-")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.state.inner.zeroize();
        self.state.outer.zeroize();
    }
}

/// In constant time.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let words = |key: &KeyState| key.inner.into_iter().chain(key.outer);
        words(&self.state).zip(words(&other.state)).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl Eq for Key {}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
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
    /// Others can put another in its place.
    #[error("is not safe: {0}")]
    Untrusted(Untrusted),
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
        match &self.problem {
            KeyProblem::Missing => format!("make one: link-watcher generate key --output {path}"),
            KeyProblem::Untrusted(untrusted) => untrusted.remedy(),
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

fn read(path: &Path) -> Result<Secret, KeyProblem> {
    parse(&read_private(path)?)
}

/// All of a file that only its owner, who is root or us, can read or replace.
///
/// # Errors
///
/// Where that is not so, where it is longer than 8,192 bytes, or cannot be read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyProblem> {
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
    // The file's own mode and owner are told above, in words of their own; this is about the way to it.
    trust::check(path).map_err(KeyProblem::Untrusted)?;
    if metadata.len() > MAX_FILE_LEN {
        return Err(KeyProblem::TooLong);
    }
    // All of it at once: a buffer that grows leaves copies of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN as usize));
    file.take(MAX_FILE_LEN).read_to_end(&mut text).map_err(KeyProblem::Io)?;
    Ok(text)
}

/// What a key file holds.
fn parse(text: &[u8]) -> Result<Secret, KeyProblem> {
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
    Ok(Secret { bytes })
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

/// Whatever is taken as a secret is long enough.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(secret) = parse(data) {
        assert!(secret.bytes.len() >= MIN_KEY_LEN, "a short secret");
    }
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
        let secret = Secret::generate().unwrap();
        let line = format!("{}\n", secret.to_base64().as_str());
        assert_eq!(secret.bytes.len(), MIN_KEY_LEN);
        assert_eq!(parse(line.as_bytes()).unwrap().into_key(), secret.into_key());
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
        let secret = Secret { bytes: Zeroizing::new(vec![1; 32]) };
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        assert_eq!(format!("{:?}", secret.into_key()), "Key(redacted)");
    }

    #[test]
    fn the_signing_key_is_derived() {
        let bytes: Vec<u8> = (0..32).map(|i| i * 7).collect();
        let mut mac = Hmac::<Sha256>::new_from_slice(&bytes).unwrap();
        let key = Secret { bytes: Zeroizing::new(bytes) }.into_key();
        mac.update(b"link-watcher keepalive v2");
        let derived = mac.finalize().into_bytes();
        let expected = keepalive_hmac::key_state(&derived);
        assert_eq!(key.signing_state().inner, expected.inner);
        assert_eq!(key.signing_state().outer, expected.outer);
        assert_eq!(key.id(), Sha256::digest(derived)[0]);
    }

    #[test]
    fn a_fingerprint_is_the_secrets_and_not_the_files() {
        let secret = Secret::generate().unwrap();
        let line = secret.to_base64();
        let print = |text: String| parse(text.as_bytes()).unwrap().into_key().fingerprint();
        let plain = print(line.as_str().to_owned());
        assert_eq!(plain, print(format!("  {}\r\n\n", line.as_str())));
        assert_ne!(plain, Secret::generate().unwrap().into_key().fingerprint());
        assert_eq!(plain.len(), 19);
        assert!(plain.split('-').all(|group| group.len() == 4 && u16::from_str_radix(group, 16).is_ok()), "{plain}");
        // Another label: nothing of it is part of what signs.
        let id = secret.into_key().id();
        assert_eq!(id, parse(line.as_bytes()).unwrap().into_key().id());
    }
}
