//! Backward questions about one function: what may still be read behind an instruction, and what a callee writes.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, RflagsBits};

use crate::addr::Vaddr;
use crate::code::{self, Function};
use crate::elf::Image;
use crate::limits;
use crate::registers::{
    Gpr, R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI, SYSCALL_ARGUMENTS, gpr, reads, writes,
};

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

/// What code behind a call reads, before it writes it, of what a function may change. A compiler's code reads none
/// of it; code that was written for the emulated page may, since that page changes nothing but `rax`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected(Places);

impl Expected {
    /// All of it: what is to be thought of code that cannot be followed.
    pub(crate) const ALL: Self = Self(CHANGED_BY_FUNCTION);

    /// Behind the call number `index`.
    pub(crate) fn behind_call(function: &Function<'_>, index: usize) -> Self {
        let registers = read_behind(function, index, CHANGED_BY_FUNCTION & !RED_ZONE);
        Self(registers | if may_keep_below_stack(function) { RED_ZONE } else { 0 })
    }

    /// Whether a system call changes some of it.
    pub(crate) fn of_syscall(self) -> bool {
        self.0 & (register(RCX) | register(R11)) != 0
    }

    /// Whether a look at what is called changes some of it ([`crate::guard`]).
    pub(crate) fn of_guard(self) -> bool {
        self.0 & (register(R11) | flags(STATUS_FLAGS)) != 0
    }

    /// Whether a function may change some of it.
    pub(crate) fn of_function(self) -> bool {
        self.0 != 0
    }

    /// Whether it includes bytes below the stack pointer.
    pub(crate) fn of_red_zone(self) -> bool {
        self.0 & RED_ZONE != 0
    }

    /// What one or the other call is expected to leave.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set of places that hold values: a bit for each general-purpose register, and one for each status flag.
type Places = u32;

const fn register(number: Gpr) -> Places {
    1 << number
}

const FLAGS_SHIFT: u32 = 16;

/// The status flags, as iced's bits.
const fn flags(bits: u32) -> Places {
    (bits & STATUS_FLAGS) << FLAGS_SHIFT
}

/// The bytes below the stack pointer, but for the eight that the call itself takes.
const RED_ZONE: Places = 1 << 31;

/// What a function may change, but for its result in `rax` (System V ABI). Vector registers are missing: neither
/// the system calls nor the vDSO's functions touch them.
const CHANGED_BY_FUNCTION: Places = RED_ZONE
    | flags(STATUS_FLAGS)
    | register(RCX)
    | register(RDX)
    | register(RSI)
    | register(RDI)
    | register(R8)
    | register(R9)
    | register(R10)
    | register(R11);

/// Whether `function` may keep something below its stack pointer: it has memory operands there, as far as one can tell
/// without following it. A compiler does that in functions that it sees no call in, and it does not see those of
/// assembly statements.
fn may_keep_below_stack(function: &Function<'_>) -> bool {
    let (mut room, mut lowest, mut has_frame_pointer) = (0_i64, 0_i64, false);
    for instruction in &function.instructions {
        let pushes = instruction.mnemonic() == Mnemonic::Push;
        let is_of_stack = instruction.op0_register() == Register::RSP;
        if pushes {
            room += 8;
        } else if is_of_stack && instruction.mnemonic() == Mnemonic::Sub {
            // Room of a size that is not known is room enough.
            room += instruction.try_immediate(1).map_or(i64::from(i32::MAX), u64::cast_signed);
        } else if is_of_stack && instruction.mnemonic() == Mnemonic::Lea {
            room += instruction.memory_displacement64().cast_signed().wrapping_neg().max(0);
            continue;
        }
        let takes_stack = instruction.op1_register() == Register::RSP;
        has_frame_pointer |= takes_stack && instruction.op0_register() == Register::RBP;
        let distance = instruction.memory_displacement64().cast_signed();
        match instruction.memory_base() {
            Register::RSP if distance < 0 => return true,
            Register::RBP if instruction.mnemonic() != Mnemonic::Lea => lowest = lowest.min(distance),
            _ => {}
        }
    }
    // The frame pointer stands at the saved one, which was pushed, too.
    has_frame_pointer && -lowest > (room - 8).max(0)
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

/// Whether the flags may be read behind instruction number `index`; follows straight code and jumps, no branches. Flags
/// do not go along to another function.
fn flags_are_live_behind(function: &Function<'_>, index: usize) -> bool {
    let (mut at, mut old) = (index, STATUS_FLAGS);
    for _ in 0..function.instructions.len() {
        let jump = code::jump_target(&function.instructions[at]).filter(|&target| function.contains(target));
        let next = match function.instructions[at].mnemonic() {
            Mnemonic::Jmp if jump.is_none() => return false,
            Mnemonic::Ret => return false,
            Mnemonic::Jmp => jump.and_then(|target| function.landing(target)),
            _ => function.fall_through(at),
        };
        let Some(next) = next else { return true };
        let instruction = &function.instructions[next];
        let is_branch = instruction.mnemonic() != Mnemonic::Jmp && code::jump_target(instruction).is_some();
        if instruction.rflags_read() & old != 0 || is_branch {
            return true;
        }
        old &= !instruction.rflags_modified();
        if old == 0 || instruction.mnemonic() == Mnemonic::Call {
            return false;
        }
        at = next;
    }
    true
}

/// Whether the result of the call number `index` is read before another value takes its place.
pub(crate) fn result_is_read(function: &Function<'_>, index: usize) -> bool {
    is_live_behind(function, index, RAX)
}

fn is_live_behind(function: &Function<'_>, index: usize, number: Gpr) -> bool {
    read_behind(function, index, register(number)) != 0
}

/// The places among `wanted` that code behind instruction number `index` may read before it writes them. A caller reads
/// the result; what callees read is not looked at.
fn read_behind(function: &Function<'_>, index: usize, wanted: Places) -> Places {
    let mut factory = InstructionInfoFactory::new();
    let mut seen: Vec<Places> = vec![0; function.instructions.len()];
    let mut work: Vec<(usize, Places)> =
        function.fall_through(index).map(|next| (next, wanted)).into_iter().collect();
    let mut read = 0;
    while let Some((mut index, mut open)) = work.pop() {
        loop {
            open &= !seen[index];
            if open == 0 {
                break;
            }
            seen[index] |= open;
            let instruction = &function.instructions[index];
            match instruction.mnemonic() {
                Mnemonic::Call => {
                    read |= open & accesses(&mut factory, instruction).read;
                    // What is called through a pointer may be an entry, too, behind which all is as before but the result.
                    if matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32) {
                        break;
                    }
                    open &= !register(RAX);
                }
                Mnemonic::Ret => {
                    read |= open & register(RAX);
                    break;
                }
                Mnemonic::Syscall => {
                    let arguments = SYSCALL_ARGUMENTS.into_iter().map(register).sum::<Places>();
                    read |= open & arguments;
                    open &= !(register(RAX) | register(RCX) | register(R11));
                }
                _ => {
                    let uses = accesses(&mut factory, instruction);
                    read |= open & uses.read;
                    open &= !uses.replaced;
                }
            }
            match code::jump_target(instruction) {
                Some(target) => work.extend(function.landing(target).map(|landing| (landing, open))),
                None if code::ends_flow(instruction) => {
                    work.extend(function.targets(index).inside.into_iter().map(|target| (target, open)));
                }
                None => {}
            }
            match function.fall_through(index) {
                Some(next) => index = next,
                None => break,
            }
        }
    }
    read
}

/// What an instruction reads, and what it gives another value as a whole.
struct Accesses {
    read: Places,
    replaced: Places,
}

fn accesses(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> Accesses {
    let mut uses =
        Accesses { read: flags(instruction.rflags_read()), replaced: flags(instruction.rflags_modified()) };
    for used in factory.info(instruction).used_registers() {
        let Some(number) = gpr(used.register()) else { continue };
        if reads(used.access()) {
            uses.read |= register(number);
        } else if used.access() == OpAccess::Write && used.register().size() >= 4 {
            uses.replaced |= register(number);
        }
    }
    uses
}
