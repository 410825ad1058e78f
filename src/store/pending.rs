//! Complete copies that wait to replace a file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, IFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::attributes;
use super::place::Place;
use super::source::{Inode, Source, describe};
use crate::error::{Error, ErrorKind, Result};

/// What temporary names begin with.
pub const TEMPORARY: &str = ".vsyspatch-";

/// What becomes of the modification time of a file that is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtime {
    /// The time of the write: the content did change.
    #[default]
    Now,
    /// That of the file that is replaced.
    Keep,
    /// This one: seconds since 1970, nanoseconds.
    Set(i64, i64),
}

/// What becomes of other names of a file that is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherNames {
    /// The file is not replaced.
    #[default]
    Refuse,
    /// They keep the old content.
    Break,
}

/// The names of a file that is replaced, besides the one that it was opened by.
#[derive(Debug, Default)]
pub struct Names {
    /// Those that get the new content, too, with the files that they are now, as [`Source::inode`] tells.
    pub others: Vec<(Place, Inode)>,
    /// What becomes of further ones.
    pub unlisted: OtherNames,
    /// The name that the content is first written to; a random one without.
    pub temporary: Option<OsString>,
}

/// A file under a name that nobody looks for; gone when dropped.
#[derive(Debug)]
struct Temporary {
    place: Place,
    file: File,
    /// It has another name by now, or is to stay.
    is_gone: bool,
}

impl Temporary {
    /// Beside `destination`; under `name`, or else one that is free.
    fn beside(destination: &Place, name: Option<&OsStr>) -> io::Result<Self> {
        loop {
            let place = destination.beside(name.map_or_else(random_name, OsStr::to_owned));
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            match place.open(flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(Self { place, file, is_gone: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && name.is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// At `place`, whose name is for one file alone, and locked: what a killed run left there is replaced, and where
    /// another is at work the error is `WOULDBLOCK`. Where the file system has no locks, nobody is seen to be.
    fn alone(place: &Place) -> io::Result<Self> {
        let name = Some(place.name());
        loop {
            match Self::beside(place, name) {
                Ok(mut created) => {
                    let _ = rustix::fs::flock(&created.file, FlockOperation::LockExclusive);
                    if is_at(&created.file, place)? {
                        return Ok(created);
                    }
                    // Somebody took it for one that was left.
                    created.is_gone = true;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let left = place.open(OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
                    if let Ok(left) = &left {
                        let locked = rustix::fs::flock(left, FlockOperation::NonBlockingLockExclusive);
                        if !is_at(left, place)? {
                            continue;
                        }
                        if locked == Err(Errno::WOULDBLOCK) {
                            return Err(Errno::WOULDBLOCK.into());
                        }
                    }
                    match place.unlink(AtFlags::empty()) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes and flushes all of it.
    fn fill(&self, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.file.write_all_at(bytes, 0)?;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode))?;
        Ok(rustix::fs::fsync(&self.file)?)
    }

    /// Renames it over `destination`.
    fn persist(mut self, destination: &Place) -> io::Result<()> {
        self.place.rename(destination)?;
        self.is_gone = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_gone {
            let _ = self.place.unlink(AtFlags::empty());
        }
    }
}

/// A temporary name that nobody else has.
#[must_use]
pub fn random_name() -> OsString {
    let random = RandomState::new().hash_one(std::process::id());
    format!("{TEMPORARY}{random:016x}").into()
}

/// Whether `name` is one that [`random_name`] makes.
#[must_use]
pub fn is_random_name(name: &str) -> bool {
    name.strip_prefix(TEMPORARY)
        .is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A complete, flushed file that is not in its place yet. Dropped, it vanishes.
#[derive(Debug)]
pub struct Pending {
    temporary: Temporary,
    /// Where it goes.
    destination: Place,
    /// Further names of the file that it replaces, which it gets, too.
    others: Vec<(Place, Inode)>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Prepares `bytes` to replace `source` itself, under all its names.
///
/// # Errors
/// `Unsafe` where further hard links to it would keep the old content, and are not to be broken; those
/// of writing.
pub fn prepare_in_place(source: &Source, names: Names, bytes: &[u8]) -> Result<Pending> {
    let same = names.others.iter().filter(|(_, inode)| *inode == source.inode()).count() as u64;
    let (all, known) = (source.links(), 1 + same);
    if all > known && names.unlisted == OtherNames::Refuse {
        let of_them = if known > 1 { format!(", {known} of them here") } else { String::new() };
        let message = format!("has {all} hard links{of_them}; the other names would keep the old content");
        return Err(Error::new(ErrorKind::Unsafe, message)
            .remedy("write to another file with -o, or let the others be with --break-links"));
    }
    prepare(source, source.place().clone(), names, bytes)
}

/// Prepares `bytes` to become the file `destination`, with the attributes of `source`.
///
/// # Errors
/// `Usage` where `destination` is `source` itself or is no regular file; `Unsafe` where it has other
/// hard links; those of writing.
pub fn prepare_copy(source: &Source, destination: &Path, bytes: &[u8]) -> Result<Pending> {
    let usage = |message: String, remedy: &str| Err(Error::new(ErrorKind::Usage, message).remedy(remedy));
    let shown = destination.display();
    match rustix::fs::stat(destination) {
        Ok(existing) if (existing.st_dev, existing.st_ino) == source.inode() => {
            return usage(format!("{shown} is the file itself"), "use --in-place to replace it");
        }
        Ok(existing) => match FileType::from_raw_mode(existing.st_mode) {
            FileType::RegularFile if existing.st_nlink == 1 => {}
            FileType::RegularFile => {
                let message = format!("{shown} has {} hard links", existing.st_nlink);
                return Err(Error::new(ErrorKind::Unsafe, message)
                    .remedy("the other names would keep the old content"));
            }
            kind => {
                return usage(format!("{shown} is {}, not a regular file", describe(kind)), "name a file");
            }
        },
        Err(_) if destination.is_symlink() => {
            let message = format!("{shown} is a symbolic link that leads to no file");
            return usage(message, "name the file itself, or remove the link");
        }
        Err(_) => {}
    }
    let place = Place::of(destination).map_err(|error| in_writing(destination, &error))?;
    prepare(source, place, Names::default(), bytes)
}

pub(super) fn in_writing(destination: &Path, error: &Error) -> Error {
    let message = format!("cannot write {}: {error}", destination.display());
    Error::new(error.kind(), message).remedy("the directory must exist")
}

fn prepare(source: &Source, destination: Place, names: Names, bytes: &[u8]) -> Result<Pending> {
    let path = destination.path();
    let cannot = |error| cannot_write(&path, Some(source), error);
    let temporary = Temporary::beside(&destination, names.temporary.as_deref()).map_err(cannot)?;
    write(&temporary.file, bytes, source.is_sparse()).map_err(cannot)?;
    let mut warnings = Vec::new();
    attributes::copy(source, &temporary.file, &mut warnings).map_err(cannot)?;
    rustix::fs::fsync(&temporary.file).map_err(|errno| cannot(errno.into()))?;
    Ok(Pending { temporary, destination, others: names.others, warnings })
}

/// Writes `bytes` as a file of its own at `place`, over what is there.
///
/// # Errors
/// Those of writing.
pub(crate) fn write_new(place: &Place, bytes: &[u8], mode: u32) -> Result<()> {
    let cannot = |error| cannot_write(&place.path(), None, error);
    let temporary = Temporary::beside(place, None).map_err(cannot)?;
    temporary.fill(bytes, mode).and_then(|()| temporary.persist(place)).map_err(cannot)?;
    place.directory().sync().map_err(cannot)
}

/// Writes `bytes` as a file of its own at `place`, where the open file `seen` is, or nothing; then `seen` is the new one.
/// First it goes to the name `temporary`, which is for `place` alone and is locked meanwhile: of several who write to
/// `place` each either sees what the other wrote, or comes first.
///
/// # Errors
/// `Unsafe` where something else is at `place` than `seen`; those of writing.
pub(crate) fn write_over(
    place: &Place,
    temporary: &OsStr,
    bytes: &[u8],
    mode: u32,
    seen: &mut Option<File>,
) -> Result<()> {
    let cannot = |error| cannot_write(&place.path(), None, error);
    let temporary = Temporary::alone(&place.beside(temporary)).map_err(cannot)?;
    temporary.fill(bytes, mode).map_err(cannot)?;
    let written = temporary.file.try_clone().map_err(cannot)?;
    check_is(place, seen.as_ref())?;
    temporary.persist(place).map_err(cannot)?;
    *seen = Some(written);
    place.directory().sync().map_err(cannot)
}

/// Checks that the open file `before`, or nothing, is at `place`. While it is open no other file has its number.
///
/// # Errors
/// `Unsafe` where something else is there; `Io` where that cannot be told.
pub(crate) fn check_is(place: &Place, before: Option<&File>) -> Result<()> {
    let path = place.path();
    let is_before = match before {
        Some(before) => is_at(before, place),
        None => place.stat().map(|now| now.is_none()),
    };
    if is_before.map_err(|error| Error::io(format!("cannot open {}", path.display()), error))? {
        return Ok(());
    }
    let message = format!("another run wrote {} meanwhile", path.display());
    Err(Error::new(ErrorKind::Unsafe, message).remedy("wait for it, and try again"))
}

/// Whether the open `file` is what is at `place`.
fn is_at(file: &File, place: &Place) -> io::Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    Ok(place.stat()?.is_some_and(|now| (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino)))
}

/// Writes `bytes` as a new file at `place`, where nothing is. Whoever is killed meanwhile leaves a part of it.
///
/// # Errors
/// Those of writing.
pub(crate) fn write_at(place: &Place, bytes: &[u8], mode: u32) -> Result<()> {
    let cannot = |error| cannot_write(&place.path(), None, error);
    let mut written = Temporary::beside(place, Some(place.name())).map_err(cannot)?;
    written.fill(bytes, mode).map_err(cannot)?;
    place.directory().sync().map_err(cannot)?;
    written.is_gone = true;
    Ok(())
}

/// A file that grows under a temporary name. Dropped, it vanishes.
#[derive(Debug)]
pub struct NewFile {
    temporary: Temporary,
    place: Place,
}

impl NewFile {
    /// One that is to be at `path`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn create(path: &Path) -> Result<Self> {
        let place = Place::of(path).map_err(|error| in_writing(path, &error))?;
        let temporary = Temporary::beside(&place, None).map_err(|error| cannot_write(path, None, error))?;
        Ok(Self { temporary, place })
    }

    /// Puts the complete file in its place, over what is there.
    ///
    /// # Errors
    /// Those of writing.
    pub fn commit(self) -> Result<()> {
        const MODE: u32 = 0o644;
        let path = self.place.path();
        let cannot = |error| cannot_write(&path, None, error);
        let file = &self.temporary.file;
        rustix::fs::fchmod(file, Mode::from_raw_mode(MODE)).map_err(|errno| cannot(errno.into()))?;
        rustix::fs::fsync(file).map_err(|errno| cannot(errno.into()))?;
        self.temporary.persist(&self.place).map_err(cannot)?;
        self.place.directory().sync().map_err(cannot)?;
        Ok(())
    }
}

impl io::Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.temporary.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all of `bytes`, with holes for zeros where the file is to be `sparse`.
fn write(file: &File, bytes: &[u8], sparse: bool) -> io::Result<()> {
    /// The least that a file system leaves out.
    const PAGE: usize = 4096;
    if !sparse {
        return file.write_all_at(bytes, 0);
    }
    file.set_len(bytes.len() as u64)?;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        if page.iter().any(|&byte| byte != 0) {
            file.write_all_at(page, (index * PAGE) as u64)?;
        }
    }
    Ok(())
}

/// That writing the file at `path` failed, and what to do about it.
pub(super) fn cannot_write(path: &Path, source: Option<&Source>, error: io::Error) -> Error {
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    let is_fixed = |source: &Source| {
        rustix::fs::ioctl_getflags(source.file()).is_ok_and(|flags| flags.intersects(fixed))
    };
    let remedy = match Errno::from_io_error(&error) {
        Some(Errno::ROFS) => "the file system is read-only; write elsewhere with -o",
        Some(Errno::NOSPC | Errno::DQUOT) => "make room, or write elsewhere with -o",
        Some(Errno::PERM) if source.is_some_and(is_fixed) => {
            "the file is immutable: chattr -i -a it, or write elsewhere with -o"
        }
        Some(Errno::ACCESS | Errno::PERM) => "no permission there; write elsewhere with -o",
        Some(Errno::NOENT) => "the directory must exist",
        Some(Errno::WOULDBLOCK) => "another run writes it now: wait for it, and try again",
        _ => "every file is as it was, or complete",
    };
    Error::io(format!("cannot write {}", path.display()), error).remedy(remedy)
}

impl Pending {
    /// Where the file will be.
    #[must_use]
    pub fn destination(&self) -> PathBuf {
        self.destination.path()
    }

    /// Puts the file in its place, if `source` is still what was read, and flushes the directory.
    ///
    /// # Errors
    /// `Unsafe` where `source` changed, `Io` where renaming fails; the old file is there as it was.
    pub fn commit(self, source: &Source, mtime: Mtime) -> Result<()> {
        let directory = self.destination.directory().clone();
        self.put(source, mtime)?;
        // The file is in its place: to call that a failure would be wrong, and the kernel flushes later.
        let _ = directory.sync();
        Ok(())
    }

    /// Puts the file in its place, if `source` is still what was read. Names of a group follow each other;
    /// each is the old or the new file. The directories are left to be flushed.
    ///
    /// # Errors
    /// `Unsafe` where `source` changed, `Io` where renaming fails; names that were not reached are as they were.
    pub fn put(self, source: &Source, mtime: Mtime) -> Result<()> {
        source.check_unchanged()?;
        let path = self.destination();
        let cannot = |error| cannot_write(&path, Some(source), error);
        let times = match mtime {
            Mtime::Now => None,
            Mtime::Keep => Some(source.times()),
            Mtime::Set(tv_sec, tv_nsec) => {
                Some(Timestamps { last_modification: Timespec { tv_sec, tv_nsec }, ..source.times() })
            }
        };
        if let Some(times) = times {
            rustix::fs::futimens(&self.temporary.file, &times).map_err(|errno| cannot(errno.into()))?;
        }
        for (other, inode) in &self.others {
            let is_same = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino) == *inode;
            if !other.stat().map_err(cannot)?.is_some_and(is_same) {
                return Err(source.changed());
            }
        }
        let Self { temporary, destination, others, .. } = self;
        for (other, _) in &others {
            put_link(&temporary.place, other)
                .map_err(|error| cannot_write(&other.path(), Some(source), error))?;
        }
        temporary
            .persist(&destination)
            .map_err(|error| cannot_write(&destination.path(), Some(source), error))
    }
}

/// Makes `name` a second name of the file at `of`, in the stead of what it is now.
fn put_link(of: &Place, name: &Place) -> io::Result<()> {
    let temporary = name.beside(link_name(of.name()));
    of.link(&temporary)?;
    temporary.rename(name).inspect_err(|_| {
        let _ = temporary.unlink(AtFlags::empty());
    })
}

/// The temporary name of a further link to the file of the name `temporary`.
fn link_name(temporary: &OsStr) -> OsString {
    let mut name = temporary.to_owned();
    name.push("-link");
    name
}

/// The names that a run which is killed may leave.
#[must_use]
pub fn leftover_names(temporary: &OsStr) -> Vec<OsString> {
    vec![temporary.to_owned(), link_name(temporary)]
}

/// Removes what a killed run left in the directory of `place` under its `temporary` name; whether there was
/// something.
///
/// # Errors
/// `Io` where it cannot be removed.
pub fn remove_leftover(place: &Place, temporary: &OsStr) -> Result<bool> {
    let mut found = false;
    for name in leftover_names(temporary) {
        match place.beside(name).unlink(AtFlags::empty()) {
            Ok(()) => found = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot_write(&place.path(), None, error)),
        }
    }
    Ok(found)
}
