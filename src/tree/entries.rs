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
use crate::store::{self, Mtime, Names, Root, Source};
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

/// All names of `entry` that there are, and the bytes of the first.
fn open(root: &Root, entry: &Entry) -> Result<(Vec<Named>, Vec<u8>)> {
    let mut named: Vec<Named> = Vec::new();
    let mut first = Vec::new();
    for path in &entry.paths {
        let Some(place) = root.existing_place(path.as_path())? else { continue };
        let Some(stat) = place.stat().map_err(|error| Error::io("cannot open", error))? else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(
                ErrorKind::Mismatch,
                "is no regular file any more, but recorded as patched",
            )
            .remedy("it was replaced since, and is left as it is"));
        }
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
        return Err(Error::new(ErrorKind::Mismatch, "is gone, but recorded as patched")
            .remedy("it is not needed for anything else; remove the record when nothing else is in it"));
    }
    Ok((named, first))
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
        let (named, bytes) = open(root, &entry)?;
        let state = state(&entry, &named);
        let (kind, plan) = examine(&bytes, Via::default())?;
        let mut findings = verify::verify_hashed(&bytes, named[0].sha256, &entry.record);
        findings.extend(differences(&entry, &named, state)?);
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
        Ok((state, replaced, file, findings))
    })();
    match looked {
        Ok((state, replaced, file, findings)) => {
            (entry.clone(), Ok(Recorded { entry, state, replaced, file, findings }))
        }
        Err(error) => (entry, Err(error)),
    }
}

/// Where names and attributes are not as recorded.
fn differences(entry: &Entry, named: &[Named], state: State) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut tell = |slug, message: String| findings.push(finding(slug, message, None));
    for path in &entry.paths {
        if !named.iter().any(|name| name.path == path.as_path()) {
            tell("name-missing", format!("the name {} is gone", path.as_path().display()));
        }
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
    let (mut named, bytes) = open(root, entry)?;
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
    let (named, _) = open(root, entry)?;
    Ok(state(entry, &named))
}

/// That a recorded file is neither the original nor the patched one.
pub fn changed() -> Error {
    Error::new(ErrorKind::Mismatch, "is neither the patched file of the record nor the original")
        .remedy("it was replaced or changed since, and is left as it is")
}
