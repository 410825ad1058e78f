//! What may be in registers and stack slots before an instruction.

use crate::code::Doubt;
use crate::limits;
use crate::registers::{RBP, RSP};

/// A set of sites, by their number in the function's [`Subjects`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SiteSet(u64);

impl SiteSet {
    pub(super) fn one(site: usize) -> Self {
        Self(1 << site)
    }
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub(super) fn without(self, site: usize) -> Self {
        Self(self.0 & !(1 << site))
    }
    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..limits::SITES_PER_FUNCTION).filter(move |site| self.0 >> site & 1 == 1)
    }
}

/// A number that a place is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    Constant(u64),
    /// Distance from the stack pointer at the function's entry.
    Stack(i64),
    /// The address of a word of the table of 8-byte words that begins here, by an index that is not known.
    Element(u64),
}

/// What a register or stack slot may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Sites whose entry's address it may be.
    pub(super) entry: SiteSet,
    /// Sites whose entry's address it may be, mangled with the thread's pointer guard.
    pub(super) mangled: SiteSet,
    /// Sites whose page address plus an unknown index it may be.
    pub(super) indexed: SiteSet,
    /// Cells that it may be the address of, or of a table that they may belong to.
    pub(super) pointed_to: SiteSet,
    /// It may also be something else.
    pub(super) other: bool,
    /// It came through a stack slot.
    pub(super) through_slot: bool,
    pub(super) known: Known,
}

impl Value {
    pub(super) const UNKNOWN: Self = Self {
        entry: SiteSet(0),
        mangled: SiteSet(0),
        indexed: SiteSet(0),
        pointed_to: SiteSet(0),
        other: true,
        through_slot: false,
        known: Known::Nothing,
    };

    pub(super) fn known(known: Known) -> Self {
        Self { known, ..Self::UNKNOWN }
    }

    pub(super) fn constant(constant: u64) -> Self {
        Self::known(Known::Constant(constant))
    }

    pub(super) fn sites(self) -> SiteSet {
        self.entry.union(self.mangled).union(self.indexed)
    }

    /// The sites whose value must not change without notice (a mangled one is of use to nobody else).
    pub(super) fn plain_sites(self) -> SiteSet {
        self.entry.union(self.indexed)
    }

    pub(super) fn join(self, other: Self) -> Self {
        Self {
            entry: self.entry.union(other.entry),
            mangled: self.mangled.union(other.mangled),
            indexed: self.indexed.union(other.indexed),
            pointed_to: self.pointed_to.union(other.pointed_to),
            other: self.other | other.other,
            through_slot: self.through_slot | other.through_slot,
            known: if self.known == other.known && self.sites() == other.sites() {
                self.known
            } else {
                Known::Nothing
            },
        }
    }

    pub(super) fn says_something(self) -> bool {
        !self.sites().is_empty() || self.known != Known::Nothing
    }

    pub(super) fn or_other(self) -> Self {
        Self { other: true, known: Known::Nothing, ..self }
    }

    pub(super) fn stack(self) -> Option<i64> {
        match self.known {
            Known::Stack(offset) => Some(offset),
            _ => None,
        }
    }

    pub(super) fn number(self) -> Option<u64> {
        match self.known {
            Known::Constant(constant) => Some(constant),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) offset: i64,
    pub(super) size: i64,
    pub(super) value: Value,
}

/// What is known before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) registers: [Value; 16],
    /// Sorted by offset, disjoint; what is not listed is unknown.
    pub(super) slots: Vec<Slot>,
    /// Stack addresses from here upwards may be known to other code.
    pub(super) escaped: Option<i64>,
}

impl State {
    pub(super) fn at_entry() -> Self {
        let mut registers = [Value::UNKNOWN; 16];
        registers[RSP] = Value::known(Known::Stack(0));
        Self { registers, slots: Vec::new(), escaped: None }
    }

    /// Number of values in it.
    pub(super) fn size(&self) -> usize {
        self.registers.len() + self.slots.len()
    }

    /// What may hold where it is not known from where control came: all of `self`, or anything.
    pub(super) fn or_anything(mut self) -> Self {
        for (number, register) in self.registers.iter_mut().enumerate() {
            if number != RSP && number != RBP {
                *register = register.or_other();
            }
        }
        for slot in &mut self.slots {
            slot.value = slot.value.or_other();
        }
        self
    }

    /// Joins `other` in; whether anything changed.
    pub(super) fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(&other.registers) {
            *mine = mine.join(*theirs);
        }
        let mut slots: Vec<Slot> = Vec::new();
        for slot in self.slots.iter().chain(&other.slots) {
            if slots.iter().any(|known| known.offset == slot.offset && known.size == slot.size) {
                continue;
            }
            let mine = self.load(slot.offset, slot.size);
            let value = mine.join(other.load(slot.offset, slot.size));
            if value.says_something() {
                slots.push(Slot { value, ..*slot });
            }
        }
        slots.sort_unstable_by_key(|slot| slot.offset);
        self.slots = slots;
        self.escaped = match (self.escaped, other.escaped) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        *self != before
    }

    pub(super) fn load(&self, offset: i64, size: i64) -> Value {
        match self.slots.iter().find(|slot| slot.offset == offset && slot.size == size) {
            Some(slot) => Value { through_slot: true, ..slot.value },
            None => Value::UNKNOWN,
        }
    }

    /// Sites that the `size` bytes at `offset` may hold a part of.
    pub(super) fn sites_overlapping(&self, offset: i64, size: i64) -> SiteSet {
        self.slots
            .iter()
            .filter(|slot| overlaps(slot, offset, size))
            .fold(SiteSet::default(), |sites, slot| sites.union(slot.value.plain_sites()))
    }

    pub(super) fn store(&mut self, offset: i64, size: i64, value: Value) -> Result<(), Doubt> {
        self.slots.retain(|slot| !overlaps(slot, offset, size));
        if !value.says_something() {
            return Ok(());
        }
        if self.slots.len() == limits::STACK_SLOTS {
            if value.sites().is_empty() {
                return Ok(());
            }
            let Some(spare) = self.slots.iter().position(|slot| slot.value.sites().is_empty()) else {
                return Err(Doubt::Limit);
            };
            self.slots.remove(spare);
        }
        let at = self.slots.partition_point(|slot| slot.offset < offset);
        self.slots.insert(at, Slot { offset, size, value });
        Ok(())
    }

    /// Something may have written to the `size` bytes at `offset`.
    pub(super) fn disturb(&mut self, offset: i64, size: i64) {
        for slot in self.slots.iter_mut().filter(|slot| overlaps(slot, offset, size)) {
            slot.value = slot.value.or_other();
        }
        self.slots.retain(|slot| slot.value.says_something());
    }

    /// Something may have written anywhere from `offset` upwards.
    pub(super) fn disturb_from(&mut self, offset: i64) {
        for slot in self.slots.iter_mut().filter(|slot| reaches(slot, offset)) {
            slot.value = slot.value.or_other();
        }
        self.slots.retain(|slot| slot.value.says_something());
    }

    /// Something may have written through any pointer to the stack that it could know.
    pub(super) fn disturb_escaped(&mut self) {
        if let Some(from) = self.escaped {
            self.disturb_from(from);
        }
    }

    /// Whether other code may know of the `size` bytes at `offset`.
    pub(super) fn is_escaped(&self, offset: i64, size: i64) -> bool {
        self.escaped.is_some_and(|from| from < offset.saturating_add(size))
    }

    /// Sites whose value may be anywhere from `offset` upwards.
    pub(super) fn sites_from(&self, offset: i64) -> SiteSet {
        let slots = self.slots.iter().filter(|slot| reaches(slot, offset));
        slots.fold(SiteSet::default(), |sites, slot| sites.union(slot.value.plain_sites()))
    }

    pub(super) fn escape(&mut self, value: Value) {
        if let Some(offset) = value.stack() {
            self.escaped = Some(self.escaped.map_or(offset, |from| from.min(offset)));
        }
    }
}

fn overlaps(slot: &Slot, offset: i64, size: i64) -> bool {
    slot.offset < offset.saturating_add(size) && offset < slot.offset.saturating_add(slot.size)
}

fn reaches(slot: &Slot, offset: i64) -> bool {
    slot.offset.saturating_add(slot.size) > offset
}

/// What a 32-bit read or write leaves of `value`.
pub(super) fn truncated(value: Value) -> Value {
    match value.number() {
        Some(number) => Value::constant(u64::from(number as u32)),
        None => Value::UNKNOWN,
    }
}

pub(super) fn add(value: Value, bytes: i64) -> Value {
    match value.known {
        Known::Stack(offset) => Value::known(Known::Stack(offset.wrapping_add(bytes))),
        _ => Value::UNKNOWN,
    }
}
