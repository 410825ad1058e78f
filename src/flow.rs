//! Forward data flow in one function: from the constants to every use of their values.
//!
//! The analysis is a may-analysis over registers and stack slots. A [`Value`] says which sites'
//! addresses a place may hold and whether it may hold something else as well; what is not proven to
//! be otherwise is "something else". Joins only ever lose knowledge, so it settles.

use iced_x86::{
    Code, ConditionCode, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    UsedMemory,
};

use crate::addr::Vaddr;
use crate::code::{self, Doubt, Function};
use crate::elf::Image;
use crate::functions::Functions;
use crate::limits;
use crate::site::Deed;
use crate::vsyscall::Entry;

/// Number of a general-purpose register as machine code encodes it, 0 (`rax`) to 15 (`r15`).
pub(crate) type Gpr = usize;

pub(crate) const RAX: Gpr = 0;
const RCX: Gpr = 1;
const RDX: Gpr = 2;
const RSP: Gpr = 4;
const RBP: Gpr = 5;
const RSI: Gpr = 6;
const RDI: Gpr = 7;
const R8: Gpr = 8;
const R9: Gpr = 9;
const R10: Gpr = 10;
const R11: Gpr = 11;

/// What a callee may change (System V ABI).
const CALLER_SAVED: [Gpr; 9] = [RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11];
/// Where integer arguments go (System V ABI).
const ARGUMENTS: [Gpr; 6] = [RDI, RSI, RDX, RCX, R8, R9];

/// Where a system call's number and arguments go (kernel ABI).
const SYSCALL_ARGUMENTS: [Gpr; 7] = [RAX, RDI, RSI, RDX, R10, R8, R9];

/// Bytes that `gettimeofday(rdi, rsi)`, `time(rdi)` and `getcpu(rdi, rsi)` may write at their pointers.
const VSYSCALL_WRITES: [(Gpr, i64); 2] = [(RDI, 16), (RSI, 8)];

/// Where the stack pointer is taken to be after `and $-N,%rsp`: far below everything before it.
const REALIGNED_FRAME: i64 = 1 << 20;

/// A set of sites, by their number in the function's [`Subjects`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SiteSet(u64);

impl SiteSet {
    fn one(site: usize) -> Self {
        Self(1 << site)
    }
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
    fn without(self, site: usize) -> Self {
        Self(self.0 & !(1 << site))
    }
    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..limits::SITES_PER_FUNCTION).filter(move |site| self.0 >> site & 1 == 1)
    }
}

/// A number that a place is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Constant(u64),
    /// Distance from the stack pointer at the function's entry.
    Stack(i64),
}

/// What a register or stack slot may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    /// Sites whose entry's address it may be.
    entry: SiteSet,
    /// Sites whose entry's address it may be, mangled with the thread's pointer guard.
    mangled: SiteSet,
    /// Sites whose page address plus an unknown index it may be.
    indexed: SiteSet,
    /// It may also be something else.
    other: bool,
    /// It came through a stack slot.
    through_slot: bool,
    known: Known,
}

impl Value {
    const UNKNOWN: Self = Self {
        entry: SiteSet(0),
        mangled: SiteSet(0),
        indexed: SiteSet(0),
        other: true,
        through_slot: false,
        known: Known::Nothing,
    };

    fn known(known: Known) -> Self {
        Self { known, ..Self::UNKNOWN }
    }

    fn constant(constant: u64) -> Self {
        Self::known(Known::Constant(constant))
    }

    fn sites(self) -> SiteSet {
        self.entry.union(self.mangled).union(self.indexed)
    }

    /// The sites whose value must not change without notice (a mangled one is of use to nobody else).
    fn plain_sites(self) -> SiteSet {
        self.entry.union(self.indexed)
    }

    fn join(self, other: Self) -> Self {
        Self {
            entry: self.entry.union(other.entry),
            mangled: self.mangled.union(other.mangled),
            indexed: self.indexed.union(other.indexed),
            other: self.other | other.other,
            through_slot: self.through_slot | other.through_slot,
            known: if self.known == other.known && self.sites() == other.sites() {
                self.known
            } else {
                Known::Nothing
            },
        }
    }

    fn says_something(self) -> bool {
        !self.sites().is_empty() || self.known != Known::Nothing
    }

    fn or_other(self) -> Self {
        Self { other: true, known: Known::Nothing, ..self }
    }

    fn stack(self) -> Option<i64> {
        match self.known {
            Known::Stack(offset) => Some(offset),
            _ => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self.known {
            Known::Constant(constant) => Some(constant),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    offset: i64,
    size: i64,
    value: Value,
}

/// What is known before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    registers: [Value; 16],
    /// Sorted by offset, disjoint; what is not listed is unknown.
    slots: Vec<Slot>,
    /// Stack addresses from here upwards may be known to other code.
    escaped: Option<i64>,
}

impl State {
    fn at_entry() -> Self {
        let mut registers = [Value::UNKNOWN; 16];
        registers[RSP] = Value::known(Known::Stack(0));
        Self { registers, slots: Vec::new(), escaped: None }
    }

    /// Number of values in it.
    fn size(&self) -> usize {
        self.registers.len() + self.slots.len()
    }

    /// What may hold where it is not known from where control came: all of `self`, or anything.
    fn or_anything(mut self) -> Self {
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
    fn join(&mut self, other: &Self) -> bool {
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

    fn load(&self, offset: i64, size: i64) -> Value {
        match self.slots.iter().find(|slot| slot.offset == offset && slot.size == size) {
            Some(slot) => Value { through_slot: true, ..slot.value },
            None => Value::UNKNOWN,
        }
    }

    /// Sites that the `size` bytes at `offset` may hold a part of.
    fn sites_overlapping(&self, offset: i64, size: i64) -> SiteSet {
        self.slots
            .iter()
            .filter(|slot| overlaps(slot, offset, size))
            .fold(SiteSet::default(), |sites, slot| sites.union(slot.value.plain_sites()))
    }

    fn store(&mut self, offset: i64, size: i64, value: Value) -> Result<(), Doubt> {
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
    fn disturb(&mut self, offset: i64, size: i64) {
        for slot in self.slots.iter_mut().filter(|slot| overlaps(slot, offset, size)) {
            slot.value = slot.value.or_other();
        }
        self.slots.retain(|slot| slot.value.says_something());
    }

    /// Something may have written through any pointer to the stack that it could know.
    fn disturb_escaped(&mut self) {
        if let Some(from) = self.escaped {
            self.disturb(from, i64::MAX - from.max(0));
        }
    }

    fn escape(&mut self, value: Value) {
        if let Some(offset) = value.stack() {
            self.escaped = Some(self.escaped.map_or(offset, |from| from.min(offset)));
        }
    }
}

fn overlaps(slot: &Slot, offset: i64, size: i64) -> bool {
    slot.offset < offset.saturating_add(size) && offset < slot.offset.saturating_add(slot.size)
}

/// A word of memory outside the stack that may hold an entry's address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) at: Vaddr,
    pub(crate) entry: Entry,
    /// The program may store something else there.
    pub(crate) may_change: bool,
}

/// What to follow through one function. Sites are numbered: instructions first, then cells, then values
/// that come from another function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subjects {
    /// Addresses of the instructions that hold an entry's (or the page's) address.
    pub(crate) instructions: Vec<Vaddr>,
    pub(crate) cells: Vec<Cell>,
    /// An entry's address that a caller passes, or that a callee returns.
    pub(crate) incoming: Option<Incoming>,
}

/// How an entry's address comes from another function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// In this register when the function is entered.
    Argument(Gpr),
    /// In `rax` behind calls of the function at this address.
    Result(Vaddr),
    /// In this register when the function is entered, and to be there when it returns.
    Kept(Gpr),
}

impl Subjects {
    fn instruction(&self, at: u64) -> Option<usize> {
        self.instructions.iter().position(|subject| subject.0 == at)
    }

    fn cell(&self, number: usize) -> usize {
        self.instructions.len() + number
    }

    fn len(&self) -> usize {
        self.incoming_site() + usize::from(self.incoming.is_some())
    }

    /// The number of the value that comes from another function.
    fn incoming_site(&self) -> usize {
        self.instructions.len() + self.cells.len()
    }

    /// Where site `number` is: its instruction, or its cell; nothing for a value from elsewhere.
    pub(crate) fn address(&self, number: usize) -> Option<Vaddr> {
        let cell = |number: usize| self.cells.get(number).map(|cell| cell.at);
        self.instructions.get(number).copied().or_else(|| cell(number.checked_sub(self.instructions.len())?))
    }
}

/// How a call or jump gets its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Register(Gpr),
    /// `call *mem`.
    Memory,
    /// A pushed address, taken by `ret`.
    Return,
}

/// One use of a site's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Called or jumped to. `exact`: the target is nothing but sites' entries.
    Call { index: usize, jump: bool, exact: bool, through: Through, through_slot: bool },
    /// Called with an index that is not known.
    IndexedCall { index: usize },
    /// Loaded from a cell by instruction `index`.
    Loaded { index: usize },
    /// Returned to the caller.
    Returned,
    /// Stored to the memory word at this address, as it is; `joined`: or another value in its stead.
    StoredTo { at: Vaddr, joined: bool },
    /// Stored somewhere, as it is.
    Stored,
    /// Stored somewhere, mangled with the pointer guard.
    StoredMangled,
    /// Compared with something else than zero.
    Compared,
    /// In a register that carries an argument to a call, or to the function jumped to.
    Argument { callee: Option<Vaddr>, register: Gpr },
    /// Computed with, or read by an instruction that is not followed.
    Computed,
}

impl Use {
    fn deed(self) -> Deed {
        match self {
            Self::Call { jump: false, .. } | Self::IndexedCall { .. } => Deed::Calls,
            Self::Call { jump: true, .. } => Deed::Jumps,
            Self::Loaded { .. } => Deed::Loads,
            Self::Returned => Deed::Returns,
            Self::StoredTo { .. } | Self::Stored => Deed::Stores,
            Self::StoredMangled => Deed::StoresMangled,
            Self::Compared => Deed::Compares,
            Self::Argument { .. } => Deed::Passes,
            Self::Computed => Deed::Computes,
        }
    }
}

/// What is known of a site after the analysis.
#[derive(Clone, Debug, Default)]
pub(crate) struct SiteUses {
    /// The entry that a computed address turned out to be; nothing where its index is not known.
    pub(crate) entry: Option<Entry>,
    /// The site's code was reached.
    pub(crate) reached: bool,
    /// Its uses in code order, each once.
    pub(crate) uses: Vec<Use>,
    /// What each instruction that has to do with it does, in code order.
    pub(crate) deeds: Vec<(usize, Deed)>,
}

/// A call or jump whose target may be an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallUse {
    pub(crate) index: usize,
    pub(crate) sites: SiteSet,
}

/// The result: uses per site, in the order of the [`Subjects`].
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) sites: Vec<SiteUses>,
    pub(crate) calls: Vec<CallUse>,
    /// How many returns leave the value of [`Incoming::Kept`] in its register, and how many do not.
    pub(crate) returns: (usize, usize),
    /// For each instruction whether control arrives there from elsewhere than the instruction before.
    pub(crate) block_starts: Vec<bool>,
}

/// Follows `subjects` through `function`.
pub(crate) fn analyse(
    image: &Image<'_>,
    functions: &Functions<'_>,
    function: &Function<'_>,
    subjects: &Subjects,
) -> Result<Flow, Doubt> {
    if subjects.len() > limits::SITES_PER_FUNCTION {
        return Err(Doubt::Limit);
    }
    let mut analysis = Analysis {
        image,
        functions,
        function,
        subjects,
        info: InstructionInfoFactory::new(),
        block_starts: block_starts(functions, function),
        before: vec![None; function.instructions.len()],
        flow: Flow {
            sites: vec![SiteUses::default(); subjects.len()],
            calls: Vec::new(),
            returns: (0, 0),
            block_starts: Vec::new(),
        },
        recording: false,
        current: 0,
        values: 0,
        elsewhere: None,
    };
    analysis.settle()?;
    analysis.record()?;
    analysis.flow.block_starts = analysis.block_starts;
    Ok(analysis.flow)
}

struct Analysis<'a> {
    image: &'a Image<'a>,
    functions: &'a Functions<'a>,
    function: &'a Function<'a>,
    subjects: &'a Subjects,
    info: InstructionInfoFactory,
    /// Instructions that control may reach from elsewhere than the instruction before.
    block_starts: Vec<bool>,
    /// The state before each instruction that begins a block.
    before: Vec<Option<Box<State>>>,
    flow: Flow,
    /// The states are final: write down the uses.
    recording: bool,
    /// Number of the instruction that is executed.
    current: usize,
    /// Values in all states of `before`.
    values: usize,
    /// What may hold where control arrives unseen: after calls (exceptions), at jumps without a table.
    elsewhere: Option<State>,
}

/// Entries of the function, and everything that a jump in it may lead to.
fn block_starts(functions: &Functions<'_>, function: &Function<'_>) -> Vec<bool> {
    let mut starts = vec![false; function.instructions.len()];
    for part in &function.parts {
        for entry in functions.entries_inside(*part).chain([part.start]) {
            if let Some(index) = function.index_of(entry) {
                starts[index] = true;
            }
        }
    }
    for (index, instruction) in function.instructions.iter().enumerate() {
        let table = function.targets(index).inside;
        let direct = code::jump_target(instruction).and_then(|target| function.landing(target));
        for target in table.into_iter().chain(direct) {
            starts[target] = true;
        }
    }
    for &pad in &function.landing_pads {
        starts[pad] = true;
    }
    starts
}

/// Where control goes behind an instruction.
enum Next {
    FallThrough,
    Jump(Vec<usize>),
    Branch(Vec<usize>, Option<Unequal>),
    Nowhere,
}

/// What a conditional branch proves behind a comparison: on one of its two ways, the register does not hold the
/// entry's address.
struct Unequal {
    register: Gpr,
    entry: Entry,
    is_target: bool,
}

impl Analysis<'_> {
    /// Runs the states of all blocks to their fixed point, from the entries and then from every piece
    /// of code that nothing seen leads to.
    fn settle(&mut self) -> Result<(), Doubt> {
        let mut work = Vec::new();
        let first = self.function.extent.range.start;
        let mut roots: Vec<Vaddr> = self.function.parts.iter().map(|part| part.start).collect();
        for part in &self.function.parts {
            roots.extend(self.functions.entries_inside(*part));
        }
        for root in roots {
            let mut state = State::at_entry();
            match self.subjects.incoming {
                Some(Incoming::Argument(register)) if root == first => {
                    state.registers[register] = self.incoming_value();
                }
                Some(Incoming::Kept(register)) if root == first => {
                    state.registers[register] = Value { other: false, ..self.incoming_value() };
                }
                _ => {}
            }
            if let Some(index) = self.function.index_of(root) {
                self.arrive(index, &state, &mut work);
            }
        }
        let mut budget = limits::FLOW_ROUNDS_PER_BLOCK.saturating_mul(self.function.instructions.len() + 16);
        loop {
            self.drain(&mut work, &mut budget)?;
            let unseen: Vec<usize> =
                self.orphans().into_iter().chain(self.function.landing_pads.iter().copied()).collect();
            let state = self.elsewhere.clone().unwrap_or_else(State::at_entry).or_anything();
            for index in unseen {
                self.arrive(index, &state, &mut work);
            }
            if work.is_empty() {
                return Ok(());
            }
        }
    }

    fn drain(&mut self, work: &mut Vec<usize>, budget: &mut usize) -> Result<(), Doubt> {
        while let Some(start) = work.pop() {
            let Some(mut state) = self.before[start].as_deref().cloned() else { continue };
            let mut index = start;
            loop {
                *budget = budget.checked_sub(1).ok_or(Doubt::Limit)?;
                if self.values > limits::FLOW_VALUES {
                    return Err(Doubt::Limit);
                }
                let next = self.step(index, &mut state)?;
                let (targets, falls, unequal) = match next {
                    Next::FallThrough => (Vec::new(), true, None),
                    Next::Jump(targets) => (targets, false, None),
                    Next::Branch(targets, unequal) => (targets, true, unequal),
                    Next::Nowhere => (Vec::new(), false, None),
                };
                let branches = !targets.is_empty();
                let without = unequal.as_ref().map(|unequal| self.excluding(&state, unequal));
                let (at_target, behind) = match (&unequal, without) {
                    (Some(unequal), Some(without)) if unequal.is_target => (without, None),
                    (_, without) => (state.clone(), without),
                };
                for target in targets {
                    self.arrive(target, &at_target, work);
                }
                state = behind.unwrap_or(state);
                let Some(following) = self.function.fall_through(index).filter(|_| falls) else { break };
                if branches || self.block_starts[following] {
                    self.arrive(following, &state, work);
                    break;
                }
                index = following;
            }
        }
        Ok(())
    }

    /// `state` where the register does not hold the address of the entry that it was compared with.
    fn excluding(&self, state: &State, unequal: &Unequal) -> State {
        let mut state = state.clone();
        for (number, cell) in self.subjects.cells.iter().enumerate() {
            if cell.entry == unequal.entry {
                let value = &mut state.registers[unequal.register];
                value.entry = value.entry.without(self.subjects.cell(number));
            }
        }
        state
    }

    /// What the conditional branch number `index` proves of what was compared right before it.
    fn proven_by(&self, index: usize) -> Option<Unequal> {
        let branch = self.instruction(index);
        let is_target = match branch.condition_code() {
            ConditionCode::ne => true,
            ConditionCode::e => false,
            _ => return None,
        };
        let before = index.checked_sub(1).filter(|_| !self.block_starts[index])?;
        let compare = self.instruction(before);
        let is_compare = matches!(compare.code(), Code::Cmp_rm64_imm32 | Code::Cmp_RAX_imm32)
            && compare.op0_kind() == OpKind::Register
            && self.function.fall_through(before) == Some(index);
        let entry = Entry::at(compare.immediate32to64().cast_unsigned()).filter(|_| is_compare)?;
        Some(Unequal { register: gpr(compare.op0_register())?, entry, is_target })
    }

    /// Joins `state` into what holds before instruction `index`.
    fn arrive(&mut self, index: usize, state: &State, work: &mut Vec<usize>) {
        self.block_starts[index] = true;
        let before = self.before[index].as_ref().map_or(0, |state| state.size());
        let changed = match &mut self.before[index] {
            Some(known) => known.join(state),
            empty @ None => {
                *empty = Some(Box::new(state.clone()));
                true
            }
        };
        if changed {
            self.values += self.before[index].as_ref().map_or(0, |state| state.size()).saturating_sub(before);
            work.push(index);
        }
    }

    /// First instructions of pieces of code that nothing seen leads to: exception landing pads, targets
    /// of jump tables that were not understood; and those found so in an earlier round.
    fn orphans(&self) -> Vec<usize> {
        let instructions = &self.function.instructions;
        let mut orphans = Vec::new();
        let mut reached = false;
        for (index, instruction) in instructions.iter().enumerate() {
            let adjacent = index > 0 && self.function.fall_through(index - 1) == Some(index);
            reached = self.before[index].is_some() || (reached && adjacent);
            if !reached && !code::is_padding(instruction) {
                orphans.push(index);
                reached = true;
            }
        }
        orphans
    }

    /// Goes over all code once more with the final states and writes down the uses.
    fn record(&mut self) -> Result<(), Doubt> {
        self.recording = true;
        let mut state: Option<State> = None;
        for index in 0..self.function.instructions.len() {
            if let Some(before) = self.before[index].as_deref() {
                state = Some(before.clone());
            }
            let Some(current) = &mut state else { continue };
            self.step(index, current)?;
            if self.function.fall_through(index).is_none() {
                state = None;
            }
        }
        for site in &mut self.flow.sites {
            let mut uses: Vec<Use> = Vec::new();
            for used in site.uses.drain(..) {
                if !uses.contains(&used) {
                    uses.push(used);
                }
            }
            site.uses = uses;
            // Of what one instruction does, what says most about the site.
            site.deeds.sort_unstable();
            site.deeds.reverse();
            site.deeds.dedup_by_key(|&mut (index, _)| index);
            site.deeds.reverse();
        }
        Ok(())
    }

    fn used(&mut self, sites: SiteSet, used: Use) {
        if self.recording {
            for site in sites.iter() {
                self.flow.sites[site].uses.push(used);
            }
            self.done(sites, used.deed());
        }
    }

    /// The current instruction does `deed` with the values of `sites`.
    fn done(&mut self, sites: SiteSet, deed: Deed) {
        if self.recording {
            for site in sites.iter() {
                self.flow.sites[site].deeds.push((self.current, deed));
            }
        }
    }

    /// Executes instruction `index` on `state`.
    fn step(&mut self, index: usize, state: &mut State) -> Result<Next, Doubt> {
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
        let targets = match code::jump_target(instruction) {
            Some(target) if function.contains(target) => function.landing(target).into_iter().collect(),
            Some(target) => {
                self.arguments(state, Some(target));
                self.leave();
                Vec::new()
            }
            None => Vec::new(),
        };
        Ok(match (code::ends_flow(instruction), targets.is_empty()) {
            (true, _) => Next::Nowhere,
            (false, true) => Next::FallThrough,
            (false, false) => Next::Branch(targets, self.proven_by(index)),
        })
    }

    fn incoming_value(&self) -> Value {
        Value { entry: SiteSet::one(self.subjects.incoming_site()), ..Value::UNKNOWN }
    }

    fn instruction(&self, index: usize) -> &Instruction {
        &self.function.instructions[index]
    }

    // Operands.

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
                self.load(index, state, place(&instruction, state), size)
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Value::UNKNOWN,
            _ => instruction.try_immediate(operand).map_or(Value::UNKNOWN, Value::constant),
        }
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
                    if (cell.at.0.wrapping_sub(base)) < 8 * limits::TABLE_WORDS {
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
                self.store(state, place(&instruction, state), size, value)?;
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
        if !wide {
            self.used(self.full_sites(&instruction, state, 1), Use::Computed);
        }
        self.write(index, state, value)
    }

    fn lea(&mut self, index: usize, state: &mut State) {
        let instruction = self.function.instructions[index];
        let value = match place(&instruction, state) {
            Place::Slot(offset) => Value::known(Known::Stack(offset)),
            Place::Word(at) => Value::constant(at),
            _ => {
                for register in [instruction.memory_base(), instruction.memory_index()] {
                    if let Some(number) = gpr(register) {
                        self.used(state.registers[number].plain_sites(), Use::Computed);
                        state.escape(state.registers[number]);
                    }
                }
                Value::UNKNOWN
            }
        };
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
            (mnemonic, Known::Constant(a), Some(b)) => Value::constant(compute(mnemonic, a, b)),
            (_, Known::Stack(_), None) => {
                state.escape(left);
                Value::UNKNOWN
            }
            _ if subject => Value::UNKNOWN,
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
        let direct = matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32)
            .then(|| Vaddr(instruction.near_branch_target()));
        if target.sites().is_empty() {
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
        }
        if let Some(top) = state.registers[RSP].stack() {
            self.used(state.sites_overlapping(top, 8), Use::Argument { callee: None, register: RSP });
        }
    }

    fn jump(&mut self, index: usize, state: &mut State) -> Next {
        let function = self.function;
        let instruction = &function.instructions[index];
        if let Some(target) = code::jump_target(instruction) {
            return match function.landing(target).filter(|_| function.contains(target)) {
                Some(target) => Next::Jump(vec![target]),
                None => {
                    self.arguments(state, Some(target));
                    self.leave();
                    Next::Nowhere
                }
            };
        }
        let target = self.read(index, state, 0);
        if self.called(index, target, true) || !target.sites().is_empty() {
            return Next::Nowhere;
        }
        self.bases_used(instruction, state);
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
        for used in info_of.used_registers() {
            if let (Some(number), true) = (gpr(used.register()), reads(used.access())) {
                self.used(state.registers[number].plain_sites(), Use::Computed);
            }
        }
        for used in info_of.used_memory() {
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
        if (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory) {
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
            OpKind::Memory => match place(instruction, state) {
                Place::Slot(offset) => {
                    state.sites_overlapping(offset, instruction.memory_size().size() as i64)
                }
                _ => SiteSet::default(),
            },
            _ => SiteSet::default(),
        }
    }
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

fn place(instruction: &Instruction, state: &State) -> Place {
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
        (Known::Constant(base), None) if scale == 8 || base != 0 => {
            Place::Table(base.wrapping_add(displacement))
        }
        (Known::Nothing, Some(index)) if index != 0 => Place::Table(index.wrapping_add(displacement)),
        _ => Place::Elsewhere,
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

/// The number of the general-purpose register that `register` is, or is a part of.
pub(crate) fn gpr(register: Register) -> Option<Gpr> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

fn operand_size(instruction: &Instruction, operand: u32) -> usize {
    match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        OpKind::Memory => instruction.memory_size().size(),
        _ => 0,
    }
}

fn is_conditional_move(instruction: &Instruction) -> bool {
    instruction.condition_code() != ConditionCode::None && instruction.op_count() == 2
}

/// What a 32-bit read or write leaves of `value`.
fn truncated(value: Value) -> Value {
    match value.number() {
        Some(number) => Value::constant(u64::from(number as u32)),
        None => Value::UNKNOWN,
    }
}

fn add(value: Value, bytes: i64) -> Value {
    match value.known {
        Known::Stack(offset) => Value::known(Known::Stack(offset.wrapping_add(bytes))),
        _ => Value::UNKNOWN,
    }
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

fn reads(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// The registers that the function at `entry` may change, a bit each; all where that cannot be told.
fn registers_written(image: &Image<'_>, entry: Vaddr) -> u16 {
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

/// Whether code reads `rcx` or `r11` behind the call number `index` before it writes them: a compiler's
/// code never does, since a callee may change them.
pub(crate) fn expects_preserved(function: &Function<'_>, index: usize) -> bool {
    [RCX, R11].into_iter().any(|register| is_live_behind(function, index, register))
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

/// Whether the flags may be read behind instruction number `index`; looks at straight code only.
fn flags_are_live_behind(function: &Function<'_>, index: usize) -> bool {
    let mut at = index;
    while let Some(next) = function.fall_through(at) {
        let instruction = &function.instructions[next];
        if instruction.rflags_read() != 0 || code::jump_target(instruction).is_some() {
            return true;
        }
        if instruction.rflags_modified() != 0 || instruction.mnemonic() == Mnemonic::Call {
            return false;
        }
        at = next;
    }
    !matches!(function.instructions[at].mnemonic(), Mnemonic::Ret | Mnemonic::Jmp)
}

fn is_live_behind(function: &Function<'_>, index: usize, register: Gpr) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let mut seen = vec![false; function.instructions.len()];
    let mut work: Vec<usize> = function.fall_through(index).into_iter().collect();
    while let Some(mut index) = work.pop() {
        while !std::mem::replace(&mut seen[index], true) {
            let instruction = &function.instructions[index];
            if matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Ret | Mnemonic::Syscall) {
                break;
            }
            let mut killed = false;
            for used in factory.info(instruction).used_registers() {
                if gpr(used.register()) == Some(register) {
                    if reads(used.access()) {
                        return true;
                    }
                    killed |= used.access() == OpAccess::Write && used.register().size() >= 4;
                }
            }
            if killed {
                break;
            }
            match code::jump_target(instruction) {
                Some(target) => work.extend(function.landing(target)),
                None if code::ends_flow(instruction) => {
                    work.extend(function.targets(index).inside);
                }
                None => {}
            }
            match function.fall_through(index) {
                Some(next) => index = next,
                None => break,
            }
        }
    }
    false
}
