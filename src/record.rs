//! The record of a patch: what was changed, from which bytes to which, so that it can be proven and undone.
//!
//! **Invariant:** a record never lies, whenever the tool is killed: it names the checksums of the file
//! before and after, and says nothing about which of the two is there now. Whoever reads it compares.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::addr::{FileOffset, Vaddr};
use crate::apply;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Edit, Plan, Role, Strategy};
use crate::site::Form;
use crate::vsyscall::Entry;

/// The version of the format that this tool writes and reads.
pub const SCHEMA: &str = "vsyspatch.record/1";

/// The tool that wrote a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `vsyspatch`.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Tool {
    /// This tool.
    #[must_use]
    pub fn this() -> Self {
        Self { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// What was done to one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRecord", into = "RawRecord")]
pub struct Record {
    /// The tool that patched.
    pub tool: Tool,
    /// Size of the file in bytes, before; after, too, where no edit adds to it.
    pub size: u64,
    /// Checksum before.
    pub original: Sha256,
    /// Checksum after.
    pub patched: Sha256,
    /// The file's GNU build-id in hex, if it has one.
    pub build_id: Option<String>,
    /// The changes, sorted by offset and disjoint.
    pub edits: Vec<Edit>,
}

impl Record {
    /// The record of `plan`, which turned bytes with the checksum `original` into `patched`.
    #[must_use]
    pub fn of(plan: &Plan, original: Sha256, patched: Sha256, build_id: Option<String>) -> Self {
        let (tool, edits) = (Tool::this(), plan.edits.clone());
        Self { tool, size: plan.size, original, patched, build_id, edits }
    }

    /// Size of the patched file in bytes.
    #[must_use]
    pub fn patched_size(&self) -> u64 {
        self.edits.iter().map(|edit| edit.offset.0 + edit.after.len() as u64).fold(self.size, u64::max)
    }

    /// The record as the bytes of its file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        written(self)
    }

    /// Reads a record back and checks it.
    ///
    /// # Errors
    /// `Record` for a version that is not known, or for what no record of ours can hold.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        read(json, SCHEMA)
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Record, format!("not a record: {error}"))
}

/// `record` as the bytes of its file.
pub(crate) fn written(record: &impl Serialize) -> Vec<u8> {
    // Strings and numbers only: this cannot fail.
    let mut json = serde_json::to_vec_pretty(record).unwrap_or_default();
    json.push(b'\n');
    json
}

/// The record of the version `schema` that `json` is.
///
/// # Errors
/// `Record` for another version, and for what is none.
pub(crate) fn read<T: DeserializeOwned>(json: &[u8], schema: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        schema: String,
    }
    let found: Version = serde_json::from_slice(json).map_err(unreadable)?;
    if found.schema == schema {
        return serde_json::from_slice(json).map_err(unreadable);
    }
    let message = format!("the record has version {:?}; this tool knows {schema:?}", found.schema);
    Err(Error::new(ErrorKind::Record, message).remedy("use the version of vsyspatch that wrote it"))
}

/// The record as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecord {
    schema: String,
    tool: Tool,
    size: u64,
    original_sha256: Sha256,
    patched_sha256: Sha256,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build_id: Option<String>,
    edits: Vec<RawEdit>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEdit {
    offset: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vaddr: Option<u64>,
    #[serde(with = "hex::serde")]
    before: Vec<u8>,
    #[serde(with = "hex::serde")]
    after: Vec<u8>,
    role: Role,
    entry: Entry,
    form: Form,
    strategy: Strategy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    function: Option<String>,
}

impl TryFrom<RawRecord> for Record {
    type Error = Error;

    fn try_from(raw: RawRecord) -> Result<Self> {
        let edits: Vec<Edit> = raw
            .edits
            .into_iter()
            .map(|RawEdit { offset, vaddr, before, after, role, entry, form, strategy, function }| Edit {
                offset: FileOffset(offset),
                vaddr: vaddr.map(Vaddr),
                before,
                after,
                role,
                entry,
                form,
                strategy,
                function,
            })
            .collect();
        apply::check_layout(&edits, raw.size)?;
        let (original, patched) = (raw.original_sha256, raw.patched_sha256);
        Ok(Self { tool: raw.tool, size: raw.size, original, patched, build_id: raw.build_id, edits })
    }
}

impl From<Record> for RawRecord {
    fn from(record: Record) -> Self {
        let edits = record
            .edits
            .into_iter()
            .map(|Edit { offset, vaddr, before, after, role, entry, form, strategy, function }| RawEdit {
                offset: offset.0,
                vaddr: vaddr.map(|at| at.0),
                before,
                after,
                role,
                entry,
                form,
                strategy,
                function,
            })
            .collect();
        Self {
            schema: SCHEMA.into(),
            tool: record.tool,
            size: record.size,
            original_sha256: record.original,
            patched_sha256: record.patched,
            build_id: record.build_id,
            edits,
        }
    }
}
