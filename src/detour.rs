//! Code for unused bytes, which does what one instruction did with an entry's address, with the address of a stub in
//! its stead, and goes on behind that instruction. For instructions that have no room for it themselves.

use iced_x86::{Code, Instruction, MemoryOperand, OpKind, Register};

use crate::addr::Vaddr;
use crate::code;
use crate::vsyscall::Entry;

/// Code for `place` that does with `target` what `instruction` did with an entry's address, and goes on
/// behind it. Uses `r11`, leaves the flags alone:
/// ```text
/// movq $entry,mem        ->  lea target(%rip),%r11; mov %r11,mem; jmp next
/// push $entry            ->  lea target(%rip),%r11; push %r11; jmp next
/// or $page,%reg          ->  lea target(%rip),%reg; jmp next          (any computation whose result is known)
/// ```
pub(crate) fn with_address(instruction: &Instruction, place: Vaddr, target: Vaddr) -> Option<Vec<u8>> {
    let register = instruction.op0_register();
    let mut code = Vec::new();
    match instruction.code() {
        Code::Mov_rm64_imm32 if instruction.op0_kind() == OpKind::Memory => {
            let mut store = *instruction;
            store.set_code(Code::Mov_rm64_r64);
            store.set_op1_kind(OpKind::Register);
            store.set_op1_register(Register::R11);
            code.extend([address(Register::R11, target)?, store]);
        }
        Code::Pushq_imm32 => {
            code.extend([
                address(Register::R11, target)?,
                Instruction::with1(Code::Push_r64, Register::R11).ok()?,
            ]);
        }
        _ if !register.is_gpr64() || register == Register::R11 => return None,
        _ => code.push(address(register, target)?),
    }
    code.push(Instruction::with_branch(Code::Jmp_rel32_64, instruction.next_ip()).ok()?);
    code::encoded(&code, place)
}

/// Code for `place` that loads the word that `instruction` loads, calls or jumps through, and takes `target` in
/// the stead of `entry`'s address, whatever else the program has put there. Uses the flags:
/// ```text
/// mov word(%rip),%reg   ->  mov word(%rip),%reg; cmp $entry,%reg; jne next; lea target(%rip),%reg; jmp next
/// call *word(%rip)      ->  mov word(%rip),%r11; cmp $entry,%r11; jne 1f; lea target(%rip),%r11; 1: jmp *%r11
/// ```
/// A call comes here by a call, so that the last jump is all that is left of it.
pub(crate) fn with_guard(
    instruction: &Instruction,
    entry: Entry,
    place: Vaddr,
    target: Vaddr,
) -> Option<Vec<u8>> {
    const LAST: u64 = 1; // where the last instruction says that it is, for the branch to it
    if !instruction.is_ip_rel_memory_operand() {
        return None;
    }
    let word = at_address(instruction.ip_rel_memory_address());
    let (register, behind, last) = match instruction.code() {
        Code::Mov_r64_rm64 => {
            let back = Instruction::with_branch(Code::Jmp_rel32_64, instruction.next_ip()).ok()?;
            (instruction.op0_register(), instruction.next_ip(), back)
        }
        Code::Call_rm64 | Code::Jmp_rm64 => {
            let mut last = Instruction::with1(Code::Jmp_rm64, Register::R11).ok()?;
            last.set_ip(LAST);
            (Register::R11, LAST, last)
        }
        _ => return None,
    };
    let code = [
        Instruction::with2(Code::Mov_r64_rm64, register, word).ok()?,
        compare(register, entry)?,
        Instruction::with_branch(Code::Jne_rel32_64, behind).ok()?,
        address(register, target)?,
        last,
    ];
    code::encoded(&code, place)
}

/// Code for `place` that computes what `instruction` computes from an entry's address and an index that is not known,
/// and takes the stub of `stubs` in the stead of each entry's address; any other result stays. Uses `r11` and the
/// flags:
/// ```text
/// or $page,%reg  ->  or $a,%reg; or $b,%reg                      where a | b is the page
///                    lea stub(%rip),%r11; cmp $entry,%reg; cmove %r11,%reg      for each entry
///                    jmp next
/// ```
/// `add`, `sub` and `lea` alike, in two parts, so that no part is the address again.
pub(crate) fn with_index(
    instruction: &Instruction,
    place: Vaddr,
    stubs: &[(Entry, Vaddr)],
) -> Option<Vec<u8>> {
    const HALF: i64 = -0x50_0000;
    const BIT: i32 = 0x40_0000; // one of the page's, which only the first part sets
    const UPPER: i32 = 0xff40_0000_u32.cast_signed();
    let register = instruction.op0_register();
    if !register.is_gpr64() || register == Register::R11 {
        return None;
    }
    let moved = |by: i64| {
        Instruction::with2(Code::Lea_r64_m, register, MemoryOperand::with_base_displ(register, by)).ok()
    };
    let or = |bits: i32| Instruction::with2(Code::Or_rm64_imm32, register, bits).ok();
    let number = || instruction.try_immediate(1).ok().map(u64::cast_signed);
    let mut code = match instruction.code() {
        Code::Or_RAX_imm32 | Code::Or_rm64_imm32 => vec![or(UPPER)?, or(number()? as i32 & !BIT)?],
        Code::Add_RAX_imm32 | Code::Add_rm64_imm32 => vec![moved(HALF)?, moved(number()? - HALF)?],
        Code::Sub_RAX_imm32 | Code::Sub_rm64_imm32 => vec![moved(HALF)?, moved(-number()? - HALF)?],
        Code::Lea_r64_m => {
            let displacement = instruction.memory_displacement64().cast_signed();
            let mut index = *instruction;
            index.set_memory_displacement64(HALF.cast_unsigned());
            vec![index, moved(displacement - HALF)?]
        }
        _ => return None,
    };
    for &(entry, stub) in stubs {
        code.extend([
            address(Register::R11, stub)?,
            compare(register, entry)?,
            Instruction::with2(Code::Cmove_r64_rm64, register, Register::R11).ok()?,
        ]);
    }
    code.push(Instruction::with_branch(Code::Jmp_rel32_64, instruction.next_ip()).ok()?);
    code::encoded(&code, place)
}

/// `at(%rip)`
fn at_address(at: u64) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RIP, at.cast_signed())
}

/// `lea at(%rip),%register`
fn address(register: Register, at: Vaddr) -> Option<Instruction> {
    Instruction::with2(Code::Lea_r64_m, register, at_address(at.0)).ok()
}

/// `cmp $entry,%register`
fn compare(register: Register, entry: Entry) -> Option<Instruction> {
    Instruction::with2(Code::Cmp_rm64_imm32, register, (entry.address() as u32).cast_signed()).ok()
}
