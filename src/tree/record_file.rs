//! Where the record of a tree is, and how it gets there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::record::{self, TreePath, TreeRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Place, Root, Source};

/// The file that holds the record of a tree.
#[derive(Debug)]
pub struct RecordFile {
    /// Nothing where the directories that it belongs in are not there yet.
    place: Option<Place>,
    /// Where it is or will be, for people.
    path: PathBuf,
}

impl RecordFile {
    /// Finds it: at `elsewhere`, or in the tree.
    ///
    /// # Errors
    /// `Io` where a directory cannot be opened.
    pub fn find(root: &Root, elsewhere: Option<&Path>) -> Result<Self> {
        if let Some(path) = elsewhere {
            return Ok(Self { place: Some(Place::of(path)?), path: path.to_owned() });
        }
        let directory = root.resolved(Path::new(record::DIRECTORY))?;
        let path = root.shown(Path::new(record::DIRECTORY)).join(record::NAME);
        Ok(Self { place: directory.map(|directory| directory.place(record::NAME)), path })
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

    /// Makes the directories that are missing; notes them in `record`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn make_room(&mut self, root: &Root, record: &mut TreeRecord) -> Result<()> {
        if self.place.is_some() {
            return Ok(());
        }
        let mut path = PathBuf::new();
        let mut directory = root.directory().clone();
        for name in Path::new(record::DIRECTORY) {
            path.push(name);
            directory = match root.resolved(&path)? {
                Some(directory) => directory,
                None => {
                    let times = directory.times();
                    store::make_directory(&directory.place(name)).map_err(|error| {
                        Error::new(error.kind(), error.to_string())
                            .remedy("name a place for the record with --record")
                    })?;
                    let _ = times.map(|times| directory.set_times(&times));
                    record.created.push(TreePath::from(path.clone()));
                    root.resolved(&path)?.ok_or_else(|| {
                        Error::new(ErrorKind::Unsafe, format!("{} was removed again", path.display()))
                    })?
                }
            };
        }
        self.place = Some(directory.place(record::NAME));
        Ok(())
    }

    /// Writes `record`, in the stead of what is there.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, record: &TreeRecord) -> Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let mut temporary = OsString::from(".");
        temporary.push(place.name());
        temporary.push(".new");
        store::pending::write_new(place, Some(&temporary), &record.to_json(), record.readable_by())
    }

    /// Removes it, with the directories that `record` says were made for it.
    ///
    /// # Errors
    /// `Io` where it cannot be removed.
    pub fn remove(&self, root: &Root, record: &TreeRecord) -> Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        if place.stat().map_err(|error| Error::io("cannot open", error))?.is_some() {
            store::remove(place)?;
        }
        for path in record.created.iter().rev() {
            let path = path.as_path();
            let parent = root.resolved(path.parent().unwrap_or(Path::new("")));
            let Ok(Some(parent)) = parent else { break };
            let (times, name) = (parent.times(), path.file_name().unwrap_or_default());
            store::remove_empty_directory(&parent.place(name));
            let _ = times.map(|times| parent.set_times(&times));
        }
        Ok(())
    }
}
