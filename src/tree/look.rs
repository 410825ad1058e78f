//! What is behind the names of a tree: one look at every file, by all threads of the walk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::record::Entry;
use super::{Progress, is_doubtful, walk};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::examine::examine_searched;
use crate::glance::{self, Found, Glance};
use crate::outcome::{Action, File};
use crate::plan::Via;
use crate::session::{Depth, proven};
use crate::site::Verdict;
use crate::store::{Inode, Root, Source};

/// Bytes of whole files that are in memory at one time; a file that is larger is alone there.
const WHOLE_FILES: u64 = 8 << 20;

/// What is wanted of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To tell what is there.
    Report(Depth),
    /// To patch it.
    Patch,
}

/// A file that there is something to say of.
#[derive(Debug)]
pub struct Seen {
    /// Its names from the root of the tree, the first by name first.
    pub names: Vec<PathBuf>,
    /// Which file that is, where it has several names.
    inode: Option<Inode>,
    /// Number of hard links, more than `names` where some are elsewhere.
    pub links: u64,
    /// What was found.
    pub result: Result<File>,
    /// What patching it will do; nothing where there is nothing to do.
    pub entry: Option<Entry>,
}

/// What is not looked at.
#[derive(Debug, Default)]
pub struct Skipped {
    /// Paths that are known already, sorted.
    pub paths: Vec<PathBuf>,
    /// Names that a run which was killed left.
    pub names: Vec<OsString>,
}

/// Looks at files, and remembers those that there is something to say of.
pub struct Looker<'a> {
    root: &'a Root,
    purpose: Purpose,
    via: Via,
    skipped: &'a Skipped,
    progress: &'a Progress,
    bytes: AtomicU64,
    room: Room,
    names: Mutex<HashMap<Inode, Vec<PathBuf>>>,
    seen: Mutex<Vec<Seen>>,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Looker<'a> {
    /// One that passes over `skipped`.
    pub fn new(
        root: &'a Root,
        purpose: Purpose,
        via: Via,
        skipped: &'a Skipped,
        progress: &'a Progress,
    ) -> Self {
        let (bytes, room) = (AtomicU64::new(0), Room::default());
        Self {
            root,
            purpose,
            via,
            skipped,
            progress,
            bytes,
            room,
            names: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Looks at one file.
    pub fn look(&self, entry: &walk::Entry<'_>) {
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        BUFFER.with_borrow_mut(|buffer| {
            let looked = self.look_with(entry, buffer).unwrap_or_else(|error| {
                let names = vec![entry.path()];
                Some(Seen { names, inode: None, links: 1, result: Err(error), entry: None })
            });
            if let Some(seen) = looked {
                locked(&self.seen).push(seen);
            }
        });
    }

    fn look_with(&self, entry: &walk::Entry<'_>, buffer: &mut Vec<u8>) -> Result<Option<Seen>> {
        let opened = entry.open().map_err(|errno| Error::io("cannot open", errno))?;
        let Some(file) = opened else { return Ok(None) };
        // Most files are told by this, which is all that is read of them.
        let mut magic = [0; glance::MAGIC];
        let size =
            rustix::io::pread(&file, &mut magic, 0).map_err(|errno| Error::io("cannot read", errno))?;
        if !glance::is_candidate(&magic[..size]) {
            return Ok(None);
        }
        let source = Source::new(entry.place(), file)?;
        let inode = (source.links() > 1).then(|| source.inode());
        let Skipped { paths, names } = self.skipped;
        if !paths.is_empty() && paths.binary_search(&entry.path()).is_ok() {
            return Ok(None);
        }
        if names.iter().any(|name| name == source.place().name()) {
            return Ok(None);
        }
        if let Some(inode) = inode {
            let mut names = locked(&self.names);
            let is_new = !names.contains_key(&inode);
            names.entry(inode).or_default().push(entry.path());
            if !is_new {
                return Ok(None);
            }
        }
        self.progress.candidates.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(source.size(), Ordering::Relaxed);
        let map = source.map()?;
        let mut found = None;
        if self.purpose != Purpose::Report(Depth::Everything) {
            match glance::glance(&source, map.as_ref(), buffer)? {
                Glance::Unclear(searched) => found = searched,
                Glance::Clean | Glance::Foreign(_) => return Ok(None),
            }
        }
        // Of a program that was searched, tables and some functions are looked at: never so much that it has to be alone.
        let is_searched = matches!(found, Some(Found::Hits(_)));
        let size = source.size();
        let _room = self.room.of(if is_searched { (size / 4).min(WHOLE_FILES / 2) } else { size });
        let path = entry.path();
        let seen = source.look(map.as_ref(), |bytes| self.examine(&source, bytes, found, &path))?;
        let seen = seen.map(|(file, entry)| Seen {
            names: vec![path],
            inode,
            links: source.links(),
            result: Ok(file),
            entry,
        });
        Ok(seen)
    }

    /// Looks at the whole file; nothing where there is nothing to say of it.
    fn examine(
        &self,
        source: &Source,
        bytes: &[u8],
        found: Option<Found>,
        path: &Path,
    ) -> Result<Option<(File, Option<Entry>)>> {
        let (kind, plan) = examine_searched(bytes, self.via, found)?;
        let wants_all = self.purpose == Purpose::Report(Depth::Everything);
        let has_sites = plan.as_ref().is_some_and(|plan| !plan.sites.is_empty());
        if !(wants_all || has_sites || is_doubtful(&kind)) {
            return Ok(None);
        }
        let is_open = |verdict| plan.as_ref().is_some_and(|plan| plan.count(verdict) > 0);
        if [Verdict::Patch, Verdict::Refused, Verdict::Unproven].into_iter().any(is_open) {
            self.progress.with_sites.fetch_add(1, Ordering::Relaxed);
        }
        let is_summed = self.purpose != Purpose::Report(Depth::Sites);
        let sha256 = is_summed.then(|| Sha256::of(bytes));
        let entry = match (&plan, sha256) {
            (Some(plan), Some(original)) if self.purpose == Purpose::Patch && plan.has_edits() => {
                let (record, _) = proven(bytes, original, &kind, plan)?;
                Some(Entry::of(source, vec![path.to_owned()], record)?)
            }
            _ => None,
        };
        let file = File {
            path: self.root.shown(path),
            links: vec![],
            layer: None,
            sha256,
            size: bytes.len() as u64,
            kind,
            plan,
            action: Action::Scanned,
            warnings: vec![],
        };
        Ok(Some((file, entry)))
    }

    /// Everything that there is something to say of, by path, and the bytes of all candidates.
    #[must_use]
    pub fn finish(self) -> (Vec<Seen>, u64) {
        let mut names = self.names.into_inner().unwrap_or_else(PoisonError::into_inner);
        let seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let named = |mut seen: Seen| {
            if let Some(mut all) = seen.inode.and_then(|inode| names.remove(&inode)) {
                // A directory that changes while it is read can give a name twice.
                all.sort();
                all.dedup();
                if let Ok(file) = &mut seen.result {
                    file.path = self.root.shown(&all[0]);
                    file.links = all[1..].iter().map(|path| self.root.shown(path)).collect();
                }
                if let Some(entry) = &mut seen.entry {
                    entry.paths = all.iter().cloned().map(Into::into).collect();
                }
                seen.names = all;
            }
            seen
        };
        let mut seen: Vec<Seen> = seen.into_iter().map(named).collect();
        seen.sort_by(|a, b| a.names.cmp(&b.names));
        seen.dedup_by(|a, b| a.names == b.names);
        (seen, self.bytes.into_inner())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room in memory for whole files.
#[derive(Debug, Default)]
struct Room {
    taken: Mutex<u64>,
    freed: Condvar,
}

/// Room that is taken until this is dropped.
struct Taken<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Room {
    /// Takes room for `bytes`, when there is.
    fn of(&self, bytes: u64) -> Taken<'_> {
        let mut taken = locked(&self.taken);
        while *taken > 0 && *taken + bytes > WHOLE_FILES {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += bytes;
        Taken { room: self, bytes }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *locked(&self.room.taken) -= self.bytes;
        self.room.freed.notify_all();
    }
}
