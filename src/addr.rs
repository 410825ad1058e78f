//! Addresses, offsets and ranges as different types, so that one is never taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A virtual address as the file's program headers give it (before any load bias).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vaddr(pub u64);

/// A byte offset from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileOffset(pub u64);

impl Vaddr {
    /// The address `bytes` further on; wraps as the processor does.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl FileOffset {
    /// The offset as an index into the file's bytes.
    ///
    /// Offsets are only made from indices and from checked headers, on a target whose
    /// `usize` has 64 bits; the conversion cannot lose bits there.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<usize> for FileOffset {
    fn from(index: usize) -> Self {
        Self(index as u64)
    }
}

impl From<u64> for FileOffset {
    fn from(offset: u64) -> Self {
        Self(offset)
    }
}

impl fmt::Display for Vaddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A half-open range of virtual addresses, `start <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VaddrRange {
    /// First address inside.
    pub start: Vaddr,
    /// First address behind.
    pub end: Vaddr,
}

impl VaddrRange {
    /// The range of `len` bytes from `start`, or nothing where it would wrap.
    #[must_use]
    pub fn new(start: Vaddr, len: u64) -> Option<Self> {
        let end = Vaddr(start.0.checked_add(len)?);
        Some(Self { start, end })
    }

    /// Whether `at` lies inside.
    #[must_use]
    pub fn contains(self, at: Vaddr) -> bool {
        self.start <= at && at < self.end
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether there is no address inside.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}
