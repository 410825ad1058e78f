//! What memory operands address, and the cells that an address may lead to.

use iced_x86::{Instruction, OpKind, Register};

use super::known::{Known, Series};
use super::state::{SiteSet, State, Value};
use super::{Analysis, Cell, Use};
use crate::addr::{Vaddr, VaddrRange};
use crate::elf::FileType;
use crate::limits;
use crate::references;
use crate::registers::gpr;

/// What a memory operand addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Distance from the stack pointer at the function's entry.
    Slot(i64),
    /// A fixed address (before the load bias).
    Word(u64),
    /// One of these addresses, which are counted from this one.
    Table(Series, Vaddr),
    /// Anything else.
    Elsewhere,
}

impl Analysis<'_> {
    /// What the memory operand of `instruction` addresses.
    pub(super) fn place(&self, instruction: &Instruction, state: &State) -> Place {
        if matches!(instruction.segment_prefix(), Register::FS | Register::GS) {
            return Place::Elsewhere;
        }
        match self.address(instruction, state) {
            Known::Stack(offset) => Place::Slot(offset),
            Known::Constant(at) => Place::Word(at),
            Known::Series(series) if self.is_of_file(instruction, state, series) => {
                let displacement = instruction.memory_displacement64();
                // As with an index that counts from one.
                let is_before = displacement.cast_signed() < 0;
                let from = if is_before { series.first.wrapping_sub(displacement) } else { series.first };
                Place::Table(series, Vaddr(from))
            }
            Known::Series(_) | Known::Nothing => Place::Elsewhere,
        }
    }

    /// The address, or the number, that the base, index and displacement of `instruction` make.
    pub(super) fn address(&self, instruction: &Instruction, state: &State) -> Known {
        if instruction.is_ip_rel_memory_operand() {
            return Known::Constant(instruction.ip_rel_memory_address());
        }
        let known = |register: Register| match gpr(register) {
            _ if register == Register::None => Known::Constant(0),
            Some(number) if register.size() == 8 => state.registers[number].known,
            _ => Known::Nothing,
        };
        let (displacement, scale) =
            (instruction.memory_displacement64(), instruction.memory_index_scale().into());
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        match (known(base), known(index)) {
            (Known::Stack(offset), Known::Constant(index)) => {
                let index = index.wrapping_mul(scale);
                Known::Stack(offset.wrapping_add_unsigned(displacement).wrapping_add_unsigned(index))
            }
            (of_base, of_index) => {
                let sum = of_base.series().zip(of_index.series()).map(|(of_base, of_index)| {
                    if base == index { of_base.times(scale + 1) } else { of_base.plus(of_index.times(scale)) }
                });
                sum.map_or(Known::Nothing, |sum| Known::from(sum.plus(Series::of(displacement))))
            }
        }
    }

    /// Whether `series`, which `instruction` addresses, begins with an address of the file: in one that is loaded anywhere,
    /// a displacement alone is none.
    fn is_of_file(&self, instruction: &Instruction, state: &State, series: Series) -> bool {
        let registers = [instruction.memory_base(), instruction.memory_index()];
        let known = || registers.into_iter().filter_map(gpr).map(|number| state.registers[number].known);
        let firsts = || known().filter_map(Known::series).map(|series| series.first);
        // Any distance from the global offset table, of several.
        let is_distance = series.stride == 1 && firsts().any(|first| self.is_global_offset_table(first));
        let is_fixed = self.image.identity.file_type == FileType::Exec || firsts().any(|first| first != 0);
        !is_distance && is_fixed && self.image.segment_at(Vaddr(series.first)).is_some()
    }

    /// Whether the memory operand of `instruction`, which is [`Place::Elsewhere`], counts from a stack address: it may be
    /// any slot.
    pub(super) fn is_in_frame(&self, instruction: &Instruction, state: &State) -> bool {
        let registers = [instruction.memory_base(), instruction.memory_index()];
        registers.into_iter().filter_map(gpr).any(|number| state.registers[number].stack().is_some())
    }

    /// Whether `at`, which any number is added to, is an address of the file.
    pub(super) fn is_base(&self, at: u64, pointed_to: SiteSet) -> bool {
        let is_fixed = self.image.identity.file_type == FileType::Exec;
        let is_of_file = !pointed_to.is_empty() || (is_fixed && self.image.segment_at(Vaddr(at)).is_some());
        is_of_file && !self.is_global_offset_table(at)
    }

    pub(super) fn is_global_offset_table(&self, at: u64) -> bool {
        self.image.global_offset_table() == Some(Vaddr(at))
    }

    /// The cells of which the `size` bytes at `place` are a part.
    pub(super) fn cells_at(&self, place: Place, size: i64) -> SiteSet {
        match place {
            Place::Word(at) => self.cells_that(|cell| {
                at < cell.at.0.saturating_add(8) && cell.at.0 < at.saturating_add_signed(size)
            }),
            Place::Table(series, from) if size == 8 => {
                self.cells_that(|cell| self.is_element(series, from, cell))
            }
            Place::Table(..) | Place::Slot(_) | Place::Elsewhere => SiteSet::default(),
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
            Place::Table(series, _) if size > 8 || (size == 8 && !is_followed) => {
                self.cells_of_table(Vaddr(series.first))
            }
            Place::Table(..) | Place::Slot(_) | Place::Elsewhere => SiteSet::default(),
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
            Place::Table(series, from) if size == 8 => {
                let mut value: Option<Value> = None;
                for (number, cell) in self.subjects.cells.iter().enumerate() {
                    if self.is_element(series, from, cell) {
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
            Known::Constant(at) | Known::Series(Series { first: at, .. }) => self.cells_of_table(Vaddr(at)),
            Known::Stack(_) | Known::Nothing => {
                self.used(from, Use::Pointed);
                return value;
            }
        };
        Value { pointed_to: from.union(cells), ..value }
    }

    /// The cells that may belong to a table at `base`: of the same object, where symbols tell of objects. Without these,
    /// anything may stand before a pointer in a structure; in a file that is loaded anywhere, where a pointer that code
    /// unseen reads stays as it is, what does not look like a table is taken for something else, as a text.
    pub(super) fn cells_of_table(&self, base: Vaddr) -> SiteSet {
        let is_fixed = self.image.identity.file_type == FileType::Exec;
        let holds_function =
            |word: u64| references::may_hold_function(self.image, self.functions, Vaddr(word));
        let is_of_object = |cell: &Cell| match cell.object {
            Some(object) => object.contains(base),
            None => {
                is_fixed || Series::ANY.plus(Series::of(base.0)).words_before(cell.at.0).all(holds_function)
            }
        };
        self.cells_that(|cell| {
            is_near(base, cell.at) && !self.is_behind_array(base, cell.at) && is_of_object(cell)
        })
    }

    /// Whether one of the tables of functions that run at the begin or end of the program has `from` and ends before `at`.
    fn is_behind_array(&self, from: Vaddr, at: Vaddr) -> bool {
        const ARRAYS: [&[u8]; 5] = [b".preinit_array", b".init_array", b".fini_array", b".ctors", b".dtors"];
        let mut arrays = self.image.sections.iter().filter(|section| ARRAYS.contains(&section.name));
        arrays.any(|array| from < array.range.end && array.range.end <= at)
    }

    /// Whether code that reads one of `series`, which it counts from `from`, may read `cell`: symbols tell that it is of
    /// that object, or what it reads before it are functions, too. What is before `from` need not be of the table.
    fn is_element(&self, series: Series, from: Vaddr, cell: &Cell) -> bool {
        let holds_function =
            |word: u64| references::may_hold_function(self.image, self.functions, Vaddr(word));
        let is_of_object = || cell.object.is_some_and(|object| object.contains(Vaddr(series.first)));
        let is_of_table = || {
            let is_behind = self.is_behind_object(series, cell);
            !is_behind && series.words_before(cell.at.0).skip(1).all(holds_function)
        };
        let may_reach = || {
            is_near(Vaddr(series.first), cell.at)
                && !self.is_behind_array(from, cell.at)
                && (is_of_object() || is_of_table())
        };
        series.contains(cell.at.0) && (series.is_pair() || may_reach())
    }

    /// Whether symbols tell that `series` begins in an object that ends before `cell`: in its first element, or in another one,
    /// where the next is not in the first of the cell's object, as it is with an index that counts from one.
    fn is_behind_object(&self, series: Series, cell: &Cell) -> bool {
        let is_in_first_element = |at: u64, object: &VaddrRange| {
            object.contains(Vaddr(at)) && at.wrapping_sub(object.start.0) < series.stride.max(8)
        };
        let next = series.first.wrapping_add(series.stride);
        let counts_from_one = cell.object.is_some_and(|object| is_in_first_element(next, &object));
        let is_before = |object: &VaddrRange| {
            let is_in = object.contains(Vaddr(series.first)) && object.end <= cell.at;
            is_in && (is_in_first_element(series.first, object) || !counts_from_one)
        };
        self.subjects.objects.iter().any(is_before)
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

/// Whether the word at `at` may belong to a table that begins at `base`.
fn is_near(base: Vaddr, at: Vaddr) -> bool {
    at.0.wrapping_sub(base.0) < 8 * limits::TABLE_WORDS
}

pub(super) fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}
