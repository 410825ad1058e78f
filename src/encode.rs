//! Replacement bytes: what an instruction becomes. Each function documents `before -> after` and gives
//! nothing where the bytes do not have the shape or the room.

use crate::addr::Vaddr;
use crate::registers::Gpr;

/// `nop`, to fill what an instruction leaves over.
pub(crate) const NOP: u8 = 0x90;

/// Bytes of a direct call or jump.
pub(crate) const BRANCH_LEN: u64 = 5;

/// Puts `number` into the immediate of an instruction that sets a whole register or word:
/// ```text
/// mov $entry,%reg      ->  mov $number,%reg
/// movq $entry,mem      ->  movq $number,mem
/// movabs $entry,%reg   ->  movabs $number,%reg
/// ```
/// `at` is the distance of the immediate into the instruction.
pub(crate) fn immediate(before: &[u8], at: usize, number: u32) -> Option<Vec<u8>> {
    let mut after = before.to_vec();
    let field = after.get_mut(at..)?;
    if field.len() == 8 {
        field.fill(0);
    }
    field.first_chunk_mut::<4>()?.copy_from_slice(&number.to_le_bytes());
    Some(after)
}

/// `mov $entry,%reg -> mov $number,%rax`, seven bytes.
pub(crate) fn number_to_rax(before: &[u8], number: u32) -> Option<Vec<u8>> {
    if before.len() != 7 {
        return None;
    }
    let mut after = vec![0x48, 0xc7, 0xc0]; // mov $imm32,%rax
    after.extend(number.to_le_bytes());
    Some(after)
}

/// `call *%reg -> syscall`, filled with `nop`; two bytes or more.
pub(crate) fn syscall(before: &[u8]) -> Option<Vec<u8>> {
    filled(&[0x0f, 0x05], before.len())
}

/// `jmp *%reg -> syscall; ret`, filled with `nop`; three bytes or more.
pub(crate) fn syscall_and_return(before: &[u8]) -> Option<Vec<u8>> {
    filled(&[0x0f, 0x05, 0xc3], before.len())
}

/// `mov $entry,%reg; jmp *%reg -> mov $number,%eax; syscall; ret`, filled with `nop`; eight bytes or more.
pub(crate) fn tail_call(before: &[u8], number: u32) -> Option<Vec<u8>> {
    let mut code = vec![0xb8]; // mov $imm32,%eax
    code.extend(number.to_le_bytes());
    code.extend([0x0f, 0x05, 0xc3]); // syscall; ret
    filled(&code, before.len())
}

/// `mov $entry,%reg -> lea target(%rip),%reg`, filled with `nop`; seven bytes or more.
pub(crate) fn load_address(before: &[u8], at: Vaddr, register: Gpr, target: Vaddr) -> Option<Vec<u8>> {
    if before.first().is_none_or(|rex| rex & 0xf8 != 0x48) {
        return None; // not the 64-bit form that the size is known of
    }
    let rex = if register < 8 { 0x48 } else { 0x4c }; // REX.W, and REX.R for r8 to r15
    let modrm = 0x05 | (register as u8 & 7) << 3; // mod 00, rm 101: rel32(%rip)
    let mut code = vec![rex, 0x8d, modrm];
    code.extend(relative(at, 7, target)?);
    filled(&code, before.len())
}

/// `call rel32` and `jmp rel32` to another target; five bytes or more, the displacement last.
pub(crate) fn branch(before: &[u8], at: Vaddr, target: Vaddr) -> Option<Vec<u8>> {
    let mut after = before.to_vec();
    let displacement = relative(at, before.len() as u64, target)?;
    after.last_chunk_mut::<4>()?.copy_from_slice(&displacement);
    Some(after)
}

/// `call *word(%rip) -> call target` and `jmp *word(%rip) -> jmp target`, filled with `nop`.
pub(crate) fn branch_through_memory(before: &[u8], at: Vaddr, target: Vaddr) -> Option<Vec<u8>> {
    let opcode = match before {
        [0xff, 0x15, _, _, _, _] => 0xe8, // call rel32
        [0xff, 0x25, _, _, _, _] => 0xe9, // jmp rel32
        _ => return None,
    };
    let mut code = vec![opcode];
    code.extend(relative(at, 5, target)?);
    filled(&code, before.len())
}

/// Whatever the bytes do -> `jmp target`, filled with `nop`; five bytes or more:
/// ```text
/// push $entry; ret                                             ->  jmp target
/// sub $8,%rsp; mov $entry,%rax; call *%rax; add $8,%rsp; ret   ->  jmp target; (the last three are not reached)
/// ```
pub(crate) fn jump(before: &[u8], at: Vaddr, target: Vaddr) -> Option<Vec<u8>> {
    let mut code = vec![0xe9]; // jmp rel32
    code.extend(relative(at, 5, target)?);
    filled(&code, before.len())
}

/// `call *word(%rip) -> call target`, filled with `nop`; five bytes or more.
pub(crate) fn call(before: &[u8], at: Vaddr, target: Vaddr) -> Option<Vec<u8>> {
    let mut code = vec![0xe8]; // call rel32
    code.extend(relative(at, 5, target)?);
    filled(&code, before.len())
}

/// Whatever the bytes do, and a call as the last of it -> `call target`, with `nop` before it, so that it returns to where
/// it did.
pub(crate) fn call_at_end(before: &[u8], at: Vaddr, target: Vaddr) -> Option<Vec<u8>> {
    let filled = before.len().checked_sub(BRANCH_LEN as usize)?;
    let mut after = vec![NOP; filled];
    after.extend(call(&before[filled..], at.plus(filled as u64), target)?);
    Some(after)
}

/// Distance from the end of an instruction of `len` bytes at `at`, where 32 bits hold it.
fn relative(at: Vaddr, len: u64, target: Vaddr) -> Option<[u8; 4]> {
    let distance = target.0.wrapping_sub(at.0.wrapping_add(len)).cast_signed();
    Some(i32::try_from(distance).ok()?.to_le_bytes())
}

fn filled(code: &[u8], len: usize) -> Option<Vec<u8>> {
    if code.len() > len {
        return None;
    }
    let mut after = code.to_vec();
    after.resize(len, NOP);
    Some(after)
}

/// What stands in for the page keeps for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kept {
    /// What any function keeps (System V ABI).
    AsFunction,
    /// The registers, too, as the emulated page leaves them.
    Registers,
    /// These, and what the caller has below its stack pointer.
    RegistersAndRedZone,
}

/// A stub that does what the entry does, for callers that call it as a function:
/// ```text
/// [endbr64]
/// [lea -128(%rsp),%rsp; push %rcx; push %r11]
/// mov $number,%eax
/// syscall
/// [pop %r11; pop %rcx; lea 128(%rsp),%rsp]
/// ret
/// ```
/// The bracketed lines as far as the caller expects more than a function keeps.
pub(crate) fn stub(number: u32, kept: Kept, ibt: bool) -> Vec<u8> {
    let mut code = Vec::with_capacity(35);
    if ibt {
        code.extend([0xf3, 0x0f, 0x1e, 0xfa]); // endbr64
    }
    if kept == Kept::RegistersAndRedZone {
        code.extend([0x48, 0x8d, 0x64, 0x24, 0x80]); // lea -128(%rsp),%rsp
    }
    if kept != Kept::AsFunction {
        code.extend([0x51, 0x41, 0x53]); // push %rcx; push %r11
    }
    code.push(0xb8); // mov $imm32,%eax
    code.extend(number.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    if kept != Kept::AsFunction {
        code.extend([0x41, 0x5b, 0x59]); // pop %r11; pop %rcx
    }
    if kept == Kept::RegistersAndRedZone {
        code.extend([0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0]); // lea 128(%rsp),%rsp
    }
    code.push(0xc3); // ret
    code
}
