//! What the tests of directory trees share: small trees, their digest, and runs that are hindered.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use vsyspatch::digest::Sha256;

use crate::common::{self, Ran};
use crate::files::{self, CALL, CONSTANT};

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
        common::run(self.outside(), &line.split(' ').collect::<Vec<_>>())
    }

    /// The digest of the tree.
    pub fn digest(&self) -> Digest {
        digest(&self.root())
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

/// What a tree holds: everything but the times of the last change of an inode and of the last access.
pub type Digest = BTreeMap<PathBuf, BTreeMap<&'static str, String>>;

/// The digest of the tree at `root`.
pub fn digest(root: &Path) -> Digest {
    let mut digest = Digest::new();
    let mut groups = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let metadata = fs::symlink_metadata(&full).unwrap();
        let kind = metadata.file_type();
        let mut facts = BTreeMap::new();
        facts.insert("mode", format!("{:o}", metadata.mode()));
        facts.insert("owner", format!("{}:{}", metadata.uid(), metadata.gid()));
        facts.insert("mtime", format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()));
        facts.insert("xattrs", xattrs(&full));
        if kind.is_dir() {
            open.extend(names(&full).into_iter().map(|name| path.join(name)));
        } else {
            groups.entry((metadata.dev(), metadata.ino())).or_insert_with(Vec::new).push(path.clone());
            facts.insert("size", metadata.len().to_string());
        }
        if kind.is_file() {
            facts.insert("sha256", Sha256::of(&fs::read(&full).unwrap()).to_string());
        } else if kind.is_symlink() {
            facts.insert("target", format!("{:?}", fs::read_link(&full).unwrap()));
        } else if kind.is_char_device() || kind.is_block_device() {
            facts.insert("device", metadata.rdev().to_string());
        }
        digest.insert(path, facts);
    }
    for mut paths in groups.into_values() {
        paths.sort();
        let group = format!("{paths:?}");
        for path in paths {
            digest.get_mut(&path).expect("it was just seen").insert("links", group.clone());
        }
    }
    digest
}

fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn xattrs(path: &Path) -> String {
    let mut list = vec![0; 1 << 16];
    let size = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let mut all = BTreeMap::new();
    for name in list[..size].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let size = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        all.insert(String::from_utf8_lossy(name).into_owned(), hex::encode(&value[..size]));
    }
    format!("{all:?}")
}

/// What differs, a line for each fact.
pub fn differences(before: &Digest, after: &Digest) -> Vec<String> {
    let mut lines = vec![];
    for path in before.keys().chain(after.keys().filter(|path| !before.contains_key(*path))) {
        match (before.get(path), after.get(path)) {
            (Some(_), None) => lines.push(format!("{}: gone", path.display())),
            (None, Some(_)) => lines.push(format!("{}: new", path.display())),
            (Some(before), Some(after)) => {
                for (fact, old) in before {
                    let new = after.get(fact).map_or("-", String::as_str);
                    if old != new {
                        lines.push(format!("{}: {fact}: {old} -> {new}", path.display()));
                    }
                }
            }
            (None, None) => {}
        }
    }
    lines
}

#[track_caller]
pub fn assert_same(before: &Digest, after: &Digest, what: &str) {
    let lines = differences(before, after);
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}

/// Paths that differ, with the facts that do: `bin/x: mtime sha256 size`.
pub fn changed(before: &Digest, after: &Digest) -> Vec<String> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in differences(before, after) {
        let mut fields = line.splitn(3, ": ");
        let path = fields.next().expect("a path").to_owned();
        all.entry(path).or_default().push(fields.next().expect("a fact").to_owned());
    }
    all.into_iter().map(|(path, facts)| format!("{path}: {}", facts.join(" "))).collect()
}

/// Names that only a run that is at work leaves.
pub fn leftovers(root: &Path) -> Vec<PathBuf> {
    let is_temporary = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
        name.starts_with(b".vsyspatch") || name.starts_with(b".record")
    };
    digest(root).keys().filter(is_temporary).cloned().collect()
}

/// Runs the command with faults.
pub struct Injector {
    program: PathBuf,
    directory: tempfile::TempDir,
    runs: AtomicUsize,
}

/// How a hindered run went.
pub struct Hindered {
    pub ran: Ran,
    /// The calls that write, in order.
    pub calls: Vec<String>,
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    NoSpace,
    Io,
}

impl Injector {
    /// Nothing where there is no compiler, or no such filter, which is said aloud.
    pub fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("fault");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees/fault.c");
        let compiled =
            Command::new("cc").args(["-O1", "-Wall", "-Werror", "-o"]).arg(&program).arg(source).status();
        match compiled {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                files::skip("cc is not installed");
                return None;
            }
            compiled => assert!(compiled.expect("cc starts").success()),
        }
        let injector = Self { program, directory, runs: AtomicUsize::new(0) };
        let nothing = Command::new(&injector.program).args(["/dev/null", "0", "0", "true"]).output();
        if nothing.expect("the program starts").status.code() == Some(125) {
            files::skip("system calls cannot be intercepted here");
            return None;
        }
        Some(injector)
    }

    /// Runs the command on `tree`, with `fault` at its system call `number` that writes (0: none).
    pub fn run(&self, tree: &Tree, line: &str, number: usize, fault: Fault) -> Hindered {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(run.to_string());
        let errno = match fault {
            Fault::Kill => 0,
            Fault::NoSpace => rustix::io::Errno::NOSPC.raw_os_error(),
            Fault::Io => rustix::io::Errno::IO.raw_os_error(),
        };
        let mut command = Command::new(&self.program);
        command.arg(&log).arg(number.to_string()).arg(errno.to_string());
        command.arg(env!("CARGO_BIN_EXE_vsyspatch")).args(line.split(' '));
        let ran = Ran::from(command.current_dir(tree.outside()).output().expect("the program starts"));
        assert_ne!(ran.status, Some(125), "{ran:?}");
        let calls = fs::read_to_string(&log).expect("the calls").lines().map(str::to_owned).collect();
        fs::remove_file(log).expect("the calls were read");
        Hindered { ran, calls }
    }
}

/// Calls `check` for every number up to `count`, on all processors; the messages of those that failed.
pub fn for_each_number(count: usize, check: impl Fn(usize) + Sync) -> Vec<String> {
    let next = AtomicUsize::new(1);
    let failed = std::sync::Mutex::new(vec![]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > count {
                        return;
                    }
                    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(number)));
                    if let Err(panic) = checked {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text =
                            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                        failed.lock().unwrap().push(text.unwrap_or_default());
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}
