//! Byte searches over whole segments, read-only ones, too: constant tables of pointers lie there. They decide
//! whether a file is worth decoding, and find what may refer to an address; nothing here decides what the bytes mean.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::packed;
use memchr::memmem;

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::elf::{FileType, Image, Segment};
use crate::memory::{self, STRETCH};
use crate::vsyscall::{ENTRY_STRIDE, Entry, PAGE};

/// The bytes that every address of the page ends in, as a pointer.
const WORD_TAIL: [u8; 6] = [0x60, 0xff, 0xff, 0xff, 0xff, 0xff];

/// Bytes searched at a time: they stay in the first-level cache over the passes of a search.
const BLOCK: usize = 16 << 10;

/// Something that looks like an entry's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// Four bytes in an executable segment: perhaps an immediate or displacement.
    Immediate(FileOffset, Vaddr),
    /// The number subtracted by an instruction that may compute an entry's address.
    Subtrahend(FileOffset, Vaddr),
    /// Eight aligned bytes outside of executable segments: a pointer to the entry.
    Word(FileOffset, Vaddr, Entry),
    /// The displacement of what may be a `call` or `jmp` straight into the page.
    Branch(FileOffset, Vaddr),
}

/// Every place of `image` that looks like an entry's address; those that are known where somebody searched.
#[must_use]
pub fn hits(image: &Image<'_>) -> Vec<Hit> {
    if let Some(known) = &image.known_hits {
        return known.clone();
    }
    let mut hits = Vec::new();
    for segment in &image.segments {
        all_blocks(image.segment_bytes(segment), |from, block| {
            hits_in(image.identity.file_type, segment, from, block, &mut hits);
            true
        });
    }
    hits.sort_unstable();
    hits.dedup();
    hits
}

/// Bytes of a segment that a stream of blocks repeats from the block before: a pointer less one byte.
pub const OVERLAP: usize = 7;

/// Whether `search` holds for each block of `bytes`; blocks overlap by [`OVERLAP`], and it gets where the block begins.
/// What was searched leaves memory.
pub(crate) fn all_blocks(bytes: &[u8], mut search: impl FnMut(u64, &[u8]) -> bool) -> bool {
    /// Bytes searched at a time, while those of the next block are on their way from memory.
    const BLOCK: usize = 4 << 10;
    let part = |from: usize, len: usize| bytes.get(from..bytes.len().min(from + len)).unwrap_or_default();
    (0..bytes.len()).step_by(BLOCK).all(|at| {
        if at.is_multiple_of(STRETCH) {
            memory::wanted(part(at, STRETCH));
        }
        memory::soon(part(at + BLOCK, BLOCK));
        let from = at.saturating_sub(OVERLAP);
        let is_wanted = search(from as u64, part(from, at + BLOCK - from));
        if (at + BLOCK).is_multiple_of(STRETCH) || at + BLOCK >= bytes.len() {
            // The next block begins with the last of them.
            let first = at - at % STRETCH;
            let last = bytes.len().min(at + BLOCK).saturating_sub(OVERLAP);
            memory::searched(&bytes[first.saturating_sub(OVERLAP)..last.max(first.saturating_sub(OVERLAP))]);
        }
        is_wanted
    })
}

/// Adds what [`hits`] finds in `bytes`, a part of `segment` that begins `from` bytes behind its begin. For bytes
/// that stream by in blocks that overlap by [`OVERLAP`]: a hit in the overlap comes twice.
pub fn hits_in(file_type: FileType, segment: &Segment, from: u64, bytes: &[u8], hits: &mut Vec<Hit>) {
    let place = |at: usize| {
        let at = from + at as u64;
        (FileOffset(segment.offset.0 + at), segment.range.start.plus(at))
    };
    if segment.executable {
        operands(bytes, |at, operand| {
            let (offset, vaddr) = place(at);
            hits.push(match operand {
                Operand::Immediate => Hit::Immediate(offset, vaddr),
                Operand::Subtrahend => Hit::Subtrahend(offset, vaddr),
            });
        });
        let start = segment.range.start.plus(from);
        if file_type == FileType::Exec && start.0 <= u64::from(u32::MAX) {
            branches_to_page(bytes, start, |at| {
                let (offset, vaddr) = place(at);
                hits.push(Hit::Branch(offset, vaddr));
            });
        }
    } else {
        words(bytes, |at, entry| {
            let (offset, vaddr) = place(at);
            if vaddr.0.is_multiple_of(8) {
                hits.push(Hit::Word(offset, vaddr, entry));
            }
        });
    }
}

/// Calls `found` with each index in `bytes` where [`any_entry`] sees something.
pub(crate) fn entries_in(bytes: &[u8], mut found: impl FnMut(usize)) {
    operands(bytes, |at, _| found(at));
}

/// The part of `bytes` around the index `at` of an operand that decides what it is.
pub(crate) fn around(bytes: &[u8], at: usize) -> &[u8] {
    &bytes[at.saturating_sub(3)..bytes.len().min(at + 8)]
}

/// Whether `bytes` may hold an entry's address anywhere, as an instruction's operand or as a pointer.
pub(crate) fn any_entry(bytes: &[u8]) -> bool {
    let mut found = false;
    operands(bytes, |_, _| found = true);
    found
}

/// Whether `bytes` may hold an entry's address as a pointer.
pub(crate) fn any_word(bytes: &[u8]) -> bool {
    let mut found = false;
    words(bytes, |_, _| found = true);
    found
}

/// What an operand may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    /// The lower half of an entry's address.
    Immediate,
    /// What is subtracted by `sub $0xa00000,%r64`, gcc's way to add the page's address, which is `-0xa00000`; or another
    /// entry's.
    Subtrahend,
}

/// Bytes that every operand has, and how far behind its begin: `00 {00,04,08} 60 ff`, or behind the instruction's first
/// bytes `00 00 a0 00`, `00 fc 9f 00`, `00 f8 9f 00`. Nothing else that is sought ends within those of an operand: a search
/// for all at once, which goes on behind what it found, misses none.
const RARE_PARTS: [(&[u8], usize, Operand); 4] = [
    (&[0x60, 0xff], 2, Operand::Immediate),
    (&[0, 0xa0, 0], 1, Operand::Subtrahend),
    (&[0xfc, 0x9f, 0], 1, Operand::Subtrahend),
    (&[0xf8, 0x9f, 0], 1, Operand::Subtrahend),
];

/// Looks for all parts in one pass; nothing where the processor cannot.
static RARE_PARTS_AT_ONCE: LazyLock<Option<packed::Searcher>> =
    LazyLock::new(|| packed::Searcher::new(RARE_PARTS.map(|(bytes, ..)| bytes)));

/// Calls `found` with each index where the four bytes of an operand start.
fn operands(bytes: &[u8], found: impl FnMut(usize, Operand)) {
    operands_by(RARE_PARTS_AT_ONCE.as_ref(), bytes, found);
}

fn operands_by(searcher: Option<&packed::Searcher>, bytes: &[u8], mut found: impl FnMut(usize, Operand)) {
    let mut see = |part: usize, at: usize| {
        let (_, behind, operand) = RARE_PARTS[part];
        if let Some(start) = at.checked_sub(behind)
            && is_operand(bytes, start, operand)
        {
            found(start, operand);
        }
    };
    match searcher {
        Some(searcher) => {
            for part in searcher.find_iter(bytes) {
                see(part.pattern().as_usize(), part.start());
            }
        }
        None => {
            for (part, (needle, ..)) in RARE_PARTS.iter().enumerate() {
                memmem::find_iter(bytes, needle).for_each(|at| see(part, at));
            }
        }
    }
}

/// Whether the operand that `start` is the begin of has its first bytes, and an instruction before it, too.
fn is_operand(bytes: &[u8], start: usize, operand: Operand) -> bool {
    match operand {
        Operand::Immediate => matches!(bytes[start..], [0, 0 | 4 | 8, ..]),
        Operand::Subtrahend => {
            bytes[start] == 0
                && matches!(bytes[..start], [.., 0x48, 0x2d] | [.., 0x48 | 0x49, 0x81, 0xe8..=0xef])
        }
    }
}

/// `bytes` in blocks.
fn blocks(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    (0..bytes.len()).step_by(BLOCK).map(|start| start..bytes.len().min(start + BLOCK))
}

/// Each index in `block` of `bytes` where `needle` begins, which may end behind the block.
fn occurrences<'b>(
    bytes: &'b [u8],
    block: Range<usize>,
    needle: &'b [u8],
) -> impl Iterator<Item = usize> + 'b {
    let end = bytes.len().min(block.end + needle.len() - 1);
    let within = bytes.get(block.start..end).unwrap_or_default();
    memmem::find_iter(within, needle).map(move |at| block.start + at)
}

/// Looks for [`WORD_TAIL`].
static WORD_TAILS: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(&WORD_TAIL));

/// Calls `found` with each index where the eight bytes of an entry's address start.
fn words(bytes: &[u8], mut found: impl FnMut(usize, Entry)) {
    for tail in WORD_TAILS.find_iter(bytes) {
        if let Some(at) = tail.checked_sub(2)
            && let Some(word) = bytes[at..].first_chunk::<8>()
            && let Some(entry) = Entry::at(u64::from_le_bytes(*word))
        {
            found(at, entry);
        }
    }
}

/// Calls `found` with the index in `bytes` of each displacement that leads to an entry, read as that of a `call`, `jmp` or
/// conditional jump; `start` is the address of `bytes`.
fn branches_to_page(bytes: &[u8], start: Vaddr, mut found: impl FnMut(usize)) {
    relative(bytes, start, PAGE, ENTRY_STRIDE * 2 + 1, |at| {
        let is_branch = matches!(bytes[..at], [.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f]);
        if is_branch && Entry::at(relative_target(bytes, start, at)).is_some() {
            found(at);
        }
    });
}

/// Where the displacement at index `at` leads when the instruction ends behind it.
fn relative_target(bytes: &[u8], start: Vaddr, at: usize) -> u64 {
    let displacement = bytes[at..].first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
    start.0.wrapping_add(at as u64 + 4).wrapping_add_signed(i64::from(displacement))
}

/// Calls `found` with the address of each 32-bit displacement in executable segments that leads into
/// `targets` when the instruction ends right behind it. Whether all were searched: the image's budget
/// ([`limits::searched_bytes`](crate::limits::searched_bytes)) may be used up before.
#[must_use]
pub fn relative_references(image: &Image<'_>, targets: VaddrRange, mut found: impl FnMut(Vaddr)) -> bool {
    for segment in image.segments.iter().filter(|segment| segment.executable) {
        let bytes = image.segment_bytes(segment);
        if !image.may_search(bytes.len()) {
            return false;
        }
        relative(bytes, segment.range.start, targets.start.0, targets.len(), |at| {
            if targets.contains(Vaddr(relative_target(bytes, segment.range.start, at))) {
                found(segment.range.start.plus(at as u64));
            }
        });
    }
    true
}

/// Calls `found` with the address of each 32-bit number in any segment that, sign-extended, is an
/// address in `targets`. Whether all were searched, as with [`relative_references`].
#[must_use]
pub fn absolute_references(image: &Image<'_>, targets: VaddrRange, mut found: impl FnMut(Vaddr)) -> bool {
    for segment in &image.segments {
        let bytes = image.segment_bytes(segment);
        if !image.may_search(bytes.len()) {
            return false;
        }
        numbers(bytes, 0, targets.start.0, targets.len(), |at| {
            let number = bytes[at..].first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
            if targets.contains(Vaddr(i64::from(number).cast_unsigned())) {
                found(segment.range.start.plus(at as u64));
            }
        });
    }
    true
}

/// Calls `found` with the address of each number in executable segments that a `movabs` may load into a register and
/// that is the distance from the global offset table to an address in `targets`. Whether all were searched, as with
/// [`relative_references`].
#[must_use]
pub fn table_references(image: &Image<'_>, targets: VaddrRange, mut found: impl FnMut(Vaddr)) -> bool {
    let Some(table) = image.global_offset_table() else { return true };
    for segment in image.segments.iter().filter(|segment| segment.executable) {
        let bytes = image.segment_bytes(segment);
        if !image.may_search(bytes.len()) {
            return false;
        }
        numbers(bytes, 0, targets.start.0.wrapping_sub(table.0), targets.len(), |at| {
            let distance = bytes[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let is_loaded = matches!(bytes[..at], [.., 0x48 | 0x49, 0xb8..=0xbf]);
            let leads = |distance: u64| targets.contains(Vaddr(table.0.wrapping_add(distance)));
            if is_loaded && distance.is_some_and(leads) {
                found(segment.range.start.plus(at as u64));
            }
        });
    }
    true
}

fn relative(bytes: &[u8], start: Vaddr, target: u64, len: u64, found: impl FnMut(usize)) {
    numbers(bytes, 1, target.wrapping_sub(start.0.wrapping_add(4)), len, found);
}

/// Calls `found` with each index `i` where `number(i) + step * i` lies in `first .. first + len`,
/// all modulo 2^32, where `number(i)` is the little-endian 32-bit number at `i`.
fn numbers(bytes: &[u8], step: u32, first: u64, len: u64, mut found: impl FnMut(usize)) {
    let (first, len) = (first as u32, u32::try_from(len).unwrap_or(u32::MAX));
    for block in blocks(bytes) {
        if block.start > 0 && block.start.is_multiple_of(STRETCH) {
            memory::searched(&bytes[block.start - STRETCH..block.start]);
        }
        // What is sought moves by `step` a byte.
        let sought = |range: &Range<usize>| {
            let lowest = first.wrapping_sub(step.wrapping_mul((range.end - 1) as u32));
            (lowest, u64::from(step * (range.end - 1 - range.start) as u32) + u64::from(len))
        };
        let (lowest, count) = sought(&block);
        if let Some(halves) = rare_upper_halves(lowest, count) {
            let is_sought = |&at: &usize| {
                let moved = step.wrapping_mul(at as u32).wrapping_sub(first);
                let number = bytes[at..].first_chunk().map(|number| u32::from_le_bytes(*number));
                number.is_some_and(|number| number.wrapping_add(moved) < len)
            };
            for half in halves.map(u16::to_le_bytes) {
                let uppers = occurrences(bytes, block.start + 2..block.end + 2, &half);
                uppers.map(|upper| upper - 2).filter(is_sought).for_each(&mut found);
            }
            continue;
        }
        for from in block.clone().step_by(STRIP) {
            let to = block.end.min(from + STRIP);
            let strip = &bytes[from..bytes.len().min(to + 3)];
            let (lowest, count) = sought(&(from..to));
            if may_hold_number(strip, lowest, count) {
                let moves = step * (to - 1 - from) as u32;
                numbers_in_strip(strip, step, lowest.wrapping_add(moves), len, |at| found(from + at));
            }
        }
    }
}

/// The upper halves of the `count` numbers from `lowest` on, if these are few, and none that is everywhere in code.
fn rare_upper_halves(lowest: u32, count: u64) -> Option<impl Iterator<Item = u16>> {
    let (first, last) = (lowest >> 16, (u64::from(lowest) + count.saturating_sub(1)) >> 16);
    let halves = (u64::from(first)..=last).map(|half| half as u16);
    let is_rare = |half: u16| !matches!(half, 0 | u16::MAX);
    (last - u64::from(first) <= 1 && halves.clone().all(is_rare)).then_some(halves)
}

/// Bytes that a quick test for a number covers: the upper bytes of what is sought hardly change over them.
const STRIP: usize = 512;

/// Whether any number in `strip` may be one of the `count` numbers from `lowest` on: whether there are their three upper
/// bytes, as far as these are the same but for the lowest of the three.
fn may_hold_number(strip: &[u8], lowest: u32, count: u64) -> bool {
    let Some(len) = strip.len().checked_sub(3) else { return false };
    let highest = u64::from(lowest) + count.saturating_sub(1);
    if highest >> 16 != u64::from(lowest >> 16) {
        return true;
    }
    let [_, low, middle, high] = lowest.to_le_bytes();
    let span = ((highest >> 8) as u8).wrapping_sub(low);
    let (lows, middles, highs) = (&strip[1..][..len], &strip[2..][..len], &strip[3..][..len]);
    let triples = lows.iter().zip(middles).zip(highs);
    let is_it = |&((&a, &b), &c): &((&u8, &u8), &u8)| {
        u8::from(a.wrapping_sub(low) <= span) & u8::from(b == middle) & u8::from(c == high)
    };
    triples.fold(0, |any, triple| any | is_it(&triple)) != 0
}

/// [`numbers`] of one strip.
///
/// Four passes, one per alignment, so that each pass is one run of vector loads.
fn numbers_in_strip(strip: &[u8], step: u32, first: u32, len: u32, mut found: impl FnMut(usize)) {
    for phase in 0..strip.len().min(4) {
        let lanes = strip[phase..].as_chunks::<4>().0;
        // What is sought moves by `step` a byte, so by four times that a lane.
        let sought = first.wrapping_sub(step.wrapping_mul(phase as u32));
        let is_found = |lane: usize, number: &[u8; 4]| {
            let moved = step.wrapping_mul(4).wrapping_mul(lane as u32);
            u32::from_le_bytes(*number).wrapping_add(moved).wrapping_sub(sought) < len
        };
        let any = lanes
            .iter()
            .enumerate()
            .fold(0_u32, |any, (lane, number)| any | u32::from(is_found(lane, number)));
        if any == 0 {
            continue;
        }
        for (lane, number) in lanes.iter().enumerate() {
            if is_found(lane, number) {
                found(phase + lane * 4);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_number_is_found_once() {
        for at in [0, 1, 2, 3, BLOCK - 4, BLOCK - 3, BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5] {
            let mut bytes = vec![0x11; 2 * BLOCK + 9];
            bytes[at..at + 4].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
            let mut found = Vec::new();
            numbers(&bytes, 0, 0x1234_5678, 1, |at| found.push(at));
            assert_eq!(found, [at]);
        }
    }

    #[test]
    fn numbers_are_found_as_by_looking_at_each() {
        let mut state = 0x9e37_79b9_u32;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        // As in code, some bytes are common.
        let bytes: Vec<u8> =
            (0..BLOCK + 77).map(|_| if random() % 4 == 0 { 0x12 } else { random() as u8 & 0x13 }).collect();
        for (first, len) in [
            (0, 0x8000),
            (0x1200, 0x2000),
            (0x1212_0000, 0x300),
            (0x1211_ff00, 0x2_0000),
            (0xffff_f000, 0x2000),
        ] {
            for step in [0, 1] {
                let is_sought = |&(at, number): &(usize, &[u8])| {
                    let number = u32::from_le_bytes(number.try_into().unwrap());
                    number.wrapping_add(step * at as u32).wrapping_sub(first) < len
                };
                let mut expected: Vec<_> =
                    bytes.windows(4).enumerate().filter(is_sought).map(|(at, _)| at).collect();
                let mut found = Vec::new();
                numbers(&bytes, step, first.into(), len.into(), |at| found.push(at));
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected, "{first:#x}, {len:#x}, {step}");
                assert!(!found.is_empty(), "{first:#x}, {len:#x}, {step}");
            }
        }
    }

    #[test]
    fn every_operand_is_found_once() {
        const SIZE: usize = 200;
        let all = |bytes: &[u8]| {
            let [mut at_once, mut one_by_one] = [Vec::new(), Vec::new()];
            operands(bytes, |at, operand| at_once.push((at, operand)));
            operands_by(None, bytes, |at, operand| one_by_one.push((at, operand)));
            assert_eq!(at_once, one_by_one);
            at_once
        };
        for at in 3..SIZE - 4 {
            for entry in Entry::ALL {
                let mut bytes = vec![0x90; SIZE];
                bytes[at..at + 4].copy_from_slice(&(entry.address() as u32).to_le_bytes());
                assert_eq!(all(&bytes), [(at, Operand::Immediate)], "{entry}");
                bytes[at - 3..at].copy_from_slice(&[0x48, 0x81, 0xee]);
                let subtrahend = entry.address().wrapping_neg() as u32;
                bytes[at..at + 4].copy_from_slice(&subtrahend.to_le_bytes());
                assert_eq!(all(&bytes), [(at, Operand::Subtrahend)], "{entry}");
            }
        }
        assert_eq!(all(&[0, 12, 0x60, 0xff, 0, 0, 0xa0, 0]), []);
        // Ones that begin behind half of one.
        assert_eq!(all(&[0, 0xa0, 0x48, 0x2d, 0, 0, 0xa0, 0]), [(4, Operand::Subtrahend)]);
        assert_eq!(all(&[0xfc, 0x9f, 0, 0, 0x60, 0xff]), [(2, Operand::Immediate)]);
    }

    #[test]
    fn every_branch_to_an_entry_is_found_once() {
        for at in [1, 2, 3, 4, 77, BLOCK - 4, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 5] {
            for entry in Entry::ALL {
                let (mut bytes, start) = (vec![0x90; 3 * BLOCK], Vaddr(0x40_0000));
                let displacement = entry.address().wrapping_sub(start.0 + at as u64 + 4) as u32;
                bytes[at - 1] = 0xe8;
                bytes[at..at + 4].copy_from_slice(&displacement.to_le_bytes());
                let mut found = Vec::new();
                branches_to_page(&bytes, start, |at| found.push(at));
                assert_eq!(found, [at], "{entry}");
            }
        }
    }

    #[test]
    fn a_displacement_counts_from_the_end_of_its_instruction() {
        let mut bytes = vec![0; 64];
        bytes[10..14].copy_from_slice(&(-14_i32).to_le_bytes());
        let mut found = Vec::new();
        relative(&bytes, Vaddr(0x40_0000), 0x40_0000, 1, |at| found.push(at));
        assert_eq!(found, [10]);
    }
}
