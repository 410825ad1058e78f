//! What is known of layers, in a directory: an image that shares layers with one that was looked at before needs
//! them no more.
//!
//! **Invariants.** An entry never makes a verdict that looking would not make. It holds what depends on the layer
//! alone: its entries, which of its programs there is nothing to say of, what there is to say of those without a
//! call, and all others in full, which are looked at again. What is visible, and what a record in the image says, is decided for each image. It is written only
//! when the layer was read to its end and had the checksums that the image says; it is for these two checksums,
//! and for the very program that wrote it; it has a checksum of its own, and belongs to whoever runs this. Any
//! other is as good as none. A registry is not asked for such a layer at all; one on the disk is read, and has
//! to have its checksum still.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::blobs;
use super::document::Digest;
use super::merged::Noted;
use super::recent::Recent;
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::limits;
use crate::store::{self, Source};

/// Entries that a run adds for each look at how many there are: a look costs as much as there are, and commands add few.
const EVICT_EVERY: usize = 256;

/// The form of an entry.
const SCHEMA: &str = "vsyspatch.layer/2";

/// How well entries are compressed: fast.
const LEVEL: i32 = 1;

/// What an entry is, in its first line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    schema: String,
    /// The program that wrote it.
    build: String,
    /// The layer's blob, and what is in it.
    digest: String,
    diff_id: String,
    /// Checksum of all behind this line.
    content: Sha256,
}

/// A directory with what is known of layers.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    /// Layers that were known.
    hits: Arc<AtomicUsize>,
    /// Layers that were remembered.
    puts: Arc<AtomicUsize>,
    /// What is in memory, too.
    recent: Option<Arc<Recent>>,
}

impl Cache {
    /// That in `directory`, which is made where it is not there.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, hits: Arc::default(), puts: Arc::default(), recent: None }
    }

    /// The same one for a run over many images: what was needed last stays in memory.
    #[must_use]
    pub fn for_many(self) -> Self {
        Self { recent: Some(Arc::default()), ..self }
    }

    /// What is in memory; nothing for a run over one image.
    #[must_use]
    pub fn recent(&self) -> Option<&Recent> {
        self.recent.as_deref()
    }

    /// That of the user: `vsyspatch` in `XDG_CACHE_HOME` or `~/.cache`; nothing where there is no such place.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(Self::new(base.join("vsyspatch")))
    }

    /// How many layers were known so far, of those that were asked for.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("layers").join(digest.hex())
    }

    /// Whether something is known of the layer with the blob `digest`, which may be of no use.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// What the layer with the blob `digest` and the content `diff_id` has, where that is known.
    #[must_use]
    pub fn get(&self, digest: &Digest, diff_id: &Digest) -> Option<Arc<Vec<Noted>>> {
        let Some(recent) = &self.recent else { return self.read(digest, diff_id).map(Arc::new) };
        let key = (digest.clone(), diff_id.clone());
        if let Some(known) = recent.layers.get(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Some(known);
        }
        let known = Arc::new(self.read(digest, diff_id)?);
        recent.layers.put(key, Arc::clone(&known), Noted::bytes_of(&known));
        Some(known)
    }

    fn read(&self, digest: &Digest, diff_id: &Digest) -> Option<Vec<Noted>> {
        let source = Source::open(&self.path(digest)).ok()?;
        if !source.is_own() || source.size() > limits::REMEMBERED_BYTES {
            return None;
        }
        let bytes = source.read().ok()?;
        // What is needed stays.
        let _ = source.file().set_modified(SystemTime::now());
        let line = memchr::memchr(b'\n', &bytes)?;
        let (line, content) = (&bytes[..line], &bytes[line + 1..]);
        let head: Head = serde_json::from_slice(line).ok()?;
        if head != Head::of(digest, diff_id, content)? {
            return None;
        }
        let mut json = Vec::new();
        // In JSON bytes are two digits, and there are the names of the fields.
        let most = 8 * limits::REMEMBERED_BYTES;
        zstd::Decoder::with_buffer(content).ok()?.take(most).read_to_end(&mut json).ok()?;
        let known = serde_json::from_slice(&json).ok()?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(known)
    }

    /// Remembers what the layer has. That this cannot be done harms nothing.
    pub fn put(&self, digest: &Digest, diff_id: &Digest, noted: &Arc<Vec<Noted>>) {
        if let Some(recent) = &self.recent {
            let key = (digest.clone(), diff_id.clone());
            recent.layers.put(key, Arc::clone(noted), Noted::bytes_of(noted));
        }
        let _ = self.try_put(digest, diff_id, noted);
    }

    fn try_put(&self, digest: &Digest, diff_id: &Digest, noted: &[Noted]) -> Result<()> {
        let cannot = |error: std::io::Error| Error::io("cannot compress", error);
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL).map_err(cannot)?;
        serde_json::to_writer(&mut encoder, noted).map_err(|error| cannot(error.into()))?;
        let content = encoder.finish().map_err(cannot)?;
        let Some(head) = Head::of(digest, diff_id, &content) else { return Ok(()) };
        let mut bytes = serde_json::to_vec(&head).map_err(|error| cannot(error.into()))?;
        bytes.push(b'\n');
        bytes.extend(content);
        let path = self.path(digest);
        store::make_directories(path.parent().unwrap_or(&self.directory))?;
        store::write_file(&path, &mut bytes.as_slice())?;
        if self.puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVICT_EVERY) {
            self.evict().map_err(|error| Error::io("cannot remove", error))?;
        }
        Ok(())
    }

    /// Removes what was not needed for longest, where there is more than there may be.
    fn evict(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.directory.join("layers"))? {
            let entry = entry?;
            let is_digest = |name: &str| Digest::parse(&format!("sha256:{name}")).is_ok();
            if entry.file_name().to_str().is_some_and(is_digest) {
                let metadata = entry.metadata()?;
                entries.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        let mut bytes: u64 = entries.iter().map(|(_, size, _)| size).sum();
        entries.sort();
        for (_, size, path) in entries {
            if bytes <= limits::CACHE_BYTES {
                break;
            }
            fs::remove_file(path)?;
            bytes -= size;
        }
        Ok(())
    }
}

impl Head {
    fn of(digest: &Digest, diff_id: &Digest, content: &[u8]) -> Option<Self> {
        Some(Self {
            schema: SCHEMA.into(),
            build: build()?,
            digest: digest.to_string(),
            diff_id: diff_id.to_string(),
            content: Sha256::of(content),
        })
    }
}

/// The checksum of the program that runs: another one may judge otherwise.
fn build() -> Option<String> {
    static BUILD: OnceLock<Option<String>> = OnceLock::new();
    let sum = || Some(blobs::sum(File::open("/proc/self/exe").ok()?).ok()?.to_string());
    BUILD.get_or_init(sum).clone()
}
