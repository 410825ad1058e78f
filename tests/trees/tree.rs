//! Small trees, and what is expected of them.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::files::{self, CALL, CONSTANT};
use crate::harness::mtree::{Listing, listing};
use crate::harness::{Ran, vsyspatch};

/// When everything in a tree was changed last.
const OLD: i64 = 1_110_000_000;

/// Where the record is.
pub const RECORD: &str = "var/lib/vsyspatch/record.json";

/// A temporary directory with a tree in it, named `root`.
pub struct Tree {
    directory: tempfile::TempDir,
}

/// The sample program, longer by `name`, so that no two are the same.
pub fn program(name: &str) -> Vec<u8> {
    [files::program(), name.as_bytes().to_vec()].concat()
}

/// What patching makes of the sample program that is longer by `name`.
pub fn patched(name: &str) -> Vec<u8> {
    let mut bytes = program(name);
    bytes[CONSTANT..CONSTANT + 7].copy_from_slice(&[0x48, 0xc7, 0xc0, 201, 0, 0, 0]);
    bytes[CALL..CALL + 2].copy_from_slice(&[0x0f, 0x05]);
    bytes
}

impl Tree {
    /// An empty one.
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }

    /// An empty one, in memory where there is such a file system: flushing costs nothing there.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::under(memory) } else { Self::new() }
    }

    fn under(parent: &Path) -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("vsyspatch-test-").permissions(Permissions::from_mode(0o755));
        let directory = builder.tempdir_in(parent).expect("a temporary directory");
        fs::create_dir(directory.path().join("root")).expect("the root of the tree");
        Self { directory }
    }

    /// One with a program in `bin` and one in `lib`.
    pub fn with_programs() -> Self {
        let tree = Self::new();
        tree.program("bin/first");
        tree.program("lib/second");
        tree.age();
        tree
    }

    /// The directory that the tree is in.
    pub fn outside(&self) -> &Path {
        self.directory.path()
    }

    /// What has `path` in the tree.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    /// The root of the tree.
    pub fn root(&self) -> PathBuf {
        self.path("")
    }

    /// Writes a file, with the directories that it needs.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8], mode: u32) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("its directories");
        fs::write(&path, bytes).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
    }

    /// Writes the sample program that is longer by `path`.
    pub fn program(&self, path: &str) {
        self.write(path, &program(path), 0o755);
    }

    /// Gives what is at `of` the further name `name`.
    pub fn link(&self, of: &str, name: &str) {
        let name = self.path(name);
        fs::create_dir_all(name.parent().expect("a parent")).expect("its directories");
        fs::hard_link(self.path(of), name).expect("a hard link");
    }

    /// Everything was changed long ago, so that every new time is seen.
    pub fn age(&self) {
        age(&self.root());
    }

    /// Runs the command where the tree is `root`.
    pub fn run(&self, line: &str) -> Ran {
        Ran::of(vsyspatch().current_dir(self.outside()).args(line.split(' ')))
    }

    /// The command where the tree is `root`, as a user who owns nothing.
    pub fn as_nobody(&self, line: &str) -> Command {
        // Where it was built may be closed to others.
        let tool = self.outside().join("vsyspatch");
        fs::copy(env!("CARGO_BIN_EXE_vsyspatch"), &tool).expect("a copy");
        let mut command = Command::new(tool);
        command.args(line.split(' ')).current_dir(self.outside()).uid(files::NOBODY).gid(files::NOBODY);
        command
    }

    /// Everything in the tree.
    pub fn listing(&self) -> Listing {
        listing(&self.root())
    }

    /// A copy of the tree with everything in it, as it is now.
    pub fn copy(&self) -> Self {
        let parent = self.outside().parent().expect("a parent");
        let copy = Self::under(parent);
        fs::remove_dir(copy.root()).expect("an empty directory");
        let mut command = Command::new("cp");
        command.arg("-a").arg(self.outside().join("root")).arg(copy.outside());
        assert!(command.status().expect("cp starts").success());
        copy
    }

    #[track_caller]
    pub fn is_patched(&self, path: &str, name: &str) {
        assert!(fs::read(self.path(path)).unwrap() == patched(name), "{path} is not as patched");
    }

    #[track_caller]
    pub fn is_original(&self, path: &str, name: &str) {
        assert!(fs::read(self.path(path)).unwrap() == program(name), "{path} is not the original");
    }

    /// The record as JSON.
    pub fn record(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(RECORD)).expect("the record")).expect("JSON")
    }

    /// Changes the record.
    pub fn change_record(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut record = self.record();
        change(&mut record);
        fs::write(self.path(RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
    }
}

/// rm, since directories can be deeper than descriptors last for the library's removal.
impl Drop for Tree {
    fn drop(&mut self) {
        let _ = Command::new("rm").arg("-rf").arg(self.root()).status();
    }
}

/// Everything below `path` and itself was changed long ago.
pub fn age(path: &Path) {
    if fs::symlink_metadata(path).expect("it is there").is_dir() {
        for entry in fs::read_dir(path).expect("a directory") {
            age(&entry.expect("an entry").path());
        }
    }
    age_only(path);
}

/// What is at `path` was changed long ago.
pub fn age_only(path: &Path) {
    let old = Timespec { tv_sec: OLD, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("its times can be set");
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).is_ok()
}

/// `cap_net_raw+ep`, as the kernel stores it.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An ACL that lets user 1234 read and run.
pub fn acl() -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    let entries =
        [(1_u16, 7_u16, u32::MAX), (2, 5, 1234), (4, 5, u32::MAX), (0x10, 5, u32::MAX), (0x20, 5, u32::MAX)];
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// Names that only a run that is at work leaves.
pub fn leftovers(root: &Path) -> Vec<PathBuf> {
    let is_temporary = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
        name.starts_with(b".vsyspatch") || name.starts_with(b".record")
    };
    listing(root).keys().filter(is_temporary).cloned().collect()
}
