//! Byte searches over segments, read-only ones, too: constant tables of pointers lie there. They decide
//! whether a file is worth decoding, and find what may refer to an address; nothing here decides what the bytes mean.

use std::ops::Range;

use crate::addr::{FileOffset, Vaddr, VaddrRange};
use crate::elf::{self, FileType, Image, Segment};
use crate::memory::{self, Lanes, STRETCH, Work};
use crate::vsyscall::{ENTRY_STRIDE, Entry, PAGE};

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
    for segment in &elf::without(&image.segments, &image.runtime_tables()) {
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
    let part = |from: usize, len: usize| bytes.get(from..bytes.len().min(from + len)).unwrap_or_default();
    (0..bytes.len()).step_by(BLOCK).all(|at| {
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
        let start = segment.range.start.plus(from);
        let may_branch = file_type == FileType::Exec && start.0 <= u64::from(u32::MAX);
        operands_and_branches(bytes, may_branch.then_some(start), |at, what| {
            let (offset, vaddr) = place(at);
            hits.push(match what {
                Operand::Immediate => Hit::Immediate(offset, vaddr),
                Operand::Subtrahend => Hit::Subtrahend(offset, vaddr),
                Operand::Branch => Hit::Branch(offset, vaddr),
            });
        });
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
    /// The displacement of a branch to an entry.
    Branch,
}

/// Calls `found` with each index where the four bytes of an operand start, those of branches to an entry where it is known
/// at which address `bytes` stand.
fn operands_and_branches(bytes: &[u8], start: Option<Vaddr>, mut found: impl FnMut(usize, Operand)) {
    let sought = start.map(|start| Sought::relative(start, PAGE, ENTRY_STRIDE * 2 + 1));
    let halves = sought.and_then(|sought| sought.rare_upper_halves(&(0..bytes.len())));
    let Some(start) = start else { return operands(bytes, found) };
    let Some(halves) = halves else {
        operands(bytes, &mut found);
        return branches_to_page(bytes, start, |at| found(at, Operand::Branch));
    };
    fours(bytes, Either(OfOperand, halves), |at| {
        if let Some(operand) = operand_at(bytes, at) {
            found(at, operand);
        }
        if is_branch_to_page(bytes, start, at) {
            found(at, Operand::Branch);
        }
    });
}

/// Calls `found` with each index where the four bytes of an operand start.
fn operands(bytes: &[u8], mut found: impl FnMut(usize, Operand)) {
    fours(bytes, OfOperand, |at| {
        if let Some(operand) = operand_at(bytes, at) {
            found(at, operand);
        }
    });
}

/// `00 __ 60 ff`, `00 __ 9f 00` or `00 __ a0 00`, as every operand is. The fourth byte is 0 or -1, and the exclusive or of it
/// and the third `9f` or `a0`.
#[derive(Clone, Copy)]
struct OfOperand;

impl Test for OfOperand {
    #[inline(always)]
    fn of<L: Lanes>(self, first: L, third: L, fourth: L) -> L {
        let third = third.xor(fourth).plus(L::all(0x9f_u8.wrapping_neg()));
        third.or(fourth.plus(L::all(1))).and(L::all(!1)).or(first)
    }
}

/// `00 __ 60 ff`, as every pointer to an entry begins.
#[derive(Clone, Copy)]
struct OfWord;

impl Test for OfWord {
    #[inline(always)]
    fn of<L: Lanes>(self, first: L, third: L, fourth: L) -> L {
        first.or(third.xor(L::all(0x60))).or(fourth.xor(L::all(0xff)))
    }
}

/// What one of two tests is for.
#[derive(Clone, Copy)]
struct Either<A, B>(A, B);

impl<A: Test, B: Test> Test for Either<A, B> {
    #[inline(always)]
    fn of<L: Lanes>(self, first: L, third: L, fourth: L) -> L {
        self.0.of(first, third, fourth).min(self.1.of(first, third, fourth))
    }
}

/// What the four bytes at index `at` are as an operand, with the begin of its instruction before it where that tells.
fn operand_at(bytes: &[u8], at: usize) -> Option<Operand> {
    match bytes[at..] {
        [0, 0 | 4 | 8, 0x60, 0xff, ..] => Some(Operand::Immediate),
        [0, 0, 0xa0, 0, ..] | [0, 0xf8 | 0xfc, 0x9f, 0, ..] => {
            let is_subtracted =
                matches!(bytes[..at], [.., 0x48, 0x2d] | [.., 0x48 | 0x49, 0x81, 0xe8..=0xef]);
            is_subtracted.then_some(Operand::Subtrahend)
        }
        _ => None,
    }
}

/// Calls `found` with each index where the eight bytes of an entry's address start.
fn words(bytes: &[u8], mut found: impl FnMut(usize, Entry)) {
    fours(bytes, OfWord, |at| {
        if let Some(word) = bytes[at..].first_chunk()
            && let Some(entry) = Entry::at(u64::from_le_bytes(*word))
        {
            found(at, entry);
        }
    });
}

/// A test of the first, third and fourth of four bytes, which makes 0 of those that are sought.
trait Test: Copy {
    fn of<L: Lanes>(self, first: L, third: L, fourth: L) -> L;
}

/// Calls `found` with each index where four bytes begin that `test` makes 0 of. Goes as fast as memory gives, which libraries'
/// searches for several needles do not.
fn fours(bytes: &[u8], test: impl Test, found: impl FnMut(usize)) {
    memory::with_widest(Fours { bytes, test, found });
}

struct Fours<'b, T, F> {
    bytes: &'b [u8],
    test: T,
    found: F,
}

impl<T: Test, F: FnMut(usize)> Work for Fours<'_, T, F> {
    #[inline(always)]
    fn with<L: Lanes>(self) {
        let Self { bytes, test, mut found } = self;
        let mut each = |from: usize, strip: &[u8]| {
            for (index, four) in strip.windows(4).enumerate() {
                if test.of(four[0], four[2], four[3]) == 0 {
                    found(from + index);
                }
            }
        };
        // From the second strip on they begin with lines of memory.
        let mut at = bytes.as_ptr().align_offset(STRIP_OF_FOURS).min(bytes.len());
        match bytes.first_chunk() {
            Some(strip) if !may_hold::<L>(test, strip) => {}
            _ => each(0, &bytes[..bytes.len().min(at + 3)]),
        }
        while let Some(strip) = bytes[at..].first_chunk() {
            if may_hold::<L>(test, strip) {
                each(at, strip);
            }
            at += STRIP_OF_FOURS;
        }
        // What is left is the end of a strip, too, where there is as much.
        match bytes.last_chunk() {
            Some(strip) if !may_hold::<L>(test, strip) => {}
            _ => each(at, &bytes[at..]),
        }
    }
}

/// Whether four bytes that `test` makes 0 of begin in one of the strip, which three bytes of the next one follow. Without
/// closures: where compilers make functions of these, the registers do not reach them.
#[inline(always)]
fn may_hold<L: Lanes>(test: impl Test, strip: &[u8; STRIP_OF_FOURS + 3]) -> bool {
    let mut least = L::all(u8::MAX);
    for at in (0..STRIP_OF_FOURS).step_by(L::COUNT) {
        let (first, third, fourth) = (L::of(&strip[at..]), L::of(&strip[at + 2..]), L::of(&strip[at + 3..]));
        least = least.min(test.of(first, third, fourth));
    }
    least.any_is_zero()
}

/// Bytes that are tested at a time: a line of memory.
const STRIP_OF_FOURS: usize = 64;

/// Calls `search` with each stretch of `bytes`, and where it begins, three bytes of the next one included: a four byte number
/// begins in one of them. What was searched leaves memory, but for the last: it may be wanted again.
fn stretches<'b>(bytes: &'b [u8], mut search: impl FnMut(usize, &'b [u8])) {
    for from in (0..bytes.len()).step_by(STRETCH) {
        memory::searched(&bytes[from.saturating_sub(STRETCH)..from]);
        search(from, &bytes[from..bytes.len().min(from + STRETCH + 3)]);
    }
}

/// Calls `found` with the index in `bytes` of each displacement that leads to an entry, read as that of a `call`, `jmp` or
/// conditional jump; `start` is the address of `bytes`.
fn branches_to_page(bytes: &[u8], start: Vaddr, mut found: impl FnMut(usize)) {
    numbers(bytes, Sought::relative(start, PAGE, ENTRY_STRIDE * 2 + 1), |at| {
        if is_branch_to_page(bytes, start, at) {
            found(at);
        }
    });
}

/// Whether the four bytes at index `at` are such a displacement.
fn is_branch_to_page(bytes: &[u8], start: Vaddr, at: usize) -> bool {
    matches!(bytes[..at], [.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f])
        && Entry::at(relative_target(bytes, start, at)).is_some()
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
pub fn relative_references(image: &Image<'_>, targets: VaddrRange, found: impl FnMut(Vaddr)) -> bool {
    let executable = image.segments.iter().filter(|segment| segment.executable);
    let executable: Vec<VaddrRange> = executable.map(|segment| segment.range).collect();
    relative_references_in(image, &executable, targets, found)
}

/// [`relative_references`] in `parts`, each of one segment.
#[must_use]
pub fn relative_references_in(
    image: &Image<'_>,
    parts: &[VaddrRange],
    targets: VaddrRange,
    mut found: impl FnMut(Vaddr),
) -> bool {
    /// What a part costs besides its bytes, in bytes.
    const PART: usize = 256;
    let mut first = parts.first().map_or(Vaddr(0), |part| part.start);
    for part in parts {
        // What was searched leaves memory, where parts are small, too.
        if part.start.0.saturating_sub(first.0) >= STRETCH as u64 {
            let bytes = image.bytes_at(first).unwrap_or_default();
            memory::searched(&bytes[..bytes.len().min((part.start.0 - first.0) as usize)]);
            first = part.start;
        }
        let bytes = image.bytes_at(part.start).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(part.len() as usize)];
        if !image.may_search(bytes.len().saturating_add(PART)) {
            return false;
        }
        stretches(bytes, |from, bytes| {
            let start = part.start.plus(from as u64);
            numbers(bytes, Sought::relative(start, targets.start.0, targets.len()), |at| {
                if targets.contains(Vaddr(relative_target(bytes, start, at))) {
                    found(start.plus(at as u64));
                }
            });
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
        stretches(bytes, |from, bytes| {
            numbers(bytes, Sought::new(0, targets.start.0, targets.len()), |at| {
                let number = bytes[at..].first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
                if targets.contains(Vaddr(i64::from(number).cast_unsigned())) {
                    found(segment.range.start.plus((from + at) as u64));
                }
            });
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
        stretches(bytes, |from, stretch| {
            let sought = Sought::new(0, targets.start.0.wrapping_sub(table.0), targets.len());
            numbers(stretch, sought, |at| {
                let at = from + at;
                let distance = bytes[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                let is_loaded = matches!(bytes[..at], [.., 0x48 | 0x49, 0xb8..=0xbf]);
                let leads = |distance: u64| targets.contains(Vaddr(table.0.wrapping_add(distance)));
                if is_loaded && distance.is_some_and(leads) {
                    found(segment.range.start.plus(at as u64));
                }
            });
        });
    }
    true
}

/// Numbers that are sought: those at an index `i` for which `number(i) + step * i` lies in `first .. first + len`, all modulo
/// 2^32, where `number(i)` is the little-endian 32-bit number at `i`.
#[derive(Clone, Copy)]
struct Sought {
    step: u32,
    first: u32,
    len: u32,
}

impl Sought {
    fn new(step: u32, first: u64, len: u64) -> Self {
        Self { step, first: first as u32, len: u32::try_from(len).unwrap_or(u32::MAX) }
    }

    /// Displacements that lead to `target` and the `len - 1` bytes behind it, in bytes that stand at `start`.
    fn relative(start: Vaddr, target: u64, len: u64) -> Self {
        Self::new(1, target.wrapping_sub(start.0.wrapping_add(4)), len)
    }

    /// The lowest of the numbers that are sought at the indices `range`, and how many from it on. What is sought moves by
    /// `step` a byte.
    fn numbers(self, range: &Range<usize>) -> (u32, u64) {
        let lowest = self.first.wrapping_sub(self.step.wrapping_mul((range.end - 1) as u32));
        (lowest, u64::from(self.step * (range.end - 1 - range.start) as u32) + u64::from(self.len))
    }

    /// The upper halves of the numbers that are sought at the indices `range`, if these are at most two, and none that is
    /// everywhere in code.
    fn rare_upper_halves(self, range: &Range<usize>) -> Option<Halves> {
        let (lowest, count) = self.numbers(range);
        let (first, last) = (lowest >> 16, (u64::from(lowest) + count.saturating_sub(1)) >> 16);
        let halves = [first as u16, last as u16];
        let are_rare = halves.iter().all(|&half| !matches!(half, 0 | u16::MAX));
        let are_few = last - u64::from(first) <= 1;
        (are_few && are_rare).then(|| Halves(halves.map(u16::to_le_bytes)))
    }

    /// Whether one stands at index `at` of `bytes`.
    fn is_at(self, bytes: &[u8], at: usize) -> bool {
        let moved = self.step.wrapping_mul(at as u32).wrapping_sub(self.first);
        let number = bytes[at..].first_chunk().map(|number| u32::from_le_bytes(*number));
        number.is_some_and(|number| number.wrapping_add(moved) < self.len)
    }
}

/// Two upper halves of numbers, which may be the same.
#[derive(Clone, Copy)]
struct Halves([[u8; 2]; 2]);

impl Test for Halves {
    #[inline(always)]
    fn of<L: Lanes>(self, _: L, third: L, fourth: L) -> L {
        let half = |[low, high]: [u8; 2]| third.xor(L::all(low)).or(fourth.xor(L::all(high)));
        half(self.0[0]).min(half(self.0[1]))
    }
}

/// Calls `found` with each index of `bytes` where a number stands that is `sought`.
fn numbers(bytes: &[u8], sought: Sought, mut found: impl FnMut(usize)) {
    // The blocks of a larger search fit in, with their overlap.
    for block in (0..bytes.len()).step_by(2 * BLOCK).map(|start| start..bytes.len().min(start + 2 * BLOCK)) {
        if let Some(halves) = sought.rare_upper_halves(&block) {
            let within = &bytes[block.start..bytes.len().min(block.end + 3)];
            fours(within, halves, |at| {
                if sought.is_at(bytes, block.start + at) {
                    found(block.start + at);
                }
            });
            continue;
        }
        for from in block.clone().step_by(STRIP) {
            let to = block.end.min(from + STRIP);
            let strip = &bytes[from..bytes.len().min(to + 3)];
            let (lowest, count) = sought.numbers(&(from..to));
            if may_hold_number(strip, lowest, count) {
                let moves = sought.step * (to - 1 - from) as u32;
                let first = lowest.wrapping_add(moves);
                numbers_in_strip(strip, Sought { first, ..sought }, |at| found(from + at));
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
fn numbers_in_strip(strip: &[u8], sought: Sought, mut found: impl FnMut(usize)) {
    let Sought { step, first, len } = sought;
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
        for at in
            [0, 1, 2, 3, BLOCK - 1, 2 * BLOCK - 4, 2 * BLOCK - 3, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 5]
        {
            let mut bytes = vec![0x11; 2 * BLOCK + 9];
            bytes[at..at + 4].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
            let mut found = Vec::new();
            numbers(&bytes, Sought::new(0, 0x1234_5678, 1), |at| found.push(at));
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
                numbers(&bytes, Sought::new(step, first.into(), len.into()), |at| found.push(at));
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected, "{first:#x}, {len:#x}, {step}");
                assert!(!found.is_empty(), "{first:#x}, {len:#x}, {step}");
            }
        }
    }

    #[test]
    fn operands_and_words_are_found_as_by_looking_at_each() {
        let mut state = 0x9e37_79b9_u32;
        // Hardly anything but what they are made of.
        const OFTEN: [u8; 16] =
            [0, 0, 0, 4, 8, 0x60, 0xff, 0xff, 0xa0, 0x9f, 0xfc, 0xf8, 0x48, 0x2d, 0x81, 0xee];
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            OFTEN[state as usize % OFTEN.len()]
        };
        let mut counts = [0; 3];
        for len in (0..600).chain([100_000]) {
            let mut bytes: Vec<u8> = (0..len).map(|_| random()).collect();
            if len > 50 {
                let address = Entry::ALL[len % 3].address();
                bytes[len / 3..][..8].copy_from_slice(&address.to_le_bytes());
                bytes[len / 2..][..3].copy_from_slice(&[0x49, 0x81, 0xe8 + (len % 8) as u8]);
                bytes[len / 2 + 3..][..4].copy_from_slice(&(address.wrapping_neg() as u32).to_le_bytes());
            }
            let four = |at: usize| bytes[at..].first_chunk().map(|four| u32::from_le_bytes(*four));
            let is = |at: usize, number: u64| four(at) == Some(number as u32);
            let begins = |at: usize, with: &[&[u8]]| with.iter().any(|with| bytes[..at].ends_with(with));
            let mut expected = Vec::new();
            for at in 0..len {
                let is_begun = begins(at, &[&[0x48, 0x2d]])
                    || at > 0
                        && bytes[at - 1] & 0xf8 == 0xe8
                        && begins(at - 1, &[&[0x48, 0x81], &[0x49, 0x81]]);
                if Entry::ALL.iter().any(|entry| is(at, entry.address())) {
                    expected.push((at, Operand::Immediate));
                } else if is_begun && Entry::ALL.iter().any(|entry| is(at, entry.address().wrapping_neg())) {
                    expected.push((at, Operand::Subtrahend));
                }
            }
            let mut found = Vec::new();
            operands(&bytes, |at, operand| found.push((at, operand)));
            assert_eq!(found, expected, "{bytes:x?}");
            for (_, operand) in found {
                counts[usize::from(operand == Operand::Subtrahend)] += 1;
            }
            let is_word = |at: &usize| {
                let word = bytes[*at..].first_chunk().map(|word| u64::from_le_bytes(*word));
                Entry::ALL.iter().any(|entry| word == Some(entry.address()))
            };
            let mut found = Vec::new();
            words(&bytes, |at, _| found.push(at));
            assert_eq!(found, (0..len).filter(is_word).collect::<Vec<_>>(), "{bytes:x?}");
            counts[2] += found.len();
        }
        assert!(counts.iter().all(|&count| count > 500), "{counts:?}");
    }

    #[test]
    fn registers_of_all_widths_find_the_same() {
        fn by<L: Lanes>(bytes: &[u8], test: impl Test) -> Vec<usize> {
            let mut all = Vec::new();
            Fours { bytes, test, found: |at| all.push(at) }.with::<L>();
            all
        }
        let bytes: Vec<u8> = (0..70_000_u32).map(|at| (at.wrapping_mul(at) >> 5) as u8 & 0x61).collect();
        let halves = Halves([[0x41, 0x60], [0x21, 0x20]]);
        // At all places of a line of memory they end and begin.
        let ends = (0..300).chain([bytes.len()]).map(|end| 0..end);
        let begins = (0..64).flat_map(|begin| [66, 130, 194].map(|len| begin..begin + len));
        for part in ends.chain(begins) {
            let (bytes, len) = (&bytes[part.clone()], part.len());
            let one_by_one = by::<u8>(bytes, halves);
            let is_it = |four: &[u8]| halves.0.iter().any(|half| half[..] == four[2..]);
            let expected = bytes.windows(4).enumerate().filter(|(_, four)| is_it(four)).map(|(at, _)| at);
            assert_eq!(one_by_one, expected.collect::<Vec<_>>(), "{len}");
            assert!(len < 100 || !one_by_one.is_empty(), "{len}");
            let mut widest = Vec::new();
            fours(bytes, halves, |at| widest.push(at));
            assert_eq!(widest, one_by_one, "{len}");
            #[cfg(target_arch = "x86_64")]
            assert_eq!(by::<std::arch::x86_64::__m128i>(bytes, halves), one_by_one, "{len}");
        }
    }

    #[test]
    fn every_operand_is_found_once() {
        const SIZE: usize = 400;
        let all = |bytes: &[u8]| {
            let mut all = Vec::new();
            operands(bytes, |at, operand| all.push((at, operand)));
            all
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
                // Together with operands, in blocks and at once.
                bytes[at - 1] = 0xe8;
                let blocks = [&bytes[..], &bytes[at.saturating_sub(1000)..bytes.len().min(at + 1000)]];
                for block in blocks {
                    let from = block.as_ptr().addr() - bytes.as_ptr().addr();
                    let mut found = Vec::new();
                    operands_and_branches(block, Some(start.plus(from as u64)), |at, what| {
                        found.push((from + at, what));
                    });
                    assert_eq!(found, [(at, Operand::Branch)], "{entry}");
                }
            }
        }
    }

    #[test]
    fn a_displacement_counts_from_the_end_of_its_instruction() {
        let mut bytes = vec![0; 64];
        bytes[10..14].copy_from_slice(&(-14_i32).to_le_bytes());
        let mut found = Vec::new();
        numbers(&bytes, Sought::relative(Vaddr(0x40_0000), 0x40_0000, 1), |at| found.push(at));
        assert_eq!(found, [10]);
    }
}
