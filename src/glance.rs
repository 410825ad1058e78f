//! An open file -> whether it needs to be read as a whole: headers and segments stream by once, block by block,
//! and nothing is decoded.

use crate::elf::{self, Headers};
use crate::error::Result;
use crate::search::{self, Hit};
use crate::store::Source;

/// What the first look at a file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glance {
    /// A sound program, object or archive without an entry's address.
    Clean,
    /// An ELF file that is not handled: what it is, in words.
    Foreign(String),
    /// What this cannot tell, looking at the whole file will; for a sound program with the places that look
    /// like an entry's address.
    Unclear(Option<Vec<Hit>>),
}

/// Most hits that are kept of a file: those of programs that are worth a look in part.
const HITS: usize = 4096;

/// First bytes of a file that [`is_candidate`] wants.
pub const MAGIC: usize = 8;

/// First bytes of a file that [`glance`] wants: the headers of most programs.
pub const HEAD: usize = 4096;

/// Bytes read at a time: they stay in the second-level cache until they are searched.
const BLOCK: usize = 64 << 10;

/// Room that [`glance`] needs for blocks.
pub const BUFFER: usize = search::OVERLAP + BLOCK;

/// First bytes of an `ar` archive.
pub const ARCHIVE_MAGIC: &[u8] = b"!<arch>\n";

/// Whether a file that begins with `head` is of a kind that can hold calls.
#[must_use]
pub fn is_candidate(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF") || head.starts_with(ARCHIVE_MAGIC)
}

/// Looks at `source`, whose first bytes are `head`; `buffer` has room for [`BUFFER`] bytes.
///
/// # Errors
/// Those of reading.
pub fn glance(source: &Source, head: &[u8], buffer: &mut [u8]) -> Result<Glance> {
    if let Some(foreign) = elf::foreign(head) {
        return Ok(Glance::Foreign(foreign));
    }
    let mut stream = Stream { source, buffer };
    if let Some(headers) = Headers::parse(head, source.size()) {
        let hits = stream.hits(&headers)?;
        return Ok(if hits.as_ref().is_some_and(Vec::is_empty) {
            Glance::Clean
        } else {
            Glance::Unclear(hits)
        });
    }
    if elf::is_object(head) || head.starts_with(ARCHIVE_MAGIC) {
        let holds_none = |_: u64, block: &[u8]| !search::any_entry(block);
        if stream.all_blocks(0, source.size(), holds_none)? {
            return Ok(Glance::Clean);
        }
    }
    Ok(Glance::Unclear(None))
}

/// Bytes of a file as they stream by.
struct Stream<'a> {
    source: &'a Source,
    buffer: &'a mut [u8],
}

impl Stream<'_> {
    /// Everything in the segments that looks like an entry's address, in order; nothing where that is too much,
    /// or bytes are missing.
    fn hits(&mut self, headers: &Headers) -> Result<Option<Vec<Hit>>> {
        let mut hits = Vec::new();
        for segment in &headers.segments {
            let collect = |from: u64, block: &[u8]| {
                search::hits_in(headers.file_type, segment, from, block, &mut hits);
                hits.len() <= HITS
            };
            if !self.all_blocks(segment.offset.0, segment.range.len(), collect)? {
                return Ok(None);
            }
        }
        hits.sort_unstable();
        hits.dedup();
        Ok(Some(hits))
    }

    /// Whether `test` holds for each block of the `len` bytes from `offset` on; it gets the block's distance
    /// from there. Blocks overlap by as much as an entry's address can span. Bytes that are missing fail.
    fn all_blocks(
        &mut self,
        offset: u64,
        len: u64,
        mut test: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<bool> {
        let (mut done, mut kept) = (0, 0);
        while done < len {
            let wanted = (len - done).min(BLOCK as u64) as usize;
            let read = self.source.read_block(offset + done, &mut self.buffer[kept..kept + wanted])?;
            let filled = kept + read;
            if read < wanted || !test(done - kept as u64, &self.buffer[..filled]) {
                return Ok(false);
            }
            kept = filled.min(search::OVERLAP);
            self.buffer.copy_within(filled - kept..filled, 0);
            done += read as u64;
        }
        Ok(true)
    }
}
