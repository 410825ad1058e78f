//! The bytes of a layer: decompressed as they stream by, with the checksums of both forms.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest as _, Sha256 as Hasher};

use super::document::Digest;
use super::recent::Recent;
use super::tar;
use crate::compression::{GZIP, ZSTD};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// `50 2a 4d 18` up to `5f ...`: a frame that holds no data.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

/// A checksum that grows while somebody else reads, and of how many bytes it is.
#[derive(Clone, Debug, Default)]
struct Sum(Rc<RefCell<(Hasher, u64)>>);

impl Sum {
    fn add(&self, bytes: &[u8]) {
        let (hasher, count) = &mut *self.0.borrow_mut();
        hasher.update(bytes);
        *count += bytes.len() as u64;
    }

    fn digest(&self) -> Digest {
        Digest::of_sum(Sha256::finished(self.0.borrow().0.clone()))
    }

    fn count(&self) -> u64 {
        self.0.borrow().1
    }
}

struct Summed<R> {
    reader: R,
    sum: Sum,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.sum.add(&buffer[..count]);
        Ok(count)
    }
}

/// The uncompressed bytes of a layer.
pub struct Layer<'a> {
    reader: Box<dyn Read + 'a>,
    blob: Sum,
    /// The same one where the blob is not compressed.
    content: Sum,
}

impl<'a> Layer<'a> {
    /// The layer whose blob `blob` gives, in whichever compression.
    ///
    /// # Errors
    /// `Io` where reading fails.
    pub fn new(blob: impl Read + 'a) -> Result<Self> {
        let sum = Sum::default();
        let mut blob = BufReader::with_capacity(BUFFER, Summed { reader: blob, sum: sum.clone() });
        let cannot = |error| Error::io("cannot read", error);
        let head = blob.fill_buf().map_err(cannot)?;
        let decoder: Box<dyn Read> = if head.starts_with(GZIP) {
            Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(blob)))
        } else if head.starts_with(ZSTD) || head.get(1..4) == Some(ZSTD_SKIPPABLE) {
            Box::new(zstd::stream::read::Decoder::with_buffer(blob).map_err(cannot)?)
        } else {
            return Ok(Self { reader: Box::new(blob), blob: sum.clone(), content: sum });
        };
        let content = Sum::default();
        let reader = Box::new(Summed { reader: decoder, sum: content.clone() });
        Ok(Self { reader, blob: sum, content })
    }

    /// Reads to the end; the checksums of the blob and of what it holds.
    ///
    /// # Errors
    /// `Io` where reading fails.
    pub fn sums(mut self) -> Result<(Digest, Digest)> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| Error::io("cannot read", error))?;
        Ok((self.blob.digest(), self.content.digest()))
    }

    /// Reads to the end, and checks what was read against the digests that the image says.
    ///
    /// # Errors
    /// `Mismatch` where it is something else.
    pub fn check(self, digest: Option<&Digest>, diff_id: Option<&Digest>) -> Result<()> {
        let (own_digest, own_diff_id) = self.sums()?;
        let pairs = [("digest", digest, own_digest), ("diff_id", diff_id, own_diff_id)];
        for (what, wanted, found) in pairs {
            if wanted.is_some_and(|wanted| *wanted != found) {
                let wanted = wanted.map(ToString::to_string).unwrap_or_default();
                let message = format!("the layer's {what} is {found}, the image says {wanted}");
                return Err(
                    Error::new(ErrorKind::Mismatch, message).remedy("the image is damaged: get it again")
                );
            }
        }
        Ok(())
    }
}

impl Read for Layer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let most = limits::expanded_bytes(self.blob.count());
        if self.content.count() > most {
            let message = format!("{} compressed bytes become more than {most}", self.blob.count());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(count)
    }
}

/// A layer that is made.
#[derive(Debug)]
pub struct NewTar<'a> {
    /// What is the image's own: the record.
    pub own: tar::Writer<'a>,
    /// Files, which are the same in images of one base, with the archive's end.
    pub files: tar::Writer<'a>,
    /// The checksums of their contents, in their order.
    pub sums: Vec<Sha256>,
}

impl NewTar<'_> {
    /// The digest of the whole archive.
    #[must_use]
    pub fn diff_id(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.own.pieces().iter().chain(self.files.pieces()).for_each(|piece| hasher.update(piece));
        Digest::of_sum(Sha256::finished(hasher))
    }

    /// Compresses it without a clock: the same bytes give the same layer. The files are a gzip member of their own, which
    /// may be known of another image.
    ///
    /// # Errors
    /// None that writing to memory can have.
    pub fn compressed(&self, recent: Option<&Recent>) -> io::Result<Vec<u8>> {
        let mut blob = member(self.own.pieces())?;
        let Some(recent) = recent else {
            blob.extend(member(self.files.pieces())?);
            return Ok(blob);
        };
        let key = self.files_sum();
        let compressed = match recent.compressed.get(&key) {
            Some(known) => known,
            None => {
                let made = Arc::new(member(self.files.pieces())?);
                recent.compressed.put(key, Arc::clone(&made), made.len() as u64);
                made
            }
        };
        blob.extend_from_slice(&compressed);
        Ok(blob)
    }

    /// What no other files have: a checksum of all that is no content, of how long each piece is, and of the contents'
    /// checksums.
    fn files_sum(&self) -> Sha256 {
        let mut hasher = Hasher::new();
        for piece in self.files.pieces() {
            hasher.update(piece.len().to_le_bytes());
            if let Cow::Owned(bytes) = piece {
                hasher.update(bytes);
            }
        }
        self.sums.iter().for_each(|sum| hasher.update(sum.as_bytes()));
        Sha256::finished(hasher)
    }
}

/// A gzip member with the bytes of all `pieces`.
fn member(pieces: &[Cow<'_, [u8]>]) -> io::Result<Vec<u8>> {
    use std::io::Write as _;
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::default());
    pieces.iter().try_for_each(|piece| encoder.write_all(piece))?;
    encoder.finish()
}
