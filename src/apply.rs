//! Writes planned edits into bytes. Mechanical: everything was decided before, everything is checked again.
//! Revert is the same code with the [`inverse`] edits.

use crate::addr::FileOffset;
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Edit;

/// `bytes` with `edits` made.
///
/// # Errors
/// `Mismatch` where `bytes` do not have the checksum `expected`, or an edit's place does not hold the
/// bytes that the edit replaces; `Record` where edits overlap, are not sorted, or change a length.
pub fn apply(bytes: &[u8], expected: Sha256, edits: &[Edit]) -> Result<Vec<u8>> {
    let actual = Sha256::of(bytes);
    if actual != expected {
        let message = format!("the file's sha256 is {actual}, not {expected} as planned");
        return Err(Error::new(ErrorKind::Mismatch, message)
            .remedy("it changed since; start again from the file as it is"));
    }
    check_layout(edits, bytes.len() as u64)?;
    if let Some(edit) = edits.iter().find(|edit| !bytes[edit.offset.index()..].starts_with(&edit.before)) {
        let message = "the bytes here are not those that the edit replaces";
        return Err(Error::new(ErrorKind::Mismatch, message).at(edit.offset));
    }
    replaced(bytes, edits).ok_or_else(|| Error::new(ErrorKind::Record, "the edits do not fit the file"))
}

/// `bytes` with the bytes that each edit writes, whatever is there now; nothing where an edit does not fit.
pub(crate) fn replaced(bytes: &[u8], edits: &[Edit]) -> Option<Vec<u8>> {
    check_layout(edits, bytes.len() as u64).ok()?;
    let mut patched = bytes.to_vec();
    for edit in edits {
        let start = edit.offset.index();
        patched.get_mut(start..start + edit.after.len())?.copy_from_slice(&edit.after);
    }
    Some(patched)
}

/// The edits that undo `edits`.
#[must_use]
pub fn inverse(edits: &[Edit]) -> Vec<Edit> {
    let swapped =
        |edit: &Edit| Edit { before: edit.after.clone(), after: edit.before.clone(), ..edit.clone() };
    edits.iter().map(swapped).collect()
}

/// Checks that `edits` are sorted, disjoint, inside a file of `size` bytes, and change no length.
pub(crate) fn check_layout(edits: &[Edit], size: u64) -> Result<()> {
    let mut free_from = FileOffset(0);
    for edit in edits {
        let wrong = |message: &str| Err(Error::new(ErrorKind::Record, message).at(edit.offset));
        if edit.before.len() != edit.after.len() || edit.before.is_empty() {
            return wrong("an edit must replace bytes by as many");
        }
        if edit.offset < free_from {
            return wrong("edits must be sorted and must not overlap");
        }
        match edit.offset.0.checked_add(edit.before.len() as u64) {
            Some(end) if end <= size => free_from = FileOffset(end),
            _ => return wrong("an edit reaches beyond the end of the file"),
        }
    }
    Ok(())
}
