//! One file from its path to its outcome: read -> scan -> plan -> apply -> verify -> store. No printing.

use std::path::{Path, PathBuf};

use crate::apply;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::examine::{examine, examine_searched};
use crate::explain::listing;
use crate::glance::{self, Glance};
use crate::memory::Map;
use crate::outcome::{Action, Direction, Explanation, File, Kind, Unchanged, Written};
use crate::plan::{Plan, PlannedSite, Via};
use crate::record::Record;
use crate::store::{self, Mtime, Names, OtherNames, Pending, Source};
use crate::verify;

/// Where `patch` and `revert` put their result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere: only say what would be done.
    DryRun,
    /// Over the file itself.
    InPlace,
    /// To another file.
    To(PathBuf),
}

/// What becomes of names and times of a file that is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Hard links to it that are elsewhere.
    pub other_names: OtherNames,
    /// Whether it keeps its modification time though its content changes.
    pub mtime: bool,
}

impl Keep {
    fn mtime(self) -> Mtime {
        if self.mtime { Mtime::Keep } else { Mtime::Now }
    }
}

/// What a file is, in bytes and in words.
struct Opened {
    source: Source,
    bytes: Vec<u8>,
    sha256: Sha256,
}

impl Opened {
    fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let bytes = source.read()?;
        let sha256 = Sha256::of(&bytes);
        Ok(Self { source, bytes, sha256 })
    }

    /// What is known of the file, with what was done to it.
    fn file(&self, path: &Path, kind: Kind, plan: Option<Plan>, action: Action) -> File {
        let size = self.bytes.len() as u64;
        File {
            path: path.to_owned(),
            links: Vec::new(),
            layer: None,
            sha256: Some(self.sha256),
            size,
            kind,
            plan,
            action,
            warnings: Vec::new(),
        }
    }
}

/// How much a scan tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Its sites. A file without is only searched, block by block.
    Sites,
    /// The checksum, too, of a file with sites.
    Checksums,
    /// Identity and checksum of a file without a site, too, which is read as a whole for that.
    Everything,
}

/// Looks at the file at `path`, as it would be patched `via`.
///
/// # Errors
/// Those of reading, and of [`examine`].
pub fn scan(path: &Path, via: Via, depth: Depth) -> Result<File> {
    let source = Source::open(path)?;
    let map = source.map()?;
    let mut found = None;
    if depth < Depth::Everything {
        match first_look(&source, map.as_ref())? {
            Glance::Clean => return Ok(File::clean(path, source.size())),
            Glance::Unclear(searched) => found = searched,
            Glance::Foreign(_) => {}
        }
    }
    source.look(map.as_ref(), |bytes| {
        let (kind, plan) = examine_searched(bytes, via, found)?;
        let has_sites = plan.as_ref().is_none_or(|plan| !plan.sites.is_empty());
        let is_summed = depth == Depth::Everything || (depth == Depth::Checksums && has_sites);
        let sha256 = is_summed.then(|| Sha256::of(bytes));
        let (path, size) = (path.to_owned(), bytes.len() as u64);
        Ok(File {
            path,
            links: vec![],
            layer: None,
            sha256,
            size,
            kind,
            plan,
            action: Action::Scanned,
            warnings: vec![],
        })
    })
}

/// A first look at a file that was named. An archive that is named is to be a sound one.
fn first_look(source: &Source, map: Option<&Map>) -> Result<Glance> {
    let mut magic = [0; glance::MAGIC];
    let size = source.read_block(0, &mut magic)?;
    if !magic[..size].starts_with(b"\x7fELF") {
        return Ok(Glance::Unclear(None));
    }
    glance::glance(source, map, &mut Vec::new())
}

/// Shows what is seen of the sites of the file at `path`: of all, or of the one that is, or begins, `at` this
/// address or file offset.
///
/// # Errors
/// Those of reading, and of [`examine`]; `Usage` where there is no site at `at`.
pub fn explain(path: &Path, via: Via, at: Option<u64>) -> Result<File> {
    let opened = Opened::open(path)?;
    let (kind, plan) = examine(&opened.bytes, via)?;
    let sites = plan.as_ref().map_or(&[][..], |plan| &plan.sites);
    let is_wanted = |site: &PlannedSite| at.is_none_or(|at| at == site.vaddr.0 || at == site.offset.0);
    let explanation = |(number, site)| Explanation { site: number, listing: listing(&opened.bytes, site) };
    let explanations: Vec<Explanation> =
        sites.iter().enumerate().filter(|(_, site)| is_wanted(site)).map(explanation).collect();
    if let Some(at) = at.filter(|_| explanations.is_empty()) {
        return Err(Error::new(ErrorKind::Usage, format!("there is no site at {at:#x}"))
            .remedy("scan --verbose lists all sites with their addresses"));
    }
    Ok(opened.file(path, kind, plan, Action::Explained(explanations)))
}

/// Patches the file at `path` so that its calls become what `via` says; the record goes to `record`, or beside the
/// result.
///
/// # Errors
/// Those of reading, of [`examine`] and of storing; `Verification` where the result does not prove
/// right: then nothing is stored.
pub fn patch(
    path: &Path,
    via: Via,
    destination: &Destination,
    record: Option<&Path>,
    keep: Keep,
) -> Result<File> {
    let opened = Opened::open(path)?;
    let (kind, plan) = examine(&opened.bytes, via)?;
    let known = known_record(path, record);
    if let Ok(Some(known)) = &known
        && known.patched == opened.sha256
    {
        let (copy, warnings) = copy_of_patched(&opened, destination, record, known)?;
        let file = opened.file(path, kind, plan, Action::Unchanged(Unchanged::AlreadyPatched { copy }));
        return Ok(File { warnings, ..file });
    }
    let plan = match plan {
        Some(plan) if plan.has_edits() => plan,
        plan => {
            let (copy, warnings) = copy_of_clean(&opened, destination)?;
            let file = opened.file(path, kind, plan, Action::Unchanged(Unchanged::Clean { copy }));
            return Ok(File { warnings, ..file });
        }
    };
    let (new_record, patched) = proven(&opened.bytes, opened.sha256, &kind, &plan)?;
    let written = Written {
        direction: Direction::Patch,
        dry_run: *destination == Destination::DryRun,
        output: None,
        sha256: new_record.patched,
        edits: plan.edits.clone(),
        record: None,
    };
    let Some(pending) = prepare(&opened.source, destination, keep, &patched)? else {
        return Ok(opened.file(path, kind, Some(plan), Action::Written(written)));
    };
    let output = output_path(path, destination);
    let record_path = record.map_or_else(|| store::record_path(&output), Path::to_owned);
    if store::real_path(&record_path) == pending.destination() {
        let message = format!("{} is named for the file and for its record", record_path.display());
        return Err(Error::new(ErrorKind::Usage, message).remedy("name another record with --record"));
    }
    let mut warnings = pending.warnings.clone();
    let replaced = replaced_record(&record_path, &new_record, record.is_some())?;
    if replaced.as_ref().is_some_and(|replaced| replaced.is_of_another_file) {
        warnings.push(format!("the record {} was of another file and is replaced", record_path.display()));
    }
    let before = replaced.map(|replaced| replaced.json);
    store_with_record(pending, &opened.source, keep, &record_path, &new_record, before)?;
    let written = Written { output: Some(output), record: Some(record_path), ..written };
    let file = opened.file(path, kind, Some(plan), Action::Written(written));
    Ok(File { warnings, ..file })
}

fn output_path(path: &Path, destination: &Destination) -> PathBuf {
    match destination {
        Destination::To(output) => output.clone(),
        Destination::InPlace | Destination::DryRun => path.to_owned(),
    }
}

/// The record that is there already, at `record` or beside `path`.
///
/// # Errors
/// `Record` for what is none; those of reading.
pub(crate) fn known_record(path: &Path, record: Option<&Path>) -> Result<Option<Record>> {
    let at = record.map_or_else(|| store::record_path(path), Path::to_owned);
    let Some(json) = store::read_record(&at)? else { return Ok(None) };
    let in_record = |error: Error| Error::new(error.kind(), format!("record {}: {error}", at.display()));
    Record::from_json(&json).map(Some).map_err(in_record)
}

fn required_record(path: &Path, record: Option<&Path>) -> Result<Record> {
    known_record(path, record)?.ok_or_else(|| {
        let at = record.map_or_else(|| store::record_path(path), Path::to_owned);
        Error::new(ErrorKind::Record, format!("there is no record at {}", at.display()))
            .remedy("name the record of the patch with --record")
    })
}

fn copy_of_clean(opened: &Opened, destination: &Destination) -> Result<(Option<PathBuf>, Vec<String>)> {
    let Destination::To(output) = destination else { return Ok((None, Vec::new())) };
    let pending = store::prepare_copy(&opened.source, output, &opened.bytes)?;
    let warnings = pending.warnings.clone();
    pending.commit(&opened.source, Mtime::Now)?;
    Ok((Some(output.clone()), warnings))
}

/// An identical copy of a patched file, and of its `record` beside it or where `at` says.
fn copy_of_patched(
    opened: &Opened,
    destination: &Destination,
    at: Option<&Path>,
    record: &Record,
) -> Result<(Option<PathBuf>, Vec<String>)> {
    let Destination::To(output) = destination else { return Ok((None, Vec::new())) };
    let pending = store::prepare_copy(&opened.source, output, &opened.bytes)?;
    let warnings = pending.warnings.clone();
    match at {
        // The record that was named is the one that was read.
        Some(_) => pending.commit(&opened.source, Mtime::Now)?,
        None => {
            let record_path = store::record_path(output);
            let before = replaced_record(&record_path, record, false)?.map(|replaced| replaced.json);
            store_with_record(pending, &opened.source, Keep::default(), &record_path, record, before)?;
        }
    }
    Ok((Some(output.clone()), warnings))
}

/// The record of `plan`, and the patched bytes, which pass verification. `bytes` have the checksum `sha256`.
///
/// # Errors
/// Those of [`apply::apply`]; `Verification` where the result does not prove right.
pub(crate) fn proven(bytes: &[u8], sha256: Sha256, kind: &Kind, plan: &Plan) -> Result<(Record, Vec<u8>)> {
    let build_id = match kind {
        Kind::Elf(identity) => identity.build_id.clone(),
        _ => None,
    };
    let patched = apply::apply(bytes, sha256, &plan.edits)?;
    let record = Record::of(plan, sha256, Sha256::of(&patched), build_id);
    prove(&patched, &record)?;
    Ok((record, patched))
}

/// Verifies bytes that `record.patched` was just computed from.
fn prove(patched: &[u8], record: &Record) -> Result<()> {
    let findings = verify::verify_applied(patched, record.patched, record);
    let Some(first) = findings.first() else { return Ok(()) };
    let message = format!(
        "the result did not pass verification ({}: {}); nothing was stored",
        first.slug, first.message
    );
    let error = Error::new(ErrorKind::Verification, message).remedy("please report this file");
    Err(match first.offset {
        Some(offset) => error.at(offset),
        None => error,
    })
}

fn prepare(source: &Source, destination: &Destination, keep: Keep, bytes: &[u8]) -> Result<Option<Pending>> {
    match destination {
        Destination::DryRun => Ok(None),
        Destination::InPlace => {
            let names = Names { unlisted: keep.other_names, ..Names::default() };
            store::prepare_in_place(source, names, bytes).map(Some)
        }
        Destination::To(output) => store::prepare_copy(source, output, bytes).map(Some),
    }
}

/// A record that is where a new one goes.
struct Replaced {
    json: Vec<u8>,
    is_of_another_file: bool,
}

/// What the new record replaces at `at`. What is no record stays. Beside the file, the record of another
/// is one of what the file was before it was replaced, and useless; but where the user `named` the
/// place, it can be the only way back for a file elsewhere, and stays, too.
fn replaced_record(at: &Path, new: &Record, named: bool) -> Result<Option<Replaced>> {
    let Some(json) = store::read_record(at)? else { return Ok(None) };
    let old = Record::from_json(&json).map_err(|error| {
        Error::new(ErrorKind::Record, format!("{} is there and is no record: {error}", at.display()))
            .remedy("move it away or name another record with --record")
    })?;
    let is_of_another_file = old.original != new.original;
    if is_of_another_file && named {
        let message = format!("{} is the record of another file, which needs it", at.display());
        return Err(Error::new(ErrorKind::Unsafe, message).remedy("name another record with --record"));
    }
    Ok(Some(Replaced { json, is_of_another_file }))
}

/// The record goes first: it is true of the old and of the new file, while a patched file without a
/// record could never be undone. `before` is what is at its place, to be put back where the file itself
/// cannot be stored.
fn store_with_record(
    pending: Pending,
    source: &Source,
    keep: Keep,
    at: &Path,
    record: &Record,
    before: Option<Vec<u8>>,
) -> Result<()> {
    store::write_record(at, &record.to_json(), source)?;
    pending.commit(source, keep.mtime()).inspect_err(|_| {
        // The error that is reported is the one that matters; a record too many lies about nothing.
        let _ = match &before {
            Some(before) => store::write_record(at, before, source),
            None => store::remove_record(at),
        };
    })
}

/// Checks the patched file at `path` against its record.
///
/// # Errors
/// Those of reading; `Record` where there is no record, or none that can be read.
pub fn verify(path: &Path, record: Option<&Path>) -> Result<File> {
    let opened = Opened::open(path)?;
    let record = required_record(path, record)?;
    let (kind, plan) = examine(&opened.bytes, Via::default())?;
    let findings = verify::verify_hashed(&opened.bytes, opened.sha256, &record);
    Ok(opened.file(path, kind, plan, Action::Verified(findings)))
}

/// Undoes the patch of the file at `path`. In place, a record beside it is removed.
///
/// # Errors
/// Those of reading and storing; `Record` without a record; `Mismatch` where the file is neither the
/// patched one nor the original.
pub fn revert(path: &Path, destination: &Destination, record: Option<&Path>, keep: Keep) -> Result<File> {
    let opened = Opened::open(path)?;
    let record_of_patch = required_record(path, record)?;
    let (kind, plan) = examine(&opened.bytes, Via::default())?;
    let own_record =
        (*destination == Destination::InPlace && record.is_none()).then(|| store::record_path(path));
    if opened.sha256 == record_of_patch.original {
        // A run that was killed can have left the record: its work ends here.
        let warnings = own_record.as_deref().and_then(remove_useless).into_iter().collect();
        let file = opened.file(path, kind, plan, Action::Unchanged(Unchanged::AlreadyOriginal));
        return Ok(File { warnings, ..file });
    }
    let edits = apply::inverse(&record_of_patch.edits);
    let original = apply::apply(&opened.bytes, record_of_patch.patched, &edits)?;
    if Sha256::of(&original) != record_of_patch.original {
        let message = "undoing the edits does not give the original's sha256; nothing was stored";
        return Err(Error::new(ErrorKind::Mismatch, message).remedy("the record is not of this file"));
    }
    let written = Written {
        direction: Direction::Revert,
        dry_run: *destination == Destination::DryRun,
        output: None,
        sha256: record_of_patch.original,
        edits,
        record: Some(record.map_or_else(|| store::record_path(path), Path::to_owned)),
    };
    let Some(pending) = prepare(&opened.source, destination, keep, &original)? else {
        return Ok(opened.file(path, kind, plan, Action::Written(written)));
    };
    let mut warnings = pending.warnings.clone();
    pending.commit(&opened.source, keep.mtime())?;
    warnings.extend(own_record.as_deref().and_then(remove_useless));
    let written = Written { output: Some(output_path(path, destination)), ..written };
    let file = opened.file(path, kind, plan, Action::Written(written));
    Ok(File { warnings, ..file })
}

/// Removes the record of a patch that is undone. One that stays lies about nothing: a warning is enough.
fn remove_useless(record: &Path) -> Option<String> {
    store::remove_record(record).err().map(|error| format!("the record is left: {error}"))
}
