//! The small glibc 2.13 tree of the real corpus, unpacked into a temporary directory.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, real_corpus};

/// Name of the archive in the corpus.
pub const ARCHIVE: &str = "rootfs-glibc-2.13.tar";

/// Unpacks the tree to `dir`/`name`.
pub fn unpack(dir: &Path, name: &str) -> PathBuf {
    let tree = dir.join(name);
    fs::create_dir(&tree).expect("a directory for the tree");
    let archive = real_corpus().expect("the caller has asked for the corpus").join(ARCHIVE);
    Ran::of(Command::new("tar").args(["-x", "--no-same-owner", "-f"]).arg(archive).arg("-C").arg(&tree))
        .expect(0);
    // The archive's directories may be read-only; the tree is to be written to and removed again.
    Ran::of(Command::new("chmod").args(["-R", "u+w"]).arg(&tree)).expect(0);
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

/// Patches in place every file of the tree that has something to patch; their number.
pub fn patch_tree(tree: &Path) -> usize {
    let dirty: Vec<_> = elf_files(tree)
        .into_iter()
        .filter(|file| super::scan(file).iter().any(|site| site.verdict == "patch"))
        .collect();
    for file in &dirty {
        Ran::of(super::vsyspatch().args(["patch", "--in-place"]).arg(file)).expect(0);
        Ran::of(super::vsyspatch().arg("verify").arg(file)).expect(0);
    }
    dirty.len()
}
