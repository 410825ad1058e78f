//! The directory of results: one file for each item, `ab/ab12....json`, whole or not there. Why an item failed is in a
//! file of its own, `ab/ab12....failed.json`: so no failure can take the place of a result, whoever writes it and when,
//! on any file system, and nobody has to look first whether there is one.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Action, Item, Kind, RESULT_SCHEMA, Status, TOOL};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Via;
use crate::report::summary::Summary;
use crate::store;

/// Largest result that is read: some hundred bytes, and those of each name.
const RESULT_BYTES: u64 = 64 << 20;

/// Digits of an identity that name the directory its result is in: 256 of them.
const BUCKET_DIGITS: usize = 2;

/// What the names of results end with.
const DONE: &str = ".json";

/// What the names of failures end with.
const FAILED: &str = ".failed.json";

/// What came of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemResult {
    /// [`RESULT_SCHEMA`]
    pub schema: String,
    /// That of the item.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Digest of the input, where it was looked up.
    pub digest: Option<String>,
    /// What was done.
    pub action: Action,
    /// What calls became.
    #[serde(default)]
    pub via: Via,
    /// Version of the program that did it.
    pub tool: String,
    /// What came of it; the worst, where the item has several names.
    pub status: Status,
    /// Its names, and what was written for each.
    pub places: Vec<Written>,
    /// Bytes of the item, as the work list has them.
    pub bytes: u64,
    /// Files and sites of all names.
    pub summary: Summary,
    /// Layers that were known from before.
    pub layers_known: usize,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    pub error: Option<Failure>,
}

/// What was written for one name of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The name.
    pub name: String,
    /// Where the work list wants it; nothing where a file or a tree is replaced.
    #[serde(default)]
    pub destination: Option<String>,
    /// Where it was written to, and its digest where it is an image; nothing where nothing was written.
    pub output: Option<String>,
}

/// Why an item failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable name of the kind of error.
    pub kind: String,
    /// What was wrong.
    pub message: String,
    /// Whether it may pass by itself.
    pub may_pass: bool,
}

impl Failure {
    /// Of `error`.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        Self { kind: error.kind().name().to_owned(), message: error.to_string(), may_pass: error.may_pass() }
    }
}

impl ItemResult {
    /// Whether nothing is left to do for `item`: `action` was done to the same input, by the same version, for all names.
    #[must_use]
    pub fn settles(&self, item: &Item, action: Action, via: Via) -> bool {
        self.is_of_input(item, action, via) && self.covers(item)
    }

    /// The same, for some of the names.
    #[must_use]
    pub fn is_of_input(&self, item: &Item, action: Action, via: Via) -> bool {
        (self.action, self.via) == (action, via)
            && self.tool == TOOL
            && self.status != Status::Failed
            && self.digest.is_some()
            && self.digest == item.digest
    }

    /// Whether it is of all names of the item.
    #[must_use]
    pub fn covers(&self, item: &Item) -> bool {
        item.places.iter().all(|place| self.has(&place.name, place.destination.as_deref()))
    }

    /// Whether it is of that name, with what came of it at `destination`.
    #[must_use]
    pub fn has(&self, name: &str, destination: Option<&str>) -> bool {
        self.places.iter().any(|own| own.name == name && own.destination.as_deref() == destination)
    }

    /// Whether the `failure` of the same item does not matter: the same was done, by the same version, by somebody who
    /// was more fortunate.
    fn outdoes(&self, failure: &Self) -> bool {
        (self.action, self.via, &self.tool) == (failure.action, failure.via, &failure.tool)
            && self.digest.is_some()
            && self.digest == failure.digest
            && failure.places.iter().all(|place| self.has(&place.name, place.destination.as_deref()))
    }

    /// That it is a result of `action`: what one action gives never takes the place of what another one gave.
    ///
    /// # Errors
    /// `Usage` where it is of another one.
    pub fn is_of(&self, action: Action) -> Result<()> {
        if self.action == action {
            return Ok(());
        }
        let message = format!("there are results of {}, and {action} is another action", self.action);
        Err(Error::new(ErrorKind::Usage, message).remedy("have a directory of results for each action"))
    }

    /// What of two results of one item counts, the greater one: what is done, of two failures the one that stays.
    /// All else decides so that the order in which they are seen does not.
    fn rank(&self) -> (bool, bool, usize, Status, String) {
        let stays = self.error.as_ref().is_some_and(|error| !error.may_pass);
        let text = serde_json::to_string(self).unwrap_or_default();
        (self.status != Status::Failed, stays, self.places.len(), self.status, text)
    }

    /// The one of two that counts.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.rank() >= other.rank() { self } else { other }
    }
}

/// A directory of results.
#[derive(Clone, Debug)]
pub struct Results {
    directory: PathBuf,
}

impl Results {
    /// That at `directory`, which need not be there yet.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, id: &str, end: &str) -> PathBuf {
        self.directory.join(&id[..BUCKET_DIGITS]).join(format!("{id}{end}"))
    }

    /// What counts of the item `id`: its result, or why it failed; nothing where there is neither, or it cannot be
    /// understood.
    ///
    /// # Errors
    /// `Io` where it cannot be read.
    pub fn get(&self, id: &str) -> Result<Option<ItemResult>> {
        Ok(match (self.done(id)?, self.failure(id)?) {
            (Some(done), Some(failure)) if !done.outdoes(&failure) => Some(failure),
            (done, failure) => done.or(failure),
        })
    }

    /// The result of the item `id`, whatever failed since.
    ///
    /// # Errors
    /// `Io` where it cannot be read.
    pub fn done(&self, id: &str) -> Result<Option<ItemResult>> {
        self.read(id, DONE)
    }

    /// Why the item `id` failed, whatever came of it else.
    ///
    /// # Errors
    /// `Io` where it cannot be read.
    pub fn failure(&self, id: &str) -> Result<Option<ItemResult>> {
        self.read(id, FAILED)
    }

    fn read(&self, id: &str, end: &str) -> Result<Option<ItemResult>> {
        if !is_id(id) {
            return Err(Error::new(ErrorKind::Malformed, format!("{id:?} identifies no item")));
        }
        let path = self.path(id, end);
        let cannot = |error| Error::io(format!("cannot read {}", path.display()), error);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        let mut bytes = Vec::new();
        file.take(RESULT_BYTES).read_to_end(&mut bytes).map_err(cannot)?;
        let result: Option<ItemResult> = serde_json::from_slice(&bytes).ok();
        Ok(result.filter(|result| result.schema == RESULT_SCHEMA && result.id == id))
    }

    /// Keeps the result, or the failure beside the result that there may be.
    ///
    /// # Errors
    /// Those of writing; then what was there is there.
    pub fn put(&self, result: &ItemResult) -> Result<()> {
        let is_failure = result.status == Status::Failed;
        let path = self.path(&result.id, if is_failure { FAILED } else { DONE });
        store::make_directories(path.parent().unwrap_or(&self.directory))?;
        let mut json =
            serde_json::to_vec(result).map_err(|error| Error::io("cannot write a result", error))?;
        json.push(b'\n');
        store::write_file(&path, &mut json.as_slice()).map_err(|error| {
            if error.may_pass() {
                error.remedy("make room, or wait for the file system, and run again")
            } else {
                error
            }
        })?;
        if !is_failure {
            // Where it stays, the result outdoes it.
            let _ = std::fs::remove_file(self.path(&result.id, FAILED));
        }
        Ok(())
    }

    /// The identities that there are results for, in order, one 256th at a time.
    ///
    /// # Errors
    /// `Io` where the directory cannot be read.
    pub fn ids(&self) -> Result<impl Iterator<Item = Result<Vec<String>>>> {
        let directory = self.directory.clone();
        list(&directory)?;
        Ok((0..=u8::MAX).map(move |bucket| {
            let id_of = |name: String| {
                let id = name.strip_suffix(FAILED).or_else(|| name.strip_suffix(DONE))?;
                is_id(id).then(|| id.to_owned())
            };
            let names = list(&directory.join(format!("{bucket:02x}")))?;
            let mut ids: Vec<String> = names.into_iter().filter_map(id_of).collect();
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        }))
    }
}

/// Names in a directory; none where it is not there.
fn list(directory: &Path) -> Result<Vec<String>> {
    let cannot = |error| Error::io(format!("cannot read {}", directory.display()), error);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(cannot(error)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().unwrap_or_default()));
    names.collect::<std::io::Result<_>>().map_err(cannot)
}

/// Whether `id` is one: 32 hex digits.
fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
