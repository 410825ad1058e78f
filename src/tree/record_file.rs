//! Where the record of a tree is, and how it gets there.
//!
//! **Invariants.** The record is there whole, or not at all. Directories that it needs are made, and removed again,
//! while it waits under a name of its own beside the outermost of them: whoever finds it there ([`recover`]) knows
//! which directories go, and that no file is patched. Only files are renamed: overlayfs renames no directory of a
//! lower layer.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Timestamps;

use super::record::{self, Time, TreePath, TreeRecord};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::store::pending::{check_is, remove_leftover, write_at, write_over};
use crate::store::{self, Directory, Place, Root, Source};

/// The file that holds the record of a tree.
#[derive(Debug)]
pub struct RecordFile {
    /// Nothing where the directories that it belongs in are not there yet.
    place: Option<Place>,
    /// Where it is or will be, for people.
    path: PathBuf,
    /// It is not in the tree.
    is_elsewhere: bool,
    /// What this run read or wrote there last, open: no other file is that one.
    seen: Option<File>,
}

/// The name of the record while directories are made for it, or removed.
const WAITING: &str = ".vsyspatch-record";

impl RecordFile {
    /// Finds it: at `elsewhere`, or in the tree.
    ///
    /// # Errors
    /// `Io` where a directory cannot be opened.
    pub fn find(root: &Root, elsewhere: Option<&Path>) -> Result<Self> {
        if let Some(path) = elsewhere {
            let place = Some(Place::of(path)?);
            return Ok(Self { place, path: path.to_owned(), is_elsewhere: true, seen: None });
        }
        let directory = root.resolved(Path::new(record::DIRECTORY))?;
        let path = root.shown(Path::new(record::DIRECTORY)).join(record::NAME);
        let place = directory.map(|directory| directory.place(record::NAME));
        Ok(Self { place, path, is_elsewhere: false, seen: None })
    }

    /// Where it is or will be, for people.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record; nothing where there is none.
    ///
    /// # Errors
    /// `Record` for what is no record of a tree; those of reading.
    pub fn read(&mut self) -> Result<Option<TreeRecord>> {
        let in_record =
            |error: Error| Error::new(error.kind(), format!("record {}: {error}", self.path.display()));
        let Some(place) = &self.place else { return Ok(None) };
        let stat = place.stat().map_err(|error| in_record(Error::io("cannot open", error)))?;
        if stat.is_none() {
            self.seen = None;
            return Ok(None);
        }
        let source = Source::at(place.clone()).map_err(in_record)?;
        let file = source.file().try_clone().map_err(|error| Error::io("cannot open", error));
        self.seen = Some(file.map_err(in_record)?);
        let json = store::record_bytes(&source, limits::TREE_RECORD_BYTES).map_err(in_record)?;
        TreeRecord::from_json(&json).map(Some).map_err(in_record)
    }

    /// The directory of the tree that writing the record changes, and its time.
    ///
    /// # Errors
    /// `Io` where it cannot be opened.
    pub fn changed_directory(&self, root: &Root, record: &TreeRecord) -> Result<Option<(PathBuf, Time)>> {
        let made = record.created.first().map(|made| made.as_path().to_owned());
        let changed = match &self.place {
            _ if self.is_elsewhere => return Ok(None),
            None => parent_of(missing(root)?.first()),
            Some(_) if made.is_some() => parent_of(made.as_ref()),
            Some(_) => PathBuf::from(record::DIRECTORY),
        };
        let times = root.resolved(&changed)?.and_then(|directory| directory.times().ok());
        Ok(times.map(|times| (changed, times.last_modification.into())))
    }

    /// Writes `record`, in the stead of what was read or written last. Directories that are missing are made, and noted
    /// in it.
    ///
    /// # Errors
    /// Those of writing; `Unsafe` where another run wrote it meanwhile; `Record` where it would be larger than what is
    /// read.
    pub fn write(&mut self, root: &Root, record: &mut TreeRecord) -> Result<()> {
        let Some(place) = &self.place else {
            let place = self.make(root, record)?;
            let written = Source::at(place.clone())?.file().try_clone();
            self.seen = Some(written.map_err(|error| Error::io("cannot open", error))?);
            self.place = Some(place);
            return Ok(());
        };
        let mut seen = self.seen.take();
        let written = self.with_times_kept(place.directory(), || {
            write_over(place, &new_name(place), &json(record)?, record.readable_by(), &mut seen)
        });
        self.seen = seen;
        written
    }

    /// Makes the missing directories, and then puts the record in the last; its place.
    fn make(&self, root: &Root, record: &mut TreeRecord) -> Result<Place> {
        let missing = missing(root)?;
        let parent = required(root, &parent_of(missing.first()))?;
        let waiting = parent.place(WAITING);
        record.created = missing.iter().cloned().map(TreePath::from).collect();
        let json = json(record)?;
        let make = || {
            let written = write_at(&waiting, &json, record.readable_by());
            let made = written.and_then(|()| {
                missing.iter().try_for_each(|path| {
                    let name = path.file_name().unwrap_or_default();
                    store::make_directory(&required(root, &parent_of(Some(path)))?.place(name))
                })
            });
            made.map_err(|error| {
                Error::new(error.kind(), error.to_string())
                    .remedy("name a place for the record with --record")
            })?;
            let place = required(root, Path::new(record::DIRECTORY))?.place(record::NAME);
            store::rename(&waiting, &place)?;
            Ok(place)
        };
        self.with_times_kept(&parent, || {
            make().inspect_err(|_| {
                // The error that is reported is the one that matters; the next run removes what is left.
                let _ = take_back(root, &waiting, &record.created);
            })
        })
    }

    /// Removes it, with the directories that `record` says were made for it, if nothing else is in them.
    ///
    /// # Errors
    /// `Io` where it cannot be removed.
    pub fn remove(&self, root: &Root, record: &TreeRecord) -> Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        if place.stat().map_err(|error| Error::io("cannot open", error))?.is_none() {
            return Ok(());
        }
        check_is(place, self.seen.as_ref())?;
        let Some(top) = record.created.first() else {
            return self.with_times_kept(place.directory(), || store::remove(place));
        };
        let parent = required(root, &parent_of(Some(top.as_path())))?;
        let waiting = parent.place(WAITING);
        self.with_times_kept(&parent, || {
            remove_leftover(place, &new_name(place))?;
            store::rename(place, &waiting)?;
            take_back(root, &waiting, &record.created)
        })
    }

    /// Does `what` in `directory`, which keeps its times where it is one of the tree.
    fn with_times_kept<T>(&self, directory: &Directory, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let times = if self.is_elsewhere { None } else { directory.times().ok() };
        let done = what();
        let kept = times.map_or(Ok(()), |times| directory.set_times(&times));
        done.and_then(|done| {
            kept.map(|()| done).map_err(|error| {
                Error::io(format!("cannot write the directory {}", directory.path().display()), error)
            })
        })
    }
}

/// Takes back what a run left that was killed while it made or removed directories for the record. No file is
/// patched then.
///
/// # Errors
/// Those of writing.
pub fn recover(root: &Root) -> Result<()> {
    for top in levels() {
        let parent_path = parent_of(Some(&top));
        let Some(parent) = root.resolved(&parent_path)? else { return Ok(()) };
        let waiting = parent.place(WAITING);
        // What is no file of ours stays; one that is not whole was being written before anything was made.
        let Ok(source) = Source::at(waiting.clone()) else { continue };
        let json = store::record_bytes(&source, limits::TREE_RECORD_BYTES);
        let record = json.and_then(|json| TreeRecord::from_json(&json));
        let record = record.unwrap_or_default();
        let before = record.unfinished.iter().flat_map(|run| &run.directories);
        let time = before.into_iter().find(|(path, _)| path.as_path() == parent_path).map(|(_, time)| *time);
        let times = parent.times().map(|now| match time {
            Some(time) => Timestamps { last_modification: time.into(), ..now },
            None => now,
        });
        take_back(root, &waiting, &record.created)?;
        let _ = times.map(|times| parent.set_times(&times));
    }
    Ok(())
}

/// Removes the directories that were made, `created`, if nothing is in them, and then the `waiting` record.
fn take_back(root: &Root, waiting: &Place, created: &[TreePath]) -> Result<()> {
    for path in created.iter().rev().map(TreePath::as_path) {
        let Ok(Some(parent)) = root.resolved(&parent_of(Some(path))) else { continue };
        let place = parent.place(path.file_name().unwrap_or_default());
        let removed = store::remove_empty_directory(&place);
        removed.map_err(|error| Error::io(format!("cannot remove {}", place.path().display()), error))?;
    }
    match waiting.stat() {
        Ok(None) => Ok(()),
        _ => store::remove(waiting),
    }
}

/// The bytes of `record`.
fn json(record: &TreeRecord) -> Result<Vec<u8>> {
    checked(record.to_json(), limits::TREE_RECORD_BYTES)
}

/// `json`, where it has at most `limit` bytes, so that it can be read again.
fn checked(json: Vec<u8>, limit: u64) -> Result<Vec<u8>> {
    let fits = store::check_record_size(json.len() as u64, limit);
    let told = |error: Error| {
        Error::new(error.kind(), format!("the record {}", error.message()))
            .remedy("patch parts of the tree with --include, each with a --record of its own")
    };
    fits.map_err(told).map(|()| json)
}

/// The name that the record at `place` is first written to where there is one already: that of no other record, and
/// short enough whatever its own is.
fn new_name(place: &Place) -> OsString {
    let sum = Sha256::of(place.name().as_bytes()).to_string();
    format!("{WAITING}-{}", &sum[..16]).into()
}

fn parent_of(path: Option<impl AsRef<Path>>) -> PathBuf {
    path.and_then(|path| path.as_ref().parent().map(Path::to_owned)).unwrap_or_default()
}

/// The directory of the record and those above it, outermost first.
fn levels() -> Vec<PathBuf> {
    let above = Path::new(record::DIRECTORY).ancestors().filter(|path| *path != Path::new(""));
    let mut levels: Vec<PathBuf> = above.map(Path::to_owned).collect();
    levels.reverse();
    levels
}

/// Those of them that are not there.
fn missing(root: &Root) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for path in levels() {
        if root.resolved(&path)?.is_none() {
            missing.push(path);
        }
    }
    Ok(missing)
}

fn required(root: &Root, path: &Path) -> Result<Directory> {
    root.resolved(path)?.ok_or_else(|| {
        let message = format!("{} was removed meanwhile", root.shown(path).display());
        Error::new(ErrorKind::Unsafe, message).remedy("try again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_only_where_it_can_be_read() {
        let json = TreeRecord::new().to_json();
        let size = json.len() as u64;
        assert_eq!(checked(json.clone(), size).unwrap(), json);
        let error = checked(json, size - 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Record);
        assert!(error.to_string().contains("--include"), "{error}");
    }
}
