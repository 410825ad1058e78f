//! One instruction executed on a [`State`]: what becomes of values, and what is done with those of sites.

use iced_x86::{
    Code, ConditionCode, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register, UsedMemory,
};

use super::state::{Known, SiteSet, State, Value, add, truncated};
use super::{Analysis, CallUse, Incoming, Next, Subjects, Through, Use, analyse};
use crate::addr::Vaddr;
use crate::code::{self, Doubt, Function};
use crate::guard;
use crate::limits;
use crate::liveness::registers_written;
use crate::registers::{
    ARGUMENTS, CALLER_SAVED, Gpr, R11, RAX, RBP, RCX, RDI, RSI, RSP, SYSCALL_ARGUMENTS, gpr, reads, writes,
};
use crate::site::Deed;
use crate::vsyscall::Entry;

/// Bytes that `gettimeofday(rdi, rsi)`, `time(rdi)` and `getcpu(rdi, rsi)` may write at their pointers.
const VSYSCALL_WRITES: [(Gpr, i64); 2] = [(RDI, 16), (RSI, 8)];

/// Where the stack pointer is taken to be after `and $-N,%rsp`: far below everything before it.
const REALIGNED_FRAME: i64 = 1 << 20;

impl Analysis<'_> {
    /// Executes instruction `index` on `state`.
    pub(super) fn step(&mut self, index: usize, state: &mut State) -> Result<Next, Doubt> {
        let function = self.function;
        let instruction = &function.instructions[index];
        self.current = index;
        match instruction.mnemonic() {
            Mnemonic::Call => self.call(index, state),
            Mnemonic::Jmp => return Ok(self.jump(index, state)),
            Mnemonic::Ret => {
                self.return_from(index, state);
                return Ok(Next::Nowhere);
            }
            Mnemonic::Mov => self.mov(index, state)?,
            Mnemonic::Lea => self.lea(index, state),
            Mnemonic::Push => self.push(index, state)?,
            Mnemonic::Pop => self.pop(index, state)?,
            Mnemonic::Leave => {
                let frame = state.registers[RBP];
                let saved = frame.stack().map_or(Value::UNKNOWN, |offset| state.load(offset, 8));
                state.registers[RSP] = add(frame, 8);
                state.registers[RBP] = Value { through_slot: false, ..saved };
            }
            Mnemonic::Xchg => self.exchange(index, state)?,
            Mnemonic::Test | Mnemonic::Cmp => self.compare(index, state),
            Mnemonic::Xor => self.xor(index, state)?,
            Mnemonic::Rol | Mnemonic::Ror => self.rotate(index, state)?,
            Mnemonic::Add | Mnemonic::Or | Mnemonic::Sub | Mnemonic::And | Mnemonic::Shl => {
                self.arithmetic(index, state)?;
            }
            Mnemonic::Cdqe | Mnemonic::Movsxd => self.sign_extend(index, state)?,
            Mnemonic::Syscall => {
                for register in SYSCALL_ARGUMENTS {
                    let used = Use::Argument { callee: None, register };
                    self.used(state.registers[register].plain_sites(), used);
                    self.used(state.registers[register].pointed_to, Use::Pointed);
                    state.escape(state.registers[register]);
                }
                for register in [RAX, RCX, R11] {
                    state.registers[register] = Value::UNKNOWN;
                }
                state.disturb_escaped();
            }
            _ if is_conditional_move(instruction) && instruction.op0_register().is_gpr64() => {
                let source = self.read(index, state, 1);
                self.write_joined(index, state, source);
            }
            _ => self.anything_else(index, state)?,
        }
        let target = code::jump_target(instruction);
        let leaves = target.is_some_and(|target| !function.contains(target));
        let targets = match target {
            Some(target) if function.contains(target) => function.landing(target).into_iter().collect(),
            Some(target) => {
                // Where it is known that the entry was found, its address is of no more use.
                let mut equal = state.clone();
                if let Some(found) = self.proven_by(index).filter(|unequal| !unequal.is_target) {
                    equal.registers[found.register] = Value::UNKNOWN;
                }
                self.arguments(&equal, Some(target));
                self.leave();
                Vec::new()
            }
            None => Vec::new(),
        };
        Ok(match (code::ends_flow(instruction), targets.is_empty()) {
            (true, _) => Next::Nowhere,
            (false, true) if leaves => Next::Branch(targets, self.proven_by(index)),
            (false, true) => Next::FallThrough,
            (false, false) => Next::Branch(targets, self.proven_by(index)),
        })
    }

    // Operands.

    /// What the memory operand of `instruction` addresses.
    fn place(&self, instruction: &Instruction, state: &State) -> Place {
        if matches!(instruction.segment_prefix(), Register::FS | Register::GS) {
            return Place::Elsewhere;
        }
        if instruction.is_ip_rel_memory_operand() {
            return Place::Word(instruction.ip_rel_memory_address());
        }
        let displacement = instruction.memory_displacement64();
        let base = match instruction.memory_base() {
            Register::None => Known::Constant(0),
            register => match gpr(register) {
                Some(number) if register.size() == 8 => state.registers[number].known,
                _ => Known::Nothing,
            },
        };
        let scale = u64::from(instruction.memory_index_scale());
        let index = match instruction.memory_index() {
            Register::None => Some(0),
            register => gpr(register)
                .and_then(|number| state.registers[number].number())
                .map(|number| number.wrapping_mul(scale)),
        };
        match (base, index) {
            (Known::Stack(offset), Some(index)) => {
                Place::Slot(offset.wrapping_add_unsigned(displacement).wrapping_add_unsigned(index))
            }
            (Known::Constant(base), Some(index)) => {
                Place::Word(base.wrapping_add(displacement).wrapping_add(index))
            }
            (Known::Element(base), Some(index)) => {
                Place::Table(base.wrapping_add(displacement).wrapping_add(index))
            }
            // Any distance from the global offset table, of several.
            (Known::Constant(base), None) if scale == 1 && self.is_global_offset_table(base) => {
                Place::Elsewhere
            }
            (Known::Constant(base), None) if scale == 8 || base != 0 => {
                Place::Table(base.wrapping_add(displacement))
            }
            (Known::Nothing, Some(index)) if index != 0 => Place::Table(index.wrapping_add(displacement)),
            _ => Place::Elsewhere,
        }
    }

    fn is_global_offset_table(&self, at: u64) -> bool {
        self.image.global_offset_table() == Some(Vaddr(at))
    }

    /// What operand `operand` of instruction `index` holds, as a 64-bit value.
    fn read(&mut self, index: usize, state: &State, operand: u32) -> Value {
        let instruction = self.function.instructions[index];
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                match gpr(register) {
                    Some(number) if register.size() == 8 => state.registers[number],
                    Some(number) if register.size() == 4 => truncated(state.registers[number]),
                    _ => Value::UNKNOWN,
                }
            }
            OpKind::Memory => {
                let size = instruction.memory_size().size() as i64;
                let place = self.place(&instruction, state);
                if place == Place::Elsewhere {
                    self.bases_pointed(&instruction, state);
                }
                self.copied(place, size, true);
                self.load(index, state, place, size)
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Value::UNKNOWN,
            _ => instruction.try_immediate(operand).map_or(Value::UNKNOWN, Value::constant),
        }
    }

    /// `size` bytes at `place` are read, as it is followed or not: cells whose words go along in another way than
    /// [`load`](Self::load) has it are read by code unseen from here on.
    fn copied(&mut self, place: Place, size: i64, is_followed: bool) {
        let is_read = |cell: Vaddr| match place {
            Place::Word(at) => {
                let overlaps = at < cell.0.saturating_add(8) && cell.0 < at.saturating_add_signed(size);
                overlaps && !(is_followed && at == cell.0 && size == 8)
            }
            Place::Table(base) => is_in_table(base, cell) && (size > 8 || (size == 8 && !is_followed)),
            Place::Slot(_) | Place::Elsewhere => false,
        };
        let cells = self.subjects.cells.iter().enumerate().filter(|(_, cell)| is_read(cell.at));
        let sites = cells.map(|(number, _)| SiteSet::one(self.subjects.cell(number)));
        self.used(sites.fold(SiteSet::default(), SiteSet::union), Use::Copied);
    }

    fn load(&mut self, index: usize, state: &State, place: Place, size: i64) -> Value {
        match place {
            Place::Slot(offset) => state.load(offset, size),
            Place::Word(at) if size == 8 => {
                match self.subjects.cells.iter().position(|cell| cell.at.0 == at) {
                    Some(number) => self.cell_value(index, number),
                    None => Value::UNKNOWN,
                }
            }
            Place::Table(base) if size == 8 => {
                let mut value: Option<Value> = None;
                for (number, cell) in self.subjects.cells.iter().enumerate() {
                    if is_in_table(base, cell.at) {
                        let cell = self.cell_value(index, number).or_other();
                        value = Some(value.map_or(cell, |value| value.join(cell)));
                    }
                }
                value.unwrap_or(Value::UNKNOWN)
            }
            _ => Value::UNKNOWN,
        }
    }

    fn cell_value(&mut self, index: usize, number: usize) -> Value {
        let site = self.subjects.cell(number);
        self.used(SiteSet::one(site), Use::Loaded { index });
        Value { entry: SiteSet::one(site), other: self.subjects.cells[number].may_change, ..Value::UNKNOWN }
    }

    /// Writes `value` to operand 0 of instruction `index`; if the instruction is a subject, the value
    /// that it makes is that site's.
    fn write(&mut self, index: usize, state: &mut State, value: Value) -> Result<(), Doubt> {
        let value = self.defined(index, value);
        self.done(value.sites(), Deed::Moves);
        let instruction = self.function.instructions[index];
        match instruction.op0_kind() {
            OpKind::Register => {
                let register = instruction.op0_register();
                if let Some(number) = gpr(register) {
                    state.registers[number] = if register.size() == 8 {
                        value
                    } else if register.size() == 4 {
                        truncated(value)
                    } else {
                        Value::UNKNOWN
                    };
                }
            }
            OpKind::Memory => {
                let size = instruction.memory_size().size() as i64;
                self.store(state, self.place(&instruction, state), size, value)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn write_joined(&mut self, index: usize, state: &mut State, value: Value) {
        self.done(value.sites(), Deed::Moves);
        if let Some(number) = gpr(self.instruction(index).op0_register()) {
            state.registers[number] = state.registers[number].join(value);
        }
    }

    fn store(&mut self, state: &mut State, place: Place, size: i64, value: Value) -> Result<(), Doubt> {
        self.used(value.pointed_to, Use::Pointed);
        if let Place::Slot(offset) = place {
            return state.store(offset, size, value);
        }
        let stored = match place {
            Place::Word(at) if size == 8 => Use::StoredTo { at: Vaddr(at), joined: value.other },
            _ => Use::Stored,
        };
        self.used(value.plain_sites(), stored);
        self.used(value.mangled, Use::StoredMangled);
        if !matches!(place, Place::Word(_)) {
            state.disturb_escaped();
        }
        state.escape(value);
        Ok(())
    }

    /// The value that instruction `index` makes, which is a site's if the instruction is a subject.
    fn defined(&mut self, index: usize, value: Value) -> Value {
        let Some(site) = self.subjects.instruction(self.instruction(index).ip()) else { return value };
        let entry = value.number().and_then(Entry::at);
        if self.recording {
            self.flow.sites[site].entry = entry;
            self.flow.sites[site].reached = true;
        }
        let sites = SiteSet::one(site);
        self.done(sites, Deed::Holds);
        match entry {
            Some(_) => Value { entry: sites, other: false, ..Value::UNKNOWN },
            None => Value { indexed: sites, ..Value::UNKNOWN },
        }
    }

    // Instructions.

    fn mov(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let wide = operand_size(&instruction, 0) == 8;
        let moves_gpr = operand_size(&instruction, 0) >= 4
            && [0, 1].iter().all(|&operand| {
                instruction.op_kind(operand) != OpKind::Register
                    || gpr(instruction.op_register(operand)).is_some()
            });
        if !moves_gpr {
            return self.anything_else(index, state);
        }
        let value = self.read(index, state, 1);
        let value = match code::distance_from_table(self.image, &instruction) {
            Some(at) => Value { pointed_to: self.cells_of_table(at), ..value },
            None => value,
        };
        if !wide {
            self.used(self.full_sites(&instruction, state, 1), Use::Computed);
            self.used(value.pointed_to, Use::Pointed);
        }
        self.write(index, state, value)
    }

    fn lea(&mut self, index: usize, state: &mut State) {
        let instruction = self.function.instructions[index];
        let known = match self.place(&instruction, state) {
            Place::Slot(offset) => Known::Stack(offset),
            Place::Word(at) => Known::Constant(at),
            Place::Table(base) if instruction.memory_index_scale() == 8 => Known::Element(base),
            _ => Known::Nothing,
        };
        if matches!(known, Known::Element(_) | Known::Nothing) {
            for register in [instruction.memory_base(), instruction.memory_index()] {
                if let Some(number) = gpr(register) {
                    self.used(state.registers[number].plain_sites(), Use::Computed);
                    state.escape(state.registers[number]);
                }
            }
        }
        let value = Value::known(known);
        let value = self.pointing(value, &instruction, state);
        let value = self.defined(index, value);
        if let Some(number) = gpr(instruction.op0_register()) {
            let wide = instruction.op0_register().size() == 8;
            state.registers[number] = if wide { value } else { truncated(value) };
        }
    }

    /// `value`, which the `lea` that `instruction` is computes, with the cells that it may be an address of.
    fn pointing(&mut self, value: Value, instruction: &Instruction, state: &State) -> Value {
        let bases = [instruction.memory_base(), instruction.memory_index()].into_iter().filter_map(gpr);
        let from =
            bases.fold(SiteSet::default(), |sites, base| sites.union(state.registers[base].pointed_to));
        // Code that counts from the global offset table takes its address for that of everything.
        let cells = match value.known {
            Known::Constant(at) if self.is_global_offset_table(at) => SiteSet::default(),
            Known::Constant(at) | Known::Element(at) => self.cells_of_table(Vaddr(at)),
            Known::Stack(_) | Known::Nothing => {
                self.used(from, Use::Pointed);
                return value;
            }
        };
        Value { pointed_to: from.union(cells), ..value }
    }

    /// The cells that may belong to a table at `base`.
    fn cells_of_table(&self, base: Vaddr) -> SiteSet {
        let cells = self.subjects.cells.iter().enumerate();
        cells
            .filter(|(_, cell)| is_in_table(base.0, cell.at))
            .fold(SiteSet::default(), |sites, (number, _)| {
                sites.union(SiteSet::one(self.subjects.cell(number)))
            })
    }

    fn push(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let value = self.read(index, state, 0);
        self.used(value.pointed_to, Use::Pointed);
        let value = self.defined(index, value);
        state.registers[RSP] = add(state.registers[RSP], -8);
        match state.registers[RSP].stack() {
            Some(offset) => state.store(offset, 8, value),
            None => {
                self.used(value.plain_sites(), Use::Stored);
                Ok(())
            }
        }
    }

    fn pop(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let top = state.registers[RSP].stack();
        let value = top.map_or(Value::UNKNOWN, |offset| state.load(offset, 8));
        state.registers[RSP] = add(state.registers[RSP], 8);
        self.write(index, state, Value { through_slot: false, ..value })?;
        if let Some(offset) = top {
            state.store(offset, 8, Value::UNKNOWN)?;
        }
        Ok(())
    }

    fn exchange(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let pair = (gpr(instruction.op0_register()), gpr(instruction.op1_register()));
        match pair {
            (Some(a), Some(b))
                if operand_size(&instruction, 0) == 8 && instruction.op0_kind() == OpKind::Register =>
            {
                state.registers.swap(a, b);
                Ok(())
            }
            _ => self.anything_else(index, state),
        }
    }

    fn compare(&mut self, index: usize, state: &State) {
        let instruction = self.function.instructions[index];
        let (left, right) =
            (self.full_sites(&instruction, state, 0), self.full_sites(&instruction, state, 1));
        let null_check = match instruction.mnemonic() {
            Mnemonic::Test => {
                instruction.op0_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register()
            }
            _ => self.read(index, state, 1).number() == Some(0),
        };
        if !(null_check && operand_size(&instruction, 0) == 8) {
            self.used(left.union(right), Use::Compared);
        }
        self.bases_used(&instruction, state);
    }

    fn xor(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let target = gpr(instruction.op0_register());
        match (instruction.code(), target) {
            (Code::Xor_r64_rm64, Some(target)) if is_pointer_guard(&instruction) => {
                self.done(state.registers[target].sites(), Deed::Moves);
                let value = &mut state.registers[target];
                *value =
                    Value { entry: value.mangled, mangled: value.entry, known: Known::Nothing, ..*value };
                Ok(())
            }
            (_, Some(_))
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register() =>
            {
                self.write(index, state, Value::constant(0))
            }
            _ => self.anything_else(index, state),
        }
    }

    /// `rol $0x11` and `ror $0x11` are the other half of glibc's pointer mangling.
    fn rotate(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let mangles = instruction.op0_register().is_gpr64()
            && matches!(instruction.code(), Code::Rol_rm64_imm8 | Code::Ror_rm64_imm8)
            && instruction.immediate8() == 0x11;
        match gpr(instruction.op0_register()) {
            Some(number) if mangles && state.registers[number].plain_sites().is_empty() => Ok(()),
            _ => self.anything_else(index, state),
        }
    }

    fn arithmetic(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let subject = self.subjects.instruction(instruction.ip()).is_some();
        let Some(target) =
            gpr(instruction.op0_register()).filter(|_| instruction.op0_kind() == OpKind::Register)
        else {
            return self.anything_else(index, state);
        };
        let (left, right) = (self.read(index, state, 0), self.read(index, state, 1));
        if !left.sites().is_empty() || !right.sites().is_empty() {
            return self.anything_else(index, state);
        }
        if target == RSP && instruction.mnemonic() == Mnemonic::And {
            state.registers[RSP] = add(state.registers[RSP], -REALIGNED_FRAME);
            return Ok(());
        }
        let value = match (instruction.mnemonic(), left.known, right.number()) {
            (Mnemonic::Add, Known::Stack(offset), Some(number)) => {
                Value::known(Known::Stack(offset.wrapping_add_unsigned(number)))
            }
            (Mnemonic::Sub, Known::Stack(offset), Some(number)) => {
                Value::known(Known::Stack(offset.wrapping_sub_unsigned(number)))
            }
            (mnemonic, Known::Constant(a), Some(b)) => {
                let pointed_to = left.pointed_to.union(right.pointed_to);
                Value { pointed_to, ..Value::constant(compute(mnemonic, a, b)) }
            }
            (_, Known::Stack(_), None) => {
                state.escape(left);
                Value::UNKNOWN
            }
            _ if subject => Value::UNKNOWN,
            // An address and an index, or a distance: still an address, of which nothing is done yet.
            (Mnemonic::Add, ..) if !left.pointed_to.union(right.pointed_to).is_empty() => {
                state.escape(left);
                state.escape(right);
                Value { pointed_to: left.pointed_to.union(right.pointed_to), ..Value::UNKNOWN }
            }
            _ => return self.anything_else(index, state),
        };
        self.write(index, state, value)
    }

    fn sign_extend(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let extended = |value: Value| match value.number() {
            Some(number) => Value::constant(i64::from((number as u32).cast_signed()).cast_unsigned()),
            None => Value::UNKNOWN,
        };
        if instruction.mnemonic() == Mnemonic::Cdqe {
            self.used(state.registers[RAX].plain_sites(), Use::Computed);
            state.registers[RAX] = extended(state.registers[RAX]);
            return Ok(());
        }
        self.used(self.full_sites(&instruction, state, 1), Use::Computed);
        let value = extended(self.read(index, state, 1));
        self.write(index, state, value)
    }

    fn call(&mut self, index: usize, state: &mut State) {
        let instruction = self.function.instructions[index];
        let target = self.read(index, state, 0);
        if self.called(index, target, false) {
            state.registers[RAX] = Value::UNKNOWN;
            state.registers[RCX] = Value::UNKNOWN;
            state.registers[R11] = Value::UNKNOWN;
            for (register, size) in VSYSCALL_WRITES {
                match state.registers[register].stack() {
                    Some(offset) => state.disturb(offset, size),
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
            state.escape(state.registers[register]);
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
    fn called(&mut self, index: usize, target: Value, jump: bool) -> bool {
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

    /// Values in argument registers go to whoever is called.
    fn arguments(&mut self, state: &State, callee: Option<Vaddr>) {
        for register in ARGUMENTS {
            self.used(state.registers[register].plain_sites(), Use::Argument { callee, register });
            self.used(self.pointers(state.registers[register]), Use::Pointed);
        }
        if let Some(top) = state.registers[RSP].stack() {
            self.used(state.sites_overlapping(top, 8), Use::Argument { callee: None, register: RSP });
        }
    }

    /// What is called in the stead of an entry may use the address of a cell that it is passed. An entry takes two
    /// arguments that matter; what is in the other registers is left over.
    fn taken_along(&mut self, state: &State) {
        for register in [RDI, RSI] {
            self.used(self.pointers(state.registers[register]), Use::Pointed);
        }
    }

    /// The cells that whoever gets `value` may find by it: a distance from the global offset table alone leads nowhere.
    fn pointers(&self, value: Value) -> SiteSet {
        let is_distance = |number: u64| {
            let table = self.image.global_offset_table().map_or(0, |table| table.0);
            let leads = |to: u64| !self.cells_of_table(Vaddr(to)).is_empty();
            leads(table.wrapping_add(number)) && !leads(number)
        };
        if value.number().is_some_and(is_distance) { SiteSet::default() } else { value.pointed_to }
    }

    /// Whether code at `target` tells an entry's address from what else it may be given in a register, and calls
    /// neither the entry nor anything that it is not given.
    fn is_guarded(&mut self, state: &State, target: Option<Vaddr>) -> bool {
        let values = state.registers.iter().map(|value| value.plain_sites().union(value.pointed_to));
        let sites = values.fold(SiteSet::default(), SiteSet::union);
        let is_guard = !sites.is_empty() && target.is_some_and(|target| guard::is_at(self.image, target));
        if is_guard {
            self.used(sites, Use::Guarded);
            self.taken_along(state);
        }
        is_guard
    }

    fn jump(&mut self, index: usize, state: &mut State) -> Next {
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
    fn leave(&mut self) {
        self.flow.returns.1 += usize::from(self.recording);
    }

    fn return_from(&mut self, index: usize, state: &State) {
        if let (Some(Incoming::Kept(register)), true) = (self.subjects.incoming, self.recording) {
            let value = state.registers[register];
            let (kept, lost) = &mut self.flow.returns;
            *if !value.entry.is_empty() && !value.other { kept } else { lost } += 1;
        }
        self.used(state.registers[RAX].sites(), Use::Returned);
        self.used(self.pointers(state.registers[RAX]), Use::PointedResult);
        let top = state.registers[RSP].stack();
        let pushed = top.map_or(Value::UNKNOWN, |offset| state.load(offset, 8));
        self.called(index, Value { through_slot: false, ..pushed }, true);
    }

    fn join_elsewhere(&mut self, state: &State) {
        match &mut self.elsewhere {
            Some(known) => {
                known.join(state);
            }
            empty @ None => *empty = Some(state.clone()),
        }
    }

    /// An instruction that is not followed: what it reads is used, what it writes is unknown.
    fn anything_else(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let mut factory = std::mem::replace(&mut self.info, InstructionInfoFactory::new());
        let info_of = factory.info(&instruction);
        let place = has_memory(&instruction).then(|| self.place(&instruction, state));
        // Of the registers, only the address is of use.
        let addresses_only = moves_vector(&instruction) && matches!(place, Some(Place::Word(_)));
        for used in info_of.used_registers() {
            if let (Some(number), true) = (gpr(used.register()), reads(used.access())) {
                self.used(state.registers[number].plain_sites(), Use::Computed);
                if !addresses_only {
                    self.used(state.registers[number].pointed_to, Use::Pointed);
                }
            }
        }
        for used in info_of.used_memory() {
            if let (Some(place), true) = (place, reads(used.access())) {
                self.copied(place, used.memory_size().size() as i64, false);
            }
            self.memory_used(used, state)?;
        }
        for used in info_of.used_registers() {
            if let (Some(number), true) = (gpr(used.register()), writes(used.access())) {
                if number == RSP && instruction.is_stack_instruction() {
                    let moved = i64::from(instruction.stack_pointer_increment());
                    state.registers[RSP] = add(state.registers[RSP], moved);
                } else {
                    state.escape(state.registers[number]);
                    state.registers[number] = Value::UNKNOWN;
                }
            }
        }
        self.info = factory;
        self.defined(index, Value::UNKNOWN);
        Ok(())
    }

    fn memory_used(&mut self, used: &UsedMemory, state: &mut State) -> Result<(), Doubt> {
        let base = gpr(used.base()).map(|number| state.registers[number]);
        let offset = base
            .and_then(Value::stack)
            .filter(|_| used.index() == Register::None)
            .map(|base| base.wrapping_add_unsigned(used.displacement()));
        let size = (used.memory_size().size() as i64).max(1);
        match offset {
            Some(offset) => {
                if reads(used.access()) {
                    self.used(state.sites_overlapping(offset, size), Use::Computed);
                }
                if writes(used.access()) {
                    state.store(offset, size, Value::UNKNOWN)?;
                }
            }
            None if writes(used.access()) => {
                if let Some(base) = base {
                    state.escape(base);
                }
                state.disturb_escaped();
            }
            None => {}
        }
        Ok(())
    }

    /// A site's value as the base or index of a memory operand is no call.
    fn bases_used(&mut self, instruction: &Instruction, state: &State) {
        if has_memory(instruction) {
            for register in [instruction.memory_base(), instruction.memory_index()] {
                if let Some(number) = gpr(register) {
                    self.used(state.registers[number].plain_sites(), Use::Computed);
                }
            }
        }
    }

    /// Memory that may be a cell is read in a way that is not followed.
    fn bases_pointed(&mut self, instruction: &Instruction, state: &State) {
        for register in [instruction.memory_base(), instruction.memory_index()] {
            if let Some(number) = gpr(register) {
                self.used(state.registers[number].pointed_to, Use::Pointed);
            }
        }
    }

    /// The sites whose value, or part of it, operand `operand` reads.
    fn full_sites(&self, instruction: &Instruction, state: &State, operand: u32) -> SiteSet {
        match instruction.op_kind(operand) {
            OpKind::Register => gpr(instruction.op_register(operand))
                .map_or(SiteSet::default(), |number| state.registers[number].plain_sites()),
            OpKind::Memory => match self.place(instruction, state) {
                Place::Slot(offset) => {
                    state.sites_overlapping(offset, instruction.memory_size().size() as i64)
                }
                _ => SiteSet::default(),
            },
            _ => SiteSet::default(),
        }
    }
}

/// Whether the word at `at` may belong to a table that begins at `base`.
fn is_in_table(base: u64, at: Vaddr) -> bool {
    at.0.wrapping_sub(base) < 8 * limits::TABLE_WORDS
}

/// What a memory operand addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Distance from the stack pointer at the function's entry.
    Slot(i64),
    /// A fixed address (before the load bias).
    Word(u64),
    /// A word of a table of 8-byte words that begins at a fixed address.
    Table(u64),
    /// Anything else.
    Elsewhere,
}

/// `%fs:0x30`, where glibc keeps the thread's pointer guard.
fn is_pointer_guard(instruction: &Instruction) -> bool {
    instruction.op1_kind() == OpKind::Memory
        && instruction.segment_prefix() == Register::FS
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == 0x30
}

fn operand_size(instruction: &Instruction, operand: u32) -> usize {
    match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        OpKind::Memory => instruction.memory_size().size(),
        _ => 0,
    }
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// Whether `instruction` moves a vector register to or from memory.
fn moves_vector(instruction: &Instruction) -> bool {
    let is_either = |operand| {
        instruction.op_kind(operand) == OpKind::Memory
            || instruction.op_register(operand).is_vector_register()
    };
    instruction.op_count() == 2 && is_either(0) && is_either(1)
}

fn is_conditional_move(instruction: &Instruction) -> bool {
    instruction.condition_code() != ConditionCode::None && instruction.op_count() == 2
}

fn compute(mnemonic: Mnemonic, a: u64, b: u64) -> u64 {
    match mnemonic {
        Mnemonic::Add => a.wrapping_add(b),
        Mnemonic::Sub => a.wrapping_sub(b),
        Mnemonic::Or => a | b,
        Mnemonic::And => a & b,
        _ => a.checked_shl(b as u32 & 0x3f).unwrap_or(0),
    }
}
