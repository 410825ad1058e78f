//! bytes -> what they are, and the plan for them: a program, a relocatable object, an archive of objects.
//! The engine's front door: carriers (files, trees, images) hand bytes in.

use std::ops::Range;

use object::read::archive::{ArchiveFile, ArchiveMember};

use crate::addr::FileOffset;
use crate::elf::{self, FileType, Identity, Parsed};
use crate::error::{Error, Result};
use crate::glance::{ARCHIVE_MAGIC, Found};
use crate::outcome::Kind;
use crate::plan::{Edit, Plan, PlannedSite, Via};
use crate::planner;
use crate::relocatable::{self, Object};
use crate::search;
use crate::site::Step;

/// First bytes of an archive whose members are files of their own.
const THIN_ARCHIVE_MAGIC: &[u8] = b"!<thin>\n";

/// First member of a Debian package, which is an archive, too.
const DEBIAN_PACKAGE: &[u8] = b"debian-binary";

/// What `bytes` are, and what to do about each site so that its calls become what `via` says; no plan where they cannot
/// hold one.
///
/// # Errors
/// `NotElf` where the bytes are neither ELF nor an archive, `Malformed` with the offset of what lies.
pub fn examine(bytes: &[u8], via: Via) -> Result<(Kind, Option<Plan>)> {
    examine_searched(bytes, via, None)
}

/// [`examine`] of a file that was searched before: with what was `found`, where that is known.
///
/// # Errors
/// Those of [`examine`].
pub fn examine_searched(bytes: &[u8], via: Via, found: Option<Found>) -> Result<(Kind, Option<Plan>)> {
    let (hits, places) = match found {
        Some(Found::Hits(hits)) => (Some(hits), None),
        Some(Found::Places(places)) => (None, Some(places)),
        None => (None, None),
    };
    if bytes.starts_with(ARCHIVE_MAGIC) {
        return archive(bytes, via, places.as_deref());
    }
    if bytes.starts_with(THIN_ARCHIVE_MAGIC) {
        let what = "a thin archive: its members are files of their own, name these";
        return Ok((Kind::Container(what.into()), None));
    }
    Ok(match elf::parse(bytes)? {
        Parsed::Image(mut image) => {
            image.known_hits = hits;
            let plan = planner::planned(&image, via);
            (Kind::Elf(image.identity), Some(plan))
        }
        Parsed::Relocatable => {
            let (identity, plan) = object(bytes, via, places.as_deref())?;
            (Kind::Elf(identity), Some(plan))
        }
        Parsed::Unscannable(what) => (Kind::Unscannable(what), None),
        Parsed::Foreign(what) => (Kind::Foreign(what), None),
    })
}

/// Identity and plan of the relocatable object `bytes`; one without an entry's address is not linked. With the `places`
/// that look like one, where they are known.
fn object(bytes: &[u8], via: Via, places: Option<&[u64]>) -> Result<(Identity, Plan)> {
    let is_worth_it = places.map_or_else(|| search::any_entry(bytes), |places| !places.is_empty());
    if !(is_worth_it && relocatable::may_hold_entry(bytes, places)) {
        let plan = Plan { size: bytes.len() as u64, sites: Vec::new(), edits: Vec::new(), not_vdso: None };
        return Ok((Identity::of_object(bytes), plan));
    }
    let object = Object::link(bytes)?;
    let image = object.image()?;
    let plan = object.unlinked(&image, &planner::planned(&image, via));
    Ok((image.identity, plan))
}

/// The plans of all objects in the archive `bytes`, as one. With the `places` that look like an entry's address, where
/// they are known.
fn archive(bytes: &[u8], via: Via, places: Option<&[u64]>) -> Result<(Kind, Option<Plan>)> {
    let unreadable =
        |at: u64| move |error: object::Error| Error::malformed(at, format!("not a sound archive: {error}"));
    let file = ArchiveFile::parse(bytes).map_err(unreadable(0))?;
    let mut whole = Plan { size: bytes.len() as u64, sites: Vec::new(), edits: Vec::new(), not_vdso: None };
    let (mut members, mut objects) = (0, 0);
    let mut behind = ARCHIVE_MAGIC.len() as u64;
    for member in file.members() {
        let member = member.map_err(unreadable(behind))?;
        let (start, size) = member.file_range();
        behind = start.saturating_add(size);
        let data = member.data(bytes).map_err(unreadable(start))?;
        if members == 0 && member.name() == DEBIAN_PACKAGE {
            return Ok((Kind::Container("a Debian package: unpack it with dpkg-deb -x".into()), None));
        }
        members += 1;
        if !data.starts_with(b"\x7fELF") {
            continue;
        }
        let of_member = |error: Error| in_member(&error, &member, start);
        if let Parsed::Relocatable = elf::parse(data).map_err(of_member)? {
            objects += 1;
            let places = places.map(|places| places_in(places, start..behind));
            if places.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            let (_, plan) = object(data, via, places.as_deref()).map_err(of_member)?;
            append(&mut whole, plan, &String::from_utf8_lossy(member.name()), start);
        }
    }
    Ok((Kind::Archive { members, objects }, Some(whole)))
}

/// Those of the sorted `places` that are in the member at `range`, from its begin.
fn places_in(places: &[u64], range: Range<u64>) -> Vec<u64> {
    let from = places.partition_point(|&place| place < range.start);
    let inside = places[from..].iter().take_while(|&&place| place < range.end);
    inside.map(|place| place - range.start).collect()
}

fn in_member(error: &Error, member: &ArchiveMember<'_>, start: u64) -> Error {
    let at = error.offset().map_or(start, |offset| start.saturating_add(offset.0));
    Error::malformed(at, format!("member {}: {}", String::from_utf8_lossy(member.name()), error.message()))
}

/// Adds the `plan` of a member that begins at offset `start`.
fn append(whole: &mut Plan, plan: Plan, member: &str, start: u64) {
    let first = whole.edits.len();
    whole.not_vdso = whole.not_vdso.take().or(plan.not_vdso);
    let moved = |offset: FileOffset| FileOffset(offset.0 + start);
    whole.edits.extend(plan.edits.into_iter().map(|edit| Edit { offset: moved(edit.offset), ..edit }));
    whole.sites.extend(plan.sites.into_iter().map(|site| PlannedSite {
        offset: moved(site.offset),
        member: Some(member.to_owned()),
        edits: site.edits.iter().map(|edit| first + edit).collect(),
        steps: site.steps.iter().map(|step| Step { offset: moved(step.offset), ..*step }).collect(),
        ..site
    }));
}

impl Identity {
    /// That of a relocatable object, which nothing was found in.
    fn of_object(bytes: &[u8]) -> Self {
        let file_type = FileType::Rel;
        let (interp, soname, build_id) = (None, None, None);
        let stripped = !elf::has_symbols(bytes);
        Self { file_type, is_static: false, stripped, interp, soname, build_id }
    }
}
