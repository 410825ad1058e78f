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
    let holds = |edit: &Edit| {
        // What is added stands where nothing is yet.
        bytes.get(edit.offset.index()..).unwrap_or_default().starts_with(&edit.before)
    };
    if let Some(edit) = edits.iter().find(|edit| !holds(edit)) {
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
        match kind(edit)? {
            Kind::Replaces => {
                patched.get_mut(start..start + edit.after.len())?.copy_from_slice(&edit.after);
            }
            Kind::Adds => patched.extend_from_slice(&edit.after),
            Kind::TakesAway => patched.truncate(start.min(patched.len())),
        }
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

/// What an edit does to the file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Replaces,
    Adds,
    TakesAway,
}

fn kind(edit: &Edit) -> Option<Kind> {
    match (edit.before.len(), edit.after.len()) {
        (0, 0) => None,
        (0, _) => Some(Kind::Adds),
        (_, 0) => Some(Kind::TakesAway),
        (before, after) => (before == after).then_some(Kind::Replaces),
    }
}

/// The size in bytes of a file of `size` bytes once `edits` are made. Checks that these are sorted, disjoint and inside
/// the file, and that only its end moves: what is added stands there without a gap, what is taken away reaches it.
pub(crate) fn check_layout(edits: &[Edit], size: u64) -> Result<u64> {
    let mut free_from = FileOffset(0);
    let (mut end, mut cut) = (size, None);
    for edit in edits {
        let wrong = |message: &str| Err(Error::new(ErrorKind::Record, message).at(edit.offset));
        let Some(kind) = kind(edit) else {
            return wrong("an edit must replace bytes by as many");
        };
        if edit.offset < free_from || cut.is_some() && edit.offset != free_from {
            return wrong("edits must be sorted and must not overlap");
        }
        let len = edit.before.len().max(edit.after.len()) as u64;
        let Some(behind) = edit.offset.0.checked_add(len) else {
            return wrong("an edit reaches beyond the end of the file");
        };
        match kind {
            Kind::Adds if edit.offset.0 == end && cut.is_none() => end = behind,
            Kind::Adds => return wrong("bytes can be added at the end of the file only"),
            Kind::Replaces if end > size || cut.is_some() => {
                return wrong("bytes can be added at the end of the file only");
            }
            Kind::Replaces | Kind::TakesAway if behind > size => {
                return wrong("an edit reaches beyond the end of the file");
            }
            Kind::Replaces => {}
            Kind::TakesAway => cut = cut.or(Some(edit.offset.0)),
        }
        free_from = FileOffset(behind);
    }
    match cut {
        Some(_) if free_from.0 != size || end > size => {
            Err(Error::new(ErrorKind::Record, "bytes can be taken away at the end of the file only")
                .at(free_from))
        }
        Some(cut) => Ok(cut),
        None => Ok(end),
    }
}
