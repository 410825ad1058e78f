//! Everything of a tree that a user could miss, as mtree lists it: all but the times of access and change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// What a tree holds: everything but the times of the last change of an inode and of the last access.
pub type Listing = BTreeMap<PathBuf, BTreeMap<&'static str, String>>;

/// Lists the tree at `root`; symbolic links are not followed.
pub fn listing(root: &Path) -> Listing {
    listing_without(root, &[])
}

/// The same without these names at the root, and what is below them.
pub fn listing_without(root: &Path, left_out: &[&str]) -> Listing {
    let mut listing = Listing::new();
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
            let names = names(&full).into_iter().map(|name| path.join(name));
            open.extend(names.filter(|path| !left_out.iter().any(|out| path.as_path() == Path::new(out))));
        } else {
            groups.entry((metadata.dev(), metadata.ino())).or_insert_with(Vec::new).push(path.clone());
            facts.insert("size", metadata.len().to_string());
        }
        if kind.is_file() {
            facts.insert("sha256", super::sha256(&super::read(&full)));
        } else if kind.is_symlink() {
            facts.insert("target", format!("{:?}", fs::read_link(&full).unwrap()));
        } else if kind.is_char_device() || kind.is_block_device() {
            facts.insert("device", metadata.rdev().to_string());
        }
        listing.insert(path, facts);
    }
    for mut paths in groups.into_values() {
        paths.sort();
        let group = format!("{paths:?}");
        for path in paths {
            listing.get_mut(&path).expect("it was just seen").insert("links", group.clone());
        }
    }
    listing
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
pub fn differences(before: &Listing, after: &Listing) -> Vec<String> {
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
pub fn assert_same(before: &Listing, after: &Listing, what: &str) {
    let lines = differences(before, after);
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}

/// Paths that differ, with the facts that do: `bin/x: mtime sha256 size`.
pub fn changed(before: &Listing, after: &Listing) -> Vec<String> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in differences(before, after) {
        let mut fields = line.splitn(3, ": ");
        let path = fields.next().expect("a path").to_owned();
        all.entry(path).or_default().push(fields.next().expect("a fact").to_owned());
    }
    all.into_iter().map(|(path, facts)| format!("{path}: {}", facts.join(" "))).collect()
}
