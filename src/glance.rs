//! An open file -> whether it needs to be read as a whole: headers and segments stream by once, block by block,
//! and nothing is decoded. All segments that are loaded are read, read-only ones, too: constant tables of pointers lie
//! there. Of large files, tables of run-times there are not.

use std::ops::Range;

use crate::elf::{self, FileType, Headers, Segment};
use crate::error::Result;
use crate::memory::Map;
use crate::search::{self, Hit};
use crate::store::Source;

/// What the first look at a file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glance {
    /// A sound program, object or archive without an entry's address.
    Clean,
    /// An ELF file that is not handled: what it is, in words.
    Foreign(String),
    /// What this cannot tell, looking at the whole file will; with what the search found, where it was not too much.
    Unclear(Option<Found>),
}

/// Everything in a file that looks like an entry's address, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the segments of a sound program.
    Hits(Vec<Hit>),
    /// Anywhere in an object or an archive, by offset.
    Places(Vec<u64>),
}

/// Most hits that are kept of a file: those of programs that are worth a look in part.
const HITS: usize = 4096;

/// First bytes of a file that [`is_candidate`] wants.
pub const MAGIC: usize = 8;

/// First bytes of a file that a look wants: the headers of most programs.
pub const HEAD: usize = 4096;

/// Bytes read at a time: they stay in the second-level cache of most processors until they are searched.
const BLOCK: usize = 256 << 10;

/// Bytes of a line of memory. What is read goes to the begin of one: the kernel copies a quarter faster to there.
const LINE: usize = 64;

/// Room for the bytes that pass by at a time.
const PASSING: usize = search::OVERLAP + (64 << 10);

/// First bytes of an `ar` archive.
pub const ARCHIVE_MAGIC: &[u8] = b"!<arch>\n";

/// Whether a file that begins with `head` is of a kind that can hold calls.
#[must_use]
pub fn is_candidate(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF") || head.starts_with(ARCHIVE_MAGIC)
}

/// Looks at `source`, which streams by through `buffer`. Of its `map`, where it has one, only headers and begins of tables are
/// used: to map all that is searched costs twice what copying it does where the page cache holds it in single pages, and saves
/// little elsewhere.
///
/// # Errors
/// Those of reading.
pub(crate) fn glance(source: &Source, map: Option<&Map>, buffer: &mut Vec<u8>) -> Result<Glance> {
    let mut stream = Stream::new(source, buffer);
    stream.read(0, source.size())?;
    let head = stream.head();
    if let Some(foreign) = elf::foreign(head) {
        return Ok(Glance::Foreign(foreign));
    }
    if let Some(headers) = Headers::parse(head, source.size()) {
        let segments = match map {
            // Of a large file, what a run-time's tables take is not even read.
            Some(map) => source.look(Some(map), |bytes| {
                Ok(elf::without(&headers.segments, &headers.runtime_tables(bytes)))
            })?,
            None => headers.segments,
        };
        let hits = stream.hits(headers.file_type, &segments)?;
        return Ok(match hits {
            Some(hits) if hits.is_empty() => Glance::Clean,
            hits => Glance::Unclear(hits.map(Found::Hits)),
        });
    }
    if elf::is_object(head) || head.starts_with(ARCHIVE_MAGIC) {
        return Ok(match stream.places()? {
            Some(places) if places.is_empty() => Glance::Clean,
            places => Glance::Unclear(places.map(Found::Places)),
        });
    }
    Ok(Glance::Unclear(None))
}

/// A look at a file that streams by once, from its begin to its end, and is not held.
pub struct Passing {
    size: u64,
    /// What is searched for: in the segments of a program, or anywhere in an object or an archive.
    headers: Option<Headers>,
    hits: Vec<Hit>,
    is_clean: bool,
    /// The last bytes that went by, and behind them room for more.
    buffer: Vec<u8>,
    kept: usize,
    at: u64,
}

impl Passing {
    /// A look at a file of `size` bytes that begins with `head`, of [`HEAD`] bytes, which go by first.
    #[must_use]
    pub fn new(head: &[u8], size: u64) -> Self {
        let headers = Headers::parse(head, size);
        let is_whole = |headers: &Headers| {
            let end = |segment: &Segment| segment.offset.0.checked_add(segment.range.len());
            headers.segments.iter().all(|segment| end(segment).is_some_and(|end| end <= size))
        };
        let is_clean = headers
            .as_ref()
            .map_or_else(|| elf::is_object(head) || head.starts_with(ARCHIVE_MAGIC), is_whole);
        let (hits, buffer) = (Vec::new(), vec![0; PASSING]);
        let mut new = Self { size, headers, hits, is_clean, buffer, kept: 0, at: 0 };
        new.room()[..head.len()].copy_from_slice(head);
        new.pass(head.len());
        new
    }

    /// Room for the next bytes, never empty.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.kept..]
    }

    /// The first `count` bytes of the room are the next ones.
    pub fn pass(&mut self, count: usize) {
        let filled = self.kept + count;
        let (from, block) = (self.at - self.kept as u64, &self.buffer[..filled]);
        match &self.headers {
            Some(headers) => {
                for segment in &headers.segments {
                    let (start, end) = (segment.offset.0, segment.offset.0 + segment.range.len());
                    let inside = start.max(from)..end.min(from + filled as u64);
                    if self.is_clean && inside.start < inside.end {
                        let bytes = &block[(inside.start - from) as usize..(inside.end - from) as usize];
                        search::hits_in(
                            headers.file_type,
                            segment,
                            inside.start - start,
                            bytes,
                            &mut self.hits,
                        );
                    }
                }
                self.is_clean &= self.hits.is_empty();
            }
            None => self.is_clean = self.is_clean && !search::any_entry(block),
        }
        self.at += count as u64;
        self.kept = filled.min(search::OVERLAP);
        self.buffer.copy_within(filled - self.kept..filled, 0);
    }

    /// Whether there is nothing in the file that looks like an entry's address; where that is not so, only all
    /// of it tells more.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.is_clean && self.at == self.size
    }
}

/// The bytes of a file as they stream by.
struct Stream<'a> {
    source: &'a Source,
    /// A line for the last bytes of the block before, and a block.
    buffer: &'a mut [u8],
    /// What of the file is in the block.
    block: Range<u64>,
}

impl<'a> Stream<'a> {
    fn new(source: &'a Source, buffer: &'a mut Vec<u8>) -> Self {
        // No larger than the file, since one that is looked at alone has a buffer of its own.
        let len = LINE + source.size().min(BLOCK as u64) as usize;
        buffer.resize(buffer.len().max(LINE + len), 0);
        let first = buffer.as_ptr().align_offset(LINE).min(LINE);
        Self { source, buffer: &mut buffer[first..first + len], block: 0..0 }
    }

    /// Reads the next block of the `len` bytes from `offset` on; the last bytes of the block before stay before it, as many as
    /// blocks overlap.
    fn read(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = LINE + self.filled();
        self.buffer.copy_within(end - search::OVERLAP..end, LINE - search::OVERLAP);
        let room = &mut self.buffer[LINE..];
        let wanted = len.min(room.len() as u64) as usize;
        let read = self.source.read_block(offset, &mut room[..wanted])?;
        self.block = offset..offset + read as u64;
        Ok(())
    }

    /// How many bytes the block holds.
    fn filled(&self) -> usize {
        (self.block.end - self.block.start) as usize
    }

    /// The first bytes of the file, once they were read.
    fn head(&self) -> &[u8] {
        &self.buffer[LINE..LINE + HEAD.min(self.filled())]
    }

    /// Everything in the segments that looks like an entry's address, in order; nothing where that is too much,
    /// or bytes are missing.
    fn hits(&mut self, file_type: FileType, segments: &[Segment]) -> Result<Option<Vec<Hit>>> {
        let mut hits = Vec::new();
        for segment in segments {
            let collect = |from: u64, block: &[u8]| {
                search::hits_in(file_type, segment, from, block, &mut hits);
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

    /// Every offset of the file where something looks like an entry's address, in order; nothing where that is too
    /// much, or bytes are missing.
    fn places(&mut self) -> Result<Option<Vec<u64>>> {
        let mut places = Vec::new();
        let collect = |from: u64, block: &[u8]| {
            search::entries_in(block, |at| places.push(from + at as u64));
            places.len() <= HITS
        };
        if !self.all_blocks(0, self.source.size(), collect)? {
            return Ok(None);
        }
        places.sort_unstable();
        places.dedup();
        Ok(Some(places))
    }

    /// Whether `test` holds for each block of the `len` bytes from `offset` on; it gets the block's distance
    /// from there. Blocks overlap by as much as an entry's address can span. Bytes that are missing fail.
    fn all_blocks(
        &mut self,
        offset: u64,
        len: u64,
        mut test: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<bool> {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let kept = if self.block.contains(&at) {
                0
            } else {
                self.read(at, len - done)?;
                done.min(search::OVERLAP as u64)
            };
            let from = LINE + (at - self.block.start) as usize;
            let count = (self.block.end - at).min(len - done) as usize;
            let bytes = &self.buffer[from - kept as usize..from + count];
            if count == 0 || !search::all_blocks(bytes, |block, bytes| test(done - kept + block, bytes)) {
                return Ok(false);
            }
            done += count as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A static program of `size` bytes, one executable segment, which begins `first` bytes behind its begin.
    fn program(size: usize, first: usize) -> Vec<u8> {
        let mut bytes = vec![0x90; size];
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(16, 0);
        for (value, len) in [(2_u64, 2), (62, 2), (1, 4), (0x40_0078, 8), (64, 8), (0, 8), (0, 4)] {
            header.extend(&value.to_le_bytes()[..len]);
        }
        for (value, len) in [(64_u64, 2), (56, 2), (1, 2), (64, 2), (0, 2), (0, 2)] {
            header.extend(&value.to_le_bytes()[..len]);
        }
        let (first, size) = (first as u64, (size - first) as u64);
        let at = 0x40_0000 + first;
        for (value, len) in [(1, 4), (5, 4), (first, 8), (at, 8), (at, 8), (size, 8), (size, 8), (4096, 8)] {
            header.extend(&u64::to_le_bytes(value)[..len]);
        }
        bytes[..header.len()].copy_from_slice(&header);
        bytes
    }

    fn is_clean(bytes: &[u8], most: usize) -> bool {
        let mut passing = Passing::new(&bytes[..HEAD], bytes.len() as u64);
        let mut rest = &bytes[HEAD..];
        while !rest.is_empty() {
            let room = passing.room();
            let count = room.len().min(rest.len()).min(most);
            room[..count].copy_from_slice(&rest[..count]);
            passing.pass(count);
            rest = &rest[count..];
        }
        passing.is_clean()
    }

    #[test]
    fn an_operand_is_found_once_wherever_the_blocks_end() {
        const SIZE: usize = 2 * BLOCK + 1000;
        for end in [4 << 10, BLOCK, 2 * BLOCK, SIZE] {
            operands_are_found(SIZE, 0, end);
        }
        // The first block of a segment may be what is left of the first one of the file.
        for first in [BLOCK - 5, BLOCK, BLOCK + 100] {
            for end in [first, 2 * BLOCK, first + BLOCK, SIZE] {
                operands_are_found(SIZE, first, end);
            }
        }
        operands_are_found(5000, 0, 5000);
    }

    /// Puts an operand to each place around `end` of a program of `size` bytes whose segment begins at `first`, and looks.
    fn operands_are_found(size: usize, first: usize, end: usize) {
        const OPERAND: [u8; 4] = [0x00, 0x04, 0x60, 0xff];
        let file = tempfile::NamedTempFile::new().expect("a file");
        for at in (end.max(9) - 9..end + 3).filter(|at| at + OPERAND.len() <= size) {
            for is_object in [false, true] {
                let mut bytes = program(size, first);
                bytes[16] = if is_object { 1 } else { bytes[16] };
                bytes[at..at + OPERAND.len()].copy_from_slice(&OPERAND);
                std::fs::write(file.path(), &bytes).expect("written");
                let source = Source::open(file.path()).expect("a source");
                let seen = glance(&source, None, &mut Vec::new()).expect("a glance");
                let map = Map::of(source.file()).expect("no error").expect("a map");
                assert_eq!(glance(&source, Some(&map), &mut Vec::new()).expect("a glance"), seen, "at {at}");
                let offsets = match seen {
                    Glance::Clean => vec![],
                    Glance::Unclear(Some(Found::Hits(hits))) if !is_object => {
                        let offset = |hit: &Hit| match hit {
                            Hit::Immediate(offset, _) => offset.0,
                            _ => panic!("{hit:?} at {at}"),
                        };
                        hits.iter().map(offset).collect()
                    }
                    Glance::Unclear(Some(Found::Places(places))) if is_object => places,
                    seen => panic!("{seen:?} at {at}"),
                };
                let expected = if is_object || at >= first { vec![at as u64] } else { vec![] };
                assert_eq!(offsets, expected, "at {at} of a segment from {first} on");
            }
        }
    }

    #[test]
    fn a_call_is_seen_wherever_the_blocks_end() {
        const CALL: [u8; 9] = [0x48, 0xc7, 0xc0, 0x00, 0x04, 0x60, 0xff, 0xff, 0xd0];
        let block = PASSING - search::OVERLAP;
        let clean = program(HEAD + block + 1000, 0);
        assert!(
            matches!(crate::examine::examine(&clean, crate::plan::Via::default()), Ok((_, Some(plan))) if plan.sites.is_empty())
        );
        assert!(is_clean(&clean, usize::MAX) && is_clean(&clean, 100));
        let ends = [HEAD, HEAD + block, clean.len()];
        for at in ends.iter().flat_map(|end| end - 12..end + 3).filter(|at| at + CALL.len() <= clean.len()) {
            let mut bytes = clean.clone();
            bytes[at..at + CALL.len()].copy_from_slice(&CALL);
            assert!(!is_clean(&bytes, usize::MAX) && !is_clean(&bytes, 1000), "at {at}");
        }
        let is_short = Passing::new(&clean[..HEAD], clean.len() as u64);
        assert!(!is_short.is_clean(), "most of it did not go by");
        let mut object = program(2 * HEAD, 0);
        object[16] = 1; // a relocatable object
        assert!(is_clean(&object, usize::MAX));
        object[HEAD - 3..HEAD + 6].copy_from_slice(&CALL);
        assert!(!is_clean(&object, usize::MAX));
    }
}
