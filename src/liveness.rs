//! Backward questions about one function: what may still be read behind an instruction, and what a callee writes.

use iced_x86::{InstructionInfoFactory, Mnemonic, OpAccess, RflagsBits};

use crate::addr::Vaddr;
use crate::code::{self, Function};
use crate::elf::Image;
use crate::limits;
use crate::registers::{Gpr, R11, RCX, gpr, reads, writes};

/// The registers that the function at `entry` may change, a bit each; all where that cannot be told.
pub(crate) fn registers_written(image: &Image<'_>, entry: Vaddr) -> u16 {
    let mut factory = InstructionInfoFactory::new();
    let mut written = 0;
    let mut seen: Vec<u64> = Vec::new();
    let mut work = vec![entry];
    while let Some(at) = work.pop() {
        let mut at = at;
        while !seen.contains(&at.0) {
            let Some(instruction) = code::instruction_at(image, at) else { return u16::MAX };
            if seen.len() == limits::CALLEE_INSTRUCTIONS {
                return u16::MAX;
            }
            seen.push(at.0);
            let is_call =
                matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Syscall | Mnemonic::Int);
            let target = code::jump_target(&instruction);
            let leaves = code::ends_flow(&instruction) && target.is_none();
            if is_call || (leaves && instruction.mnemonic() != Mnemonic::Ret) {
                return u16::MAX;
            }
            for used in factory.info(&instruction).used_registers() {
                if let (Some(number), true) = (gpr(used.register()), writes(used.access())) {
                    written |= 1 << number;
                }
            }
            work.extend(target);
            if code::ends_flow(&instruction) {
                break;
            }
            at = Vaddr(instruction.next_ip());
        }
    }
    written
}

/// Whether code reads `rcx` or `r11` behind the call number `index` before it writes them: a compiler's
/// code never does, since a callee may change them.
pub(crate) fn expects_preserved(function: &Function<'_>, index: usize) -> bool {
    [RCX, R11].into_iter().any(|register| is_live_behind(function, index, register))
}

/// Whether nothing behind instruction number `index` reads the flags before they are written again.
pub(crate) fn flags_are_free(function: &Function<'_>, index: usize) -> bool {
    !flags_are_live_behind(function, index)
}

/// Whether nothing behind instruction number `index` reads `r11`, or the flags that the instruction sets,
/// before they are written again.
pub(crate) fn scratch_is_free(function: &Function<'_>, index: usize) -> bool {
    let sets_flags = function.instructions[index].rflags_modified() != 0;
    let flags_are_read = sets_flags && flags_are_live_behind(function, index);
    !(flags_are_read || is_live_behind(function, index, R11))
}

/// The flags that arithmetic sets and conditions read.
const STATUS_FLAGS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Whether the flags may be read behind instruction number `index`; looks at straight code only.
fn flags_are_live_behind(function: &Function<'_>, index: usize) -> bool {
    let (mut at, mut old) = (index, STATUS_FLAGS);
    while let Some(next) = function.fall_through(at) {
        let instruction = &function.instructions[next];
        if instruction.rflags_read() & old != 0 || code::jump_target(instruction).is_some() {
            return true;
        }
        old &= !instruction.rflags_modified();
        if old == 0 || instruction.mnemonic() == Mnemonic::Call {
            return false;
        }
        at = next;
    }
    !matches!(function.instructions[at].mnemonic(), Mnemonic::Ret | Mnemonic::Jmp)
}

fn is_live_behind(function: &Function<'_>, index: usize, register: Gpr) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let mut seen = vec![false; function.instructions.len()];
    let mut work: Vec<usize> = function.fall_through(index).into_iter().collect();
    while let Some(mut index) = work.pop() {
        while !std::mem::replace(&mut seen[index], true) {
            let instruction = &function.instructions[index];
            if matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Ret | Mnemonic::Syscall) {
                break;
            }
            let mut killed = false;
            for used in factory.info(instruction).used_registers() {
                if gpr(used.register()) == Some(register) {
                    if reads(used.access()) {
                        return true;
                    }
                    killed |= used.access() == OpAccess::Write && used.register().size() >= 4;
                }
            }
            if killed {
                break;
            }
            match code::jump_target(instruction) {
                Some(target) => work.extend(function.landing(target)),
                None if code::ends_flow(instruction) => {
                    work.extend(function.targets(index).inside);
                }
                None => {}
            }
            match function.fall_through(index) {
                Some(next) => index = next,
                None => break,
            }
        }
    }
    false
}
