//! The final tree of an image, from its layers: which programs are visible in it, and what holds them.
//!
//! Layers are looked at from the top down, each once: what an upper layer has or hides at a path decides about
//! the lower ones, and nothing is unpacked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::record::{self, Entry, ImageRecord};
use super::tar::{self, Archive, Attributes, Kind};
use crate::digest::Sha256;
use crate::error::{Error, Result};
use crate::examine::examine;
use crate::glance::{self, MAGIC};
use crate::limits;
use crate::outcome::{self, Action, File};
use crate::record::Record;
use crate::session::proven;
use crate::tree::record::TreePath;
use crate::verify::{self, Finding};

/// Prefix of a name that hides a file of a lower layer, and the name that hides all of a directory.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path in an image, from its root.
pub type ImagePath = Vec<u8>;

/// One name of a program.
#[derive(Clone, Debug)]
pub struct Name {
    /// The path.
    pub path: ImagePath,
    /// The header blocks of its entry.
    pub headers: Vec<u8>,
    /// The name whose entry it is linked to; nothing for the entry with the content.
    pub target: Option<ImagePath>,
}

/// A program that there is something to say of.
#[derive(Debug)]
pub struct Program {
    /// Number of the layer, the lowest first.
    pub layer: usize,
    /// Its visible names; the one with the content first, where that is visible.
    pub names: Vec<Name>,
    /// Owner, mode, extended attributes.
    pub attributes: Attributes,
    /// Whether the header blocks of the first name are for the content as it is: not so for a sparse file.
    pub is_plain: bool,
    /// What was found.
    pub result: Result<File>,
    /// What patching it does, and the patched bytes.
    pub patched: Option<(Record, Vec<u8>)>,
    /// Of a file that the image's record knows: where it is not as recorded.
    pub findings: Option<Vec<Finding>>,
}

/// What is visible.
#[derive(Debug, Default)]
pub struct Merged {
    /// The programs that there is something to say of, by path.
    pub programs: Vec<Program>,
    /// The header blocks of each directory, from the topmost layer that has it.
    pub directories: BTreeMap<ImagePath, Vec<u8>>,
    /// The record of a patch, where the image has one.
    pub record: Option<Vec<u8>>,
    /// Regular files, programs among them, and bytes of these.
    pub seen: outcome::Seen,
}

/// What the layers above have and hide.
#[derive(Debug, Default)]
struct Above {
    /// Something that is no directory, or nothing: hides the path and all below it.
    covered: HashSet<ImagePath>,
    /// Directories, which hide what is none.
    directories: HashSet<ImagePath>,
    /// Directories that hide all below them.
    opaque: HashSet<ImagePath>,
}

impl Above {
    fn hides(&self, path: &[u8], kind: Kind) -> bool {
        let mut ancestors = ancestors(path);
        self.covered.contains(path)
            || (kind != Kind::Directory && self.directories.contains(path))
            || ancestors.any(|above| self.covered.contains(above) || self.opaque.contains(above))
            || self.opaque.contains(&b""[..])
    }
}

/// The directories above `path`, the nearest first, without the root.
pub fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let end = rest.iter().rposition(|&byte| byte == b'/')?;
        rest = &rest[..end];
        Some(rest)
    })
}

/// What one layer says of a path.
struct Said {
    kind: Kind,
    headers: Vec<u8>,
    target: ImagePath,
    /// Number of what was found in it.
    program: Option<usize>,
}

/// Collects the final tree, layer by layer from the top.
#[derive(Default)]
pub struct Collector {
    merged: Merged,
    above: Above,
    /// The files that the image's record knows.
    recorded: HashMap<ImagePath, Record>,
}

impl Collector {
    /// Adds the layer number `layer`, which lies below all that were added before.
    ///
    /// # Errors
    /// Those of reading the archive. What is wrong with a file is told with the file.
    pub fn add<R: Read>(&mut self, layer: usize, archive: &mut Archive<R>) -> Result<()> {
        let mut said: HashMap<ImagePath, Said> = HashMap::new();
        let mut found: Vec<Option<Program>> = Vec::new();
        let mut hidden = Above::default();
        while let Some(entry) = archive.next_entry()? {
            if note_whiteout(&entry.path, &mut hidden) {
                continue;
            }
            let mut program = None;
            if entry.kind == Kind::File {
                let is_visible = !self.above.hides(&entry.path, entry.kind);
                self.merged.seen.files += usize::from(is_visible);
                if entry.path == record::PATH.as_bytes() && self.merged.record.is_none() && is_visible {
                    self.read_record(content(&entry, &[], archive)?);
                } else if let Some(looked) = self.look(layer, &entry, archive)? {
                    program = Some(found.len());
                    found.push(Some(looked));
                }
            }
            // Of several entries for a path the last one counts; a directory keeps what is in it.
            let tar::Entry { path, kind, headers, target, .. } = entry;
            said.insert(path, Said { kind, headers, target, program });
        }
        self.settle(&said, &mut found);
        self.cover(said, hidden);
        Ok(())
    }

    /// What the record says is checked where it is used; here it only tells which files to look at.
    fn read_record(&mut self, json: Vec<u8>) {
        if let Ok(record) = ImageRecord::from_json(&json) {
            for Entry { paths, record } in record.files {
                let path = |path: &TreePath| path.as_path().as_os_str().as_bytes().to_vec();
                self.recorded.extend(paths.iter().map(|one| (path(one), record.clone())));
            }
        }
        self.merged.record = Some(json);
    }

    /// The programs of a layer that are visible, with their visible names.
    fn settle(&mut self, said: &HashMap<ImagePath, Said>, found: &mut [Option<Program>]) {
        let mut names: HashMap<usize, Vec<Name>> = HashMap::new();
        for (path, one) in said {
            let number = match one.kind {
                Kind::File => one.program,
                Kind::HardLink => program_behind(said, &one.target),
                _ => None,
            };
            let Some(number) = number.filter(|_| !self.above.hides(path, one.kind)) else { continue };
            let target = (one.kind == Kind::HardLink).then(|| one.target.clone());
            names.entry(number).or_default().push(Name {
                path: path.clone(),
                headers: one.headers.clone(),
                target,
            });
        }
        for (number, mut names) in names {
            let Some(mut program) = found.get_mut(number).and_then(Option::take) else { continue };
            names.sort_by(|a, b| (a.target.is_some(), &a.path).cmp(&(b.target.is_some(), &b.path)));
            program.names = names;
            self.merged.programs.push(program);
        }
    }

    fn cover(&mut self, said: HashMap<ImagePath, Said>, hidden: Above) {
        for (path, one) in said {
            if one.kind == Kind::Directory {
                if !self.above.hides(&path, one.kind) {
                    self.merged.directories.entry(path.clone()).or_insert(one.headers);
                }
                self.above.directories.insert(path);
            } else {
                self.above.covered.insert(path);
            }
        }
        self.above.covered.extend(hidden.covered);
        self.above.opaque.extend(hidden.opaque);
    }

    /// Looks at a regular file; nothing where there is nothing to say of it.
    fn look<R: Read>(
        &mut self,
        layer: usize,
        entry: &tar::Entry,
        archive: &mut Archive<R>,
    ) -> Result<Option<Program>> {
        let mut magic = [0; MAGIC];
        let size = archive.read_content(&mut magic)?;
        if !glance::is_candidate(&magic[..size]) {
            return Ok(None);
        }
        if !self.above.hides(&entry.path, entry.kind) {
            self.merged.seen.candidates += 1;
            self.merged.seen.bytes += entry.size;
        }
        if entry.size > limits::IMAGE_PROGRAM_BYTES {
            let (attributes, is_plain) = (entry.attributes.clone(), false);
            let result = Err(too_large(entry.size));
            let program =
                Program { layer, names: vec![], attributes, is_plain, result, patched: None, findings: None };
            return Ok(Some(program));
        }
        let bytes = content(entry, &magic[..size], archive)?;
        let recorded = self.recorded.get(&entry.path);
        let findings = recorded.map(|record| verify::verify_hashed(&bytes, Sha256::of(&bytes), record));
        let (result, patched) = match examined(&entry.path, &bytes, recorded.is_some()) {
            Ok(None) => return Ok(None),
            Ok(Some((file, patched))) => (Ok(file), patched),
            Err(error) => (Err(error), None),
        };
        let attributes = entry.attributes.clone();
        let is_plain = entry.sparse.is_none();
        Ok(Some(Program { layer, names: vec![], attributes, is_plain, result, patched, findings }))
    }

    /// What was collected.
    #[must_use]
    pub fn finish(self) -> Merged {
        let mut merged = self.merged;
        merged.programs.sort_by(|a, b| a.names[0].path.cmp(&b.names[0].path));
        merged
    }
}

/// The program that a hard link to `target` in the same layer leads to, over further links.
fn program_behind(said: &HashMap<ImagePath, Said>, target: &[u8]) -> Option<usize> {
    let mut target = target;
    // Links lead to earlier entries; a circle is nobody's file.
    for _ in 0..limits::LINK_STEPS {
        let one = said.get(target)?;
        match one.kind {
            Kind::File => return one.program,
            Kind::HardLink => target = &one.target,
            _ => return None,
        }
    }
    None
}

/// Notes what the entry at `path` hides, where it is there for that.
fn note_whiteout(path: &[u8], hidden: &mut Above) -> bool {
    let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = (&path[..start.saturating_sub(1)], &path[start..]);
    if name == OPAQUE {
        hidden.opaque.insert(parent.to_owned());
    } else if let Some(name) = name.strip_prefix(WHITEOUT) {
        // `.wh..wh.` and more are aufs' own, and hide nothing.
        if !name.starts_with(WHITEOUT) {
            hidden.covered.insert([&path[..start], name].concat());
        }
    } else {
        return false;
    }
    true
}

fn too_large(size: u64) -> Error {
    let most = limits::IMAGE_PROGRAM_BYTES;
    Error::malformed(
        0_u64,
        format!("has {size} bytes, more than the {most} that are read of a program in an image"),
    )
}

/// The whole content of `entry`, of which `head` was read.
fn content<R: Read>(entry: &tar::Entry, head: &[u8], archive: &mut Archive<R>) -> Result<Vec<u8>> {
    if entry.size > limits::IMAGE_PROGRAM_BYTES {
        return Err(too_large(entry.size));
    }
    let mut bytes = head.to_vec();
    bytes.resize(entry.size as usize, 0);
    archive.read_content(&mut bytes[head.len()..])?;
    let Some((pieces, size)) = &entry.sparse else { return Ok(bytes) };
    if *size > limits::IMAGE_PROGRAM_BYTES {
        return Err(too_large(*size));
    }
    let mut whole = vec![0; *size as usize];
    let mut rest = bytes.as_slice();
    for &(offset, length) in pieces {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        let (piece, behind) = rest.split_at(length);
        let place = usize::try_from(offset).ok().and_then(|at| whole.get_mut(at..)?.get_mut(..length));
        place
            .ok_or_else(|| Error::malformed(offset, "a piece of a sparse file lies behind its end"))?
            .copy_from_slice(piece);
        rest = behind;
    }
    Ok(whole)
}

/// What is in the program, and what patching it does; nothing where there is nothing to say.
#[expect(clippy::type_complexity, reason = "one caller")]
fn examined(
    path: &[u8],
    bytes: &[u8],
    is_recorded: bool,
) -> Result<Option<(File, Option<(Record, Vec<u8>)>)>> {
    let (kind, plan) = examine(bytes)?;
    let has_sites = plan.as_ref().is_some_and(|plan| !plan.sites.is_empty());
    if !has_sites && !is_recorded && !matches!(kind, outcome::Kind::Unscannable(_)) {
        return Ok(None);
    }
    let sha256 = Sha256::of(bytes);
    let patched = match plan.as_ref().filter(|plan| plan.has_edits()) {
        Some(plan) => Some(proven(bytes, sha256, &kind, plan)?),
        None => None,
    };
    let file = File {
        path: PathBuf::from(std::ffi::OsStr::from_bytes(path)),
        links: vec![],
        sha256: Some(sha256),
        size: bytes.len() as u64,
        kind,
        plan,
        action: Action::Scanned,
        warnings: vec![],
    };
    Ok(Some((file, patched)))
}
