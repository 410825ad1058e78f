//! What memory operands address, and the cells that an address may lead to.

use iced_x86::{Instruction, OpKind, Register};

use super::state::{Known, SiteSet, State, Value};
use super::{Analysis, Cell, Use};
use crate::addr::{Vaddr, VaddrRange};
use crate::limits;
use crate::registers::gpr;

/// What a memory operand addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Distance from the stack pointer at the function's entry.
    Slot(i64),
    /// A fixed address (before the load bias).
    Word(u64),
    /// A word of a table of 8-byte words that begins at a fixed address.
    Table(u64),
    /// Anything else.
    Elsewhere,
}

impl Analysis<'_> {
    /// What the memory operand of `instruction` addresses.
    pub(super) fn place(&self, instruction: &Instruction, state: &State) -> Place {
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

    /// Whether the memory operand of `instruction`, which is [`Place::Elsewhere`], counts from a stack address: it may be
    /// any slot.
    pub(super) fn is_in_frame(&self, instruction: &Instruction, state: &State) -> bool {
        let registers = [instruction.memory_base(), instruction.memory_index()];
        registers.into_iter().filter_map(gpr).any(|number| state.registers[number].stack().is_some())
    }

    pub(super) fn is_global_offset_table(&self, at: u64) -> bool {
        self.image.global_offset_table() == Some(Vaddr(at))
    }

    /// The cells of which the `size` bytes at `place` are a part; of a table, those that symbols tell belong to it: numbers
    /// may stand before a pointer.
    pub(super) fn cells_at(&self, place: Place, size: i64) -> SiteSet {
        match place {
            Place::Word(at) => self.cells_that(|cell| {
                at < cell.at.0.saturating_add(8) && cell.at.0 < at.saturating_add_signed(size)
            }),
            Place::Table(base) if size == 8 => self.cells_that(|cell| {
                let is_of_table = cell.object.is_some_and(|object| object.contains(Vaddr(base)));
                is_of_table && self.is_in_table(base, cell.at)
            }),
            Place::Table(_) | Place::Slot(_) | Place::Elsewhere => SiteSet::default(),
        }
    }

    /// `size` bytes at `place` are read, as it is followed or not: cells whose words go along in another way than
    /// [`load`](Self::load) has it are read by code unseen from here on.
    pub(super) fn copied(&mut self, place: Place, size: i64, is_followed: bool) {
        let sites = match place {
            Place::Word(at) => {
                let is_read = |cell: Vaddr| {
                    let overlaps = at < cell.0.saturating_add(8) && cell.0 < at.saturating_add_signed(size);
                    overlaps && !(is_followed && at == cell.0 && size == 8)
                };
                self.cells_that(|cell| is_read(cell.at))
            }
            Place::Table(base) if size > 8 || (size == 8 && !is_followed) => self.cells_of_table(Vaddr(base)),
            Place::Table(_) | Place::Slot(_) | Place::Elsewhere => SiteSet::default(),
        };
        self.used(sites, Use::Copied);
    }

    pub(super) fn load(&mut self, index: usize, state: &State, place: Place, size: i64) -> Value {
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
                    if self.is_in_table(base, cell.at) && !self.is_behind_object(base, cell.at) {
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

    /// `value`, which the `lea` that `instruction` is computes, with the cells that it may be an address of.
    pub(super) fn pointing(&mut self, value: Value, instruction: &Instruction, state: &State) -> Value {
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

    /// The cells that may belong to a table at `base`: of the same object, where symbols tell of objects.
    pub(super) fn cells_of_table(&self, base: Vaddr) -> SiteSet {
        let is_of_object = |cell: &Cell| cell.object.is_none_or(|object| object.contains(base));
        self.cells_that(|cell| self.is_in_table(base.0, cell.at) && is_of_object(cell))
    }

    /// Whether the word at `at` may belong to a table that begins at `base`. Tables of functions that run at the begin or
    /// end of the program end with their sections.
    fn is_in_table(&self, base: u64, at: Vaddr) -> bool {
        const ARRAYS: [&[u8]; 5] = [b".preinit_array", b".init_array", b".fini_array", b".ctors", b".dtors"];
        let is_near = at.0.wrapping_sub(base) < 8 * limits::TABLE_WORDS;
        let mut arrays = self.image.sections.iter().filter(|section| ARRAYS.contains(&section.name));
        is_near && !arrays.any(|array| base < array.range.end.0 && array.range.end <= at)
    }

    /// Whether symbols tell of an object that begins at `base` and ends before `at`.
    fn is_behind_object(&self, base: u64, at: Vaddr) -> bool {
        let is_before = |object: &VaddrRange| object.start.0 == base && object.end <= at;
        self.subjects.objects.iter().any(|object| !object.is_empty() && is_before(object))
    }

    fn cells_that(&self, is_it: impl Fn(&Cell) -> bool) -> SiteSet {
        let cells = self.subjects.cells.iter().enumerate().filter(|(_, cell)| is_it(cell));
        let sites = cells.map(|(number, _)| SiteSet::one(self.subjects.cell(number)));
        sites.fold(SiteSet::default(), SiteSet::union)
    }

    /// The cells that whoever gets `value` may find by it: a distance from the global offset table alone leads nowhere.
    pub(super) fn pointers(&self, value: Value) -> SiteSet {
        let is_distance = |number: u64| {
            let table = self.image.global_offset_table().map_or(0, |table| table.0);
            let leads = |to: u64| !self.cells_of_table(Vaddr(to)).is_empty();
            leads(table.wrapping_add(number)) && !leads(number)
        };
        if value.number().is_some_and(is_distance) { SiteSet::default() } else { value.pointed_to }
    }

    /// Memory that may be a cell is read in a way that is not followed.
    pub(super) fn bases_pointed(&mut self, instruction: &Instruction, state: &State) {
        for register in [instruction.memory_base(), instruction.memory_index()] {
            if let Some(number) = gpr(register) {
                self.used(state.registers[number].pointed_to, Use::Pointed);
            }
        }
    }
}

pub(super) fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}
