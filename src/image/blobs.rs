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
use super::names;
use super::reference::Reference;
use super::registry::Repository;
use super::tar::{Archive, Kind};
use crate::compression;
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

    /// The members of the archive at `path`.
    fn of_archive(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let file = || source.file().try_clone().map_err(|error| Error::io("cannot open", error));
        refuse_compressed(&file()?)?;
        let members = members(&mut Archive::of_file(file()?))?;
        Ok(Self::at(Place::Members { file: file()?, members, paths: HashMap::new() }))
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

    /// Whether what an entry of an index leads to is there; for what is no manifest a registry is asked.
    #[must_use]
    pub fn has_entry(&self, entry: &Descriptor) -> bool {
        match &self.place {
            Place::Registry(repository) if !entry.is_followed() => repository.has_blob(&entry.digest),
            _ => self.has(&entry.digest),
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
                if !blob.exists() {
                    return Err(missing());
                }
                let source = Source::open(&blob).map_err(|error| error.within(blob.display()))?;
                let file = source.file().try_clone();
                let file =
                    file.map_err(|error| Error::io(format!("cannot open {}", blob.display()), error))?;
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

/// That `what`, which is called `name`, describes the image `of`.
fn line(what: &str, name: &dyn std::fmt::Display, of: &Digest) -> String {
    format!("{what} {name}, which is of {of}")
}

/// Blobs are found by their places in an archive, which is no way to read one that is compressed as a whole.
pub(super) fn refuse_compressed(archive: &File) -> Result<()> {
    let mut head = [0; compression::HEAD];
    // What is shorter is no archive, and told to be none.
    let _ = archive.read_exact_at(&mut head, 0);
    let Some(program) = compression::program(&head) else { return Ok(()) };
    let message = format!("the archive is compressed with {program}, and only its layers may be");
    Err(Error::new(ErrorKind::Usage, message).remedy(compression::remedy(program)))
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
        let docker = blobs.docker_names();
        let known: Vec<_> = manifests.iter().map(|one| blobs.names_among(&docker, one)).collect();
        let own: Vec<_> =
            manifests.iter().map(|one| Listed::new(one.name.iter(), one, &one.digest)).collect();
        let is_known = |one: &Listed<'_, _, _>| tag.is_none_or(|tag| one.is_meant(tag));
        // What Docker calls them counts where the index does not know the name.
        let (chosen, name) = if docker.is_empty() || (tag.is_some() && own.iter().any(is_known)) {
            chosen(&own, tag)?
        } else {
            let both = manifests.iter().zip(&known);
            let both: Vec<_> = both.map(|(one, names)| Listed::new(names.iter(), one, &one.digest)).collect();
            chosen(&both, tag)?
        };
        let root = blobs.manifest(&chosen.digest)?;
        let others = manifests.iter().filter(|other| other.digest != root.digest()).cloned().collect();
        Ok(Self { blobs, root, name, others, index: None })
    }

    /// How many images and names of images the archive at `path` lists.
    ///
    /// # Errors
    /// Those of reading it.
    pub(super) fn listed_in(path: &Path) -> Result<usize> {
        let blobs = Blobs::of_archive(path)?;
        let of_index = match blobs.member(b"index.json")? {
            Some(index) => Document::parse(index)?.manifests()?.map_or(0, |all| all.len()),
            None => 0,
        };
        let of_docker = blobs.docker_names();
        let of_docker: usize = of_docker.iter().map(|(_, names)| names.len().max(1)).sum();
        let old = blobs.member(b"repositories")?.and_then(|names| named_tops(&names).ok());
        Ok(of_index.max(of_docker).max(old.map_or(0, |all| all.len())))
    }

    /// The names of each image that the archive at `path` lists, without tags alone where it has whole names.
    ///
    /// # Errors
    /// Those of reading it; `Malformed` for what is no archive of images.
    pub(super) fn names_in(path: &Path) -> Result<Vec<Vec<String>>> {
        let blobs = Blobs::of_archive(path)?;
        // What is the same for the same image under other names, and its names.
        let all: Vec<(String, Vec<String>)> = if let Some(index) = blobs.member(b"index.json")? {
            let docker = blobs.docker_names();
            let manifests = Document::parse(index)?.manifests()?.unwrap_or_default();
            let of = |one: &Descriptor| (one.digest.to_string(), blobs.names_among(&docker, one));
            manifests.iter().map(of).collect()
        } else if let Some(list) = blobs.member(b"manifest.json")? {
            listed_by_docker(&list)?
                .iter()
                .map(|image| (content(image).to_string(), repo_tags(image)))
                .collect()
        } else {
            let tops =
                blobs.member(b"repositories")?.map_or_else(|| Ok(vec![]), |names| named_tops(&names))?;
            tops.into_iter().map(|(name, top)| (top, vec![name])).collect()
        };
        let mut images: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (content, names) in all {
            images.entry(content).or_default().extend(names);
        }
        let own = |mut names: Vec<String>| {
            names.sort_unstable();
            names.dedup();
            if names.iter().any(|name| names::is_whole(name)) {
                names.retain(|name| names::is_whole(name));
            }
            names
        };
        Ok(images.into_values().map(own).collect())
    }

    pub(super) fn of_archive(path: &Path, tag: Option<&str>) -> Result<Self> {
        let mut blobs = Blobs::of_archive(path)?;
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
        let list = listed_by_docker(&list)?;
        let names: Vec<Vec<String>> = list.iter().map(repo_tags).collect();
        let all = list.iter().zip(&names);
        let all: Vec<_> =
            all.map(|(image, names)| Listed::new(names.iter(), image, content(image))).collect();
        let (image, name) = chosen(&all, tag)?;
        let root = blobs.manifest_of(image)?;
        Ok(Self { blobs, root, name, others: vec![], index: None })
    }
}

/// The images of Docker's `manifest.json`.
fn listed_by_docker(list: &[u8]) -> Result<Vec<Value>> {
    serde_json::from_slice(list)
        .map_err(|error| Error::new(ErrorKind::Malformed, format!("manifest.json: {error}")))
}

/// What such an image is, whatever its names.
fn content(image: &Value) -> Value {
    [image.get("Config").cloned(), image.get("Layers").cloned()].into_iter().collect()
}

/// The names of an image of Docker's `manifest.json`.
fn repo_tags(image: &Value) -> Vec<String> {
    let tags = image.get("RepoTags").and_then(Value::as_array);
    tags.into_iter().flatten().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
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
                let is_meant = |one: &&Descriptor| {
                    one.is_followed() && one.platform.as_ref().is_some_and(|it| wanted.means(it))
                };
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

    /// Signatures, attestations and the like that describe an image of `replaced`, as far as the index, layout or
    /// directory has them: each with the digest of what it describes.
    ///
    /// # Errors
    /// Those of reading documents.
    pub fn describing(&self, replaced: &[Digest]) -> Result<Vec<String>> {
        let mut found = Vec::new();
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
        Ok(found)
    }

    /// The same, as far as the registry has them. One that does not tell of them is one more line, and no reason to
    /// stop.
    #[must_use]
    pub fn describing_in_registry(&self, replaced: &[Digest]) -> Vec<String> {
        let mut found = Vec::new();
        let Some(repository) = self.blobs.repository() else { return found };
        for of in replaced {
            match repository.describing(of) {
                Ok(all) => found.extend(all.iter().map(|(what, name)| line(what, name, of))),
                Err(error) => {
                    found.push(format!("what else describes {of}, if anything: {error}"));
                    break;
                }
            }
        }
        found
    }

    /// An archive of Docker before 1.10: `repositories` says which layer is the top of each image.
    fn of_repositories(mut blobs: Blobs, names: &[u8], tag: Option<&str>) -> Result<Self> {
        let images = named_tops(names)?;
        let all: Vec<_> =
            images.iter().map(|(name, top)| Listed::new(std::iter::once(name), top, top)).collect();
        let (top, name) = chosen(&all, tag)?;
        let root = blobs.converted_chain(top)?;
        Ok(Self { root, name, blobs, others: vec![], index: None })
    }
}

/// Names and topmost layers of the images of an archive of Docker before 1.10.
fn named_tops(repositories: &[u8]) -> Result<Vec<(String, String)>> {
    let names: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(repositories)
        .map_err(|error| Error::new(ErrorKind::Malformed, format!("repositories: {error}")))?;
    let each = |(name, tags): (String, BTreeMap<String, String>)| {
        tags.into_iter().map(move |(tag, top)| (format!("{name}:{tag}"), top))
    };
    Ok(names.into_iter().flat_map(each).collect())
}

/// An image of a list.
struct Listed<'a, T, K> {
    names: Vec<&'a str>,
    image: &'a T,
    /// What is the same for the same image under other names.
    content: K,
}

impl<'a, T, K> Listed<'a, T, K> {
    fn new(names: impl Iterator<Item = &'a String>, image: &'a T, content: K) -> Self {
        Self { names: names.map(String::as_str).collect(), image, content }
    }

    fn is_meant(&self, wanted: &str) -> bool {
        self.names.iter().any(|name| names::means(wanted, name))
    }
}

/// The one of `images` that has the name `tag`, the only one without; and its name. An image under several names is one.
fn chosen<'a, T, K: PartialEq>(
    images: &[Listed<'a, T, K>],
    tag: Option<&str>,
) -> Result<(&'a T, Option<String>)> {
    let is_exact = |name: &&str| Some(*name) == tag;
    let is_named = images.iter().any(|one| one.names.iter().any(&is_exact));
    let is_name = |name: &&str| match tag {
        Some(_) if is_named => is_exact(name),
        Some(tag) => names::means(tag, name),
        None => true,
    };
    let mut fitting = images.iter().filter(|one| tag.is_none() || one.names.iter().any(&is_name));
    let first = fitting.next();
    if let Some(first) = first.filter(|first| fitting.all(|other| other.content == first.content)) {
        let name = first.names.iter().copied().find(is_name);
        return Ok((first.image, name.map(str::to_owned)));
    }
    if images.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, "there is no image in it"));
    }
    let message = match (first, tag) {
        (None, Some(tag)) => format!("there is no image {tag:?} in it"),
        _ => "there are several images in it".into(),
    };
    let all: Vec<&str> = images.iter().flat_map(|one| one.names.iter().copied()).collect();
    Err(Error::new(ErrorKind::Usage, message)
        .remedy(format!("name one of these behind a colon: {}", all.join(", "))))
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

    /// The configurations and names of the images that Docker's `manifest.json` lists, where it is there and sound.
    fn docker_names(&self) -> Vec<(String, Vec<String>)> {
        let list = self.member(b"manifest.json").ok().flatten();
        let list: Vec<Value> = list.and_then(|list| serde_json::from_slice(&list).ok()).unwrap_or_default();
        let config = |image: &Value| image.get("Config")?.as_str().map(str::to_owned);
        list.iter().filter_map(|image| Some((config(image)?, repo_tags(image)))).collect()
    }

    /// The names of the image of an index that `descriptor` leads to: its own, and what Docker calls it, by its
    /// configuration.
    fn names_among(&self, docker: &[(String, Vec<String>)], descriptor: &Descriptor) -> Vec<String> {
        let config = || -> Option<Digest> {
            let mut root = self.manifest(&descriptor.digest).ok()?;
            if let Some(manifests) = root.manifests().ok()? {
                let mut own = manifests.iter().filter(|one| one.is_for_x86_64());
                root = own.find_map(|one| self.manifest(&one.digest).ok().filter(Document::is_image))?;
            }
            Some(root.config().ok()?.digest)
        };
        let config = if docker.is_empty() { None } else { config() };
        let is_own = |path: &str| config.as_ref().is_some_and(|config| path.contains(config.hex()));
        let of_docker = docker.iter().filter(|(path, _)| is_own(path)).flat_map(|(_, names)| names);
        let mut all: Vec<String> = of_docker.chain(&descriptor.name).cloned().collect();
        // A tag alone, of a layout, is the last choice.
        all.sort_by_key(|name| (!names::is_whole(name), Some(name) != descriptor.name.as_ref()));
        all
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
        let (blobs, histories) = (list("fsLayers"), list("history"));
        if blobs.len() != histories.len() || blobs.len() > limits::IMAGE_LAYERS {
            let message = format!(
                "a manifest of schema 1 with {} layers and {} entries of history: as many of both, and at most {}",
                blobs.len(),
                histories.len(),
                limits::IMAGE_LAYERS
            );
            return Err(Error::new(ErrorKind::Malformed, message)
                .remedy("no engine takes it: have the image made again"));
        }
        let mut layers = Vec::new();
        for (layer, history) in blobs.iter().zip(&histories) {
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

/// All blobs that `root` needs, each once: its documents and layers, and what else an index lists. Engines save an index as it is with the images
/// of their own platform alone: what of the others is not there is passed over.
///
/// # Errors
/// Those of reading documents.
pub fn needed(
    root: &Document,
    document: &dyn Fn(&Digest) -> Result<Document>,
    has: &dyn Fn(&Descriptor) -> bool,
) -> Result<Vec<Descriptor>> {
    let mut all: Vec<Descriptor> = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(next) = open.pop() {
        let descriptors = match next.manifests()? {
            Some(mut manifests) => {
                manifests.retain(|manifest| manifest.is_for_x86_64() || has(manifest));
                for manifest in manifests.iter().filter(|manifest| manifest.is_followed()) {
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
