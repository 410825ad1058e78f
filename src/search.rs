//! Byte searches over whole segments, read-only ones, too: constant tables of pointers lie there. They decide
//! whether a file is worth decoding, and find what may refer to an address; nothing here decides what the bytes mean.

use memchr::memmem;

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::elf::{FileType, Image, Segment};
use crate::memory;
use crate::vsyscall::{ENTRY_STRIDE, Entry, PAGE};

/// The bytes that every address of the page ends in, as a pointer.
const WORD_TAIL: [u8; 6] = [0x60, 0xff, 0xff, 0xff, 0xff, 0xff];

/// Bytes searched at a time: they stay in the first-level cache over the passes of a search.
const BLOCK: usize = 32 << 10;

/// Bytes after which those that were searched need not stay in memory.
const STRETCH: usize = 32 * BLOCK;

/// Something that looks like an entry's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// Four bytes in an executable segment: perhaps an immediate or displacement.
    Immediate(FileOffset, Vaddr),
    /// The number subtracted by an instruction that may compute the page's address.
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
        let bytes = image.segment_bytes(segment);
        for from in (0..bytes.len()).step_by(STRETCH) {
            let stretch = &bytes[from.saturating_sub(OVERLAP)..bytes.len().min(from + STRETCH)];
            hits_in(
                image.identity.file_type,
                segment,
                from.saturating_sub(OVERLAP) as u64,
                stretch,
                &mut hits,
            );
            memory::searched(stretch);
        }
    }
    hits.sort_unstable();
    hits.dedup();
    hits
}

/// Bytes of a segment that a stream of blocks repeats from the block before: a pointer less one byte.
pub const OVERLAP: usize = 7;

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
        if file_type == FileType::Exec {
            branches_to_page(bytes, segment.range.start.plus(from), |at| {
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
    /// What `sub $0xa00000,%r64` subtracts: gcc's way to add the page's address, which is `-0xa00000`.
    Subtrahend,
}

/// Calls `found` with each index where the four bytes of such an operand start: `00 {00,04,08} 60 ff`, or
/// `00 00 a0 00` behind the instruction's first bytes.
fn operands(bytes: &[u8], mut found: impl FnMut(usize, Operand)) {
    for tail in memmem::find_iter(bytes, &[0x60, 0xff]) {
        if let Some(at) = tail.checked_sub(2)
            && matches!(bytes[at..tail], [0, 0 | 4 | 8])
        {
            found(at, Operand::Immediate);
        }
    }
    // Without the first byte: two that follow each other can share it.
    for tail in memmem::find_iter(bytes, &[0, 0xa0, 0]) {
        let start = tail.checked_sub(4).and_then(|start| bytes.get(start..tail));
        if let Some([before @ .., 0]) = start
            && matches!(before, [_, 0x48, 0x2d] | [0x48 | 0x49, 0x81, 0xe8..=0xef])
        {
            found(tail - 1, Operand::Subtrahend);
        }
    }
}

/// Calls `found` with each index where the eight bytes of an entry's address start.
fn words(bytes: &[u8], mut found: impl FnMut(usize, Entry)) {
    for tail in memmem::find_iter(bytes, &WORD_TAIL) {
        if let Some(at) = tail.checked_sub(2)
            && let Some(word) = bytes[at..].first_chunk::<8>()
            && let Some(entry) = Entry::at(u64::from_le_bytes(*word))
        {
            found(at, entry);
        }
    }
}

/// Calls `found` with the index of each displacement that leads to an entry, read as `call rel32`.
fn branches_to_page(bytes: &[u8], start: Vaddr, mut found: impl FnMut(usize)) {
    if start.0 > u64::from(u32::MAX) {
        return;
    }
    for block_start in (0..bytes.len()).step_by(BLOCK) {
        let block = &bytes[block_start..bytes.len().min(block_start + BLOCK + 3)];
        let block_vaddr = start.plus(block_start as u64);
        if !may_branch_to_page(block, block_vaddr) {
            continue;
        }
        relative(block, block_vaddr, PAGE, ENTRY_STRIDE * 2 + 1, |at| {
            let opcode = (block_start + at).checked_sub(1).map(|before| bytes[before]);
            if matches!(opcode, Some(0xe8 | 0xe9))
                && Entry::at(relative_target(block, block_vaddr, at)).is_some()
            {
                found(block_start + at);
            }
        });
    }
}

/// Whether `block` has the upper half of a displacement that leads into the page: a quick test, since over
/// a block these halves differ by one at most.
fn may_branch_to_page(block: &[u8], start: Vaddr) -> bool {
    let first = (PAGE as u32).wrapping_sub((start.0 as u32).wrapping_add(4));
    let lowest = (first.wrapping_sub(BLOCK as u32) >> 16) as u16;
    let highest = (first.wrapping_add(ENTRY_STRIDE as u32 * 2) >> 16) as u16;
    let span = highest.wrapping_sub(lowest);
    (0..=span).any(|step| memmem::find(block, &lowest.wrapping_add(step).to_le_bytes()).is_some())
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
    for block_start in (0..bytes.len()).step_by(BLOCK) {
        if block_start > 0 && block_start.is_multiple_of(STRETCH) {
            memory::searched(&bytes[block_start - STRETCH..block_start]);
        }
        let block_end = bytes.len().min(block_start + BLOCK);
        for from in (block_start..block_end).step_by(STRIP) {
            let to = block_end.min(from + STRIP);
            let strip = &bytes[from..bytes.len().min(to + 3)];
            // What is sought moves by `step` a byte.
            let lowest = first.wrapping_sub(step.wrapping_mul((to - 1) as u32));
            let moves = step * (to - 1 - from) as u32;
            if may_hold_number(strip, lowest, u64::from(moves) + u64::from(len)) {
                numbers_in_strip(strip, step, lowest.wrapping_add(moves), len, |at| found(from + at));
            }
        }
    }
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
    fn every_operand_is_found_once() {
        let subtraction = [0x48, 0x81, 0xee, 0, 0, 0xa0, 0];
        const SIZE: usize = 200;
        for at in 3..SIZE - 4 {
            for low in [0, 4, 8] {
                let mut bytes = vec![0x90; SIZE];
                bytes[at..at + 4].copy_from_slice(&[0, low, 0x60, 0xff]);
                let mut found = Vec::new();
                operands(&bytes, |at, operand| found.push((at, operand)));
                assert_eq!(found, [(at, Operand::Immediate)]);
            }
            let mut bytes = vec![0x90; SIZE];
            bytes[at - 3..at + 4].copy_from_slice(&subtraction);
            let mut found = Vec::new();
            operands(&bytes, |at, operand| found.push((at, operand)));
            assert_eq!(found, [(at, Operand::Subtrahend)]);
        }
        operands(&[0, 12, 0x60, 0xff, 0, 0, 0xa0, 0], |at, _| panic!("nothing at {at}"));
        // One that ends where half of one begins.
        let mut found = Vec::new();
        operands(&[0, 0xa0, 0x48, 0x2d, 0, 0, 0xa0, 0], |at, _| found.push(at));
        assert_eq!(found, [4]);
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
