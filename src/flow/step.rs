//! One instruction executed on a [`State`]: what becomes of values, and what is done with those of sites.

use iced_x86::{
    Code, ConditionCode, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register, UsedMemory,
};

use super::known::{Known, Series};
use super::place::{Place, has_memory};
use super::state::{SiteSet, Slot, State, Value, WHOLE_STACK, add, bytes_at, sign_extended, truncated};
use super::{Analysis, Next, Use};
use crate::addr::Vaddr;
use crate::code::{self, Doubt};
use crate::registers::{R11, RAX, RBP, RCX, RSP, SYSCALL_ARGUMENTS, gpr, reads, writes};
use crate::site::Deed;
use crate::vsyscall::Entry;

/// Where the stack pointer is taken to be after `and $-N,%rsp`: far below everything before it.
const REALIGNED_FRAME: i64 = 1 << 20;

/// Instructions behind a comparison in which its flags are read.
const FLAGS_READ_BEHIND: usize = 8;

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
            Mnemonic::Imul => self.multiply(index, state)?,
            Mnemonic::Cdqe | Mnemonic::Movsxd => self.sign_extend(index, state)?,
            Mnemonic::Syscall => {
                for register in SYSCALL_ARGUMENTS {
                    let used = Use::Argument { callee: None, register };
                    self.used(state.registers[register].plain_sites(), used);
                    self.used(state.registers[register].pointed_to, Use::Pointed);
                    self.escape(state, state.registers[register]);
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

    /// What operand `operand` of instruction `index` holds, as a 64-bit value.
    pub(super) fn read(&mut self, index: usize, state: &State, operand: u32) -> Value {
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
                    if self.is_in_frame(&instruction, state) {
                        if size == 8 {
                            return state.load_any();
                        }
                        self.slots_used(state.values_in(&WHOLE_STACK), Use::Computed);
                    }
                }
                self.copied(place, size, true);
                self.load(index, state, place, size)
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Value::UNKNOWN,
            _ => instruction.try_immediate(operand).map_or(Value::UNKNOWN, Value::constant),
        }
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
                let place = self.place(&instruction, state);
                self.store(state, place, size, value)?;
                if place == Place::Elsewhere && self.is_in_frame(&instruction, state) {
                    state.disturb(&WHOLE_STACK);
                }
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
        if let Place::Slot(offset) = place {
            // By an address in a slot, whoever is passed the slot's finds more.
            self.escape(state, value);
            let writer = self.instruction(self.current);
            let is_outgoing = writer.mnemonic() == Mnemonic::Push || writer.memory_base() != Register::RBP;
            let slot = Slot { offset, size, value, is_outgoing };
            if state.is_escaped(&bytes_at(offset, size)) {
                self.slots_used(value, Use::PASSED);
                return state.store(Slot { value: value.or_other(), ..slot });
            }
            return state.store(slot);
        }
        self.used(value.pointed_to, Use::Pointed);
        let stored = match place {
            Place::Word(at) if size == 8 => Use::StoredTo { at: Vaddr(at), joined: value.other },
            _ => Use::Stored,
        };
        self.used(value.plain_sites(), stored);
        self.used(value.mangled, Use::StoredMangled);
        if !matches!(place, Place::Word(_)) {
            state.disturb_escaped();
        }
        self.escape(state, value);
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
        match (entry, value.number()) {
            (Some(_), _) => Value { entry: sites, other: false, ..Value::UNKNOWN },
            (None, None) => Value { indexed: sites, ..Value::UNKNOWN },
            // gcc reaches an address by another one that is ten megabytes higher, where both are compared.
            (None, Some(_)) => value,
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
        let known = match (self.address(&instruction, state), self.place(&instruction, state)) {
            // Of what is added to an address, or to nothing, it is at most known what it is a multiple of.
            (Known::Series(series), Place::Elsewhere) if series.first != 0 => Known::Nothing,
            (known, _) => known,
        };
        if matches!(known, Known::Series(_) | Known::Nothing) {
            for register in [instruction.memory_base(), instruction.memory_index()] {
                if let Some(number) = gpr(register) {
                    let value = state.registers[number];
                    self.used(value.plain_sites(), Use::Computed);
                    let displacement = instruction.memory_displacement64().cast_signed();
                    self.escape(state, add(value, displacement.min(0)));
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

    fn push(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let value = self.read(index, state, 0);
        let value = self.defined(index, value);
        state.registers[RSP] = add(state.registers[RSP], -8);
        let place = state.registers[RSP].stack().map_or(Place::Elsewhere, Place::Slot);
        self.store(state, place, 8, value)
    }

    fn pop(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let top = state.registers[RSP].stack();
        let value = top.map_or(Value::UNKNOWN, |offset| state.load(offset, 8));
        state.registers[RSP] = add(state.registers[RSP], 8);
        self.write(index, state, Value { through_slot: false, ..value })?;
        if let Some(offset) = top {
            state.forget(&bytes_at(offset, 8));
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
        let with_null = match instruction.mnemonic() {
            Mnemonic::Test => {
                instruction.op0_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register()
            }
            _ => self.read(index, state, 1).number() == Some(0),
        };
        let null_check = with_null && operand_size(&instruction, 0) == 8 && self.asks_for_zero(index);
        if !null_check {
            self.used(left.union(right), Use::Compared);
        }
        self.bases_used(&instruction, state);
    }

    /// Whether what reads the flags of the comparison with zero number `index` asks whether it was zero, not for a sign.
    fn asks_for_zero(&self, index: usize) -> bool {
        let function = self.function;
        let straight = (index..function.instructions.len() - 1)
            .take_while(|&before| function.fall_through(before) == Some(before + 1));
        let behind = straight.map(|before| function.instructions[before + 1].condition_code());
        let asked = behind.take(FLAGS_READ_BEHIND).find(|&condition| condition != ConditionCode::None);
        asked.is_none_or(|condition| {
            use ConditionCode::{a, be, e, ne};
            [e, ne, a, be].contains(&condition)
        })
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
        let is_register =
            instruction.op0_kind() == OpKind::Register && gpr(instruction.op0_register()).is_some();
        let is_slot = || {
            operand_size(&instruction, 0) == 8 && matches!(self.place(&instruction, state), Place::Slot(_))
        };
        if !is_register && !is_slot() {
            return self.anything_else(index, state);
        }
        let (left, right) = (self.read(index, state, 0), self.read(index, state, 1));
        // `or $-1,%rax`, whatever was there.
        if instruction.mnemonic() == Mnemonic::Or && right.number() == Some(u64::MAX) {
            return self.write(index, state, right);
        }
        if !left.sites().is_empty() || !right.sites().is_empty() {
            return self.anything_else(index, state);
        }
        if instruction.op0_register() == Register::RSP && instruction.mnemonic() == Mnemonic::And {
            state.registers[RSP] = add(state.registers[RSP], -REALIGNED_FRAME);
            return Ok(());
        }
        let pointed_to = left.pointed_to.union(right.pointed_to);
        let value = match (instruction.mnemonic(), left.known, right.number()) {
            (Mnemonic::Add, Known::Stack(offset), Some(number)) => {
                Value::known(Known::Stack(offset.wrapping_add_unsigned(number)))
            }
            (Mnemonic::Sub, Known::Stack(offset), Some(number)) => {
                Value::known(Known::Stack(offset.wrapping_sub_unsigned(number)))
            }
            (mnemonic, Known::Constant(a), Some(b)) => {
                let number = compute(mnemonic, a, b);
                // A distance between two addresses is none.
                let is_address = !pointed_to.is_empty() && !self.is_global_offset_table(number);
                let pointed_to =
                    if is_address { self.cells_of_table(Vaddr(number)) } else { SiteSet::default() };
                Value { pointed_to, ..Value::constant(number) }
            }
            (_, Known::Stack(_), None) => {
                self.escape(state, left);
                Value::UNKNOWN
            }
            _ if subject => Value::UNKNOWN,
            (mnemonic, ..) => match self.series(mnemonic, left, right) {
                Known::Nothing if mnemonic != Mnemonic::Add || pointed_to.is_empty() => {
                    return self.anything_else(index, state);
                }
                // An address and an index, or a distance: still an address, of which nothing is done yet.
                known => {
                    self.escape(state, left);
                    self.escape(state, right);
                    Value { pointed_to, ..Value::known(known) }
                }
            },
        };
        self.write(index, state, value)
    }

    /// What is known of the element, or the index, that `mnemonic` makes of `left` and `right`.
    fn series(&self, mnemonic: Mnemonic, left: Value, right: Value) -> Known {
        let Some((known, other)) = left.known.series().zip(right.known.series()) else {
            return Known::Nothing;
        };
        let series = match (mnemonic, right.number()) {
            (Mnemonic::Add, _) => known.plus(other),
            (Mnemonic::Sub, Some(number)) => known.plus(Series::of(number.wrapping_neg())),
            (Mnemonic::Shl, Some(bits)) => known.times(1 << (bits & 0x3f)),
            (Mnemonic::Imul, Some(factor)) => known.times(factor),
            _ => return Known::Nothing,
        };
        let is_one =
            series.stride != 1 || self.is_base(series.first, left.pointed_to.union(right.pointed_to));
        if is_one { Known::from(series) } else { Known::Nothing }
    }

    /// `imul $size,index,index`.
    fn multiply(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        if self.instruction(index).op_count() != 3 {
            return self.anything_else(index, state);
        }
        let (left, right) = (self.read(index, state, 1), self.read(index, state, 2));
        let is_index = left.sites().union(left.pointed_to).is_empty() && left.stack().is_none();
        match self.series(Mnemonic::Imul, left, right) {
            known if is_index => self.write(index, state, Value::known(known)),
            _ => self.anything_else(index, state),
        }
    }

    fn sign_extend(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        if instruction.mnemonic() == Mnemonic::Cdqe {
            self.used(state.registers[RAX].plain_sites(), Use::Computed);
            state.registers[RAX] = sign_extended(state.registers[RAX]);
            return Ok(());
        }
        self.used(self.full_sites(&instruction, state, 1), Use::Computed);
        let value = sign_extended(self.read(index, state, 1));
        self.write(index, state, value)
    }

    /// An instruction that is not followed: what it reads is used, what it writes is unknown.
    fn anything_else(&mut self, index: usize, state: &mut State) -> Result<(), Doubt> {
        let instruction = self.function.instructions[index];
        let mut factory = std::mem::replace(&mut self.info, InstructionInfoFactory::new());
        let info_of = factory.info(&instruction);
        let place = has_memory(&instruction).then(|| self.place(&instruction, state));
        let is_move = moves_vector(&instruction) || instruction.is_string_instruction();
        // It is known what a register that is only a part of the address leads to.
        let is_followed = match place {
            Some(Place::Word(_) | Place::Slot(_)) => true,
            Some(Place::Table(..)) => instruction.memory_size().size() <= 8,
            _ => false,
        };
        let is_operand = |register: Register| {
            (0..instruction.op_count()).any(|operand| {
                instruction.op_kind(operand) == OpKind::Register
                    && gpr(instruction.op_register(operand)) == gpr(register)
            })
        };
        let is_address = |register: Register| {
            let registers = [instruction.memory_base(), instruction.memory_index()];
            is_followed && registers.contains(&register) && !is_operand(register)
        };
        for used in info_of.used_registers() {
            if let (Some(number), true) = (gpr(used.register()), reads(used.access())) {
                self.used(state.registers[number].plain_sites(), Use::Computed);
                if !is_address(used.register()) {
                    self.used(state.registers[number].pointed_to, Use::Pointed);
                }
            }
        }
        for used in info_of.used_memory() {
            let size = used.memory_size().size() as i64;
            match place.filter(|_| reads(used.access())) {
                Some(place) if is_move && !writes(used.access()) => self.copied(place, size, false),
                Some(place) => self.used(self.cells_at(place, size), Use::Computed),
                None => {}
            }
            self.memory_used(used, instruction.is_string_instruction(), state);
        }
        for operand in 0..instruction.op_count() {
            let is_register = instruction.op_kind(operand) == OpKind::Register;
            if let Some(number) = gpr(instruction.op_register(operand)).filter(|_| is_register) {
                self.escape(state, state.registers[number]);
            }
        }
        for used in info_of.used_registers() {
            if let (Some(number), true) = (gpr(used.register()), writes(used.access())) {
                if number == RSP && instruction.is_stack_instruction() {
                    let moved = i64::from(instruction.stack_pointer_increment());
                    state.registers[RSP] = add(state.registers[RSP], moved);
                } else {
                    self.escape(state, state.registers[number]);
                    state.registers[number] = Value::UNKNOWN;
                }
            }
        }
        self.info = factory;
        self.defined(index, Value::UNKNOWN);
        Ok(())
    }

    /// Memory is used by an instruction that is not followed; one of a string, `is_string`, from its address upwards.
    fn memory_used(&mut self, used: &UsedMemory, is_string: bool, state: &mut State) {
        let base = gpr(used.base()).map_or(Value::UNKNOWN, |number| state.registers[number]);
        let index = gpr(used.index()).map_or(Value::UNKNOWN, |number| state.registers[number]);
        let displacement = used.displacement().cast_signed();
        let is_indexed = used.index() != Register::None;
        let is_in_frame = base.stack().or(index.stack()).is_some();
        let size = (used.memory_size().size() as i64).max(1);
        match base.stack().filter(|_| !is_indexed).map(|base| base.wrapping_add(displacement)) {
            Some(offset) => {
                let behind = if is_string { i64::MAX } else { size };
                if reads(used.access()) {
                    self.slots_used(state.values_in(&bytes_at(offset, behind)), Use::Computed);
                }
                if writes(used.access()) {
                    state.disturb(&bytes_at(offset, behind));
                    state.forget(&bytes_at(offset, size));
                }
            }
            None => {
                if is_in_frame && reads(used.access()) {
                    self.slots_used(state.values_in(&WHOLE_STACK), Use::PASSED);
                }
                if writes(used.access()) {
                    if is_in_frame {
                        state.disturb(&WHOLE_STACK);
                    }
                    state.disturb_escaped();
                }
            }
        }
    }

    /// A site's value as the base or index of a memory operand is no call.
    pub(super) fn bases_used(&mut self, instruction: &Instruction, state: &State) {
        if has_memory(instruction) {
            for register in [instruction.memory_base(), instruction.memory_index()] {
                if let Some(number) = gpr(register) {
                    self.used(state.registers[number].plain_sites(), Use::Computed);
                }
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
                    state.values_in(&bytes_at(offset, instruction.memory_size().size() as i64)).plain_sites()
                }
                place => self.cells_at(place, instruction.memory_size().size() as i64),
            },
            _ => SiteSet::default(),
        }
    }
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
