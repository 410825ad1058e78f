//! The plan: what to change and why, and what is left alone and why. Data, no bytes are changed here.

use serde::{Deserialize, Serialize};

use crate::addr::{FileOffset, Vaddr};
use crate::site::{Form, Reach, Step, Verdict};
use crate::vsyscall::Entry;

/// What the calls are to become. The names are stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// System calls: the smallest change. A file grows only where calls need more room than it has.
    #[default]
    Syscall,
    /// Calls of the kernel's vDSO, by a page that the file is made larger for; a file that cannot take it is refused.
    Vdso,
    /// Calls of the vDSO where the file can take the page, else system calls.
    Auto,
}

/// How a site is rewritten. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The constant becomes the system call's number and the calls become `syscall`.
    InPlace,
    /// The constant becomes the address of a stub, in unused bytes of the file or a page that was added to it, that makes the
    /// system call.
    Stub,
    /// The constant becomes the address of an entry of the page that was added to the file, which calls the vDSO.
    Vdso,
}

/// What one edit does. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The instruction that holds the entry's address.
    Constant,
    /// A call or jump through that address, with what stands right before it where it has no room for its replacement.
    Call,
    /// An 8-byte pointer in data.
    Pointer,
    /// The code of a stub, in bytes that were unused or were added.
    Stub,
    /// Code in bytes that were unused or were added, which does what the constant's instruction did with the address
    /// of a stub, and jumps back.
    Detour,
    /// Code in bytes that were unused or were added, which makes a call whose target is known only when it runs, and calls a stub
    /// where that is an entry's address.
    Guard,
    /// A field of the ELF header or the program header table, or the table.
    Header,
    /// The page that takes the vsyscall page's place, at the file's new end.
    Page,
    /// Its three pointers to the vDSO's functions, in a page that can be written.
    Pointers,
    /// What starts the program or the shared object: it leads to the page's init code.
    Init,
    /// Bytes without use between what is added.
    Fill,
}

/// One contiguous change: whole instructions (or a pointer, a stub, a header field), same length before and after; or
/// bytes at the file's end that were not there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where in the file.
    pub offset: FileOffset,
    /// Its address; nothing for bytes that are not code or data of the program (headers).
    pub vaddr: Option<Vaddr>,
    /// The bytes there now.
    pub before: Vec<u8>,
    /// The bytes to write; as many, but for what is added or, towards the original, taken away at the end.
    pub after: Vec<u8>,
    /// What the change does.
    pub role: Role,
    /// Entry of the (first) site that needs this edit.
    pub entry: Entry,
    /// Form of that site.
    pub form: Form,
    /// Strategy of that site.
    pub strategy: Strategy,
    /// Function that the site is in, where known.
    pub function: Option<String>,
}

/// A site with its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSite {
    /// File offset of the first byte of the instruction, or of the data word, that holds the address.
    pub offset: FileOffset,
    /// Its address; in a relocatable object the distance from the section's begin.
    pub vaddr: Vaddr,
    /// Which entry.
    pub entry: Entry,
    /// How it is held and used.
    pub form: Form,
    /// Function that it is in, where known.
    pub function: Option<String>,
    /// Archive member that it is in; the address then counts from the member's section.
    pub member: Option<String>,
    /// When the call is made; nothing where no call is known.
    pub reach: Option<Reach>,
    /// What is done about it.
    pub verdict: Verdict,
    /// Why, in one sentence without a full stop.
    pub reason: String,
    /// How it is rewritten; only with [`Verdict::Patch`].
    pub strategy: Option<Strategy>,
    /// Indices into [`Plan::edits`], ascending; an edit may serve several sites.
    pub edits: Vec<usize>,
    /// The way of the address from the site to its uses, by offset.
    pub steps: Vec<Step>,
}

impl PlannedSite {
    /// Whether it is proven to be a call, whatever can be done about it.
    #[must_use]
    pub fn is_call(&self) -> bool {
        matches!(self.verdict, Verdict::Patch | Verdict::Refused)
    }
}

/// What to do about one ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Size in bytes of the file that it is for.
    pub size: u64,
    /// Every site, sorted by offset.
    pub sites: Vec<PlannedSite>,
    /// The changes, sorted by offset and disjoint.
    pub edits: Vec<Edit>,
    /// Why calls, or some of them, become system calls though calls of the vDSO were wanted.
    pub not_vdso: Option<String>,
}

impl Plan {
    /// Whether there is something to write.
    #[must_use]
    pub fn has_edits(&self) -> bool {
        !self.edits.is_empty()
    }

    /// Whether a site is a call. Only what is done about these depends on what calls are to become.
    #[must_use]
    pub fn has_calls(&self) -> bool {
        self.sites.iter().any(PlannedSite::is_call)
    }

    /// Number of sites with `verdict`.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.sites.iter().filter(|site| site.verdict == verdict).count()
    }
}
