//! The final tree of an image, from its layers: which programs are visible in it, and what holds them.
//!
//! Layers are looked at from the top down, each once: what an upper layer has or hides at a path decides about
//! the lower ones, and nothing is unpacked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::recent::Recent;
use super::record::{self, Entry, ImageRecord};
use super::tar::{self, Archive, Attributes, Kind};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::examine::examine;
use crate::glance::{self, MAGIC, Passing};
use crate::limits;
use crate::outcome::{self, Action, File};
use crate::plan::{Plan, PlannedSite, Via};
use crate::record::Record;
use crate::session::proven;
use crate::tree::record::TreePath;
use crate::verify::{self, Finding};

/// Prefix of a name that hides a file of a lower layer, and the name that hides all of a directory.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of names at the root that aufs keeps for itself. `.wh..wh.plnk` has files that others are linked to.
const OF_AUFS: &[u8] = b".wh..wh.";

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
    pub patched: Option<Arc<(Record, Vec<u8>)>>,
    /// Of a file that the image's record knows: where it is not as recorded.
    pub findings: Option<Vec<Finding>>,
}

impl Program {
    /// One in the layer number `layer`, of which this is known.
    fn new(layer: usize, attributes: &Attributes, is_plain: bool, result: Result<File>) -> Self {
        let attributes = attributes.clone();
        Self { layer, names: vec![], attributes, is_plain, result, patched: None, findings: None }
    }
}

/// What is in a program, wherever it is.
#[derive(Clone, Debug)]
pub struct Examined {
    /// What was found, without a path.
    file: File,
    /// What patching it does, and the patched bytes.
    patched: Option<Arc<(Record, Vec<u8>)>>,
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
    /// What is no directory where one above the record belongs.
    pub in_place_of_record: Option<ImagePath>,
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

/// What one layer says of a path; a layer can have millions of files.
struct Said<'n> {
    entry: &'n Noted,
    /// Number of the program that is behind the name.
    program: Option<u32>,
}

/// What one layer says, by path: all below a directory stands together.
type Layer<'n> = BTreeMap<&'n [u8], Said<'n>>;

/// What the layer that is being added has said.
#[derive(Default)]
struct Below<'n> {
    said: Layer<'n>,
    found: Vec<Option<Program>>,
    hidden: Above,
    /// Visible names of what cannot be looked into, and why.
    elsewhere: Vec<(ImagePath, &'static str)>,
}

/// An entry of a layer, with all that the final tree of an image may need of it: it depends on the layer alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Noted {
    #[serde(with = "hex::serde")]
    path: ImagePath,
    kind: Kind,
    #[serde(with = "hex::serde", default, skip_serializing_if = "Vec::is_empty")]
    target: ImagePath,
    /// Of what may be written again.
    #[serde(with = "hex::serde", default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<u8>,
    size: u64,
    content: Content,
}

/// The content of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Content {
    /// Of no regular file, or not that of a program.
    Nothing,
    /// A program that there is nothing to say of.
    Clean,
    /// A program that there may be something to say of: what that is, is found out each time.
    Program(Box<Held>),
    /// A program without a call, that something is to be said of: the same, whatever calls are to become.
    Told(Box<Told>),
    /// A program that is not looked at.
    TooLarge(Box<Attributes>),
    /// The record of a patch.
    Record(Vec<u8>),
}

/// A program as it is in the layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    #[serde(with = "hex::serde")]
    bytes: Vec<u8>,
    sha256: Sha256,
    attributes: Attributes,
    is_plain: bool,
}

/// What is to be said of a program whose bytes nobody needs any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    kind: outcome::Kind,
    /// Nothing where it cannot be looked into.
    sites: Option<Vec<PlannedSite>>,
    size: u64,
    sha256: Sha256,
    attributes: Attributes,
    is_plain: bool,
}

impl Told {
    /// What was found in the program `held`; nothing where it takes less room to keep that.
    fn of(kind: outcome::Kind, plan: Option<Plan>, held: &Held) -> Option<Self> {
        let Held { bytes, sha256, attributes, is_plain } = held;
        let (size, sites, attributes) = (bytes.len() as u64, plan.map(|plan| plan.sites), attributes.clone());
        let told = Self { kind, sites, size, sha256: *sha256, attributes, is_plain: *is_plain };
        (told.kept() <= bytes.len()).then_some(told)
    }

    /// Bytes that it takes.
    fn kept(&self) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let of_site = |site: &PlannedSite| {
            let text = site.reason.len() + len(&site.function) + len(&site.member);
            size_of_val(site) + text + size_of_val(site.steps.as_slice())
        };
        size_of_val(self) + self.sites.iter().flatten().map(of_site).sum::<usize>()
    }

    fn file(&self) -> File {
        let sites = self.sites.clone();
        let plan = sites.map(|sites| Plan { size: self.size, sites, edits: vec![], not_vdso: None });
        found(self.sha256, self.size, self.kind.clone(), plan)
    }
}

impl Noted {
    /// Reads what `entry` has.
    fn of<R: Read>(
        entry: tar::Entry,
        archive: &mut Archive<R>,
        is_recorded: bool,
        holding: bool,
    ) -> Result<Option<Self>> {
        let Some(content) = Content::of(&entry, archive, is_recorded, holding)? else { return Ok(None) };
        let is_needed = matches!(entry.kind, Kind::Directory | Kind::HardLink)
            || matches!(content, Content::Program(_) | Content::Told(_) | Content::TooLarge(_));
        let tar::Entry { path, kind, target, size, headers, .. } = entry;
        let headers = if is_needed { headers } else { vec![] };
        Ok(Some(Self { path, kind, target, headers, size, content }))
    }

    /// Bytes that it takes.
    fn kept(&self) -> u64 {
        let content = match &self.content {
            Content::Program(held) => held.bytes.len() + size_of::<Held>(),
            Content::Told(told) => told.kept(),
            Content::Record(bytes) => bytes.len(),
            Content::TooLarge(_) => size_of::<Attributes>(),
            Content::Nothing | Content::Clean => 0,
        };
        (size_of::<Self>() + self.path.len() + self.target.len() + self.headers.len() + content) as u64
    }

    /// Whether a layer that has these may be remembered: not one with a record, which says what else to look at,
    /// nor with a program that is not looked at, nor what takes more room than it is worth.
    #[must_use]
    pub fn are_memorable(all: &[Self]) -> bool {
        let is_odd = |one: &Self| matches!(one.content, Content::TooLarge(_) | Content::Record(_));
        let held = |one: &Self| match &one.content {
            Content::Program(held) => held.bytes.len() as u64,
            _ => 0,
        };
        !all.iter().any(is_odd)
            && all.iter().map(held).sum::<u64>() <= limits::REMEMBERED_PROGRAMS
            && Self::bytes_of(all) <= limits::REMEMBERED_BYTES
    }

    /// Bytes that all of them take.
    #[must_use]
    pub fn bytes_of(all: &[Self]) -> u64 {
        all.iter().map(Self::kept).sum()
    }
}

impl Content {
    fn of<R: Read>(
        entry: &tar::Entry,
        archive: &mut Archive<R>,
        is_recorded: bool,
        holding: bool,
    ) -> Result<Option<Self>> {
        if entry.kind != Kind::File {
            return Ok(Some(Self::Nothing));
        }
        if entry.path == record::PATH.as_bytes() {
            if entry.size > limits::RECORD_BYTES {
                let message =
                    format!("/{} is larger than any record ({} bytes)", record::PATH, limits::RECORD_BYTES);
                return Err(Error::new(ErrorKind::Record, message));
            }
            return content(entry, &[], archive).map(Self::Record).map(Some);
        }
        let mut head = [0; MAGIC];
        let size = archive.read_content(&mut head)?;
        if !glance::is_candidate(&head[..size]) {
            return Ok(Some(Self::Nothing));
        }
        let attributes = entry.attributes.clone();
        if entry.size > limits::IMAGE_PROGRAM_BYTES {
            return Ok(Some(Self::TooLarge(Box::new(attributes))));
        }
        let is_plain = entry.sparse.is_none();
        if entry.size > limits::IMAGE_HELD_BYTES && is_plain && !is_recorded && !holding {
            let is_clean = passes(&head[..size], entry.size, archive)?;
            return Ok(is_clean.then_some(Self::Clean));
        }
        let bytes = content(entry, &head[..size], archive)?;
        // Of a file that a record knows the content counts, whatever it is.
        let looked = if is_recorded { None } else { examine(&bytes, Via::default()).ok() };
        if looked.as_ref().is_some_and(|(kind, plan)| !is_worth_telling(kind, plan.as_ref())) {
            return Ok(Some(Self::Clean));
        }
        let held = Held { sha256: Sha256::of(&bytes), bytes, attributes, is_plain };
        let without_calls = looked.filter(|(_, plan)| !plan.as_ref().is_some_and(Plan::has_calls));
        Ok(Some(match without_calls.and_then(|(kind, plan)| Told::of(kind, plan, &held)) {
            Some(told) => Self::Told(Box::new(told)),
            None => Self::Program(Box::new(held)),
        }))
    }
}

/// Whether there is nothing to say of a program of `size` bytes that begins with `magic`, of which the rest
/// streams by.
fn passes<R: Read>(magic: &[u8], size: u64, archive: &mut Archive<R>) -> Result<bool> {
    let mut head = [0; glance::HEAD];
    head[..magic.len()].copy_from_slice(magic);
    archive.read_content(&mut head[magic.len()..])?;
    let mut passing = Passing::new(&head, size);
    loop {
        match archive.read_content(passing.room())? {
            0 => return Ok(passing.is_clean()),
            count => passing.pass(count),
        }
    }
}

/// Collects the final tree, layer by layer from the top.
#[derive(Default)]
pub struct Collector<'a> {
    merged: Merged,
    above: Above,
    /// The files that the image's record knows.
    recorded: HashMap<ImagePath, Record>,
    via: Via,
    recent: Option<&'a Recent>,
}

impl<'a> Collector<'a> {
    /// One without a layer yet, for an image whose calls are to become what `via` says; with what is known of programs.
    #[must_use]
    pub fn new(via: Via, recent: Option<&'a Recent>) -> Self {
        Self { via, recent, ..Self::default() }
    }

    /// One for what lies below the layer with the image's record, once that was added: what it finds in the files that
    /// the record knows is the original of these.
    #[must_use]
    pub fn below_record(&self) -> Option<Self> {
        self.merged.record.as_ref()?;
        Some(Self { recorded: self.recorded.clone(), ..Self::new(self.via, self.recent) })
    }

    /// What the layer in `archive` has. Nothing where a large program has to be held to be looked into, and the
    /// layer is to be read anew `holding` all.
    ///
    /// # Errors
    /// Those of reading the archive. What is wrong with a file is told with the file.
    pub fn note<R: Read>(&self, archive: &mut Archive<R>, holding: bool) -> Result<Option<Vec<Noted>>> {
        let (mut all, mut kept) = (Vec::new(), 0);
        // Files that the layer's own record knows; it comes first.
        let mut recorded = HashSet::new();
        while let Some(entry) = archive.next_entry()? {
            let is_recorded = self.recorded.contains_key(&entry.path) || recorded.contains(&entry.path);
            let Some(noted) = Noted::of(entry, archive, is_recorded, holding)? else { return Ok(None) };
            if let Content::Record(json) = &noted.content {
                recorded.extend(recorded_in(json).into_keys());
            }
            kept += noted.kept();
            if kept > limits::IMAGE_KEPT_BYTES {
                let most = limits::IMAGE_KEPT_BYTES;
                let message =
                    format!("its entries, and programs to patch or damaged, take more than {most} bytes");
                return Err(Error::new(ErrorKind::Malformed, message));
            }
            all.push(noted);
        }
        Ok(Some(all))
    }

    /// Adds the layer number `layer`, which lies below all that were added before, and has what was noted; its
    /// visible names of what cannot be looked into, and why.
    pub fn add(&mut self, layer: usize, noted: &[Noted]) -> Vec<(ImagePath, &'static str)> {
        let mut below = Below::default();
        noted.iter().for_each(|one| self.take(layer, one, &mut below));
        let elsewhere = std::mem::take(&mut below.elsewhere);
        self.settle(layer, below);
        elsewhere
    }

    /// Whether what is known of a layer is all that has to be known: of a file that the image's record knows
    /// that is its content, even where there is nothing to say of it, or nothing that needs it.
    #[must_use]
    pub fn can_add(&self, noted: &[Noted]) -> bool {
        let is_missing = |one: &Noted| {
            matches!(one.content, Content::Clean | Content::Told(_)) && self.recorded.contains_key(&one.path)
        };
        self.recorded.is_empty() || !noted.iter().any(is_missing)
    }

    /// Takes the next entry of a layer.
    fn take<'n>(&mut self, layer: usize, noted: &'n Noted, below: &mut Below<'n>) {
        let Noted { path, kind, target, size, content, .. } = noted;
        let (kind, size) = (*kind, *size);
        if note_whiteout(path, &mut below.hidden) {
            return;
        }
        let is_visible = kind == Kind::File && !self.above.hides(path, kind);
        self.merged.seen.files += usize::from(is_visible);
        if is_visible && !matches!(content, Content::Nothing | Content::Record(_)) {
            self.merged.seen.candidates += 1;
            self.merged.seen.bytes += size;
        }
        let program = match content {
            Content::Nothing | Content::Clean => None,
            Content::Record(json) => {
                if is_visible && self.merged.record.is_none() {
                    self.read_record(json.clone());
                }
                None
            }
            Content::TooLarge(attributes) => {
                Some(Program::new(layer, attributes, false, Err(too_large(size))))
            }
            Content::Told(told) => {
                Some(Program::new(layer, &told.attributes, told.is_plain, Ok(told.file())))
            }
            Content::Program(held) => self.look(layer, path, held),
        };
        let mut program = program.map(|program| {
            below.found.push(Some(program));
            (below.found.len() - 1) as u32
        });
        if kind == Kind::HardLink {
            // To what its target is now: a later entry for that is another file.
            match below.said.get(target.as_slice()) {
                Some(linked) => program = linked.program,
                None if self.above.hides(path, kind) => {}
                None => below.elsewhere.push((path.clone(), "is a link to what the layer does not have")),
            }
        }
        // Engines put it where the link leads to, or a directory in the link's place.
        let is_link = |above| below.said.get(above).is_some_and(|one| one.entry.kind == Kind::SymbolicLink);
        if program.is_some() && ancestors(path).any(is_link) {
            program = None;
            below.elsewhere.push((path.clone(), "is below a symbolic link"));
        }
        say(&mut below.said, Said { entry: noted, program });
    }

    /// What is in a program; nothing where there is nothing to say of it.
    fn look(&self, layer: usize, path: &[u8], held: &Held) -> Option<Program> {
        let Held { bytes, sha256, attributes, is_plain } = held;
        let recorded = self.recorded.get(path);
        let findings = recorded.map(|record| verify::verify_hashed(bytes, *sha256, record));
        let (result, patched) = match self.examined(bytes, *sha256, recorded.is_some()) {
            Ok(None) => return None,
            Ok(Some(Examined { file, patched })) => (Ok(file), patched),
            Err(error) => (Err(error), None),
        };
        Some(Program { patched, findings, ..Program::new(layer, attributes, *is_plain, result) })
    }

    /// What is in a program, which may be known of another image.
    fn examined(&self, bytes: &[u8], sha256: Sha256, is_recorded: bool) -> Result<Option<Examined>> {
        let Some(recent) = self.recent.filter(|_| !is_recorded) else {
            return examined(bytes, sha256, self.via, is_recorded);
        };
        let key = (sha256, self.via);
        if let Some(known) = recent.programs.get(&key) {
            return Ok(Some(Examined::clone(&known)));
        }
        let found = examined(bytes, sha256, self.via, is_recorded)?;
        if let Some(found) = &found {
            recent.programs.put(key, Arc::new(found.clone()), 2 * bytes.len() as u64);
        }
        Ok(found)
    }

    /// What the record says is checked where it is used; here it only tells which files to look at.
    fn read_record(&mut self, json: Vec<u8>) {
        self.recorded.extend(recorded_in(&json));
        self.merged.record = Some(json);
    }

    /// The programs of a layer that are visible, with their visible names; then the layer hides what is below.
    fn settle(&mut self, layer: usize, below: Below<'_>) {
        let Below { said, mut found, hidden, .. } = below;
        let mut names: BTreeMap<u32, Vec<Name>> = BTreeMap::new();
        for Said { entry, program } in said.values() {
            let Noted { path, kind, target, headers, .. } = entry;
            let is_visible = !path.starts_with(OF_AUFS) && !self.above.hides(path, *kind);
            let Some(number) = program.filter(|_| is_visible) else { continue };
            let target = (*kind == Kind::HardLink).then(|| target.clone());
            names.entry(number).or_default().push(Name {
                path: path.clone(),
                headers: headers.clone(),
                target,
            });
        }
        for (number, mut names) in names {
            let Some(mut program) = found.get_mut(number as usize).and_then(Option::take) else { continue };
            names.sort_by(|a, b| (a.target.is_some(), &a.path).cmp(&(b.target.is_some(), &b.path)));
            program.names = names;
            self.merged.programs.push(program);
        }
        self.show_directories(&said);
        // Nothing is below the lowest one, which is the largest of most images.
        if layer > 0 {
            self.cover(said, hidden);
        }
    }

    /// Notes the directories of a layer that are visible.
    fn show_directories(&mut self, said: &Layer<'_>) {
        for (path, Said { entry, .. }) in said {
            let in_place_of_record = || ancestors(record::PATH.as_bytes()).any(|above| above == *path);
            let is_told = entry.kind == Kind::Directory || in_place_of_record();
            if !is_told || self.above.hides(path, entry.kind) {
                continue;
            }
            if entry.kind == Kind::Directory {
                let headers = || entry.headers.clone();
                self.merged.directories.entry(path.to_vec()).or_insert_with(headers);
            } else {
                self.merged.in_place_of_record = Some(path.to_vec());
            }
        }
    }

    fn cover(&mut self, said: Layer<'_>, hidden: Above) {
        for (path, Said { entry, .. }) in said {
            // Whatever a layer says of them: a name below shows that they are directories.
            // Whatever is one has all above it here.
            let known = &self.above.directories;
            let new = ancestors(path).take_while(|above| !known.contains(*above));
            let new: Vec<ImagePath> = new.map(<[u8]>::to_owned).collect();
            self.above.directories.extend(new);
            if entry.kind == Kind::Directory {
                self.above.directories.insert(path.to_vec());
            } else {
                self.above.covered.insert(path.to_vec());
            }
        }
        self.above.covered.extend(hidden.covered);
        self.above.opaque.extend(hidden.opaque);
    }

    /// What was collected.
    #[must_use]
    pub fn finish(self) -> Merged {
        let mut merged = self.merged;
        merged.programs.sort_by(|a, b| a.names[0].path.cmp(&b.names[0].path));
        merged
    }
}

/// The files that a record knows, where it is one.
fn recorded_in(json: &[u8]) -> HashMap<ImagePath, Record> {
    let path = |path: &TreePath| path.as_path().as_os_str().as_bytes().to_vec();
    let of = |Entry { paths, record }: Entry| -> Vec<(ImagePath, Record)> {
        paths.iter().map(|one| (path(one), record.clone())).collect()
    };
    let files = ImageRecord::from_json(json).map_or_else(|_| vec![], |record| record.files);
    files.into_iter().flat_map(of).collect()
}

/// Of several entries for a path the last one counts; a directory keeps what is in it, and what takes its place
/// does not.
fn say<'n>(said: &mut Layer<'n>, one: Said<'n>) {
    let path = one.entry.path.as_slice();
    let was_directory = said.get(path).is_some_and(|old| old.entry.kind == Kind::Directory);
    if one.entry.kind != Kind::Directory && was_directory {
        let below = [path, b"/"].concat();
        let names = said.range(below.as_slice()..).map(|(name, _)| *name);
        for name in names.take_while(|name| name.starts_with(&below)).collect::<Vec<_>>() {
            said.remove(name);
        }
    }
    // The key is that of the last entry, too.
    said.insert(path, one);
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
    Error::malformed(0_u64, format!("has {size} bytes, more than are read of such a program in an image"))
}

/// The whole content of `entry`, of which `head` was read.
fn content<R: Read>(entry: &tar::Entry, head: &[u8], archive: &mut Archive<R>) -> Result<Vec<u8>> {
    if entry.size > limits::IMAGE_PROGRAM_BYTES {
        return Err(too_large(entry.size));
    }
    let mut bytes = head.to_vec();
    archive.read_rest(&mut bytes)?;
    let Some((pieces, size)) = &entry.sparse else { return Ok(bytes) };
    if *size > limits::SPARSE_PROGRAM_BYTES {
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

fn is_worth_telling(kind: &outcome::Kind, plan: Option<&Plan>) -> bool {
    plan.is_some_and(|plan| !plan.sites.is_empty()) || matches!(kind, outcome::Kind::Unscannable(_))
}

/// What is in the program, and what patching it does; nothing where there is nothing to say.
fn examined(bytes: &[u8], sha256: Sha256, via: Via, is_recorded: bool) -> Result<Option<Examined>> {
    let (kind, plan) = examine(bytes, via)?;
    if !is_recorded && !is_worth_telling(&kind, plan.as_ref()) {
        return Ok(None);
    }
    let patched = match plan.as_ref().filter(|plan| plan.has_edits()) {
        Some(plan) => Some(Arc::new(proven(bytes, sha256, &kind, plan)?)),
        None => None,
    };
    Ok(Some(Examined { file: found(sha256, bytes.len() as u64, kind, plan), patched }))
}

/// A program of `size` bytes, wherever it is.
fn found(sha256: Sha256, size: u64, kind: outcome::Kind, plan: Option<Plan>) -> File {
    let (path, sha256, action) = (PathBuf::new(), Some(sha256), Action::Scanned);
    File { path, links: vec![], layer: None, sha256, size, kind, plan, action, warnings: vec![] }
}
