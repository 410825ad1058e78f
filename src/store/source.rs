//! Files that are read.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::place::{Place, times_of};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::Map;

/// Files up to this size are read to be looked at as a whole; larger ones are mapped.
const READ_BYTES: u64 = 1 << 20;

/// Opening never waits, and takes no terminal.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Device and number of a file.
pub type Inode = (u64, u64);

/// A regular file, open for reading.
#[derive(Debug)]
pub struct Source {
    place: Place,
    file: File,
    stat: Stat,
}

impl Source {
    /// Opens the regular file at `path`; symbolic links are followed. Never waits.
    ///
    /// # Errors
    /// `Io` where there is no such file, no permission, or it is no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        path.canonicalize().map_err(cannot_open)?;
        Self::at(Place::of(path)?)
    }

    /// Opens the regular file at `place`; a symbolic link is none. Never waits.
    ///
    /// # Errors
    /// Those of [`Source::open`].
    pub fn at(place: Place) -> Result<Self> {
        // To open a device or a FIFO can have effects of its own, so that this is asked first.
        if let Some(stat) = place.stat().map_err(cannot_open)? {
            check_regular(&stat)?;
        }
        let file = place.open(READ, Mode::empty()).map_err(cannot_open)?;
        Self::new(place, file)
    }

    /// The open `file` at `place`.
    ///
    /// # Errors
    /// `Io` where it is no regular file: the name may mean another file by now.
    pub(crate) fn new(place: Place, file: File) -> Result<Self> {
        let stat = rustix::fs::fstat(&file).map_err(|errno| cannot_open(errno.into()))?;
        check_regular(&stat)?;
        Ok(Self { place, file, stat })
    }

    /// Where the file is, behind all symbolic links.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What `look` tells of the bytes of the whole file, which are those of its `map` where there is one.
    ///
    /// # Errors
    /// Those of [`Source::read`] and of `look`; `Io` where a part cannot be read, `Unsafe` where the file was made shorter
    /// meanwhile.
    pub(crate) fn look<T>(&self, map: Option<&Map>, look: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let Some(map) = map else { return look(&self.read()?) };
        let told = look(map.bytes());
        if !map.is_cut() && map.bytes().len() as u64 == self.size() {
            return told;
        }
        match rustix::fs::fstat(&self.file) {
            Ok(now) if stamp(&now) == stamp(&self.stat) => Err(Error::io("cannot read", Errno::IO)),
            _ => Err(self.changed()),
        }
    }

    /// The file in memory, where it is large and can be there.
    ///
    /// # Errors
    /// `Io` where the file cannot be mapped.
    pub(crate) fn map(&self) -> Result<Option<Map>> {
        let is_large = (READ_BYTES + 1..=limits::FILE_BYTES).contains(&self.size());
        let map = if is_large { Map::of(&self.file) } else { Ok(None) };
        map.map_err(|error| Error::io("cannot map", error))
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What the file was when it was opened.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.stat.st_size.cast_unsigned()
    }

    /// Whether it is of whoever runs this, or of root, and nobody else may write to it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        const OTHERS_WRITE: u32 = 0o022;
        let owner = rustix::process::geteuid().as_raw();
        [owner, 0].contains(&self.stat.st_uid) && self.stat.st_mode & OTHERS_WRITE == 0
    }

    /// Device and number of the file, which all its names share.
    #[must_use]
    pub fn inode(&self) -> Inode {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Number of names of the file when it was opened.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.stat.st_nlink
    }

    /// The whole file.
    ///
    /// # Errors
    /// `Io` where reading fails, `Unsafe` where the size changed while reading.
    pub fn read(&self) -> Result<Vec<u8>> {
        let size = self.size();
        if size > limits::FILE_BYTES {
            let message =
                format!("has {size} bytes, more than the {} that any program has", limits::FILE_BYTES);
            return Err(Error::new(ErrorKind::Io, message));
        }
        let mut bytes = Vec::with_capacity(size as usize + 1);
        let cannot = |error| Error::io("cannot read", error);
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(0)).map_err(cannot)?;
        (&self.file)
            .take(size + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("cannot read", error))?;
        if bytes.len() as u64 != size {
            return Err(self.changed());
        }
        Ok(bytes)
    }

    /// Fills `block` from `offset` on; how many bytes there were.
    ///
    /// # Errors
    /// `Io` where reading fails.
    pub fn read_block(&self, offset: u64, block: &mut [u8]) -> Result<usize> {
        read_block(&self.file, offset, block)
    }

    /// Whether there is more room in the file than bytes on the disk.
    pub(super) fn is_sparse(&self) -> bool {
        const STAT_BLOCK: i64 = 512;
        self.stat.st_blocks.saturating_mul(STAT_BLOCK) < self.stat.st_size
    }

    pub(super) fn changed(&self) -> Error {
        Error::new(ErrorKind::Unsafe, "changed while it was read; nothing was written").remedy("try again")
    }

    /// # Errors
    /// `Unsafe` where its name means another file, or one that was written to since.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        match self.place.stat() {
            Ok(Some(now)) if stamp(&now) == stamp(&self.stat) => Ok(()),
            _ => Err(self.changed()),
        }
    }

    /// Access and modification time when it was opened.
    pub(super) fn times(&self) -> rustix::fs::Timestamps {
        times_of(&self.stat)
    }
}

/// Fills `block` from `offset` of `file` on; how many bytes there were.
///
/// # Errors
/// `Io` where reading fails.
pub(crate) fn read_block(file: &File, offset: u64, block: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match rustix::io::pread(file, &mut block[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::io("cannot read", errno)),
        }
    }
    Ok(filled)
}

fn cannot_open(error: io::Error) -> Error {
    Error::io("cannot open", error)
}

fn check_regular(stat: &Stat) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        kind => Err(Error::new(ErrorKind::Io, format!("is {}, not a regular file", describe(kind)))),
    }
}

/// What tells two states of a file apart.
fn stamp(stat: &Stat) -> impl PartialEq {
    let times = [stat.st_mtime, stat.st_ctime];
    (stat.st_dev, stat.st_ino, stat.st_size, times, stat.st_mtime_nsec, stat.st_ctime_nsec)
}

/// `a directory`
pub(super) fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        FileType::Symlink => "a symbolic link",
        FileType::Unknown => "something else",
    }
}
