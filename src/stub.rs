//! Where stubs may live: bytes of executable segments that the program never uses. Nothing moves.
//!
//! First the padding between two functions (it is part of a section, so tools that rewrite the file keep
//! it), then the unused rest of the segment's last page, which the kernel maps anyway; there the
//! segment's size grows, so that every loader and tool knows of the code. In a file that was made longer
//! ([`crate::extension`]), first what was made; then no segment grows. Padding between Go's functions is none of it: where a
//! signal interrupts code there (since Go 1.14 the scheduler sends some at any time), Go's run-time looks in its table for what
//! the function before it says of that address, finds nothing, and ends the program.

use std::cell::OnceCell;

use iced_x86::Instruction;

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::code;
use crate::elf::{Image, PAGE_SIZE, Segment};
use crate::functions::{Extent, Functions};
use crate::go_table;
use crate::limits;
use crate::references;
use crate::vdso::FREE_BYTE;

/// Room that was given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) vaddr: Vaddr,
    pub(crate) offset: FileOffset,
    /// Bytes to write: those asked for, and the rest of the padding instruction that they end in, so
    /// that what follows still decodes as it did.
    pub(crate) len: usize,
}

/// A segment that grew within its last page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    /// File offset of `p_filesz`, which `p_memsz` follows.
    pub(crate) field: FileOffset,
    pub(crate) size: u64,
    /// The bytes that it grew by.
    pub(crate) tail: std::ops::Range<FileOffset>,
}

/// Gives away room for stubs, each byte once.
#[derive(Debug)]
pub(crate) struct Allocator<'a> {
    image: &'a Image<'a>,
    functions: &'a Functions<'a>,
    taken: Vec<VaddrRange>,
    /// Gaps that may still be tried.
    gaps_left: usize,
    /// [`go_table::code`]; looked for when first asked for.
    go_code: OnceCell<Option<VaddrRange>>,
    /// Room that was made in the file: used first. With it no segment grows, since its header may have moved.
    made: Option<VaddrRange>,
    /// Segment that was grown, and the first byte behind what was given away there.
    tail: Option<(Segment, Vaddr)>,
}

impl<'a> Allocator<'a> {
    /// `made`: a range in which all bytes behind the last that is not [`FREE_BYTE`] are free.
    pub(crate) fn new(image: &'a Image<'a>, functions: &'a Functions<'a>, made: Option<VaddrRange>) -> Self {
        let gaps_left = limits::STUB_GAPS_PER_FILE;
        let free_part = |range: VaddrRange| {
            let bytes = image.bytes_at(range.start)?.get(..range.len() as usize)?;
            let used = bytes.iter().rposition(|&byte| byte != FREE_BYTE).map_or(0, |last| last + 1);
            Some(VaddrRange { start: range.start.plus(used as u64), ..range })
        };
        let (taken, go_code) = (Vec::new(), OnceCell::new());
        Self { image, functions, taken, gaps_left, go_code, made: made.and_then(free_part), tail: None }
    }

    /// Room for `len` bytes of code, as near to `near` as it goes.
    pub(crate) fn allocate(&mut self, len: usize, near: Vaddr) -> Option<Room> {
        let len = len as u64;
        let range = match self.in_made(len).or_else(|| self.in_padding(len, near)) {
            Some(range) => range,
            None => VaddrRange::new(self.in_tail(len)?, len)?,
        };
        self.taken.push(range);
        let offset = match self.image.offset_at(range.start) {
            Some(offset) => offset,
            None => {
                let (segment, _) = self.tail?;
                FileOffset(segment.offset.0 + (range.start.0 - segment.range.start.0))
            }
        };
        Some(Room { vaddr: range.start, offset, len: range.len() as usize })
    }

    /// The segment that had to grow for what was given away.
    pub(crate) fn growth(&self) -> Option<Growth> {
        const P_FILESZ: u64 = 32;
        let (segment, end) = self.tail?;
        let size = end.0 - segment.range.start.0;
        let tail = segment.file_end()..FileOffset(segment.offset.0 + size);
        Some(Growth { field: FileOffset(segment.header.0 + P_FILESZ), size, tail })
    }

    fn in_made(&mut self, len: u64) -> Option<VaddrRange> {
        let made = self.made.as_mut()?;
        let range = VaddrRange::new(made.start, len).filter(|range| range.end <= made.end)?;
        made.start = range.end;
        Some(range)
    }

    fn in_padding(&mut self, len: u64, near: Vaddr) -> Option<VaddrRange> {
        let mut tried = 0;
        let room = self
            .functions
            .around(self.image, near)
            .take(limits::STUB_GAPS.min(self.gaps_left))
            .inspect(|_| tried += 1)
            .filter_map(|extent| self.padding_behind(extent))
            .filter_map(|gap| self.free_part(gap, len))
            .find(|&room| !references::may_lead_into(self.image, self.functions, None, room));
        self.gaps_left -= tried;
        room
    }

    /// The bytes behind a function, if they are padding that nothing can fall into.
    fn padding_behind(&self, extent: Extent<'_>) -> Option<VaddrRange> {
        let gap = VaddrRange { start: extent.nominal_end, end: extent.range.end };
        let is_known_end = extent.nominal_end > extent.range.start && gap.len() >= SHORTEST_STUB;
        let offset = self.image.offset_at(gap.start)?;
        let is_of_headers = self.image.is_in_headers(offset, gap.len() as usize);
        if !is_known_end || is_of_headers || !self.image.may_be_code(gap.start) {
            return None;
        }
        if self.is_of_go(gap.start) {
            return None;
        }
        let padding = &self.image.bytes_at(gap.start)?.get(..gap.len() as usize)?;
        let is_padding = padding.iter().all(|&byte| byte == 0)
            || code::sweep(self.image, gap).iter().try_fold(gap.start.0, padding_up_to) == Some(gap.end.0);
        let code = code::sweep(self.image, VaddrRange { start: extent.range.start, end: extent.nominal_end });
        let last = code.last().filter(|last| last.next_ip() == gap.start.0)?;
        (is_padding && code::ends_flow(last)).then_some(gap)
    }

    /// Whether Go's run-time takes `at` for an address of a function.
    fn is_of_go(&self, at: Vaddr) -> bool {
        self.go_code().is_some_and(|code| code.contains(at) || at == code.end)
    }

    /// Its code. Some versions take the address behind the last function for one of it, too.
    fn go_code(&self) -> Option<VaddrRange> {
        *self.go_code.get_or_init(|| go_table::code(self.image))
    }

    /// The first `len` bytes of `gap` that were not given away yet, up to the end of an instruction.
    fn free_part(&self, gap: VaddrRange, len: u64) -> Option<VaddrRange> {
        let start = self
            .taken
            .iter()
            .filter(|taken| gap.contains(taken.start))
            .map(|taken| taken.end)
            .max()
            .unwrap_or(gap.start);
        let room = VaddrRange::new(start, len).filter(|room| room.end <= gap.end)?;
        let padding = code::sweep(self.image, VaddrRange { start, end: gap.end });
        let cut = padding.iter().find(|nop| nop.ip() < room.end.0 && room.end.0 < nop.next_ip());
        let end = cut.map_or(room.end, |nop| Vaddr(nop.next_ip()));
        Some(VaddrRange { start, end })
    }

    fn in_tail(&mut self, len: u64) -> Option<Vaddr> {
        if self.made.is_some() {
            return None;
        }
        let grown = self.tail.into_iter();
        let fresh = self.image.segments.iter().map(|segment| (*segment, segment.range.end));
        let candidates: Vec<(Segment, Vaddr)> =
            if self.tail.is_some() { grown.collect() } else { fresh.collect() };
        let (segment, start, end) = candidates.into_iter().find_map(|(segment, from)| {
            let is_end_of_go = self.go_code().is_some_and(|code| code.end == from);
            let first = from.0 + u64::from(is_end_of_go);
            let start = Vaddr(first.next_multiple_of(STUB_ALIGNMENT));
            let end = start.plus(len);
            (end.0 <= self.tail_end(&segment)?.0).then_some((segment, start, end))
        })?;
        self.tail = Some((segment, end));
        Some(start)
    }

    /// Where the unused zero bytes behind an executable segment end.
    fn tail_end(&self, segment: &Segment) -> Option<Vaddr> {
        let has_tail = segment.executable && !segment.writable && segment.mem_size == segment.range.len();
        let page_end = segment.range.end.0.checked_next_multiple_of(PAGE_SIZE)?;
        let next_is_apart = self
            .image
            .segments
            .iter()
            .filter(|other| other.range.start >= segment.range.end)
            .all(|other| other.range.start.0 & !(PAGE_SIZE - 1) >= page_end);
        if !has_tail || !next_is_apart {
            return None;
        }
        let file_end = segment.file_end().0;
        let unused = self.image.unused_file_bytes(segment.file_end()).min(page_end - segment.range.end.0);
        let bytes = self.image.bytes.get(file_end as usize..(file_end + unused) as usize)?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count() as u64;
        Some(segment.range.end.plus(zeros))
    }
}

/// Bytes of the shortest stub.
const SHORTEST_STUB: u64 = 8;

/// Stubs in a segment's tail start at multiples of this, as functions do.
const STUB_ALIGNMENT: u64 = 16;

/// The address behind `instruction` if it is padding right at `at`.
fn padding_up_to(at: u64, instruction: &Instruction) -> Option<u64> {
    (instruction.ip() == at && code::is_padding(instruction)).then(|| instruction.next_ip())
}
