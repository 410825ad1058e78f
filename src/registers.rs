//! General-purpose registers, and what the ABIs say of them.

use iced_x86::{OpAccess, Register};

/// Number of a general-purpose register as machine code encodes it, 0 (`rax`) to 15 (`r15`).
pub(crate) type Gpr = usize;

pub(crate) const RAX: Gpr = 0;
pub(crate) const RCX: Gpr = 1;
pub(crate) const RDX: Gpr = 2;
pub(crate) const RSP: Gpr = 4;
pub(crate) const RBP: Gpr = 5;
pub(crate) const RSI: Gpr = 6;
pub(crate) const RDI: Gpr = 7;
pub(crate) const R8: Gpr = 8;
pub(crate) const R9: Gpr = 9;
pub(crate) const R10: Gpr = 10;
pub(crate) const R11: Gpr = 11;

/// What a callee may change (System V ABI).
pub(crate) const CALLER_SAVED: [Gpr; 9] = [RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11];
/// Where integer arguments go (System V ABI).
pub(crate) const ARGUMENTS: [Gpr; 6] = [RDI, RSI, RDX, RCX, R8, R9];

/// Where a system call's number and arguments go (kernel ABI).
pub(crate) const SYSCALL_ARGUMENTS: [Gpr; 7] = [RAX, RDI, RSI, RDX, R10, R8, R9];

/// The number of the general-purpose register that `register` is, or is a part of.
pub(crate) fn gpr(register: Register) -> Option<Gpr> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

pub(crate) fn reads(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

pub(crate) fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}
