//! Every regular file of a tree, by several threads at once. Names are used relative to open directories,
//! symbolic links are never followed, and directories of any depth take no more than some descriptors.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rayon::Scope;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::filter::{Filter, is_of_the_kernel};
use crate::error::{Error, Result};
use crate::store::place::is_made_up;
use crate::store::{Directory, Place, Root};

/// Bytes of directory entries that are read at a time.
const ENTRIES: usize = 32 << 10;

/// Files that one job looks at.
const BATCH: usize = 256;

/// After this time a job hands on the files that it has not come to.
const LONG: Duration = Duration::from_millis(2);

/// Directories that are held open for those in them that wait, and jobs that wait with files of an open directory. Where
/// there are as many, directories are opened by their path, and files are looked at at once.
const HELD: usize = 100;

/// A regular file in a directory.
#[derive(Debug)]
pub struct Entry<'a> {
    directory: &'a Directory,
    /// Path of the directory from the root of the tree.
    parent: &'a Path,
    name: &'a CStr,
}

impl Entry<'_> {
    /// Its path from the root of the tree.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.parent.join(self.name())
    }

    fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.name.to_bytes())
    }

    /// Opens it; nothing where it is gone, or something else by now.
    ///
    /// # Errors
    /// Those of `openat`.
    pub fn open(&self) -> rustix::io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.directory.fd(), self.name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Its place.
    #[must_use]
    pub fn place(&self) -> Place {
        self.directory.place(self.name())
    }
}

/// How a tree is walked.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is looked at.
    pub filter: Filter,
    /// Other file systems that are mounted in the tree are not entered.
    pub one_file_system: bool,
    /// Number of threads.
    pub threads: usize,
}

/// What the walk itself has to tell.
#[derive(Debug, Default)]
pub struct Walked {
    /// Regular files that were looked at.
    pub files: usize,
    /// Directories that were not entered because of what is mounted there, by path from the root.
    pub not_entered: Vec<PathBuf>,
    /// Directories that could not be read, by path from the root, and why.
    pub failures: Vec<(PathBuf, Error)>,
}

/// Calls `visit` for every regular file below `root` that the options want, from several threads, in no
/// particular order.
///
/// # Errors
/// `Io` where threads cannot be started.
pub fn walk(root: &Root, options: &Options, visit: &(dyn Fn(&Entry<'_>) + Sync)) -> Result<Walked> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|error| Error::io("cannot start threads", std::io::Error::other(error)))?;
    let walk = Walk {
        root,
        options,
        visit,
        files: AtomicUsize::new(0),
        parents: Held::default(),
        batches: Held::default(),
        told: Mutex::default(),
    };
    let device = root.directory().device();
    pool.scope(|scope| walk.enter(scope, Waiting { parent: None, device, path: PathBuf::new() }));
    let mut walked = walk.told.into_inner().unwrap_or_default();
    walked.files = walk.files.into_inner();
    walked.not_entered.sort();
    walked.failures.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(walked)
}

struct Walk<'a> {
    root: &'a Root,
    options: &'a Options,
    visit: &'a (dyn Fn(&Entry<'_>) + Sync),
    files: AtomicUsize,
    /// Directories that are held open for those in them.
    parents: Held,
    /// Jobs that wait with files of an open directory.
    batches: Held,
    told: Mutex<Walked>,
}

/// How many hold a directory open.
#[derive(Default)]
struct Held(AtomicUsize);

impl Held {
    /// One more, while what this gives lives; nothing where there are too many.
    fn one_more(&self) -> Option<Holding<'_>> {
        let more = |held| (held < HELD).then_some(held + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok().then(|| Holding(self))
    }
}

/// One of those that hold a directory open.
struct Holding<'w>(&'w Held);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A directory that is held open for those in it that are not read yet.
struct Parent<'w> {
    fd: Arc<OwnedFd>,
    _holding: Holding<'w>,
}

/// A directory that is not read yet.
struct Waiting<'w> {
    /// Its parent, unless too many are open.
    parent: Option<Arc<Parent<'w>>>,
    /// Device of the parent.
    device: u64,
    path: PathBuf,
}

impl<'a> Walk<'a> {
    fn fail(&self, path: &Path, error: Error) {
        self.tell(|told| told.failures.push((path.to_owned(), error)));
    }

    fn tell(&self, what: impl FnOnce(&mut Walked)) {
        what(&mut self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Reads a directory, with the files and directories in it.
    fn enter<'s>(&'s self, scope: &Scope<'s>, waiting: Waiting<'s>)
    where
        'a: 's,
    {
        let Waiting { parent, device, path } = waiting;
        let opened = self.open(parent.as_ref().map(|parent| &*parent.fd), &path);
        drop(parent);
        let fd = match opened {
            Ok(Some(fd)) => Arc::new(fd),
            Ok(None) => return,
            Err(error) => return self.fail(&path, error),
        };
        let own_device = match rustix::fs::fstat(&fd) {
            Ok(stat) => stat.st_dev,
            Err(errno) => return self.fail(&path, cannot_read(errno)),
        };
        if own_device != device && (self.options.one_file_system || is_made_up(&fd)) {
            return self.tell(|told| told.not_entered.push(path));
        }
        if let Err(errno) = self.read(scope, &fd, own_device, &path) {
            self.fail(&path, cannot_read(errno));
        }
    }

    /// Opens the directory; nothing where it is gone, or something else by now.
    fn open(&self, parent: Option<&OwnedFd>, path: &Path) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match (parent, path.file_name()) {
            (Some(parent), Some(name)) => rustix::fs::openat(parent, name, flags, Mode::empty()),
            _ => rustix::fs::openat(self.root.subdirectory(path)?.fd(), ".", flags, Mode::empty()),
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(cannot_read(errno)),
        }
    }

    fn read<'s>(
        &'s self,
        scope: &Scope<'s>,
        fd: &Arc<OwnedFd>,
        device: u64,
        path: &Path,
    ) -> rustix::io::Result<()>
    where
        'a: 's,
    {
        let directory = Directory::new(fd.clone(), self.root.shown(path));
        // Names of files, each with the zero byte behind it.
        let (mut names, mut count) = (Vec::new(), 0);
        let mut directories: Vec<CString> = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); ENTRIES];
        let mut entries = RawDir::new(fd.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
                kind = stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
            }
            match kind {
                FileType::RegularFile => {
                    names.extend_from_slice(name.to_bytes_with_nul());
                    count += 1;
                }
                FileType::Directory if ![&b"."[..], b".."].contains(&name.to_bytes()) => {
                    directories.push(name.to_owned());
                }
                _ => {}
            }
            if count == BATCH {
                if !self.hands_on(scope, &directory, path, &names) {
                    self.look(scope, &directory, path, &names);
                }
                names.clear();
                count = 0;
            }
        }
        let holding = if directories.is_empty() { None } else { self.parents.one_more() };
        let parent = holding.map(|_holding| Arc::new(Parent { fd: fd.clone(), _holding }));
        for name in directories {
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            if !self.options.filter.wants_directory(&path) {
                if is_of_the_kernel(&path) {
                    self.tell(|told| told.not_entered.push(path));
                }
                continue;
            }
            let parent = parent.clone();
            scope.spawn(move |scope| self.enter(scope, Waiting { parent, device, path }));
        }
        drop(parent);
        self.look(scope, &directory, path, &names);
        Ok(())
    }

    /// Makes a job of looking at files of one directory, for a thread that has nothing else to do; not where too many
    /// wait.
    fn hands_on<'s>(&'s self, scope: &Scope<'s>, directory: &Directory, parent: &Path, names: &[u8]) -> bool
    where
        'a: 's,
    {
        let Some(holding) = self.batches.one_more() else { return false };
        let (directory, parent, names) = (directory.clone(), parent.to_owned(), names.to_owned());
        scope.spawn(move |scope| {
            self.look(scope, &directory, &parent, &names);
            drop(directory);
            drop(holding);
        });
        true
    }

    /// Looks at files of one directory, whose names end with a zero byte each; where these take their time, the last
    /// of them are handed on.
    fn look<'s>(&'s self, scope: &Scope<'s>, directory: &Directory, parent: &Path, mut names: &[u8])
    where
        'a: 's,
    {
        let filter = &self.options.filter;
        let (mut count, begun) = (0, Instant::now());
        while let Ok(name) = CStr::from_bytes_until_nul(names) {
            names = &names[name.to_bytes_with_nul().len()..];
            let entry = Entry { directory, parent, name };
            if filter.is_empty() || filter.wants_file(&entry.path()) {
                count += 1;
                (self.visit)(&entry);
            }
            let is_long = !names.is_empty() && begun.elapsed() > LONG;
            if is_long && self.hands_on(scope, directory, parent, names) {
                break;
            }
        }
        self.files.fetch_add(count, Ordering::Relaxed);
    }
}

fn cannot_read(errno: Errno) -> Error {
    Error::io("cannot read the directory", errno)
}
