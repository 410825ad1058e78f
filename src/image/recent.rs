//! What a run over many images keeps in memory of the last ones: most share their layers with one before.
//!
//! All of it is found again from the bytes it is kept for, by their checksums; that it is there changes nothing but time.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::document::Digest;
use super::merged::{Examined, Noted};
use crate::digest::Sha256;
use crate::limits;
use crate::plan::Via;

/// What is kept, by what it is of. The least recently needed goes where there is more than there may be.
#[derive(Default)]
pub struct Recent {
    /// What layers have, by the digests of their blobs and of their content.
    pub layers: Lately<(Digest, Digest), Vec<Noted>>,
    /// What is in programs, and what patching them does, by their checksums.
    pub programs: Lately<(Sha256, Via), Examined>,
    /// Compressed files of layers that were made, by the checksums of what was compressed.
    pub compressed: Lately<Sha256, Vec<u8>>,
}

impl fmt::Debug for Recent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Recent")
    }
}

/// One kind of it, up to [`limits::RECENT_BYTES`].
pub struct Lately<K, V>(Mutex<Entries<K, V>>);

struct Entries<K, V> {
    /// The one that was needed last comes last.
    all: VecDeque<(K, Arc<V>, u64)>,
    bytes: u64,
}

impl<K, V> Default for Lately<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Entries { all: VecDeque::new(), bytes: 0 }))
    }
}

impl<K: PartialEq, V> Lately<K, V> {
    /// What is kept for `key`.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = entries.all.iter().rposition(|(known, _, _)| known == key)?;
        let entry = entries.all.remove(index)?;
        let value = Arc::clone(&entry.1);
        entries.all.push_back(entry);
        Some(value)
    }

    /// Keeps `value`, which takes so many `bytes`, for `key`.
    pub fn put(&self, key: K, value: Arc<V>, bytes: u64) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.bytes += bytes;
        entries.all.push_back((key, value, bytes));
        while entries.bytes > limits::RECENT_BYTES {
            let Some((_, _, oldest)) = entries.all.pop_front() else { break };
            entries.bytes -= oldest;
        }
    }
}
