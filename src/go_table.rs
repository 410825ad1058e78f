//! Where the functions of a Go program begin: the table that its run-time unwinds the stack with
//! (`runtime.pclntab`, section `.gopclntab`). Stripped Go programs have nothing else that tells.
//!
//! Source: Go's `runtime/symtab.go` and `debug/gosym`, with the layouts of Go 1.2, 1.16, 1.18 and 1.20.

use memchr::memmem;

use crate::addr::{Vaddr, VaddrRange};
use crate::elf::{Image, Segment};
use crate::limits;
use crate::memory::{self, STRETCH};

/// What stands behind the first byte of the table: the rest of its magic number, two zeros, the smallest
/// instruction's size, and a pointer's.
const MAGIC_END: [u8; 7] = [0xff, 0xff, 0xff, 0, 0, 1, 8];

/// The functions, by address; nothing where there is no table, or it is none.
pub(crate) fn functions(image: &Image<'_>) -> Vec<VaddrRange> {
    named(image).or_else(|| found(image)).unwrap_or_default()
}

/// The code that the table tells of, padding included: to the run-time every address in it is one of a function, and it ends
/// the program where the function has nothing to say of it. All code where the table cannot be read; nothing without one.
pub(crate) fn code(image: &Image<'_>) -> Option<VaddrRange> {
    let table = section(image).or_else(|| image.segments.iter().find_map(|it| begins(image, it).next()))?;
    // Where the program can be loaded anywhere, the addresses may be in relocations alone.
    match read(image, table).unwrap_or_default()[..] {
        [first, .., last] => Some(VaddrRange { start: first.start, end: last.end }),
        _ => Some(VaddrRange { start: Vaddr(0), end: Vaddr(u64::MAX) }),
    }
}

fn named(image: &Image<'_>) -> Option<Vec<VaddrRange>> {
    read(image, section(image)?)
}

/// The bytes from the table on, where a section tells of it.
fn section<'a>(image: &Image<'a>) -> Option<&'a [u8]> {
    // The second where the program can be loaded anywhere.
    const NAMES: [&[u8]; 2] = [b".gopclntab", b".data.rel.ro.gopclntab"];
    let section = image.sections.iter().find(|section| section.allocated && NAMES.contains(&section.name))?;
    image.bytes_at(section.range.start)
}

/// The table where no section tells of it: in data that nobody writes to.
fn found(image: &Image<'_>) -> Option<Vec<VaddrRange>> {
    if !image.sections.is_empty() {
        return None;
    }
    let constant = image.segments.iter().filter(|segment| !segment.writable);
    let tables = constant.flat_map(|segment| begins(image, segment)).take(limits::GO_TABLES);
    tables.filter_map(|table| read(image, table)).next()
}

/// What of `segment` begins as a table does, each to the end of the segment. What was searched leaves memory.
fn begins<'a>(image: &Image<'a>, segment: &Segment) -> impl Iterator<Item = &'a [u8]> {
    let bytes = image.segment_bytes(segment);
    let stretches = (0..bytes.len()).step_by(STRETCH).flat_map(|from| {
        memory::searched(&bytes[from.saturating_sub(STRETCH)..from]);
        let stretch = &bytes[from..bytes.len().min(from + STRETCH + MAGIC_END.len() - 1)];
        memmem::find_iter(stretch, &MAGIC_END).map(move |at| from + at)
    });
    stretches.filter_map(|at| bytes.get(at.checked_sub(1)?..)).filter(|table| is_begin(table))
}

/// Whether `table` begins as one of these does.
pub(crate) fn is_begin(table: &[u8]) -> bool {
    matches!(table, [0xfb | 0xfa | 0xf0 | 0xf1, rest @ ..] if rest.starts_with(&MAGIC_END))
}

fn read(image: &Image<'_>, table: &[u8]) -> Option<Vec<VaddrRange>> {
    if !is_begin(table) {
        return None;
    }
    let magic = table[0];
    let word = |index: usize| Some(u64::from_le_bytes(*table.get(8 + index * 8..)?.first_chunk()?));
    // What distances in the list of functions count from, where the list is, and bytes of a number in it.
    let (text, list, size) = match magic {
        0xfb => (0, 16, 8),
        0xfa => (0, word(6)?, 8),
        0xf0 | 0xf1 => (word(2)?, word(7)?, 4),
        _ => return None,
    };
    let count = usize::try_from(word(0)?).ok()?;
    let list = table.get(usize::try_from(list).ok()?..)?;
    // Each function has its begin and where more is told of it; the last end stands alone.
    let entries = list.get(..count.checked_mul(2 * size)?.checked_add(size)?)?.chunks(2 * size);
    let mut begins = entries.map(|entry| {
        let number = entry[..size].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        Vaddr(text.wrapping_add(number))
    });
    let mut start = begins.next()?;
    let mut functions = Vec::new();
    for end in begins {
        let is_code = start < end && image.is_executable(start) && image.is_executable(Vaddr(end.0 - 1));
        if !is_code {
            return None;
        }
        functions.push(VaddrRange { start, end });
        start = end;
    }
    Some(functions)
}
