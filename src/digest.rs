//! SHA-256 of a file's bytes, as a value.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A SHA-256 checksum; shown and stored as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sha256(#[serde(with = "hex::serde")] [u8; 32]);

impl Sha256 {
    /// The checksum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Its bytes.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The checksum of what went into `hasher`.
    #[must_use]
    pub(crate) fn finished(hasher: sha2::Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The checksum of all that `reader` gives.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(mut reader: impl Read) -> io::Result<Self> {
        const BLOCK: usize = 256 << 10;
        let mut hasher = sha2::Sha256::new();
        let mut block = vec![0; BLOCK];
        loop {
            match reader.read(&mut block)? {
                0 => return Ok(Self::finished(hasher)),
                count => hasher.update(&block[..count]),
            }
        }
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
