//! [`Image`] -> decoded functions: instruction boundaries and control flow.
//! The only user of iced-x86's decoder.

use std::collections::BTreeMap;

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, ConstantOffsets, Decoder, DecoderOptions, FlowControl,
    Formatter as _, GasFormatter, Instruction, InstructionBlock, Mnemonic, OpKind, Register,
};

use crate::addr::{Vaddr, VaddrRange};
use crate::elf::Image;
use crate::functions::{Extent, Functions};
use crate::landing_pads::landing_pads;
use crate::limits;
use crate::search;
use crate::vsyscall::Entry;

/// The assembly of `bytes`, which stand at `at`, in AT&T syntax, an instruction a line.
/// Bytes that are no instruction show as `(bad)`.
#[must_use]
pub fn assembly(bytes: &[u8], at: Vaddr) -> Vec<String> {
    instructions(bytes, at).map(|(_, _, assembly)| assembly).collect()
}

/// The first instruction of `bytes`, which stand at `at`.
pub(crate) fn first(bytes: &[u8], at: Vaddr) -> Option<Instruction> {
    let instruction = Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// The instructions of `bytes`, which stand at `at`: address, bytes and assembly of each, as [`assembly`] has it.
pub fn instructions(bytes: &[u8], at: Vaddr) -> impl Iterator<Item = (Vaddr, &[u8], String)> {
    let mut formatter = GasFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(false);
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_branch_leading_zeros(false);
    let mut decoder = Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        let start = decoder.position();
        if !decoder.can_decode() {
            return None;
        }
        let instruction = decoder.decode();
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        Some((Vaddr(instruction.ip()), &bytes[start..decoder.position()], line))
    })
}

/// The address that the first of the instructions `bytes`, which stand at `at`, loads, stores, pushes or
/// branches to.
#[must_use]
pub(crate) fn refers_to(bytes: &[u8], at: Vaddr) -> Option<Vaddr> {
    let instruction = Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE).decode();
    let immediate =
        (0..instruction.op_count()).rev().find_map(|operand| instruction.try_immediate(operand).ok());
    match instruction.op0_kind() {
        OpKind::NearBranch64 => Some(Vaddr(instruction.near_branch_target())),
        _ if instruction.code() == Code::Lea_r64_m => Some(Vaddr(instruction.memory_displacement64())),
        _ if subtracts(&instruction) => immediate.map(|number| Vaddr(number.wrapping_neg())),
        _ => immediate.map(Vaddr),
    }
}

/// Why a piece of code could not be taken as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// There is nothing that says where instructions begin.
    NoBoundary,
    /// A branch leads into the middle of an instruction.
    Overlap,
    /// A bound of [`limits`] was reached.
    Limit,
}

impl Doubt {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NoBoundary => "nothing proves where instructions begin here",
            Self::Overlap => "a branch leads into the middle of an instruction",
            Self::Limit => "analysis limit",
        }
    }
}

/// A function and its out-of-line parts, decoded.
#[derive(Debug)]
pub(crate) struct Function<'a> {
    /// What is known of the part that was asked for.
    pub(crate) extent: Extent<'a>,
    /// The parts, the one that was asked for first.
    pub(crate) parts: Vec<VaddrRange>,
    /// All instructions, by address, disjoint.
    pub(crate) instructions: Vec<Instruction>,
    /// Where each indirect jump may lead, by its number.
    indirect_jumps: BTreeMap<usize, Targets>,
    /// Numbers of the instructions where exceptions continue.
    pub(crate) landing_pads: Vec<usize>,
}

/// Where an indirect jump may lead.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    /// Numbers of instructions in the function.
    pub(crate) inside: Vec<usize>,
    /// They are those of a jump table that is understood; else it may lead elsewhere, too.
    pub(crate) are_all: bool,
}

impl<'a> Function<'a> {
    /// Decodes the function that holds `at`, without its out-of-line parts.
    pub(crate) fn decode(image: &Image<'_>, functions: &Functions<'a>, at: Vaddr) -> Result<Self, Doubt> {
        Self::bounded(image, functions, at)
            .or_else(|| Self::unbounded(image, functions, at))
            .ok_or(Doubt::NoBoundary)
    }

    /// The same where nothing does: from where a branch leads, which all code of the file is searched for, or from where
    /// decodes converge.
    pub(crate) fn unbounded(image: &Image<'_>, functions: &Functions<'a>, at: Vaddr) -> Option<Self> {
        Some(Self::swept(image, unbounded_extent(image, functions, at)?))
    }

    /// The same where something says where a function begins.
    pub(crate) fn bounded(image: &Image<'_>, functions: &Functions<'a>, at: Vaddr) -> Option<Self> {
        let extent = functions
            .extent(image, at)
            .filter(|extent| extent.range.contains(at) && extent.range.len() <= limits::FUNCTION_BYTES)
            // What begins somewhere and ends nobody knows where is no function of a whole program's size.
            .filter(|extent| {
                let has_end = extent.nominal_end > extent.range.start;
                has_end || at.0 - extent.range.start.0 <= UNBOUNDED_BYTES
            })
            .filter(|extent| {
                let behind = VaddrRange { start: extent.nominal_end, end: at.plus(1) };
                at < extent.nominal_end
                    || is_reached(image, *extent, at)
                    || converges(image, at, extent.range.start)
                    || branched_to(image, functions, behind, at).is_some()
            })?;
        Some(Self::swept(image, extent))
    }

    /// The instructions of `extent`, from its first byte on.
    fn swept(image: &Image<'_>, extent: Extent<'a>) -> Self {
        let (parts, instructions) = (vec![extent.range], sweep(image, extent.range));
        Self { extent, parts, instructions, indirect_jumps: BTreeMap::new(), landing_pads: Vec::new() }
    }

    /// Adds the out-of-line parts, and checks that all branches fit the decoding.
    pub(crate) fn complete(mut self, image: &Image<'_>, functions: &Functions<'a>) -> Result<Self, Doubt> {
        self.add_parts(image, functions)?;
        self.check_branches()?;
        self.add_indirect_jumps(image);
        let tables = self.parts.iter().filter_map(|part| {
            let extent = functions.extent(image, part.start).filter(|extent| extent.range == *part)?;
            Some((part.start, extent.lsda?))
        });
        let pads = tables.flat_map(|(start, lsda)| landing_pads(image, lsda, start));
        self.landing_pads = pads.filter_map(|pad| self.index_of(pad)).collect();
        Ok(self)
    }

    /// Finds out where indirect jumps lead. One whose table is not understood may lead wherever a table
    /// that the function refers to leads.
    fn add_indirect_jumps(&mut self, image: &Image<'_>) {
        let is_indirect =
            |&index: &usize| self.instructions[index].flow_control() == FlowControl::IndirectBranch;
        let mut somewhere: Option<Vec<usize>> = None;
        let mut jumps = BTreeMap::new();
        for index in (0..self.instructions.len()).filter(is_indirect) {
            let known = self.jump_table_targets(image, index);
            let targets = if known.is_empty() {
                let inside = somewhere.get_or_insert_with(|| self.table_targets(image)).clone();
                Targets { inside, are_all: false }
            } else {
                Targets { inside: known, are_all: true }
            };
            jumps.insert(index, targets);
        }
        self.indirect_jumps = jumps;
    }

    /// Where the indirect jump number `index` may lead.
    pub(crate) fn targets(&self, index: usize) -> Targets {
        self.indirect_jumps.get(&index).cloned().unwrap_or_default()
    }

    /// Where any table that the function refers to would lead.
    fn table_targets(&self, image: &Image<'_>) -> Vec<usize> {
        let absolute = self.instructions.iter().filter(|instruction| {
            instruction.memory_index() != Register::None && instruction.memory_base() == Register::None
        });
        let absolute: Vec<Vaddr> =
            absolute.map(|instruction| Vaddr(instruction.memory_displacement64())).collect();
        let mut targets = Vec::new();
        for table in self.addresses_taken(image).chain(absolute) {
            self.read_table(image, table, TableKind::Absolute, &mut targets);
            self.read_table(image, table, TableKind::Relative, &mut targets);
            targets.sort_unstable();
            targets.dedup();
        }
        targets
    }

    /// Follows jumps that leave the function for a place that is no function of its own.
    fn add_parts(&mut self, image: &Image<'_>, functions: &Functions<'a>) -> Result<(), Doubt> {
        let mut next = 0;
        while self.extent.is_bounded && next < self.parts.len() {
            let part = self.parts[next];
            next += 1;
            let first = self.instructions.partition_point(|instruction| instruction.ip() < part.start.0);
            let outside: Vec<Vaddr> = self.instructions[first..]
                .iter()
                .take_while(|instruction| instruction.ip() < part.end.0)
                .filter_map(jump_target)
                .filter(|&target| !self.contains(target))
                .collect();
            for target in outside {
                if self.contains(target) {
                    continue;
                }
                let Some(extent) =
                    functions.extent(image, target).filter(|extent| is_part(functions, *extent, target))
                else {
                    continue;
                };
                let bytes: u64 = self.parts.iter().map(|part| part.len()).sum();
                if self.parts.len() == limits::FUNCTION_PARTS
                    || bytes + extent.range.len() > limits::FUNCTION_BYTES
                {
                    return Err(Doubt::Limit);
                }
                self.parts.push(extent.range);
                let at =
                    self.instructions.partition_point(|instruction| instruction.ip() < extent.range.start.0);
                let decoded = sweep(image, extent.range);
                self.instructions.splice(at..at, decoded);
            }
        }
        Ok(())
    }

    /// Every branch inside must land on an instruction, or skip a `lock` prefix as glibc's atomics do.
    fn check_branches(&self) -> Result<(), Doubt> {
        let lands = |instruction: &Instruction| {
            jump_target(instruction).is_none_or(|target| {
                !self.contains(target) || self.landing(target).is_some() || self.is_behind(target)
            })
        };
        if self.instructions.iter().all(lands) { Ok(()) } else { Err(Doubt::Overlap) }
    }

    /// Whether `at` lies where decoding stopped before.
    fn is_behind(&self, at: Vaddr) -> bool {
        let before = self.instructions.partition_point(|instruction| instruction.ip() <= at.0);
        before.checked_sub(1).is_none_or(|before| self.instructions[before].next_ip() <= at.0)
    }

    /// Whether `at` lies in one of the parts.
    pub(crate) fn contains(&self, at: Vaddr) -> bool {
        self.parts.iter().any(|part| part.contains(at))
    }

    /// Index of the instruction that begins at `at`.
    pub(crate) fn index_of(&self, at: Vaddr) -> Option<usize> {
        self.instructions.binary_search_by_key(&at.0, Instruction::ip).ok()
    }

    /// Index of the instruction that a branch to `at` executes first.
    pub(crate) fn landing(&self, at: Vaddr) -> Option<usize> {
        self.index_of(at).or_else(|| {
            let locked = self.index_of(Vaddr(at.0.wrapping_sub(1)))?;
            self.instructions[locked].has_lock_prefix().then_some(locked)
        })
    }

    /// Index of the instruction that covers `at`.
    pub(crate) fn covering(&self, at: Vaddr) -> Option<usize> {
        let index =
            self.instructions.partition_point(|instruction| instruction.ip() <= at.0).checked_sub(1)?;
        (at.0 < self.instructions[index].next_ip()).then_some(index)
    }

    /// Index of the instruction behind number `index`, where control falls through to it.
    pub(crate) fn fall_through(&self, index: usize) -> Option<usize> {
        let instruction = &self.instructions[index];
        let next = self.instructions.get(index + 1)?;
        (next.ip() == instruction.next_ip() && !ends_flow(instruction)).then_some(index + 1)
    }

    /// Where the indirect jump number `index` may lead, where jump tables tell; else nothing.
    fn jump_table_targets(&self, image: &Image<'_>, index: usize) -> Vec<usize> {
        let jump = &self.instructions[index];
        let first = index.saturating_sub(JUMP_TABLE_LOOK_BACK);
        let mut targets = Vec::new();
        for load in self.instructions[first..=index].iter().rev() {
            if load.memory_index() == Register::None && load.memory_base() == Register::None {
                continue;
            }
            match (load.code(), load.memory_index_scale()) {
                (Code::Jmp_rm64 | Code::Mov_r64_rm64, 8) if load.op_count() > 0 => {
                    let table = Vaddr(load.memory_displacement64());
                    if load.memory_base() == Register::None {
                        self.read_table(image, table, TableKind::Absolute, &mut targets);
                    }
                }
                (Code::Movsxd_r64_rm32 | Code::Mov_r32_rm32 | Code::Add_r32_rm32, 4) => {
                    for table in self.addresses_taken(image) {
                        self.read_table(image, table, TableKind::Relative, &mut targets);
                    }
                }
                _ => continue,
            }
            if load.ip() == jump.ip() || !targets.is_empty() {
                break;
            }
        }
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// What `lea rel32(%rip)` in this function points to, or a distance from the global offset table.
    fn addresses_taken(&self, image: &Image<'_>) -> impl Iterator<Item = Vaddr> {
        self.instructions.iter().filter_map(|instruction| {
            let is_lea = instruction.code() == Code::Lea_r64_m && instruction.is_ip_rel_memory_operand();
            let taken = is_lea.then(|| Vaddr(instruction.ip_rel_memory_address()));
            taken.or_else(|| distance_from_table(image, instruction))
        })
    }

    fn read_table(&self, image: &Image<'_>, table: Vaddr, kind: TableKind, targets: &mut Vec<usize>) {
        let Some(bytes) = image.bytes_at(table) else { return };
        let limit = limits::JUMP_TABLE_ENTRIES;
        match kind {
            TableKind::Absolute => {
                let entries = bytes.as_chunks::<8>().0.iter().map(|entry| Vaddr(u64::from_le_bytes(*entry)));
                self.take_targets(entries.take(limit), targets);
            }
            TableKind::Relative => {
                let entries =
                    bytes.as_chunks::<4>().0.iter().map(|entry| {
                        Vaddr(table.0.wrapping_add_signed(i64::from(i32::from_le_bytes(*entry))))
                    });
                self.take_targets(entries.take(limit), targets);
            }
        }
    }

    /// Takes entries of a table as long as they lead into this function.
    fn take_targets(&self, entries: impl Iterator<Item = Vaddr>, targets: &mut Vec<usize>) {
        targets.extend(entries.map_while(|entry| self.landing(entry)));
    }
}

/// Instructions before an indirect jump among which its table is looked for.
const JUMP_TABLE_LOOK_BACK: usize = 24;

#[derive(Clone, Copy)]
enum TableKind {
    /// 8-byte addresses.
    Absolute,
    /// 4-byte distances from the table's own address.
    Relative,
}

/// Whether a jump to `target` stays in the same function: into the middle of a piece of code, or to a
/// piece that the compiler split off.
fn is_part(functions: &Functions<'_>, extent: Extent<'_>, target: Vaddr) -> bool {
    !functions.begins_at(target) || extent.name.is_none_or(|name| name.contains(".cold"))
}

/// The address to which the number that `instruction` loads is the distance from the global offset table, as code of
/// the medium and large models has it (`movabs $word@GOTOFF,%rax`).
pub(crate) fn distance_from_table(image: &Image<'_>, instruction: &Instruction) -> Option<Vaddr> {
    if instruction.code() != Code::Mov_r64_imm64 {
        return None;
    }
    let target = Vaddr(image.global_offset_table()?.0.wrapping_add(instruction.immediate64()));
    // That of a slot of the table itself (`@GOT`) leads to what the slot holds.
    let is_slot = image.is_in_global_offset_table(target);
    image.segment_at(target).filter(|_| !is_slot).map(|_| target)
}

/// Where the jump `instruction` leads, if it is a direct one (calls are none).
pub(crate) fn jump_target(instruction: &Instruction) -> Option<Vaddr> {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend
            if matches!(
                instruction.op0_kind(),
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
            ) =>
        {
            Some(Vaddr(instruction.near_branch_target()))
        }
        _ => None,
    }
}

/// Whether control never goes on behind `instruction`.
pub(crate) fn ends_flow(instruction: &Instruction) -> bool {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return => true,
        FlowControl::Exception => true,
        _ => instruction.code() == Code::Hlt,
    }
}

/// Whether `instruction` does nothing: the filling between functions.
pub(crate) fn is_padding(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Int3 | Code::Nopw | Code::Nopd | Code::Nopq | Code::Nop_rm16 | Code::Nop_rm32 | Code::Nop_rm64
    ) || (matches!(instruction.code(), Code::Xchg_r64_RAX | Code::Xchg_r16_AX)
        && instruction.op0_register() == instruction.op1_register())
        || (matches!(instruction.code(), Code::Lea_r64_m)
            && instruction.memory_base() == instruction.op0_register()
            && instruction.memory_index() == Register::None
            && instruction.memory_displacement64() == 0)
}

/// Whether `bytes` are what stands between functions: zeros, or nothing but padding instructions.
pub(crate) fn are_padding(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
        || Decoder::new(64, bytes, DecoderOptions::NONE).iter().all(|instruction| is_padding(&instruction))
}

/// Decodes `range` from its first byte until something that is no instruction, or as far as a function goes
/// at most.
pub(crate) fn sweep(image: &Image<'_>, range: VaddrRange) -> Vec<Instruction> {
    let Some(bytes) = image.bytes_at(range.start) else { return Vec::new() };
    let len = range.len().min(limits::FUNCTION_BYTES) as usize;
    let bytes = &bytes[..bytes.len().min(len)];
    let mut decoder = Decoder::with_ip(64, bytes, range.start.0, DecoderOptions::NONE);
    let mut instructions = Vec::with_capacity(bytes.len() / 4);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        instructions.push(instruction);
    }
    instructions
}

/// The instruction at `at`.
pub(crate) fn instruction_at(image: &Image<'_>, at: Vaddr) -> Option<Instruction> {
    let bytes = image.bytes_at(at).filter(|_| image.is_executable(at))?;
    let instruction = Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Whether `instruction` subtracts its operand.
pub(crate) fn subtracts(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Sub_RAX_imm32 | Code::Sub_rm64_imm32)
}

/// The addresses that `lea` instructions among `bytes`, which stand at `at`, load by the instruction pointer, each
/// with the entry that the nearest comparison is with, if any: what a detour puts in the stead of what.
pub(crate) fn replacements(bytes: &[u8], at: Vaddr) -> Vec<(Vaddr, Option<Entry>)> {
    let (mut found, mut address, mut entry) = (Vec::new(), None, None);
    for instruction in Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE) {
        if instruction.code() == Code::Lea_r64_m && instruction.is_ip_rel_memory_operand() {
            address = Some(Vaddr(instruction.ip_rel_memory_address()));
        } else if matches!(instruction.code(), Code::Cmp_rm64_imm32 | Code::Cmp_RAX_imm32) {
            entry = Entry::at(instruction.immediate32to64().cast_unsigned());
        }
        if entry.is_some()
            && let Some(address) = address.take()
        {
            found.push((address, entry.take()));
        }
    }
    found.extend(address.map(|address| (address, None)));
    found
}

/// Whether `instruction` has its displacement or its immediate at `at`.
pub(crate) fn has_operand_at(image: &Image<'_>, instruction: &Instruction, at: Vaddr) -> bool {
    let offsets = constant_offsets(image, instruction);
    let is_at = |present: bool, distance: usize| present && instruction.ip() + distance as u64 == at.0;
    is_at(offsets.has_displacement(), offsets.displacement_offset())
        || is_at(offsets.has_immediate(), offsets.immediate_offset())
}

/// Whether the bytes before `at` are the opcode of a direct branch.
pub(crate) fn may_be_branch_operand(image: &Image<'_>, at: Vaddr) -> bool {
    let before = |distance: u64| image.array_at::<1>(Vaddr(at.0.wrapping_sub(distance))).map(|[byte]| byte);
    matches!(before(1), Some(0xe8 | 0xe9))
        || (before(2) == Some(0x0f) && matches!(before(1), Some(0x80..=0x8f)))
}

/// Whether the four bytes at `at` may be a displacement from the instruction pointer: a branch's, or that
/// of a memory operand (whose ModRM byte has mod 00, rm 101).
pub(crate) fn may_be_displacement(image: &Image<'_>, at: Vaddr) -> bool {
    let modrm = image.array_at::<1>(Vaddr(at.0.wrapping_sub(1)));
    may_be_branch_operand(image, at) || modrm.is_some_and(|[byte]| byte & 0xc7 == 0x05)
}

/// The bytes of the instructions `code` for `place`; nothing where a branch or an operand does not reach from there.
pub(crate) fn encoded(code: &[Instruction], place: Vaddr) -> Option<Vec<u8>> {
    let block = InstructionBlock::new(code, place.0);
    BlockEncoder::encode(64, block, BlockEncoderOptions::DONT_FIX_BRANCHES)
        .ok()
        .map(|result| result.code_buffer)
}

/// Where in `instruction`, which stands in `image`, its immediate and displacement are.
pub(crate) fn constant_offsets(image: &Image<'_>, instruction: &Instruction) -> ConstantOffsets {
    let bytes = image.bytes_at(Vaddr(instruction.ip())).unwrap_or_default();
    let mut decoder = Decoder::with_ip(64, bytes, instruction.ip(), DecoderOptions::NONE);
    let again = decoder.decode();
    decoder.get_constant_offsets(&again)
}

/// Bytes within which decodes that start at different places may still disagree.
const CONVERGENCE_DISTANCE: u64 = 64;

/// Where decodes that start at many places before `at` all have an instruction boundary: the highest
/// such boundary at or below `at`, or nothing where they do not meet.
///
/// What stands at a place is decoded once, for all the decodes that come by.
fn convergence(image: &Image<'_>, at: Vaddr, floor: Vaddr) -> Option<Vaddr> {
    let from = at.0.saturating_sub(limits::CONVERGENCE_WINDOW).max(floor.0);
    let bytes = image.bytes_at(Vaddr(from)).filter(|_| from <= at.0)?;
    let bytes = &bytes[..bytes.len().min((at.0 - from) as usize + LONGEST_INSTRUCTION)];
    let count = (at.0 - from) as usize + 1;
    // By distance from `from`: the length of what stands there, 0 for no instruction.
    let lengths: Vec<usize> = (0..count).map(|place| instruction_length(bytes, place)).collect();
    let next = |place: usize| Some(place + lengths[place]).filter(|&next| next < count && lengths[next] > 0);
    // Whether the last instruction of a decode from there ends behind `at`, or might if it were longer.
    let mut arrives = vec![false; count];
    for place in (0..count).rev().filter(|&place| lengths[place] > 0) {
        arrives[place] = next(place).map_or(place + LONGEST_INSTRUCTION >= count, |next| arrives[next]);
    }
    let starts = count.saturating_sub(CONVERGENCE_DISTANCE as usize);
    // How many of the decodes come by.
    let mut passing: Vec<usize> =
        (0..count).map(|place| usize::from(place < starts && arrives[place])).collect();
    let decodes: usize = passing.iter().sum();
    for place in (0..count).filter(|&place| lengths[place] > 0) {
        if let Some(next) = next(place) {
            passing[next] += passing[place];
        }
    }
    let meeting = passing.iter().rposition(|&passing| passing == decodes)?;
    (decodes >= limits::CONVERGING_DECODES).then(|| Vaddr(from + meeting as u64))
}

/// Bytes of the instruction that begins at `place` in `bytes`; 0 where none does.
fn instruction_length(bytes: &[u8], place: usize) -> usize {
    let Some(bytes) = bytes.get(place..) else { return 0 };
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return 0;
    }
    let instruction = decoder.decode();
    if instruction.is_invalid() { 0 } else { instruction.len() }
}

/// Bytes of an instruction, at most.
const LONGEST_INSTRUCTION: usize = 15;

/// Whether direct jumps and straight code lead from the function's first byte to `at`.
fn is_reached(image: &Image<'_>, extent: Extent<'_>, at: Vaddr) -> bool {
    let function = Function::swept(image, extent);
    let mut seen = vec![false; function.instructions.len()];
    let mut work: Vec<usize> = function.index_of(extent.range.start).into_iter().collect();
    while let Some(index) = work.pop() {
        if std::mem::replace(&mut seen[index], true) {
            continue;
        }
        let target = jump_target(&function.instructions[index]).and_then(|target| function.landing(target));
        work.extend(target.into_iter().chain(function.fall_through(index)));
    }
    function.covering(at).is_some_and(|index| seen[index])
}

/// Branches to out-of-line code that are looked at; one is enough.
const BRANCHES_TO_ONE_PLACE: usize = 16;

/// Whether `function` jumps to an address that it computes, and that is not known: `goto *(&&a + distances[i])`. Control
/// may then arrive at any of its instructions. (What is loaded or passed is a function of its own.)
pub(crate) fn jumps_by_distance(function: &Function<'_>) -> bool {
    const NEAR: usize = 8;
    let instructions = &function.instructions;
    (0..instructions.len()).any(|index| {
        let jump = &instructions[index];
        if jump.code() != Code::Jmp_rm64
            || jump.op0_kind() != OpKind::Register
            || function.targets(index).are_all
        {
            return false;
        }
        let written = |before: &&Instruction| {
            before.op0_kind() == OpKind::Register && before.op0_register() == jump.op0_register()
        };
        let before = &instructions[index.saturating_sub(NEAR)..index];
        before.iter().rev().find(written).is_some_and(|before| before.mnemonic() == Mnemonic::Add)
    })
}

/// Where in `behind`, which ends with `at`, a direct branch of a function that can be decoded leads, if straight code leads
/// from there to `at`: out-of-line code.
fn branched_to(image: &Image<'_>, functions: &Functions<'_>, behind: VaddrRange, at: Vaddr) -> Option<Vaddr> {
    let (mut targets, mut places) = (Vec::new(), 0);
    let mut note = |place: Vaddr| {
        let holder = functions.extent(image, place).filter(|holder| place < holder.nominal_end);
        let instructions = holder.map_or_else(Vec::new, |holder| {
            sweep(image, VaddrRange { start: holder.range.start, end: holder.nominal_end })
        });
        let branch = instructions.iter().find(|branch| branch.next_ip() == place.0.wrapping_add(4));
        if branch.is_some_and(|branch| has_operand_at(image, branch, place)) {
            let displacement = image.array_at(place).map_or(0, i32::from_le_bytes);
            targets.push(place.plus(4).0.wrapping_add_signed(i64::from(displacement)));
        }
    };
    let is_searched = search::relative_references_in(image, functions.stretches(image), behind, |place| {
        if places < BRANCHES_TO_ONE_PLACE && may_be_branch_operand(image, place) && !behind.contains(place) {
            places += 1;
            note(place);
        }
    });
    let leads_there = |target: &u64| {
        let code = sweep(image, VaddrRange { start: Vaddr(*target), end: at.plus(15) });
        let straight = code.iter().take_while(|instruction| instruction.ip() <= at.0);
        straight.last().is_some_and(|last| at.0 < last.next_ip())
    };
    targets.into_iter().filter(|_| is_searched).find(leads_there).map(Vaddr)
}

/// Whether a decode from `start` agrees at `at` with decodes from everywhere before.
fn converges(image: &Image<'_>, at: Vaddr, start: Vaddr) -> bool {
    let Some(meeting) = convergence(image, at, start) else { return false };
    sweep(image, VaddrRange { start, end: at.plus(15) })
        .iter()
        .any(|instruction| instruction.ip() == meeting.0)
}

/// The code around `at` where nothing says where functions begin: from where decodes converge.
fn unbounded_extent<'a>(image: &Image<'_>, functions: &Functions<'a>, at: Vaddr) -> Option<Extent<'a>> {
    let segment = image.segment_at(at)?;
    let next = functions.next_start(at).unwrap_or(segment.range.end).min(segment.range.end);
    let near = Vaddr(at.0.saturating_sub(CONVERGENCE_DISTANCE)).max(segment.range.start);
    let branched = branched_to(image, functions, VaddrRange { start: near, end: at.plus(1) }, at);
    let start = branched.or_else(|| convergence(image, at, segment.range.start))?;
    let end = Vaddr(next.0.min(start.0 + UNBOUNDED_BYTES));
    let range = VaddrRange { start, end };
    Some(Extent { range, nominal_end: end, name: None, is_bounded: false, is_resolver: false, lsda: None })
}

/// Bytes behind a place without function bounds that are read as the same function.
const UNBOUNDED_BYTES: u64 = 4096;
