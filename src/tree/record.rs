//! The record of a tree: one entry per patched file, and what a run that is not finished was about to do.
//!
//! **Invariant:** it is written before the first file changes and again when all did. In between every name of
//! every entry is the original or the patched file, whole, so that the next run can finish or undo the work.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::Timespec;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::Direction;
use crate::record::{self, Record, Tool};
use crate::store::pending::is_random_name;
use crate::store::{self, Root, Source};

/// The version of the format that this tool writes and reads.
pub const SCHEMA: &str = "vsyspatch.tree-record/1";

/// Where the record is, from the root of the tree.
pub const DIRECTORY: &str = "var/lib/vsyspatch";

/// Its name there.
pub const NAME: &str = "record.json";

/// What was done to the files of one tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeRecord {
    schema: String,
    /// The tool that patched.
    pub tool: Tool,
    /// The run that is at work, or was killed; nothing where all is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Run>,
    /// Directories that were made for the record, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub created: Vec<TreePath>,
    /// The trees that it was written for, where it is not in the tree itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<TreeId>,
    /// The files, by path.
    pub files: Vec<Entry>,
}

/// What tells a tree from a copy of it, wherever it is mounted and however it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeId {
    /// The number of its root directory on the file system.
    inode: u64,
    /// When that was made, where the file system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<Time>,
}

impl TreeId {
    /// That of the tree at `root`.
    ///
    /// # Errors
    /// `Io` where the directory cannot be looked at.
    pub fn of(root: &Root) -> Result<Self> {
        let told = root.directory().identity();
        let (inode, made) = told.map_err(|error| Error::io("cannot read the directory", error))?;
        Ok(Self { inode, made: made.map(Into::into) })
    }
}

/// A run that writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// What it does.
    pub direction: Direction,
    /// The name that files are written to before they get their own.
    pub temporary: String,
    /// The directories that it writes to, with their modification times before.
    pub directories: Vec<(TreePath, Time)>,
}

/// One file, with all its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its names; more than one where they are hard links to one file.
    pub paths: Vec<TreePath>,
    /// Permissions, with set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time of the original.
    pub mtime: Time,
    /// Checksum over all extended attributes, ACLs and capabilities among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xattrs_sha256: Option<Sha256>,
    /// What was changed.
    pub record: Record,
}

/// Seconds since 1970, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time(pub i64, pub i64);

impl From<Timespec> for Time {
    fn from(time: Timespec) -> Self {
        Self(time.tv_sec, time.tv_nsec)
    }
}

impl From<Time> for Timespec {
    fn from(time: Time) -> Self {
        Self { tv_sec: time.0, tv_nsec: time.1 }
    }
}

/// A path from the root of the tree. Not every path is UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawPath", into = "RawPath")]
pub struct TreePath(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawPath {
    Text(String),
    Bytes {
        #[serde(with = "hex::serde")]
        hex: Vec<u8>,
    },
}

impl TreePath {
    /// The path as one of the file system.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl From<PathBuf> for TreePath {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl TryFrom<RawPath> for TreePath {
    type Error = Error;

    fn try_from(raw: RawPath) -> Result<Self> {
        let path = match raw {
            RawPath::Text(text) => PathBuf::from(text),
            RawPath::Bytes { hex } => PathBuf::from(OsStr::from_bytes(&hex)),
        };
        let is_plain = path.components().all(|component| matches!(component, Component::Normal(_)));
        if is_plain && !path.as_os_str().as_bytes().contains(&0) {
            return Ok(Self(path));
        }
        let message = format!("the path {} is none below the root of a tree", path.display());
        Err(Error::new(ErrorKind::Record, message))
    }
}

impl From<TreePath> for RawPath {
    fn from(path: TreePath) -> Self {
        match path.0.into_os_string().into_string() {
            Ok(text) => Self::Text(text),
            Err(bytes) => Self::Bytes { hex: bytes.as_bytes().to_vec() },
        }
    }
}

impl Entry {
    /// The entry of `source`, which has the names `paths`.
    ///
    /// # Errors
    /// `Io` where the attributes cannot be read.
    pub fn of(source: &Source, paths: Vec<PathBuf>, record: Record) -> Result<Self> {
        let stat = source.stat();
        let xattrs_sha256 = store::xattrs_sha256(source.file())
            .map_err(|error| Error::io("cannot read the extended attributes", error))?;
        Ok(Self {
            paths: paths.into_iter().map(TreePath).collect(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            xattrs_sha256,
            record,
        })
    }

    /// The path that it goes by.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), |path| &path.0)
    }
}

impl TreeRecord {
    /// One without an entry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            schema: SCHEMA.into(),
            tool: Tool::this(),
            unfinished: None,
            created: Vec::new(),
            roots: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The record as the bytes of its file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        record::written(self)
    }

    /// Reads a record back and checks it.
    ///
    /// # Errors
    /// `Record` for a version that is not known, or for what no record of ours can hold.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let record: Self = record::read(json, SCHEMA)?;
        let wrong = |what: String| Err(Error::new(ErrorKind::Record, format!("not a record: {what}")));
        let mut known = HashSet::new();
        for path in record.files.iter().flat_map(|entry| &entry.paths) {
            if !known.insert(path) || path.0.as_os_str().is_empty() {
                return wrong(format!("the path {} is empty, or in it twice", path.0.display()));
            }
        }
        if record.files.iter().any(|entry| entry.paths.is_empty()) {
            return wrong("an entry has no path".into());
        }
        if let Some(path) = record.created.iter().find(|path| !Path::new(DIRECTORY).starts_with(&path.0)) {
            return wrong(format!("the directory {} was not made for it", path.0.display()));
        }
        if record.unfinished.as_ref().is_some_and(|run| !is_random_name(&run.temporary)) {
            return wrong("a temporary name is none of this tool".into());
        }
        Ok(record)
    }

    /// The number of the entry of each path.
    #[must_use]
    pub fn by_path(&self) -> HashMap<&Path, usize> {
        let mut all = HashMap::new();
        for (number, entry) in self.files.iter().enumerate() {
            all.extend(entry.paths.iter().map(|path| (path.as_path(), number)));
        }
        all
    }

    /// Read permissions that every file of it gives.
    #[must_use]
    pub fn readable_by(&self) -> u32 {
        self.files.iter().fold(0o444, |readable, entry| readable & entry.mode) | 0o600
    }
}

impl Default for TreeRecord {
    fn default() -> Self {
        Self::new()
    }
}
