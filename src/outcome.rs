//! What a run has to tell, command by command: the common ground of all forms of report.

use std::path::PathBuf;

use crate::digest::Sha256;
use crate::elf::Identity;
use crate::error::Error;
use crate::explain::Line;
use crate::plan::{Edit, Plan};
use crate::site::Verdict;
use crate::verify::Finding;

/// The exit status; the worst of several is the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Nothing (left) to do.
    #[default]
    Clean,
    /// `scan`: something to patch; `patch`, `verify`, `revert`: something refused, or a finding.
    Findings,
    /// Unreadable, malformed, no record, wrong usage.
    Failed,
}

impl Status {
    /// The number that the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Findings => 1,
            Self::Failed => 2,
        }
    }
}

/// One word of the command line, and what came of it.
#[derive(Debug)]
pub struct Target {
    /// As the user named it.
    pub name: PathBuf,
    /// What came of it.
    pub result: Result<File, Error>,
}

/// One file and what the command found or did.
#[derive(Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Checksum of the bytes that were read, where they were all read.
    pub sha256: Option<Sha256>,
    /// Number of them.
    pub size: u64,
    /// What kind of file.
    pub kind: Kind,
    /// The decisions about its sites. `verify` and `revert` have the plan of what they read.
    pub plan: Option<Plan>,
    /// What was done.
    pub action: Action,
    /// What the user should know though the command succeeded.
    pub warnings: Vec<String>,
}

/// What kind of file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An x86-64 program, shared object or relocatable object.
    Elf(Identity),
    /// An `ar` archive.
    Archive {
        /// Its members, the tables of the archive itself not counted.
        members: usize,
        /// Those that are relocatable objects for x86-64.
        objects: usize,
    },
    /// An x86-64 program or shared object that was searched, found without an entry's address, and not
    /// looked at any further.
    Clean,
    /// An ELF file that has no vsyscall calls, or is not handled: what it is, in words.
    Foreign(String),
    /// A file that may hold vsyscall calls and cannot be looked into: what it is, in words.
    Unscannable(String),
}

/// What the command did with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `scan` looked.
    Scanned,
    /// `patch` or `revert` wrote a changed file, or would (`--dry-run`).
    Written(Written),
    /// There was nothing to change.
    Unchanged(Unchanged),
    /// `verify` looked at a patched file: what is wrong with it.
    Verified(Vec<Finding>),
    /// `explain` looked at some of the sites.
    Explained(Vec<Explanation>),
}

/// What was seen of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Index of the site in the plan.
    pub site: usize,
    /// The code that it was seen in.
    pub listing: Vec<Line>,
}

/// The result of `patch` and `revert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Which of the two.
    pub direction: Direction,
    /// Nothing was written: `--dry-run`.
    pub dry_run: bool,
    /// Where the result is; nothing with a dry run that names no place.
    pub output: Option<PathBuf>,
    /// Checksum of the result.
    pub sha256: Sha256,
    /// What was changed, sorted by offset.
    pub edits: Vec<Edit>,
    /// The record that was written (`patch`) or read (`revert`).
    pub record: Option<PathBuf>,
}

/// Towards the patched file or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `patch`
    Patch,
    /// `revert`
    Revert,
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// No site that can be patched; the identical copy, where one was asked for.
    Clean {
        /// The copy.
        copy: Option<PathBuf>,
    },
    /// The file is patched already; the identical copy, where one was asked for.
    AlreadyPatched {
        /// The copy.
        copy: Option<PathBuf>,
    },
    /// The file is the original already.
    AlreadyOriginal,
}

impl File {
    /// Number of sites with `verdict`.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.plan.as_ref().map_or(0, |plan| plan.count(verdict))
    }

    /// Whether only its sites, if there are any, are worth a word: a file that `scan` can handle.
    #[must_use]
    pub fn is_uneventful(&self) -> bool {
        self.action == Action::Scanned && self.is_handled()
    }

    /// Whether it is of a kind that is looked into.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        matches!(self.kind, Kind::Elf(_) | Kind::Archive { .. } | Kind::Clean)
    }

    /// What this file means for the exit status; with `strict`, doubt counts as much as a refusal.
    #[must_use]
    pub fn status(&self, strict: bool) -> Status {
        if matches!(self.kind, Kind::Unscannable(_)) {
            return Status::Findings;
        }
        let open = match &self.action {
            Action::Scanned | Action::Explained(_) => {
                self.count(Verdict::Patch) + self.count(Verdict::Refused)
            }
            Action::Written(Written { direction: Direction::Revert, .. })
            | Action::Unchanged(Unchanged::AlreadyOriginal) => return Status::Clean,
            Action::Written(_) | Action::Unchanged(_) => self.count(Verdict::Refused),
            Action::Verified(findings) => findings.len() + self.count(Verdict::Refused),
        };
        let doubt = if strict { self.count(Verdict::Unproven) } else { 0 };
        if open + doubt > 0 { Status::Findings } else { Status::Clean }
    }
}

impl Target {
    /// What this target means for the exit status.
    #[must_use]
    pub fn status(&self, strict: bool) -> Status {
        self.result.as_ref().map_or(Status::Failed, |file| file.status(strict))
    }
}
