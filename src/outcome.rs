//! What a run has to tell, command by command: the common ground of all forms of report.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::elf::Identity;
use crate::error::{Error, ErrorKind};
use crate::explain::Line;
use crate::plan::{Edit, Plan};
use crate::site::Verdict;
use crate::verify::Finding;

/// The exit status; the worst of several is the greatest, which is not the greatest number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Nothing (left) to do.
    #[default]
    Clean,
    /// `scan`: something to patch; `patch`, `verify`, `revert`: something refused, or a finding.
    Findings,
    /// A network or a registry failed; trying again may help.
    Unavailable,
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
            Self::Unavailable => 3,
        }
    }
}

/// One word of the command line, and what came of it.
#[derive(Debug)]
pub struct Target {
    /// As the user named it.
    pub name: PathBuf,
    /// What came of it.
    pub result: Result<Found, Error>,
}

/// What was behind a name.
#[derive(Debug)]
pub enum Found {
    /// A file.
    File(Box<File>),
    /// A directory: a tree of files.
    Tree(Box<Tree>),
}

/// A tree of files, and what the command found or did.
#[derive(Debug, Default)]
pub struct Tree {
    /// The files that there is something to say of, by path.
    pub files: Vec<TreeFile>,
    /// What was looked at.
    pub seen: Seen,
    /// Directories that were not entered: the kernel's, and other file systems; from the root of the tree.
    pub not_entered: Vec<PathBuf>,
    /// What a run that was killed here was about to do.
    pub unfinished: Option<Direction>,
    /// What is to be said of an image, where the tree is one.
    pub image: Option<ImageFacts>,
    /// The record of the tree, where there is one now.
    pub record: Option<PathBuf>,
    /// What is wrong with the tree as such (`verify`).
    pub findings: Vec<Finding>,
    /// What the user should know though the command succeeded.
    pub warnings: Vec<String>,
}

/// What is to be said of an image besides its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Digest of its manifest or index.
    pub digest: String,
    /// Number of its layers.
    pub layers: usize,
    /// Layers that could not be looked into, and why.
    pub not_scanned: Vec<String>,
    /// Signatures, attestations and the like that are of an image which was replaced, and so no longer valid.
    pub outdated: Vec<String>,
    /// Where the new image was written, and the digest of its manifest or index.
    pub output: Option<(String, String)>,
    /// Bytes of blobs and documents that were sent to a registry, which may have had some blobs already.
    pub sent: Option<u64>,
    /// The new image in the registry, by its digest: `HOST/NAME@DIGEST`.
    pub reference: Option<String>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Regular files.
    pub files: usize,
    /// ELF files and archives among them, files with several names counted once.
    pub candidates: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A file of a tree.
#[derive(Debug)]
pub struct TreeFile {
    /// Where it is: the tree as the user named it, and the path in it.
    pub path: PathBuf,
    /// What came of it.
    pub result: Result<File, Error>,
}

/// One file and what the command found or did.
#[derive(Clone, Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Further names of it in the same tree: hard links.
    pub links: Vec<PathBuf>,
    /// The layer that it is in, of an image: the digest of the blob.
    pub layer: Option<String>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A file of files, which are not looked into here: what it is, in words.
    Container(String),
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

/// Towards the patched file or back. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

impl Status {
    /// What `error` means.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        if error.kind() == ErrorKind::Unavailable { Self::Unavailable } else { Self::Failed }
    }
}

impl Kind {
    /// What the file is, where it cannot be looked into.
    #[must_use]
    pub fn not_scanned(&self) -> Option<&str> {
        match self {
            Self::Unscannable(what) | Self::Container(what) => Some(what),
            _ => None,
        }
    }
}

impl File {
    /// One of `size` bytes without a site.
    #[must_use]
    pub fn clean(path: &Path, size: u64) -> Self {
        Self {
            path: path.to_owned(),
            links: Vec::new(),
            layer: None,
            sha256: None,
            size,
            kind: Kind::Clean,
            plan: None,
            action: Action::Scanned,
            warnings: Vec::new(),
        }
    }

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
        if self.kind.not_scanned().is_some() {
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
        let of_files =
            self.files().map(|(_, result)| result.map_or_else(Status::of, |file| file.status(strict)));
        of_files.max().unwrap_or_default().max(self.tree().map_or(Status::Clean, Tree::own_status))
    }

    /// The files that there is something to say of, with their paths; an error of the target itself goes as
    /// that of a file.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Result<&File, &Error>)> {
        let (one, many) = match &self.result {
            Err(error) => (Some((self.name.as_path(), Err(error))), &[][..]),
            Ok(Found::File(file)) => (Some((self.name.as_path(), Ok(&**file))), &[][..]),
            Ok(Found::Tree(tree)) => (None, tree.files.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|file| (file.path.as_path(), file.result.as_ref())))
    }

    /// The tree, where the target is one.
    #[must_use]
    pub fn tree(&self) -> Option<&Tree> {
        match &self.result {
            Ok(Found::Tree(tree)) => Some(tree),
            _ => None,
        }
    }
}

impl Tree {
    /// What it means for the exit status, its files not counted.
    fn own_status(&self) -> Status {
        let is_complete = self.image.as_ref().is_none_or(ImageFacts::is_complete);
        if self.findings.is_empty() && is_complete { Status::Clean } else { Status::Findings }
    }
}
