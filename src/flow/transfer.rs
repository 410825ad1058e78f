//! Calls, jumps and returns: what is called, and what goes along.

use iced_x86::{Mnemonic, OpKind};

use super::state::{SiteSet, State, Value, bytes_at};
use super::{Analysis, CallUse, Incoming, Next, Subjects, Through, Use, analyse};
use crate::addr::Vaddr;
use crate::code::{self, Function};
use crate::guard;
use crate::liveness::registers_written;
use crate::registers::{ARGUMENTS, CALLER_SAVED, Gpr, R11, RAX, RCX, RDI, RDX, RSI, RSP, gpr};

/// Bytes that `gettimeofday(rdi, rsi)`, `time(rdi)` and `getcpu(rdi, rsi)` may write at their pointers.
const VSYSCALL_WRITES: [(Gpr, i64); 2] = [(RDI, 16), (RSI, 8)];

impl Analysis<'_> {
    pub(super) fn call(&mut self, index: usize, state: &mut State) {
        let instruction = self.function.instructions[index];
        let target = self.read(index, state, 0);
        if self.called(index, target, false) {
            state.registers[RAX] = Value::UNKNOWN;
            state.registers[RCX] = Value::UNKNOWN;
            state.registers[R11] = Value::UNKNOWN;
            for (register, size) in VSYSCALL_WRITES {
                match state.registers[register].stack() {
                    Some(offset) => state.disturb(&bytes_at(offset, size)),
                    None => state.disturb_escaped(),
                }
            }
            return;
        }
        self.bases_used(&instruction, state);
        let direct = match instruction.op0_kind() {
            OpKind::NearBranch64 | OpKind::NearBranch32 => Some(Vaddr(instruction.near_branch_target())),
            // As code of the large model calls functions of its own file.
            _ => target.number().map(Vaddr).filter(|&target| self.image.is_executable(target)),
        };
        if !target.sites().is_empty() {
            self.taken_along(state);
        } else if !self.is_guarded(state, direct) {
            self.arguments(state, direct);
        }
        for register in ARGUMENTS {
            self.escape(state, state.registers[register]);
        }
        state.disturb_escaped();
        let holds_sites = CALLER_SAVED.iter().any(|&number| !state.registers[number].sites().is_empty());
        for number in CALLER_SAVED {
            let kept = holds_sites
                && !state.registers[number].sites().is_empty()
                && direct.is_some_and(|callee| self.keeps(callee, number));
            if !kept {
                state.registers[number] = Value::UNKNOWN;
            }
        }
        self.join_elsewhere(state);
        if direct.is_some_and(|callee| self.subjects.incoming == Some(Incoming::Result(callee))) {
            state.registers[RAX] = self.incoming_value();
        }
    }

    /// Whether the local function `callee` returns with `register` as it found it.
    fn keeps(&self, callee: Vaddr, register: Gpr) -> bool {
        if registers_written(self.image, callee) >> register & 1 == 0 {
            return true;
        }
        if matches!(self.subjects.incoming, Some(Incoming::Kept(_))) {
            return false; // one level is enough
        }
        let decoded = Function::decode(self.image, self.functions, callee);
        let Ok(function) = decoded.and_then(|function| function.complete(self.image, self.functions)) else {
            return false;
        };
        let query = Subjects { incoming: Some(Incoming::Kept(register)), ..Subjects::default() };
        function.extent.range.start == callee
            && analyse(self.image, self.functions, &function, &query)
                .is_ok_and(|flow| flow.returns.0 > 0 && flow.returns.1 == 0)
    }

    /// Notes a call or jump to `target` if that may be a site's; whether it is nothing else.
    pub(super) fn called(&mut self, index: usize, target: Value, jump: bool) -> bool {
        let instruction = self.instruction(index);
        let through = match (instruction.mnemonic(), gpr(instruction.op0_register())) {
            (Mnemonic::Ret, _) => Through::Return,
            (_, Some(number)) if instruction.op0_kind() == OpKind::Register => Through::Register(number),
            _ => Through::Memory,
        };
        let exact = !target.other && !target.entry.is_empty();
        if self.recording && !target.entry.is_empty() {
            self.flow.calls.push(CallUse { index, sites: target.entry });
        }
        self.used(target.entry, Use::Call { index, jump, exact, through, through_slot: target.through_slot });
        self.used(target.indexed, Use::IndexedCall { index });
        exact
    }

    /// Where `value` is an address of the stack, whatever is there or above may be read and written by code unseen.
    pub(super) fn escape(&mut self, state: &mut State, value: Value) {
        if let Some(offset) = value.stack() {
            self.slots_used(state.values_in(&(offset..i64::MAX)), Use::PASSED);
        }
        state.escape(value);
    }

    /// `value` is what slots may hold that are `used`, all of them or a part.
    pub(super) fn slots_used(&mut self, value: Value, used: Use) {
        self.used(value.plain_sites(), used);
        self.used(value.pointed_to, Use::Pointed);
    }

    /// Values in argument registers go to whoever is called.
    pub(super) fn arguments(&mut self, state: &State, callee: Option<Vaddr>) {
        for register in ARGUMENTS {
            self.used(state.registers[register].plain_sites(), Use::Argument { callee, register });
            self.used(self.pointers(state.registers[register]), Use::Pointed);
        }
        if let Some(top) = state.registers[RSP].stack() {
            self.slots_used(state.values_passed(top), Use::PASSED);
        }
    }

    /// What is called in the stead of an entry may use the address of a cell that it is passed. An entry takes two
    /// arguments that matter; what is in the other registers is left over.
    fn taken_along(&mut self, state: &State) {
        for register in [RDI, RSI] {
            self.used(self.pointers(state.registers[register]), Use::Pointed);
        }
    }

    /// Whether code at `target` tells an entry's address from what else it may be given in a register, and calls
    /// neither the entry nor anything that it is not given.
    pub(super) fn is_guarded(&mut self, state: &State, target: Option<Vaddr>) -> bool {
        let values = state.registers.iter().map(|value| value.plain_sites().union(value.pointed_to));
        let sites = values.fold(SiteSet::default(), SiteSet::union);
        let is_guard = !sites.is_empty() && target.is_some_and(|target| guard::is_at(self.image, target));
        if is_guard {
            self.used(sites, Use::Guarded);
            self.taken_along(state);
        }
        is_guard
    }

    pub(super) fn jump(&mut self, index: usize, state: &mut State) -> Next {
        let function = self.function;
        let instruction = &function.instructions[index];
        if let Some(target) = code::jump_target(instruction) {
            let is_guarded = self.is_guarded(state, Some(target));
            let inside = function.landing(target).filter(|_| function.contains(target) && !is_guarded);
            if let Some(target) = inside {
                return Next::Jump(vec![target]);
            }
            if !is_guarded {
                self.arguments(state, Some(target));
            }
            self.leave();
            return Next::Nowhere;
        }
        let target = self.read(index, state, 0);
        if self.called(index, target, true) || !target.sites().is_empty() {
            self.taken_along(state);
            return Next::Nowhere;
        }
        self.bases_used(instruction, state);
        let known = target.number().map(Vaddr).filter(|&target| self.image.is_executable(target));
        if let Some(target) = known.filter(|&target| !function.contains(target)) {
            self.arguments(state, Some(target));
            self.leave();
            return Next::Nowhere;
        }
        let targets = function.targets(index);
        if !targets.are_all {
            self.arguments(state, None);
            self.leave();
            self.join_elsewhere(state);
        }
        Next::Jump(targets.inside)
    }

    /// Control goes to code that is not followed; what that returns with is not known.
    pub(super) fn leave(&mut self) {
        self.flow.returns.1 += usize::from(self.recording);
    }

    pub(super) fn return_from(&mut self, index: usize, state: &State) {
        if let (Some(Incoming::Kept(register)), true) = (self.subjects.incoming, self.recording) {
            let value = state.registers[register];
            let (kept, lost) = &mut self.flow.returns;
            *if !value.entry.is_empty() && !value.other { kept } else { lost } += 1;
        }
        self.used(state.registers[RAX].sites(), Use::Returned);
        self.used(state.registers[RDX].plain_sites(), Use::ReturnedSecond);
        self.used(self.pointers(state.registers[RAX]), Use::PointedResult);
        let top = state.registers[RSP].stack();
        let pushed = top.map_or(Value::UNKNOWN, |offset| state.load(offset, 8));
        // Where it may be something else, that is the caller's address: the stack is not as it was taken to be.
        if !pushed.other {
            self.called(index, Value { through_slot: false, ..pushed }, true);
        }
    }

    fn join_elsewhere(&mut self, state: &State) {
        match &mut self.elsewhere {
            Some(known) => {
                known.join(state);
            }
            empty @ None => *empty = Some(state.clone()),
        }
    }
}
