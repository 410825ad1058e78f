//! An open file -> whether it needs to be read as a whole: headers and segments stream by once, block by block,
//! and nothing is decoded.

use crate::elf::{self, Headers};
use crate::error::Result;
use crate::search;
use crate::store::Source;

/// What the first look at a file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glance {
    /// A sound program, object or archive without an entry's address.
    Clean,
    /// An ELF file that is not handled: what it is, in words.
    Foreign(String),
    /// What this cannot tell, reading the whole file will.
    Unclear,
}

/// First bytes of a file that [`is_candidate`] and [`glance`] want: the headers of most programs.
pub const HEAD: usize = 4096;

/// Bytes read at a time: they stay in the second-level cache until they are searched.
const BLOCK: usize = 256 << 10;

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
    let is_clean = match Headers::parse(head, source.size()) {
        Some(headers) => stream.shows_no_entry_in(&headers)?,
        None if elf::is_object(head) || head.starts_with(ARCHIVE_MAGIC) => {
            stream.all_blocks(0, source.size(), |_, block| !search::any_entry(block))?
        }
        None => false,
    };
    Ok(if is_clean { Glance::Clean } else { Glance::Unclear })
}

/// Bytes of a file as they stream by.
struct Stream<'a> {
    source: &'a Source,
    buffer: &'a mut [u8],
}

impl Stream<'_> {
    fn shows_no_entry_in(&mut self, headers: &Headers) -> Result<bool> {
        for segment in &headers.segments {
            let holds_none = |at: u64, block: &[u8]| {
                !search::may_hold_entry(headers.file_type, segment, segment.range.start.plus(at), block)
            };
            if !self.all_blocks(segment.offset.0, segment.range.len(), holds_none)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether `test` holds for each block of the `len` bytes from `offset` on; it gets the block's distance
    /// from there. Blocks overlap by as much as an entry's address can span. Bytes that are missing fail.
    fn all_blocks(&mut self, offset: u64, len: u64, test: impl Fn(u64, &[u8]) -> bool) -> Result<bool> {
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
