//! The only module that reads and writes files of the user.
//!
//! **Invariants.** A file is replaced by renaming a complete, flushed copy over it: whoever looks sees
//! the old or the new file, never a mix, and a program that runs from the old one goes on. The copy has
//! the owner, mode and extended attributes of the original, and its holes. Nothing is replaced that changed
//! since it was read, or that has other names (hard links) which would stay behind. Every name is used
//! relative to its open directory and never through a symbolic link. Modification times are those of the
//! write, unless the user wants them kept: the content did change.
//!
//! * [`place`]: names in open directories. [`source`]: files that are read. `attributes`: what a copy keeps.
//! * [`pending`]: complete copies that wait to replace a file. Records of single files are here.
//! * [`root`]: paths below the root of a tree. [`copy`]: whole trees.

mod attributes;
pub mod copy;
pub mod pending;
pub mod place;
pub mod root;
pub mod source;

pub(crate) use attributes::xattrs_sha256;
pub use pending::{Mtime, Names, NewFile, OtherNames, Pending, prepare_copy, prepare_in_place};
pub use place::{Directory, Place};
pub use root::Root;
pub use source::{Inode, Source};

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// `path` without symbolic links; as it is where there is no file yet.
#[must_use]
pub fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Writes a record beside what it is about, readable by whoever may read `source`.
///
/// # Errors
/// Those of writing.
pub fn write_record(path: &Path, json: &[u8], source: &Source) -> Result<()> {
    let place = Place::of(path).map_err(|error| pending::in_writing(path, &error))?;
    pending::write_new(&place, json, (source.stat().st_mode & 0o444) | 0o600)
}

/// Writes all that `bytes` gives to the file at `path`, over what is there.
///
/// # Errors
/// Those of reading and writing; then the file is as it was.
pub fn write_file(path: &Path, bytes: &mut dyn io::Read) -> Result<()> {
    let mut file = NewFile::create(path)?;
    io::copy(bytes, &mut file)
        .map_err(|error| Error::io(format!("cannot write {}", path.display()), error))?;
    file.commit()
}

/// The record at `path`; nothing where there is none.
///
/// # Errors
/// `Io` where it cannot be read, `Record` where it is larger than any record.
pub fn read_record(path: &Path) -> Result<Option<Vec<u8>>> {
    if std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let source = Source::open(path).map_err(|error| in_record(path, &error))?;
    record_bytes(&source, limits::RECORD_BYTES).map(Some).map_err(|error| in_record(path, &error))
}

/// The bytes of the record `source`, which has at most `limit`.
pub(crate) fn record_bytes(source: &Source, limit: u64) -> Result<Vec<u8>> {
    check_record_size(source.size(), limit)?;
    source.read()
}

/// Whether a record of `size` bytes is one that is read: no other may be written.
///
/// # Errors
/// `Record` where it is larger than `limit`.
pub(crate) fn check_record_size(size: u64, limit: u64) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    let message = format!("has {size} bytes, and is larger than any record ({limit} bytes)");
    Err(Error::new(ErrorKind::Record, message))
}

fn in_record(path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("record {}: {error}", path.display()))
}

/// Removes the record at `path`; it is for a patch that was undone, or that did not happen.
///
/// # Errors
/// `Io` where it cannot be removed.
pub fn remove_record(path: &Path) -> Result<()> {
    remove(&Place::of(path)?)
}

/// Removes the file at `place`.
///
/// # Errors
/// `Io` where it cannot be removed.
pub fn remove(place: &Place) -> Result<()> {
    let cannot = |error| pending::cannot_write(&place.path(), None, error);
    place.unlink(AtFlags::empty()).map_err(cannot)?;
    place.directory().sync().map_err(cannot)
}

/// Makes the directory `place`, with the permissions of system directories.
///
/// # Errors
/// `Io` where it cannot be made.
pub fn make_directory(place: &Place) -> Result<()> {
    const MODE: u32 = 0o755;
    let made = rustix::fs::mkdirat(place.directory().fd(), place.name(), Mode::from_raw_mode(MODE));
    let cannot = |error| pending::cannot_write(&place.path(), None, error);
    made.map_err(|errno| cannot(errno.into()))?;
    place.directory().sync().map_err(|error| {
        let _ = remove_empty_directory(place);
        cannot(error)
    })
}

/// Makes the directory at `path` and those above it; others may do the same meanwhile.
///
/// # Errors
/// `Io` where one cannot be made.
pub fn make_directories(path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    make_directories(parent)?;
    let place = Place::of(path)?;
    make_directory(&place).or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
}

/// Removes the directory `place`, unless something is in it, or there is none.
///
/// # Errors
/// Those of `unlinkat`.
pub fn remove_empty_directory(place: &Place) -> io::Result<()> {
    match place.unlink(AtFlags::REMOVEDIR) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        removed => removed,
    }
}

/// Renames the file `from` to `to`, in the stead of what is there.
///
/// # Errors
/// `Io` where it cannot be renamed.
pub fn rename(from: &Place, to: &Place) -> Result<()> {
    let cannot = |error| pending::cannot_write(&to.path(), None, error);
    from.rename(to).map_err(cannot)?;
    to.directory().sync().map_err(cannot)
}

/// Where the record of the file at `path` is, unless the user says otherwise: beside the file itself,
/// whatever symbolic link it is named by.
#[must_use]
pub fn record_path(path: &Path) -> PathBuf {
    let file = if path.is_symlink() { real_path(path) } else { path.to_owned() };
    let mut name = file.into_os_string();
    name.push(".vsyspatch.json");
    PathBuf::from(name)
}
