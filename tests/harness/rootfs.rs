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
    let loader = real_corpus().expect("asked for").join("glibc-2.5/ld-linux-x86-64.so.2");
    old_glibc(dir, name, "glibc-2.5", &loader)
}

/// A tree with the glibc of that name in the corpus, loaded by `loader`, and a program on it, `/old-glibc`.
pub fn old_glibc(dir: &Path, name: &str, glibc: &str, loader: &Path) -> PathBuf {
    let glibc = real_corpus().expect("the caller has asked for the corpus").join(glibc);
    let tree = dir.join(name);
    fs::create_dir_all(tree.join("lib64")).expect("a directory");
    let [libc, libpthread] = ["libc.so.6", "libpthread.so.0"].map(|file| glibc.join(file));
    for (file, name) in
        [(loader, "ld-linux-x86-64.so.2"), (&libc, "libc.so.6"), (&libpthread, "libpthread.so.0")]
    {
        put(file, &tree.join("lib64").join(name));
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

/// The whole rest of the corpus below `opt` of the `tree` with glibc 2.13: other C libraries, those of 2.5 and 2.12 with
/// a program on them, and programs.
pub fn add_corpus(tree: &Path) {
    let (corpus, opt) = (real_corpus().expect("the caller has asked for the corpus"), tree.join("opt"));
    // The loader of 2.13 takes the libraries of 2.12, and no later ones.
    let loaders = [
        ("glibc-2.5", corpus.join("glibc-2.5/ld-linux-x86-64.so.2")),
        ("glibc-2.12", tree.join("lib64/ld-2.13.so")),
    ];
    for (name, loader) in loaders {
        old_glibc(&opt, name, name, &loader);
        fs::remove_file(opt.join("old-glibc.o")).expect("the object");
    }
    for name in ["glibc-2.17", "glibc-2.19", "static", "go", "lookalike"] {
        fs::create_dir(opt.join(name)).expect("a directory");
        for file in elf_files(&corpus.join(name)) {
            put(&file, &opt.join(name).join(file.file_name().expect("a name")));
        }
    }
}

/// A copy of the program or library `file` at `to`.
fn put(file: &Path, to: &Path) {
    fs::write(to, super::read(file)).expect("a copy");
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("its mode");
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
