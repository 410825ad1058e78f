//! The bytes of a file, mapped: only what is looked at is read, and nothing is copied. The only unsafe code.
//!
//! **Contract.** The file is mapped privately and read-only. While it is mapped, another process can write to it
//! or make it shorter; no type here depends on what the bytes are (they are `u8`), nothing is written from them,
//! and whoever writes a file reads it again into memory of its own and compares checksums. What is left: a file
//! that is made shorter under the map ends the process with SIGBUS. Only looks at large files map, before anything
//! is written, so that this loses nothing; small files, which are rewritten in place more often, are read.
#![allow(unsafe_code)]

use std::ops::Deref;

use memmap2::Mmap;

use super::source::Source;
use crate::error::{Error, Result};
use crate::limits;

/// Files up to this size are read.
const READ_BYTES: u64 = 1 << 20;

/// The bytes of a whole file.
#[derive(Debug)]
pub enum Bytes {
    /// Read.
    Read(Vec<u8>),
    /// Mapped.
    Mapped(Mmap),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

impl Source {
    /// The whole file, for looking only: large files are mapped.
    ///
    /// # Errors
    /// Those of [`Source::read`]; `Io` where the file cannot be mapped.
    pub fn view(&self) -> Result<Bytes> {
        if self.size() <= READ_BYTES || self.size() > limits::FILE_BYTES {
            return self.read().map(Bytes::Read);
        }
        // SAFETY: the module's contract.
        let map = unsafe { Mmap::map(self.file()) };
        map.map(Bytes::Mapped).map_err(|error| Error::io("cannot map", error))
    }
}
