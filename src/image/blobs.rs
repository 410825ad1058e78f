//! Where the documents and layers of an image are read from: a layout on the disk, or an archive of any
//! generation.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::document::{self, Descriptor, Digest, Document, media_type};
use super::engine;
use super::layer::Layer;
use super::legacy::{self, OldBlob, OldLayer};
use super::reference::Reference;
use super::registry::Repository;
use super::tar::{Archive, Kind};
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
}

/// Where blobs are.
#[derive(Debug)]
enum Place {
    /// A directory with a file for each, by the digits of its digest: in a layout, or skopeo's own.
    Directory(PathBuf),
    /// A repository in a registry.
    Registry(Repository),
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
        Self { place, made: HashMap::new() }
    }

    /// The repository that they are in, where they are in a registry.
    #[must_use]
    pub fn repository(&self) -> Option<&Repository> {
        match &self.place {
            Place::Registry(repository) => Some(repository),
            Place::Directory(_) | Place::Members { .. } => None,
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
                if own.is_file() {
                    Document::parse(Source::open(&own)?.read()?)
                } else {
                    self.document(digest)
                }
            }
            Place::Members { .. } => self.document(digest),
        }
    }

    /// The document `digest`.
    ///
    /// # Errors
    /// Those of [`Blobs::open`]; `Mismatch` where it is something else.
    pub fn document(&self, digest: &Digest) -> Result<Document> {
        let document = Document::parse(read_document(self.open(digest)?)?)?;
        if document.digest() != *digest {
            let message = format!("the blob {digest} is something else: {}", document.digest());
            return Err(Error::new(ErrorKind::Mismatch, message).remedy("the image is damaged: get it again"));
        }
        Ok(document)
    }
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
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(bytes)
}

impl Opened {
    /// Opens the image that `reference` names.
    ///
    /// # Errors
    /// `Usage` where it is not clear which image is meant; `Malformed` for what is no image; those of reading.
    pub fn open(reference: &Reference) -> Result<Self> {
        let document = |path: PathBuf| Document::parse(Source::open(&path)?.read()?);
        match reference {
            Reference::Layout { path, tag } => {
                let blobs = Blobs::at(Place::Directory(path.join("blobs/sha256")));
                Self::of_layout(blobs, document(path.join("index.json"))?, tag.as_deref())
            }
            Reference::Directory(path) => {
                let root = document(path.join("manifest.json"))?;
                Self::of_today(Blobs::at(Place::Directory(path.clone())), root, None)
            }
            Reference::Registry { name, access } => {
                let repository = Repository::open(name, access)?;
                let (root, name) = (repository.manifest(None)?, repository.name());
                Self::of_today(Blobs::at(Place::Registry(repository)), root, Some(name))
            }
            Reference::Engine(name) => engine::export(name),
            Reference::Archive { path, tag } => Self::of_archive(path, tag.as_deref()),
        }
    }

    /// The image of the manifest or index `root`, which is made a manifest of today where it is one of schema 1.
    fn of_today(mut blobs: Blobs, root: Document, name: Option<String>) -> Result<Self> {
        let root =
            if root.value().get("fsLayers").is_some() { blobs.converted_schema1(&root)? } else { root };
        Ok(Self { blobs, root, name })
    }

    fn of_layout(blobs: Blobs, index: Document, tag: Option<&str>) -> Result<Self> {
        let manifests = index.manifests()?.unwrap_or_default();
        let chosen = chosen(&manifests, |descriptor| descriptor.name.as_deref().into_iter().collect(), tag)?;
        let root = blobs.manifest(&chosen.digest)?;
        Ok(Self { blobs, root, name: chosen.name.clone() })
    }

    pub(super) fn of_archive(path: &Path, tag: Option<&str>) -> Result<Self> {
        let source = Source::open(path)?;
        let file =
            |source: &Source| source.file().try_clone().map_err(|error| Error::io("cannot open", error));
        let members = members(&mut Archive::of_file(file(&source)?))?;
        let mut blobs = Blobs::at(Place::Members { file: file(&source)?, members, paths: HashMap::new() });
        if let Some(index) = blobs.member(b"index.json")? {
            return Self::of_layout(blobs, Document::parse(index)?, tag);
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
        Ok(Self { blobs, root, name })
    }
}

impl Opened {
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
        Ok(Self { root, name: Some(name.clone()), blobs })
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

/// Offset and size of each member of an archive; links are followed.
fn members(archive: &mut Archive<File>) -> Result<HashMap<Vec<u8>, (u64, u64)>> {
    let mut members = HashMap::new();
    let mut links = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        match entry.kind {
            Kind::File => {
                members.insert(entry.path, (archive.content_begins_at(), entry.size));
            }
            // Old Docker: `<id>/layer.tar` as a link to that of another image.
            Kind::SymbolicLink | Kind::HardLink => {
                let is_hard = entry.kind == Kind::HardLink;
                let parent = entry.path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
                let base = if is_hard { &[][..] } else { &entry.path[..parent] };
                links.push((entry.path.clone(), resolved(base, &entry.target)));
            }
            Kind::Directory | Kind::Other => {}
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
        read_document(Part { file, at, end: at + size }).map(Some)
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

fn sum(mut reader: impl Read) -> Result<Digest> {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    let mut block = vec![0; BUFFER];
    loop {
        match reader.read(&mut block).map_err(|error| Error::io("cannot read", error))? {
            0 => return Ok(Digest::of_sum(hasher.finalize().into())),
            count => hasher.update(&block[..count]),
        }
    }
}

/// All blobs that `root` needs, each once: its documents and layers.
///
/// # Errors
/// Those of reading documents.
pub fn needed(root: &Document, document: &dyn Fn(&Digest) -> Result<Document>) -> Result<Vec<Descriptor>> {
    let mut all: Vec<Descriptor> = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(next) = open.pop() {
        let descriptors = match next.manifests()? {
            Some(manifests) => {
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
