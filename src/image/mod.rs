//! An image from its name to its outcome: layers -> final tree -> programs -> plan -> one more layer. No printing.
//!
//! **Invariants.** Nothing is unpacked to the disk and nothing of the image is run. What is patched is what the
//! final tree shows, with all its names. The new image is the old one plus one layer; its documents keep
//! everything that nobody here knows. The record in that layer holds the old documents, byte for byte: without
//! the layer they are the old image again.

pub mod blobs;
pub mod cache;
pub mod document;
mod engine;
pub mod epoch;
pub mod layer;
pub mod legacy;
pub mod merged;
mod names;
mod proof;
pub mod recent;
pub mod record;
pub mod reference;
pub mod registry;
pub mod resolve;
pub mod tar;
pub mod writer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use blobs::{Blobs, Opened};
pub use cache::Cache;
pub use document::Platform;
use document::{Descriptor, Digest, Document, NewLayer};
pub use epoch::Epoch;
use layer::{Layer, NewTar};
use merged::{Collector, Merged, Name, Noted, Program};
use proof::Source;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use recent::Recent;
use record::{Entry, ImageRecord};
pub use reference::Reference;
use writer::Image;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::outcome::{Action, Direction, File, ImageFacts, Tree, TreeFile, Unchanged, Written};
use crate::plan::Via;
use crate::record::Record;
use crate::verify;

/// What a run has besides the image.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What is known of layers; nothing where all of them are to be read.
    pub cache: Option<Cache>,
    /// Whoever watches.
    pub watch: Option<Arc<dyn Watch>>,
    /// The image of an index that is meant; nothing where all for x86-64 are.
    pub platform: Option<Platform>,
    /// When what is written was made, in seconds since 1970 (`SOURCE_DATE_EPOCH`); nothing where it is to be as old
    /// as the image that it is made of.
    pub epoch: Option<Epoch>,
    /// What calls become.
    pub via: Via,
}

impl Context {
    fn recent(&self) -> Option<&Recent> {
        self.cache.as_ref().and_then(Cache::recent)
    }
}

/// Somebody who watches blobs go by.
pub trait Watch: std::fmt::Debug + Send + Sync {
    /// The blob `digest` of `size` bytes is read from now on: what takes the number of bytes each time, and is
    /// dropped at the end.
    fn begin(&self, digest: &Digest, size: u64) -> Box<dyn FnMut(u64)>;
}

/// Labels of a patched image.
mod label {
    pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
    pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
    pub const VERSION: &str = "dev.vsyspatch.version";
    pub const ORIGINAL_MANIFEST: &str = "dev.vsyspatch.original.manifest";
    pub const ORIGINAL_CONFIG: &str = "dev.vsyspatch.original.config";
    pub const ALL: [&str; 5] = [BASE_DIGEST, VERSION, ORIGINAL_MANIFEST, ORIGINAL_CONFIG, BASE_NAME];

    /// Those of an image that this `version` made of the one of `manifest` and `config`, which is called `name`.
    pub fn of(
        manifest: &super::Document,
        config: &super::Document,
        version: &str,
        name: Option<String>,
    ) -> Vec<(String, String)> {
        let mut labels = vec![
            (BASE_DIGEST.to_owned(), manifest.digest().to_string()),
            (VERSION.to_owned(), version.to_owned()),
            (ORIGINAL_MANIFEST.to_owned(), manifest.digest().to_string()),
            (ORIGINAL_CONFIG.to_owned(), config.digest().to_string()),
        ];
        labels.extend(name.map(|name| (BASE_NAME.to_owned(), name)));
        labels
    }
}

/// One image for x86-64, with everything in its final tree that there is something to say of.
struct Seen {
    manifest: Document,
    config: Document,
    merged: Merged,
    /// The tree below the layer with the record, where there is one and it is asked for.
    below: Option<Merged>,
    /// Layers and names that cannot be looked into, and why.
    not_scanned: Vec<String>,
    /// Number of the topmost layer that cannot be looked into.
    topmost_unread: Option<usize>,
}

/// Looks at the image of `manifest`; also at what lies below the record where that is compared.
fn look(blobs: &Blobs, manifest: Document, is_compared: bool) -> Result<Seen> {
    let config = blobs.document(&manifest.config()?.digest)?;
    let (layers, diff_ids) = (manifest.layers()?, config.diff_ids()?);
    if layers.len() != diff_ids.len() {
        let message =
            format!("the manifest has {} layers, the configuration {}", layers.len(), diff_ids.len());
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    let mut collector = Collector::new(blobs.context.via, blobs.context.recent());
    let mut checked = checks_of_known(blobs, &layers);
    let (mut not_scanned, mut topmost_unread) = (Vec::new(), None);
    let mut below: Option<Collector> = None;
    for (number, (layer, diff_id)) in layers.iter().zip(&diff_ids).enumerate().rev() {
        let in_layer = |error: Error| error.within(format_args!("layer {}", layer.digest));
        if let Some(why) = layer.not_scanned() {
            not_scanned.push(format!("layer {}: {why}", layer.digest));
            topmost_unread = topmost_unread.or(Some(number));
            continue;
        }
        let check = || checked.remove(&layer.digest).unwrap_or_else(|| blobs.check(layer));
        let noted = contents(blobs, layer, diff_id, &collector, check).map_err(in_layer)?;
        if is_compared {
            below = below.or_else(|| collector.below_record());
            below.iter_mut().for_each(|below| drop(below.add(number, &noted)));
        }
        not_scanned.extend(
            collector
                .add(number, &noted)
                .iter()
                .map(|(path, why)| format!("layer {}: /{} {why}", layer.digest, path_of(path).display())),
        );
    }
    let below = below.map(Collector::finish);
    Ok(Seen { manifest, config, merged: collector.finish(), below, not_scanned, topmost_unread })
}

/// Which of the `layers` that something is known of are what their digests say: checksums are all that such a layer
/// costs, and so all processors work on them.
fn checks_of_known(blobs: &Blobs, layers: &[Descriptor]) -> HashMap<Digest, Result<()>> {
    let Some(cache) = &blobs.context.cache else { return HashMap::new() };
    let known = layers.par_iter().filter(|layer| layer.not_scanned().is_none() && cache.has(&layer.digest));
    known.map(|layer| (layer.digest.clone(), blobs.check(layer))).collect()
}

/// What the layer has that is to be added to the `collector`: what is known of it where the `check` holds, or all of
/// it is read.
fn contents(
    blobs: &Blobs,
    layer: &Descriptor,
    diff_id: &Digest,
    collector: &Collector,
    check: impl FnOnce() -> Result<()>,
) -> Result<Arc<Vec<Noted>>> {
    let cache = blobs.context.cache.as_ref();
    let known = cache.and_then(|cache| cache.get(&layer.digest, diff_id));
    if let Some(known) = known.filter(|known| collector.can_add(known)) {
        check()?;
        return Ok(known);
    }
    let read = |holding| -> Result<Option<Vec<Noted>>> {
        let mut archive = tar::Archive::new(Layer::new(blobs.described(layer)?)?);
        let Some(noted) = collector.note(&mut archive, holding)? else { return Ok(None) };
        archive.finish()?.check(Some(&layer.digest), Some(diff_id))?;
        Ok(Some(noted))
    };
    let noted = match read(false)? {
        Some(noted) => noted,
        None => read(true)?.ok_or_else(|| Error::new(ErrorKind::Mismatch, "it changed while it was read"))?,
    };
    let noted = Arc::new(noted);
    if let Some(cache) = cache.filter(|_| Noted::are_memorable(&noted)) {
        cache.put(&layer.digest, diff_id, &noted);
    }
    Ok(noted)
}

/// What is done with each image for x86-64 behind a name.
trait Work {
    /// Whether it compares what the patch wrote with what is below.
    const COMPARES: bool = false;

    /// Tells what there is in `tree`; a new manifest, where there is to be one.
    fn on(&mut self, seen: Seen, shown: &Shown<'_>, tree: &mut Tree) -> Result<Option<Document>>;
}

/// What comes in the place of an image.
struct New {
    root: Document,
    /// What is replaced: index and manifests.
    outdated: Vec<Digest>,
}

/// Looks at every image for x86-64 of `opened`, does the `work` on it, and gives what is new, where there is something.
fn each<W: Work>(opened: &Opened, name: &Path, work: &mut W) -> Result<(Tree, Option<New>)> {
    let begun = Instant::now();
    let mut tree = Tree::default();
    let mut facts = ImageFacts { digest: opened.root.digest().to_string(), ..ImageFacts::default() };
    let mut one = |manifest: Document, platform: Option<&str>, tree: &mut Tree| -> Result<Option<Document>> {
        let seen = look(&opened.blobs, manifest, W::COMPARES)?;
        tree.seen.files += seen.merged.seen.files;
        tree.seen.candidates += seen.merged.seen.candidates;
        tree.seen.bytes += seen.merged.seen.bytes;
        facts.layers += seen.manifest.layers()?.len();
        facts.not_scanned.extend(seen.not_scanned.iter().cloned());
        let layers = seen.manifest.layers()?.into_iter().map(|layer| layer.digest).collect();
        let shown = Shown { name, platform, layers };
        work.on(seen, &shown, tree)
    };
    let (mut nested, mut outdated) = (Vec::new(), Vec::new());
    let root = match opened.root.manifests()? {
        None => one(opened.root.clone(), None, &mut tree)?,
        Some(manifests) => {
            if manifests.iter().filter(|descriptor| descriptor.is_for_x86_64()).count() > limits::INDEX_IMAGES
            {
                let message = format!("an index of more than {} images for x86-64", limits::INDEX_IMAGES);
                return Err(Error::new(ErrorKind::Malformed, message)
                    .remedy("choose one by its digest, or put fewer in one index"));
            }
            let (mut replaced, mut old) = (Vec::new(), vec![]);
            for (number, descriptor) in manifests.iter().enumerate() {
                if descriptor.is_schema1() {
                    nested.push(format!("manifest {}: it is of schema 1, in an index", descriptor.digest));
                }
                if !descriptor.is_for_x86_64() {
                    continue;
                }
                let manifest = opened.blobs.manifest(&descriptor.digest)?;
                if manifest.manifests()?.is_some() {
                    nested.push(format!("index {}: it is in an index", descriptor.digest));
                }
                if !manifest.is_image() {
                    continue;
                }
                if let Some(new) = one(manifest, Some("linux/amd64"), &mut tree)? {
                    replaced.push((number, new));
                    old.push(descriptor.digest.clone());
                }
            }
            outdated = old;
            (!replaced.is_empty()).then(|| document::index_with(&opened.root, &replaced))
        }
    };
    if root.is_some() {
        outdated.push(opened.root.digest());
        facts.outdated = opened.describing(&outdated)?;
    }
    tree.files.sort_by(|a, b| a.path.cmp(&b.path));
    tree.seen.seconds = begun.elapsed().as_secs_f64();
    facts.not_scanned.extend(nested);
    tree.image = Some(facts);
    Ok((tree, root.map(|root| New { root, outdated })))
}

/// How programs of an image are shown.
struct Shown<'a> {
    /// As the user calls the image, and its platform where that is one of an index.
    name: &'a Path,
    platform: Option<&'a str>,
    /// The layers, the lowest first.
    layers: Vec<Digest>,
}

impl Shown<'_> {
    fn path(&self, name: &Name) -> PathBuf {
        let mut shown = self.name.as_os_str().to_owned();
        if let Some(platform) = self.platform {
            shown.push(format!(" ({platform})"));
        }
        shown.push(":/");
        shown.push(OsStr::from_bytes(&name.path));
        PathBuf::from(shown)
    }

    /// A program as a file of the report.
    fn told(&self, program: Program, action: impl FnOnce(&File) -> Action) -> TreeFile {
        let path = self.path(&program.names[0]);
        let links = program.names[1..].iter().map(|name| self.path(name)).collect();
        let layer = self.layers.get(program.layer).map(ToString::to_string);
        let result = match program.result {
            Ok(file) => {
                let action = action(&file);
                Ok(File { path: path.clone(), links, layer, action, ..file })
            }
            Err(error) => Err(error.within(format_args!("layer {}", layer.unwrap_or_default()))),
        };
        TreeFile { path, result }
    }
}

/// Looks at the image `reference`, which the user calls `name`.
///
/// # Errors
/// `Malformed` for what is no image, `Mismatch` where its bytes are not those that it says; those of reading.
pub fn scan(reference: &Reference, name: &Path, context: &Context) -> Result<Tree> {
    struct Scan;
    impl Work for Scan {
        fn on(&mut self, seen: Seen, shown: &Shown<'_>, tree: &mut Tree) -> Result<Option<Document>> {
            for program in seen.merged.programs {
                tree.files.push(shown.told(program, |_| Action::Scanned));
            }
            Ok(None)
        }
    }
    Ok(each(&Opened::open(reference)?.within(context)?, name, &mut Scan)?.0)
}

/// Patches the image `reference`, which the user calls `name`, to `output`; without an output only tells what
/// would be done. Nothing is written where there is nothing to patch, unless `always`.
///
/// # Errors
/// Those of [`scan`], and of writing.
pub fn patch(
    reference: &Reference,
    name: &Path,
    output: Option<&Reference>,
    always: bool,
    context: &Context,
) -> Result<Tree> {
    output.map(Reference::require_new).transpose()?;
    let opened = Opened::open(reference)?.within(context)?;
    let mut work = Patch {
        recent: context.recent(),
        // A tag alone, of a layout, is not the name of an image.
        base_name: opened.name.clone().filter(|name| names::is_whole(name)),
        added: BTreeMap::new(),
        dry_run: output.is_none(),
        epoch: context.epoch,
    };
    let (mut tree, new) = each(&opened, name, &mut work)?;
    let new = match new {
        Some(new) => new,
        None if always => New { root: opened.root.clone(), outdated: vec![] },
        None => return Ok(tree),
    };
    write(&opened, output, &new, &work.added, &mut tree)?;
    Ok(tree)
}

/// Writes the `new` image to the `output`, where there is one, and asks meanwhile what is no longer valid by it.
fn write(
    opened: &Opened,
    output: Option<&Reference>,
    New { root, outdated }: &New,
    added: &BTreeMap<Digest, Vec<u8>>,
    tree: &mut Tree,
) -> Result<()> {
    let image = Image { root, added, source: &opened.blobs, name: opened.name.as_deref() };
    let cautions = output.map(|output| image.cautions(output)).transpose()?;
    tree.warnings.extend(cautions.unwrap_or_default());
    let written = || output.map(|output| image.write(output)).transpose();
    let (written, asked) = rayon::join(written, || opened.describing_in_registry(outdated));
    let written = written?;
    if let Some(facts) = &mut tree.image {
        facts.outdated.extend(asked);
    }
    let (Some(sent), Some(output)) = (written, output) else { return Ok(()) };
    if let Some(facts) = &mut tree.image {
        (facts.sent, facts.reference) = sent.map(|sent| (sent.bytes, sent.reference)).unzip();
        facts.output = Some((output.to_string(), root.digest().to_string()));
    }
    if let Some(index) = &opened.index {
        tree.warnings.push(format!(
            "one image of the index {index} was written, without the others; reverting it does not give the index back"
        ));
    }
    Ok(())
}

/// Makes the layer with the patched files.
struct Patch<'a> {
    recent: Option<&'a Recent>,
    base_name: Option<String>,
    added: BTreeMap<Digest, Vec<u8>>,
    dry_run: bool,
    epoch: Option<Epoch>,
}

impl Work for Patch<'_> {
    fn on(&mut self, seen: Seen, shown: &Shown<'_>, tree: &mut Tree) -> Result<Option<Document>> {
        let Seen { manifest, config, mut merged, topmost_unread, .. } = seen;
        let programs = std::mem::take(&mut merged.programs);
        let is_below = |program: &&Program| Some(program.layer) < topmost_unread && program.patched.is_some();
        if let Some(program) = programs.iter().find(is_below) {
            let path = path_of(&program.names[0].path);
            let message = format!("a layer that cannot be read may hide or replace /{}", path.display());
            return Err(Error::new(ErrorKind::Unsafe, message)
                .remedy("patch an image whose layers are all there to be read"));
        }
        let (mut patched, mut files) = (Vec::new(), Vec::new());
        for mut program in programs {
            let new = program.patched.take();
            if let Some(new) = new {
                let record = &new.0;
                let paths = program.names.iter().map(|name| path_of(&name.path).into()).collect();
                files.push(Entry { paths, record: record.clone() });
                let written = Written {
                    direction: Direction::Patch,
                    dry_run: self.dry_run,
                    output: None,
                    sha256: record.patched,
                    edits: record.edits.clone(),
                    record: None,
                };
                patched.push(Parts::of(&program, new));
                tree.files.push(shown.told(program, |_| Action::Written(written)));
            } else if program.findings.is_some() {
                let already = Action::Unchanged(Unchanged::AlreadyPatched { copy: None });
                tree.files.push(shown.told(program, |_| already));
            } else {
                tree.files.push(shown.told(program, |_| Action::Unchanged(Unchanged::Clean { copy: None })));
            }
        }
        if patched.is_empty() {
            return Ok(None);
        }
        if let Some(path) = &merged.in_place_of_record {
            let message = format!("/{} is no directory: the record has no place", path_of(path).display());
            return Err(Error::new(ErrorKind::Record, message));
        }
        let record = ImageRecord::new(&manifest, &config, files)?;
        let json = record.to_json();
        crate::store::check_record_size(json.len() as u64, limits::RECORD_BYTES)
            .map_err(|error| error.within("the record"))?;
        let tar = layer_of(&merged, &patched, &json, self.epoch)?;
        let compressed = || {
            let blob = tar.compressed(self.recent);
            blob.map(|blob| (Digest::of(&blob), blob))
        };
        let (diff_id, compressed) = rayon::join(|| tar.diff_id(), compressed);
        let (digest, blob) = compressed.map_err(|error| Error::io("cannot compress the layer", error))?;
        let labels = label::of(&manifest, &config, env!("CARGO_PKG_VERSION"), self.base_name.clone());
        let layer = NewLayer {
            diff_id,
            digest,
            size: blob.len() as u64,
            created: self.epoch.map(|epoch| epoch.to_string()),
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
    /// The header blocks of the image's own layer hold for what is patched, too.
    keeps_headers: bool,
    patched: Arc<(Record, Vec<u8>)>,
}

impl Parts {
    fn of(program: &Program, patched: Arc<(Record, Vec<u8>)>) -> Self {
        let (names, attributes) = (program.names.clone(), program.attributes.clone());
        let is_as_large = program.result.as_ref().is_ok_and(|file| file.size == patched.1.len() as u64);
        Self { names, attributes, keeps_headers: program.is_plain && is_as_large, patched }
    }
}

/// The layer with the `patched` files under all their names, the directories above them, and the `record`. What
/// the image has keeps its time; what the tool makes is of the `epoch`, or of 1970.
fn layer_of<'a>(
    merged: &Merged,
    patched: &'a [Parts],
    record: &'a [u8],
    epoch: Option<Epoch>,
) -> Result<NewTar<'a>> {
    let mtime = epoch.map_or(0, Epoch::seconds);
    let (mut own, mut tar) = (tar::Writer::default(), tar::Writer::default());
    let mut made: HashSet<Vec<u8>> = HashSet::new();
    let mut parents = |tar: &mut tar::Writer<'a>, path: &[u8], make: bool| -> Result<()> {
        let mut above: Vec<&[u8]> = merged::ancestors(path).collect();
        above.reverse();
        for directory in above {
            if !made.insert(directory.to_owned()) {
                continue;
            }
            match merged.directories.get(directory) {
                Some(headers) => tar.headers(headers.clone()),
                None if make => tar.directory(directory, mtime)?,
                // No layer says what it is: the engines made it when they unpacked what is in it.
                None => {}
            }
        }
        Ok(())
    };
    // The record first: whoever reads the layer knows from the begin what to look for.
    parents(&mut own, record::PATH.as_bytes(), true)?;
    own.file(record::PATH.as_bytes(), &tar::own_attributes(mtime), record)?;
    for Parts { names, attributes, keeps_headers, patched } in patched {
        let bytes = &patched.1;
        for name in names {
            parents(&mut tar, &name.path, false)?;
        }
        let first = &names[0];
        if first.target.is_none() && *keeps_headers {
            tar.raw(first.headers.clone(), bytes);
        } else {
            tar.file(&first.path, attributes, bytes)?;
        }
        for name in &names[1..] {
            if name.target.as_ref() == Some(&first.path) {
                tar.headers(name.headers.clone());
            } else {
                tar.hard_link(&name.path, &first.path, attributes)?;
            }
        }
    }
    tar.end();
    let sums = patched.iter().map(|parts| parts.patched.0.patched).collect();
    Ok(NewTar { own, files: tar, sums })
}

fn record_of(merged: &Merged) -> Result<Option<ImageRecord>> {
    merged.record.as_deref().map(ImageRecord::from_json).transpose()
}

/// Of the images of an index some may have had nothing to patch, but not all.
fn require_records(count: usize) -> Result<()> {
    if count > 0 {
        return Ok(());
    }
    let message = format!("the image has no record (/{})", record::PATH);
    Err(Error::new(ErrorKind::Record, message).remedy("it is not one that vsyspatch patched"))
}

/// Checks the image `reference`, which the user calls `name`, against the record in it, and that it comes of the
/// image `against`. All of it is read, whatever is known of its layers.
///
/// # Errors
/// Those of [`scan`]; `Record` where the image has no record.
pub fn verify(
    reference: &Reference,
    name: &Path,
    against: Option<&Reference>,
    context: &Context,
) -> Result<Tree> {
    struct Verify<'a> {
        blobs: &'a Blobs,
        source: Option<Source>,
        records: usize,
        /// The manifest of each image that has a record, by its digest, and the digest of what it was made of.
        originals: HashMap<Digest, (Document, Digest)>,
    }
    impl Work for Verify<'_> {
        const COMPARES: bool = true;

        fn on(&mut self, seen: Seen, shown: &Shown<'_>, tree: &mut Tree) -> Result<Option<Document>> {
            let mut original = seen.manifest.digest();
            if let Some(record) = record_of(&seen.merged)? {
                self.records += 1;
                let is_alone = self.source.is_some();
                tree.findings.extend(proof::differences(self.blobs, &seen, &record, is_alone)?);
                original = Digest::of(record.manifest.as_bytes());
                self.originals.insert(seen.manifest.digest(), (seen.manifest.clone(), original.clone()));
            }
            if let Some(source) = &self.source {
                tree.findings.extend(source.differences(&seen, &original));
            }
            for mut program in seen.merged.programs {
                let findings = program.findings.take();
                tree.files.push(shown.told(program, |file| {
                    let left = || file.plan.as_ref().map_or_else(Vec::new, verify::sites_left_in);
                    Action::Verified(findings.unwrap_or_else(left))
                }));
            }
            Ok(None)
        }
    }
    let source = against.map(|against| Source::open(against, context)).transpose()?;
    let context = Context { cache: None, ..context.clone() };
    let opened = Opened::open(reference)?.within(&context)?;
    let mut work = Verify { blobs: &opened.blobs, source, records: 0, originals: HashMap::new() };
    let (mut tree, _) = each(&opened, name, &mut work)?;
    if let Some(source) = &work.source {
        tree.findings.extend(source.of_index(&opened.root, &work.originals)?);
    }
    require_records(work.records)?;
    Ok(tree)
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
/// Those of [`verify()`], and of writing; `Mismatch` where layers were put on top of the patch.
pub fn revert(
    reference: &Reference,
    name: &Path,
    output: Option<&Reference>,
    context: &Context,
) -> Result<Tree> {
    output.map(Reference::require_new).transpose()?;
    let opened = Opened::open(reference)?.within(context)?;
    let mut work = Revert { added: BTreeMap::new(), dry_run: output.is_none(), records: 0 };
    let (mut tree, new) = each(&opened, name, &mut work)?;
    require_records(work.records)?;
    if let Some(new) = new {
        write(&opened, output, &new, &work.added, &mut tree)?;
    }
    Ok(tree)
}

/// Takes the layer of the patch away.
struct Revert {
    added: BTreeMap<Digest, Vec<u8>>,
    dry_run: bool,
    records: usize,
}

impl Work for Revert {
    fn on(&mut self, seen: Seen, shown: &Shown<'_>, tree: &mut Tree) -> Result<Option<Document>> {
        let Some(record) = record_of(&seen.merged)? else { return Ok(None) };
        self.records += 1;
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
            tree.files.push(shown.told(program, |_| Action::Written(written)));
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
