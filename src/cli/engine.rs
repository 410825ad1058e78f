//! The commands on one file, their outcomes in the words of the report.

use std::path::Path;

use super::args::Destination;
use crate::digest::Sha256;
use crate::elf::{self, Parsed};
use crate::error::{Error, ErrorKind, Result};
use crate::report::outcome::{Action, File, Kind};

/// Looks at `target`.
pub fn scan(target: &Path) -> Result<File> {
    let metadata = std::fs::metadata(target).map_err(|error| Error::io("cannot read", error))?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Io, "not a regular file"));
    }
    let bytes = std::fs::read(target).map_err(|error| Error::io("cannot read", error))?;
    let (kind, plan) = match elf::parse(&bytes)? {
        Parsed::Image(image) => (Kind::Elf(image.identity.clone()), Some(crate::plan_elf(&image)?)),
        Parsed::Foreign(what) => (Kind::Foreign(what), None),
    };
    Ok(File {
        path: target.into(),
        sha256: Sha256::of(&bytes),
        size: bytes.len() as u64,
        kind,
        plan,
        action: Action::Scanned,
        warnings: vec![],
    })
}

/// Writes the patched file and its record.
pub fn patch(target: &Path, destination: &Destination, record: Option<&Path>) -> Result<File> {
    let _ = (target, destination, record);
    Err(Error::new(ErrorKind::Usage, "not there yet"))
}

/// Holds a patched file against its record.
pub fn verify(target: &Path, record: Option<&Path>) -> Result<File> {
    let _ = (target, record);
    Err(Error::new(ErrorKind::Usage, "not there yet"))
}

/// Writes the original.
pub fn revert(target: &Path, destination: &Destination, record: Option<&Path>) -> Result<File> {
    let _ = (target, destination, record);
    Err(Error::new(ErrorKind::Usage, "not there yet"))
}
