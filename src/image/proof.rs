//! Where a patched image is not what the patch of its original writes: the layer, the documents and the index are
//! made once more of the record, and compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::Value;

use super::blobs::{Blobs, Opened};
use super::document::{self, Descriptor, Digest, Document, NewLayer};
use super::epoch::Epoch;
use super::layer::Layer;
use super::merged::{ImagePath, Program, ancestors};
use super::names;
use super::record::{self, ImageRecord};
use super::tar::{self, Archive, Attributes, Kind};
use super::{Context, Reference, Seen, holds_layers_of, label, originals, path_of};
use crate::error::Result;
use crate::verify::{Finding, finding};

/// Names of a layer that are told one by one; whoever sees so many needs no more of them.
const NAMES_TOLD: usize = 32;

/// The image that the patched one must come of.
pub(super) struct Source {
    root: Document,
    name: Option<String>,
    /// Digests of the root, and of the manifests that it lists.
    digests: Vec<Digest>,
}

impl Source {
    pub(super) fn open(reference: &Reference, context: &Context) -> Result<Self> {
        let Opened { root, name, .. } = Opened::open(reference)?.within(context)?;
        let listed = root.manifests()?.unwrap_or_default();
        let digests = listed.into_iter().map(|descriptor| descriptor.digest).chain([root.digest()]).collect();
        Ok(Self { root, name, digests })
    }

    /// Where the image `seen`, made of the manifest `original`, is not of this one.
    pub(super) fn differences(&self, seen: &Seen, original: &Digest) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.digests.contains(original) {
            let message =
                format!("it comes of the image {original}, not of the one that it is compared with");
            findings.push(finding("not-of-source", message, None));
        }
        let told = label_of(&seen.config, label::BASE_NAME);
        // A tag alone, of a layout, is not the name of an image.
        if let (Some(told), Some(name)) = (told, self.name.as_ref().filter(|name| names::is_whole(name)))
            && names::is_whole(&told)
            && *original != seen.manifest.digest()
            && repository_of(&told) != repository_of(name)
        {
            let message = format!("it says that it was made of {told}, and is compared with {name}");
            findings.push(finding("base-name-changed", message, None));
        }
        findings
    }

    /// Where the index `root` is not this one with the images replaced that `originals` knows: the manifest of each
    /// image, and the digest of what it was made of.
    pub(super) fn of_index(
        &self,
        root: &Document,
        originals: &HashMap<Digest, (Document, Digest)>,
    ) -> Result<Option<Finding>> {
        let Some(manifests) = root.manifests()? else { return Ok(None) };
        let sources = self.root.manifests()?.unwrap_or_default();
        let mut replaced = Vec::new();
        for (number, (own, source)) in manifests.iter().zip(&sources).enumerate() {
            let patched = originals.get(&own.digest).filter(|(_, original)| *original == source.digest);
            replaced.extend(patched.map(|(manifest, _)| (number, manifest.clone())));
        }
        let expected = document::index_with(&self.root, &replaced);
        let message = "the index is not that of the source with the patched images in their places";
        Ok((expected.value() != root.value()).then(|| finding("index-changed", message, None)))
    }
}

/// A name without tag, digest, and what Docker leaves out.
fn repository_of(name: &str) -> String {
    let name = names::full(name);
    let name = name.split_once('@').map_or(name.as_str(), |(name, _)| name);
    names::split(name).0.to_owned()
}

/// Where the image in `blobs` is not the recorded one plus one layer, and where recorded files are gone. With
/// `is_alone` nothing may lie on top of that layer.
pub(super) fn differences(
    blobs: &Blobs,
    seen: &Seen,
    record: &ImageRecord,
    is_alone: bool,
) -> Result<Vec<Finding>> {
    let mut findings = files_gone(seen, record);
    let (manifest, config) = originals(record)?;
    let (layers, diff_ids, base) = (seen.manifest.layers()?, seen.config.diff_ids()?, config.diff_ids()?);
    if diff_ids.len() <= base.len() || !diff_ids.starts_with(&base) {
        findings.push(finding("layers-changed", "the layers are not those of the original plus one", None));
        return Ok(findings);
    }
    let (top, diff_id) = (&layers[base.len()], &diff_ids[base.len()]);
    let in_layer = |error: crate::error::Error| error.within(format_args!("layer {}", top.digest));
    let below = Below::of(seen, record)?;
    findings.extend(below.findings);
    let layer = Added::read(blobs, top, record, &below.expected).map_err(in_layer)?;
    let mtime = layer.mtime;
    findings.extend(layer.findings());
    if layers.len() > base.len() + 1 {
        // Somebody else's work, which changes the documents as it likes.
        let message = format!("{} more layers lie on top of the patch's", layers.len() - base.len() - 1);
        findings.extend(is_alone.then(|| finding("layers-changed", message, None)));
        return Ok(findings);
    }
    let new = NewLayer {
        diff_id: diff_id.clone(),
        digest: top.digest.clone(),
        size: top.size,
        created: created(&seen.config, &config, mtime),
        labels: labels(record, &manifest, &config, &seen.config),
    };
    if document::config_with(&config, &new).value() != seen.config.value() {
        let message = "the configuration has other changes than the patch's";
        findings.push(finding("config-changed", message, None));
    }
    let expected = document::manifest_with(&manifest, &seen.config, &new);
    let is_sound = if is_as_written(blobs, &seen.manifest, &manifest, &expected)? {
        expected.value() == seen.manifest.value()
    } else {
        is_of_engine(seen.manifest.value(), expected.value())
    };
    if !is_sound {
        let message = "the manifest has other changes than the patch's";
        findings.push(finding("manifest-changed", message, None));
    }
    Ok(findings)
}

/// Recorded files that are gone, and their links that are broken.
fn files_gone(seen: &Seen, record: &ImageRecord) -> Vec<Finding> {
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
        if found.any(|other| Some(other) != first)
            && let Some(path) = entry.paths.first()
        {
            let message = format!("the names of /{} are not links to one file", path.as_path().display());
            findings.push(finding("link-group-broken", message, None));
        }
    }
    findings
}

/// What the patch found: the files and directories of the layers below its own.
struct Below<'a> {
    /// The attributes that a name may have in the layer of the patch: those of the file, and those of its own entry,
    /// which are others where a link says something else than the file. A name without any was in no layer.
    expected: HashMap<&'a [u8], Vec<Attributes>>,
    /// Recorded files that are not there as recorded.
    findings: Vec<Finding>,
}

impl<'a> Below<'a> {
    fn of(seen: &'a Seen, record: &ImageRecord) -> Result<Self> {
        let (mut expected, mut findings, mut found) = (HashMap::new(), Vec::new(), HashMap::new());
        let merged = seen.below.as_ref();
        for program in merged.iter().flat_map(|merged| &merged.programs) {
            for name in &program.names {
                let own = Attributes::of_headers(&name.headers)?;
                expected.insert(name.path.as_slice(), vec![program.attributes.clone(), own]);
                found.insert(name.path.as_slice(), program);
            }
        }
        for (path, headers) in merged.iter().flat_map(|merged| &merged.directories) {
            expected.insert(path.as_slice(), vec![Attributes::of_headers(headers)?]);
        }
        for entry in &record.files {
            for path in &entry.paths {
                let path = path.as_path();
                let program = found.get(path.as_os_str().as_bytes());
                let sum = program.and_then(|program| program.result.as_ref().ok()?.sha256);
                if sum != Some(entry.record.original) {
                    let message =
                        format!("/{} of the layers below is not the recorded original", path.display());
                    findings.push(finding("not-of-original", message, None));
                }
            }
        }
        Ok(Self { expected, findings })
    }
}

/// Where `own` is none of the `expected` attributes, and differs from the first ones.
fn attributes_changed(path: &[u8], own: &Attributes, expected: &[Attributes]) -> Vec<Finding> {
    let differences = |other: &Attributes| {
        let name = path_of(path);
        let (name, mut all) = (name.display(), Vec::new());
        let mut tell = |slug, message| all.push(finding(slug, message, None));
        if own.mode() != other.mode() {
            let message = format!("the mode of /{name} is {:o}, and was {:o}", own.mode(), other.mode());
            tell("mode-changed", message);
        }
        if own.owner() != other.owner() {
            let [(uid, gid), (old_uid, old_gid)] = [own, other].map(Attributes::owner);
            let message = format!("the owner of /{name} is {uid}:{gid}, and was {old_uid}:{old_gid}");
            tell("owner-changed", message);
        }
        if own.mtime() != other.mtime() {
            let [now, before] = [own, other].map(Attributes::mtime);
            let message = format!("the time of /{name} is {now}, and was {before}");
            tell("mtime-changed", message);
        }
        if own.xattrs() != other.xattrs() {
            tell("xattrs-changed", format!("the extended attributes of /{name} are not those of before"));
        }
        all
    };
    let mut all: Vec<_> = expected.iter().map(differences).collect();
    if all.iter().any(Vec::is_empty) || all.is_empty() { vec![] } else { all.swap_remove(0) }
}

/// What the layer of the patch holds besides what the record says.
struct Added {
    /// Names that are neither recorded files, nor the record, nor directories above these.
    others: BTreeSet<ImagePath>,
    /// Where entries are not as the files of the layers below.
    changed: BTreeMap<ImagePath, Vec<Finding>>,
    /// The time of the record's file, which is that of the patch; nothing where the record is not in the layer.
    mtime: Option<u64>,
}

impl Added {
    fn read(
        blobs: &Blobs,
        layer: &Descriptor,
        record: &ImageRecord,
        expected: &HashMap<&[u8], Vec<Attributes>>,
    ) -> Result<Self> {
        let mut added = Self { others: BTreeSet::new(), changed: BTreeMap::new(), mtime: None };
        if layer.not_scanned().is_some() {
            return Ok(added);
        }
        let paths = record.files.iter().flat_map(|entry| &entry.paths);
        let files: BTreeSet<&[u8]> = paths.map(|path| path.as_path().as_os_str().as_bytes()).collect();
        let own = record::PATH.as_bytes();
        let above: BTreeSet<&[u8]> = files.iter().copied().chain([own]).flat_map(ancestors).collect();
        let mut archive = Archive::new(Layer::new(blobs.described(layer)?)?);
        while let Some(entry) = archive.next_entry()? {
            let path = entry.path.as_slice();
            let is_known = match entry.kind {
                Kind::File if path == own => {
                    added.mtime = Some(entry.attributes.mtime());
                    true
                }
                Kind::File | Kind::HardLink => files.contains(path),
                Kind::Directory => above.contains(path),
                Kind::SymbolicLink | Kind::Other => false,
            };
            // One more than is told says that there are more.
            if !is_known {
                if added.others.len() <= NAMES_TOLD {
                    added.others.insert(entry.path);
                }
                continue;
            }
            // What no layer had was made now.
            let mtime = entry.attributes.mtime();
            let made =
                if path == own { tar::own_attributes(mtime) } else { tar::directory_attributes(mtime) };
            let before = match expected.get(path).filter(|_| path != own) {
                Some(before) => before.as_slice(),
                None if path == own || entry.kind == Kind::Directory => std::slice::from_ref(&made),
                None => &[],
            };
            // Of several entries for a name the last one counts.
            let changed = attributes_changed(path, &entry.attributes, before);
            added.changed.insert(entry.path, changed);
        }
        Ok(added)
    }

    fn findings(self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.changed.into_values().flatten().collect();
        let told = self.others.iter().take(NAMES_TOLD);
        findings.extend(told.map(|path| {
            let path = path_of(path);
            let message = format!("/{} is in the layer of the patch and not in its record", path.display());
            finding("file-not-recorded", message, None)
        }));
        if self.others.len() > NAMES_TOLD {
            let message = format!("more than {NAMES_TOLD} names in the layer of the patch are not recorded");
            findings.push(finding("file-not-recorded", message, None));
        }
        if self.mtime.is_none() {
            let message = "the layer above those of the original does not hold the record";
            findings.push(finding("layers-changed", message, None));
        }
        findings
    }
}

/// When an image says that it was made whose record is of `mtime`, where that is not when the original was: the time
/// of `SOURCE_DATE_EPOCH`, which is that of the record, too.
fn created(own: &Document, original: &Document, mtime: Option<u64>) -> Option<String> {
    let epoch = Epoch::parse(OsStr::new(&mtime?.to_string())).ok()?;
    let text = epoch.to_string();
    // Without the variable the record is of 1970.
    let is_of_epoch = epoch.seconds() > 0 || own.created().as_ref() == Some(&text);
    (is_of_epoch && original.created().as_ref() != Some(&text)).then_some(text)
}

/// The labels that the patch gives to an image of the original `manifest` and `config`. The name is not in the record:
/// it is that of the patched configuration `own`.
fn labels(
    record: &ImageRecord,
    manifest: &Document,
    config: &Document,
    own: &Document,
) -> Vec<(String, String)> {
    let name = label_of(own, label::BASE_NAME);
    label::of(manifest, config, &record.tool.version, name)
}

fn label_of(config: &Document, key: &str) -> Option<String> {
    Some(config.value().pointer("/config/Labels")?.get(key)?.as_str()?.to_owned())
}

/// Whether the manifest `own` is one that a patch wrote of `original`, where `expected` is: an engine that had the
/// image in its store packs the layers anew, or makes a manifest of the other family.
fn is_as_written(blobs: &Blobs, own: &Document, original: &Document, expected: &Document) -> Result<bool> {
    let top = |manifest: &Document| -> Result<Option<String>> {
        Ok(manifest.layers()?.pop().map(|layer| layer.media_type))
    };
    Ok(!blobs.has_made(&own.digest())
        && own.media_type() == expected.media_type()
        && top(own)? == top(expected)?
        && holds_layers_of(own, original)?)
}

/// Whether the manifest `own` has nothing that an engine would not write: configuration and layers, which are
/// compared by their checksums, and annotations that are `expected`.
fn is_of_engine(own: &Value, expected: &Value) -> bool {
    /// Annotations that podman gives to layers that it compressed.
    const OF_PODMAN: &str = "io.github.containers.zstd-chunked.";
    let keys = |value: &Value, known: &[&str]| {
        value.as_object().is_some_and(|all| all.keys().all(|key| known.contains(&key.as_str())))
    };
    let annotations = |value: &Value, is_known: &dyn Fn(&str, &Value) -> bool| match value.get("annotations")
    {
        None | Some(Value::Null) => true,
        Some(all) => all.as_object().is_some_and(|all| all.iter().all(|(key, value)| is_known(key, value))),
    };
    let is_layer = |layer: &Value| {
        keys(layer, &["mediaType", "digest", "size", "annotations"])
            && annotations(layer, &|key, _| key.starts_with(OF_PODMAN))
    };
    let is_expected = |key: &str, value: &Value| {
        expected.pointer("/annotations").and_then(|all| all.get(key)) == Some(value)
    };
    keys(own, &["schemaVersion", "mediaType", "config", "layers", "annotations"])
        && annotations(own, &is_expected)
        && own.get("config").is_some_and(|config| keys(config, &["mediaType", "digest", "size"]))
        && own.get("layers").and_then(Value::as_array).is_some_and(|layers| layers.iter().all(is_layer))
}
