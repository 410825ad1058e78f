//! The small glibc 2.13 tree of the real corpus, unpacked into a temporary directory.

use std::fs;
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

/// Every regular ELF file below `dir`, sorted.
pub fn elf_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let entry = entry.expect("a directory entry");
            let kind = entry.file_type().expect("its type");
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() && super::read(&entry.path()).starts_with(b"\x7fELF") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
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
