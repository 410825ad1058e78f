//! A site as the scan leaves it to the planner: where it is, what is known of it, and the evidence for a call.

use crate::addr::{FileOffset, Vaddr};
use crate::flow::Through;
use crate::liveness::Expected;
use crate::registers::Gpr;
use crate::site::{Form, Reach, Step};
use crate::vsyscall::Entry;

/// Where an instruction, or a data word, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) vaddr: Vaddr,
    pub(crate) offset: FileOffset,
    pub(crate) len: usize,
}

/// What holds the address, as far as that matters for changing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Constant {
    /// `mov $entry,%reg`
    Register(Gpr),
    /// An immediate of 32 bits at this distance into the instruction: `movq $entry,mem`, `push $entry`.
    Immediate { at: usize },
    /// Part of a computation whose result in this register is the entry's address.
    Computed(Gpr),
    /// The page's address plus an index that is not known, in this register.
    Indexed(Gpr),
    /// A pointer in data.
    Word,
    /// `call rel32` or `jmp rel32`.
    Branch,
}

/// A call or jump through the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) span: Span,
    pub(crate) jump: bool,
    /// The target is nothing but sites' entries.
    pub(crate) exact: bool,
    pub(crate) through: Through,
    /// All sites that the call may go through.
    pub(crate) sites: Vec<Vaddr>,
    /// The call and as much right before it as has room for a branch to other code that does the same.
    pub(crate) run: Option<Span>,
}

/// A load of a data word into a register, or a call through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) span: Span,
    /// The register; nothing for a call or jump through memory.
    pub(crate) register: Option<Gpr>,
    /// The flags are free behind it.
    pub(crate) flags_are_free: bool,
    /// It names the word; else it reads a word of a table by an index.
    pub(crate) is_direct: bool,
}

/// Why a site is a call, and what must change with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) constant: Constant,
    pub(crate) calls: Vec<Call>,
    /// Loads of a data word.
    pub(crate) loads: Vec<Load>,
    /// All that is done with what stands in that word is calling it.
    pub(crate) word_is_only_called: bool,
    /// The program may put something else into that word, so that loads must see what is there.
    pub(crate) word_may_change: bool,
    /// The value reaches nothing but exact calls, so it may become another value.
    pub(crate) only_called: bool,
    /// Nothing lies between the constant and its single call.
    pub(crate) adjacent: bool,
    /// The function does nothing but make the call: its first instructions up to the constant's, which a jump to the
    /// called code may stand for.
    pub(crate) wrapper: Option<Span>,
    /// What code behind a call expects to find unchanged.
    pub(crate) expected: Expected,
    /// The value, which a rewrite may change, goes to code that is not followed.
    pub(crate) is_passed_on: bool,
    /// What else is done with the value, which a rewrite would change.
    pub(crate) conflict: Option<&'static str>,
    /// The flags are free behind the constant.
    pub(crate) flags_are_free: bool,
    /// `r11` and the flags are free behind the constant, so that other code may run there.
    pub(crate) scratch_is_free: bool,
}

/// What is known of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Call(Evidence),
    Unproven(String),
    Harmless(String),
}

/// A place that holds an entry's address, or looks so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) span: Span,
    pub(crate) entry: Entry,
    pub(crate) form: Form,
    pub(crate) function: Option<String>,
    pub(crate) reach: Option<Reach>,
    pub(crate) finding: Finding,
    /// The way of the address, by offset.
    pub(crate) steps: Vec<Step>,
}
