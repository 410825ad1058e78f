//! The record of a patched image, which is a file in the layer that was added.

use serde::{Deserialize, Serialize};

use super::document::Document;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{self, Record, Tool};
use crate::tree::record::TreePath;

/// The version of the format that this tool writes and reads.
pub const SCHEMA: &str = "vsyspatch.image-record/1";

/// Where it is in the image.
pub const PATH: &str = "var/lib/vsyspatch/record.json";

/// What was done to an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    schema: String,
    /// The tool that patched.
    pub tool: Tool,
    /// The manifest before, byte for byte.
    pub manifest: String,
    /// The configuration before, byte for byte.
    pub config: String,
    /// The files, by path.
    pub files: Vec<Entry>,
}

/// One file, with all its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its names; more than one where they are hard links to one file.
    pub paths: Vec<TreePath>,
    /// What was changed.
    pub record: Record,
}

impl ImageRecord {
    /// The record of the patch of the image of `manifest` and `config`.
    ///
    /// # Errors
    /// `Malformed` where these are no text.
    pub fn new(manifest: &Document, config: &Document, files: Vec<Entry>) -> Result<Self> {
        let text = |document: &Document| {
            String::from_utf8(document.bytes.clone())
                .map_err(|_| Error::new(ErrorKind::Malformed, "the image's documents are no UTF-8"))
        };
        Ok(Self {
            schema: SCHEMA.into(),
            tool: Tool::this(),
            manifest: text(manifest)?,
            config: text(config)?,
            files,
        })
    }

    /// The record as the bytes of its file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        record::written(self)
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// `Record` for a version that is not known, or for what no record of ours can hold.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        record::read(json, SCHEMA)
    }
}
