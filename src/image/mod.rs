//! An image from its name to its outcome: layers -> final tree -> programs -> plan -> one more layer. No printing.
//!
//! **Invariants.** Nothing is unpacked to the disk and nothing of the image is run. What is patched is what the
//! final tree shows, with all its names. The new image is the old one plus one layer; its documents keep
//! everything that nobody here knows. The record in that layer holds the old documents, byte for byte: without
//! the layer they are the old image again.

pub mod blobs;
pub mod document;
mod engine;
pub mod layer;
pub mod legacy;
pub mod merged;
pub mod record;
pub mod reference;
pub mod registry;
pub mod tar;
pub mod writer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use blobs::{Blobs, Opened};
use document::{Digest, Document, NewLayer};
use layer::Layer;
use merged::{Collector, Merged, Name, Program};
use record::{Entry, ImageRecord};
pub use reference::Reference;
use writer::Image;

use crate::error::{Error, ErrorKind, Result};
use crate::outcome::{Action, Direction, File, ImageFacts, Tree, TreeFile, Unchanged, Written};
use crate::verify::{self, finding};

/// Labels of a patched image.
mod label {
    pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
    pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
    pub const VERSION: &str = "dev.vsyspatch.version";
    pub const ORIGINAL_MANIFEST: &str = "dev.vsyspatch.original.manifest";
    pub const ORIGINAL_CONFIG: &str = "dev.vsyspatch.original.config";
    pub const ALL: [&str; 5] = [BASE_DIGEST, VERSION, ORIGINAL_MANIFEST, ORIGINAL_CONFIG, BASE_NAME];
}

/// One image for x86-64, with everything in its final tree that there is something to say of.
struct Seen {
    manifest: Document,
    config: Document,
    merged: Merged,
    /// Layers that cannot be looked into, and why.
    not_scanned: Vec<String>,
}

/// Looks at the image of `manifest`.
fn look(blobs: &Blobs, manifest: Document) -> Result<Seen> {
    let config = blobs.document(&manifest.config()?.digest)?;
    let (layers, diff_ids) = (manifest.layers()?, config.diff_ids()?);
    if layers.len() != diff_ids.len() {
        let message =
            format!("the manifest has {} layers, the configuration {}", layers.len(), diff_ids.len());
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    let mut collector = Collector::default();
    let mut not_scanned = Vec::new();
    for (number, (layer, diff_id)) in layers.iter().zip(&diff_ids).enumerate().rev() {
        let in_layer = |error: Error| Error::new(error.kind(), format!("layer {}: {error}", layer.digest));
        if let Some(why) = layer.not_scanned() {
            not_scanned.push(format!("layer {}: {why}", layer.digest));
            continue;
        }
        let bytes = Layer::new(blobs.open(&layer.digest)?).map_err(in_layer)?;
        let mut archive = tar::Archive::new(bytes);
        collector.add(number, &mut archive).map_err(in_layer)?;
        archive.finish()?.check(Some(&layer.digest), Some(diff_id)).map_err(in_layer)?;
    }
    Ok(Seen { manifest, config, merged: collector.finish(), not_scanned })
}

/// What is done with each image for x86-64 behind a name.
trait Work {
    /// Tells what there is in `tree`; a new manifest, where there is to be one.
    fn on(
        &mut self,
        seen: Seen,
        shown: &dyn Fn(&Path) -> PathBuf,
        tree: &mut Tree,
    ) -> Result<Option<Document>>;
}

/// Looks at every image for x86-64 of `opened`, does the `work` on it, and gives the new root, where there is one.
fn each(opened: &Opened, name: &Path, work: &mut dyn Work) -> Result<(Tree, Option<Document>)> {
    let begun = Instant::now();
    let mut tree = Tree::default();
    let mut facts = ImageFacts { digest: opened.root.digest().to_string(), ..ImageFacts::default() };
    let mut one = |manifest: Document, platform: Option<&str>, tree: &mut Tree| -> Result<Option<Document>> {
        let seen = look(&opened.blobs, manifest)?;
        tree.seen.files += seen.merged.seen.files;
        tree.seen.candidates += seen.merged.seen.candidates;
        tree.seen.bytes += seen.merged.seen.bytes;
        facts.layers += seen.manifest.layers()?.len();
        facts.not_scanned.extend(seen.not_scanned.iter().cloned());
        let shown = |path: &Path| {
            let mut shown = name.as_os_str().to_owned();
            if let Some(platform) = platform {
                shown.push(format!(" ({platform})"));
            }
            shown.push(":/");
            shown.push(path);
            PathBuf::from(shown)
        };
        work.on(seen, &shown, tree)
    };
    let root = match opened.root.manifests()? {
        None => one(opened.root.clone(), None, &mut tree)?,
        Some(manifests) => {
            let mut replaced = Vec::new();
            for (number, descriptor) in manifests.iter().enumerate() {
                let is_ours =
                    descriptor.platform.as_ref().is_none_or(|(_, architecture)| architecture == "amd64");
                let manifest = if is_ours { Some(opened.blobs.manifest(&descriptor.digest)?) } else { None };
                let Some(manifest) = manifest.filter(|manifest| manifest.value().get("layers").is_some())
                else {
                    continue;
                };
                if let Some(new) = one(manifest, Some("linux/amd64"), &mut tree)? {
                    replaced.push((number, new));
                }
            }
            (!replaced.is_empty()).then(|| document::index_with(&opened.root, &replaced))
        }
    };
    tree.files.sort_by(|a, b| a.path.cmp(&b.path));
    tree.seen.seconds = begun.elapsed().as_secs_f64();
    tree.image = Some(facts);
    Ok((tree, root))
}

/// A program as a file of the report.
fn told(
    program: Program,
    shown: &dyn Fn(&Path) -> PathBuf,
    action: impl FnOnce(&File) -> Action,
) -> TreeFile {
    let path_of = |name: &Name| shown(Path::new(OsStr::from_bytes(&name.path)));
    let path = path_of(&program.names[0]);
    let links = program.names[1..].iter().map(path_of).collect();
    let result = program.result.map(|file| {
        let action = action(&file);
        File { path: path.clone(), links, action, ..file }
    });
    TreeFile { path, result }
}

/// Looks at the image `reference`, which the user calls `name`.
///
/// # Errors
/// `Malformed` for what is no image, `Mismatch` where its bytes are not those that it says; those of reading.
pub fn scan(reference: &Reference, name: &Path) -> Result<Tree> {
    struct Scan;
    impl Work for Scan {
        fn on(
            &mut self,
            seen: Seen,
            shown: &dyn Fn(&Path) -> PathBuf,
            tree: &mut Tree,
        ) -> Result<Option<Document>> {
            for program in seen.merged.programs {
                tree.files.push(told(program, shown, |_| Action::Scanned));
            }
            Ok(None)
        }
    }
    Ok(each(&Opened::open(reference)?, name, &mut Scan)?.0)
}

/// Patches the image `reference`, which the user calls `name`, to `output`; without an output only tells what
/// would be done. Nothing is written where there is nothing to patch, unless `always`.
///
/// # Errors
/// Those of [`scan`], and of writing.
pub fn patch(reference: &Reference, name: &Path, output: Option<&Reference>, always: bool) -> Result<Tree> {
    let opened = Opened::open(reference)?;
    let mut work =
        Patch { base_name: opened.name.clone(), added: BTreeMap::new(), dry_run: output.is_none() };
    let (mut tree, root) = each(&opened, name, &mut work)?;
    let root = match root {
        Some(root) => root,
        None if always => opened.root.clone(),
        None => return Ok(tree),
    };
    if let Some(output) = output {
        write(&opened, output, &root, &work.added, &mut tree)?;
    }
    Ok(tree)
}

fn write(
    opened: &Opened,
    output: &Reference,
    root: &Document,
    added: &BTreeMap<Digest, Vec<u8>>,
    tree: &mut Tree,
) -> Result<()> {
    let image = Image { root, added, source: &opened.blobs, name: opened.name.as_deref() };
    let sent = image.write(output)?;
    if let Some(facts) = &mut tree.image {
        facts.sent = sent;
        facts.output = Some((output.to_string(), root.digest().to_string()));
    }
    Ok(())
}

/// Makes the layer with the patched files.
struct Patch {
    base_name: Option<String>,
    added: BTreeMap<Digest, Vec<u8>>,
    dry_run: bool,
}

impl Work for Patch {
    fn on(
        &mut self,
        seen: Seen,
        shown: &dyn Fn(&Path) -> PathBuf,
        tree: &mut Tree,
    ) -> Result<Option<Document>> {
        let Seen { manifest, config, mut merged, .. } = seen;
        let programs = std::mem::take(&mut merged.programs);
        let (mut patched, mut files) = (Vec::new(), Vec::new());
        for mut program in programs {
            let new = program.patched.take();
            if let Some((record, bytes)) = new {
                let paths = program.names.iter().map(|name| path_of(&name.path).into()).collect();
                files.push(Entry { paths, record: record.clone() });
                let written = Written {
                    direction: Direction::Patch,
                    dry_run: self.dry_run,
                    output: None,
                    sha256: record.patched,
                    edits: record.edits,
                    record: None,
                };
                let parts = Parts::of(&program, bytes);
                patched.push(parts);
                tree.files.push(told(program, shown, |_| Action::Written(written)));
            } else if program.findings.is_some() {
                let already = Action::Unchanged(Unchanged::AlreadyPatched { copy: None });
                tree.files.push(told(program, shown, |_| already));
            } else {
                tree.files.push(told(program, shown, |_| Action::Unchanged(Unchanged::Clean { copy: None })));
            }
        }
        if patched.is_empty() {
            return Ok(None);
        }
        let record = ImageRecord::new(&manifest, &config, files)?;
        let tar = layer_of(&merged, &patched, &record.to_json())?;
        let blob = layer::compress(&tar).map_err(|error| Error::io("cannot compress the layer", error))?;
        let mut labels = vec![
            (label::BASE_DIGEST.to_owned(), manifest.digest().to_string()),
            (label::VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            (label::ORIGINAL_MANIFEST.to_owned(), manifest.digest().to_string()),
            (label::ORIGINAL_CONFIG.to_owned(), config.digest().to_string()),
        ];
        labels.extend(self.base_name.clone().map(|name| (label::BASE_NAME.to_owned(), name)));
        let layer = NewLayer {
            diff_id: Digest::of(&tar),
            digest: Digest::of(&blob),
            size: blob.len() as u64,
            labels,
        };
        let config = document::config_with(&config, &layer);
        let manifest = document::manifest_with(&manifest, &config, &layer);
        self.added.insert(layer.digest, blob);
        self.added.insert(config.digest(), config.bytes);
        self.added.insert(manifest.digest(), manifest.bytes.clone());
        Ok(Some(manifest))
    }
}

fn path_of(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}

/// What of a program goes into the layer.
struct Parts {
    names: Vec<Name>,
    attributes: tar::Attributes,
    is_plain: bool,
    bytes: Vec<u8>,
}

impl Parts {
    fn of(program: &Program, bytes: Vec<u8>) -> Self {
        let (names, attributes) = (program.names.clone(), program.attributes.clone());
        Self { names, attributes, is_plain: program.is_plain, bytes }
    }
}

/// The layer with the `patched` files under all their names, the directories above them, and the `record`.
fn layer_of(merged: &Merged, patched: &[Parts], record: &[u8]) -> Result<Vec<u8>> {
    let mut tar = tar::Writer::default();
    let mut made: HashSet<Vec<u8>> = HashSet::new();
    let mut parents = |tar: &mut tar::Writer, path: &[u8], make: bool| -> Result<()> {
        let mut above: Vec<&[u8]> = merged::ancestors(path).collect();
        above.reverse();
        for directory in above {
            if !made.insert(directory.to_owned()) {
                continue;
            }
            match merged.directories.get(directory) {
                Some(headers) => tar.raw(headers, &[]),
                None if make => tar.directory(directory)?,
                // No layer says what it is: the engines made it when they unpacked what is in it.
                None => {}
            }
        }
        Ok(())
    };
    // The record first: whoever reads the layer knows from the begin what to look for.
    parents(&mut tar, record::PATH.as_bytes(), true)?;
    tar.file(record::PATH.as_bytes(), &tar::own_attributes(), record)?;
    for Parts { names, attributes, is_plain, bytes } in patched {
        for name in names {
            parents(&mut tar, &name.path, false)?;
        }
        let first = &names[0];
        if first.target.is_none() && *is_plain {
            tar.raw(&first.headers, bytes);
        } else {
            tar.file(&first.path, attributes, bytes)?;
        }
        for name in &names[1..] {
            if name.target.as_ref() == Some(&first.path) {
                tar.raw(&name.headers, &[]);
            } else {
                tar.hard_link(&name.path, &first.path, attributes)?;
            }
        }
    }
    Ok(tar.finish())
}

fn required_record(merged: &Merged) -> Result<ImageRecord> {
    let json = merged.record.as_ref().ok_or_else(|| {
        let message = format!("the image has no record (/{})", record::PATH);
        Error::new(ErrorKind::Record, message).remedy("it is not one that vsyspatch patched")
    })?;
    ImageRecord::from_json(json)
}

/// Checks the image `reference`, which the user calls `name`, against the record in it, and that it comes of the
/// image `against`.
///
/// # Errors
/// Those of [`scan`]; `Record` where the image has no record.
pub fn verify(reference: &Reference, name: &Path, against: Option<&Reference>) -> Result<Tree> {
    struct Verify {
        /// Digests of the manifests that it may come of.
        sources: Option<Vec<Digest>>,
    }
    impl Work for Verify {
        fn on(
            &mut self,
            seen: Seen,
            shown: &dyn Fn(&Path) -> PathBuf,
            tree: &mut Tree,
        ) -> Result<Option<Document>> {
            let record = required_record(&seen.merged)?;
            tree.findings.extend(differences(&seen, &record)?);
            let original = Digest::of(record.manifest.as_bytes());
            if self.sources.as_ref().is_some_and(|sources| !sources.contains(&original)) {
                let message =
                    format!("it comes of the image {original}, not of the one that it is compared with");
                tree.findings.push(finding("not-of-source", message, None));
            }
            for mut program in seen.merged.programs {
                let findings = program.findings.take();
                tree.files.push(told(program, shown, |file| {
                    let left = || file.plan.as_ref().map_or_else(Vec::new, verify::sites_left_in);
                    Action::Verified(findings.unwrap_or_else(left))
                }));
            }
            Ok(None)
        }
    }
    let sources = match against {
        Some(against) => {
            let source = Opened::open(against)?;
            let listed = source.root.manifests()?.unwrap_or_default();
            let digests = listed.into_iter().map(|descriptor| descriptor.digest);
            Some(digests.chain([source.root.digest()]).collect())
        }
        None => None,
    };
    Ok(each(&Opened::open(reference)?, name, &mut Verify { sources })?.0)
}

/// Where the image is not the recorded one plus one layer, and where recorded files are gone.
fn differences(seen: &Seen, record: &ImageRecord) -> Result<Vec<verify::Finding>> {
    let mut findings = Vec::new();
    let visible: HashMap<&[u8], &Program> = seen
        .merged
        .programs
        .iter()
        .flat_map(|program| program.names.iter().map(move |name| (name.path.as_slice(), program)))
        .collect();
    for entry in &record.files {
        let all: Vec<_> =
            entry.paths.iter().map(|path| visible.get(path.as_path().as_os_str().as_bytes())).collect();
        for (path, _) in entry.paths.iter().zip(&all).filter(|(_, found)| found.is_none()) {
            let message = format!("/{} is gone or replaced", path.as_path().display());
            findings.push(finding("file-missing", message, None));
        }
        let mut found = all.into_iter().flatten().map(|program| std::ptr::from_ref(*program));
        let first = found.next();
        if found.any(|other| Some(other) != first) {
            let message =
                format!("the names of /{} are not links to one file", entry.paths[0].as_path().display());
            findings.push(finding("link-group-broken", message, None));
        }
    }
    let (manifest, config) = originals(record)?;
    let (layers, diff_ids, base) = (seen.manifest.layers()?, seen.config.diff_ids()?, config.diff_ids()?);
    if diff_ids.len() <= base.len() || !diff_ids.starts_with(&base) {
        findings.push(finding("layers-changed", "the layers are not those of the original plus one", None));
        return Ok(findings);
    }
    // Layers on top are somebody else's work; without them, every word must be the patch's.
    if layers.len() == base.len() + 1 {
        let layer = NewLayer {
            diff_id: diff_ids[base.len()].clone(),
            digest: layers[base.len()].digest.clone(),
            size: layers[base.len()].size,
            labels: own_labels(&seen.config),
        };
        let expected = document::config_with(&config, &layer);
        if expected.value() != seen.config.value() {
            findings.push(finding(
                "config-changed",
                "the configuration has other changes than the patch's",
                None,
            ));
        }
        // An engine that had the image in its store makes a manifest of its own.
        let is_as_written =
            seen.manifest.names(label::ORIGINAL_MANIFEST) && holds_layers_of(&seen.manifest, &manifest)?;
        let expected = document::manifest_with(&manifest, &seen.config, &layer);
        if is_as_written && expected.value() != seen.manifest.value() {
            findings.push(finding(
                "manifest-changed",
                "the manifest has other changes than the patch's",
                None,
            ));
        }
    }
    Ok(findings)
}

/// The labels that a patch gave to the image of `config`.
fn own_labels(config: &Document) -> Vec<(String, String)> {
    let labels = config.value().pointer("/config/Labels");
    let label = |key: &str| Some((key.to_owned(), labels?.get(key)?.as_str()?.to_owned()));
    label::ALL.into_iter().filter_map(label).collect()
}

/// Manifest and configuration of the original.
fn originals(record: &ImageRecord) -> Result<(Document, Document)> {
    let manifest = Document::parse(record.manifest.clone().into_bytes())?;
    let config = Document::parse(record.config.clone().into_bytes())?;
    if manifest.config()?.digest != config.digest() {
        return Err(Error::new(ErrorKind::Record, "the record's manifest is not of its configuration"));
    }
    Ok((manifest, config))
}

/// Writes the original of the patched image `reference`, which the user calls `name`, to `output`.
///
/// # Errors
/// Those of [`verify`], and of writing; `Mismatch` where layers were put on top of the patch.
pub fn revert(reference: &Reference, name: &Path, output: Option<&Reference>) -> Result<Tree> {
    let opened = Opened::open(reference)?;
    let mut work = Revert { added: BTreeMap::new(), dry_run: output.is_none() };
    let (mut tree, root) = each(&opened, name, &mut work)?;
    if let (Some(root), Some(output)) = (root, output) {
        write(&opened, output, &root, &work.added, &mut tree)?;
    }
    Ok(tree)
}

/// Takes the layer of the patch away.
struct Revert {
    added: BTreeMap<Digest, Vec<u8>>,
    dry_run: bool,
}

impl Work for Revert {
    fn on(
        &mut self,
        seen: Seen,
        shown: &dyn Fn(&Path) -> PathBuf,
        tree: &mut Tree,
    ) -> Result<Option<Document>> {
        let record = required_record(&seen.merged)?;
        let (manifest, config) = originals(&record)?;
        let (diff_ids, base) = (seen.config.diff_ids()?, config.diff_ids()?);
        if diff_ids.len() != base.len() + 1 || !diff_ids.starts_with(&base) {
            let message = "the image is not the original plus the layer of the patch";
            return Err(Error::new(ErrorKind::Mismatch, message)
                .remedy("revert the image that the patch wrote, and put later layers on top again"));
        }
        for mut program in seen.merged.programs {
            let is_ours = program.findings.take().is_some();
            let path = path_of(&program.names[0].path);
            let entry = record.files.iter().find(|entry| entry.paths.iter().any(|own| own.as_path() == path));
            let (true, Some(entry)) = (is_ours, entry) else { continue };
            let written = Written {
                direction: Direction::Revert,
                dry_run: self.dry_run,
                output: None,
                sha256: entry.record.original,
                edits: crate::apply::inverse(&entry.record.edits),
                record: None,
            };
            tree.files.push(told(program, shown, |_| Action::Written(written)));
        }
        // Where an engine compressed the layers anew, the image is the same and its manifest another one.
        let manifest = if holds_layers_of(&seen.manifest, &manifest)? {
            manifest
        } else {
            document::manifest_without_top(&seen.manifest, &config, &label::ALL)
        };
        self.added.insert(config.digest(), config.bytes);
        self.added.insert(manifest.digest(), manifest.bytes.clone());
        Ok(Some(manifest))
    }
}

/// Whether the lowest layers of `manifest` are those of `base`, blob for blob.
fn holds_layers_of(manifest: &Document, base: &Document) -> Result<bool> {
    let (layers, base) = (manifest.layers()?, base.layers()?);
    Ok(layers.len() >= base.len() && layers.iter().zip(&base).all(|(a, b)| a.digest == b.digest))
}

impl ImageFacts {
    /// Whether all of the image was looked into.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.not_scanned.is_empty()
    }
}
