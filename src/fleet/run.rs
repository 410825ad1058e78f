//! A worker: each item of its shard through the engine of the commands, and a result for each. No printing.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::results::{Failure, ItemResult, Results, Written};
use super::shard::Shard;
use super::trees::{BeforePatch, is_copy_of, tree_sum, tree_sum_before_patch};
use super::{Action, Head, Item, Kind, Place, RESULT_SCHEMA, Status, TOOL, WORK_SCHEMA};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::image::reference::Access;
use crate::image::{self, Context, Reference};
use crate::outcome::{self, Found, Target};
use crate::report::summary::Summary;
use crate::session::{self, Depth, Destination, Keep};
use crate::tree::{self, Progress};

/// Longest line of a work list that is read: an item has some hundred bytes for each name.
const LINE_BYTES: u64 = 64 << 20;

/// A work list that is read line by line.
pub struct WorkList {
    /// Its first line.
    pub head: Head,
    lines: BufReader<File>,
    path: PathBuf,
    number: u64,
    line: Vec<u8>,
}

impl WorkList {
    /// Opens the list at `path`.
    ///
    /// # Errors
    /// `Io` where it cannot be read, `Malformed` for what is none.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).map_err(|error| Error::io(format!("cannot open {}", path.display()), error))?;
        let head = Head { schema: String::new(), items: 0, names: 0, bytes: 0, cost: 0 };
        let (lines, path) = (BufReader::new(file), path.to_owned());
        let mut list = Self { head, lines, path, number: 0, line: Vec::new() };
        list.head = list.line::<Head>()?.filter(|head| head.schema == WORK_SCHEMA).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("{}: no {WORK_SCHEMA}", list.path.display()))
                .remedy("vsyspatch fleet plan makes one")
        })?;
        Ok(list)
    }

    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.number += 1;
        let place = |path: &Path, number| format!("{}: line {number}", path.display());
        self.line.clear();
        let read = (&mut self.lines).take(LINE_BYTES).read_until(b'\n', &mut self.line);
        let count = read.map_err(|error| Error::io(place(&self.path, self.number), error))?;
        if count == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&self.line).map(Some).map_err(|error| {
            let message = format!("{}: {error}", place(&self.path, self.number));
            Error::new(ErrorKind::Malformed, message).remedy("make the list anew with vsyspatch fleet plan")
        })
    }
}

impl Iterator for WorkList {
    type Item = Result<Item>;

    /// The next item; an error at the end of a list that is cut short.
    fn next(&mut self) -> Option<Self::Item> {
        match self.line::<Item>() {
            Ok(Some(item)) if !item.places.is_empty() => Some(Ok(item)),
            Ok(Some(item)) => {
                Some(Err(Error::new(ErrorKind::Malformed, format!("the item {} is nowhere", item.id))))
            }
            Ok(None) if self.number - 2 < self.head.items => {
                let message = format!(
                    "{} ends after {} of {} items",
                    self.path.display(),
                    self.number - 2,
                    self.head.items
                );
                self.head.items = 0;
                Some(Err(Error::new(ErrorKind::Malformed, message).remedy("copy it again, whole")))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// What a worker has besides the list.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is done.
    pub action: Action,
    /// Which part is this worker's.
    pub shard: Shard,
    /// Where results are.
    pub results: Results,
    /// How to get at registries.
    pub access: Access,
    /// What is known of layers, and when images are said to have been made.
    pub context: Context,
    /// How trees are walked.
    pub walk: tree::walk::Options,
}

/// What became of an item in this run.
#[derive(Clone, Debug)]
pub enum Step {
    /// It was done before.
    Before,
    /// This came of it.
    Now(Box<ItemResult>),
}

/// Does what is left of the shard, item by item, and gives each to `tell`.
///
/// # Errors
/// Those of the list, of results that cannot be read or written, and of `tell`. What goes wrong with an item is its
/// result.
pub fn run(list: WorkList, options: &Options, tell: &mut dyn FnMut(&Item, Step) -> Result<()>) -> Result<()> {
    let head = list.head.clone();
    let mut before = 0_u64;
    for item in list {
        let item = item?;
        let is_own = options.shard.holds(&head, before, item.cost);
        before = before.saturating_add(item.cost);
        if !is_own {
            continue;
        }
        let known = options.results.done(&item.id)?;
        known.as_ref().map_or(Ok(()), |known| known.is_of(options.action))?;
        let via = options.context.via;
        if known.as_ref().is_some_and(|known| known.settles(&item, options.action, via)) {
            tell(&item, Step::Before)?;
            continue;
        }
        options.results.failure(&item.id)?.map_or(Ok(()), |failure| failure.is_of(options.action))?;
        let known = known.filter(|known| known.is_of_input(&item, options.action, via));
        let result = done(&item, known, options);
        options.results.put(&result)?;
        tell(&item, Step::Now(Box::new(result)))?;
    }
    Ok(())
}

/// Does the item under all its names, but those that it is `known` to be done under.
fn done(item: &Item, known: Option<ItemResult>, options: &Options) -> ItemResult {
    let begun = Instant::now();
    let hits = || options.context.cache.as_ref().map_or(0, image::Cache::hits);
    let hits_before = hits();
    let new = || ItemResult {
        schema: RESULT_SCHEMA.to_owned(),
        id: item.id.clone(),
        kind: item.kind,
        digest: item.digest.clone(),
        action: options.action,
        via: options.context.via,
        tool: TOOL.to_owned(),
        status: Status::Clean,
        places: Vec::new(),
        bytes: item.bytes,
        summary: Summary::default(),
        layers_known: 0,
        seconds: 0.0,
        error: None,
    };
    let mut result = known.unwrap_or_else(new);
    for place in &item.places {
        if result.has(&place.name, place.destination.as_deref()) {
            continue;
        }
        let target = Target { name: PathBuf::from(&place.name), result: at_place(item, place, options) };
        let (status, error) = status_of(&target, options.action);
        result.status = result.status.max(status);
        result.error = worse(result.error.take(), error);
        result.summary.add(Summary::of(&target));
        let (name, destination) = (place.name.clone(), place.destination.clone());
        result.places.push(Written { name, destination, output: output_of(&target, place, status) });
    }
    result.layers_known += hits() - hits_before;
    result.seconds += begun.elapsed().as_secs_f64();
    result
}

/// Of two failures the one that does not pass by itself.
fn worse(a: Option<Failure>, b: Option<Failure>) -> Option<Failure> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.may_pass && !b.may_pass { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// Does what the command of the same name does.
fn at_place(item: &Item, place: &Place, options: &Options) -> Result<Found> {
    let (source, action) = (Path::new(&place.source), options.action);
    let destination =
        place.destination.as_ref().map_or(Destination::InPlace, |to| Destination::To(to.into()));
    match item.kind {
        Kind::Image => {
            let no_image = || Error::new(ErrorKind::Usage, format!("{} is no image", place.source));
            let reference = Reference::parse(source.as_os_str(), &options.access)?.ok_or_else(no_image)?;
            let to = || {
                let to = place.destination.as_ref().ok_or_else(|| {
                    Error::new(ErrorKind::Usage, "an image is never changed in place, and has no destination")
                })?;
                reference.output(to.as_ref(), &options.access)
            };
            let (name, context) = (Path::new(&place.name), &options.context);
            let tree = match action {
                Action::Scan => image::scan(&reference, name, context),
                Action::Patch => image::patch(&reference, name, Some(&to()?), false, context),
                Action::Verify => image::verify(&reference, name, None, context),
                Action::Revert => image::revert(&reference, name, Some(&to()?), context),
            };
            tree.map(|tree| Found::Tree(Box::new(tree)))
        }
        Kind::Tree => {
            check_planned(source, item, &destination, options.walk.threads)?;
            let walk = options.walk.clone();
            let options =
                tree::Options { walk, record: None, keep: Keep::default(), via: options.context.via };
            let progress = Progress::default();
            let tree = match action {
                Action::Scan => tree::scan(source, &options, Depth::Sites, &progress),
                Action::Patch => tree::patch(source, &destination, &options, &progress).or_else(|error| {
                    let Destination::To(copy) = &destination else { return Err(error) };
                    patched_copy(source, copy, &options, error)
                }),
                Action::Verify => tree::verify(source, &options, &progress),
                Action::Revert => tree::revert(source, &destination, &options, &progress),
            };
            tree.map(|tree| Found::Tree(Box::new(tree)))
        }
        Kind::File => {
            check_planned(source, item, &destination, options.walk.threads)?;
            let file = match action {
                Action::Scan => session::scan(source, options.context.via, Depth::Sites),
                Action::Patch => {
                    session::patch(source, options.context.via, &destination, None, Keep::default())
                }
                Action::Verify => session::verify(source, None),
                Action::Revert => session::revert(source, &destination, None, Keep::default()),
            };
            file.map(|file| Found::File(Box::new(file)))
        }
    }
}

/// The patched copy of the tree at `source` that another worker made, or this one before it was killed: it is of what the
/// source is now, and nothing in it is left to be patched. Else what making it came to, `error`.
fn patched_copy(source: &Path, copy: &Path, options: &tree::Options, error: Error) -> Result<outcome::Tree> {
    if !copy.is_dir() {
        return Err(error);
    }
    let tree = tree::patch(copy, &Destination::DryRun, options, &Progress::default())?;
    let is_done = |file: &outcome::TreeFile| {
        file.result.as_ref().is_ok_and(|file| !matches!(file.action, outcome::Action::Written(_)))
    };
    if tree.files.iter().all(is_done) && is_copy_of(copy, source, options.walk.threads)? {
        return Ok(tree);
    }
    let (shown, source) = (copy.display(), source.display());
    let message = format!("{shown} is there already, and is not what patching {source} gives");
    Err(Error::new(ErrorKind::Mismatch, message).remedy("remove it, or plan with another --destination"))
}

/// A file or a tree is what was planned.
fn check_planned(path: &Path, item: &Item, destination: &Destination, threads: usize) -> Result<()> {
    match destination {
        Destination::InPlace => check_replaced(path, item, threads),
        _ => check_unchanged(path, item, threads),
    }
}

/// What is replaced is what was planned, or that with what was patched in it: whoever did so may have been killed before
/// there was a result, or this is to bring it back.
fn check_replaced(path: &Path, item: &Item, threads: usize) -> Result<()> {
    let Some(planned) = &item.digest else { return Ok(()) };
    let is_planned = |sum: Sha256| *planned == format!("sha256:{sum}");
    if item.kind == Kind::Tree {
        match tree_sum_before_patch(path, threads)? {
            Some(BeforePatch::Sum(sum)) if is_planned(sum) => return Ok(()),
            // It is to be finished first, and until then nobody can tell.
            Some(BeforePatch::Unfinished) => return Ok(()),
            _ => {}
        }
    } else if let Some(record) = session::known_record(path, None)? {
        let states = [record.original, record.patched];
        if states.into_iter().any(is_planned) && states.contains(&file_sum(path)?) {
            return Ok(());
        }
    }
    check_unchanged(path, item, threads)
}

fn file_sum(path: &Path) -> Result<Sha256> {
    let sum = File::open(path).and_then(Sha256::read);
    sum.map_err(|error| Error::io(format!("cannot read {}", path.display()), error))
}

/// Not a byte of it is another one.
fn check_unchanged(path: &Path, item: &Item, threads: usize) -> Result<()> {
    let Some(planned) = &item.digest else { return Ok(()) };
    let (kind, sum) = match item.kind {
        Kind::Tree => ("tree", tree_sum(path, threads)?.1),
        _ => ("file", file_sum(path)?),
    };
    let found = format!("sha256:{sum}");
    if found == *planned {
        return Ok(());
    }
    let message = format!("{} is not the {kind} that was planned: it is {found}", path.display());
    Err(Error::new(ErrorKind::Mismatch, message).remedy("plan again"))
}

/// What came of one name.
fn status_of(target: &Target, action: Action) -> (Status, Option<Failure>) {
    let errors = target.files().filter_map(|(path, result)| result.err().map(|error| (path, error)));
    let is_whole = |path: &Path| path == target.name;
    let failure = errors.fold(None, |failure, (path, error)| {
        let mut next = Failure::of(error);
        if !is_whole(path) {
            next.message = format!("{}: {}", path.display(), next.message);
        }
        worse(failure, Some(next))
    });
    if failure.is_some() {
        return (Status::Failed, failure);
    }
    let summary = Summary::of(target);
    let is_open = target.status(false) == outcome::Status::Findings;
    let refused = summary.refused > 0 || (is_open && summary.patch == 0);
    let status = match action {
        Action::Scan if is_open => {
            if refused {
                Status::Refused
            } else {
                Status::ToPatch
            }
        }
        Action::Patch if is_open => Status::Refused,
        Action::Verify => {
            if is_open {
                Status::Findings
            } else {
                Status::Verified
            }
        }
        Action::Revert => Status::Reverted,
        Action::Patch if summary.patched + summary.already_patched > 0 => Status::Patched,
        _ => Status::Clean,
    };
    (status, None)
}

/// Where the result is, where there is one; it may be there from before.
fn output_of(target: &Target, place: &Place, status: Status) -> Option<String> {
    if let Some(image) = target.tree().and_then(|tree| tree.image.as_ref()) {
        let (place, digest) = image.output.as_ref()?;
        return Some(image.reference.clone().unwrap_or_else(|| format!("{place} {digest}")));
    }
    let is_written = matches!(status, Status::Patched | Status::Reverted);
    is_written.then(|| place.destination.as_ref().unwrap_or(&place.source).clone())
}
