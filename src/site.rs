//! What a place that holds an entry's address is: the words that scan, plan, record and report share.

use serde::{Deserialize, Serialize};

use crate::addr::{FileOffset, Vaddr};

/// How the code (or data) at a site holds and uses the address. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `mov $entry,%reg ... call *%reg`: any register, adjacent or not, one or many calls.
    DirectCall,
    /// `mov $entry,%reg ... jmp *%reg`.
    TailJump,
    /// An IFUNC resolver returns the address when the vDSO has no such function.
    IfuncFallback,
    /// The address is kept in memory, mangled or not, for a later call.
    StoredFallback,
    /// An 8-byte pointer in initialised data that code loads and calls.
    DataWord,
    /// The address goes through a slot of the stack frame (code without optimisation).
    StackSlot,
    /// The address is computed from the page's address and an index.
    Computed,
    /// `call rel32` or `jmp rel32` straight into the page.
    DirectBranch,
    /// Look-alike: compared with.
    Compare,
    /// Look-alike until proven otherwise: passed on as an argument.
    Argument,
    /// Look-alike until proven otherwise: stored, and no call through the stored value is seen.
    StoredConstant,
    /// Look-alike: the bytes are part of some other instruction, or of two.
    OtherInstruction,
    /// Look-alike: the bytes are data that is no pointer to an entry.
    Data,
}

/// When the program makes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Every time the code runs.
    Always,
    /// Only where the vDSO (or another value that the program found) does not stand in.
    Fallback,
}

/// What the tool does about a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Proven to be a call, and can be rewritten.
    Patch,
    /// Proven to be a call, and cannot be rewritten safely.
    Refused,
    /// It may become a call; the analysis cannot tell.
    Unproven,
    /// Proven not to be a call.
    Harmless,
}

/// What an instruction (or a data word) does with the address that a site holds. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// It stands before the site, and shows where that is.
    Near,
    /// It only has the bytes of the address inside.
    Contains,
    /// It copies the address to another register or to the stack.
    Moves,
    /// It loads the address from memory.
    Loads,
    /// It computes with the address, or reads it for something that is not followed.
    Computes,
    /// It compares the address with something.
    Compares,
    /// It passes the address to another function.
    Passes,
    /// It stores the address in memory.
    Stores,
    /// It stores the address mangled with the thread's pointer guard.
    StoresMangled,
    /// It returns the address.
    Returns,
    /// It calls the address.
    Calls,
    /// It jumps to the address.
    Jumps,
    /// It holds the address.
    Holds,
}

/// One station on the way of an address from a site to its uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Step {
    /// Where in the file the instruction, or the data word, begins.
    pub offset: FileOffset,
    /// Its address.
    pub vaddr: Vaddr,
    /// Its length in bytes.
    pub len: usize,
    /// What it does with the address.
    pub deed: Deed,
}

macro_rules! display_as_serialized {
    ($($type:ty),*) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}
display_as_serialized!(Form, Reach, Verdict, Deed);
