//! Which tree a record is of that lies elsewhere: it can be the only way back for another one.
//!
//! Paths and contents alone do not tell, for trees can hold the same files. So the record has the identity of the root
//! directory; and as that can be cloned with its file system, or be another one though the tree was only moved, what is
//! there counts, too. What is not clear is refused.
//!
//! * A finished record is of a tree in which something is patched. One that is the original throughout needs no way
//!   back, and another may.
//! * A copy is taken for the tree where all that the record tells of is patched in it. The record is of both then, and
//!   is not removed before both went back.

use std::path::Path;

use super::Known;
use super::entries::State;
use super::record::{Run, TreeId};
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::Direction;
use crate::store::Root;

/// A tree that the record is of.
#[derive(Clone, Copy, Debug)]
pub struct Belonging {
    /// The tree.
    pub own: TreeId,
    /// The record may be another tree's way back, too.
    pub is_shared: bool,
}

impl Belonging {
    /// That of the tree at `root`, which there is no record of yet.
    ///
    /// # Errors
    /// Those of [`TreeId::of`].
    pub fn first(root: &Root) -> Result<Self> {
        Ok(Self { own: TreeId::of(root)?, is_shared: false })
    }

    /// That of the tree at `root`, where the record at `path` was written for `roots`, `unfinished` by a run that was
    /// killed, and tells of files of which so much is `known`.
    ///
    /// # Errors
    /// `Unsafe` where it may be of another tree, and working in `direction` could cost that its way back.
    pub fn of(
        root: &Root,
        path: &Path,
        roots: &[TreeId],
        unfinished: Option<&Run>,
        known: &Known,
        direction: Direction,
    ) -> Result<Self> {
        let own = TreeId::of(root)?;
        let is_shared = *roots != [own];
        let is_patched = |state| matches!(state, State::Patched | State::Torn);
        let mut states = known.recorded.iter().map(|recorded| recorded.state);
        // What cannot be read may be anything.
        let is_unclear = known.failed.iter().any(|(_, error)| error.kind() != ErrorKind::Mismatch);
        let killed_here = unfinished.filter(|_| roots.contains(&own));
        let is_of_it = match (killed_here, direction) {
            (Some(_), _) if !is_shared => states.any(|state| state != State::Changed) || is_unclear,
            (Some(_), Direction::Revert) => true,
            (Some(run), Direction::Patch) if run.direction == Direction::Patch => {
                known.failed.is_empty() && states.all(|state| state != State::Changed)
            }
            (_, Direction::Patch) if is_shared => known.failed.is_empty() && states.all(is_patched),
            _ => states.any(is_patched) || is_unclear,
        };
        if is_of_it {
            return Ok(Self { own, is_shared });
        }
        let message = format!("{} is the record of another tree, which needs it", path.display());
        Err(Error::new(ErrorKind::Unsafe, message).remedy(
            "name another record with --record, or remove this one where its tree is gone or is the original again",
        ))
    }
}
