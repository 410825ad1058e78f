//! Trees on disks: what tells one from another without reading all of it, and whether one is the patched copy of another.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::Digest as _;

use crate::digest::Sha256;
use crate::error::Result;
use crate::image;
use crate::store::root::Existing;
use crate::store::{Root, Source};
use crate::tree;
use crate::tree::filter::Filter;
use crate::tree::record::{Entry, Time, TreeRecord};
use crate::tree::walk;

/// Bytes of the files of the tree at `path`, and a checksum of their names, sizes and modification times. The record of a
/// patch is not counted.
///
/// # Errors
/// `Io` where the tree, or a directory in it, cannot be read.
pub(super) fn tree_sum(path: &Path, threads: usize) -> Result<(u64, Sha256)> {
    sum(&Root::open(path)?, threads, &TreeRecord::new())
}

/// What a tree was before it was patched.
pub(super) enum BeforePatch {
    /// As [`tree_sum`] would have told.
    Sum(Sha256),
    /// A run was killed in it.
    Unfinished,
}

/// What the tree at `path` was before it was patched; nothing where its record says that it never was.
///
/// # Errors
/// Those of [`tree_sum`], and of reading the record.
pub(super) fn tree_sum_before_patch(path: &Path, threads: usize) -> Result<Option<BeforePatch>> {
    let root = Root::open(path)?;
    let Some(record) = tree::record_of(&root)? else { return Ok(None) };
    if record.unfinished.is_some() {
        return Ok(Some(BeforePatch::Unfinished));
    }
    Ok(Some(BeforePatch::Sum(sum(&root, threads, &record)?.1)))
}

/// The same, with sizes and times that the files of the `record` had before they were patched.
fn sum(root: &Root, threads: usize, record: &TreeRecord) -> Result<(u64, Sha256)> {
    let patched: HashMap<&Path, &Entry> = record
        .files
        .iter()
        .flat_map(|entry| entry.paths.iter().map(move |path| (path.as_path(), entry)))
        .collect();
    // What is mounted in the tree is entered, as by whoever works on it.
    let options = walk::Options { filter: Filter::new(&[], &[])?, one_file_system: false, threads };
    let all = Mutex::new((0_u64, [0_u8; 32], 0_u64));
    let walked = walk::walk(root, &options, &|entry| {
        let path = entry.path();
        let Ok(Some(stat)) = entry.place().stat() else { return };
        if path == Path::new(image::record::PATH) {
            return;
        }
        let now = (stat.st_size.cast_unsigned(), Time(stat.st_mtime, stat.st_mtime_nsec.cast_signed()));
        let (size, Time(seconds, nanoseconds)) =
            patched.get(path.as_path()).map_or(now, |entry| (entry.record.size, entry.mtime));
        let mut sum = sha2::Sha256::new();
        sum.update(path.as_os_str().as_bytes());
        for number in [size.cast_signed(), seconds, nanoseconds] {
            sum.update([0]);
            sum.update(number.to_le_bytes());
        }
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.2 += 1;
        all.0 = all.0.saturating_add(size);
        // Files come in no order: what is added up does not depend on it.
        all.1.iter_mut().zip(sum.finalize()).for_each(|(all, one)| *all ^= one);
    })?;
    if let Some((path, error)) = walked.failures.into_iter().next() {
        return Err(error.within(path.display()));
    }
    let (bytes, sum, count) = all.into_inner().unwrap_or_default();
    Ok((bytes, Sha256::of(&[&count.to_le_bytes()[..], &sum].concat())))
}

/// Whether the tree at `copy` is the one at `source`, but for what its record says that was patched: the same names, sizes
/// and times, and of each patched file the content that it was made of.
///
/// # Errors
/// Those of reading both.
pub(super) fn is_copy_of(copy: &Path, source: &Path, threads: usize) -> Result<bool> {
    let (copy, source) = (Root::open(copy)?, Root::open(source)?);
    let (of_copy, of_source) = (recorded(&copy)?, recorded(&source)?);
    if sum(&copy, threads, &of_copy)? != sum(&source, threads, &of_source)? {
        return Ok(false);
    }
    for entry in &of_copy.files {
        for path in &entry.paths {
            // The source may have been patched in part before it was copied.
            let made_of = [entry.record.original, entry.record.patched];
            let Existing::Place(place) = source.existing_place(path.as_path())? else { return Ok(false) };
            if !made_of.contains(&Sha256::of(&Source::at(place)?.read()?)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn recorded(root: &Root) -> Result<TreeRecord> {
    Ok(tree::record_of(root)?.unwrap_or_default())
}
