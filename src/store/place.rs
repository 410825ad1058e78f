//! A name in an open directory: what it means cannot be changed by what happens to the path above it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A directory that is held open.
#[derive(Clone, Debug)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    /// For people, and for no system call.
    path: PathBuf,
}

impl Directory {
    /// The directory `fd`, which people know as `path`.
    #[must_use]
    pub fn new(fd: Arc<OwnedFd>, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// Opens the directory at `path`; symbolic links are followed.
    ///
    /// # Errors
    /// `Io` where there is none, or no permission.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty());
        let fd = fd.map_err(|errno| Error::io("cannot open the directory", errno))?;
        Ok(Self::new(Arc::new(fd), path.to_owned()))
    }

    /// The same directory, for people at `path`.
    #[must_use]
    pub fn known_as(&self, path: PathBuf) -> Self {
        Self { fd: self.fd.clone(), path }
    }

    /// The place `name` in it.
    #[must_use]
    pub fn place(&self, name: impl Into<OsString>) -> Place {
        Place { directory: self.clone(), name: name.into() }
    }

    /// The descriptor, for calls that take names relative to it.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Where it is, for people.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device that it is on; 0 where that cannot be told.
    #[must_use]
    pub fn device(&self) -> u64 {
        rustix::fs::fstat(&*self.fd).map_or(0, |stat| stat.st_dev)
    }

    /// Its number on its file system, and when it was made where the file system and the kernel tell: the same
    /// wherever it is mounted and whatever it is called, and another for a copy.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn identity(&self) -> io::Result<(u64, Option<Timespec>)> {
        let number = rustix::fs::fstat(&*self.fd)?.st_ino;
        let told = rustix::fs::statx(&*self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok();
        let told = told.filter(|told| told.stx_mask & StatxFlags::BTIME.bits() != 0);
        let made = told.map(|told| Timespec {
            tv_sec: told.stx_btime.tv_sec,
            tv_nsec: i64::from(told.stx_btime.tv_nsec),
        });
        Ok((number, made))
    }

    /// A change of names is durable once the directory is flushed. Some file systems cannot: then the
    /// kernel's own write-back does it later, and either name is whole.
    ///
    /// # Errors
    /// Those of a file system that fails.
    pub fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let synced = rustix::fs::openat(&*self.fd, ".", flags, Mode::empty()).and_then(rustix::fs::fsync);
        unless_failed(synced)
    }

    /// When its entries and it were last changed.
    ///
    /// # Errors
    /// Those of `fstat`.
    pub fn times(&self) -> io::Result<Timestamps> {
        Ok(times_of(&rustix::fs::fstat(&*self.fd)?))
    }

    /// Sets them back: renaming a copy over a file is no change of the directory that anyone means. Who does
    /// not own the directory may not.
    ///
    /// # Errors
    /// Those of a file system that fails.
    pub fn set_times(&self, times: &Timestamps) -> io::Result<()> {
        unless_failed(rustix::fs::utimensat(&*self.fd, ".", times, AtFlags::empty()))
    }
}

/// The result of a call that not every file system knows, and not everybody may make: it can be done without,
/// unless the file system itself failed.
pub(super) fn unless_failed(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(errno @ (Errno::IO | Errno::NOSPC | Errno::DQUOT)) => Err(errno.into()),
        _ => Ok(()),
    }
}

/// File systems whose files the kernel makes up (linux/magic.h).
const KERNEL_FILE_SYSTEMS: [i64; 10] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
];

/// Whether the kernel makes up the files of the file system that `fd` is on.
#[must_use]
pub fn is_made_up(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|of| KERNEL_FILE_SYSTEMS.contains(&of.f_type))
}

/// Access and modification time of a file.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// A name in an open directory.
#[derive(Clone, Debug)]
pub struct Place {
    directory: Directory,
    name: OsString,
}

impl Place {
    /// Where `path` leads to, behind all symbolic links; `path` itself where there is nothing yet.
    ///
    /// # Errors
    /// `Io` where its directory cannot be opened.
    pub fn of(path: &Path) -> Result<Self> {
        let real = super::real_path(path);
        let name = real.file_name().unwrap_or(OsStr::new("."));
        let parent = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Directory::open(parent)?.place(name))
    }

    /// Where it is, for people.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The directory that the name is in.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Another name in the same directory.
    pub(super) fn beside(&self, name: impl Into<OsString>) -> Self {
        self.directory.place(name)
    }

    /// What is there, itself where it is a symbolic link; nothing where nothing is.
    ///
    /// # Errors
    /// Those of `fstatat`.
    pub fn stat(&self) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(self.directory.fd(), &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens what is there with `flags`, a symbolic link never.
    pub(super) fn open(&self, flags: OFlags, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(self.directory.fd(), &self.name, flags, mode)?.into())
    }

    /// Renames what is here to `to`, over whatever is there.
    pub(super) fn rename(&self, to: &Self) -> io::Result<()> {
        Ok(rustix::fs::renameat(self.directory.fd(), &self.name, to.directory.fd(), &to.name)?)
    }

    /// Gives what is here the second name `to`, which must be free.
    pub(super) fn link(&self, to: &Self) -> io::Result<()> {
        let flags = AtFlags::empty();
        Ok(rustix::fs::linkat(self.directory.fd(), &self.name, to.directory.fd(), &to.name, flags)?)
    }

    /// Removes the name, or the empty directory with [`AtFlags::REMOVEDIR`].
    pub(super) fn unlink(&self, flags: AtFlags) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.directory.fd(), &self.name, flags)?)
    }
}
