//! The small glibc 2.13 tree of the real corpus, unpacked into a temporary directory.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, real_corpus, root, source};

/// Name of the archive in the corpus.
pub const ARCHIVE: &str = "rootfs-glibc-2.13.tar";

/// Unpacks the tree to `dir`/`name`.
pub fn unpack(dir: &Path, name: &str) -> PathBuf {
    let tree = dir.join(name);
    fs::create_dir(&tree).expect("a directory for the tree");
    unpack_to(&tree);
    tree
}

/// Unpacks the tree to the directory `tree`.
pub fn unpack_to(tree: &Path) {
    let archive = real_corpus().expect("the caller has asked for the corpus").join(ARCHIVE);
    Ran::of(Command::new("tar").args(["-x", "--no-same-owner", "-f"]).arg(archive).arg("-C").arg(tree))
        .expect(0);
    // The archive's directories may be read-only; the tree is to be written to and removed again.
    Ran::of(Command::new("chmod").args(["-R", "u+w"]).arg(tree)).expect(0);
}

/// A tmux server that ends by itself: it has no session.
pub const TMUX_SERVER: [&str; 9] =
    ["tmux", "-S", "/tmp/socket", "-f", "/dev/null", "start-server", ";", "show-options", "-g"];

/// The tree with the static tmux and what its server needs. In a tree of its own: a static glibc would load
/// the name services of the host's glibc, and crash.
pub fn with_tmux(dir: &Path, name: &str) -> PathBuf {
    let tree = unpack(dir, name);
    for sub in ["tmp", "dev"] {
        fs::create_dir_all(tree.join(sub)).expect("a directory");
    }
    // daemon() accepts nothing but the character device.
    Ran::of(Command::new("mknod").arg(tree.join("dev/null")).args(["c", "1", "3"])).expect(0);
    let tmux = tree.join("bin/tmux");
    fs::copy(real_corpus().expect("asked for").join("static/tmux"), &tmux).expect("a copy");
    fs::set_permissions(&tmux, fs::Permissions::from_mode(0o755)).expect("its mode");
    tree
}

/// A tree with glibc 2.5 and a program on it, `/old-glibc`.
pub fn glibc_2_5(dir: &Path, name: &str) -> PathBuf {
    let glibc = real_corpus().expect("the caller has asked for the corpus").join("glibc-2.5");
    let tree = dir.join(name);
    fs::create_dir_all(tree.join("lib64")).expect("a directory");
    for file in ["ld-linux-x86-64.so.2", "libc.so.6", "libpthread.so.0"] {
        let copy = tree.join("lib64").join(file);
        fs::write(&copy, super::read(&glibc.join(file))).expect("a copy");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let (object, program) = (dir.join("old-glibc.o"), tree.join("old-glibc"));
    let source = root().join("tests/fixtures/old-glibc.s");
    Ran::of(Command::new("as").arg("-I").arg(source::dir()).arg("-o").arg(&object).arg(source)).expect(0);
    Ran::of(
        Command::new("ld.bfd")
            .args(["-dynamic-linker", "/lib64/ld-linux-x86-64.so.2", "--hash-style=both", "-z", "norelro"])
            .arg("--allow-shlib-undefined")
            .arg("-o")
            .arg(&program)
            .arg(&object)
            .args([glibc.join("libpthread.so.0"), glibc.join("libc.so.6")]),
    )
    .expect(0);
    tree
}

/// Every regular ELF file below `dir` that this user may read, sorted.
pub fn elf_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => continue,
            entries => entries.unwrap_or_else(|e| panic!("{}: {e}", dir.display())),
        };
        for entry in entries {
            let entry = entry.expect("a directory entry");
            let kind = entry.file_type().expect("its type");
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() && is_elf(&entry.path()) {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// Too short, forbidden, or gone since the directory was listed.
const NOT_TO_BE_READ: [ErrorKind; 3] =
    [ErrorKind::UnexpectedEof, ErrorKind::PermissionDenied, ErrorKind::NotFound];

fn is_elf(file: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) => magic == *b"\x7fELF",
        Err(e) if NOT_TO_BE_READ.contains(&e.kind()) => false,
        Err(e) => panic!("{}: {e}", file.display()),
    }
}

/// Patches the whole tree in place, and verifies it; the number of files that were patched.
pub fn patch_tree(tree: &Path) -> usize {
    let patched = Ran::of(super::vsyspatch().args(["patch", "--in-place", "--json"]).arg(tree)).expect(0);
    Ran::of(super::vsyspatch().arg("verify").arg(tree)).expect(0);
    super::files(&patched.json()).iter().filter(|file| file["outcome"] == "patched").count()
}

/// The two trees hold the same, under the same names, with the same modes and links.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    let names = |tree: &Path| {
        let formats = ["-type", "d", "-printf", "%y %m %P\\n", "-o", "-printf", "%y %m %P %n %s %l\\n"];
        let listed = Ran::of(Command::new("find").arg(tree).args(formats)).expect(0).stdout;
        let mut lines: Vec<String> = listed.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(names(left), names(right));
    Ran::of(Command::new("diff").args(["-r", "--no-dereference"]).args([left, right])).expect(0);
}
