//! Results -> one table. What is read is one result at a time, in the order of the work list or of identities, so that
//! the same results give the same table, however often and in whatever order they were written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::results::{Failure, ItemResult, Results};
use super::run::WorkList;
use super::{Item, Status, TOOL};
use crate::error::{Error, Result};
use crate::outcome;

/// What there is of all items.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Items that there are: those of the work list, or without one those that have a result.
    pub items: u64,
    /// Items with a result.
    pub results: u64,
    /// Items without; nothing where no work list says what there should be.
    pub missing: Option<u64>,
    /// Items with each status.
    pub statuses: BTreeMap<Status, u64>,
    /// Why items failed: how often for each kind of error, and one of each.
    pub failures: BTreeMap<String, Reason>,
    /// Failures that may pass by themselves.
    pub may_pass: u64,
    /// Results of another version of this program.
    pub of_other_versions: u64,
    /// Images that were written, each under each of its names.
    pub written: u64,
    /// Bytes of the items with a result.
    pub bytes: u64,
    /// Time that all took together, in seconds.
    pub seconds: f64,
    /// Layers that were known from before.
    pub layers_known: u64,
    /// Sites that were found.
    pub sites: u64,
    /// Files that are patched: by these runs, or by one before.
    pub files_patched: u64,
}

/// Why items failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub example: String,
}

/// An item that somebody has to look after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// That of the item.
    pub id: String,
    /// What came of it; nothing where there is no result.
    pub status: Option<Status>,
    /// Its names.
    pub names: Vec<String>,
    /// Why it failed.
    pub error: Option<Failure>,
}

/// The table.
#[derive(Debug)]
pub struct Merged {
    /// All of it in numbers.
    pub totals: Totals,
    /// The [`Open`] items, a line of JSON for each.
    open: File,
}

/// Sums up the results in `directories`, for the items of `list`, or for all that there are.
///
/// # Errors
/// `Usage` for results of several actions; those of reading the list and the results, and of a temporary file.
pub fn merge(directories: &[Results], list: Option<WorkList>) -> Result<Merged> {
    let cannot = |error| Error::io("cannot write a temporary file", error);
    let mut open = BufWriter::new(tempfile::tempfile().map_err(cannot)?);
    let mut totals = Totals { missing: list.as_ref().map(|_| 0), ..Totals::default() };
    let mut action = None;
    let mut add = |id: &str, item: Option<&Item>| -> Result<()> {
        let mut found: Option<ItemResult> = None;
        for directory in directories {
            let next = directory.get(id)?;
            if let Some(next) = &next {
                next.is_of(*action.get_or_insert(next.action))?;
            }
            found = match (found, next) {
                (Some(a), Some(b)) => Some(a.or(b)),
                (a, b) => a.or(b),
            };
        }
        // Without some of its names it is not done.
        let found = found.filter(|found| item.is_none_or(|item| found.covers(item)));
        if let Some(line) = totals.add(id, item, found) {
            serde_json::to_writer(&mut open, &line).map_err(|error| cannot(error.into()))?;
            open.write_all(b"\n").map_err(cannot)?;
        }
        Ok(())
    };
    match list {
        Some(list) => {
            for item in list {
                let item = item?;
                add(&item.id, Some(&item))?;
            }
        }
        None => {
            let mut buckets = directories.iter().map(Results::ids).collect::<Result<Vec<_>>>()?;
            while let Some(ids) = next_bucket(&mut buckets)? {
                ids.iter().try_for_each(|id| add(id, None))?;
            }
        }
    }
    let open = open.into_inner().map_err(|error| cannot(error.into_error()))?;
    Ok(Merged { totals, open })
}

/// The identities of one bucket of all directories, each once.
fn next_bucket(buckets: &mut [impl Iterator<Item = Result<Vec<String>>>]) -> Result<Option<Vec<String>>> {
    let mut all: Option<Vec<String>> = None;
    for ids in buckets.iter_mut().filter_map(Iterator::next) {
        all.get_or_insert_default().extend(ids?);
    }
    if let Some(all) = &mut all {
        all.sort_unstable();
        all.dedup();
    }
    Ok(all)
}

impl Totals {
    /// Counts an item; what is to be said of it, where somebody has to look after it.
    fn add(&mut self, id: &str, item: Option<&Item>, result: Option<ItemResult>) -> Option<Open> {
        let Some(result) = result else {
            // Without a list, a file that is no result is none.
            let item = item?;
            self.items += 1;
            self.missing = self.missing.map(|count| count + 1);
            let names = item.places.iter().map(|place| place.name.clone()).collect();
            return Some(Open { id: id.to_owned(), status: None, names, error: None });
        };
        self.items += 1;
        self.results += 1;
        *self.statuses.entry(result.status).or_default() += 1;
        self.of_other_versions += u64::from(result.tool != TOOL);
        self.written += result.places.iter().filter(|place| place.output.is_some()).count() as u64;
        self.bytes = self.bytes.saturating_add(result.bytes);
        self.seconds += result.seconds;
        self.layers_known += result.layers_known as u64;
        self.sites += result.summary.sites as u64;
        self.files_patched += (result.summary.patched + result.summary.already_patched) as u64;
        let names: Vec<String> = result.places.into_iter().map(|place| place.name).collect();
        if let Some(error) = &result.error {
            self.may_pass += u64::from(error.may_pass);
            let example = format!("{}: {}", names.first().map_or("", String::as_str), error.message);
            let reason = self.failures.entry(error.kind.clone());
            reason.or_insert(Reason { count: 0, example }).count += 1;
        }
        let is_open =
            matches!(result.status, Status::Failed | Status::Refused | Status::Findings | Status::ToPatch);
        is_open.then(|| Open { id: id.to_owned(), status: Some(result.status), names, error: result.error })
    }

    /// How many items have this status.
    #[must_use]
    pub fn count(&self, status: Status) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// What all of it means for the exit status: the worst. What is missing or may pass is what another run helps.
    #[must_use]
    pub fn status(&self) -> outcome::Status {
        let found = [Status::ToPatch, Status::Findings, Status::Refused];
        if self.count(Status::Failed) > self.may_pass {
            outcome::Status::Failed
        } else if self.may_pass > 0 || self.missing.is_some_and(|missing| missing > 0) {
            outcome::Status::Unavailable
        } else if found.iter().any(|status| self.count(*status) > 0) {
            outcome::Status::Findings
        } else {
            outcome::Status::Clean
        }
    }
}

impl Merged {
    /// The items that somebody has to look after, one at a time.
    ///
    /// # Errors
    /// Those of reading the temporary file.
    pub fn open(&mut self) -> Result<impl Iterator<Item = Result<Open>> + '_> {
        let cannot = |error| Error::io("cannot read a temporary file", error);
        self.open.rewind().map_err(cannot)?;
        let lines = BufReader::new(&self.open);
        let parsed = serde_json::Deserializer::from_reader(lines).into_iter::<Open>();
        Ok(parsed.map(|open| open.map_err(|error| Error::io("cannot read a temporary file", error))))
    }
}

/// The results in the directory at `path`.
///
/// # Errors
/// `Io` where there is no such directory: nobody has worked yet, or elsewhere.
pub fn directory(path: &Path) -> Result<Results> {
    std::fs::read_dir(path).map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
    Ok(Results::new(path.to_owned()))
}
