//! What an edit may stand in the place of: a record whose edits fit the file is not the record of a patch where they
//! replace anything else.

use crate::addr::Vaddr;
use crate::code;
use crate::plan::{Edit, Role, Strategy};
use crate::vsyscall::Entry;

/// Whether the bytes before `edit`, one of `edits` by offset, are such as its role replaces.
pub(super) fn may_be_replaced(edit: &Edit, edits: &[Edit]) -> bool {
    match (edit.role, edit.strategy) {
        (Role::Stub | Role::Detour | Role::Guard, _) => is_unused(edit, edits),
        (Role::Call, Strategy::InPlace) => is_one_call(edit),
        (Role::Constant, Strategy::InPlace) => holds(edit, [edit.entry.address() as u32]),
        (Role::Pointer, _) => edit.before == edit.entry.address().to_le_bytes(),
        (Role::Constant, Strategy::Stub | Strategy::Vdso) => {
            holds_entry(edit) || leads_to_entry(edit) || reads_memory(edit)
        }
        // What a guard does is held against the bytes before; headers and the page against what they have to be.
        (Role::Call, Strategy::Stub | Strategy::Vdso)
        | (Role::Header | Role::Page | Role::Pointers | Role::Init | Role::Fill, _) => true,
    }
}

/// Nothing runs there: padding, and what another edit right before left of the instructions that it replaces.
fn is_unused(edit: &Edit, edits: &[Edit]) -> bool {
    let mut bytes = edit.before.clone();
    let mut start = edit.offset.0;
    for other in edits.iter().rev().skip_while(|other| other.offset >= edit.offset) {
        if other.offset.0 + other.before.len() as u64 != start {
            break;
        }
        start = other.offset.0;
        bytes.splice(0..0, other.before.iter().copied());
    }
    let own = bytes.len() - edit.before.len();
    let is_begun = |at: Vaddr| at.0 < own as u64;
    let first = code::instructions(&bytes, Vaddr(0)).filter(|(at, ..)| is_begun(*at)).last();
    let first = first.map_or(0, |(at, instruction, _)| at.0 as usize + instruction.len());
    bytes.get(first.max(own)..).is_some_and(code::are_padding)
}

/// One call, jump or return, and what fills the rest.
fn is_one_call(edit: &Edit) -> bool {
    let lines = code::assembly(&edit.before, at(edit));
    let is_call = |line: &str| ["call", "jmp", "ret"].iter().any(|word| line.contains(word));
    lines.len() == 1 && is_call(&lines[0])
}

/// An address of an entry in 32 bits, as it is or negated: an index may lead from one to another.
fn holds_entry(edit: &Edit) -> bool {
    let addresses = Entry::ALL.map(|entry| entry.address() as u32);
    holds(edit, addresses.into_iter().flat_map(|address| [address, address.wrapping_neg()]))
}

fn holds(edit: &Edit, numbers: impl IntoIterator<Item = u32>) -> bool {
    let mut numbers = numbers.into_iter().map(u32::to_le_bytes);
    numbers.any(|number| edit.before.windows(number.len()).any(|bytes| bytes == number))
}

fn leads_to_entry(edit: &Edit) -> bool {
    code::refers_to(&edit.before, at(edit)) == Some(Vaddr(edit.entry.address()))
}

/// A load of a pointer, or a call through one.
fn reads_memory(edit: &Edit) -> bool {
    let lines = code::assembly(&edit.before, at(edit));
    let is_read = |line: &str| {
        let source = line.split_once(' ').map_or("", |(_, operands)| operands);
        let source = source.trim_start_matches('*');
        !source.starts_with(['%', '$']) && ["mov", "call", "jmp"].iter().any(|word| line.contains(word))
    };
    lines.len() == 1 && is_read(&lines[0])
}

fn at(edit: &Edit) -> Vaddr {
    edit.vaddr.unwrap_or(Vaddr(0))
}
