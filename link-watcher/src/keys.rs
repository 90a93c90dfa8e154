//! Secrets: files and their permissions, derivation; redacted in Debug, wiped on drop.

/// A shared secret, at least 32 bytes.
#[derive(Clone)]
pub struct Key {
    bytes: zeroize::Zeroizing<Vec<u8>>,
}

impl Key {
    /// From its bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: zeroize::Zeroizing::new(bytes) }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}
