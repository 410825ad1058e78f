//! Where the documents and layers of an image are read from: a layout on the disk, or an archive of any
//! generation.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Context;
use super::document::{self, Descriptor, Digest, Document, media_type};
use super::engine;
use super::layer::Layer;
use super::legacy::{self, OldBlob, OldLayer};
use super::reference::Reference;
use super::registry::Repository;
use super::tar::{Archive, Kind};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::store::Source;

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// The blobs of an image.
#[derive(Debug)]
pub struct Blobs {
    place: Place,
    /// Documents that were made of those of an old image.
    made: HashMap<Digest, Vec<u8>>,
    /// What is known of layers, and who watches.
    pub(super) context: Context,
}

/// Where blobs are.
#[derive(Debug)]
enum Place {
    /// A directory with a file for each, by the digits of its digest: in a layout, or skopeo's own.
    Directory(PathBuf),
    /// A repository in a registry.
    Registry(Box<Repository>),
    /// The members of an archive.
    Members {
        /// The archive.
        file: File,
        /// Offset and size of each member.
        members: HashMap<Vec<u8>, (u64, u64)>,
        /// The member that holds each blob of an archive without a layout.
        paths: HashMap<Digest, Vec<u8>>,
    },
}

/// An image that can be read.
#[derive(Debug)]
pub struct Opened {
    /// Its blobs.
    pub blobs: Blobs,
    /// Its manifest, or an index of manifests.
    pub root: Document,
    /// Its name, where it says.
    pub name: Option<String>,
    /// What else the layout or archive lists.
    pub(super) others: Vec<Descriptor>,
    /// The index that the image was chosen of by its platform.
    pub(super) index: Option<Digest>,
}

/// A part of a file.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Blobs {
    fn at(place: Place) -> Self {
        Self { place, made: HashMap::new(), context: Context::default() }
    }

    /// The repository that they are in, where they are in a registry.
    #[must_use]
    pub fn repository(&self) -> Option<&Repository> {
        match &self.place {
            Place::Registry(repository) => Some(repository),
            Place::Directory(_) | Place::Members { .. } => None,
        }
    }

    /// Whether the document `digest` was made here of those of an archive or of an old image.
    pub(super) fn has_made(&self, digest: &Digest) -> bool {
        self.made.contains_key(digest)
    }

    /// Whether the blob `digest` is there, as far as that is known without asking a registry.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.made.contains_key(digest)
            || match &self.place {
                Place::Registry(_) => true,
                Place::Directory(path) => {
                    let own = format!("{}.manifest.json", digest.hex());
                    path.join(digest.hex()).exists() || path.join(own).exists()
                }
                Place::Members { members, paths, .. } => {
                    paths.contains_key(digest)
                        || members
                            .contains_key([b"blobs/sha256/", digest.hex().as_bytes()].concat().as_slice())
                }
            }
    }

    /// Reads the blob `digest`; whoever reads it all checks what it was.
    ///
    /// # Errors
    /// `Malformed` where the image has no such blob; those of reading.
    pub fn open(&self, digest: &Digest) -> Result<Box<dyn Read + '_>> {
        let missing = || {
            Error::new(ErrorKind::Malformed, format!("the image has no blob {digest}"))
                .remedy("it is incomplete: get it again")
        };
        if let Some(bytes) = self.made.get(digest) {
            return Ok(Box::new(bytes.as_slice()));
        }
        match &self.place {
            Place::Registry(repository) => Ok(Box::new(repository.blob(digest)?)),
            Place::Directory(path) => {
                let blob = path.join(digest.hex());
                let file = File::open(&blob).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => missing(),
                    _ => Error::io(format!("cannot open {}", blob.display()), error),
                })?;
                Ok(Box::new(BufReader::with_capacity(BUFFER, file)))
            }
            Place::Members { file, members, paths } => {
                let of_layout = || [b"blobs/sha256/", digest.hex().as_bytes()].concat();
                let path = paths.get(digest).cloned().unwrap_or_else(of_layout);
                let &(at, size) = members.get(&path).ok_or_else(missing)?;
                Ok(Box::new(BufReader::with_capacity(BUFFER, Part { file, at, end: at + size })))
            }
        }
    }

    /// Reads the blob that `of` describes; whoever reads it all checks what it was. It is no more than it
    /// should be.
    ///
    /// # Errors
    /// Those of [`Blobs::open`].
    pub fn described(&self, of: &Descriptor) -> Result<Box<dyn Read + '_>> {
        let blob = Box::new(Bounded { reader: self.open(&of.digest)?, left: of.size });
        Ok(match &self.context.watch {
            Some(watch) => Box::new(Watched { reader: blob, tell: watch.begin(&of.digest, of.size) }),
            None => blob,
        })
    }

    /// Checks that the layer is still there and what its digest says, without looking into it. What a registry
    /// gives for a digest is checked by everybody who gets it.
    ///
    /// # Errors
    /// `Mismatch` where it is something else; those of [`Blobs::open`].
    pub(super) fn check(&self, layer: &Descriptor) -> Result<()> {
        if self.repository().is_some() {
            return Ok(());
        }
        match sum(self.described(layer)?)? {
            found if found == layer.digest => Ok(()),
            found => Err(Error::new(ErrorKind::Mismatch, format!("the layer's digest is {found}"))
                .remedy("the image is damaged: get it again")),
        }
    }

    /// The manifest or index `digest`.
    ///
    /// # Errors
    /// Those of [`Blobs::document`].
    pub fn manifest(&self, digest: &Digest) -> Result<Document> {
        match &self.place {
            _ if self.made.contains_key(digest) => self.document(digest),
            Place::Registry(repository) => repository.manifest(Some(digest)),
            Place::Directory(path) => {
                // skopeo has the manifests of an index under names of their own.
                let own = path.join(format!("{}.manifest.json", digest.hex()));
                if own.is_file() { document_at(&own)?.checked(digest) } else { self.document(digest) }
            }
            Place::Members { .. } => self.document(digest),
        }
    }

    /// The document `digest`.
    ///
    /// # Errors
    /// Those of [`Blobs::open`]; `Mismatch` where it is something else.
    pub fn document(&self, digest: &Digest) -> Result<Document> {
        let in_blob = |error: Error| error.within(format_args!("blob {digest}"));
        let bytes = read_document(self.open(digest)?).map_err(in_blob)?;
        Document::parse(bytes).map_err(in_blob)?.checked(digest)
    }
}

/// The document in the file at `path`.
pub(super) fn document_at(path: &Path) -> Result<Document> {
    let source = Source::open(path)?;
    let read = read_document(source.file()).and_then(Document::parse);
    read.map_err(|error| error.within(path.file_name().unwrap_or_default().display()))
}

/// All of a document; none is large.
fn read_document(reader: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(limits::DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("cannot read", error))?;
    if bytes.len() as u64 > limits::DOCUMENT_BYTES {
        let message = format!("a document of more than {} bytes", limits::DOCUMENT_BYTES);
        return Err(Error::new(ErrorKind::Malformed, message).remedy("no engine takes it"));
    }
    Ok(bytes)
}

impl Opened {
    /// Opens the image that `reference` names.
    ///
    /// # Errors
    /// `Usage` where it is not clear which image is meant; `Malformed` for what is no image; those of reading.
    pub fn open(reference: &Reference) -> Result<Self> {
        match reference {
            Reference::Layout { path, tag } => {
                let blobs = Blobs::at(Place::Directory(path.join("blobs/sha256")));
                Self::of_layout(blobs, document_at(&path.join("index.json"))?, tag.as_deref())
            }
            Reference::Directory(path) => {
                let root = document_at(&path.join("manifest.json"))?;
                Self::of_today(Blobs::at(Place::Directory(path.clone())), root, None)
            }
            Reference::Registry { name, access } => {
                let repository = Repository::open(name, access)?;
                let (root, name) = (repository.manifest(None)?, repository.name());
                Self::of_today(Blobs::at(Place::Registry(Box::new(repository))), root, Some(name))
            }
            Reference::Engine(name) => engine::export(name),
            Reference::Archive { path, tag } => Self::of_archive(path, tag.as_deref()),
        }
    }

    /// The image of the manifest or index `root`, which is made a manifest of today where it is one of schema 1.
    fn of_today(mut blobs: Blobs, root: Document, name: Option<String>) -> Result<Self> {
        let root =
            if root.value().get("fsLayers").is_some() { blobs.converted_schema1(&root)? } else { root };
        Ok(Self { blobs, root, name, others: vec![], index: None })
    }

    fn of_layout(blobs: Blobs, index: Document, tag: Option<&str>) -> Result<Self> {
        let manifests = index.manifests()?.unwrap_or_default();
        let chosen = chosen(&manifests, |descriptor| descriptor.name.as_deref().into_iter().collect(), tag)?;
        let root = blobs.manifest(&chosen.digest)?;
        let name = chosen.name.clone();
        let others = manifests.into_iter().filter(|other| other.digest != root.digest()).collect();
        Ok(Self { blobs, root, name, others, index: None })
    }

    pub(super) fn of_archive(path: &Path, tag: Option<&str>) -> Result<Self> {
        let source = Source::open(path)?;
        let file =
            |source: &Source| source.file().try_clone().map_err(|error| Error::io("cannot open", error));
        let members = members(&mut Archive::of_file(file(&source)?))?;
        let mut blobs = Blobs::at(Place::Members { file: file(&source)?, members, paths: HashMap::new() });
        if let Some(index) = blobs.member(b"index.json")? {
            let index = Document::parse(index).map_err(|error| error.within("index.json"))?;
            return Self::of_layout(blobs, index, tag);
        }
        if let Some(names) = blobs.member(b"repositories")?
            && blobs.member(b"manifest.json")?.is_none()
        {
            return Self::of_repositories(blobs, &names, tag);
        }
        let Some(list) = blobs.member(b"manifest.json")? else {
            let message = "an archive without manifest.json, index.json and repositories: no image";
            return Err(
                Error::new(ErrorKind::Malformed, message).remedy("name an archive that an engine saved")
            );
        };
        let list: Vec<Value> = serde_json::from_slice(&list)
            .map_err(|error| Error::new(ErrorKind::Malformed, format!("manifest.json: {error}")))?;
        let names = |image: &Value| -> Vec<String> {
            let tags = image.get("RepoTags").and_then(Value::as_array);
            tags.into_iter().flatten().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
        };
        let owned: Vec<(Vec<String>, &Value)> = list.iter().map(|image| (names(image), image)).collect();
        let (tags, image) = chosen(&owned, |(names, _)| names.iter().map(String::as_str).collect(), tag)?;
        let root = blobs.manifest_of(image)?;
        let name = tag.map(str::to_owned).or_else(|| tags.first().cloned());
        Ok(Self { blobs, root, name, others: vec![], index: None })
    }
}

impl Opened {
    /// The same, looked at in this `context`; of an index the image for the platform that is asked for.
    ///
    /// # Errors
    /// `Usage` where there is none for the platform.
    pub fn within(mut self, context: &Context) -> Result<Self> {
        self.blobs.context = context.clone();
        let Some(wanted) = &context.platform else { return Ok(self) };
        let there = match self.root.manifests()? {
            Some(manifests) => {
                let is_meant = |one: &&Descriptor| one.platform.as_ref().is_some_and(|it| wanted.means(it));
                if let Some(image) = manifests.iter().find(is_meant) {
                    let index = self.root.digest();
                    self.root = self.blobs.manifest(&image.digest)?;
                    return Ok(Self { index: Some(index), ..self });
                }
                manifests.into_iter().filter_map(|one| one.platform).collect()
            }
            None => vec![self.blobs.document(&self.root.config()?.digest)?.platform()],
        };
        if there.iter().any(|platform| wanted.means(platform)) {
            return Ok(self);
        }
        // What is of no platform is no image: BuildKit's attestations.
        let known = there.iter().filter(|platform| platform.os != "unknown");
        let there: Vec<String> = known.map(ToString::to_string).collect();
        Err(Error::new(ErrorKind::Usage, format!("there is no image for {wanted} in it"))
            .remedy(format!("choose one of these: {}", there.join(", "))))
    }

    /// Signatures, attestations and the like that describe an image of `replaced`, as far as the index, layout,
    /// directory or registry has them: each with the digest of what it describes. A registry that does not tell of
    /// them is one more line, and no reason to stop.
    ///
    /// # Errors
    /// Those of reading documents.
    pub fn describing(&self, replaced: &[Digest]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let line = |what: &str, name: &dyn std::fmt::Display, of: &Digest| {
            format!("{what} {name}, which is of {of}")
        };
        for entry in self.root.manifests()?.unwrap_or_default() {
            if let Some(of) = entry.describes.as_ref().filter(|of| replaced.contains(of)) {
                found.push(line("attestation", &entry.digest, of));
            }
        }
        for other in &self.others {
            let tag = other.name.as_deref().unwrap_or_default();
            let by_tag = replaced.iter().find(|of| tag.contains(&of.as_tag()));
            if let Some(of) = by_tag {
                let kind = document::DESCRIBING_TAGS.iter().find(|(end, _)| tag.ends_with(end));
                found.push(line(kind.map_or("list of referrers", |(_, kind)| kind), &tag, of));
            } else if self.blobs.has(&other.digest)
                && other.is_manifest()
                && let Some(of) = self.blobs.manifest(&other.digest)?.subject()
                && replaced.contains(&of)
            {
                found.push(line("referrer", &other.digest, &of));
            }
        }
        if let Place::Directory(path) = &self.blobs.place
            && path.join("signature-1").is_file()
        {
            found.push(line("signature", &path.join("signature-1").display(), &self.root.digest()));
        }
        let Some(repository) = self.blobs.repository() else { return Ok(found) };
        for of in replaced {
            match repository.describing(of) {
                Ok(all) => found.extend(all.iter().map(|(what, name)| line(what, name, of))),
                Err(error) => {
                    found.push(format!("what else describes {of}, if anything: {error}"));
                    break;
                }
            }
        }
        Ok(found)
    }

    /// An archive of Docker before 1.10: `repositories` says which layer is the top of each image.
    fn of_repositories(mut blobs: Blobs, names: &[u8], tag: Option<&str>) -> Result<Self> {
        let names: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(names)
            .map_err(|error| Error::new(ErrorKind::Malformed, format!("repositories: {error}")))?;
        let images: Vec<(String, String)> = names
            .into_iter()
            .flat_map(|(name, tags)| tags.into_iter().map(move |(tag, top)| (format!("{name}:{tag}"), top)))
            .collect();
        let (name, top) = chosen(&images, |(name, _)| vec![name.as_str()], tag)?;
        let root = blobs.converted_chain(top)?;
        Ok(Self { root, name: Some(name.clone()), blobs, others: vec![], index: None })
    }
}

/// The one of `images` that has the name `tag`; the only one without.
fn chosen<'a, T>(images: &'a [T], names: impl Fn(&T) -> Vec<&str>, tag: Option<&str>) -> Result<&'a T> {
    let mut fitting = images.iter().filter(|image| {
        tag.is_none_or(|tag| {
            names(image).iter().any(|name| *name == tag || name.ends_with(&format!(":{tag}")))
        })
    });
    match (fitting.next(), fitting.next()) {
        (Some(image), None) => Ok(image),
        (None, _) if images.is_empty() => Err(Error::new(ErrorKind::Malformed, "there is no image in it")),
        (first, _) => {
            let message = match (first, tag) {
                (None, Some(tag)) => format!("there is no image {tag:?} in it"),
                _ => "there are several images in it".into(),
            };
            let all: Vec<String> = images
                .iter()
                .flat_map(|image| names(image).into_iter().map(str::to_owned).collect::<Vec<_>>())
                .collect();
            Err(Error::new(ErrorKind::Usage, message)
                .remedy(format!("name one of these behind a colon: {}", all.join(", "))))
        }
    }
}

/// Members that say what is in an archive.
const DOCUMENTS: [&str; 3] = ["index.json", "manifest.json", "repositories"];

/// Offset and size of each member of an archive; links are followed.
fn members(archive: &mut Archive<File>) -> Result<HashMap<Vec<u8>, (u64, u64)>> {
    let mut members = HashMap::new();
    let mut links = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        match entry.kind {
            Kind::File if entry.sparse.is_none() => {
                let at = archive.content_begins_at();
                // Blobs have checksums; of these it would be anybody's guess which one an engine reads.
                let is_document = DOCUMENTS.iter().any(|name| name.as_bytes() == entry.path);
                let name = String::from_utf8_lossy(&entry.path).into_owned();
                if members.insert(entry.path, (at, entry.size)).is_some() && is_document {
                    let message = format!("the archive has two members {name}");
                    return Err(Error::malformed(at, message).remedy("have an engine save the image again"));
                }
            }
            // Old Docker: `<id>/layer.tar` as a link to that of another image.
            Kind::SymbolicLink | Kind::HardLink => {
                let is_hard = entry.kind == Kind::HardLink;
                let parent = entry.path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
                let base = if is_hard { &[][..] } else { &entry.path[..parent] };
                links.push((entry.path.clone(), resolved(base, &entry.target)));
            }
            Kind::File | Kind::Directory | Kind::Other => {}
        }
    }
    for (path, target) in links {
        if let Some(&member) = members.get(&target) {
            members.entry(path).or_insert(member);
        }
    }
    Ok(members)
}

/// `target` as seen from the directory `base`.
fn resolved(base: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base.split(|&byte| byte == b'/').chain(target.split(|&byte| byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

impl Blobs {
    /// The bytes of a small member of an archive.
    fn member(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Place::Members { file, members, .. } = &self.place else { return Ok(None) };
        let Some(&(at, size)) = members.get(name) else { return Ok(None) };
        let read = read_document(Part { file, at, end: at + size });
        read.map(Some).map_err(|error| error.within(String::from_utf8_lossy(name)).at(at))
    }

    /// The manifest of an `image` of `manifest.json`, which says where its configuration and layers are.
    fn manifest_of(&mut self, image: &Value) -> Result<Document> {
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().as_bytes().to_vec();
        let missing = |path: &[u8]| {
            let message = format!("the archive has no member {}", String::from_utf8_lossy(path));
            Error::new(ErrorKind::Malformed, message).remedy("it is incomplete: get it again")
        };
        let config_path = text(image.get("Config"));
        let config = self.member(&config_path)?.ok_or_else(|| missing(&config_path))?;
        let config = Document::parse(config)?;
        let paths: Vec<Vec<u8>> = image
            .get("Layers")
            .and_then(Value::as_array)
            .map_or_else(Vec::new, |layers| layers.iter().map(|layer| text(Some(layer))).collect());
        let diff_ids = config.diff_ids()?;
        if diff_ids.len() != paths.len() {
            let message =
                format!("the image has {} layers, its configuration {}", paths.len(), diff_ids.len());
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        let mut layers = Vec::new();
        let Place::Members { file, members, paths: places } = &mut self.place else {
            return Err(Error::new(ErrorKind::Malformed, "no archive"));
        };
        for (path, diff_id) in paths.into_iter().zip(diff_ids) {
            let &(at, size) = members.get(&path).ok_or_else(|| missing(&path))?;
            let mut magic = [0; 2];
            let _ = file.read_at(&mut magic, at);
            // Some tools compress layers here, too: then the blob has a digest of its own.
            let (kind, digest) = if magic == [0x1f, 0x8b] {
                (media_type::OCI_LAYER_GZIP, sum(Part { file, at, end: at + size })?)
            } else {
                (media_type::OCI_LAYER, diff_id)
            };
            layers.push((kind, digest.clone(), size));
            places.insert(digest, path);
        }
        places.insert(config.digest(), config_path);
        let layers: Vec<_> = layers.iter().map(|(kind, digest, size)| (*kind, digest, *size)).collect();
        let manifest = document::manifest_of(&config, &layers);
        self.made.insert(manifest.digest(), manifest.bytes.clone());
        Ok(manifest)
    }

    /// The manifest of the image whose topmost layer is `top`, in an archive of Docker before 1.10.
    fn converted_chain(&mut self, top: &str) -> Result<Document> {
        let missing = |member: &str| {
            Error::new(ErrorKind::Malformed, format!("the archive has no member {member}"))
                .remedy("it is incomplete: get it again")
        };
        let (mut layers, mut next) = (Vec::new(), Some(top.to_owned()));
        while let Some(id) = next {
            if layers.len() == limits::IMAGE_LAYERS {
                let message = format!("more than {} layers, or a circle of them", limits::IMAGE_LAYERS);
                return Err(Error::new(ErrorKind::Malformed, message));
            }
            let (config, content) = (format!("{id}/json"), format!("{id}/layer.tar"));
            let v1 = self.member(config.as_bytes())?.ok_or_else(|| missing(&config))?;
            let v1 = v1_config(&v1)?;
            next = v1.get("parent").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
            let Place::Members { file, members, paths } = &mut self.place else {
                return Err(missing(&content));
            };
            let &(at, size) = members.get(content.as_bytes()).ok_or_else(|| missing(&content))?;
            let (digest, diff_id) = Layer::new(Part { file, at, end: at + size })?.sums()?;
            paths.insert(digest.clone(), content.into_bytes());
            let is_compressed = digest != diff_id;
            layers.push(OldLayer { v1, blob: Some(OldBlob { digest, diff_id, size, is_compressed }) });
        }
        layers.reverse();
        Ok(self.keep_converted(&layers))
    }

    /// The manifest of today for one of schema 1, which lists the topmost layer first.
    fn converted_schema1(&mut self, manifest: &Document) -> Result<Document> {
        let list =
            |key: &str| manifest.value().get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut layers = Vec::new();
        for (layer, history) in list("fsLayers").iter().zip(&list("history")) {
            let text = |value: &Value, key: &str| {
                value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let v1 = v1_config(text(history, "v1Compatibility").as_bytes())?;
            let is_empty = v1.get("throwaway").and_then(Value::as_bool).unwrap_or(false);
            let blob = if is_empty {
                None
            } else {
                let digest = Digest::parse(&text(layer, "blobSum"))?;
                let mut size = 0;
                let counted = Counted { reader: self.open(&digest)?, count: &mut size };
                let (found, diff_id) = Layer::new(counted)?.sums()?;
                if found != digest {
                    let message = format!("the layer {digest} is something else: {found}");
                    return Err(
                        Error::new(ErrorKind::Mismatch, message).remedy("the image is damaged: get it again")
                    );
                }
                let is_compressed = digest != diff_id;
                Some(OldBlob { digest, diff_id, size, is_compressed })
            };
            layers.push(OldLayer { v1, blob });
        }
        layers.reverse();
        Ok(self.keep_converted(&layers))
    }

    fn keep_converted(&mut self, layers: &[OldLayer]) -> Document {
        let (manifest, config) = legacy::converted(layers);
        self.made.insert(config.digest(), config.bytes);
        self.made.insert(manifest.digest(), manifest.bytes.clone());
        manifest
    }
}

/// The configuration of one layer of an old image.
fn v1_config(json: &[u8]) -> Result<serde_json::Map<String, Value>> {
    serde_json::from_slice(json)
        .map_err(|error| Error::new(ErrorKind::Malformed, format!("the configuration of a layer: {error}")))
}

/// Bytes that somebody watches.
struct Watched<R> {
    reader: R,
    tell: Box<dyn FnMut(u64)>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        (self.tell)(count as u64);
        Ok(count)
    }
}

/// Bytes that are an error where there are more than there should be.
struct Bounded<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let error = Error::new(ErrorKind::Mismatch, "there are more bytes than the manifest says");
            std::io::Error::other(error.remedy("the image or the way to it is damaged: get it again"))
        })?;
        Ok(count)
    }
}

/// Counts what somebody else reads.
struct Counted<'a, R> {
    reader: R,
    count: &'a mut u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        *self.count += count as u64;
        Ok(count)
    }
}

/// The checksum of all that `reader` gives.
pub(super) fn sum(reader: impl Read) -> Result<Digest> {
    Sha256::read(reader).map(Digest::of_sum).map_err(|error| Error::io("cannot read", error))
}

/// All blobs that `root` needs, each once: its documents and layers. Engines save an index as it is with the images
/// of their own platform alone: what of the others is not there is passed over.
///
/// # Errors
/// Those of reading documents.
pub fn needed(
    root: &Document,
    document: &dyn Fn(&Digest) -> Result<Document>,
    has: &dyn Fn(&Digest) -> bool,
) -> Result<Vec<Descriptor>> {
    let mut all: Vec<Descriptor> = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(next) = open.pop() {
        let descriptors = match next.manifests()? {
            Some(mut manifests) => {
                manifests.retain(|manifest| manifest.is_for_x86_64() || has(&manifest.digest));
                for manifest in &manifests {
                    open.push(document(&manifest.digest)?);
                }
                manifests
            }
            None if next.value().get("layers").is_some() => {
                let mut layers = next.layers()?;
                layers.insert(0, next.config()?);
                layers
            }
            None => vec![],
        };
        for descriptor in descriptors {
            if !descriptor.is_foreign && !all.iter().any(|known| known.digest == descriptor.digest) {
                all.push(descriptor);
            }
        }
    }
    Ok(all)
}
