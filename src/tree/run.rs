//! A run that writes: the intent is recorded, every file is brought to what it is to be, the record is completed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

use super::Options;
use super::entries::{State, settle, state_of};
use super::record::{Entry, Run, Time, TreeRecord};
use super::record_file::RecordFile;
use crate::error::Result;
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
        let directories = self.directories(work);
        if !work.is_empty() {
            record_file.make_room(self.root, &mut record)?;
            let run = Run {
                direction: self.direction,
                temporary: temporary.to_string_lossy().into_owned(),
                directories: directories.iter().map(|(path, time)| (path.clone().into(), *time)).collect(),
            };
            let settled_files = record.files.clone();
            record.files.extend_from_slice(work);
            record.files.sort_by(|a, b| a.path().cmp(b.path()));
            record.unfinished = Some(run);
            record_file.write(&record)?;
            record.files = settled_files;
        }
        let done: Vec<Result<Vec<String>>> = work
            .iter()
            .map(|entry| settle(self.root, entry, self.direction, self.options, &temporary))
            .collect();
        for (path, time) in &directories {
            set_time(self.root, path, *time);
        }
        let mut is_finished = true;
        for (entry, done) in work.iter().zip(&done) {
            let state = match (done, self.direction) {
                (Ok(_), Direction::Patch) => State::Patched,
                (Ok(_), Direction::Revert) => State::Original,
                // Where it cannot even be read, the entry may be the only way back.
                (Err(_), _) => state_of(self.root, entry).unwrap_or(State::Patched),
            };
            is_finished &= state != State::Torn;
            if state != State::Original {
                record.files.push(entry.clone());
            }
        }
        record.files.sort_by(|a, b| a.path().cmp(b.path()));
        if is_finished {
            record.unfinished = None;
        }
        if record.files.is_empty() {
            record_file.remove(self.root, &record)?;
        } else {
            record_file.write(&record)?;
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

/// Files were replaced in the directory at `path` by renaming: no change of it that anybody means.
fn set_time(root: &Root, path: &Path, time: Time) {
    let untouched = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    if let Ok(directory) = root.subdirectory(path) {
        directory.set_times(&Timestamps { last_access: untouched, last_modification: time.into() });
    }
}

/// Removes what the run `before` was writing when it was killed, beside the recorded files `entries`.
///
/// # Errors
/// `Io` where it cannot be removed.
pub fn clean_up(root: &Root, before: &Run, entries: &[Entry]) -> Result<()> {
    // What is in a record can come from anybody: nothing else is ever removed.
    if !before.temporary.starts_with(crate::store::pending::TEMPORARY) || before.temporary.contains('/') {
        return Ok(());
    }
    for path in entries.iter().flat_map(|entry| &entry.paths) {
        if let Ok(place) = root.place(path.as_path()) {
            remove_leftover(&place, OsStr::new(&before.temporary))?;
        }
    }
    for (path, time) in &before.directories {
        set_time(root, path.as_path(), *time);
    }
    Ok(())
}
