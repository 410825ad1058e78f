//! A tree of files (a root file system, a chroot, an unpacked image) from its path to its outcome:
//! walk -> look at every file -> plan -> record what will be done -> write -> record that it is done. No printing.
//!
//! **Invariants.** Nothing in the tree leads out of it ([`crate::store::Root`]). The record ([`record`]) is written before the
//! first file changes, so that a run that is killed at any point can be finished or undone by the next one.
//! Every name of a group of hard links ends as a link to one file.

mod belonging;
mod entries;
pub mod filter;
mod look;
pub mod record;
mod record_file;
mod run;
pub mod walk;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use belonging::Belonging;
use entries::{Recorded, State};
use look::{Looker, Purpose, Skipped};
use record::{Entry, Run, TreePath, TreeRecord};
use record_file::RecordFile;
use run::Job;

use crate::apply;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::{Action, Direction, File, Kind, Seen, Tree, TreeFile, Unchanged, Written};
use crate::plan::Via;
use crate::session::{Depth, Destination, Keep};
use crate::store::copy::CopiedTree;
use crate::store::pending::leftover_names;
use crate::store::{OtherNames, Root};
use crate::verify::{self, finding};

/// What decides how a tree is worked on.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which files, and how many threads.
    pub walk: walk::Options,
    /// The record; in the tree without.
    pub record: Option<PathBuf>,
    /// What becomes of names outside of the tree, and of modification times.
    pub keep: Keep,
    /// What calls become.
    pub via: Via,
}

/// How far a run has come; read by others while it works.
#[derive(Debug, Default)]
pub struct Progress {
    /// Regular files looked at.
    pub files: AtomicUsize,
    /// Programs, objects and archives among them.
    pub candidates: AtomicUsize,
    /// Files with sites that are not harmless.
    pub with_sites: AtomicUsize,
}

/// Looks at every file of the tree at `path`.
///
/// # Errors
/// `Io` where there is no such tree. What goes wrong with a file is told with the file.
pub fn scan(path: &Path, options: &Options, depth: Depth, progress: &Progress) -> Result<Tree> {
    let begun = Instant::now();
    let root = Root::open(path)?;
    // A record that cannot be read does not keep anybody from looking at the files.
    let record = RecordFile::find(&root, options.record.as_deref()).and_then(|mut file| file.read());
    let unfinished = record.ok().flatten().and_then(|record| record.unfinished);
    let skipped = skipped(unfinished.as_ref(), []);
    let (mut tree, looked) = look(&root, options, Purpose::Report(depth), &skipped, &[], progress)?;
    tree.unfinished = unfinished.map(|run| run.direction);
    tree.files.extend(looked.into_iter().map(|(file, _)| file));
    Ok(finished(tree, begun))
}

/// The tree with its files in order, and the time since it was `begun`.
fn finished(mut tree: Tree, begun: Instant) -> Tree {
    tree.files.sort_by(|a, b| a.path.cmp(&b.path));
    tree.seen.seconds = begun.elapsed().as_secs_f64();
    tree
}

/// What the walk passes over: what the run `before` left where it was killed, and the files of `entries`.
fn skipped<'e>(before: Option<&Run>, entries: impl IntoIterator<Item = &'e Entry>) -> Skipped {
    let paths = entries.into_iter().flat_map(|entry| &entry.paths);
    let mut paths: Vec<PathBuf> = paths.map(|path| path.as_path().to_owned()).collect();
    paths.sort();
    let names = before.map(|run| leftover_names(OsStr::new(&run.temporary))).unwrap_or_default();
    Skipped { paths, names }
}

/// A file that there is something to say of, and what patching it will do.
type Looked = (TreeFile, Option<Entry>);

/// Walks the tree. The files that there is something to say of, with what patching them will do; the tree has
/// those that failed.
fn look(
    root: &Root,
    options: &Options,
    purpose: Purpose,
    skipped: &Skipped,
    recorded: &[Recorded],
    progress: &Progress,
) -> Result<(Tree, Vec<Looked>)> {
    let looker = Looker::new(root, purpose, options.via, skipped, progress);
    let walked = walk::walk(root, &options.walk, &|entry| looker.look(entry))?;
    let (seen, bytes) = looker.finish();
    let failed = |(path, error): (PathBuf, Error)| TreeFile { path: root.shown(&path), result: Err(error) };
    let seen_in_walk = Seen {
        files: walked.files,
        candidates: progress.candidates.load(Ordering::Relaxed) + recorded.len(),
        bytes: bytes + recorded.iter().map(|recorded| recorded.file.size).sum::<u64>(),
        seconds: 0.0,
    };
    let tree = Tree {
        files: walked.failures.into_iter().map(failed).collect(),
        seen: seen_in_walk,
        not_entered: walked.not_entered,
        ..Tree::default()
    };
    let looked = seen.into_iter().map(|look::Seen { names, links, result, entry, .. }| {
        let is_split = entry.is_some() && links > names.len() as u64;
        let path = root.shown(&names[0]);
        if is_split && options.keep.other_names == OtherNames::Refuse {
            return (TreeFile { path, result: Err(other_names(links, names.len())) }, None);
        }
        (TreeFile { path, result }, entry)
    });
    Ok((tree, looked.collect()))
}

fn other_names(links: u64, known: usize) -> Error {
    let message = format!(
        "has {links} hard links, {known} of them among the files looked at; the others would keep the old content"
    );
    Error::new(ErrorKind::Unsafe, message).remedy("let the others be with --break-links")
}

/// The tree to work on.
struct Opened {
    root: Root,
    /// Where it is a copy, that is not in its place yet.
    copy: Option<CopiedTree>,
    /// Where it is none, and written to.
    _lock: Option<std::fs::File>,
}

/// The tree at `path`, or a copy of it. The record is whole or not there, wherever a run was killed.
fn opened(path: &Path, destination: &Destination, options: &Options) -> Result<Opened> {
    let opened = match destination {
        Destination::To(output) => {
            let copy = CopiedTree::of(path, output, options.walk.one_file_system)?;
            let root = Root::named(copy.directory(), output.clone());
            Opened { root, copy: Some(copy), _lock: None }
        }
        Destination::InPlace => {
            let root = Root::open(path)?;
            let lock = root.lock()?;
            Opened { root, copy: None, _lock: Some(lock) }
        }
        Destination::DryRun => return Ok(Opened { root: Root::open(path)?, copy: None, _lock: None }),
    };
    if options.record.is_none() {
        record_file::recover(&opened.root)?;
    }
    Ok(opened)
}

/// Puts the copy in its place.
fn complete(tree: &mut Tree, copy: Option<CopiedTree>) -> Result<()> {
    let Some(copy) = copy else { return Ok(()) };
    tree.warnings.extend(copy.put()?);
    Ok(())
}

/// Removes what the run `before` left, unless nothing is to be written.
fn clean_up(root: &Root, before: Option<&Run>, dry_run: bool) -> Result<()> {
    match before {
        Some(before) if !dry_run => run::clean_up(root, before),
        _ => Ok(()),
    }
}

/// What the record of a tree knows of, as it is now.
#[derive(Default)]
struct Known {
    recorded: Vec<Recorded>,
    /// Those that cannot be looked at.
    failed: Vec<(Entry, Error)>,
}

impl Known {
    /// Looks at each; `progress` tells of it, where the run does nothing else.
    fn of(root: &Root, entries: Vec<Entry>, progress: Option<&Progress>) -> Self {
        let mut known = Self::default();
        for entry in entries {
            if let Some(progress) = progress {
                progress.files.fetch_add(1, Ordering::Relaxed);
            }
            match entries::recorded(root, entry) {
                (_, Ok(recorded)) => known.recorded.push(recorded),
                (entry, Err(error)) => known.failed.push((entry, error)),
            }
        }
        known
    }
}

/// What a run is to do with one file.
struct Work {
    entry: Entry,
    file: File,
}

impl Work {
    fn of(recorded: Recorded) -> Self {
        Self { entry: recorded.entry, file: recorded.file }
    }

    /// The file with what was done with it, or would be.
    fn told(self, direction: Direction, record: Option<&Path>, done: Result<Vec<String>>) -> TreeFile {
        let Self { entry, file } = self;
        let (sha256, edits) = match direction {
            Direction::Patch => (entry.record.patched, entry.record.edits),
            Direction::Revert => (entry.record.original, apply::inverse(&entry.record.edits)),
        };
        let written = Written {
            direction,
            dry_run: record.is_none(),
            output: record.map(|_| file.path.clone()),
            sha256,
            edits,
            record: record.map(Path::to_owned),
        };
        let path = file.path.clone();
        let file = |warnings| File { action: Action::Written(written), warnings, ..file };
        TreeFile { path, result: done.map(file) }
    }
}

/// Patches every file of the tree at `path`, or of a copy of it; a dry run only tells what would be done.
///
/// # Errors
/// `Io` where there is no such tree, or another run is at work, `Record` where there is a record
/// that cannot be read; those of writing the record. What goes wrong with a file is told with the file.
pub fn patch(path: &Path, destination: &Destination, options: &Options, progress: &Progress) -> Result<Tree> {
    let begun = Instant::now();
    let dry_run = *destination == Destination::DryRun;
    let Opened { root, copy, _lock } = opened(path, destination, options)?;
    let mut record_file = RecordFile::find(&root, options.record.as_deref())?;
    let mut record = record_file.read()?.unwrap_or_default();
    let mut failed = Vec::new();
    let before = record.unfinished.take();
    let had_record = !record.files.is_empty();
    let known = Known::of(&root, std::mem::take(&mut record.files), None);
    if let Some(path) = &options.record {
        let belonging = if had_record {
            Belonging::of(&root, path, &record.roots, before.as_ref(), &known, Direction::Patch)?
        } else {
            Belonging::first(&root)?
        };
        if !belonging.is_shared {
            record.roots.clear();
        }
        record.roots.retain(|root| *root != belonging.own);
        record.roots.push(belonging.own);
    }
    clean_up(&root, before.as_ref(), dry_run)?;
    let mut warnings = Vec::new();
    for (entry, error) in known.failed {
        let path = root.shown(entry.path());
        if error.kind() == ErrorKind::Mismatch {
            warnings.push(format!("{}: {error}; its record is dropped", path.display()));
        } else {
            record.files.push(entry);
            failed.push(TreeFile { path, result: Err(error) });
        }
    }
    let (changed, mut same): (Vec<_>, Vec<_>) =
        known.recorded.into_iter().partition(|recorded| recorded.state == State::Changed);
    for Recorded { mut entry, replaced, .. } in changed {
        for path in &replaced {
            let path = root.shown(path.as_path());
            let message = "was replaced since it was patched; its record is dropped";
            warnings.push(format!("{}: {message}", path.display()));
        }
        // Other names of it may have been left as they were.
        entry.paths.retain(|path| !replaced.contains(path));
        if !entry.paths.is_empty() {
            same.extend(Known::of(&root, vec![entry], None).recorded);
        }
    }
    // The walk looks at the others as at any other file.
    same.retain(|recorded| matches!(recorded.state, State::Patched | State::Torn));
    for recorded in &mut same {
        warnings.extend(drop_lost(&root, recorded));
    }
    // Entries that are kept though they cannot be looked at now are among those of `record`.
    let kept = same.iter().map(|recorded| &recorded.entry).chain(&record.files);
    let skipped = skipped(before.as_ref(), kept);
    let (mut tree, looked) = look(&root, options, Purpose::Patch, &skipped, &same, progress)?;
    tree.unfinished = before.as_ref().map(|run| run.direction);
    tree.warnings = warnings;
    tree.files.extend(failed);

    let (patched, torn): (Vec<_>, Vec<_>) =
        same.into_iter().partition(|recorded| recorded.state == State::Patched);
    let mut work: Vec<Work> = torn.into_iter().map(Work::of).collect();
    for recorded in patched {
        let action = Action::Unchanged(Unchanged::AlreadyPatched { copy: None });
        let path = recorded.file.path.clone();
        tree.files.push(TreeFile { path, result: Ok(File { action, ..recorded.file }) });
        record.files.push(recorded.entry);
    }
    for (found, entry) in looked {
        match (found.result, entry) {
            (Ok(file), Some(entry)) => work.push(Work { entry, file }),
            (result, _) => {
                let action = Action::Unchanged(Unchanged::Clean { copy: None });
                let result = result.map(|file| File { action, ..file });
                tree.files.push(TreeFile { path: found.path, result });
            }
        }
    }
    if dry_run {
        tree.files.extend(work.into_iter().map(|work| work.told(Direction::Patch, None, Ok(vec![]))));
        return Ok(finished(tree, begun));
    }
    let is_only_of_copy = copy.is_some() && options.record.is_some() && !had_record;
    let mut carried_out = Ok(());
    if !work.is_empty() || before.is_some() || had_record {
        let job = Job { root: &root, options, direction: Direction::Patch, leaves: None };
        carried_out = carry_out(&job, &mut tree, &mut record_file, record, work);
    }
    carried_out.and_then(|()| complete(&mut tree, copy)).inspect_err(|_| {
        if is_only_of_copy {
            // The copy goes, and what is recorded of it is of nothing; the error that is reported is the one that matters.
            let _ = record_file.remove(&root, &TreeRecord::new());
        }
    })?;
    Ok(finished(tree, begun))
}

/// Takes the names out of the entry that stand for no file any more; a warning for each.
fn drop_lost(root: &Root, recorded: &mut Recorded) -> Vec<String> {
    let Recorded { entry, lost, .. } = recorded;
    entry.paths.retain(|path| lost.iter().all(|(lost, _)| lost != path));
    let warning = |(path, why): (TreePath, &str)| {
        format!("{}: {why}; the record of this name is dropped", root.shown(path.as_path()).display())
    };
    std::mem::take(lost).into_iter().map(warning).collect()
}

/// Does the `work`, and tells it in `tree`.
fn carry_out(
    job: &Job<'_>,
    tree: &mut Tree,
    record_file: &mut RecordFile,
    settled: TreeRecord,
    work: Vec<Work>,
) -> Result<()> {
    let entries: Vec<Entry> = work.iter().map(|work| work.entry.clone()).collect();
    let done = job.run(record_file, settled, &entries)?;
    tree.record = record_file.read().ok().flatten().map(|_| record_file.path().to_owned());
    let record = record_file.path();
    tree.files
        .extend(work.into_iter().zip(done).map(|(work, done)| work.told(job.direction, Some(record), done)));
    Ok(())
}

/// The record in the tree; nothing where there is none.
///
/// # Errors
/// `Record` for what is none; those of reading.
pub fn record_of(root: &Root) -> Result<Option<TreeRecord>> {
    RecordFile::find(root, None)?.read()
}

fn required_record(record_file: &mut RecordFile) -> Result<TreeRecord> {
    record_file.read()?.ok_or_else(|| {
        let message = format!("there is no record at {}", record_file.path().display());
        Error::new(ErrorKind::Record, message).remedy("name the record of the patch with --record")
    })
}

/// Undoes the patch of the tree at `path`, or of a copy of it, and removes the record; a dry run only tells
/// what would be done.
///
/// # Errors
/// Those of [`patch`]; `Record` without a record.
pub fn revert(
    path: &Path,
    destination: &Destination,
    options: &Options,
    progress: &Progress,
) -> Result<Tree> {
    let begun = Instant::now();
    let dry_run = *destination == Destination::DryRun;
    let Opened { root, copy, _lock } = opened(path, destination, options)?;
    let mut record_file = RecordFile::find(&root, options.record.as_deref())?;
    let mut record = required_record(&mut record_file)?;
    let before = record.unfinished.take();
    let known = Known::of(&root, std::mem::take(&mut record.files), Some(progress));
    let mut leaves = None;
    if let Some(path) = &options.record {
        let belonging =
            Belonging::of(&root, path, &record.roots, before.as_ref(), &known, Direction::Revert)?;
        leaves = Some(belonging.own).filter(|_| belonging.is_shared);
    }
    clean_up(&root, before.as_ref(), dry_run)?;
    let mut tree = Tree { unfinished: before.as_ref().map(|run| run.direction), ..Tree::default() };
    tree.seen.candidates = known.recorded.len();
    tree.seen.files = known.recorded.len();
    tree.seen.bytes = known.recorded.iter().map(|recorded| recorded.file.size).sum();
    for (entry, error) in known.failed {
        tree.files.push(TreeFile { path: root.shown(entry.path()), result: Err(error) });
        record.files.push(entry);
    }
    let mut work = Vec::new();
    for recorded in known.recorded {
        let path = recorded.file.path.clone();
        match recorded.state {
            State::Patched | State::Torn => work.push(Work::of(recorded)),
            State::Original => {
                if leaves.is_some() {
                    record.files.push(recorded.entry);
                }
                let action = Action::Unchanged(Unchanged::AlreadyOriginal);
                tree.files.push(TreeFile { path, result: Ok(File { action, ..recorded.file }) });
            }
            State::Changed => {
                tree.files.push(TreeFile { path, result: Err(entries::changed()) });
                record.files.push(recorded.entry);
            }
        }
    }
    if dry_run {
        tree.files.extend(work.into_iter().map(|work| work.told(Direction::Revert, None, Ok(vec![]))));
        return Ok(finished(tree, begun));
    }
    if leaves.is_some() {
        tree.warnings.push(format!(
            "the record {} stays: it was written for another directory, which {} is a copy of, or was before it was \
             moved; remove it where that is gone",
            record_file.path().display(),
            path.display()
        ));
    }
    let job = Job { root: &root, options, direction: Direction::Revert, leaves };
    carry_out(&job, &mut tree, &mut record_file, record, work)?;
    complete(&mut tree, copy)?;
    Ok(finished(tree, begun))
}

/// Checks every recorded file of the tree at `path` against the record, and looks at all others.
///
/// # Errors
/// `Io` where there is no such tree; `Record` where there is no record, or none that can be read.
pub fn verify(path: &Path, options: &Options, progress: &Progress) -> Result<Tree> {
    let begun = Instant::now();
    let root = Root::open(path)?;
    let mut record_file = RecordFile::find(&root, options.record.as_deref())?;
    let record = required_record(&mut record_file)?;
    let known = Known::of(&root, record.files, None);
    let purpose = Purpose::Report(Depth::Checksums);
    let entries = known.recorded.iter().map(|recorded| &recorded.entry);
    let entries = entries.chain(known.failed.iter().map(|(entry, _)| entry));
    let skipped = skipped(record.unfinished.as_ref(), entries);
    let (mut tree, looked) = look(&root, options, purpose, &skipped, &known.recorded, progress)?;
    tree.record = Some(record_file.path().to_owned());
    tree.unfinished = record.unfinished.as_ref().map(|run| run.direction);
    if tree.unfinished.is_some() {
        let message = "a run was killed before it had finished: patch again, or revert";
        tree.findings.push(finding("unfinished", message, None));
    }
    for (entry, error) in known.failed {
        let path = root.shown(entry.path());
        if error.kind() == ErrorKind::Mismatch {
            let message = format!("{}: {error}", path.display());
            tree.findings.push(finding("file-missing", message, None));
        } else {
            tree.files.push(TreeFile { path, result: Err(error) });
        }
    }
    for Recorded { file, findings, .. } in known.recorded {
        let path = file.path.clone();
        tree.files.push(TreeFile { path, result: Ok(File { action: Action::Verified(findings), ..file }) });
    }
    for (found, _) in looked {
        let verified = |file: File| {
            let left = file.plan.as_ref().map_or_else(Vec::new, verify::sites_left_in);
            File { action: Action::Verified(left), ..file }
        };
        tree.files.push(TreeFile { path: found.path, result: found.result.map(verified) });
    }
    Ok(finished(tree, begun))
}

/// Whether a file of that kind, without a site, is worth a word in a tree: one that may hold calls, and not
/// one that holds other files.
fn is_doubtful(kind: &Kind) -> bool {
    matches!(kind, Kind::Unscannable(_))
}
