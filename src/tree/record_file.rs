//! Where the record of a tree is, and how it gets there.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::record::{self, Time, TreePath, TreeRecord};
use crate::error::{Error, ErrorKind, Result};
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
}

/// The name that directories have while they are made for the record, or removed.
const TEMPORARY: &str = ".vsyspatch-record";

impl RecordFile {
    /// Finds it: at `elsewhere`, or in the tree.
    ///
    /// # Errors
    /// `Io` where a directory cannot be opened.
    pub fn find(root: &Root, elsewhere: Option<&Path>) -> Result<Self> {
        if let Some(path) = elsewhere {
            return Ok(Self { place: Some(Place::of(path)?), path: path.to_owned(), is_elsewhere: true });
        }
        let directory = root.resolved(Path::new(record::DIRECTORY))?;
        let path = root.shown(Path::new(record::DIRECTORY)).join(record::NAME);
        let place = directory.map(|directory| directory.place(record::NAME));
        Ok(Self { place, path, is_elsewhere: false })
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
    pub fn read(&self) -> Result<Option<TreeRecord>> {
        let in_record =
            |error: Error| Error::new(error.kind(), format!("record {}: {error}", self.path.display()));
        let Some(place) = &self.place else { return Ok(None) };
        let stat = place.stat().map_err(|error| in_record(Error::io("cannot open", error)))?;
        if stat.is_none() {
            return Ok(None);
        }
        let source = Source::at(place.clone()).map_err(in_record)?;
        let json = store::record_bytes(&source).map_err(in_record)?;
        TreeRecord::from_json(&json).map(Some).map_err(in_record)
    }

    /// The directory, and its time, in which a directory for the record will be made or removed; that changes
    /// its time.
    ///
    /// # Errors
    /// `Io` where it cannot be opened.
    pub fn changed_directory(&self, root: &Root, record: &TreeRecord) -> Result<Option<(PathBuf, Time)>> {
        let top = match (&self.place, record.created.first()) {
            (None, _) => missing(root)?.into_iter().next(),
            (Some(_), made) => made.map(|made| made.as_path().to_owned()),
        };
        let Some(parent) = top.as_deref().and_then(Path::parent) else { return Ok(None) };
        let times = root.resolved(parent)?.and_then(|directory| directory.times().ok());
        Ok(times.map(|times| (parent.to_owned(), times.last_modification.into())))
    }

    /// Writes `record`, in the stead of what is there. Directories that are missing are made, and noted in it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&mut self, root: &Root, record: &mut TreeRecord) -> Result<()> {
        let Some(place) = &self.place else {
            self.make(root, record)?;
            self.place = Self::find(root, None)?.place;
            return Ok(());
        };
        self.with_times_kept(place.directory(), || write_at(place, record))
    }

    /// Makes the missing directories with the record in them, all at once: they get their name when it is complete.
    fn make(&self, root: &Root, record: &mut TreeRecord) -> Result<()> {
        let missing = missing(root)?;
        let Some((top, parent)) = missing.first().and_then(|top| Some((top, top.parent()?))) else {
            return Err(Error::new(ErrorKind::Unsafe, "another run is at work in this tree"));
        };
        let parent = required(root, parent)?;
        let making = parent.place(TEMPORARY);
        record.created = missing.iter().cloned().map(TreePath::from).collect();
        let make = || {
            self.with_times_kept(&parent, || store::make_directory(&making)).map_err(|error| {
                Error::new(error.kind(), error.to_string())
                    .remedy("name a place for the record with --record")
            })?;
            let mut directory = opened(&making)?;
            for path in &missing[1..] {
                let inner = directory.place(path.file_name().unwrap_or_default());
                store::make_directory(&inner)?;
                directory = opened(&inner)?;
            }
            write_at(&directory.place(record::NAME), record)?;
            store::rename_directory(&making, &parent.place(top.file_name().unwrap_or_default()))
        };
        self.with_times_kept(&parent, || {
            make().inspect_err(|_| {
                // The error that is reported is the one that matters; the next run removes what is left.
                let _ = take_apart(&making, below(top));
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
        let Some(top) =
            record.created.iter().map(TreePath::as_path).find(|path| holds_the_record_only(root, path))
        else {
            return self.with_times_kept(place.directory(), || store::remove(place));
        };
        let parent = required(root, top.parent().unwrap_or(Path::new("")))?;
        let removing = parent.place(TEMPORARY);
        self.with_times_kept(&parent, || {
            // All at once: whoever is killed leaves the record, or nothing of that name.
            store::rename_directory(&parent.place(top.file_name().unwrap_or_default()), &removing)
        })?;
        self.with_times_kept(&parent, || take_apart(&removing, below(top)))
    }

    /// Does `what` in `directory`, which keeps its times where it is one of the tree.
    fn with_times_kept(&self, directory: &Directory, what: impl FnOnce() -> Result<()>) -> Result<()> {
        let times = if self.is_elsewhere { None } else { directory.times().ok() };
        let done = what();
        let kept = times.map_or(Ok(()), |times| directory.set_times(&times));
        done.and(kept.map_err(|error| {
            Error::io(format!("cannot write the directory {}", directory.path().display()), error)
        }))
    }
}

/// Brings back what a run that was killed left while it made or removed directories for the record: the whole
/// record to its place, or nothing where something else is there by now. No file is patched in either case.
///
/// # Errors
/// Those of writing.
pub fn recover(root: &Root) -> Result<()> {
    for top in levels() {
        let Some(parent) = root.resolved(top.parent().unwrap_or(Path::new("")))? else { return Ok(()) };
        let left = parent.place(TEMPORARY);
        if left.open_directory().is_err() {
            continue;
        }
        let times = parent.times();
        let name = parent.place(top.file_name().unwrap_or_default());
        let is_free = name.stat().is_ok_and(|stat| stat.is_none());
        let is_whole = inner(&left, below(&top))
            .is_ok_and(|directory| directory.place(record::NAME).stat().is_ok_and(|stat| stat.is_some()));
        if is_whole && is_free {
            store::rename_directory(&left, &name)?;
        } else {
            take_apart(&left, below(&top))?;
        }
        let _ = times.map(|times| parent.set_times(&times));
    }
    Ok(())
}

fn write_at(place: &Place, record: &TreeRecord) -> Result<()> {
    store::pending::write_new(place, Some(&new_name()), &record.to_json(), record.readable_by())
}

/// The name that the record is first written to.
fn new_name() -> OsString {
    format!(".{}.new", record::NAME).into()
}

/// The directory of the record and those above it, outermost first.
fn levels() -> Vec<PathBuf> {
    let mut levels: Vec<PathBuf> = Path::new(record::DIRECTORY)
        .ancestors()
        .filter(|path| *path != Path::new(""))
        .map(Path::to_owned)
        .collect();
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

/// The way from the directory `top` to that of the record.
fn below(top: &Path) -> &'static Path {
    Path::new(record::DIRECTORY).strip_prefix(top).unwrap_or(Path::new(""))
}

fn required(root: &Root, path: &Path) -> Result<Directory> {
    root.resolved(path)?.ok_or_else(|| {
        Error::new(ErrorKind::Unsafe, format!("{} was removed meanwhile", root.shown(path).display()))
    })
}

fn opened(place: &Place) -> Result<Directory> {
    place.open_directory().map_err(|error| Error::io("cannot open the directory", error))
}

/// The directory that is `way` below `top`.
fn inner(top: &Place, way: &Path) -> Result<Directory> {
    way.iter().try_fold(opened(top)?, |directory, name| opened(&directory.place(name)))
}

/// Whether nothing but the record is in the directory at `top`.
fn holds_the_record_only(root: &Root, top: &Path) -> bool {
    let holds_only = |directory: &Path, name: &OsStr| {
        let names = root.resolved(directory).ok().flatten().and_then(|directory| directory.names().ok());
        names.is_some_and(|names| names.iter().all(|other| other == name || *other == new_name()))
    };
    let mut directory = top.to_owned();
    for name in below(top) {
        if !holds_only(&directory, name) {
            return false;
        }
        directory.push(name);
    }
    holds_only(&directory, OsStr::new(record::NAME))
}

/// Removes the directory `top` with those `way` below it and the record in the last. What else is in them stays.
fn take_apart(top: &Place, way: &Path) -> Result<()> {
    let mut directories = vec![top.clone()];
    for name in way {
        let Ok(directory) = opened(&directories[directories.len() - 1]) else { break };
        directories.push(directory.place(name));
    }
    if let Ok(directory) = inner(top, way) {
        for name in [record::NAME.into(), new_name()] {
            let place = directory.place(name);
            if place.stat().is_ok_and(|stat| stat.is_some()) {
                store::remove(&place)?;
            }
        }
    }
    for place in directories.iter().rev() {
        if place.stat().is_ok_and(|stat| stat.is_some()) {
            store::remove_empty_directory(place)
                .map_err(|error| Error::io(format!("cannot remove {}", place.path().display()), error))?;
        }
    }
    Ok(())
}
