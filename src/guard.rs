//! Code for unused bytes that makes a call or jump whose target is not known before it runs, and takes a stub where
//! that is an entry's address; and what shows that code is such. For pointers that cannot themselves be changed, read
//! in ways that do not tell which of them is called.

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, MemoryOperand, Mnemonic, OpKind, Register,
};

use crate::addr::Vaddr;
use crate::code;
use crate::elf::Image;
use crate::encode::BRANCH_LEN;
use crate::limits;
use crate::registers::writes;
use crate::vsyscall::Entry;

/// Code for `place` that does what the instructions `run` do, of which the last is a call or jump through a register or
/// through memory. It comes by a call where that is a call, so that a jump is all that is left of it. Uses the flags,
/// and `r11` for a target in memory:
/// ```text
/// mov (%rdx,%rax,8),%rax; call *%rax   ->  mov (%rdx,%rax,8),%rax
///                                          cmp $entry,%rax; je stub       for each entry
///                                          jmp *%rax
/// ```
pub(crate) fn code(run: &[Instruction], place: Vaddr, stubs: &[(Entry, Vaddr)]) -> Option<Vec<u8>> {
    let (call, before) = run.split_last()?;
    let mut code = before.to_vec();
    let target = match call.op0_kind() {
        OpKind::Register => call.op0_register(),
        OpKind::Memory => {
            let word = if call.is_ip_rel_memory_operand() {
                MemoryOperand::with_base_displ(Register::RIP, call.ip_rel_memory_address().cast_signed())
            } else {
                MemoryOperand::new(
                    call.memory_base(),
                    call.memory_index(),
                    call.memory_index_scale(),
                    call.memory_displacement64().cast_signed(),
                    call.memory_displ_size(),
                    false,
                    Register::None,
                )
            };
            code.push(Instruction::with2(Code::Mov_r64_rm64, Register::R11, word).ok()?);
            Register::R11
        }
        _ => return None,
    };
    for &(entry, stub) in stubs {
        let number = (entry.address() as u32).cast_signed();
        code.push(Instruction::with2(Code::Cmp_rm64_imm32, target, number).ok()?);
        code.push(Instruction::with_branch(Code::Je_rel32_64, stub.0).ok()?);
    }
    code.push(Instruction::with1(Code::Jmp_rm64, target).ok()?);
    code::encoded(&code, place)
}

/// The number of the first instruction of the shortest run up to the call or jump number `last` that has room for a
/// branch and that other code can do in its stead.
pub(crate) fn run_up_to(instructions: &[Instruction], last: usize) -> Option<usize> {
    let call = instructions.get(last)?;
    let is_call = call.mnemonic() == Mnemonic::Call;
    let is_of_stack = call.op0_kind() == OpKind::Memory
        && [call.memory_base(), call.memory_index()].contains(&Register::RSP);
    if call.segment_prefix() != Register::None || (is_call && is_of_stack) {
        return None;
    }
    let mut first = last;
    while call.next_ip() - instructions[first].ip() < BRANCH_LEN {
        first = first.checked_sub(1)?;
        let may_move = instructions[first].next_ip() == instructions[first + 1].ip()
            && may_move(&instructions[first], is_call);
        if !may_move {
            return None;
        }
    }
    Some(first)
}

/// Whether `instruction` does the same elsewhere: it goes on to the next, and writes registers only; where that is
/// `below_a_call`, it leaves the stack alone.
fn may_move(instruction: &Instruction, below_a_call: bool) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let uses_stack =
        info.used_registers().iter().any(|used| used.register().full_register() == Register::RSP);
    let is_plain = instruction.flow_control() == FlowControl::Next
        && instruction.segment_prefix() == Register::None
        && !info.used_memory().iter().any(|used| writes(used.access()));
    is_plain && !(below_a_call && uses_stack)
}

/// Whether the code at `at` is what [`code`] makes.
pub(crate) fn is_at(image: &Image<'_>, at: Vaddr) -> bool {
    let mut at = at;
    let mut next = || {
        let instruction = code::instruction_at(image, at)?;
        at = Vaddr(instruction.next_ip());
        Some(instruction)
    };
    let mut instruction = next();
    for _ in 0..limits::GUARDED_INSTRUCTIONS {
        match instruction {
            Some(moved) if moved.mnemonic() != Mnemonic::Cmp && may_move(&moved, false) => {
                instruction = next()
            }
            _ => break,
        }
    }
    let Some(target) = instruction.map(|compare| compare.op0_register()) else { return false };
    for entry in Entry::ALL {
        let compares = instruction.is_some_and(|compare| {
            matches!(compare.code(), Code::Cmp_rm64_imm32 | Code::Cmp_RAX_imm32)
                && compare.op0_kind() == OpKind::Register
                && compare.op0_register() == target
                && compare.immediate32to64().cast_unsigned() == entry.address()
        });
        let leaves = next().is_some_and(|branch| branch.code() == Code::Je_rel32_64);
        if !(compares && leaves) {
            return false;
        }
        instruction = next();
    }
    instruction.is_some_and(|jump| {
        jump.code() == Code::Jmp_rm64 && jump.op0_kind() == OpKind::Register && jump.op0_register() == target
    })
}
