//! Forward data flow in one function: from the constants to every use of their values.
//!
//! The analysis is a may-analysis over registers and stack slots. A [`Value`] says which sites'
//! addresses a place may hold and whether it may hold something else as well; what is not proven to
//! be otherwise is "something else". Joins only ever lose knowledge, so it settles.

mod known;
mod place;
mod state;
mod step;
mod transfer;

use iced_x86::{Code, ConditionCode, Instruction, InstructionInfoFactory, OpKind};

use self::state::{SiteSet, State, Value};
use crate::addr::{Vaddr, VaddrRange};
use crate::code::{self, Doubt, Function};
use crate::elf::Image;
use crate::functions::Functions;
use crate::limits;
use crate::registers::{Gpr, RSP, gpr};
use crate::site::Deed;
use crate::vsyscall::Entry;

/// A word of memory outside the stack that may hold an entry's address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) at: Vaddr,
    pub(crate) entry: Entry,
    /// The data object that it belongs to, where a symbol tells.
    pub(crate) object: Option<VaddrRange>,
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
    /// The data objects around the cells that symbols tell of.
    pub(crate) objects: Vec<VaddrRange>,
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
    /// In the register of the second half of a result, rdx, when the function returns. It may be left over there.
    ReturnedSecond,
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
    /// Left to code that tells it from what else may be called ([`crate::guard`]).
    Guarded,
    /// The cell is read by an instruction that takes it along to where it is not followed, as one of several words.
    Copied,
    /// The address of the cell, or of its table, goes where it is not followed.
    Pointed,
    /// The address of the cell, or of its table, is in the register of the function's result when it returns.
    PointedResult,
}

impl Use {
    /// Left on the stack for code that is not known.
    const PASSED: Self = Self::Argument { callee: None, register: RSP };

    /// What of it is shown.
    fn deed(self) -> Option<Deed> {
        Some(match self {
            Self::Call { jump: false, .. } | Self::IndexedCall { .. } => Deed::Calls,
            Self::Call { jump: true, .. } => Deed::Jumps,
            Self::Loaded { .. } => Deed::Loads,
            Self::Returned => Deed::Returns,
            // Where it is meant, the instruction before that moves it there is shown.
            Self::ReturnedSecond => return None,
            Self::StoredTo { .. } | Self::Stored => Deed::Stores,
            Self::StoredMangled => Deed::StoresMangled,
            Self::Compared => Deed::Compares,
            Self::Argument { .. } => Deed::Passes,
            Self::Computed | Self::Guarded => Deed::Computes,
            Self::Copied => Deed::Moves,
            Self::Pointed | Self::PointedResult => Deed::Near,
        })
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
                let branches = !targets.is_empty() || unequal.is_some();
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
            if let Some(deed) = used.deed() {
                self.done(sites, deed);
            }
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

    fn incoming_value(&self) -> Value {
        Value { entry: SiteSet::one(self.subjects.incoming_site()), ..Value::UNKNOWN }
    }

    fn instruction(&self, index: usize) -> &Instruction {
        &self.function.instructions[index]
    }
}
