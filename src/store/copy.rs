//! A copy of a whole tree that shares nothing with it: every kind of file, with attributes, holes, hard links
//! and times. It grows under a temporary name and gets its own when it is complete.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat, Uid};
use rustix::io::Errno;

use super::attributes;
use super::pending::{cannot_write, is_random_name, random_name};
use super::place::{Directory, Place, is_made_up, times_of};
use super::root::Root;
use super::source::{Inode, Source, describe};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are copied at a time where the kernel does not copy.
const BLOCK: usize = 1 << 20;

/// A complete copy that is not in its place yet. Dropped, it vanishes.
#[derive(Debug)]
pub struct CopiedTree {
    temporary: Place,
    output: Place,
    root: Root,
    /// Tells that a run is at work on it.
    _lock: File,
    warnings: Vec<String>,
    is_put: bool,
}

/// A tree that is being copied.
struct Copy<'a> {
    from: Root,
    to: &'a Root,
    device: u64,
    one_file_system: bool,
    /// The first copy of each file with several names.
    linked: HashMap<Inode, PathBuf>,
    warnings: &'a mut Vec<String>,
}

impl CopiedTree {
    /// Copies the tree at `path`, to become `output`, which must not be there yet. What the kernel makes up
    /// (`/proc`) is not copied; with `one_file_system`, neither is anything else that is mounted there.
    ///
    /// # Errors
    /// `Usage` where there is something at `output`, or it is in the tree; those of reading and writing.
    pub fn of(path: &Path, output: &Path, one_file_system: bool) -> Result<Self> {
        let from = Root::open(path)?;
        let shown = output.display();
        if output.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::Usage, format!("{shown} is there already"))
                .remedy("name a directory that is not there yet"));
        }
        let output = Place::of(output)?;
        let parent = super::real_path(output.directory().path());
        if parent.starts_with(super::real_path(path)) {
            return Err(Error::new(ErrorKind::Usage, format!("{shown} is in the tree itself"))
                .remedy("name a directory elsewhere"));
        }
        let temporary = output.directory().place(random_name());
        super::make_directory(&temporary)?;
        let root = Root::open(&temporary.path())?;
        let lock = root.lock()?;
        let warnings = left_beside(&output);
        let mut copied = Self { temporary, output, root, _lock: lock, warnings, is_put: false };
        let device = from.directory().device();
        let linked = HashMap::new();
        let warnings = &mut copied.warnings;
        Copy { from, to: &copied.root, device, one_file_system, linked, warnings }.all()?;
        Ok(copied)
    }

    /// The root of the copy.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        self.root.directory()
    }

    /// Puts the copy in its place; what the user should know.
    ///
    /// # Errors
    /// `Io` where it cannot be renamed; `Usage` where there is something by now.
    pub fn put(mut self) -> Result<Vec<String>> {
        let cannot = |errno: Errno| cannot_write(&self.output.path(), None, errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.root.directory().fd(), ".", flags, Mode::empty()).map_err(cannot)?;
        rustix::fs::syncfs(fd).map_err(cannot)?;
        let (from, to) = (self.temporary.directory().fd(), self.output.directory().fd());
        rustix::fs::renameat_with(
            from,
            self.temporary.name(),
            to,
            self.output.name(),
            RenameFlags::NOREPLACE,
        )
        .map_err(cannot)?;
        self.is_put = true;
        // The copy is in its place: to call that a failure would be wrong, and the kernel flushes later.
        let _ = self.output.directory().sync();
        Ok(std::mem::take(&mut self.warnings))
    }
}

impl Drop for CopiedTree {
    fn drop(&mut self) {
        if !self.is_put {
            // The error that is reported is the one that matters; the next run tells what is left.
            let _ = remove_all_in(&self.root);
            let _ = self.temporary.unlink(AtFlags::REMOVEDIR);
        }
    }
}

/// What to say of copies beside `output` that runs left which were killed.
fn left_beside(output: &Place) -> Vec<String> {
    let names = names_in(output.directory()).unwrap_or_default();
    let is_left = |path: &PathBuf| Root::open(path).is_ok_and(|root| root.lock().is_ok());
    let left = names.into_iter().filter(|name| name.to_str().is_some_and(is_random_name));
    left.map(|name| output.directory().place(name).path())
        .filter(is_left)
        .map(|path| format!("{} is the copy of a run that was killed: remove it", path.display()))
        .collect()
}

/// Removes everything in the tree, of any depth.
fn remove_all_in(root: &Root) -> Result<()> {
    let mut open = vec![PathBuf::new()];
    let mut directories = Vec::new();
    while let Some(path) = open.pop() {
        let directory = root.subdirectory(&path)?;
        // Its own permissions may be those of the source by now.
        let _ = rustix::fs::chmodat(directory.fd(), ".", Mode::RWXU, AtFlags::empty());
        for name in names_in(&directory)? {
            let place = directory.place(&name);
            let is_directory = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if place.stat().ok().flatten().is_some_and(is_directory) {
                open.push(path.join(name));
            } else {
                place.unlink(AtFlags::empty()).map_err(|error| cannot_write(&place.path(), None, error))?;
            }
        }
        directories.push(path);
    }
    for path in directories.iter().skip(1).rev() {
        let place = root.place(path)?;
        place.unlink(AtFlags::REMOVEDIR).map_err(|error| cannot_write(&place.path(), None, error))?;
    }
    Ok(())
}

/// The names in `directory`, but `.` and `..`.
fn names_in(directory: &Directory) -> Result<Vec<OsString>> {
    let cannot = |errno| Error::io("cannot read the directory", errno);
    let mut names = Vec::new();
    for entry in Dir::new(readable(directory)?).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

impl Copy<'_> {
    /// Directories first, their attributes and times when everything is in them.
    fn all(&mut self) -> Result<()> {
        let mut open = vec![PathBuf::new()];
        let mut done = Vec::new();
        while let Some(path) = open.pop() {
            self.directory(&path, &mut open).map_err(|error| {
                Error::new(error.kind(), format!("{}: {error}", self.from.shown(&path).display()))
            })?;
            done.push(path);
        }
        for path in done.iter().rev() {
            let from = self.from.subdirectory(path)?;
            let stat = rustix::fs::fstat(from.fd()).map_err(|errno| Error::io("cannot read", errno))?;
            let to = self.to.subdirectory(path)?;
            let (from, to) = (readable(&from)?, readable(&to)?);
            let cannot = |error| cannot_write(&self.to.shown(path), None, error);
            attributes::copy_between(&from, &stat, &to, self.warnings).map_err(cannot)?;
            rustix::fs::futimens(&to, &times_of(&stat)).map_err(|errno| cannot(errno.into()))?;
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, open: &mut Vec<PathBuf>) -> Result<()> {
        let from = self.from.subdirectory(path)?;
        let to = self.to.subdirectory(path)?;
        if from.device() != self.device && (self.one_file_system || is_made_up(from.fd())) {
            return Ok(());
        }
        for name in names_in(&from)? {
            let (from, to) = (from.place(&name), to.place(&name));
            let Some(stat) = from.stat().map_err(|error| Error::io("cannot read", error))? else { continue };
            let path = path.join(name);
            let shown = to.path();
            let cannot = |error| cannot_write(&shown, None, error);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    super::make_directory(&to)?;
                    open.push(path);
                }
                FileType::RegularFile => self.file(from, &to, path)?,
                FileType::Symlink => copy_link(&from, &to, &stat).map_err(cannot)?,
                kind => {
                    if let Err(error) = make_node(&to, kind, &stat) {
                        self.warnings.push(format!(
                            "{}: {} is not copied: {error}",
                            shown.display(),
                            describe(kind)
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, from: Place, to: &Place, path: PathBuf) -> Result<()> {
        let shown = to.path();
        let cannot = |error| cannot_write(&shown, None, error);
        let source = Source::at(from)?;
        if source.links() > 1 {
            if let Some(first) = self.linked.get(&source.inode()) {
                return self.to.place(first)?.link(to).map_err(cannot);
            }
            self.linked.insert(source.inode(), path);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = to.open(flags, Mode::RUSR | Mode::WUSR).map_err(cannot)?;
        copy_content(&source, &file).map_err(cannot)?;
        attributes::copy_between(source.file(), source.stat(), &file, self.warnings).map_err(cannot)?;
        rustix::fs::futimens(&file, &source.times()).map_err(|errno| cannot(errno.into()))
    }
}

fn readable(directory: &Directory) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory.fd(), ".", flags, Mode::empty());
    fd.map(File::from).map_err(|errno| Error::io("cannot read the directory", errno))
}

/// A reflink where the file system can; else the data, and holes where there are holes.
fn copy_content(source: &Source, to: &File) -> io::Result<()> {
    let from = source.file();
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(source.size())?;
    let mut at = 0;
    while at < source.size() {
        let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => (start, rustix::fs::seek(from, SeekFrom::Hole(start))?),
            Err(Errno::NXIO) => break, // a hole up to the end
            Err(_) => (at, source.size()),
        };
        copy_range(from, to, start, end.min(source.size()))?;
        at = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let wanted = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        let copied =
            rustix::fs::copy_file_range(from, Some(&mut read_at), to.as_fd(), Some(&mut write_at), wanted);
        match copied {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut buffer = vec![0; if read_at < end { BLOCK } else { 0 }];
    while read_at < end {
        let wanted = buffer.len().min(usize::try_from(end - read_at).unwrap_or(usize::MAX));
        let count = from.read_at(&mut buffer[..wanted], read_at)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        to.write_all_at(&buffer[..count], read_at)?;
        read_at += count as u64;
    }
    Ok(())
}

fn copy_link(from: &Place, to: &Place, stat: &Stat) -> io::Result<()> {
    let target = rustix::fs::readlinkat(from.directory().fd(), from.name(), Vec::new())?;
    rustix::fs::symlinkat(&target, to.directory().fd(), to.name())?;
    set_owner_and_times(to, stat)
}

fn make_node(to: &Place, kind: FileType, stat: &Stat) -> io::Result<()> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::mknodat(to.directory().fd(), to.name(), kind, mode, stat.st_rdev)?;
    set_owner_and_times(to, stat)?;
    // The mask of the process took part in the mode.
    rustix::fs::chmodat(to.directory().fd(), to.name(), mode, AtFlags::empty())?;
    Ok(())
}

fn set_owner_and_times(to: &Place, stat: &Stat) -> io::Result<()> {
    let (fd, flags) = (to.directory().fd(), AtFlags::SYMLINK_NOFOLLOW);
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    // Who is not root keeps what is possible.
    let _ = rustix::fs::chownat(fd, to.name(), Some(owner.0), Some(owner.1), flags);
    rustix::fs::utimensat(fd, to.name(), &times_of(stat), flags)?;
    Ok(())
}
