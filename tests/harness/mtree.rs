//! Everything of a tree that a user could miss, as mtree lists it: all but the times of access and change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// One line per path, by path from the root of the tree.
pub type Listing = BTreeMap<PathBuf, String>;

/// Lists the tree at `root`, symbolic links not followed.
pub fn listing(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut first_names = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let at = root.join(&path);
        let metadata = fs::symlink_metadata(&at).expect("what is listed is there");
        let kind = metadata.file_type();
        let mut line = format!("{:o} {}:{} ", metadata.mode(), metadata.uid(), metadata.gid());
        write!(line, "{}.{}", metadata.mtime(), metadata.mtime_nsec()).expect("text");
        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&at).expect("it can be read").map(|e| e.expect("read")).collect();
            names.sort_by_key(fs::DirEntry::file_name);
            open.extend(names.iter().rev().map(|entry| path.join(entry.file_name())));
        } else if kind.is_symlink() {
            write!(line, " -> {}", fs::read_link(&at).expect("a link").display()).expect("text");
        } else if kind.is_file() {
            let group = first_names.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone());
            let sum = super::sha256(&super::read(&at));
            write!(line, " {} {sum} = {} {}", metadata.len(), group.display(), xattrs(&at)).expect("text");
        } else if kind.is_char_device() || kind.is_block_device() {
            write!(line, " device {}", metadata.rdev()).expect("text");
        }
        listing.insert(path, line);
    }
    listing
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let Ok(size) = rustix::fs::llistxattr(path, &mut names[..]) else { return String::new() };
    let mut shown: Vec<String> = names[..size]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let size = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            format!("{}={}", String::from_utf8_lossy(name), hex::encode(&value[..size]))
        })
        .collect();
    shown.sort();
    shown.join(" ")
}

/// What differs, for an assertion that shows it.
pub fn differences(left: &Listing, right: &Listing) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let of = |listing: &Listing, path: &Path| listing.get(path).cloned().unwrap_or_else(|| "-".into());
    paths
        .into_iter()
        .filter(|path| left.get(*path) != right.get(*path))
        .map(|path| format!("{}: {} | {}", path.display(), of(left, path), of(right, path)))
        .collect()
}
