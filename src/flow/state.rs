//! What may be in registers and stack slots before an instruction.

use std::ops::Range;

use super::known::Known;
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
            known: if self.sites() == other.sites() { self.known.join(other.known) } else { Known::Nothing },
        }
    }

    pub(super) fn says_something(self) -> bool {
        self.may_be_of_site() || self.known != Known::Nothing
    }

    /// Whether it may have to do with a site: what is not known of such a value is not left out.
    pub(super) fn may_be_of_site(self) -> bool {
        !self.sites().union(self.pointed_to).is_empty()
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

/// Bytes of the stack with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) offset: i64,
    pub(super) size: i64,
    pub(super) value: Value,
    /// A call may find an argument there: it was not written as a variable of a frame with a frame pointer.
    pub(super) is_outgoing: bool,
}

impl Slot {
    fn bytes(&self) -> Range<i64> {
        bytes_at(self.offset, self.size)
    }

    fn overlaps(&self, bytes: &Range<i64>) -> bool {
        self.offset < bytes.end && bytes.start < self.bytes().end
    }
}

/// The `size` bytes of the stack that begin `offset` from the stack pointer at the function's entry.
pub(super) fn bytes_at(offset: i64, size: i64) -> Range<i64> {
    offset..offset.saturating_add(size)
}

/// Any bytes of the stack.
pub(super) const WHOLE_STACK: Range<i64> = i64::MIN..i64::MAX;

/// What is known before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) registers: [Value; 16],
    /// Sorted by offset, disjoint; what is not listed is unknown.
    pub(super) slots: Vec<Slot>,
    /// Stack addresses from here upwards may be known to other code.
    pub(super) escaped: Option<i64>,
    /// The lowest bytes where a call may find an argument.
    lowest_outgoing: i64,
}

impl State {
    pub(super) fn at_entry() -> Self {
        let mut registers = [Value::UNKNOWN; 16];
        registers[RSP] = Value::known(Known::Stack(0));
        Self { registers, slots: Vec::new(), escaped: None, lowest_outgoing: i64::MAX }
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
            if let Some(known) = slots.iter_mut().find(|known| known.bytes() == slot.bytes()) {
                known.is_outgoing |= slot.is_outgoing;
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
        self.lowest_outgoing = self.lowest_outgoing.min(other.lowest_outgoing);
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

    /// What any slot may hold, or something else.
    pub(super) fn load_any(&self) -> Value {
        Value { through_slot: true, ..self.values_that(|_| true) }
    }

    /// What `bytes` may hold, or a part of it.
    pub(super) fn values_in(&self, bytes: &Range<i64>) -> Value {
        self.values_that(|slot| slot.overlaps(bytes))
    }

    /// What a call may find as an argument, where `top` is the stack pointer.
    pub(super) fn values_passed(&self, top: i64) -> Value {
        // Arguments begin where the stack ends.
        let may_be_several = self.lowest_outgoing <= top;
        self.values_that(|slot| {
            let is_there = slot.overlaps(&bytes_at(top, 8)) || (may_be_several && slot.offset >= top);
            slot.is_outgoing && is_there
        })
    }

    fn values_that(&self, is_it: impl Fn(&Slot) -> bool) -> Value {
        let values = self.slots.iter().filter(|slot| is_it(slot)).map(|slot| slot.value);
        values.fold(Value::UNKNOWN, Value::join)
    }

    pub(super) fn store(&mut self, stored: Slot) -> Result<(), Doubt> {
        let Slot { offset, value, is_outgoing, .. } = stored;
        self.forget(&stored.bytes());
        if is_outgoing {
            self.lowest_outgoing = self.lowest_outgoing.min(offset);
        }
        if !value.says_something() {
            return Ok(());
        }
        if self.slots.len() == limits::STACK_SLOTS {
            if !value.may_be_of_site() {
                return Ok(());
            }
            let Some(spare) = self.slots.iter().position(|slot| !slot.value.may_be_of_site()) else {
                return Err(Doubt::Limit);
            };
            self.slots.remove(spare);
        }
        let at = self.slots.partition_point(|slot| slot.offset < offset);
        self.slots.insert(at, stored);
        Ok(())
    }

    /// What is not known is written to `bytes`.
    pub(super) fn forget(&mut self, bytes: &Range<i64>) {
        self.slots.retain(|slot| !slot.overlaps(bytes));
    }

    /// Something may have written to `bytes`.
    pub(super) fn disturb(&mut self, bytes: &Range<i64>) {
        for slot in self.slots.iter_mut().filter(|slot| slot.overlaps(bytes)) {
            slot.value = slot.value.or_other();
        }
        self.slots.retain(|slot| slot.value.says_something());
    }

    /// Something may have written through any pointer to the stack that it could know.
    pub(super) fn disturb_escaped(&mut self) {
        if let Some(from) = self.escaped {
            self.disturb(&(from..i64::MAX));
        }
    }

    /// Whether other code may know of `bytes`.
    pub(super) fn is_escaped(&self, bytes: &Range<i64>) -> bool {
        self.escaped.is_some_and(|from| from < bytes.end)
    }

    pub(super) fn escape(&mut self, value: Value) {
        if let Some(offset) = value.stack() {
            self.escaped = Some(self.escaped.map_or(offset, |from| from.min(offset)));
        }
    }
}

/// What a 32-bit read or write leaves of `value`.
pub(super) fn truncated(value: Value) -> Value {
    Value::known(value.known.of_lower_half(u64::from))
}

/// What becomes of `value` where its lower half is extended by its sign.
pub(super) fn sign_extended(value: Value) -> Value {
    Value::known(value.known.of_lower_half(|half| i64::from(half.cast_signed()).cast_unsigned()))
}

pub(super) fn add(value: Value, bytes: i64) -> Value {
    match value.known {
        Known::Stack(offset) => Value::known(Known::Stack(offset.wrapping_add(bytes))),
        _ => Value::UNKNOWN,
    }
}
