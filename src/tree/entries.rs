//! Recorded files: what they are now, and the way to what they are to be.

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::FileType;

use super::Options;
use super::record::{Entry, TreePath};
use crate::apply;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::examine::examine;
use crate::outcome::{Action, Direction, File};
use crate::plan::Via;
use crate::store::root::Existing;
use crate::store::{self, Mtime, Names, Place, Root, Source};
use crate::verify::{self, Finding, finding};

/// What the names of a recorded file stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All for one patched file.
    Patched,
    /// All for one original.
    Original,
    /// Some for the original and some for the patched file, or for several: a run was killed between them.
    Torn,
    /// Something else, which the record knows nothing of.
    Changed,
}

/// A recorded file as it is now.
#[derive(Debug)]
pub struct Recorded {
    /// Its entry.
    pub entry: Entry,
    /// What it is now.
    pub state: State,
    /// Its names that stand for neither the original nor the patched file.
    pub replaced: Vec<TreePath>,
    /// Its names that stand for no file any more, and what became of them.
    pub lost: Vec<(TreePath, &'static str)>,
    /// What is found in it.
    pub file: File,
    /// Whether it is as the record says.
    pub findings: Vec<Finding>,
}

/// One name of a recorded file, with the content that it stands for.
struct Named {
    path: PathBuf,
    source: Source,
    sha256: Sha256,
}

/// What became of a recorded name that stands for no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// Nothing has it.
    Gone,
    /// A link, a directory or the like has it.
    NoFile,
    /// It is reached by a symbolic link now, or not through directories at all.
    Moved,
}

impl Lost {
    /// `is gone`
    fn told(self) -> &'static str {
        match self {
            Self::Gone => "is gone",
            Self::NoFile => "is no regular file any more",
            Self::Moved => "is not where it was: something else than a directory is on the way there",
        }
    }

    /// What to do about a recorded file all of whose names are lost.
    fn remedy(self) -> &'static str {
        match self {
            Self::Gone => "it is not needed for anything else; remove the record when nothing else is in it",
            Self::NoFile => "it was replaced since, and is left as it is",
            Self::Moved => "to revert it, put its directory back first",
        }
    }
}

/// The names of a recorded file.
struct Opened {
    /// Those that there are.
    named: Vec<Named>,
    /// The bytes of the first of these.
    bytes: Vec<u8>,
    /// The others.
    lost: Vec<(TreePath, Lost)>,
}

/// The regular file of that name.
fn place_of(root: &Root, path: &TreePath) -> Result<std::result::Result<Place, Lost>> {
    let place = match root.existing_place(path.as_path())? {
        Existing::Place(place) => place,
        Existing::Gone => return Ok(Err(Lost::Gone)),
        Existing::Behind => return Ok(Err(Lost::Moved)),
    };
    let stat = place.stat().map_err(|error| Error::io("cannot open", error))?;
    Ok(match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        None => Err(Lost::Gone),
        Some(FileType::RegularFile) => Ok(place),
        Some(_) => Err(Lost::NoFile),
    })
}

/// All names of `entry` that there are, and the bytes of the first.
fn open(root: &Root, entry: &Entry) -> Result<Opened> {
    let mut named: Vec<Named> = Vec::new();
    let mut first = Vec::new();
    let mut lost = Vec::new();
    for path in &entry.paths {
        let place = match place_of(root, path)? {
            Ok(place) => place,
            Err(why) => {
                lost.push((path.clone(), why));
                continue;
            }
        };
        let source = Source::at(place)?;
        let same = named.iter().find(|other| other.source.inode() == source.inode());
        let sha256 = match same {
            Some(same) => same.sha256,
            None => {
                let bytes = source.read()?;
                let sha256 = Sha256::of(&bytes);
                if named.is_empty() {
                    first = bytes;
                }
                sha256
            }
        };
        named.push(Named { path: path.as_path().to_owned(), source, sha256 });
    }
    if named.is_empty() {
        let why = lost.first().map_or(Lost::Gone, |(_, why)| *why);
        return Err(Error::new(ErrorKind::Mismatch, format!("{}, but recorded as patched", why.told()))
            .remedy(why.remedy()));
    }
    Ok(Opened { named, bytes: first, lost })
}

/// Whether `name` stands for neither the original nor the patched file of `entry`.
fn is_replaced(entry: &Entry, name: &Named) -> bool {
    name.sha256 != entry.record.original && name.sha256 != entry.record.patched
}

fn state(entry: &Entry, named: &[Named]) -> State {
    let (original, patched) = (entry.record.original, entry.record.patched);
    if named.iter().any(|name| is_replaced(entry, name)) {
        return State::Changed;
    }
    let first = &named[0];
    let is_one = named.iter().all(|name| name.source.inode() == first.source.inode());
    match first.sha256 {
        // Originals that are files of their own were made so by somebody else.
        _ if !is_one && named.iter().all(|name| name.sha256 == original) => State::Original,
        _ if !is_one => State::Torn,
        sha256 if sha256 == patched => State::Patched,
        _ => State::Original,
    }
}

/// Looks at the recorded file of `entry`.
///
/// # Errors
/// `Mismatch` where none of its names is there any more; those of reading.
pub fn recorded(root: &Root, entry: Entry) -> (Entry, Result<Recorded>) {
    let looked = (|| {
        let Opened { named, bytes, lost } = open(root, &entry)?;
        let state = state(&entry, &named);
        let (kind, plan) = examine(&bytes, Via::default())?;
        let mut findings = verify::verify_hashed(&bytes, named[0].sha256, &entry.record);
        findings.extend(differences(&entry, &named, &lost, state)?);
        let is_replaced = |name: &&Named| is_replaced(&entry, name);
        let replaced = named.iter().filter(is_replaced).map(|name| name.path.clone().into()).collect();
        let mut paths = named.iter().map(|name| root.shown(&name.path));
        let file = File {
            path: paths.next().unwrap_or_default(),
            links: paths.collect(),
            layer: None,
            sha256: Some(named[0].sha256),
            size: bytes.len() as u64,
            kind,
            plan,
            action: Action::Scanned,
            warnings: vec![],
        };
        let lost = lost.into_iter().map(|(path, why)| (path, why.told())).collect();
        Ok((state, replaced, lost, file, findings))
    })();
    match looked {
        Ok((state, replaced, lost, file, findings)) => {
            (entry.clone(), Ok(Recorded { entry, state, replaced, lost, file, findings }))
        }
        Err(error) => (entry, Err(error)),
    }
}

/// Where names and attributes are not as recorded.
fn differences(
    entry: &Entry,
    named: &[Named],
    lost: &[(TreePath, Lost)],
    state: State,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut tell = |slug, message: String| findings.push(finding(slug, message, None));
    for (path, why) in lost {
        tell("name-missing", format!("the name {} {}", path.as_path().display(), why.told()));
    }
    if state == State::Torn || named.iter().any(|name| name.source.inode() != named[0].source.inode()) {
        tell("link-group-broken", "its names are not links to one file".into());
    }
    let stat = named[0].source.stat();
    if stat.st_mode & 0o7777 != entry.mode {
        tell("mode-changed", format!("the mode is {:o}, not {:o}", stat.st_mode & 0o7777, entry.mode));
    }
    if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        tell("owner-changed", format!("the owner is {uid}:{gid}, not {}:{}", entry.uid, entry.gid));
    }
    let xattrs = store::xattrs_sha256(named[0].source.file())
        .map_err(|error| Error::io("cannot read the extended attributes", error))?;
    if xattrs != entry.xattrs_sha256 {
        tell("xattrs-changed", "the extended attributes are not those recorded".into());
    }
    Ok(findings)
}

/// Brings all names of `entry` to one file with the content that `direction` leads to; what the user should
/// know.
///
/// # Errors
/// `Mismatch` where a name stands for something else; those of writing.
pub fn settle(
    root: &Root,
    entry: &Entry,
    direction: Direction,
    options: &Options,
    temporary: &OsStr,
) -> Result<Vec<String>> {
    let Opened { mut named, bytes, .. } = open(root, entry)?;
    let record = &entry.record;
    let wanted = match direction {
        Direction::Patch => record.patched,
        Direction::Revert => record.original,
    };
    match (state(entry, &named), direction) {
        (State::Patched, Direction::Patch) | (State::Original, Direction::Revert) => return Ok(vec![]),
        (State::Changed, _) => return Err(changed()),
        _ => {}
    }
    let now = named[0].sha256;
    let content = match direction {
        _ if now == wanted => bytes,
        Direction::Patch => apply::apply(&bytes, now, &record.edits)?,
        Direction::Revert => apply::apply(&bytes, now, &apply::inverse(&record.edits))?,
    };
    if Sha256::of(&content) != wanted {
        let message = "the recorded edits do not give the recorded sha256; nothing was written";
        return Err(Error::new(ErrorKind::Mismatch, message).remedy("the record is not of this file"));
    }
    let source = named.remove(0).source;
    let others = named.into_iter().map(|name| (name.source.place().clone(), name.source.inode())).collect();
    let names = Names { others, unlisted: options.keep.other_names, temporary: Some(temporary.to_owned()) };
    let pending = store::prepare_in_place(&source, names, &content)?;
    let warnings = pending.warnings.clone();
    let mtime = match direction {
        Direction::Patch if options.keep.mtime => Mtime::Keep,
        Direction::Patch => Mtime::Now,
        Direction::Revert => Mtime::Set(entry.mtime.0, entry.mtime.1),
    };
    pending.put(&source, mtime)?;
    Ok(warnings)
}

/// What the names of `entry` stand for now.
///
/// # Errors
/// Those of reading.
pub fn state_of(root: &Root, entry: &Entry) -> Result<State> {
    Ok(state(entry, &open(root, entry)?.named))
}

/// That a recorded file is neither the original nor the patched one.
pub fn changed() -> Error {
    Error::new(ErrorKind::Mismatch, "is neither the patched file of the record nor the original")
        .remedy("it was replaced or changed since, and is left as it is")
}
