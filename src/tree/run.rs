//! A run that writes: the intent is recorded, every file is brought to what it is to be, the record is completed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

use super::Options;
use super::entries::{State, settle, state_of};
use super::record::{Entry, Run, Time, TreeId, TreeRecord};
use super::record_file::RecordFile;
use crate::error::{Error, Result};
use crate::outcome::Direction;
use crate::store::Root;
use crate::store::pending::{random_name, remove_leftover};

/// What all steps of a run need.
pub struct Job<'a> {
    /// The tree.
    pub root: &'a Root,
    /// How to work on it.
    pub options: &'a Options,
    /// Towards the patched files, or back.
    pub direction: Direction,
    /// The tree, where the record stays another's when it is the original again.
    pub leaves: Option<TreeId>,
}

impl Job<'_> {
    /// Brings every entry of `work` to what it is to be. `settled` holds the record's other entries, which stay.
    /// What came of each entry: what the user should know, or why it failed.
    ///
    /// # Errors
    /// Those of writing the record. Before the first file is written, nothing else was changed; after the
    /// last one, the record of the intent stays, and the next run finds it.
    pub fn run(
        &self,
        record_file: &mut RecordFile,
        settled: TreeRecord,
        work: &[Entry],
    ) -> Result<Vec<Result<Vec<String>>>> {
        let mut record = settled;
        let temporary = random_name();
        let mut directories = self.directories(work);
        directories.extend(record_file.changed_directory(self.root, &record)?);
        if !work.is_empty() {
            let run = Run {
                direction: self.direction,
                temporary: temporary.to_string_lossy().into_owned(),
                directories: directories.iter().map(|(path, time)| (path.clone().into(), *time)).collect(),
            };
            let settled_files = record.files.clone();
            record.files.extend_from_slice(work);
            record.files.sort_by(|a, b| a.path().cmp(b.path()));
            record.unfinished = Some(run);
            record_file.write(self.root, &mut record)?;
            record.files = settled_files;
        }
        let mut done: Vec<Result<Vec<String>>> = work
            .iter()
            .map(|entry| settle(self.root, entry, self.direction, self.options, &temporary))
            .collect();
        for (path, time) in &directories {
            settle_directory(self.root, path, *time)?;
        }
        let mut is_finished = true;
        for (entry, done) in work.iter().zip(&mut done) {
            let state = match (&*done, self.direction) {
                (Ok(_), Direction::Patch) => State::Patched,
                (Ok(_), Direction::Revert) => State::Original,
                // Where it cannot even be read, the entry may be the only way back.
                (Err(_), _) => state_of(self.root, entry).unwrap_or(State::Patched),
            };
            if state == State::Torn {
                is_finished = false;
                let torn =
                    |error: Error| error.remedy("not all of its names are replaced: patch again, or revert");
                *done = std::mem::replace(done, Ok(vec![])).map_err(torn);
            }
            if state != State::Original || self.leaves.is_some() {
                record.files.push(entry.clone());
            }
        }
        record.files.sort_by(|a, b| a.path().cmp(b.path()));
        if is_finished {
            record.unfinished = None;
            if self.direction == Direction::Revert {
                record.roots.retain(|root| Some(*root) != self.leaves);
            }
        }
        if record.files.is_empty() {
            record_file.remove(self.root, &record)?;
        } else {
            record_file.write(self.root, &mut record)?;
        }
        Ok(done)
    }

    /// The directories of `work` with their modification times.
    fn directories(&self, work: &[Entry]) -> BTreeMap<PathBuf, Time> {
        let paths = work.iter().flat_map(|entry| &entry.paths);
        let parents = paths.filter_map(|path| path.as_path().parent().map(Path::to_owned));
        let times = parents.filter_map(|parent| {
            let times = self.root.subdirectory(&parent).ok()?.times().ok()?;
            Some((parent, times.last_modification.into()))
        });
        times.collect()
    }
}

/// Removes what `run` was writing when it was killed.
///
/// # Errors
/// `Io` where that cannot be removed.
pub fn clean_up(root: &Root, run: &Run) -> Result<()> {
    for (path, time) in &run.directories {
        let path = path.as_path();
        let Ok(directory) = root.subdirectory(path) else { continue };
        remove_leftover(&directory.place("."), OsStr::new(&run.temporary))?;
        settle_directory(root, path, *time)?;
    }
    Ok(())
}

/// Files were replaced in the directory at `path` by renaming: that is flushed, and no change of the directory
/// that anybody means.
fn settle_directory(root: &Root, path: &Path, time: Time) -> Result<()> {
    let untouched = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: untouched, last_modification: time.into() };
    let Ok(directory) = root.subdirectory(path) else { return Ok(()) };
    let settled = directory.sync().and_then(|()| directory.set_times(&times));
    settled.map_err(|error| {
        Error::io(format!("cannot write the directory {}", root.shown(path).display()), error)
            .remedy("patch again, or revert")
    })
}
