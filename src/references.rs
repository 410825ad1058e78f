//! What may lead into a range of code, besides falling into it: branches, addresses taken, pointers.
//! For code that must not be entered unseen: between a constant and its call, and where a stub goes.

use iced_x86::Instruction;

use crate::addr::{Vaddr, VaddrRange};
use crate::code::{self, Function};
use crate::elf::{FileType, Image};
use crate::functions::Functions;
use crate::search;
use crate::vsyscall::Entry;

/// Bytes from the end of a short branch to its target, at most.
const SHORT_REACH: u64 = 128;

/// Whether anything may lead into `range`. The direct branches of `own`, the decoded function around it, are
/// known to the data flow and do not count; what stands in `range` itself does not count either.
pub(crate) fn may_lead_into(
    image: &Image<'_>,
    functions: &Functions<'_>,
    own: Option<&Function<'_>>,
    range: VaddrRange,
) -> bool {
    let counts = |at: Vaddr| !range.contains(at) && !is_accounted_for(image, own, at);
    let mut leads = false;
    // The zeros of a long nop would lead right behind themselves.
    let by_displacement = search::relative_references(image, range, |at| {
        leads |= counts(at) && image.may_be_code(at) && code::may_be_displacement(image, at);
    });
    let by_pointer = leads
        || search::absolute_references(image, range, |at| leads |= counts(at) && may_be_pointer(image, at));
    let by_distance =
        leads || search::table_references(image, range, |at| leads |= counts(at) && image.may_be_code(at));
    leads |= !(by_displacement && by_pointer && by_distance);
    leads || is_near_branched_to(image, functions, own, range)
}

/// Whether the number at `at` stands in `own` and leads nowhere there: the displacement of a direct branch,
/// which the data flow follows, or no operand at all.
fn is_accounted_for(image: &Image<'_>, own: Option<&Function<'_>>, at: Vaddr) -> bool {
    let Some(own) = own.filter(|own| own.contains(at)) else { return false };
    own.covering(at).is_some_and(|index| {
        let instruction = &own.instructions[index];
        code::jump_target(instruction).is_some() || !code::has_operand_at(image, instruction, at)
    })
}

/// Whether the number at `at` may be a pointer: anywhere in a file with fixed addresses and where
/// the linker has not been; elsewhere only as what a relocation adds to, which is a whole aligned word.
pub(crate) fn may_be_pointer(image: &Image<'_>, at: Vaddr) -> bool {
    if image.offset_at(at).is_some_and(|offset| image.is_in_headers(offset, 4)) {
        return false;
    }
    let is_word = at.0.is_multiple_of(8) && image.array_at::<4>(at.plus(4)) == Some([0; 4]);
    image.identity.file_type != FileType::Dyn || is_word
}

/// Whether the word at `at` may hold a function when the program starts, or nothing, as words of tables of functions do.
pub(crate) fn may_hold_function(image: &Image<'_>, functions: &Functions<'_>, at: Vaddr) -> bool {
    image.array_at::<8>(at).map(u64::from_le_bytes).is_some_and(|word| {
        word == 0
            || Entry::at(word).is_some()
            || image.may_be_code(Vaddr(word))
            || functions.is_relocated(image, at)
    })
}

/// Whether a short branch of another function leads into `range`.
fn is_near_branched_to(
    image: &Image<'_>,
    functions: &Functions<'_>,
    own: Option<&Function<'_>>,
    range: VaddrRange,
) -> bool {
    let near = VaddrRange {
        start: Vaddr(range.start.0.saturating_sub(SHORT_REACH + 2)),
        end: range.end.plus(SHORT_REACH),
    };
    let leads = |instruction: &Instruction| {
        code::jump_target(instruction).is_some_and(|target| range.contains(target))
    };
    let mut at = near.start;
    while at < near.end {
        if let Some(part) = own.and_then(|own| own.parts.iter().find(|part| part.contains(at))) {
            at = part.end;
            continue;
        }
        let own_start = own.into_iter().flat_map(|own| &own.parts).map(|part| part.start);
        let next = own_start.chain(functions.next_start(at)).filter(|&start| start > at).min();
        let end = next.unwrap_or(near.end).min(near.end);
        // Boundaries are known from a function's first byte on, up to what does not decode.
        let function = functions.extent(image, at).filter(|extent| extent.range.contains(at));
        let instructions = function.map_or_else(Vec::new, |extent| {
            code::sweep(image, VaddrRange { start: extent.range.start, end: extent.range.end.min(end) })
        });
        let known_to = instructions.last().map_or(at, |last| Vaddr(last.next_ip()).max(at));
        if instructions.iter().any(leads)
            || may_branch_short(image, VaddrRange { start: known_to, end }, range)
        {
            return true;
        }
        at = end;
    }
    false
}

/// Whether any bytes in `stretch` are a short branch into `range`, were they an instruction.
fn may_branch_short(image: &Image<'_>, stretch: VaddrRange, range: VaddrRange) -> bool {
    (stretch.start.0..stretch.end.0).map(Vaddr).any(|at| {
        let Some([opcode, distance]) = image.array_at::<2>(at).filter(|_| image.may_be_code(at)) else {
            return false;
        };
        let target = Vaddr(at.plus(2).0.wrapping_add_signed(i64::from(distance.cast_signed())));
        matches!(opcode, 0x70..=0x7f | 0xe0..=0xe3 | 0xeb) && range.contains(target) && !range.contains(at)
    })
}
