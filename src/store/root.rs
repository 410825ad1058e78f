//! The root of a tree: paths are resolved below its descriptor, and nothing in the tree leads out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::place::{Directory, Place};
use crate::error::{Error, ErrorKind, Result};

/// Longest path that one system call takes, with its end (`PATH_MAX`).
const PATH_BYTES: usize = 4096;

/// The directory that a tree hangs from.
#[derive(Debug)]
pub struct Root {
    directory: Directory,
}

/// What became of a place in a tree.
#[derive(Debug)]
pub enum Existing {
    /// Its directory is there.
    Place(Place),
    /// Its directory is gone.
    Gone,
    /// A symbolic link, or no directory at all, is on the way there now; links are not followed.
    Behind,
}

impl Root {
    /// Opens the tree at `path`.
    ///
    /// # Errors
    /// `Io` where it is no directory, or there is no permission.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { directory: Directory::open(path)? })
    }

    /// The tree that hangs from `directory`, which people are to know as `path`.
    #[must_use]
    pub fn named(directory: &Directory, path: PathBuf) -> Self {
        Self { directory: directory.known_as(path) }
    }

    /// The directory itself.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// `relative` as the user would name it.
    #[must_use]
    pub fn shown(&self, relative: &Path) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Keeps other runs away from the tree until the result is dropped.
    ///
    /// # Errors
    /// `Io` where another run is at work.
    pub fn lock(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.directory.fd(), ".", flags, Mode::empty())
            .map_err(|errno| Error::io("cannot open the directory", errno))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            // Which may pass.
            Err(errno @ Errno::WOULDBLOCK) => {
                Err(Error::io("another run is at work in this tree", errno)
                    .remedy("wait for it, and try again"))
            }
            // Some network file systems have no locks: then the user has to take care.
            _ => Ok(File::from(fd)),
        }
    }

    /// Waits until no other run holds the directory, and holds it until what is returned is dropped; nothing where the
    /// file system has no locks.
    #[must_use]
    pub fn wait_for_lock(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.directory.fd(), ".", flags, Mode::empty()).ok()?;
        rustix::fs::flock(&fd, FlockOperation::LockExclusive).ok()?;
        Some(File::from(fd))
    }

    /// Opens the directory at `relative`, which is reached through no symbolic link.
    ///
    /// # Errors
    /// `Io` where there is none, `Unsafe` where a link or something else stands in the way.
    pub fn subdirectory(&self, relative: &Path) -> Result<Directory> {
        self.below(relative).map_err(|errno| self.cannot_open(relative, errno))
    }

    fn below(&self, relative: &Path) -> rustix::io::Result<Directory> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut fd: Option<OwnedFd> = None;
        for part in parts(relative) {
            let base = fd.as_ref().unwrap_or(self.directory.fd());
            fd = Some(open_directory(base, part, resolve)?);
        }
        Ok(match fd {
            Some(fd) => Directory::new(Arc::new(fd), self.shown(relative)),
            None => self.directory.clone(),
        })
    }

    /// The place of the file at `relative`.
    ///
    /// # Errors
    /// Those of [`Root::subdirectory`].
    pub fn place(&self, relative: &Path) -> Result<Place> {
        let parent = self.subdirectory(relative.parent().unwrap_or(Path::new("")))?;
        Ok(parent.place(name_of(relative)))
    }

    /// The place of the file at `relative`, where its directory is still there.
    ///
    /// # Errors
    /// `Io` where its directory cannot be opened.
    pub fn existing_place(&self, relative: &Path) -> Result<Existing> {
        let parent = relative.parent().unwrap_or(Path::new(""));
        match self.below(parent) {
            Ok(directory) => Ok(Existing::Place(directory.place(name_of(relative)))),
            Err(Errno::NOENT) => Ok(Existing::Gone),
            Err(Errno::LOOP | Errno::NOTDIR) => Ok(Existing::Behind),
            Err(errno) => Err(self.cannot_open(parent, errno)),
        }
    }

    /// Opens the directory at `relative`; symbolic links are followed as a process sees them for which the
    /// tree is `/`. Nothing where there is none.
    ///
    /// # Errors
    /// `Io` where it cannot be opened.
    pub fn resolved(&self, relative: &Path) -> Result<Option<Directory>> {
        if relative.as_os_str().is_empty() {
            return Ok(Some(self.directory.clone()));
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match open_directory(self.directory.fd(), relative, resolve) {
            Ok(fd) => Ok(Some(Directory::new(Arc::new(fd), self.shown(relative)))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.cannot_open(relative, errno)),
        }
    }

    fn cannot_open(&self, relative: &Path, errno: Errno) -> Error {
        let what = format!("cannot open the directory {}", self.shown(relative).display());
        match errno {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
                Error::new(ErrorKind::Unsafe, format!("{what}: something else is on the way there"))
                    .remedy("the tree changed while it was worked on; try again")
            }
            errno => Error::io(what, errno),
        }
    }
}

/// The last name of `relative`.
fn name_of(relative: &Path) -> &OsStr {
    relative.file_name().unwrap_or(OsStr::new("."))
}

/// `relative` in parts that system calls take.
fn parts(relative: &Path) -> impl Iterator<Item = &Path> {
    let mut rest = relative.as_os_str().as_bytes();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = match rest.get(..PATH_BYTES - 1) {
            Some(head) => head.iter().rposition(|&byte| byte == b'/').unwrap_or(rest.len()),
            None => rest.len(),
        };
        let part = Path::new(OsStr::from_bytes(&rest[..end]));
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(part)
    })
}

/// Opens the directory at `path` below `base`. Where the kernel has no `openat2` (before 5.6), or a container's
/// filter denies it, no symbolic link is followed at all.
fn open_directory(base: &OwnedFd, path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(base, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => {}
        opened => return opened,
    }
    let mut fd: Option<OwnedFd> = None;
    for component in path.components() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        let base = fd.as_ref().unwrap_or(base);
        fd = Some(rustix::fs::openat(base, name, flags | OFlags::NOFOLLOW, Mode::empty())?);
    }
    fd.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_cut_between_names() {
        let deep: PathBuf = std::iter::repeat_n("directory", 2_000).collect();
        let all: Vec<&Path> = parts(&deep).collect();
        assert!(all.len() > 1 && all.iter().all(|part| part.as_os_str().len() < PATH_BYTES));
        assert_eq!(all.iter().collect::<PathBuf>(), deep);
        assert_eq!(parts(Path::new("")).count(), 0);
    }
}
