//! vsyspatch finds the calls that old x86-64 programs make into the vsyscall page, rewrites them to real
//! system calls in the file, proves the result and undoes it byte for byte.
//!
//! # How it fits together
//!
//! ```text
//! bytes -> ELF image -> decoded code -> sites -> plan -> apply -> verify -> store + record
//!          elf          code            scan     planner apply    verify    store   record
//!          functions    flow                     encode
//!          search                                stub
//! ```
//!
//! Each phase is one place, borrows what the former made, and hands its result on; nothing is changed
//! behind another phase's back. [`session`] runs the phases for one file and [`tree`] for all files of a
//! directory; both return an [`outcome`]. [`report`] and [`cli`] are the only ones that print.
//!
//! * [`examine`] tells what kind of file the bytes are: a program, a relocatable object, an archive of objects.
//!   `relocatable` links an object in memory, so that the rest of the engine sees a program.
//! * [`elf`] checks the headers that the kernel reads, and only these. Section headers are a help where
//!   they make sense. [`functions`] says where functions begin and end: unwind information, symbols,
//!   relocations, entry points.
//! * [`search`] finds the bytes of an entry's address. A file without them is never decoded, and where
//!   [`glance`] sees none, not even read as a whole.
//! * `code` decodes the function around a hit: instruction boundaries and control flow. Without bounds,
//!   only a place where decodes from everywhere before meet counts as a boundary.
//! * `flow` follows the address forward through registers, stack slots, joins and calls to every use; it
//!   is a may-analysis, so what it does not understand makes a value less certain, never more.
//! * `scan` turns uses into sites: proven calls with their evidence, harmless look-alikes, and what
//!   cannot be told.
//! * `planner` is a ladder of tactics: a system call in place; else the address of a stub where the
//!   constant is; else a detour through unused bytes; else a refusal with its reason. The [`plan`] is data.
//! * `extension` makes the file longer: by the page of `vdso`, where calls of the vDSO are wanted, or by room for stubs,
//!   where there is none; what is planned then is planned for the longer file.
//! * [`explain`] turns what the scan noted of a site into a listing.
//! * [`apply`] is mechanical, and revert is the inverse edits through the same code.
//! * [`verify`] reads the final bytes back with another ELF parser than the one that planned.
//! * [`memory`] maps large files for a look, and lets go of what was searched.
//! * [`store`] is the only module that touches the user's files: names in open directories, files that are read or
//!   mapped, complete copies that replace a file, the root of a tree, copies of trees.
//! * [`tree`] walks a directory with several threads, looks at each file once, records what it is about to do,
//!   does it, and completes the record; a run that was killed is taken up where it was.
//! * [`watch`] runs a program under a filter that tells of each vsyscall; [`deny`] kills for it, [`trace`] notes who
//!   made it and holds that against the scan.
//! * [`doctor`] tells what a host does with vsyscalls, and what logs tell of programs that died of one.
//! * [`image`] reads the layers of an image as they stream by, and puts one more on top.
//! * [`fleet`] lists what thousands of images, trees and files there are, does a share of them, and sums up what came of all.
//!
//! # Invariants
//!
//! **Invariant: never guess.** A site is patched only with evidence for it: instruction boundaries that
//! something proves, and a data flow from the constant to a call. There is no matching of bytes before
//! or behind a hit that decides anything.
//!
//! **Invariant: never move.** No byte that the program uses changes its address or its offset. Where calls find their
//! room in the file, its size stays, and the only header that may change is the size of an executable segment, within its
//! last page. Else, and with [`plan::Via::Vdso`], a file grows at its end, and its headers tell of that.
//!
//! **Invariant: never lose.** A file is replaced whole or not at all, with all its attributes; nothing is
//! stored that did not pass [`verify::verify`]; a record is true whenever the tool is killed.
//!
//! **Invariant: the engine takes bytes and gives values.** Everything below [`session`] is without files,
//! clocks, printing and panics on any input; [`limits`] bounds what hostile input can cost.
//!
//! **Invariant: what is deliberately absent.** No `unsafe` but for the map of a file, and what guards it
//! ([`memory`]), and a filter of system calls ([`watch::listener`]); no execution of what is patched but where
//! the user asks for it; no rewriting of sections, symbols or debug information; no configuration.
//!
//! # Use as a library
//!
//! ```
//! use vsyspatch::elf::Parsed;
//!
//! # let bytes: &[u8] = include_bytes!("../corpus/prebuilt/demo");
//! let Parsed::Image(image) = vsyspatch::elf::parse(bytes)? else { panic!("not a program") };
//! let plan = vsyspatch::plan_elf(&image);
//! let sha256 = vsyspatch::digest::Sha256::of(bytes);
//! let patched = vsyspatch::apply::apply(bytes, sha256, &plan.edits)?;
//! let patched_sha256 = vsyspatch::digest::Sha256::of(&patched);
//! let record = vsyspatch::record::Record::of(&plan, sha256, patched_sha256, None);
//! assert!(vsyspatch::verify::verify(&patched, &record).is_empty());
//! let original = vsyspatch::apply::apply(&patched, record.patched, &vsyspatch::apply::inverse(&record.edits))?;
//! assert_eq!(original, bytes);
//! # Ok::<(), vsyspatch::error::Error>(())
//! ```

pub mod addr;
pub mod apply;
pub mod cli;
pub mod code;
pub mod compression;
pub mod demo;
pub mod deny;
mod detour;
pub mod digest;
pub mod doctor;
pub mod elf;
mod encode;
pub mod error;
pub mod examine;
pub mod explain;
mod extension;
pub mod fleet;
mod flow;
pub mod functions;
pub mod glance;
mod go_table;
mod guard;
pub mod image;
mod landing_pads;
pub mod limits;
mod liveness;
pub mod memory;
pub mod outcome;
pub mod plan;
mod planner;
pub mod record;
mod references;
mod registers;
mod relocatable;
pub mod report;
mod scan;
pub mod search;
pub mod session;
pub mod site;
pub mod store;
mod stub;
pub mod trace;
pub mod tree;
mod vdso;
pub mod verify;
pub mod vsyscall;
pub mod watch;

/// elf -> scan -> plan: everything that is decided about one file, nothing written.
#[must_use]
pub fn plan_elf(image: &elf::Image<'_>) -> plan::Plan {
    planner::planned(image, plan::Via::Syscall)
}
