//! Fleets: what thousands of images, trees and files there are, a share of the work for each of many workers, and one
//! table of what came of it all. There is no server, no queue and no lock: a scheduler that is there already starts
//! the workers, and all that they share is a list that nobody changes and a directory of results.
//!
//! ```text
//! sources -> gather -> plan -> WORK.jsonl -> run (shard 1/N) ... run (shard N/N) -> results/ab/ab12....json -> merge
//! ```
//!
//! * [`gather`] finds what is behind a source: a registry's catalog, a list of references, a directory.
//! * [`plan`] makes one item of all that has the same digest, orders items so that those with the same layers stand
//!   together, and writes the work list; [`sort`] sorts what memory need not hold.
//! * `trees` tells trees on disks from one another.
//! * [`shard`] says which part of the list is a worker's. [`run`] does it, item by item, with the engine of the
//!   commands. [`results`] is the directory with one file for each item. [`merge`] sums up.
//!
//! **No cache of verdicts by a file's digest,** as there is one of layers by theirs. A layer's digest is at hand before
//! a byte of it is fetched; that of a file is not, and working it out takes twice as long as the search that finds a clean
//! file clean (measured, with SHA instructions: 122 ms for 55 ms, a libLLVM of 107 MB; without them ten times). It would
//! spare a scan the analysis of the few files with calls (a libc of 1.6 MB: 0.9 ms for 10 ms), which `patch` needs anyway
//! for its edits. Programs that are items themselves are of one item by their digest, and are looked at once as it is.
//!
//! **Invariants.**
//!
//! *The list is cut, not dealt:* a shard is a run of consecutive items that has its share of the cost, so that images on
//! one base are one worker's. Every partition into shards holds every item once; another number of shards than the last
//! time does no harm.
//!
//! *A result is whole or not there,* and is of one item: its identity is the checksum of what the input is. It tells for
//! which names the item was done, and where each went: for others it is done still. Who did it, when, and how often does
//! not matter. A failure never replaces a result; no clock is compared with another.
//!
//! *Memory does not grow with the list.* Planning holds [`sort::HELD_BYTES`] of it and one page of a registry's names,
//! a worker one item, merging one result and, where there is no work list, the names in one 256th of the results.

pub mod gather;
pub mod merge;
pub mod plan;
pub mod results;
pub mod run;
pub mod shard;
pub mod sort;
mod trees;

use std::fmt;

use serde::{Deserialize, Serialize};

/// The form of a work list.
pub const WORK_SCHEMA: &str = "vsyspatch.work/1";

/// The form of a result.
pub const RESULT_SCHEMA: &str = "vsyspatch.result/1";

/// The version of this program, which a result is of.
pub const TOOL: &str = env!("VSYSPATCH_VERSION");

/// The first line of a work list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`WORK_SCHEMA`]
    pub schema: String,
    /// Number of items: lines behind this one.
    pub items: u64,
    /// Number of names; more than items where several names are of the same content.
    pub names: u64,
    /// Bytes of all items, as far as they are known.
    pub bytes: u64,
    /// Sum of what the items cost.
    pub cost: u64,
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An image, in a registry, an archive or a layout.
    Image,
    /// A directory with all in it.
    Tree,
    /// A program, library, object or archive of objects.
    File,
}

/// One line of a work list: one content, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// 32 hex digits that depend on the digest alone, or on the source of what could not be looked up.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// `sha256:...`: of an image's manifest or index, of a file, of names, sizes and times of a tree's files. Nothing
    /// where it could not be looked up; then it is found out anew in each run.
    pub digest: Option<String>,
    /// Bytes of the file or of all compressed layers; those of a tree's files.
    pub bytes: u64,
    /// What it costs: its bytes without the layers that it shares with the item before, and [`plan::ITEM_COST`].
    pub cost: u64,
    /// Where it is; never empty.
    pub places: Vec<Place>,
}

/// Where an item is, and where what comes of it goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// As a person knows it: `docker://HOST/NAME:TAG`, or a path.
    pub name: String,
    /// The same, for good: an image in a registry by its digest.
    pub source: String,
    /// Where `patch` and `revert` write to; nothing where a file or a tree is to be replaced.
    pub destination: Option<String>,
}

/// What is done with each item; as the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// `vsyspatch scan SOURCE`
    Scan,
    /// `vsyspatch patch SOURCE DESTINATION`
    Patch,
    /// `vsyspatch verify SOURCE`
    Verify,
    /// `vsyspatch revert SOURCE DESTINATION`
    Revert,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scan => "scan",
            Self::Patch => "patch",
            Self::Verify => "verify",
            Self::Revert => "revert",
        })
    }
}

/// What came of an item, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Nothing calls the vsyscall page.
    Clean,
    /// It is patched: by this run, or it was already.
    Patched,
    /// It is the original again.
    Reverted,
    /// It is what its record says.
    Verified,
    /// `scan` found something to patch.
    ToPatch,
    /// `verify` found something wrong.
    Findings,
    /// Something is there that cannot be patched or looked into.
    Refused,
    /// An error ended it, or is of a part of it.
    Failed,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Clean,
        Self::Patched,
        Self::Reverted,
        Self::Verified,
        Self::ToPatch,
        Self::Findings,
        Self::Refused,
        Self::Failed,
    ];

    /// The stable name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Patched => "patched",
            Self::Reverted => "reverted",
            Self::Verified => "verified",
            Self::ToPatch => "to-patch",
            Self::Findings => "findings",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
